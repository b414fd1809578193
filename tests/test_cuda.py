"""The CUDA backend: whose arrays, which stream, what waits, what is refused. With a GPU, or on the emulator.

The kernels' values are the other tests' to check (fixture ``backend``); here CuPy is played by `FakeCupy`
where it is not installed.
"""

import gc
import importlib.util
import os
import sys
import threading
import types

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import _device, backends
from medeconv_fast.backends import _cuda_spectral, cuda

EMULATED = bool(os.environ.get("MEDECONV_TEST_EMULATOR"))
needs_cuda = pytest.mark.skipif(
    not cuda.is_available(), reason="SKIPPED: no GPU, and MEDECONV_TEST_EMULATOR names no emulator"
)
on_emulator = pytest.mark.skipif(not EMULATED, reason="SKIPPED: asks the emulator what a GPU does not tell")
PSF = np.array([[1.0, 2, 1], [2, 5, 3], [1, 2, 1]])[None].repeat(3, 0)


@pytest.fixture
def image(rng):
    return rng.poisson(40.0, (6, 21, 34)).astype(np.float32)


def fake_cupy():
    """What the library asks of CuPy, over memory of the library's own allocator."""

    class Device:
        """Calls inside its ``with`` are of this device."""

        def __init__(self, number):
            self.id, self.memory = number, None

        def __enter__(self):
            module.entered.append(self)
            if self.memory is None:
                self.memory = _device.Memory(_device.native().Place(self.id))

        def __exit__(self, *error):
            module.entered.pop()

    class ndarray:
        def __init__(self, array):
            self._array = array
            self.shape, self.dtype = array.shape, array.dtype
            self.device = module.devices[array.memory.place.device]

        @property
        def __cuda_array_interface__(self):
            return self._array.__cuda_array_interface__

        def reshape(self, shape):
            return ndarray(self._array.reshape(shape))

        def get(self):
            self._array.memory.place.synchronize()
            return self._array.numpy()

    ndarray.__module__ = "cupy"
    module = types.ModuleType("cupy")
    module.ndarray = ndarray
    module.devices = [Device(i) for i in range(_device.native().devices()["count"])]
    module.entered = []
    with module.devices[0]:
        module.stream = module.devices[0].memory.place
    module.made = 0

    def memory():
        return (module.entered or module.devices)[-1 if module.entered else 0].memory

    def empty(shape, dtype):
        module.made += 1
        return ndarray(memory().empty(shape, dtype))

    module.empty = empty
    module.asarray = lambda values: ndarray(memory().uploaded(np.asarray(values)))
    module.ascontiguousarray = lambda array, dtype: (
        array if array.dtype == dtype else ndarray(array._array.astype(dtype))
    )
    module.cuda = types.SimpleNamespace(
        get_current_stream=lambda: types.SimpleNamespace(ptr=memory().place.stream)
    )
    return module


@pytest.fixture
def cupy(monkeypatch):
    if importlib.util.find_spec("cupy") and not EMULATED:
        return importlib.import_module("cupy")
    module = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def fake_torch():
    """What the library asks of torch's CUDA tensors, over memory of the library's own allocator."""
    module = types.ModuleType("torch")
    place = _device.native().Place(0)
    memory = _device.Memory(place)

    class Kind:
        def __init__(self, name):
            self.name = name

        def __str__(self):
            return f"torch.{self.name}"

    class Tensor:
        is_cuda, requires_grad = True, False
        device = types.SimpleNamespace(index=0, type="cuda")

        def __init__(self, array, dtype):
            self._array, self.dtype, self.shape = array, dtype, array.shape

        @property
        def __cuda_array_interface__(self):
            layout = dict(self._array.__cuda_array_interface__)
            del layout["stream"]  # torch says version 2, without one
            return layout | {"version": 2}

        def resolve_neg(self):
            return self

        def data_ptr(self):
            return self._array.pointer

        def is_neg(self):
            return False

        def is_contiguous(self):
            return True

        def contiguous(self):
            return self

        def to(self, dtype):
            return self if dtype is self.dtype else Tensor(self._array.astype(dtype.name), dtype)

        def reshape(self, shape):
            return Tensor(self._array.reshape(shape), self.dtype)

        def host(self):
            place.synchronize()
            return self._array.numpy()

    Tensor.__module__ = "torch"
    module.Tensor = Tensor
    for name in ("float32", "float64", "uint8", "bfloat16"):
        setattr(module, name, Kind(name))
    module.empty = lambda shape, dtype, device: Tensor(memory.empty(shape, dtype.name), dtype)
    module.tensor = lambda values: Tensor(memory.uploaded(values), getattr(module, values.dtype.name))
    module.cuda = types.SimpleNamespace(
        current_stream=lambda device: types.SimpleNamespace(cuda_stream=place.stream)
    )
    return module


# --- what stands in the way


def test_why_it_is_not_there(monkeypatch):
    monkeypatch.setattr(_device, "module", None)
    monkeypatch.setattr(_device, "import_error", "No module named that")
    assert not cuda.is_available()
    for text in ("_cuda cannot be imported (No module named that)", "nvcc", "wheels do not have it"):
        assert text in cuda.unavailable_reason()
    with pytest.raises(ImportError, match="backend: 'cuda' is not available here: the compiled module"):
        mf.convolve(np.ones(9), np.ones(3), backend="cuda")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"count": 0, "driver": 0, "runtime": 13000, "error": "x"}, "no NVIDIA driver on this machine"),
        ({"count": 1, "driver": 12040, "runtime": 13000, "error": ""}, "supports CUDA 12.4, .* needs 13.0"),
        (
            {"count": 0, "driver": 13000, "runtime": 13000, "error": "cudaErrorNoDevice"},
            "no device .cudaErrorNo",
        ),
    ],
)
def test_why_a_machine_cannot(found, text, monkeypatch):
    monkeypatch.setattr(_device, "module", types.SimpleNamespace(devices=lambda: found))
    with pytest.raises(ImportError, match=text):
        mf.use_backend("cuda")
    assert "cuda" not in mf.backends.available()


