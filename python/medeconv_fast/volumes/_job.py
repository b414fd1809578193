"""A job as every process that works on it holds it: source, store, grid, numbers; and its tiles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _arrays, backends
from .._grid import Grid, Tile
from ..algorithms._tile import Numbers, Restored, Restorer, read_region
from ._manifest import Done
from ._regions import read_maps

Read = tuple[np.ndarray, dict[str, np.ndarray]]  # a region of the source, and of the maps


@dataclass
class Job:
    """May be pickled, if its source and its store may.

    Attributes
    ----------
    source, store
        As `mf.io.open_source` and `mf.io.create_store` make them.
    grid : Grid
        Of an item; tile n of item i has the number ``i * len(grid) + n``.
    channels : dict of int to (Numbers, ndarray)
        Numbers and PSF of each channel.
    num_threads : int, optional
    backend, isa : str
        What computes; None for backends that are the same everywhere.
    turns : dict of str to int
        Of a cluster's workers, on their machines: which GPU each takes.
    maps : dict of str to source
        Weights, a first estimate.
    """

    source: Any
    store: Any
    grid: Grid
    channels: dict[int, tuple[Numbers, np.ndarray]]
    num_threads: int | None = None
    backend: str = "auto"
    isa: str | None = None
    turns: dict[str, int] = field(default_factory=dict)
    maps: dict[str, Any] = field(default_factory=dict)
    _restorer: tuple[int, Restorer] | None = field(default=None, repr=False)
    _shape: tuple[int, ...] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_restorer": None, "_shape": None}

    def check(self) -> None:
        """Refuse to compute where the voxels would not be those of the other processes."""
        isa = backends.resolve(self.backend).describe().get("isa")
        if isa != self.isa:
            raise RuntimeError(
                f"a worker computes with the instruction set {isa}, this job with {self.isa}, and their "
                "voxels differ; set MEDECONV_ISA to one that all processes have"
            )

    def __len__(self) -> int:
        return len(self.source.items) * len(self.grid)

    def place(self, number: int) -> tuple[int, Tile]:
        item, index = divmod(number, len(self.grid))
        return item, self.grid.tile(index)

    def in_order(self, numbers: Sequence[int]) -> list[int]:
        """Tiles of one channel and kind after one another: each change makes the operator anew.

        The largest first: what does not fit into memory shows at once, and workers end together.
        """
        given = np.array(numbers, np.int64)
        items, index = np.divmod(given, len(self.grid))
        channels = np.array([channel for _, channel in self.source.items])[items]
        keys = [channels, *(-kind for kind in self.grid.kinds(index)), given]
        return [int(number) for number in given[np.lexsort(keys[::-1])]]

    def read(self, number: int) -> Read:
        item, tile = self.place(number)
        dtype = _arrays.result_dtype(self.source.dtype)
        image = read_region(self.source, item, tile.region)
        return image, read_maps(self.maps, item, tile.region, dtype)

    def restorer(self, item: int) -> Restorer:
        """Of the item's channel; only the latest one is kept, for its memory."""
        channel = self.source.items[item][1]
        if self._restorer is None or self._restorer[0] != channel:
            self._restorer = None
            numbers, psf = self.channels[channel]
            made = Restorer(numbers, psf, periodic=self.grid.periodic, num_threads=self.num_threads)
            self._restorer = (channel, made)
        return self._restorer[1]

    def compute(self, number: int, read: list[Read]) -> Restored:
        """`read` is emptied: it is not kept longer than needed."""
        item, tile = self.place(number)
        image, maps = read.pop()
        if self._shape != tile.shape:
            # Buffers that the kernels keep, of the trials or of tiles of another size, and that these have no
            # use for.
            self.release()
        self._shape = tile.shape
        return self.restorer(item)(image, tile, **maps)

    def write(self, number: int, restored: Restored, begun: float) -> Done:
        item, tile = self.place(number)
        checksum = self.store.write(item, tile.core, restored.core)
        return Done(number, checksum, restored.clipped, time.perf_counter() - begun)

    def run(self, number: int) -> Done:
        """All of it, for a driver that does not overlap reading and writing itself."""
        begun = time.perf_counter()
        return self.write(number, self.compute(number, [self.read(number)]), begun)

    def release(self) -> None:
        """Give back what tiles took."""
        self._restorer = None
        backends.release_memory()

    def intact(self, done: Done) -> bool:
        """Whether what is stored of a finished tile is what was written."""
        item, tile = self.place(done.number)
        try:
            return bool(self.store.checksum(item, tile.core) == done.checksum)
        except FileNotFoundError:  # of a block ValueError says it: the whole image is gone
            raise
        except (OSError, ValueError):
            return False
