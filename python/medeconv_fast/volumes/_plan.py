"""Memory, disk and time of a run in tiles, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _arrays, _device, backends
from .._grid import Grid, cut, halo_of
from .._planner import plan as plan_image
from .._record import Record
from ..algorithms._filters import ARRAYS, padded_grid
from ..algorithms._tile import Numbers, halo_of_filter, is_regularized
from ._sample import BASE, LARGEST_SAMPLE

# What the trial of the sample leaves behind, per voxel of it.
LEFT = 6
# Zarr works on so many blocks at a time, each held as it is stored and as it is in memory. Not more are there
# than a tile has.
BLOCKS = 10
DAMPING = 4  # arrays (measured)
WITHOUT_COPY = ("extended", "zero")  # boundaries for which the image is not continued in an array of its own
SLACK = 1.07  # freed memory that the allocators keep, in pieces that the next tile does not fit (measured)
# Transfer functions, spectra, padded image and result of a filter of one pass on the host, in arrays of
# its transform's size (measured).
FILTER_ARRAYS = 8.0


class VolumePlan(Record):
    """A prediction for a volume: a dict whose entries can also be read as attributes; as text, a few lines.

    Entries
    -------
    shape, images, dtype
        Of one image of the source (a time point of a channel), how many there are, the dtype of the work.
    core, halo, counts, tiles : tuple of int, int
        The grid of an image, and the number of tiles of all of them.
    largest : tuple of int
        Shape of the largest region.
    halo_share : float
        Of the voxels computed.
    reads_per_voxel : float
        How often a voxel is read, in the mean.
    memory, predicted_memory : int
        What a worker may take, and will at most.
    disk : int
        Bytes of the result before compression.
    iterations : int
    seconds : float
        Of one worker, computing alone.
    engine, backend, num_threads
    """

    def __str__(self) -> str:
        def size(shape: Sequence[int]) -> str:
            return " x ".join(map(str, shape))

        return "\n".join(
            [
                f"volume     {self.images} x {size(self.shape)}, computed in {self.dtype}",
                f"tiles      {self.tiles}: {size(self.counts)} per image, cores of {size(self.core)}",
                f"halo       {size(self.halo)}, {100 * self.halo_share:.1f} % of what is computed; a voxel "
                f"is read {self.reads_per_voxel:.2f} times",
                f"memory     {self.predicted_memory / 1e9:.2f} of {self.memory / 1e9:.2f} GB per worker, a "
                f"tile of {size(self.largest)}",
                f"disk       {self.disk / 1e9:.3g} GB before compression",
                f"time       {self.seconds:.3g} s of one worker with {self.num_threads} threads, engine "
                f"{self.engine}, backend {self.backend}, {self.iterations} iterations",
            ]
        )


def halo_for(
    numbers: Sequence[Numbers], psfs: Sequence[np.ndarray], rule: Any, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The halo that serves every channel; none along axes of one voxel."""
    halos = []
    for each, psf in zip(numbers, psfs, strict=True):
        if each.iterative:
            made = halo_of(
                psf,
                each.options["num_iter"],
                rule,
                penalty=each.options.get("regularizer") is not None,
                accelerated=each.alphas is not None,
            )
        elif isinstance(rule, str):
            made = halo_of_filter(each, psf, rule, shape)
        else:
            made = halo_of(psf, 1, rule, penalty=is_regularized(each))
        halos.append(made)
    return tuple(max(h) if n > 1 else 0 for n, *h in zip(shape, *halos, strict=True))


