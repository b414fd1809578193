"""The backend without a compiler: loops compiled by Numba, transforms by scipy.fft.

The same kernels as the C++ backend in the same blocks: a sweep transforms slices, multiplies columns by the
OTF and finishes slices with the formula while they are in cache. Threads are this module's own, Python
threads around kernels that release the GIL, and not Numba's: its OpenMP layer kills forked children, its
workqueue layer must not be entered twice, and neither shares its threads among callers. Units of work are
laid out by shape alone, so results have the same bits for any number of threads.

Numba and SciPy are imported when the backend is first asked whether it is available.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from .._threads import MOST, resolve_num_threads

NAME = "numba"

Box = tuple[tuple[int, int], ...]
Sums = tuple[float, float, float]


@functools.cache
def _imported() -> tuple[ModuleType, ModuleType, str | None]:
    """The compiled loops, scipy.fft, and why one of them is missing."""
    try:
        loops = importlib.import_module("medeconv_fast.backends._numba_kernels")
        fft = importlib.import_module("scipy.fft")
    except ImportError as error:
        return np, np, str(error)  # never used as such: everything asks is_available or _needed first
    return loops, fft, None


def is_available() -> bool:
    return unavailable_reason() is None


def unavailable_reason() -> str | None:
    error = _imported()[2]
    if error is None:
        return None
    return f'it needs Numba and SciPy ({error}): pip install "medeconv-fast[numba]"'


def _loops() -> ModuleType:
    loops, _, error = _imported()
    if error is not None:
        raise ImportError(f"backend 'numba': {unavailable_reason()}")
    return loops


def _fft() -> ModuleType:
    _loops()
    return _imported()[1]


def describe() -> dict[str, Any]:
    _loops()
    return {name: importlib.import_module(name).__version__ for name in ("numba", "scipy")}


def release_memory() -> None:
    """Nothing is kept: buffers live as long as the chain or plan that uses them."""


def good_size(n: int, *, even: bool = False) -> int:
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


class _Pool:
    """The threads that all calls of this process share; the same rules as ``cpp/threads.hpp``."""

    def __init__(self) -> None:
        self._busy = threading.Lock()  # held by the caller whose work is shared
        self._counting = threading.Lock()
        self._callers = 0
        self._executor: futures.ThreadPoolExecutor | None = None

    def run(self, units: int, threads: int, body: Callable[[int], None]) -> None:
        """body(unit) for every unit, on at most `threads` threads, the caller's included."""
        with self._counting:
            self._callers += 1
        try:
            if min(threads, units) > 1 and self._busy.acquire(blocking=False):
                try:
                    self._share(units, threads, body)
                finally:
                    self._busy.release()
            else:  # the others are at work for somebody else
                for unit in range(units):
                    body(unit)
        finally:
            with self._counting:
                self._callers -= 1

    def _share(self, units: int, threads: int, body: Callable[[int], None]) -> None:
        if self._executor is None:  # starts threads as they are needed
            self._executor = futures.ThreadPoolExecutor(MOST, "medeconv")
        pending = deque(range(units))

        def work(worker: int) -> None:
            # Every further caller works on its own thread: as many helpers make room for it.
            while not worker or worker + self._callers <= threads:
                try:
                    unit = pending.popleft()
                except IndexError:
                    return
                try:
                    body(unit)
                except BaseException:
                    pending.clear()
                    raise

        helpers = [self._executor.submit(work, i) for i in range(1, min(threads, units))]
        interrupted: BaseException | None = None
        try:
            work(0)
        except BaseException as error:
            pending.clear()
            interrupted = error
        for helper in helpers:
            # Nobody may write to the caller's arrays once this returns, Ctrl-C or not.
            while not (helper.cancel() or helper.done()):
                try:
                    futures.wait([helper])
                except KeyboardInterrupt as error:
                    pending.clear()
                    interrupted = error
        if interrupted is not None:
            raise interrupted
        for helper in helpers:
            if not helper.cancelled():
                helper.result()


_pool = _Pool()


def _new_pool() -> None:  # a forked child has none of the parent's threads, and its locks may be held by them
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_pool)


def _run(units: int, num_threads: int | None, body: Callable[[int], None]) -> None:
    _pool.run(units, resolve_num_threads(num_threads), body)