def test_a_device_once_found_is_not_asked_for_again(monkeypatch):
    """Asking the driver takes longer than a small kernel does; another module, or a fork, begins anew."""
    calls = []
    found = {"count": 1, "driver": 13000, "runtime": 13000, "error": ""}
    monkeypatch.setattr(_device, "_working", None)
    for expected in (1, 2):
        module = types.SimpleNamespace(devices=lambda: calls.append(0) or found)
        monkeypatch.setattr(_device, "module", module)
        assert [_device.unavailable_reason() for _ in range(3)] == [None] * 3
        assert len(calls) == expected
    monkeypatch.setattr(_device, "_forked", True)
    assert _device.unavailable_reason() == _device.FORKED


def test_auto_never_takes_it_for_host_arrays(monkeypatch):
    monkeypatch.delenv("MEDECONV_BACKEND", raising=False)
    for name in ("cpp", "numba"):
        monkeypatch.setattr(getattr(backends, name), "is_available", lambda: False)
    monkeypatch.setattr(backends, "_warned", True)
    monkeypatch.setattr(backends, "_chosen", "auto")
    assert backends.resolve().NAME == "reference"


# --- arrays


@needs_cuda
@pytest.mark.parametrize("boundary", ["extended", "reflect", "wrap"])
@pytest.mark.parametrize(
    "options", [{}, {"acceleration": "heavy-ball"}, {"weights": True}, {"initial": "image"}]
)
def test_richardson_lucy_in_gpu_memory(options, boundary, image, cupy, rng, tol, relative_error):
    if "weights" in options:
        options = {"weights": rng.random(image.shape).astype(np.float32)}
    run = dict(num_iter=5, boundary=boundary, engine="direct") | options
    expected = mf.richardson_lucy(image, PSF, backend="reference", **run)
    given = cupy.asarray(image)
    got, info = mf.richardson_lucy(given, PSF, return_info=True, **run)
    assert isinstance(got, cupy.ndarray) and got.dtype == np.float32
    assert (
        info.backend == "cuda"
        and info.num_iter == 5
        and [e["iteration"] for e in info.trace] == [1, 2, 3, 4, 5]
    )
    assert relative_error(got.get(), expected) < tol("backends", np.float32)
    assert np.array_equal(given.get(), image)
    assert np.array_equal(mf.richardson_lucy(image, PSF, backend="cuda", **run), got.get())


@needs_cuda
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blur_in_gpu_memory(dtype, image, cupy, tol, relative_error):
    x = image.astype(dtype)
    blur = mf.Blur(PSF, image.shape, boundary="wrap", engine="direct", backend="cuda")
    host = mf.Blur(PSF, image.shape, boundary="wrap", engine="direct", backend="reference")
    for method in ("forward", "adjoint", "normalizer"):
        got = getattr(blur, method)(cupy.asarray(x))
        assert isinstance(got, cupy.ndarray) and got.dtype == dtype
        assert relative_error(got.get(), getattr(host, method)(x)) < tol("forward", dtype)
    batch = np.stack([x, 2 * x])
    assert relative_error(blur.forward(cupy.asarray(batch)).get(), host.forward(batch)) < tol(
        "forward", dtype
    )
    given, out = cupy.asarray(x), cupy.empty(x.shape, x.dtype)
    made, sums = blur.sweep(given, "ratio", image=x, out=out, return_sums=True)
    expected, expected_sums = host.sweep(x, "ratio", image=x, return_sums=True)
    assert made is out
    assert relative_error(out.get(), expected) < tol("formula", dtype)
    assert sums == pytest.approx(expected_sums, rel=tol("sums", dtype))
    with pytest.raises(
        ValueError, match=r"out: got ndarray .* expected a writable C-contiguous array in GPU"
    ):
        blur.sweep(given, "copy", out=np.empty(x.shape, x.dtype))


@needs_cuda
@pytest.mark.parametrize("boundary", ["wrap", "zero", "extended"])
@pytest.mark.parametrize(
    "shape", [(256, 6), (5, 512), (1024, 3), (250, 9), (3, 256, 8), (512, 2, 6), (2, 3, 1024), (2, 4, 506)]
)
def test_lengths_that_kernels_are_compiled_for(shape, boundary, rng, tol, relative_error):
    """Axes of 256, 512 and 1024, the grid's or the image's: every formula, and what fills a part of one."""
    image, weights = (rng.random(shape).astype(np.float32) + 0.1 for _ in range(2))
    psf = rng.random(tuple(min(n, 3 + axis) for axis, n in enumerate(shape)))
    symmetric = psf + np.flip(psf)
    calls = {
        "plain": lambda **o: mf.richardson_lucy(image, psf, 3, boundary=boundary, **o),
        "real transfer": lambda **o: mf.richardson_lucy(image, symmetric, 2, boundary=boundary, **o),
        "weights": lambda **o: mf.richardson_lucy(image, psf, 2, weights=weights, boundary=boundary, **o),
        "landweber": lambda **o: mf.landweber(image, psf, 3, boundary=boundary, **o),
        "accelerated": lambda **o: mf.richardson_lucy(
            image, psf, 3, boundary=boundary, acceleration="biggs-andrews", **o
        ),
        "forward": lambda **o: mf.Blur(psf, shape, boundary="wrap", **o).forward(image),
        "adjoint": lambda **o: mf.Blur(psf, shape, boundary="wrap", **o).adjoint(image),
    }
    for name, call in calls.items():
        got, expected = (call(engine="spectral", backend=b) for b in ("cuda", "reference"))
        assert relative_error(got, expected) < tol("formula", np.float32), name


