"""View words by camera."""

import math

import pytest
import torch

from scaledreamer.prompts.view_words import (
    BACK,
    FRONT,
    OVERHEAD,
    SIDE,
    VIEW_WORDS,
    ViewMix,
    neighbouring_views,
    view_index,
    with_view,
)


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


# --- Perp-Neg's mixtures -----------------------------------------------------------------------------------


def mix_at(azimuth_deg: list[float], elevation_deg: float = 0.0) -> ViewMix:
    azimuth = torch.tensor(azimuth_deg).deg2rad()
    return neighbouring_views(torch.full_like(azimuth, math.radians(elevation_deg)), azimuth)


def test_the_four_sides_are_one_view_alone():
    mix = mix_at([0, 90, -90, 180, 360, 540])
    alone = torch.where(mix.share_of_second < 0.5, mix.first, mix.second)
    assert alone.tolist() == [FRONT, SIDE, SIDE, BACK, FRONT, BACK]
    assert torch.allclose(mix.share_of_second.round(), mix.share_of_second, atol=1e-5)


def test_mixtures_are_the_same_on_both_sides_and_change_little_by_little():
    angles = torch.arange(0.5, 180, 1.0).tolist()  # at 90 degrees rounding chooses the pair
    left, right = mix_at(angles), mix_at([-angle for angle in angles])
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    share = torch.zeros(len(angles), 4)
    rows = torch.arange(len(angles))
    share[rows, left.first] += 1 - left.share_of_second
    share[rows, left.second] += left.share_of_second
    torch.testing.assert_close(share.sum(1), torch.ones(len(angles)))
    assert (share[1:] - share[:-1]).abs().max() < 0.02


def test_weights_are_the_published_curves():
    """The exponentials of the interpolation, written out at 30 and 150 degrees."""
    mix = mix_at([30.0, 150.0])
    assert mix.negatives.tolist() == [[FRONT, SIDE], [SIDE, FRONT]]
    front, back = 1 - 30 / 90, 2 - 150 / 90
    wanted = [
        [4 * math.exp(-0.5 * front) - 2.426, 4 * math.exp(-0.5 * (1 - front)) - 2.426],
        [math.exp(-0.5 * back) - 0.606, math.exp(-0.5 * back) + 0.967],
    ]
    torch.testing.assert_close(mix.negative_weights, torch.tensor(wanted))


def test_a_view_is_not_led_away_from_itself():
    mix = mix_at([0.0, 89.99])
    assert mix.negative_weights[0, 0] < 1e-3 < 1 < mix.negative_weights[0, 1]  # front: away from side alone
    assert mix.negative_weights[1, 1] < 1e-3 < 1 < mix.negative_weights[1, 0]  # side: away from front alone


def test_from_above_there_is_one_view_and_no_negative():
    mix = mix_at([0.0, 60.0, 150.0], elevation_deg=75)
    assert mix.first.tolist() == mix.second.tolist() == [OVERHEAD] * 3
    assert not mix.share_of_second.any() and not mix.negative_weights.any()
