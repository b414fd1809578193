"""The CUDA backend: the kernel catalogue's names over the module ``_cuda``.

Arrays that arrive here are validated, C-contiguous and of the plan's dtype. Device arrays stay where they
are; NumPy arrays are copied to the device for the call, and results back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _device
from .._device import DeviceArray, native, suffix
from . import _cuda_base as base
from ._cuda_arrays import DirectPlan as DirectPlan
from ._cuda_arrays import SeparablePlan as SeparablePlan
from ._cuda_base import Array, Call, Sums, memory_of
from ._cuda_conv import ConvPlan as ConvPlan
from ._cuda_conv import sum_channels as sum_channels
from ._cuda_spectral import OverlapPlan as OverlapPlan
from ._cuda_spectral import SpectralPlan as SpectralPlan
from ._cuda_spectral import forget_tables, tables_bytes

NAME = "cuda"


def is_available() -> bool:
    return unavailable_reason() is None


def unavailable_reason() -> str | None:
    return _device.unavailable_reason()


def describe() -> dict[str, Any]:
    return {
        "device": native().describe_device(0),
        "cached_bytes": native().kept_memory(0) + tables_bytes(0) + _device.lasting_bytes(0),
    }


def release_memory() -> None:
    """Give device memory that is kept for reuse back to the driver.

    It does not take what is in use, nor the rest of the driver's blocks that hold some of it.
    """
    if is_available():
        forget_tables()
        _device.forget_lasting()
        for device in range(native().devices()["count"]):
            native().release_kept_memory(device)


def good_size(n: int, *, even: bool = False, last: bool = False) -> int:
    """Length >= n whose transform costs least (factors 2, 3, 5, 7); last: along the last axis."""
    return int(native().good_size(int(n), even, last))


def smallest_divisor(scale: float, dtype: Any) -> float:
    return float(native().smallest_divisor(float(scale), np.dtype(dtype) == np.float32))


def resident(array: Array) -> DeviceArray:
    """The array in GPU memory: itself, or a copy."""
    return array if isinstance(array, DeviceArray) else _device.own_memory().uploaded(array)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array on the host."""
    return np.empty(shape, dtype)


def pad(
    x: Array,
    low: tuple[int, ...],
    high: tuple[int, ...],
    boundary: str,
    num_threads: int | None = None,
    out: Array | None = None,
) -> Array:
    """`out`, or a new array on the side where `x` is."""
    shape = tuple(n + a + b for n, a, b in zip(x.shape, low, high, strict=True))
    return _resized("pad_", x, shape, x.shape, low, high, boundary, out)


def fold(
    y: Array,
    low: tuple[int, ...],
    high: tuple[int, ...],
    boundary: str,
    num_threads: int | None = None,
    out: Array | None = None,
) -> Array:
    """`out`, or a new array on the side where `y` is."""
    shape = tuple(n - a - b for n, a, b in zip(y.shape, low, high, strict=True))
    return _resized("fold_", y, shape, shape, low, high, boundary, out)


def _resized(
    kernel: str,
    x: Array,
    shape: tuple[int, ...],
    inner: tuple[int, ...],
    low: tuple[int, ...],
    high: tuple[int, ...],
    boundary: str,
    out: Array | None,
) -> Array:
    call = Call(memory_of(x))
    result = call.empty(shape, x.dtype) if out is None else call.written(out)
    run = getattr(native(), kernel + suffix(x.dtype))
    run(call.memory.place, call.read(x), inner, low, high, boundary, result)
    call.finish()
    if out is not None:
        return out
    return result.numpy() if isinstance(x, np.ndarray) else result


def penalty(
    kind: str,
    x: Array,
    out: Array,
    spacing: tuple[float, ...],
    weight: float,
    level: float,
    *,
    num_threads: int | None = None,
) -> None:
    call = Call(memory_of(x, out))
    run = getattr(native(), "penalty_" + suffix(x.dtype))
    run(call.memory.place, kind, call.read(x), x.shape, call.written(out), list(spacing), weight, level)
    call.finish()


def denoised(
    z: Array,
    dual: Array,
    out: Array,
    weight: tuple[float, ...],
    lowest: float,
    *,
    num_threads: int | None = None,
) -> None:
    call = Call(memory_of(z, dual, out))
    run = getattr(native(), "denoised_" + suffix(z.dtype))
    run(call.memory.place, call.read(z), z.shape, call.read(dual), call.written(out), list(weight), lowest)
    call.finish()


def denoise_step(
    z: Array,
    ahead: Array,
    dual: Array,
    weight: tuple[float, ...],
    step: tuple[float, ...],
    momentum: float,
    lowest: float,
    *,
    num_threads: int | None = None,
) -> None:
    call = Call(memory_of(z, ahead, dual))
    run = getattr(native(), "denoise_step_" + suffix(z.dtype))
    room = call.empty(z.shape, z.dtype)
    changed = [call.changed(array) for array in (ahead, dual)]
    arrays = (call.read(z), z.shape, *changed, room)
    run(call.memory.place, *arrays, list(weight), list(step), momentum, lowest)
    call.finish()


def apply_formula(
    formula: str, c: Array, out: Array, *, num_threads: int | None = None, **operands: Any
) -> Sums | None:
    call = Call(memory_of(c, out, *operands.values()))
    taken = base.apply_formula(call, formula, call.read(c), operands | {"out": out})
    call.finish()
    return taken.sums()
