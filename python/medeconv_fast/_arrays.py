"""Arrays in and out: which kinds are taken, in which dtype the work is done, and the way back.

The contract's rule: float64 gives float64; float16, float32, bool and integers of up to 16 bits give float32;
integers of 32 and 64 bits give float64. Values are never rescaled. Only the image decides: a PSF's or
weight's dtype never promotes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _validate

# DLPack's device numbers (dlpack.h, DLDeviceType).
_DLPACK_CPU = 1

Restore = Callable[[np.ndarray], Any]


def _as_is(result: np.ndarray) -> np.ndarray:
    return result


def _to_torch(result: np.ndarray) -> Any:
    return importlib.import_module("torch").from_numpy(result)


def _refuse_device(name: str, kind: str) -> None:
    raise NotImplementedError(
        f"{name}: got {kind} in GPU memory, which needs the 'cuda' backend, not built yet; copy it to the "
        "host first (torch: .cpu(), CuPy: .get())"
    )


def to_numpy(value: Any, name: str) -> tuple[np.ndarray, Restore]:
    """A NumPy view of `value` (a copy only where a list or a foreign type forces one), and the way back.

    Parameters
    ----------
    value : array_like
        NumPy array, list of numbers, torch tensor on the CPU, or anything with ``__dlpack__`` or
        ``__array__``.
    name : str
        The argument's name, for messages.

    Returns
    -------
    array : numpy.ndarray
        Real numbers of any byte order and layout; not to be written to.
    restore : callable
        Turns a result into the kind that `value` is: a torch tensor for a torch tensor, else a NumPy array.

    Raises
    ------
    TypeError
        Masked arrays; complex, object, string or longdouble values; tensors that need a gradient.
    NotImplementedError
        Arrays in GPU memory.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: got a masked array, whose masked voxels would count as measured; pass .filled(value), "
            "and under Richardson-Lucy weights=~mask"
        )
    if isinstance(value, str | bytes):
        raise TypeError(
            f"{name}: got {_validate.shown(value)}, expected an array (read a file with mf.io.read)"
        )
    if isinstance(value, np.ndarray):
        array = np.asarray(value)
        _validate.numeric(array.dtype, name)
        return array, _as_is

    library = type(value).__module__.partition(".")[0]
    if library == "cupy":
        _refuse_device(name, "a CuPy array")
    is_torch = library == "torch"
    if is_torch and value.requires_grad:
        raise TypeError(
            f"{name}: got a torch tensor that requires a gradient, which is not followed; pass .detach()"
        )
    if is_torch and value.device.type == "meta":
        raise TypeError(f"{name}: got a torch tensor on the device 'meta', which has no values")
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        if int(value.__dlpack_device__()[0]) != _DLPACK_CPU:
            _refuse_device(name, f"a {library} array")
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
    if hasattr(value, "__cuda_array_interface__"):
        _refuse_device(name, f"a {library} array")
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise TypeError(f"{name}: cannot be read as an array ({error})") from error
    _validate.numeric(array.dtype, name)
    return array, _as_is


def result_dtype(dtype: Any) -> np.dtype:
    """The dtype of the work and of the result for an image of `dtype` (already checked to be numeric)."""
    dtype = np.dtype(dtype)
    wide = dtype.itemsize > 4 if dtype.kind == "f" else dtype.itemsize > 2
    return np.dtype(np.float64 if wide else np.float32)


def computable(array: np.ndarray, dtype: Any) -> np.ndarray:
    """C-contiguous, aligned, native byte order, of `dtype`; `array` itself where it already is."""
    # A value too large for float32 becomes infinite here; the check for finite values that follows names it.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.require(array, np.dtype(dtype), ["C", "A"])


def as_image(value: Any, name: str = "image") -> tuple[np.ndarray, Restore, tuple[float, float]]:
    """Validated image in its working dtype, the way back, and its smallest and largest value."""
    array, restore = to_numpy(value, name)
    _validate.rank(array, name)
    data = computable(array, result_dtype(array.dtype))
    return data, restore, _validate.finite(data, name)


def as_operand(
    value: Any, name: str, shape: tuple[int, ...], dtype: Any, like: str = "image"
) -> tuple[np.ndarray, tuple[float, float]]:
    """Validated companion of an image (weights, initial estimate): its shape, the image's dtype."""
    array, _ = to_numpy(value, name)
    _validate.same_shape(array, name, shape, like)
    data = computable(array, dtype)
    return data, _validate.finite(data, name)


def as_psf(
    value: Any,
    ndim: int,
    *,
    normalize: bool = True,
    dtype: Any = np.float64,
    name: str = "psf",
    like: str = "image",
) -> tuple[np.ndarray, float]:
    """Validated PSF, normalised to sum 1 (in float64, then rounded) unless told otherwise, and its sum."""
    array, _ = to_numpy(value, name)
    _validate.rank(array, name, ndim=ndim, like=like)
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    _validate.finite(array, name)
    total = _validate.psf_sum(array, name)
    if normalize:
        array = np.divide(array, total, dtype=np.float64)
    psf = computable(array, dtype)
    _validate.finite(psf, name)
    return psf, 1.0 if normalize else total
