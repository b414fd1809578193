"""Plans of the CUDA backend's engines without transforms, and the chain that keeps an array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._device import DeviceArray, Memory, lasting, native, suffix
from ._cuda_base import Array, Call, Operands, Sums, apply_formula, memory_of

ALIGNED = 256  # bytes, as what the driver allocates

Box = tuple[tuple[int, int], ...]
Axes = list[tuple[int, int, int, int]]


class Filters:
    """Taps on the host, and on every device that has asked for them."""

    def __init__(
        self, arrays: list[list[np.ndarray]], taps: tuple[int, ...], centre: tuple[int, ...]
    ) -> None:
        self._arrays = arrays
        self.taps, self.centre = taps, centre
        self._on: dict[int, list[list[DeviceArray]]] = {}

    def on(self, memory: Memory) -> list[list[DeviceArray]]:
        device = memory.place.device
        if device not in self._on:
            self._on[device] = self._made_on(device)
        return self._on[device]

    def _made_on(self, device: int) -> list[list[DeviceArray]]:
        """All in one array: an allocation and a wait take longer than the sweeps of a small image."""
        arrays = [a for part in self._arrays for a in part]
        step = ALIGNED // arrays[0].itemsize
        starts = np.cumsum([0] + [-(-a.size // step) * step for a in arrays]).tolist()
        packed = np.zeros(starts[-1], arrays[0].dtype)
        for start, a in zip(starts, arrays, strict=False):
            packed[start : start + a.size] = a.ravel()

        def make(memory: Memory) -> DeviceArray:
            made = memory.empty(packed.shape, packed.dtype, lasting=True)
            made.write(packed)
            return made

        sizes = tuple(a.size for a in arrays)
        found = lasting(device, ("taps", suffix(packed.dtype), sizes, packed.tobytes()), make)
        at = iter(starts)
        return [
            [
                DeviceArray(
                    found.pointer + next(at) * a.itemsize, a.shape, a.dtype, found.memory, found.owner
                )
                for a in part
            ]
            for part in self._arrays
        ]


class ArrayPlan:
    """Boxes of an engine that needs no transform; its kernel is `_run`."""

    def __init__(self, estimate_box: Any, image_box: Any, periodic: bool, dtype: Any) -> None:
        self.estimate_box = tuple((int(a), int(b)) for a, b in estimate_box)
        self.image_box = tuple((int(a), int(b)) for a, b in image_box)
        self.periodic = periodic
        self.dtype = np.dtype(dtype)

    def _sides(self, adjoint: bool) -> tuple[Box, Box]:
        """Boxes of what a sweep reads and of what it writes."""
        return (self.image_box, self.estimate_box) if adjoint else (self.estimate_box, self.image_box)

    def _size(self, box: Box) -> int:
        return math.prod(stop - start for start, stop in box)

    @property
    def workspace_bytes(self) -> int:
        """The result kept between two sweeps."""
        return self.dtype.itemsize * self._size(self.estimate_box)

    def chain(self, num_threads: int | None = None) -> ArrayChain:
        return ArrayChain(self)

    def _axes(self, filters: Filters, adjoint: bool) -> Axes:
        """(source, destination, base, taps) of z, y and x, absent ones of length 1."""
        axes = [(1, 1, 0, 1)] * (3 - len(self.estimate_box))
        for (s0, s1), (d0, d1), taps, centre in zip(
            *self._sides(adjoint), filters.taps, filters.centre, strict=True
        ):
            # y[i] = sum_j h[j] x[i - (j - c)]; its transpose reads at i + (j - c)
            before = centre if adjoint else taps - 1 - centre
            axes.append((s1 - s0, d1 - d0, d0 - s0 - before, taps))
        return axes

    def _sums_size(self, axes: Axes) -> int:
        raise NotImplementedError

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
        raise NotImplementedError


class DirectPlan(ArrayPlan):
    """Boxes of an operator that is summed tap by tap, for small PSFs of any shape."""

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> Filters:
        directions = [[np.ascontiguousarray(np.flip(psf))], [np.ascontiguousarray(psf)]]
        return Filters(directions, psf.shape, tuple(int(c) for c in centre))

    def _sums_size(self, axes: Axes) -> int:
        return int(native().direct_sums_size(axes))

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
        (weight,) = filters.on(call.memory)[adjoint]
        kernel = getattr(native(), "direct_" + suffix(self.dtype))
        axes = self._axes(filters, adjoint)
        kernel(call.memory.place, axes, self.periodic, weight, source, kept, formula, operands.named)


class SeparablePlan(ArrayPlan):
    """Boxes of an operator whose PSF is a sum of products of one filter per axis.

    Its kernels know zeros and periodic sources: what is folded elsewhere is padded before they read it.
    """

    def __init__(
        self,
        estimate_box: Any,
        image_box: Any,
        boundary: str,
        dtype: Any,
        padded_box: Any = None,
        mirrored: bool = False,
    ) -> None:
        super().__init__(estimate_box, image_box, boundary == "wrap", dtype)
        self._boundary = boundary
        self._padded_box = tuple((int(a), int(b)) for a, b in padded_box or estimate_box)
        self._unfolded = self.estimate_box if mirrored else self._padded_box

    def _sides(self, adjoint: bool) -> tuple[Box, Box]:
        return (self.image_box, self._unfolded) if adjoint else (self.estimate_box, self.image_box)

    def _pads(self, adjoint: bool) -> bool:
        own = not adjoint or self._unfolded == self.estimate_box
        return self._boundary not in ("zero", "wrap") and own

    @property
    def workspace_bytes(self) -> int:
        """The result kept between two sweeps, what the pass along z reads, and what is padded."""
        padded = self._size(self._padded_box)
        kept = self._size(self.estimate_box)
        return self.dtype.itemsize * (kept + padded + (padded if self._pads(adjoint=False) else 0))

    def _padded(
        self, chain: ArrayChain, call: Call, source: DeviceArray, axes: Axes
    ) -> tuple[DeviceArray, Axes]:
        """`source` as far as its axes reach, and the axes of that."""
        inner = [n for n, *_ in axes]
        low = [max(-base, 0) for _, _, base, _ in axes]
        high = [max(base + d + taps - 1 - n, 0) for n, d, base, taps in axes]
        widths = [n + a + b for n, a, b in zip(inner, low, high, strict=True)]
        padded = chain.workspace("padded", (math.prod(widths),))
        run = getattr(native(), "pad_" + suffix(self.dtype))
        run(call.memory.place, source, inner, low, high, self._boundary, padded)
        moved = zip(widths, axes, low, strict=True)
        return padded, [(n, d, base + a, taps) for n, (_, d, base, taps), a in moved]

    def transfer(self, terms: Any, centre: tuple[int, ...], num_threads: int | None = None) -> Filters:
        # Per term and direction three lines, absent axes a single 1.
        parts = []
        for term in terms:
            lines = [np.ones(1, self.dtype)] * (3 - len(term)) + list(term)
            parts.append([np.ascontiguousarray(line[::-1]) for line in lines])
            parts.append([np.ascontiguousarray(line) for line in lines])
        return Filters(parts, tuple(len(line) for line in terms[0]), tuple(int(c) for c in centre))

    def _sums_size(self, axes: Axes) -> int:
        return int(native().separable_sums_size(axes))

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
        axes = self._axes(filters, adjoint)
        if self._pads(adjoint):
            source, axes = self._padded(chain, call, source, axes)
        kernel = getattr(native(), "separable_" + suffix(self.dtype))
        wanted = int(native().separable_workspace(axes))
        between = chain.workspace("between", (wanted,)) if wanted else None
        *first, last = filters.on(call.memory)[adjoint::2]
        named = operands.named
        if first:
            # All terms but the last, which the formula then takes with it.
            total = chain.workspace("terms", (self._size(self._sides(adjoint)[1]),))
            partial = named.get("partial")
            for lines in first:
                summing = {"out": total, "partial": partial}
                kernel(call.memory.place, axes, self.periodic, lines, source, None, between, "copy", summing)
                partial = total
            named = named | {"partial": total}
        kernel(call.memory.place, axes, self.periodic, last, source, kept, between, formula, named)


class ArrayChain:
    """The array that the next sweep reads; device arrays of the caller are referred to, not copied."""

    def __init__(self, plan: ArrayPlan) -> None:
        self._plan = plan
        self._source: DeviceArray | None = None
        self._workspaces: dict[str, DeviceArray] = {}
        self._memory: Memory | None = None

    def workspace(self, name: str, shape: tuple[int, ...]) -> DeviceArray:
        """Memory that the chain keeps, so that sweeps allocate nothing after the first ones."""
        assert self._memory is not None
        size = math.prod(shape)
        found = self._workspaces.get(name)
        if found is None or found.memory is not self._memory or found.size < size:
            found = self._workspaces[name] = self._memory.empty(shape, self._plan.dtype)
        return DeviceArray(found.pointer, shape, found.dtype, found.memory, found.owner)

    def load(self, x: Array, *, adjoint: bool = False, **operands: Any) -> Sums | None:
        """Take `x`, an estimate or (adjoint) an image; with `previous`, what lies beyond it."""
        plan = self._plan
        expected = plan._size(plan._sides(adjoint)[0])
        if x.size != expected:
            raise ValueError(f"x: got {x.size} values, expected {expected}")
        self._memory = memory_of(x, *operands.values())
        call = Call(self._memory)
        self._source = call.read(x)
        if not operands:
            return None
        if operands.get("previous") is not None and operands.get("extrapolated") is None:
            raise ValueError("extrapolated: an engine without transforms needs it here")
        taken = apply_formula(call, "copy", self._source, operands)
        call.finish()
        self._source = taken.named.get("extrapolated") or self._source
        return taken.sums()

    def sweep(
        self,
        transfer: Filters,
        formula: str,
        *,
        adjoint: bool = False,
        keep: bool = True,
        out: Array | None = None,
        **operands: Any,
    ) -> Sums | None:
        """Apply `transfer` (its adjoint), then `formula`; the result goes to `out` and the next sweep."""
        if self._source is None or self._memory is None:
            raise RuntimeError("nothing is loaded: call load() first, or keep=True in the sweep before")
        source, self._source = self._source, None  # stays so after an error
        plan = self._plan
        call = Call(self._memory)
        sums_size = plan._sums_size(plan._axes(transfer, adjoint))
        taken = Operands(call, operands | {"out": out}, sums_size)
        following = taken.named.get("out" if operands.get("previous") is None else "extrapolated")
        moved = taken.kept_apart_from(source)
        kept = None
        if keep and following is None:
            size = plan._size(plan._sides(adjoint)[1])
            # Two of them in turn: the source may be the other one.
            other = self._workspaces.get("kept 0")
            name = "kept 1" if other is not None and other.pointer == source.pointer else "kept 0"
            following = kept = self.workspace(name, (size,))
        plan._run(self, call, source, kept, transfer, adjoint, formula, taken)
        for to, result in moved:
            to.write(result)
        call.finish()
        if keep:
            self._source = following
        return taken.sums()
