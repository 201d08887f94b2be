"""Execution of a prior's networks within limited memory: calls in parts, and recomputed graphs."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scaledreamer.accounting import Cost, count
from scaledreamer.priors.cost import CountedPrior, StepInputs

GIB = 2**30
MAX_BRANCHES = 5  # predictions per image in one call: three, and two for Perp-Neg


@dataclass(frozen=True)
class Parts:
    """Number of images that are computed at once; None is all.

    Attributes:
        encode: by the autoencoder.
        predict: by the UNet, where each branch of an image counts.
        kept: images whose graph may be kept while noise is predicted; with more images, graphs are
            recomputed.
    """

    encode: int | None = None
    predict: int | None = None
    kept: int | None = None


def split(total: int, most: int | None, group: int = 1) -> list[slice]:
    """Consecutive parts of almost equal size, so that a compiled network sees at most two sizes.

    Args:
        total: number of images, a multiple of `group`.
        most: maximum size of a part, unless a group is larger; None is all.
        group: number of consecutive images that are never separated.
    """
    assert total % group == 0, (total, group)
    num_groups = total // group
    count = 1 if most is None else max(-(-num_groups // max(most // group, 1)), 1)
    edges = [group * (num_groups * i // count) for i in range(count + 1)]
    return [slice(low, high) for low, high in zip(edges[:-1], edges[1:], strict=True)]


def checkpointed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function with a graph that keeps only its inputs, and is recomputed for the gradient."""

    def wrapped(*args: Any) -> Tensor:
        result: Any = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
        return result

    return wrapped


class Checkpointed(nn.Module):
    """Wraps a module with `checkpointed` calls if gradients are needed."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            return checkpointed(self.wrapped)(x)
        return self.wrapped(x)


def check_compiler(key: str, device: torch.device, backend: str = "inductor") -> None:
    """Checks that torch.compile works on this machine.

    Raises: ValueError with the key and what is missing.
    """
    if backend != "inductor":
        return
    is_gpu = device.type == "cuda"
    named = os.environ.get("CC" if is_gpu else "CXX")
    tried = [named] if named else ["gcc", "clang", "cc"] if is_gpu else ["g++", "clang++", "c++"]
    if not any(shutil.which(command) for command in tried):
        raise ValueError(
            f"{key}: needs a compiler, and none of {', '.join(tried)} is there; install one (on Debian and "
            f"Ubuntu: g++), or set {key}=false."
        )
    if is_gpu and importlib.util.find_spec("triton") is None:
        raise ValueError(
            f"{key}: needs triton, which is not installed (pip install triton); or set {key}=false."
        )


# --- a memory budget ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """Bytes as a linear function of the number of images."""

    fixed: float
    each: float

    def at(self, images: int) -> float:
        return self.fixed + self.each * images

    def most(self, budget: float) -> int:
        return int((budget - self.fixed) // self.each)


def parts_that_fit(prior: CountedPrior, memory_gib: float, key: str) -> Parts:
    """The largest parts whose tensors, apart from weights, fit into a memory budget.

    Args:
        prior: with undivided calls, on the meta device.
        key: key of the setting, for the message.

    Raises: ValueError if a single image does not fit, with the memory it needs.
    """

    def line(cost: Callable[[StepInputs], Cost], attribute: str = "peak_bytes") -> _Line:
        one, two = (getattr(cost(StepInputs(prior, images, branches=1)), attribute) for images in (1, 2))
        return _Line(fixed=max(2 * one - two, 0), each=max(two - one, 1))

    budget = memory_gib * GIB
    encode = line(lambda step: count(step.encode_with_gradient))
    predict = line(lambda step: count(step.predict_noise))
    graph = line(lambda step: count(step.encode_with_graph), "kept_bytes")
    if max(encode.at(1), predict.at(1)) > budget:
        raise ValueError(
            f"{key}: got {memory_gib:g}, and one image takes {encode.at(1) / GIB:.3g} GiB to encode with its "
            f"gradient and {predict.at(1) / GIB:.3g} GiB to predict noise; give at least "
            f"{_round_up(max(encode.at(1), predict.at(1)) / GIB)}, or set vae_tiling=true for less of the "
            "first."
        )
    parts = Parts(encode=encode.most(budget), predict=predict.most(budget))
    assert parts.encode is not None and parts.predict is not None
    kept = 0
    while kept < parts.encode and (
        graph.at(kept + 1) + predict.at(min(MAX_BRANCHES * (kept + 1), parts.predict)) <= budget
    ):
        kept += 1
    return Parts(parts.encode, parts.predict, kept)


def _round_up(gib: float) -> str:
    """Rounded up to three digits."""
    digits = f"{gib:.2e}"
    return f"{float(digits) if float(digits) >= gib else float(digits) * 1.01:.3g}"
