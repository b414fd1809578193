"""Kinds, dtypes and layouts of arrays: what goes in, what comes out."""

import numpy as np
import pytest

import medeconv_fast as mf

OPERATIONS = {
    "richardson_lucy": lambda image, psf, backend: mf.richardson_lucy(image, psf, 3, backend=backend),
    "wiener": lambda image, psf, backend: mf.wiener(image, psf, 0.1, backend=backend),
    "convolve": lambda image, psf, backend: mf.convolve(image, psf, "same", backend=backend),
    "forward": lambda image, psf, backend: mf.Blur(
        psf, image.shape, boundary="reflect", backend=backend
    ).forward(image),
}


@pytest.fixture(params=OPERATIONS)
def operation(request, backend):
    return lambda image, psf: OPERATIONS[request.param](image, psf, backend)


@pytest.fixture
def image(rng):
    return rng.integers(1, 100, (8, 9))


@pytest.fixture
def psf(rng):
    return rng.random((3, 4))


RULE = {
    "bool": "float32",
    "uint8": "float32",
    "int8": "float32",
    "uint16": "float32",
    "int16": "float32",
    "float16": "float32",
    "float32": "float32",
    "int32": "float64",
    "uint32": "float64",
    "int64": "float64",
    "uint64": "float64",
    "float64": "float64",
}


@pytest.mark.parametrize("given", RULE)
def test_dtype_follows_the_image(given, operation, image, psf, relative_error):
    array = image.astype(given)
    got = operation(array, psf)
    assert got.dtype == RULE[given]
    assert relative_error(got, operation(array.astype(float), psf)) < 1e-5  # never rescaled


@pytest.mark.parametrize("psf_dtype", ["float64", "float32", "int64", "uint8", ">f8", "float16"])
def test_psf_never_promotes(psf_dtype, operation, image):
    psf = np.array([[1, 2, 1], [2, 4, 2]])
    a = operation(image.astype(np.float32), psf.astype(psf_dtype))
    assert a.dtype == np.float32
    assert np.array_equal(a, operation(image.astype(np.float32), psf))


def test_integer_psf_that_sums_beyond_its_dtype(operation, image):
    psf = np.full((5, 5), 200, np.uint8)
    assert np.allclose(operation(image, psf), operation(image, psf.astype(float)), rtol=1e-12)


@pytest.mark.parametrize("order", [">f4", ">f8", ">i2", ">u4"])
def test_big_endian(order, operation, image, psf):
    array = image.astype(order)
    got = operation(array, psf)
    assert got.dtype.isnative
    assert np.array_equal(got, operation(array.astype(array.dtype.newbyteorder("=")), psf))


def test_layouts(operation, image, psf, rng):
    plain = image.astype(np.float32)
    expected = operation(plain, psf)
    wide = np.zeros((16, 27), np.float32)
    wide[::2, ::3] = plain
    bytes_apart = np.zeros(plain.nbytes + 1, np.uint8)
    unaligned = bytes_apart[1:].view(np.float32).reshape(plain.shape)
    unaligned[...] = plain
    frozen = plain.copy()
    frozen.flags.writeable = False
    for array in (
        np.asfortranarray(plain),
        wide[::2, ::3],
        plain[::-1, ::-1].copy()[::-1, ::-1],
        unaligned,
        frozen,
    ):
        before = array.copy()
        got = operation(array, np.asfortranarray(psf))
        assert np.array_equal(got, expected)
        assert got.flags.c_contiguous
        assert got.flags.writeable
        assert not np.shares_memory(got, array)
        assert np.array_equal(array, before)


