"""Optimizers as torch objects in two groups, learning rates, averaged weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from scaledreamer.config import OptimizerSettings, load_config
from scaledreamer.launch.engine import total_norm
from scaledreamer.schedules import Constant, Linear
from scaledreamer.training.optimizers import (
    AveragedWeights,
    LearningRates,
    make_learning_rates,
    make_optimizer,
    parameter_groups,
    set_learning_rates,
)


def settings(name: str, **others: Any) -> OptimizerSettings:
    return OptimizerSettings.model_validate({"name": name, **others})


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)
        self.heads = nn.ModuleDict({"rgb": nn.Linear(2, 2), "background": nn.Linear(2, 3)})
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)


def test_groups_hold_every_trained_parameter_once() -> None:
    model = Model()
    groups = parameter_groups(model)
    assert {id(p) for p in groups["background"]} == {id(p) for p in model.heads["background"].parameters()}
    everything = [id(p) for parameters in groups.values() for p in parameters]
    assert sorted(everything) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert list(parameter_groups(nn.Linear(2, 2))) == ["generator"]


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_names_are_exactly_torchs_classes(name: str, kind: type) -> None:
    assert type(make_optimizer(Model(), settings(name))) is kind


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.name: got 'lion'; accepted is 'adam', 'adamw', 'adan'"):
        load_config(None, ["optimizer.name=lion"])


def test_groups_step_with_their_own_rates() -> None:
    model = Model()
    optimizer = make_optimizer(model, settings("sgd"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    set_learning_rates(optimizer, {"generator": 0.1, "background": 0.5})
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        rate = 0.0 if name == "frozen" else 0.5 if "background" in name else 0.1
        assert torch.allclose(before[name] - p, torch.full_like(p, rate))


def test_weight_decay_of_adam_is_a_gradient_and_of_adamw_is_not() -> None:
    """With beta1 = beta2 = 0 Adam steps by the sign of gradient plus decay, AdamW by that of the gradient."""
    moved = {}
    for name in ("adam", "adamw"):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 2.0)
        optimizer = make_optimizer(model, settings(name, betas=[0.0, 0.0], weight_decay=0.1))
        set_learning_rates(optimizer, {"generator": 0.5})
        model.weight.grad = torch.full((1, 1), -0.1)
        optimizer.step()
        moved[name] = model.weight.item() - 2.0
    assert moved["adam"] == pytest.approx(-0.5)
    assert moved["adamw"] == pytest.approx(+0.5 - 0.5 * 0.1 * 2)


def test_learning_rates_warm_up_and_follow_their_schedules() -> None:
    rates = LearningRates(Linear(1.0, 0.0, 0, 10), Constant(0.4), warmup_steps=4)
    assert rates.at(0) == {"generator": pytest.approx(0.25), "background": pytest.approx(0.1)}
    assert rates.at(3)["background"] == pytest.approx(0.4)
    assert rates.at(5) == {"generator": pytest.approx(0.5), "background": pytest.approx(0.4)}


def test_learning_rates_of_a_run_are_its_settings_over_its_steps() -> None:
    config = load_config(
        None, ["optimizer.lr=[1, 0]", "optimizer.background_lr=0.4", "optimizer.warmup_steps=4"]
    )
    expected = LearningRates(Linear(1.0, 0.0, 0, 10), Constant(0.4), warmup_steps=4)
    assert make_learning_rates(config.optimizer, 10) == expected


def test_average_of_a_constant_is_the_constant_and_follows_a_jump() -> None:
    model = nn.Linear(2, 2)
    averaged = AveragedWeights(model, decay=0.9)
    weight = next(averaged.module.parameters())
    averaged.update(model, 0)
    assert torch.equal(weight, model.weight)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    expected = 1.0
    for step in range(1, 40):
        averaged.update(model, step)
        expected *= min(0.9, (1 + step) / (10 + step))
        assert torch.allclose(model.weight - weight, torch.full_like(weight, expected), atol=1e-5)
    assert expected < 0.05
    assert not weight.requires_grad and torch.allclose(model.weight, before + 1)


def test_total_norm_is_that_of_one_vector() -> None:
    tensors = [torch.randn(3, 2), torch.randn(5), torch.randn(())]
    assert torch.allclose(total_norm(tensors), torch.cat([t.flatten() for t in tensors]).norm())


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_background_may_have_betas_of_its_own(name: str) -> None:
    module = nn.ModuleDict({"body": nn.Linear(2, 2), "background": nn.Linear(2, 2)})
    optimizer = make_optimizer(module, settings(name, betas=[0.5, 0.9], background_betas=[0.0, 0.99]))
    found = {group["group_name"]: group["betas"] for group in optimizer.param_groups}
    assert found == {"generator": (0.5, 0.9), "background": (0.0, 0.99)}
    same = make_optimizer(module, settings(name, betas=[0.5, 0.9]))
    assert {group["betas"] for group in same.param_groups} == {(0.5, 0.9)}