class Costs:
    """What a tile takes, from its shape; the most of any channel."""

    def __init__(
        self,
        numbers: Sequence[Numbers],
        psfs: Sequence[np.ndarray],
        source_dtype: Any,
        stored_dtype: Any,
        num_threads: int | None,
        maps: Sequence[Any] = (),
        chunk: int = 0,
        block: int = 0,
        resident: int = 0,
        sample: int = LARGEST_SAMPLE,
    ) -> None:
        """`chunk`, `block`: voxels that are decoded and encoded at a time.

        `resident`: bytes of inputs that are read as a whole. `sample`: voxels.
        """
        self._channels = list(zip(numbers, psfs, strict=True))
        self._raw = np.dtype(source_dtype).itemsize
        self.dtype = _arrays.result_dtype(source_dtype)
        self._stored = np.dtype(stored_dtype).itemsize
        self._chunk, self._block = chunk, block
        self._base = BASE + LEFT * sample + resident
        # Rounded, and where it does not fit, as booleans.
        self._converted = (
            0 if np.dtype(stored_dtype) == self.dtype else self.dtype.itemsize + 3 + self._stored
        )
        # A copy without negative values, or with the readout's variance.
        signed = np.dtype(source_dtype).kind not in "bu"
        self._counted = any(n.iterative and (signed or n.options.get("readout_variance")) for n in numbers)
        self._num_threads = num_threads
        self._maps = [np.dtype(dtype).itemsize for dtype in maps]
        self._good: dict[tuple[int, bool], int] = {}
        self._on_gpu = backends.resolve(self._channels[0][0].options.get("backend", "auto")).NAME == "cuda"

    def bytes_of(self, region: tuple[int, ...]) -> int:
        """Of a whole process that computes one such tile, reads the next and writes the one before."""
        voxels, item = math.prod(region), self.dtype.itemsize
        # As read: this one and the next; in the dtype of the work.
        arrays = voxels * (2 * self._raw + (1 + self._counted) * item)
        arrays += voxels * sum(2 * stored + 3 * item for stored in self._maps)
        arrays += self._at_a_time(voxels, self._chunk) * self._raw
        # The core before it, and what the store makes of it; the core is at most the region.
        arrays += voxels * (item + self._converted) + self._at_a_time(voxels, self._block) * self._stored
        arrays += max(self._computing(region, n, p, FILTER_ARRAYS) for n, p in self._channels)
        return self._base + int(SLACK * arrays)

    @staticmethod
    def _at_a_time(voxels: int, block: int) -> int:
        return 2 * min(BLOCKS * block, max(voxels, block))

    def _computing(self, region: tuple[int, ...], numbers: Numbers, psf: np.ndarray, of_filter: float) -> int:
        if not numbers.iterative:
            return int(of_filter * math.prod(padded_grid(region, psf.shape)) * self.dtype.itemsize)
        made = self._plan(region, numbers, psf)
        estimates = (0 if numbers.alphas is None else 2) + (numbers.options.get("regularizer") is not None)
        held = estimates * math.prod(made.estimate_shape)
        # The core that is handed on; a spectrum that has done its work leaves more room than that, where no
        # continued image lies beside it.
        held += (made.engine != "spectral" or made.boundary not in WITHOUT_COPY) * math.prod(region)
        held += DAMPING * math.prod(region) * bool(numbers.options.get("damping"))
        return int(made.richardson_lucy_bytes) + held * self.dtype.itemsize

    def _gpu_bytes_of(self, region: tuple[int, ...]) -> int:
        """Of the GPU, with the tile, its core and a copy of the tile for each kind of counts."""
        images = math.prod(region) * self.dtype.itemsize * 4
        return images + max(self._computing(region, n, p, ARRAYS) for n, p in self._channels)

    def _plan(self, region: tuple[int, ...], numbers: Numbers, psf: np.ndarray) -> Any:
        return plan_image(
            region,
            psf,
            boundary=self._boundary(numbers),
            dtype=self.dtype,
            engine=numbers.options.get("engine", "auto") if numbers.iterative else "auto",
            backend=numbers.options.get("backend", "auto"),
            num_threads=self._num_threads,
        )

    @staticmethod
    def _boundary(numbers: Numbers) -> str:
        """Of a tile: one whose halo was read from the volume's other end is like any other."""
        boundary = numbers.options.get("boundary", "extended") if numbers.iterative else "extended"
        return "extended" if boundary == "wrap" else str(boundary)

    def good(self, n: int, *, last: bool) -> int:
        if (n, last) not in self._good:
            kernels = backends.resolve(self._channels[0][0].options.get("backend", "auto"))
            self._good[n, last] = 1 if n == 1 else kernels.good_size(n, last=last)
        return self._good[n, last]

    def length(self, axis: int, n: int) -> int:
        """Of the transform along an axis of a region of n."""
        reach = max(p.shape[axis] - 1 for _, p in self._channels)
        return self.good(n + reach, last=axis == self._channels[0][1].ndim - 1)

    def grid(
        self,
        shape: tuple[int, ...],
        blocks: Sequence[int],
        halo: Sequence[int],
        memory: int,
        *,
        periodic: bool,
    ) -> Grid:
        """The grid that computes least within `memory`."""
        free = _device.USED * _device.free_memory()[0] if self._on_gpu else math.inf

        def taken(region: tuple[int, ...]) -> int:  # of the memory that is used up first
            on_gpu = math.ceil(self._gpu_bytes_of(region) / free * memory) if self._on_gpu else 0
            return max(self.bytes_of(region), on_gpu)

        found = cut(shape, blocks, halo, memory, taken, self.length, periodic=periodic)
        if found is None:
            smallest = Grid(shape, tuple(map(min, blocks, shape)), tuple(halo), periodic).largest
            raise ValueError(
                f"memory: got {memory / 1e9:.3g} GB, but a block of {tuple(blocks)} voxels with its halo of "
                f"{tuple(halo)} takes {self.bytes_of(smallest) / 1e9:.3g} GB; expected more, smaller blocks "
                "(shards=) or a smaller halo="
            )
        return found

    def predicted(self, grid: Grid, items: Sequence[int], memory: int) -> VolumePlan:
        """`items`: how many there are of each channel."""
        largest = grid.largest
        points = math.prod(
            sum(self.length(axis, n) * k for n, k in grid.lengths(axis)) for axis in range(len(grid.shape))
        )
        most = math.prod(self.length(axis, n) for axis, n in enumerate(largest))
        seconds, engines, iterations = 0.0, [], 1
        for (numbers, psf), count in zip(self._channels, items, strict=True):
            made = self._plan(largest, numbers, psf)
            # A filter of one pass makes its transfer functions anew for each tile: as much as two passes.
            rounds = numbers.options["num_iter"] if numbers.iterative else 2
            engines.append(made.engine if numbers.iterative else "spectral")
            iterations = max(iterations, rounds if numbers.iterative else 1)
            each = made.predicted_iteration_ms[engines[-1]] * 1e-3 * rounds
            seconds += each * points / most * count
        total = math.prod(grid.shape) * sum(items)
        return VolumePlan(
            shape=grid.shape,
            images=sum(items),
            dtype=str(self.dtype),
            core=grid.core,
            halo=grid.halo,
            counts=grid.counts,
            tiles=len(grid) * sum(items),
            largest=largest,
            halo_share=grid.halo_share,
            reads_per_voxel=grid.read_voxels / math.prod(grid.shape),
            memory=memory,
            predicted_memory=self.bytes_of(largest),
            disk=total * self._stored,
            iterations=iterations,
            seconds=seconds,
            engine=" and ".join(dict.fromkeys(engines)),
            backend=made.backend,
            num_threads=made.num_threads,
        )
