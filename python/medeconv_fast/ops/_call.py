"""What every function of this package does around a backend's kernel: operands, result, empty shapes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from .. import _arrays, _device, _validate, backends
from .._device import DeviceArray
from .._threads import resolve_num_threads
from ._end import NOTHING, End
from ._geometry import Layer
from ._spectral import SpectralPlan, applies, fill, is_cheaper


class Call:
    """One call's backend, threads and dtype, and the arrays that it was given.

    Where the first one is in GPU memory, so is the result, and what else is on the host is copied there; else
    the other way round.

    Parameters
    ----------
    first : array_like
        The argument that decides about the result's kind and dtype.
    name : str
        Its name.
    exact, backend, num_threads
        As the public functions take them.
    """

    def __init__(self, first: Any, name: str, exact: Any, backend: Any, num_threads: Any) -> None:
        self.exact = _validate.flag(exact, "exact")
        self.kernels = backends.resolve(backend, first)
        # Kernels on a GPU have no threads of ours; asking the system how many takes longer than a launch.
        asked = num_threads is not None or self.kernels.NAME != "cuda"
        self.num_threads = resolve_num_threads(num_threads) if asked else 1
        array, self._restore = _arrays.taken(first, name)
        self.dtype = _arrays.result_dtype(array.dtype)
        self._first: Any = array
        self._given: dict[str, Any] = {name: array}

    def operand(self, value: Any, name: str) -> Any:
        """The array of an argument, as it came; its dtype does not promote."""
        if name not in self._given:
            self._given[name] = _arrays.taken(value, name)[0]
        return self._given[name]

    def bias(self, value: Any, channels: int) -> Any:
        if value is None:
            return None
        array = self.operand(value, "bias")
        if array.shape != (channels,):
            raise ValueError(
                f"bias: got shape {array.shape}, expected ({channels},), one value per output channel"
            )
        self._refuse_floats(array, "bias")
        return self.ready("bias")

    def _refuse_floats(self, array: Any, name: str) -> None:
        """To what integers make, as torch does."""
        if array.dtype.kind == "f" and all(self._given[n].dtype.kind != "f" for n in ("x", "w")):
            raise TypeError(
                f"{name}: got {array.dtype} with x of {self._given['x'].dtype} and w of "
                f"{self._given['w'].dtype}, expected integers as they are, or a w of floats"
            )

    def end(self, end: End, addend: Any, shape: tuple[int, ...]) -> End:
        """`end` with an addend that may be None; `shape` is the result's."""
        if addend is not None:
            array = self.operand(addend, "addend")
            if array.shape != shape:
                raise ValueError(f"addend: got shape {array.shape}, expected {shape}, the result's")
            self._refuse_floats(array, "addend")
            end = end._replace(addend=self.ready("addend"))
        if end.slope:
            with np.errstate(over="ignore"):
                slope = float(self.dtype.type(end.slope))  # as the kernels have it
            if not math.isfinite(slope):
                raise ValueError(
                    f"negative_slope: got {end.slope!r}, expected a number that {self.dtype} holds"
                )
            end = end._replace(slope=slope)
        return end

    @property
    def _resident(self) -> bool:
        return isinstance(self._first, DeviceArray)

    def ready(self, name: str) -> Any:
        """An argument as the kernels want it."""
        return _device.beside(self._first, _arrays.in_dtype(self._given[name], self.dtype))

    def result(self, out: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """Where the kernel writes, and what the caller gets: the same memory."""
        if out is None:
            array = self._empty(shape)
            return array, self._restore(array)
        if self._resident:
            return _resident_destination(out, shape, self._first, self._given), out
        return _destination(out, shape, self.dtype, self._given), out

    def _empty(self, shape: tuple[int, ...]) -> Any:
        if self._resident:
            return self._first.memory.empty(shape, self.dtype)
        return self.kernels.empty(shape, self.dtype)

    def zero(self, array: Any) -> None:
        _fill(array, None, NOTHING)

    def _plan(self, layer: Layer, *, weight: bool = False) -> Any:
        """What computes; `weight`: the gradient of the weight."""
        # Transforms take channels apart on the host.
        if not self.exact and not self._resident and _is_spectral(self.kernels, layer, weight):
            return SpectralPlan(self.kernels, layer, self.dtype)
        return _plan(
            self.kernels,
            layer.input_shape,
            layer.weight_shape,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.padding_mode,
            self.dtype,
            self.exact,
        )

    def forward(
        self,
        layer: Layer,
        x: Any,
        w: Any,
        bias: Any,
        out: Any,
        end: End = NOTHING,
    ) -> None:
        """`layer` applied to `x`, into `out`."""
        x, out = x.reshape(layer.input_shape), out.reshape(layer.output_shape)
        if layer.is_empty:
            _fill(out, bias, end)
            return
        whole = out
        if any(layer.beyond):
            whole = self._empty(layer.plan_output_shape)
        self._plan(layer).forward(x, w, bias, whole, **end.options(), num_threads=self.num_threads)
        if whole is not out and self._resident:
            out.write(whole[_corner(layer)])
        elif whole is not out:
            out[...] = whole[_corner(layer)]

    def adjoint(
        self,
        layer: Layer,
        y: Any,
        w: Any,
        bias: Any,
        out: Any,
        end: End = NOTHING,
    ) -> None:
        """The transpose of `layer` applied to `y`, into `out`."""
        out = out.reshape(layer.input_shape)
        if layer.is_empty:
            _fill(out, bias, end)
            return
        y = self._extended(layer, y)
        self._plan(layer).input_grad(y, w, bias, out, **end.options(), num_threads=self.num_threads)

    def weight_grad(self, layer: Layer, y: Any, x: Any, out: Any) -> None:
        """The gradient of <`layer` applied to `x`, `y`> to the weight, into `out`."""
        if layer.is_empty:
            self.zero(out)
            return
        y = self._extended(layer, y)
        x = x.reshape(layer.input_shape)
        self._plan(layer, weight=True).weight_grad(y, x, out, num_threads=self.num_threads)

    def _extended(self, layer: Layer, y: Any) -> Any:
        y = y.reshape(layer.output_shape)
        if not any(layer.beyond):
            return y
        if self._resident:
            raise NotImplementedError(
                f"output_padding: {layer.beyond} positions beyond the stride are not built yet for arrays in "
                "GPU memory; copy them to the host first"
            )
        whole = np.zeros(layer.plan_output_shape, self.dtype)
        whole[_corner(layer)] = y
        return whole


# A plan is tables of indices that no call changes; a network asks for the same few in every step, each three
# times. Making one takes half as long as a small convolution.
@functools.lru_cache(maxsize=128)
def _plan(kernels: ModuleType, *arguments: Any) -> Any:
    return kernels.ConvPlan(*arguments)


@functools.lru_cache(maxsize=256)
def _is_spectral(kernels: ModuleType, layer: Layer, weight: bool) -> bool:
    return applies(layer) and is_cheaper(layer, kernels, weight=weight)


def _corner(layer: Layer) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in layer.output_shape)


