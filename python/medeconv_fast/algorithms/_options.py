"""What the algorithms share: the record of a run, PSFs on the image's grid, regularizers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import _arrays, _device, _validate, backends
from .._blur import Blur
from .._record import Record

# Negative values down to this share of the largest one are taken for noise around zero, beyond it for a
# signed scale.
SIGNED = 0.25
REGULARIZERS = ("tv", "tikhonov", "good-roughness", "entropy")
RELATIVE = ("tikhonov", "entropy")  # to the mean: half of the light needs half of the level


class Info(Record):
    """The record of a run: a dict whose entries can also be read as attributes.

    Entries
    -------
    num_iter : int
        Iterations done.
    stopped_by : str
        What ended the run.
    trace : list of dict
        One entry per iteration: iteration (from 1) and seconds; what the rule for stopping needs (of
        i_divergence, squared_residual, both of the estimate that the iteration began with, relative_change);
        alpha of the acceleration.
    settings : dict
        Every option as it was resolved.
    engine, backend : str
    bytes : int
        Predicted working memory beside input and output.
    seconds : float
        Wall time of the call.
    warnings : list of str
        What the user should know about the result.
    """


def regularizer_of(value: Any) -> tuple[str, float] | None:
    """Kind and weight of a call's ``regularizer=``."""
    if value is None:
        return None
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(
            f"regularizer: got {_validate.shown(value)}, expected None or a pair (kind, weight), the "
            "kind one of " + ", ".join(repr(kind) for kind in REGULARIZERS)
        )
    kind = _validate.choice(value[0], "regularizer[0]", REGULARIZERS)
    weight = _validate.number(value[1], "regularizer[1]", minimum=0)
    return (kind, weight) if weight else None


def psf_on_grid(psf: Any, ndim: int, voxel_size: Any, psf_voxel_size: Any) -> tuple[Any, dict[str, Any]]:
    """The PSF on the image's voxels (resampled, its sum kept, where the sizes differ), and the settings."""
    settings: dict[str, Any] = {"voxel_size": None, "psf_voxel_size": None, "psf_resampled": False}
    if voxel_size is not None:
        settings["voxel_size"] = _validate.voxel_size(voxel_size, "voxel_size", ndim)
    if psf_voxel_size is None:
        return psf, settings
    settings["psf_voxel_size"] = _validate.voxel_size(psf_voxel_size, "psf_voxel_size", ndim)
    if voxel_size is None:
        raise ValueError(
            f"psf_voxel_size: got {_validate.shown(psf_voxel_size)} without voxel_size; expected both, or "
            "neither when the PSF is sampled on the image's voxels"
        )
    if np.allclose(settings["voxel_size"], settings["psf_voxel_size"], rtol=1e-6, atol=0):
        return psf, settings
    from .. import psf as psf_module

    values, _ = _arrays.as_psf(psf, ndim, normalize=False)
    settings["psf_resampled"] = True
    return psf_module.resample(values, settings["psf_voxel_size"], settings["voxel_size"]), settings


def check_psf_sum(total: float, largest: float, dtype: Any, *, squared: bool) -> None:
    """Refuse a PSF that is not normalised and whose sum takes the estimate out of the dtype's range.

    `largest` is the image's largest value; `squared`: the method works with |H|^2.
    """
    most = _validate.most(dtype)
    limit = math.sqrt(most) if squared else most
    expected = f"in {np.dtype(dtype)}; rescale it, or leave normalize_psf=True"
    if not 1 / limit <= total <= limit:
        raise ValueError(f"psf: its sum is {total:g}, expected {1 / limit:g} to {limit:g} {expected}")
    if largest != 0 and not 1 / most <= largest / total <= most:
        raise ValueError(
            f"psf: its sum {total:g} makes an estimate of about {largest / total:g}, expected "
            f"{1 / most:g} to {most:g} {expected}"
        )


def steepness(voxel_size: tuple[float, ...] | None, shape: tuple[int, ...]) -> tuple[float, ...]:
    """What differences along each axis are multiplied by to be gradients per smallest voxel length.

    Axes of length 1 have no differences: their voxel size does not count.
    """
    if voxel_size is None:
        return (1.0,) * len(shape)
    smallest = min((s for s, n in zip(voxel_size, shape, strict=True) if n > 1), default=1.0)
    return tuple(smallest / s for s in voxel_size)


