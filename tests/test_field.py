"""Plain field: equals a naive grid and MLP, starts as a sphere, jitters colours as a function of z."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scaledreamer import generators
from scaledreamer.assemble import make_camera_sampler
from scaledreamer.config import Config, load_config
from scaledreamer.contracts import GeneratorText, Scene
from scaledreamer.doctor.files import check_prompts
from scaledreamer.generators.field import Field, noise_at
from scaledreamer.pipeline import TextTo3D
from scaledreamer.prompts.assembly import make_prompts, make_source
from scaledreamer.prompts.source import PromptList
from scaledreamer.rendering.volume import VolumeRenderer
from scaledreamer.training.regularizers import make_regularizers
from scaledreamer.training.rendered import RenderedGenerator
from tests.support import generator_laws, reference_fields
from tests.support.generator_laws import (
    assert_equal_on,
    assert_gradients_equal_finite_differences,
    gradients,
    moved,
    relative,
)
from tests.support.tiny_export import tiny_pipeline

ROOT = Path(__file__).parent.parent
GRID: dict[str, Any] = {"num_levels": 3, "log2_table_size": 8, "base_resolution": 4, "growth": 1.7}
SMALL: dict[str, Any] = GRID | {"features_per_level": 2, "mlp_width": 8}


def make_field(dtype: torch.dtype = torch.float64, **settings: Any) -> Field:
    """As if it had been trained."""
    torch.manual_seed(0)
    field = Field(**{**SMALL, **settings})
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.normal_(0, 0.4, generator=random)
    return field.to(dtype)


def condition(batch: int) -> GeneratorText:
    return GeneratorText(torch.zeros(batch, 5), torch.zeros(batch, 1, 5), torch.ones(batch, 1) > 0)


def points(batch: int, n: int = 40, dtype: torch.dtype = torch.float64) -> Tensor:
    return generator_laws.points(batch, n, dtype)


def noise(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 2, generator=torch.Generator().manual_seed(seed))


def naive(field: Field, at: Tensor, colour_at: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distance at one place, colour at another, number by number."""
    state = dict(field.named_parameters())
    outputs = []
    for name, places in (("sdf", at), ("rgb", colour_at)):
        encoded = reference_fields.hash_grid(field.grid.table.detach(), places, **GRID)
        x = torch.cat([encoded, places], -1)
        hidden = (x @ state[f"decoder.{name}.0.weight"].T + state[f"decoder.{name}.0.bias"]).clamp_min(0)
        outputs.append(hidden @ state[f"decoder.{name}.2.weight"].T + state[f"decoder.{name}.2.bias"])
    return at.norm(dim=-1) - 0.5 + outputs[0][:, 0], 1 / (1 + (-outputs[1]).exp())


def test_initial_scene_is_a_grey_sphere() -> None:
    torch.manual_seed(0)
    scene = Field(sphere_radius=0.6)(condition(2))
    assert isinstance(scene, Scene)
    at = points(2, 2000, torch.float32)
    sdf, rgb = scene.query(at)
    torch.testing.assert_close(sdf, at.norm(dim=-1) - 0.6, atol=0.05, rtol=0)
    torch.testing.assert_close(rgb, torch.full_like(rgb, 0.5), atol=0.05, rtol=0)


