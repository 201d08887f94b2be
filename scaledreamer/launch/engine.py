"""DeepSpeed behind a small interface: one engine, its reduced gradients and its optimizer's state.

ZeRO stages 0, 1 and 2 in float32 behave alike: at every stage this module uses the same rule to decide
whether a step is finite, clips gradients in the same way, and names optimizer state by parameter. DeepSpeed's
own clipping, norms and overflow checks differ between stages and are switched off.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scaledreamer.contracts import Rendering
from scaledreamer.launch.process import Process, import_deepspeed

State = dict[str, dict[str, Tensor]]
"""Optimizer state: parameter name -> name of the state (exp_avg, step ...) -> tensor."""


@dataclass(frozen=True)
class Update:
    """The outcome of one optimizer step.

    Attributes:
        is_applied: False if the step was not finite on some rank and was skipped on all.
        gradient_norm: before clipping.
        clipped_norm: after clipping.
        wants_stop: whether any rank wants to stop.
    """

    is_applied: bool
    gradient_norm: float
    clipped_norm: float
    wants_stop: bool


class Engine:
    """One trained module under DeepSpeed.

    Args:
        module: the forward pass, with all parameters.
        trained: the part of the module that is trained; parameter names are relative to it.
        optimizer: optimizer of the module's parameters.
        process: this process.
        micro_batch_size: samples of this rank per accumulation step.
        accumulation_steps: backward passes per step.
        zero_stage: 0, 1 or 2.
        max_norm: maximum norm of the gradient over all parameters; None is unlimited.
    """

    def __init__(
        self,
        module: nn.Module,
        trained: nn.Module,
        optimizer: torch.optim.Optimizer,
        process: Process,
        *,
        micro_batch_size: int,
        accumulation_steps: int = 1,
        zero_stage: int = 0,
        max_norm: float | None = None,
    ) -> None:
        deepspeed = import_deepspeed(process.device.type)
        zero: dict[str, Any] = {"stage": zero_stage}
        if zero_stage:
            zero |= {"overlap_comm": False, "compute_grad_norm": False}
        settings = {
            "train_batch_size": micro_batch_size * accumulation_steps * process.world_size,
            "train_micro_batch_size_per_gpu": micro_batch_size,
            "gradient_accumulation_steps": accumulation_steps,
            "gradient_clipping": 0.0,
            "steps_per_print": 2**62,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
        }
        self.process = process
        self.module = module
        self.trained = trained
        self.optimizer = optimizer
        self.zero_stage = zero_stage
        self.max_norm = max_norm
        with _quiet_stdout():
            self._engine: Any = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]
        self._zero: Any = self._engine.optimizer if zero_stage else None

    def __call__(
        self, batch: object, terms: frozenset[str], needs: frozenset[str]
    ) -> tuple[Rendering, dict[str, Tensor]]:
        """The module's forward pass, see `training.rendered.RenderedGenerator.forward`."""
        return self._engine(batch, terms, needs)

    def backward(self, loss: Float[Tensor, ""], *, is_last: bool) -> None:
        """Accumulates gradients; the step's last backward pass averages them over ranks."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss)

    def step(self, is_finite: Bool[Tensor, ""], *, wants_stop: bool = False) -> Update:
        """Updates the parameters unless the step is not finite on some rank; all ranks decide alike.

        Args:
            is_finite: this rank's knowledge beyond its gradients, such as pixels that clipping has zeroed.
            wants_stop: whether this rank wants the run to stop.
        """
        gradients = self.reduced_gradients()
        squared_norm = total_norm(gradients).double().square()
        if self.zero_stage == 0:  # every rank has all gradients; at other stages only a part
            squared_norm = squared_norm / self.process.world_size
        flags = (squared_norm, (~is_finite).double(), torch.full_like(squared_norm, float(wants_stop)))
        report = torch.stack([flag.to(squared_norm.device) for flag in flags])
        if self.process.world_size > 1:
            dist.all_reduce(report)
        total, num_nonfinite, num_stops = report.tolist()  # waits for the device
        is_applied = math.isfinite(total) and num_nonfinite == 0
        norm = math.sqrt(total) if math.isfinite(total) else math.nan
        scale = 1.0
        if is_applied:
            if self.max_norm is not None and norm > self.max_norm:
                scale = self.max_norm / (norm + 1e-6)
                torch._foreach_mul_(gradients, scale)
            self._engine.step()
        else:
            self._discard_gradients()
        return Update(is_applied, norm, norm * scale, num_stops > 0)

    def reduced_gradients(self) -> list[Tensor]:
        """Gradients averaged over ranks, after the last backward pass; with ZeRO 1 and 2 this rank's part."""
        if self._zero is None:
            return [p.grad for p in self.trained.parameters() if p.grad is not None]
        return [gradient for group in self._zero.averaged_gradients.values() for gradient in group]

    def _discard_gradients(self) -> None:
        """Discards a step's gradients, including those that ZeRO has accumulated."""
        self._engine.zero_grad()
        if self._zero is not None:
            self._zero.zero_grad(set_to_none=True)
            for group in self._zero.averaged_gradients:
                self._zero.averaged_gradients[group] = None
                self._zero.all_grad_tensors[group] = None
            self._zero.micro_step_id = -1

    # --- state by parameter name ----------------------------------------------------------------------------

    def optimizer_state(self) -> State:
        """The full state of every parameter, on the CPU. All ranks have to call it together."""
        state: State = {}
        for name, parameter in self._trained():
            if self._zero is None:
                whole = self.optimizer.state.get(parameter, {})
            else:
                whole = self._gather(parameter)
            state[name] = {
                key: value.detach().cpu().clone() for key, value in whole.items() if isinstance(value, Tensor)
            }
        return state

    def load_optimizer_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restores what `optimizer_state` returned, for any number of ranks and any ZeRO stage."""
        for name, parameter in self._trained():
            if self._zero is None:
                whole = {key: value.clone().to(parameter.device) for key, value in state[name].items()}
                self.optimizer.state[parameter] = whole
            else:
                self._scatter(parameter, state[name])

    def load_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Loads the trained module, strictly, and ZeRO's copies of it."""
        self.trained.load_state_dict(parameters, strict=True)
        if self._zero is not None:
            self._zero.refresh_fp32_params()

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.trained.named_parameters() if p.requires_grad)

    def _flat(self, parameter: nn.Parameter) -> tuple[Tensor, Any]:
        """This rank's flat ZeRO partition with a parameter, and its position there (None: not in it)."""
        for flat, group in zip(
            self._zero.single_partition_of_fp32_groups, self._zero.bit16_groups, strict=True
        ):
            if any(p is parameter for p in group):
                return flat, getattr(parameter, "_hp_mapping", None)
        raise AssertionError("a trained parameter in no group of the optimizer")

    def _gather(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        flat, place = self._flat(parameter)
        whole: dict[str, Tensor] = {}
        for key, value in self.optimizer.state.get(flat, {}).items():
            if not isinstance(value, Tensor) or value.shape != flat.shape:
                whole[key] = value
                continue
            full = torch.zeros(parameter.numel(), dtype=value.dtype, device=value.device)
            if place is not None:
                here, there = place.lp_fragment_address, place.hp_fragment_address
                full.narrow(0, here.start, here.numel).copy_(value.narrow(0, there.start, there.numel))
            if self.process.world_size > 1:
                dist.all_reduce(full)
            whole[key] = full.view(parameter.shape)
        return whole

    def _scatter(self, parameter: nn.Parameter, state: Mapping[str, Tensor]) -> None:
        flat, place = self._flat(parameter)
        parts = self.optimizer.state[flat]
        for key, value in state.items():
            if value.ndim == 0 and parameter.ndim > 0:
                parts[key] = value.clone().to(flat.device)
                continue
            part = parts.setdefault(key, torch.zeros_like(flat))
            if place is not None:
                here, there = place.lp_fragment_address, place.hp_fragment_address
                part.narrow(0, there.start, there.numel).copy_(
                    value.flatten().narrow(0, here.start, here.numel)
                )


def total_norm(gradients: Sequence[Tensor]) -> Float[Tensor, ""]:
    """L2 norm of all gradients as one vector."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Suppresses what DeepSpeed prints while it starts."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
