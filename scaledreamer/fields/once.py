"""Backward passes that refuse a second derivative instead of returning a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_MESSAGE = (
    "The hash grid can be differentiated once only. For derivatives of a gradient in the points take finite "
    "differences (scaledreamer.fields.sdf.finite_difference_gradient), which need no second derivative."
)


class _Refuse(torch.autograd.Function):
    """The identity on gradients, which raises when they are differentiated."""

    @staticmethod
    def forward(ctx: Any, num_anchors: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors[num_anchors:])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(_MESSAGE)


def once(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Decorator for the `backward` of an autograd function that is differentiable only once."""

    def wrapped(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        with torch.no_grad():
            results = backward(ctx, *grads)
        if not torch.is_grad_enabled():  # the usual case: no graph of the gradients is needed
            return results
        anchors = [tensor for tensor in (*grads, *ctx.saved_tensors) if tensor.requires_grad]
        if not anchors:
            return results
        tensors = [result for result in results if isinstance(result, Tensor)]
        refusing = iter(_Refuse.apply(len(anchors), *anchors, *tensors))
        return tuple(next(refusing) if isinstance(result, Tensor) else result for result in results)

    return wrapped