@needs_cuda
def test_a_transfer_is_known_to_other_threads_when_it_is_made(image, monkeypatch):
    """Streams do not wait for one another: what another thread finds must lie in memory already."""
    seen = []
    transfer = _cuda_spectral.Transfer(False, lambda memory: memory.full((3,), 1, np.float32), "a key")
    memory = _device.own_memory()

    class Place:
        device, stream = memory.place.device, memory.place.stream

        def synchronize(self):
            seen.append(dict(transfer._on))
            seen.append("a key" in _device._lasting[0])
            memory.place.synchronize()

    own = types.SimpleNamespace(place=Place(), full=memory.full)
    monkeypatch.setattr(_device, "own_memory", lambda device: own)
    made = transfer.on(memory)
    assert seen == [{}, False]
    assert transfer.on(memory) is made is _device._lasting[0].pop("a key")


@needs_cuda
def test_every_method_takes_gpu_arrays(image, cupy, tol, relative_error):
    calls = {
        "landweber": lambda x, **o: mf.landweber(x, PSF, 4, engine="direct", stop="relative-change", **o),
        "van_cittert": lambda x, **o: mf.van_cittert(x, PSF, 3, engine="direct", bounds=(0, 90), **o),
        "fista": lambda x, **o: mf.fista(x, PSF, 0.1, 3, engine="direct", **o),
        "fista without": lambda x, **o: mf.fista(x, PSF, 0, 3, engine="direct", **o),
        "convolve": lambda x, **o: mf.convolve(x, PSF, mode="same", method="direct", **o),
        "valid": lambda x, **o: mf.convolve(x, PSF, mode="valid", method="direct", **o),
    }
    for name, call in calls.items():
        got = call(cupy.asarray(image))
        assert isinstance(got, cupy.ndarray), name
        assert relative_error(got.get(), call(image, backend="reference")) < tol("backends", np.float32), name


@needs_cuda
def test_an_estimate_without_a_frame_is_the_result(image):
    from medeconv_fast.algorithms import _options

    estimate = _device.own_memory().uploaded(image)
    blur = mf.Blur(PSF, image.shape, boundary="wrap", backend="cuda")
    assert _options.cropped(estimate, blur) is estimate
    copied = _options.cropped(estimate, blur, copy=True)
    assert copied.pointer != estimate.pointer and np.array_equal(copied.numpy(), image)


@needs_cuda
@pytest.mark.parametrize("slope", [0.0, 0.1, 1.5])
@pytest.mark.parametrize("size", [9, 0])
def test_ends_of_convolutions_in_gpu_memory(slope, size, cupy, rng, dtype):
    """To the bit what they are on the host; an image without channels is the sum without terms."""
    x = rng.standard_normal((2, 3 if size else 0, 9, 8)).astype(dtype)
    w = rng.standard_normal((4, x.shape[1], 3, 3)).astype(dtype)
    addend = rng.standard_normal((2, 4, 9, 8)).astype(dtype)
    addend[0, 0, 0, :2] = np.nan, -np.inf
    for options in ({"relu": True, "negative_slope": slope}, {}):
        for given in ({"addend": addend}, {}):
            expected = mf.ops.conv(x, w, padding=1, backend="cuda", **given, **options)
            given = {name: cupy.asarray(value) for name, value in given.items()}
            got = mf.ops.conv(cupy.asarray(x), cupy.asarray(w), padding=1, **given, **options)
            assert isinstance(got, cupy.ndarray)
            assert np.array_equal(got.get(), expected, equal_nan=True)


FILTERS = {
    "wiener": lambda x, **o: mf.wiener(x, PSF, 0.1, **o),
    "wiener, noise to signal": lambda x, **o: mf.wiener(x, PSF, noise_to_signal=0.05, **o),
    "wiener, auto": lambda x, **o: mf.wiener(x, PSF, **o),
    "tikhonov": lambda x, **o: mf.tikhonov(x, PSF, 0.1, **o),
    "tikhonov, prior": lambda x, **o: mf.tikhonov(x, PSF, 0.1, prior=30.0, **o),
    "tikhonov, auto": lambda x, **o: mf.tikhonov(x, PSF, "auto", prior=30.0, **o),
    "inverse_filter": lambda x, **o: mf.inverse_filter(x, PSF, 0.3, **o),
    "unsupervised_wiener": lambda x, **o: mf.unsupervised_wiener(x, PSF, num_iter=12, burn_in=4, **o),
}


@pytest.fixture
def copies(monkeypatch):
    """Bytes of each array that goes to the GPU or comes from it."""
    counted = {"upload": [], "download": []}
    place = _device.native().Place

    def count(name, which):
        original = getattr(place, name)

        def counting(self, *arguments):
            counted[name].append(arguments[which].nbytes)
            return original(self, *arguments)

        monkeypatch.setattr(place, name, counting)

    count("upload", 1)
    count("download", 0)
    return counted


@needs_cuda
@pytest.mark.parametrize("boundary", ["reflect", "wrap"])
@pytest.mark.parametrize("name", FILTERS)
def test_filters_in_gpu_memory(name, boundary, image, cupy):
    given = cupy.asarray(image)
    got = FILTERS[name](given, boundary=boundary)
    assert isinstance(got, cupy.ndarray) and got.dtype == np.float32
    assert np.array_equal(got.get(), FILTERS[name](image, boundary=boundary, backend="cuda"))
    assert np.array_equal(given.get(), image)


@needs_cuda
@pytest.mark.parametrize("boundary", ["reflect", "wrap"])
@pytest.mark.parametrize("name", ["wiener", "wiener, noise to signal", "tikhonov", "tikhonov, prior"])
def test_filters_copy_no_image_to_the_host(name, boundary, image, cupy, copies):
    given = cupy.asarray(image)
    FILTERS[name](given, boundary=boundary)
    copies["upload"].clear(), copies["download"].clear()
    FILTERS[name](given, boundary=boundary)
    assert copies["download"] == [24]  # what the check of its values has found
    assert max(copies["upload"], default=0) < image.nbytes / 10  # the psf and the regularizer


