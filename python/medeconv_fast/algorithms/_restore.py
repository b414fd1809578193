"""The best defaults we know, for a user who does not want to choose."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _arrays, _validate
from ..stop import IDivergenceSlope, Thinning
from . import _options
from ._fista import fista
from ._inverse_filter import inverse_filter
from ._landweber import landweber
from ._noise import Noise, noise_of
from ._richardson_lucy import richardson_lucy
from ._tikhonov import tikhonov
from ._unsupervised_wiener import unsupervised_wiener
from ._van_cittert import van_cittert
from ._wiener import wiener

# Called with the options as they are: nothing is chosen for them.
NAMED: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (tikhonov, inverse_filter, unsupervised_wiener, landweber, fista, van_cittert)
}
METHODS = ("auto", "richardson-lucy", "richardson_lucy", "rl", "wiener", *NAMED)

# What "auto" takes; chosen on the cases of docs/make_restoration.py, see docs/restoration.md.
WEIGHT, MOST_WEIGHT = 0.065, 0.1
NO_NOISE = 1e-7  # weights below this change nothing
NO_OFFSET = 0.02  # share of the level below which noise is that of counts alone
FAINT = 0.01  # share of the level: for less noise an offset takes more light, in 50 iterations, than it helps
FRACTION = 0.1
MOST_ITERATIONS = 50
SPLIT_VOXELS, MOST_SPLITS = 1_000_000, 8  # small images are split several times: their noise misleads

_RL = set(inspect.signature(richardson_lucy).parameters)
_WIENER = set(inspect.signature(wiener).parameters)


def restore(image: Any, psf: Any, method: str = "auto", **options: Any) -> Any:
    """Restore an image blurred by a known PSF with the best defaults we know.

    Parameters
    ----------
    image, psf : array_like
        As in `richardson_lucy`.
    method : str
        "auto": accelerated Richardson-Lucy, regularised as the noise asks, that stops by itself (see Notes);
        the Wiener filter for images on a signed scale, whose negative values reach below -1/4 of the largest
        one (CT numbers). An option that only one of the two has decides for it.
        "richardson_lucy" or "rl", "wiener", "tikhonov", "inverse_filter", "unsupervised_wiener", "landweber",
        "fista" (with its `weight`), "van_cittert": that algorithm with its own defaults.
    **options
        Of the algorithm; what is given is never overridden. Under Richardson-Lucy ``negative`` is "clip" by
        default: negative values are set to zero, with a warning and an entry in ``info["warnings"]``.

    Returns
    -------
    As `richardson_lucy` and the others. Under "auto" ``info["settings"]["noise"]`` is the noise that was
    found, and ``info["settings"]["chosen"]`` has every option that was chosen.

    Raises
    ------
    As `richardson_lucy` and the others.

    Warns
    -----
    UserWarning
        Negative values were clipped, or "auto" chose the Wiener filter for a signed image.

    Notes
    -----
    "auto" fits a variance ``gain * mean + variance`` to the image's finest details, and then takes

    - ``acceleration="biggs-andrews"``,
    - ``regularizer=("tv", 0.065 * sigma / level)``, with sigma the noise at the level where most of the light
      is, ``sum(image**2) / sum(image)`` (0.1 at most),
    - ``readout_variance`` for noise that does not come from counts (Snyder et al. 1993),
    - ``stop=mf.stop.Thinning(gain, fraction=0.1)``, several splits of a small image, at most 50 iterations;
      `IDivergenceSlope` where no noise is found.

    A given `num_iter` replaces the rule for stopping, an unmatched `back_projector` all of them. The factors
    were chosen on simulated scans (docs/restoration.md has them, and what they cost against the best choice).
    """
    if isinstance(method, str) and method == "blind_richardson_lucy":
        raise ValueError(
            "method: got 'blind_richardson_lucy', which finds a psf as well; call mf.blind_richardson_lucy, "
            "which returns (estimate, psf)"
        )
    method = _validate.choice(method, "method", METHODS)
    if method in NAMED:
        known = inspect.signature(NAMED[method]).parameters
        _refuse_unknown(options, set(known), method)
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in ("image", "psf", *options):
                raise TypeError(f"{name}: not given, and the method {method} has no default of it")
        return NAMED[method](image, psf, **options)
    automatic, callback = method == "auto", None
    if automatic:
        method, why = choose(options, lambda: _extremes(image))
        if method == "wiener":
            # A closed form has one step to report.
            callback = options.pop("callback", None)
            _options.check_callback(callback)
        if why:
            warnings.warn(why, UserWarning, stacklevel=2)
    if method == "wiener":
        _refuse_unknown(options, _WIENER, "wiener")
        result = wiener(image, psf, **options)
        if callback is not None:
            callback(1, copy.deepcopy(result[0] if options.get("return_info") else result))
        return result
    _refuse_unknown(options, _RL, "richardson_lucy")
    return_info = _validate.flag(options.pop("return_info", False), "return_info")
    silent = "negative" in options
    noise, chosen = _defaults(image, options) if automatic else (None, {})
    chosen.setdefault("negative", "clip")
    chosen = {name: value for name, value in chosen.items() if name not in options}
    estimate, info = richardson_lucy(image, psf, return_info=True, **chosen, **options)
    info["settings"]["noise"] = None if noise is None else noise._asdict()
    info["settings"]["chosen"] = {name: str(value) for name, value in chosen.items()}
    if info["settings"]["clipped"] and not silent:
        warnings.warn(
            f"{info['warnings'][0]}; pass negative='shift' for a signed scale, negative='clip' to silence "
            "this",
            UserWarning,
            stacklevel=2,
        )
    return (estimate, info) if return_info else estimate


def _defaults(image: Any, options: dict[str, Any]) -> tuple[Noise, dict[str, Any]]:
    """The noise of an image, and the options of `richardson_lucy` that go with it."""
    data, _, (lowest, highest, _) = _arrays.as_image(image)
    trust, seen = _options.weights_of(options.get("weights"), data), None
    if trust is not None and float(trust.min()) == 0:
        seen = [trust > 0]
        data, (lowest, highest) = _options.trusted(data, trust, (lowest, highest))
    return defaults_of([data], lowest, highest, options, seen=seen)


def defaults_of(
    parts: Sequence[np.ndarray],
    lowest: float,
    highest: float,
    options: dict[str, Any],
    *,
    seen: Sequence[np.ndarray] | None = None,
) -> tuple[Noise, dict[str, Any]]:
    """The same of an image of which only some parts are at hand, with its smallest and largest value.

    `seen`, for each part, is False in voxels that say nothing.
    """
    background = _validate.number(options.get("background", 0.0), "background", minimum=0)
    if options.get("negative") == "shift" and lowest < 0:
        parts, highest = [part - part.dtype.type(lowest) for part in parts], highest - lowest
    _validate.scale(max(highest, 0.0), "image", parts[0].dtype, squared=True)
    noise = noise_of(*parts, seen=seen)
    matched = options.get("back_projector", "matched")
    if not (isinstance(matched, str) and matched == "matched"):
        return noise, {}
    chosen: dict[str, Any] = {"acceleration": "biggs-andrews"}
    known = parts if seen is None else [part[mask] for part, mask in zip(parts, seen, strict=True)]
    level = _level_of_light(known, noise, background)
    weight = min(WEIGHT * noise.at(level) / level, MOST_WEIGHT) if level > 0 else 0.0
    if "num_iter" not in options and "stop" not in options:
        chosen |= {"stop": IDivergenceSlope(), "num_iter": MOST_ITERATIONS}
    if weight < NO_NOISE:
        return noise, chosen
    chosen["regularizer"] = ("tv", float(f"{weight:.4g}"))
    gain, offset = noise.as_counts(level, highest)
    negative = options.get("negative", "clip")
    if offset > NO_OFFSET * level and noise.at(level) > FAINT * level and negative == "clip":
        chosen["readout_variance"] = offset
    if "stop" in chosen and negative != "shift":
        size = sum(part.size for part in parts)
        splits = int(min(max(SPLIT_VOXELS // size, 1), MOST_SPLITS))
        chosen["stop"] = Thinning(gain=gain, fraction=FRACTION, splits=splits)
    return noise, chosen


def _level_of_light(parts: Sequence[np.ndarray], noise: Noise, background: float) -> float:
    """The mean intensity that a count, not a voxel, sees; that of the voxels where noise hides it."""
    size = sum(part.size for part in parts)
    total = sum(float(part.sum(dtype=np.float64)) for part in parts)
    squares = sum(float(np.einsum("i,i->", part.ravel(), part.ravel(), dtype=np.float64)) for part in parts)
    mean = total / size - background
    if total <= 0 or mean <= 0:
        return 0.0
    seen = (squares - noise.gain * total - noise.variance * size) / total - background
    return max(seen, mean)


def _refuse_unknown(options: dict[str, Any], known: set[str], method: str) -> None:
    unknown = [name for name in options if name not in known or name in ("image", "psf")]
    if unknown:
        raise TypeError(
            f"{unknown[0]}: the method {method} has no such option; it takes {', '.join(sorted(known))}"
        )


def choose(
    options: dict[str, Any], extremes: Callable[[], tuple[float, float]], unit: str | None = None
) -> tuple[str, str | None]:
    """The method of "auto", and a warning where the user may be surprised.

    `extremes`: the image's smallest and largest value, asked for only where nothing else decides. `unit`:
    what the file says that the values count. Hounsfield units are signed whatever the values are: metal in a
    CT scan reaches as far above 0 as air does below, and what is below would be clipped.
    """
    if any(name in _WIENER - _RL for name in options):
        return "wiener", None
    if any(name in _RL - _WIENER - {"callback"} for name in options) or options.get("boundary") == "extended":
        return "richardson-lucy", None
    if unit == "HU":
        return "wiener", (
            "image: Hounsfield units (HU) are a signed scale, restored with the Wiener filter; for "
            "Richardson-Lucy pass method='rl' and negative='shift'"
        )
    lowest, highest = extremes()
    if lowest < 0 and -lowest > _options.SIGNED * highest:
        return "wiener", (
            f"image: values from {lowest:g} to {highest:g} are a signed scale, restored with the Wiener "
            "filter; for Richardson-Lucy pass method='rl' and negative='shift'"
        )
    return "richardson-lucy", None


def _extremes(image: Any) -> tuple[float, float]:
    array, _ = _arrays.to_numpy(image, "image")
    _validate.rank(array, "image")
    return _validate.finite(array, "image")