def _fill(out: Any, bias: Any, end: End) -> None:
    """A sum without terms."""
    if isinstance(out, DeviceArray):
        values = np.empty(out.shape, out.dtype)
        addend = None if end.addend is None else _device.host(end.addend)
        _fill(values, None if bias is None else _device.host(bias), end._replace(addend=addend))
        out.write(values)
        return
    fill(out, bias)
    end.apply(out)


def _destination(
    out: Any, shape: tuple[int, ...], dtype: np.dtype, given: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The memory of `out`, which must be fit to be written by a kernel."""
    expected = f"expected a C-contiguous, writable array of shape {shape} and dtype {dtype}"
    if _device.library_of(out) == "torch" and hasattr(out, "requires_grad"):
        out = _device.plain(out)
        if out.requires_grad:
            raise TypeError("out: got a torch tensor that requires a gradient, which is not followed")
        if out.device.type != "cpu":
            _arrays.to_numpy(out, "out")  # refuses it, as any other argument there
        try:
            array = out.numpy()  # not through DLPack, which may say that the memory is read-only
        except (RuntimeError, TypeError) as error:
            raise TypeError(
                f"out: the tensor has no memory to be written to ({error}), {expected}"
            ) from error
    elif isinstance(out, np.ndarray) and not isinstance(out, np.ma.MaskedArray):
        array = np.asarray(out)
    else:
        raise TypeError(f"out: got {_validate.shown(out)}, {expected}")
    if array.dtype != dtype or not array.dtype.isnative:
        raise TypeError(f"out: got dtype {array.dtype}, {expected}")
    if array.shape != shape:
        raise ValueError(f"out: got shape {array.shape}, {expected}")
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned and flags.writeable):
        got = [
            text
            for text, wrong in (
                ("not C-contiguous", not flags.c_contiguous),
                ("misaligned", not flags.aligned),
                ("read-only", not flags.writeable),
            )
            if wrong
        ]
        raise ValueError(f"out: got an array that is {' and '.join(got)}, {expected}")
    for name, operand in given.items():
        if _arrays.overlap(array, operand):
            raise ValueError(f"out: shares memory with {name}, expected memory of its own")
    return array


def _resident_destination(
    out: Any, shape: tuple[int, ...], first: DeviceArray, given: Mapping[str, Any]
) -> DeviceArray:
    """The same in GPU memory."""
    array = _device.writable(out, first, shape)
    expected = (
        f"expected a writable C-contiguous array in GPU memory of shape {shape} and dtype {first.dtype}"
    )
    if array is None:
        raise ValueError(f"out: got {_validate.shown(out)}, {expected}")
    for name, operand in given.items():
        if isinstance(operand, DeviceArray):
            apart = array.pointer + array.nbytes <= operand.pointer
            if not apart and operand.pointer + operand.nbytes > array.pointer:
                raise ValueError(f"out: shares memory with {name}, expected memory of its own")
    return array
