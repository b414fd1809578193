"""The backend without a compiler: loops compiled by Numba, transforms by scipy.fft.

The same kernels as the C++ backend in the same blocks: a sweep transforms slices, multiplies columns by the
OTF and finishes slices with the formula while they are in cache. Threads are this module's own, Python
threads around kernels that release the GIL, and not Numba's: its OpenMP layer kills forked children, its
workqueue layer must not be entered twice, and neither shares its threads among callers. Units of work are
laid out by shape alone, so results have the same bits for any number of threads.

Numba and SciPy are imported when the backend is first asked whether it is available.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._threads import resolve_num_threads
from ._numba_base import (
    Scratch,
    compiled_loops,
    cut,
    folded,
    kept,
    planes_of,
    run,
    scipy_fft,
    sources_of,
    three,
    unlocked,
)
from ._numba_base import unavailable_reason as _unavailable_reason
from ._numba_conv import ConvPlan as ConvPlan
from ._numba_conv import empty as empty
from ._numba_conv import sum_channels as sum_channels

NAME = "numba"

Box = tuple[tuple[int, int], ...]
Sums = tuple[float, float, float]


def is_available() -> bool:
    return _unavailable_reason() is None


def unavailable_reason() -> str | None:
    return _unavailable_reason()


def describe() -> dict[str, Any]:
    compiled_loops()
    versions = {name: importlib.import_module(name).__version__ for name in ("numba", "scipy")}
    return {**versions, "cached_bytes": kept.size}


def release_memory() -> None:
    """Give buffers that are kept for reuse back to the system."""
    kept.release()


def good_size(n: int, *, even: bool = False, last: bool = False) -> int:
    """Smallest length >= n with no prime factor above 7."""
    length = max(int(n), 1)
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and not (even and length % 2):
            return length
        length += 1


def smallest_divisor(scale: float, dtype: Any) -> float:
    """Lower bound of the ratio's divisor for an image whose largest value is `scale`."""
    return float(scale) * (1e-6 if np.dtype(dtype) == np.float32 else 1e-12)


# Formula -> its operand arrays in the order of its kernel, and its numbers.
_OPERANDS = {
    "copy": (),
    "ratio": ("image", "weights"),
    "multiply": ("estimate", "gain", "factor"),
    "residual": ("image", "weights"),
    "add": ("estimate", "gain", "factor"),
}
_NUMBERS: dict[str, dict[str, float]] = {
    "copy": {},
    "ratio": {"background": 0.0, "eps": 0.0},
    "multiply": {},
    "residual": {"background": 0.0},
    "add": {"step": 1.0},
}
_FOR_RATIO = ("damping", "held_out")


class _Finish:
    """The formula; what the next sweep gets: the result, or where it moves to beyond `previous`; the sums."""

    def __init__(
        self,
        formula: str,
        dtype: np.dtype,
        out: np.ndarray | None,
        *,
        previous: np.ndarray | None = None,
        alpha: float = 0.0,
        extrapolated: np.ndarray | None = None,
        partial: np.ndarray | None = None,
        sums: bool = False,
        unit: float = 1.0,
        change: np.ndarray | None = None,
        held_out_scale: float = 1.0,
        **operands: Any,
    ) -> None:
        if extrapolated is not None and previous is None:
            raise ValueError("extrapolated: needs previous")
        loops = compiled_loops()
        kind = dtype.type
        nothing = np.empty(0, dtype)

        def flat(array: np.ndarray | None) -> np.ndarray:
            return nothing if array is None else unlocked(array).reshape(-1)

        self._arrays = [flat(operands.pop(name, None)) for name in _OPERANDS[formula]]
        self._numbers = [kind(operands.pop(name, default)) for name, default in _NUMBERS[formula].items()]
        if formula == "add":
            self._numbers.append(bool(operands.pop("positive", False)))
        # Damping needs each voxel's share of the I-divergence, which is what the sums are made of.
        self._damping, self._held_out = (
            flat(operands.pop(name, None) if formula == "ratio" else None) for name in _FOR_RATIO
        )
        if operands or (change is not None and formula not in ("multiply", "add")):
            raise TypeError(f"{', '.join(operands) or 'change'}: not an operand of {formula}")
        self._formula, self._loops = formula, loops
        self._previous, self._extrapolated, self._out = previous, extrapolated, out
        if previous is not None:
            self._previous = flat(previous)
        if extrapolated is not None:
            self._extrapolated = extrapolated.reshape(-1)
        if out is not None:
            self._out = out.reshape(-1)
        self._change = flat(change)
        self._partial = None if partial is None else flat(partial)
        self._alpha, self._scale, self._unit = kind(alpha), kind(held_out_scale), float(unit)
        self._nothing = nothing
        self._sums: dict[int, np.ndarray] | None = {} if sums else None

    def __call__(self, c: np.ndarray, start: int) -> np.ndarray:
        """Finish the values from `start` on, which are in `c`; it is private and serves as scratch."""
        part = slice(start, start + c.size)
        loops, wanted = self._loops, self._sums is not None
        sums = np.zeros(3)
        arrays = [a[part] for a in self._arrays]
        if self._partial is not None:  # known before: other terms, a background that varies
            c += self._partial[part]
        if self._formula == "ratio" and (wanted or self._damping.size):
            loops.ratio_with_sums(
                c,
                *arrays,
                self._damping[part],
                self._held_out[part],
                *self._numbers,
                self._scale,
                self._unit,
                sums,
            )
        elif self._formula != "copy":
            if self._formula == "residual" and wanted:
                loops.residual_sums(c, *arrays, *self._numbers, self._unit, sums)
            getattr(loops, self._formula)(c, *arrays, *self._numbers)
        if self._formula in ("multiply", "add"):
            if wanted or self._change.size:
                loops.movement(c, arrays[0], self._change[part], self._unit, sums)
        elif self._formula == "copy" and wanted:
            origin = self._nothing if self._previous is None else self._previous[part]
            loops.movement(c, origin, self._nothing, self._unit, sums)
        if self._sums is not None:
            self._sums[start] = sums
        ahead = c
        if self._previous is not None:
            ahead = c.copy()
            loops.extrapolate(ahead, self._previous[part], self._alpha)  # before `out`, which it may be
        if self._out is not None:
            self._out[part] = c
        if self._extrapolated is not None:
            self._extrapolated[part] = ahead
        return ahead

    def summed(self) -> Sums | None:
        """The blocks' sums, added in the order of the blocks."""
        if self._sums is None:
            return None
        total = np.sum([self._sums[start] for start in sorted(self._sums)], axis=0)
        return float(total[0]), float(total[1]), float(total[2])


