"""An image on the host in tiles: where a GPU's memory does not hold the whole, or as asked.

Numbers that depend on the data are those of the whole image, or found once in a part of it, and the same for
all tiles (see `_tile`). Only the tile that is computed is on the GPU, the next one on its way there and the
one before on its way back.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from .. import _arrays, _device
from .._blur import Blur, geometry, make_plan
from .._grid import Grid, Tile, cut, halo_of, trimmed
from .._taps import point_symmetric
from ._acceleration import HeavyBall
from ._border_error import no_border
from ._filters import FilterCall
from ._tile import FILTERS, InMemory, Numbers, Restorer, halo_of_filter, read_region

# Arrays of a tile's size beside its own work: what it is read from, the next one, its core, the one before's.
ARRAYS_BESIDE = 4


# Tiles per axis, for whoever wants no others; False: none. None: memory decides.
_asked: ContextVar[tuple[int, ...] | bool | None] = ContextVar("asked", default=None)


@contextmanager
def asked(counts: tuple[int, ...] | bool) -> Iterator[None]:
    """Inside, `richardson_lucy` works in so many tiles per axis, on any backend; False: in none."""
    token = _asked.set(counts)
    try:
        yield
    finally:
        _asked.reset(token)


@dataclass(frozen=True)
class Work:
    """What a call does to an image, and what that takes of the side where it is computed.

    Attributes
    ----------
    data : ndarray
        The image on the host.
    numbers : Numbers
        Of the whole image; its options are those of `richardson_lucy`, but for stop and acceleration.
    psf : ndarray
        On the image's voxels.
    arrays : dict of str to ndarray
        Options that are arrays of the image's shape, see `Restorer`.
    kernels : module
        The backend.
    estimates, images : int
        Arrays of the estimate's and of a tile's shape that an iteration holds.
    num_threads : int, optional
    """

    data: np.ndarray
    numbers: Numbers
    psf: np.ndarray
    arrays: Mapping[str, np.ndarray]
    kernels: ModuleType
    estimates: int
    images: int
    num_threads: int | None

    @property
    def periodic(self) -> bool:
        return self.numbers.options["boundary"] == "wrap"

    @property
    def _matched(self) -> bool:
        projector = self.numbers.options["back_projector"]
        return isinstance(projector, str) and projector == "matched"

    def bytes_of(self, region: tuple[int, ...]) -> int:
        """Of the side that computes, for a tile with this region while its neighbours come and go."""
        dtype, options = self.data.dtype, self.numbers.options
        blur = Blur(
            self.psf,
            region,
            engine=options["engine"],
            backend=self.kernels.NAME,
            dtype=dtype,
            normalize_psf=options["normalize_psf"],
        )
        layout = geometry(blur.psf.shape, region, "extended", self.kernels)
        _, symmetric = point_symmetric(blur.psf[layout.taps], layout.centre)
        matched = self._matched
        symmetric = symmetric and matched
        engine = blur.engine if matched else "spectral"
        boundary = "extended" if self.periodic else options["boundary"]
        _, workspace = make_plan(engine, layout, boundary, self.kernels, dtype, symmetric=symmetric)
        voxels = self.estimates * math.prod(layout.estimate_shape)
        voxels += (self.images + ARRAYS_BESIDE) * math.prod(region)
        # Of an unmatched back projector a transfer function as well, which is no larger than the rest.
        return int(workspace) * (1 if matched else 2) + voxels * dtype.itemsize

    def halo(self, iterations: int, *, accelerated: bool) -> tuple[int, ...]:
        options = self.numbers.options
        penalty = options["regularizer"] is not None
        # The measured rule is the transpose's; others reach farther, in very few iterations.
        rule = "auto" if self._matched else "exact"
        halo = halo_of(self.psf, iterations, rule, penalty=penalty, accelerated=accelerated)
        return tuple(h if n > 1 else 0 for h, n in zip(halo, self.data.shape, strict=True))

    def grid(self, halo: Sequence[int], memory: int) -> Grid | None:
        """Of as many tiles as were asked for, or of those that fit; None if none do."""
        shape, counts = self.data.shape, _asked.get()
        if isinstance(counts, tuple):
            core = tuple(-(-n // count) for n, count in zip(shape, counts, strict=True))
            return Grid(shape, core, tuple(halo), self.periodic)
        least = self.psf.shape if self.periodic else (1,) * len(shape)
        smallest = tuple(map(min, shape, least))
        taps = self.psf.shape
        return cut(
            shape,
            smallest,
            halo,
            memory,
            self.bytes_of,
            lambda axis, n: n + taps[axis] - 1,
            periodic=self.periodic,
        )


def brightest(data: np.ndarray, grid: Grid) -> Tile:
    """The tile whose core holds most light."""
    light = [float(data[tile.core].sum(dtype=np.float64)) for tile in grid]
    return grid.tile(int(np.argmax(light)))


@dataclass(frozen=True)
class Found:
    """What a part of the image has told: the number of iterations, and the acceleration's factors."""

    iterations: int
    alphas: list[float] | None
    stopped_by: str
    thinned: dict[str, Any] | None
    region: tuple[tuple[int, int], ...] | None  # None: nothing had to be looked for


