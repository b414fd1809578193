"""Argument checks. Every message names the argument, says what came and what was expected.

A leaf of the package: imports nothing of it. Checks return the value in the form that the caller works with.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

AXES = {1: "(x)", 2: "(y, x)", 3: "(z, y, x)"}


def shown(value: Any) -> str:
    """Short text for `value` in a message: an array is named by type, shape and dtype."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _listed(options: Iterable[str]) -> str:
    return ", ".join(repr(option) for option in options)


def choice(value: Any, name: str, options: Sequence[str]) -> str:
    """`value` if it is one of `options`.

    Raises
    ------
    TypeError
        `value` is not a string.
    ValueError
        It is a string but none of `options`.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name}: got {shown(value)}, expected one of {_listed(options)}")
    if value not in options:
        raise ValueError(f"{name}: got {value!r}, expected one of {_listed(options)}")
    return value


def flag(value: Any, name: str) -> bool:
    if value is True or value is False:
        return value
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: got {shown(value)}, expected True or False")
    return bool(value)


def integer(value: Any, name: str, *, minimum: int, maximum: int | None = None) -> int:
    """An int (or NumPy integer) of at least `minimum`; True, 3.0 and "3" are refused."""
    if type(value) is int and minimum <= value and (maximum is None or value <= maximum):
        return value  # nothing to say: messages cost more than the check
    expected = f"expected an integer of at least {minimum}"
    expected += "" if maximum is None else f" and at most {maximum}"
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: got {value!r}, {expected}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: got {shown(value)}, {expected}") from None
    if number < minimum or (maximum is not None and number > maximum):
        raise ValueError(f"{name}: got {number}, {expected}")
    return number


def axes(value: Any, name: str) -> int:
    """How many axes `value` has: 0 of a number, 1 of a sequence of numbers."""
    try:
        return np.ndim(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists
        raise TypeError(f"{name}: cannot be read as an array ({error})") from error


def number(value: Any, name: str, *, minimum: float | None = None, above: float | None = None) -> float:
    """A finite real number, at least `minimum`, greater than `above`."""
    bound = "" if minimum is None else f" of at least {minimum:g}"
    bound = bound if above is None else f" greater than {above:g}"
    expected = f"expected a finite number{bound}"
    if isinstance(value, bool | np.bool_ | str | bytes | complex | np.complexfloating) or axes(value, name):
        raise TypeError(f"{name}: got {shown(value)}, {expected}")
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: got {shown(value)}, {expected}") from None
    except OverflowError:  # an integer beyond float64
        raise ValueError(f"{name}: got {shown(value)}, {expected}") from None
    too_small = (minimum is not None and result < minimum) or (above is not None and result <= above)
    if not math.isfinite(result) or too_small:
        raise ValueError(f"{name}: got {result!r}, {expected}")
    return result


def shape(value: Any, name: str) -> tuple[int, ...]:
    """1 to 3 axis lengths, each at least 1."""
    try:
        lengths = [operator.index(n) for n in (value if axes(value, name) else [value])]
    except TypeError:
        raise TypeError(f"{name}: got {shown(value)}, expected 1 to 3 integers") from None
    if not 1 <= len(lengths) <= 3 or min(lengths) < 1:
        raise ValueError(f"{name}: got {tuple(lengths)}, expected 1 to 3 axis lengths of at least 1")
    return tuple(lengths)


def voxel_size(value: Any, name: str, ndim: int) -> tuple[float, ...]:
    """`ndim` positive lengths in the image's axis order, or one number for all axes."""
    if axes(value, name) == 0:
        return (number(value, name, above=0),) * ndim
    values = tuple(number(v, f"{name}[{i}]", above=0) for i, v in enumerate(value))
    if len(values) != ndim:
        raise ValueError(
            f"{name}: got {len(values)} values {values}, expected {ndim}, one per axis {AXES[ndim]}"
        )
    return values


def numeric(dtype: np.dtype, name: str) -> None:
    """Refuse what is not a real number of at most 64 bits."""
    expected = "expected real numbers: float16, float32, float64, bool or integers"
    if dtype.kind == "c":
        raise TypeError(f"{name}: got complex values ({dtype}), {expected}; take .real or abs() first")
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise TypeError(f"{name}: got {dtype}, {expected}; convert with .astype('float64')")
    if dtype.kind not in "biuf":
        raise TypeError(f"{name}: got dtype {dtype}, {expected}")


def an_array(array: np.ndarray, value: Any, name: str) -> None:
    """Refuse a `value` of which NumPy made an `array` without numbers, by its type where it wraps one."""
    kind = type(value)
    if array.dtype == object and kind.__module__ not in ("builtins", "numpy"):
        if hasattr(value, "spatial_axes") and hasattr(value, "array"):
            what, hint = f"a {kind.__name__}", "; pass volume.array"
        else:
            what = f"an object of type {kind.__module__}.{kind.__qualname__}"
            hint = "; mf.io.read gives files as a volume: pass volume.array"
        raise TypeError(f"{name}: got {what}, expected an array of real numbers{hint}")
    numeric(array.dtype, name)


