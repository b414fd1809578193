"""Plans of the CUDA backend's spectral engine: of grids, and of lines in overlapping segments."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from .. import _device
from .._device import DeviceArray, Memory, lasting, native, own_memory
from ._cuda_arrays import ArrayChain, ArrayPlan, Axes, Filters
from ._cuda_base import Array, Call, Operands, Sums, memory_of, suffix

MOST_TABLES = 64  # half a megabyte each at most

_tables: OrderedDict[tuple[int, str, int], DeviceArray] = OrderedDict()  # the latest asked for is the last
_tables_busy = threading.Lock()


def axis_tables(device: int, dtype: Any, length: int) -> DeviceArray:
    """The tables of transforms of that length on a device, which all plans share; not to be written to.

    Made on the host and brought there they would take longer than the sweeps of a small image.
    """
    key = (device, suffix(dtype), int(length))
    with _tables_busy:
        made = _tables.pop(key, None)
        if made is None:
            values = getattr(native(), "axis_tables_" + key[1])(key[2])
            made = own_memory(device).uploaded(values, lasting=True)
        _tables[key] = made
        if len(_tables) > MOST_TABLES:
            _tables.popitem(last=False)
    return made


def forget_tables() -> None:
    """Those that no plan uses are given back."""
    with _tables_busy:
        _tables.clear()


def tables_bytes(device: int) -> int:
    """How much of a device's memory is kept for them."""
    with _tables_busy:
        return sum(made.nbytes for (on, _, _), made in _tables.items() if on == device)


class Transfer:
    """A transfer function, on every device that has asked for it.

    `key` says all that decides about its values (see `_device.lasting`), or None.
    """

    def __init__(self, symmetric: bool, make: Callable[[Memory], DeviceArray], key: Hashable = None) -> None:
        self.symmetric = symmetric
        self.key = key
        self._make = make
        self._on: dict[int, DeviceArray] = {}

    def on(self, memory: Memory) -> DeviceArray:
        device = memory.place.device
        if device not in self._on:
            self._on[device] = lasting(device, self.key, self._make)
        return self._on[device]


