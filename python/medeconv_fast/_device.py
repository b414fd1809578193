"""Arrays in GPU memory, and where they come from.

The compiled module's kernels know pointers only: everything here is checked when an array is made. Work on an
array goes to the stream of its `Memory`, in order; nothing waits but what brings values to the host.
"""

from __future__ import annotations

import importlib
import math
import threading
from types import ModuleType
from typing import Any

import numpy as np

module: ModuleType | None
import_error: str | None
try:
    module = importlib.import_module("medeconv_fast._cuda")
    import_error = None
except ImportError as error:
    module = None
    import_error = str(error)


def native() -> Any:
    if module is None:
        raise ImportError(f"the compiled module medeconv_fast._cuda cannot be imported ({import_error})")
    return module


class DeviceArray:
    """A C-contiguous array of float32 or float64 in GPU memory; `owner` keeps that memory."""

    __slots__ = ("dtype", "memory", "owner", "pointer", "shape")

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: Any, memory: Memory, owner: Any) -> None:
        self.pointer = pointer
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.memory = memory
        self.owner = owner

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.memory.place.device})"

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("an array in GPU memory does not become a NumPy array by itself; call numpy()")

    def numpy(self) -> np.ndarray:
        """A copy on the host, once all work on the array is done."""
        host = np.empty(self.shape, self.dtype)
        self.read_into(host)
        return host

    def read_into(self, host: np.ndarray) -> None:
        """The values, once all work on the array is done."""
        self.memory.place.download(host, self.pointer)
        self.memory.place.synchronize()

    def write(self, values: np.ndarray | DeviceArray) -> None:
        """Overwrite all values, in the order of the stream's work."""
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError(f"values: got {values.shape} {values.dtype}, expected {self.shape} {self.dtype}")
        if isinstance(values, np.ndarray):
            self.memory.place.upload(self.pointer, np.ascontiguousarray(values))
        else:
            self.memory.place.copy(self.pointer, values.pointer, self.nbytes)

    def copy(self) -> DeviceArray:
        made = self.memory.empty(self.shape, self.dtype)
        made.write(self)
        return made


class Memory:
    """The library's own memory of a device: kept by the driver for reuse, on a stream of its own."""

    def __init__(self, device: int) -> None:
        self.place = native().Place(device)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        return self._made(shape, dtype, lasting=False)

    def uploaded(self, values: np.ndarray, *, lasting: bool = False) -> DeviceArray:
        """A copy of `values`; lasting: for work of any stream from now on."""
        made = self._made(values.shape, values.dtype, lasting=lasting)
        made.write(values)
        if lasting:
            self.place.synchronize()
        return made

    def _made(self, shape: tuple[int, ...], dtype: Any, *, lasting: bool) -> DeviceArray:
        buffer = native().Buffer(self.place, math.prod(shape) * np.dtype(dtype).itemsize, lasting)
        return DeviceArray(buffer.pointer, shape, dtype, self, buffer)


_own = threading.local()


def own_memory(device: int = 0) -> Memory:
    """The calling thread's memory of that device: threads do not wait for one another."""
    made: dict[int, Memory] = _own.__dict__.setdefault("memories", {})
    if device not in made:
        native().keep_freed_memory(device)
        made[device] = Memory(device)
    return made[device]
