"""The compiled CPU backend: the kernel catalogue's names over the module ``_cpp``.

Arrays that arrive here are validated, C-contiguous and of the plan's dtype; the bindings refuse anything else
instead of converting it.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType
from typing import Any

import numpy as np

from .._threads import resolve_num_threads

NAME = "cpp"

_module: ModuleType | None
_import_error: str | None
try:
    _module = importlib.import_module("medeconv_fast._cpp")
    _import_error = None
except ImportError as error:
    _module = None
    _import_error = str(error)


def is_available() -> bool:
    return _module is not None


def unavailable_reason() -> str | None:
    if _module is not None:
        return None
    return (
        f"the compiled module medeconv_fast._cpp cannot be imported ({_import_error}); "
        "it comes from a build with MEDECONV_NATIVE=ON (the default), which needs a C++20 compiler"
    )


def _native() -> ModuleType:
    if _module is None:
        raise ImportError(f"backend 'cpp': {unavailable_reason()}")
    return _module


def describe() -> dict[str, Any]:
    native = _native()
    return {
        "isa": native.isa(),
        "supported_isas": native.supported_isas(),
        "cached_bytes": native.cached_bytes(),
    }


def release_memory() -> None:
    """Give buffers that are kept for reuse back to the system."""
    if _module is not None:
        _module.release_memory()


def good_size(n: int, *, even: bool = False, last: bool = False) -> int:
    """Length >= n whose transform costs least (factors 2, 3, 5, 7)."""
    return int(_native().good_size(n, even))


def smallest_divisor(scale: float, dtype: Any) -> float:
    return float(_native().smallest_divisor(float(scale), np.dtype(dtype) == np.float32))


def _suffix(dtype: Any) -> str:
    return "F32" if np.dtype(dtype) == np.float32 else "F64"


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
        self._symmetric = symmetric
        self._plan = getattr(_native(), "SpectralPlan" + _suffix(dtype))(
            list(self.grid), list(self.estimate_box), list(self.image_box), list(reach)
        )

    @property
    def workspace_bytes(self) -> int:
        """One OTF and one spectrum in flight."""
        return int(self._plan.spectrum_bytes + self._plan.transfer_bytes(self._symmetric))

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> Any:
        threads = resolve_num_threads(num_threads)
        return self._plan.transfer(psf, [int(c) for c in centre], self._symmetric, threads)

    def wiener_transfer(self, psf_transfer: Any, regularizer_transfer: Any, balance: float) -> Any:
        return self._plan.wiener_transfer(psf_transfer, regularizer_transfer, float(balance))

    def gcv(
        self,
        image: np.ndarray,
        psf_transfer: Any,
        regularizer_transfer: Any,
        balances: np.ndarray,
        num_threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        return self._plan.gcv(
            image,
            psf_transfer,
            regularizer_transfer,
            np.ascontiguousarray(balances, dtype=np.float64),
            resolve_num_threads(num_threads),
        )

    def chain(self, num_threads: int | None = None) -> Any:
        return getattr(_native(), "Chain" + _suffix(self.dtype))(self._plan, resolve_num_threads(num_threads))


class CosinePlan:
    """An image that goes on as its own mirror image, in cosine transforms of its own size."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self._plan = getattr(_native(), "CosinePlan" + _suffix(dtype))(list(self.shape))

    @property
    def workspace_bytes(self) -> int:
        """One transfer function and one spectrum in flight."""
        return int(self._plan.spectrum_bytes + self._plan.transfer_bytes)

    def transfer(self, psf: np.ndarray, num_threads: int | None = None) -> Any:
        return self._plan.transfer(psf, resolve_num_threads(num_threads))

    def chain(self, num_threads: int | None = None) -> Any:
        make = getattr(_native(), "CosineChain" + _suffix(self.dtype))
        return make(self._plan, resolve_num_threads(num_threads))


