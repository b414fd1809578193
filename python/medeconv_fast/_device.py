"""Arrays in GPU memory: whose they are, where more of them come from, and the arithmetic that set-up needs.

The compiled module's kernels know pointers only: layout and kind are checked here, when an array is taken.
Work on an array goes to the stream of its `Memory`, in order; nothing waits but what brings values to the
host.
"""

from __future__ import annotations

import functools
import gc
import importlib
import math
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

OLDEST_DRIVER = 13000  # that runs what this version of CUDA compiles
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

module: ModuleType | None
import_error: str | None
try:
    module = importlib.import_module("medeconv_fast._cuda")
    import_error = None
except ImportError as error:
    module = None
    import_error = str(error)


FORKED = (
    "this process was forked from one that had asked CUDA something, which CUDA does not survive; start "
    "workers with the method 'spawn' or 'forkserver' of multiprocessing"
)
# The module, once it has found a device: asking the driver again takes longer than a kernel.
_working: Any = None
_asked = False  # whether this process, or the one that it was forked from, has called CUDA
_forked = False  # whether that was before a fork


def _start_anew() -> None:
    global _forked
    _forked = _forked or _asked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def unavailable_reason() -> str | None:
    """Why nothing can be computed on a GPU here, or None."""
    global _asked, _working
    if module is not None and _working is module and not _forked:
        return None
    if module is None:
        return (
            f"the compiled module medeconv_fast._cuda cannot be imported ({import_error}); it comes from a "
            "build from source where CUDA's compiler nvcc and an NVIDIA driver are found (without a driver: "
            "with MEDECONV_CUDA=ON); wheels do not have it"
        )
    if _forked:
        return FORKED
    _asked = True
    found = module.devices()
    if found["driver"] == 0:
        return "there is no NVIDIA driver on this machine"
    if found["driver"] < OLDEST_DRIVER:
        have, need = (f"{v // 1000}.{v % 1000 // 10}" for v in (found["driver"], OLDEST_DRIVER))
        return f"the NVIDIA driver supports CUDA {have}, the compiled module needs {need}; update the driver"
    if found["count"] == 0:
        return f"the NVIDIA driver finds no device ({found['error'] or 'none'})"
    _working = module
    return None


def native() -> Any:
    global _asked
    if module is None or _forked:
        raise ImportError(f"backend 'cuda': {unavailable_reason()}")
    _asked = True
    return module


def suffix(dtype: Any) -> str:
    return "F32" if np.dtype(dtype) == FLOAT32 else "F64"


_BINARY = {
    np.add: "add",
    np.subtract: "subtract",
    np.multiply: "multiply",
    np.divide: "divide",
    np.maximum: "maximum",
    np.minimum: "minimum",
    np.less: "less",
    np.less_equal: "less_equal",
    np.greater: "greater",
    np.greater_equal: "greater_equal",
}


def _is_plain(shape: Any) -> bool:
    """A tuple of Python's integers, as nearly every shape is."""
    if type(shape) is not tuple:
        return False
    for n in shape:  # noqa: SIM110, all() takes several times as long
        if type(n) is not int:
            return False
    return True


