"""What the stand-ins compute with: convolution in a window, filters under a boundary, one filter per axis.

Arrays that arrive here are real, of one dtype (float32 or float64), of one to three axes and not empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import backends
from .._blur import Geometry, LinesOperator, Operator, choose_grid, geometry, make_plan, predicted_costs
from .._convolution import EXACT_TAPS
from .._costs import Taps
from .._taps import taps_of, wrapped_taps
from ._calls import HandBack

Window = Sequence[tuple[int, int]]
MOST_AXES = 3
NO_TIME = 25e3  # ns, predicted: an application that takes less is a sum
MOST_UNEVEN = 1e7  # the largest value over a usual one: that is then off by 1e-9 of itself
SAMPLES = 4096  # of which the median is a usual value
_NUMBERS = (list, tuple, int, float, complex, np.generic)


def numeric_array(value: Any) -> np.ndarray:
    """`value` as the peer's ``np.asarray`` sees it, where it holds real numbers that kernels can take."""
    if type(value) not in (np.ndarray, np.memmap) and not isinstance(value, _NUMBERS):
        raise HandBack("array kind")
    try:
        array = np.asarray(value)
    except ValueError as error:  # a ragged list
        raise HandBack("arguments") from error
    check_dtype(array)
    return array


def check_dtype(array: np.ndarray) -> None:
    """Real numbers of at most 64 bits are ours."""
    if array.dtype.kind == "c":
        raise HandBack("complex")
    if array.dtype.kind not in "biuf":
        raise HandBack("object")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        raise HandBack("longdouble")


def is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and array.dtype.itemsize >= 4


def check_axes(array: np.ndarray) -> None:
    if not 1 <= array.ndim <= MOST_AXES:
        raise HandBack("dimensions")
    if array.size == 0:
        raise HandBack("empty")


def computable(array: np.ndarray, dtype: Any) -> np.ndarray:
    return np.require(array, np.dtype(dtype), ["C", "A"])


