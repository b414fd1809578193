"""Back projectors other than the transpose of the blur: few iterations, no convergence.

All are made on the PSF's own grid, their centre at ``shape // 2``, their sum 1.
M. Guo et al., Nat. Biotechnol. 38, 1337 (2020): Gaussian, Butterworth, Wiener-Butterworth.
X. Ruan et al., Nat. Methods 21 (2024): Wiener filter on the support of the OTF.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _arrays, _validate
from .. import psf as psf_module

BACK_PROJECTORS = ("gaussian", "butterworth", "wiener-butterworth", "otf-masked-wiener")
DEFAULT_ITERATIONS = 2
MOST_ITERATIONS = 5  # more run away
# Below this share of the largest divisor corrections are not trusted; a share as small as that of the matched
# projector lets noise at the border grow.
SMALLEST_DIVISOR = 0.1

ORDER = 10  # of the Butterworth filter
AT_CUTOFF = 0.1  # its value at 1 / FWHM
BALANCE = 0.05  # of the Wiener filters, relative to the squared largest value of the OTF
SUPPORT = 0.01  # of the OTF: where it is above this share of its largest value


def back_projector_of(value: Any, psf: np.ndarray) -> tuple[str, np.ndarray | None]:
    """Name of a call's ``back_projector=`` and its array of the PSF's shape; None for the transpose."""
    if not isinstance(value, str):
        array, _ = _arrays.to_numpy(value, "back_projector")
        if array.shape != psf.shape:
            raise ValueError(f"back_projector: got shape {array.shape}, expected the psf's {psf.shape}")
        array = array.astype(np.float64)
        _validate.finite(array, "back_projector")
        total = float(array.sum())
        if not total > 0:
            raise ValueError(f"back_projector: its sum is {total:g}, expected a positive one")
        return "array", _inside(array / total, strict=True)
    name = _validate.choice(value, "back_projector", ("matched", *BACK_PROJECTORS))
    if name == "matched":
        return name, None
    return name, _inside(_designed(name, psf.astype(np.float64)), strict=False)


def _inside(projector: np.ndarray, *, strict: bool) -> np.ndarray:
    """Only what the transpose reaches as well: an axis of even length has one offset more on one side."""
    for axis, n in enumerate(projector.shape):
        if n % 2 == 0:
            first = np.moveaxis(projector, axis, 0)[:1]  # a view on a line, too
            if strict and np.abs(first).sum() > 1e-6 * np.abs(projector).sum():
                raise ValueError(
                    f"back_projector: axis {axis} has even length {n}; its first values, the farthest "
                    "from the centre, must be 0"
                )
            first[...] = 0
    return projector / projector.sum()


def _designed(name: str, psf: np.ndarray) -> np.ndarray:
    axes = tuple(range(psf.ndim))
    otf = np.fft.rfftn(np.fft.ifftshift(psf), axes=axes)
    peak = float(np.abs(otf).max())
    wiener = np.conj(otf) / (np.abs(otf) ** 2 + BALANCE * peak**2)
    if name == "otf-masked-wiener":
        spectrum = np.where(np.abs(otf) >= SUPPORT * peak, wiener, 0)
        return np.fft.fftshift(np.fft.irfftn(spectrum, psf.shape, axes))
    frequencies = [np.fft.fftfreq(n) for n in psf.shape[:-1]] + [np.fft.rfftfreq(psf.shape[-1])]
    widths = psf_module.fwhm(psf, (1.0,) * psf.ndim)
    # Squared distance from the origin, 1 at 1 / FWHM.
    square: Any = 0.0
    for axis, (frequency, width, n) in enumerate(zip(frequencies, widths, psf.shape, strict=True)):
        if n > 1 and np.isfinite(width):
            shape = [-1 if a == axis else 1 for a in axes]
            square = square + (frequency.reshape(shape) * width) ** 2
    if name == "gaussian":
        sigma = 1 / np.sqrt(8 * np.log(2))  # of a Gaussian whose FWHM is 1
        spectrum = np.exp(-2 * np.pi**2 * sigma**2 * square) * np.ones_like(otf)
        return np.fft.fftshift(np.fft.irfftn(spectrum, psf.shape, axes))
    butterworth = 1 / np.sqrt(1 + (1 / AT_CUTOFF**2 - 1) * square**ORDER)
    spectrum = butterworth * (wiener if name == "wiener-butterworth" else np.ones_like(otf))
    return np.fft.fftshift(np.fft.irfftn(spectrum, psf.shape, axes))
