"""The tinyworld's objects, renderer and training images."""

import math
import random
import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scaledreamer.cameras import Cameras, orbit_cameras
from scaledreamer.tinyworld import dataset, grammar, materials, objects, primitives
from scaledreamer.tinyworld import scene as world_scene
from scaledreamer.tinyworld.grammar import KINDS, Meaning
from scaledreamer.tinyworld.renderer import BOUND, render_rays, trace
from scaledreamer.tinyworld.scene import WorldScene


def plain(kind: str, **values: str | None) -> Meaning:
    return replace(Meaning(kind, KINDS[kind].color, KINDS[kind].part_color), **values)


def grid_points(count: int = 400, seed: int = 0) -> Tensor:
    return 2 * torch.rand(1, count, 3, generator=torch.Generator().manual_seed(seed)) - 1


def primitive_scene(primitive: primitives.Primitive, monkeypatch: pytest.MonkeyPatch) -> WorldScene:
    monkeypatch.setitem(objects.SHAPES, "ball", lambda: [primitive])
    return WorldScene([plain("ball")])


def box_distance(points: Tensor, half: Tensor) -> Tensor:
    q = points.abs() - half
    return q.clamp(min=0).norm(dim=-1) + q.amax(-1).clamp(max=0)


def test_ball_torus_and_capsule_are_exact_distances(monkeypatch: pytest.MonkeyPatch):
    p = grid_points()
    x, y, z = p.unbind(-1)
    at = torch.tensor([0.1, -0.2, 0.3])
    sdf = primitive_scene(primitives.ball("body", (0.1, -0.2, 0.3), 0.4), monkeypatch).sdf(p)
    torch.testing.assert_close(sdf, (p - at).norm(dim=-1) - 0.4, atol=1e-6, rtol=0)
    sdf = primitive_scene(primitives.torus("body", (0, 0, 0), 0.4, 0.1), monkeypatch).sdf(p)
    ring = ((x**2 + y**2).sqrt() - 0.4).hypot(z) - 0.1
    torch.testing.assert_close(sdf, ring, atol=1e-6, rtol=0)
    start, end = torch.tensor([-0.3, 0.1, -0.2]), torch.tensor([0.4, 0.3, 0.1])
    sdf = primitive_scene(primitives.rod("body", (-0.3, 0.1, -0.2), (0.4, 0.3, 0.1), 0.15), monkeypatch).sdf(
        p
    )
    along = (((p - start) @ (end - start)) / (end - start).square().sum()).clamp(0, 1)
    expected = (p - start - along[..., None] * (end - start)).norm(dim=-1) - 0.15
    torch.testing.assert_close(sdf, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "primitive",
    [
        primitives.box("body", (0, 0, 0), (0.5, 0.3, 0.2), 0.0),
        primitives.box("body", (0, 0, 0), (0.3, 0.5, 0.4), 0.0),
    ],
)
def test_box_has_the_exact_zero_set_and_never_overshoots(
    primitive: primitives.Primitive, monkeypatch: pytest.MonkeyPatch
):
    half = torch.tensor([0.5, 0.3, 0.2] if primitive.long[0] > 0 else [0.3, 0.5, 0.4])
    p = grid_points(2000)
    sdf, exact = primitive_scene(primitive, monkeypatch).sdf(p), box_distance(p, half)
    assert torch.equal(sdf[exact.abs() > 1e-4] < 0, exact[exact.abs() > 1e-4] < 0)
    assert (sdf[exact > 0] <= exact[exact > 0] + 1e-5).all()
    beside_faces = (exact > 0) & ((p.abs() - half > 0).sum(-1) == 1)
    torch.testing.assert_close(sdf[beside_faces], exact[beside_faces], atol=1e-5, rtol=0)


