"""What the plans of the CUDA backend share: arrays of one call on the device, and the sums of a sweep.

A call's arrays are device arrays, which kernels work on where they are, or NumPy arrays, which are copied to
the device and, where the kernel writes, back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._device import DeviceArray, Memory, native, own_memory, suffix

Array = np.ndarray | DeviceArray
Sums = tuple[float, float, float]

READ = ("image", "weights", "estimate", "gain", "factor", "damping", "partial", "held_out", "previous")
CHANGED = ("change",)
WRITTEN = ("out", "extrapolated")


def memory_of(*arrays: Any) -> Memory:
    """Of the first device array among `arrays`; the library's own if all are on the host."""
    for array in arrays:
        if isinstance(array, DeviceArray):
            return array.memory
    return own_memory()


class Call:
    """The arrays of one call on the device. A host array that comes twice is copied once."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._copies: dict[tuple[int, int], DeviceArray] = {}
        self._results: list[tuple[np.ndarray, DeviceArray]] = []

    def read(self, array: Array) -> DeviceArray:
        return self._on_device(array, copied=True)

    def changed(self, array: Array) -> DeviceArray:
        """An array that is read and written."""
        return self._written(array, copied=True)

    def written(self, array: Array) -> DeviceArray:
        """An array of which every value is written; it may be one that is read as well."""
        return self._written(array, copied=False)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        return self.memory.empty(shape, dtype)

    def finish(self) -> None:
        """Bring what was written back to the host arrays."""
        for host, device in self._results:
            self.memory.place.download(host, device.pointer)
        if self._results:
            self.memory.place.synchronize()

    def _on_device(self, array: Array, *, copied: bool) -> DeviceArray:
        if isinstance(array, DeviceArray):
            return array
        if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
            raise TypeError(
                f"expected C-contiguous NumPy arrays or device arrays, got {type(array).__name__}"
            )
        key = (array.ctypes.data, array.nbytes)
        if key not in self._copies:
            made = self.memory.empty(array.shape, array.dtype)
            if copied:
                made.write(array)
            self._copies[key] = made
        return self._copies[key]

    def _written(self, array: Array, *, copied: bool) -> DeviceArray:
        device = self._on_device(array, copied=copied)
        if isinstance(array, np.ndarray):
            if not array.flags.writeable:
                raise ValueError("out: the array is read-only")
            self._results.append((array, device))
        return device


class Operands:
    """A sweep's keywords on the device, and its sums."""

    def __init__(self, call: Call, given: dict[str, Any], sums_size: int) -> None:
        self._call = call
        self.named = {name: value for name, value in given.items() if name != "sums"}
        # What is read first: an array that is also written must not miss its copy.
        for names, take in ((READ, call.read), (CHANGED, call.changed), (WRITTEN, call.written)):
            for name in names:
                if self.named.get(name) is not None:
                    self.named[name] = take(self.named[name])
        self._sums: DeviceArray | None = None
        if given.get("sums"):
            self._sums = self.named["sums"] = call.empty((sums_size,), np.float64)

    def kept_apart_from(self, source: DeviceArray) -> list[tuple[DeviceArray, DeviceArray]]:
        """What would go where the sweep still reads goes elsewhere; pairs (to, from) to copy after it."""
        moved = []
        for name in WRITTEN:
            target = self.named.get(name)
            if target is not None and target.pointer == source.pointer:
                self.named[name] = self._call.empty(target.shape, target.dtype)
                moved.append((target, self.named[name]))
        return moved

    def sums(self) -> Sums | None:
        """The totals, on the host; waits for them if any were asked for."""
        if self._sums is None:
            return None
        totals = np.empty(3)
        self._call.memory.place.download(totals, self._sums.pointer)
        self._call.memory.place.synchronize()
        a, b, c = totals.tolist()
        return a, b, c


def apply_formula(call: Call, formula: str, c: DeviceArray, operands: dict[str, Any]) -> Operands:
    taken = Operands(call, operands, native().formula_sums_size(c.size))
    getattr(native(), "apply_formula_" + suffix(c.dtype))(call.memory.place, formula, c, taken.named)
    return taken
