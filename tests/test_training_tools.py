"""The tools that train the tiny prior and the tiny CLIP from nothing, a few steps of everything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scaledreamer.cli.train import out_of_memory
from scaledreamer.config import load_config
from scaledreamer.evaluation.clip_scores import TinyClip
from scaledreamer.priors.stable_diffusion import StableDiffusionPrior
from tools.tinyworld import train_clip, train_prior, training


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of views is a dozen."""
    monkeypatch.setattr(training, "VIEWS_PER_SHARD", 12)


def run(module: Any, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()


def toy_training(folder: Path) -> Any:
    torch.manual_seed(3)
    module = nn.Linear(3, 2)

    def losses(step: int) -> dict[str, torch.Tensor]:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return {"a": module(x).square().mean(), "b": module(x).abs().mean()}

    return training.PiecewiseTraining(
        "toy", folder, module, losses, num_steps=7, learning_rate=0.05, ema_decay=0.8
    )


def test_pieces_of_a_training_join_without_a_seam(tmp_path: Path):
    whole = toy_training(tmp_path / "whole")
    start = whole.module.weight.detach().clone()
    assert list(whole.ticks(1.0, every=2)) == [2, 4, 6, 7]
    assert not torch.equal(whole.module.weight, start)
    first = toy_training(tmp_path / "pieces")
    for step in first.ticks(1.0, every=2):
        if step == 4:
            break  # killed: what was done after the last tick is done again
    second = toy_training(tmp_path / "pieces")
    assert second.step == 4
    assert list(second.ticks(1.0, every=2)) == [6, 7]
    for name, value in whole.module.state_dict().items():
        assert torch.equal(second.module.state_dict()[name], value)
        assert torch.equal(second.ema[name], whole.ema[name])
    lines = (tmp_path / "pieces" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 7]


@pytest.mark.slow
def test_tiny_prior_is_trained_resumed_exported_and_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    work, out = tmp_path / "work", tmp_path / "prior"
    monkeypatch.setattr(train_prior, "NUM_MEASURED", 8)
    common = ["--num-shards", 1, "--batch-size", 4, "--text-steps", 2, "--autoencoder-steps", 2]
    run(
        train_prior,
        monkeypatch,
        *train_prior.STAGES,
        "--work",
        work,
        "--out",
        out,
        *common,
        "--unet-steps",
        2,
    )
    prior = StableDiffusionPrior.from_pretrained(out)
    images = prior.sample(["a red cat, side view"], torch.zeros(1, *prior.latent_shape), num_steps=2)
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all()
    assert json.loads((out / "training.json").read_text())["unet"]["step"] == 2

    capsys.readouterr()
    run(train_prior, monkeypatch, "unet", "export", "--work", work, "--out", out, *common, "--unet-steps", 3)
    assert "unet: goes on from step 2" in capsys.readouterr().out

    new, again = tmp_path / "new", tmp_path / "again"
    words = ["--work", new, "--out", again, "--restart", out, *common, "--unet-steps", 1]
    run(train_prior, monkeypatch, "unet", "export", *words)
    assert json.loads((again / "training.json").read_text())["unet"]["step"] == 4
    run(
        train_prior,
        monkeypatch,
        "export",
        "--work",
        new,
        "--out",
        again,
        "--restart",
        again,
        "--num-shards",
        1,
    )
    assert json.loads((again / "training.json").read_text())["unet"]["step"] == 4, "counted twice"
    for part, is_same in (("vae", True), ("text_encoder", True), ("unet", False)):
        file = next((out / part).glob("*.safetensors"))
        before, after = load_file(file), load_file(again / part / file.name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before) == is_same, part


@pytest.mark.slow
def test_tiny_clip_is_trained_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    work, out = tmp_path / "work", tmp_path / "clip"
    monkeypatch.setattr(train_clip, "NUM_HELD_OUT", 4)
    steps = ["--text-steps", 2, "--steps", 2, "--num-shards", 1, "--batch-size", 4]
    run(train_clip, monkeypatch, *train_clip.STAGES, "--work", work, "--out", out, *steps)
    clip = TinyClip.from_pretrained(out)
    images, texts = clip.embed_images(torch.rand(2, 3, 64, 64)), clip.embed_texts(["a red cat"])
    assert images.shape == (2, 128) and texts.shape == (1, 128)
    assert torch.allclose(torch.cat([images, texts]).norm(dim=1), torch.ones(3), atol=1e-4)
    written = json.loads((out / "training.json").read_text())
    assert (written["text"]["step"], written["image"]["step"]) == (2, 2)

    again = tmp_path / "again"
    words = ["--work", tmp_path / "new", "--out", again, "--restart", out, *steps]
    run(train_clip, monkeypatch, "image", "export", *words)
    written = json.loads((again / "training.json").read_text())
    assert (written["text"]["step"], written["image"]["step"]) == (2, 4)
    before, after = (load_file(folder / "model.safetensors") for folder in (out, again))
    same = {name: torch.equal(before[name], after[name]) for name in before}
    assert all(same[name] for name in same if name.startswith("text_"))
    assert not same["visual_projection.weight"]


def test_captions_of_the_text_tower_hold_no_held_out_meaning():
    from scaledreamer.tinyworld import grammar

    texts, labels = train_clip.draw_texts(5, 300, "seen")
    assert len(labels["color"]) == len(labels["view"]) == 300
    for text in texts:
        meaning = grammar.parse(text.split(",")[0])
        assert meaning is None or grammar.split_of(meaning) == "seen", text


def test_sum_of_codes_is_nearest_to_its_own_values():
    tower = train_clip.Tower(train_clip.build_clip(train_clip.build_tokenizer()), "text")
    assert torch.allclose(tower.codes @ tower.codes.T, torch.eye(len(tower.codes)), atol=1e-5)
    _, labels = train_clip.draw_texts(1, 20, "seen")
    losses = tower.naming_losses(tower.sum_of_codes(labels), labels)
    assert losses.keys() == train_clip.NUM_VALUES.keys()
    others = {name: (values + 1) % train_clip.NUM_VALUES[name] for name, values in labels.items()}
    wrong = tower.naming_losses(tower.sum_of_codes(labels), others)
    assert all(losses[name] < 0.01 < 1 < wrong[name] for name in losses)


@pytest.mark.parametrize(
    ("error", "numbers"),
    [
        (
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of "
            "which 1.06 GiB is free. Including non-PyTorch memory, this process has 78.0 GiB in use.",
            "(Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.06 GiB is free)",
        ),
        (
            "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)",
            "(tried to allocate 4398046511104 bytes)",
        ),
        ("", "out of memory; raise"),
    ],
)
def test_memory_that_ran_out_is_said_with_its_numbers_and_what_to_set(error: str, numbers: str) -> None:
    said = out_of_memory(MemoryError(error), load_config("tiny"))
    assert numbers in said and "\n" not in said
    for setting in ("training.accumulation_steps", "priors.0.tinyworld.memory_gib", "renderer.image_size"):
        assert setting in said
