"""What every generator has to obey, and what the tests of generators are made of."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scaledreamer.cameras import sample_cameras
from scaledreamer.contracts import GeneratorText, Scene
from tests.support.renders import volume_renderer

CONDITION_DIM = 6


def pooled_condition(batch: int, dtype: torch.dtype = torch.float32) -> GeneratorText:
    """Prompts of one token, which is the pooled vector."""
    pooled = torch.randn(batch, CONDITION_DIM, generator=torch.Generator().manual_seed(2)).to(dtype)
    return GeneratorText(pooled, pooled[:, None], torch.ones(batch, 1, dtype=torch.bool))


def part(condition: GeneratorText, index: slice) -> GeneratorText:
    """Some of the prompts."""
    return GeneratorText(*(values[index] for values in condition))


def points(batch: int, n: int = 50, dtype: torch.dtype = torch.float32) -> Tensor:
    """Anywhere in the cube."""
    return (torch.rand(batch, n, 3, generator=torch.Generator().manual_seed(3)) * 2 - 1).to(dtype)


def gradients(module: nn.Module) -> Tensor:
    """Of all parameters, one after the other."""
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def relative(found: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference, in those of what is expected."""
    return float((found - expected).detach().norm() / expected.detach().norm())


def assert_a_batch_of_two_equals_two_batches_of_one(
    generator: nn.Module,
    scene_of: Callable[[slice], Scene],
    dtype: torch.dtype,
    tolerance: float,
    *,
    with_normal: bool,
) -> None:
    """Images and parameter gradients, through generator and renderer.

    Args:
        scene_of: makes the scenes of some of two prompts.
        with_normal: normals, whose differences lose digits, belong to it.
    """
    random = torch.Generator().manual_seed(4)
    uniforms = torch.rand(2, 2, 4, generator=random).to(dtype)
    jitter = torch.rand(2, 2, 12, 12, generator=random).to(dtype)
    target = torch.rand(2, 2, 3, 12, 12, generator=random).to(dtype)
    renderer = volume_renderer(num_resampled=8)

    def render(index: slice) -> Tensor:
        cameras = sample_cameras(
            uniforms[index], elevation_deg=(0, 40), distance=(2.5, 2.7), fov_deg=(38, 44)
        )
        out = renderer(scene_of(index), cameras, 12, 12, jitter=jitter[index], with_normal=with_normal)
        loss = ((out.rgb - target[index]) ** 2).sum() + out.depth.sum()
        parts = [out.rgb, out.opacity, out.depth]
        if out.normal is not None:
            parts.append(out.normal)
            loss = loss + out.normal.sum()
        loss.backward()
        return torch.cat(parts, 2).detach()

    together = render(slice(0, 2))
    grads_together = gradients(generator)
    generator.zero_grad()
    apart = torch.cat([render(slice(0, 1)), render(slice(1, 2))])
    assert float((together[0] - together[1]).abs().max()) > 0.1
    assert relative(together, apart) < tolerance
    assert relative(grads_together, gradients(generator)) < tolerance


def assert_gradients_equal_finite_differences(module: nn.Module, scene_of: Callable[[], Scene]) -> None:
    """Of a loss on distance, colour and background, along a random direction of each parameter; float64."""
    at = points(2, 40, torch.float64)

    def loss() -> Tensor:
        scene = scene_of()
        sdf, rgb = scene.query(at)
        return (sdf**3).sum() + (rgb**2).sum() + (scene.background(at) ** 2).sum()

    module.zero_grad()
    loss().backward()
    random = torch.Generator().manual_seed(6)
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and float(gradient.abs().max()) > 0, name
        direction = torch.randn(parameter.shape, generator=random).double()
        direction *= 1e-5 / direction.norm()
        with torch.no_grad():
            parameter += direction
            above = float(loss())
            parameter -= 2 * direction
            below = float(loss())
            parameter += direction
        expected = float((gradient * direction).sum())
        assert (above - below) / 2 == pytest.approx(expected, rel=1e-4, abs=1e-10), name


def assert_every_parameter_gets_a_gradient(module: nn.Module, scene: Scene) -> None:
    """At the weights that it has."""
    sdf, rgb = scene.query(points(2, 3000))
    (sdf.sum() + (rgb**2).sum() + scene.background(points(2)).sum()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name


def assert_equal_on(device: str, module: nn.Module, scene_of: Callable[[nn.Module, str], Scene]) -> None:
    """Values and parameter gradients of another device are the CPU's, in float64.

    Args:
        scene_of: makes the scenes of two prompts by a module on a device.
    """
    results = []
    for where in ("cpu", device):
        there = copy.deepcopy(module).to(where)
        at = points(2, 200, torch.float64).to(where)
        scene = scene_of(there, where)
        sdf, rgb = scene.query(at)
        ((sdf**2).sum() + (rgb**3).sum() + (scene.background(at) ** 2).sum()).backward()
        results.append([value.detach().cpu() for value in (sdf, rgb, gradients(there))])
    for found, expected in zip(*reversed(results), strict=True):
        assert relative(found, expected) < 1e-9


def numbers_kept(run: Callable[[], object]) -> int:
    """Of all tensors that autograd saves for the backward pass while something runs."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(sizes)


def moved(condition: GeneratorText, device: str) -> GeneratorText:
    """The same on a device."""
    return GeneratorText(*(values.to(device) for values in condition))