class DeviceArray(NDArrayOperatorsMixin):
    """A C-contiguous array of float32 or float64 in GPU memory; `owner` keeps that memory.

    It takes part in NumPy's elementwise arithmetic with numbers and with arrays of its shape and dtype;
    comparisons give 1 and 0. What is not there raises: nothing goes to the host by itself.
    """

    # A call makes several, and bindings ask each for pointer, size and itemsize: no properties.
    __slots__ = ("dtype", "itemsize", "memory", "owner", "pointer", "shape", "size")

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: Any, memory: Memory, owner: Any) -> None:
        self.pointer = pointer
        self.shape = shape if _is_plain(shape) else tuple(int(n) for n in shape)
        self.size: int = math.prod(self.shape)
        self.dtype: np.dtype = dtype if isinstance(dtype, np.dtype) else np.dtype(dtype)
        self.itemsize: int = self.dtype.itemsize
        self.memory = memory
        self.owner = owner

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": self.memory.place.stream or 1,
        }

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.memory.place.device})"

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("an array in GPU memory does not become a NumPy array by itself; call numpy()")

    def numpy(self) -> np.ndarray:
        """A copy on the host, once all work on the array is done."""
        host = np.empty(self.shape, self.dtype)
        self.memory.place.download(host, self.pointer)
        self.memory.place.synchronize()
        return host

    def write(self, values: np.ndarray | DeviceArray) -> None:
        """Overwrite all values, in the order of the stream's work."""
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError(f"values: got {values.shape} {values.dtype}, expected {self.shape} {self.dtype}")
        if isinstance(values, np.ndarray):
            self.memory.place.upload(self.pointer, np.ascontiguousarray(values))
        else:
            self.memory.place.copy(self.pointer, values.pointer, self.nbytes)

    def copy(self) -> DeviceArray:
        made = self.memory.empty(self.shape, self.dtype)
        made.write(self)
        return made

    def reshape(self, shape: tuple[int, ...]) -> DeviceArray:
        """The same memory."""
        if shape == self.shape:
            return self
        if math.prod(shape) != self.size:
            raise ValueError(f"shape: got {shape} for {self.size} values")
        return DeviceArray(self.pointer, shape, self.dtype, self.memory, self.owner)

    def astype(self, dtype: Any) -> DeviceArray:
        """A copy in the other dtype; the array itself where that is its own."""
        if dtype is self.dtype:
            return self
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        made = self.memory.empty(self.shape, dtype)
        getattr(native(), "convert_" + suffix(dtype))(self.memory.place, self, made)
        return made

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: Any) -> DeviceArray:
        """An item along the first axis, in the same memory; or a copy of a box, one slice per axis."""
        if isinstance(part, int):
            if not 0 <= part < len(self):
                raise IndexError(f"index {part} of {len(self)}")
            item = self.shape[1:]
            pointer = self.pointer + part * math.prod(item) * self.itemsize
            return DeviceArray(pointer, item, self.dtype, self.memory, self.owner)
        if not isinstance(part, tuple) or len(part) != self.ndim:
            raise TypeError("an array in GPU memory is indexed by one slice per axis")
        ranges = [range(n)[s] for n, s in zip(self.shape, part, strict=True)]
        if any(r.step != 1 for r in ranges):
            raise TypeError("an array in GPU memory is indexed by slices without a step")
        made = self.memory.empty(tuple(len(r) for r in ranges), self.dtype)
        crop = getattr(native(), "crop_" + suffix(self.dtype))
        crop(self.memory.place, self, self.shape, [r.start for r in ranges], made.shape, made)
        return made

    def statistics(self, other: DeviceArray | None = None) -> tuple[float, float, float]:
        """Sum (with `other` of the products), smallest and largest value, in one pass; waits for them."""
        results = self.memory.empty((native().formula_sums_size(self.size),), np.float64)
        run = getattr(native(), "statistics_" + suffix(self.dtype))
        run(self.memory.place, self, other, results)
        host = np.empty(3)
        self.memory.place.download(host, results.pointer)
        self.memory.place.synchronize()
        total, lowest, highest = host.tolist()
        return total, lowest, highest

    def sum(self, dtype: Any = None) -> float:
        """In float64, whatever the dtype."""
        return self.statistics()[0]

    def mean(self, dtype: Any = None) -> float:
        return self.statistics()[0] / self.size

    def min(self) -> float:
        return self.statistics()[1]

    def max(self) -> float:
        return self.statistics()[2]

    def dot(self, other: DeviceArray) -> float:
        """Sum of the products, in float64."""
        return self.statistics(other)[0]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        if ufunc is np.absolute:
            return self._combined("maximum", (self, self._combined("multiply", (self, -1), None)), out)
        if ufunc is np.negative:
            return self._combined("multiply", (self, -1), out)
        if ufunc is np.square:
            return self._combined("multiply", (self, self), out)
        if ufunc is np.sqrt:
            return self._combined("sqrt", (self, 0), out)
        return self._combined(_BINARY[ufunc], inputs, out) if ufunc in _BINARY else NotImplemented

    def _combined(self, op: str, inputs: tuple[Any, ...], out: Any) -> Any:
        for value in inputs:
            if isinstance(value, DeviceArray):
                if value.shape != self.shape or value.dtype != self.dtype:
                    raise ValueError(
                        f"arrays in GPU memory do not broadcast: got {value.shape} {value.dtype} and "
                        f"{self.shape} {self.dtype}"
                    )
            elif np.ndim(value):
                return NotImplemented
        result = self.memory.empty(self.shape, self.dtype) if out is None else out[0]
        run = getattr(native(), "pointwise_" + suffix(self.dtype))
        run(self.memory.place, op, *inputs, result)
        return result

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.empty_like:
            return self.memory.empty(self.shape, self.dtype)
        if function is np.zeros_like:
            return self.memory.full(self.shape, 0, self.dtype)
        if function is np.full_like:
            return self.memory.full(self.shape, args[1], self.dtype)
        if function is np.clip:
            low, high = args[1:3]
            return np.minimum(np.maximum(args[0], low, **kwargs), high, **kwargs)
        return NotImplemented


