"""The cost of a computation, counted from its tensor operations: on a CPU, a GPU, or on torch's meta device,
where tensors have only shapes and networks of any size are free.

A product of an m x k and a k x n matrix takes 2 m k n floating-point operations. Only products, convolutions
and attention are counted, as in `torch.utils.flop_counter`. Bytes are those of tensors; temporary memory of
kernels and rounding by the allocator are not included.

Attention is `scaled_dot_product_attention`, whose CPU and GPU kernels never store the matrix of all pairs of
tokens. On the meta device torch decomposes it, including the matrix; here it is replaced by the CPU kernel,
which has the outputs and saved tensors of the fused ones. Its backward pass recomputes the pairs: five
products, compared with two in the forward pass.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Cost:
    """The cost of a computation.

    Attributes:
        flops: floating-point operations of its products.
        peak_bytes: peak memory of the tensors it creates; views count once.
        kept_bytes: memory still in use at its end: its result and what autograd saved for it.
        seconds: run time without counting; None if it was not timed.
    """

    flops: int
    peak_bytes: int
    kept_bytes: int = 0
    seconds: float | None = None


def count(function: Callable[[], Any], *, timed: bool = False) -> Cost:
    """Cost of one call, including what autograd saves if gradients are enabled.

    Args:
        function: the computation; its result is kept until the end of the call.
        timed: call it a second time, without counting, and measure the seconds.
    """
    with _fused_attention(), Counter() as counter:
        result = function()
        kept_bytes = counter.bytes
    del result
    seconds = None
    if timed:
        synchronize()
        start = time.perf_counter()
        function()
        synchronize()
        seconds = time.perf_counter() - start
    return Cost(counter.flops, counter.peak_bytes, kept_bytes, seconds)


def synchronize() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers in their present dtypes."""
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])


class Counter(TorchDispatchMode):
    """Counts all operations inside it, and tracks the memory of their results by weak references.

    Torch's `FlopCounterMode` counts the same, but its hooks prolong the lifetime of modules and graphs.

    Attributes:
        flops: of all products so far.
        bytes: currently in use.
        peak_bytes: maximum in use after any operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = self.peak_bytes = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._follow(tensor, nbytes=0)  # already tracked, or created outside
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._follow(tensor, nbytes=tensor.untyped_storage().nbytes())
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        flops_of = _FLOPS.get(func._overloadpacket)
        if flops_of is not None:
            self.flops += flops_of(*args, **(kwargs or {}), out_val=out)
        return out

    def _follow(self, tensor: Tensor, nbytes: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = weakref.ref(storage, partial(self._forget, key, nbytes))
        self.bytes += nbytes

    def _forget(self, key: int, nbytes: int, _: Any) -> None:
        del self._known[key]
        self.bytes -= nbytes


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention on the meta device without the matrix of all pairs.

    The function itself is replaced, because torch leaves a dispatch mode during the backward pass, in which
    checkpointed parts of the graph are recomputed.
    """
    plain = F.scaled_dot_product_attention

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if query.device.type != "meta" or query.dim() != 4 or enable_gqa:
            return plain(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        return _attention(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain


def _pairs_flops(query: Tensor, key: Tensor) -> int:
    """Operations of one product between all pairs of tokens; both are (batch, head, token, d_head)."""
    return 2 * query.numel() * key.shape[2]


def _attention_flops(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * _pairs_flops(query, key)


def _attention_backward_flops(grad: Tensor, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> int:
    return 5 * _pairs_flops(query, key)


_FLOPS: dict[Any, Callable[..., int]] = flop_registry | {
    _attention: _attention_flops,
    _attention_backward: _attention_backward_flops,
}
