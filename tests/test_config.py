"""Configuration: defaults, files, settings on the command line, one clear message for everything wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledreamer.config import Config
from scaledreamer.config_file import dump_config, flatten, load_config, parse_config, read_yaml, valid_keys

ROOT = Path(__file__).parent.parent


def test_every_setting_has_a_meaning() -> None:
    assert all(field.description for field in valid_keys().values())


def test_defaults_round_trip_through_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(Config()))
    assert load_config(path) == Config()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_are_valid_and_short(path: Path) -> None:
    load_config(path)
    defaults = flatten(Config().model_dump())
    assert not {k: v for k, v in flatten(read_yaml(path)).items() if k in defaults and defaults[k] == v}


def test_file_then_command_line_then_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("training: {max_steps: 7, batch_size: 2}\npriors: [{guidance_scale: 3}]\n")
    config = load_config(path, ["training.max_steps=9", "priors.0.eta=0.2"])
    assert (config.training.max_steps, config.training.batch_size) == (9, 2)
    assert (config.priors[0].guidance_scale, config.priors[0].eta, config.priors[0].weight) == (3.0, 0.2, 1.0)


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("optimizer.lr=1e-3", "optimizer.lr", 1e-3),
        ("cameras.elevation_deg.0=-20", "cameras.elevation_deg", [-20.0, 45.0]),
        ("cameras.fov_deg=[30, 40]", "cameras.fov_deg", [30.0, 40.0]),
        ("priors.1.guidance_scale=4", "priors.1.guidance_scale", 4.0),
        ("regularizers.eikonal.weight={start: 3, end: 1, to: 0.5}", "regularizers.eikonal.weight.to", 0.5),
        ("prompts.kinds=[cat, car]", "prompts.kinds", ["cat", "car"]),
        ("training={max_steps: 3}", "training.batch_size", 4),
        ("training.minutes=null", "training.minutes", None),
        ("training.output=a=b", "training.output", "a=b"),
    ],
)
def test_setting_on_the_command_line(setting: str, key: str, value: object) -> None:
    assert flatten(load_config(None, [setting]).model_dump())[key] == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.batchsize=3", r"training\.batchsize: .* did you mean training\.batch_size\?"),
        ("lr=1", r"lr: no such setting; did you mean optimizer\.lr\?"),
        ("generator.hyper_ingp.levels=3", r"did you mean generator\.hyper_ingp\.num_levels\?"),
        ("priors.0.guidance=2", r"did you mean priors\.0\.guidance_scale\?"),
        ("priors.3.model=x", r"priors\.3: no such item; the list has 1"),
        ("seed.x=1", r"seed is a single value"),
        ("training.batch_size=a", r"training\.batch_size: got 'a'; accepted is a whole number"),
        ("training.batch_size=true", r"training\.batch_size: got True; accepted is a whole number"),
        ("training.batch_size='3'", r"training\.batch_size: got '3'; accepted is a whole number"),
        ("training.batch_size=0", r"training\.batch_size: got 0; accepted is a number at least 1"),
        ("training.deterministic=1", r"training\.deterministic: got 1; accepted is true or false"),
        ("training.minutes=.inf", r"training\.minutes: got inf; accepted is a finite number"),
        ("training.zero_stage=3", r"training\.zero_stage: got 3; accepted are 0, 1 and 2\. Stage 3"),
        ("distillation.method=vsd", r"distillation\.method: 'vsd' is not in this version"),
        ("distillation.method=foo", r"distillation\.method: got 'foo'; accepted is 'asd', 'sds' or 'csd'"),
        ("distillation.t_min=0.9", r"distillation\.t_min: above distillation\.t_max"),
        ("distillation.t_max=1.5", r"distillation\.t_max: got 1\.5; accepted are values from 0 to 1"),
        ("optimizer.lr=-1", r"optimizer\.lr: got -1; accepted are values at least 0"),
        ("optimizer.lr=[1, 2, 3]", r"optimizer\.lr=\[1, 2, 3\]: expected a number"),
        ("optimizer.betas=[0.9, 1]", r"optimizer\.betas: got \[0\.9, 1\.0\]"),
        (
            "cameras.fov_deg=[50, 40]",
            r"cameras\.fov_deg: got \[50\.0, 40\.0\]; accepted is \[lowest, highest\]",
        ),
        ("cameras.fov_deg=[50]", r"cameras\.fov_deg: got \[50\]; accepted is a list with at least 2"),
        ("priors=[]", r"priors: got \[\]; accepted is a list with at least 1"),
        ("priors.0=3", r"priors\.0: got 3; accepted is a mapping of settings"),
        ("priors.0.name=stable_diffusion", r"priors\.0\.model: missing"),
        ("max_steps", r"'max_steps': expected key\.path=value"),
        ("seed='", r"seed: got \"'\", which is not a YAML value"),
    ],
)
def test_wrong_setting_is_named(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_config(None, [setting])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"\xff\xfe\x00a", "not UTF-8"),
        (b"a: [1", "not valid YAML in line"),
        (b"- 1\n- 2\n", "holds a list, expected a mapping"),
        (b"trainin: {max_steps: 3}", r"trainin: no such setting; did you mean training\?"),
        (b"prompts: {file: a.txt, kinds: [cat]}", "leave them out or leave out file"),
    ],
)
def test_wrong_file_is_named(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        load_config(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing.yaml: cannot be read"):
        load_config(tmp_path / "nothing.yaml")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(key=st.sampled_from(sorted(valid_keys())), value=values)
def test_any_value_is_taken_or_refused_with_one_line(key: str, value: object) -> None:
    data = Config().model_dump()
    place: object = data
    *parents, last = key.split(".")
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]  # type: ignore[index]
    place[last] = value  # type: ignore[index]
    try:
        parse_config(data)
    except ValueError as error:
        assert "\n" not in str(error)
        assert "Traceback" not in str(error)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_any_setting_is_taken_or_refused_with_one_line(text: str) -> None:
    try:
        load_config(None, [text])
    except ValueError as error:
        assert str(error)


def test_config_and_help_need_no_torch() -> None:
    code = (
        "import sys, contextlib, scaledreamer.config_file, scaledreamer.build, scaledreamer.cli.train as t\n"
        "with contextlib.suppress(SystemExit): t.main(['--help'])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.yaml"], "error: nowhere.yaml: cannot be read"),
        (["--config", "configs/tiny.yaml", "training.max_step=3"], "did you mean training.max_steps?"),
        ([], "error: the following arguments are required: --config"),
        (["--config", "configs/tiny.yaml", "--dry"], "error: unrecognized arguments: --dry"),
    ],
)
def test_program_refuses_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scaledreamer.cli.train import main

    monkeypatch.chdir(ROOT)
    try:
        status = main(arguments)
    except SystemExit as exit_:
        status = exit_.code
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


def test_dump_is_yaml_with_every_setting() -> None:
    assert set(flatten(yaml.safe_load(dump_config(Config())))) == set(flatten(Config().model_dump()))