class SpectralPlan:
    """Grid, boxes and FFT tables; makes transfers (OTFs) and chains."""

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
        self._name = suffix(dtype)
        self._reach = tuple((int(a), int(b)) for a, b in reach)
        self._symmetric = bool(symmetric)
        self._sizes = self._made()  # knows sizes; no tables, no device
        self._prepared: dict[int, tuple[Any, list[DeviceArray]]] = {}

    def _made(self) -> Any:
        make = getattr(native(), "SpectralPlan" + self._name)
        return make(list(self.grid), list(self.estimate_box), list(self.image_box), self._reach)

    def _on(self, memory: Memory) -> Any:
        """The compiled plan with its tables on that device."""
        device = memory.place.device
        if device not in self._prepared:
            plan = self._made()
            tables = [axis_tables(device, self.dtype, n) for n in plan.lengths]
            plan.use_tables(tables)
            self._prepared[device] = (plan, tables)
        return self._prepared[device][0]

    @property
    def _sums_size(self) -> int:
        return int(self._sizes.sums_size)

    @property
    def workspace_bytes(self) -> int:
        """One OTF and one spectrum in flight."""
        return int(self._sizes.spectrum_bytes + self._sizes.transfer_bytes(self._symmetric))

    def _spectrum(self, memory: Memory) -> DeviceArray:
        return memory.empty((int(self._sizes.spectrum_bytes),), np.uint8)

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> Transfer:
        if any(k > n for k, n in zip(psf.shape, self.grid, strict=True)):
            raise ValueError(f"psf: got shape {psf.shape}, expected at most the transform grid {self.grid}")
        taps, middle = np.ascontiguousarray(psf), [int(c) for c in centre]

        def make(memory: Memory) -> DeviceArray:
            made = self._new_transfer(memory, self._symmetric)
            self._on(memory).transfer(
                memory.place,
                memory.uploaded(taps),
                taps.shape,
                middle,
                self._symmetric,
                self._spectrum(memory),
                made,
            )
            return made

        key: Hashable = None
        if self._sizes.transfer_bytes(self._symmetric) <= _device.MOST_LASTING_BYTES_EACH:
            # The boxes decide about the order of the transforms, and so about what is stored where.
            key = (
                "psf",
                *(self._name, self.grid, self.estimate_box, self.image_box, self._reach, self._symmetric),
                *(taps.shape, tuple(middle), taps.tobytes()),
            )
        return Transfer(self._symmetric, make, key)

    def _new_transfer(self, memory: Memory, symmetric: bool) -> DeviceArray:
        return memory.empty((int(self._sizes.transfer_bytes(symmetric)),), np.uint8, lasting=True)

    def wiener_transfer(
        self, psf_transfer: Transfer, regularizer_transfer: Transfer, balance: float
    ) -> Transfer:
        self._check_complete(psf_transfer, regularizer_transfer)

        def make(memory: Memory) -> DeviceArray:
            made = self._new_transfer(memory, False)
            psf, regularizer = psf_transfer.on(memory), regularizer_transfer.on(memory)
            self._on(memory).wiener_transfer(memory.place, psf, regularizer, float(balance), made)
            return made

        keys = psf_transfer.key, regularizer_transfer.key
        return Transfer(False, make, None if None in keys else ("wiener", *keys, float(balance)))

    def _check_complete(self, *transfers: Transfer) -> None:
        if any(transfer.symmetric for transfer in transfers):
            raise ValueError("transfer: expected a complete one, got one of a symmetric psf")

    def gcv(
        self,
        image: Array,
        psf_transfer: Transfer,
        regularizer_transfer: Transfer,
        balances: np.ndarray,
        num_threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        self._check_complete(psf_transfer, regularizer_transfer)
        call = Call(memory_of(image))
        memory = call.memory
        totals = call.empty((len(balances), 2), np.float64)
        scratch = call.empty((int(self._sizes.gcv_bytes),), np.uint8)
        self._on(memory).gcv(
            memory.place,
            call.read(image),
            psf_transfer.on(memory),
            regularizer_transfer.on(memory),
            np.asarray(balances, np.float64).tolist(),
            self._spectrum(memory),
            scratch,
            totals,
        )
        numerator, denominator = totals.numpy().T
        return numerator, denominator

    def chain(self, num_threads: int | None = None) -> SpectralChain:
        return SpectralChain(self)


class SpectralChain:
    """One spectrum in flight."""

    def __init__(self, plan: SpectralPlan) -> None:
        self._plan = plan
        self._memory: Memory | None = None
        self._spectrum: DeviceArray | None = None
        self._loaded = False

    def load(self, x: Array, *, adjoint: bool = False, **operands: Any) -> Sums | None:
        """Take `x`, an estimate or (adjoint) an image; with `previous`, what lies beyond it."""
        self._loaded = False
        memory = memory_of(x, *operands.values())
        if self._spectrum is None or self._memory is not memory:
            self._memory, self._spectrum = memory, self._plan._spectrum(memory)
        call = Call(memory)
        taken = Operands(call, operands, self._plan._sums_size)
        plan = self._plan._on(memory)
        plan.load(memory.place, self._spectrum, call.read(x), adjoint, taken.named)
        call.finish()
        self._loaded = True
        return taken.sums()

    def sweep(
        self,
        transfer: Transfer,
        formula: str,
        *,
        adjoint: bool = False,
        keep: bool = True,
        out: Array | None = None,
        **operands: Any,
    ) -> Sums | None:
        """Apply `transfer` (its adjoint), then `formula`; the result goes to `out` and the next sweep."""
        if not self._loaded or self._memory is None:
            raise RuntimeError("nothing is loaded: call load() first, or keep=True in the sweep before")
        self._loaded = False  # stays so after an error
        memory = self._memory
        call = Call(memory)
        taken = Operands(call, operands | {"out": out}, self._plan._sums_size)
        otf = transfer.on(memory)
        plan = self._plan._on(memory)
        plan.sweep(memory.place, self._spectrum, otf, transfer.symmetric, adjoint, formula, keep, taken.named)
        call.finish()
        self._loaded = keep
        return taken.sums()


class Segments(Filters):
    """A line's filter: its taps in chunks that a segment can take, and their OTFs on every device."""

    def __init__(
        self, psf: np.ndarray, taps: tuple[int, ...], centre: tuple[int, ...], dtype: np.dtype
    ) -> None:
        super().__init__([[psf[::-1]], [psf]], taps, centre)
        self._name = suffix(dtype)
        self.bounds, self.length = chunks(psf.size, dtype)

    def _made_on(self, device: int) -> list[list[DeviceArray]]:
        """Per direction an OTF for each chunk, then the tables of a segment."""
        weights = self._arrays[1][0]
        tables = axis_tables(device, weights.dtype, self.length)

        def make(memory: Memory) -> DeviceArray:
            made = memory.empty((2 * len(self.bounds), self.length, 2), weights.dtype, lasting=True)
            run = getattr(native(), "overlap_transfer_" + self._name)
            parts = ((w, start, stop) for (w,) in self._arrays for start, stop in self.bounds)
            for index, (w, start, stop) in enumerate(parts):
                taps = memory.uploaded(np.ascontiguousarray(w[start:stop]))
                run(memory.place, self.length, tables, taps, stop - start, made[index])
            return made

        otfs = lasting(device, ("line", self._name, weights.tobytes()), make)
        count = len(self.bounds)
        return [[otfs[i] for i in range(count)], [otfs[i] for i in range(count, 2 * count)], [tables]]


def chunks(taps: int, dtype: np.dtype) -> tuple[list[tuple[int, int]], int]:
    """The parts of a line's taps that are a pass each, and the length of their segments."""
    name = suffix(dtype)
    most = int(getattr(native(), "overlap_taps_" + name)())
    bounds = [(start, min(start + most, taps)) for start in range(0, taps, most)]
    return bounds, int(getattr(native(), "overlap_segment_" + name)(bounds[0][1]))


class OverlapPlan(ArrayPlan):
    """Boxes of which one axis is longer than 1: cut into overlapping segments, transformed two by two."""

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> Segments:
        return Segments(psf.ravel(), psf.shape, tuple(int(c) for c in centre), self.dtype)

    def _sums_size(self, axes: Axes) -> int:
        line = self._line(axes)
        bounds, length = chunks(line[3], self.dtype)
        start, stop = bounds[-1]
        size = getattr(native(), "overlap_sums_size_" + suffix(self.dtype))
        return int(size(length, (*line[:3], stop - start)))

    def _line(self, axes: Axes) -> tuple[int, int, int, int]:
        return max(axes, key=lambda axis: axis[0] + axis[1])

    def _run(
        self,
        chain: ArrayChain,
        call: Call,
        source: DeviceArray,
        kept: DeviceArray | None,
        filters: Filters,
        adjoint: bool,
        formula: str,
        operands: Operands,
    ) -> None:
        assert isinstance(filters, Segments)
        *otfs, (tables,) = filters.on(call.memory)
        length, destination, base, _ = self._line(self._axes(filters, adjoint))
        kernel = getattr(native(), "overlap_" + suffix(self.dtype))
        named = operands.named
        last = len(filters.bounds) - 1
        total = chain.workspace("terms", (destination,)) if last else None
        for index, (otf, (start, stop)) in enumerate(zip(otfs[adjoint], filters.bounds, strict=True)):
            # All chunks but the last make a sum, which the formula then takes with it.
            given = named if index == last else {"out": total}
            given = given | {"partial": total if index else named.get("partial")}
            kernel(
                call.memory.place,
                filters.length,
                tables,
                (length, destination, base + start, stop - start),
                self.periodic,
                otf,
                source,
                kept if index == last else None,
                formula if index == last else "copy",
                given,
            )