def find(
    work: Work,
    iterations: int,
    acceleration: str | None,
    rule: Any,
    memory: int,
    restore: Callable[..., Any],
) -> Found | None:
    """Run `restore` (`richardson_lucy`) on the brightest part that fits, where something is to be found.

    None if no part fits.
    """
    heavy = acceleration == "heavy-ball"
    if rule is None and acceleration is None:
        return Found(iterations, None, "num_iter", None, None)
    if rule is None and heavy:
        return Found(iterations, _heavy_ball(iterations), "num_iter", None, None)
    grid = work.grid((0,) * work.data.ndim, memory)
    if grid is None:
        return None
    core = brightest(work.data, grid).core
    arrays = {name: array[core] for name, array in work.arrays.items()}
    options = {**work.numbers.options, **arrays, "acceleration": acceleration, "stop": rule}
    options["num_iter"] = iterations
    if options["boundary"] == "wrap":
        options["boundary"] = "extended"
    with warnings.catch_warnings(), asked(False):
        warnings.simplefilter("ignore", UserWarning)  # the call itself has said it
        _, info = restore(
            np.ascontiguousarray(work.data[core]),
            work.psf,
            return_info=True,
            num_threads=work.num_threads,
            **options,
        )
    number = max(info.num_iter, 1)
    alphas = None
    if heavy:
        alphas = _heavy_ball(number)
    elif acceleration is not None:
        alphas = [entry["alpha"] for entry in info.trace] or [0.0]
    region = tuple((s.start, s.stop) for s in core)
    return Found(number, alphas, info.stopped_by, info.settings["thinning"], region)


def _heavy_ball(iterations: int) -> list[float]:
    return [HeavyBall().alpha(i) for i in range(1, iterations + 1)]


def restored(work: Work, found: Found, grid: Grid) -> np.ndarray:
    """The image, tile by tile."""
    options = {**work.numbers.options, "num_iter": found.iterations, "backend": work.kernels.NAME}
    numbers = replace(work.numbers, options=options, alphas=found.alphas)
    restorer = Restorer(
        numbers, work.psf, periodic=grid.periodic, num_threads=work.num_threads, arrays=work.arrays
    )
    data = work.data
    result = np.empty(data.shape, data.dtype)
    source = InMemory(data)

    def read(tile: Tile) -> np.ndarray:
        return np.ascontiguousarray(read_region(source, 0, tile.region))

    def compute(part: Any, tile: Tile) -> Any:
        return restorer.beside(part, tile).core

    def write(tile: Tile, core: np.ndarray) -> None:
        result[tile.core] = core

    if work.kernels.NAME == "cuda":
        _device.carry(list(grid), read, compute, write, size=math.prod(grid.largest), dtype=data.dtype)
    else:
        for tile in grid:
            write(tile, compute(read(tile), tile))
    return result


@dataclass(frozen=True)
class Made:
    """A result, and the record of how it was made."""

    image: np.ndarray
    found: Found
    trace: list[dict[str, Any]]
    tiling: dict[str, Any]
    bytes: int


def is_cut(data: Any, needed: int, on_gpu: bool, obstacle: str | None) -> bool:
    """Whether an image that takes `needed` bytes beside itself is restored in tiles.

    Raises
    ------
    MemoryError
        It must be, but because of `obstacle` cannot.
    """
    counts = _asked.get()
    if isinstance(data, _device.DeviceArray) or counts is False:
        return False
    if isinstance(counts, tuple):
        return max(counts) > 1
    if not on_gpu:
        return False
    free, total = _device.free_memory()
    if needed + data.nbytes <= free:
        return False
    if obstacle is not None:
        reason = f"in tiles it would fit, but with {obstacle} it cannot be cut"
        raise _device.shortage(needed, "richardson_lucy", free, total, reason)
    return True


