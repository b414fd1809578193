"""LocalDeviation: how strong the noise is, as a map that a network can go by."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from .. import _validate
from ._blur_layers import _Filter
from ._engine import Engine
from ._layer import Gradients, Layer, Result, Signal, Tape

BOUNDARY = "nearest"


class LocalDeviation(Layer):
    """Standard deviation of the finest detail around every value, channel by channel.

    ``sqrt(c mean(d²))`` over a window, with d the difference of a value from its 2, 4 or 6 neighbours' mean,
    and c such that white noise gives its own standard deviation. A blurred image has little but noise in
    there. A network that is told how strong the noise is need not find that out (Zhang et al. [1]_), and the
    map has the image's scale.

    Parameters
    ----------
    window : int
        Odd; edge of the square or cube.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        Another window.

    References
    ----------
    .. [1] K. Zhang, W. Zuo, L. Zhang: FFDNet: toward a fast and flexible solution for CNN-based image
       denoising. IEEE Trans. Image Process. 27, 4608 (2018).
    """

    def __init__(self, window: int = 9, name: str | None = None) -> None:
        super().__init__(name)
        self.window = _validate.integer(window, "window", minimum=1)
        if self.window % 2 == 0:
            raise ValueError(f"window: got {window}, expected an odd number")
        self._mean, self._around = _Filter(BOUNDARY, "auto"), _Filter(BOUNDARY, "auto")

    def options(self) -> dict[str, Any]:
        return {"window": self.window}

    def connect(self, signals: Sequence[Signal]) -> Result:
        (signal,) = signals
        self.channels, self.ndim = signal.channels, signal.ndim
        reach = 1.0 + self.window // 2
        return Result(signal.channels, (Fraction(1),) * signal.ndim, (reach,) * signal.ndim)

    def filters(self, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
        """Taps of the neighbours' mean, and of the mean over the window times c."""
        around = np.zeros((3,) * self.ndim, dtype)
        centre = (1,) * self.ndim
        for axis in range(self.ndim):
            for place in (0, 2):
                around[(*centre[:axis], place, *centre[axis + 1 :])] = 1 / (2 * self.ndim)
        c = 2 * self.ndim / (2 * self.ndim + 1)
        return around, np.full((self.window,) * self.ndim, c / self.window**self.ndim, dtype)

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        (x,) = inputs
        around, mean = self.filters(x.dtype)
        detail = self._around.apply(around, x, engine)
        square = engine.empty(x.shape, x.dtype)

        def squared(own: np.ndarray, others: np.ndarray, target: np.ndarray) -> None:
            np.subtract(own, others, out=others)
            np.square(others, out=target)

        engine.pointwise(squared, x, detail, square)
        out = self._mean.apply(mean, square, engine)

        def rooted(values: np.ndarray) -> None:
            np.maximum(values, 0, out=values)  # transforms round
            np.sqrt(values, out=values)

        engine.pointwise(rooted, out)
        if tape is not None:
            tape["detail"], tape["out"] = detail, out
        return out

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        if not needs[0]:
            return (None,)
        around, mean = self.filters(grad.dtype)
        out = tape["out"]
        # d out / d (mean of squares) = 1 / (2 out); where all is flat the square root has no slope to follow.
        np.divide(grad, 2 * out, out=grad, where=out > 0)
        grad[out == 0] = 0
        to_detail = self._mean.apply(mean, grad, engine, adjoint=True)
        to_detail *= 2 * tape["detail"]
        return (to_detail - self._around.apply(around, to_detail, engine, adjoint=True),)
