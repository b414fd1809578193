"""The inverse filter, held where the blur has left nothing to invert."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _validate
from . import _filters

BELOW = ("zero", "clip")


def inverse_filter(
    image: Any,
    psf: Any,
    threshold: float = 0.1,
    *,
    below: str = "zero",
    boundary: str = "reflect",
    normalize_psf: bool = True,
    voxel_size: Any = None,
    psf_voxel_size: Any = None,
    return_info: bool = False,
    backend: str = "auto",
    engine: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Divide an image by a known PSF's transfer function, where that is not too small.

    In frequency space the estimate is ``Y / H`` where ``|H| >= threshold * max |H|``.

    Parameters
    ----------
    image : array_like
        Measured image with 1 to 3 axes in the order (z, y, x); negative values are welcome.
    psf : array_like
        Point spread function with as many axes, its centre at ``shape // 2``.
    threshold : float
        Greater than 0, at most 1. No frequency is amplified by more than 1 / threshold relative to the one
        that the blur passes best, nor is the noise.
    below : {"zero", "clip"}
        Frequencies below the threshold: set to zero (the pseudo-inverse of the truncated spectrum; rings), or
        amplified as much as those at the threshold, with the phase of 1 / H.
    boundary : {"reflect", "nearest", "mirror", "wrap", "zero"}
        As in `wiener`.
    normalize_psf : bool
        Divide the PSF by its sum.
    voxel_size, psf_voxel_size : float or sequence of float, optional
        As in `richardson_lucy`.
    return_info : bool
        Return ``(estimate, info)``; ``info["settings"]["kept"]`` is the share of frequencies at or above the
        threshold.
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
    engine : {"auto", "spectral"}
    num_threads : int, optional

    Returns
    -------
    estimate : array of the image's shape and kind
        float64 for float64 and for 32- and 64-bit integers, else float32; neither rescaled nor clipped.
    info : Info
        With `return_info`.

    Raises
    ------
    ValueError, TypeError
        As `wiener`; a threshold that is not in (0, 1].

    Notes
    -----
    For images with next to no noise, and to see what a blur has left. `wiener` and `tikhonov` weigh every
    frequency by its noise instead of keeping or dropping it.

    The filter is designed by NumPy's transforms, on one thread; the image goes through the library's own.

    References
    ----------
    H. C. Andrews and B. R. Hunt, Digital Image Restoration (1977), chapter 8. Truncation: P. C. Hansen,
    Discrete Inverse Problems (2010), section 4.2.

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> image = np.random.default_rng(0).random((24, 32))
    >>> mf.inverse_filter(image, np.ones((3, 3)), 0.2).shape
    (24, 32)
    """
    threshold = _validate.number(threshold, "threshold", above=0)
    if threshold > 1:
        raise ValueError(f"threshold: got {threshold:g}, expected a share of the largest |H|, at most 1")
    below = _validate.choice(below, "below", BELOW)
    call = _filters.FilterCall(
        "inverse_filter",
        image,
        psf,
        boundary=boundary,
        normalize_psf=normalize_psf,
        voxel_size=voxel_size,
        psf_voxel_size=psf_voxel_size,
        return_info=return_info,
        backend=backend,
        engine=engine,
        num_threads=num_threads,
    )
    inverse, kept = _inverted(call.spectrum(call.psf), threshold, below)
    result = call.apply(call.transfer_from(inverse))
    settings = {"threshold": threshold, "below": below, "kept": kept}
    return call.finish(result, settings, extra_bytes=3 * inverse.nbytes)


def _inverted(otf: np.ndarray, threshold: float, below: str) -> tuple[np.ndarray, float]:
    """The inverse, in the transfer function's place, and the share of frequencies above the threshold."""
    size = np.abs(otf)
    least = threshold * float(size.max())
    inside = size >= least
    np.divide(1, otf, out=otf, where=inside)
    outside = ~inside
    if below == "zero":
        otf[outside] = 0
    else:
        np.conjugate(otf, out=otf, where=outside)
        np.divide(otf, least * size, out=otf, where=outside & (size > 0))
    return otf, float(inside.mean())
