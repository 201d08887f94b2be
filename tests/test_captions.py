"""Captions fit above their rows, whatever they say, and leave the images as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from scaledreamer import captions
from scaledreamer.evaluation.report import save_sheet
from scaledreamer.training.metrics import Report


def test_wrapped_fills_lines_at_words_and_cuts_what_is_too_much():
    def lines(text: str, width: int = 10) -> list[str]:
        return captions.wrapped(text, width, len)

    assert lines("a red frog") == ["a red frog"]
    assert lines("a red frog on a box") == ["a red frog", "on a box"]
    assert lines("a red frog on a box with a hat") == ["a red frog", "on a bo..."]
    assert lines("abcdefghijklmnopqrstuvwxyz") == ["abcdefghij", "klmnopq..."]
    assert lines("two\nlines\tand \u0007") == ["two lines", "and"]
    assert lines("") == lines("\ud800 \n") == [""]
    assert lines("abc def", width=0) == ["a", "b..."], "at least a letter a line, so that it ends"


@pytest.mark.parametrize(
    "text", ["a cat", "eine Kröte, grün", "赤い目のカエル", "🐸 \u202e frog \ud83d", "", "x " * 3000]
)
def test_a_caption_of_any_text_is_a_strip_of_the_asked_width(text):
    strip = captions.caption_strip(text, 120, 11)
    assert strip.shape[1:] == (120, 3) and 10 < strip.shape[0] < 40
    assert (strip[:, -1] == 255).all(), "nothing is drawn over the edge"
    assert bool((strip < 128).any()) == bool(text.strip())


def test_without_freetype_letters_of_other_scripts_are_question_marks(monkeypatch):
    def load_default(size: float | None = None, load: object = ImageFont.load_default_imagefont) -> object:
        return ImageFont.load_default_imagefont()

    monkeypatch.setattr(ImageFont, "load_default", load_default)
    strip = captions.caption_strip("カエル", 120, 11)
    np.testing.assert_array_equal(strip, captions.caption_strip("???", 120, 11))


@pytest.fixture
def rows() -> torch.Tensor:
    """Two rows of three images: black ones, then a red one between green ones."""
    images = torch.zeros(2, 3, 3, 8, 40)
    images[1, :, 1], images[1, 1, 1], images[1, 1, 0] = 1.0, 0.0, 1.0
    return images


def pictures_of(grid: np.ndarray) -> np.ndarray:
    """The grid without its strips, which are all of one height here."""
    strip = grid.shape[0] // 2 - 8
    return np.concatenate([grid[strip : strip + 8], grid[2 * strip + 8 :]])


def test_rows_stand_under_their_captions_and_keep_their_pixels(rows):
    grid = captions.captioned_rows(rows, ["a cat", "a dog"])
    assert grid.shape[1] == 120
    found = pictures_of(grid)
    assert (found[:8] == 0).all() and (found[8:, 40:80] == [255, 0, 0]).all()
    assert (found[8:, :40] == [0, 255, 0]).all() and (found[8:, 80:] == [0, 255, 0]).all()
    strip = grid.shape[0] // 2 - 8
    np.testing.assert_array_equal(grid[:strip], captions.caption_strip("a cat", 120, 11))
    np.testing.assert_array_equal(grid[strip + 8 : 2 * strip + 8], captions.caption_strip("a dog", 120, 11))
    with pytest.raises(ValueError):
        captions.captioned_rows(rows, ["a cat"])


def test_sheets_sample_grids_and_tensorboard_show_the_same_captioned_rows(rows, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    prompts = ["a cat", "ein Frosch mit Hut, grün"]
    expected = captions.captioned_rows(rows, prompts)
    save_sheet(tmp_path / "sheet.png", rows, prompts)
    with Report(tmp_path, is_silent=False, first_step=0, max_steps=5, use_tensorboard=True) as report:
        report.grid(5, rows, prompts)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    (tmp_path / "board.png").write_bytes(board.Images("samples")[0].encoded_image_string)
    for name in ("sheet.png", "samples/step-00000005.png", "board.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), expected, err_msg=name)
