"""View words by camera."""

import math

import pytest
import torch

from scaledreamer.prompts.views import VIEW_WORDS, view_index, with_view


@pytest.mark.parametrize(
    ("azimuth_deg", "elevation_deg", "words"),
    [
        (0, 0, "front view"),
        (29, 10, "front view"),
        (-29, 10, "front view"),
        (31, 10, "side view"),
        (-90, 10, "side view"),
        (149, 10, "side view"),
        (151, 10, "back view"),
        (-151, 10, "back view"),
        (180, 0, "back view"),
        (360, 0, "front view"),
        (-540, 0, "back view"),
        (0, 61, "overhead view"),
        (180, 90, "overhead view"),
        (0, 59, "front view"),
    ],
)
def test_view_words_follow_the_camera(azimuth_deg: float, elevation_deg: float, words: str):
    index = view_index(torch.tensor([math.radians(elevation_deg)]), torch.tensor([math.radians(azimuth_deg)]))
    assert VIEW_WORDS[int(index)] == words
    assert with_view("a cat", int(index)) == f"a cat, {words}"
