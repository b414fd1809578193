"""How a volume is cut into tiles: cores that cover it, each computed with a halo of real data around it.

The grid follows from shapes, PSF, method and memory; the number of workers does not enter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _validate
from ._blur import Sides

# The default halo in units of the PSF's spread: so much times the square root of the iterations and what the
# first ones take beside it; of accelerated iterations, each of which does the work of several, more. See
# `halo_of`.
SPREADS, SPREADS_ACCELERATED, FIRST = 2.0, 3.5, 1.5
# Of the light of a PSF that its spread leaves out, along an axis: half of it on each side.
TAIL = 1e-3
# A regularizer couples neighbours along every axis, those of one tap as well: there it spreads like so much.
COUPLED = 1.0
# An axis of up to so many blocks is cut at any of them, a longer one into equal parts.
MANY = 64
NOTHING = 1e-7  # share of a PSF's light that float32 does not see


@dataclass(frozen=True)
class Tile:
    """One piece of work.

    Attributes
    ----------
    index : int
        Its number in the grid, the last axis fastest.
    core : tuple of slice
        What it contributes to the result.
    region : tuple of slice
        What is read: the core and its halo, inside the volume; of a periodic volume it may reach beyond.
    inside : tuple of slice
        The core's place in the region.
    open_sides : tuple of (bool, bool)
        Per axis, whether the volume goes on before and behind the region.
    """

    index: int
    core: tuple[slice, ...]
    region: tuple[slice, ...]
    inside: tuple[slice, ...]
    open_sides: Sides

    @property
    def shape(self) -> tuple[int, ...]:
        return extent(self.region)

    @property
    def core_shape(self) -> tuple[int, ...]:
        return extent(self.core)


def extent(region: Sequence[slice]) -> tuple[int, ...]:
    return tuple(s.stop - s.start for s in region)


@dataclass(frozen=True)
class Grid:
    """A volume of `shape`, cores of `core` (the last ones along an axis may be shorter), `halo` around them.

    An axis that is not cut has no halo. `periodic`: the volume goes on at its other end, so that every axis
    has one if any is cut.
    """

    shape: tuple[int, ...]
    core: tuple[int, ...]
    halo: tuple[int, ...]
    periodic: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """Tiles per axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.core, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def tile(self, index: int) -> Tile:
        if not 0 <= index < len(self):
            raise IndexError(f"index: got {index}, expected 0 to {len(self) - 1}")
        places = np.unravel_index(index, self.counts)
        parts = [self._span(axis, int(place)) for axis, place in enumerate(places)]
        cores, regions = tuple(p[0] for p in parts), tuple(p[1] for p in parts)
        inside = tuple(
            slice(c.start - r.start, c.stop - r.start) for c, r in zip(cores, regions, strict=True)
        )
        return Tile(index, cores, regions, inside, tuple(p[2] for p in parts))

    def __iter__(self) -> Iterator[Tile]:
        return map(self.tile, range(len(self)))

    def _span(self, axis: int, place: int) -> tuple[slice, slice, tuple[bool, bool]]:
        n, core, halo = self.shape[axis], self.core[axis], self.halo[axis]
        start, stop = place * core, min((place + 1) * core, n)
        if self.periodic and len(self) > 1:
            return slice(start, stop), slice(start - halo, stop + halo), (True, True)
        low, high = max(0, start - halo), min(n, stop + halo)
        return slice(start, stop), slice(low, high), (low > 0, high < n)

    def kinds(self, index: np.ndarray) -> list[np.ndarray]:
        """Of tiles by their numbers: lengths of the regions per axis, then which sides are open, as integers.

        Tiles that agree in all of them are computed by the same operator.
        """
        made = []
        for axis, places in enumerate(np.unravel_index(index, self.counts)):
            spans = [self._span(axis, place)[1:] for place in range(self.counts[axis])]
            lengths = np.array([region.stop - region.start for region, _ in spans])
            sides = np.array([2 * low + high for _, (low, high) in spans])
            made.append((lengths[places], sides[places]))
        return [lengths for lengths, _ in made] + [sides for _, sides in made]

    def lengths(self, axis: int) -> list[tuple[int, int]]:
        """Lengths of the regions along an axis, and how many tiles have each."""
        count = self.counts[axis]
        # Tiles whose halo stays clear of both ends are all alike.
        clear = -(-self.halo[axis] // self.core[axis])
        near = [p for p in range(count) if p < clear + 1 or p >= count - clear - 2]
        found: dict[int, int] = {}
        for place in near:
            length = extent([self._span(axis, place)[1]])[0]
            found[length] = found.get(length, 0) + 1
        if len(near) < count:
            length = extent([self._span(axis, clear + 1)[1]])[0]
            found[length] = found.get(length, 0) + count - len(near)
        return sorted(found.items())

    @property
    def largest(self) -> tuple[int, ...]:
        """Shape of a region of which no axis is shorter than any other region's."""
        return tuple(self.lengths(axis)[-1][0] for axis in range(len(self.shape)))

    @property
    def read_voxels(self) -> int:
        """Voxels of all regions together: what is read, and computed."""
        return math.prod(
            sum(length * number for length, number in self.lengths(axis)) for axis in range(len(self.shape))
        )

    @property
    def halo_share(self) -> float:
        """Share of the voxels computed that belong to halos."""
        return 1 - math.prod(self.shape) / self.read_voxels


def spread_of(psf: np.ndarray) -> tuple[float, ...]:
    """Standard deviation of a PSF's light along each axis about its centre, but for the outermost `TAIL`.

    The outermost light lies too far away for its share to matter, but would dominate a second moment.
    """
    light = np.abs(psf).astype(np.float64)
    spreads = []
    for axis, k in enumerate(psf.shape):
        line = light.sum(axis=tuple(a for a in range(psf.ndim) if a != axis))
        line /= line.sum()
        offsets = np.arange(k) - k // 2
        order = np.argsort(np.abs(offsets), kind="stable")
        counted = np.cumsum(line[order]) <= 1 - TAIL
        counted[: 1 + int(counted.sum())] = True
        spreads.append(math.sqrt(float((line[order] * offsets[order] ** 2)[counted].sum())))
    return tuple(spreads)


def radius_of(response: np.ndarray, most: float) -> tuple[int, ...]:
    """Per axis the distance from the centre beyond which lies at most so much, without signs."""
    magnitude = np.abs(response).astype(np.float64)
    radii = []
    for axis, k in enumerate(response.shape):
        line = magnitude.sum(axis=tuple(a for a in range(response.ndim) if a != axis))
        offsets = np.abs(np.arange(k) - k // 2)
        at_distance = np.append(np.bincount(offsets, line), 0.0)
        beyond = np.cumsum(at_distance[::-1])[-2::-1]  # from the smallest on: of distance 0, 1, ...
        radii.append(int(np.argmax(beyond <= most)))
    return tuple(radii)


def trimmed(psf: np.ndarray) -> np.ndarray:
    """A PSF without its margins, as far as all that is left out is below `NOTHING` of its light.

    Many measured ones come in arrays of the image's size; each tile would be that much larger.
    """
    most = NOTHING * float(np.abs(psf).sum(dtype=np.float64)) / psf.ndim
    keep = (
        slice(max(0, k // 2 - radius), k // 2 + radius + 1)
        for k, radius in zip(psf.shape, radius_of(psf, most), strict=True)
    )
    # A side of even length that is kept whole has its one voxel more before the centre.
    return np.ascontiguousarray(psf[tuple(keep)])


def reach_of(psf_shape: Sequence[int]) -> tuple[int, ...]:
    """How far a PSF reaches from its centre, on the side where that is farther."""
    return tuple(max(k // 2, k - 1 - k // 2) for k in psf_shape)


def exact_halo(psf_shape: Sequence[int], iterations: int, *, penalty: bool = False) -> tuple[int, ...]:
    """The halo beyond which nothing can matter to a core after so many iterations of two sweeps each.

    An iteration looks as far as the PSF reaches, twice; a regularizer looks at the next voxels as well.
    """
    return tuple(iterations * (2 * r + penalty) for r in reach_of(psf_shape))


def halo_of(
    psf: np.ndarray, iterations: int, rule: Any, *, penalty: bool = False, accelerated: bool = False
) -> tuple[int, ...]:
    """The halo that a call's ``halo=`` asks for.

    "auto": what a cut disturbs spreads as a random walk does, by the PSF's spread s (with a regularizer at
    least `COUPLED`) in each of two sweeps of each of k iterations: `SPREADS` * s * (sqrt(k) + `FIRST`), never
    more than the exact one. The constants are measured: see docs/volumes.md.
    """
    exact = exact_halo(psf.shape, iterations, penalty=penalty)
    if isinstance(rule, str):
        if _validate.choice(rule, "halo", ("auto", "exact")) == "exact":
            return exact
        factor = SPREADS_ACCELERATED if accelerated else SPREADS
        least = COUPLED if penalty else 0.0
        wide = (math.ceil(factor * max(s, least) * (math.sqrt(iterations) + FIRST)) for s in spread_of(psf))
        return tuple(min(w, e) for w, e in zip(wide, exact, strict=True))
    if np.ndim(rule) == 0:
        every = _validate.integer(rule, "halo", minimum=0)
        return tuple(0 if k == 1 and not penalty else every for k in psf.shape)
    values = tuple(_validate.integer(h, f"halo[{i}]", minimum=0) for i, h in enumerate(rule))
    if len(values) != psf.ndim:
        raise ValueError(f"halo: got {len(values)} numbers {values}, expected {psf.ndim}, one per axis")
    return values


def _ceil(n: int, by: int) -> int:
    return -(-n // by)


def _options(
    n: int, block: int, halo: int, cost: Callable[[int], int], periodic: bool
) -> list[tuple[int, int, int, int]]:
    """(core, tiles, cost of all regions, cost of the largest) for each way to cut one axis."""
    blocks = _ceil(n, block)
    if blocks <= MANY:
        cores = {min(n, block * k) for k in range(1, blocks + 1)}
    else:
        cores = {n} | {_ceil(_ceil(n, count), block) * block for count in range(2, blocks + 1)}
    found = []
    for core in sorted(cores):
        whole = periodic and core == n  # cut along another axis, it has a halo here as well
        lengths = [(n + 2 * halo, 1)] if whole else Grid((n,), (core,), (halo,), periodic).lengths(0)
        found.append((core, _ceil(n, core), sum(cost(m) * k for m, k in lengths), cost(lengths[-1][0])))
    return found


def cut(
    shape: Sequence[int],
    blocks: Sequence[int],
    halo: Sequence[int],
    memory: int,
    bytes_of: Callable[[tuple[int, ...]], int],
    cost: Callable[[int, int], int],
    *,
    periodic: bool = False,
) -> Grid | None:
    """The grid that computes least among those whose largest tile fits; None if not even the smallest does.

    Parameters
    ----------
    shape, halo : sequence of int
    blocks : sequence of int
        Cores are multiples of these, but for the last ones: no two tiles write into one block.
    memory : int
    bytes_of : callable
        Region -> what computing it takes. Grows with every axis.
    cost : callable
        (axis, length of a region) -> length of the transform, or whatever the work is proportional to.
    periodic : bool
    """
    shape, blocks, halo = tuple(shape), tuple(blocks), tuple(halo)
    if bytes_of(shape) <= memory:
        return Grid(shape, shape, halo, periodic)
    axes = [
        _options(n, min(b, n), h, lambda m, a=axis: cost(a, m), periodic)  # type: ignore[misc]
        for axis, (n, b, h) in enumerate(zip(shape, blocks, halo, strict=True))
    ]
    chosen = list(itertools.product(*(range(len(options)) for options in axes)))
    picks = np.array(chosen)
    work, size, tiles = (
        np.prod(
            [np.array([o[i] for o in options], np.float64)[picks[:, a]] for a, options in enumerate(axes)],
            axis=0,
        )
        for i in (2, 3, 1)
    )

    def grid(row: int) -> Grid:
        return Grid(shape, tuple(axes[a][j][0] for a, j in enumerate(chosen[row])), halo, periodic)

    def fits(row: int) -> bool:
        return bytes_of(grid(row).largest) <= memory

    # What fits is, nearly, what is small: the largest size that fits bounds the candidates.
    by_size = np.argsort(size, kind="stable")
    low, high = -1, len(by_size)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(int(by_size[middle])) else (low, middle)
    near = by_size[: min(len(by_size), max(low + 1, 1) + len(by_size) // 16 + 8)]
    order = near[np.lexsort((tiles[near], work[near]))]
    return next((grid(int(row)) for row in order if fits(int(row))), None)
