"""Text whitening: closed forms of its map, and its place before the hyper-network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scaledreamer import assemble
from scaledreamer.config import load_config
from scaledreamer.contracts import GeneratorText
from scaledreamer.generators.hyper_ingp import HyperINGP
from scaledreamer.generators.whitening import MIN_DEVIATION, TextWhitening
from scaledreamer.prompts.conditioner import TextConditioner
from scaledreamer.prompts.source import PromptList


def texts(*deviations: float, count: int = 4000) -> torch.Tensor:
    """Normal texts with these deviations along random orthogonal directions, and a mean that is not zero."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(len(deviations), len(deviations), generator=generator))[0]
    draws = torch.randn(count, len(deviations), generator=generator)
    return draws * torch.tensor(deviations) @ directions.T + 3.0


def test_whitening_is_the_identity_until_it_is_fitted():
    pooled = texts(2.0, 1.0)
    assert torch.equal(TextWhitening(2, 1.0)(pooled), pooled)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_fit_raises_deviations_to_the_power_of_what_is_left(strength: float):
    pooled = texts(4.0, 2.0, 1.0)
    whitening = TextWhitening(3, strength)
    whitening.fit(pooled)
    whitened = whitening(pooled)
    assert whitened.mean(0).abs().max() < 1e-5
    before = torch.linalg.svdvals(pooled - pooled.mean(0)) / len(pooled) ** 0.5
    after = torch.linalg.svdvals(whitened) / len(pooled) ** 0.5
    expected = before ** (1 - strength)
    torch.testing.assert_close(after / after[0], expected / expected[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(after.square().sum(), before.square().sum(), rtol=1e-4, atol=0)


def test_fit_amplifies_noise_no_further_than_the_least_deviation():
    pooled = texts(1.0, 1e-4)
    whitening = TextWhitening(2, 1.0)
    whitening.fit(pooled)
    after = torch.linalg.svdvals(whitening(pooled)) / len(pooled) ** 0.5
    assert after[1] / after[0] == pytest.approx(1e-4 / MIN_DEVIATION, rel=0.05)


def test_fit_to_one_prompt_changes_nothing():
    whitening = TextWhitening(2, 1.0)
    whitening.fit(torch.tensor([[1.0, 2.0]]))
    assert torch.equal(whitening.matrix, torch.eye(2)) and torch.equal(whitening.mean, torch.zeros(2))


def test_hyper_ingp_reads_the_whitened_text():
    """Whitening moved into the first layer's weights by hand gives the same scene."""
    settings: dict[str, Any] = {"num_levels": 2, "log2_table_size": 8, "hyper_width": 8, "mlp_width": 4}
    torch.manual_seed(0)
    generator = HyperINGP(condition_dim=3, whitening=1.0, **settings)
    plain = HyperINGP(condition_dim=3, **settings)
    pooled = texts(3.0, 1.0, 0.5)
    assert generator.whitening is not None
    generator.whitening.fit(pooled)
    state = {name: value for name, value in generator.state_dict().items() if "whitening" not in name}
    weight, bias = state["hyper.0.weight"], state["hyper.0.bias"]
    mean, matrix = generator.whitening.mean, generator.whitening.matrix
    plain.load_state_dict(
        state | {"hyper.0.weight": weight @ matrix.T, "hyper.0.bias": bias - weight @ (mean @ matrix)}
    )
    points = torch.rand(4, 9, 3) * 2 - 1
    condition = GeneratorText(pooled[:4], pooled[:4, None], torch.ones(4, 1, dtype=torch.bool))
    for ours, expected in zip(
        generator(condition).query(points), plain(condition).query(points), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_training_begins_with_a_whitening_fitted_to_its_corpus():
    """To the run's own prompts, spread over all of the corpus, as its conditioner reads them."""
    pooled = texts(2.0, 0.5, count=5000)
    pooled[2500:] *= -0.5  # another mean in the second half
    table = {str(i): row for i, row in enumerate(pooled)}

    class Conditioner(TextConditioner):
        condition_dim = token_dim = 2  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

        def __init__(self) -> None:
            """Without an encoder."""

        def __call__(self, prompts: list[str]) -> GeneratorText:
            found = torch.stack([table[prompt] for prompt in prompts])
            return GeneratorText(found, found[:, None], torch.ones(len(prompts), 1, dtype=torch.bool))

    config = load_config("tiny", ["generator.hyper_ingp.whitening=1"])
    conditioner, device = Conditioner(), torch.device("cpu")
    generator = assemble.make_generator(config, conditioner, PromptList(list(table)), device)
    assert isinstance(generator, HyperINGP) and generator.whitening is not None
    assert generator.whitening.mean.tolist() == pytest.approx(pooled.mean(0).tolist(), abs=0.05)
    whitened = generator.whitening(pooled)
    deviations = torch.linalg.svdvals(whitened - whitened.mean(0))
    assert deviations[1] / deviations[0] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_hyper_ingp_refuses_a_strength_out_of_range(strength: float):
    with pytest.raises(ValueError, match="whitening is .* from 0 to 1"):
        HyperINGP(condition_dim=2, whitening=strength)
