"""PSF models: Gaussian, and the scalar diffraction models of a light microscope."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _validate

SIGMA_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))
# A Gaussian's default extent in standard deviations each way: 6e-5 of its integral lies beyond, per axis.
GAUSSIAN_REACH = 4.0
# Most voxels of a default shape: what asks for more has its lengths in several units.
LARGEST = 1 << 27
# The same, where it is the wavelength that is too short: a pixel, times NA, and a depth, in wavelengths. What
# is computed grows with them.
WIDEST, DEEPEST = 50, 20000


def _sizes(voxel_size: Any, ndims: tuple[int, ...]) -> tuple[float, ...]:
    if _validate.axes(voxel_size, "voxel_size") != 1 or len(voxel_size) not in ndims:
        wanted = " or ".join(f"{n} {_validate.AXES[n]}" for n in ndims)
        raise ValueError(
            f"voxel_size: got {_validate.shown(voxel_size)}, expected a sequence of lengths: {wanted}"
        )
    return _validate.voxel_size(voxel_size, "voxel_size", len(voxel_size))


def light_sheet(
    detection: Any,
    voxel_size: Any,
    wavelength: float,
    *,
    na: float | None = None,
    waist: float | None = None,
    refractive_index: float = 1.33,
    position: float = 0.0,
    offset: float = 0.0,
) -> np.ndarray:
    """PSF of a light-sheet microscope: a detection PSF times the profile of a Gaussian sheet along z.

    Parameters
    ----------
    detection : array_like
        PSF of the detection objective, (z, y, x), centre at ``shape // 2``: any model, or measured.
    voxel_size : sequence of float
        (z, y, x).
    wavelength : float
        Of the excitation in vacuum, in the unit of `voxel_size`.
    na : float, optional
        Numerical aperture of the sheet; gives ``waist = wavelength / (pi * na)``. Either this or `waist`.
    waist : float, optional
        Half thickness of the sheet at its thinnest, where the intensity has fallen to exp(-2); the full width
        at half maximum is 1.177 times as large.
    refractive_index : float
        Of the medium in which the sheet runs.
    position : float
        Distance, along the sheet's direction x, of the imaged point from the waist: the sheet diverges, so
        the PSF varies over the field of view; it does so slowly enough to be constant within one PSF.
    offset : float
        Distance along z of the sheet's middle from the focal plane of the detection.

    Returns
    -------
    psf : numpy.ndarray
        Three axes (z, y, x), float64, sum 1, of `detection`'s shape; its centre is the detection's focus.

    Raises
    ------
    ValueError, TypeError
        A detection PSF of other than three axes, none or both of `na` and `waist`, values that are not
        positive, a sheet that does not overlap the detection PSF.

    Notes
    -----
    With w₀ the waist, ``w(x)² = w₀² (1 + (x / x_R)²)``, ``x_R = π n w₀² / wavelength``, the point at x sees
    the intensity ``(w₀ / w(x)) exp(-2 (z - offset)² / w(x)²)``, a beam focused in one direction only. A
    fluorophore emits in proportion, so the PSF is the product; the factor before the exponential changes the
    brightness over the field, not the PSF, and is lost in the sum of 1.

    References
    ----------
    B. E. A. Saleh and M. C. Teich, Fundamentals of Photonics, 3.1 (Gaussian beam, eqs. 3.1-7 to 3.1-11);
    C. J. Engelbrecht and E. H. K. Stelzer, Opt. Lett. 31, 1477 (2006) (PSF as the product).
    """
    array = _validate.real(detection, "detection")
    _validate.rank(array, "detection")
    if array.ndim != 3:
        raise ValueError(
            f"detection: got {array.ndim} axes (shape {array.shape}), expected three axes (z, y, x)"
        )
    array = array.astype(np.float64)
    _validate.finite(array, "detection")
    _validate.psf_sum(array, "detection")
    sizes = _sizes(voxel_size, (3,))
    wavelength = _validate.number(wavelength, "wavelength", above=0)
    index = _validate.number(refractive_index, "refractive_index", above=0)
    if (na is None) == (waist is None):
        raise ValueError(
            f"na, waist: got {_validate.shown(na)} and {_validate.shown(waist)}, expected exactly one of them"
        )
    if na is not None:
        na = _validate.number(na, "na", above=0)
        if na >= index:
            raise ValueError(f"na: got {na:g}, expected less than the refractive index {index:g}")
        smallest = wavelength / (math.pi * na)
    else:
        smallest = _validate.number(waist, "waist", above=0)
    position, offset = _validate.number(position, "position"), _validate.number(offset, "offset")
    rayleigh = math.pi * index * smallest**2 / wavelength
    width = smallest * math.hypot(1, position / rayleigh)
    z = (np.arange(array.shape[0]) - array.shape[0] // 2) * sizes[0]
    psf = array * np.exp(-2 * ((z - offset) / width) ** 2)[:, None, None]
    total = float(psf.sum())
    if not total > 1e-12 * float(np.abs(array).sum()):
        raise ValueError(
            f"offset: got {offset:g} with a sheet of half thickness {width:g}, which does not overlap the "
            "detection PSF; expected one that does"
        )
    return psf / total


def _shape(shape: Any, reaches: Sequence[float], **given: Any) -> tuple[int, ...]:
    """`shape`, or odd lengths out to `reaches` voxels each way, which follow from `given`: a length by its
    name, `na` if any, and `voxel_size`.
    """
    if shape is not None:
        checked, ndim = _validate.shape(shape, "shape"), len(reaches)
        if len(checked) != ndim:
            raise ValueError(f"shape: got {checked}, expected {ndim} axis lengths {_validate.AXES[ndim]}")
        return checked
    if max(reaches) <= LARGEST:  # else it need not be a number any more
        lengths = tuple(2 * math.ceil(reach) + 1 for reach in reaches)
        if math.prod(lengths) <= LARGEST:
            return lengths
    grid = " x ".join(f"{2 * np.ceil(reach) + 1:.6g}" for reach in reaches)
    values = ", ".join(f"{name} {_validate.shown(value)}" for name, value in given.items())
    raise ValueError(
        f"{', '.join(given)}: got {values}, of which a PSF would have {grid} voxels; expected "
        f"{next(iter(given))} and voxel_size in one unit (520 nm are 0.52 µm) and at most {LARGEST} voxels, "
        "or a shape"
    )


def gaussian(fwhm: Any, voxel_size: Any, shape: Any = None) -> np.ndarray:
    """Gaussian PSF of given widths, integrated over each voxel.

    Parameters
    ----------
    fwhm : float or sequence of float
        Full width at half maximum per axis, in the unit of `voxel_size`; 0: no blur along that axis.
    voxel_size : sequence of float
        One length per axis, 1 to 3 axes.
    shape : sequence of int, optional
        Default: odd, four standard deviations each way, which leaves out 6e-5 of the integral per axis.

    Returns
    -------
    psf : numpy.ndarray
        float64, sum 1, centre at ``shape // 2``.

    Raises
    ------
    ValueError, TypeError
        Negative widths, sizes that are not positive, a wrong number of values, a default shape of more than
        2^27 voxels.

    Notes
    -----
    Each value is the integral of the normal distribution over the voxel (a difference of error functions per
    axis), so that widths below a voxel keep their meaning; the sampled curve itself is therefore slightly
    wider than `fwhm`: its variance is larger by a twelfth of the voxel size squared. What lies outside
    `shape` is left out and the rest brought to sum 1.
    """
    sizes = _sizes(voxel_size, (1, 2, 3))
    values = (fwhm,) * len(sizes) if _validate.axes(fwhm, "fwhm") == 0 else tuple(fwhm)
    if len(values) != len(sizes):
        raise ValueError(f"fwhm: got {len(values)} values, expected {len(sizes)}, one per axis of voxel_size")
    widths = [_validate.number(w, f"fwhm[{i}]", minimum=0) for i, w in enumerate(values)]
    sigmas = [w * SIGMA_PER_FWHM / size for w, size in zip(widths, sizes, strict=True)]  # in voxels
    reaches = [GAUSSIAN_REACH * s for s in sigmas]
    extents = _shape(shape, reaches, fwhm=tuple(widths), voxel_size=sizes)
    for i, sigma in enumerate(sigmas):
        if not math.isfinite(sigma):
            raise ValueError(
                f"fwhm[{i}]: got {widths[i]:g} with voxels of {sizes[i]:g}, expected both in one unit"
            )
    result = np.ones((), np.float64)
    for sigma, n in zip(sigmas, extents, strict=True):
        position = np.arange(n) - n // 2
        if sigma == 0:
            line = (position == 0).astype(np.float64)
        else:
            with np.errstate(over="ignore"):  # of a width that is next to nothing: infinitely far
                edges = (np.arange(n + 1) - n // 2 - 0.5) / (sigma * math.sqrt(2))
            # erfc of the nearer tail: a difference of erf loses the small values to cancellation
            line = np.array([_normal_between(a, b) for a, b in itertools.pairwise(edges)])
        result = np.multiply.outer(result, line / line.sum())
    return result


def _normal_between(a: float, b: float) -> float:
    # Near the middle erfc is 1 less what is wanted, of which a wide Gaussian has no digit left.
    if -0.5 < a < b < 0.5:
        return (math.erf(b) - math.erf(a)) / 2
    if a >= 0:
        return (math.erfc(a) - math.erfc(b)) / 2
    if b <= 0:
        return (math.erfc(-b) - math.erfc(-a)) / 2
    return (math.erf(b) - math.erf(a)) / 2


def _bessel(order: int, x: np.ndarray) -> np.ndarray:
    """J0 or J1 by the trapezoidal rule on Bessel's integral, which converges faster than any power for a
    periodic integrand (Trefethen and Weideman, SIAM Rev. 56, 385 (2014)): with n points around the circle it
    is wrong by Bessel functions of orders about n, which are nothing for arguments that stay below.
    """
    x = np.asarray(x, np.float64)
    largest = float(np.abs(x).max(initial=0.0))
    # A quarter of the circle says all.
    points = math.ceil((largest + 12 * largest ** (1 / 3) + 40) / 4)
    total, wave = np.zeros_like(x), np.empty_like(x)
    for theta in (np.arange(points) + 0.5) * (math.pi / 2 / points):
        height = math.sin(theta)
        np.multiply(x, height, out=wave)
        if order == 0:
            total += np.cos(wave, out=wave)
        else:
            total += np.multiply(np.sin(wave, out=wave), height, out=wave)
    return total / points


def _optics(wavelength: Any, na: Any, refractive_index: Any) -> tuple[float, float, float]:
    wavelength = _validate.number(wavelength, "wavelength", above=0)
    na = _validate.number(na, "na", above=0)
    index = _validate.number(refractive_index, "refractive_index", above=0)
    if na >= index:
        raise ValueError(f"na: got {na:g}, expected less than the refractive index {index:g}")
    return wavelength, na, index


def _check_unit(wavelength: float, na: float, sizes: Sequence[float], depth: float = 0.0) -> None:
    if na * max(sizes[-2:]) > WIDEST * wavelength:
        raise ValueError(
            f"voxel_size: got {tuple(sizes)} and the wavelength {wavelength:g}, expected pixels of at most "
            f"{WIDEST} wavelengths over na, of one unit (520 nm are 0.52 µm)"
        )
    if depth > DEEPEST * wavelength:
        raise ValueError(
            f"depth: got {depth:g} and the wavelength {wavelength:g}, expected at most {DEEPEST} wavelengths "
            "of one unit (520 nm are 0.52 µm)"
        )


def _lateral(
    profile: Callable[[np.ndarray], np.ndarray],
    bandwidth: float,
    shape: tuple[int, int],
    sizes: tuple[float, float],
    integrate: bool,
) -> np.ndarray:
    """An intensity that depends on the distance from the axis, on pixels: (planes, y, x).

    `profile` maps distances (n,) to intensities (planes, n). An intensity has no angular frequency above
    `bandwidth` and is even in the distance, so that a Chebyshev series in even terms holds it to rounding
    with few values of `profile`, which are dear, and the mean over a pixel is a mean of polynomials.
    """
    half = [max(n // 2, n - 1 - n // 2) for n in shape]
    if integrate:
        reach = math.hypot(*((h + 0.5) * size for h, size in zip(half, sizes, strict=True)))
        # Gauss-Legendre of a wave of phase a at the pixel's edge: 4 + a points leave 1e-8.
        rules = [np.polynomial.legendre.leggauss(4 + math.ceil(bandwidth * size / 2)) for size in sizes]
    else:
        reach = max(math.hypot(*(h * size for h, size in zip(half, sizes, strict=True))), min(sizes))
        rules = [(np.zeros(1), np.full(1, 2.0))] * 2
    argument = bandwidth * reach
    terms = math.ceil((argument + 12 * argument ** (1 / 3) + 40) / 2)
    angle = (np.arange(terms) + 0.5) * (math.pi / (2 * terms))
    cosines = np.cos(2 * np.outer(angle, np.arange(terms)))
    coefficients = np.asarray(profile(reach * np.cos(angle))) @ cosines * (2 / terms)
    coefficients[:, 0] /= 2
    # One quadrant: the others mirror it.
    y, x = (
        (np.arange(h + 1)[:, None] + rule[0] / 2) * size
        for h, size, rule in zip(half, sizes, rules, strict=True)
    )
    weights = np.multiply.outer(rules[0][1], rules[1][1]).ravel() / 4
    quadrant = np.empty((coefficients.shape[0], half[0] + 1, half[1] + 1))
    for row, heights in enumerate(y):
        # Of square pixels half a quadrant: x and y change places.
        first = row if sizes[0] == sizes[1] and row <= half[1] else 0
        squared = (heights[None, :, None] ** 2 + x[first:, None, :] ** 2).reshape(half[1] + 1 - first, -1)
        twice = 2 * (2 * squared / reach**2 - 1)
        before, now, product = np.ones_like(twice), twice / 2, np.empty_like(twice)
        means = np.empty((terms, len(squared)))
        means[0] = 1
        for n in range(1, terms):  # T_2n(r) = T_n(2 r² - 1), by the three-term recurrence
            means[n] = now @ weights
            np.subtract(np.multiply(twice, now, out=product), before, out=before)
            before, now = now, before
        quadrant[:, row, first:] = coefficients @ means
        if first:
            quadrant[:, row, :first] = quadrant[:, :first, row]
    rows, columns = (np.abs(np.arange(n) - n // 2) for n in shape)
    # Rounding leaves a few -1e-18 in dark rings.
    return np.maximum(quadrant[:, rows[:, None], columns[None, :]], 0)


def airy(
    wavelength: float, na: float, voxel_size: Any, shape: Any = None, *, integrate: bool = True
) -> np.ndarray:
    """In-focus PSF of an aberration-free wide-field microscope, (2 J1(v)/v)² with v = 2π NA r / wavelength.

    Parameters
    ----------
    wavelength : float
        Emission wavelength in vacuum, in the unit of `voxel_size`.
    na : float
        Numerical aperture.
    voxel_size : sequence of float
        Pixel size (y, x).
    shape : sequence of int, optional
        Default: odd, out to the fifth dark ring; 4 % of the light falls beyond.
    integrate : bool
        Averaged over the area of each pixel, as a camera records it; False: taken at the pixel's centre.

    Returns
    -------
    psf : numpy.ndarray
        Two axes (y, x), float64, sum 1, centre at ``shape // 2``.

    Raises
    ------
    ValueError, TypeError
        A wavelength, NA or pixel size that is not positive, a wrong number of values, a default shape of more
        than 2^27 pixels, a pixel of more than 50 wavelengths over `na` (two units).

    References
    ----------
    M. Born and E. Wolf, Principles of Optics, 8.5.2.
    """
    wavelength = _validate.number(wavelength, "wavelength", above=0)
    na = _validate.number(na, "na", above=0)
    sizes = _sizes(voxel_size, (2,))
    _check_unit(wavelength, na, sizes)
    reach = 2.62 * wavelength / na
    lengths = _shape(shape, [reach / s for s in sizes], wavelength=wavelength, na=na, voxel_size=sizes)
    scale = 2 * math.pi * na / wavelength

    def profile(radius: np.ndarray) -> np.ndarray:
        v = scale * radius
        amplitude = np.ones_like(v)
        np.divide(2 * _bessel(1, v), v, out=amplitude, where=v > 1e-8)
        return amplitude[None] ** 2

    psf = _lateral(
        profile,
        2 * scale,
        (lengths[0], lengths[1]),
        (sizes[0], sizes[1]),
        _validate.flag(integrate, "integrate"),
    )[0]
    return psf / psf.sum()


def _aperture_integral(
    depths: np.ndarray, distinct: np.ndarray, wavenumber: float, na: float, phase: Any
) -> np.ndarray:
    """|integral over the aperture of J0(k NA r ρ) exp(i phase(ρ, z)) ρ dρ|² for each depth and distance."""
    # By the angle, ρ = sin α: where the aperture ends at the specimen's index, a path is sqrt(1 - ρ²), that
    # rules in ρ are slow to follow; it is cos α.
    angle = np.linspace(0, math.pi / 2, 65)
    steepest = float(np.abs(np.diff(phase(np.sin(angle), depths[:, None]), axis=1)).max(initial=0.0)) * 64
    largest = wavenumber * na * float(distinct.max(initial=0.0)) * math.pi / 2
    # Gauss-Legendre: a few points per period of the fastest oscillation give full precision; piece by piece,
    # since making a rule takes the cube of its points.
    pieces = 1 + int((largest + steepest) / 512)
    points = 40 + math.ceil(0.5 * (largest + steepest) / pieces)
    nodes, weights = np.polynomial.legendre.leggauss(points)
    angle = (np.arange(pieces)[:, None] + (nodes + 1) / 2).ravel() * (math.pi / 2 / pieces)
    weights = np.tile(weights, pieces) * (math.pi / 4 / pieces)
    rho = np.sin(angle)
    bessel = _bessel(0, wavenumber * na * rho[:, None] * distinct[None, :])
    kernel = (weights * rho * np.cos(angle))[:, None] * bessel
    field = np.exp(1j * phase(rho, depths[:, None])) @ kernel
    return np.abs(field) ** 2


def _widefield(
    wavenumber: float,
    na: float,
    phase: Callable[[np.ndarray, np.ndarray], np.ndarray],
    lengths: tuple[int, ...],
    sizes: tuple[float, ...],
    integrate: Any,
) -> np.ndarray:
    depths = (np.arange(lengths[0]) - lengths[0] // 2) * sizes[0]
    psf = _lateral(
        lambda radius: _aperture_integral(depths, radius, wavenumber, na, phase),
        2 * wavenumber * na,
        (lengths[1], lengths[2]),
        (sizes[1], sizes[2]),
        _validate.flag(integrate, "integrate"),
    )
    return psf / psf.sum()


def _volume(
    sizes: tuple[float, ...], shape: Any, wavelength: float, na: float, index: float
) -> tuple[int, ...]:
    lateral, axial = 2.62 * wavelength / na, 4 * wavelength * index / na**2
    reaches = [reach / s for reach, s in zip((axial, lateral, lateral), sizes, strict=True)]
    return _shape(shape, reaches, wavelength=wavelength, na=na, voxel_size=sizes)


def born_wolf(
    wavelength: float,
    na: float,
    refractive_index: float,
    voxel_size: Any,
    shape: Any = None,
    *,
    integrate: bool = True,
) -> np.ndarray:
    """Scalar PSF of a wide-field microscope without aberrations, in and out of focus.

    Parameters
    ----------
    wavelength : float
        Emission wavelength in vacuum, in the unit of `voxel_size`.
    na : float
        Numerical aperture, below `refractive_index`.
    refractive_index : float
        Of the immersion and the specimen.
    voxel_size : sequence of float
        (z, y, x).
    shape : sequence of int, optional
        Default: odd, to the second axial zero each way and out to the fifth dark ring in focus.
    integrate : bool
        Averaged over the area (y, x) of each pixel, as a camera records it, in planes at the positions of the
        stage; False: taken at the voxel's centre.

    Returns
    -------
    psf : numpy.ndarray
        Three axes (z, y, x), float64, sum 1, centre at ``shape // 2``.

    Raises
    ------
    ValueError, TypeError
        `na` of at least the refractive index, values that are not positive, a wrong number of values, a
        default shape of more than 2^27 voxels, a pixel of more than 50 wavelengths over `na` (two units).

    Notes
    -----
    Scalar and paraxial; `gibson_lanni` without aberrations keeps the exact path length of steep rays.

    References
    ----------
    M. Born and E. Wolf, Principles of Optics, 8.8: |integral of J0(k NA r ρ) exp(-i k z NA² ρ² / 2n) ρ dρ|².
    """
    wavelength, na, index = _optics(wavelength, na, refractive_index)
    sizes = _sizes(voxel_size, (3,))
    _check_unit(wavelength, na, sizes)
    lengths = _volume(sizes, shape, wavelength, na, index)
    wavenumber = 2 * math.pi / wavelength

    def phase(rho: np.ndarray, z: np.ndarray) -> np.ndarray:
        return -wavenumber * z * na**2 * rho**2 / (2 * index)

    return _widefield(wavenumber, na, phase, lengths, sizes, integrate)


def gibson_lanni(
    wavelength: float,
    na: float,
    voxel_size: Any,
    shape: Any = None,
    *,
    depth: float = 0.0,
    specimen_index: float = 1.33,
    immersion_index: float = 1.515,
    design_immersion_index: float | None = None,
    working_distance: float = 150.0,
    coverslip_index: float = 1.515,
    design_coverslip_index: float | None = None,
    coverslip_thickness: float = 170.0,
    design_coverslip_thickness: float | None = None,
    integrate: bool = True,
) -> np.ndarray:
    """Scalar PSF of a wide-field microscope used off its design: wrong indices, thicknesses, a source below
    the coverslip.

    Parameters
    ----------
    wavelength, na, voxel_size, shape
        As for `born_wolf`; `na` below the indices of immersion and coverslip.
    depth : float
        Of the source below the coverslip.
    specimen_index, immersion_index, coverslip_index : float
        Actual refractive indices.
    working_distance, coverslip_thickness : float
        The immersion layer's design thickness, the coverslip's actual one, in the unit of `voxel_size`
        (defaults: µm).
    design_immersion_index, design_coverslip_index, design_coverslip_thickness : float, optional
        What the objective was made for; default: the actual values.
    integrate : bool
        As for `born_wolf`.

    Returns
    -------
    psf : numpy.ndarray
        Three axes (z, y, x), float64, sum 1. z counts the stage's displacement from the nominal focus of the
        design, as the immersion grows thicker: the objective's way out of the specimen. Of a stack whose
        planes go deeper, z must be reversed. Spherical aberration shifts the brightest plane away from the
        centre (see `recentre`).

    Raises
    ------
    ValueError, TypeError
        `na` of at least an index of the immersion or the coverslip, negative lengths, a wrong number of
        values, a default shape of more than 2^27 voxels, a pixel of more than 50 wavelengths over `na` or a
        depth of more than 20 000 (two units).

    Warns
    -----
    UserWarning
        `na` above the specimen's index (an oil objective on water): such rays are reflected at the coverslip,
        and the aperture is taken to end at the specimen's index, as Li, Xue and Blu do.

    References
    ----------
    S. F. Gibson and F. Lanni, J. Opt. Soc. Am. A 8, 1601 (1991), eqs. 3 and 5; the aperture's limit: J. Li,
    F. Xue and T. Blu, J. Opt. Soc. Am. A 34, 1029 (2017).
    """
    wavelength = _validate.number(wavelength, "wavelength", above=0)
    na = _validate.number(na, "na", above=0)
    sizes = _sizes(voxel_size, (3,))
    depth = _validate.number(depth, "depth", minimum=0)
    ns = _validate.number(specimen_index, "specimen_index", above=0)
    ni = _validate.number(immersion_index, "immersion_index", above=0)
    ng = _validate.number(coverslip_index, "coverslip_index", above=0)
    ti0 = _validate.number(working_distance, "working_distance", minimum=0)
    tg = _validate.number(coverslip_thickness, "coverslip_thickness", minimum=0)

    def designed(value: float | None, name: str, actual: float) -> float:
        return actual if value is None else _validate.number(value, name, above=0)

    ni0 = designed(design_immersion_index, "design_immersion_index", ni)
    ng0 = designed(design_coverslip_index, "design_coverslip_index", ng)
    tg0 = designed(design_coverslip_thickness, "design_coverslip_thickness", tg)
    smallest = min(ni, ng, ni0, ng0)
    if na >= smallest:
        raise ValueError(
            f"na: got {na:g}, expected less than the indices of immersion and coverslip, the smallest is "
            f"{smallest:g}"
        )
    aperture = min(na, ns)
    if aperture < na:
        warnings.warn(
            f"na: {na:g} is more than the specimen's index {ns:g}; what lies beyond is reflected at the "
            f"coverslip, so the aperture ends at {ns:g}",
            stacklevel=2,
        )
    _check_unit(wavelength, na, sizes, depth)
    lengths = _volume(sizes, shape, wavelength, na, ni)
    wavenumber = 2 * math.pi / wavelength

    def path(index: float, rho: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(index**2 - (aperture * rho) ** 2, 0))

    def phase(rho: np.ndarray, z: np.ndarray) -> np.ndarray:
        # Immersion thickness that puts the stage z away from the design's focus (Gibson and Lanni, eq. 3).
        ti = ti0 + z + ni * (tg0 / ng0 - tg / ng - depth / ns)
        ti = ti + ti0 * (ni / ni0 - 1)
        difference = depth * path(ns, rho) + tg * path(ng, rho) - tg0 * path(ng0, rho)
        return wavenumber * (difference + ti * path(ni, rho) - ti0 * path(ni0, rho))

    return _widefield(wavenumber, aperture, phase, lengths, sizes, integrate)
