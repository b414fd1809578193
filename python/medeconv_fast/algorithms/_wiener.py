"""Wiener-Hunt deconvolution: one sweep with the filter as its transfer function."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from .. import _arrays, _validate, backends
from .._blur import check_engine, choose_grid
from .._taps import wrapped_taps
from .._threads import resolve_num_threads
from . import _options

BOUNDARIES = ("reflect", "nearest", "mirror", "wrap", "zero")
REGULARIZERS = ("laplacian", "identity")
# Spare length in units of the PSF's reach. Measured on photographs: at 1 the far side's edge still rings into
# the image where the noise is low; beyond 1.5 nothing changes.
REACH = 1.5
# Generalised cross-validation: exponents of ten of the balance that are searched, and how finely.
SEARCH = np.arange(-12.0, 6.01, 0.5)
SEARCH_TOLERANCE = 0.01


def wiener(
    image: Any,
    psf: Any,
    balance: Any = "auto",
    *,
    regularizer: Any = "laplacian",
    boundary: str = "reflect",
    normalize_psf: bool = True,
    voxel_size: Any = None,
    psf_voxel_size: Any = None,
    return_info: bool = False,
    backend: str = "auto",
    engine: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Restore an image blurred by a known PSF with the Wiener-Hunt filter.

    In frequency space the estimate is ``conj(H) Y / (|H|^2 + balance |R|^2)``, with H the PSF's transfer
    function, R the regularizer's and Y the image's transform.

    Parameters
    ----------
    image : array_like
        Measured image with 1 to 3 axes in the order (z, y, x); negative values are welcome.
    psf : array_like
        Point spread function with as many axes, its centre at ``shape // 2``.
    balance : float or "auto"
        Weight of the regularizer, at least 0, with scikit-image's meaning. "auto": the minimiser of
        generalised cross-validation.
    regularizer : {"laplacian", "identity"} or array_like
        What is penalised: the Laplacian (2 ndim at the centre, -1 at the neighbours), the image itself, or
        the response to an impulse response given as an array with its centre at ``shape // 2``.
    boundary : {"reflect", "nearest", "mirror", "wrap", "zero"}
        The image is continued by this rule beyond the PSF's reach, to a cheap transform size, filtered
        periodically, and cropped. "wrap": no padding.
    normalize_psf : bool
        Divide the PSF by its sum.
    voxel_size, psf_voxel_size : float or sequence of float, optional
        As in `richardson_lucy`.
    return_info : bool
        Return ``(estimate, info)``; ``info["settings"]["balance"]`` is the balance used.
    backend : {"auto", "cpp", "numba", "reference"}
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
        As `richardson_lucy`; a regularizer that is zero; boundary="extended", which has no closed form.
    NotImplementedError
        Options that are not built yet.

    Notes
    -----
    "auto" minimises ``N sum(g^2 |Y|^2) / sum(g)^2`` with ``g = balance |R|^2 / (|H|^2 + balance |R|^2)`` over
    the balance, on a grid of powers of ten and then by golden-section search; the sums run over all N
    frequencies, and Y is the transform of the image less its mean under a Hann window. Without the window the
    jump between opposite edges, which no blur explains, passes for image detail, and the balance comes out
    orders of magnitude too small. White noise is assumed. Frequencies where filter and regularizer both
    vanish are set to zero.

    References
    ----------
    B. R. Hunt, IEEE Trans. Comput. C-22, 805 (1973). Generalised cross-validation: G. H. Golub, M. Heath and
    G. Wahba, Technometrics 21, 215 (1979).
    """
    started = time.perf_counter()
    if not isinstance(balance, str):
        balance = _validate.number(balance, "balance", minimum=0)
    elif balance != "auto":
        raise ValueError(f"balance: got {balance!r}, expected 'auto' or a number of at least 0")
    if isinstance(boundary, str) and boundary == "extended":
        raise ValueError(
            "boundary: got 'extended', which the Wiener filter cannot have (its estimate is not periodic); "
            f"expected one of {', '.join(map(repr, BOUNDARIES))}"
        )
    boundary = _validate.choice(boundary, "boundary", BOUNDARIES)
    if check_engine(engine)[0] in ("separable", "direct"):
        raise ValueError(
            f"engine: got {engine!r}, but a Wiener filter needs transforms; expected 'spectral' or 'auto'"
        )
    normalize_psf = _validate.flag(normalize_psf, "normalize_psf")
    return_info = _validate.flag(return_info, "return_info")
    kernels = backends.resolve(backend)
    threads = resolve_num_threads(num_threads)

    data, restore, (lowest, highest) = _arrays.as_image(image)
    _validate.scale(max(-lowest, highest), "image", data.dtype)
    psf, psf_settings = _options.psf_on_grid(psf, data.ndim, voxel_size, psf_voxel_size)
    response, psf_sum = _arrays.as_psf(psf, data.ndim, normalize=normalize_psf, dtype=data.dtype)
    penalty = _impulse_response(regularizer, data.ndim, data.dtype)

    grid, low = _padding(data.shape, response.shape, boundary, kernels)
    high = tuple(g - n - a for g, n, a in zip(grid, data.shape, low, strict=True))
    window = tuple((a, a + n) for a, n in zip(low, data.shape, strict=True))
    whole = tuple((0, g) for g in grid)
    continued = boundary in ("reflect", "nearest", "mirror")
    filled = whole if continued else window
    # One plan for both directions: what is filtered is the padded image, what is wanted is the window.
    plan = kernels.SpectralPlan(grid, filled, window, data.dtype)
    otf = _transfer(plan, response, num_threads)
    penalty_transfer = _transfer(plan, penalty, num_threads)
    padded = kernels.pad(data, low, high, boundary, num_threads=num_threads) if continued else data

    warnings: list[str] = []
    score: float | None = None
    searched = isinstance(balance, str)
    if searched:
        exponent, score, at_end = _search(plan, data, otf, penalty_transfer, num_threads)
        balance = 10.0**exponent
        if at_end and lowest != highest:
            warnings.append(
                "balance: generalised cross-validation has its minimum at the end of the searched range, "
                f"{balance:g}; the noise is not white, or there is none: choose the balance by eye"
            )
    transfer = plan.wiener_transfer(otf, penalty_transfer, balance)
    working = plan.workspace_bytes * 2 + (padded.nbytes if continued else 0)
    del otf, penalty_transfer
    result = np.empty(data.shape, data.dtype)
    chain = plan.chain(num_threads)
    chain.load(padded)
    chain.sweep(transfer, "copy", keep=False, out=result)

    if not return_info:
        return restore(result)
    seconds = time.perf_counter() - started
    info = _options.Info(
        num_iter=1,
        stopped_by="closed form",
        trace=[{"iteration": 1, "seconds": seconds}],
        settings={
            "method": "wiener",
            "balance": balance,
            "balance_searched": searched,
            "gcv_score": score,
            "regularizer": regularizer if isinstance(regularizer, str) else "array",
            "boundary": boundary,
            "normalize_psf": normalize_psf,
            "psf_sum": psf_sum,
            "psf_shape": response.shape,
            **psf_settings,
            "shape": data.shape,
            "grid": grid,
            "dtype": str(data.dtype),
            "num_threads": threads,
        },
        engine="spectral",
        backend=kernels.NAME,
        bytes=int(working),
        seconds=seconds,
        warnings=warnings,
    )
    return restore(result), info


