"""GroupNorm and InstanceNorm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from .. import _validate
from ._engine import Engine
from ._layer import Gradients, Layer, Result, Signal, Tape


class GroupNorm(Layer):
    """Bring each group of channels of each image to mean 0 and variance 1, then scale and shift [1]_.

    A value then depends on the whole image: `Model.predict` refuses tiles.

    Parameters
    ----------
    groups : int
        A divisor of the channels.
    eps : float
        Added to the variance.
    affine : bool
        Learn a scale (weight) and a shift (bias) per channel.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        Numbers that do not fit.

    References
    ----------
    .. [1] Y. Wu, K. He: Group normalization. ECCV 2018, arXiv:1803.08494.
    """

    def __init__(
        self, groups: int = 8, eps: float = 1e-5, affine: bool = True, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.groups = _validate.integer(groups, "groups", minimum=1)
        self.eps = _validate.number(eps, "eps", above=0)
        self.affine = _validate.flag(affine, "affine")

    def options(self) -> dict[str, Any]:
        return {"groups": self.groups, "eps": self.eps, "affine": self.affine}

    def _groups_of(self, channels: int) -> int:
        if channels % self.groups:
            raise ValueError(f"groups: got {self.groups}, expected a divisor of the {channels} channels")
        return self.groups

    def connect(self, signals: Sequence[Signal]) -> Result:
        (signal,) = signals
        self.channels, self.ndim = signal.channels, signal.ndim
        self._groups_of(signal.channels)
        return Result(signal.channels, (Fraction(1),) * signal.ndim, (math.inf,) * signal.ndim)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.channels,), "bias": (self.channels,)} if self.affine else {}

    def initialize(self, generator: np.random.Generator, dtype: np.dtype) -> None:
        if self.affine:
            self.weights["weight"] = np.ones(self.channels, dtype)
            self.weights["bias"] = np.zeros(self.channels, dtype)

    def _per_channel(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.weights[name].astype(x.dtype, copy=False).reshape(1, -1, *(1,) * (x.ndim - 2))

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        (x,) = inputs
        rows = x.reshape(x.shape[0], self._groups_of(x.shape[1]), -1)
        if rows.shape[2] < 2:
            raise ValueError(
                f"got {x.shape}, one value per group, expected two or more to take a variance of"
            )
        normal = rows - rows.mean(2, keepdims=True)
        inverse = 1 / np.sqrt(np.square(normal).mean(2, keepdims=True) + x.dtype.type(self.eps))
        normal *= inverse
        normal = normal.reshape(x.shape)
        if tape is not None:
            tape["normal"], tape["inverse"] = normal, inverse
        if not self.affine:
            return normal if tape is None else normal.copy()
        out = engine.empty(x.shape, x.dtype)
        np.multiply(normal, self._per_channel("weight", x), out=out)
        out += self._per_channel("bias", x)
        return out

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        normal, inverse = tape["normal"], tape["inverse"]
        if self.affine:
            if self.trainable:
                others = (0, *range(2, grad.ndim))
                gradients.add(self, "weight", (grad * normal).sum(others))
                gradients.add(self, "bias", grad.sum(others))
            grad *= self._per_channel("weight", grad)
        if not needs[0]:
            return (None,)
        shape = (grad.shape[0], self._groups_of(grad.shape[1]), -1)
        rows, units = grad.reshape(shape), normal.reshape(shape)
        along = (rows * units).mean(2, keepdims=True)
        rows -= rows.mean(2, keepdims=True)
        rows -= units * along
        rows *= inverse
        return (rows.reshape(grad.shape),)


class InstanceNorm(GroupNorm):
    """`GroupNorm` with a group per channel.

    Parameters
    ----------
    eps : float
    affine : bool
    name : str, optional
        All as in `GroupNorm`.

    Raises
    ------
    ValueError, TypeError
        Numbers that do not fit.
    """

    def __init__(self, eps: float = 1e-5, affine: bool = True, name: str | None = None) -> None:
        super().__init__(1, eps, affine, name)

    def options(self) -> dict[str, Any]:
        return {"eps": self.eps, "affine": self.affine}

    def _groups_of(self, channels: int) -> int:
        return channels
