"""Convolution of networks, of the Numba backend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._threads import resolve_num_threads
from ._numba_base import Scratch, compiled_loops, cut, folded, run, sources_of, three


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
            self.sources = sources_of(n, self.low, padding[1], name)

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
        loops = compiled_loops()
        channels = x.shape[1]
        values = x.reshape(-1, *three(x.shape[2:], 1))
        padded = np.empty((len(values), *shape[1:]), self.dtype)
        runs = [_run_of(places) for places in maps[2]]
        per_unit = max(1, (1 << 16) // math.prod(shape[1:]))
        units = cut(len(values), per_unit)

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

        run(len(units), threads, fill)
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
        row_blocks = cut(rows, step)
        few = items * self._groups * planes * len(row_blocks) < 32
        output_blocks = cut(outputs, 4 if few else outputs)
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
        size: tuple[int, ...],
        to: tuple[tuple[int, int], ...],
        threads: int,
    ) -> None:
        """Sums over the taps, for `size` places; place p of an axis goes to index first + p * step of `out`.

        weights: (groups, outputs per group, taps); `to`: (first, step) per axis.
        """
        loops = compiled_loops()
        flat = source.reshape(-1)
        per_item, pitch, plane = source[0].size, source.shape[-1], math.prod(source.shape[-2:])
        outputs = weights.shape[1]
        result = out.reshape(-1, *three(out.shape[2:], 1))
        tiles = self._tiles(len(source), outputs, source.shape[1] // self._groups, size[0], size[1], pitch)
        scratch = Scratch()

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

        run(len(tiles), threads, sum_tile)

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
        for first, last in cut(len(x), self._items(self._source_shape)):
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
        for first, last in cut(len(grad), self._items(self._grad_shape)):
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
                    tuple(size),
                    tuple(to),
                    threads,
                )
            if self._folds:
                for number, axis in enumerate(axes):
                    result = folded(result, 2 + number, axis.sources, axis.n, threads)
                if bias is not None or relu:
                    values = result.reshape(result.shape[0] * result.shape[1], -1)
                    compiled_loops().bias_and_relu(values, self._nothing if bias is None else bias, relu)
                out[first:last] = result.reshape(out[first:last].shape)

    def weight_grad(
        self, grad: np.ndarray, x: np.ndarray, out: np.ndarray, *, num_threads: int | None = None
    ) -> None:
        """The gradient of ``sum(forward(x) * grad)`` to the weight."""
        if self._without_taps(None, False, out):
            return
        loops, threads = compiled_loops(), resolve_num_threads(num_threads)
        groups, taps = self._groups, len(self._taps)
        outputs, channels = self.weight_shape[0], self.weight_shape[1]
        depth, rows, width = (axis.out for axis in self._axes)
        offsets = self._offsets().reshape(channels, taps)
        # Units are outputs; where these are few, rows as well, whose sums are added in their order.
        row_blocks = cut(depth * rows, max(1, -(-depth * rows * outputs // 32)))
        lanes_per_tap = min(-(-width // 16) * 16, max(16, (1 << 17) // taps))
        totals = np.zeros((len(row_blocks), outputs, channels, taps))
        scratch = Scratch()
        for first, last in cut(len(x), self._items(self._source_shape)):
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

            run(len(units), threads, products)
        out[...] = totals.sum(0).reshape(out.shape)


def sum_channels(x: np.ndarray, out: np.ndarray, *, num_threads: int | None = None) -> None:
    """Sum over all axes but the second: (N, C, *spatial) -> (C,)."""
    loops = compiled_loops()
    values = x.reshape(x.shape[0], x.shape[1], math.prod(x.shape[2:]))

    def add(unit: int) -> None:
        loops.sum_lines(values[:, unit : unit + 1], out[unit : unit + 1])

    run(x.shape[1], resolve_num_threads(num_threads), add)
