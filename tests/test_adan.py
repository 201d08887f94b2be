"""Adan against the paper's algorithm written down plainly, in its groups, and under DeepSpeed's ZeRO."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scaledreamer.training.adan import Adan


def reference(
    start: Tensor,
    gradients: list[Tensor],
    lr: float,
    betas: tuple[float, float, float],
    eps: float,
    decay: float,
) -> Tensor:
    """Algorithm 1 of arXiv 2208.06677, one number at a time, with the paper's betas (one minus ours)."""
    b1, b2, b3 = (1 - beta for beta in betas)
    result = []
    for i, x in enumerate(start.tolist()):
        m = v = n = 0.0
        last = gradients[0][i].item()
        for k, gradient in enumerate(gradients, start=1):
            g = gradient[i].item()
            m = (1 - b1) * m + b1 * g
            v = (1 - b2) * v + b2 * (g - last)
            n = (1 - b3) * n + b3 * (g + (1 - b2) * (g - last)) ** 2
            last = g
            m_hat, v_hat, n_hat = m / (1 - (1 - b1) ** k), v / (1 - (1 - b2) ** k), n / (1 - (1 - b3) ** k)
            step = lr / (n_hat**0.5 + eps)
            x = (x - step * (m_hat + (1 - b2) * v_hat)) / (1 + lr * decay)
        result.append(x)
    return torch.tensor(result, dtype=start.dtype)


@pytest.mark.parametrize("betas", [(0.98, 0.92, 0.99), (0.0, 0.5, 0.9), (0.9, 0.0, 0.99)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_equals_the_paper(betas: tuple[float, float, float], decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, dtype=torch.float64, generator=generator)
    gradients = [torch.randn(6, dtype=torch.float64, generator=generator) for _ in range(8)]
    parameter = torch.nn.Parameter(start.clone())
    optimizer = Adan([parameter], lr=0.03, betas=betas, eps=1e-8, weight_decay=decay)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = reference(start, gradients, 0.03, betas, 1e-8, decay)
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)


def test_groups_have_their_own_rates_and_betas() -> None:
    values = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    optimizer = Adan(
        [
            {"params": values[:1], "lr": 0.1},
            {"params": values[1:2], "lr": 0.0},
            {"params": values[2:], "betas": (0.5, 0.5, 0.5)},
        ],
        lr=0.1,
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        gradient = torch.randn(3, generator=generator)
        for value in values:
            value.grad = gradient.clone()
        optimizer.step()
    assert not torch.equal(values[0], torch.ones(3))
    assert torch.equal(values[1], torch.ones(3))
    assert not torch.equal(values[0], values[2])


def test_parameters_without_a_gradient_stay_and_join_later() -> None:
    first, second = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    optimizer = Adan([first, second], lr=0.1)
    first.grad = torch.ones_like(first)
    optimizer.step()
    assert torch.equal(second, torch.ones_like(second)) and not optimizer.state[second]
    second.grad = torch.ones_like(second)
    optimizer.step()  # the second parameter's first step, the first one's second
    torch.testing.assert_close(
        second.detach(),
        reference(torch.ones(2, dtype=torch.float64), [torch.ones(2)], 0.1, (0.98, 0.92, 0.99), 1e-8, 0),
    )


def test_state_can_be_saved_and_loaded() -> None:
    def run(optimizer: Adan, parameter: torch.nn.Parameter, steps: range) -> None:
        for step in steps:
            parameter.grad = torch.full_like(parameter, float(step + 1))
            optimizer.step()

    whole = torch.nn.Parameter(torch.zeros(4))
    run(Adan([whole]), whole, range(6))
    parameter = torch.nn.Parameter(torch.zeros(4))
    first = Adan([parameter])
    run(first, parameter, range(3))
    second = Adan([parameter])
    second.load_state_dict(first.state_dict())
    run(second, parameter, range(3, 6))
    assert torch.equal(whole, parameter)


def test_it_descends() -> None:
    parameter = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = Adan([parameter], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (parameter**2 * torch.tensor([1.0, 30.0])).sum().backward()
        optimizer.step()
    assert parameter.abs().max() < 0.05
