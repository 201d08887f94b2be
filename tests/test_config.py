"""Configuration: defaults, files, settings on the command line; what is wrong: test_bad_input, test_fuzz."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from scaledreamer import generators
from scaledreamer.config import Config, dump_config, flatten, load_config, parse_config, read_yaml, valid_keys
from scaledreamer.config.renamed import RENAMED
from scaledreamer.schedules import Constant, Linear

ROOT = Path(__file__).parent.parent


def test_every_setting_has_a_meaning() -> None:
    assert all(field.description for field in valid_keys().values())


def test_defaults_round_trip_through_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(Config()))
    assert load_config(path) == Config()


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_setting_of_another_name_is_refused_with_the_name_of_today(old: str, new: str) -> None:
    with pytest.raises(
        ValueError, match=f"^{re.escape(old)}: no such setting; it is now {re.escape(new)}\\.$"
    ):
        load_config(None, [f"{old}=1"])
    assert new.split(",")[0] in valid_keys() and old not in valid_keys()


def test_a_renamed_setting_of_a_later_prior_keeps_its_number() -> None:
    with pytest.raises(
        ValueError, match=r"^priors\.1\.eta: no such setting; it is now priors\.1\.asd\.eta\.$"
    ):
        load_config(None, ["priors=[{}, {eta: 1}]"])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_are_valid_and_short(path: Path) -> None:
    load_config(path)
    defaults = flatten(Config().model_dump())
    assert not {k: v for k, v in flatten(read_yaml(path)).items() if k in defaults and defaults[k] == v}


def test_file_then_command_line_then_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("training: {max_steps: 7, batch_size: 2}\npriors: [{guidance_scale: 3}]\n")
    config = load_config(path, ["training.max_steps=9", "priors.0.asd.eta=0.2"])
    assert (config.training.max_steps, config.training.batch_size) == (9, 2)
    assert (config.priors[0].guidance_scale, config.priors[0].asd.eta, config.priors[0].weight) == (
        3.0,
        0.2,
        1.0,
    )


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
    "key",
    ["training.output", "generator.start", "prompts.file", "prompts.shards"]
    + ["conditioner.model", "priors.0.model"],
)
def test_home_folder_in_a_path(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    *sections, name = key.replace("priors.0", "priors").split(".")
    section = {name: "~/x"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({sections[0]: [section] if "priors" in key else section}))
    for config in (load_config("~/config.yaml"), load_config(None, [f"{key}=~/x"])):
        assert flatten(yaml.safe_load(dump_config(config)))[key] == f"{tmp_path}/x"


@pytest.mark.parametrize("value", ["org/model", "a~b", "./~/x", "~nobody-of-this-name/x", "~a\0b/x"])
def test_no_home_folder_in_a_path(value: str) -> None:
    assert parse_config({"training": {"output": value}}).training.output == value


def test_setting_of_a_prior_that_the_file_lists_without_its_subsection(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("priors: [{guidance_scale: 4.0}]")
    config = load_config(path, ["priors.0.tinyworld.dtype=float16"])
    assert config.priors[0].tinyworld.dtype == "float16" and config.priors[0].guidance_scale == 4.0
    with pytest.raises(
        ValueError, match=r"priors\.0\.tinyword: no such setting; did you mean priors\.0\.tiny"
    ):
        load_config(path, ["priors.0.tinyword.dtype=float16"])


def test_shipped_configurations_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("tiny") == load_config("configs/tiny.yaml") == load_config(ROOT / "configs/tiny.yaml")
    (tmp_path / "tiny").write_text("seed: 7")
    assert load_config("tiny").seed == 7  # a file goes before a name
    with pytest.raises(
        ValueError, match=r"tinny: cannot be read .* a shipped one: asd_100k, at2520, demo, df415, mg15"
    ):
        load_config("tinny")


def test_image_size_is_a_number_or_a_schedule_and_memory_is_for_the_largest() -> None:
    for value, largest in ((48, 48), ({"start": 32, "end": 64, "from": 0.0, "to": 0.5}, 64), ([64, 32], 64)):
        renderer = parse_config({"renderer": {"image_size": value}}).renderer
        assert renderer.model_dump()["image_size"] == value and renderer.largest_image_size == largest


def test_config_and_help_need_no_torch() -> None:
    code = (
        "import sys, contextlib, scaledreamer.config, scaledreamer.downloads, scaledreamer.generators\n"
        "import scaledreamer.cli.train as t\n"
        "with contextlib.suppress(SystemExit): t.main(['--help'])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_dump_is_yaml_with_every_setting() -> None:
    assert set(flatten(yaml.safe_load(dump_config(Config())))) == set(flatten(Config().model_dump()))


def test_what_cannot_repeat_on_a_gpu_is_refused_there_if_it_has_to() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for name in ("conv3d_net", "triplane_transformer"):
        config = load_config(None, [f"generator.name={name}", "training.deterministic=true"])
        generators.check_repeats(config.generator, cpu)
        message = (
            f"training.deterministic: got true, .* generator.name={name} do not repeat on a GPU; set it to"
        )
        with pytest.raises(ValueError, match=message):
            generators.check_repeats(config.generator, cuda)
    generators.check_repeats(load_config(None, ["generator.name=field"]).generator, cuda)
    generators.check_repeats(Config().generator, cuda)


def test_schedules_arrive_parsed_and_come_back_as_they_were_given(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("optimizer: {lr: {start: 1, end: 2, to: 0.5}}\ndistillation: {t_max: [0.9, 0.5]}\n")
    config = load_config(path, ["regularizers.sparsity.weight=3"])
    assert config.optimizer.lr.over(10) == Linear(1.0, 2.0, 0, 5)
    assert config.distillation.t_max.over(10) == Linear(0.9, 0.5, 0, 10)
    assert config.regularizers.sparsity.weight.over(10) == Constant(3.0)
    written = yaml.safe_load(dump_config(config))
    assert written["optimizer"]["lr"] == {"start": 1, "end": 2, "to": 0.5}
    assert (
        written["distillation"]["t_max"] == [0.9, 0.5] and written["regularizers"]["sparsity"]["weight"] == 3
    )
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config
