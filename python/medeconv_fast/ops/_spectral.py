"""Convolution by large kernels through transforms: the interface of a `ConvPlan`, and when that is cheaper.

One pair of channels at a time goes through the same operator as `medeconv_fast.convolve`, which adds its
result to what the pairs before it left: no pass over memory of its own, and one transfer function, one
spectrum of a padded image beside the arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from .. import _costs
from .._blur import Geometry, Operator
from .._convolution import window_of_full
from ._end import End
from ._geometry import Layer

_BOUNDARY = {"reflect": "mirror", "replicate": "nearest", "circular": "wrap"}


class SpectralPlan:
    """Of a `layer` to which it `applies`."""

    family = "spectral"

    def __init__(self, kernels: ModuleType, layer: Layer, dtype: np.dtype) -> None:
        self._kernels, self._dtype = kernels, dtype
        self._groups, self._boundary = layer.groups, _BOUNDARY.get(layer.padding_mode)
        self._low, self._high = (tuple(pair[end] for pair in layer.padding) for end in (0, 1))
        self._dilation, self._kernel = layer.dilation, layer.weight_shape[2:]
        self._forward = _forward_layout(layer, kernels)
        self._weight = _weight_layout(layer, kernels)

    def forward(
        self,
        x: np.ndarray,
        w: np.ndarray,
        bias: np.ndarray | None,
        out: np.ndarray,
        *,
        relu: bool = False,
        addend: np.ndarray | None = None,
        slope: float = 0.0,
        num_threads: int | None = None,
    ) -> None:
        fill(out, bias)
        end = End(relu, addend, slope)
        relu = relu and end.is_plain  # with the last term
        for o, c, index in self._pairs(out.shape[1], x.shape[1]):
            operator = self._operator(self._dilated(w[o, index]), self._forward, num_threads)
            final = index == w.shape[1] - 1
            for item, result in zip(x[:, c], out[:, o], strict=True):
                _add(operator, self._padded(item, num_threads), result, relu and final)
        if not end.is_plain:
            end.apply(out)

    def input_grad(
        self,
        grad: np.ndarray,
        w: np.ndarray,
        bias: np.ndarray | None,
        out: np.ndarray,
        *,
        relu: bool = False,
        addend: np.ndarray | None = None,
        slope: float = 0.0,
        num_threads: int | None = None,
    ) -> None:
        fill(out, bias)
        end = End(relu, addend, slope)
        relu = relu and end.is_plain  # with the last term
        per_group = grad.shape[1] // self._groups
        for o, c, index in self._pairs(grad.shape[1], out.shape[1]):
            operator = self._operator(self._dilated(w[o, index]), self._forward, num_threads)
            final = o % per_group == per_group - 1
            for item, result in zip(grad[:, o], out[:, c], strict=True):
                if self._boundary is None:
                    _add(operator, item, result, relu and final, adjoint=True)
                    continue
                wide = operator.apply(item, adjoint=True)
                result += self._kernels.fold(
                    wide, self._low, self._high, self._boundary, num_threads=num_threads
                )
                if relu and final:
                    np.maximum(result, 0, out=result)
        if not end.is_plain:
            end.apply(out)

    def weight_grad(
        self, grad: np.ndarray, x: np.ndarray, out: np.ndarray, *, num_threads: int | None = None
    ) -> None:
        out[...] = 0
        whole = np.zeros(self._weight.shape, self._dtype)
        taps = tuple(slice(None, None, d) for d in self._dilation)
        for o, c, index in self._pairs(grad.shape[1], x.shape[1]):
            whole[...] = 0
            for item, of_result in zip(x[:, c], grad[:, o], strict=True):
                operator = self._operator(of_result, self._weight, num_threads)
                _add(operator, self._padded(item, num_threads), whole)
            out[o, index] = whole[taps]

    def _pairs(self, outputs: int, inputs: int) -> Iterator[tuple[int, int, int]]:
        """Output channel, input channel, the latter's number within its group."""
        per_group = inputs // self._groups
        for o in range(outputs):
            first = o // (outputs // self._groups) * per_group
            for index in range(per_group):
                yield o, first + index, index

    def _dilated(self, taps: np.ndarray) -> np.ndarray:
        if all(d == 1 for d in self._dilation):
            return taps
        wide = np.zeros(_extent(self._kernel, self._dilation), self._dtype)
        wide[tuple(slice(None, None, d) for d in self._dilation)] = taps
        return wide

    def _padded(self, item: np.ndarray, num_threads: int | None) -> np.ndarray:
        if self._boundary is None:
            return item
        return self._kernels.pad(item, self._low, self._high, self._boundary, num_threads=num_threads)

    def _operator(self, taps: np.ndarray, layout: Geometry, num_threads: int | None) -> Operator:
        """Correlation with `taps`: convolution with them reversed."""
        reversed_taps = np.ascontiguousarray(np.flip(taps))
        return Operator(reversed_taps, layout, "zero", self._kernels, num_threads, "spectral")


