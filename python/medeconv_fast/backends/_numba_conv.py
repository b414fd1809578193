"""Convolution of networks, of the Numba backend."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np

from .._threads import resolve_num_threads
from ._numba_base import Scratch, compiled_loops, cut, folded, kept, run, sources_of, three, unlocked


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
    start = int(inside[0])
    breaks = np.flatnonzero(np.diff(places[start:]) != 1)
    return start, start + 1 + int(breaks[0]) if breaks.size else places.size


class _Tables(NamedTuple):
    """What each place of a padded array holds, for every axis and phase, and where x counts up by one."""

    axes: list[np.ndarray]
    runs: np.ndarray

    @classmethod
    def of(cls, maps: list[list[np.ndarray]]) -> _Tables:
        """From maps[axis][phase]."""
        return cls([np.stack(of_axis) for of_axis in maps], np.array([_run_of(places) for places in maps[2]]))


_KEPT_TABLES = 1 << 21  # bytes: larger ones are made for every call
_BATCH_BYTES = 1 << 26  # padded inputs of as many items as this holds are made at a time
_UNITS = 16  # of a pass, at most: a call from Python takes longer than many a tile
_MANY_CHANNELS = 16  # vectors along them are long enough
_POSITIONS = 512  # of a block of the weight gradient, at least
_LANES = 1 << 12  # of all taps of a channel, in the weight gradient of rows: they stay in the first cache
_FEWEST_LANES = 512  # of a tap


class _Part(NamedTuple):
    """Places of a result that are sums over the same taps: place p of an axis is index first + p * step."""

    offsets: np.ndarray  # of the taps, in the padded source
    weights: np.ndarray  # groups, outputs per group, taps
    size: tuple[int, ...]  # places per axis
    to: tuple[tuple[int, int], ...]  # (first, step) per axis


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
        self._tables: dict[str, _Tables] = {}

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
    def _many_channels(self) -> bool:
        outputs, channels = self.weight_shape[:2]
        return channels >= _MANY_CHANNELS and outputs // self._groups >= 4

    @property
    def workspace_bytes(self) -> int:
        """The most that one call takes beside its arrays."""
        forward, back = (
            self._items(shape) * math.prod(shape) for shape in (self._source_shape, self._grad_shape)
        )
        if self._many_channels:  # channels, brought next to one another
            forward *= 2
        if self._folds:
            back += 2 * math.prod((*self.input_shape[:2], *(axis.padded for axis in self._axes)))
        return self.dtype.itemsize * max(forward, back)

    @contextmanager
    def _padded(
        self, x: np.ndarray, shape: tuple[int, ...], tables: _Tables, threads: int
    ) -> Iterator[np.ndarray]:
        """Items of `x`, laid out in `shape` per item."""
        loops = compiled_loops()
        channels = x.shape[1]
        values = unlocked(x).reshape(-1, *three(x.shape[2:], 1))
        size = (len(values), *shape[1:])
        memory = kept.take(math.prod(size) * self.dtype.itemsize)
        padded = memory[: math.prod(size) * self.dtype.itemsize].view(self.dtype).reshape(size)
        units = cut(len(values), max(1, (1 << 16) // math.prod(shape[1:])))
        run(
            len(units),
            threads,
            lambda unit: loops.gather_channels(values, padded, *units[unit], *tables.axes, tables.runs),
        )
        yield padded.reshape(len(x), channels, *shape[1:])
        kept.give(memory)

    def _source(self, x: np.ndarray, threads: int) -> AbstractContextManager[np.ndarray]:
        return self._padded(x, self._source_shape, self._kept_tables("source"), threads)

    def _kept_tables(self, which: str) -> _Tables:
        """Of "source" or "grad": made once, as it takes as long as a small layer's sums."""
        made = self._tables.get(which)
        if made is None:
            if which == "source":
                made = _Tables.of([[axis.map(phase) for phase in axis.used] for axis in self._axes])
            else:
                made = _Tables.of([[axis.grad_map()] for axis in self._axes])
            if sum(table.nbytes for table in made.axes) <= _KEPT_TABLES:
                self._tables[which] = made
        return made

    @functools.cached_property
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
        line = 1 << (13 if outputs >= 4 else 15)  # four lines at a time, or one; a call takes its time
        step = max(1, min(rows, line // pitch, (1 << 17) // (pitch * max(1, channels))))
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
        parts: list[_Part],
        bias: np.ndarray,
        relu: bool,
        out: np.ndarray,
        threads: int,
    ) -> None:
        """Sums over the taps of every part of the result."""
        loops = compiled_loops()
        flat = source.reshape(-1)
        per_item, pitch, plane = source[0].size, source.shape[-1], math.prod(source.shape[-2:])
        outputs = out.shape[1] // self._groups
        result = out.reshape(-1, *three(out.shape[2:], 1))
        channels = source.shape[1] // self._groups
        units: list[tuple[_Part, np.ndarray]] = []
        for part in parts:
            (first_z, step_z), (first_y, step_y), _ = part.to
            tiles = [
                (
                    item * per_item + group * (per_item // self._groups) + z * plane + y0 * pitch,
                    y1 - y0,
                    group,
                    o0,
                    o1,
                    group * outputs + o0,
                    (item * self._groups + group) * outputs + o0,
                    first_z + z * step_z,
                    first_y + y0 * step_y,
                )
                for item, group, z, (y0, y1), (o0, o1) in self._tiles(
                    len(source), outputs, channels, part.size[0], part.size[1], pitch
                )
                if 0 <= first_z + z * step_z < result.shape[1]
            ]
            table = np.array(tiles, np.int64).reshape(-1, 9)
            size = max(1, -(-len(table) // max(2, _UNITS // len(parts))))
            units += [(part, table[first:last]) for first, last in cut(len(table), size)]
        scratch = Scratch()

        def sum_tiles(unit: int) -> None:
            part, tiles = units[unit]
            (_, step_y), (first_x, step_x) = part.to[1:]
            together = 4 if int((tiles[:, 4] - tiles[:, 3]).max()) >= 4 else 1
            with scratch.lend() as buffer:
                loops.conv_tiles(
                    flat,
                    tiles,
                    pitch,
                    part.size[2],
                    part.offsets,
                    part.weights,
                    bias,
                    relu,
                    result,
                    step_y,
                    first_x,
                    step_x,
                    buffer(
                        "lines",
                        (together, (int(tiles[:, 1].max()) - 1) * pitch + part.size[2]),
                        self.dtype,
                    ),
                    buffer("acc", 4 * loops.BLOCK, self.dtype),
                    buffer("partial", 4 * loops.BLOCK, self.dtype),
                )

        run(len(units), threads, sum_tiles)

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

    def _end(
        self, relu: bool, addend: np.ndarray | None, slope: float, out: np.ndarray, num_threads: int | None
    ) -> None:
        """What is done to results, in a pass of its own."""
        loops = compiled_loops()
        values = out.reshape(-1)
        more = values[:0] if addend is None else unlocked(addend).reshape(-1)
        cuts = list(cut(values.size, max(1, -(-values.size // _UNITS))))

        def end(unit: int) -> None:
            first, last = cuts[unit]
            loops.end_results(values[first:last], more[first:last], relu, self.dtype.type(slope))

        run(len(cuts), resolve_num_threads(num_threads), end)

    def forward(
        self,
        x: np.ndarray,
        w: np.ndarray,
        bias: np.ndarray | None,
        out: np.ndarray,
        *,
        relu: bool = False,
        addend: np.ndarray | None = None,
        slope: float = 0.0,
        num_threads: int | None = None,
    ) -> None:
        """The convolution of `x`; `out` is overwritten."""
        if addend is not None or slope:
            self.forward(x, w, bias, out, num_threads=num_threads)
            self._end(relu, addend, slope, out, num_threads)
            return
        if self._without_taps(bias, relu, out):
            return
        threads = resolve_num_threads(num_threads)
        weights = unlocked(w).reshape(self._groups, w.shape[0] // self._groups, -1)
        places = self._nothing if bias is None else unlocked(bias)
        size = tuple(axis.out for axis in self._axes)
        whole = _Part(self._offsets, weights, size, ((0, 1),) * 3)
        for first, last in cut(len(x), self._items(self._source_shape)):
            with self._source(x[first:last], threads) as source:
                self._sum(source, [whole], places, relu, out[first:last], threads)

    def _phases(self, w: np.ndarray) -> list[_Part]:
        """Of the transpose: the places of each remainder by the strides, and the taps that reach them."""
        groups, axes, lengths = self._groups, self._axes, self._grad_shape[2:]
        weights = w.reshape(groups, w.shape[0] // groups, w.shape[1], *(len(a.shifts) for a in axes))
        channels = np.arange(w.shape[0] // groups) * math.prod(lengths)
        parts = []
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
            chosen = np.moveaxis(weights[(slice(None),) * 3 + np.ix_(*taps)], 2, 1)
            size = tuple(-(-(a.padded - r) // a.stride) for a, r in zip(axes, phase, strict=True))
            to = tuple((r if self._folds else r - a.low, a.stride) for a, r in zip(axes, phase, strict=True))
            if min(size) > 0:
                chosen = np.ascontiguousarray(chosen).reshape(groups, w.shape[1], -1)
                parts.append(_Part(np.add.outer(channels, place).reshape(-1), chosen, size, to))
        return parts

    def input_grad(
        self,
        grad: np.ndarray,
        w: np.ndarray,
        bias: np.ndarray | None,
        out: np.ndarray,
        *,
        relu: bool = False,
        addend: np.ndarray | None = None,
        slope: float = 0.0,
        num_threads: int | None = None,
    ) -> None:
        """The exact transpose of `forward` in `x`: transposed convolution, which may have its own bias."""
        if addend is not None or slope:
            self.input_grad(grad, w, bias, out, num_threads=num_threads)
            self._end(relu, addend, slope, out, num_threads)
            return
        if self._without_taps(bias, relu, out):
            return
        threads = resolve_num_threads(num_threads)
        bias = self._nothing if bias is None else unlocked(bias)
        now = self._nothing if self._folds else bias
        padded_shape = (self.input_shape[1], *(axis.padded for axis in self._axes))
        tables = self._kept_tables("grad")
        parts = self._phases(w)
        for first, last in cut(len(grad), self._items(self._grad_shape)):
            result = out[first:last]
            if self._folds:
                result = np.empty((last - first, *padded_shape), self.dtype)
            with self._padded(grad[first:last], self._grad_shape, tables, threads) as source:
                self._sum(source, parts, now, relu and not self._folds, result, threads)
            if self._folds:
                for number, axis in enumerate(self._axes):
                    result = folded(result, 2 + number, axis.sources, axis.n, threads)
                if bias.size or relu:
                    values = result.reshape(result.shape[0] * result.shape[1], -1)
                    compiled_loops().bias_and_relu(values, bias, relu)
                out[first:last] = result.reshape(out[first:last].shape)

    def weight_grad(
        self, grad: np.ndarray, x: np.ndarray, out: np.ndarray, *, num_threads: int | None = None
    ) -> None:
        """The gradient of ``sum(forward(x) * grad)`` to the weight."""
        if self._without_taps(None, False, out):
            return
        threads = resolve_num_threads(num_threads)
        outputs, channels = self.weight_shape[0], self.weight_shape[1]
        make = self._weight_grad_of_channels if self._many_channels else self._weight_grad_of_rows
        totals = np.zeros((outputs, channels, len(self._taps)))
        for first, last in cut(len(x), self._items(self._source_shape)):
            with self._source(x[first:last], threads) as source:
                totals += make(unlocked(grad)[first:last], source, threads)
        out[...] = totals.reshape(out.shape)

    def _weight_grad_of_rows(self, grad: np.ndarray, source: np.ndarray, threads: int) -> np.ndarray:
        """Vectors along the rows: totals (outputs, channels, taps)."""
        loops = compiled_loops()
        groups, taps = self._groups, len(self._taps)
        outputs, channels = self.weight_shape[0], self.weight_shape[1]
        depth, rows, width = (axis.out for axis in self._axes)
        offsets = self._offsets.reshape(channels, taps)
        # Units are outputs; where these are few, rows as well, whose sums are added in their order.
        row_blocks = cut(depth * rows, max(1, -(-depth * rows * outputs // 32)))
        lanes_per_tap = min(-(-width // 16) * 16, max(_FEWEST_LANES, _LANES // taps // 16 * 16))
        totals = np.zeros((len(row_blocks), outputs, channels, taps))
        units = [(o, b) for o in range(outputs) for b in range(len(row_blocks))]
        scratch = Scratch()
        lines = grad.reshape(len(grad), outputs, depth * rows, width)
        flat, per_item, pitch = source.reshape(-1), source[0].size, source.shape[-1]
        plane = math.prod(source.shape[-2:])

        def products(unit: int) -> None:
            o, b = units[unit]
            group = o // (outputs // groups)
            with scratch.lend() as buffer:
                lanes = buffer("lanes", (taps, lanes_per_tap), self.dtype)
                for item in range(len(lines)):
                    loops.weight_products_of_channels(
                        lines[item, o],
                        flat,
                        item * per_item + group * (per_item // groups),
                        plane,
                        pitch,
                        width,
                        offsets,
                        rows,
                        *row_blocks[b],
                        totals[b, o],
                        lanes,
                    )

        run(len(units), threads, products)
        return totals.sum(0)

    def _weight_grad_of_channels(self, grad: np.ndarray, source: np.ndarray, threads: int) -> np.ndarray:
        """Vectors along the channels, which are brought next to one another first: the same totals."""
        loops = compiled_loops()
        groups, taps = self._groups, len(self._taps)
        outputs, channels = self.weight_shape[0], self.weight_shape[1]
        per_group = outputs // groups
        depth, rows, width = (axis.out for axis in self._axes)
        values = grad.reshape(len(grad), groups, per_group, depth * rows * width)
        planes = source.reshape(len(source), groups, channels, -1)
        places = planes.shape[-1]
        z, y, x = np.ogrid[:depth, :rows, :width]
        positions = ((z * source.shape[-2] + y) * source.shape[-1] + x).reshape(-1) * channels
        # Of the first channel; channels are one apart now, and taps that follow one another one line.
        shifts = self._offsets.reshape(channels, taps)[0] * channels
        firsts = np.flatnonzero(np.diff(shifts, prepend=-1) != channels)
        lengths = np.diff(firsts, append=taps) * channels
        shifts = shifts[firsts]
        blocks = cut(positions.size, max(_POSITIONS, -(-positions.size // _UNITS)))
        totals = np.zeros((len(blocks), outputs, taps * channels))
        # Few blocks: outputs as well.
        step = max(4, per_group * len(blocks) * groups // _UNITS // 4 * 4)
        units = [
            (group, number, of)
            for group in range(groups)
            for number in range(len(blocks))
            for of in cut(per_group, step)
        ]
        size = planes.size * self.dtype.itemsize
        memory = kept.take(size)
        turned = memory[:size].view(self.dtype).reshape(len(source) * groups, places, channels)
        of_channels = planes.reshape(len(source) * groups, channels, places)
        pieces = cut(len(turned) * places, max(64, -(-len(turned) * places // _UNITS)))
        run(len(pieces), threads, lambda unit: loops.channels_last(of_channels, turned, *pieces[unit]))
        lines = turned.reshape(len(source) * groups, places * channels)
        scratch = Scratch()

        def products(unit: int) -> None:
            group, number, (o0, o1) = units[unit]
            of_group = totals[number, group * per_group : (group + 1) * per_group]
            with scratch.lend() as buffer:
                loops.channel_products(
                    values[:, group, o0:o1],
                    lines,
                    group,
                    groups,
                    positions,
                    *blocks[number],
                    shifts,
                    lengths,
                    of_group[o0:o1],
                    buffer("lines", (4, int(lengths.max())), self.dtype),
                    buffer("acc", 4 * loops.BLOCK, self.dtype),
                    buffer("partial", 4 * loops.BLOCK, self.dtype),
                )

        run(len(units), threads, products)
        kept.give(memory)
        return totals.sum(0).reshape(outputs, taps, channels).swapaxes(1, 2)


def sum_channels(x: np.ndarray, out: np.ndarray, *, num_threads: int | None = None) -> None:
    """Sum over all axes but the second: (N, C, *spatial) -> (C,)."""
    loops = compiled_loops()
    values = unlocked(x).reshape(x.shape[0], x.shape[1], math.prod(x.shape[2:]))

    def add(unit: int) -> None:
        loops.sum_lines(values[:, unit : unit + 1], out[unit : unit + 1])

    run(x.shape[1], resolve_num_threads(num_threads), add)
