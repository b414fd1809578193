"""What every layer is: a node of a network with a forward and a backward pass.

Arrays are (N, C, [z,] y, x), C-contiguous, of one dtype. A layer's gradient to its inputs and weights is
written out beside its forward pass; there is no automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .. import _validate
from ._engine import Engine

Tape = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Signal:
    """An array that flows through a network before any values are known.

    Attributes
    ----------
    channels, ndim : int
        Channels, and spatial axes.
    scale : tuple of Fraction
        Its samples per sample of the network's input, per axis.
    reach : tuple of float
        How many samples of the network's input away, at most, a value depends on; infinite where on all.
    """

    channels: int
    ndim: int
    scale: tuple[Fraction, ...]
    reach: tuple[float, ...]
    layer: Layer | None = None
    inputs: tuple[Signal, ...] = ()


def Input(channels: int = 1, ndim: int = 2) -> Signal:
    """The start of a network: images (N, channels, [z,] y, x) of any size.

    Parameters
    ----------
    channels : int
    ndim : int
        Spatial axes, 1 to 3.

    Returns
    -------
    Signal
        What layers are called with.

    Raises
    ------
    ValueError, TypeError
        Numbers that make no sense.
    """
    channels = _validate.integer(channels, "channels", minimum=1)
    ndim = _validate.integer(ndim, "ndim", minimum=1, maximum=3)
    return Signal(channels, ndim, (Fraction(1),) * ndim, (0.0,) * ndim)


class Result(NamedTuple):
    """What a layer makes of its input signals: channels, and factors and addends of scale and reach."""

    channels: int
    scale: tuple[Fraction, ...]  # times the first input's
    reach: tuple[float, ...]  # in samples of the layer's input


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays, also inside of sequences, as JSON knows them."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


class Gradients:
    """Gradients to weights; a layer that is passed through twice adds up."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[int, str], np.ndarray] = {}

    def add(self, layer: Layer, name: str, gradient: np.ndarray) -> None:
        key = (id(layer), name)
        if key in self._arrays:
            self._arrays[key] += gradient
        else:
            self._arrays[key] = gradient

    def of(self, layer: Layer, name: str) -> np.ndarray:
        """The gradient; zeros where no pass reached the weight."""
        found = self._arrays.get((id(layer), name))
        return np.zeros_like(layer.weights[name]) if found is None else found


class Layer:
    """Base of all layers.

    A layer is called with signals and returns one; called again, it shares its weights. `Model` makes the
    weights, from the seed that it is given.

    Attributes
    ----------
    name : str
        Given, or made up by the network.
    weights : dict of str to numpy.ndarray
    trainable : bool
        Whether training changes the weights; those of a graph's layers only where it is true of both.
    """

    arity: int | None = 1  # number of inputs; None: two or more

    def __init__(self, name: str | None = None) -> None:
        if name is not None and (not isinstance(name, str) or not name or "." in name):
            raise ValueError(f"name: got {name!r}, expected a text that is not empty and holds no '.'")
        self.name = name or ""
        self.weights: dict[str, np.ndarray] = {}
        self.trainable = True
        self._taken: tuple[tuple[int, int], ...] | None = None  # (channels, ndim) of each input
        self._step: tuple[Fraction, ...] = ()  # the result's scale relative to the first input's

    def __call__(self, *signals: Signal) -> Signal:
        for signal in signals:
            if not isinstance(signal, Signal):
                raise TypeError(
                    f"{self._title()}: got {_validate.shown(signal)}, expected what nn.Input or a layer made"
                )
        if (len(signals) != self.arity) if self.arity is not None else (len(signals) < 2):
            wanted = "2 or more" if self.arity is None else str(self.arity)
            raise TypeError(f"{self._title()}: got {len(signals)} inputs, expected {wanted}")
        if any(signal.ndim != signals[0].ndim for signal in signals):
            raise ValueError(
                f"{self._title()}: got inputs of {[s.ndim for s in signals]} axes, expected one number"
            )
        taken = tuple((signal.channels, signal.ndim) for signal in signals)
        if self._taken not in (None, taken):
            raise ValueError(
                f"{self._title()}: got inputs of (channels, axes) {list(taken)}, expected "
                f"{list(self._taken or ())} as at its first use"
            )
        try:
            made = self.connect(signals)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{self._title()}: {error}") from error
        self._taken, self._step = taken, made.scale
        first = signals[0]
        before = [max(axis) for axis in zip(*(s.reach for s in signals), strict=True)]
        return Signal(
            made.channels,
            first.ndim,
            tuple(a * b for a, b in zip(first.scale, made.scale, strict=True)),
            tuple(r + a / float(s) for r, a, s in zip(before, made.reach, first.scale, strict=True)),
            self,
            signals,
        )

    def _title(self) -> str:
        kind = type(self).__name__
        return f"layer {self.name!r} ({kind})" if self.name else f"layer {kind}"

    # ------------------------------------------------------------ what a layer says about itself

    def connect(self, signals: Sequence[Signal]) -> Result:
        """Check what comes in and say what goes out; the weights' shapes are known afterwards."""
        first = signals[0]
        return Result(first.channels, (Fraction(1),) * first.ndim, (0.0,) * first.ndim)

    def lengths(self, inputs: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Samples of the result along each axis, for inputs of these; known once the layer is connected."""
        return tuple(n * s.numerator // s.denominator for n, s in zip(inputs[0], self._step, strict=True))

    def options(self) -> dict[str, Any]:
        """Arguments that make this layer again, as JSON knows them."""
        return {}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights, known once the layer is connected."""
        return {}

    def initialize(self, generator: np.random.Generator, dtype: np.dtype) -> None:
        """Make the weights."""

    def fault(self) -> str | None:
        """What keeps this layer from working with its weights as they are; training stops at it."""
        return None

    # ------------------------------------------------------------ passes

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        """The result, in memory of its own; what `backward` needs goes to `tape` (None: nothing follows).

        `inputs` must be left as they are. A layer that has an argument ``out=``, too, writes there: a
        C-contiguous array.
        """
        raise NotImplementedError

    def backward(
        self,
        grad: np.ndarray,
        tape: Tape,
        engine: Engine,
        gradients: Gradients,
        needs: Sequence[bool],
    ) -> Sequence[np.ndarray | None]:
        """Gradients to the inputs, where `needs` says so, each in memory of its own; those to the weights go
        to `gradients`. `grad`, of the result's shape, may be overwritten and returned.
        """
        raise NotImplementedError
