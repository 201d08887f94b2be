"""Environment variables of launchers, job systems and libraries that affect how a run starts.

They are often left over from something else, and then make a run wait for an hour or fail in a library. Needs
no torch.
"""

from __future__ import annotations

import functools
import importlib
import os
import socket
import sys
from typing import NamedTuple

from scaledreamer.os_errors import one_line, reason

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Set by launchers for each process."""
_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "CROSS_RANK")
"""Set by torchrun and deepspeed in addition."""
_NUM_TASKS = (
    "SLURM_STEP_NUM_TASKS",
    "SLURM_NTASKS",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "FLUX_JOB_SIZE",
)
"""Number of tasks that a job system has started, or will start."""
_ALONE = "unset RANK to train in one process."


class Place(NamedTuple):
    """Rank and number of processes, in the run and on this machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def is_launched() -> bool:
    """Whether the environment identifies this as one of a launcher's processes."""
    return "RANK" in os.environ


def place() -> Place:
    """This process's place, as set by a launcher.

    Raises: ValueError if the variables are inconsistent with a launcher's.
    """
    given = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": os.environ.get("WORLD_SIZE", "")} | os.environ
    numbers = Place(*(_whole_number(given.get(name, "")) for name in LAUNCHED[:4]))
    is_there = min(numbers) >= 0 and numbers.rank < numbers.world_size
    if not is_there or numbers.local_world_size < 1 or not all(map(os.environ.get, LAUNCHED[4:])):
        named = [name for name in LAUNCHED if name in os.environ or name != "LOCAL_WORLD_SIZE"]
        got = ", ".join(f"{name}={os.environ.get(name, '')}" for name in named)
        raise ValueError(
            f"the environment has {got}; accepted is what a launcher sets, with RANK below WORLD_SIZE. Start "
            f"with deepspeed or torchrun, or {_ALONE}"
        )
    return numbers


def check() -> None:
    """Raises ValueError for variables that would make a run hang, or fail in a library, before it starts."""
    if is_launched():
        place()
        _check_address()
    name = os.environ.get("GLOO_SOCKET_IFNAME")
    if name is not None:
        here = [found for _, found in socket.if_nameindex()]
        if not set(name.split(",")) & set(here):
            raise ValueError(
                f"GLOO_SOCKET_IFNAME: got {name!r}; accepted is a network interface of this machine "
                f"({', '.join(here)}). Set it to one of them, or unset it."
            )


def _check_address() -> None:
    """Raises ValueError unless MASTER_PORT is valid and MASTER_ADDR resolves; torch would retry for an
    hour."""
    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    if not 0 < _whole_number(port) < 65536:
        raise ValueError(
            f"MASTER_PORT: got {port!r}; accepted is the number of a port, 1 to 65535. Give the launcher "
            f"another one (deepspeed --master_port N), or {_ALONE}"
        )
    try:
        socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"MASTER_ADDR: got {host!r}, which this machine cannot resolve ({reason(error)}); accepted is "
            "the name or the address of the first process' machine. Give the launcher another one "
            f"(deepspeed --master_addr NAME), or {_ALONE}"
        ) from None


def is_left_over() -> bool:
    """Whether this process would wait for others, and nothing shows that a launcher has started them."""
    known = any(name in os.environ for name in (*_LAUNCHERS, *_NUM_TASKS))
    return is_launched() and not known and place().world_size > 1


def waiting() -> str:
    """A line on which processes this one waits for, and what to do if they never come."""
    here = place()
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    others = here.world_size - 1
    named = " ".join(name for name in LAUNCHED if name in os.environ)
    return (
        f"waiting for {others} other process{'es' * (others > 1)} at {address}, up to an hour: the "
        f"environment has RANK={here.rank} and WORLD_SIZE={here.world_size}. If no launcher has started "
        f"{'them' if others > 1 else 'it'}, stop this one and run: unset {named}"
    )


@functools.cache
def say_waiting() -> None:
    """Says `waiting`, once."""
    print(waiting(), file=sys.stderr, flush=True)


def several_tasks() -> str:
    """A line for the tasks of a job system that would each train alone; empty if this is none of several."""
    if is_launched() and os.environ.get("WORLD_SIZE") != "1":
        return ""
    for name in _NUM_TASKS:
        number = _whole_number(os.environ.get(name, ""))
        if number > 1:
            return (
                f"{name}={number}, but no launcher has set RANK and WORLD_SIZE, so each task trains alone; "
                f"for one run on all {number}, start it with torchrun or deepspeed"
            )
    return ""


def load(*names: str) -> None:
    """Imports libraries whose import may end over a variable.

    Raises: ValueError if one cannot be imported, with the variables that may be the cause.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # whatever a library makes of a variable that it cannot read
            said = one_line(error)
            named = [variable for variable in os.environ if "_" in variable[1:] and variable in said]
            prefixes = (name.split(".")[0].upper(), "HF_", "DS_", "PYTORCH_")
            named = named or [variable for variable in os.environ if variable.startswith(prefixes)]
            listed = ", ".join(f"{variable}={os.environ[variable]}" for variable in named)
            todo = f"the environment has {listed}; unset it" if listed else "install it again"
            raise ValueError(f"{name} cannot be imported ({said[:300]}); {todo}.") from None


def _whole_number(text: str) -> int:
    """-1 for what is none, or has too many digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