class _Scratch:
    """Buffers for as many threads as work at the same time; fresh memory costs more than a small unit."""

    def __init__(self) -> None:
        self._free: deque[dict[str, np.ndarray]] = deque()

    @contextmanager
    def lend(self) -> Iterator[Callable[..., np.ndarray]]:
        try:
            buffers = self._free.pop()
        except IndexError:
            buffers = {}

        def buffer(name: str, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
            size = math.prod(shape) if isinstance(shape, tuple) else shape
            have = buffers.get(name)
            if have is None or have.size < size or have.dtype != dtype:
                have = buffers[name] = np.empty(size, dtype)
            return have[:size].reshape(shape)

        yield buffer
        self._free.append(buffers)  # after an error they are dropped


def _blocks(total: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, total)) for start in range(0, total, size)]


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
        sums: bool = False,
        unit: float = 1.0,
        change: np.ndarray | None = None,
        held_out_scale: float = 1.0,
        **operands: Any,
    ) -> None:
        if extrapolated is not None and previous is None:
            raise ValueError("extrapolated: needs previous")
        loops = _loops()
        kind = dtype.type
        nothing = np.empty(0, dtype)

        def flat(array: np.ndarray | None) -> np.ndarray:
            return nothing if array is None else array.reshape(-1)

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
            self._previous = previous.reshape(-1)
        if extrapolated is not None:
            self._extrapolated = extrapolated.reshape(-1)
        if out is not None:
            self._out = out.reshape(-1)
        self._change = flat(change)
        self._alpha, self._scale, self._unit = kind(alpha), kind(held_out_scale), float(unit)
        self._nothing = nothing
        self._sums: dict[int, np.ndarray] | None = {} if sums else None

    def __call__(self, c: np.ndarray, start: int) -> np.ndarray:
        """Finish the values from `start` on, which are in `c`; it is private and serves as scratch."""
        part = slice(start, start + c.size)
        loops, wanted = self._loops, self._sums is not None
        sums = np.zeros(3)
        arrays = [a[part] for a in self._arrays]
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
    blocks = _blocks(flat.size, _FORMULA_BLOCK)

    def finish_block(unit: int) -> None:
        start, stop = blocks[unit]
        finish(flat[start:stop].copy(), start)

    _pool.run(len(blocks), threads, finish_block)
    return finish.summed()


def _map(start: int, length: int, box: tuple[int, int], periodic: bool) -> tuple[np.ndarray, int, int]:
    """For each of `length` places from `start` on the index in the box, -1 outside; and where a run is."""
    first, stop = box
    at = np.arange(start - first, start - first + length)
    inside = (at >= 0) & (at < stop - first)
    where = np.flatnonzero(inside)
    run = (int(where[0]), int(where[-1]) + 1) if where.size else (0, 0)
    return np.where(inside, at, at % (stop - first) if periodic else -1), *run


def _three(values: Any, fill: Any) -> tuple[Any, ...]:
    return (fill,) * (3 - len(values)) + tuple(values)


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
        self._column_blocks = _blocks(self._columns, self._columns_per_unit)

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
        fft = _fft()
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

        _run(slots.size, num_threads, transform)
        values = np.empty((self._depth, self._columns), self.dtype if self._symmetric else self._complex)

        def across(unit: int) -> None:
            start, stop = self._column_blocks[unit]
            block = np.zeros((self._depth, stop - start), np.complex128)
            block[slots] = slices[:, start:stop]
            block = fft.fft(block, axis=0, overwrite_x=True)
            values[:, start:stop] = block.real if self._symmetric else block

        _run(len(self._column_blocks), num_threads, across)
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
        loops = _loops()
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

        _run(len(self._column_blocks), num_threads, add_up)
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
        self._scratch = _Scratch()

    def load(self, x: np.ndarray, *, adjoint: bool = False, **operands: Any) -> Sums | None:
        """Take `x`, an estimate or (adjoint) an image; with `previous`, what lies beyond it."""
        plan = self._plan
        finish = _Finish("copy", plan.dtype, None, **operands) if operands else None
        slice_size = math.prod(_shape(plan._boxes[adjoint][1:]))
        if self._slices is None:
            self._slices = np.empty((plan._slots, plan._columns), plan._complex)
        box = plan._boxes[adjoint]
        source = x.reshape(_shape(box))
        units = _blocks(len(source), plan._slices_per_unit)

        def transform(unit: int) -> None:
            start, stop = units[unit]
            values = source[start:stop]
            if finish is not None:
                values = finish(values.reshape(-1).copy(), start * slice_size).reshape(values.shape)
            with self._scratch.lend() as buffer:
                self._slices_forward(values, start, adjoint, buffer)

        self._direction = None
        _pool.run(len(units), self._threads, transform)
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
        spectrum = _fft().rfftn(placed, axes=tuple(range(1, placed.ndim)))
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
        return _fft().fft(block, axis=0, overwrite_x=True)

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
        plan, loops, fft = self._plan, _loops(), _fft()
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

        _pool.run(len(plan._column_blocks), self._threads, across)
        units = _blocks(last - first, plan._slices_per_unit)
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
        _pool.run(len(units), self._threads, back)
        self._direction = not adjoint if keep else None
        return finish.summed()


