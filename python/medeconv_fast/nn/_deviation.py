"""LocalDeviation: how strong the noise is, as a map that a network can go by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from .. import _validate, backends, ops
from .._blur import LinesOperator
from ._blur_layers import Store, kept
from ._engine import Engine
from ._layer import Gradients, Layer, Result, Signal, Tape

BOUNDARY, PADDING_MODE = "nearest", "replicate"  # the same, in the words of blurs and of convolutions


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
        self._means: Store[LinesOperator] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_means": []}

    def options(self) -> dict[str, Any]:
        return {"window": self.window}

    def connect(self, signals: Sequence[Signal]) -> Result:
        (signal,) = signals
        self.channels, self.ndim = signal.channels, signal.ndim
        reach = 1.0 + self.window // 2
        return Result(signal.channels, (Fraction(1),) * signal.ndim, (reach,) * signal.ndim)

    def _around(self, dtype: Any) -> np.ndarray:
        """Taps of the neighbours' mean."""
        around = np.zeros((3,) * self.ndim, dtype)
        centre = (1,) * self.ndim
        for axis in range(self.ndim):
            for place in (0, 2):
                around[(*centre[:axis], place, *centre[axis + 1 :])] = 1 / (2 * self.ndim)
        return around

    @property
    def _factor(self) -> float:
        """What the mean is multiplied by: white noise gives its own deviation."""
        return 2 * self.ndim / (2 * self.ndim + 1)

    def filters(self, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
        """Taps of the neighbours' mean, and of the mean over the window times c."""
        share = self._factor / self.window**self.ndim
        return self._around(dtype), np.full((self.window,) * self.ndim, share, dtype)

    def _difference(self, dtype: np.dtype) -> np.ndarray:
        taps = -self._around(dtype)
        taps[(1,) * self.ndim] += 1
        return taps

    def _mean(self, x: np.ndarray, engine: Engine) -> LinesOperator:
        """The mean over the window times c, one axis after the other."""

        def make() -> LinesOperator:
            lines = [np.full(self.window, 1 / self.window, x.dtype) for _ in range(self.ndim)]
            lines[0] *= x.dtype.type(self._factor)
            backend, threads = backends.resolve(engine.backend), engine.num_threads
            centre = (self.window // 2,) * self.ndim
            return LinesOperator(lines, centre, x.shape[2:], BOUNDARY, backend, threads)

        return kept(self._means, (x.shape[2:], x.dtype, engine), make)

    def _convolved(
        self, taps: np.ndarray, x: np.ndarray, engine: Engine, *, adjoint: bool = False
    ) -> np.ndarray:
        """Every channel of every image; the edge goes on."""
        rows = x.reshape(-1, 1, *x.shape[2:])
        options = {
            "padding": [(k // 2, k // 2) for k in taps.shape],
            "padding_mode": PADDING_MODE,
            **engine.options,
        }
        if adjoint:
            made = ops.conv_input_grad(rows, taps[None, None], rows.shape, **options)
        else:
            made = ops.conv(rows, taps[None, None], **options)
        result: np.ndarray = made.reshape(x.shape)
        return result

    def forward(
        self,
        inputs: Sequence[np.ndarray],
        engine: Engine,
        tape: Tape | None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        (x,) = inputs
        detail = self._convolved(self._difference(x.dtype), x, engine)
        square = engine.empty(x.shape, x.dtype) if tape is not None else detail
        units = _units(detail)
        if units is None:
            engine.pointwise(lambda values, target: np.square(values, out=target), detail, square)
        else:
            np.divide(detail, units, out=square)
            np.square(square, out=square)
        rows = (-1, *x.shape[2:])
        mean = self._mean(x, engine).apply_each(square.reshape(rows)).reshape(x.shape)
        if out is None:
            out = mean

        engine.pointwise(lambda values, target: np.sqrt(values, out=target), mean, out)
        if units is not None:
            out *= units
        if tape is not None:
            tape["detail"], tape["out"] = detail, out
        return out

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        if not needs[0]:
            return (None,)
        out = tape["out"]
        # d out / d (mean of squares) = 1 / (2 out); where all is flat the square root has no slope to follow.
        np.divide(grad, 2 * out, out=grad, where=out > 0)
        grad[out == 0] = 0
        rows = (-1, *grad.shape[2:])
        mean = self._mean(grad, engine)
        grad = mean.apply_each(grad.reshape(rows), adjoint=True).reshape(grad.shape)
        grad *= 2 * tape["detail"]
        return (self._convolved(self._difference(grad.dtype), grad, engine, adjoint=True),)


def _units(detail: np.ndarray) -> np.ndarray | None:
    """Powers of two, of shape (N, 1, 1, ...), with which squares of details stay in the dtype's range.

    No bit of a result depends on them. None where the squares stay there without, as those of usual images.
    """
    most = np.finfo(detail.dtype).maxexp
    exponents = []
    for item in detail:
        exponent = math.frexp(max(float(item.max()), -float(item.min())))[1]
        usual = exponent == 0 or -most // 4 <= exponent <= most // 2 - 4
        exponents.append(0 if usual else max(exponent, 4 - most))
    if not any(exponents):
        return None
    units = np.ldexp(detail.dtype.type(1), exponents).astype(detail.dtype)
    return units.reshape(-1, *[1] * (detail.ndim - 1))