def test_layout_of_a_psf_changes_no_bit(image, rng):
    for shape in ((7, 9), (5, 8), (8, 6)):
        psf = rng.random(shape)
        expected = mf.Blur(psf, image.shape, boundary="zero").psf
        for array in (np.asfortranarray(psf), psf[::-1, ::-1].copy()[::-1, ::-1], psf.astype(">f8")):
            assert np.array_equal(mf.Blur(array, image.shape, boundary="zero").psf, expected)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_subclasses_and_lists(operation, image, psf, tmp_path):
    expected = operation(image.astype(float), psf)
    stored = np.memmap(tmp_path / "image", dtype=float, mode="w+", shape=image.shape)
    stored[...] = image
    for array in (stored, np.asmatrix(image.astype(float))):
        got = operation(array, psf)
        assert type(got) is np.ndarray
        assert np.array_equal(got, expected)
    assert np.array_equal(mf.convolve([1, 2, 3], [1, 1]), [1, 3, 5, 3])


class Foreign:
    """An array of another library, known by DLPack only."""

    def __init__(self, array, device=1):
        self.array, self.device, self.shape = array, device, array.shape

    def __dlpack_device__(self):
        return (self.device, 0)

    def __dlpack__(self, **options):
        return self.array.__dlpack__()


def test_dlpack_on_the_host(operation, image, psf):
    array = image.astype(np.float32)
    assert np.array_equal(operation(Foreign(array), psf), operation(array, psf))


def test_dlpack_in_gpu_memory(operation, image, psf):
    with pytest.raises(TypeError, match=r"(image|a|x): got a .* array in GPU memory that DLPack alone"):
        operation(Foreign(image.astype(np.float32), device=2), psf)


def test_cuda_array_interface_without_a_gpu(operation, image, psf):
    if "cuda" in mf.backends.available():
        pytest.skip("SKIPPED: there is a GPU")

    class OnDevice:
        shape = (8, 9)

        @property
        def __cuda_array_interface__(self):
            return {"shape": (8, 9), "typestr": "<f4", "data": (0, False), "version": 3}

    with pytest.raises((ImportError, ValueError), match=r"GPU memory|'cuda' is not available here"):
        operation(OnDevice(), psf)


def test_what_is_no_array_is_named(operation, image, psf):
    volume = mf.io.Volume(image)
    with pytest.raises(TypeError, match=r"got a Volume, expected an array .*; pass volume\.array"):
        operation(volume, psf)
    with pytest.raises(TypeError, match=r"got a Volume, expected .*; pass volume\.array"):
        operation(image, mf.io.Volume(psf))
    with pytest.raises(TypeError, match=r"psf: got a Volume, expected .*; pass volume\.array"):
        mf.psf.fwhm(mf.io.Volume(psf))
    nib = pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
    scan = nib.Nifti1Image(image.astype(np.float32), np.eye(4))
    with pytest.raises(TypeError, match=r"got an object of type nibabel\.nifti1\.Nifti1Image.* mf\.io\.read"):
        operation(scan, psf)


@pytest.mark.peers
def test_torch(operation, image, psf, relative_error):
    torch = pytest.importorskip("torch")
    for kind in (torch.float32, torch.float64, torch.int16, torch.float16):
        tensor = torch.from_numpy(image).to(kind)
        got = operation(tensor, torch.from_numpy(psf))
        assert isinstance(got, torch.Tensor)
        expected = operation(tensor.numpy(), psf)
        assert np.array_equal(got.numpy(), expected)
    turned = torch.from_numpy(image.astype(np.float32)).T
    assert np.array_equal(operation(turned, psf).numpy(), operation(image.astype(np.float32).T, psf))
    with pytest.raises(TypeError, match=r"requires a gradient.*\.detach\(\)"):
        operation(torch.ones(8, 9, requires_grad=True), psf)
    with pytest.raises(TypeError, match="bfloat16"):
        operation(torch.ones(8, 9, dtype=torch.bfloat16), psf)
    with pytest.raises(TypeError, match="complex"):
        operation(torch.ones(8, 9, dtype=torch.complex64), psf)


@pytest.mark.peers
def test_torch_callback_sees_tensors(backend):
    torch = pytest.importorskip("torch")
    seen = []
    mf.richardson_lucy(
        torch.ones(6, 6), torch.ones(3, 3), 2, callback=lambda i, e: seen.append(type(e)), backend=backend
    )
    assert seen == [torch.Tensor] * 2