class Memory:
    """The library's own memory of a device: kept by the driver for reuse, on a stream of its own."""

    def __init__(self, place: Any) -> None:
        self.place = place

    def full(self, shape: tuple[int, ...], value: float, dtype: Any) -> DeviceArray:
        made = self.empty(shape, dtype)
        getattr(native(), "pointwise_" + suffix(dtype))(self.place, "copy", float(value), 0.0, made)
        return made

    def uploaded(self, values: np.ndarray, *, lasting: bool = False) -> DeviceArray:
        """A copy of `values`; lasting: for work of any stream from now on."""
        made = self.empty(values.shape, values.dtype, lasting=lasting)
        made.write(values)
        if lasting:
            self.place.synchronize()
        return made

    def taken_over(self, array: DeviceArray) -> DeviceArray:
        """A copy of an array that another stream works on, which may give its memory to others at once."""
        place = array.memory.place
        if place.device != self.place.device:
            raise ValueError(
                f"arrays in GPU memory: one is on device {place.device}, another on {self.place.device}; "
                "expected all on one"
            )
        self.place.wait_for(place.stream)
        made = self.empty(array.shape, array.dtype)
        made.write(array)
        self.place.precede(place.stream)
        return made

    def exported(self, array: DeviceArray) -> Any:
        """The array as whoever the memory belongs to knows it."""
        return array

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What `work` gives the stream, to be given again by one call; it is not done now.

        `work` must allocate nothing, wait for nothing, and do the same each time.
        """
        # The default stream cannot be recorded, and what is recorded may run on any: a stream for this alone.
        device = self.place.device
        streams: dict[int, Any] = _own.__dict__.setdefault("recording", {})
        if device not in streams:
            streams[device] = native().Place(device)
        ordinary, self.place = self.place, streams[device]
        collects = gc.isenabled()
        gc.disable()  # what garbage gives back to the device now would end the recording
        try:
            graph = native().Graph(self.place)
            work()
            graph.finish()
        except BaseException:
            del streams[device]  # who knows what state it is in
            raise
        finally:
            self.place = ordinary
            if collects:
                gc.enable()

        def again(kept: Any = work) -> None:  # what it works on stays as long as this does
            graph.run(ordinary)

        return again

    def empty(self, shape: tuple[int, ...], dtype: Any, *, lasting: bool = False) -> DeviceArray:
        """Lasting: given back when all streams are done with it, not this one alone."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        try:
            buffer = native().Buffer(self.place, nbytes, lasting)
        except MemoryError:
            if not forget_lasting(self.place.device):
                raise
            buffer = native().Buffer(self.place, nbytes, lasting)
        return DeviceArray(buffer.pointer, shape, dtype, self, buffer)


# What is kept of a device's memory for calls that ask for the same again: beside gigabytes it is nothing, and
# an array that is larger takes less time to make than the sweeps of the call that asks for it.
MOST_LASTING_BYTES = 64 << 20
MOST_LASTING_BYTES_EACH = 16 << 20
MOST_LASTING = 256  # small ones are made of more than their bytes

_lasting: dict[int, OrderedDict[Hashable, DeviceArray]] = {}  # per device; the latest asked for is the last
_lasting_busy = threading.Lock()


