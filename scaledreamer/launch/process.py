"""This process among those of the run: joining them, under deepspeed, torchrun or alone."""

from __future__ import annotations

import atexit
import os
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from scaledreamer.launch import environment

Value = TypeVar("Value")
SILENT_SECONDS = 3.0
"""How long a process waits for the others before it says so."""


@dataclass(frozen=True)
class Process:
    """This process among those of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def share(self, value: Value) -> Value:
        """The main process' value, on all of them."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]


def start_process(device: str = "auto") -> Process:
    """Joins the run's processes: those of a launcher, or else this one alone.

    Args:
        device: "cpu", "cuda" or "auto".
    Raises: ValueError if there is no such device, no such address, or no connection to the other processes.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "training.device: got 'cuda', but torch sees no CUDA device; accepted here is 'cpu'."
        )
    environment.check()
    store = None
    if not environment.is_launched():
        # Alone: no port is opened, so that runs beside each other cannot collide.
        store = dist.HashStore()
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        os.environ.update(alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
        os.environ.pop("LOCAL_WORLD_SIZE", None)
    rank, world_size, local_rank, local_world_size = environment.place()
    import_deepspeed(device)
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK: got {local_rank}, but torch sees {torch.cuda.device_count()} CUDA device(s); "
                "start as many processes on a machine as it has (deepspeed --num_gpus N), or look at "
                "CUDA_VISIBLE_DEVICES."
            )
        torch.cuda.set_device(local_rank)
    if not dist.is_initialized():
        _join("nccl" if device == "cuda" else "gloo", rank, world_size, store)
        # At the end of the program and no sooner: DeepSpeed holds on to the groups.
        atexit.register(dist.destroy_process_group)
    if device == "cuda":
        return Process(rank, world_size, torch.device(device, local_rank))
    if local_world_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        # Ranks that share cores would wait for each other.
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world_size))
    return Process(rank, world_size, torch.device("cpu"))


def _join(backend: str, rank: int, world_size: int, store: Any) -> None:
    """Raises ValueError if the processes cannot be joined; says what it waits for, if it has to wait."""
    patience = threading.Timer(SILENT_SECONDS, environment.say_waiting)
    patience.daemon = True
    patience.start()
    try:
        dist.init_process_group(
            backend, rank=rank, world_size=world_size, store=store, timeout=timedelta(hours=1)
        )
    except (RuntimeError, OSError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ValueError(
            f"process {rank} of {world_size} cannot connect to {address} "
            f"({str(error).splitlines()[0]}); if the port is in use, give the launcher another one "
            "(deepspeed --master_port N)."
        ) from None
    finally:
        patience.cancel()


def import_deepspeed(device: str) -> Any:
    """DeepSpeed for a device, without its C++ extensions: a user's machine may have no compiler."""
    os.environ["DS_ACCELERATOR"] = device  # whatever was left there
    environment.load("deepspeed", "deepspeed.comm", "deepspeed.ops")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
