"""The code of docs/extending.md runs: its four toys fulfil the contracts, and train."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from scaledreamer import contracts

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page() -> Any:
    """A module with all code blocks of the page, in their order."""
    module = types.ModuleType("extending")
    sys.modules["extending"] = module  # where dataclasses look for their module
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/extending.md", "exec"), module.__dict__)
    return module


def test_the_toys_fulfil_the_contracts(page: Any) -> None:
    assert issubclass(page.Balls, contracts.Generator)
    assert isinstance(page.Balls(3)(page.encode(["a red ball"])), contracts.SceneBatch)
    assert isinstance(page.ColoredPrior(), contracts.Prior)
    assert isinstance(page.judge.method, contracts.Method)
    assert isinstance(page.SoftRenderer(), contracts.Renderer)


def test_the_toy_generator_learns_the_colours_that_the_toy_prior_expects(page: Any) -> None:
    scene = page.generator(page.encode(page.PROMPTS))
    assert (scene.colors.detach().mean(1).argmax(-1) == torch.arange(3)).all()
    assert page.trainer.averages.collect(page.process)["prior0/timestep"] == pytest.approx(0.5, abs=0.1)