def lasting(device: int, key: Hashable, make: Callable[[Memory], DeviceArray]) -> DeviceArray:
    """What `make` makes, in lasting memory, for work of any stream; the same again for an equal key.

    The key says all that decides about the values; None: not kept. Not to be written to.
    """
    native()  # a forked process finds nothing, and must not wait for a lock that nobody there gives back
    if key is not None:
        with _lasting_busy:
            kept = _lasting.setdefault(device, OrderedDict())
            found = kept.get(key)
            if found is not None:
                kept.move_to_end(key)
                return found
    own = own_memory(device)
    made = make(own)  # without the lock: threads do not wait for one another's streams
    own.place.synchronize()  # for any stream from now on, and so for any thread that finds it
    if key is None or made.nbytes > MOST_LASTING_BYTES_EACH:
        return made
    dropped: list[DeviceArray] = []  # given back when the lock is: that waits for the device
    with _lasting_busy:
        first = kept.setdefault(key, made)  # another thread may have been faster
        kept.move_to_end(key)
        nbytes = sum(array.nbytes for array in kept.values())
        while kept and (nbytes > MOST_LASTING_BYTES or len(kept) > MOST_LASTING):
            dropped.append(kept.popitem(last=False)[1])
            nbytes -= dropped[-1].nbytes
    return first


def lasting_bytes(device: int) -> int:
    """How much of a device's memory `lasting` keeps."""
    with _lasting_busy:
        return sum(array.nbytes for array in _lasting.get(device, {}).values())


def forget_lasting(device: int | None = None) -> bool:
    """What `lasting` keeps on a device (on all) and nobody uses is given back; whether it kept anything."""
    dropped: list[DeviceArray] = []
    with _lasting_busy:
        for number, kept in _lasting.items():
            if device is None or number == device:
                dropped += kept.values()
                kept.clear()
    return bool(dropped)


_own = threading.local()
_chosen = 0


def choose_device(index: int) -> None:
    """Arrays from the host go to this device from now on; those that lie on one stay there."""
    count = native().devices()["count"]
    if not 0 <= index < count:
        raise ValueError(f"device: got {index}, expected one of {count} devices, counted from 0")
    global _chosen
    _chosen = index


def own_memory(device: int | None = None) -> Memory:
    """The calling thread's memory of that device or the chosen one: threads do not wait for one another."""
    device = _chosen if device is None else device
    made: dict[int, Memory] = _own.__dict__.setdefault("memories", {})
    if device not in made:
        native().keep_freed_memory(device)
        made[device] = Memory(native().Place(device))
    return made[device]


class LibraryMemory(Memory):
    """The memory of CuPy or torch: their pools and their current stream; each needs only itself."""

    def __init__(
        self,
        device: int,
        stream: int,
        empty: Callable[[tuple[int, ...], np.dtype], Any],
        pointer_of: Callable[[Any], int] = lambda made: made.__cuda_array_interface__["data"][0],
    ) -> None:
        super().__init__(native().Place(device, stream))
        self._empty = empty
        self._pointer_of = pointer_of

    def exported(self, array: DeviceArray) -> Any:
        return array.owner if tuple(array.owner.shape) == array.shape else array.owner.reshape(array.shape)

    def empty(self, shape: tuple[int, ...], dtype: Any, *, lasting: bool = False) -> DeviceArray:
        try:
            made = self._empty(tuple(shape), np.dtype(dtype))
        except (MemoryError, RuntimeError) as error:  # CuPy's and torch's
            if "out of memory" not in str(error).lower():
                raise
            if forget_lasting(self.place.device):
                return self.empty(shape, dtype)
            free, total = native().memory(self.place.device)
            needed = math.prod(shape) * np.dtype(dtype).itemsize
            raise MemoryError(
                f"GPU memory: {needed / 1e6:.1f} MB more are needed, {free / 1e6:.1f} MB of "
                f"{total / 1e6:.1f} MB are free beside what {library_of(error)} keeps ({error})"
            ) from error
        return DeviceArray(self._pointer_of(made), shape, dtype, self, made)


def _library_memory(library: ModuleType, device: int, stream: int, empty: Any, **options: Any) -> Memory:
    """Of this thread: while it records, it has its own notion of the stream (see `Memory.record`)."""
    made: dict[Any, Memory] = _own.__dict__.setdefault("libraries", {})
    key = (library, device, stream)
    found = made.get(key)
    if found is None:
        if len(made) >= 64:  # of a program that makes streams and drops them
            made.clear()
        found = made[key] = LibraryMemory(device, stream, empty, **options)
    return found


