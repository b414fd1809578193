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


class Product:
    """NumPy's float32 matrix product, the arithmetic that is known to come near a processor's peak."""

    def __init__(self, n: int = 1024) -> None:
        self._a = np.random.default_rng(0).random((n, n), np.float32)
        self._out = np.empty_like(self._a)
        self.operations = 2 * n**3
        self.step()

    def step(self) -> None:
        np.matmul(self._a, self._a, out=self._out)


def arithmetic(product: Product) -> float:
    """Floating-point operations per second."""
    return product.operations / median(product.step, 9)


def last_cache_bytes() -> int | None:
    """Size of the last cache, where Linux says it."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]])
    return max(sizes, default=None)