def check_callback(callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(
            f"callback: got {_validate.shown(callback)}, expected a function of (iteration, estimate)"
        )


def weights_of(weights: Any, data: np.ndarray) -> np.ndarray | None:
    """A call's ``weights=`` for that image."""
    if weights is None:
        return None
    trust, (lowest, highest) = _arrays.as_operand(weights, "weights", data.shape, data.dtype, beside=data)
    _validate.non_negative(trust, "weights", lowest)
    if highest == 0:
        raise ValueError("weights: all are zero, expected at least one positive")
    _validate.scale(highest, "weights", data.dtype)
    return trust


def trusted(
    data: np.ndarray, weights: np.ndarray | None, extremes: tuple[float, float]
) -> tuple[np.ndarray, tuple[float, float]]:
    """The image as its weights let it be seen, and its smallest and largest value.

    What stands in a voxel of weight 0 says nothing, and may be a number that marks it as dead: no scale,
    divisor or first estimate may come from it. It takes a value that is there (counts stay counts), the
    smallest that is not below the weighted mean.
    """
    if weights is None or float(weights.min()) > 0:
        return data, extremes
    given, trust = _device.host(data), _device.host(weights)
    seen = trust > 0
    values = given[seen]
    known = np.where(seen, given, fill_of(values, trust[seen]))
    return _device.beside(data, known), (float(values.min()), float(values.max()))


def fill_of(values: np.ndarray, weights: np.ndarray) -> Any:
    """The smallest value that is not below the weighted mean.

    Where the mean is one of the values, it is that one: not the next, which rounding would take with some
    images and leave with the same in another unit.
    """
    lowest, highest = values.min(), values.max()
    slack = 8 * float(np.finfo(values.dtype).eps) * max(-float(lowest), float(highest))
    return values.min(initial=highest, where=values >= weighted_mean(values, weights) - slack)


def weighted_mean(data: np.ndarray, weights: np.ndarray | None, total: float | None = None) -> float:
    """`total`: the sum of `data`, where it is known."""
    if weights is None:
        return float(data.mean(dtype=np.float64)) if total is None else total / data.size
    return _device.dot(data, weights) / float(weights.sum(dtype=np.float64))


def initial_array(initial: Any, blur: Blur, data: np.ndarray) -> np.ndarray:
    """The array that a call's ``initial=`` is, of the image's shape or of the estimate's, beside `data`."""
    array, _ = _arrays.to_numpy(initial, "initial")
    if array.shape not in (blur.shape, blur.estimate_shape):
        allowed = f"{blur.shape} (the image's)"
        if blur.estimate_shape != blur.shape:
            allowed += f" or {blur.estimate_shape} (the estimate's)"
        raise ValueError(f"initial: got shape {array.shape}, expected {allowed}")
    lowest, highest = _validate.finite(array, "initial")
    _validate.fits(max(lowest, highest, key=abs), "initial", data.dtype)
    made: np.ndarray = _device.beside(data, _arrays.computable(array, data.dtype))
    return made


def framed(first: np.ndarray, blur: Blur) -> np.ndarray:
    """A new array of the estimate's shape; one of the image's shape has its edge repeated outside."""
    if first.shape == blur.estimate_shape:
        return first.copy()
    before = tuple(s.start for s in blur.frame)
    behind = tuple(n - s.stop for s, n in zip(blur.frame, blur.estimate_shape, strict=True))
    made: np.ndarray = backends.resolve(blur.backend).pad(first, before, behind, "nearest")
    return made


def cropped(estimate: np.ndarray, blur: Blur, *, copy: bool = False) -> np.ndarray:
    """The estimate in the image's frame; `copy`: a new array even where that is all of it."""
    if not isinstance(estimate, np.ndarray):  # a box of an array in GPU memory is new
        whole = tuple(len(range(n)[s]) for n, s in zip(estimate.shape, blur.frame, strict=True))
        return estimate if whole == estimate.shape and not copy else estimate[blur.frame]
    part = estimate[blur.frame]
    return np.array(part, order="C") if copy else np.ascontiguousarray(part)


_USUAL = {
    "background": 0.0,
    "damping": None,
    "readout_variance": None,
    "noise_to_signal": None,
    "weights": None,
    "back_projector": "matched",
    "negative": "raise",
}


def unusual(options: Mapping[str, Any]) -> list[str]:
    """What was asked for of a method that changes what its result means, in a few words each."""
    words = []
    for name, usual in _USUAL.items():
        value, shown = options.get(name, usual), name.replace("_", " ")
        if isinstance(value, int | float | np.number):
            words += [] if value == usual else [f"{shown} {value:.4g}"]
        elif isinstance(value, str) and value != "array":
            words += [] if value == usual else [f"{shown} {value}"]
        elif value is not None:
            words.append(shown)
    return words
