"""Convolution of networks on the GPU, over the module ``_cuda``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._device import FLOAT64, DeviceArray, native
from ._cuda_base import Array, Call, memory_of, suffix


def _workspace(call: Call, nbytes: int, dtype: np.dtype) -> DeviceArray | None:
    return call.empty((nbytes // dtype.itemsize,), dtype) if nbytes else None


def _end(relu: bool, addend: Any, slope: float, out: Any) -> None:
    """What is done to results, in passes of its own, on the side where they are."""
    with np.errstate(over="ignore", invalid="ignore"):  # under the emulator these are NumPy's; no GPU says it
        if addend is not None:
            out += addend.reshape(out.shape)
        if relu and slope:
            (np.maximum if slope <= 1 else np.minimum)(out, out * float(slope), out=out)
        elif relu:
            np.maximum(out, 0, out=out)


class ConvPlan:
    """Convolution of one shape as networks mean it: forward, its transpose and its gradient in the weight."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        weight_shape: tuple[int, ...],
        stride: tuple[int, ...],
        padding: Any,
        dilation: tuple[int, ...],
        groups: int,
        padding_mode: str,
        dtype: Any,
        exact: bool = False,
    ) -> None:
        self.input_shape = tuple(int(n) for n in input_shape)
        self.weight_shape = tuple(int(n) for n in weight_shape)
        self.dtype = np.dtype(dtype)
        pairs = [(int(low), int(high)) for low, high in padding]
        self._plan = getattr(native(), "ConvPlan" + suffix(dtype))(
            self.input_shape,
            self.weight_shape,
            stride,
            pairs,
            dilation,
            int(groups),
            padding_mode,
            bool(exact),
        )
        self._forward_bytes = int(self._plan.forward_bytes)
        self._input_grad_bytes = int(self._plan.input_grad_bytes)
        self._weight_grad_bytes = int(self._plan.weight_grad_bytes)
        spatial = zip(self.input_shape[2:], self.weight_shape[2:], stride, pairs, dilation, strict=True)
        self.output_shape = (self.input_shape[0], self.weight_shape[0]) + tuple(
            (n + low + high - (k - 1) * d - 1) // s + 1 for n, k, s, (low, high), d in spatial
        )

    @property
    def family(self) -> str:
        """Of the forward kernel."""
        return str(self._plan.family)

    @property
    def workspace_bytes(self) -> int:
        """The most that one call takes beside its arrays."""
        return max(self._forward_bytes, self._input_grad_bytes, self._weight_grad_bytes)

    def forward(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        out: Array,
        *,
        relu: bool = False,
        addend: Array | None = None,
        slope: float = 0.0,
        num_threads: int | None = None,
    ) -> None:
        if addend is not None or slope:
            self.forward(x, w, bias, out, num_threads=num_threads)
            _end(relu, addend, slope, out)
            return
        call = Call(memory_of(x, w, bias, out))
        offset = None if bias is None else call.read(bias)
        work = _workspace(call, self._forward_bytes, self.dtype)
        given, to = call.read(x), call.written(out)
        self._plan.forward(call.memory.place, given, call.read(w), offset, to, relu, work)
        call.finish()

    def input_grad(
        self,
        grad: Array,
        w: Array,
        bias: Array | None,
        out: Array,
        *,
        relu: bool = False,
        addend: Array | None = None,
        slope: float = 0.0,
        num_threads: int | None = None,
    ) -> None:
        if addend is not None or slope:
            self.input_grad(grad, w, bias, out, num_threads=num_threads)
            _end(relu, addend, slope, out)
            return
        call = Call(memory_of(grad, w, bias, out))
        offset = None if bias is None else call.read(bias)
        work = _workspace(call, self._input_grad_bytes, self.dtype)
        given, to = call.read(grad), call.written(out)
        self._plan.input_grad(call.memory.place, given, call.read(w), offset, to, relu, work)
        call.finish()

    def weight_grad(self, grad: Array, x: Array, out: Array, *, num_threads: int | None = None) -> None:
        call = Call(memory_of(grad, x, out))
        work = _workspace(call, self._weight_grad_bytes, self.dtype)
        self._plan.weight_grad(call.memory.place, call.read(grad), call.read(x), call.written(out), work)
        call.finish()


def sum_channels(x: Array, out: Array, *, num_threads: int | None = None) -> None:
    """The sum over all but axis 1: a convolution's gradient in its bias."""
    call = Call(memory_of(x, out))
    batch, channels, *spatial = x.shape
    sizes = (batch, channels, math.prod(spatial))
    work = _workspace(call, native().sum_channels_bytes(*sizes), FLOAT64)
    kernel = getattr(native(), "sum_channels_" + suffix(x.dtype))
    kernel(call.memory.place, call.read(x), *sizes, call.written(out), work)
    call.finish()