def library_of(value: Any) -> str:
    """Whose kind `value` is; another library's subclass of a torch tensor is torch's."""
    kind: Any = type(value)
    return _library_of_kind(kind)


@functools.lru_cache(maxsize=256)
def _library_of_kind(kind: Any) -> str:
    names = [(base.__module__.partition(".")[0], base.__name__) for base in kind.__mro__]
    return "torch" if ("torch", "Tensor") in names else names[0][0]


def plain(tensor: Any) -> Any:
    """A torch tensor without what other libraries' subclasses add to it; the same memory."""
    if type(tensor).__module__.partition(".")[0] == "torch":
        return tensor
    return tensor.as_subclass(importlib.import_module("torch").Tensor)


def on_device(value: Any) -> bool:
    """Whether `value` is an array in GPU memory, of whatever library."""
    if type(value) is np.ndarray:
        return False
    if library_of(value) == "torch":
        return bool(getattr(value, "is_cuda", False))
    return hasattr(value, "__cuda_array_interface__")


def adopted(value: Any, name: str, working_dtype: Callable[[np.dtype], np.dtype]) -> DeviceArray:
    """The array in GPU memory that `value` is, not copied where it is contiguous and of its working dtype.

    Raises
    ------
    ImportError
        Nothing can be computed on a GPU here; the message says why.
    TypeError
        Neither CuPy's nor torch's, and not contiguous or not of the working dtype.
    """
    if isinstance(value, DeviceArray):
        return value.astype(working_dtype(value.dtype))
    library = library_of(value)
    reason = unavailable_reason()
    if reason is not None:
        raise ImportError(
            f"{name}: got a {library} array in GPU memory, which needs the backend 'cuda', not available "
            f"here: {reason}"
        )
    if library == "cupy":
        cupy = importlib.import_module("cupy")
        device = value.device  # may be another than CuPy's current one, to which its calls go

        def empty_of_cupy(shape: tuple[int, ...], dtype: np.dtype) -> Any:
            with device:
                return cupy.empty(shape, dtype)

        with device:
            kept = cupy.ascontiguousarray(value, dtype=working_dtype(np.dtype(value.dtype)))
            stream = int(cupy.cuda.get_current_stream().ptr)
        memory = _library_memory(cupy, int(device.id), stream, empty_of_cupy)
    elif library == "torch":
        return _of_torch(value, working_dtype(_dtype_of_torch(value.dtype, name)))
    else:
        kept = value
        memory = own_memory(native().device_of(value.__cuda_array_interface__["data"][0]))
    layout = kept.__cuda_array_interface__
    dtype = np.dtype(layout["typestr"])
    shape = tuple(layout["shape"])
    if dtype != working_dtype(dtype) or not _contiguous(shape, layout.get("strides"), dtype.itemsize):
        raise TypeError(
            f"{name}: got a {library} array of dtype {dtype}, expected a C-contiguous one of dtype "
            f"{working_dtype(dtype)}"
        )
    producer = layout.get("stream")
    if producer is not None and producer != memory.place.stream:
        memory.place.wait_for(producer)
    return DeviceArray(layout["data"][0], shape, dtype, memory, kept)


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> bool:
    if strides is None:
        return True
    expected = itemsize
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n > 1 and stride != expected:
            return False
        expected *= n
    return True


