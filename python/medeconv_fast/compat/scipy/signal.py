"""Stands in for ``scipy.signal``: convolution and correlation."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .. import _calls
from .._calls import HandBack, stand_in
from .._kernels import (
    Window,
    check_axes,
    computable,
    convolve_each,
    convolve_window,
    is_finite,
    is_float,
    numeric_array,
)

__all__ = ["convolve", "convolve2d", "correlate", "correlate2d", "fftconvolve", "oaconvolve"]

MODES = ("full", "same", "valid")
METHODS = ("auto", "direct", "fft")
# scipy.signal's name of a boundary -> np.pad's.
PADDING = {"fill": "constant", "pad": "constant", "wrap": "wrap", "circular": "wrap"} | dict.fromkeys(
    ("symm", "symmetric"), "symmetric"
)


def _operands(in1: Any, in2: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays of real numbers, of the same one to three axes; one at least of float32 or float64."""
    first, second = numeric_array(in1), numeric_array(in2)
    if not (is_float(first) or is_float(second)):
        raise HandBack("float16" if "f" in (first.dtype.kind, second.dtype.kind) else "integer")
    if first.ndim != second.ndim:
        raise HandBack("arguments")
    check_axes(first)
    check_axes(second)
    return first, second


def _choice(value: Any, allowed: Iterable[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise HandBack("arguments")
    return value


def _window(n: int, k: int, mode: str) -> tuple[int, int]:
    """Where a mode lies in the full convolution of n and k values."""
    if mode == "full":
        return 0, n + k - 1
    if mode == "same":
        return (k - 1) // 2, (k - 1) // 2 + n
    return min(n, k) - 1, max(n, k)


def _check_valid(first: np.ndarray, second: np.ndarray, mode: str, axes: Iterable[int]) -> None:
    sizes = [(first.shape[axis], second.shape[axis]) for axis in axes]
    if mode == "valid" and not (all(n >= k for n, k in sizes) or all(n <= k for n, k in sizes)):
        raise HandBack("arguments")


def _plain(in1: Any, in2: Any, mode: Any, method: Any, *, reverse: bool) -> np.ndarray:
    mode, method = _choice(mode, MODES), _choice(method, METHODS)
    first, second = _operands(in1, in2)
    _check_valid(first, second, mode, range(first.ndim))
    dtype = np.result_type(first.dtype, second.dtype)
    window = [_window(n, k, mode) for n, k in zip(first.shape, second.shape, strict=True)]
    if reverse:
        second = np.flip(second)
    x, h = computable(first, dtype), computable(second, dtype)
    finite = is_finite(x) and is_finite(h)
    if not finite:
        if method == "auto":
            method = _calls.original("scipy.signal", "choose_conv_method")(first, second, mode=mode)
        # A transform makes NaN of everything; a sum does not, but the taps must be finite. scipy's taps are
        # in1 where mode is "full" and in2 is larger.
        taps = x if mode == "full" and h.size > x.size else h
        if method == "fft" or not (is_finite(h) and is_finite(taps)):
            raise HandBack("not finite")
    return convolve_window(x, h, window, by_sums=method == "direct", finite=finite)


@stand_in("scipy.signal")
def convolve(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Any:
    """The engine is chosen by our own cost model; "direct" sums over taps, "fft" and "auto" may transform."""
    return _plain(in1, in2, mode, method, reverse=False)


@stand_in("scipy.signal")
def correlate(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Any:
    """As `convolve`, with `in2` reversed on every axis."""
    return _plain(in1, in2, mode, method, reverse=True)


def _transform_dtype(first: np.ndarray, second: np.ndarray) -> type[np.floating]:
    """scipy.fft's rule: float16 and float32 are transformed in float32, everything else in float64."""
    single = all(a.dtype.kind == "f" and a.dtype.itemsize <= 4 for a in (first, second))
    return np.float32 if single else np.float64


def _named_axes(axes: Any, ndim: int) -> list[int]:
    if axes is None:
        return list(range(ndim))
    if isinstance(axes, Iterator):  # it can be read only once, and scipy may have to
        raise HandBack("arguments")
    try:
        listed = [operator.index(a) for a in axes] if isinstance(axes, Iterable) else [operator.index(axes)]
    except TypeError as error:
        raise HandBack("arguments") from error
    listed = [a + ndim if a < 0 else a for a in listed]
    if not listed or any(not 0 <= a < ndim for a in listed) or len(set(listed)) != len(listed):
        raise HandBack("arguments")
    return listed


def _by_transforms(in1: Any, in2: Any, mode: Any, axes: Any) -> np.ndarray:
    mode = _choice(mode, MODES)
    first, second = _operands(in1, in2)
    # An axis of length 1 in either array is no convolution: it is broadcast, also under "valid".
    along = [a for a in _named_axes(axes, first.ndim) if first.shape[a] != 1 and second.shape[a] != 1]
    each: list[int] = []  # axes along which the arrays are multiplied, item by item
    window: list[tuple[int, int]] = []
    for axis, (n, k) in enumerate(zip(first.shape, second.shape, strict=True)):
        if axis in along:
            window.append(_window(n, k, mode))
        elif n == 1 or k == 1:
            window.append(_window(n, k, "same" if mode == "same" else "full"))
        elif n == k:
            each.append(axis)
            window.append((0, n))
        else:
            raise HandBack("arguments")
    _check_valid(first, second, mode, along)
    dtype = _transform_dtype(first, second) if along else np.result_type(first.dtype, second.dtype)
    x, h = computable(first, dtype), computable(second, dtype)
    if not (is_finite(x) and is_finite(h)):
        raise HandBack("not finite")
    if not each:
        return convolve_window(x, h, window)
    return _item_by_item(x, h, window, each)


def _item_by_item(x: np.ndarray, h: np.ndarray, window: Window, each: list[int]) -> np.ndarray:
    """Convolve along the axes that are not in `each`, one item after the other."""
    rest = [axis for axis in range(x.ndim) if axis not in each]
    if not rest:
        return x * h
    items = [x.shape[axis] for axis in each]

    def in_front(array: np.ndarray) -> np.ndarray:
        moved = np.moveaxis(array, each, range(len(each)))
        return np.ascontiguousarray(moved).reshape(-1, *moved.shape[len(each) :])

    out = convolve_each(in_front(x), in_front(h), [window[axis] for axis in rest])
    moved = np.moveaxis(out.reshape(*items, *out.shape[1:]), range(len(each)), each)
    return np.ascontiguousarray(moved)


@stand_in("scipy.signal")
def fftconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Any:
    """The engine is chosen by our own cost model: few taps are summed."""
    return _by_transforms(in1, in2, mode, axes)


@stand_in("scipy.signal")
def oaconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Any:
    """As `fftconvolve`: how a long array is cut into segments is the engine's business."""
    return _by_transforms(in1, in2, mode, axes)


def _in_the_plane(
    in1: Any, in2: Any, mode: Any, boundary: Any, fillvalue: Any, *, reverse: bool
) -> np.ndarray:
    mode = _choice(mode, MODES)
    padding = PADDING[_choice(boundary, PADDING)]
    first, second = _operands(in1, in2)
    if first.ndim != 2:
        raise HandBack("arguments")
    _check_valid(first, second, mode, range(2))
    if isinstance(fillvalue, bool | np.bool_) or not isinstance(fillvalue, int | float | np.number):
        raise HandBack("arguments")
    if isinstance(fillvalue, np.complexfloating | np.longdouble):
        raise HandBack("arguments")
    dtype = np.result_type(first.dtype, second.dtype)
    if reverse:
        second = np.flip(second)
    x, h = computable(first, dtype), computable(second, dtype)
    finite = is_finite(x)
    if not is_finite(h):
        raise HandBack("not finite")
    window = [_window(n, k, mode) for n, k in zip(first.shape, second.shape, strict=True)]
    if reverse and mode == "same":
        # The centre of an even-sized in2 is at k // 2 here, unlike everywhere else in scipy.signal.
        window = [(k // 2, k // 2 + n) for n, k in zip(first.shape, second.shape, strict=True)]
    try:
        with np.errstate(over="ignore"):
            fill = dtype.type(fillvalue)
    except OverflowError as error:  # an integer beyond float64, which scipy may not even look at
        raise HandBack("arguments") from error
    if mode == "valid" or (padding == "constant" and fill == 0):
        return convolve_window(x, h, window, finite=finite, wide=True)
    reach = [k - 1 for k in h.shape]
    options = {"constant_values": fill} if padding == "constant" else {}
    padded = np.pad(x, [(r, r) for r in reach], mode=padding, **options)  # type: ignore[call-overload]
    # In the padded array every value of the full convolution has all its overlaps.
    inside = [(start + r, stop + r) for (start, stop), r in zip(window, reach, strict=True)]
    return convolve_window(padded, h, inside, finite=finite and bool(np.isfinite(fill)), wide=True)


@stand_in("scipy.signal")
def convolve2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0) -> Any:
    """Boundaries are written out beyond the array before it is convolved."""
    return _in_the_plane(in1, in2, mode, boundary, fillvalue, reverse=False)


@stand_in("scipy.signal")
def correlate2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0) -> Any:
    """As `convolve2d`, with `in2` reversed; "same" puts the centre of an even-sized `in2` at ``k // 2``."""
    return _in_the_plane(in1, in2, mode, boundary, fillvalue, reverse=True)
