"""The code of docs/extending.md runs: its four toys fulfil the contracts, and train."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from scaledreamer import assemble, contracts, generators
from scaledreamer.config import ArchitectureSettings, GeneratorSettings, load_config
from scaledreamer.launch.process import start_process
from tests.support.training_fakes import FakeScene

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


# --- a generator of one module, one class of settings and one line, from a configuration -------------------


class BoxesSettings(ArchitectureSettings):
    """Settings of the toy below, as a class of `scaledreamer.config.generators`."""

    scale: float = 0.3
    """Spread of the initial weights."""


class ExtendedSettings(GeneratorSettings):
    """The section with one architecture more."""

    name: Literal["boxes"] = "boxes"  # pyright: ignore[reportIncompatibleVariableOverride]
    boxes: BoxesSettings = BoxesSettings()


class Boxes(contracts.Generator):
    """A linear map from the pooled text to a scene, as a module of `scaledreamer.generators`."""

    def __init__(self, *, condition_dim: int, scale: float) -> None:
        super().__init__()
        self.config = {"condition_dim": condition_dim, "scale": scale}
        self.table = nn.Parameter(scale * torch.randn(3, 4))
        self.body = nn.Linear(condition_dim, 12)
        self.background = nn.Linear(condition_dim, 3)

    def forward(self, text: contracts.GeneratorText, z: Tensor | None = None) -> FakeScene:
        """The scenes of a batch of prompts; without noise."""
        weights = self.table + self.body(text.pooled).view(-1, 3, 4)
        return FakeScene(weights, self.background(text.pooled))


def test_a_generator_of_one_module_trains_from_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line in `generators.class_of` is all that is patched; every other part asks the class."""
    class_of = generators.class_of
    monkeypatch.setattr(generators, "class_of", lambda name: Boxes if name == "boxes" else class_of(name))
    small = ["renderer.image_size=8", "training.batch_size=2", "prompts.limit=4", "optimizer.lr=1e-2"]
    config = load_config(None, small)
    config = config.model_copy(update={"generator": ExtendedSettings(boxes=BoxesSettings(scale=0.5))})
    trainer = assemble.make_trainer(config, start_process("cpu"))
    generator = trainer.engine.trained
    assert isinstance(generator, Boxes) and generator.config["scale"] == 0.5
    before = [parameter.detach().clone() for parameter in generator.parameters()]
    assert all(trainer.step(step).is_applied for step in range(2))
    assert all(not old.equal(new) for old, new in zip(before, generator.parameters(), strict=True))
