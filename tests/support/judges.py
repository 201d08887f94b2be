"""Judges of a run with one setting a keyword, and the gradient of a method at given times and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scaledreamer.contracts import Conditions, Estimate, Method, Prior
from scaledreamer.methods.base import Guidance, Timesteps
from scaledreamer.methods.score import ASD, CSD, SDS
from scaledreamer.priors.conditioning import Texts
from scaledreamer.schedules import Constant
from scaledreamer.training.judge import Judge, PixelClip

WHENEVER = Timesteps(Constant(0.02), Constant(0.98))


def make_judge(
    prior: Prior,
    method: str = "asd",
    *,
    timesteps: Timesteps = WHENEVER,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
    eta: float = 0.1,
    shift_steps: int | None = None,
    negative_prompt: str = "",
    perp_neg: float = 0.0,
    weight: float = 1.0,
    sample_latents: bool = False,
    clip_mode: str = "pgc_n",
    clip_threshold: float = 0.1,
    clip_norm: str = "l2",
) -> Judge:
    guidance = Guidance(guidance_scale, guidance_rescale)
    methods: dict[str, Method] = {
        "asd": ASD(timesteps, guidance, eta, shift_steps),
        "sds": SDS(timesteps, guidance),
        "csd": CSD(timesteps),
    }
    texts = Texts(lambda prompts: prior.encode_text(list(prompts)), negative_prompt, perp_neg)
    clip = PixelClip(clip_mode, clip_threshold, clip_norm)
    return Judge(prior, methods[method], texts, weight, sample_latents, clip)


def distill(
    judge: Judge,
    method: str,
    latents: Tensor,
    conditions: Conditions,
    noise: Tensor,
    t: Tensor,
    shift: Tensor,
) -> Tensor:
    """The gradient `g_z` of a method of this name, with the guidance of a judge that has ASD."""
    assert isinstance(judge.method, ASD)
    if method == "asd":
        return judge.method.estimate(judge.prior, latents, conditions, noise, t, shift)
    chosen = SDS(WHENEVER, judge.method.guidance) if method == "sds" else CSD(WHENEVER)
    return chosen.estimate(judge.prior, latents, conditions, noise, t)


class Student(SDS):
    """A method that learns one number, and lets it scale its gradient."""

    def __init__(self) -> None:
        super().__init__(WHENEVER)
        object.__setattr__(self, "memory", torch.zeros(3))
        object.__setattr__(self, "updates", [])

    memory: Tensor
    updates: list[tuple[int, int]]

    def gradient(self, prior: Any, latents: Any, conditions: Any, draws: Any, step: int) -> Estimate:
        estimate = super().gradient(prior, latents, conditions, draws, step)
        return replace(estimate, gradient=estimate.gradient * (1 + self.memory.sum()))

    def update(self, estimates: Sequence[Estimate], step: int) -> Mapping[str, Tensor]:
        self.updates.append((step, len(estimates)))
        self.memory.add_(estimates[0].latents.mean() * torch.arange(1.0, 4.0))
        return {"student": self.memory.sum()}

    def state_dict(self) -> dict[str, Tensor]:
        return {"memory": self.memory.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.memory.copy_(state["memory"])
