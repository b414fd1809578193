"""The width of a Gaussian PSF from nothing but the blurred image."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from .. import _validate
from ._models import SIGMA_PER_FWHM
from ._sampling import _checked

SHORTEST_AXIS = 8
BLOCK = {1: 64, 2: 64, 3: 32}  # voxels along each axis, by the number of axes
MOST_BLOCKS = 300  # evenly spread: more say hardly more
WIDE, WIDEST = 1 / 8, 1 / 3  # of a block: widths for which it is made larger, and that are refused
DOUBTFUL, REFUSED = 1.35, 1.6  # factors between widths from blocks of different size
# Objects' spectra fall with the frequency to this power, beyond the number of axes: 0 for scenes that look
# alike at all scales, 1 for even regions with sharp borders.
EXPONENT, EXPONENT_SPREAD = 0.4, 0.2
LEAKAGE = 2.5  # bins around zero frequency that the window's own spectrum covers
LEAST_FREQUENCIES = {1: 6, 2: 20, 3: 40}  # where the object must rise above the noise
STARTS = (1.0, 4.0)  # variances, in voxels squared
_ROUNDS = 100


@dataclass(frozen=True)
class WidthInfo:
    """What `estimate_fwhm` found beside the width.

    Attributes
    ----------
    exponent : float
        The object's power spectrum falls with the frequency to this power.
    noise : float
        Standard deviation of the white noise, in the image's units.
    frequencies : int
        How many frequencies of the spectrum rise above the noise: the fewer, the less the width is known.
    block : tuple of int
        Voxels of the blocks whose spectra were averaged.
    """

    exponent: float
    noise: float
    frequencies: int
    block: tuple[int, ...]


@overload
def estimate_fwhm(
    image: Any, voxel_size: Any = ..., *, isotropic: bool = ..., return_info: Literal[False] = ...
) -> tuple[float, ...]: ...
@overload
def estimate_fwhm(
    image: Any, voxel_size: Any = ..., *, isotropic: bool = ..., return_info: Literal[True]
) -> tuple[tuple[float, ...], WidthInfo]: ...
def estimate_fwhm(
    image: Any, voxel_size: Any = None, *, isotropic: bool = False, return_info: bool = False
) -> Any:
    """Full width at half maximum of the Gaussian that blurred an image, from the image alone.

    Parameters
    ----------
    image : array_like
        One to three axes, at least 8 voxels along each that is longer than 1, as the scanner or camera gave
        it: neither interpolated nor filtered, which changes the spectrum of the noise.
    voxel_size : float or sequence of float, optional
        Default: widths in voxels. Objects are taken to have no preferred direction in these units.
    isotropic : bool
        One width for all axes, in the unit of `voxel_size`.
    return_info : bool
        Also return a `WidthInfo`.

    Returns
    -------
    widths : tuple of float
        Per axis, in the unit of `voxel_size`, without the voxel's own width: `gaussian` adds it again. 0: as
        sharp as the voxels. An axis of one voxel has width 0.
    info : WidthInfo
        With ``return_info=True``.

    Raises
    ------
    ValueError, TypeError
        NaN or Inf, more than three axes, an axis of 2 to 7 voxels; a constant image; one whose spectrum says
        nothing: noise alone, hardly any structure, or a blur too wide for the image.

    Notes
    -----
    The image's power spectrum, averaged over overlapping blocks under a Hann window (Welch 1967), is fitted
    by that of an object without preferred scale or direction, blurred by a Gaussian and the voxel, on white
    noise:

        S(f) = a |f|^-b  prod_k sinc(f_k)^2 exp(-4 pi^2 sigma_k^2 f_k^2)  +  n

    by maximum likelihood for a periodogram (Whittle 1953), with a weak prior on the exponent b around the
    number of axes + 0.4. What the object's own edges lack in sharpness counts as blur. docs/psf.md has the
    measured accuracy.

    References
    ----------
    D. J. Field, J. Opt. Soc. Am. A 4, 2379 (1987) (spectra of natural scenes); P. D. Welch, IEEE Trans. Audio
    Electroacoust. 15, 70 (1967); P. Whittle, Ark. Mat. 2, 423 (1953).
    """
    data = _checked(image, "image")
    sizes = _validate.voxel_size(1.0 if voxel_size is None else voxel_size, "voxel_size", data.ndim)
    isotropic = _validate.flag(isotropic, "isotropic")
    _validate.flag(return_info, "return_info")
    long_axes = [axis for axis, n in enumerate(data.shape) if n > 1]
    if not long_axes:
        raise ValueError(f"image: got shape {data.shape}, expected an axis with more than one voxel")
    for axis in long_axes:
        if data.shape[axis] < SHORTEST_AXIS:
            raise ValueError(
                f"image: got {data.shape[axis]} voxels along axis {axis}, expected 1 or at least "
                f"{SHORTEST_AXIS}; take single planes of it"
            )
    # Squares of values near 1 fit float64; a power of two rounds nothing.
    exponent = math.frexp(float(np.abs(data).max()))[1]
    near_1 = np.ldexp(data, -exponent)
    spread = float(near_1.std())
    if spread <= 1e-12:
        raise ValueError(f"image: all values are {float(data.flat[0]):g}; a constant image shows no blur")
    data = np.squeeze((near_1 - near_1.mean()) / spread)
    spread = math.ldexp(spread, exponent)
    steps = np.array([sizes[axis] for axis in long_axes])
    block = BLOCK[data.ndim]
    fit = _fit(data, block, steps, isotropic)
    while np.any((fit.widths > WIDE * np.array(fit.block)) & (np.array(data.shape) > block)):
        block *= 2
        fit = _fit(data, block, steps, isotropic)
    _check(fit, _fit(data, block * 2 if block < max(data.shape) else block // 2, steps, isotropic))
    result, whole = [0.0] * len(sizes), [1] * len(sizes)
    for axis, width, size, n in zip(long_axes, fit.widths, steps, fit.block, strict=True):
        result[axis], whole[axis] = float(width * size), n
    if not return_info:
        return tuple(result)
    info = WidthInfo(fit.exponent, fit.noise * spread, fit.frequencies, tuple(whole))
    return tuple(result), info


class _Fit(NamedTuple):
    widths: np.ndarray  # per axis, in voxels
    exponent: float
    noise: float  # standard deviation
    frequencies: int
    block: tuple[int, ...]


def _check(fit: _Fit, other: _Fit) -> None:
    """Refuse what the image does not tell, and warn of what is doubtful; `other` is from other blocks."""
    widths = ", ".join(f"{w:.3g}" for w in fit.widths)
    axes = len(fit.widths)
    if np.any(fit.widths > WIDEST * np.array(fit.block)):
        raise ValueError(
            f"image: the widths that explain its spectrum best are {widths} voxels, too much to be seen in "
            f"blocks of {fit.block}; expected an image with edges that is many widths large"
        )
    if fit.frequencies < LEAST_FREQUENCIES[axes]:
        raise ValueError(
            f"image: its spectrum rises above the noise at {fit.frequencies} frequencies, expected at least "
            f"{LEAST_FREQUENCIES[axes]}: more structure with edges, or less noise"
        )
    if not -0.5 <= fit.exponent <= axes + 2:  # from points to what has no edges at all
        raise ValueError(
            f"image: its spectrum falls with the frequency to the power {fit.exponent:.2f}, which no object "
            f"with points or edges shows (0 to {axes + 1}); expected structure, neither interpolated nor "
            "filtered"
        )
    # The voxel limits what small widths can be told apart.
    apart = float(np.exp(np.max(np.abs(np.log(np.maximum(fit.widths, 1) / np.maximum(other.widths, 1))))))
    found = f"{widths} voxels in blocks of {fit.block}, " + ", ".join(f"{w:.3g}" for w in other.widths)
    if apart > REFUSED:
        raise ValueError(
            f"image: its spectrum gives no one width, but {found} in blocks of {other.block}; expected "
            "structure with edges all over the image, in all directions"
        )
    if apart > DOUBTFUL:
        warnings.warn(
            f"image: the width is uncertain, {found} in blocks of {other.block}; expected structure with "
            "edges all over the image, in all directions",
            stacklevel=3,
        )
    if fit.noise < 1e-5:
        warnings.warn(
            "image: it has no white noise; if it was interpolated or filtered, that counts as its blur",
            stacklevel=3,
        )


class _Spectrum(NamedTuple):
    """Power per frequency, apart from the lowest, which the window covers."""

    power: np.ndarray  # (number,)
    frequency: np.ndarray  # (axes, number), cycles per voxel
    multiplicity: np.ndarray  # (number,): 2 where the mirror image was left out


def _spectrum(data: np.ndarray, lengths: tuple[int, ...]) -> _Spectrum:
    """Welch's estimate; white noise of variance v has power v."""
    windows = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in lengths]
    window = np.ones(())
    for line in windows:
        window = np.multiply.outer(window, line)
    starts = [
        np.unique(np.linspace(0, n - m, math.ceil(2 * (n - m) / m) + 1).astype(int))
        for n, m in zip(data.shape, lengths, strict=True)
    ]
    corners = list(itertools.product(*starts))
    corners = corners[:: math.ceil(len(corners) / MOST_BLOCKS)]
    power = np.zeros(())
    for corner in corners:
        part = data[tuple(slice(c, c + m) for c, m in zip(corner, lengths, strict=True))]
        part = (part - np.vdot(part, window) / window.sum()) * window
        power = power + np.abs(np.fft.rfftn(part)) ** 2
    power = power / (len(corners) * np.sum(window**2))
    lines = [*(np.fft.fftfreq(m) for m in lengths[:-1]), np.fft.rfftfreq(lengths[-1])]
    frequency = np.stack(np.meshgrid(*lines, indexing="ij"))
    twice = np.full(power.shape, 2.0)
    twice[..., 0] = 1
    if lengths[-1] % 2 == 0:
        twice[..., -1] = 1
    bins = np.array(lengths).reshape(-1, *(1,) * len(lengths))
    keep = np.sum((frequency * bins) ** 2, axis=0) > LEAKAGE**2
    return _Spectrum(power[keep], frequency[:, keep], twice[keep])


