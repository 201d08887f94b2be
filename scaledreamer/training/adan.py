"""Adan, adaptive Nesterov momentum (arXiv 2208.06677, algorithm 1), which torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Adan(torch.optim.Optimizer):
    """A variant of Adam with a third average, of the change of gradients between steps.

    With g the gradient, d its difference to the previous one (0 in the first step) and betas as the decay of
    each average:

        m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) d        n = b3 n + (1 - b3) (g + b2 d)^2
        x = (x - lr (m' + b2 v') / (sqrt(n') + eps)) / (1 + lr weight_decay)

    where ' denotes bias correction as in Adam. Betas follow the authors' code and Adam; the paper's are one
    minus these.

    Args:
        params: as in any torch optimizer.
        lr: learning rate.
        betas: for gradient, difference and square, each in [0, 1).
        eps: added to the denominator.
        weight_decay: decoupled and proximal.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        assert len(betas) == 3 and all(0 <= beta < 1 for beta in betas), betas
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_step: dict[float, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq"):
                        state[name] = torch.zeros_like(parameter)
                    state["last_grad"] = parameter.grad.clone()
                state["step"] += 1
                by_step.setdefault(state["step"].item(), []).append(parameter)
            for count, parameters in by_step.items():
                self._update(parameters, count, group)
        return loss

    def _update(self, parameters: list[Tensor], count: float, group: dict[str, Any]) -> None:
        """The update of parameters with the same step count, with one kernel launch per operation."""
        first, second, third = group["betas"]
        lr, eps = group["lr"], group["eps"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        averages, changes, squares, last = (
            [self.state[parameter][name] for parameter in parameters]
            for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq", "last_grad")
        )
        differences = torch._foreach_sub(gradients, last)
        torch._foreach_copy_(last, gradients)
        torch._foreach_lerp_(averages, gradients, 1 - first)
        torch._foreach_lerp_(changes, differences, 1 - second)
        ahead = torch._foreach_add(gradients, differences, alpha=second)
        torch._foreach_mul_(squares, third)
        torch._foreach_addcmul_(squares, ahead, ahead, 1 - third)

        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, (1 - third**count) ** 0.5)
        torch._foreach_add_(denominators, eps)
        torch._foreach_addcdiv_(parameters, averages, denominators, -lr / (1 - first**count))
        torch._foreach_addcdiv_(parameters, changes, denominators, -lr * second / (1 - second**count))
        if group["weight_decay"]:
            torch._foreach_div_(parameters, 1 + lr * group["weight_decay"])
