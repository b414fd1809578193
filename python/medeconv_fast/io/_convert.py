"""From computed values to the dtype that is stored: rounding, scale, and the count of what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _validate
from ._nifti import scaled_dtype

Scale = tuple[float, float]


def output(dtype: Any, scale: Any, stored: np.dtype) -> tuple[np.dtype, Scale]:
    """The checked arguments of `create_store`; `stored` is the dtype of the input's file."""
    if isinstance(dtype, str) and dtype == "input":
        wanted = np.dtype(stored)
    else:
        try:
            if dtype is None:  # NumPy takes it for float64
                raise TypeError
            wanted = np.dtype(dtype)
        except TypeError:
            raise TypeError(
                f"dtype: got {_validate.shown(dtype)}, expected 'input' or a dtype such as 'float32'"
            ) from None
        _validate.numeric(wanted, "dtype")
    wanted = wanted.newbyteorder("=")
    if scale is None:
        if wanted.kind in "iu":
            raise ValueError(
                f"scale: needed to store computed values as {wanted}: value = scale · stored; 1 rounds them "
                "to whole numbers, (slope, intercept) also moves them"
            )
        return wanted, (1.0, 0.0)
    pair = (scale, 0.0) if np.ndim(scale) == 0 else tuple(scale)
    if len(pair) != 2:
        raise ValueError(f"scale: got {_validate.shown(scale)}, expected a number or (slope, intercept)")
    made = _validate.number(pair[0], "scale", above=0), _validate.number(pair[1], "scale's intercept")
    if wanted.kind == "b" and made != (1.0, 0.0):
        raise ValueError("scale: bool values have none")
    single = np.finfo(np.float32)  # what files and readers keep it in
    least, most = float(single.tiny), float(single.max)
    if made[0] < least or max(made[0], abs(made[1])) > most:
        raise ValueError(
            f"scale: got {_validate.shown(scale)}, expected magnitudes of {least:.3g} to {most:.3g}, which "
            "float32 holds"
        )
    return wanted, made


def stored(values: np.ndarray, dtype: np.dtype, scale: Scale) -> tuple[np.ndarray, int]:
    """What is stored of values, C-contiguous, and how many of them had to be clipped to the dtype's range.

    Integers are rounded to the nearest, halves to even. Infinite values stay so in a floating dtype.

    Raises
    ------
    ValueError
        NaN where integers are to be stored.
    TypeError
        Values that the dtype has no way to hold: anything but bool as bool.
    """
    if values.dtype == dtype and scale == (1.0, 0.0):
        return np.ascontiguousarray(values), 0
    if dtype.kind == "b":
        raise TypeError(f"array: got {values.dtype}, cannot be stored as bool")
    if scale != (1.0, 0.0):
        wide = scaled_dtype(values.dtype) == np.float64 or dtype.itemsize > 2
        values = values.astype(np.float64 if wide else np.float32)
        values -= scale[1]
        values /= scale[0]
    low, high = _range(dtype, values.dtype)
    if dtype.kind == "f":
        outside = np.isfinite(values) & ((values < low) | (values > high)) if values.size else values
    else:
        if values.dtype.kind == "f":
            if np.isnan(values).any():
                raise ValueError(f"array: {int(np.isnan(values).sum())} values are NaN, which {dtype} lacks")
            values = np.rint(values)
        outside = (values < low) | (values > high)
    clipped = int(np.count_nonzero(outside))
    if clipped:
        values = np.where(outside, np.clip(values, low, high), values)
    return np.ascontiguousarray(values, dtype), clipped


def _range(dtype: np.dtype, given: np.dtype) -> tuple[Any, Any]:
    """The smallest and largest value of `dtype` among those that `given` has."""
    if dtype.kind == "f":
        limit = float(np.finfo(dtype).max)
        if given.kind != "f":
            return -limit, limit
        limit = min(limit, float(np.finfo(given).max))
        return given.type(-limit), given.type(limit)
    bounds = np.iinfo(dtype)
    if given.kind in "iu":
        own = np.iinfo(given)
        return max(bounds.min, own.min), min(bounds.max, own.max)
    if given.kind == "b":
        return False, True
    # The largest integer may lie between two floating values: then the lower one is it.
    low, high = given.type(bounds.min), given.type(bounds.max)
    return low, high if int(high) <= bounds.max else np.nextafter(high, given.type(0))
