"""Backgrounds and their random replacement."""

from __future__ import annotations

import pytest
import torch

from scaledreamer.rendering.background import augmented_background


@pytest.mark.parametrize("size", [(), (4, 5)])
def test_replaced_views_get_their_own_uniform_colour_and_others_are_kept(size: tuple[int, ...]) -> None:
    background = torch.rand(2, 2, 3, *size)
    uniforms = torch.rand(2, 2, 4)
    uniforms[..., 0] = torch.tensor([[0.1, 0.5], [0.4999, 0.9]])
    out = augmented_background(background, uniforms, 0.5)
    assert torch.equal(out[0, 1], background[0, 1]) and torch.equal(out[1, 1], background[1, 1])
    for index in ((0, 0), (1, 0)):
        color = uniforms[index][1:].view(3, *[1] * len(size))
        assert torch.equal(out[index], color.expand_as(out[index]))


def test_share_of_replaced_views_is_the_probability() -> None:
    uniforms = torch.rand(20000, 1, 4, generator=torch.Generator().manual_seed(0))
    out = augmented_background(torch.full((20000, 1, 3), 2.0), uniforms, 0.3)
    assert abs(float((out[:, 0, 0] < 2).float().mean()) - 0.3) < 0.01
    assert torch.equal(augmented_background(out, uniforms, 0.0), out)


def test_kept_backgrounds_are_differentiable() -> None:
    background = torch.rand(1, 2, 3, requires_grad=True)
    uniforms = torch.tensor([[[0.0, 0.1, 0.2, 0.3], [0.9, 0.1, 0.2, 0.3]]])
    augmented_background(background, uniforms, 0.5).sum().backward()
    assert background.grad is not None
    assert background.grad[0].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_probability_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match="probability of a random background is 1.5"):
        augmented_background(torch.rand(1, 1, 3), torch.rand(1, 1, 4), 1.5)
