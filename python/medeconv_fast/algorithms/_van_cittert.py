"""Van Cittert deconvolution: the residual itself is added to the estimate; one sweep per iteration."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _validate
from ._linear_model import LinearModel, spectrum_of

BOUNDARIES = ("reflect", "nearest", "mirror", "wrap", "zero")
# By how much a frequency may grow over a run: beyond the first with a warning, beyond the second not at all,
# as rounding errors then outgrow the image.
WORTH_A_WARNING = 2.0
TOO_MUCH = 1e6


def van_cittert(
    image: Any,
    psf: Any,
    num_iter: int | None = None,
    *,
    relaxation: float = 1.0,
    non_negative: bool = False,
    bounds: Any = None,
    boundary: str = "reflect",
    background: float = 0.0,
    weights: Any = None,
    stop: Any = None,
    initial: Any = "image",
    voxel_size: Any = None,
    psf_voxel_size: Any = None,
    normalize_psf: bool = True,
    callback: Callable[[int, Any], Any] | None = None,
    return_info: bool = False,
    backend: str = "auto",
    engine: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Restore an image blurred by a known PSF, by Van Cittert iterations.

        estimate <- P(estimate + relaxation * weights * (image - background - H estimate))

    with H the blur, and P setting negative values to zero if `non_negative`. There is no transpose: half the
    work of `landweber`, and convergence only where the PSF's transfer function has a real part above zero.

    Parameters
    ----------
    image : array_like
        Measured image with 1 to 3 axes in the order (z, y, x); negative values are welcome.
    psf : array_like
        Point spread function with as many axes, its centre at ``shape // 2``; it may be larger than the
        image, except under boundary="wrap".
    num_iter : int, optional
        Iterations, or the most of them with `stop`; default 10, with `stop` 100. Few iterations are the
        regularisation.
    relaxation : float
        Greater than 0. Converges below ``2 Re(H) / |H|^2``, which is 2 for a normalised Gaussian.
    non_negative : bool
        Project onto what is not negative.
    bounds : tuple (low, high), optional
        Jansson's method: corrections are weighed by ``1 - |2 estimate - low - high| / (high - low)``, which
        is 0 at the bounds, and the estimate is kept between them. A voxel at a bound stays there: choose them
        a little beyond the values.
    boundary : {"reflect", "nearest", "mirror", "wrap", "zero"}
        As in `richardson_lucy`; estimate and residual share a grid, so that there is no "extended".
    background : float
        Known constant that was added to the blurred object, in the image's units; not part of the estimate.
    weights : array_like, optional
        Trust in each image voxel, from 0 (never corrected: it stays as it is in `initial`) to 1.
    stop : str, tuple or object of `medeconv_fast.stop`, optional
        As in `landweber`.
    initial : {"image", "flat", "zero"} or array_like
        As in `landweber`.
    voxel_size, psf_voxel_size : float or sequence of float, optional
        As in `richardson_lucy`.
    normalize_psf : bool
        Divide the PSF by its sum.
    callback : callable, optional
        As in `richardson_lucy`.
    return_info : bool
        Return ``(estimate, info)``.
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
    engine : {"auto", "spectral", "separable", "direct"}
        See `Blur`.
    num_threads : int, optional
        Results do not depend on it.

    Returns
    -------
    estimate : array of the image's shape and kind
        float64 for float64 and for 32- and 64-bit integers, else float32; never rescaled.
    info : Info
        With `return_info`: as `richardson_lucy`; settings has growth, by how much the iterations enlarge the
        frequency on which they diverge most (1: none).

    Raises
    ------
    ValueError, TypeError
        As `landweber`; weights above 1; without bounds, a frequency that would grow a millionfold.

    Warns
    -----
    UserWarning
        A frequency grows more than twofold.

    References
    ----------
    P. H. van Cittert, Z. Phys. 69, 298 (1931). P. A. Jansson, R. H. Hunt and E. K. Plyler, J. Opt. Soc. Am.
    60, 596 (1970). Convergence: N. R. Hill and G. E. Ioup, J. Opt. Soc. Am. 66, 487 (1976).

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> image = np.random.default_rng(0).random((24, 32))
    >>> mf.van_cittert(image, np.outer([1, 2, 1], [1, 2, 1]), 5).shape
    (24, 32)
    """
    relaxation = _validate.number(relaxation, "relaxation", above=0)
    non_negative = _validate.flag(non_negative, "non_negative")
    between = _bounds(bounds, non_negative)
    if isinstance(boundary, str) and boundary == "extended":
        raise ValueError(
            "boundary: got 'extended', but van_cittert adds the residual to the estimate, which must have "
            f"the image's shape; expected one of {', '.join(map(repr, BOUNDARIES))}"
        )
    model = LinearModel(
        "van_cittert",
        image,
        psf,
        num_iter,
        usual=(10, 100),
        boundary=boundary,
        background=background,
        weights=weights,
        initial=initial,
        stop=stop,
        normalize_psf=normalize_psf,
        voxel_size=voxel_size,
        psf_voxel_size=psf_voxel_size,
        callback=callback,
        return_info=return_info,
        backend=backend,
        engine=engine,
        num_threads=num_threads,
        boundaries=BOUNDARIES,
    )
    if model.weights is not None and float(model.weights.max()) > 1:
        raise ValueError(
            f"weights: the largest is {float(model.weights.max()):g}, expected shares of a correction, 0 to 1"
        )
    _validate.fits(relaxation, "relaxation", model.data.dtype)
    for i, bound in enumerate(between or ()):
        _validate.fits(bound, f"bounds[{i}]", model.data.dtype)
    growth = _growth(model, relaxation, bounded=between is not None)
    estimate, stopped_by = _iterate(model, relaxation, non_negative, between)
    settings = {"relaxation": relaxation, "non_negative": non_negative, "bounds": between, "growth": growth}
    return model.finish(estimate, stopped_by, settings, held=2 + (between is not None))