def run(
    work: Work,
    iterations: int,
    acceleration: str | None,
    rule: Any,
    needed: int,
    restore: Callable[..., Any],
    notes: list[str],
) -> Made:
    """Restore the image in the tiles that were asked for, or that the GPU's free memory holds.

    `needed`: bytes that the whole takes. `notes`: where a warning goes as well, which comes before the work.
    """
    free = total = 0
    if _asked.get() is None:
        free, total = _device.free_memory()
    memory = int(_device.USED * free)
    begun = time.perf_counter()
    found = find(work, iterations, acceleration, rule, memory, restore)
    grid = None
    if found is not None:
        grid = work.grid(work.halo(found.iterations, accelerated=acceleration is not None), memory)
    if found is None or grid is None:
        reason = "which does not even hold a tile with its halo"
        raise _device.shortage(needed, "richardson_lucy", free, total, reason)
    if _asked.get() is None:
        notes.append(
            f"image: richardson_lucy takes {needed / 1e6:.1f} MB of GPU memory beside it, {free / 1e6:.1f} "
            f"MB of {total / 1e6:.1f} MB are free: restored in {' x '.join(map(str, grid.counts))} tiles "
            f"with a halo of {grid.halo} voxels, which differs from the whole by less than 1e-3 of the range"
            + (", with iterations and factors of the brightest tile" if found.region else "")
        )
        warnings.warn(notes[-1], UserWarning, stacklevel=3)
    image = restored(work, found, grid)
    seconds = (time.perf_counter() - begun) / found.iterations
    trace: list[dict[str, Any]] = [
        {"iteration": i, "seconds": seconds} for i in range(1, found.iterations + 1)
    ]
    if found.alphas is not None:
        for entry, alpha in zip(trace, found.alphas, strict=True):
            entry["alpha"] = alpha
    tiling = {"counts": grid.counts, "core": grid.core, "halo": grid.halo, "found_in": found.region}
    return Made(image, found, trace, tiling, work.bytes_of(grid.largest))


def trimmed_psf(psf: Any, ndim: int, back_projector: Any) -> np.ndarray:
    """A call's PSF without margins that hold nothing, of which every tile would be larger."""
    values, _ = _arrays.as_psf(psf, ndim, normalize=False)
    return trimmed(values) if isinstance(back_projector, str) else values


def filtered(call: FilterCall, options: dict[str, Any], obstacle: str | None) -> Any:
    """What a filter of one pass returns for an image that the GPU's memory does not hold.

    Parameters
    ----------
    call : FilterCall
    options : dict
        The method's own; a weight that is "auto" is found in the brightest tile.
    obstacle : str, optional
        What of them cannot be had in tiles.
    """
    method, data, psf = call.method, call.on_host(call.data), call.psf
    function, weight = FILTERS[method]
    free, total = _device.free_memory()
    needed = call.device_bytes(data.shape) - data.nbytes
    if obstacle is not None:
        reason = f"in tiles it would fit, but with {obstacle} it cannot be cut"
        raise _device.shortage(needed, method, free, total, reason)
    options = options | {
        "boundary": call.boundary,
        "normalize_psf": call.normalize_psf,
        "voxel_size": call.voxel_size,
        "backend": call.kernels.NAME,
    }
    periodic = call.boundary == "wrap"
    smallest = tuple(map(min, data.shape, psf.shape))

    def grid_of(halo: tuple[int, ...]) -> Grid:
        found = cut(
            data.shape,
            smallest,
            halo,
            int(_device.USED * free),
            call.device_bytes,
            lambda axis, n: n + psf.shape[axis] - 1,
            periodic=periodic,
        )
        if found is None:
            raise _device.shortage(
                needed, method, free, total, "which does not even hold a tile with its halo"
            )
        return found

    settings: dict[str, Any] = {f"{weight}_searched": False, "gcv_score": None, "border_factor": None}
    region = None
    if options[weight] == "auto" and options.get("noise_to_signal") is None:
        core = brightest(data, grid_of((0,) * data.ndim)).core
        part = np.ascontiguousarray(data[core])
        local = options | ({"boundary": "reflect"} if periodic else {})
        with no_border():
            _, info = function(part, psf, return_info=True, num_threads=call.num_threads, **local)
        settings = {name: info["settings"][name] for name in settings}
        options[weight] = info["settings"][weight]
        call.warnings += info["warnings"]
        region = tuple((s.start, s.stop) for s in core)
    numbers = Numbers(method, options)
    on_host = Numbers(method, {**options, "backend": "auto"})
    grid = grid_of(halo_of_filter(on_host, psf, "auto", data.shape))
    call.warnings += on_host.warnings
    restorer = Restorer(numbers, psf, periodic=periodic, num_threads=call.num_threads)
    result = np.empty(data.shape, data.dtype)
    shown = " x ".join(map(str, grid.counts))
    note = (
        f"image: {method} takes {needed / 1e6:.1f} MB of GPU memory beside it, {free / 1e6:.1f} MB of "
        f"{total / 1e6:.1f} MB are free: filtered in {shown} tiles with a halo of {grid.halo} voxels"
    )
    call.warnings.append(note)
    warnings.warn(note, UserWarning, stacklevel=3)
    for tile in grid:
        part = np.ascontiguousarray(read_region(InMemory(data), 0, tile.region))
        result[tile.core] = restorer(part, tile).core
    regularizer = options["regularizer"]
    settings |= {
        weight: options[weight] if options.get("noise_to_signal") is None else options["noise_to_signal"],
        "regularizer": regularizer if np.ndim(regularizer) == 0 else "array",
        "tiles": {"counts": grid.counts, "core": grid.core, "halo": grid.halo, "found_in": region},
    }
    return call.finish(result, settings)
