"""A PSF from the image of a straight edge."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from .. import _validate
from ._models import SIGMA_PER_FWHM, gaussian
from ._sampling import _checked

_ROUNDS = 60


@dataclass(frozen=True)
class EdgeInfo:
    """What `from_edge` found.

    Attributes
    ----------
    fwhm : float
        Full width at half maximum of the Gaussian that explains the edge, in the unit of `voxel_size`; the
        pixel's own width is not part of it (`gaussian` adds it again). 0: as sharp as the pixels.
    fwhm_error : float
        Its standard deviation from the noise of the fit; nan where the fit leaves it open.
    angle : float
        Degrees between the edge and the pixel axis that it runs along, -45 to 45.
    across : int
        The axis, 0 (y) or 1 (x), that the edge is crossed along; the 1-D PSF is sampled at its pixel size.
    low, high : float
        Values on both sides.
    residual : float
        Root mean square of what the Gaussian does not explain, over ``high - low``.
    distance, edge, line : numpy.ndarray
        Edge spread function from 0 to 1 and line spread function (its derivative) over the distance from the
        edge, in steps of a quarter of a pixel.
    """

    fwhm: float
    fwhm_error: float
    angle: float
    across: int
    low: float
    high: float
    residual: float
    distance: np.ndarray
    edge: np.ndarray
    line: np.ndarray


# The normal distribution's integral on a grid; interpolated linearly it is good to 3e-7.
_GRID = np.linspace(-8, 8, 16001)
_CUMULATED = np.array([0.5 * math.erfc(-t / math.sqrt(2)) for t in _GRID])


def _ramp(d: np.ndarray, sigma: float) -> np.ndarray:
    """Integral of a Gaussian edge up to `d`."""
    t = d / sigma
    return d * np.interp(t, _GRID, _CUMULATED) + sigma * np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)


def _edge_model(d: np.ndarray, sigma: float, width: float) -> np.ndarray:
    """A Gaussian edge averaged over `width` across, at distances `d`: 0 to 1."""
    return (_ramp(d + width / 2, sigma) - _ramp(d - width / 2, sigma)) / width


class _Fit(NamedTuple):
    offset: float  # of the edge from the middle of the image, across it
    slope: float
    sigma: float
    low: float
    high: float


def _places(shape: tuple[int, ...], sizes: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """y as a column, x as a row, from the middle of the image."""
    y, x = ((np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, sizes, strict=True))
    return y[:, None], x[None, :]


def _from_line(y: np.ndarray, x: np.ndarray, offset: float, slope: float) -> np.ndarray:
    """Distances from the line, positive towards larger x."""
    return (x - offset - slope * y) / math.hypot(1, slope)


def _distances(shape: tuple[int, ...], sizes: tuple[float, ...], offset: float, slope: float) -> np.ndarray:
    """From every pixel to the line."""
    return _from_line(*_places(shape, sizes), offset, slope)


def _footprint(sizes: tuple[float, ...], slope: float) -> float:
    """Side of the square pixel whose variance across the edge is that of the turned pixel."""
    return math.hypot(sizes[1], sizes[0] * slope) / math.hypot(1, slope)


@overload
def from_edge(
    image: Any,
    voxel_size: Any = ...,
    *,
    model: str = ...,
    isotropic: bool = ...,
    return_info: Literal[False] = ...,
) -> np.ndarray: ...
@overload
def from_edge(
    image: Any, voxel_size: Any = ..., *, model: str = ..., isotropic: bool = ..., return_info: Literal[True]
) -> tuple[np.ndarray, EdgeInfo]: ...
def from_edge(
    image: Any,
    voxel_size: Any = 1.0,
    *,
    model: str = "gaussian",
    isotropic: bool = False,
    return_info: bool = False,
) -> Any:
    """PSF across a straight edge (knife edge, slanted edge) between two even regions.

    Parameters
    ----------
    image : array_like
        Two axes (y, x): one edge that crosses the image from one side to the other, with a few widths of
        even region on both sides; cut other things away. Slanted by 2 to 20 degrees it samples the edge more
        finely than the pixels.
    voxel_size : float or sequence of float
        Pixel size (y, x). Default 1: widths in pixels.
    model : {"gaussian", "line"}
        "gaussian": the Gaussian that explains the edge best. "line": the line spread function as measured,
        of any shape, with its noise; values below 0 are set to 0.
    isotropic : bool
        With "gaussian": two axes (y, x), as wide along the edge as across, for images blurred alike in all
        directions. An edge says nothing about the direction along it.
    return_info : bool
        Also return an `EdgeInfo`.

    Returns
    -------
    psf : numpy.ndarray
        float64, sum 1, centre at ``shape // 2``, pixel included; one axis, across the edge, with the pixel
        size of that axis (`EdgeInfo.across`), or two.
    info : EdgeInfo
        With ``return_info=True``: width with error, angle, edge and line spread function.

    Raises
    ------
    ValueError, TypeError
        Other than two axes, fewer than 8 pixels along one, no edge that stands out of the noise, one that
        does not cross the image or has no even region beside it, "line" with `isotropic`.

    Notes
    -----
    Every pixel is a sample of the edge spread function at its distance from the edge. Line, width and levels
    are fitted together by least squares (Levenberg-Marquardt) to all pixels near the edge, with the Gaussian
    edge integrated over the pixel; nothing is binned, so nothing widens it. For "line" the derivative is the
    slope of a local cubic through the pixels around each distance.

    Warns
    -----
    UserWarning
        The edge bends by more than a tenth of its width.

    References
    ----------
    ISO 12233:2017, annex D (slanted edge); E. Samei, M. J. Flynn and D. A. Reimann, Med. Phys. 25, 102 (1998)
    (edge to line spread function); A. Savitzky and M. J. E. Golay, Anal. Chem. 36, 1627 (1964) (local cubic).
    """
    data = _checked(image, "image")
    if data.ndim != 2:
        raise ValueError(f"image: got {data.ndim} axes (shape {data.shape}), expected two axes (y, x)")
    if min(data.shape) < 8:
        raise ValueError(f"image: got shape {data.shape}, expected at least 8 pixels along each axis")
    sizes = _validate.voxel_size(voxel_size, "voxel_size", 2)
    _validate.choice(model, "model", ("gaussian", "line"))
    isotropic = _validate.flag(isotropic, "isotropic")
    _validate.flag(return_info, "return_info")
    if isotropic and model == "line":
        raise ValueError("isotropic: got True with model='line', expected model='gaussian'")
    across = _direction(data, sizes)
    turned, turned_sizes = (data, sizes) if across == 1 else (data.T, sizes[::-1])
    fit, error, residual = _fitted(turned, turned_sizes)
    bend = _bend(turned, turned_sizes, fit)
    if bend > 0.1 * max(fit.sigma / SIGMA_PER_FWHM, turned_sizes[1]):
        warnings.warn(
            f"image: the edge bends by {bend:.2g}, which widens the PSF; expected a straight one, cut the "
            "image shorter along it",
            stacklevel=2,
        )
    width = _footprint(turned_sizes, fit.slope)
    sharp = fit.sigma < 0.02 * width  # the fit cannot tell it from none
    fwhm = 0.0 if sharp else fit.sigma / SIGMA_PER_FWHM
    pixel = turned_sizes[1]
    d = _distances(turned.shape, turned_sizes, fit.offset, fit.slope)
    values = (turned - fit.low) / (fit.high - fit.low)  # rises whichever side is bright
    if model == "line":
        psf = _line(d, values, pixel, max(fwhm, pixel))
    else:
        psf = gaussian(fwhm, sizes) if isotropic else gaussian(fwhm, (pixel,))
    if not return_info:
        return psf
    reach = min(4 * max(fwhm, pixel), float(np.abs(d).max()))
    steps = np.arange(-math.floor(4 * reach / pixel), math.floor(4 * reach / pixel) + 1) * (pixel / 4)
    curve, slope = _local(d, values, steps, pixel, fwhm)
    info = EdgeInfo(
        fwhm,
        math.nan if sharp else error / SIGMA_PER_FWHM,
        math.degrees(math.atan(fit.slope)),
        across,
        min(fit.low, fit.high),
        max(fit.low, fit.high),
        residual / abs(fit.high - fit.low),
        steps,
        curve,
        slope,
    )
    return psf, info


def _direction(data: np.ndarray, sizes: tuple[float, ...]) -> int:
    """The axis along which the edge is crossed: that of the larger gradient."""
    smooth = data
    for axis in (0, 1):  # means of five: the noise's own gradients are the same along both axes
        smooth = np.lib.stride_tricks.sliding_window_view(smooth, 5, axis=axis).mean(axis=-1)
    steps = [np.diff(smooth, axis=axis) / size for axis, size in zip((0, 1), sizes, strict=True)]
    largest = max(float(np.abs(step).max()) for step in steps)
    if largest == 0:
        raise ValueError("image: all values are equal, expected an edge")
    energy = [float(np.mean((step / largest) ** 2)) for step in steps]
    return int(energy[1] >= energy[0])


def _first_guess(data: np.ndarray, sizes: tuple[float, ...]) -> _Fit:
    """By area: of a row from low to high, the bright part tells where its edge is, however blurred."""
    rows, columns = data.shape
    side = max(2, columns // 10)
    left, right = data[:, :side], data[:, -side:]
    low, high = float(np.median(left)), float(np.median(right))
    noise = 1.4826 * float(
        np.median(np.abs(np.diff(np.concatenate([left, right], axis=1), axis=0))) / math.sqrt(2)
    )
    if abs(high - low) <= 3 * noise / math.sqrt(rows):
        raise ValueError(
            f"image: the levels beside the edge are {low:g} and {high:g} with noise of {noise:.2g}, "
            "expected an edge that stands out and crosses the image"
        )
    filled = ((high - data) / (high - low)).sum(axis=1)  # pixels before the edge, per row
    place = (filled - columns / 2) * sizes[1]
    y = (np.arange(rows) - (rows - 1) / 2) * sizes[0]
    good = (filled > 0.02 * columns) & (filled < 0.98 * columns)
    for _ in range(8):  # rows with dirt in them pull: leave out what is far from the line
        if np.count_nonzero(good) < max(4, rows // 3):
            raise ValueError(
                "image: no straight edge found that crosses it from side to side, expected one; cut the "
                "image so that the edge leaves it on two opposite sides, with an even region on both others"
            )
        slope, offset = np.polyfit(y[good], place[good], 1)
        apart = np.abs(place - offset - slope * y)
        limit = max(3 * 1.4826 * float(np.median(apart[good])), 0.5 * sizes[1])
        good = apart <= limit
    # Second moment of the mean derivative around the line, roughly.
    d = _distances(data.shape, sizes, float(offset), float(slope))
    inside = np.abs(d) < columns * sizes[1] / 4
    values = (data - low) / (high - low) - (d > 0)
    # The integral of the difference from a step is sigma times 2 / sqrt(2 pi).
    area = float(np.mean(np.where(inside, values * -np.sign(d), 0)) * columns * sizes[1])
    sigma = max(area * math.sqrt(2 * math.pi) / 2, 0.3 * sizes[1])
    return _Fit(float(offset), float(slope), sigma, low, high)


def _fitted(data: np.ndarray, sizes: tuple[float, ...]) -> tuple[_Fit, float, float]:
    """The fit to all pixels near the edge, the standard deviation of sigma, the rms residual."""
    fit = _first_guess(data, sizes)
    error = residual = 0.0
    for _ in range(4):
        # Far from the edge shading and other objects count, and nothing about the width.
        reach = max(5 * fit.sigma, 5 * sizes[1])
        near = np.abs(_distances(data.shape, sizes, fit.offset, fit.slope)) <= reach
        if np.count_nonzero(near) < 20:
            raise ValueError("image: the fit of the edge left the image, expected one straight edge inside")
        previous = fit.sigma
        fit, error, residual = _least_squares(data, sizes, near, fit)
        if abs(fit.sigma - previous) < 1e-3 * previous:
            break
    extent = data.shape[1] * sizes[1]
    if (
        fit.sigma > extent / 4
        or abs(fit.offset) > extent / 2
        or abs(fit.high - fit.low) < 2 * residual / math.sqrt(data.shape[0])
    ):
        raise ValueError(
            f"image: the best edge has a full width of {fit.sigma / SIGMA_PER_FWHM:.3g} in a field of "
            f"{extent:.3g}, levels {fit.low:.4g} and {fit.high:.4g} and a residual of {residual:.2g}; "
            "expected one clear edge with an even region on both sides"
        )
    return fit, error, residual


def _bend(data: np.ndarray, sizes: tuple[float, ...], fit: _Fit) -> float:
    """How far the middle of the edge lies off the line through its ends; 0 where noise explains it."""
    width = _footprint(sizes, fit.slope)
    sigma = max(fit.sigma, 0.3 * width)  # an infinitely sharp one has no slope to measure a shift by
    h = 0.05 * sigma
    d = _distances(data.shape, sizes, fit.offset, fit.slope)
    near = np.abs(d) <= 8 * sigma + width  # beyond, the slope is nothing but rounding
    row, d, data = np.nonzero(near)[0], d[near], data[near]
    slope = (_edge_model(d + h, sigma, width) - _edge_model(d - h, sigma, width)) / (2 * h)
    left = (data - fit.low) / (fit.high - fit.low) - _edge_model(d, sigma, width)
    weight = np.bincount(row, slope**2, len(near))
    rows = weight > 0.1 * weight.max()
    if np.count_nonzero(rows) < 6:
        return 0.0
    shift = np.bincount(row, left * slope, len(near))[rows] / weight[rows]
    y = np.linspace(-1, 1, len(near))[rows]
    terms, covariance = np.polyfit(y, shift, 2, cov=True)
    return abs(float(terms[0])) if abs(terms[0]) > 4 * math.sqrt(covariance[0, 0]) else 0.0


def _least_squares(
    data: np.ndarray, sizes: tuple[float, ...], near: np.ndarray, start: _Fit
) -> tuple[_Fit, float, float]:
    """Levenberg-Marquardt over the line, log sigma and the two levels.

    The levels are fitted as shares of the contrast: beside values far from 1 the others would not count.
    """
    contrast = start.high - start.low
    wanted = (data[near] - start.low) / contrast
    y, x = (np.broadcast_to(place, data.shape)[near] for place in _places(data.shape, sizes))
    parameters = np.array([start.offset, start.slope, math.log(start.sigma), 0.0, 1.0])
    scale = np.array([sizes[1] * 1e-4, 1e-5, 1e-4])

    def shape_of(p: np.ndarray) -> np.ndarray:
        d = _from_line(y, x, p[0], p[1])
        # Far below the pixel nothing changes any more but rounding.
        return _edge_model(d, max(math.exp(p[2]), 1e-3 * sizes[1]), _footprint(sizes, p[1]))

    def levels(p: np.ndarray) -> np.ndarray:
        return p[3] + (p[4] - p[3]) * shape_of(p)

    damping = 1e-3
    current = wanted - levels(parameters)
    cost = float(current @ current)
    normal = np.eye(5)
    for _ in range(_ROUNDS):
        base = shape_of(parameters)
        columns = []
        for i, h in enumerate(scale):
            step = np.zeros(5)
            step[i] = h
            columns.append(
                (parameters[4] - parameters[3])
                * (shape_of(parameters + step) - shape_of(parameters - step))
                / (2 * h)
            )
        jacobian = np.stack([*columns, 1 - base, base], axis=1)
        normal = jacobian.T @ jacobian
        gradient = jacobian.T @ current
        improved = False
        while damping < 1e8:
            damped = normal + damping * np.diag(np.maximum(np.diag(normal), 1e-12 * normal.max()))
            move = np.linalg.solve(damped, gradient)
            move[2] = min(max(float(move[2]), -1.0), 1.0)
            trial = parameters + move
            left = wanted - levels(trial)
            trial_cost = float(left @ left)
            if trial_cost < cost:
                improved = True
                break
            damping *= 10
        if not improved:
            break
        gain = (cost - trial_cost) / cost
        parameters, current, cost, damping = trial, left, trial_cost, max(damping / 10, 1e-12)
        if gain < 1e-12 or parameters[2] < math.log(1e-3 * sizes[1]):
            break
    freedom = max(len(wanted) - 5, 1)
    sigma = math.exp(float(parameters[2]))
    try:
        variance = float(np.linalg.inv(normal)[2, 2]) * cost / freedom
    except np.linalg.LinAlgError:
        variance = math.nan
    error = sigma * math.sqrt(variance) if variance >= 0 else math.nan
    low, high = (start.low + contrast * float(share) for share in parameters[3:])
    fit = _Fit(float(parameters[0]), float(parameters[1]), sigma, low, high)
    return fit, error, abs(contrast) * math.sqrt(cost / freedom)


def _local(
    d: np.ndarray, values: np.ndarray, places: np.ndarray, pixel: float, fwhm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Value and slope of a local cubic at each place."""
    order = np.argsort(d, axis=None)
    d, values = d.ravel()[order], values.ravel()[order]
    curve, slope = np.empty(len(places)), np.empty(len(places))
    for i, place in enumerate(places):
        # Wide enough for a cubic: an edge along the pixels has samples at whole pixels only. A wide edge
        # bears a wide window: over 0.4 widths a cubic follows a Gaussian to half a per cent.
        for reach in (max(0.75, 0.4 * fwhm / pixel), 1.1, 1.6, 2.1):
            first, last = np.searchsorted(d, [place - reach * pixel, place + reach * pixel])
            t = (d[first:last] - place) / pixel
            distinct = len(np.unique(np.round(t * 20)))
            if distinct >= 8 or (reach > 1.5 and distinct >= 3):
                break
        if last - first < 2:
            curve[i], slope[i] = (np.interp(place, d, values), 0.0)
            continue
        terms = np.polynomial.polynomial.polyfit(t, values[first:last], min(3, distinct - 1))
        curve[i] = terms[0]
        slope[i] = terms[1] / pixel if len(terms) > 1 else 0.0
    return curve, slope


def _line(d: np.ndarray, values: np.ndarray, pixel: float, fwhm: float) -> np.ndarray:
    """Line spread function at whole pixels, out to three widths or where the image ends."""
    available = min(float(d.max()), float(-d.min())) / pixel - 1
    half = max(1, min(math.ceil(3 * fwhm / pixel), math.floor(available)))
    _, slope = _local(d, values, np.arange(-half, half + 1) * pixel, pixel, fwhm)
    line = np.maximum(slope, 0)
    return line / line.sum()