def _iterate(
    model: LinearModel, relaxation: float, non_negative: bool, between: tuple[float, float] | None
) -> tuple[np.ndarray, str]:
    rule, operator = model.watch.rule, model.operator
    residual = model.residual()
    estimate = model.start()
    if between is not None:
        np.clip(estimate, *between, out=estimate)
    correction = np.empty_like(estimate)
    chain = operator.begin(estimate)
    for iteration in range(1, model.iterations + 1):
        begun = time.perf_counter()
        entry: dict[str, Any] = {"iteration": iteration}
        if model.seen(entry, chain.sweep("residual", keep=False, out=correction, **residual)):
            return estimate, rule.name
        sums = operator.backend.apply_formula(
            "add",
            correction,
            estimate,
            estimate=estimate,
            step=relaxation,
            positive=non_negative,
            gain=None if between is None else _distance(estimate, *between),
            sums=rule.of_update,
            unit=model.unit,
            num_threads=operator.num_threads,
        )
        if between is not None:
            np.clip(estimate, *between, out=estimate)
        named = None if sums is None else {"squared_change": sums[0], "squared_result": sums[1]}
        ended_by = model.updated(entry, begun, estimate, named)
        last = iteration == model.iterations
        if ended_by is not None and not last:
            return estimate, ended_by
        if not last:
            chain.load(estimate)
    return estimate, "num_iter"


def _distance(estimate: np.ndarray, low: float, high: float) -> np.ndarray:
    """1 in the middle between the bounds, 0 at them."""
    kind = estimate.dtype.type
    away = np.abs(estimate - kind((low + high) / 2))
    away *= kind(-2 / (high - low))
    away += kind(1)
    return np.maximum(away, 0, out=away)


def _bounds(bounds: Any, non_negative: bool) -> tuple[float, float] | None:
    if bounds is None:
        return None
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(f"bounds: got {_validate.shown(bounds)}, expected None or a pair (low, high)")
    if non_negative:
        raise ValueError(f"bounds: got {bounds!r} together with non_negative=True; expected one of them")
    low = _validate.number(bounds[0], "bounds[0]")
    return low, _validate.number(bounds[1], "bounds[1]", above=low)


def _growth(model: LinearModel, relaxation: float, *, bounded: bool) -> float:
    """By how much the run enlarges the frequency on which it diverges most; warned of, or refused."""
    otf = spectrum_of(model.blur.psf)
    rate = float(np.abs(1 - relaxation * otf).max())
    if rate <= 1:
        return 1.0
    exponent = model.iterations * np.log10(rate)
    growth = float(10 ** min(exponent, 300.0))
    if growth > WORTH_A_WARNING:
        lowest = float(otf.real.min())
        cause = (
            f"its transfer function goes down to Re(H) = {lowest:.2g}, and Van Cittert needs Re(H) >= 0"
            if lowest < -1e-6 * float(np.abs(otf).max())
            else f"relaxation={relaxation:g} is not below 2 Re(H) / |H|^2 everywhere"
        )
        note = (
            f"psf: {cause}: {model.iterations} iterations enlarge a frequency by a factor of {growth:.2g}; "
            "use fewer of them or a smaller relaxation, or landweber, which converges for every psf"
        )
        if growth > TOO_MUCH and not bounded:
            raise ValueError(note)
        model.warnings.append(note)
        warnings.warn(note, UserWarning, stacklevel=3)
    return growth
