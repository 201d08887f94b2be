"""Every architecture learns a few true views by image loss: the first thing to ask of a new one."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from scaledreamer.exported import read_index

TOOLS = Path(__file__).parent.parent / "tools"
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
        patch.syspath_prepend(str(TOOLS))
        pieces = importlib.import_module("_pieces")
        patch.setattr(pieces, "VIEWS_PER_SHARD", 4)
        pieces.ViewPool(work / "views", "seen", 1, "cpu")
    shutil.copy(work / "views" / "seen-000.safetensors", work / "views" / "validation-000.safetensors")
    return work


@pytest.mark.parametrize("name", SMALL)
def test_a_generator_learns_true_views(
    name: str, views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    fit_oracle: Any = importlib.import_module("fit_oracle")
    settings = [f"generator.{name}.{key}={value}" for key, value in SMALL[name].items()]
    settings += [f"generator.name={name}", f"generator.{name}.background=none", "renderer.image_size=16"]

    def fit(num_steps: int) -> float:
        options = {"--steps": num_steps, "--lr": 5e-3, "--batch-size": 4, "--num-shards": 1}
        words = [str(word) for pair in options.items() for word in pair]
        out = tmp_path / str(num_steps)
        (psnr,) = fit_oracle.main([*words, "--work", str(views), "--out", str(out), *settings])
        assert read_index(out / "generator")["generator"]["name"] == name
        return psnr

    assert fit(NUM_STEPS) > fit(1) + 1.0, "dB"