def test_flat_ellipsoid_is_right_to_first_order(monkeypatch: pytest.MonkeyPatch):
    axes = torch.tensor([0.5, 0.4, 0.1])
    scene = primitive_scene(primitives.ball("body", (0, 0, 0), (0.5, 0.4, 0.1)), monkeypatch)
    outward = torch.nn.functional.normalize(grid_points(500), dim=-1)
    surface = outward * axes
    normal = torch.nn.functional.normalize(outward / axes, dim=-1)
    for offset in (-0.01, 0.01, 0.03):
        distance = scene.sdf(surface + offset * normal)
        torch.testing.assert_close(
            distance, torch.full_like(distance, offset), atol=2.5 * offset**2 / 0.1, rtol=0
        )


def test_cone_has_the_right_volume(monkeypatch: pytest.MonkeyPatch):
    scene = primitive_scene(primitives.frustum("body", (0, 0, 0), 0.6, 0.0, 0.5, 0.0), monkeypatch)
    inside = (scene.sdf(grid_points(200_000)) < 0).double().mean().item() * 8
    assert inside == pytest.approx(math.pi * 0.6**2 * 1.0 / 3, rel=0.03)


def test_every_object_stays_within_the_bound_and_the_scene_cube():
    meanings = [
        plain(
            kind.name,
            wear="hat" if kind.is_creature else None,
            wear_color="red" if kind.is_creature else None,
            support=s,
            support_color="red",
        )
        for kind in KINDS.values()
        for s in grammar.SUPPORTS
    ]
    scene = WorldScene(meanings)
    directions = torch.nn.functional.normalize(
        torch.randn(1, 2000, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    assert (scene.sdf((BOUND * directions).expand(len(meanings), -1, -1)) > 0).all()
    edge = torch.rand(1, 4000, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    edge[0, torch.arange(4000), torch.arange(4000) % 3] = torch.where(torch.arange(4000) % 2 == 0, 1.0, -1.0)
    assert (scene.sdf(edge.expand(len(meanings), -1, -1)) > 0).all()


def test_a_batch_of_objects_equals_objects_alone():
    meanings = [
        plain("frog", wear="crown", wear_color="red"),
        plain("ball"),
        plain("house", support="box", support_color="blue"),
    ]
    p = grid_points()
    sdf, rgb = WorldScene(meanings).query(p.expand(3, -1, -1))
    for i, meaning in enumerate(meanings):
        alone_sdf, alone_rgb = WorldScene([meaning]).query(p)
        torch.testing.assert_close(sdf[i], alone_sdf[0], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(rgb[i], alone_rgb[0], atol=1e-5, rtol=1e-5)


def test_each_attribute_changes_the_picture_and_colors_do_not_move_edges():
    base = plain("cat")
    cameras = orbit_cameras(1, elevation_deg=15, distance=2.6, fov_deg=41, start_azimuth_deg=30)
    changed = [
        replace(base, color="blue"),
        replace(base, part_color="red"),
        replace(base, pattern="striped"),
        replace(base, pattern="spotted"),
        replace(base, wear="hat", wear_color="red"),
        replace(base, support="plate", support_color="red"),
    ]
    images = {m: render(m, cameras) for m in [base, *changed]}
    for meaning in changed:
        differs = (images[meaning][0] - images[base][0]).abs().amax(-1) > 0.1
        assert differs.sum() >= 10, meaning
        if meaning.wear is None and meaning.support is None:
            assert torch.equal(images[meaning][1], images[base][1])


def render(meaning: Meaning, cameras: Cameras, size: int = 48) -> tuple[Tensor, Tensor]:
    origins, directions = (rays.flatten(1, 3) for rays in cameras.rays(size, size))
    rgb, hit, _ = render_rays(WorldScene([meaning]), origins.contiguous(), directions.contiguous())
    return rgb[0], hit[0]


def test_tracing_agrees_with_marching_in_tiny_steps():
    meanings = [plain("elephant"), plain("chair", support="box", support_color="red")]
    cameras = orbit_cameras(1, elevation_deg=20, distance=2.6, fov_deg=41, start_azimuth_deg=40, batch=2)
    origins, directions = (rays.flatten(1, 3).contiguous() for rays in cameras.rays(16, 16))
    scene = WorldScene(meanings)
    depth, hit = trace(scene, origins, directions)
    steps = torch.arange(1.2, 4.0, 0.005)
    points = origins[:, :, None] + steps[:, None] * directions[:, :, None]
    inside = (scene.sdf(points.flatten(1, 2)) < 0).unflatten(1, (-1, len(steps)))
    first = torch.where(inside.any(-1), steps[inside.int().argmax(-1)], torch.inf)
    agrees = hit == inside.any(-1)
    assert agrees.float().mean() > 0.99
    both = hit & inside.any(-1)
    assert both.sum() > 50 and (depth[both] - first[both]).abs().median() < 0.01


def test_front_faces_plus_x_and_up_is_up():
    cameras = orbit_cameras(1, elevation_deg=0, distance=2.6, fov_deg=41)
    rgb, hit = render(plain("frog", part_color="red", support="plate", support_color="blue"), cameras, 64)
    is_red = (hit & (rgb[:, 0] > 0.6) & (rgb[:, 1] < 0.3) & (rgb[:, 2] < 0.3)).view(64, 64)
    is_blue = (hit & (rgb[:, 2] > 0.5) & (rgb[:, 0] < 0.3)).view(64, 64)
    assert is_red[:32].sum() > 20 and is_red[32:].sum() == 0
    assert is_blue[:32].sum() == 0 and is_blue[32:].sum() > 50
    behind = orbit_cameras(1, elevation_deg=0, distance=2.6, fov_deg=41, start_azimuth_deg=180)
    rgb_back, _ = render(plain("snowman"), behind, 64)
    rgb_front, _ = render(plain("snowman"), cameras, 64)
    is_orange = [((c[:, 0] > 0.7) & (c[:, 2] < 0.3)).sum().item() for c in (rgb_front, rgb_back)]
    assert is_orange[0] >= 4 and is_orange[1] == 0


def test_painting_traced_views_equals_rendering_them():
    meaning = plain("robot", pattern="striped", wear="scarf", wear_color="red")
    cameras = orbit_cameras(1, elevation_deg=10, distance=2.6, fov_deg=41)
    views = dataset.trace_views(
        [plain("robot", wear="scarf", wear_color="blue")], cameras, 48, supersampling=1
    )
    painted, cover = dataset.paint_views(views.surface, views.light, [meaning], torch.ones(1, 3), 48)
    rgb, hit = render(meaning, cameras)
    expected = torch.where(hit[:, None], rgb, torch.ones(3)).T.unflatten(1, (48, 48))
    assert (painted[0] - expected).abs().max() < 0.01
    assert torch.equal(cover[0, 0] > 0, hit.view(48, 48))


def test_visible_pixels_are_those_that_change_with_the_attribute():
    meanings = [
        plain("cat", wear="hat", wear_color="red", pattern="striped"),
        plain("mug", support="box", support_color="green"),
        plain("ball"),
    ]
    cameras = dataset.draw_cameras(torch.Generator().manual_seed(5), len(meanings))
    views = dataset.trace_views(meanings, cameras, 64)
    shown = dataset.visible_pixels(views)
    edge = views.surface.shape[1]

    def paint(changed: list[Meaning]) -> Tensor:
        return dataset.paint_views(views.surface, views.light, changed, torch.full((3, 3), 0.4), edge)[0]

    before = paint(meanings)
    for name, value in (("wear_color", "blue"), ("support_color", "blue"), ("part_color", "purple")):
        changed = [replace(m, **{name: value}) if getattr(m, name) else m for m in meanings]
        pixels = (paint(changed) != before).any(1).flatten(1).sum(1) / 4
        assert torch.allclose(shown[name], pixels)
        assert bool((pixels > 0).any())
    bare = (paint([replace(m, pattern=None) for m in meanings]) != before).any(1).flatten(1).sum(1) / 4
    assert shown["pattern"][0] == bare[0] > 0
    assert shown["wear"][0] == shown["wear_color"][0]
    covered = (views.surface != views.surface[0, 0, 0]).flatten(1).sum(1) / 4
    assert torch.equal(shown["support"][2:], covered[2:])
    assert shown["part_color"][2] == 0


def test_true_objects_are_colored_wherever_a_volume_could_show_them():
    scene = WorldScene([plain("cat", wear="hat", wear_color="red")])
    points = grid_points(2000)
    distance, rgb = scene.query(points)
    material, marks, light = scene.surface(points)
    colors = materials.paint_material(material, marks, scene._palette, scene._patterns) * light[..., None]
    is_near = distance.abs() < world_scene.COLORED
    assert 0.05 < is_near.float().mean() < 0.95
    assert torch.equal(rgb[is_near], colors[is_near])
    assert not rgb[~is_near].any()


def test_recolor_keeps_geometry_and_split():
    rng = random.Random(0)
    for _ in range(200):
        meaning = grammar.sample_meaning(rng)
        other = dataset.recolor(meaning, rng)
        assert (other.kind, other.wear, other.support) == (meaning.kind, meaning.wear, meaning.support)
        assert grammar.split_of(other) == "seen" and grammar.is_valid(other)


@pytest.mark.parametrize("kind", ["cone", "cylinder", "chair"])
def test_recolor_refuses_a_geometry_that_its_split_lacks(kind: str):
    """Each geometry of a kind in each split, against the list of all meanings."""
    rng, found = random.Random(0), set()
    for support in (None, *grammar.SUPPORTS):
        meaning = Meaning(
            kind, "red", KINDS[kind].part_color, support=support, support_color=support and "red"
        )
        for split in grammar.SPLITS:
            has_it = any(
                other.support == support and grammar.split_of(other) == split
                for other in grammar.meanings_of_kind(kind)
            )
            found.add(has_it)
            if has_it:
                assert grammar.split_of(dataset.recolor(meaning, rng, split)) == split
            else:
                with pytest.raises(ValueError, match=f"the {split} split has no {kind}"):
                    dataset.recolor(meaning, rng, split)
    assert found == {True, False}


def test_views_are_reproducible_and_survive_a_file(tmp_path):
    views = dataset.make_views(3, 4, "validation", size=16)
    again = dataset.make_views(3, 4, "validation", size=16)
    assert torch.equal(views.surface, again.surface) and views.meanings == again.meanings
    assert all(grammar.split_of(m) == "validation" for m in views.meanings)
    dataset.save_views(views, tmp_path / "a.safetensors")
    read = dataset.load_views([tmp_path / "a.safetensors", tmp_path / "a.safetensors"])
    assert len(read) == 8 and torch.equal(read.surface[4:], views.surface)
    assert torch.equal(read.cameras.azimuth[:4], views.cameras.azimuth)


def test_data_shows_all_four_view_words():
    cameras = dataset.draw_cameras(torch.Generator().manual_seed(0), 2000)
    from scaledreamer.prompts.view_words import view_index

    share = view_index(cameras.elevation, cameras.azimuth).flatten().bincount(minlength=4) / 2000
    assert (share > 0.05).all()
    assert cameras.elevation.max() > math.radians(85)


@pytest.mark.slow
def test_renderer_makes_25_images_a_second_on_one_core():
    rng = random.Random(0)
    meanings = [grammar.sample_meaning(rng) for _ in range(32)]
    cameras = dataset.draw_cameras(torch.Generator().manual_seed(0), 32)
    started = time.process_time()
    dataset.trace_views(meanings[:8], Cameras(*(v[:8] for v in vars(cameras).values())), 64, supersampling=1)
    assert time.process_time() - started < 8 / 25 * 2  # beside other work a core does less
