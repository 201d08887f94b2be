"""Volumes, silhouettes and images against closed forms; the search for scale and shift."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scaledreamer.evaluation import ground_truth
from scaledreamer.evaluation.alignment import aligned_iou
from scaledreamer.evaluation.ground_truth import Observation, Observer
from scaledreamer.rendering.volume import VolumeRenderer
from scaledreamer.tinyworld.grammar import Meaning
from scaledreamer.tinyworld.scene import WorldScene
from tests.support.analytic_scenes import AnalyticScene, ball, box

CAT = Meaning("cat", "orange", "green", wear="hat", wear_color="red")
MEANINGS = [
    CAT,
    Meaning("cube", "blue"),
    Meaning("car", "red", "black", support="plate", support_color="cyan"),
]


def lattice(scene, size: int = 48) -> Tensor:
    return Observer(VolumeRenderer(), lattice=size).distance(scene, 1)


def observe(meanings: list[Meaning]) -> Observation:
    return Observer(VolumeRenderer(), num_views=2, lattice=16).observe_truth(meanings, start_azimuth_deg=20.0)


def moved(scene: WorldScene, scale: float, shift: Tensor) -> AnalyticScene:
    """The scene with every point p taken to `scale p + shift`."""
    return AnalyticScene(lambda points: scale * scene.sdf((points - shift) / scale))


# --- as they stand ------------------------------------------------------------------------------------------


def test_lattice_has_its_axes_in_order_and_the_right_volume():
    inside = lattice(AnalyticScene(box((0.5, 0.0, 0.0), (0.25, 0.5, 0.75))))[0] < 0
    assert inside.sum() == 12 * 24 * 36
    assert inside[30:42, 12:36, 6:42].all()
    cells = (lattice(AnalyticScene(ball(radius=0.6))) < 0).sum().item()
    assert cells * (2 / 48) ** 3 == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.01)


def test_lattice_takes_not_a_number_for_outside():
    broken = AnalyticScene(lambda points: torch.where(points[..., 2] > 0, torch.nan, -1.0))
    assert (lattice(broken, 8) < 0).sum() == 8 * 8 * 4


def test_iou_of_concentric_balls_is_the_ratio_of_their_volumes():
    small, large = (lattice(AnalyticScene(ball(radius=radius))) < 0 for radius in (0.5, 0.7))
    iou = ground_truth.intersection_over_union(small, large)
    assert iou.item() == pytest.approx((0.5 / 0.7) ** 3, abs=0.01)


def test_iou_of_empty_and_of_disjoint_volumes_is_zero():
    nothing, left = torch.zeros(1, 4, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    left[:, :2] = True
    assert ground_truth.intersection_over_union(nothing, nothing).item() == 0
    assert ground_truth.intersection_over_union(left, ~left).item() == 0
    assert ground_truth.intersection_over_union(left, left).item() == 1


def test_true_objects_agree_with_themselves_and_not_with_each_other():
    seen = observe(MEANINGS)
    for score, best in (
        (ground_truth.volume_iou, 1.0),
        (ground_truth.silhouette_iou, 1.0),
        (ground_truth.image_error, 0.0),
    ):
        assert score(seen, seen).tolist() == [best] * 3
        other = score(seen, seen.rows([1, 2, 0]))
        assert ((other - best).abs() > 0.02).all()


def test_generated_and_true_scenes_are_seen_alike_and_alone_as_in_a_batch():
    observer = Observer(VolumeRenderer(), num_views=2, lattice=16, batch_size=2)
    scenes: dict[str, Meaning] = dict(zip(("cat", "cube", "car"), MEANINGS, strict=True))
    generated = observer.observe(
        lambda prompts: WorldScene([scenes[prompt] for prompt in prompts]),
        list(scenes),
        start_azimuth_deg=20.0,
    )
    true = observe(MEANINGS)
    torch.testing.assert_close(generated.images, true.images, atol=2e-3, rtol=0)
    assert torch.equal(generated.covered, true.covered)
    assert torch.equal(generated.distance < 0, true.distance < 0)


def test_images_have_the_stated_background_and_cameras():
    seen = observe([Meaning("ball", "red")])
    assert seen.images.shape == (1, 2, 3, 64, 64)
    corner = torch.tensor(ground_truth.BACKGROUND)
    torch.testing.assert_close(seen.images[0, :, :, 0, 0], corner.expand(2, 3))
    # Covered where the optical depth exceeds log 2; outside, VolSDF's density is 15 exp(-30 sdf).
    along = torch.linspace(-1.5, 1.5, 3001)
    nearest = torch.linspace(0.48, 0.68, 201)
    density = 15 * torch.exp(-30 * ((nearest[:, None] ** 2 + along**2).sqrt() - 0.48))
    radius = nearest[(density.sum(1) * 0.001 > math.log(2)).sum()].item()
    apparent = radius / math.sqrt(2.6**2 - radius**2) / math.tan(math.radians(41) / 2)
    assert seen.covered[0].float().mean().item() == pytest.approx(math.pi / 4 * apparent**2, rel=0.03)


# --- aligned ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "shift"), [(0.7, (0.15, -0.1, 0.2)), (1.15, (0.0, 0.05, 0.1))])
def test_alignment_finds_the_scale_and_shift_of_a_copy(scale, shift):
    meanings = [CAT, MEANINGS[1], Meaning("rocket", "white", "red")]
    scene = WorldScene(meanings)
    copy = moved(scene, scale, torch.tensor(shift))
    observer = Observer(VolumeRenderer())
    generated, true = observer.distance(copy, 3), observer.distance(scene, 3)
    raw = ground_truth.intersection_over_union(generated < 0, true < 0)
    iou, transform = aligned_iou(generated, true)
    assert (iou > 0.93).all() and (iou > raw + 0.1).all() and (iou <= 1).all()
    torch.testing.assert_close(transform[:, 0].exp(), torch.full((3,), 1 / scale), atol=0.03, rtol=0)
    back = -torch.tensor(shift).expand(3, 3) / scale
    torch.testing.assert_close(transform[:, 1:], back, atol=0.03, rtol=0)


def test_alignment_of_a_ball_with_a_cube_reaches_what_geometry_allows():
    """A ball of radius r and a concentric cube of edge 1: the best r is found by hand on a fine lattice."""
    axis = (torch.arange(120) + 0.5) / 60 - 1
    norm = torch.cartesian_prod(axis, axis, axis).norm(dim=-1)
    cube = torch.cartesian_prod(axis, axis, axis).abs().amax(-1) < 0.5
    radii = torch.linspace(0.4, 0.8, 81)
    best = max(float(((norm < r) & cube).sum() / ((norm < r) | cube).sum()) for r in radii)
    ball_there, cube_here = (
        AnalyticScene(ball((0.3, -0.2, 0.1), 0.35)),
        AnalyticScene(box((0, 0, 0), (0.5, 0.5, 0.5))),
    )
    iou, _ = aligned_iou(lattice(ball_there), lattice(cube_here))
    assert iou.item() == pytest.approx(best, abs=0.015)


def test_alignment_is_never_worse_than_the_raw_iou_and_cannot_turn():
    seen = observe(MEANINGS)
    other = seen.rows([1, 2, 0])
    iou, _ = aligned_iou(seen.distance, other.distance)
    assert (iou >= ground_truth.volume_iou(seen, other) - 1e-6).all() and (iou <= 1).all()
    upright, lying = (
        lattice(AnalyticScene(box((0, 0, 0), half)), 24) for half in ((0.2, 0.2, 0.8), (0.8, 0.2, 0.2))
    )
    assert aligned_iou(upright, lying)[0].item() < 0.4


def test_alignment_of_nothing_or_of_everything_is_a_number():
    nothing, everything = torch.full((1, 16, 16, 16), 0.2), torch.full((1, 16, 16, 16), -0.2)
    cube = lattice(WorldScene([MEANINGS[1]]), 16)
    assert aligned_iou(nothing, cube)[0].item() == 0
    assert aligned_iou(cube, nothing)[0].item() == 0
    assert 0 < aligned_iou(everything, cube)[0].item() <= 1
