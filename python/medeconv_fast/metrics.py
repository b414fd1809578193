"""How close an image is to the truth. All work is done in float64; none of them rescales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import _validate

__all__ = [
    "fourier_shell_correlation",
    "i_divergence",
    "nrmse",
    "psnr",
    "radial_power",
    "resolution",
    "ssim",
]


_BLOCK = 1 << 15  # values: a few blocks of float64 stay in the second-level cache
_NAMES = ("truth", "image")
_SLACK = 1e-9  # of a shell: what is so little below a whole number of them is rounding


def _pair(
    truth: Any, image: Any, names: tuple[str, str] = _NAMES
) -> tuple[np.ndarray, np.ndarray, list[tuple[float, float]]]:
    """Both as they are, and the smallest and largest value of each."""
    arrays, extremes = [], []
    for value, name in zip((truth, image), names, strict=True):
        array = _validate.real(value, name)
        if array.size == 0:
            raise ValueError(f"{name}: got an empty array of shape {array.shape}")
        if array.dtype == bool:
            array = array.astype(np.uint8)
        extremes.append(_validate.finite(array, name))
        arrays.append(array)
    _validate.same_shape(arrays[1], names[1], arrays[0].shape, names[0])
    return arrays[0], arrays[1], extremes


def _range(extremes: tuple[float, float], data_range: Any) -> float:
    """Of the truth, unless it is given."""
    if data_range is not None:
        return _validate.number(data_range, "data_range", above=0)
    found = extremes[1] - extremes[0]
    if found == 0:
        raise ValueError("truth: all values are equal, so it has no range; pass data_range")
    return found


def _unit(largest: float) -> float:
    """The power of two that brings the largest magnitude near 1, where squares fit float64."""
    return math.ldexp(1.0, -max(min(math.frexp(largest)[1], 1000), -1000))


def _rms(of: np.ndarray, without: np.ndarray | None = None) -> float:
    """Root of the mean square of an array, or of what it is more than another one, in float64."""
    first = of.reshape(-1)
    second = None if without is None else without.reshape(-1)
    rooms = np.empty((2, min(first.size, _BLOCK)))
    sums = []  # of squares, each in its block's own unit
    for start in range(0, first.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        block, other = rooms[:, : first[part].size]
        block[...] = first[part]
        if second is not None:
            other[...] = second[part]
            block -= other
        largest = max(float(block.max()), -float(block.min()))
        if largest > 0:
            block *= _unit(largest)
            np.square(block, out=block)
            sums.append((_unit(largest), float(block.sum())))
    if not sums:
        return 0.0
    unit = min(own for own, _ in sums)
    return math.sqrt(sum(total * (unit / own) ** 2 for own, total in sums) / first.size) / unit


def psnr(truth: Any, image: Any, *, data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB, 20 log10(data_range / rms error).

    Parameters
    ----------
    truth, image : array_like
        Same shape, any number of axes.
    data_range : float, optional
        Default: ``ptp(truth)``.

    Returns
    -------
    float
        Infinite for identical arrays.

    Raises
    ------
    ValueError, TypeError
        Complex or object values; shapes that differ, NaN or Inf, a constant truth without `data_range`.
    """
    a, b, (of_truth, _) = _pair(truth, image)
    peak = _range(of_truth, data_range)
    error = _rms(b, a)
    return math.inf if error == 0 else 20 * (math.log10(peak) - math.log10(error))


def nrmse(truth: Any, image: Any) -> float:
    """Root-mean-square error over the root-mean-square of the truth (scikit-image's "euclidean").

    Parameters
    ----------
    truth, image : array_like
        Same shape, any number of axes.

    Returns
    -------
    float
        0 for identical arrays.

    Raises
    ------
    ValueError, TypeError
        Complex or object values; shapes that differ, NaN or Inf, a truth that is zero everywhere.
    """
    a, b, _ = _pair(truth, image)
    norm = _rms(a)
    if norm == 0:
        raise ValueError("truth: all values are zero, so there is nothing to normalise by")
    return _rms(b, a) / norm


