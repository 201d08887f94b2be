"""tools.tinyworld.measure_gradients: its statistics against gradients whose direction and noise are known."""

from __future__ import annotations

import pytest
import torch

from tools.tinyworld.measure_gradients import statistics


def test_statistics_of_a_gradient_with_known_direction_and_noise():
    generator = torch.Generator().manual_seed(0)
    way = torch.zeros(4, 3, 8, 8)
    way[:, 0] = 1.0
    across = torch.zeros_like(way)
    across[:, 1] = 1.0
    mean = 3 * way / 8 + 4 * across / 8  # length 5 at an angle whose cosine is 0.6
    noise = torch.randn(4000, *way.shape, generator=generator) * 5 / (3 * 64) ** 0.5  # of length 5
    found = statistics(mean + noise, way)
    assert found["signal"] == pytest.approx(5, rel=0.02)
    assert found["noise"] == pytest.approx(5, rel=0.02)
    assert found["cosine"] == pytest.approx(0.6, abs=0.02)
    assert found["single"] == pytest.approx(0.6 / 2**0.5, abs=0.02)


def test_noise_without_direction_has_no_signal():
    way = torch.ones(2, 3, 8, 8)
    noise = torch.randn(4000, *way.shape, generator=torch.Generator().manual_seed(1))
    assert statistics(noise, way)["signal"] < 0.02 * statistics(noise, way)["noise"]