_FORMULA_BLOCK = 1 << 16


def apply_formula(
    formula: str, c: np.ndarray, out: np.ndarray, *, num_threads: int | None = None, **operands: Any
) -> Sums | None:
    """The pointwise formula alone; `c` is the blurred array, or under ``multiply`` the correction."""
    return _finished(formula, c, out, resolve_num_threads(num_threads), operands)


def _finished(
    formula: str, c: np.ndarray, out: np.ndarray | None, threads: int, operands: dict[str, Any]
) -> Sums | None:
    finish = _Finish(formula, c.dtype, out, **operands)
    flat = c.reshape(-1)
    blocks = cut(flat.size, _FORMULA_BLOCK)

    def finish_block(unit: int) -> None:
        start, stop = blocks[unit]
        finish(flat[start:stop].copy(), start)

    run(len(blocks), threads, finish_block)
    return finish.summed()


def _map(start: int, length: int, box: tuple[int, int], boundary: str) -> tuple[np.ndarray, int, int]:
    """For each of `length` places from `start` on the index in the box, or -1; and where a run is."""
    first, n = start - box[0], box[1] - box[0]
    at = np.arange(first, first + length)
    inside = (at >= 0) & (at < n)
    where = np.flatnonzero(inside)
    run = (int(where[0]), int(where[-1]) + 1) if where.size else (0, 0)
    if boundary == "zero":
        return np.where(inside, at, -1), *run
    return sources_of(n, -first, first + length - n, boundary), *run


def _shape(box: Box) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in box)


