"""What a pass through a network computes with, and pointwise work in blocks that stay in cache."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backends
from .._threads import resolve_num_threads

BLOCK = 1 << 16  # values: a few arrays of so many stay in the second-level cache
_WORTH_A_THREAD = 8 * BLOCK


@dataclass(frozen=True)
class Engine:
    """Backend and threads of one pass; as the arguments of `medeconv_fast.ops` take them."""

    backend: str = "auto"
    num_threads: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {"backend": self.backend, "num_threads": self.num_threads}

    def settled(self) -> Engine:
        """The same with the number of threads that it means now: layers need not ask again."""
        return Engine(self.backend, resolve_num_threads(self.num_threads))

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Memory that is kept for reuse once the array is gone: fresh pages cost more than arithmetic."""
        array: np.ndarray = backends.resolve(self.backend).empty(shape, np.dtype(dtype))
        return array

    def pointwise(self, function: Callable[..., Any], *arrays: np.ndarray) -> None:
        """Call `function` on matching blocks of C-contiguous arrays of one size; it writes in place.

        Blocks are of fixed size, and `function` must treat every value alike, so neither the blocks nor the
        number of threads change a bit.
        """
        flat = [array.reshape(-1) for array in arrays]
        size = flat[0].size
        threads = min(resolve_num_threads(self.num_threads), size // _WORTH_A_THREAD)
        count = -(-size // BLOCK)

        def some(first: int, last: int) -> None:
            for start in range(first * BLOCK, min(last * BLOCK, size), BLOCK):
                function(*(array[start : start + BLOCK] for array in flat))

        if threads <= 1:
            some(0, count)
            return
        cuts = [count * part // threads for part in range(threads + 1)]
        with ThreadPoolExecutor(threads - 1) as pool:
            waiting = [pool.submit(some, *cuts[part : part + 2]) for part in range(1, threads)]
            some(*cuts[:2])
            for part in waiting:
                part.result()
