"""Every architecture learns a few true views by image loss: the first thing to ask of a new one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scaledreamer.exported import read_index
from tools.tinyworld import fit_oracle, training

SMALL = {
    "hyper_ingp": {"num_levels": 4, "log2_table_size": 10, "hyper_width": 16, "mlp_width": 16},
    "conv3d_net": {"resolution": 16, "max_channels": 16, "channel_base": 128, "style_dim": 16, "z_dim": 4},
    "triplane_transformer": {"width": 32, "num_layers": 1, "num_heads": 2, "token_resolution": 8},
}
NUM_STEPS = 60


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four views to learn, the same as those that are held out: what is asked is whether it learns."""
    work = tmp_path_factory.mktemp("views")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "VIEWS_PER_SHARD", 4)
        training.ViewPool(work / "views", "seen", 1, "cpu")
    shutil.copy(work / "views" / "seen-000.safetensors", work / "views" / "validation-000.safetensors")
    return work


@pytest.mark.parametrize("name", SMALL)
def test_a_generator_learns_true_views(name: str, views: Path, tmp_path: Path) -> None:
    settings = [f"generator.{name}.{key}={value}" for key, value in SMALL[name].items()]
    settings += [f"generator.name={name}", f"generator.{name}.background=none", "renderer.image_size=16"]

    def fit(num_steps: int) -> float:
        options = {"--steps": num_steps, "--lr": 5e-3, "--batch-size": 4, "--num-shards": 1}
        words = [str(word) for pair in options.items() for word in pair]
        out = tmp_path / str(num_steps)
        arguments = [*words, "--work", str(views), "--out", str(out), *settings]
        (psnr,) = fit_oracle.fit(fit_oracle.make_parser().parse_args(arguments))
        assert read_index(out / "generator")["generator"]["name"] == name
        return psnr

    assert fit(NUM_STEPS) > fit(1) + 1.0, "dB"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config", "none.yaml"],
            "none.yaml: cannot be read (No such file or directory); give a YAML file",
        ),
        (["generator.nam=field"], "generator.nam: no such setting; did you mean"),
        (["--steps", "0"], "--steps: got '0'; accepted are whole numbers above 0"),
        (["--lr", "nan"], "--lr: got 'nan'; accepted are numbers above 0"),
        (["--num-shards", "0"], "--num-shards: got '0'; accepted are whole numbers above 0"),
        (["--out", "/proc/none"], "--out /proc/none: cannot be made ("),
        (["--out", "taken"], "--out taken: its generator/ is no exported generator; give another folder"),
        (
            ["generator.hyper_ingp.grid_backend=tinycudann"],
            "generator.hyper_ingp.grid_backend is 'tinycudann'",
        ),
        (["--work", "damaged", "--num-shards", "1"], "damaged/views/seen-000.safetensors: is damaged"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_fitted(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("taken/generator/notes.txt", "damaged/views/seen-000.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("hello")
    try:
        status = fit_oracle.main(["--config", "tiny", *arguments])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("error: ") and error.count("\n") == 1 and message in error, error
    assert not (tmp_path / "outputs/oracle/generator").exists()
