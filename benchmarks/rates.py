"""What the machine can do, by a copy and a matrix product: what rooflines are fractions of."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np


class Copy:
    """Copies one array to another, one contiguous share per thread."""

    def __init__(self, voxels: int, threads: int) -> None:
        self.source = np.ones(voxels, np.float32)
        self.target = np.zeros(voxels, np.float32)
        self._pool = ThreadPoolExecutor(threads)
        edges = [voxels * i // threads for i in range(threads + 1)]
        self._shares = [slice(a, b) for a, b in itertools.pairwise(edges)]

    def step(self) -> None:
        list(self._pool.map(self._share, self._shares))

    def _share(self, share: slice) -> None:
        np.copyto(self.target[share], self.source[share])

    @property
    def bytes(self) -> int:
        return 2 * self.source.nbytes


def median(step: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        step()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def bandwidth(copy: Copy) -> float:
    """Bytes per second, read and written."""
    return copy.bytes / median(copy.step, 9)


def arithmetic() -> float:
    """Floating-point operations per second of NumPy's float32 matrix product."""
    n = 2048
    a = np.random.default_rng(0).random((n, n), np.float32)
    out = np.empty_like(a)
    np.matmul(a, a, out=out)
    return 2 * n**3 / median(lambda: np.matmul(a, a, out=out), 5)


def last_cache_bytes() -> int | None:
    """Size of the last cache, where Linux says it."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]])
    return max(sizes, default=None)