def _of_torch(value: Any, dtype: np.dtype) -> DeviceArray:
    """A tensor in its working dtype. Torch is asked for little: answers take as long as small kernels."""
    torch = sys.modules["torch"]
    kept = value.resolve_neg() if value.is_neg() else value
    wanted = _torchs_dtype(torch, dtype)
    if kept.dtype is not wanted:
        kept = kept.to(wanted)
    if not kept.is_contiguous():
        kept = kept.contiguous()
    device = kept.device
    index = int(device.index or 0)
    # Private, but what torch's own compiler calls; the public way makes an object first.
    raw_stream = getattr(getattr(torch, "_C", None), "_cuda_getCurrentRawStream", None)
    stream = int(torch.cuda.current_stream(device).cuda_stream if raw_stream is None else raw_stream(index))

    def empty(shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return torch.empty(shape, dtype=_torchs_dtype(torch, dtype), device=device)

    memory = _library_memory(torch, index, stream, empty, pointer_of=_pointer_of_torch)
    return DeviceArray(kept.data_ptr(), tuple(kept.shape), dtype, memory, kept)


_NAMES = {FLOAT32: "float32", FLOAT64: "float64", np.dtype(np.uint8): "uint8"}


def _torchs_dtype(torch: ModuleType, dtype: np.dtype) -> Any:
    return getattr(torch, _NAMES.get(dtype) or dtype.name)  # .name is not an attribute, it is put together


def _pointer_of_torch(tensor: Any) -> int:
    return int(tensor.data_ptr())


@functools.lru_cache(maxsize=64)
def _dtype_of_torch(dtype: Any, name: str) -> np.dtype:
    text = str(dtype).removeprefix("torch.")
    try:
        return np.dtype(text)
    except TypeError:
        raise TypeError(f"{name}: got {text} values, which NumPy does not know; convert them first") from None


def writable(out: Any, like: DeviceArray, shape: tuple[int, ...]) -> DeviceArray | None:
    """`out` for a kernel to write to; None if it is not contiguous, of that shape and `like`'s dtype."""
    if not on_device(out) or tuple(out.shape) != shape:
        return None
    if library_of(out) == "torch" and not (out.requires_grad or out.is_neg()) and out.is_contiguous():
        wanted = _torchs_dtype(sys.modules["torch"], like.dtype)
        pointer = out.data_ptr() if out.dtype is wanted else None
        return None if pointer is None else DeviceArray(pointer, shape, like.dtype, like.memory, out)
    layout = out.__cuda_array_interface__
    fits = layout["typestr"] == like.dtype.str and not layout["data"][1]
    if not fits or not _contiguous(shape, layout.get("strides"), like.itemsize):
        return None
    return DeviceArray(layout["data"][0], shape, like.dtype, like.memory, out)


def host(array: np.ndarray | DeviceArray) -> np.ndarray:
    """The values as a NumPy array: for what is done on the host, once."""
    return array.numpy() if isinstance(array, DeviceArray) else array


def maker_beside(array: Any, backend: ModuleType) -> Callable[[tuple[int, ...], Any], Any]:
    """What makes empty arrays of a shape and dtype on the side where `array` is; on the host from memory that
    the backend keeps for it, if it does.
    """
    return array.memory.empty if isinstance(array, DeviceArray) else backend.empty


def full_beside(array: Any, shape: tuple[int, ...], value: float) -> Any:
    if isinstance(array, DeviceArray):
        return array.memory.full(shape, value, array.dtype)
    return np.full(shape, value, array.dtype)


def beside(array: Any, values: Any) -> Any:
    """`values` on the side where `array` is, for work on its stream."""
    if not isinstance(array, DeviceArray):
        return host(values)
    if isinstance(values, DeviceArray):
        if values.memory is array.memory:
            return values
        here, there = array.memory.place, values.memory.place
        same = (here.device, here.stream) == (there.device, there.stream)
        return values if same else array.memory.taken_over(values)
    return array.memory.uploaded(values)


def dot(a: Any, b: Any) -> float:
    """Sum of the products in float64."""
    if isinstance(a, DeviceArray):
        return a.dot(b)
    # einsum widens block by block: no float64 copy of the volume.
    return float(np.einsum("i,i->", a.ravel(), b.ravel(), dtype=np.float64))


def free_memory(device: int | None = None) -> tuple[int, int]:
    """Bytes of a device (the chosen one) that the library can have, what it keeps for reuse included; all."""
    device = _chosen if device is None else device
    free, total = native().memory(device)
    return free + native().kept_memory(device), total


@functools.lru_cache(maxsize=64)
def _all_memory(module: ModuleType, device: int) -> int:
    return int(module.memory(device)[1])


def shortage(needed: int, what: str, free: int, total: int, way_out: str) -> MemoryError:
    return MemoryError(
        f"GPU memory: {what} takes {needed / 1e6:.1f} MB beside the image, {free / 1e6:.1f} MB of "
        f"{total / 1e6:.1f} MB are free; {way_out}"
    )


def ensure_memory(array: Any, needed: int, what: str) -> None:
    """Refuse work that takes more memory beside `array` than is free.

    Of an array of another library, than there is at all: what its pool holds is not the driver's to know, and
    an allocation that fails later says what was needed.
    """
    if not isinstance(array, DeviceArray):
        return
    device = array.memory.place.device
    of_library = isinstance(array.memory, LibraryMemory)
    # To ask the driver what is free takes as long as some iterations on a small image.
    sure = _all_memory(native(), device) - array.nbytes if of_library else native().kept_memory(device)
    if needed <= sure:
        return
    free, total = free_memory(device)
    if of_library:
        free = max(free, total - array.nbytes)
    if needed > free:
        way_out = "from a NumPy array with backend='cuda' it works in tiles"
        raise shortage(needed, what, free, total, way_out)


USED = 0.95  # of the memory that is free, by tiles: the rest is for what they leave between them


class _Ferry:
    """Carries tiles between the host and the GPU while the thread that made it computes there.

    Upload and download are called in other threads, each of which has a stream of its own; two tiles may be
    on the GPU at a time: the one before the last must be done with when the next is uploaded.
    """

    def __init__(self, size: int, dtype: Any) -> None:
        self._memory = own_memory()
        # For any stream: what one thread fills another one computes on.
        self._buffers = [self._memory.empty((size,), dtype, lasting=True) for _ in range(2)]

    def upload(self, values: np.ndarray) -> DeviceArray:
        """`values` on the GPU, arrived."""
        self._buffers.reverse()
        buffer = self._buffers[0]
        place = own_memory(self._memory.place.device).place
        place.upload(buffer.pointer, values)
        place.synchronize()
        return DeviceArray(buffer.pointer, values.shape, values.dtype, self._memory, buffer.owner)

    def download(self, array: DeviceArray) -> np.ndarray:
        """The values of an array that is complete."""
        host = np.empty(array.shape, array.dtype)
        place = own_memory(self._memory.place.device).place
        place.download(host, array.pointer)
        place.synchronize()
        return host


Piece = TypeVar("Piece")


def carry(
    pieces: Sequence[Piece],
    read: Callable[[Piece], np.ndarray],
    compute: Callable[[Any, Piece], Any],
    write: Callable[[Piece, np.ndarray], None],
    *,
    size: int,
    dtype: Any,
) -> None:
    """For each piece ``write(piece, compute(read(piece), piece))``, computed on the GPU in this thread.

    Meanwhile the next piece is read and on its way there, and the one before on its way back and written, in
    two other threads. `size`: of the largest that is read, in values of `dtype`.
    """
    ferry = _Ferry(size, dtype)

    def fetch(piece: Piece) -> DeviceArray:
        return ferry.upload(read(piece))

    def store(piece: Piece, made: Any) -> None:
        write(piece, ferry.download(made) if isinstance(made, DeviceArray) else made)

    stored: Future[None] | None = None
    with (
        ThreadPoolExecutor(1, "medeconv-fetch") as fetching,
        ThreadPoolExecutor(1, "medeconv-store") as storing,
    ):
        ahead = fetching.submit(fetch, pieces[0])
        for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
            given = ahead.result()
            if following is not None:
                ahead = fetching.submit(fetch, following)
            made = compute(given, piece)
            settle(made)  # what it was made of is needed no more
            if stored is not None:
                stored.result()
            stored = storing.submit(store, piece, made)
            del given, made
        if stored is not None:
            stored.result()


def settle(array: Any) -> None:
    """Wait for the work on an array in GPU memory."""
    if isinstance(array, DeviceArray):
        array.memory.place.synchronize()


def repeat(work: Callable[[], None], count: int, array: Any) -> None:
    """Do `work` so many times; on a GPU it is recorded once and repeated as a graph (see `Memory.record`)."""
    if not isinstance(array, DeviceArray):
        for _ in range(count):
            work()
        return
    if count > 2:
        work()  # workspaces are there from now on
        again = array.memory.record(work)
        for _ in range(count - 1):
            again()
    else:
        for _ in range(count):
            work()
