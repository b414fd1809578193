"""Arrays in and out: which kinds are taken, in which dtype the work is done, and the way back.

The contract's rule: float64 gives float64; float16, float32, bool and integers of up to 16 bits give float32;
integers of 32 and 64 bits give float64. Values are never rescaled. Only the image decides: a PSF's or
weight's dtype never promotes.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _device, _validate
from ._device import DeviceArray

# DLPack's device numbers (dlpack.h, DLDeviceType).
_DLPACK_CPU = 1

Restore = Callable[[Any], Any]


def _as_is(result: np.ndarray | DeviceArray) -> np.ndarray:
    return _device.host(result)


def _to_torch(result: np.ndarray | DeviceArray) -> Any:
    return sys.modules["torch"].from_numpy(_device.host(result))


def to_numpy(value: Any, name: str) -> tuple[np.ndarray, Restore]:
    """A NumPy view of `value` (a copy only where a list or a foreign type forces one), and the way back.

    Parameters
    ----------
    value : array_like
        NumPy array, list of numbers, torch tensor, CuPy array, or anything with ``__dlpack__``, ``__array__``
        or ``__cuda_array_interface__``. What is in GPU memory is copied to the host, in its working dtype.
    name : str
        The argument's name, for messages.

    Returns
    -------
    array : numpy.ndarray
        Real numbers of any byte order and layout; not to be written to.
    restore : callable
        Turns a result into the kind that `value` is, on its device: a torch tensor for a torch tensor, a CuPy
        array for a CuPy array, else a NumPy array.

    Raises
    ------
    TypeError
        Masked arrays; complex, object, string or longdouble values; tensors that need a gradient.
    ImportError
        An array in GPU memory where the backend 'cuda' is not available.
    """
    _validate.unmasked(value, name, ", and under Richardson-Lucy weights=~mask")
    if isinstance(value, str | bytes):
        raise TypeError(
            f"{name}: got {_validate.shown(value)}, expected an array (read a file with mf.io.read)"
        )
    if type(value) is np.ndarray:
        _validate.numeric(value.dtype, name)
        return value, _as_is
    if isinstance(value, np.ndarray):
        array = np.asarray(value)
        _validate.numeric(array.dtype, name)
        return array, _as_is

    library = _device.library_of(value)
    is_torch = library == "torch"
    if is_torch:
        value = _device.plain(value)
    if is_torch and value.requires_grad:
        raise TypeError(
            f"{name}: got a torch tensor that requires a gradient, which is not followed; pass .detach()"
        )
    if is_torch and value.device.type == "meta":
        raise TypeError(f"{name}: got a torch tensor on the device 'meta', which has no values")
    if _device.on_device(value):
        resident, restore = _adopted(value, name)
        return resident.numpy(), restore
    if is_torch:
        view = _view_of_torch(value)
        if view is not None:
            _validate.numeric(view.dtype, name)
            return view, _to_torch
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        if int(value.__dlpack_device__()[0]) != _DLPACK_CPU:
            raise TypeError(
                f"{name}: got a {library} array in GPU memory that DLPack alone leads to; expected a CuPy "
                "array (cupy.from_dlpack), a torch tensor or an array with __cuda_array_interface__"
            )
        try:
            # A tensor that is negated lazily (the imaginary part of a conjugate) would lose its sign.
            array = np.from_dlpack(value.resolve_neg() if is_torch else value)
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(
                f"{name}: the {library} array of dtype {getattr(value, 'dtype', '?')} cannot be viewed as "
                f"NumPy ({error})"
            ) from error
        _validate.numeric(array.dtype, name)
        return array, _to_torch if is_torch else _as_is
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise TypeError(f"{name}: cannot be read as an array ({error})") from error
    _validate.an_array(array, value, name)
    return array, _as_is


def _view_of_torch(tensor: Any) -> np.ndarray | None:
    """What DLPack would give of a tensor on the CPU, sooner; None where that has something to say."""
    if tensor.device.type != "cpu" or tensor.is_neg():
        return None
    try:
        array = tensor.numpy()
    except (RuntimeError, TypeError):
        return None
    return array if type(array) is np.ndarray else None


def result_dtype(dtype: Any) -> np.dtype:
    """The dtype of the work and of the result for an image of `dtype` (already checked to be numeric)."""
    dtype = np.dtype(dtype)
    wide = dtype.itemsize > 4 if dtype.kind == "f" else dtype.itemsize > 2
    return _device.FLOAT64 if wide else _device.FLOAT32


def computable(array: np.ndarray, dtype: Any) -> np.ndarray:
    """C-contiguous, aligned, native byte order, of `dtype`; `array` itself where it already is."""
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.aligned:
        return array  # np.require takes 3 microseconds to find that out
    # A value too large for float32 becomes infinite here; the check for finite values that follows names it.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.require(array, np.dtype(dtype), ["C", "A"])


@functools.lru_cache(maxsize=64)
def _working(name: str) -> Callable[[np.dtype], np.dtype]:
    """Looked up, not found out: it is asked for every array of a call on a GPU."""

    @functools.lru_cache(maxsize=64)
    def working(dtype: np.dtype) -> np.dtype:
        _validate.numeric(dtype, name)
        return result_dtype(dtype)

    return working


def _adopted(value: Any, name: str) -> tuple[DeviceArray, Restore]:
    """An array in GPU memory in its working dtype, and the way back."""
    if _device.library_of(value) == "torch" and value.requires_grad:
        raise TypeError(
            f"{name}: got a torch tensor that requires a gradient, which is not followed; pass .detach()"
        )
    array = _device.adopted(value, name, _working(name))
    memory = array.memory
    return array, lambda result: memory.exported(_device.beside(array, result))


def taken(value: Any, name: str) -> tuple[Any, Restore]:
    """As `to_numpy`, but what is in GPU memory stays there, a `DeviceArray` in its working dtype."""
    return _adopted(value, name) if _device.on_device(value) else to_numpy(value, name)


def in_dtype(array: Any, dtype: Any) -> Any:
    """`computable`, on the side where `array` is."""
    return array.astype(dtype) if isinstance(array, DeviceArray) else computable(array, dtype)


class Statistics(NamedTuple):
    """What the check of an array's values has found."""

    lowest: float
    highest: float
    sum: float | None  # in float64; None: on the host, where it is a pass of its own


