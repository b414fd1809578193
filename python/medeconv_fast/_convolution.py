"""Plain convolution and correlation with scipy.signal's meaning, on every engine."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from . import _arrays, _device, _validate, backends
from ._blur import (
    Geometry,
    Operator,
    choose_engine,
    choose_grid,
    geometry,
)
from ._taps import taps_of, wrapped_taps
from ._threads import resolve_num_threads

MODES = ("full", "same", "valid")
BOUNDARIES = ("zero", "reflect", "nearest", "mirror", "wrap")
METHODS = {"auto": "auto", "direct": "direct", "separable": "separable", "fft": "spectral"}  # name -> engine
# Up to so many taps (3 cubed) "auto" sums: small integers stay exact, and no engine is much faster.
EXACT_TAPS = 27


def convolve(
    a: Any,
    b: Any,
    mode: str = "full",
    boundary: str = "zero",
    method: str = "auto",
    *,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Convolve two arrays of one to three axes.

    Parameters
    ----------
    a, b : array_like
        Real arrays of equal rank. The result's kind and dtype follow `a`: float64, 32- and 64-bit integers
        give float64, everything else float32 (scipy.signal would give integers for integers).
    mode : {"full", "same", "valid"}
        Extent of the result, as in scipy.signal: all overlaps (n + k - 1); `a`'s shape, the central part of
        "full"; only complete overlaps (n - k + 1, where one array is at least as large as the other on every
        axis).
    boundary : {"zero", "reflect", "nearest", "mirror", "wrap"}
        What lies outside `a`; other than "zero" for mode="same" only. As in scipy.ndimage: "reflect" repeats
        the edge voxel, "mirror" does not. `b` may be larger than `a`.
    method : {"auto", "direct", "separable", "fft"}
        "direct" sums over the taps of `b`; "separable" filters axis by axis and needs a `b` that is a product
        of one filter per axis; "fft" goes through transforms; "auto" takes what is predicted to be faster.
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
    num_threads : int, optional

    Returns
    -------
    array of the kind of `a`

    Raises
    ------
    ValueError, TypeError
        NaN or Inf, empty arrays, ranks that differ or exceed 3, unknown options, a boundary that the mode has
        no use for.

    Notes
    -----
    An even-sized `b` has its centre at ``(k - 1) // 2`` under mode="same", as in scipy.signal. `Blur` and
    scipy.ndimage centre at ``k // 2``: their result at index i is this one's at i + 1 on such an axis.
    """
    return _run(a, b, mode, boundary, method, backend, num_threads, reverse=False)


def correlate(
    a: Any,
    b: Any,
    mode: str = "full",
    boundary: str = "zero",
    method: str = "auto",
    *,
    backend: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Correlate two arrays: convolve `a` with `b` reversed on every axis, as scipy.signal.correlate does.

    Parameters
    ----------
    a, b, mode, boundary, method, backend, num_threads
        As in `convolve`.

    Returns
    -------
    array of the kind of `a`

    Raises
    ------
    ValueError, TypeError
        As `convolve`.
    """
    return _run(a, b, mode, boundary, method, backend, num_threads, reverse=True)


def _run(
    a: Any,
    b: Any,
    mode: str,
    boundary: str,
    method: str,
    backend: str,
    num_threads: int | None,
    *,
    reverse: bool,
) -> Any:
    mode = _validate.choice(mode, "mode", MODES)
    boundary = _validate.choice(boundary, "boundary", BOUNDARIES)
    kind = METHODS[_validate.choice(method, "method", tuple(METHODS))]
    if boundary != "zero" and mode != "same":
        raise ValueError(f"boundary: got {boundary!r} with mode={mode!r}, expected 'zero', or mode='same'")
    engine = backends.resolve(backend, a)
    resolve_num_threads(num_threads)
    image, restore, _ = _arrays.as_image(a, "a", resident=True)
    kernel, _ = _arrays.to_numpy(b, "b")
    _validate.rank(kernel, "b", ndim=image.ndim, like="array a")
    kernel = _arrays.computable(kernel, image.dtype)
    _validate.finite(kernel, "b")
    if reverse:
        kernel = np.ascontiguousarray(np.flip(kernel))
    work = _same if mode == "same" else _full if mode == "full" else _valid
    kernel, layout, image = work(image, kernel, boundary, engine)
    taps = taps_of(kernel[layout.taps])
    if kind == "separable" and not taps.terms:
        raise ValueError("method: got 'separable', but b is not a product of one filter per axis")
    if kind == "auto" and math.prod(taps.shape) <= EXACT_TAPS:
        kind = "direct"
    kind, _ = choose_engine(kind, taps, layout)
    return restore(Operator(kernel, layout, boundary, engine, num_threads, kind).apply(image))


# What convolves and how it lies, and the array to apply it to.
Work = tuple[np.ndarray, Geometry, np.ndarray]


def window_of_full(
    shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    starts: tuple[int, ...],
    lengths: tuple[int, ...],
    engine: ModuleType,
) -> Geometry:
    """Full convolution restricted to a window, in a grid that leaves the window unaliased."""
    window = tuple((a, a + length) for a, length in zip(starts, lengths, strict=True))
    # What lies beyond the grid comes back at its beginning, which must be before the window.
    least = (
        max(n + k - 1 - start, stop, n)
        for n, k, (start, stop) in zip(shape, kernel_shape, window, strict=True)
    )
    nothing = (0,) * len(shape)
    return Geometry(
        shape=lengths,
        estimate_shape=shape,
        taps=tuple(slice(0, k) for k in kernel_shape),
        centre=nothing,
        low=nothing,
        high=nothing,
        grid=choose_grid(tuple(least), engine),
        estimate_box=tuple((0, n) for n in shape),
        image_box=window,
        frame=tuple(slice(0, n) for n in shape),
    )


def _full(image: np.ndarray, kernel: np.ndarray, boundary: str, engine: ModuleType) -> Work:
    lengths = tuple(n + k - 1 for n, k in zip(image.shape, kernel.shape, strict=True))
    return kernel, window_of_full(image.shape, kernel.shape, (0,) * image.ndim, lengths, engine), image


def _valid(image: np.ndarray, kernel: np.ndarray, boundary: str, engine: ModuleType) -> Work:
    if all(n <= k for n, k in zip(image.shape, kernel.shape, strict=True)):
        image, kernel = _device.beside(image, kernel), _device.host(image)
    if not all(n >= k for n, k in zip(image.shape, kernel.shape, strict=True)):
        raise ValueError(
            f"mode: 'valid' got shapes {image.shape} and {kernel.shape}, expected one array to be at least "
            "as large as the other on every axis"
        )
    starts = tuple(k - 1 for k in kernel.shape)
    lengths = tuple(n - start for n, start in zip(image.shape, starts, strict=True))
    return kernel, window_of_full(image.shape, kernel.shape, starts, lengths, engine), image


def _same(image: np.ndarray, kernel: np.ndarray, boundary: str, engine: ModuleType) -> Work:
    centre = tuple((k - 1) // 2 for k in kernel.shape)
    if boundary == "wrap":
        kernel, centre = wrapped_taps(kernel, centre, image.shape)
    return kernel, geometry(kernel.shape, image.shape, boundary, engine, centre), image
