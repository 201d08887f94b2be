"""Torch optimizers with a parameter group for the generator and one for its background; averaged weights.

DeepSpeed gets these objects rather than a name, because its "Adam" would silently be AdamW.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from scaledreamer.config import OptimizerSettings
from scaledreamer.schedules import Schedule
from scaledreamer.training.adan import Adan

GROUPS = ("generator", "background")
Module = TypeVar("Module", bound=nn.Module)


def parameter_groups(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trained parameters by group: those of submodules or tensors named `background*`, and all others.

    Empty groups are omitted.
    """
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_background = any(part.startswith("background") for part in name.split("."))
            groups["background" if is_background else "generator"].append(parameter)
    return {name: parameters for name, parameters in groups.items() if parameters}


def make_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """An optimizer of the parameters in the groups of `parameter_groups`; the step sets learning rates.

    "adam" adds weight decay to the gradient; "adamw" and "adan" decouple it.
    """
    groups: list[dict[str, Any]] = [
        {"params": list(ps), "group_name": key} for key, ps in parameter_groups(module).items()
    ]
    eps, weight_decay = settings.eps, settings.weight_decay
    first, second = settings.betas
    if settings.background_betas is not None and settings.name in ("adam", "adamw"):
        for group in groups:
            if group["group_name"] == "background":
                group["betas"] = tuple(settings.background_betas)
    match settings.name:
        case "adam":
            return torch.optim.Adam(
                groups, lr=0.0, betas=(first, second), eps=eps, weight_decay=weight_decay, fused=True
            )
        case "adamw":
            return torch.optim.AdamW(
                groups, lr=0.0, betas=(first, second), eps=eps, weight_decay=weight_decay, fused=True
            )
        case "adan":
            first, second, third = settings.adan.betas
            return Adan(groups, lr=0.0, betas=(first, second, third), eps=eps, weight_decay=weight_decay)
        case "sgd":
            return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, weight_decay=weight_decay)


@dataclass(frozen=True)
class LearningRates:
    """Schedules of both groups' learning rates, with a linear warm-up over `warmup_steps`."""

    generator: Schedule
    background: Schedule
    warmup_steps: int = 0

    def at(self, step: int) -> dict[str, float]:
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return {
            "generator": warmup * self.generator.value_at(step),
            "background": warmup * self.background.value_at(step),
        }


def make_learning_rates(settings: OptimizerSettings, max_steps: int) -> LearningRates:
    """Learning rates over a training of `max_steps` steps."""
    return LearningRates(
        generator=settings.lr.over(max_steps),
        background=settings.background_lr.over(max_steps),
        warmup_steps=settings.warmup_steps,
    )


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float]) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rates[group["group_name"]]


class AveragedWeights(Generic[Module]):
    """A second module whose parameters are an exponential moving average of the first one's.

    The decay at step s (from 0) is `min(decay, (1 + s) / (10 + s))`, so that the average soon forgets the
    initial weights. Create it before DeepSpeed wraps the module.
    """

    def __init__(self, module: Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        kept = min(self.decay, (1 + step) / (10 + step))
        current = [p.detach() for p in module.parameters()]
        torch._foreach_lerp_(list(self.module.parameters()), current, 1 - kept)
