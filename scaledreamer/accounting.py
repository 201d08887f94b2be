"""What a computation costs, counted by watching its tensor operations: on a CPU, a GPU, or on torch's meta
device, where shapes are all there is and networks of any size cost nothing.

A product of an m x k by a k x n matrix is 2 m k n floating-point operations. Only products, convolutions and
attention are counted, as in `torch.utils.flop_counter`. Bytes are those of tensors; what a kernel takes for
itself while it runs, and what an allocator rounds up to, is not seen.

Attention is `scaled_dot_product_attention`, whose kernels on CPUs and GPUs never hold the matrix of all pairs
of tokens. On the meta device torch writes it out, matrix included; here its place is taken by the CPU's
kernel, which has the outputs and saves of the fused ones. That kernel's backward recomputes the pairs: five
products to the forward's two.
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
    """What a computation costs.

    Attributes:
        flops: floating-point operations of its products.
        peak_bytes: most bytes alive at once of tensors made by it, views counted once.
        kept_bytes: of these, what is alive at its end, its result and what autograd saved for it.
        seconds: how long it takes uncounted; None where it was not timed.
    """

    flops: int
    peak_bytes: int
    kept_bytes: int = 0
    seconds: float | None = None


def count(function: Callable[[], Any], *, timed: bool = False) -> Cost:
    """Cost of one call, with what autograd saves if gradients are enabled.

    Args:
        function: to be counted; what it returns lives to the end of the call.
        timed: call it a second time, uncounted, and measure the seconds.
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
    """Bytes of a module's weights and buffers in the dtypes that they have."""
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])


class Counter(TorchDispatchMode):
    """Counts all operations inside it, and follows the memory of what they make by weak references.

    Torch's own `FlopCounterMode` counts the same, but hooks modules and their graphs, which then live longer.

    Attributes:
        flops: of all products so far.
        bytes: alive now.
        peak_bytes: most that were alive after any operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = self.peak_bytes = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._follow(tensor, nbytes=0)  # known as ours already, or made outside
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

    The function is replaced, since a mode of torch's is left while a gradient is computed, and with it the
    parts of the graph that are made again then.
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
    """Of one product between all pairs of tokens; both are (batch, head, token, d_head)."""
    return 2 * query.numel() * key.shape[2]


def _attention_flops(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * _pairs_flops(query, key)


def _attention_backward_flops(grad: Tensor, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> int:
    return 5 * _pairs_flops(query, key)


_FLOPS: dict[Any, Callable[..., int]] = flop_registry | {
    _attention: _attention_flops,
    _attention_backward: _attention_backward_flops,
}