def applies(layer: Layer) -> bool:
    """Whether transforms can compute the layer.

    Not to lines, where direct sums are faster (measured up to 257 taps); not with strides, of whose results
    most would be thrown away; and not where zeros are padded beyond the reach of the kernel or, for the
    weight's gradient, of the result.
    """
    lines = len(layer.weight_shape) == 3
    if lines or any(s > 1 for s in layer.stride) or any(layer.beyond):
        return False
    extent = _extent(layer.weight_shape[2:], layer.dilation)
    limits = zip(layer.padding, extent, layer.output_shape[2:], strict=True)
    return layer.padding_mode != "zeros" or all(max(pair) < min(e, n) for pair, e, n in limits)


def is_cheaper(layer: Layer, kernels: ModuleType, *, weight: bool = False) -> bool:
    """Whether transforms are predicted to take less time than direct sums; `weight`: for its gradient."""
    layout = _weight_layout(layer, kernels) if weight else _forward_layout(layer, kernels)
    kinds = layer.weight_shape[0] * layer.weight_shape[1]
    pairs = kinds * layer.input_shape[0]
    products = math.prod(layer.weight_shape[2:]) * math.prod(layer.output_shape[2:]) * pairs
    made = {"images": pairs} if weight else {"kernels": kinds}
    through = _costs.spectral_layer_ns(layout.grid, layout.estimate_shape, pairs, **made)
    return through < _costs.layer_ns(products, single=layer.weight_shape[0] == layer.groups)


def _extent(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))


def _filtered(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The image that is filtered, and the zeros before it that are left to the operator."""
    if layer.padding_mode == "zeros":
        return layer.input_shape[2:], tuple(low for low, _ in layer.padding)
    lengths = zip(layer.input_shape[2:], layer.padding, strict=True)
    return tuple(low + n + high for n, (low, high) in lengths), (0,) * len(layer.padding)


def _forward_layout(layer: Layer, kernels: ModuleType) -> Geometry:
    shape, low = _filtered(layer)
    extent = _extent(layer.weight_shape[2:], layer.dilation)
    starts = tuple(e - 1 - before for e, before in zip(extent, low, strict=True))
    return window_of_full(shape, extent, starts, layer.output_shape[2:], kernels)


def _weight_layout(layer: Layer, kernels: ModuleType) -> Geometry:
    """Correlation of the image with the gradient of the result, at the lags that the kernel has."""
    shape, low = _filtered(layer)
    outputs = layer.output_shape[2:]
    starts = tuple(n - 1 - before for n, before in zip(outputs, low, strict=True))
    return window_of_full(shape, outputs, starts, _extent(layer.weight_shape[2:], layer.dilation), kernels)


def fill(out: np.ndarray, bias: np.ndarray | None) -> None:
    """What a sum is before its first term: zero; the bias stays."""
    out[...] = 0 if bias is None else bias.reshape(1, -1, *(1,) * (out.ndim - 2))


def _add(
    operator: Operator, item: np.ndarray, result: np.ndarray, positive: bool = False, *, adjoint: bool = False
) -> None:
    operator.begin(item, adjoint=adjoint).sweep(
        "add", adjoint=adjoint, keep=False, estimate=result, positive=positive, out=result
    )
