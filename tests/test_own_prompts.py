"""Own prompts: captions of the world are scored fully, others by CLIP alone, with known answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scaledreamer.cli import evaluate
from scaledreamer.evaluation import own_prompts, report, scores
from scaledreamer.evaluation.clip_scores import TinyClip
from scaledreamer.evaluation.ground_truth import Observer
from scaledreamer.rendering.volume import VolumeRenderer
from scaledreamer.tinyworld import grammar
from scaledreamer.tinyworld.scene import WorldScene
from tests.support.evaluation_fakes import Oracle, perfect_scenes, text_vector
from tests.support.random_models import save_tiny_clip
from tests.support.tiny_export import tiny_pipeline

PROMPTS = ["a red ball", "a big shiny ball", "a blue cube", "the red ball", "a blue cube", "a green cone"]
OTHERS = ["a big shiny ball", "the red ball"]


def test_prompts_are_sorted_by_what_can_be_measured_of_them():
    own = own_prompts.sort_prompts(PROMPTS)
    assert list(own.world) == ["a red ball", "a blue cube", "a green cone"]
    assert own.others == OTHERS, "the second says what the first of all says"
    assert own.all == [*own.world, *OTHERS]
    draw = own.draw(3)
    assert draw == own.draw(3) and draw.meanings == tuple(map(grammar.parse, draw.prompts))
    assert sorted(draw.partners) == [0, 1, 2] and draw.start_azimuth_deg != own.draw(4).start_azimuth_deg
    assert own_prompts.sort_prompts(["a red ball"]).draw(0).partners == ()
    assert own_prompts.sort_prompts(["a dragon"]).draw(0).meanings == ()


class Says(Oracle):
    """Embeds all images as half of one text and half of another."""

    def __init__(self, *said: str) -> None:
        super().__init__()
        self._said = torch.stack([text_vector(text) for text in said]).sum(0)

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self._said, dim=0).expand(len(images), -1)


@pytest.fixture(scope="module")
def observer() -> Observer:
    return Observer(VolumeRenderer(), num_views=2, lattice=16, image_size=12)


def balls(prompts: list[str]) -> WorldScene:
    return WorldScene([grammar.Meaning("ball", "red")] * len(prompts))


def test_other_prompts_are_told_from_all_prompts_of_the_file(observer):
    own = own_prompts.sort_prompts(PROMPTS)
    shiny, red = OTHERS
    measured = own_prompts.measure_by_clip(balls, own, Says(shiny, red, red), observer, own.draw(0))
    assert measured["plain_r1"].tolist() == [0, 1], "all assets look most like the second's words"
    vectors = [text_vector(text) for text in [*OTHERS, *own.world]]
    looks = torch.nn.functional.normalize(vectors[0] + 2 * vectors[1], dim=0)
    cosines = torch.stack(vectors) @ looks
    torch.testing.assert_close(measured["similarity"], cosines[:2])
    floor = torch.stack([(cosines.sum() - cosines[row]) / 4 for row in range(2)])
    torch.testing.assert_close(measured["floor"], floor)
    # A prompt of the world may be nearer than one's own, too.
    measured = own_prompts.measure_by_clip(balls, own, Says("a blue cube", red), observer, own.draw(0))
    measured_by_world = own_prompts.measure_by_clip(
        balls, own, Says("a blue cube", "a blue cube", red), observer, own.draw(0)
    )
    assert measured["plain_r1"][0] == 0 == measured_by_world["plain_r1"].sum()


def test_a_single_other_prompt_has_no_floor(observer):
    own = own_prompts.sort_prompts(["a dragon"])
    found = own_prompts.summarise_others(
        own, [own_prompts.measure_by_clip(balls, own, Says("a dragon"), observer, own.draw(0))] * 2
    )
    assert found["similarity"]["value"] == pytest.approx(1.0)
    assert found["similarity"]["floor"] is found["similarity"]["standard_error"] is None
    assert (found["num_prompts"], found["gallery_size"]) == (1, 1)


def test_each_prompt_has_its_own_means_over_the_draws(observer):
    own = own_prompts.sort_prompts(["a red ball", "a dragon"])
    oracle = Oracle()
    draws = [own.draw(seed) for seed in range(2)]
    for draw in draws:
        seen = observer.observe_truth(draw.meanings, start_azimuth_deg=draw.start_azimuth_deg)
        oracle.learn(seen.images, draw.meanings)
    world = [report.measure(perfect_scenes, draw, oracle, observer) for draw in draws]
    others = [own_prompts.measure_by_clip(balls, own, oracle, observer, draw) for draw in draws]
    ball, dragon = own_prompts.by_prompt(own, world, others)
    assert (ball["prompt"], ball["is_in_world"]) == ("a red ball", True)
    assert ball["hard_r1"] == 1 and ball["iou"] == pytest.approx(1.0) and "hard_r1/wear" not in ball
    assert (dragon["prompt"], dragon["is_in_world"]) == ("a dragon", False)
    assert set(dragon) == {"prompt", "is_in_world", "similarity", "plain_r1"}
    assert json.loads(json.dumps([ball, dragon], allow_nan=False)) == [ball, dragon]
    summary = report.summarise(world)
    assert summary["iou"]["floor"] is summary["iou"]["normalised"] is None, "one prompt has no partner"


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("own")
    tiny_pipeline().save_pretrained(folder / "generator")
    return folder / "generator", save_tiny_clip(folder / "clip")


def run(folders: tuple[Path, Path], out: Path, *options: str) -> int:
    generator, clip = folders
    return evaluate.main(
        ["--checkpoint", str(generator), "--clip", str(clip), "--out", str(out), "--image-size", "16"]
        + list(options)
    )


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(evaluate, "NUM_TIMED", 1)
    monkeypatch.setattr(scores, "time_assets", lambda pipe, prompts: ([0.5] * len(prompts), 0))

    def never(*args: object, **options: object) -> None:
        raise AssertionError("the Janus test is not asked for")

    monkeypatch.setattr(scores, "janus_test_of", never)


def test_a_file_of_prompts_is_evaluated_without_the_janus_test(folders, quick, tmp_path, capsys):
    prompts, sheet = tmp_path / "mine.txt", tmp_path / "sheet.png"
    prompts.write_text("# mine\na red ball\r\na shiny red cat\n\na blue cube\n")
    options = ["--prompts-file", str(prompts), "--no-janus", "--sheet", str(sheet)]
    assert run(folders, tmp_path / "mine.json", *options) == 0
    found = json.loads((tmp_path / "mine.json").read_text())
    assert [row["prompt"] for row in found["prompts"]] == ["a red ball", "a blue cube", "a shiny red cat"]
    assert found["num_assets"] == 2 and found["others"]["num_prompts"] == 1
    assert found["janus_validation"] is found["janus"]["value"] is None
    settings = found["settings"]
    assert (settings["num_prompts"], settings["num_assets"], settings["seeds"]) == (3, 3, 1)
    assert settings["prompts_file"] == str(prompts) and "split" not in settings
    said = capsys.readouterr().out
    assert "note: 'a shiny red cat': words that this generator does not know and may misread: 'shiny'" in said
    assert "similarity, other prompts" in said and "plain R@1 of 3, other prompts" in said
    # The last row's true object is not known: its right half is plain grey.
    pixels = np.asarray(Image.open(sheet))
    assert pixels.shape[1] == 8 * 16
    assert (pixels[-16:, 64:] == 128).all() and (pixels[-16:, :64] != 128).any()


def test_prompts_outside_the_world_alone_are_scored_by_clip_alone(folders, quick, tmp_path, capsys):
    prompts = tmp_path / "mine.json"
    prompts.write_text(json.dumps(["a shiny red cat", "a huge blue cube"]))
    options = ["--prompts-file", str(prompts), "--no-janus", "--seeds", "2"]
    assert run(folders, tmp_path / "out.json", *options) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found) == {"others", "prompts", "seconds_per_asset", "settings"}
    assert found["settings"]["num_assets"] == 4
    assert "hard R@1" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "mine.txt: cannot be read (No such file or directory)"),
        ("# none\n", [], "mine.txt: there is no prompt in it; give one a line"),
        ("a cat\n" + "x" * 50_000, [], "mine.txt: line 2: "),
        ("a cat\nzzz qqq\nwww", [], "'zzz qqq': this generator knows no word of the prompt"),
        ("a cat\nzzz qqq\nwww", [], "; and 1 more such prompts"),
        ("a cat", ["--split", "seen"], "--split is for prompts of the tinyworld; leave it or --prompts-file"),
        ("a cat", ["--num-prompts", "9"], "--num-prompts is for prompts of the tinyworld"),
        ("a cat", ["--kinds", "cat"], "--kinds is for prompts"),
        ("a cat", ["--max-extras", "2"], "--max-extras is for prompts"),
    ],
)
def test_bad_files_and_options_are_one_line(folders, quick, tmp_path, capsys, content, options, message):
    prompts = tmp_path / "mine.txt"
    if content is not None:
        prompts.write_text(content)
    status = run(folders, tmp_path / "out.json", "--prompts-file", str(prompts), "--no-janus", *options)
    error = capsys.readouterr().err.strip()
    assert status == 2 and error.startswith("error: ") and message in error and "\n" not in error
    assert not (tmp_path / "out.json").exists()


# --- other CLIPs --------------------------------------------------------------------------------------------


def test_a_clip_is_read_with_its_own_mean_and_size(tmp_path):
    folder = save_tiny_clip(tmp_path / "clip")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain = TinyClip.from_pretrained(folder)
    mean, std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    other = TinyClip.from_pretrained(folder)
    shift, scale = (torch.tensor(values)[:, None, None] for values in (mean, std))
    same = plain.embed_images(((images - shift) / scale + 1) / 2)
    torch.testing.assert_close(other.embed_images(images), same)
    assert (
        other.fingerprint
        != plain.fingerprint
        == TinyClip.from_pretrained(save_tiny_clip(tmp_path)).fingerprint
    )
    assert TinyClip.from_pretrained(save_tiny_clip(tmp_path / "b", seed=1)).fingerprint != plain.fingerprint
    (folder / "preprocessor_config.json").write_text('{"image_mean": 0.5}')
    with pytest.raises(ValueError, match="image_mean is 0.5; accepted are three decimal numbers"):
        TinyClip.from_pretrained(folder)