class _Transfer:
    """A transfer function on the half spectrum of the plan's grid: complex, or real where it is that."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values


class SpectralPlan:
    """Grid and boxes; makes transfers (OTFs) and chains.

    Axes of length 1 are dropped. What is left is slices (all axes but the first; each is transformed as a
    whole) and columns across them.
    """

    def __init__(
        self,
        grid: tuple[int, ...],
        estimate_box: Any,
        image_box: Any,
        dtype: Any,
        reach: Any = (),
        symmetric: bool = False,
    ) -> None:
        self.grid = tuple(int(n) for n in grid)
        self.estimate_box = tuple((int(a), int(b)) for a, b in estimate_box)
        self.image_box = tuple((int(a), int(b)) for a, b in image_box)
        self.dtype = np.dtype(dtype)
        self._symmetric = symmetric
        for box in (self.estimate_box, self.image_box):
            if len(box) != len(self.grid) or any(
                not 0 <= a < b <= n for (a, b), n in zip(box, self.grid, strict=False)
            ):
                raise ValueError(f"box: got {box}, expected non-empty ranges inside the grid {self.grid}")
        self._long = [axis for axis, n in enumerate(self.grid) if n > 1]
        reach = tuple(reach) or ((0, 0),) * len(self.grid)
        lengths = [self.grid[axis] for axis in self._long]
        while len(lengths) < 2:
            lengths.insert(0, 1)
        self._depth, self._slice = lengths[0], tuple(lengths[1:])
        self._half = (*self._slice[:-1], self._slice[-1] // 2 + 1)
        self._columns = math.prod(self._half)
        self._boxes = {adjoint: self._squeezed(self._box(adjoint), (0, 1)) for adjoint in (False, True)}
        self._reach = self._squeezed(reach, (0, 0))
        self._slices_per_unit = max(1, (1 << 17) // math.prod(self._slice))
        self._columns_per_unit = max(1, (1 << 15) // self._depth)
        self._column_blocks = cut(self._columns, self._columns_per_unit)

    def _box(self, adjoint: bool) -> Box:
        """Of what a sweep in this direction consumes."""
        return self.image_box if adjoint else self.estimate_box

    def _squeezed(self, pairs: Any, fill: tuple[int, int]) -> Box:
        kept = [tuple(pairs[axis]) for axis in self._long]
        while len(kept) < 2:
            kept.insert(0, fill)
        return tuple(kept)

    @property
    def _complex(self) -> np.dtype:
        return np.dtype(np.complex64 if self.dtype == np.float32 else np.complex128)

    @property
    def _slots(self) -> int:
        """Slices that a chain holds."""
        return max(stop - start for start, stop in (box[0] for box in self._boxes.values()))

    @property
    def workspace_bytes(self) -> int:
        """One OTF and one spectrum in flight."""
        otf = self._complex.itemsize // (2 if self._symmetric else 1)
        return self._columns * (self._depth * otf + self._slots * self._complex.itemsize)

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> _Transfer:
        """OTF of `psf`: tap j at grid index (j - centre) mod grid, summed where taps meet; in float64."""
        fft = scipy_fft()
        at = [(np.arange(k) - c) % n for k, c, n in zip(psf.shape, centre, self.grid, strict=True)]
        # Of the slices only those that have taps.
        slots = np.zeros(1, np.int64)
        lengths = list(self.grid)
        if len(self._long) > 1:
            lead = self._long[0]
            slots, at[lead] = np.unique(at[lead], return_inverse=True)
            lengths[lead] = slots.size
        placed = np.zeros(lengths)
        np.add.at(placed, np.ix_(*at), psf)
        placed = placed.reshape(slots.size, *self._slice)
        slices = np.empty((slots.size, self._columns), np.complex128)
        axes = tuple(range(1, placed.ndim))

        def transform(unit: int) -> None:
            slices[unit] = fft.rfftn(placed[unit : unit + 1], axes=axes).reshape(-1)

        run(slots.size, resolve_num_threads(num_threads), transform)
        values = np.empty((self._depth, self._columns), self.dtype if self._symmetric else self._complex)

        def across(unit: int) -> None:
            start, stop = self._column_blocks[unit]
            block = np.zeros((self._depth, stop - start), np.complex128)
            block[slots] = slices[:, start:stop]
            block = fft.fft(block, axis=0, overwrite_x=True)
            values[:, start:stop] = block.real if self._symmetric else block

        run(len(self._column_blocks), resolve_num_threads(num_threads), across)
        return _Transfer(values)

    def wiener_transfer(
        self, psf_transfer: _Transfer, regularizer_transfer: _Transfer, balance: float
    ) -> _Transfer:
        """conj(H) / (|H|^2 + balance |R|^2), and 0 where that has no finite value."""
        values = np.empty_like(psf_transfer.values)
        for k in range(self._depth):  # a slice at a time: few temporaries
            otf, reg = psf_transfer.values[k], regularizer_transfer.values[k]
            divisor = np.abs(otf) ** 2 + self.dtype.type(balance) * np.abs(reg) ** 2
            np.divide(otf.conj(), divisor, out=values[k], where=divisor > 0)
            values[k][~(divisor > 0)] = 0
        return _Transfer(values)

    def gcv(
        self,
        image: np.ndarray,
        psf_transfer: _Transfer,
        regularizer_transfer: _Transfer,
        balances: np.ndarray,
        num_threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each balance b the sums over all frequencies of g²|Y|² and of g, g = b|R|² / (|H|² + b|R|²)."""
        loops = compiled_loops()
        chain = Chain(self, num_threads)
        chain.load(image, adjoint=True)
        balances = np.ascontiguousarray(balances, dtype=np.float64)
        # The half spectrum stands for both signs of the last frequency, except where they are the same one.
        last = np.full(self._half[-1], 2.0)
        last[0] = 1
        if self._slice[-1] % 2 == 0:
            last[-1] = 1
        counts = np.tile(last, self._columns // last.size)
        sums = np.empty((len(self._column_blocks), balances.size, 2))

        def add_up(unit: int) -> None:
            start, stop = self._column_blocks[unit]
            h2, r2 = (np.abs(t.values[:, start:stop]) ** 2 for t in (psf_transfer, regularizer_transfer))
            loops.gcv_sums(
                chain._columns_forward(start, stop), h2, r2, counts[start:stop], balances, sums[unit]
            )

        run(len(self._column_blocks), resolve_num_threads(num_threads), add_up)
        numerator, denominator = sums.sum(0).T
        return np.ascontiguousarray(numerator), np.ascontiguousarray(denominator)

    def chain(self, num_threads: int | None = None) -> Chain:
        return Chain(self, num_threads)


class Chain:
    """The spectrum, slice by slice, of what the next sweep consumes."""

    def __init__(self, plan: SpectralPlan, num_threads: int | None) -> None:
        self._plan = plan
        self._threads = resolve_num_threads(num_threads)
        self._slices: np.ndarray | None = None
        self._direction: bool | None = None  # adjoint, of what is loaded; None: nothing is
        self._scratch = Scratch()

    def load(self, x: np.ndarray, *, adjoint: bool = False, **operands: Any) -> Sums | None:
        """Take `x`, an estimate or (adjoint) an image; with `previous`, what lies beyond it."""
        plan = self._plan
        finish = _Finish("copy", plan.dtype, None, **operands) if operands else None
        slice_size = math.prod(_shape(plan._boxes[adjoint][1:]))
        if self._slices is None:
            self._slices = np.empty((plan._slots, plan._columns), plan._complex)
        box = plan._boxes[adjoint]
        source = unlocked(x).reshape(_shape(box))
        units = cut(len(source), plan._slices_per_unit)

        def transform(unit: int) -> None:
            start, stop = units[unit]
            values = source[start:stop]
            if finish is not None:
                values = finish(values.reshape(-1).copy(), start * slice_size).reshape(values.shape)
            with self._scratch.lend() as buffer:
                self._slices_forward(values, start, adjoint, buffer)

        self._direction = None
        run(len(units), self._threads, transform)
        self._direction = adjoint
        return None if finish is None else finish.summed()

    def _slices_forward(
        self, values: np.ndarray, first: int, adjoint: bool, buffer: Callable[..., np.ndarray]
    ) -> None:
        """Transform slices whose values inside the box are `values`."""
        plan = self._plan
        assert self._slices is not None
        box = plan._boxes[adjoint][1:]
        placed = values
        if any(b != (0, n) for b, n in zip(box, plan._slice, strict=True)):
            placed = buffer("placed", (len(values), *plan._slice), plan.dtype)
            placed[...] = 0
            placed[(slice(None), *(slice(*b) for b in box))] = values
            for axis, ((low, high), (_, stop), n) in enumerate(
                zip(plan._reach[1:], box, plan._slice, strict=True), start=1
            ):
                if adjoint:  # the transpose reads as far in the other direction
                    low, high = high, low
                lines = np.moveaxis(placed, axis, 0)
                if low + high:
                    lines[stop : stop + high] = lines[:high]
                    lines[n - low :] = lines[stop - low : stop]
        spectrum = scipy_fft().rfftn(placed, axes=tuple(range(1, placed.ndim)))
        self._slices[first : first + len(values)] = spectrum.reshape(len(values), -1)

    def _columns_forward(self, start: int, stop: int) -> np.ndarray:
        """The transforms across slices, of the columns from `start` to `stop`."""
        plan, adjoint = self._plan, self._direction
        assert self._slices is not None and adjoint is not None
        (first, last), (low, high) = plan._boxes[adjoint][0], plan._reach[0]
        if adjoint:
            low, high = high, low
        count = last - first
        columns = self._slices[:count, start:stop]
        block = np.empty((plan._depth, stop - start), plan._complex)
        block[first:last] = columns
        block[:first] = 0
        block[last:] = 0
        if low + high:  # then the box starts at 0
            block[last : last + high] = columns[:high]
            block[plan._depth - low :] = columns[count - low :]
        return scipy_fft().fft(block, axis=0, overwrite_x=True)

    def sweep(
        self,
        transfer: _Transfer,
        formula: str,
        *,
        adjoint: bool = False,
        keep: bool = True,
        out: np.ndarray | None = None,
        **operands: Any,
    ) -> Sums | None:
        """Apply `transfer` (its adjoint), then `formula`; the result goes to `out` and the next sweep."""
        if self._direction is None:
            raise RuntimeError("nothing is loaded: call load() first, or keep=True in the sweep before")
        if self._direction != adjoint:
            raise RuntimeError("what is loaded is an estimate or an image: adjoint is not what it was there")
        plan, loops, fft = self._plan, compiled_loops(), scipy_fft()
        slices = self._slices
        assert slices is not None
        finish = _Finish(formula, plan.dtype, out, **operands)
        box = plan._boxes[not adjoint]
        first, last = box[0]

        def across(unit: int) -> None:
            start, stop = plan._column_blocks[unit]
            block = self._columns_forward(start, stop)
            loops.multiply_spectrum(block, transfer.values, start, adjoint)
            block = fft.ifft(block, axis=0, overwrite_x=True)
            slices[: last - first, start:stop] = block[first:last]

        run(len(plan._column_blocks), self._threads, across)
        units = cut(last - first, plan._slices_per_unit)
        window = (slice(None), *(slice(*b) for b in box[1:]))
        axes = tuple(range(1, len(plan._slice) + 1))
        slice_size = math.prod(_shape(box[1:]))

        def back(unit: int) -> None:
            start, stop = units[unit]
            spectrum = slices[start:stop].reshape(stop - start, *plan._half)
            blurred = fft.irfftn(spectrum, plan._slice, axes)[window]
            values = np.ascontiguousarray(blurred)
            ahead = finish(values.reshape(-1), start * slice_size)
            if keep:
                with self._scratch.lend() as buffer:
                    self._slices_forward(ahead.reshape(values.shape), start, not adjoint, buffer)

        self._direction = None
        run(len(units), self._threads, back)
        self._direction = not adjoint if keep else None
        return finish.summed()


class _ArrayPlan:
    """What the engines without a spectrum in flight share: boxes, and a chain that keeps an array."""

    def __init__(self, estimate_box: Any, image_box: Any, periodic: bool, dtype: Any) -> None:
        self.estimate_box = tuple((int(a), int(b)) for a, b in estimate_box)
        self.image_box = tuple((int(a), int(b)) for a, b in image_box)
        self.boundary = "wrap" if periodic else "zero"
        self.dtype = np.dtype(dtype)

    def _sides(self, adjoint: bool) -> tuple[Box, Box]:
        """Boxes of what a sweep reads and of what it writes."""
        return (self.image_box, self.estimate_box) if adjoint else (self.estimate_box, self.image_box)

    def _outside(self, adjoint: bool) -> str:
        """The rule of what a sweep reads outside."""
        return self.boundary

    @property
    def workspace_bytes(self) -> int:
        """The result kept between two sweeps; all else stays in the caches."""
        return self.dtype.itemsize * math.prod(_shape(self.estimate_box))

    def _maps(
        self, taps: tuple[int, ...], centre: tuple[int, ...], adjoint: bool
    ) -> list[tuple[np.ndarray, int, int]]:
        """Per axis (three of them): the map of the places that the result's box reads, see `_map`."""
        source, box = self._sides(adjoint)
        maps = []
        for k, c, side, (start, stop) in zip(
            three(taps, 1), three(centre, 0), three(source, (0, 1)), three(box, (0, 1)), strict=True
        ):
            before = c if adjoint else k - 1 - c
            maps.append(_map(start - before, stop - start + k - 1, side, self._outside(adjoint)))
        return maps

    def _sweep(
        self, source: np.ndarray, transfer: Any, adjoint: bool, finish: _Finish, chain: ArrayChain
    ) -> None:
        raise NotImplementedError

    def chain(self, num_threads: int | None = None) -> ArrayChain:
        return ArrayChain(self, num_threads)


class ArrayChain:
    """The array that the next sweep of an engine without transforms consumes."""

    def __init__(self, plan: _ArrayPlan, num_threads: int | None) -> None:
        self._plan = plan
        self._threads = resolve_num_threads(num_threads)
        self._loaded: np.ndarray | None = None
        self._scratch = Scratch()
        self._padded: np.ndarray | None = None

    def load(self, x: np.ndarray, *, adjoint: bool = False, **operands: Any) -> Sums | None:
        """Take `x`, an estimate or (adjoint) an image; with `previous`, what lies beyond it."""
        x = unlocked(x)
        if not operands:
            self._loaded = x
            return None
        if operands.get("previous") is not None and operands.get("extrapolated") is None:
            operands["extrapolated"] = np.empty_like(x)
        sums = _finished("copy", x, None, self._threads, operands)
        self._loaded = operands.get("extrapolated", x)
        return sums

    def _padded_buffer(self, size: int) -> np.ndarray:
        if self._padded is None or self._padded.size < size:
            self._padded = np.empty(size, self._plan.dtype)
        return self._padded[:size]

    def sweep(
        self,
        transfer: Any,
        formula: str,
        *,
        adjoint: bool = False,
        keep: bool = True,
        out: np.ndarray | None = None,
        previous: np.ndarray | None = None,
        extrapolated: np.ndarray | None = None,
        **operands: Any,
    ) -> Sums | None:
        """Apply `transfer` (its adjoint), then `formula`; the result goes to `out` and the next sweep."""
        if self._loaded is None:
            raise RuntimeError("nothing is loaded: call load() first, or keep=True in the sweep before")
        plan = self._plan
        shape = _shape(plan._sides(adjoint)[1])
        kept = None
        if keep and previous is None:
            kept = out = np.empty(shape, plan.dtype) if out is None else out
        elif keep:
            if extrapolated is None:
                extrapolated = np.empty(shape, plan.dtype)
            kept = extrapolated
        finish = _Finish(formula, plan.dtype, out, previous=previous, extrapolated=extrapolated, **operands)
        source = self._loaded
        for written in (out, extrapolated):  # a tile reads what its neighbours may have overwritten
            if written is not None and np.may_share_memory(source, written):
                source = source.copy()
        self._loaded = None
        plan._sweep(source, transfer, adjoint, finish, self)
        self._loaded = kept
        return finish.summed()


def _finish_tile(finish: _Finish, tile: np.ndarray, z0: int, y0: int, height: int) -> None:
    """Of an array with `height` rows per plane; whole planes are one piece of memory."""
    width = tile.shape[2]
    if tile.shape[1] == height:
        finish(tile.reshape(-1), z0 * height * width)
    else:
        for z in range(tile.shape[0]):
            finish(tile[z].reshape(-1), ((z0 + z) * height + y0) * width)


class CosinePlan(_ArrayPlan):
    """An image that goes on as its own mirror image, in cosine transforms of its own size.

    Axes of length 1 are dropped. What is left is slices (all axes but the first; a few are transformed
    together) and columns across them.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        whole = tuple((0, int(n)) for n in shape)
        super().__init__(whole, whole, False, dtype)
        long = [int(n) for n in shape if n > 1]
        self._split = (1,) * (2 - len(long)) + tuple(long)
        columns = math.prod(self._split[1:])
        self._slices = cut(self._split[0], max(1, (1 << 17) // columns))
        self._columns = cut(columns, max(1, (1 << 15) // self._split[0]))

    @property
    def workspace_bytes(self) -> int:
        """One transfer function and one spectrum in flight, and the result kept between two sweeps."""
        return 3 * super().workspace_bytes

    def transfer(self, psf: np.ndarray, num_threads: int | None = None) -> np.ndarray:
        """H(k) = sum over offsets d of psf(d) cos(pi k d / n) for each axis; in float64, then rounded."""
        if any(k % 2 == 0 for k in psf.shape):
            raise ValueError("psf: expected odd lengths")
        values = psf.astype(np.float64)
        for axis, (n, k) in enumerate(zip(_shape(self.estimate_box), psf.shape, strict=True)):
            cosines = np.cos(np.pi / n * np.outer(np.arange(n), np.arange(k) - k // 2))
            values = np.moveaxis(np.tensordot(cosines, values, (1, axis)), 0, axis)
        return np.ascontiguousarray(values, self.dtype).reshape(self._split[0], -1)

    def _sweep(
        self, source: np.ndarray, transfer: Any, adjoint: bool, finish: _Finish, chain: ArrayChain
    ) -> None:
        fft = scipy_fft()
        slices = source.reshape(self._split)
        spectrum = np.empty(self._split, self.dtype)
        lines = spectrum.reshape(self._split[0], -1)
        axes = tuple(range(1, len(self._split)))

        def there(unit: int) -> None:
            start, stop = self._slices[unit]
            spectrum[start:stop] = fft.dctn(slices[start:stop], axes=axes, norm="ortho")

        def across(unit: int) -> None:
            start, stop = self._columns[unit]
            made = fft.dct(lines[:, start:stop], axis=0, norm="ortho")
            made *= transfer[:, start:stop]
            lines[:, start:stop] = fft.idct(made, axis=0, norm="ortho")

        def back(unit: int) -> None:
            start, stop = self._slices[unit]
            made = fft.idctn(spectrum[start:stop], axes=axes, norm="ortho")
            finish(np.ascontiguousarray(made).reshape(-1), start * lines.shape[1])

        run(len(self._slices), chain._threads, there)
        run(len(self._columns), chain._threads, across)
        run(len(self._slices), chain._threads, back)


class SeparablePlan(_ArrayPlan):
    """Boxes of an operator whose PSF is a sum of products of one filter per axis."""

    def __init__(
        self,
        estimate_box: Any,
        image_box: Any,
        boundary: str,
        dtype: Any,
        padded_box: Any = None,
        mirrored: bool = False,
    ) -> None:
        super().__init__(estimate_box, image_box, False, dtype)
        self.boundary = boundary
        unfolded = estimate_box if mirrored or padded_box is None else padded_box
        self._unfolded = tuple((int(a), int(b)) for a, b in unfolded)

    def _sides(self, adjoint: bool) -> tuple[Box, Box]:
        return (self.image_box, self._unfolded) if adjoint else (self.estimate_box, self.image_box)

    def _outside(self, adjoint: bool) -> str:
        return "zero" if adjoint and self._unfolded != self.estimate_box else self.boundary

    def transfer(
        self, terms: Any, centre: tuple[int, ...], num_threads: int | None = None
    ) -> tuple[list[list[np.ndarray]], tuple[int, ...]]:
        return [[np.array(line, self.dtype) for line in taps] for taps in terms], tuple(
            int(c) for c in centre
        )

    def _sweep(
        self, source: np.ndarray, transfer: Any, adjoint: bool, finish: _Finish, chain: ArrayChain
    ) -> None:
        loops = compiled_loops()
        terms, centre = transfer
        maps = self._maps(tuple(line.size for line in terms[0]), centre, adjoint)
        one = np.ones(1, self.dtype)
        filters = [
            [np.ascontiguousarray(line if adjoint else line[::-1]) for line in three(taps, one)]
            for taps in terms
        ]
        taps_y, taps_x = filters[0][1].size, filters[0][2].size
        depth, height, width = three(_shape(self._sides(adjoint)[1]), 1)
        x = source.reshape(three(source.shape, 1))
        # A tile and what it reads fit the second cache. Slices together share what the z filter reads.
        z_step = min(depth, 8)
        room = (1 << 20) // (z_step * x.shape[2] * self.dtype.itemsize) - taps_y
        y_step = min(height, max(8, min(128, room)))
        tiles = [(z, y) for z in cut(depth, z_step) for y in cut(height, y_step)]
        pitch = width + taps_x - 1
        row = max(x.shape[2], pitch)

        def filter_tile(unit: int) -> None:
            (z0, z1), (y0, y1) = tiles[unit]
            shape = (z1 - z0, y1 - y0, width)
            with chain._scratch.lend() as buffer:
                tile = buffer("tile", shape, self.dtype)
                for number, lines in enumerate(filters):
                    term = buffer("term", shape, self.dtype) if number else tile
                    loops.separable_tile(
                        x,
                        term,
                        z0,
                        y0,
                        *(m[0] for m in maps),
                        *maps[2][1:],
                        *lines,
                        buffer("z", (z1 - z0, (y1 - y0 + taps_y - 1) * x.shape[2]), self.dtype),
                        buffer("y", (y1 - y0) * row, self.dtype),
                        buffer("padded", (y1 - y0) * pitch, self.dtype),
                        buffer("partial", loops.BLOCK, self.dtype),
                    )
                    if number:
                        tile += term
                _finish_tile(finish, tile, z0, y0, height)

        run(len(tiles), chain._threads, filter_tile)


class DirectPlan(_ArrayPlan):
    """Boxes of an operator that is summed tap by tap, for small PSFs of any shape."""

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> Any:
        return np.array(psf, self.dtype), tuple(int(c) for c in centre)

    def _sweep(
        self, source: np.ndarray, transfer: Any, adjoint: bool, finish: _Finish, chain: ArrayChain
    ) -> None:
        loops = compiled_loops()
        psf, centre = transfer
        maps = self._maps(psf.shape, centre, adjoint)
        taps = psf.reshape(three(psf.shape, 1))
        x = source.reshape(three(source.shape, 1))
        depth, height, width = three(_shape(self._sides(adjoint)[1]), 1)
        pitch = len(maps[2][0])
        # A tile and what it reads fit the second cache, and it is large beside the cost of a call. Whole
        # planes where they are small: the formula then takes a tile in one call.
        if 2 * height * pitch <= 1 << 16:
            y_step, z_step = height, min(depth, 8, (1 << 16) // (height * pitch))
        else:
            z_step = min(depth, 8)
            y_step = min(height, max(4, (1 << 15) // (z_step * pitch)))
        tiles = [(z, y) for z in cut(depth, z_step) for y in cut(height, y_step)]
        read = (z_step + taps.shape[0] - 1, y_step + taps.shape[1] - 1, pitch)
        places = np.array(list(np.ndindex(taps.shape)), np.int64).reshape(-1, 3)
        offsets = places @ np.array([read[1] * pitch, pitch, 1])
        weights = np.ascontiguousarray((taps if adjoint else np.flip(taps)).reshape(-1))

        def sum_taps(unit: int) -> None:
            (z0, z1), (y0, y1) = tiles[unit]
            with chain._scratch.lend() as buffer:
                tile = buffer("tile", (z1 - z0, y1 - y0, width), self.dtype)
                loops.direct_tile(
                    x,
                    tile,
                    z0,
                    y0,
                    *(m[0] for m in maps),
                    *maps[2][1:],
                    offsets,
                    weights,
                    buffer("read", read, self.dtype),
                    buffer("line", y_step * pitch, self.dtype),
                    buffer("partial", loops.BLOCK, self.dtype),
                )
                _finish_tile(finish, tile, z0, y0, height)

        run(len(tiles), chain._threads, sum_taps)


class OverlapPlan(_ArrayPlan):
    """Boxes of which one axis is longer than 1: cut into overlapping segments, transformed together."""

    _SEGMENTS = 8  # per unit

    @property
    def workspace_bytes(self) -> int:
        """The result kept between two sweeps, and the input continued to whole segments (about as large)."""
        return 2 * super().workspace_bytes

    @property
    def _axis(self) -> int:
        lengths = _shape(self.estimate_box)
        return lengths.index(max(lengths))

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> Any:
        taps = psf.reshape(-1)
        longest = max(max(_shape(self.estimate_box)), max(_shape(self.image_box))) + taps.size - 1
        length = good_size(min(max(8 * taps.size, 1 << 12), longest), even=True)
        otf = scipy_fft().rfft(taps.astype(np.float64), length)
        kind = np.complex64 if self.dtype == np.float32 else np.complex128
        return otf.astype(kind), length, taps.size, int(centre[self._axis])

    def _sweep(
        self, source: np.ndarray, transfer: Any, adjoint: bool, finish: _Finish, chain: ArrayChain
    ) -> None:
        loops, fft = compiled_loops(), scipy_fft()
        otf, length, taps, centre = transfer
        factor = otf.conj() if adjoint else otf
        source_box, box = (side[self._axis] for side in self._sides(adjoint))
        before = centre if adjoint else taps - 1 - centre
        size = box[1] - box[0]
        step = length - taps + 1
        units = cut(-(-size // step), self._SEGMENTS)
        segments = units[-1][1]
        places = _map(box[0] - before, size + taps - 1, source_box, self.boundary)
        padded = chain._padded_buffer((segments - 1) * step + length)
        one = np.zeros(1, np.int64)
        loops.gather(
            source.reshape(1, 1, -1),
            padded[: size + taps - 1].reshape(1, 1, -1),
            0,
            one,
            one,
            places[0],
            *places[1:],
        )
        padded[size + taps - 1 :] = 0
        lines = np.lib.stride_tricks.sliding_window_view(padded, length)[::step]
        valid = slice(0, step) if adjoint else slice(taps - 1, length)

        def transform(unit: int) -> None:
            start, stop = units[unit]
            blurred = fft.irfft(fft.rfft(lines[start:stop]) * factor, length)[:, valid]
            values = np.ascontiguousarray(blurred).reshape(-1)[: size - start * step]
            finish(values, start * step)

        run(len(units), chain._threads, transform)


def penalty(
    kind: str,
    x: np.ndarray,
    out: np.ndarray,
    spacing: tuple[float, ...],
    weight: float,
    level: float,
    *,
    num_threads: int | None = None,
) -> None:
    """What a regularizer multiplies a correction by: out = 1 / max(1 + weight dU/dx, 0.1)."""
    if kind not in ("tv", "tikhonov", "good-roughness", "entropy"):
        raise ValueError(f"kind: got {kind!r}, expected tv, tikhonov, good-roughness or entropy")
    loops, number = compiled_loops(), x.dtype.type
    volume, result = (a.reshape(three(a.shape, 1)) for a in (unlocked(x), out))
    lengths = three(tuple(float(s) for s in spacing), 1.0)
    real = [length for length, n in zip(lengths, volume.shape, strict=True) if n > 1]
    inverse = np.array([min(real, default=1.0) / length for length in lengths], x.dtype)
    planes = planes_of(volume)

    def write(unit: int) -> None:
        first, last = planes[unit]
        if kind == "entropy":
            slope = np.log(np.maximum(volume[first:last] / number(level), number(1e-6)))
        else:
            # One plane before and one behind, as far as there are any.
            start, stop = max(first - 1, 0), min(last + 1, len(volume))
            u = volume[start:stop]
            if kind == "good-roughness":
                u = np.sqrt(np.maximum(u, number(1e-6 * level)))
            slope = np.empty((last - first, *volume.shape[1:]), x.dtype)
            floor = number((1e-5 * level) ** 2)
            loops.slopes(u, slope, first - start, last - start, inverse, kind == "tv", floor)
            if kind == "tv":
                np.negative(slope, out=slope)
            elif kind == "tikhonov":
                slope *= number(-2 / level)
            else:
                slope *= number(-4)
                slope /= u[first - start : last - start]
        slope *= number(weight)
        slope += number(1)
        np.maximum(slope, number(0.1), out=slope)
        np.divide(number(1), slope, out=result[first:last])

    run(len(planes), resolve_num_threads(num_threads), write)


def denoised(
    z: np.ndarray,
    dual: np.ndarray,
    out: np.ndarray,
    weight: tuple[float, ...],
    lowest: float,
    *,
    num_threads: int | None = None,
) -> None:
    """out = max(z + div(weight * dual), lowest)."""
    loops, volume, components, places = compiled_loops(), unlocked(z), unlocked(dual), _places_of(z.shape)
    volume, result = (a.reshape(three(a.shape, 1)) for a in (volume, out))
    components = components.reshape(-1, *volume.shape)
    weights = np.array(three(weight, 0.0), z.dtype)
    planes = planes_of(volume)
    least = z.dtype.type(lowest)

    def write(unit: int) -> None:
        loops.denoise_values(volume, components, places, weights, least, *planes[unit], result)

    run(len(planes), resolve_num_threads(num_threads), write)


def denoise_step(
    z: np.ndarray,
    ahead: np.ndarray,
    dual: np.ndarray,
    weight: tuple[float, ...],
    step: tuple[float, ...],
    momentum: float,
    lowest: float,
    *,
    num_threads: int | None = None,
) -> None:
    """From `ahead` along the gradient of what it stands for, projected, to the new `dual`, and beyond it."""
    loops, places, x = compiled_loops(), _places_of(z.shape), empty(z.shape, z.dtype)
    denoised(z, ahead, x, weight, lowest, num_threads=num_threads)
    x = x.reshape(three(x.shape, 1))
    components, before = (a.reshape(-1, *x.shape) for a in (ahead, dual))
    steps = np.array(three(step, 0.0), z.dtype)
    planes = planes_of(x)
    further = z.dtype.type(momentum)

    def write(unit: int) -> None:
        loops.denoise_ascend(x, components, before, places, steps, further, *planes[unit])

    run(len(planes), resolve_num_threads(num_threads), write)


def _places_of(shape: tuple[int, ...]) -> np.ndarray:
    """Which component of a dual belongs to each of three axes: those longer than 1 have one, -1: none."""
    long = np.array(three(shape, 1)) > 1
    return np.where(long, np.cumsum(long) - 1, -1)


def resident(array: np.ndarray) -> np.ndarray:
    """The array where the backend computes."""
    return array


def pad(
    x: np.ndarray,
    low: tuple[int, ...],
    high: tuple[int, ...],
    boundary: str,
    num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """`x` continued by `low` voxels before and `high` behind each axis, as `boundary` says."""
    loops = compiled_loops()
    x = unlocked(x)
    shape = three(x.shape, 1)
    low, high = three(low, 0), three(high, 0)
    maps = [sources_of(n, a, b, boundary) for n, a, b in zip(shape, low, high, strict=True)]
    lengths = [len(m) for m in maps]
    made = np.empty(lengths, x.dtype) if out is None else out.reshape(lengths)
    blocks = planes_of(made)

    def fill(unit: int) -> None:
        start, stop = blocks[unit]
        loops.gather(x.reshape(shape), made[start:stop], start, *maps, low[2], low[2] + shape[2])

    run(len(blocks), resolve_num_threads(num_threads), fill)
    return made.reshape(made.shape[3 - x.ndim :]) if out is None else out


def fold(
    y: np.ndarray,
    low: tuple[int, ...],
    high: tuple[int, ...],
    boundary: str,
    num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The exact transpose of `pad`: every padded voxel is added to the one that it repeats."""
    y = unlocked(y)
    for axis, (a, b) in enumerate(zip(low, high, strict=True)):
        n = y.shape[axis] - a - b
        y = folded(y, axis, sources_of(n, a, b, boundary), n, num_threads)
    if out is None:
        return y
    out[...] = y
    return out
