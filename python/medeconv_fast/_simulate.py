"""The degradation that deconvolution undoes, seeded: y = x ∗ h + e."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import _arrays, _validate
from ._blur import Blur

NOISES = ("poisson", "gaussian")
ROUNDING = 1e-5  # of the largest value, by which transforms in float32 go below 0
MOST_COUNTS = 9e18  # of a voxel: they are drawn as 64-bit integers
BLOCK = 1 << 15  # values that are drawn at once: what is made of them stays in the second-level cache


def simulate(
    truth: Any,
    psf: Any,
    *,
    boundary: str = "reflect",
    background: float = 0.0,
    noise: str | None = "poisson",
    photons: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    normalize_psf: bool = True,
    backend: str = "auto",
    num_threads: int | None = None,
) -> np.ndarray:
    """Blur an image and add background and noise.

    Parameters
    ----------
    truth : array_like
        Sharp image, one to three axes (z, y, x); not negative under Poisson noise.
    psf : array_like
        As many axes, centre at ``shape // 2``.
    boundary : {"zero", "reflect", "nearest", "mirror", "wrap"}
        What lies outside the truth.
    background : float
        Added after the blur, before the noise, in the truth's units.
    noise : {"poisson", "gaussian", None}
    photons : float, optional
        Poisson: expected counts at the brightest voxel. The blurred image is scaled to counts, drawn, and
        scaled back, so that intensities keep their unit. Default: the values are counts already.
    sigma : float, optional
        Gaussian: standard deviation in the truth's units; required.
    seed : int
        Same seed, same noise.
    normalize_psf : bool
        Divide the PSF by its sum.
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
    num_threads : int, optional
        Results do not depend on it.

    Returns
    -------
    image : numpy.ndarray
        float64 or float32, as the truth (see the library's dtype rule).

    Raises
    ------
    ValueError, TypeError
        Bad arrays; options that contradict each other; negative truth under Poisson noise, or more than 9e18
        counts; a PSF whose negative values make negative counts; a background or sigma beyond the dtype's
        range.
    """
    boundary = _validate.choice(boundary, "boundary", ("zero", "reflect", "nearest", "mirror", "wrap"))
    background = _validate.number(background, "background", minimum=0)
    seed = _validate.integer(seed, "seed", minimum=0)
    if noise is not None:
        noise = _validate.choice(noise, "noise", NOISES)
    for name, value, owner in (("photons", photons, "poisson"), ("sigma", sigma, "gaussian")):
        if value is not None and noise != owner:
            raise ValueError(f"{name}: got {value!r} with noise={noise!r}; it belongs to noise={owner!r}")
    data, _, (lowest, highest, _) = _arrays.as_image(truth, "truth")
    _validate.scale(max(-lowest, highest), "truth", data.dtype)
    _validate.fits(background, "background", data.dtype)
    blur = Blur(
        psf,
        data.shape,
        boundary=boundary,
        dtype=data.dtype,
        normalize_psf=normalize_psf,
        backend=backend,
        num_threads=num_threads,
    )
    image = blur.forward(data) + data.dtype.type(background)
    generator = np.random.default_rng(seed)
    if noise == "gaussian":
        if sigma is None:
            raise ValueError("sigma: got None, expected the noise's standard deviation for noise='gaussian'")
        sigma = _validate.fits(_validate.number(sigma, "sigma", minimum=0), "sigma", data.dtype)
        for block in _blocks(image):
            # In float64: only the sum is rounded.
            block[...] = block + generator.normal(0.0, sigma, block.size)
        return image
    if noise == "poisson":
        _validate.non_negative(data, "truth", lowest)
        below, most = float(image.min()), float(image.max())
        if below < -ROUNDING * most:
            raise ValueError(
                f"psf: its negative values make expected counts down to {below:g} (up to {most:g}), expected "
                "none below 0 under Poisson noise: use noise='gaussian', or a psf that is not negative"
            )
        highest = max(most, 0.0)
        gain = 1.0
        if photons is not None:
            photons = _validate.number(photons, "photons", above=0)
            if photons > MOST_COUNTS:
                raise ValueError(f"photons: got {photons:g}, expected at most {MOST_COUNTS:g} counts")
            if highest == 0:
                raise ValueError(
                    "photons: the blurred image is zero everywhere, so it cannot be scaled to counts"
                )
            gain = photons / highest
        elif highest > MOST_COUNTS:
            raise ValueError(
                f"truth: blurred, with the background, it has values up to {highest:g}, expected at most "
                f"{MOST_COUNTS:g} counts; say with photons how many the largest value stands for"
            )
        for block in _blocks(image):
            expected = np.maximum(block.astype(np.float64), 0)  # FFT rounding
            block[...] = generator.poisson(expected * gain) / gain
    return image


def _blocks(image: np.ndarray) -> Iterator[np.ndarray]:
    """Views that follow one another: what is drawn for one needs little memory, and is what all would get."""
    values = image.reshape(-1)
    return (values[start : start + BLOCK] for start in range(0, values.size, BLOCK))
