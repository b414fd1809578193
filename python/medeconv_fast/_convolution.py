"""Plain convolution and correlation with scipy.signal's meaning, on every engine."""

from __future__ import annotations

import itertools
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
from .backends import reference

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
    same_kernel = kernel  # before taps that no voxel reaches, or that meet on a periodic axis, are dropped
    work = _same if mode == "same" else _full if mode == "full" else _valid
    kernel, layout, image = work(image, kernel, boundary, engine)
    taps = taps_of(kernel[layout.taps])
    if kind == "separable" and not taps.terms:
        raise ValueError("method: got 'separable', but b is not a product of one filter per axis")
    if kind == "auto" and math.prod(taps.shape) <= EXACT_TAPS:
        kind = "direct"
    kind, _ = choose_engine(kind, taps, layout)
    operator = Operator(kernel, layout, boundary, engine, num_threads, kind)
    if engine.NAME == "cuda" and isinstance(image, np.ndarray):
        arrays = math.prod(layout.shape) + image.size
        needed = _work_bytes(operator) + arrays * image.itemsize
        if needed > _device.free_memory()[0]:
            whole = same_kernel if mode == "same" else kernel
            return restore(_in_tiles(image, whole, mode, boundary, engine, num_threads, kind, needed))
    return restore(operator.apply(image))


# How far the index along an axis of the full convolution lies before that of the result.
def _lead(k: int, mode: str) -> int:
    return {"full": 0, "same": (k - 1) // 2, "valid": k - 1}[mode]


def _in_tiles(
    image: np.ndarray,
    kernel: np.ndarray,
    mode: str,
    boundary: str,
    engine: ModuleType,
    num_threads: int | None,
    kind: str,
    needed: int,
) -> np.ndarray:
    """On a GPU whose memory does not hold the whole: parts of the result, each from all that it depends on.

    They equal the whole but for rounding.
    """
    reach = tuple(k - 1 for k in kernel.shape)
    lengths = {
        "full": tuple(n + r for n, r in zip(image.shape, reach, strict=True)),
        "same": image.shape,
        "valid": tuple(n - r for n, r in zip(image.shape, reach, strict=True)),
    }[mode]
    free, total = _device.free_memory()
    core = lengths
    operator = _of_tile(core, kernel, engine, num_threads, kind)
    while _tile_bytes(core, reach, operator) > _device.USED * free:
        if max(core) == 1:
            raise _device.shortage(needed, "convolve", free, total, "which does not even hold a tile")
        longest = core.index(max(core))
        core = tuple(-(-n // 2) if axis == longest else n for axis, n in enumerate(core))
        operator = _of_tile(core, kernel, engine, num_threads, kind)
    result = np.empty(lengths, image.dtype)
    operators = {core: operator}
    starts = itertools.product(*(range(0, n, c) for n, c in zip(lengths, core, strict=True)))
    tiles = [
        tuple(slice(s, min(s + c, n)) for s, c, n in zip(start, core, lengths, strict=True))
        for start in starts
    ]

    def read(tile: tuple[slice, ...]) -> np.ndarray:
        part = image
        for axis, (span, k) in enumerate(zip(tile, kernel.shape, strict=True)):
            first = span.start + _lead(k, mode) - (k - 1)
            part = _continued(part, axis, first, span.stop + _lead(k, mode), boundary)
        return np.ascontiguousarray(part)

    def compute(part: Any, tile: tuple[slice, ...]) -> Any:
        shape = tuple(s.stop - s.start for s in tile)
        if shape not in operators:
            operators.clear()  # before the next one takes its memory
            operators[shape] = _of_tile(shape, kernel, engine, num_threads, kind)
        return operators[shape].apply(part)

    size = math.prod(c + r for c, r in zip(core, reach, strict=True))
    _device.carry(tiles, read, compute, result.__setitem__, size=size, dtype=image.dtype)
    return result


def _of_tile(
    core: tuple[int, ...], kernel: np.ndarray, engine: ModuleType, num_threads: int | None, kind: str
) -> Operator:
    starts = tuple(k - 1 for k in kernel.shape)
    shape = tuple(c + start for c, start in zip(core, starts, strict=True))
    layout = window_of_full(shape, kernel.shape, starts, core, engine)
    return Operator(kernel, layout, "zero", engine, num_threads, kind)


def _work_bytes(operator: Operator) -> int:
    # The transfer function is made, in another spectrum, when one is loaded already.
    return operator.workspace_bytes * (2 if operator.engine == "spectral" else 1)


def _tile_bytes(core: tuple[int, ...], reach: tuple[int, ...], operator: Operator) -> int:
    """With the next tile and the result before it."""
    region = math.prod(c + r for c, r in zip(core, reach, strict=True))
    return _work_bytes(operator) + 2 * (region + math.prod(core)) * operator.dtype.itemsize


def _continued(part: np.ndarray, axis: int, start: int, stop: int, boundary: str) -> np.ndarray:
    """The range along an axis, which may leave the array on either side."""
    n = part.shape[axis]
    inside = [slice(None)] * part.ndim
    inside[axis] = slice(max(start, 0), min(stop, n))
    if start >= 0 and stop <= n:
        return part[tuple(inside)]
    if boundary != "zero":
        low, high = max(0, -start), max(0, stop - n)
        return part.take(reference.sources(n, low, high, boundary)[start + low : stop + low], axis)
    made = np.zeros(tuple(stop - start if a == axis else m for a, m in enumerate(part.shape)), part.dtype)
    if inside[axis].start < inside[axis].stop:
        there = [slice(None)] * part.ndim
        there[axis] = slice(inside[axis].start - start, inside[axis].stop - start)
        made[tuple(there)] = part[tuple(inside)]
    return made


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
        on_gpu=engine.NAME == "cuda",
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