@needs_cuda
def test_total_variation_is_denoised_where_the_image_is(image, cupy, copies):
    given = cupy.asarray(image)
    options = {"boundary": "wrap", "initial": "zero"}
    mf.fista(given, PSF, 0.1, 2, **options)
    copies["upload"].clear(), copies["download"].clear()
    got = mf.fista(given, PSF, 0.1, 6, **options)
    assert max(copies["download"] + copies["upload"]) < image.nbytes / 10
    assert np.array_equal(got.get(), mf.fista(image, PSF, 0.1, 6, backend="cuda", **options))


@needs_cuda
@pytest.mark.parametrize("name", ["wiener, auto", "unsupervised_wiener"])
def test_what_needs_the_host_copies_the_image_once(name, image, monkeypatch):
    taken = []
    numpy = _device.DeviceArray.numpy
    monkeypatch.setattr(_device.DeviceArray, "numpy", lambda self: taken.append(self.pointer) or numpy(self))
    given = _device.own_memory().uploaded(image)
    FILTERS[name](given, boundary="reflect")
    assert taken.count(given.pointer) == 1


@needs_cuda
@pytest.mark.parametrize("boundary", ["reflect", "wrap"])
def test_a_filtered_host_image_goes_there_and_back_once(boundary, image, copies):
    mf.wiener(image, PSF, 0.1, boundary=boundary, backend="cuda")
    copies["upload"].clear(), copies["download"].clear()
    mf.wiener(image, PSF, 0.1, boundary=boundary, backend="cuda")
    assert copies["download"] == [image.nbytes]
    assert [n for n in copies["upload"] if n >= image.nbytes] == [image.nbytes]


@needs_cuda
@pytest.mark.parametrize("method", [mf.richardson_lucy, mf.landweber])
def test_an_image_is_looked_at_once(method, image, monkeypatch):
    """Sum, smallest and largest value come from one pass; what a method makes of the PSF has others."""
    given = _device.own_memory().uploaded(image)
    looked_at = []
    statistics = _device.DeviceArray.statistics
    monkeypatch.setattr(
        _device.DeviceArray,
        "statistics",
        lambda self, other=None: looked_at.append(self.pointer) or statistics(self, other),
    )
    method(given, PSF, 2, engine="spectral")
    assert looked_at.count(given.pointer) == 1


@needs_cuda
def test_tables_are_made_once(image, monkeypatch):
    made = []
    tables = _device.native().axis_tables_F32
    monkeypatch.setattr(
        _device.native(), "axis_tables_F32", lambda length: made.append(length) or tables(length)
    )
    mf.release_memory()
    first = mf.wiener(image, PSF, 0.1, boundary="wrap", backend="cuda")
    assert sorted(made) == sorted(set(image.shape))
    assert np.array_equal(mf.wiener(image, PSF, 0.2, boundary="wrap", backend="cuda") == first, first == 0)
    mf.wiener(image[:, :, :21].copy(), PSF, 0.1, boundary="wrap", backend="cuda")
    assert sorted(made) == sorted(set(image.shape))
    mf.release_memory()
    assert np.array_equal(mf.wiener(image, PSF, 0.1, boundary="wrap", backend="cuda"), first)
    assert sorted(made) == sorted(2 * list(set(image.shape)))


@needs_cuda
def test_few_tables_are_kept(monkeypatch):
    mf.release_memory()
    monkeypatch.setattr(_cuda_spectral, "MOST_TABLES", 2)
    kept = [_cuda_spectral.axis_tables(0, np.float32, n).pointer for n in (5, 6, 5, 7, 5)]
    assert kept[0] == kept[2] == kept[4]
    assert [key[2] for key in _cuda_spectral._tables] == [7, 5]


