"""Conv and ConvTranspose: the kernels of `medeconv_fast.ops` as layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from .. import _validate, ops
from ..ops import _geometry
from ._activations import LeakyReLU, ReLU, _Activation, activation
from ._engine import Engine
from ._layer import Gradients, Layer, Result, Signal, Tape, plain

INITS = ("he", "glorot", "zeros")


class _Convolution(Layer):
    """What both directions share."""

    transposed: bool

    def __init__(
        self,
        filters: int,
        kernel: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        padding_mode: str,
        bias: bool,
        activation_name: str | None,
        init: str | None,
        name: str | None,
    ) -> None:
        super().__init__(name)
        self.filters = _validate.integer(filters, "filters", minimum=1)
        self.groups = _validate.integer(groups, "groups", minimum=1)
        self.padding_mode = _validate.choice(padding_mode, "padding_mode", _geometry.PADDING_MODES)
        self.bias = _validate.flag(bias, "bias")
        self.activation = activation(activation_name)
        self.init = (
            ("glorot" if activation_name is None else "he")
            if init is None
            else _validate.choice(init, "init", INITS)
        )
        self._given = {
            "kernel": plain(kernel),
            "stride": plain(stride),
            "padding": plain(padding),
            "dilation": plain(dilation),
            "activation": activation_name,
        }
        if self.filters % self.groups:
            raise ValueError(f"groups: got {groups}, expected a divisor of filters, {filters}")

    def options(self) -> dict[str, Any]:
        return {
            "filters": self.filters,
            **self._given,
            "groups": self.groups,
            "padding_mode": self.padding_mode,
            "bias": self.bias,
            "init": self.init,
        }

    def connect(self, signals: Sequence[Signal]) -> Result:
        ndim, channels = signals[0].ndim, signals[0].channels
        if channels % self.groups:
            raise ValueError(
                f"groups: got {self.groups}, expected a divisor of the input's channels, {channels}"
            )
        given = self._given
        self.kernel = _geometry.per_axis(given["kernel"], "kernel", ndim, minimum=1)
        self.stride = _geometry.per_axis(given["stride"], "stride", ndim, minimum=1)
        self.dilation = _geometry.per_axis(given["dilation"], "dilation", ndim, minimum=1)
        extent = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        self.output_padding = (0,) * ndim
        if given["padding"] == "same":
            # So that a length is divided by the stride, or multiplied by it; the odd value goes behind.
            total = [e - s for e, s in zip(extent, self.stride, strict=True)]
            self.padding = tuple((max(t, 0) // 2, max(t, 0) - max(t, 0) // 2) for t in total)
            if self.transposed:
                self.output_padding = tuple(max(-t, 0) for t in total)
        else:
            self.padding = _geometry.read_padding(given["padding"], self.kernel, self.stride, self.dilation)
        self.channels = channels
        reach = tuple(float(max(low, e - 1 - low)) for (low, _), e in zip(self.padding, extent, strict=True))
        if self.transposed:
            reach = tuple(r / s + 1 for r, s in zip(reach, self.stride, strict=True))
        if self.padding_mode == "circular":  # what lies beyond one edge stands at the other
            reach = tuple(math.inf if any(pair) else r for r, pair in zip(reach, self.padding, strict=True))
        step = tuple(Fraction(s) if self.transposed else Fraction(1, s) for s in self.stride)
        return Result(self.filters, step, reach)

    def lengths(self, inputs: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        extent = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        axes = zip(inputs[0], self.stride, extent, map(sum, self.padding), self.output_padding, strict=True)
        if self.transposed:
            return tuple((n - 1) * s + e - around + more for n, s, e, around, more in axes)
        return tuple((n + around - e) // s + 1 for n, s, e, around, _ in axes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        first, second = (self.channels, self.filters) if self.transposed else (self.filters, self.channels)
        shapes: dict[str, tuple[int, ...]] = {"weight": (first, second // self.groups, *self.kernel)}
        return shapes | ({"bias": (self.filters,)} if self.bias else {})

    def initialize(self, generator: np.random.Generator, dtype: np.dtype) -> None:
        taps = math.prod(self.kernel)
        fan_in = self.channels // self.groups * taps
        fan_out = self.filters // self.groups * taps
        if self.transposed:  # of the products of a stride, each reaches another value
            fan_in = max(fan_in // math.prod(self.stride), 1)
        limit = {
            "he": math.sqrt(6 / fan_in),
            "glorot": math.sqrt(6 / (fan_in + fan_out)),
            "zeros": 0.0,
        }[self.init]
        shapes = self.shapes()
        self.weights["weight"] = generator.uniform(-limit, limit, shapes["weight"]).astype(dtype)
        if self.bias:
            self.weights["bias"] = np.zeros(shapes["bias"], dtype)

    @property
    def _layout(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "padding_mode": self.padding_mode,
        } | ({"output_padding": self.output_padding} if self.transposed else {})

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        (x,) = inputs
        out = self._computed(x, None, self.activation, engine)
        if tape is not None:
            tape["x"] = x
            if self.activation is not None:
                tape["out"] = out
        return out

    def forward_added(
        self, inputs: Sequence[np.ndarray], addend: np.ndarray, activation: Layer | None, engine: Engine
    ) -> np.ndarray:
        """What `Add` with this activation makes of the result and `addend`, in the same pass."""
        assert activation is None or isinstance(activation, _Activation)
        (x,) = inputs
        return self._computed(x, addend, activation, engine)

    def _computed(
        self, x: np.ndarray, addend: np.ndarray | None, function: _Activation | None, engine: Engine
    ) -> np.ndarray:
        operation = ops.conv_transpose if self.transposed else ops.conv
        slope = function.slope if isinstance(function, LeakyReLU) and function.slope <= 1 else 0.0
        relu = isinstance(function, ReLU) or slope > 0
        layout = self._layout
        if addend is not None:
            over = [n - m for n, m in zip(self.lengths([x.shape[2:]]), addend.shape[2:], strict=True)]
            layout["padding"] = [(a, b + more) for (a, b), more in zip(self.padding, over, strict=True)]
        out: np.ndarray = operation(
            x,
            self.weights["weight"],
            self.weights.get("bias"),
            relu=relu,
            negative_slope=slope,
            addend=addend,
            **layout,
            **engine.options,
        )
        if function is not None and not relu:
            engine.pointwise(function.apply, out)
        return out

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        x, weight = tape["x"], self.weights["weight"]
        if self.activation is not None:
            engine.pointwise(self.activation.differentiate, grad, tape["out"])
        to_weight: Callable[..., np.ndarray] = ops.conv_weight_grad
        to_input: Callable[..., np.ndarray] = ops.conv_input_grad
        if self.transposed:
            to_weight, to_input = ops.conv_transpose_weight_grad, ops.conv_transpose_input_grad
        if self.trainable:
            gradients.add(self, "weight", to_weight(grad, x, weight.shape, **self._layout, **engine.options))
            if self.bias:
                gradients.add(self, "bias", ops.conv_bias_grad(grad, **engine.options))
        if not needs[0]:
            return (None,)
        return (to_input(grad, weight, x.shape, **self._layout, **engine.options),)


class Conv(_Convolution):
    """Convolution (cross-correlation) of 1 to 3 axes, with bias and activation fused: `ops.conv`.

    Parameters
    ----------
    filters : int
        Output channels.
    kernel, stride, dilation : int or one int per axis
    padding : "same", "valid", int, one int per axis or one (low, high) pair per axis
        "same" divides a length that is a multiple of the stride by it.
    groups : int
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
    bias : bool
    activation : {None, "relu", "leaky_relu", "softplus"}
    init : {None, "he", "glorot", "zeros"}
        How the weights start: uniform within sqrt(6 / fan_in) (He et al. 2015; the default before an
        activation), within sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010; the default without one, and
        Keras's), or at 0. Biases start at 0.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        Options that do not fit; the message names them.
    """

    transposed = False

    def __init__(
        self,
        filters: int,
        kernel: Any = 3,
        stride: Any = 1,
        padding: Any = "same",
        dilation: Any = 1,
        groups: int = 1,
        *,
        padding_mode: str = "zeros",
        bias: bool = True,
        activation: str | None = None,
        init: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            filters, kernel, stride, padding, dilation, groups, padding_mode, bias, activation, init, name
        )


class ConvTranspose(_Convolution):
    """Transposed convolution, the adjoint of `Conv`; with a stride it enlarges: `ops.conv_transpose`.

    Parameters
    ----------
    filters : int
        Output channels.
    kernel, stride, dilation : int or one int per axis
        A kernel that is a multiple of the stride serves all values of the result alike.
    padding : "same", "valid", int, one int per axis or one (low, high) pair per axis
        "same" multiplies every length by the stride.
    groups, padding_mode, bias, activation, init, name
        As in `Conv`.

    Raises
    ------
    ValueError, TypeError
        Options that do not fit; the message names them.
    """

    transposed = True

    def __init__(
        self,
        filters: int,
        kernel: Any = 3,
        stride: Any = 1,
        padding: Any = "same",
        dilation: Any = 1,
        groups: int = 1,
        *,
        padding_mode: str = "zeros",
        bias: bool = True,
        activation: str | None = None,
        init: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            filters, kernel, stride, padding, dilation, groups, padding_mode, bias, activation, init, name
        )

    def can_cut(self, made: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
        """Whether `forward_added` can make `wanted` values of what would be `made`.

        What a stride has rounded up is left out behind, as padding leaves out values.
        """
        over = [n - m for n, m in zip(made, wanted, strict=True)]
        plain = self.padding_mode == "zeros" and not any(self.output_padding)
        return plain and all(0 <= more < s for more, s in zip(over, self.stride, strict=True))