class _ArrayPlan:
    """What the engines without a spectrum in flight share: boxes, and a chain that keeps an array."""

    def __init__(self, estimate_box: Any, image_box: Any, periodic: bool, dtype: Any) -> None:
        self.estimate_box = tuple((int(a), int(b)) for a, b in estimate_box)
        self.image_box = tuple((int(a), int(b)) for a, b in image_box)
        self.periodic = periodic
        self.dtype = np.dtype(dtype)

    def _sides(self, adjoint: bool) -> tuple[Box, Box]:
        """Boxes of what a sweep reads and of what it writes."""
        return (self.image_box, self.estimate_box) if adjoint else (self.estimate_box, self.image_box)

    @property
    def workspace_bytes(self) -> int:
        """The result kept between two sweeps, and the input continued by the PSF's reach (about as large)."""
        return 2 * self.dtype.itemsize * math.prod(_shape(self.estimate_box))

    def _maps(
        self, taps: tuple[int, ...], centre: tuple[int, ...], adjoint: bool
    ) -> list[tuple[np.ndarray, int, int]]:
        """Per axis (three of them): the map of the places that the result's box reads, see `_map`."""
        source, box = self._sides(adjoint)
        maps = []
        for k, c, side, (start, stop) in zip(
            _three(taps, 1), _three(centre, 0), _three(source, (0, 1)), _three(box, (0, 1)), strict=True
        ):
            before = c if adjoint else k - 1 - c
            maps.append(_map(start - before, stop - start + k - 1, side, self.periodic))
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
        self._scratch = _Scratch()
        self._padded: np.ndarray | None = None

    def load(self, x: np.ndarray, *, adjoint: bool = False, **operands: Any) -> Sums | None:
        """Take `x`, an estimate or (adjoint) an image; with `previous`, what lies beyond it."""
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


class SeparablePlan(_ArrayPlan):
    """Boxes of an operator whose PSF is a sum of products of one filter per axis."""

    @property
    def workspace_bytes(self) -> int:
        """The result kept between two sweeps; all else stays in the caches."""
        return self.dtype.itemsize * math.prod(_shape(self.estimate_box))

    def transfer(
        self, terms: Any, centre: tuple[int, ...], num_threads: int | None = None
    ) -> tuple[list[list[np.ndarray]], tuple[int, ...]]:
        return [[np.array(line, self.dtype) for line in taps] for taps in terms], tuple(
            int(c) for c in centre
        )

    def _sweep(
        self, source: np.ndarray, transfer: Any, adjoint: bool, finish: _Finish, chain: ArrayChain
    ) -> None:
        loops = _loops()
        terms, centre = transfer
        maps = self._maps(tuple(line.size for line in terms[0]), centre, adjoint)
        one = np.ones(1, self.dtype)
        filters = [
            [np.ascontiguousarray(line if adjoint else line[::-1]) for line in _three(taps, one)]
            for taps in terms
        ]
        taps_y, taps_x = filters[0][1].size, filters[0][2].size
        depth, height, width = _three(_shape(self._sides(adjoint)[1]), 1)
        x = source.reshape(_three(source.shape, 1))
        # A tile and what it reads fit the second cache. Slices together share what the z filter reads.
        z_step = min(depth, 8)
        room = (1 << 20) // (z_step * x.shape[2] * self.dtype.itemsize) - taps_y
        y_step = min(height, max(8, min(64, room)))
        tiles = [(z, y) for z in _blocks(depth, z_step) for y in _blocks(height, y_step)]
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
                for z in range(z0, z1):
                    finish(tile[z - z0].reshape(-1), (z * height + y0) * width)

        _pool.run(len(tiles), chain._threads, filter_tile)