def unmasked(value: Any, name: str, otherwise: str = "") -> None:
    """Refuse a masked array; `otherwise` is what can be done beside filling it."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: got a masked array, whose masked voxels would count as measured; pass .filled(value)"
            f"{otherwise}"
        )


def real(value: Any, name: str) -> np.ndarray:
    """`value` as an array of real numbers without a mask."""
    unmasked(value, name)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        # Ragged lists; tensors on a GPU or with a gradient.
        raise TypeError(f"{name}: cannot be read as an array ({error})") from error
    an_array(array, value, name)
    return array


def rank(array: np.ndarray, name: str, *, ndim: int | None = None, like: str = "image") -> None:
    """1 to 3 axes, none empty; exactly `ndim` where given (the rank of the argument `like`)."""
    if array.size == 0:
        raise ValueError(f"{name}: got an empty array of shape {array.shape}, expected at least one voxel")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(
            f"{name}: got {array.ndim} axes (shape {array.shape}), expected {ndim}, as many as the {like} has"
        )
    if not 1 <= array.ndim <= 3:
        raise ValueError(
            f"{name}: got {array.ndim} axes (shape {array.shape}), expected 1 to 3 in the order (z, y, x); "
            "loop over channels and time points"
        )


def finite(array: np.ndarray, name: str, axes: str | None = None) -> tuple[float, float]:
    """Smallest and largest value; NaN or Inf anywhere is refused with their number and the first place.

    `axes` names those of the array; by default they are spatial.
    """
    # The extremes need no temporary: NaN propagates through both, an infinity is one of them.
    lowest, highest = float(array.min()), float(array.max())
    if math.isfinite(lowest) and math.isfinite(highest):
        return lowest, highest
    bad = ~np.isfinite(array)
    nans = int(np.isnan(array).sum())
    total = int(bad.sum())
    first = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), array.shape))
    place = f"{AXES.get(array.ndim, '') if axes is None else axes} = {first}".removeprefix(" = ")
    raise ValueError(
        f"{name}: {total} of {array.size} values are not finite ({nans} NaN, {total - nans} infinite), the "
        f"first at index {place}; expected finite values only"
    )


def most(dtype: Any) -> float:
    """The largest magnitude of values whose sums and products stay in the dtype's range."""
    return 1e28 if np.dtype(dtype) == np.float32 else 1e280


def scale(magnitude: float, name: str, dtype: Any, *, squared: bool = False) -> None:
    """Refuse magnitudes at which sums over the image, its spectrum or divisors leave the dtype's range.

    `squared`: sums of squares as well, which are float64.
    """
    limit = 1e140 if squared and np.dtype(dtype) != np.float32 else most(dtype)
    if magnitude != 0 and not 1 / limit <= magnitude <= limit:
        raise ValueError(
            f"{name}: the largest value is {magnitude:g}, expected {1 / limit:g} to {limit:g} in {dtype}; "
            f"rescale the {name}"
        )


def fits(value: float, name: str, dtype: Any, *, tiny: bool = True) -> float:
    """`value`, a number that meets the image; refused where it leaves the dtype's range, as in `scale`.

    `tiny`: it may be as small as it likes.
    """
    limit = most(dtype)
    if abs(value) > limit or (not tiny and 0 < abs(value) < 1 / limit):
        allowed = f"{-limit:g} to {limit:g}" if tiny else f"0, or {1 / limit:g} to {limit:g}"
        raise ValueError(f"{name}: got {value:g}, expected {allowed} in {dtype}")
    return value


def same_shape(array: np.ndarray, name: str, expected: tuple[int, ...], like: str) -> None:
    if array.shape != tuple(expected):
        raise ValueError(
            f"{name}: got shape {array.shape}, expected {tuple(expected)}, the shape of the {like}"
        )


def same_shape_or_batch(array: np.ndarray, name: str, expected: tuple[int, ...], like: str) -> None:
    """`expected`, or that behind one more axis with at least one item."""
    is_batch = array.ndim == len(expected) + 1 and array.shape[1:] == tuple(expected)
    if is_batch and array.shape[0] == 0:
        raise ValueError(f"{name}: got shape {array.shape}, a batch without items; expected at least one")
    if not is_batch and array.shape != tuple(expected):
        raise ValueError(
            f"{name}: got shape {array.shape}, expected {tuple(expected)}, the shape of the {like}, "
            f"or a batch ({', '.join(map(str, ('N', *expected)))})"
        )


def non_negative(array: np.ndarray, name: str, lowest: float) -> None:
    if lowest < 0:
        count = int((array < 0).sum())
        raise ValueError(
            f"{name}: {count} of {array.size} values are negative, the smallest {lowest:g}; expected none "
            "below 0"
        )


def psf_sum(array: np.ndarray, name: str) -> float:
    """Sum of a PSF's voxels in float64; refused unless positive (after the check for finite values)."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(array.sum(dtype=np.float64))
        magnitude = float(np.abs(array).sum(dtype=np.float64))
    if not math.isfinite(magnitude):
        raise ValueError(f"{name}: its sum leaves float64, expected a finite one; rescale it")
    if magnitude == 0:
        raise ValueError(f"{name}: all {array.size} values are zero, expected a positive sum")
    # A sum this far below its terms is rounding: dividing by it would blow the PSF up.
    if abs(total) <= 1e-7 * magnitude:
        raise ValueError(f"{name}: the values cancel to a sum of {total:g}, expected a positive sum")
    if total < 0:
        raise ValueError(f"{name}: got a sum of {total:g}, expected a positive sum")
    return total
