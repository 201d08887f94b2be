"""Interpolation of prompts: exact at both ends, continuous in between, as conditions, assets and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scaledreamer.asset import Asset
from scaledreamer.cli.infer import main
from scaledreamer.contracts import GeneratorText
from scaledreamer.generators.triplane_transformer import TriplaneTransformer
from scaledreamer.pipeline import TextTo3D
from scaledreamer.prompts.interpolation import interpolate_conditions
from tests.support.tiny_export import tiny_pipeline

ENDS = ("a red cube", "a red-eyed tree frog on a blue ball")
DIM = 6


def condition(length: int, seed: int, padded: int = 9, dtype: torch.dtype = torch.float64) -> GeneratorText:
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(1, padded, DIM, generator=random).to(dtype)
    pooled = torch.randn(1, DIM, generator=random).to(dtype)
    return GeneratorText(pooled, tokens, torch.arange(padded)[None] < length)


def make_generator() -> TriplaneTransformer:
    torch.manual_seed(0)
    sizes = {"width": 16, "num_layers": 2, "num_heads": 2, "token_resolution": 3, "plane_features": 4}
    return TriplaneTransformer(token_dim=DIM, **sizes, mlp_width=8).double()  # type: ignore[arg-type]


def points() -> Tensor:
    return torch.rand(1, 100, 3, generator=torch.Generator().manual_seed(3)) * 2 - 1


def numbers(asset: Asset) -> Tensor:
    return torch.cat([values.flatten() for values in asset.scene.query(points())])


@pytest.mark.parametrize("lengths", [(4, 6), (5, 5), (3, 7)])
def test_ends_are_the_two_texts_for_attention(lengths: tuple[int, int]) -> None:
    """Numbers of tokens that share a divisor, are equal, or have none in common."""
    first, second = (condition(length, seed) for seed, length in enumerate(lengths))
    generator = make_generator()
    mixed = interpolate_conditions(first, second, torch.tensor([0.0, 0.5, 1.0]).double())
    planes = generator.planes(mixed).detach()
    expected = [generator.planes(end)[0] for end in (first, second)]
    torch.testing.assert_close(planes[0], expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(planes[2], expected[1], rtol=1e-10, atol=1e-10)
    assert all(float((planes[1] - end).detach().abs().max()) > 0.1 for end in expected)
    assert torch.equal(mixed.pooled[0], first.pooled[0]) and torch.equal(mixed.pooled[2], second.pooled[0])
    torch.testing.assert_close(mixed.pooled[1], (first.pooled[0] + second.pooled[0]) / 2)


def test_the_way_is_continuous_everywhere() -> None:
    """Law: from fractions half as far apart, steps half as long, at the ends as in between."""
    first, second = condition(3, 0), condition(7, 1)
    generator, lengths = make_generator(), []
    for step in (1e-3, 5e-4):
        at = torch.tensor([0.0, 0.3, 0.7, 1 - step]).double()
        before, after = (
            generator.planes(interpolate_conditions(first, second, at + shift)) for shift in (0.0, step)
        )
        lengths.append((after - before).detach().flatten(1).norm(dim=1))
    torch.testing.assert_close(lengths[0] / lengths[1], torch.full((4,), 2.0).double(), rtol=0.02, atol=0)


def test_padding_does_not_matter() -> None:
    at = torch.tensor([0.3]).double()
    short = interpolate_conditions(condition(3, 0), condition(5, 1), at)
    start, end = (
        each._replace(tokens=each.tokens + 5.0 * ~each.mask[..., None])
        for each in (condition(3, 0), condition(5, 1))
    )
    for one, other in zip(short, interpolate_conditions(start, end, at), strict=True):
        assert torch.equal(one, other)
    assert short.tokens.shape == (1, 15, DIM) and short.mask.all()


def test_conditions_of_several_prompts_or_without_tokens_are_refused() -> None:
    one, empty = condition(3, 0), condition(0, 1)
    two = GeneratorText(*(torch.cat([part, part]) for part in one))
    for bad in (two, empty):
        with pytest.raises(ValueError, match="one prompt each, with tokens"):
            interpolate_conditions(one, bad, torch.tensor([0.5]).double())


@pytest.mark.parametrize("name", ["hyper_ingp", "triplane_transformer", "padding seen"])
def test_a_pipelines_first_and_last_assets_are_those_of_the_prompts(name: str) -> None:
    pipe = tiny_pipeline()
    if name != "hyper_ingp":
        torch.manual_seed(0)
        generator = TriplaneTransformer(
            token_dim=16, width=16, num_layers=1, num_heads=2, token_resolution=3, mask_padding=name[0] == "t"
        )
        pipe = TextTo3D(pipe.conditioner, generator, generator_name="triplane_transformer")
    with torch.no_grad():
        for parameter in pipe.generator.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assets = pipe.interpolate(*ENDS, 10)  # more than one forward pass
    assert [assets[0].prompt, assets[-1].prompt] == list(ENDS) and len(assets) == 10
    values = torch.stack([numbers(asset) for asset in assets])
    for asset, found in zip(pipe(list(ENDS)), values[[0, -1]], strict=True):
        torch.testing.assert_close(found, numbers(asset), rtol=1e-4, atol=1e-5)
    steps = values.diff(dim=0).norm(dim=1)
    assert float((values[0] - values[-1]).norm()) > 1e-3 and float(steps.max()) < 3 * float(steps.mean())


def test_assets_of_a_long_way_are_made_as_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, asked = tiny_pipeline(), list[int]()
    forward = pipe.generator.forward

    def count(condition: GeneratorText, *rest: object) -> object:
        asked.append(len(condition.pooled))
        return forward(condition, *rest)

    monkeypatch.setattr(pipe.generator, "forward", count)
    assets = pipe.interpolate_lazily(*ENDS, 30)
    assert not asked
    assert next(assets).prompt == ENDS[0] and asked == [1]
    assert [asset.prompt for asset in assets][-1] == ENDS[1] and sum(asked) == 30
    with pytest.raises(ValueError, match="num_frames is 1"):
        pipe.interpolate_lazily(*ENDS, 1)


def test_fewer_than_two_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="num_frames is 1: .* at least 2"):
        tiny_pipeline().interpolate(*ENDS, 1)


def test_a_frame_is_one_of_the_turntable() -> None:
    asset = tiny_pipeline()("a red cube")
    turn = asset.turntable(4, 32)
    assert np.array_equal(asset.frame(3, 4, 32), turn[3]) and not np.array_equal(turn[0], turn[3])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "generator"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("formats", [None, "glb"])
def test_the_program_writes_video_and_stills_and_meshes_if_asked(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    formats: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scaledreamer.cli.interpolate.VIDEO_SIZE", 32)
    monkeypatch.setattr("scaledreamer.cli.interpolate.STILL_SIZE", 16)
    shown: list[tuple[int, int, int]] = []
    frame = Asset.frame

    def noting(asset: Asset, index: int, num_frames: int, size: int, *, fit: list[Asset], **rest: Any) -> Any:
        shown.append((index, num_frames, size))
        assert [end.prompt for end in fit] == list(ENDS)  # one scale for all
        return frame(asset, index, num_frames, size, fit=fit, **rest)

    monkeypatch.setattr(Asset, "frame", noting)
    words = ["--interpolate", *ENDS, "--frames", "2", "--output", str(tmp_path), "--device", "cpu"]
    words += ["--checkpoint", str(checkpoint), "--resolution", "32", "--texture-size", "64"]
    assert main(words + ([] if formats is None else ["--formats", formats])) == 0
    assert capsys.readouterr().err == ""
    (sidecar,) = tmp_path.glob("*.json")
    report = json.loads(sidecar.read_text())
    assert (report["interpolate"], report["frames"]) == (list(ENDS), 2)
    stem = sidecar.stem
    if formats is None:
        assert report["files"] == {kind: f"{stem}.{kind}" for kind in ("mp4", "png")}
        # Of each asset the camera on its way around, and a still from the front.
        assert shown == [(0, 2, 32), (0, 1, 16), (1, 2, 32), (0, 1, 16)]
    else:
        assert report["files"] == {"glb": [f"{stem}-000.glb", f"{stem}-001.glb"]}
    listed = list(report["files"].values()) if formats is None else report["files"]["glb"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*listed, sidecar.name])


def make(checkpoint: Path, output: Path, *words: str, ends: tuple[str, str] = ENDS) -> int:
    options = ["--frames", "2", "--output", str(output), "--device", "cpu", "--checkpoint", str(checkpoint)]
    return main(["--interpolate", *ends, *options, "--resolution", "32", "--texture-size", "64", *words])


def test_the_sidecar_says_what_an_assets_own_says(checkpoint: Path, tmp_path: Path) -> None:
    assert make(checkpoint, tmp_path, "--formats", "ply", ends=("a red cube", "a blue zzz")) == 0
    (sidecar,) = tmp_path.glob("*.json")
    report = json.loads(sidecar.read_text())
    assert report["versions"].keys() == {"scaledreamer", "python", "torch", "numpy"}
    assert (report["checkpoint"]["generator"], report["checkpoint"]["step"]) == ("hyper_ingp", 7)
    assert report["notes"] == ["words that this generator does not know and may misread: 'zzz'"]


def test_two_ways_with_the_same_words_have_files_of_their_own(checkpoint: Path, tmp_path: Path) -> None:
    for ends in (("a cat", "a car to a mug"), ("a cat to a car", "a mug")):
        assert make(checkpoint, tmp_path, "--formats", "ply", ends=ends) == 0
    assert len(list(tmp_path.glob("*.json"))) == 2 and len(list(tmp_path.glob("*.ply"))) == 4


def test_frames_without_a_surface_are_an_error_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tiny_pipeline()
    with torch.no_grad():
        pipe.generator.get_submodule("heads.sdf").get_parameter("bias")[-1] = 5.0
    pipe.save_pretrained(tmp_path / "empty")
    assert make(tmp_path / "empty", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error == "error: all frames have no surface; nothing was written\n"
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named_with_its_flag(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(checkpoint, Path("/proc/none"), "--formats", "ply") == 2
    assert "error: --output /proc/none: cannot be made (" in capsys.readouterr().err
