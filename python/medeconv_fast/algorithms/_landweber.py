"""Landweber deconvolution, projected where asked for: two sweeps per iteration."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from .. import _validate
from ._descent import descend, step_of
from ._linear_model import LinearModel


def landweber(
    image: Any,
    psf: Any,
    num_iter: int | None = None,
    *,
    step: Any = "auto",
    non_negative: bool = False,
    boundary: str = "extended",
    background: float = 0.0,
    weights: Any = None,
    stop: Any = None,
    initial: Any = "flat",
    voxel_size: Any = None,
    psf_voxel_size: Any = None,
    normalize_psf: bool = True,
    callback: Callable[[int, Any], Any] | None = None,
    return_info: bool = False,
    backend: str = "auto",
    engine: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Restore an image blurred by a known PSF, by (projected) Landweber iterations.

    The least-squares estimate is approached by gradient steps

        estimate <- P(estimate + step * H'(weights * (image - background - H estimate)))

    with H the blur, H' its exact transpose, and P setting negative values to zero if `non_negative`.

    Parameters
    ----------
    image : array_like
        Measured image with 1 to 3 axes in the order (z, y, x); negative values are welcome.
    psf : array_like
        Point spread function with as many axes, its centre at ``shape // 2``; it may be larger than the
        image, except under boundary="wrap".
    num_iter : int, optional
        Iterations, or the most of them with `stop`; default 100, with `stop` 1000. Few iterations are the
        regularisation: coarse structure comes first, noise last.
    step : float or "auto"
        Greater than 0. "auto": 1 over an upper bound of the largest eigenvalue of H' weights H: 1 for a
        normalised PSF without negative values and no weights; more where the boundary repeats voxels
        ("nearest", "mirror", for a PSF that is not symmetric "reflect"). From 2 over that eigenvalue on the
        iteration diverges.
    non_negative : bool
        Project onto what is not negative (projected Landweber).
    boundary : {"extended", "zero", "reflect", "nearest", "mirror", "wrap"}
        As in `richardson_lucy`.
    background : float
        Known constant that was added to the blurred object, in the image's units; not part of the estimate.
    weights : array_like, optional
        Trust in each image voxel, not negative, such as 1 over its noise variance; 0 for dead voxels. Only
        their ratios count unless a `step` is given.
    stop : str, tuple or object of `medeconv_fast.stop`, optional
        "relative-change", "discrepancy" (Gaussian noise), ("time", seconds), or such a rule with its own
        settings.
    initial : {"flat", "image", "zero"} or array_like
        First estimate: the image's weighted mean less the background; the image less the background, its edge
        repeated outside; zero; or an array of the image's shape (edge repeated outside) or the estimate's.
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
        With `return_info`: as `richardson_lucy`; settings has step and norm_bound.

    Raises
    ------
    ValueError, TypeError
        As `richardson_lucy`; a rule for stopping that follows the I-divergence.
    FloatingPointError
        The iteration has diverged: the estimate is not finite any more.

    Warns
    -----
    UserWarning
        A step beyond 2 over the bound.

    Notes
    -----
    For Gaussian noise what `richardson_lucy` is for photons. It converges slowly: a frequency that the blur
    passes with |H| needs about 1 / |H|^2 iterations; `fista` with weight 0 needs the square root of that.

    References
    ----------
    L. Landweber, Am. J. Math. 73, 615 (1951). Projected: M. Bertero and P. Boccacci, Introduction to Inverse
    Problems in Imaging (1998), section 6.2.

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> image = np.random.default_rng(0).random((24, 32))
    >>> mf.landweber(image, np.ones((3, 3)), 10).shape
    (24, 32)
    """
    non_negative = _validate.flag(non_negative, "non_negative")
    model = LinearModel(
        "landweber",
        image,
        psf,
        num_iter,
        usual=(100, 1000),
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
    )
    length, bound = step_of(step, model)
    if length * bound > 2:
        note = (
            f"step: got {length:g}, expected less than {2 / bound:g}, 2 over the bound of |H' weights H|; "
            "the iteration may diverge"
        )
        model.warnings.append(note)
        model.may_diverge = True
        warnings.warn(note, UserWarning, stacklevel=2)
    estimate, stopped_by = descend(model, model.start(), length, non_negative=non_negative)
    settings = {"step": length, "norm_bound": bound, "non_negative": non_negative}
    return model.finish(estimate, stopped_by, settings, held=1)
