"""Shapes and options of a convolution and of its transpose: read, checked, and as a plan wants them.

A transposed convolution is the exact transpose of a convolution that maps its output to its input, so both
are described by the same `Layer`; only the names in the messages and the direction of the shapes differ.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _validate

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
# The kernels count in 32 bits along an axis; and a shape beyond this many values is a mistake, not a request
# for memory.
LONGEST = 2**31 - 1
LONGEST_AXIS = 2**30 - 1  # of a padded spatial axis, and so of a stride: sums of two stay within 32 bits
MOST_VALUES = 2**44

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution from `input_shape` to `output_shape`, batched: what a `ConvPlan` is made of.

    `beyond` is how many positions per axis the plan's output is longer than `output_shape`. It is not zero
    for a transposed convolution whose output_padding reaches its stride: positions that the convolution would
    compute there belong to no value of the transposed one's input, and count as zeros.
    """

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[Pair, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    beyond: tuple[int, ...]

    @functools.cached_property
    def is_empty(self) -> bool:
        """No products to sum: a batch without items or an input without channels."""
        return 0 in self.input_shape or 0 in self.weight_shape or 0 in self.output_shape

    @property
    def plan_output_shape(self) -> tuple[int, ...]:
        spatial = (n + b for n, b in zip(self.output_shape[2:], self.beyond, strict=True))
        return (*self.output_shape[:2], *spatial)


def _is_sequence(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def per_axis(value: Any, name: str, ndim: int, *, minimum: int) -> tuple[int, ...]:
    """One integer for all axes, or one per axis; a sequence of one counts for all, as in torch."""
    if type(value) is int and minimum <= value <= LONGEST:
        return (value,) * ndim
    expected = f"expected an integer or {ndim}, one per axis {_validate.AXES[ndim]}"
    if isinstance(value, str | bytes):
        raise TypeError(f"{name}: got {value!r}, {expected}")
    if not _is_sequence(value):
        return (_validate.integer(value, name, minimum=minimum, maximum=LONGEST),) * ndim
    values = tuple(value)
    if len(values) not in (1, ndim):
        raise ValueError(f"{name}: got {len(values)} values {_validate.shown(value)}, {expected}")
    numbers = tuple(
        _validate.integer(v, f"{name}[{i}]", minimum=minimum, maximum=LONGEST) for i, v in enumerate(values)
    )
    return numbers * ndim if len(numbers) == 1 else numbers


def read_padding(
    value: Any, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Pair, ...]:
    """(low, high) per axis from an integer, one per axis, pairs, "same" or "valid"."""
    ndim = len(kernel)
    if isinstance(value, str):
        _validate.choice(value, "padding", ("same", "valid"))
        if value == "valid":
            return ((0, 0),) * ndim
        if any(s != 1 for s in stride):
            raise ValueError(
                f"padding: got 'same' with stride {stride}, expected a stride of 1 on every axis, or numbers"
            )
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((r // 2, r - r // 2) for r in reach)
    if _is_sequence(value) and any(_is_sequence(v) for v in value):
        if len(value) != ndim:
            raise ValueError(
                f"padding: got {len(value)} pairs {_validate.shown(value)}, expected {ndim}, one (low, high) "
                f"per axis {_validate.AXES[ndim]}"
            )
        pairs = []
        for i, pair in enumerate(value):
            if not _is_sequence(pair) or len(pair) != 2:
                raise ValueError(
                    f"padding[{i}]: got {_validate.shown(pair)}, expected (low, high) as for the other axes"
                )
            low, high = (
                _validate.integer(v, f"padding[{i}][{j}]", minimum=0, maximum=LONGEST)
                for j, v in enumerate(pair)
            )
            pairs.append((low, high))
        return tuple(pairs)
    try:
        numbers = per_axis(value, "padding", ndim, minimum=0)
    except (TypeError, ValueError) as error:
        if "padding: got" not in str(error):
            raise
        raise type(error)(f"{error}, or one (low, high) pair per axis, 'same' or 'valid'") from None
    return tuple((n, n) for n in numbers)


def read_shape(value: Any, name: str, ranks: tuple[int, ...], axes: str) -> tuple[int, ...]:
    """A shape given as an argument."""
    if not _is_sequence(value):
        raise TypeError(f"{name}: got {_validate.shown(value)}, expected a shape {axes}")
    lengths = tuple(
        _validate.integer(n, f"{name}[{i}]", minimum=0, maximum=LONGEST) for i, n in enumerate(value)
    )
    if len(lengths) not in ranks:
        raise ValueError(
            f"{name}: got {len(lengths)} axes {lengths}, expected {' or '.join(map(str, ranks))}: {axes}"
        )
    return lengths


def spatial_rank(shape: tuple[int, ...], name: str, transposed: bool, ndim: int | None = None) -> int:
    """How many spatial axes a weight of `shape` has; refused unless 1 to 3, or `ndim` where that is given."""
    if 3 <= len(shape) <= 5 and ndim in (None, len(shape) - 2) and 0 not in (shape[0], *shape[2:]):
        return len(shape) - 2
    axes = "(in, out/groups, *kernel)" if transposed else "(out, in/groups, *kernel)"
    expected = "3 to 5" if ndim is None else str(ndim + 2)
    if len(shape) not in ((3, 4, 5) if ndim is None else (ndim + 2,)):
        raise ValueError(f"{name}: got {len(shape)} axes (shape {shape}), expected {expected}: {axes}")
    raise ValueError(
        f"{name}: got shape {shape}, expected at least 1 along the first and the kernel's axes {axes}"
    )


def batch_of(shape: tuple[int, ...], name: str, ndim: int, weight: str) -> tuple[tuple[int, ...], bool]:
    """`shape` with a batch axis, and whether it had one."""
    if len(shape) == ndim + 2 and 0 not in shape[2:]:
        return shape, True
    axes = _validate.AXES[ndim].strip("()")
    if len(shape) not in (ndim + 1, ndim + 2):
        raise ValueError(
            f"{name}: got {len(shape)} axes (shape {shape}), expected {ndim + 2}, (N, C, {axes}), or "
            f"without a batch {ndim + 1}, (C, {axes}), as {weight} has {ndim} kernel axes"
        )
    batched = len(shape) == ndim + 2
    shape = shape if batched else (1, *shape)
    if 0 in shape[2:]:
        raise ValueError(
            f"{name}: got shape {shape[not batched :]}, expected at least 1 along the axes ({axes}); only a "
            "batch or channels may be empty"
        )
    return shape, batched


def _grouped(
    first: int, weight_shape: tuple[int, ...], groups: Any, names: tuple[str, str], transposed: bool
) -> tuple[int, int]:
    """The checked `groups`, and the number of channels on the other side of the weight."""
    groups = _validate.integer(groups, "groups", minimum=1, maximum=LONGEST)
    x, w = names
    if weight_shape[0] % groups:
        side = "input" if transposed else "output"
        raise ValueError(
            f"groups: got {groups}, expected a divisor of {weight_shape[0]}, the number of {side} channels "
            f"(axis 0 of {w}, shape {weight_shape})"
        )
    wanted = weight_shape[0] if transposed else weight_shape[1] * groups
    if first != wanted:
        count = "axis 0" if transposed else f"groups={groups} times axis 1"
        raise ValueError(
            f"{x}: got {first} channels, expected {wanted}, {count} of {w} (shape {weight_shape})"
        )
    return groups, weight_shape[1] * groups if transposed else weight_shape[0]


def _check_mode(mode: Any, padding: tuple[Pair, ...], lengths: tuple[int, ...], which: str) -> str:
    """A padding mode that can continue axes of `lengths` so far: torch's limits."""
    mode = _validate.choice(mode, "padding_mode", PADDING_MODES)
    for axis, (pair, n) in enumerate(zip(padding, lengths, strict=True)):
        limit = {"reflect": n - 1, "circular": n}.get(mode)
        if limit is not None and max(pair) > limit:
            raise ValueError(
                f"padding: got {pair} on axis {axis} with padding_mode={mode!r}, expected at most {limit} as "
                f"the {which} has {n} values there"
            )
    return mode


def _is_too_long(shape: Sequence[int]) -> bool:
    # Not by the maximum: the lengths may be symbols, which the compiler would compare with one another.
    return any(n > LONGEST_AXIS for n in shape[2:])


def _check_size(shape: Sequence[int], name: str, what: str) -> None:
    if math.prod(shape) > MOST_VALUES:
        raise ValueError(f"{name}: the {what} would be {tuple(shape)}, expected at most 2**44 values")
    if _is_too_long(shape):
        raise ValueError(
            f"{name}: the {what} would be {tuple(shape)}, expected less than 2**30 values along spatial axes"
        )


def _check_stride(stride: tuple[int, ...]) -> None:
    if max(stride) > LONGEST_AXIS:
        raise ValueError(f"stride: got {stride}, expected less than 2**30")


def _taken(stride: tuple[int, ...], padded: tuple[int, ...]) -> tuple[int, ...]:
    """A longer step than the axis is never taken, and kernels keep something for each of its phases."""
    return tuple(s if s == 1 else min(s, n) for s, n in zip(stride, padded, strict=True))


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is not tuple:
        return kind is int or kind is str
    for part in value:  # noqa: SIM110, all() takes several times as long
        if type(part) is not int and not _is_plain(part):
            return False
    return True


def _remembered(function: Callable[..., Layer]) -> Callable[..., Layer]:
    """A network asks for the same few layers in every step, and to read their options takes as long as a
    small one's kernel. Only of integers, texts and tuples: True and 1.0 equal 1, and are refused.
    """
    known = functools.lru_cache(maxsize=256)(function)

    @functools.wraps(function)
    def remembering(*arguments: Any) -> Layer:
        return known(*arguments) if _is_plain(arguments) else function(*arguments)

    return remembering


@_remembered
def conv_layer(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: Any,
    names: tuple[str, str] = ("x", "w"),
) -> Layer:
    """The layer of a convolution of (N, C, ...) by (O, C/groups, ...)."""
    kernel = weight_shape[2:]
    ndim = len(kernel)
    stride = per_axis(stride, "stride", ndim, minimum=1)
    dilation = per_axis(dilation, "dilation", ndim, minimum=1)
    pairs = read_padding(padding, kernel, stride, dilation)
    groups, channels = _grouped(input_shape[1], weight_shape, groups, names, transposed=False)
    spatial = input_shape[2:]
    mode = _check_mode(padding_mode, pairs, spatial, names[0])
    padded = tuple(low + n + high for n, (low, high) in zip(spatial, pairs, strict=True))
    extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    if any(e > n for e, n in zip(extent, padded, strict=True)):
        raise ValueError(
            f"{names[1]}: the kernel {kernel} with dilation {dilation} covers {extent}, expected at most the "
            f"padded {names[0]}, {padded}"
        )
    if _is_too_long(input_shape):
        raise ValueError(
            f"{names[0]}: got shape {input_shape}, expected less than 2**30 values along spatial axes"
        )
    _check_size((*input_shape[:2], *padded), "padding", f"padded {names[0]}")
    _check_stride(stride)
    spatial_out = ((n - e) // s + 1 for n, e, s in zip(padded, extent, stride, strict=True))
    output_shape = (input_shape[0], channels, *spatial_out)
    _check_size(output_shape, names[1], "result")
    step = _taken(stride, padded)
    return Layer(input_shape, weight_shape, output_shape, step, pairs, dilation, groups, mode, (0,) * ndim)


@_remembered
def transposed_layer(
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    padding_mode: Any,
    names: tuple[str, str] = ("x", "w"),
) -> Layer:
    """The layer whose transpose maps (N, C, ...) by (C, O/groups, ...); its `output_shape` is `x_shape`."""
    kernel = weight_shape[2:]
    ndim = len(kernel)
    stride = per_axis(stride, "stride", ndim, minimum=1)
    dilation = per_axis(dilation, "dilation", ndim, minimum=1)
    pairs = read_padding(padding, kernel, stride, dilation)
    extra = per_axis(output_padding, "output_padding", ndim, minimum=0)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ValueError(
            f"output_padding: got {extra}, expected less than the stride {stride} or the dilation {dilation} "
            "on every axis"
        )
    groups, channels = _grouped(x_shape[1], weight_shape, groups, names, transposed=True)
    spatial = tuple(
        (n - 1) * s - low - high + d * (k - 1) + e + 1
        for n, s, (low, high), d, k, e in zip(
            x_shape[2:], stride, pairs, dilation, kernel, extra, strict=True
        )
    )
    if min(spatial) < 1:
        raise ValueError(
            f"padding: got {pairs}, which leaves a result of {spatial}, expected at least 1 on every axis; "
            f"{names[0]} has {x_shape[2:]}"
        )
    mode = _check_mode(padding_mode, pairs, spatial, "result")
    shape = (x_shape[0], channels, *spatial)
    _check_size(shape, "stride", "result")
    padded = tuple(low + n + high for n, (low, high) in zip(spatial, pairs, strict=True))
    _check_size((*shape[:2], *padded), "padding", "padded result")
    _check_stride(stride)
    beyond = tuple(e // s for e, s in zip(extra, stride, strict=True))
    return Layer(shape, weight_shape, x_shape, _taken(stride, padded), pairs, dilation, groups, mode, beyond)
