"""Which of the hash grid's twins works where, and what to do where one does not. Importing it needs no torch.

The twins have one signature, `Encode`, one layout of the table, and agree up to rounding:
    torch       `hash_grid_torch.encode`, everywhere
    triton      `hash_grid_triton.encode`, NVIDIA and AMD GPUs
    tinycudann  `hash_grid_tcnn.encode`, NVIDIA GPUs, in float16 or float32
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from scaledreamer.fields.pyramid import Pyramid

NAMES = ("auto", "torch", "triton", "tinycudann")
INSTALL = {
    "triton": "pip install triton (Linux)",
    "tinycudann": (
        "pip install --no-build-isolation "
        "'git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch'"
    ),
}
"""How to get an accelerator."""


class Encode(Protocol):
    """Features "n level*feature" of points "n 3" from a table "entry feature".

    Features come out in `dtype` (None: the points'), in which the entries are read too; gradients of a
    float32 table are accumulated and returned in float32. Points outside of [-1, 1]^3 count as on its faces,
    infinite ones too, with no gradient along that axis; features of a point with a NaN are NaN.
    Differentiable once, in the table and the points: a second time raises RuntimeError.
    """

    def __call__(
        self, table: Tensor, points: Tensor, pyramid: Pyramid, dtype: torch.dtype | None = None
    ) -> Tensor: ...


class Backend(NamedTuple):
    """A twin, and one line for the user on which it is."""

    name: str
    encode: Encode
    line: str


def check_name(name: str) -> None:
    """Raises ValueError unless a twin, or auto, is called so."""
    if name not in NAMES:
        raise ValueError(f"backend is {name!r}: choose {', '.join(map(repr, NAMES))}.")


def choose_backend(name: str, device: torch.device) -> Backend:
    """The twin that is meant by a name on a device; auto is the fastest that works there.

    Where auto has to do without triton on a GPU it warns, once. Under
    `torch.use_deterministic_algorithms` auto is torch: the others add up gradients in any order.

    Raises: ValueError if the twin that is asked for by name does not work there, with how to get it.
    """
    import torch

    check_name(name)
    return _choose(name, device.type, torch.are_deterministic_algorithms_enabled())


@lru_cache
def _choose(name: str, device: str, is_deterministic: bool) -> Backend:
    if name == "torch" or (name == "auto" and (device != "cuda" or is_deterministic)):
        return _torch(device)
    if name in ("triton", "tinycudann") and is_deterministic:
        raise ValueError(
            f"backend is {name!r}, which adds up gradients in any order, and deterministic algorithms are "
            "asked for (training.deterministic): choose 'torch' or 'auto', or leave that out."
        )
    wanted = "triton" if name == "auto" else name
    problem = _import(wanted, device)
    if isinstance(problem, Backend):
        return problem
    if name == "auto":
        warnings.warn(
            f"hash grid: {problem}, so plain torch takes its place, which is slower; to get it: "
            f"{INSTALL[wanted]}",
            UserWarning,
            stacklevel=4,
        )
        return _torch(device)
    raise ValueError(
        f"backend is {name!r}, and {problem}: choose 'auto' or 'torch', or get it: {INSTALL[wanted]}."
    )


def _torch(device: str) -> Backend:
    from scaledreamer.fields.hash_grid_torch import encode

    return Backend("torch", encode, f"hash grid: plain torch on {device}")


def _import(name: str, device: str) -> Backend | str:
    """The twin, once it has worked on one point, or why it does not work."""
    try:
        if name == "triton":
            from scaledreamer.fields import hash_grid_triton as twin
        else:
            from scaledreamer.fields import hash_grid_tcnn as twin
        if not twin.runs_on(device):
            return f"it needs a GPU, while the grid is on {device}"
        twin.try_on(device)
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except (
        Exception
    ) as error:  # tinycudann's EnvironmentError without a GPU, Triton's without a C compiler ...
        first = (str(error).splitlines() or [""])[0].rstrip(".")
        return f"{name} is installed and does not work here ({type(error).__name__}: {first})"
    return Backend(name, twin.encode, f"hash grid: {name} {twin.VERSION} on {device}")
