"""The CUDA backend: the kernel catalogue's names over the module ``_cuda``.

Arrays that arrive here are validated, C-contiguous and of the plan's dtype. Device arrays stay where they
are; NumPy arrays are copied to the device for the call, and results back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _device
from .._device import native
from . import _cuda_base as base
from ._cuda_arrays import DirectPlan as DirectPlan
from ._cuda_arrays import SeparablePlan as SeparablePlan
from ._cuda_base import Array, Call, Sums, memory_of, suffix
from ._cuda_conv import ConvPlan as ConvPlan
from ._cuda_conv import sum_channels as sum_channels

NAME = "cuda"
OLDEST_DRIVER = 13000  # that runs what this runtime compiles to


def is_available() -> bool:
    return unavailable_reason() is None


def unavailable_reason() -> str | None:
    if _device.module is None:
        return (
            f"the compiled module medeconv_fast._cuda cannot be imported ({_device.import_error}); it comes "
            "from a build from source where CUDA's compiler nvcc is found (MEDECONV_CUDA=ON insists on it); "
            "wheels do not have it"
        )
    found = _device.module.devices()
    if found["driver"] == 0:
        return "there is no NVIDIA driver on this machine"
    if found["driver"] < OLDEST_DRIVER:
        have, need = (f"{v // 1000}.{v % 1000 // 10}" for v in (found["driver"], OLDEST_DRIVER))
        return f"the NVIDIA driver supports CUDA {have}, the compiled module needs {need}; update the driver"
    if found["count"] == 0:
        return f"the NVIDIA driver finds no device ({found['error'] or 'none'})"
    return None


def describe() -> dict[str, Any]:
    return {
        "device": native().describe_device(0),
        "cached_bytes": native().kept_memory(0),
    }


def release_memory() -> None:
    """Give device memory that is kept for reuse back to the driver."""
    if is_available():
        for device in range(native().devices()["count"]):
            native().release_kept_memory(device)


def good_size(n: int, *, even: bool = False) -> int:
    """Smallest length >= n with no prime factor above 7."""
    length = max(int(n), 1)
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and not (even and length % 2):
            return length
        length += 1


def smallest_divisor(scale: float, dtype: Any) -> float:
    return float(native().smallest_divisor(float(scale), np.dtype(dtype) == np.float32))


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
        raise NotImplementedError("backend 'cuda': SpectralPlan is not built yet")


class OverlapPlan:
    """Boxes of which one axis is longer than 1."""

    def __init__(self, estimate_box: Any, image_box: Any, periodic: bool, dtype: Any) -> None:
        raise NotImplementedError("backend 'cuda': OverlapPlan is not built yet")


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array on the host."""
    return np.empty(shape, dtype)


def pad(
    x: Array, low: tuple[int, ...], high: tuple[int, ...], boundary: str, num_threads: int | None = None
) -> Array:
    """A new array, on the side where `x` is."""
    shape = tuple(n + a + b for n, a, b in zip(x.shape, low, high, strict=True))
    return _resized("pad_", x, shape, x.shape, low, high, boundary)


def fold(
    y: Array, low: tuple[int, ...], high: tuple[int, ...], boundary: str, num_threads: int | None = None
) -> Array:
    """A new array, on the side where `y` is."""
    shape = tuple(n - a - b for n, a, b in zip(y.shape, low, high, strict=True))
    return _resized("fold_", y, shape, shape, low, high, boundary)


def _resized(
    kernel: str,
    x: Array,
    shape: tuple[int, ...],
    inner: tuple[int, ...],
    low: tuple[int, ...],
    high: tuple[int, ...],
    boundary: str,
) -> Array:
    call = Call(memory_of(x))
    result = call.empty(shape, x.dtype)
    run = getattr(native(), kernel + suffix(x.dtype))
    run(call.memory.place, call.read(x), inner, low, high, boundary, result)
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


def apply_formula(
    formula: str, c: Array, out: Array, *, num_threads: int | None = None, **operands: Any
) -> Sums | None:
    call = Call(memory_of(c, out, *operands.values()))
    taken = base.apply_formula(call, formula, call.read(c), operands | {"out": out})
    call.finish()
    return taken.sums()
