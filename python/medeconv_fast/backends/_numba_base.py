"""What the files of the Numba backend share: imports, made when they are first needed; threads; buffers."""

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


@functools.cache
def _imported() -> tuple[ModuleType, ModuleType, str | None]:
    """The compiled loops, scipy.fft, and why one of them is missing."""
    try:
        loops = importlib.import_module("medeconv_fast.backends._numba_kernels")
        fft = importlib.import_module("scipy.fft")
    except ImportError as error:
        return np, np, str(error)  # never used as such: see compiled_loops() and scipy_fft()
    return loops, fft, None


def unavailable_reason() -> str | None:
    error = _imported()[2]
    if error is None:
        return None
    return f'it needs Numba and SciPy ({error}): pip install "medeconv-fast[numba]"'


def compiled_loops() -> ModuleType:
    loops, _, error = _imported()
    if error is not None:
        raise ImportError(f"backend 'numba': {unavailable_reason()}")
    return loops


def scipy_fft() -> ModuleType:
    compiled_loops()
    return _imported()[1]


class Pool:
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


_pool = Pool()


def run(units: int, threads: int, body: Callable[[int], None]) -> None:
    """body(unit) for every unit in [0, units), on at most `threads` threads, the caller's included."""
    _pool.run(units, threads, body)


def aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """Memory that starts at a cache line: vectors across two lines are loaded at half the speed."""
    raw = np.empty(size * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * dtype.itemsize].view(dtype)


class _Writable:
    def __init__(self, array: np.ndarray) -> None:
        self._array = array  # lives as long as what is made of this
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def unlocked(array: np.ndarray) -> np.ndarray:
    """The same memory, not marked read-only: Numba would compile every loop once more for such arrays.

    For what is only read.
    """
    return array if array.flags.writeable else np.asarray(_Writable(array))


class Kept:
    """A few large buffers kept for reuse: the first touch of fresh memory takes longer than filling it."""

    MOST = 1 << 28  # bytes

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: deque[np.ndarray] = deque()

    def take(self, size: int) -> np.ndarray:
        """At least `size` bytes; whoever takes them owns them."""
        with self._lock:
            fitting = [b for b in self._free if size <= b.size <= 4 * size]
            if fitting:
                best = min(fitting, key=lambda b: b.size)
                self._free = deque(b for b in self._free if b is not best)
                return best
        return aligned(size, np.dtype(np.uint8))

    def give(self, buffer: np.ndarray) -> None:
        """For the next one who takes; too many go back to the system, the oldest first."""
        with self._lock:
            self._free.append(buffer)
            while sum(b.size for b in self._free) > self.MOST:
                self._free.popleft()

    @property
    def size(self) -> int:
        with self._lock:
            return sum(b.size for b in self._free)

    def release(self) -> None:
        with self._lock:
            self._free.clear()

    def start_anew(self) -> None:
        self._lock = threading.Lock()
        self._free = deque()


kept = Kept()


def _start_anew() -> None:  # a forked child has none of the parent's threads, which may have held locks
    global _pool
    _pool = Pool()
    kept.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


class Scratch:
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
                have = buffers[name] = aligned(size, np.dtype(dtype))
            return have[:size].reshape(shape)

        yield buffer
        self._free.append(buffers)  # after an error they are dropped


def cut(total: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, total)) for start in range(0, total, size)]


def planes_of(volume: np.ndarray) -> list[tuple[int, int]]:
    """Pieces of work along the first axis, of about 65536 values."""
    return cut(len(volume), max(1, (1 << 16) // max(1, math.prod(volume.shape[1:]))))


def three(values: Any, fill: Any) -> tuple[Any, ...]:
    return (fill,) * (3 - len(values)) + tuple(values)


def sources_of(n: int, low: int, high: int, boundary: str) -> np.ndarray:
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


def folded(y: np.ndarray, axis: int, sources: np.ndarray, n: int, num_threads: int | None) -> np.ndarray:
    """out[sources[m]] += y[m] along `axis`; an index of -1 is left out."""
    loops = compiled_loops()
    before, after = y.shape[:axis], y.shape[axis + 1 :]
    x = y.reshape(math.prod(before), y.shape[axis], math.prod(after))
    out = np.empty((x.shape[0], n, x.shape[2]), y.dtype)
    # Along the axes before this one where they give enough units, else along those behind it.
    rows = planes_of(x)
    columns = cut(x.shape[2], 1 << 11 if len(rows) < 16 else x.shape[2])
    units = [(row, column) for row in rows for column in columns]

    def add(unit: int) -> None:
        (first, last), (start, stop) = units[unit]
        loops.fold_middle(x[first:last], sources, out[first:last], start, stop)

    run(len(units), resolve_num_threads(num_threads), add)
    return out.reshape(*before, n, *after)