def test_scenes_equal_a_naive_grid_and_network_for_every_prompt() -> None:
    field, at = make_field(), points(2)
    sdf, rgb = field(condition(2)).query(at)
    for b in range(2):
        expected_sdf, expected_rgb = naive(field, at[b], at[b])
        torch.testing.assert_close(sdf[b], expected_sdf, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(rgb[b], expected_rgb, rtol=1e-10, atol=1e-10)


def test_jitter_moves_the_colour_alone() -> None:
    field, at, z = make_field(color_jitter=0.1), points(2) / 2, noise(2)
    assert field.has_noise
    sdf, rgb = field(condition(2), z).query(at)
    beside = at + 0.1 * noise_at(at, z)
    for b in range(2):
        expected_sdf, expected_rgb = naive(field, at[b], beside[b])
        torch.testing.assert_close(sdf[b], expected_sdf, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(rgb[b], expected_rgb, rtol=1e-10, atol=1e-10)


def test_jittered_colours_are_differentiable_in_the_points() -> None:
    """Where the grid is asked beside a point, its slope is that beside the point."""
    field, z = make_field(color_jitter=0.1), noise(2)
    at = (points(2) / 2).requires_grad_()
    moved_points = (at + 0.1 * noise_at(at, z)).detach().requires_grad_()
    slopes = [
        torch.autograd.grad(scene.query(where)[1].pow(3).sum(), where)[0]
        for scene, where in ((field(condition(2), z), at), (field(condition(2)), moved_points))
    ]
    assert float(slopes[1].norm()) > 0.1
    torch.testing.assert_close(slopes[0], slopes[1])


def test_finished_scenes_have_no_jitter() -> None:
    field = make_field(color_jitter=0.1).eval()
    assert not field.has_noise
    with pytest.raises(ValueError, match="takes noise z only while it is trained with color_jitter above 0"):
        field(condition(1), noise(1))
    rgb = field(condition(1)).query(points(1))[1]
    torch.testing.assert_close(rgb, make_field()(condition(1)).query(points(1))[1])


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    """Mean, deviation, fourth moment, and correlations between axes, neighbours and values of z, all within
    five of their own deviations at 40,000 numbers an axis."""
    line = torch.linspace(-1, 1, 40_000)
    at = torch.stack([line, torch.zeros_like(line), torch.ones_like(line)], -1).expand(2, -1, -1)
    drawn = noise_at(at, noise(2)).double()
    bound = 5 / 200
    assert drawn.mean(1).abs().max() < bound
    assert (drawn.square().mean(1) - 1).abs().max() < bound * 2**0.5
    assert (drawn.pow(4).mean(1) - 3).abs().max() < bound * 96**0.5
    first, second = drawn
    pairs = [(first, second), (first[1:], first[:-1]), (first, first.roll(1, 1))]
    for x, y in pairs:
        assert (x * y).mean(0).abs().max() < bound


def test_noise_is_a_function_of_z_and_the_point() -> None:
    at, z = points(3), noise(3)
    drawn = noise_at(at, z)
    assert torch.equal(noise_at(at.flip(1), z).flip(1), drawn)
    assert torch.equal(torch.cat([noise_at(piece, z) for piece in at.split(7, 1)], 1), drawn)
    assert torch.equal(noise_at(at[1:2], z[1:2]), drawn[1:2])
    shared = at[:1].expand(3, -1, -1)
    assert torch.equal(noise_at(shared, z), noise_at(shared.contiguous(), z))
    assert not torch.isclose(noise_at(at, noise(3, seed=9)), drawn).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_batch_of_two_equals_two_batches_of_one(dtype: torch.dtype, tolerance: float) -> None:
    field, at, z = make_field(dtype, color_jitter=0.05), points(2, dtype=dtype), noise(2)

    def outputs(rows: slice) -> tuple[Tensor, Tensor]:
        field.zero_grad()
        sdf, rgb = field(condition(2)._replace(pooled=torch.zeros(2, 5)[rows]), z[rows]).query(at[rows])
        ((sdf**2).sum() + (rgb**3).sum()).backward()
        return torch.cat([sdf.flatten(), rgb.flatten()]).detach(), gradients(field)

    values, grads = outputs(slice(0, 2))
    parts = [outputs(slice(b, b + 1)) for b in range(2)]
    apart = torch.cat([part[0][:40] for part in parts] + [part[0][40:] for part in parts])
    assert relative(values, apart) < tolerance
    assert relative(grads, parts[0][1] + parts[1][1]) < tolerance


def test_rows_are_the_scenes_of_the_batch() -> None:
    field, at, z = make_field(color_jitter=0.05), points(2), noise(2)
    for scene in (field(condition(2), z), field(condition(2))):
        for b in range(2):
            for whole, part in zip(scene.query(at), scene.row(b).query(at[b : b + 1]), strict=True):
                torch.testing.assert_close(part, whole[b : b + 1])
    directions = torch.nn.functional.normalize(points(2), dim=-1)
    behind = field(condition(2), z).background(directions)
    torch.testing.assert_close(behind, field(condition(2)).background(directions))


def test_gradients_equal_finite_differences() -> None:
    field, z = make_field(color_jitter=0.05), noise(2)
    assert_gradients_equal_finite_differences(field, lambda: field(condition(2), z))


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    field, given, z = make_field(color_jitter=0.05), condition(2), noise(2)
    assert_equal_on("cuda", field, lambda module, device: module(moved(given, device), z.to(device)))


def test_training_draws_z_from_the_stream_and_a_pipeline_needs_none(tmp_path: Path) -> None:
    """The step's images are the same again for the same step, and differ from those without jitter."""
    from scaledreamer.prompts.stream import PromptStream
    from scaledreamer.training.batch import Batch

    config = load_config(None, ["renderer.image_size=8", "renderer.volume.num_resampled=4"])
    sampler = make_camera_sampler(config.cameras, config.renderer, 1)
    stream = PromptStream(PromptList(["a"]), seed=0, batch_size=2)
    images = []
    for jitter in (0.2, 0.2, 0.0):
        drawn = stream.samples(0, range(2))
        cameras = sampler.sample(drawn.random.uniform("cameras", 1, 4))
        batch = Batch(range(2), drawn.prompts, drawn.random, condition(2), cameras, (), 8)
        field = make_field(torch.float32, color_jitter=jitter)
        regularizers = make_regularizers(config.regularizers, 1)
        module = RenderedGenerator(field, VolumeRenderer(num_resampled=4), regularizers)
        images.append(module(batch, frozenset(), frozenset())[0].rgb)
    assert torch.equal(images[0], images[1]) and not torch.allclose(images[0], images[2])

    pipe = TextTo3D(tiny_pipeline().conditioner, make_field(color_jitter=0.2), generator_name="field")
    pipe.save_pretrained(tmp_path / "export", dtype=torch.float32)
    loaded = TextTo3D.from_pretrained(tmp_path / "export", device="cpu")
    assert not loaded.has_noise
    rgb = loaded("a red cube").scene.query(points(1, dtype=torch.float32))[1]
    torch.testing.assert_close(rgb, make_field(torch.float32)(condition(1)).query(points(1).float())[1])


def test_one_prompt_is_trained_and_more_are_refused() -> None:
    config = load_config(ROOT / "configs" / "single_prompt.yaml", ["prompts.text=a blue mug"])
    assert make_prompts(config.prompts) == ["a blue mug"]
    generators.check_num_prompts(config.generator, make_source(config.prompts).num_distinct)
    message = "generator.name: 'field' is one scene.* there are 2 prompts; give one .prompts.text="
    with pytest.raises(ValueError, match=message):
        generators.check_num_prompts(config.generator, 2)
    generators.check_num_prompts(Config().generator, 2)


def test_the_doctor_finds_more_prompts_than_scenes() -> None:
    many = load_config(None, ["generator.name=field", "prompts.name=core_15"])
    (finding,) = check_prompts(many).findings
    assert finding.level == "error" and "'field' is one scene" in finding.what
    one = load_config(None, ["generator.name=field", "prompts.text=a blue mug"])
    assert [found.level for found in check_prompts(one).findings] == ["ok"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompts.text=a mug", "prompts.file=x.txt"], "prompts: text and file are both given"),
        (["prompts.text=a mug", "prompts.name=core_15"], "prompts: name and text are both given"),
        (
            ["prompts.text=a mug", "prompts.shard_size=4"],
            "prompts.shard_size: one prompt .* set prompts.shard_size=nul",
        ),
        (["prompts.text=''"], "prompts.text: "),
        (["prompts.text=a mug", "prompts.max_extras=1"], "prompts: kinds, max_extras and extras choose"),
        (["generator.field.color_jitter=-1"], "generator.field.color_jitter: "),
    ],
)
def test_bad_configurations_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(None, overrides)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlp_depth": 0}, "mlp_depth is 0"),
        ({"sphere_radius": 1.5}, "sphere_radius is 1.5.*inside the scene cube"),
        ({"num_levels": 0}, "num_levels is 0"),
        ({"color_jitter": -0.1}, "color_jitter is -0.1: a standard deviation"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generators.make("field", {**SMALL, **settings})


@pytest.mark.parametrize("shape", [(3, 3), (1, 2), (6,)])
def test_noise_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """That of one prompt, too: it would move the colours of all prompts alike."""
    message = re.escape(f"z has shape {shape}: this generator takes standard normal numbers of shape (3, 2)")
    with pytest.raises(ValueError, match=message):
        make_field(color_jitter=0.1)(condition(3), torch.zeros(shape))