def i_divergence(truth: Any, image: Any) -> float:
    """Csiszár's I-divergence, the sum over voxels of ``truth log(truth / image) - truth + image``.

    The distance that Richardson-Lucy makes small when `truth` is the measured image and `image` the blurred
    estimate: up to a constant the negative logarithm of the Poisson likelihood, so it wants counts.

    Parameters
    ----------
    truth, image : array_like
        Same shape, any number of axes, no negative values; their order matters.

    Returns
    -------
    float
        0 for identical arrays, in the images' unit; infinite where `image` is 0 and `truth` is not. The sum
        of ``scipy.special.kl_div``.

    Raises
    ------
    ValueError, TypeError
        Complex or object values; shapes that differ, NaN or Inf, negative values.

    References
    ----------
    I. Csiszár, Ann. Statist. 19, 2032 (1991).
    """
    a, b, extremes = _pair(truth, image)
    for array, name, (lowest, _) in zip((a, b), _NAMES, extremes, strict=True):
        _validate.non_negative(array, name, lowest)
    first, second = a.reshape(-1), b.reshape(-1)
    total = 0.0
    for start in range(0, first.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        x, y = first[part].astype(np.float64), second[part].astype(np.float64)
        seen = x > 0
        if not seen.all():
            total += float(np.sum(y[~seen]))
            x, y = x[seen], y[seen]
        if np.any(y == 0):
            return math.inf
        # x log(x/y) - x + y is the small difference of large terms where x and y are close: with d = y/x - 1
        # it is x (d - log1p(d)), which keeps its digits; far apart the quotient could overflow.
        close = np.abs(y - x) < 0.5 * x
        near = x[close]
        d = (y[close] - near) / near
        total += float(np.sum(near * (d - np.log1p(d))))
        x, y = x[~close], y[~close]
        total += float(np.sum(x * (np.log(x) - np.log(y)) - x + y))
    return total


def _window_mean(a: np.ndarray, size: int) -> np.ndarray:
    """Mean over windows of `size`, odd and above 1, per axis that lie inside the array."""
    for axis in range(a.ndim):
        # Sums of 1, 2, 4, ... neighbours, of which a window is made: few passes instead of `size`.
        sums = np.moveaxis(a, axis, 0)
        count = len(sums) - size + 1
        done, total = 1, sums[:count]
        for bit in range(size.bit_length() - 1):
            width = 1 << bit
            sums = sums[:-width] + sums[width:]
            if size & 2 * width:
                total = np.add(total, sums[done : done + count], out=total if done > 1 else None)
                done += 2 * width
        total /= size
        a = np.moveaxis(total, 0, axis)
    return a


def ssim(truth: Any, image: Any, *, data_range: float | None = None, window: int = 7) -> float:
    """Structural similarity (Wang et al. 2004), mean over all complete windows.

    Parameters
    ----------
    truth, image : array_like
        Same shape, every axis at least `window` long; axes of one voxel are dropped.
    data_range : float, optional
        Default: ``ptp(truth)``.
    window : int
        Odd side of the uniform window; 7 and the sample covariance are scikit-image's defaults, whose values
        these are.

    Returns
    -------
    float
        At most 1, for identical arrays.

    Raises
    ------
    ValueError, TypeError
        Complex or object values; shapes that differ, NaN or Inf, an even window or one larger than an axis,
        a constant truth without `data_range`.

    References
    ----------
    Z. Wang et al., IEEE Trans. Image Process. 13, 600 (2004), with K1 = 0.01, K2 = 0.03.
    """
    a, b, (of_truth, of_image) = _pair(truth, image)
    peak = _range(of_truth, data_range)
    window = _validate.integer(window, "window", minimum=3)
    a, b = np.squeeze(a), np.squeeze(b)
    if window % 2 == 0 or min(a.shape, default=0) < window:
        raise ValueError(f"window: got {window}, expected odd and at most the shortest axis of {a.shape}")
    unit = _unit(max(peak, *map(abs, of_truth + of_image)))
    peak *= unit
    count = window**a.ndim
    sample = count / (count - 1)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    total, done = 0.0, a.shape[0] - window + 1
    # Of so many rows or planes of windows all that is made stays in cache; fewer repeat too much.
    rows = max(4, _BLOCK * a.shape[0] // a.size)

    def scaled(array: np.ndarray, part: slice) -> np.ndarray:
        return np.multiply(array[part], unit, dtype=np.float64)

    # Around a common mean, the squares stay small: HU and counts sit far from zero.
    offset = sum(float(scaled(a, slice(i, i + rows)).sum()) for i in range(0, len(a), rows)) / a.size
    for start in range(0, done, rows):
        part = slice(start, min(start + rows, done) + window - 1)
        x, y = scaled(a, part) - offset, scaled(b, part) - offset
        mx, my = _window_mean(x, window), _window_mean(y, window)
        vxy = _window_mean(x * y, window) - mx * my
        # Only the sum of the variances is asked for.
        both = _window_mean(x * x + y * y, window) - (mx * mx + my * my)
        mx += offset
        my += offset
        score = (2 * mx * my + c1) * (2 * sample * vxy + c2)
        with np.errstate(invalid="ignore"):  # of what NaN comes of
            score /= (mx * mx + my * my + c1) * (sample * both + c2)
        total += float(score.sum())
    if math.isnan(total):
        raise ValueError(f"data_range: got {data_range}, which is nothing beside values as large as these")
    return total / math.prod(n - window + 1 for n in a.shape)


def _hann(n: int) -> np.ndarray:
    return np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 if n > 1 else np.ones(1)


def _spectrum(array: np.ndarray, unit: float, taper: bool) -> np.ndarray:
    """Half spectrum (np.fft.rfftn) of `unit` times the array without its mean, under a Hann window if asked
    for.
    """
    scaled = np.multiply(array, unit, dtype=np.float64)
    scaled -= scaled.mean()
    if taper:
        for axis, n in enumerate(scaled.shape):
            scaled *= _hann(n).reshape([-1 if a == axis else 1 for a in range(scaled.ndim)])
    return np.fft.rfftn(scaled)


def _power(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.real**2 + values.imag**2)


class _Rings:
    """Shells of equal spatial frequency of a half spectrum.

    Neither the mean nor what lies beyond the smallest Nyquist frequency belongs to any.
    """

    def __init__(self, shape: tuple[int, ...], sizes: tuple[float, ...], name: str) -> None:
        long_axes = [(n, d) for n, d in zip(shape, sizes, strict=True) if n > 1]
        if not long_axes:
            raise ValueError(f"{name}: one voxel has no spectrum")
        self._limit = min(0.5 / d for _, d in long_axes)
        step = max(1 / (n * d) for n, d in long_axes)
        self._shells = max(1, int(self._limit / step + _SLACK))
        # Half the spectrum of a real image says all; what it leaves out counts by doubling its mirror image.
        n, d = shape[-1], sizes[-1]
        twice = np.full(n // 2 + 1, 2.0)
        twice[0] = 1
        if n % 2 == 0:
            twice[-1] = 1
        self._twice = np.broadcast_to(twice, (*shape[:-1], twice.size))
        frequencies = [np.fft.fftfreq(m, e) for m, e in zip(shape[:-1], sizes[:-1], strict=True)]
        frequencies.append(np.fft.rfftfreq(n, d))
        self._squares = [f**2 for f in np.meshgrid(*frequencies, indexing="ij", sparse=True)]

    def totals(self, terms: Callable[[slice], Sequence[np.ndarray]]) -> tuple[np.ndarray, ...]:
        """Sums per shell over the whole spectrum: the number of values, their frequencies, and each of
        `terms`, asked for by a part of the half spectrum's first axis at a time.
        """
        along, rest = self._squares[0], sum(self._squares[1:])
        rows = max(1, _BLOCK * len(along) // self._twice.size)
        sums: Any = 0.0
        for start in range(0, len(along), rows):
            part = slice(start, start + rows)
            radius = np.sqrt(along[part] + rest)
            # Frequencies along an axis lie on the limits of shells, which rounding would part by the unit.
            which = np.floor(radius / self._limit * self._shells + _SLACK).astype(np.int64)
            keep = (which < self._shells) & (radius > 0)
            which, times = which[keep], self._twice[part][keep]
            values = [times, radius[keep] * times, *(term[keep] * times for term in terms(part))]
            sums = sums + np.array([np.bincount(which, v, self._shells) for v in values])
        return tuple(sums)


def _shells(
    a: Any, b: Any, voxel_size: Any, taper: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, ...]]:
    """Mean frequency, correlation and number of independent values of each shell; the voxel size."""
    first, second, extremes = _pair(a, b, ("a", "b"))
    _validate.rank(first, "a")
    sizes = _validate.voxel_size(1.0 if voxel_size is None else voxel_size, "voxel_size", first.ndim)
    taper = _validate.flag(taper, "taper")
    rings = _Rings(first.shape, sizes, "a")
    fa, fb = (
        _spectrum(array, _unit(max(-low, high)), taper)
        for array, (low, high) in zip((first, second), extremes, strict=True)
    )

    def terms(part: slice) -> Sequence[np.ndarray]:
        x, y = fa[part], fb[part]
        return x.real * y.real + x.imag * y.imag, _power(x), _power(y)

    counts, frequencies, cross, *powers = rings.totals(terms)
    norm = np.sqrt(powers[0] * powers[1])
    filled = counts > 0
    # Where one image has nothing at all, nothing agrees.
    correlation = np.divide(cross, norm, out=np.zeros_like(norm), where=norm > 0)
    # Half of them: a real image's spectrum is its own mirror image.
    return frequencies[filled] / counts[filled], correlation[filled], counts[filled] / 2, sizes


def radial_power(image: Any, voxel_size: Any = None, *, taper: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Power spectrum of an image, averaged over shells of equal spatial frequency.

    Parameters
    ----------
    image : array_like
        One to three axes.
    voxel_size : float or sequence of float, optional
        Default 1: frequencies per voxel. Shells are spherical in physical units.
    taper : bool
        Take the mean off and multiply by a Hann window first: the jump between opposite sides of an image
        that is not periodic reaches all frequencies.

    Returns
    -------
    frequency : numpy.ndarray
        Mean frequency of each shell, in cycles per unit of `voxel_size`, up to the smallest Nyquist frequency
        of the axes.
    power : numpy.ndarray
        Mean of ``|F|²`` over the number of voxels (and over the window's mean square): white noise of
        variance v has power v in all shells.

    Raises
    ------
    ValueError, TypeError
        NaN or Inf, more than three axes, one voxel only, a wrong number of lengths.
    """
    array = _validate.real(image, "image")
    _validate.rank(array, "image")
    if array.dtype == bool:
        array = array.astype(np.uint8)
    _validate.finite(array, "image")
    sizes = _validate.voxel_size(1.0 if voxel_size is None else voxel_size, "voxel_size", array.ndim)
    rings = _Rings(array.shape, sizes, "image")
    taper = _validate.flag(taper, "taper")
    lost = math.prod(float(np.mean(_hann(n) ** 2)) for n in array.shape) if taper else 1.0
    spectrum = _spectrum(array, 1.0, taper)
    counts, frequencies, power = rings.totals(lambda part: [_power(spectrum[part])])
    filled = counts > 0
    mean = power[filled] / counts[filled] / array.size / lost
    return frequencies[filled] / counts[filled], mean


def fourier_shell_correlation(
    a: Any, b: Any, voxel_size: Any = None, *, taper: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of two images' spectra in shells of equal spatial frequency.

    Parameters
    ----------
    a, b : array_like
        Two independent images of the same object, same shape, one to three axes.
    voxel_size : float or sequence of float, optional
        Default 1: frequencies per voxel. Shells are spherical in physical units; anisotropic voxels are
        accounted for.
    taper : bool
        Multiply both images by a Hann window first: where an image is not periodic, the jump between its
        opposite sides reaches all frequencies and is the same in both, so that they seem to agree.
        `resolution` does so by default.

    Returns
    -------
    frequency : numpy.ndarray
        Mean frequency of each shell, in cycles per unit of `voxel_size`, up to the smallest Nyquist frequency
        of the axes.
    correlation : numpy.ndarray
        Between -1 and 1; 0 where one of the images has nothing in the shell.

    Raises
    ------
    ValueError, TypeError
        Complex or object values; shapes that differ, NaN or Inf, more than three axes.

    References
    ----------
    G. Harauz and M. van Heel, Optik 73, 146 (1986).
    """
    return _shells(a, b, voxel_size, taper)[:2]


def resolution(
    a: Any,
    b: Any,
    voxel_size: Any = None,
    *,
    threshold: float | str = 1 / 7,
    taper: bool = True,
) -> float:
    """Resolution of two images: the length at which their Fourier ring (2-D) or shell (3-D) correlation falls
    below a threshold.

    Parameters
    ----------
    a, b : array_like
        Two independent images of the same object, same shape, one to three axes; or a truth and an image, for
        the length down to which the image is right.
    voxel_size : float or sequence of float, optional
        Default 1: the result is in voxels.
    threshold : float or {"half-bit", "one-bit"}
        Between 0 and 1 (1/7 is common for two independent halves of the data; 1/2 for an image and a truth),
        or the curves of van Heel and Schatz, which rise where a shell holds few values.
    taper : bool
        As for `fourier_shell_correlation`, whose default is another.

    Returns
    -------
    float
        One over the frequency of the crossing, interpolated linearly, in the unit of `voxel_size`. The
        crossing is the first shell below the threshold that another one below it follows: one alone is noise.
        Where there is none, two voxels of the coarsest axis (the Nyquist limit): the resolution is that or
        better. Infinite where already the first shells are below.

    Raises
    ------
    ValueError, TypeError
        Shapes that differ, NaN or Inf, more than three axes, a threshold that is neither.

    References
    ----------
    G. Harauz and M. van Heel, Optik 73, 146 (1986); M. van Heel and M. Schatz, J. Struct. Biol. 151, 250
    (2005); R. P. J. Nieuwenhuizen et al., Nat. Methods 10, 557 (2013) (1/7 for rings).
    """
    if isinstance(threshold, str):
        bits = {"half-bit": 0.5, "one-bit": 1.0}[
            _validate.choice(threshold, "threshold", ("half-bit", "one-bit"))
        ]
    else:
        bits = 0.0
        threshold = _validate.number(threshold, "threshold", above=0)
        if threshold >= 1:
            raise ValueError(f"threshold: got {threshold:g}, expected less than 1")
    frequency, correlation, count, sizes = _shells(a, b, voxel_size, taper)
    shape = np.shape(a)
    finest = 2 * max(d for n, d in zip(shape, sizes, strict=True) if n > 1)
    if bits:
        # Two halves of the data: the ratio of signal to noise in each that gives `bits` per value.
        ratio = (2**bits - 1) / 2
        root = np.sqrt(np.maximum(count, 1))
        level = (ratio + 2 * math.sqrt(ratio) / root + 1 / root) / (ratio + 1 + 2 * math.sqrt(ratio) / root)
    else:
        level = np.full(len(frequency), float(threshold))
    excess = correlation - level
    below = excess < 0
    first = np.flatnonzero(below & np.append(below[1:], True))
    if first.size == 0:
        return finest
    at = int(first[0])
    if at == 0:
        return math.inf
    if excess[at - 1] < 0:  # the noise of one shell just before
        return float(1 / frequency[at])
    t = excess[at - 1] / (excess[at - 1] - excess[at])
    return float(1 / (frequency[at - 1] + t * (frequency[at] - frequency[at - 1])))
