"""Binomial numbers for every voxel of an image, several times faster than NumPy draws them one by one.

Where the number of tosses differs from voxel to voxel, `numpy.random.Generator.binomial` computes the
distribution anew for each. Here it is a row of a table, which serves all voxels with as many tosses.
"""

from __future__ import annotations

import math

import numpy as np

# Numbers of tosses are written with two such digits; larger ones, NumPy draws.
DIGIT = 256
# Standard deviations at which a table ends, as NumPy's inversion does: a chance of some 1e-14 lies beyond.
TAIL = 10
WORTH = 8  # a table's entry takes as long to make as so many of NumPy's draws


class Table:
    """Binomial distributions of 0, `step`, 2 `step`, ... tosses, for draws by the alias method (Walker 1977).

    A draw chooses one of the cells of its row, all of them alike, and then between the cell's own number and
    another one: one uniform number and two look-ups, whatever the distribution.
    """

    def __init__(self, step: int, rows: int, probability: float) -> None:
        lowest, chances = distributions(step * np.arange(rows), probability)
        share, other = aliases(chances)
        own = np.broadcast_to(np.arange(chances.shape[1]), other.shape)
        self.cells = chances.shape[1]
        self.share = share.ravel()
        self.hits = (lowest[:, None, None] + np.stack([own, other], axis=-1)).ravel()


def extent(tosses: np.ndarray, probability: float) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest number of hits that is told from never."""
    mean = tosses * probability
    reach = TAIL * np.sqrt(mean * (1 - probability) + 1)
    lowest = np.maximum(np.floor(mean - reach), 0).astype(np.int64)
    return lowest, np.minimum(np.ceil(mean + reach), tosses).astype(np.int64)


def cells(tosses: np.ndarray, probability: float) -> int:
    """How many numbers of hits a table has for each of these numbers of tosses."""
    lowest, highest = extent(tosses, probability)
    return int((highest - lowest).max()) + 1


def distributions(tosses: np.ndarray, probability: float) -> tuple[np.ndarray, np.ndarray]:
    """For each number of tosses the smallest number of hits, and the chances of it and of those above."""
    lowest, _ = extent(tosses, probability)
    hits = lowest[:, None] + np.arange(cells(tosses, probability))
    # How much likelier each number of hits is than the one below; beyond all tosses, minus infinity.
    with np.errstate(divide="ignore"):
        left = np.log(np.maximum(tosses[:, None] - hits[:, :-1], 0) / hits[:, 1:].clip(1))
    logarithm = np.zeros(hits.shape)
    np.cumsum(left + math.log(probability / (1 - probability)), axis=1, out=logarithm[:, 1:])
    chances = np.exp(logarithm - logarithm.max(axis=1, keepdims=True))
    return lowest, chances / chances.sum(axis=1, keepdims=True)


def aliases(chances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of each cell that is its own, and whose the rest is; rows that each sum to 1.

    Cells whose chance is below the mean are filled up from one above it until that is below the mean itself,
    and is filled up from the next; all rows at once.
    """
    rows, count = chances.shape
    order = np.argsort(chances, axis=1)
    sizes = np.take_along_axis(chances, order, axis=1) * count
    each, last = np.arange(rows), count - 1
    share, other = np.empty(chances.shape), np.empty(chances.shape, np.int32)
    small = np.zeros(rows, np.intp)
    first = np.minimum((sizes < 1).sum(axis=1), last)
    large, left = first.copy(), sizes[each, first]
    for _ in range(count):
        # The last large one fills whatever is left: it is off from 1 by rounding alone.
        filling = (small < first) & ((left >= 1) | (large == last))
        following = np.minimum(large + 1, last)
        own = np.where(filling, sizes[each, small], left)
        cell = order[each, np.where(filling, small, large)]
        share[each, cell] = own
        other[each, cell] = order[each, np.where(filling, large, following)]
        left = np.where(filling, left, sizes[each, following]) - (1 - own)
        small += filling
        large = np.where(filling, large, following)
    return share, other


def tables(probability: float, largest: int, voxels: int) -> list[Table]:
    """For the digits of up to `largest` tosses, the last one first; none where NumPy alone is faster.

    `voxels`: how many will be drawn from them.
    """
    if largest >= DIGIT**2:
        return []
    rows = [largest + 1] if largest < DIGIT else [DIGIT, largest // DIGIT + 1]
    entries = sum(n * cells(DIGIT**place * np.arange(n), probability) for place, n in enumerate(rows))
    if voxels < WORTH * entries:
        return []
    return [Table(DIGIT**place, n, probability) for place, n in enumerate(rows)]


class Coins:
    """Draws for one thread, in arrays of its own: to get new ones for every block takes longer than to draw.

    Parameters
    ----------
    probability : float
    tables : list of Table
        They may be shared.
    size : int
        Of the largest block.
    """

    def __init__(self, probability: float, tables: list[Table], size: int) -> None:
        self._probability, self._tables = probability, tables
        size = size if tables else 0
        self._place, self._share = np.empty(size), np.empty(size)
        self._drawn, self._cell, self._at = (np.empty(size, np.intp) for _ in range(3))

    def draw(self, rng: np.random.Generator, tosses: np.ndarray) -> np.ndarray:
        """How many of so many tosses hit. The array is overwritten by the next call."""
        if not self._tables:
            return rng.binomial(tosses, self._probability)
        drawn, at, more = (a[: tosses.size] for a in (self._drawn, self._at, self._cell))
        self._look_up(rng, self._tables[0], np.bitwise_and(tosses, DIGIT - 1, out=at), drawn)
        for table in self._tables[1:]:
            # Hits of some tosses and hits of the others add up to those of all.
            drawn += self._look_up(rng, table, np.floor_divide(tosses, DIGIT, out=at), more)
        return drawn

    def _look_up(
        self, rng: np.random.Generator, table: Table, row: np.ndarray, out: np.ndarray
    ) -> np.ndarray:
        """Of each row's distribution one number; `row` is overwritten."""
        place, share, cell = self._place[: row.size], self._share[: row.size], self._cell[: row.size]
        rng.random(out=place)
        place *= table.cells
        np.copyto(cell, place, casting="unsafe")
        place -= cell
        at = np.multiply(row, table.cells, out=row)
        at += cell
        # Without "clip", which never does anything here, take would make a copy to check.
        table.share.take(at, out=share, mode="clip")
        at *= 2
        at += place >= share
        table.hits.take(at, out=out, mode="clip")
        return out