def is_finite(array: np.ndarray) -> bool:
    """Whether every value is finite; one pass over the array where all is well."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(array.sum())
    # Finite values may overflow their sum.
    return math.isfinite(total) or bool(np.isfinite(array).all())


def fits_single(x: np.ndarray, weights: Sequence[np.ndarray], cval: float) -> bool:
    """Whether float32 holds the weights, `cval` and every sum that they make of `x`, filter after filter."""
    most, least = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
    largest = float(max(x.max(), -x.min()))
    if not math.isfinite(largest):
        largest = float(np.abs(x[np.isfinite(x)]).max(initial=0))
    if math.isfinite(cval):
        largest = max(largest, abs(cval))
    for w in weights:
        magnitudes = np.abs(w)
        if magnitudes.min(where=magnitudes > 0, initial=math.inf) < least or magnitudes.max() > most / 4:
            return False
        largest *= max(1.0, float(magnitudes.sum()))
    # Kernels add values before they multiply them.
    return largest <= most / 4 and (cval == 0 or not abs(cval) < least)


def is_uneven(x: np.ndarray, h: np.ndarray) -> bool:
    """Whether float64 transforms, whose rounding goes by the largest value, would hide most of the others.

    One voxel of a fill value may be as large as that.
    """
    largest = float(max(x.max(), -x.min()))
    some = np.abs(x.reshape(-1)[:: max(1, x.size // SAMPLES)])
    some = some[some > 0]
    if some.size and largest > MOST_UNEVEN * float(np.median(some)):
        return True
    with np.errstate(over="ignore"):
        return not math.isfinite(largest * x.size * float(np.abs(h, dtype=np.float64).sum()))


def engine_for(taps: np.ndarray, layout: Geometry, *, by_sums: bool = False) -> str:
    """The engine; `by_sums`: one that sums over taps, as exact for each voxel as the peer's own sum.

    The peers sum where there is little to sum, and whole numbers come out exact then. So do we, for few taps
    and where the sum takes no time.
    """
    if taps.size <= EXACT_TAPS:
        return "direct"
    costs = predicted_costs(taps_of(taps), layout)
    sums = {engine: cost for engine, cost in costs.items() if engine != "spectral"}
    best = min(sums, key=sums.__getitem__)
    if by_sums or sums[best] <= NO_TIME:
        return best
    return min(costs, key=costs.__getitem__)


def convolve_window(
    x: np.ndarray,
    h: np.ndarray,
    window: Window,
    *,
    by_sums: bool = False,
    finite: bool = True,
    wide: bool = False,
) -> np.ndarray:
    """Full convolution of `x` and `h` (zeros outside both), restricted to `window` on every axis.

    `finite`: whether all values of `x` and `h` are; else they are summed tap by tap, which keeps NaN and Inf
    where they belong. `wide`: as for `_apply`.
    """
    if finite and h.size > x.size:
        x, h = h, x  # convolution commutes; the smaller one makes the taps
    layout = _window_layout(x, h, window)
    engine = engine_for(h, layout, by_sums=by_sums) if finite else "direct"
    if wide and engine == "spectral" and is_uneven(x, h):
        engine = engine_for(h, layout, by_sums=True)
    return _apply(x, h, layout, "zero", engine, wide=wide)


def _apply(
    x: np.ndarray, h: np.ndarray, layout: Geometry, boundary: str, engine: str, *, wide: bool
) -> np.ndarray:
    """`wide`: transforms run in float64, where the peer sums in it: their rounding goes by the largest value
    of the array, that of a sum by the values that are summed."""
    dtype = x.dtype
    if wide and engine == "spectral":
        x, h = computable(x, np.float64), computable(h, np.float64)
    result = Operator(h, layout, boundary, backends.resolve(), None, engine).apply(x)
    return result.astype(dtype, copy=False)


def convolve_each(xs: np.ndarray, hs: np.ndarray, window: Window) -> np.ndarray:
    """`convolve_window` of every pair along the first axis; all values are finite."""
    if hs[0].size > xs[0].size:
        xs, hs = hs, xs
    backend, dtype = backends.resolve(), xs.dtype
    layout = _window_layout(xs[0], hs[0], window)
    # What the taps of one pair allow (a product, symmetry) need not hold for the next.
    costs = predicted_costs(Taps(hs[0].shape, hs[0].shape, 0), layout)
    few = hs[0].size <= EXACT_TAPS or costs["direct"] <= NO_TIME
    engine = "direct" if few else min(costs, key=costs.__getitem__)
    plan, _ = make_plan(engine, layout, "zero", backend, dtype)
    out = np.empty((len(xs), *layout.shape), dtype)
    chain = plan.chain(None)
    for x, h, result in zip(xs, hs, out, strict=True):
        chain.load(x)
        chain.sweep(plan.transfer(h, layout.centre, None), "copy", keep=False, out=result)
    return out


def _window_layout(x: np.ndarray, h: np.ndarray, window: Window) -> Geometry:
    full = [n + k - 1 for n, k in zip(x.shape, h.shape, strict=True)]
    # Long enough that nothing wraps around into the window.
    lengths = tuple(
        max(n, k, stop, whole - start)
        for n, k, whole, (start, stop) in zip(x.shape, h.shape, full, window, strict=True)
    )
    nothing = (0,) * x.ndim
    return Geometry(
        shape=tuple(stop - start for start, stop in window),
        estimate_shape=x.shape,
        taps=tuple(slice(0, k) for k in h.shape),
        centre=nothing,
        low=nothing,
        high=nothing,
        grid=choose_grid(lengths, backends.resolve()),
        estimate_box=tuple((0, n) for n in x.shape),
        image_box=tuple((int(start), int(stop)) for start, stop in window),
        frame=tuple(slice(0, n) for n in x.shape),
    )


def filter_array(
    x: np.ndarray, h: np.ndarray, centre: tuple[int, ...], boundary: str, cval: float, *, finite: bool
) -> np.ndarray:
    """y[i] = sum of h[m] x[i - (m - centre)], `x` continued by `boundary` ("constant": by `cval`)."""
    backend = backends.resolve()
    if boundary == "constant":
        if cval != 0:
            before = [k - 1 - c for k, c in zip(h.shape, centre, strict=True)]
            padded = np.pad(x, list(zip(before, centre, strict=True)), constant_values=x.dtype.type(cval))
            window = [(k - 1, n + k - 1) for n, k in zip(x.shape, h.shape, strict=True)]
            return convolve_window(padded, h, window, finite=finite and math.isfinite(cval), wide=True)
        boundary = "zero"
    if boundary == "wrap":
        if not finite and any(k > n for n, k in zip(x.shape, h.shape, strict=True)):
            raise HandBack("not finite")  # taps that meet are added first: that loses Inf - Inf
        h, centre = wrapped_taps(h, centre, x.shape)
    layout = geometry(h.shape, x.shape, boundary, backend, centre)
    engine = engine_for(h[layout.taps], layout) if finite else "direct"
    if engine == "spectral" and is_uneven(x, h):
        engine = engine_for(h[layout.taps], layout, by_sums=True)
    return _apply(x, h, layout, boundary, engine, wide=True)


def folded_line(
    line: np.ndarray, centre: int, n: int, boundary: str, *, finite: bool
) -> tuple[np.ndarray, int]:
    """The filter that acts like `line` on an axis of `n` values, but hardly reaches beyond it; its centre.

    However far a filter reaches, it meets only what `boundary` repeats: of a period each value once, of the
    edge ("nearest") or of what is outside ("constant") the same value.
    """
    period = {"wrap": n, "reflect": 2 * n, "mirror": max(1, 2 * n - 2)}.get(boundary, 0)
    if len(line) <= (period or 2 * n + 1):
        return line, centre
    if not finite:
        raise HandBack("not finite")  # taps that meet are added first: that loses Inf - Inf
    offset = np.arange(len(line)) - centre
    if period:
        centre, length = period // 2, period
        at = (offset + centre) % period
    else:
        centre, length = n, 2 * n + 1
        at = np.clip(offset, -n, n) + n
    return np.bincount(at, line, length).astype(line.dtype), centre


def filter_lines(
    x: np.ndarray, lines: Sequence[np.ndarray], centre: Sequence[int], boundary: str
) -> np.ndarray:
    """`filter_array` with the product of one filter per axis; "constant" means zeros here.

    Never by transforms: sums over taps keep a positive array positive, zeros zero, and NaN where it is.
    """
    lines, centre = list(lines), list(centre)
    backend = backends.resolve()
    if backend.NAME == "reference" and not is_finite(x):
        raise HandBack("not finite")  # its filters are dense matrices: their zeros times NaN are NaN
    if boundary == "constant":
        boundary = "zero"
    else:
        long = any(len(line) > n for n, line in zip(x.shape, lines, strict=True))
        finite = long and is_finite(x)
        for axis, n in enumerate(x.shape):
            lines[axis], centre[axis] = folded_line(lines[axis], centre[axis], n, boundary, finite=finite)
    return LinesOperator(lines, tuple(centre), x.shape, boundary, backend).apply(x)
