"""Layers of several inputs: Add, Multiply, Divide, Concat, Crop."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from .. import _validate
from ._activations import activation as activation_of
from ._engine import Engine
from ._layer import Gradients, Layer, Result, Signal, Tape


def _check_grids(signals: Sequence[Signal]) -> None:
    scales = [tuple(str(s) for s in signal.scale) for signal in signals]
    if any(scale != scales[0] for scale in scales):
        raise ValueError(
            f"got inputs on grids of scale {scales} relative to the network's input, expected one"
        )


def _check_channels(signals: Sequence[Signal]) -> None:
    channels = [signal.channels for signal in signals]
    if len(set(channels)) > 1:
        raise ValueError(f"got inputs of {channels} channels, expected as many in each")
    _check_grids(signals)


def _check_shapes(inputs: Sequence[np.ndarray]) -> None:
    sizes = [(len(x), *x.shape[2:]) for x in inputs]
    if any(size != sizes[0] for size in sizes):
        shapes = [x.shape for x in inputs]
        raise ValueError(f"got inputs of shapes {shapes}, expected one number and one size of images")


class Add(Layer):
    """The sum of two or more inputs of the same shape, and an activation of it in the same pass.

    Parameters
    ----------
    activation : {None, "relu", "leaky_relu", "softplus"}
    name : str, optional

    Raises
    ------
    ValueError
        Another activation.
    """

    arity = None

    def __init__(self, activation: str | None = None, name: str | None = None) -> None:
        super().__init__(name)
        self._given, self.activation = activation, activation_of(activation)

    def options(self) -> dict[str, Any]:
        return {"activation": self._given}

    def connect(self, signals: Sequence[Signal]) -> Result:
        _check_channels(signals)
        return super().connect(signals)

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        _check_shapes(inputs)
        out = engine.empty(inputs[0].shape, inputs[0].dtype)

        def total(target: np.ndarray, first: np.ndarray, second: np.ndarray, *others: np.ndarray) -> None:
            np.add(first, second, out=target)
            for other in others:
                target += other
            if self.activation is not None:
                self.activation.apply(target)

        engine.pointwise(total, out, *inputs)
        if tape is not None and self.activation is not None:
            tape["out"] = out
        return out

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        if self.activation is not None:
            engine.pointwise(self.activation.differentiate, grad, tape["out"])
        wanted = [i for i, need in enumerate(needs) if need]
        return [
            None if i not in wanted else grad if i == wanted[0] else grad.copy() for i in range(len(needs))
        ]


class Concat(Layer):
    """The channels of two or more inputs, one after the other.

    Parameters
    ----------
    name : str, optional
    """

    arity = None

    def connect(self, signals: Sequence[Signal]) -> Result:
        _check_grids(signals)
        ndim = signals[0].ndim
        return Result(sum(s.channels for s in signals), (Fraction(1),) * ndim, (0.0,) * ndim)

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        _check_shapes(inputs)
        counts = [x.shape[1] for x in inputs]
        first = inputs[0]
        out = engine.empty((first.shape[0], sum(counts), *first.shape[2:]), first.dtype)
        np.concatenate(inputs, axis=1, out=out)
        if tape is not None:
            tape["ends"] = np.cumsum(counts)
        return out

    def completed(self, inputs: Sequence[np.ndarray], out: np.ndarray) -> np.ndarray:
        """The same, of one image, where some of the inputs lie in their places in `out`."""
        _check_shapes(inputs)
        start = 0
        for x in inputs:
            place = out[:, start : start + x.shape[1]]
            if x.ctypes.data != place.ctypes.data:
                np.copyto(place, x)
            start += x.shape[1]
        return out

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        parts = np.split(grad, tape["ends"][:-1], axis=1)
        return [part.copy() if need else None for part, need in zip(parts, needs, strict=True)]


class Multiply(Layer):
    """The product of two inputs of the same shape.

    Parameters
    ----------
    name : str, optional
    """

    arity = 2

    def connect(self, signals: Sequence[Signal]) -> Result:
        _check_channels(signals)
        return super().connect(signals)

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        _check_shapes(inputs)
        out = engine.empty(inputs[0].shape, inputs[0].dtype)
        engine.pointwise(lambda target, a, b: np.multiply(a, b, out=target), out, *inputs)
        if tape is not None:
            tape["inputs"] = list(inputs)
        return out

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        one, other = tape["inputs"]
        return [grad * other if needs[0] else None, grad * one if needs[1] else None]


class Divide(Layer):
    """The first input over the second, which counts as `floor` where it is smaller.

    Parameters
    ----------
    floor : float
        Greater than 0.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        Another floor.
    """

    arity = 2

    def __init__(self, floor: float = 1e-3, name: str | None = None) -> None:
        super().__init__(name)
        self.floor = _validate.number(floor, "floor", above=0)

    def options(self) -> dict[str, Any]:
        return {"floor": self.floor}

    def connect(self, signals: Sequence[Signal]) -> Result:
        _check_channels(signals)
        return super().connect(signals)

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        _check_shapes(inputs)
        above, below = inputs
        divisor = np.maximum(below, below.dtype.type(self.floor))
        out = engine.empty(above.shape, above.dtype)
        engine.pointwise(lambda target, a, b: np.divide(a, b, out=target), out, above, divisor)
        if tape is not None:
            tape["divisor"], tape["out"], tape["free"] = divisor, out, below > self.floor
        return out

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        grad /= tape["divisor"]
        to_below = -grad * tape["out"] * tape["free"] if needs[1] else None
        return [grad if needs[0] else None, to_below]


class Crop(Layer):
    """The first values of each axis of the first input, as many as the second has; both on one grid.

    After strides have rounded a length up, the way back is longer by a few values than what it came from.

    Parameters
    ----------
    name : str, optional
    """

    arity = 2

    def connect(self, signals: Sequence[Signal]) -> Result:
        _check_grids(signals)
        self.ndim = signals[0].ndim
        return super().connect(signals)

    def lengths(self, inputs: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        return inputs[1]

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        x, like = inputs
        if any(n < m for n, m in zip(x.shape[2:], like.shape[2:], strict=True)):
            raise ValueError(f"got inputs of shapes {[a.shape for a in inputs]}, expected a first as large")
        if tape is not None:
            tape["shape"] = x.shape
        return x if x.shape[2:] == like.shape[2:] else x[self._cut(like.shape)].copy()

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        made = None
        if needs[0]:
            made = grad
            if grad.shape != tape["shape"]:
                made = np.zeros(tape["shape"], grad.dtype)
                made[self._cut(grad.shape)] = grad
        return (made, None)  # the second only lends its size

    @staticmethod
    def _cut(shape: tuple[int, ...]) -> tuple[slice, ...]:
        return (slice(None), slice(None), *(slice(0, n) for n in shape[2:]))
