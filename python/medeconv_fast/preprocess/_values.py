"""Other values on the same voxels: normalize, window, taper."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from .. import _validate
from ._step import Step, numbers, per_axis, region, step_of, take, working

METHODS = ("min-max", "z-score", "percentile")


def normalize(
    image: Any, method: str = "min-max", *, percentiles: Any = (1.0, 99.0), mask: Any = None
) -> tuple[Any, Step]:
    """Bring values to a standard scale: ``(image - offset) / scale``; nothing is cut off.

    Parameters
    ----------
    image : array_like or Volume
        1 to 3 axes of space. A volume's channels and time points are brought to one scale together.
    method : {"min-max", "z-score", "percentile"}
        "min-max": the smallest value becomes 0, the largest 1. "z-score": mean 0, standard deviation 1.
        "percentile": the two percentiles become 0 and 1, values beyond them lie outside.
    percentiles : (float, float)
        For "percentile".
    mask : array_like or Volume, optional
        Offset and scale come from the voxels that are not 0; all voxels are scaled.

    Returns
    -------
    result : array or Volume
        float32 or float64, as the library's rule says. A volume loses ``metadata["intensity_unit"]``: its
        values are no longer HU, or whatever they were. So it does ``cal_min`` and ``cal_max``, between which
        NIfTI has the old values shown.
    step : Step
        ``step.settings`` has ``offset`` and ``scale``. `Step.undo` brings these back.

    Raises
    ------
    ValueError
        All values are equal (nothing to scale by), NaN or Inf, an empty mask, percentiles that are not two
        ascending numbers from 0 to 100.
    TypeError
        Not an image.
    """
    taken = take(image)
    data, (lowest, highest) = numbers(taken)
    method = _validate.choice(method, "method", METHODS)
    settings: dict[str, Any] = {"method": method}
    values = data if mask is None else data[..., region(mask, taken)]
    if method == "z-score":
        offset = float(values.mean(dtype=np.float64))
        # Squares of values near 1 fit float64; a power of two rounds nothing.
        unit = math.ldexp(1.0, math.frexp(max(highest, -lowest))[1])
        scale = float((values / data.dtype.type(unit)).std(dtype=np.float64)) * unit
        what = "the standard deviation"
    elif method == "percentile":
        low, high = _percentiles(percentiles)
        settings["percentiles"] = (low, high)
        offset, top = (float(v) for v in np.percentile(values, [low, high]))
        scale = top - offset
        what = f"the distance of the percentiles {low:g} and {high:g}"
    else:
        offset = float(values.min())
        scale = float(values.max()) - offset
        what = "the range"
    number = data.dtype.type
    # Rounded before they are used, so that going back uses the same ones.
    offset, scale = float(number(offset)), float(number(scale))
    largest = max(highest - offset, offset - lowest)
    if scale <= 0 or largest / scale > np.finfo(data.dtype).max / 2:
        where = "" if mask is None else " inside the mask"
        raise ValueError(
            f"image: {what}{where} is {scale:g}, expected values that differ, to scale them by {method!r}"
        )
    settings |= {"offset": offset, "scale": scale}
    result = (data - number(offset)) / number(scale)
    back = partial(_unscaled, offset=offset, scale=scale)
    return step_of("normalize", settings, taken, result, back, rescaled=True)


def _percentiles(percentiles: Any) -> tuple[float, float]:
    pair = tuple(percentiles) if _validate.axes(percentiles, "percentiles") == 1 else ()
    if len(pair) != 2:
        raise ValueError(f"percentiles: got {_validate.shown(percentiles)}, expected two numbers (low, high)")
    low, high = (_validate.number(v, f"percentiles[{i}]", minimum=0) for i, v in enumerate(pair))
    if not low < high <= 100:
        raise ValueError(f"percentiles: got ({low:g}, {high:g}), expected ascending numbers from 0 to 100")
    return low, high


def _unscaled(data: np.ndarray, put_back: bool, *, offset: float, scale: float) -> np.ndarray:
    return working(data) * scale + offset


def window(image: Any, level: float, width: float) -> tuple[Any, Step]:
    """Limit values to a window, as CT images are looked at; they are not rescaled.

    Parameters
    ----------
    image : array_like or Volume
        1 to 3 axes of space.
    level : float
        Middle of the window, in the image's unit (HU).
    width : float
        Values below ``level - width / 2`` and above ``level + width / 2`` become those limits (DICOM's
        LINEAR_EXACT).

    Returns
    -------
    result : array or Volume
        float32 or float64, as the library's rule says.
    step : Step
        What lay outside is lost in the result: `Step.undo` puts it back as it was measured, or leaves the
        limits there with ``put_back=False``. Values inside are what the undone image says.

    Raises
    ------
    ValueError
        A width that is not positive, no value inside the window, NaN or Inf.
    TypeError
        Not an image.
    """
    taken = take(image)
    data, (lowest, highest) = numbers(taken)
    level = _validate.number(level, "level")
    width = _validate.number(width, "width", above=0)
    low, high = level - width / 2, level + width / 2
    if high <= lowest or low >= highest:
        raise ValueError(
            f"level, width: the window {low:g} to {high:g} has none of the image's values, {lowest:g} to "
            f"{highest:g}, inside; expected a window on them"
        )
    outside = (data < low) | (data > high)
    settings = {"level": level, "width": width, "outside": int(outside.sum())}
    back = partial(_unlimited, outside=outside, values=data[outside])
    return step_of("window", settings, taken, np.clip(data, low, high), back)


def _unlimited(data: np.ndarray, put_back: bool, *, outside: np.ndarray, values: np.ndarray) -> np.ndarray:
    dtype = np.promote_types(working(data[..., :0]).dtype, values.dtype)
    result = data.astype(dtype)
    if put_back:
        result[outside] = values
    return result


def taper(image: Any, width: Any, *, level: float | None = None) -> tuple[Any, Step]:
    """Let an image fade to a constant at its edges, so that opposite edges meet without a jump.

    Parameters
    ----------
    image : array_like or Volume
        1 to 3 axes of space.
    width : int or sequence of int
        Voxels over which it fades, per axis; at most half the axis. 0: that axis does not fade.
    level : float, optional
        What it fades to; default: the mean of the outermost voxels of the axes that fade.

    Returns
    -------
    result : array or Volume
        ``level + (image - level) w`` with ``w = sin²(π (i + 1/2) / (2 width))`` at the i-th voxel from an
        edge: a raised cosine.
    step : Step
        What the taper took away is lost where w is small: `Step.undo` adds it again as it was measured (not
        with ``put_back=False``), so that the edge changes smoothly from the original to the undone image.

    Raises
    ------
    ValueError, TypeError
        A width beyond half the axis, NaN or Inf, not an image.
    """
    taken = take(image)
    data, _ = numbers(taken)
    ndim = taken.ndim
    entries = zip(per_axis(width, ndim, "width", "an integer"), taken.shape, strict=True)
    widths = tuple(
        _validate.integer(w, f"width[{i}]", minimum=0, maximum=n // 2) for i, (w, n) in enumerate(entries)
    )
    if level is None:
        rim = np.zeros(taken.shape, bool)
        for axis, w in enumerate(widths):
            if w:
                rim[(slice(None),) * axis + ([0, -1],)] = True
        level = float(data[..., rim].mean(dtype=np.float64)) if rim.any() else 0.0
    else:
        level = _validate.number(level, "level")
    constant = data.dtype.type(level)
    if not np.isfinite(constant):
        raise ValueError(f"level: got {level!r}, expected a number that {data.dtype} holds")
    result = data - constant
    for axis, (n, w) in enumerate(zip(taken.shape, widths, strict=True)):
        if w:
            rise = np.sin(np.pi * (np.arange(w) + 0.5) / (2 * w)) ** 2
            weight = np.concatenate([rise, np.ones(n - 2 * w), rise[::-1]]).astype(data.dtype)
            result *= weight.reshape((-1,) + (1,) * (ndim - 1 - axis))
    result += constant
    return step_of(
        "taper",
        {"width": widths, "level": float(constant)},
        taken,
        result,
        partial(_untapered, removed=data - result),
    )


def _untapered(data: np.ndarray, put_back: bool, *, removed: np.ndarray) -> np.ndarray:
    data = working(data)
    return data + removed if put_back else data.copy()