def _fit(data: np.ndarray, block: int, steps: np.ndarray, isotropic: bool) -> _Fit:
    """Whittle's likelihood, by Fisher scoring with the damping of Levenberg and Marquardt."""
    lengths = tuple(min(n, block) for n in data.shape)
    power, frequency, multiplicity = _spectrum(data, lengths)
    axes = data.ndim
    steps = steps / steps.min()
    physical = (frequency / steps[:, None]) ** 2
    falloff = -0.5 * np.log(physical.sum(axis=0))
    voxel = np.log(np.prod(np.sinc(frequency) ** 2, axis=0))
    blur = -4 * np.pi**2 * (physical.sum(axis=0)[None] if isotropic else frequency**2)
    # Columns of the logarithm of the object's part: scale, exponent, variances.
    columns = np.stack([np.ones_like(power), falloff, *blur])
    expected = axes + EXPONENT

    def parts(p: np.ndarray) -> tuple[np.ndarray, float]:
        return np.exp(np.clip(p[:-1] @ columns + voxel, -200, 200)), math.exp(p[-1])

    def cost(p: np.ndarray) -> float:
        signal, noise = parts(p)
        model = signal + noise
        prior = 0.5 * ((p[1] - expected) / EXPONENT_SPREAD) ** 2
        return float(multiplicity @ (np.log(model) + power / model) + prior)

    best: tuple[float, np.ndarray] | None = None
    middle = np.sum(physical, axis=0) < np.median(np.sum(physical, axis=0)) / 4
    for variance in STARTS:
        p = np.array([0.0, expected, *[variance] * len(blur), math.log(np.median(power))])
        p[0] = math.log(float(np.mean(power[middle] / parts(p)[0][middle])))
        p = _scored(p, cost, parts, columns, power, multiplicity, expected)
        value = cost(p)
        if best is None or value < best[0]:
            best = value, p
    assert best is not None
    p = best[1]
    signal, noise = parts(p)
    variances = p[2:-1] / steps**2 if isotropic else p[2:-1]
    widths = np.sqrt(np.maximum(variances, 0)) / SIGMA_PER_FWHM
    frequencies = round(float(multiplicity[signal > noise].sum()) / 2)
    return _Fit(widths, float(p[1]), math.sqrt(noise), frequencies, lengths)


def _scored(
    p: np.ndarray,
    cost: Any,
    parts: Any,
    columns: np.ndarray,
    power: np.ndarray,
    weight: np.ndarray,
    expected: float,
) -> np.ndarray:
    damping, value = 1e-3, cost(p)
    for _ in range(_ROUNDS):
        signal, noise = parts(p)
        model = signal + noise
        jacobian = np.concatenate([columns * signal, np.full((1, power.size), noise)]) / model
        score = jacobian @ (weight * (power / model - 1))
        information = (jacobian * weight) @ jacobian.T
        score[1] -= (p[1] - expected) / EXPONENT_SPREAD**2
        information[1, 1] += 1 / EXPONENT_SPREAD**2
        scale = np.diag(np.diag(information) + 1e-9)
        for _ in range(12):
            step = np.clip(np.linalg.solve(information + damping * scale, score), -2, 2)
            new = cost(p + step)
            if new < value:
                break
            damping *= 4
        else:
            return p
        gain, p, value, damping = value - new, p + step, new, damping / 5
        if gain < 1e-3:  # far below what the noise leaves open
            return p
    return p
