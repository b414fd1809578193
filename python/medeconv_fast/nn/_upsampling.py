"""UpSampling by a whole factor: nearest, linear, cubic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from .. import _validate
from ..ops import _geometry
from ._engine import Engine
from ._layer import Gradients, Layer, Result, Signal, Tape, plain

MODES = ("nearest", "linear", "cubic")
_PAD = 2  # how far the taps reach at most


def _keys(t: float) -> float:
    """Keys's kernel with a = -1/2, which reproduces parabolas."""
    t = abs(t)
    if t < 1:
        return 1 + t * t * (1.5 * t - 2.5)
    return 2 - t * (4 - t * (2.5 - 0.5 * t)) if t < 2 else 0.0


def taps_of(mode: str, factor: int, phase: int) -> list[tuple[int, float]]:
    """(offset, weight) of the samples that make a new one: pixel centres of both grids share the extent."""
    if mode == "nearest":
        return [(0, 1.0)]
    position = (phase + 0.5) / factor - 0.5
    base = math.floor(position)
    if mode == "linear":
        made = [(base, 1 - (position - base)), (base + 1, position - base)]
    else:
        made = [(base + k, _keys(position - base - k)) for k in (-1, 0, 1, 2)]
    return [(offset, weight) for offset, weight in made if weight]


class UpSampling(Layer):
    """Enlarge images by a whole factor; beyond the edge the edge values continue.

    Both grids cover the same extent: a pixel becomes `factor` pixels of ``1 / factor`` its width (torch's
    ``align_corners=False``).

    Parameters
    ----------
    factor : int or one int per axis
    mode : {"nearest", "linear", "cubic"}
        Cubic is Keys's convolution with a = -1/2 [1]_.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        Another mode or factor.

    References
    ----------
    .. [1] R. Keys: Cubic convolution interpolation for digital image processing. IEEE Trans. Acoust. Speech
       Signal Process. 29, 1153 (1981).
    """

    def __init__(self, factor: Any = 2, mode: str = "nearest", name: str | None = None) -> None:
        super().__init__(name)
        self.mode = _validate.choice(mode, "mode", MODES)
        self._given = plain(factor)

    def options(self) -> dict[str, Any]:
        return {"factor": self._given, "mode": self.mode}

    def connect(self, signals: Sequence[Signal]) -> Result:
        (signal,) = signals
        self.channels = signal.channels
        self.factor = _geometry.per_axis(self._given, "factor", signal.ndim, minimum=1)
        reach = {"nearest": 1.0, "linear": 1.0, "cubic": 2.0}[self.mode]
        factors = tuple(Fraction(f) for f in self.factor)
        return Result(signal.channels, factors, (reach,) * signal.ndim)

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        (x,) = inputs
        for axis, factor in enumerate(self.factor, 2):
            x = self._enlarge(x, axis, factor, engine)
        return x if x is not inputs[0] else x.copy()

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        if not needs[0]:
            return (None,)
        for axis, factor in reversed(list(enumerate(self.factor, 2))):
            grad = self._gather(grad, axis, factor)
        return (np.ascontiguousarray(grad),)

    def _enlarge(self, x: np.ndarray, axis: int, factor: int, engine: Engine) -> np.ndarray:
        if factor == 1:
            return x
        n = x.shape[axis]
        shape = list(x.shape)
        shape[axis] = n * factor
        out = engine.empty(tuple(shape), x.dtype)
        padded = np.pad(x, [(_PAD * (a == axis),) * 2 for a in range(x.ndim)], mode="edge")
        behind = (slice(None),) * axis
        for phase in range(factor):
            target = out[(*behind, slice(phase, None, factor))]
            for number, (offset, weight) in enumerate(taps_of(self.mode, factor, phase)):
                source = padded[(*behind, slice(_PAD + offset, _PAD + offset + n))]
                if number == 0:
                    np.multiply(source, x.dtype.type(weight), out=target)
                else:
                    target += x.dtype.type(weight) * source
        return out

    def _gather(self, grad: np.ndarray, axis: int, factor: int) -> np.ndarray:
        """The transpose of `_enlarge`."""
        if factor == 1:
            return grad
        n = grad.shape[axis] // factor
        shape = list(grad.shape)
        shape[axis] = n + 2 * _PAD
        padded = np.zeros(shape, grad.dtype)
        behind: tuple[Any, ...] = (slice(None),) * axis
        for phase in range(factor):
            source = grad[(*behind, slice(phase, None, factor))]
            for offset, weight in taps_of(self.mode, factor, phase):
                padded[(*behind, slice(_PAD + offset, _PAD + offset + n))] += grad.dtype.type(weight) * source
        inner = padded[(*behind, slice(_PAD, _PAD + n))]
        inner[(*behind, 0)] += padded[(*behind, slice(0, _PAD))].sum(axis)
        inner[(*behind, n - 1)] += padded[(*behind, slice(_PAD + n, None))].sum(axis)
        return inner