class DirectPlan(_ArrayPlan):
    """Boxes of an operator that is summed tap by tap, for small PSFs of any shape."""

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> Any:
        return np.array(psf, self.dtype), tuple(int(c) for c in centre)

    def _sweep(
        self, source: np.ndarray, transfer: Any, adjoint: bool, finish: _Finish, chain: ArrayChain
    ) -> None:
        """On a copy of the source continued by the PSF's reach, each tap being a shift of one line."""
        loops = _loops()
        psf, centre = transfer
        maps = self._maps(psf.shape, centre, adjoint)
        padded_shape = tuple(len(m[0]) for m in maps)
        padded = chain._padded_buffer(math.prod(padded_shape))
        x, volume = source.reshape(_three(source.shape, 1)), padded.reshape(padded_shape)
        slabs = _blocks(padded_shape[0], max(1, (1 << 16) // math.prod(padded_shape[1:])))

        def fill(unit: int) -> None:
            start, stop = slabs[unit]
            loops.gather(x, volume[start:stop], start, *(m[0] for m in maps), *maps[2][1:])

        _pool.run(len(slabs), chain._threads, fill)
        taps = psf.reshape(_three(psf.shape, 1))
        pitch = padded_shape[2]
        places = np.array(list(np.ndindex(taps.shape)), np.int64).reshape(-1, 3)
        offsets = places @ np.array([padded_shape[1] * pitch, pitch, 1])
        weights = np.ascontiguousarray((taps if adjoint else np.flip(taps)).reshape(-1))
        depth, height, width = _three(_shape(self._sides(adjoint)[1]), 1)
        rows = max(1, min(height, (1 << 13) // pitch))
        tiles = [(z, y) for z in range(depth) for y in _blocks(height, rows)]

        def sum_taps(unit: int) -> None:
            z, (y0, y1) = tiles[unit]
            with chain._scratch.lend() as buffer:
                line = buffer("line", (y1 - y0 - 1) * pitch + width, self.dtype)
                partial = buffer("partial", loops.BLOCK, self.dtype)
                at = (z * padded_shape[1] + y0) * pitch
                loops.taps_along_line(line, padded, at, offsets, weights, partial)
                tile = buffer("tile", (y1 - y0, width), self.dtype)
                loops.crop_rows(line, pitch, 0, tile)
                finish(tile.reshape(-1), (z * height + y0) * width)

        _pool.run(len(tiles), chain._threads, sum_taps)


class OverlapPlan(_ArrayPlan):
    """Boxes of which one axis is longer than 1: cut into overlapping segments, transformed together."""

    _SEGMENTS = 8  # per unit

    @property
    def _axis(self) -> int:
        lengths = _shape(self.estimate_box)
        return lengths.index(max(lengths))

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> Any:
        taps = psf.reshape(-1)
        longest = max(max(_shape(self.estimate_box)), max(_shape(self.image_box))) + taps.size - 1
        length = good_size(min(max(8 * taps.size, 1 << 12), longest), even=True)
        otf = _fft().rfft(taps.astype(np.float64), length)
        kind = np.complex64 if self.dtype == np.float32 else np.complex128
        return otf.astype(kind), length, taps.size, int(centre[self._axis])

    def _sweep(
        self, source: np.ndarray, transfer: Any, adjoint: bool, finish: _Finish, chain: ArrayChain
    ) -> None:
        loops, fft = _loops(), _fft()
        otf, length, taps, centre = transfer
        factor = otf.conj() if adjoint else otf
        source_box, box = (side[self._axis] for side in self._sides(adjoint))
        before = centre if adjoint else taps - 1 - centre
        size = box[1] - box[0]
        step = length - taps + 1
        units = _blocks(-(-size // step), self._SEGMENTS)
        segments = units[-1][1]
        places = _map(box[0] - before, size + taps - 1, source_box, self.periodic)
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

        _pool.run(len(units), chain._threads, transform)


# Padding


def _sources(n: int, low: int, high: int, boundary: str) -> np.ndarray:
    """For each index of the padded axis, the index inside it that it repeats."""
    i = np.arange(-low, n + high)
    if boundary == "nearest" or (boundary == "mirror" and n == 1):
        return np.clip(i, 0, n - 1)
    if boundary == "wrap":
        return i % n
    if boundary == "reflect":  # d c b a | a b c d | d c b a
        i = i % (2 * n)
        return np.where(i < n, i, 2 * n - 1 - i)
    if boundary == "mirror":  # d c b | a b c d | c b a
        i = i % (2 * n - 2)
        return np.where(i < n, i, 2 * n - 2 - i)
    raise ValueError(f"boundary: got {boundary!r}, expected reflect, nearest, mirror or wrap")


def pad(
    x: np.ndarray, low: tuple[int, ...], high: tuple[int, ...], boundary: str, num_threads: int | None = None
) -> np.ndarray:
    """`x` continued by `low` voxels before and `high` behind each axis, as `boundary` says."""
    loops = _loops()
    shape = _three(x.shape, 1)
    low, high = _three(low, 0), _three(high, 0)
    maps = [_sources(n, a, b, boundary) for n, a, b in zip(shape, low, high, strict=True)]
    out = np.empty([len(m) for m in maps], x.dtype)
    blocks = _blocks(len(out), max(1, (1 << 16) // max(1, math.prod(out.shape[1:]))))

    def fill(unit: int) -> None:
        start, stop = blocks[unit]
        loops.gather(x.reshape(shape), out[start:stop], start, *maps, low[2], low[2] + shape[2])

    _run(len(blocks), num_threads, fill)
    return out.reshape(out.shape[3 - x.ndim :])


def fold(
    y: np.ndarray, low: tuple[int, ...], high: tuple[int, ...], boundary: str, num_threads: int | None = None
) -> np.ndarray:
    """The exact transpose of `pad`: every padded voxel is added to the one that it repeats."""
    for axis, (a, b) in enumerate(zip(low, high, strict=True)):
        n = y.shape[axis] - a - b
        y = _folded(y, axis, _sources(n, a, b, boundary), n, num_threads)
    return y


def _folded(y: np.ndarray, axis: int, sources: np.ndarray, n: int, num_threads: int | None) -> np.ndarray:
    """out[sources[m]] += y[m] along `axis`; an index of -1 is left out."""
    loops = _loops()
    before, after = y.shape[:axis], y.shape[axis + 1 :]
    x = y.reshape(math.prod(before), y.shape[axis], math.prod(after))
    out = np.empty((x.shape[0], n, x.shape[2]), y.dtype)
    # Along the axes before this one where they give enough units, else along those behind it.
    rows = _blocks(x.shape[0], max(1, (1 << 16) // (x.shape[1] * x.shape[2])))
    columns = _blocks(x.shape[2], 1 << 11 if len(rows) < 16 else x.shape[2])
    units = [(row, column) for row in rows for column in columns]

    def add(unit: int) -> None:
        (first, last), (start, stop) = units[unit]
        loops.fold_middle(x[first:last], sources, out[first:last], start, stop)

    _run(len(units), num_threads, add)
    return out.reshape(*before, n, *after)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory for a result."""
    return np.empty(shape, dtype)


class _ConvAxis:
    """One axis of a convolution: n values, padded to `padded`, of which `out` windows of k taps are taken."""

    def __init__(
        self, n: int, k: int, stride: int, padding: tuple[int, int], dilation: int, mode: str
    ) -> None:
        self.n, self.stride, self.low = n, stride, padding[0]
        self.padded = padding[0] + n + padding[1]
        self.out = (self.padded - dilation * (k - 1) - 1) // stride + 1
        # Tap j reads place (p + shift) of the padded values that are `phase` modulo the stride.
        phases = [j * dilation % stride for j in range(k)]
        self.shifts = [j * dilation // stride for j in range(k)]
        self.used = sorted(set(phases))
        self.phases = [self.used.index(phase) for phase in phases]
        self.reach = max(self.shifts)
        # For each padded value the one that it repeats, -1 for zeros.
        i = np.arange(self.padded) - self.low
        if mode == "zeros" or n == 0:
            self.sources = np.where((i >= 0) & (i < n), i, -1)
        else:
            name = {"reflect": "mirror", "replicate": "nearest", "circular": "wrap"}[mode]
            self.sources = _sources(n, self.low, padding[1], name)

    @property
    def windows(self) -> int:
        """Places of one phase that windows reach."""
        return self.out + self.reach

    def map(self, phase: int) -> np.ndarray:
        """For each place of a phase its index in the input, -1 for zeros."""
        at = np.arange(self.windows) * self.stride + phase
        return np.where(at < self.padded, self.sources[np.minimum(at, self.padded - 1)], -1)

    @property
    def steps(self) -> int:
        """Places of any phase in the padded values."""
        return -(-self.padded // self.stride)

    def grad_map(self) -> np.ndarray:
        """For the transpose: places of the gradient, with as many zeros before as the last tap is shifted."""
        at = np.arange(self.steps + self.reach) - self.reach
        return np.where((at >= 0) & (at < self.out), at, -1)


def _run_of(places: np.ndarray) -> tuple[int, int]:
    """Where `places` counts up by one, around its first index that is not -1."""
    inside = np.flatnonzero(places >= 0)
    if not inside.size:
        return 0, 0
    start = stop = int(inside[0])
    while stop < places.size and places[stop] == places[start] + stop - start:
        stop += 1
    return start, stop


_BATCH_BYTES = 1 << 26  # padded inputs of as many items as this holds are made at a time


class ConvPlan:
    """Convolution of one shape as networks mean it: forward, its transpose, and the gradient in the weight.

    Padding is written out. Strides split the padded input into phases, so that every tap becomes a shift of
    long lines; the transpose fills the phases of its result one after the other.
    """

    family = "direct"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        weight_shape: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[tuple[int, int], ...],
        dilation: tuple[int, ...],
        groups: int,
        padding_mode: str,
        dtype: Any,
        exact: bool = False,
    ) -> None:
        self.input_shape = tuple(int(n) for n in input_shape)
        self.weight_shape = tuple(int(n) for n in weight_shape)
        self.dtype = np.dtype(dtype)
        self._groups, self._mode = int(groups), padding_mode
        axes = [
            _ConvAxis(int(n), int(k), int(s), (int(p[0]), int(p[1])), int(d), padding_mode)
            for n, k, s, p, d in zip(
                self.input_shape[2:], self.weight_shape[2:], stride, padding, dilation, strict=True
            )
        ]
        self.output_shape = (self.input_shape[0], self.weight_shape[0], *(axis.out for axis in axes))
        while len(axes) < 3:
            axes.insert(0, _ConvAxis(1, 1, 1, (0, 0), 1, "zeros"))
        self._axes = axes
        self._taps = list(np.ndindex(*(len(axis.shifts) for axis in axes)))
        self._nothing = np.empty(0, self.dtype)

    @property
    def _source_shape(self) -> tuple[int, ...]:
        """Of the padded input of one item: channels, phases, places."""
        used = (len(axis.used) for axis in self._axes)
        return (self.input_shape[1], math.prod(used), *(axis.windows for axis in self._axes))

    @property
    def _grad_shape(self) -> tuple[int, ...]:
        return (self.weight_shape[0], 1, *(axis.steps + axis.reach for axis in self._axes))

    @property
    def _folds(self) -> bool:
        """Padding repeats values: the transpose adds to them what they were repeated for."""
        return self._mode != "zeros" and any(axis.padded != axis.n for axis in self._axes)

    def _items(self, shape: tuple[int, ...]) -> int:
        """Items of the batch whose padded arrays are made at a time."""
        size = math.prod(shape) * self.dtype.itemsize
        return max(1, min(self.input_shape[0], _BATCH_BYTES // max(1, size)))

    @property
    def workspace_bytes(self) -> int:
        """The most that one call takes beside its arrays."""
        forward, back = (
            self._items(shape) * math.prod(shape) for shape in (self._source_shape, self._grad_shape)
        )
        if self._folds:
            back += 2 * math.prod((*self.input_shape[:2], *(axis.padded for axis in self._axes)))
        return self.dtype.itemsize * max(forward, back)

    def _padded(
        self, x: np.ndarray, shape: tuple[int, ...], maps: list[list[np.ndarray]], threads: int
    ) -> np.ndarray:
        """Items of `x`, laid out in `shape` per item: maps[axis][phase] says what each place holds."""
        loops = _loops()
        channels = x.shape[1]
        values = x.reshape(-1, *_three(x.shape[2:], 1))
        padded = np.empty((len(values), *shape[1:]), self.dtype)
        runs = [_run_of(places) for places in maps[2]]
        per_unit = max(1, (1 << 16) // math.prod(shape[1:]))
        units = _blocks(len(values), per_unit)

        def fill(unit: int) -> None:
            for channel in range(*units[unit]):
                combinations = np.ndindex(*(len(phases) for phases in maps))
                for place, (a, b, c) in enumerate(combinations):
                    loops.gather(
                        values[channel],
                        padded[channel, place],
                        0,
                        maps[0][a],
                        maps[1][b],
                        maps[2][c],
                        *runs[c],
                    )

        _pool.run(len(units), threads, fill)
        return padded.reshape(len(x), channels, *shape[1:])

    def _source(self, x: np.ndarray, threads: int) -> np.ndarray:
        maps = [[axis.map(phase) for phase in axis.used] for axis in self._axes]
        return self._padded(x, self._source_shape, maps, threads)

    def _offsets(self) -> np.ndarray:
        """Where the taps of one group of channels lie in the padded input, in the order of the weight."""
        _, phases, *lengths = self._source_shape
        counts = [len(axis.used) for axis in self._axes]
        per_channel = []
        for tap in self._taps:
            phase = place = 0
            for axis, j, count, length in zip(self._axes, tap, counts, lengths, strict=True):
                phase = phase * count + axis.phases[j]
                place = place * length + axis.shifts[j]
            per_channel.append(phase * math.prod(lengths) + place)
        channels = np.arange(self.weight_shape[1]) * (phases * math.prod(lengths))
        return np.add.outer(channels, np.array(per_channel, np.int64)).reshape(-1)

    def _tiles(
        self, items: int, outputs: int, channels: int, planes: int, rows: int, pitch: int
    ) -> list[tuple[int, int, int, tuple[int, int], tuple[int, int]]]:
        """(item, group, plane, rows, outputs): what the rows of a tile read stays in the second cache."""
        step = max(1, min(rows, (1 << 13) // pitch, (1 << 17) // (pitch * max(1, channels))))
        row_blocks = _blocks(rows, step)
        few = items * self._groups * planes * len(row_blocks) < 32
        output_blocks = _blocks(outputs, 4 if few else outputs)
        return [
            (item, group, plane, row_block, output_block)
            for item in range(items)
            for group in range(self._groups)
            for output_block in output_blocks
            for plane in range(planes)
            for row_block in row_blocks
        ]

    def _sum(
        self,
        source: np.ndarray,
        offsets: np.ndarray,
        weights: np.ndarray,
        bias: np.ndarray,
        relu: bool,
        out: np.ndarray,
        size: tuple[int, int, int],
        to: tuple[tuple[int, int], ...],
        threads: int,
    ) -> None:
        """Sums over the taps, for `size` places; place p of an axis goes to index first + p * step of `out`.

        weights: (groups, outputs per group, taps); `to`: (first, step) per axis.
        """
        loops = _loops()
        flat = source.reshape(-1)
        per_item, pitch, plane = source[0].size, source.shape[-1], math.prod(source.shape[-2:])
        outputs = weights.shape[1]
        result = out.reshape(-1, *_three(out.shape[2:], 1))
        tiles = self._tiles(len(source), outputs, source.shape[1] // self._groups, size[0], size[1], pitch)
        scratch = _Scratch()

        def sum_tile(unit: int) -> None:
            item, group, z, (y0, y1), (o0, o1) = tiles[unit]
            target = to[0][0] + z * to[0][1]
            if not 0 <= target < result.shape[1]:
                return
            with scratch.lend() as buffer:
                channel = group * outputs + o0
                loops.conv_tile(
                    flat,
                    item * per_item + group * (per_item // self._groups) + z * plane + y0 * pitch,
                    pitch,
                    y1 - y0,
                    size[2],
                    offsets,
                    weights[group, o0:o1],
                    bias[channel : channel + o1 - o0],
                    relu,
                    result,
                    item * outputs * self._groups + channel,
                    target,
                    to[1][0] + y0 * to[1][1],
                    to[1][1],
                    *to[2],
                    buffer("lines", (4, (y1 - y0 - 1) * pitch + size[2]), self.dtype),
                    buffer("acc", 4 * loops.BLOCK, self.dtype),
                    buffer("partial", 4 * loops.BLOCK, self.dtype),
                )

        _pool.run(len(tiles), threads, sum_tile)

    def _without_taps(self, bias: np.ndarray | None, relu: bool, out: np.ndarray) -> bool:
        """Nothing to sum: the bias alone."""
        if math.prod(self.input_shape) and math.prod(self.weight_shape) and math.prod(self.output_shape):
            return False
        out[...] = 0
        if bias is not None:
            out += bias.reshape(-1, *(1,) * (out.ndim - 2))
        if relu:
            np.maximum(out, 0, out=out)
        return True

    def forward(
        self,
        x: np.ndarray,
        w: np.ndarray,
        bias: np.ndarray | None,
        out: np.ndarray,
        *,
        relu: bool = False,
        num_threads: int | None = None,
    ) -> None:
        """The convolution of `x`; `out` is overwritten."""
        if self._without_taps(bias, relu, out):
            return
        threads = resolve_num_threads(num_threads)
        weights = w.reshape(self._groups, w.shape[0] // self._groups, -1)
        places = self._nothing if bias is None else bias
        size = tuple(axis.out for axis in self._axes)
        for first, last in _blocks(len(x), self._items(self._source_shape)):
            source = self._source(x[first:last], threads)
            self._sum(
                source, self._offsets(), weights, places, relu, out[first:last], size, ((0, 1),) * 3, threads
            )

    def input_grad(
        self,
        grad: np.ndarray,
        w: np.ndarray,
        bias: np.ndarray | None,
        out: np.ndarray,
        *,
        relu: bool = False,
        num_threads: int | None = None,
    ) -> None:
        """The exact transpose of `forward` in `x`: transposed convolution, which may have its own bias."""
        if self._without_taps(bias, relu, out):
            return
        threads = resolve_num_threads(num_threads)
        groups = self._groups
        axes = self._axes
        now = self._nothing if bias is None or self._folds else bias
        weights = w.reshape(groups, w.shape[0] // groups, w.shape[1], *(len(a.shifts) for a in axes))
        maps = [[axis.grad_map()] for axis in axes]
        lengths = self._grad_shape[2:]
        outputs = np.arange(w.shape[0] // groups) * math.prod(lengths)
        for first, last in _blocks(len(grad), self._items(self._grad_shape)):
            source = self._padded(grad[first:last], self._grad_shape, maps, threads)
            result = out[first:last]
            if self._folds:
                result = np.empty((last - first, w.shape[1] * groups, *(a.padded for a in axes)), self.dtype)
            for phase in np.ndindex(*(axis.stride for axis in axes)):
                taps = [
                    [j for j in range(len(a.shifts)) if a.used[a.phases[j]] == r]
                    for a, r in zip(axes, phase, strict=True)
                ]
                shifts = [
                    np.array([a.reach - a.shifts[j] for j in js], np.int64)
                    for a, js in zip(axes, taps, strict=True)
                ]
                place = np.add.outer(shifts[0] * lengths[1], shifts[1])
                place = np.add.outer(place * lengths[2], shifts[2]).reshape(-1)
                offsets = np.add.outer(outputs, place).reshape(-1)
                chosen = weights[(slice(None),) * 3 + np.ix_(*taps)]
                chosen = np.moveaxis(chosen, 2, 1).reshape(groups, w.shape[1], -1)
                size, to = [], []
                for axis, r in zip(axes, phase, strict=True):
                    size.append(-(-(axis.padded - r) // axis.stride))
                    to.append((r if self._folds else r - axis.low, axis.stride))
                if min(size) < 1:
                    continue
                self._sum(
                    source,
                    offsets,
                    np.ascontiguousarray(chosen),
                    now,
                    relu and not self._folds,
                    result,
                    (size[0], size[1], size[2]),
                    tuple(to),
                    threads,
                )
            if self._folds:
                for number, axis in enumerate(axes):
                    result = _folded(result, 2 + number, axis.sources, axis.n, threads)
                if bias is not None or relu:
                    values = result.reshape(result.shape[0] * result.shape[1], -1)
                    _loops().bias_and_relu(values, self._nothing if bias is None else bias, relu)
                out[first:last] = result.reshape(out[first:last].shape)

    def weight_grad(
        self, grad: np.ndarray, x: np.ndarray, out: np.ndarray, *, num_threads: int | None = None
    ) -> None:
        """The gradient of ``sum(forward(x) * grad)`` to the weight."""
        if self._without_taps(None, False, out):
            return
        loops, threads = _loops(), resolve_num_threads(num_threads)
        groups, taps = self._groups, len(self._taps)
        outputs, channels = self.weight_shape[0], self.weight_shape[1]
        depth, rows, width = (axis.out for axis in self._axes)
        offsets = self._offsets().reshape(channels, taps)
        # Units are outputs; where these are few, rows as well, whose sums are added in their order.
        row_blocks = _blocks(depth * rows, max(1, -(-depth * rows * outputs // 32)))
        lanes_per_tap = min(-(-width // 16) * 16, max(16, (1 << 14) // taps))
        totals = np.zeros((len(row_blocks), outputs, channels, taps))
        scratch = _Scratch()
        for first, last in _blocks(len(x), self._items(self._source_shape)):
            source = self._source(x[first:last], threads)
            lines = grad[first:last].reshape(last - first, outputs, depth * rows, width)
            pitch, plane = source.shape[-1], math.prod(source.shape[-2:])
            per_item = source[0].size
            flat = source.reshape(-1)
            units = [(o, b) for o in range(outputs) for b in range(len(row_blocks))]

            def products(
                unit: int,
                units: list[tuple[int, int]] = units,
                lines: np.ndarray = lines,
                flat: np.ndarray = flat,
                per_item: int = per_item,
                plane: int = plane,
                pitch: int = pitch,
            ) -> None:
                o, b = units[unit]
                group = o // (outputs // groups)
                with scratch.lend() as buffer:
                    lanes = buffer("lanes", (taps, lanes_per_tap), self.dtype)
                    for item in range(len(lines)):
                        at = item * per_item + group * (per_item // groups)
                        for c in range(channels):
                            loops.weight_products(
                                lines[item, o],
                                flat,
                                at,
                                plane,
                                pitch,
                                width,
                                offsets[c],
                                rows,
                                *row_blocks[b],
                                totals[b, o, c],
                                lanes,
                            )

            _pool.run(len(units), threads, products)
        out[...] = totals.sum(0).reshape(out.shape)


def sum_channels(x: np.ndarray, out: np.ndarray, *, num_threads: int | None = None) -> None:
    """Sum over all axes but the second: (N, C, *spatial) -> (C,)."""
    loops = _loops()
    values = x.reshape(x.shape[0], x.shape[1], math.prod(x.shape[2:]))

    def add(unit: int) -> None:
        loops.sum_lines(values[:, unit : unit + 1], out[unit : unit + 1])

    _run(x.shape[1], num_threads, add)
