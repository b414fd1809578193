"""PSF models: Gaussian, and the scalar diffraction models of a light microscope."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from .. import _validate

SIGMA_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))
# A Gaussian's default extent in standard deviations each way: 6e-5 of its integral lies beyond, per axis.
GAUSSIAN_REACH = 4.0


def _sizes(voxel_size: Any, ndims: tuple[int, ...]) -> tuple[float, ...]:
    if np.ndim(voxel_size) != 1 or len(voxel_size) not in ndims:
        wanted = " or ".join(f"{n} {_validate.AXES[n]}" for n in ndims)
        raise ValueError(
            f"voxel_size: got {_validate.shown(voxel_size)}, expected a sequence of lengths: {wanted}"
        )
    return _validate.voxel_size(voxel_size, "voxel_size", len(voxel_size))


def _shape(shape: Any, ndim: int, default: tuple[int, ...]) -> tuple[int, ...]:
    if shape is None:
        return default
    checked = _validate.shape(shape, "shape")
    if len(checked) != ndim:
        raise ValueError(f"shape: got {checked}, expected {ndim} axis lengths {_validate.AXES[ndim]}")
    return checked


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
        Negative widths, sizes that are not positive, a wrong number of values.

    Notes
    -----
    Each value is the integral of the normal distribution over the voxel (a difference of error functions per
    axis), so that widths below a voxel keep their meaning; the sampled curve itself is therefore slightly
    wider than `fwhm`.
    """
    sizes = _sizes(voxel_size, (1, 2, 3))
    values = (fwhm,) * len(sizes) if np.ndim(fwhm) == 0 else tuple(fwhm)
    if len(values) != len(sizes):
        raise ValueError(f"fwhm: got {len(values)} values, expected {len(sizes)}, one per axis of voxel_size")
    widths = [_validate.number(w, f"fwhm[{i}]", minimum=0) for i, w in enumerate(values)]
    sigmas = [w * SIGMA_PER_FWHM / size for w, size in zip(widths, sizes, strict=True)]  # in voxels
    extents = _shape(
        shape, len(sizes), tuple(2 * math.ceil(GAUSSIAN_REACH * s) + 1 if s > 0 else 1 for s in sigmas)
    )
    result = np.ones((), np.float64)
    for sigma, n in zip(sigmas, extents, strict=True):
        position = np.arange(n) - n // 2
        if sigma == 0:
            line = (position == 0).astype(np.float64)
        else:
            edges = (np.arange(n + 1) - n // 2 - 0.5) / (sigma * math.sqrt(2))
            # erfc of the nearer tail: a difference of erf loses the small values to cancellation
            line = np.array([_normal_between(a, b) for a, b in itertools.pairwise(edges)])
        result = np.multiply.outer(result, line / line.sum())
    return result


def _normal_between(a: float, b: float) -> float:
    if a >= 0:
        return (math.erfc(a) - math.erfc(b)) / 2
    if b <= 0:
        return (math.erfc(-b) - math.erfc(-a)) / 2
    return (math.erf(b) - math.erf(a)) / 2


def _bessel(order: int, x: np.ndarray) -> np.ndarray:
    """J0 or J1 by the trapezoidal rule on Bessel's integral, which converges faster than any power for a
    periodic integrand: points beyond the largest argument give full double precision (Trefethen and Weideman,
    SIAM Rev. 56, 385 (2014)).
    """
    x = np.asarray(x, np.float64)
    points = 64 + 2 * math.ceil(float(np.abs(x).max(initial=0.0)))
    angle = (np.arange(points) + 0.5) * (math.pi / points)
    total = np.zeros_like(x)
    for theta in angle:
        total += np.cos(order * theta - x * math.sin(theta))
    return total / points


def _optics(wavelength: Any, na: Any, refractive_index: Any) -> tuple[float, float, float]:
    wavelength = _validate.number(wavelength, "wavelength", above=0)
    na = _validate.number(na, "na", above=0)
    index = _validate.number(refractive_index, "refractive_index", above=0)
    if na >= index:
        raise ValueError(f"na: got {na:g}, expected less than the refractive index {index:g}")
    return wavelength, na, index


def _radii(shape: tuple[int, int], sizes: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct distances from the axis, and for each pixel which one it has."""
    y, x = ((np.arange(n) - n // 2) * size for n, size in zip(shape, sizes, strict=True))
    radius = np.hypot(y[:, None], x[None, :])
    distinct, which = np.unique(radius.round(12), return_inverse=True)
    return distinct, which.reshape(radius.shape)


def airy(wavelength: float, na: float, voxel_size: Any, shape: Any = None) -> np.ndarray:
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
        Default: odd, out to the fifth dark ring.

    Returns
    -------
    psf : numpy.ndarray
        Two axes, float64, sum 1.

    References
    ----------
    M. Born and E. Wolf, Principles of Optics, 8.5.2.
    """
    wavelength = _validate.number(wavelength, "wavelength", above=0)
    na = _validate.number(na, "na", above=0)
    sizes = _sizes(voxel_size, (2,))
    reach = 2.62 * wavelength / na
    lengths = _shape(shape, 2, tuple(2 * math.ceil(reach / s) + 1 for s in sizes))
    distinct, which = _radii((lengths[0], lengths[1]), (sizes[0], sizes[1]))
    v = 2 * math.pi * na / wavelength * distinct
    amplitude = np.ones_like(v)
    np.divide(2 * _bessel(1, v), v, out=amplitude, where=v > 1e-8)
    psf = (amplitude**2)[which]
    return psf / psf.sum()


def _aperture_integral(
    depths: np.ndarray, distinct: np.ndarray, wavenumber: float, na: float, phase: Any
) -> np.ndarray:
    """|integral over the aperture of J0(k NA r ρ) exp(i phase(ρ, z)) ρ dρ|² for each depth and distance."""
    largest = wavenumber * na * float(distinct.max(initial=0.0))
    extreme = float(np.abs(np.diff(phase(np.array([0.0, 1.0]), depths[:, None]), axis=1)).max(initial=0.0))
    # Gauss-Legendre: a few points per period of the fastest oscillation give full precision.
    points = 40 + math.ceil(0.8 * (largest + extreme))
    nodes, weights = np.polynomial.legendre.leggauss(points)
    rho, weights = (nodes + 1) / 2, weights / 2
    bessel = _bessel(0, wavenumber * na * rho[:, None] * distinct[None, :])
    kernel = (weights * rho)[:, None] * bessel
    field = np.exp(1j * phase(rho, depths[:, None])) @ kernel
    return np.abs(field) ** 2


def _volume(
    sizes: tuple[float, ...], shape: Any, wavelength: float, na: float, index: float
) -> tuple[int, ...]:
    lateral, axial = 2.62 * wavelength / na, 4 * wavelength * index / na**2
    reach = (axial, lateral, lateral)
    return _shape(shape, 3, tuple(2 * math.ceil(r / s) + 1 for r, s in zip(reach, sizes, strict=True)))


def born_wolf(
    wavelength: float, na: float, refractive_index: float, voxel_size: Any, shape: Any = None
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
        Default: odd, four axial periods and five dark rings.

    Returns
    -------
    psf : numpy.ndarray
        Three axes, float64, sum 1.

    References
    ----------
    M. Born and E. Wolf, Principles of Optics, 8.8: |integral of J0(k NA r ρ) exp(-i k z NA² ρ² / 2n) ρ dρ|².
    """
    wavelength, na, index = _optics(wavelength, na, refractive_index)
    sizes = _sizes(voxel_size, (3,))
    lengths = _volume(sizes, shape, wavelength, na, index)
    wavenumber = 2 * math.pi / wavelength
    depths = (np.arange(lengths[0]) - lengths[0] // 2) * sizes[0]
    distinct, which = _radii((lengths[1], lengths[2]), (sizes[1], sizes[2]))

    def phase(rho: np.ndarray, z: np.ndarray) -> np.ndarray:
        return -wavenumber * z * na**2 * rho**2 / (2 * index)

    psf = _aperture_integral(depths, distinct, wavenumber, na, phase)[:, which]
    return psf / psf.sum()


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
) -> np.ndarray:
    """Scalar PSF of a wide-field microscope used off its design: wrong indices, thicknesses, a source below
    the coverslip.

    Parameters
    ----------
    wavelength, na, voxel_size, shape
        As for `born_wolf`; `na` below every index.
    depth : float
        Of the source below the coverslip.
    specimen_index, immersion_index, coverslip_index : float
        Actual refractive indices.
    working_distance, coverslip_thickness : float
        The immersion layer's design thickness, the coverslip's actual one, in the unit of `voxel_size`
        (defaults: µm).
    design_immersion_index, design_coverslip_index, design_coverslip_thickness : float, optional
        What the objective was made for; default: the actual values.

    Returns
    -------
    psf : numpy.ndarray
        Three axes, float64, sum 1. z counts the stage's displacement from the nominal focus of the design;
        spherical aberration shifts the brightest plane away from the centre.

    References
    ----------
    S. F. Gibson and F. Lanni, J. Opt. Soc. Am. A 8, 1601 (1991), eq. 5.
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
    smallest = min(ns, ni, ng, ni0, ng0)
    if na >= smallest:
        raise ValueError(
            f"na: got {na:g}, expected less than every refractive index, the smallest is {smallest:g}"
        )
    lengths = _volume(sizes, shape, wavelength, na, ni)
    wavenumber = 2 * math.pi / wavelength
    depths = (np.arange(lengths[0]) - lengths[0] // 2) * sizes[0]
    distinct, which = _radii((lengths[1], lengths[2]), (sizes[1], sizes[2]))

    def path(index: float, rho: np.ndarray) -> np.ndarray:
        return np.sqrt(index**2 - (na * rho) ** 2)

    def phase(rho: np.ndarray, z: np.ndarray) -> np.ndarray:
        # Immersion thickness that puts the stage z away from the design's focus (Gibson and Lanni, eq. 3).
        ti = ti0 + z + ni * (tg0 / ng0 - tg / ng - depth / ns)
        ti = ti + ti0 * (ni / ni0 - 1)
        difference = depth * path(ns, rho) + tg * path(ng, rho) - tg0 * path(ng0, rho)
        return wavenumber * (difference + ti * path(ni, rho) - ti0 * path(ni0, rho))

    psf = _aperture_integral(depths, distinct, wavenumber, na, phase)[:, which]
    return psf / psf.sum()
