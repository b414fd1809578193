"""Stands in for ``scipy.ndimage``: filters that are a convolution.

Sums run in the dtype of the filtered array, or in float64 where the output is or where float32 would not hold
the weights or the sums; transforms run in float64. scipy sums in float64 always and rounds at the end.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .._calls import HandBack, stand_in
from .._kernels import (
    check_axes,
    computable,
    filter_array,
    filter_lines,
    fits_single,
    folded_line,
    is_finite,
    is_float,
    numeric_array,
)

__all__ = [
    "convolve",
    "convolve1d",
    "correlate",
    "correlate1d",
    "gaussian_filter",
    "gaussian_filter1d",
    "uniform_filter",
    "uniform_filter1d",
]

# scipy's name of a boundary -> ours; for filters its "grid-" names mean the same as without.
BOUNDARIES = {
    "reflect": "reflect",
    "grid-mirror": "reflect",
    "mirror": "mirror",
    "nearest": "nearest",
    "wrap": "wrap",
    "grid-wrap": "wrap",
    "constant": "constant",
    "grid-constant": "constant",
}
# Weights up to here are no weights for scipy's filters of several axes.
LEAST_WEIGHT = float(np.finfo(np.float64).eps)
# A filter of one axis that differs by less than that from its mirror image is symmetric for scipy. Where
# weights reach this, no result tells.
LEAST_LINE = 1e-6


class _Job:
    """An array to be filtered and where the result goes."""

    def __init__(self, value: Any, output: Any) -> None:
        array = numeric_array(value)
        if not is_float(array):
            raise HandBack("float16" if array.dtype.kind == "f" else "integer")
        check_axes(array)
        self.ndim = array.ndim
        self.shape = array.shape
        self._output: np.ndarray | None = None
        if output is None:
            dtype = array.dtype.newbyteorder("=")
        elif isinstance(output, np.ndarray):
            if type(output) not in (np.ndarray, np.memmap):
                raise HandBack("array kind")
            if output.shape != array.shape or not output.flags.writeable:
                raise HandBack("arguments")
            self._output, dtype = output, output.dtype
        elif isinstance(output, type | np.dtype | str):
            try:
                dtype = np.dtype(output)
            except TypeError as error:
                raise HandBack("arguments") from error
        else:
            raise HandBack("arguments")
        if dtype.kind != "f" or dtype.itemsize not in (4, 8):
            raise HandBack("output dtype")
        self._dtype = dtype
        wide = array.dtype.itemsize == 8 or dtype.itemsize == 8
        self.x = computable(array, np.float64 if wide else np.float32)

    def fit(self, weights: Sequence[np.ndarray], cval: float) -> None:
        """Goes over to float64 where float32 would not do."""
        if self.x.dtype == np.float32 and not fits_single(self.x, weights, cval):
            self.x = computable(self.x, np.float64)

    def put(self, result: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if self._output is None:
                return result.astype(self._dtype, copy=False)
            self._output[...] = result
        return self._output


def _boundary(mode: Any) -> str:
    if not isinstance(mode, str) or mode not in BOUNDARIES:
        raise HandBack("arguments")
    return BOUNDARIES[mode]


def _whole(value: Any) -> int:
    if isinstance(value, bool):  # scipy refuses some of them, and takes others for numbers
        raise HandBack("arguments")
    try:
        return operator.index(value)
    except TypeError as error:
        raise HandBack("arguments") from error


def _number(value: Any) -> float:
    if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        raise HandBack("arguments")
    return float(value)


def _axes(axes: Any, ndim: int) -> list[int]:
    if isinstance(axes, Iterator):  # it can be read only once: by scipy
        raise HandBack("arguments")
    listed = range(ndim) if axes is None else axes if isinstance(axes, Iterable) else [axes]
    numbers = [_whole(axis) for axis in listed]
    if any(not -ndim <= axis < ndim for axis in numbers):
        raise HandBack("arguments")
    numbers = [axis % ndim for axis in numbers]
    if len(set(numbers)) != len(numbers):
        raise HandBack("arguments")
    return numbers


def _each(value: Any, count: int) -> list[Any]:
    """One entry per axis; scipy takes one for all."""
    if isinstance(value, Iterator):  # it can be read only once, and scipy may have to
        raise HandBack("arguments")
    if isinstance(value, str) or not np.iterable(value):
        return [value] * count
    entries = list(value)
    if len(entries) != count:
        raise HandBack("arguments")
    return entries


def _reversed(
    weights: np.ndarray, origins: Sequence[int], *, convolution: bool
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Taps h and centre c of y[i] = sum of h[m] x[i - (m - c)] for scipy's weights and origins.

    scipy correlates: y[i] = sum of w[j] x[i + j - (k // 2 + origin)]; for a convolution it reverses weights
    and origin first, which puts the centre of an even number of weights one further back.
    """
    centre = []
    for k, origin in zip(weights.shape, origins, strict=True):
        if convolution:
            origin = -origin - (1 - k % 2)
        if not -(k // 2) <= origin <= (k - 1) // 2:
            raise HandBack("arguments")
        centre.append(k - 1 - (k // 2 + origin))
    return weights if convolution else np.flip(weights), tuple(centre)


def _filtered(
    input: Any, weights: Any, output: Any, mode: Any, cval: Any, origin: Any, axes: Any, *, convolution: bool
) -> np.ndarray:
    job = _Job(input, output)
    taps = numeric_array(weights).astype(np.float64)
    boundary, cval = _boundary(mode), _number(cval)
    listed = _axes(axes, job.ndim)
    if taps.ndim != len(listed) or not taps.size or sorted(listed) != listed:
        raise HandBack("arguments")
    if job.ndim > 1 and np.isscalar(axes) and _whole(axes) < 0:  # scipy counts from behind in sequences only
        raise HandBack("arguments")
    origins = [_whole(o) for o in _each(origin, len(listed))]
    shape, origin_of = [1] * job.ndim, [0] * job.ndim
    for axis, k, o in zip(listed, taps.shape, origins, strict=True):
        shape[axis], origin_of[axis] = k, o
    taps = taps.reshape(shape)
    nothing = np.abs(taps) <= LEAST_WEIGHT
    taps[nothing] = 0
    taps, centre = _reversed(taps, origin_of, convolution=convolution)
    finite = is_finite(job.x)
    # scipy passes over weights of zero, our sums do not: zero times NaN is NaN.
    if not is_finite(taps) or (nothing.any() and not (finite and math.isfinite(cval))):
        raise HandBack("not finite")
    job.fit([taps], cval)
    h = computable(taps, job.x.dtype)
    return job.put(filter_array(job.x, h, centre, boundary, cval, finite=finite))


@stand_in("scipy.ndimage")
def correlate(
    input: Any,
    weights: Any,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Any:
    """The engine is chosen by our own cost model; few weights are summed, many may be transformed."""
    return _filtered(input, weights, output, mode, cval, origin, axes, convolution=False)


@stand_in("scipy.ndimage")
def convolve(
    input: Any,
    weights: Any,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Any:
    """As `correlate`, with the weights reversed."""
    return _filtered(input, weights, output, mode, cval, origin, axes, convolution=True)


def _line(x: np.ndarray, axis: int, taps: np.ndarray, centre: int, boundary: str, cval: float) -> np.ndarray:
    """Filter along one axis."""
    if boundary == "constant" and cval != 0:
        finite = len(taps) > x.shape[axis] and math.isfinite(cval) and is_finite(x)
        taps, centre = folded_line(taps.reshape(-1), centre, x.shape[axis], boundary, finite=finite)
        shape = tuple(len(taps) if a == axis else 1 for a in range(x.ndim))
        centres = tuple(centre if a == axis else 0 for a in range(x.ndim))
        h = computable(taps.reshape(shape), x.dtype)
        # What lies outside is written out; a filter of one axis is summed, never transformed.
        return filter_array(x, h, centres, boundary, cval, finite=False)
    lines = [computable(taps.reshape(-1) if a == axis else np.ones(1), x.dtype) for a in range(x.ndim)]
    return filter_lines(x, lines, [centre if a == axis else 0 for a in range(x.ndim)], boundary)


def _axis(axis: Any, ndim: int) -> int:
    (number,) = _axes([axis], ndim)
    return number


def _along(
    input: Any, weights: Any, axis: Any, output: Any, mode: Any, cval: Any, origin: Any, *, convolution: bool
) -> np.ndarray:
    job = _Job(input, output)
    taps = numeric_array(weights).astype(np.float64)
    if taps.ndim != 1 or not taps.size:
        raise HandBack("arguments")
    if not is_finite(taps):
        raise HandBack("not finite")
    if np.abs(taps).max() < LEAST_LINE:
        raise HandBack("tiny weights")
    boundary, cval = _boundary(mode), _number(cval)
    taps, (centre,) = _reversed(taps, [_whole(origin)], convolution=convolution)
    number = _axis(axis, job.ndim)
    job.fit([taps], cval)
    return job.put(_line(job.x, number, taps, centre, boundary, cval))


@stand_in("scipy.ndimage")
def correlate1d(
    input: Any,
    weights: Any,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int = 0,
) -> Any:
    """Sums over the weights, in the dtype of `input` or, if that is wider, of the output."""
    return _along(input, weights, axis, output, mode, cval, origin, convolution=False)


@stand_in("scipy.ndimage")
def convolve1d(
    input: Any,
    weights: Any,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int = 0,
) -> Any:
    """As `correlate1d`, with the weights reversed."""
    return _along(input, weights, axis, output, mode, cval, origin, convolution=True)


def _in_turn(job: _Job, filters: Sequence[tuple[int, np.ndarray, int, str]], cval: float) -> np.ndarray:
    """Filter along several axes, each (axis, taps, centre, boundary): at once where that is the same."""
    job.fit([taps for _, taps, _, _ in filters], cval)
    boundaries = {boundary for *_, boundary in filters}
    if len(boundaries) == 1 and ("constant" not in boundaries or cval == 0):
        lines, centres = [np.ones(1, job.x.dtype)] * job.ndim, [0] * job.ndim
        for axis, taps, centre, _ in filters:
            lines[axis], centres[axis] = computable(taps, job.x.dtype), centre
        return filter_lines(job.x, lines, centres, boundaries.pop())
    result = job.x
    for axis, taps, centre, boundary in filters:
        result = _line(result, axis, taps, centre, boundary, cval)
    return result.copy() if result is job.x else result


def _gaussian(sigma: Any, order: Any, truncate: Any, radius: Any) -> np.ndarray:
    """scipy's sampled Gaussian, scaled to the sum 1, or a derivative of it."""
    width, order = _number(sigma), _whole(order)
    # scipy squares what it was given: float32 rounds, narrow integers wrap around, and so does a minus sign.
    with np.errstate(over="ignore"):
        variance = sigma * sigma
    if not 0 < variance < math.inf or order < 0:
        raise HandBack("arguments")
    if isinstance(sigma, np.unsignedinteger) or (isinstance(sigma, np.integer) and variance != width * width):
        raise HandBack("arguments")
    reach = int(_number(truncate) * width + 0.5)
    if radius is not None:
        reach = _whole(radius)
    if reach < 0:
        raise HandBack("arguments")
    x = np.arange(-reach, reach + 1.0)
    taps = np.exp(float(-0.5 / variance) * x**2)
    taps /= taps.sum()
    if order == 0:
        return taps
    # Each derivative of q(x) exp(-x^2 / 2 sigma^2) has the factor q' - x q / sigma^2.
    factor = np.polynomial.Polynomial([1.0])
    for _ in range(order):
        factor = factor.deriv() - np.polynomial.Polynomial([0, 1 / float(variance)]) * factor
    return taps * factor(x)


@stand_in("scipy.ndimage")
def gaussian_filter1d(
    input: Any,
    sigma: float,
    axis: int = -1,
    order: int = 0,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    truncate: float = 4.0,
    *,
    radius: int | None = None,
) -> Any:
    """Sums over scipy's taps."""
    job = _Job(input, output)
    boundary, cval = _boundary(mode), _number(cval)
    number = _axis(axis, job.ndim)
    taps = _gaussian(sigma, order, truncate, radius)
    job.fit([taps], cval)
    return job.put(_line(job.x, number, taps, len(taps) // 2, boundary, cval))


@stand_in("scipy.ndimage")
def gaussian_filter(
    input: Any,
    sigma: Any,
    order: Any = 0,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    truncate: float = 4.0,
    *,
    radius: Any = None,
    axes: Any = None,
) -> Any:
    """Sums over scipy's taps; all axes are filtered in one pass where their modes agree."""
    job = _Job(input, output)
    listed = _axes(axes, job.ndim)
    count = len(listed)
    options = zip(
        listed,
        _each(sigma, count),
        _each(order, count),
        _each(mode, count),
        _each(radius, count),
        strict=True,
    )
    cval = _number(cval)
    filters = []
    for axis, width, derivative, edge, reach in options:
        if _number(width) > 1e-15:  # scipy leaves the axis alone below
            taps = _gaussian(width, derivative, truncate, reach)
            filters.append((axis, taps, len(taps) // 2, _boundary(edge)))
    return job.put(_in_turn(job, filters, cval))


def _uniform(job: _Job, sizes: Sequence[tuple[int, Any, Any, Any]], cval: Any) -> np.ndarray:
    cval = _number(cval)
    filters = []
    for axis, length, origin, mode in sizes:
        size, shift = _whole(length), _whole(origin)
        if size < 1 or not 0 <= size // 2 + shift < size:
            raise HandBack("arguments")
        filters.append((axis, np.full(size, 1 / size), size - 1 - (size // 2 + shift), _boundary(mode)))
    # scipy keeps running sums: what is not finite stays in them to the end of the line.
    if not (is_finite(job.x) and math.isfinite(cval)):
        raise HandBack("not finite")
    return _in_turn(job, filters, cval)


@stand_in("scipy.ndimage")
def uniform_filter1d(
    input: Any,
    size: int,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int = 0,
) -> Any:
    """Sums over the window, where scipy keeps a running sum."""
    job = _Job(input, output)
    return job.put(_uniform(job, [(_axis(axis, job.ndim), size, origin, mode)], cval))


@stand_in("scipy.ndimage")
def uniform_filter(
    input: Any,
    size: Any = 3,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Any:
    """As `uniform_filter1d`; all axes are filtered in one pass where their modes agree."""
    job = _Job(input, output)
    listed = _axes(axes, job.ndim)
    count = len(listed)
    each = zip(listed, _each(size, count), _each(origin, count), _each(mode, count), strict=True)
    sizes = [entry for entry in each if _number(entry[1]) > 1]  # scipy leaves the axis alone below
    return job.put(_uniform(job, [(a, int(n), o, m) for a, n, o, m in sizes], cval))
