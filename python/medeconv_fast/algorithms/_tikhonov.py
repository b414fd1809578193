"""Tikhonov regularisation: the Wiener filter's arithmetic with derivatives of order 0, 1 or 2 and a prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _arrays, _device, _validate
from .._blur import Blur
from . import _filters
from ._wiener import weighted_transfer


def tikhonov(
    image: Any,
    psf: Any,
    weight: Any = "auto",
    *,
    regularizer: Any = 0,
    prior: Any = 0.0,
    boundary: str = "reflect",
    normalize_psf: bool = True,
    voxel_size: Any = None,
    psf_voxel_size: Any = None,
    return_info: bool = False,
    backend: str = "auto",
    engine: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Restore an image blurred by a known PSF by Tikhonov-regularised least squares.

    The estimate is the minimiser of

        |H estimate - image|^2 + weight * |R (estimate - prior)|^2

    in closed form: in frequency space ``P + conj(H) (Y - H P) / (|H|^2 + weight |R|^2)``, with P the prior's
    transform.

    Parameters
    ----------
    image : array_like
        Measured image with 1 to 3 axes in the order (z, y, x); negative values are welcome.
    psf : array_like
        Point spread function with as many axes, its centre at ``shape // 2``.
    weight : float or "auto"
        At least 0. "auto": the minimiser of generalised cross-validation, as in `wiener`.
    regularizer : {0, 1, 2} or array_like
        Order of the derivative that is penalised: 0, the deviation from the prior itself (R = 1; draws the
        mean of the image, too, towards the prior); 1, its gradient (``|R|^2 = sum over axes of (4 s^2
        sin(w / 2)^2)``); 2, its Laplacian (the square of that). s is the smallest voxel length over the
        axis's where `voxel_size` is given, else 1. An array is an impulse response with its centre at
        ``shape // 2``.
    prior : float or array_like
        What the estimate is drawn towards: a constant, or an array of the image's shape such as the frame
        before, or a scan of another kind. Of no effect beyond its derivatives under orders 1 and 2.
    boundary : {"reflect", "nearest", "mirror", "wrap", "zero"}
        As in `wiener`; the difference between image and blurred prior is continued like the image.
    normalize_psf : bool
        Divide the PSF by its sum.
    voxel_size, psf_voxel_size : float or sequence of float, optional
        As in `richardson_lucy`; the voxel size also weighs the axes' derivatives.
    return_info : bool
        Return ``(estimate, info)``; ``info["settings"]["weight"]`` is the weight used.
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
        As `wiener`; an order other than 0, 1, 2; a prior of another shape, or beyond the dtype's range.

    Warns
    -----
    UserWarning
        "auto" found a weight that amplifies noise beyond the image; as `wiener`.

    Notes
    -----
    With backend="cuda" what the GPU's memory does not hold is filtered in tiles, as by `wiener`.

    With order 2 and equal voxels this is `wiener`, with order 0 `wiener` with regularizer="identity". There
    the weight stands for the ratio of noise to signal, here for a constraint: more of it, smoother or closer
    to the prior. Non-negativity has no closed form; see `landweber`.

    References
    ----------
    A. N. Tikhonov, Soviet Math. Dokl. 4, 1035 (1963). D. L. Phillips, J. ACM 9, 84 (1962). Prior: P. C.
    Hansen, Discrete Inverse Problems (2010), section 8.1.

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> image = np.random.default_rng(0).random((24, 32))
    >>> mf.tikhonov(image, np.ones((3, 3)), 0.1, regularizer=1).shape
    (24, 32)
    """
    if not isinstance(weight, str):
        weight = _validate.number(weight, "weight", minimum=0)
    elif weight != "auto":
        raise ValueError(f"weight: got {weight!r}, expected 'auto' or a number of at least 0")
    call = _filters.FilterCall(
        "tikhonov",
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
    if call.is_cut:
        from . import _in_tiles  # which stands on this module

        options = {"weight": weight, "regularizer": regularizer, "prior": prior}
        return _in_tiles.filtered(
            call, options, "an array as prior" if _validate.axes(prior, "prior") else None
        )
    ndim, dtype = call.data.ndim, call.data.dtype
    centre: tuple[int, ...] | None = None
    if _validate.axes(regularizer, "regularizer") == 0:
        order = _validate.integer(regularizer, "regularizer", minimum=0, maximum=2)
        if order == 1:
            penalty, centre = _gradient(call.grid, call.steepness).astype(dtype), (0,) * ndim
        else:
            penalty = _filters.laplacian(call.steepness, dtype) if order else _filters.identity(ndim, dtype)
    else:
        penalty = _filters.given_response(regularizer, ndim, dtype, without="weight=0")
    expected = _prior(prior, call.data)
    data = call.data
    if expected is not None:
        # The filter works on what the prior does not explain.
        blur = Blur(
            call.psf, data.shape, boundary=call.boundary, backend=call.kernels.NAME, dtype=dtype,
            normalize_psf=False, num_threads=num_threads,
        )  # fmt: skip
        data = np.empty_like(call.data)
        blur.begin(expected).sweep("residual", keep=False, out=data, image=call.data)
    settings: dict[str, Any] = {
        "regularizer": int(regularizer) if np.ndim(regularizer) == 0 else "array",
        "prior": prior if np.ndim(prior) == 0 else "array",
    }
    transfer = weighted_transfer(call, penalty, weight, "weight", settings, centre=centre, data=data)
    result = call.apply(transfer, data)
    if expected is not None:
        result += expected
    return call.finish(result, settings, extra_bytes=0 if expected is None else 2 * result.nbytes)


def _prior(value: Any, data: Any) -> Any:
    """An array of the image's shape, on its side; None where it is zero."""
    if _validate.axes(value, "prior") == 0:
        level = _validate.fits(_validate.number(value, "prior"), "prior", data.dtype)
        return _device.full_beside(data, data.shape, level) if level else None
    array, extremes = _arrays.as_operand(value, "prior", data.shape, data.dtype, beside=data)
    _validate.fits(max(extremes, key=abs), "prior", data.dtype)
    return array


def _gradient(grid: tuple[int, ...], steepness: Sequence[float]) -> np.ndarray:
    """Impulse response, its centre at index 0, of the length of the gradient: |R|^2 = sum of |D_axis|^2.

    It has no finite extent. R is even along every axis: one octant says all.
    """
    square: Any = 0.0
    for axis, (n, factor) in enumerate(zip(grid, steepness, strict=True)):
        line = (2 * factor * np.sin(np.pi * np.arange(n // 2 + 1) / n)) ** 2
        square = square + line.reshape([-1 if a == axis else 1 for a in range(len(grid))])
    response = np.sqrt(square)
    for axis, n in enumerate(grid):
        response = np.fft.irfft(response, n, axis).take(np.arange(n // 2 + 1), axis)
    for axis, n in enumerate(grid):
        at = np.arange(n)
        response = response.take(np.minimum(at, n - at), axis)
    return response