class _ArrayPlan:
    """What the engines without a spectrum in flight share: boxes, and a chain that keeps an array."""

    _engine: str

    def __init__(self, estimate_box: Any, image_box: Any, periodic: bool, dtype: Any) -> None:
        self._make(estimate_box, image_box, dtype, periodic)

    def _make(self, estimate_box: Any, image_box: Any, dtype: Any, *outside: Any) -> None:
        self.estimate_box = tuple((int(a), int(b)) for a, b in estimate_box)
        self.image_box = tuple((int(a), int(b)) for a, b in image_box)
        self.dtype = np.dtype(dtype)
        make = getattr(_native(), f"{self._engine}Plan{_suffix(dtype)}")
        self._plan = make(*map(self._native_box, (self.estimate_box, self.image_box)), *outside)

    def _native_box(self, box: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
        return list(box)

    @property
    def workspace_bytes(self) -> int:
        """The result kept between two sweeps; all else stays in the caches."""
        return self.dtype.itemsize * math.prod(stop - start for start, stop in self.estimate_box)

    def chain(self, num_threads: int | None = None) -> Any:
        make = getattr(_native(), f"{self._engine}Chain{_suffix(self.dtype)}")
        return make(self._plan, resolve_num_threads(num_threads))


class SeparablePlan(_ArrayPlan):
    """Boxes of an operator whose PSF is a sum of products of one filter per axis."""

    _engine = "Separable"

    def __init__(
        self,
        estimate_box: Any,
        image_box: Any,
        boundary: str,
        dtype: Any,
        padded_box: Any = None,
        mirrored: bool = False,
    ) -> None:
        unfolded = estimate_box if mirrored or padded_box is None else padded_box
        unfolded = [(int(a), int(b)) for a, b in unfolded]
        self._make(estimate_box, image_box, dtype, boundary, unfolded)

    def transfer(self, terms: Any, centre: tuple[int, ...], num_threads: int | None = None) -> Any:
        taps = [[line.tolist() for line in term] for term in terms]
        return self._plan.filters(taps, [int(c) for c in centre])


class DirectPlan(_ArrayPlan):
    """Boxes of an operator that is summed tap by tap, for small PSFs of any shape."""

    _engine = "Direct"

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> Any:
        return self._plan.filters(psf, [int(c) for c in centre])


class OverlapPlan(_ArrayPlan):
    """Boxes of which one axis is longer than 1: cut into overlapping segments, transformed together."""

    _engine = "Overlap"

    @property
    def _axis(self) -> int:
        lengths = [stop - start for start, stop in self.estimate_box]
        return lengths.index(max(lengths))

    def _native_box(self, box: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
        return [box[self._axis]]

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> Any:
        return self._plan.filters(psf, [int(centre[self._axis])])


class ConvPlan:
    """Convolution of one shape as networks mean it: forward, its transpose and its gradient in the weight."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        weight_shape: tuple[int, ...],
        stride: tuple[int, ...],
        padding: Any,
        dilation: tuple[int, ...],
        groups: int,
        padding_mode: str,
        dtype: Any,
        exact: bool = False,
    ) -> None:
        self.input_shape = tuple(int(n) for n in input_shape)
        self.weight_shape = tuple(int(n) for n in weight_shape)
        self.dtype = np.dtype(dtype)
        pairs = [(int(low), int(high)) for low, high in padding]
        self._plan = getattr(_native(), "ConvPlan" + _suffix(dtype))(
            self.input_shape,
            self.weight_shape,
            stride,
            pairs,
            dilation,
            int(groups),
            padding_mode,
            bool(exact),
        )
        spatial = zip(self.input_shape[2:], self.weight_shape[2:], stride, pairs, dilation, strict=True)
        self.output_shape = (self.input_shape[0], self.weight_shape[0]) + tuple(
            (n + low + high - (k - 1) * d - 1) // s + 1 for n, k, s, (low, high), d in spatial
        )

    @property
    def family(self) -> str:
        """Of the forward kernel."""
        return str(self._plan.family)

    @property
    def workspace_bytes(self) -> int:
        """The most that one call takes beside its arrays."""
        return int(self._plan.workspace_bytes(resolve_num_threads(None)))

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
        self._plan.forward(x, w, bias, out, relu, addend, slope, resolve_num_threads(num_threads))

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
        self._plan.input_grad(grad, w, bias, out, relu, addend, slope, resolve_num_threads(num_threads))

    def weight_grad(
        self, grad: np.ndarray, x: np.ndarray, out: np.ndarray, *, num_threads: int | None = None
    ) -> None:
        self._plan.weight_grad(grad, x, out, resolve_num_threads(num_threads))


def sum_channels(x: np.ndarray, out: np.ndarray, *, num_threads: int | None = None) -> None:
    """The sum over all but axis 1: a convolution's gradient in its bias."""
    _native().sum_channels(x, out, resolve_num_threads(num_threads))


_SMALL = 1 << 16  # bytes; below, malloc reuses its own


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array on memory that is kept for reuse once the array is gone (`release_memory` gives it back)."""
    dtype = np.dtype(dtype)
    if math.prod(shape) * dtype.itemsize < _SMALL:
        return np.empty(shape, dtype)
    return getattr(_native(), "empty_" + _suffix(dtype))(shape)


def resident(array: np.ndarray) -> np.ndarray:
    """The array where the backend computes."""
    return array


def pad(
    x: np.ndarray,
    low: tuple[int, ...],
    high: tuple[int, ...],
    boundary: str,
    num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    threads = resolve_num_threads(num_threads)
    made: np.ndarray = _native().pad(x, list(low), list(high), boundary, threads, out)
    return made


def fold(
    y: np.ndarray,
    low: tuple[int, ...],
    high: tuple[int, ...],
    boundary: str,
    num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    threads = resolve_num_threads(num_threads)
    made: np.ndarray = _native().fold(y, list(low), list(high), boundary, threads, out)
    return made


def penalty(
    kind: str,
    x: np.ndarray,
    out: np.ndarray,
    spacing: tuple[float, ...],
    weight: float,
    level: float,
    *,
    num_threads: int | None = None,
) -> None:
    _native().penalty(kind, x, out, list(spacing), weight, level, resolve_num_threads(num_threads))


def denoised(
    z: np.ndarray,
    dual: np.ndarray,
    out: np.ndarray,
    weight: tuple[float, ...],
    lowest: float,
    *,
    num_threads: int | None = None,
) -> None:
    _native().denoised(z, dual, out, list(weight), lowest, resolve_num_threads(num_threads))


def denoise_step(
    z: np.ndarray,
    ahead: np.ndarray,
    dual: np.ndarray,
    weight: tuple[float, ...],
    step: tuple[float, ...],
    momentum: float,
    lowest: float,
    *,
    num_threads: int | None = None,
) -> None:
    threads = resolve_num_threads(num_threads)
    _native().denoise_step(z, ahead, dual, list(weight), list(step), momentum, lowest, threads)


def apply_formula(
    formula: str, c: np.ndarray, out: np.ndarray, *, num_threads: int | None = None, **operands: Any
) -> tuple[float, float, float] | None:
    threads = resolve_num_threads(num_threads)
    sums: tuple[float, float, float] | None = _native().apply_formula(
        formula, c, num_threads=threads, out=out, **operands
    )
    return sums
