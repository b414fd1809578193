"""The best defaults we know, for a user who does not want to choose."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

from .. import _arrays, _validate
from . import _options
from ._fista import fista
from ._inverse_filter import inverse_filter
from ._landweber import landweber
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
METHODS = ("auto", "richardson-lucy", "rl", "wiener", *NAMED)

_RL = set(inspect.signature(richardson_lucy).parameters)
_WIENER = set(inspect.signature(wiener).parameters)


def restore(image: Any, psf: Any, method: str = "auto", **options: Any) -> Any:
    """Restore an image blurred by a known PSF with the best defaults we know.

    Parameters
    ----------
    image, psf : array_like
        As in `richardson_lucy`.
    method : str
        "auto", "richardson-lucy" or "rl", "wiener", or the name of another algorithm: "tikhonov",
        "inverse_filter", "unsupervised_wiener", "landweber", "fista", "van_cittert".
        "auto": Richardson-Lucy; the Wiener filter for images on a signed scale, whose negative values reach
        below -1/4 of the largest one (CT numbers). An option that only one of the two methods has decides for
        it.
    **options
        Passed on to `richardson_lucy` or `wiener`. Under Richardson-Lucy ``negative`` is "clip" by default:
        negative values are set to zero, with a warning and an entry in ``info["warnings"]``.

    Returns
    -------
    As `richardson_lucy` and `wiener`.

    Raises
    ------
    As `richardson_lucy` and `wiener`.

    Warns
    -----
    UserWarning
        Negative values were clipped, or "auto" chose the Wiener filter for a signed image.
    """
    if method == "blind_richardson_lucy":
        raise ValueError(
            "method: got 'blind_richardson_lucy', which finds a psf as well; call mf.blind_richardson_lucy, "
            "which returns (estimate, psf)"
        )
    method = _validate.choice(method, "method", METHODS)
    if method in NAMED:
        _refuse_unknown(options, set(inspect.signature(NAMED[method]).parameters), method)
        return NAMED[method](image, psf, **options)
    callback = None
    if method == "auto":
        method, why = _choose(image, options)
        if method == "wiener":
            # A closed form has one step to report.
            callback = options.pop("callback", None)
        if why:
            warnings.warn(why, UserWarning, stacklevel=2)
    if method == "wiener":
        _refuse_unknown(options, _WIENER, "wiener")
        result = wiener(image, psf, **options)
        if callback is not None:
            callback(1, result[0] if options.get("return_info") else result)
        return result
    _refuse_unknown(options, _RL, "richardson_lucy")
    return_info = _validate.flag(options.pop("return_info", False), "return_info")
    chosen = "negative" in options
    options.setdefault("negative", "clip")
    estimate, info = richardson_lucy(image, psf, return_info=True, **options)
    if info["settings"]["clipped"] and not chosen:
        warnings.warn(
            f"{info['warnings'][0]}; pass negative='shift' for a signed scale, negative='clip' to silence "
            "this",
            UserWarning,
            stacklevel=2,
        )
    return (estimate, info) if return_info else estimate


def _refuse_unknown(options: dict[str, Any], known: set[str], method: str) -> None:
    unknown = [name for name in options if name not in known or name in ("image", "psf")]
    if unknown:
        raise TypeError(
            f"{unknown[0]}: the method {method} has no such option; it takes {', '.join(sorted(known))}"
        )


def _choose(image: Any, options: dict[str, Any]) -> tuple[str, str | None]:
    """The method of "auto", and a warning where the user may be surprised."""
    if any(name in _WIENER - _RL for name in options):
        return "wiener", None
    if any(name in _RL - _WIENER - {"callback"} for name in options) or options.get("boundary") == "extended":
        return "richardson-lucy", None
    array, _ = _arrays.to_numpy(image, "image")
    _validate.rank(array, "image")
    lowest, highest = _validate.finite(array, "image")
    if lowest < 0 and -lowest > _options.SIGNED * highest:
        return "wiener", (
            f"image: values from {lowest:g} to {highest:g} are a signed scale, restored with the Wiener "
            "filter; for Richardson-Lucy pass method='rl' and negative='shift'"
        )
    return "richardson-lucy", None