def finite(array: Any, name: str) -> Statistics:
    """Smallest and largest value; NaN or Inf anywhere is refused (see `_validate.finite`)."""
    if isinstance(array, DeviceArray):
        total, lowest, highest = array.statistics()
        if math.isfinite(lowest) and math.isfinite(highest):
            return Statistics(lowest, highest, total)
    return Statistics(*_validate.finite(_device.host(array), name), None)


_EFFORT: Any = 1000  # candidates that np.shares_memory may try: microseconds


def overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays share memory."""
    try:
        return np.shares_memory(one, other, max_work=_EFFORT)
    except np.exceptions.TooHardError:  # strides so odd that only a search could tell
        return True


def as_image(value: Any, name: str = "image", *, resident: bool = False) -> tuple[Any, Restore, Statistics]:
    """Validated image in its working dtype, the way back, and its smallest and largest value and sum.

    With `resident` an image in GPU memory stays there, else it is copied to the host.
    """
    array, restore = taken(value, name) if resident else to_numpy(value, name)
    _validate.rank(array, name)
    data = in_dtype(array, result_dtype(array.dtype))
    return data, restore, finite(data, name)


def as_operand(
    value: Any, name: str, shape: tuple[int, ...], dtype: Any, like: str = "image", *, beside: Any = None
) -> tuple[Any, tuple[float, float]]:
    """Validated companion of an image (weights, initial estimate): its shape, the image's dtype.

    It is brought to the side where the array `beside` is, the host unless given.
    """
    array, _ = taken(value, name)
    _validate.same_shape(array, name, shape, like)
    data = in_dtype(_device.beside(beside, array) if isinstance(array, DeviceArray) else array, dtype)
    lowest, highest, _ = finite(data, name)
    return _device.beside(beside, data), (lowest, highest)


def as_psf(
    value: Any,
    ndim: int,
    *,
    normalize: bool = True,
    dtype: Any = np.float64,
    name: str = "psf",
    like: str = "image",
    any_sum: bool = False,
) -> tuple[np.ndarray, float]:
    """Validated PSF, normalised to sum 1 (in float64, then rounded) unless told otherwise, and its sum.

    `any_sum`: it need not be positive, for filters that are not normalised.
    """
    array, _ = to_numpy(value, name)
    _validate.rank(array, name, ndim=ndim, like=like)
    # The rounding of a sum goes by the order in memory, which says nothing about a PSF.
    array = computable(array, array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.float64)
    _validate.finite(array, name)
    total = float(array.sum(dtype=np.float64)) if any_sum else _validate.psf_sum(array, name)
    if normalize:
        array = np.divide(array, total, dtype=np.float64)
    psf = computable(array, dtype)
    if psf is not array:  # quotients by a sum that is not mere rounding stay as finite as what was divided
        _validate.finite(psf, name)
    return psf, 1.0 if normalize else total
