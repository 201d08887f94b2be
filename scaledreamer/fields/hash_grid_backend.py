"""Selection of the hash grid's backend, and what to do if one does not work. Importing it needs no torch.

The backends share a signature, `Encode`, and the layout of the table, and agree up to rounding:
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
"""How to install an accelerator."""


class Encode(Protocol):
    """Features "n level*feature" of points "n 3" from a table "entry feature".

    Features have the dtype `dtype` (None: that of the points), in which the entries are read too; gradients
    of a float32 table are accumulated and returned in float32. Points outside [-1, 1]^3, also infinite ones,
    are clamped to its faces, without gradient along that axis; features of a point with a NaN are NaN.
    Differentiable once, in the table and the points: a second derivative raises RuntimeError.
    """

    def __call__(
        self, table: Tensor, points: Tensor, pyramid: Pyramid, dtype: torch.dtype | None = None
    ) -> Tensor: ...


class Backend(NamedTuple):
    """An implementation, and one line for the user that names it."""

    name: str
    encode: Encode
    line: str


def check_name(name: str) -> None:
    """Raises ValueError unless the name is that of a backend or "auto"."""
    if name not in NAMES:
        raise ValueError(f"backend is {name!r}: choose {', '.join(map(repr, NAMES))}.")


def choose_backend(name: str, device: torch.device) -> Backend:
    """The backend for a name and a device; "auto" selects the fastest that works.

    If "auto" has to do without Triton on a GPU, it warns once. Under `torch.use_deterministic_algorithms`
    "auto" is torch, because the others sum gradients in any order.

    Raises: ValueError if the requested backend does not work there; the message says how to install it.
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
    """The backend, if it works for a single point, or the reason why it does not work."""
    try:
        if name == "triton":
            from scaledreamer.fields import hash_grid_triton as module
        else:
            from scaledreamer.fields import hash_grid_tcnn as module
        if not module.runs_on(device):
            return f"it needs a GPU, while the grid is on {device}"
        module.try_on(device)
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except (
        Exception
    ) as error:  # tinycudann's EnvironmentError without a GPU, Triton's without a C compiler ...
        first = (str(error).splitlines() or [""])[0].rstrip(".")
        return f"{name} is installed and does not work here ({type(error).__name__}: {first})"
    return Backend(name, module.encode, f"hash grid: {name} {module.VERSION} on {device}")
