"""How volumes are cut: tiles cover them once, see what they need, and fit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medeconv_fast import _grid
from medeconv_fast._grid import Grid, cut


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 23), st.integers(1, 9), st.integers(0, 11)), min_size=1, max_size=3),
    st.booleans(),
)
def test_cores_cover_the_volume_once_and_halos_end_at_its_border(axes, periodic):
    shape, core, halo = (tuple(a) for a in zip(*axes, strict=True))
    grid = Grid(shape, core, halo, periodic)
    counted = np.zeros(shape, int)
    read = 0
    for index, tile in enumerate(grid):
        assert tile.index == index
        counted[tile.core] += 1
        read += math.prod(tile.shape)
        assert all(a <= b for a, b in zip(tile.shape, grid.largest, strict=True))
        for n, c, r, inside, h, sides in zip(
            shape, tile.core, tile.region, tile.inside, halo, tile.open_sides, strict=True
        ):
            assert (inside.start + r.start, inside.stop + r.start) == (c.start, c.stop)
            if periodic and len(grid) > 1:
                assert (r.start, r.stop) == (c.start - h, c.stop + h) and sides == (True, True)
            else:
                assert (r.start, r.stop) == (max(0, c.start - h), min(n, c.stop + h))
                assert sides == (r.start > 0, r.stop < n)
    assert (counted == 1).all()
    assert read == grid.read_voxels
    assert len(list(grid)) == len(grid)


def bytes_of(region):
    return 10 * math.prod(region)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize(
    "shape, blocks, halo",
    [((64, 64, 64), (8, 8, 8), (5, 3, 3)), ((1, 300, 200), (1, 32, 32), (0, 9, 9)), ((500,), (7,), (20,))],
)
def test_the_grid_that_computes_least_within_memory(shape, blocks, halo, periodic):
    def cost(axis, n):
        return n + 4

    for memory in (bytes_of(shape), 300_000, 60_000):
        grid = cut(shape, blocks, halo, memory, bytes_of, cost, periodic=periodic)
        assert bytes_of(grid.largest) <= memory
        # Against all ways to cut in multiples of the blocks.
        best = math.inf
        for cores in np.ndindex(*(-(-n // b) for n, b in zip(shape, blocks, strict=True))):
            core = tuple(min(n, (c + 1) * b) for n, c, b in zip(shape, cores, blocks, strict=True))
            other = Grid(shape, core, halo, periodic)
            if bytes_of(other.largest) <= memory:
                best = min(best, work(other, cost))
        assert work(grid, cost) <= 1.02 * best  # a cut into other than equal parts may be a little better
        assert all(c % b == 0 or c == n for c, b, n in zip(grid.core, blocks, shape, strict=True))
    assert cut(shape, blocks, halo, 10, bytes_of, cost, periodic=periodic) is None


def work(grid, cost):
    return math.prod(sum(cost(axis, n) * k for n, k in grid.lengths(axis)) for axis in range(len(grid.shape)))


def test_a_petabyte_is_planned_in_a_moment():
    grid = cut(
        (60_000, 90_000, 90_000),
        (128,) * 3,
        (16,) * 3,
        4_000_000_000,
        lambda r: 30 * math.prod(r),
        lambda _, n: n,
    )
    assert len(grid) > 1e6
    assert 30 * math.prod(grid.largest) <= 4e9 and grid.halo_share < 0.25
    last = grid.tile(len(grid) - 1)
    assert tuple(s.stop for s in last.core) == grid.shape


def test_spread_and_trimming():
    line = np.exp(-(np.arange(-20, 21) ** 2) / (2 * 2.0**2))
    psf = np.zeros((1, 41, 64))
    psf[0, :, 32] = line
    assert _grid.spread_of(psf) == pytest.approx((0, 2, 0), rel=0.02)
    small = _grid.trimmed(psf)
    assert small.shape[0] == small.shape[2] == 1 and 17 < small.shape[1] < 41
    middle = tuple(k // 2 for k in small.shape)
    assert small[middle] == psf.max() and small.sum() == pytest.approx(psf.sum(), rel=1e-6)
    even = np.ones((4, 5))
    assert _grid.trimmed(even).shape == (4, 5)


def test_halos():
    psf = np.ones((1, 5, 4))
    assert _grid.halo_of(psf, 5, "exact") == (0, 20, 20)
    assert _grid.halo_of(psf, 5, "exact", penalty=True) == (5, 25, 25)
    assert _grid.halo_of(psf, 5, 7) == (0, 7, 7)
    assert _grid.halo_of(psf, 5, (1, 2, 3)) == (1, 2, 3)
    few, many, fast = (
        _grid.halo_of(psf, k, "auto", accelerated=a)[1] for k, a in ((20, False), (80, False), (20, True))
    )
    assert few < many < 2 * few and few < fast
    assert _grid.halo_of(psf, 1, "auto") == (0, 4, 4)  # never more than the exact one
    # A regularizer couples the planes between which nothing is blurred.
    assert _grid.halo_of(psf, 5, 7, penalty=True) == (7, 7, 7)
    assert _grid.halo_of(psf, 25, "auto", penalty=True)[0] == 13
    assert _grid.halo_of(psf, 2, "auto", penalty=True)[0] == 2
    for bad, error in (("odd", ValueError), (-1, ValueError), (1.5, TypeError), ((1, 2), ValueError)):
        with pytest.raises(error, match=r"^halo"):
            _grid.halo_of(psf, 5, bad)
