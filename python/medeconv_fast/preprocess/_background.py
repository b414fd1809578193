"""The level on which an image stands, and the noise there."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import _validate
from ._step import COUNTED, Step, numbers, region, step_of, take, working

METHODS = ("mode", "sigma-clip", "percentile")
# More values than this make the level no better; they are drawn with a fixed seed.
SAMPLE = 1 << 20
SIGMA_PER_MAD = 1.482602218505602  # of a normal distribution: 1 / its third quartile


class Background(NamedTuple):
    """Level of a background, and standard deviation of the noise around it."""

    level: float
    noise: float


def estimate_background(
    image: Any, method: str = "mode", *, percentile: float = 10.0, mask: Any = None
) -> Background:
    """Estimate the constant on which an image stands.

    Parameters
    ----------
    image : array_like or Volume
        1 to 3 axes of space.
    method : {"mode", "sigma-clip", "percentile"}
        "mode": the most frequent level, the middle of the narrowest interval that holds an eighth of the
        values; right where the background is the level that most voxels share. "sigma-clip": median after
        values more than three standard deviations away from it have been left out until none is; right where
        content is sparse. "percentile": this share of the values lies below; right where some part is known
        to be background.
    percentile : float
        For "percentile", 0 to 100.
    mask : array_like or Volume, optional
        Look only at voxels that are not 0.

    Returns
    -------
    Background
        ``level`` and ``noise``, the standard deviation of the background around it: from the values below the
        level, which content does not reach ("mode", "percentile"), or of the values that remained
        ("sigma-clip").

    Raises
    ------
    ValueError, TypeError
        NaN or Inf, an empty mask, an unknown method, not an image.

    Notes
    -----
    Images of more than 2²⁰ voxels are sampled with a fixed seed. Richardson-Lucy takes a background as
    ``background=``, which is better than subtracting it: its noise stays.

    References
    ----------
    J. H. Venter, Ann. Math. Stat. 38, 1446 (1967) (mode by the narrowest interval).
    """
    taken = take(image)
    data, _ = numbers(taken)
    method = _validate.choice(method, "method", METHODS)
    percentile = _validate.number(percentile, "percentile", minimum=0)
    if percentile > 100:
        raise ValueError(f"percentile: got {percentile:g}, expected 0 to 100")
    values = data.reshape(-1) if mask is None else data[..., region(mask, taken)].reshape(-1)
    if values.size > SAMPLE:
        values = values[np.random.default_rng(0).integers(0, values.size, SAMPLE)]
    values = np.sort(values.astype(np.float64))
    if method == "sigma-clip":
        return _sigma_clipped(values)
    level = _mode(values) if method == "mode" else float(np.percentile(values, percentile))
    below = level - values[: np.searchsorted(values, level, side="right")]
    return Background(level, SIGMA_PER_MAD * float(np.median(below)) if below.size else 0.0)


def _mode(values: np.ndarray) -> float:
    """Middle of the narrowest eighth of sorted values."""
    count = min(values.size, max(2, -(-values.size // 8)))
    widths = values[count - 1 :] - values[: values.size - count + 1]
    # Of equally narrow ones (values that repeat) the one in the middle.
    narrowest = np.flatnonzero(widths == widths.min())
    first = int(narrowest[narrowest.size // 2])
    return float(np.median(values[first : first + count]))


def _sigma_clipped(values: np.ndarray) -> Background:
    while True:
        level = float(np.median(values))
        noise = SIGMA_PER_MAD * float(np.median(np.abs(values - level)))
        # Sorted values: those within three standard deviations are a slice.
        low = int(np.searchsorted(values, level - 3 * noise, side="left"))
        high = int(np.searchsorted(values, level + 3 * noise, side="right"))
        if high - low == values.size or noise == 0:
            return Background(level, float(values.std()) if noise else 0.0)
        values = values[low:high]


def background(
    image: Any,
    level: float | None = None,
    *,
    method: str = "mode",
    percentile: float = 10.0,
    mask: Any = None,
) -> tuple[Any, Step]:
    """Subtract a constant background.

    Parameters
    ----------
    image : array_like or Volume
        1 to 3 axes of space.
    level : float, optional
        What is subtracted. Default: `estimate_background`.
    method, percentile, mask
        For the estimate.

    Returns
    -------
    result : array or Volume
        Values around 0 where there is background: some are negative. A volume in Hounsfield units loses
        ``metadata["intensity_unit"]``: their zero is water.
    step : Step
        ``step.settings`` has ``level`` and, where it was estimated, ``noise``; `Step.undo` adds the level and
        brings the unit back.

    Raises
    ------
    ValueError, TypeError
        As `estimate_background`; a level that is not finite.
    """
    taken = take(image)
    data, _ = numbers(taken)
    if level is None:
        found = estimate_background(image, method, percentile=percentile, mask=mask)
        settings: dict[str, Any] = {"level": found.level, "noise": found.noise, "method": method}
    else:
        settings = {"level": _validate.number(level, "level"), "method": "given"}
    constant = data.dtype.type(settings["level"])
    if not math.isfinite(constant):
        raise ValueError(f"level: got {level!r}, expected a number that {data.dtype} holds")
    # Of Hounsfield units the zero is water: minus a constant they are none, as counts and activities stay.
    counted = None if taken.volume is None else taken.volume.metadata.get(COUNTED)
    moved = counted == "HU" and bool(constant)
    back = partial(_added, level=float(constant))
    return step_of("background", settings, taken, data - constant, back, rescaled=moved)


def _added(data: np.ndarray, put_back: bool, *, level: float) -> np.ndarray:
    return working(data) + level
