"""What filters of one pass share: the image is continued to a periodic grid, filtered there, and cropped."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _arrays, _device, _validate, backends
from .._blur import check_engine, choose_grid
from .._taps import wrapped_taps
from .._threads import resolve_num_threads
from ..backends import reference
from . import _options

BOUNDARIES = ("reflect", "nearest", "mirror", "wrap", "zero")
REGULARIZERS = ("laplacian", "identity")
# Spare length in units of the PSF's reach. Measured on photographs: at 1 the far side's edge still rings into
# the image where the noise is low; beyond 1.5 nothing changes.
REACH = 1.5
# At least so many voxels: a regularizer couples neighbours along axes without blur, too, and the image's two
# ends must not be. What it spreads falls to a percent in fewer, unless it outweighs the image.
LEAST_SPARE = 6
# Transfer functions, spectra and the padded image of a filter of one pass, in arrays of its transform's size.
ARRAYS = 6.0
ON_GPU = 7.0  # the same there, where a transfer function is made in a spectrum of its own


class FilterCall:
    """One call's checked arguments, its grid, and the way from a transfer function to the result."""

    def __init__(
        self,
        method: str,
        image: Any,
        psf: Any,
        *,
        boundary: Any,
        normalize_psf: Any,
        voxel_size: Any,
        psf_voxel_size: Any,
        return_info: Any,
        backend: Any,
        engine: Any,
        num_threads: int | None,
    ) -> None:
        self._started = time.perf_counter()
        self.method = method
        if isinstance(boundary, str) and boundary == "extended":
            raise ValueError(
                f"boundary: got 'extended', which {method} cannot have (its estimate is periodic); "
                f"expected one of {', '.join(map(repr, BOUNDARIES))}"
            )
        self.boundary = _validate.choice(boundary, "boundary", BOUNDARIES)
        if check_engine(engine)[0] in ("separable", "direct"):
            raise ValueError(
                f"engine: got {engine!r}, but {method} needs transforms; expected 'spectral' or 'auto'"
            )
        self.normalize_psf = _validate.flag(normalize_psf, "normalize_psf")
        self._return_info = _validate.flag(return_info, "return_info")
        self.kernels = backends.resolve(backend, image)
        self.num_threads = num_threads
        self._threads = resolve_num_threads(num_threads)

        # Where it is: in GPU memory, if it is given there.
        self.data, self._restore, (self.lowest, self.highest, _) = _arrays.as_image(image, resident=True)
        self._copy: tuple[Any, np.ndarray] | None = None
        _validate.scale(max(-self.lowest, self.highest), "image", self.data.dtype, squared=True)
        psf, self._psf_settings = _options.psf_on_grid(psf, self.data.ndim, voxel_size, psf_voxel_size)
        self.psf, self.psf_sum = _arrays.as_psf(
            psf, self.data.ndim, normalize=self.normalize_psf, dtype=self.data.dtype
        )
        largest = max(-self.lowest, self.highest)
        _options.check_psf_sum(self.psf_sum, largest, self.data.dtype, squared=True)
        self.grid, self._low = _padding(self.data.shape, self.psf.shape, self.boundary)
        shape = self.data.shape
        self._high = tuple(g - n - a for g, n, a in zip(self.grid, shape, self._low, strict=True))
        window = tuple((a, a + n) for a, n in zip(self._low, shape, strict=True))
        self._continued = self.boundary in ("reflect", "nearest", "mirror")
        filled = tuple((0, g) for g in self.grid) if self._continued else window
        # One plan for both directions: what is filtered is the padded image, what is wanted is the window.
        self.plan = self.kernels.SpectralPlan(self.grid, filled, window, self.data.dtype)
        self.warnings: list[str] = []

    def on_host(self, data: Any) -> np.ndarray:
        """The values of `data` (the image, or what is filtered in its place) on the host, copied once."""
        if self._copy is None or self._copy[0] is not data:
            self._copy = (data, _device.host(data))
        return self._copy[1]

    def like(self, image: np.ndarray) -> FilterCall:
        """The same call of another image; the PSF is taken as it is here."""
        return FilterCall(
            self.method,
            image,
            self.psf,
            boundary=self.boundary,
            normalize_psf=False,
            voxel_size=None,
            psf_voxel_size=None,
            return_info=False,
            backend=self.kernels.NAME,
            engine="auto",
            num_threads=self.num_threads,
        )

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        given: tuple[float, ...] | None = self._psf_settings["voxel_size"]
        return given

    @property
    def steepness(self) -> tuple[float, ...]:
        """What differences along each axis are multiplied by: the smallest voxel length over the axis's."""
        return _options.steepness(self._psf_settings["voxel_size"], self.data.shape)

    def device_bytes(self, shape: tuple[int, ...]) -> int:
        """What filtering an image of that shape takes where it is computed, the image included."""
        grid, _ = _padding(shape, self.psf.shape, self.boundary)
        return int((ON_GPU * math.prod(grid) + math.prod(shape)) * self.data.itemsize)

    @property
    def is_cut(self) -> bool:
        """Whether the GPU's free memory does not hold the work; then it is done in tiles."""
        if self.kernels.NAME != "cuda":
            return False
        device = self.data.memory.place.device if isinstance(self.data, _device.DeviceArray) else None
        return self.device_bytes(self.data.shape) > _device.free_memory(device)[0]

    def transfer(self, response: np.ndarray, centre: tuple[int, ...] | None = None) -> Any:
        """The transfer function of an impulse response, its centre at shape // 2 unless given."""
        centre = tuple(k // 2 for k in response.shape) if centre is None else centre
        taps, centre = wrapped_taps(response, centre, self.grid)
        return self.plan.transfer(np.ascontiguousarray(taps), centre, self.num_threads)

    def spectrum(self, response: np.ndarray, centre: tuple[int, ...] | None = None) -> np.ndarray:
        """The same on the half spectrum of `numpy.fft.rfftn`, for what no kernel does with it."""
        centre = tuple(k // 2 for k in response.shape) if centre is None else centre
        taps, centre = wrapped_taps(response.astype(np.float64), centre, self.grid)
        last = taps.ndim - 1
        # Axis by axis, the last one first as rfftn does: lines on which there is nothing are left out.
        for axis in range(last, -1, -1):
            n, k = self.grid[axis], taps.shape[axis]
            placed = np.zeros((*taps.shape[:axis], n, *taps.shape[axis + 1 :]), taps.dtype)
            at = (np.arange(k) - centre[axis]) % n
            placed[(slice(None),) * axis + (at,)] = taps
            taps = np.fft.rfft(placed) if axis == last else np.fft.fft(placed, axis=axis)
        return taps

    def transfer_from(self, spectrum: np.ndarray) -> Any:
        """The transfer function with these values on the half spectrum of `numpy.fft.rfftn`."""
        axes = tuple(range(len(self.grid)))
        response = np.fft.irfftn(spectrum, self.grid, axes).astype(self.data.dtype)
        return self.transfer(response, (0,) * response.ndim)

    def apply(self, transfer: Any, data: Any = None) -> Any:
        """The image (or another array of its shape), continued, filtered and cropped: where `data` is."""
        data = self.data if data is None else data
        source = self.kernels.resident(data)  # so that what continues it is made where it is filtered
        result = _device.maker_beside(source, self.kernels)(self.data.shape, self.data.dtype)
        if self._continued:
            source = self.kernels.pad(
                source, self._low, self._high, self.boundary, num_threads=self.num_threads
            )
        chain = self.plan.chain(self.num_threads)
        chain.load(source)
        del source  # room for the transfer functions, which the GPU makes when they are needed
        chain.sweep(transfer, "copy", keep=False, out=result)
        return _device.beside(data, result)

    def finish(
        self,
        result: Any,
        settings: dict[str, Any],
        *,
        extra_bytes: int = 0,
        num_iter: int = 1,
        stopped_by: str = "closed form",
        trace: list[dict[str, Any]] | None = None,
        **entries: Any,
    ) -> Any:
        """What the caller gets: the result in the image's kind, with the record of the run if asked for."""
        if not self._return_info:
            return self._restore(result)
        seconds = time.perf_counter() - self._started
        padded = math.prod(self.grid) * self.data.itemsize if self._continued else 0
        info = _options.Info(
            num_iter=num_iter,
            stopped_by=stopped_by,
            trace=[{"iteration": 1, "seconds": seconds}] if trace is None else trace,
            settings={
                "method": self.method,
                **settings,
                "boundary": self.boundary,
                "normalize_psf": self.normalize_psf,
                "psf_sum": self.psf_sum,
                "psf_shape": self.psf.shape,
                **self._psf_settings,
                "shape": self.data.shape,
                "grid": self.grid,
                "dtype": str(self.data.dtype),
                "num_threads": self._threads,
            },
            engine="spectral",
            backend=self.kernels.NAME,
            bytes=int(self.plan.workspace_bytes * 2 + padded + extra_bytes),
            seconds=seconds,
            warnings=self.warnings,
            **entries,
        )
        return self._restore(result), info


def impulse_response(regularizer: Any, ndim: int, dtype: Any, *, without: str) -> np.ndarray:
    """What a call's ``regularizer=`` stands for; `without` says how to do without one."""
    if isinstance(regularizer, str):
        _validate.choice(regularizer, "regularizer", REGULARIZERS)
        return identity(ndim, dtype) if regularizer == "identity" else laplacian((1.0,) * ndim, dtype)
    if regularizer is None:
        raise TypeError(
            f"regularizer: got None, expected {' or '.join(map(repr, REGULARIZERS))} or an array; without "
            f"one: {without}"
        )
    return given_response(regularizer, ndim, dtype, without=without)


def given_response(regularizer: Any, ndim: int, dtype: Any, *, without: str) -> np.ndarray:
    """The array that a call's ``regularizer=`` is."""
    array, _ = _arrays.to_numpy(regularizer, "regularizer")
    _validate.rank(array, "regularizer", ndim=ndim)
    values = _arrays.computable(array, dtype)
    lowest, highest = _validate.finite(values, "regularizer")
    if lowest == highest == 0:
        raise ValueError(
            f"regularizer: all values are zero, expected an impulse response; without: {without}"
        )
    return values


def identity(ndim: int, dtype: Any) -> np.ndarray:
    return np.ones((1,) * ndim, dtype)


def laplacian(steepness: Sequence[float], dtype: Any) -> np.ndarray:
    """Minus the Laplacian; `steepness` is what differences along each axis are multiplied by."""
    ndim = len(steepness)
    response = np.zeros((3,) * ndim, dtype)
    for axis, factor in enumerate(steepness):
        line = tuple(slice(None) if a == axis else 1 for a in range(ndim))
        response[line] += (np.array([-1, 2, -1]) * factor**2).astype(dtype)
    return response


def padded_grid(shape: Sequence[int], psf_shape: Sequence[int]) -> tuple[int, ...]:
    """Of an image with what continues it.

    A filter's response has no end, so that the size is part of the result: one rule for all backends,
    whatever each transforms fastest.
    """
    least = tuple(
        n if n == 1 and k == 1 else n + max(math.ceil(REACH * (k - 1)), LEAST_SPARE)
        for n, k in zip(shape, psf_shape, strict=True)
    )
    return choose_grid(least, reference)


def _padding(
    shape: tuple[int, ...], psf_shape: tuple[int, ...], boundary: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The transform's size and the padding before each axis."""
    if boundary == "wrap":
        if any(k > n for n, k in zip(shape, psf_shape, strict=True)):
            raise ValueError(
                f"psf: got shape {psf_shape}, expected at most the image's {shape} on every axis under "
                "boundary='wrap'; crop it, or choose another boundary"
            )
        return shape, (0,) * len(shape)
    grid = padded_grid(shape, psf_shape)
    # The two ends meet on the periodic grid: both are equally far from the image.
    return grid, tuple((g - n) // 2 for g, n in zip(grid, shape, strict=True))