@needs_cuda
@pytest.mark.parametrize("length", [1, 2, 3, 4, 6, 8, 12, 16, 35, 100, 360, 1155])
def test_tables_of_an_axis(length, dtype):
    """Behind the twiddles, cosines and sines of the circle's parts, and where each frequency lies."""
    tables = getattr(_device.native(), "axis_tables_" + _device.suffix(dtype))(length)
    pair = 2 * dtype.itemsize
    slots = -(-4 * length // 16) * 16
    roots = -(-pair * length // 16) * 16
    found = tables[-slots - roots :][: pair * length].view(dtype).reshape(length, 2).T
    angles = 2 * np.pi * np.arange(length) / length
    assert np.abs(found - [np.cos(angles), np.sin(angles)]).max() < 5 * np.finfo(dtype).eps  # NumPy's
    quarters = 4 * np.arange(length) % length == 0
    assert np.isin(found[:, quarters], (-1, 0, 1)).all()
    assert np.array_equal(found[0, 1:], found[0, :0:-1]) and np.array_equal(found[1, 1:], -found[1, :0:-1])
    where = tables[-slots:][: 4 * length].view(np.int32)
    assert sorted(where) == list(range(length))


@needs_cuda
def test_good_sizes_are_the_cheapest():
    def products(n, most=10):
        """All ways to write n as a product of radices, in descending order."""
        if n == 1:
            yield []
        for radix in range(min(most, n), 1, -1):
            if n % radix == 0:
                yield from ([radix, *rest] for rest in products(n // radix, radix))

    def cost(n, last):
        compiled = n in (256, 288, 320, 384, 512, 576, 640, 768, 1024)
        stages = min((len(radices) for radices in products(n)), default=np.inf)
        return n * (10.0 + max(stages, 2) + (4 if last and not compiled else 0))

    for even, last in ((False, False), (True, False), (False, True)):
        for n in (*range(2, 300), 526, 1009, 1055):
            lengths = [m for m in range(n, 2 * n + 2) if not (even and m % 2)]
            cheapest = min(lengths, key=lambda m: cost(m, last))
            assert cuda.good_size(n, even=even, last=last) == cheapest, (n, even, last)
    assert cuda.good_size(526, last=True) == 576
    assert 10**12 <= cuda.good_size(10**12) < 1.1e12  # not by trying one length after the other


@needs_cuda
def test_memory_and_stream_are_the_arrays_own(image, cupy):
    if not EMULATED:
        pytest.skip("SKIPPED: counts calls of a stand-in")
    given = cupy.asarray(image)
    cupy.made = 0
    own = _device.own_memory()
    before = own.place
    mf.richardson_lucy(given, PSF, 3, engine="direct")
    assert cupy.made > 3
    array = _device.adopted(given, "x", np.dtype)
    assert array.memory.place.stream == cupy.stream.stream != before.stream
    assert array.pointer == given.__cuda_array_interface__["data"][0]


@on_emulator
@pytest.mark.parametrize("engine", ["direct", "spectral"])
def test_torch_tensors_in_gpu_memory(engine, image, monkeypatch, tol, relative_error):
    torch = fake_torch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    expected = mf.richardson_lucy(image, PSF, 4, engine=engine, backend="reference")
    for streams in ("eager", "lazy"):
        monkeypatch.setenv("MEDECONV_EMULATOR_STREAMS", streams)
        got = mf.richardson_lucy(torch.tensor(image), PSF, 4, engine=engine)
        assert isinstance(got, torch.Tensor) and got.dtype is torch.float32
        assert relative_error(got.host(), expected) < tol("backends", np.float32)
    wide = mf.convolve(torch.tensor(image.astype(float)), PSF, mode="same")
    assert isinstance(wide, torch.Tensor) and wide.dtype is torch.float64
    given = torch.tensor(image)
    given.requires_grad = True
    with pytest.raises(TypeError, match="image: got a torch tensor that requires a gradient"):
        mf.richardson_lucy(given, PSF, 2)
    given = torch.tensor(image)
    given.dtype = torch.bfloat16
    with pytest.raises(TypeError, match="image: got bfloat16 values"):
        mf.richardson_lucy(given, PSF, 2)


@needs_cuda
def test_arrays_of_other_libraries(image):
    class Foreign:
        def __init__(self, array):
            self.array, self.shape = array, array.shape
            self.__cuda_array_interface__ = array.__cuda_array_interface__

    own = _device.own_memory().uploaded(image)
    blur = mf.Blur(PSF, image.shape, boundary="zero", engine="direct", backend="cuda")
    got = blur.forward(Foreign(own))
    assert isinstance(got, _device.DeviceArray)
    assert np.array_equal(got.numpy(), blur.forward(image))
    turned = Foreign(own)
    turned.__cuda_array_interface__ = own.__cuda_array_interface__ | {
        "strides": (4, 24, 504),
        "shape": (6, 21, 34),
    }
    with pytest.raises(TypeError, match=r"x: got a .* expected a C-contiguous one of dtype float32"):
        blur.forward(turned)
    turned.__cuda_array_interface__ = own.__cuda_array_interface__ | {"typestr": "<c8"}
    with pytest.raises(TypeError, match="x: got complex values"):
        blur.forward(turned)


@needs_cuda
def test_the_device_is_the_arrays(image, cupy):
    with pytest.raises(ValueError, match="backend: got 'reference' for a cupy array in GPU memory"):
        mf.richardson_lucy(cupy.asarray(image), PSF, 2, backend="reference")
    blur = mf.Blur(PSF, image.shape, backend="reference")
    with pytest.raises(ValueError, match="'reference' for a cupy array in GPU memory"):
        blur.forward(cupy.asarray(image[None].repeat(1, 0)[0]))


@needs_cuda
def test_bad_values_are_named(image, cupy):
    image[2, 3, 4] = np.nan
    with pytest.raises(ValueError, match=r"image: 1 of 4284 values are not finite .* \(2, 3, 4\)"):
        mf.richardson_lucy(cupy.asarray(image), PSF, 2, engine="direct")
    image[2, 3, 4] = -1
    with pytest.raises(ValueError, match="image: 1 of 4284 values are negative"):
        mf.richardson_lucy(cupy.asarray(image), PSF, 2, engine="direct")


@needs_cuda
def test_arithmetic_equals_numpys(rng, dtype):
    a, b = rng.normal(size=(3, 700)).astype(dtype), rng.normal(size=(3, 700)).astype(dtype)
    memory = _device.own_memory()
    x, y = memory.uploaded(a), memory.uploaded(b)
    number = dtype.type(0.3)
    for ufunc in _device._BINARY:
        for one, other in (((x, y), (a, b)), ((x, 0.3), (a, number)), ((number, y), (number, b))):
            assert np.array_equal(ufunc(*one).numpy(), ufunc(*other).astype(dtype)), ufunc
    assert np.array_equal(np.abs(x).numpy(), np.abs(a)) and np.array_equal((-x).numpy(), -a)
    assert np.array_equal(np.sqrt(np.square(x)).numpy(), np.sqrt(np.square(a)))
    assert np.array_equal(np.clip(x, -1, 0.5).numpy(), np.clip(a, dtype.type(-1), dtype.type(0.5)))
    assert np.array_equal(x[1:, 5:600].numpy(), a[1:, 5:600]) and np.array_equal(x[2].numpy(), a[2])
    assert x.sum() == pytest.approx(a.sum(dtype=float), rel=1e-12) and x.mean() == pytest.approx(
        a.mean(dtype=float)
    )
    assert (x.min(), x.max()) == (a.min(), a.max())
    assert x.dot(y) == pytest.approx(np.vdot(a.astype(float), b.astype(float)), rel=1e-12)
    a[1, 5] = np.nan
    x.write(a)
    assert np.isnan(x.min()) and np.isnan(x.max())
    for refused in (
        lambda: np.sin(x),
        lambda: x + a,
        lambda: np.asarray(x),
        lambda: x[1:],
        lambda: x[::2, :],
    ):
        with pytest.raises(TypeError):
            refused()
    with pytest.raises(ValueError, match="do not broadcast"):
        x + x[1:, :]


@needs_cuda
@pytest.mark.parametrize("boundary", ["reflect", "nearest", "mirror", "wrap"])
@pytest.mark.parametrize(
    ("shape", "low", "high"),
    [
        ((9, 7, 300), (2, 1, 8), (3, 2, 5)),
        ((3, 4, 1100), (0, 3, 1), (1, 0, 0)),
        ((1, 1, 2500), (0, 0, 33), (0, 0, 0)),
        ((5, 3, 2), (11, 0, 7), (4, 8, 6)),
        ((2, 40, 65), (2, 0, 64), (1, 0, 65)),
        ((4, 1, 1), (0, 2, 0), (9, 1, 3)),
    ],
)
def test_margins_of_any_width(boundary, shape, low, high, rng, dtype):
    """Padding, its transpose and the way back; rows of several pieces, values with one image and many."""
    place = list(zip(low, high, strict=True))
    mode = {"reflect": "symmetric", "nearest": "edge", "mirror": "reflect"}.get(boundary, boundary)
    x = rng.integers(-99, 99, shape).astype(dtype)
    sources = np.pad(np.arange(x.size).reshape(shape), place, mode=mode)
    y = rng.integers(-99, 99, sources.shape).astype(dtype)
    memory = _device.own_memory()
    padded = cuda.pad(memory.uploaded(x), low, high, boundary)
    assert np.array_equal(padded.numpy(), x.ravel()[sources])
    folded = cuda.fold(memory.uploaded(y), low, high, boundary).numpy()
    assert np.array_equal(folded, np.bincount(sources.ravel(), y.ravel(), x.size).reshape(shape))
    inside = tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))
    assert np.array_equal(padded[inside].numpy(), x)


@needs_cuda
@pytest.mark.parametrize("n", [1, 3, 255, 4095, 4097, 70001, 2200003])
def test_statistics_of_any_length(n, rng, dtype):
    """Blocks go through long arrays more than once; rows begin where no access of 16 bytes can."""
    rows = rng.normal(size=(3, n)).astype(dtype)
    memory = _device.own_memory()
    x = memory.uploaded(rows)
    short = n < 10**6
    for row in range(3) if short else [1]:
        a, b = rows[row].astype(float), rows[(row + 1) % 3].astype(float)
        found = x[row].statistics()
        assert found[0] == pytest.approx(a.sum(), abs=1e-13 * np.abs(a).sum())
        assert found[1:] == (a.min(), a.max())
        assert x[row].dot(x[(row + 1) % 3]) == pytest.approx(np.vdot(a, b), abs=1e-13 * np.abs(a * b).sum())
        aligned = memory.uploaded(rows[row])
        assert aligned.statistics() == found and aligned.dot(aligned) == x[row].dot(x[row])
    for place in {0, n // 2, n - 1, min(n - 1, 4096)} if short else [n // 2]:
        rows[1, place] = np.nan
        assert np.isnan(memory.uploaded(rows[1]).statistics()).all()
        rows[1, place] = np.inf
        found = memory.uploaded(rows[1]).statistics()
        assert found[0] == found[2] == np.inf and (n == 1 or found[1] < np.inf)
        rows[1, place] = 0


@needs_cuda
@pytest.mark.parametrize("n", [1, 1025, 300_001, 4_300_003])
def test_sums_of_many_blocks(n, rng, dtype, tol):
    """From one slot to so many that they are added in two passes."""
    x, previous = rng.random((2, n)).astype(dtype)
    memory = _device.own_memory()
    sums = memory.empty((_device.native().formula_sums_size(n),), np.float64)
    given = {"previous": memory.uploaded(previous), "sums": sums}
    getattr(_device.native(), "apply_formula_" + _device.suffix(dtype))(
        memory.place, "copy", memory.uploaded(x), given
    )
    wide = x.astype(float)
    assert sums.numpy()[:3] == pytest.approx(
        [((wide - previous) ** 2).sum(), (wide**2).sum(), 0], rel=tol("sums", dtype)
    )


# --- streams, graphs, memory


class _CountedPlace:
    """A place whose waits are counted: the bindings take the one behind it."""

    def __init__(self, waits):
        self._waits = waits

    def __getattr__(self, name):
        if name in ("synchronize", "wait_for"):
            self._waits.append(name)
        return getattr(_device.own_memory().place, name)


@on_emulator
def test_nothing_waits(image, monkeypatch):
    """A plain run waits for the checks of its arguments, however many iterations follow."""
    counts = []
    for iterations in (3, 30):
        waits = []
        data = _device.Memory(_CountedPlace(waits)).uploaded(image)
        mf.richardson_lucy(data, PSF, iterations, boundary="reflect", engine="direct")
        counts.append(len(waits))
    assert counts[0] == counts[1] > 0


@on_emulator
@pytest.mark.parametrize("engine", ["separable", "spectral"])
@pytest.mark.parametrize("boundary", ["extended", "reflect"])
def test_plain_iterations_are_recorded_once(engine, boundary, image, monkeypatch):
    """What an allocation or a wait would break: the emulator refuses both while a graph is recorded."""
    recorded = []
    record = _device.Memory.record
    monkeypatch.setattr(_device.Memory, "record", lambda self, work: recorded.append(1) or record(self, work))
    data = _device.own_memory().uploaded(image)
    run = dict(boundary=boundary, engine=engine)
    psf = np.multiply.outer(np.multiply.outer([1, 2, 1], [1, 3, 1]), [1, 1, 2.0])
    graph = mf.richardson_lucy(data, psf, 7, **run)
    assert recorded == [1]
    single = mf.richardson_lucy(data, psf, 7, callback=lambda i, x: None, **run)
    assert recorded == [1]
    assert np.array_equal(graph.numpy(), single.numpy())


@on_emulator
def test_recording_refuses_what_a_graph_cannot(image):
    memory = _device.own_memory()
    data = memory.uploaded(image)
    with pytest.raises(RuntimeError, match="an allocation while a graph is recorded"):
        memory.record(lambda: data.copy())
    with pytest.raises(RuntimeError, match="a wait while a graph is recorded"):
        memory.record(lambda: memory.place.synchronize())
    assert np.array_equal(data.numpy(), image)


@on_emulator
def test_recordings_of_a_thread_share_a_stream(image, monkeypatch):
    """But for one that an error has ended in between."""
    native, made = _device.native(), []
    place = native.Place
    memory = _device.own_memory()
    data = memory.uploaded(image)
    monkeypatch.setattr(_device._own, "recording", {}, raising=False)
    monkeypatch.setattr(native, "Place", lambda *arguments: made.append(arguments) or place(*arguments))

    def work():
        np.add(data, 1.0, out=data)

    again = [memory.record(work) for _ in range(3)]
    assert made == [(0,)]
    with pytest.raises(RuntimeError, match="an allocation while a graph is recorded"):
        memory.record(lambda: data.copy())
    again.append(memory.record(work))
    assert made == [(0,), (0,)]
    for run in again:
        run()
    assert np.array_equal(data.numpy(), image + 4)


@on_emulator
def test_garbage_waits_for_the_end_of_a_recording(image):
    memory = _device.own_memory()
    data = memory.uploaded(image)
    before = _device.native().memory(0)
    cycle = [memory.empty((1000,), np.float32, lasting=True)]
    cycle.append(cycle)
    del cycle
    thresholds = gc.get_threshold()

    def work():
        gc.set_threshold(1)
        [[] for _ in range(100)]
        np.add(data, 1.0, out=data)

    try:
        again = memory.record(work)
    finally:
        gc.set_threshold(*thresholds)
    assert gc.isenabled()
    again()
    gc.collect()
    assert _device.native().memory(0) == before
    assert np.array_equal(data.numpy(), image + 1)


@on_emulator
def test_streams_that_run_late(image, cupy, monkeypatch):
    """Nothing relies on work being done when it was given: each stream waits for what it needs."""
    expected = mf.richardson_lucy(image, PSF, 5, engine="direct", backend="cuda")
    monkeypatch.setenv("MEDECONV_EMULATOR_STREAMS", "lazy")
    given = cupy.asarray(image)
    got = mf.richardson_lucy(given, PSF, 5, engine="direct")
    assert np.array_equal(got.get(), expected)
    assert np.array_equal(mf.richardson_lucy(image, PSF, 5, engine="direct", backend="cuda"), expected)
    foreign = types.SimpleNamespace(
        shape=image.shape, __cuda_array_interface__=given.__cuda_array_interface__
    )
    blur = mf.Blur(PSF, image.shape, boundary="zero", engine="direct", backend="cuda")
    late = cupy.empty(image.shape, image.dtype)
    late._array.write(given._array)
    foreign.__cuda_array_interface__ = late.__cuda_array_interface__
    assert np.array_equal(blur.forward(foreign).numpy(), blur.forward(image))


@needs_cuda
@pytest.mark.parametrize("streams", ["eager", "lazy"])
def test_large_arrays_arrive_in_slabs(streams, rng, monkeypatch):
    """A slab is filled again only when it has arrived, and the host's array may change at once; and back."""
    monkeypatch.setenv("MEDECONV_EMULATOR_STREAMS", streams)
    for size in ((5 << 20) + 3, 2 << 20, 3 << 20):  # of 8 bytes: several slabs, and parts of one
        values = rng.random(size)
        given = values.copy()
        array = _device.own_memory().uploaded(given)
        given[:] = 0
        assert np.array_equal(array.numpy(), values)
        assert np.array_equal((array + 1.0).numpy(), values + 1)


@needs_cuda
def test_threads_have_streams_of_their_own(image):
    results, places, all_live = [None] * 3, [None] * 3, threading.Barrier(3)

    def run(i):
        places[i] = _device.own_memory().place.stream
        all_live.wait()  # the next thread may get the stream of one that has ended
        results[i] = mf.richardson_lucy(image, PSF, 4, engine="direct", backend="cuda")

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(places)) == 3
    assert all(np.array_equal(results[0], r) for r in results[1:])


@on_emulator
@pytest.mark.parametrize("streams", ["eager", "lazy"])
def test_the_device_is_the_arrays_own(image, streams, monkeypatch):
    """The emulator refuses a kernel for a stream of another device than the current one."""
    monkeypatch.setenv("MEDECONV_EMULATOR_STREAMS", streams)
    monkeypatch.setenv("MEDECONV_EMULATOR_DEVICES", "2")
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    expected = mf.richardson_lucy(image, PSF, 4, backend="cuda")
    native = _device.native()
    before = native.memory(0)
    with cupy.devices[1]:
        given, weights = cupy.asarray(image), cupy.asarray(np.ones_like(image))
    got = mf.richardson_lucy(given, PSF, 4)
    assert got.device is cupy.devices[1] and np.array_equal(got.get(), expected)
    assert native.device_of(got.__cuda_array_interface__["data"][0]) == 1
    assert native.memory(0) == before  # nothing was made there
    blur = mf.Blur(PSF, image.shape, boundary="zero", backend="cuda")
    foreign = types.SimpleNamespace(
        shape=image.shape, __cuda_array_interface__=given.__cuda_array_interface__
    )
    there = blur.forward(foreign)
    assert there.memory.place.device == 1 and np.array_equal(there.numpy(), blur.forward(image))
    with pytest.raises(ValueError, match="one is on device 1, another on 0; expected all on one"):
        mf.richardson_lucy(cupy.asarray(image), PSF, 2, weights=weights)
    host = types.SimpleNamespace(
        shape=image.shape, __cuda_array_interface__=dict(image.__array_interface__, stream=None)
    )
    with pytest.raises(
        ValueError, match="expected an array in GPU memory, got a pointer that is no device's"
    ):
        blur.forward(host)


@on_emulator
def test_a_librarys_memory_is_a_threads_and_a_streams(image, cupy):
    """The next call finds it; another thread has its own: what one records must not move another's work."""
    given = cupy.asarray(image)
    memory = _device.adopted(given, "x", np.dtype).memory
    assert _device.adopted(given, "x", np.dtype).memory is memory
    others = []
    thread = threading.Thread(target=lambda: others.append(_device.adopted(given, "x", np.dtype).memory))
    thread.start()
    thread.join()
    other = _device.native().Place(0)
    cupy.cuda.get_current_stream = lambda: types.SimpleNamespace(ptr=other.stream)
    others.append(_device.adopted(given, "x", np.dtype).memory)
    assert len({id(each) for each in (memory, *others)}) == 3
    assert [m.place.stream for m in others] == [memory.place.stream, other.stream]
    for place in [_device.native().Place(0) for _ in range(100)]:
        cupy.cuda.get_current_stream = lambda at=place: types.SimpleNamespace(ptr=at.stream)
        assert _device.adopted(given, "x", np.dtype).memory.place.stream == place.stream
    assert len(_device._own.libraries) <= 64


@on_emulator
@pytest.mark.parametrize("streams", ["eager", "lazy"])
def test_arrays_of_two_streams(image, cupy, streams, rng, monkeypatch):
    """What another library's stream works on is copied, in the order of both."""
    monkeypatch.setenv("MEDECONV_EMULATOR_STREAMS", streams)
    torch = fake_torch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    weights = rng.random(image.shape).astype(np.float32)
    expected = mf.richardson_lucy(image, PSF, 3, weights=weights, backend="cuda")
    on_torch = torch.tensor(np.zeros_like(weights))
    on_torch._array.write(torch.tensor(weights)._array)  # given, not done
    got = mf.richardson_lucy(cupy.asarray(image), PSF, 3, weights=on_torch)
    on_torch._array.write(np.zeros_like(weights))  # as its owner may at once
    assert np.array_equal(got.get(), expected)


@on_emulator
def test_another_librarys_memory_error_is_ours(image, cupy, monkeypatch):
    class OutOfMemoryError(MemoryError):
        __module__ = "cupy"

    given = cupy.asarray(image)
    empty, left = cupy.empty, [3]

    def scarce(shape, dtype):
        left[0] -= 1
        if left[0] < 0:
            raise OutOfMemoryError("Out of memory allocating 999 bytes")
        return empty(shape, dtype)

    monkeypatch.setattr(cupy, "empty", scarce)
    text = r"GPU memory: [\d.]+ MB more are needed, [\d.]+ MB of [\d.]+ MB are free beside what cupy keeps"
    with pytest.raises(MemoryError, match=text) as caught:
        mf.richardson_lucy(given, PSF, 3, engine="direct")
    assert isinstance(caught.value.__cause__, OutOfMemoryError)
    assert np.array_equal(given.get(), image)


@on_emulator
def test_out_of_memory_names_need_and_have(image, nothing_kept, monkeypatch):
    blur = mf.Blur(PSF, image.shape, boundary="zero", engine="direct", backend="cuda")
    blur.forward(image)
    monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", "1000")
    with pytest.raises(MemoryError, match=r"GPU memory: 1 MB more are needed, [01] MB of 1 MB are free"):
        blur.forward(image)
    with pytest.raises(MemoryError, match=r"GPU memory: 1 MB more"):
        mf.landweber(image, PSF, 2, engine="direct", backend="cuda")
    monkeypatch.delenv("MEDECONV_EMULATOR_MEMORY")
    resident = _device.own_memory().uploaded(image)
    mf.release_memory()
    free, total = _device.native().memory(0)
    monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", str(total - free + 3 * image.nbytes))
    with pytest.raises(
        MemoryError, match=r"richardson_lucy takes 0\.2 MB beside the image, 0\.. MB of 0\.. MB are free"
    ):
        run = {"engine": "direct", "acceleration": "biggs-andrews"}
        mf.richardson_lucy(resident, PSF, 2, **run)
    monkeypatch.delenv("MEDECONV_EMULATOR_MEMORY")
    assert np.isfinite(blur.forward(image)).all()


@on_emulator
def test_command_line_takes_a_device(tmp_path, capsys):
    from medeconv_fast import cli

    image, out = tmp_path / "image.npy", tmp_path / "out.npy"
    np.save(image, np.random.default_rng(0).random((9, 10)).astype(np.float32) + 1)
    words = ["restore", str(image), "--fwhm-mm", "2", "2", "--voxel-size-mm", "1", "1", "--iterations", "2"]
    words += ["--method", "rl"]
    assert cli.main([*words, "-o", str(out), "--device", "cuda:0"]) == 0
    assert "backend cuda" in capsys.readouterr().out
    assert cli.main([*words, "-o", str(tmp_path / "cpu.npy"), "--backend", "reference"]) == 0
    np.testing.assert_allclose(np.load(out), np.load(tmp_path / "cpu.npy"), rtol=1e-5)
    assert cli.main([*words, "-o", str(out), "--overwrite", "--device", "cuda:7"]) == 2
    assert "--device cuda:7: device: got 7, expected one of 1 devices" in capsys.readouterr().err
    assert cli.main([*words, "-o", str(out), "--overwrite", "--device", "cpu", "--backend", "cuda"]) == 2
    assert "the backend 'cuda' computes on a GPU" in capsys.readouterr().err