def _impulse_response(regularizer: Any, ndim: int, dtype: Any) -> np.ndarray:
    if isinstance(regularizer, str):
        _validate.choice(regularizer, "regularizer", REGULARIZERS)
        if regularizer == "identity":
            return np.ones((1,) * ndim, dtype)
        laplacian = np.zeros((3,) * ndim, dtype)
        for axis in range(ndim):
            line = tuple(slice(None) if a == axis else 1 for a in range(ndim))
            laplacian[line] += np.array([-1, 2, -1], dtype)
        return laplacian
    if regularizer is None:
        raise TypeError(
            "regularizer: got None, expected 'laplacian', 'identity' or an array; without one: balance=0"
        )
    array, _ = _arrays.to_numpy(regularizer, "regularizer")
    _validate.rank(array, "regularizer", ndim=ndim)
    values = _arrays.computable(array, dtype)
    lowest, highest = _validate.finite(values, "regularizer")
    if lowest == highest == 0:
        raise ValueError(
            "regularizer: all values are zero, expected an impulse response; without one: balance=0"
        )
    return values


def _padding(
    shape: tuple[int, ...], psf_shape: tuple[int, ...], boundary: str, kernels: ModuleType
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The transform's size and the padding before each axis."""
    if boundary == "wrap":
        if any(k > n for n, k in zip(shape, psf_shape, strict=True)):
            raise ValueError(
                f"psf: got shape {psf_shape}, expected at most the image's {shape} on every axis under "
                "boundary='wrap'; crop it, or choose another boundary"
            )
        return shape, (0,) * len(shape)
    spare = (math.ceil(REACH * (k - 1)) for k in psf_shape)
    grid = choose_grid(tuple(n + extra for n, extra in zip(shape, spare, strict=True)), kernels)
    # The two ends meet on the periodic grid: both are equally far from the image.
    return grid, tuple((g - n) // 2 for g, n in zip(grid, shape, strict=True))


def _windowed(data: np.ndarray) -> np.ndarray:
    """The image less its weighted mean, under a Hann window along every axis."""
    windows = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in data.shape]
    mean = data
    for window in reversed(windows):  # einsum widens block by block: no float64 copy of the volume
        mean = np.einsum("...i,i->...", mean, window / window.sum(), dtype=np.float64)
    result = data - data.dtype.type(mean)
    for axis, window in enumerate(windows):
        result *= window.astype(data.dtype).reshape([-1 if a == axis else 1 for a in range(data.ndim)])
    return result


def _transfer(plan: Any, response: np.ndarray, num_threads: int | None) -> Any:
    taps, centre = wrapped_taps(response, tuple(k // 2 for k in response.shape), plan.grid)
    return plan.transfer(np.ascontiguousarray(taps), centre, num_threads)


def _search(
    plan: Any, data: np.ndarray, otf: Any, penalty: Any, num_threads: int | None
) -> tuple[float, float, bool]:
    """Exponent of the balance with the smallest score of generalised cross-validation; see `_minimise`."""
    windowed = _windowed(data)
    total = math.prod(plan.grid)

    def scores(exponents: np.ndarray) -> np.ndarray:
        top, bottom = plan.gcv(windowed, otf, penalty, 10.0**exponents, num_threads)
        values = np.full(len(exponents), np.inf)
        np.divide(total * top, bottom**2, out=values, where=bottom > 0)
        return values

    return _minimise(scores)


def _minimise(scores: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float, bool]:
    """Exponent with the smallest score, that score, and whether it lies at the end of the searched range."""
    coarse = scores(SEARCH)
    best = int(np.argmin(coarse))
    if best in (0, len(SEARCH) - 1):
        return float(SEARCH[best]), float(coarse[best]), True
    low, high = float(SEARCH[best - 1]), float(SEARCH[best + 1])
    # Golden section: each step asks for one new score and shrinks the bracket by 0.618.
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = scores(np.array([left, right]))
    while high - low > SEARCH_TOLERANCE:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = scores(np.array([left]))[0]
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = scores(np.array([right]))[0]
    return (left, float(at_left), False) if at_left <= at_right else (right, float(at_right), False)
