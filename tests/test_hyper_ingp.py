"""Hyper-iNGP: starts as a sphere, equals a loop over prompts, and treats prompts independently."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from scaledreamer.contracts import GeneratorText, Scene
from scaledreamer.generators.hyper_ingp import HyperINGP
from tests.support import reference_fields
from tests.support.generator_laws import (
    assert_a_batch_of_two_equals_two_batches_of_one,
    assert_equal_on,
    assert_every_parameter_gets_a_gradient,
    assert_gradients_equal_finite_differences,
    gradients,
    moved,
    part,
    points,
    relative,
)
from tests.support.generator_laws import pooled_condition as condition

SMALL = {
    "num_levels": 3,
    "features_per_level": 2,
    "log2_table_size": 8,
    "base_resolution": 4,
    "growth": 1.7,
    "hyper_width": 16,
    "mlp_width": 8,
}


def head_of(generator: HyperINGP, name: str) -> nn.Linear:
    head = generator.heads[name]
    assert isinstance(head, nn.Linear)
    return head


def make_generator(dtype: torch.dtype = torch.float32, **settings: Any) -> HyperINGP:
    torch.manual_seed(0)
    return HyperINGP(condition_dim=6, **{**SMALL, **settings}).to(dtype)


def trained(dtype: torch.dtype = torch.float32, **settings: Any) -> HyperINGP:
    """A generator whose prompts differ a lot, as if it had been trained."""
    generator = make_generator(torch.float32, **settings)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        generator.grid.table.normal_(0, 0.3, generator=random)
        for name in generator.heads:
            head_of(generator, name).weight.normal_(0, 0.4, generator=random)
    return generator.to(dtype)


def test_initial_scene_is_a_grey_sphere_for_every_prompt() -> None:
    torch.manual_seed(0)
    scene = HyperINGP(condition_dim=6, sphere_radius=0.6)(condition(3))
    at = points(3, 2000)
    sdf, rgb = scene.query(at)
    torch.testing.assert_close(sdf, at.norm(dim=-1) - 0.6, atol=0.02, rtol=0)
    torch.testing.assert_close(rgb, torch.full_like(rgb, 0.5), atol=0.05, rtol=0)
    assert isinstance(scene, Scene)


def test_hidden_layers_of_prompts_begin_as_he_has_them_whatever_the_hyper_networks_width() -> None:
    """Deviation of sqrt(2 / inputs), of which prompts make a tenth their own; biases of zero."""
    for hyper_width in (16, 256):
        torch.manual_seed(0)
        generator = HyperINGP(condition_dim=6, mlp_width=64, hyper_width=hyper_width)
        mlp = generator(condition(8)).sdf_mlp
        inputs = generator.grid.num_features + 3
        weight = mlp.weights[0].detach()
        assert float(weight.mean(0).std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.05)
        assert 0.02 < float(weight.std(0).mean()) / (2 / inputs) ** 0.5 < 0.2
        assert not mlp.biases[0].any()


@pytest.mark.parametrize("depth", [1, 2])
def test_scene_equals_a_loop_over_prompts_and_layers(depth: int) -> None:
    """Oracle: the naive hash grid, then each prompt's MLPs read off the hyper-network's output in order."""
    generator = trained(torch.float64, mlp_depth=depth, hyper_depth=depth)
    given, at = condition(2, torch.float64), points(2, 7, torch.float64)
    sdf, rgb = generator(given).query(at)
    for b in range(2):
        features = reference_fields.hash_grid(
            generator.grid.table.detach(),
            at[b],
            num_levels=3,
            log2_table_size=8,
            base_resolution=4,
            growth=1.7,
        )
        inputs = torch.cat([features, at[b]], -1)
        hidden = generator.hyper(given.pooled[b])
        outputs = {}
        for name, num_outputs in (("sdf", 1), ("rgb", 3)):
            numbers = iter((head_of(generator, name)(hidden) / 4).tolist())  # hyper_width is 16
            x = inputs.tolist()
            widths = [9] + [8] * depth + [num_outputs]
            for layer, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
                weight = [[next(numbers) for _ in range(after)] for _ in range(before)]
                bias = [next(numbers) for _ in range(after)]
                if layer > 0:
                    x = [[max(value, 0.0) for value in row] for row in x]
                x = [
                    [bias[j] + sum(row[i] * weight[i][j] for i in range(before)) for j in range(after)]
                    for row in x
                ]
            assert next(numbers, None) is None
            outputs[name] = torch.tensor(x, dtype=torch.float64)
        expected = at[b].norm(dim=-1) - 0.5 + outputs["sdf"][:, 0]
        torch.testing.assert_close(sdf[b], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(rgb[b], torch.sigmoid(outputs["rgb"]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_batch_of_two_equals_two_batches_of_one(dtype: torch.dtype, tolerance: float) -> None:
    """With prompts that cover different areas."""
    generator = trained(dtype)
    with torch.no_grad():
        head_of(generator, "sdf").weight[-1] *= 3  # the last bias: prompts differ in size
    assert_a_batch_of_two_equals_two_batches_of_one(
        generator,
        lambda index: generator(part(condition(2, dtype), index)),
        dtype,
        tolerance,
        with_normal=dtype == torch.float64,
    )


def test_shared_points_give_the_same_values_and_gradients_as_copies() -> None:
    generator, given = trained(torch.float64), condition(3, torch.float64)
    shared = points(1, 30, torch.float64).expand(3, -1, -1)
    results = []
    for at in (shared, shared.contiguous()):
        generator.zero_grad()
        sdf, rgb = generator(given).query(at)
        ((sdf**2).sum() + (rgb**2).sum()).backward()
        results.append((sdf, rgb, gradients(generator)))
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)


def test_the_order_of_prompts_is_the_order_of_scenes() -> None:
    generator, given, at = trained(torch.float64), condition(3, torch.float64), points(3, dtype=torch.float64)
    turned = GeneratorText(*(values.flip(0) for values in given))
    torch.testing.assert_close(generator(turned).sdf(at.flip(0)), generator(given).sdf(at).flip(0))


def test_every_parameter_gets_a_gradient() -> None:
    generator = make_generator()
    assert_every_parameter_gets_a_gradient(generator, generator(condition(2)))


def test_gradients_equal_finite_differences() -> None:
    generator = trained(torch.float64)
    assert_gradients_equal_finite_differences(generator, lambda: generator(condition(2, torch.float64)))


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    given = condition(2, torch.float64)
    assert_equal_on("cuda", trained(torch.float64), lambda generator, device: generator(moved(given, device)))


def test_backgrounds_are_learned_per_prompt_and_direction_or_white() -> None:
    directions = torch.nn.functional.normalize(points(2), dim=-1)
    learned = trained()(condition(2)).background(directions).detach()
    assert learned.min() >= 0 and learned.max() <= 1
    assert float(learned.std(1).max()) > 0 and not torch.allclose(learned[0], learned[1])
    white = trained(background="none")(condition(2)).background(directions)
    assert torch.equal(white, torch.ones(2, 50, 3))


def test_config_rebuilds_the_generator() -> None:
    generator = trained(hyper_depth=2, background="none")
    loaded = HyperINGP(**generator.config)
    loaded.load_state_dict(generator.state_dict())
    assert torch.equal(loaded(condition(1)).sdf(points(1)), generator(condition(1)).sdf(points(1)))
    assert generator.has_noise is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"condition_dim": 0}, "condition_dim is 0"),
        ({"mlp_depth": 0}, "mlp_depth is 0"),
        ({"hyper_width": -3}, "hyper_width is -3"),
        ({"sphere_radius": 1.5}, "sphere_radius is 1.5.*inside the scene cube"),
        ({"num_levels": 0}, "num_levels is 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HyperINGP(**{"condition_dim": 6, **SMALL, **settings})


def test_noise_and_conditions_of_another_length_are_refused() -> None:
    generator = make_generator()
    with pytest.raises(ValueError, match="takes no noise z"):
        generator(condition(1), torch.zeros(1, 4))
    other = GeneratorText(torch.zeros(1, 5), torch.zeros(1, 1, 5), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="text has 5 numbers, the generator was built for 6"):
        generator(other)


def test_bfloat16_stays_within_two_hundredths_of_float32() -> None:
    """Under autocast: what the network adds to distances to 2 % (relative, L2), rgb to 1/100."""
    generator, given, at = trained(), condition(2), points(2, 500)
    exact_sdf, exact_rgb = generator(given).query(at)
    with torch.autocast("cpu", torch.bfloat16):
        sdf, rgb = generator(given).query(at)
    sphere = at.norm(dim=-1) - generator.sphere_radius
    added = (exact_sdf - sphere).detach()
    assert float(added.abs().max()) > 0.2
    assert relative(sdf.float() - sphere, added) < 0.02
    assert float((rgb.float() - exact_rgb).detach().abs().max()) < 0.01
