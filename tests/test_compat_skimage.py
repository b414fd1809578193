"""compat.skimage.restoration gives scikit-image's numbers, on our kernels."""

import warnings

import numpy as np
import pytest

import medeconv_fast as mf

theirs = pytest.importorskip("skimage.restoration", reason="SKIPPED: scikit-image is not installed")
ours = mf.compat.skimage.restoration
SHAPES = [(41,), (23, 30), (12, 11, 14)]


@pytest.fixture(autouse=True)
def counted():
    mf.compat.calls(reset=True)
    yield mf.compat.calls
    mf.compat.calls(reset=True)


@pytest.fixture
def agree(tol):
    def check(got, expected, dtype=None):
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        bound = tol("compat_restoration", dtype or expected.dtype) * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(got, expected, rtol=0, atol=bound)

    return check


def kernel(rng, shape, dtype=np.float64):
    psf = rng.random(shape) + 0.1
    return (psf / psf.sum()).astype(dtype)


def observed(rng, shape, dtype):
    return (rng.random(shape) * 0.8 + 0.1).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("clip", [True, False])
def test_richardson_lucy(rng, dtype, shape, size, clip, agree, counted):
    image, psf = observed(rng, shape, dtype), kernel(rng, (size,) * len(shape), dtype)
    # An even-sized psf drifts and magnifies rounding as it goes (see the comment in the module).
    iterations = 12 if size % 2 else 4
    expected = theirs.richardson_lucy(image, psf, iterations, clip)
    agree(ours.richardson_lucy(image, psf, iterations, clip), expected)
    assert counted()["skimage.restoration.richardson_lucy"] == mf.compat.Calls(1, {})


@pytest.mark.parametrize("psf_shape", [(7, 9), (4, 5), (1, 6), (31, 33), (40, 3)], ids=str)
@pytest.mark.parametrize("filter_epsilon", [None, 0, 0.3])
def test_richardson_lucy_with_larger_and_uneven_psfs(rng, psf_shape, filter_epsilon, agree):
    image, psf = observed(rng, (25, 32), np.float64), kernel(rng, psf_shape)
    got = ours.richardson_lucy(image, psf, 3, filter_epsilon=filter_epsilon)
    agree(got, theirs.richardson_lucy(image, psf, 3, filter_epsilon=filter_epsilon))


@pytest.mark.parametrize("filter_epsilon", [0.05, 0.4, np.float32(0.5)])
def test_filter_epsilon_zeroes_quotients(rng, dtype, filter_epsilon, agree):
    image, psf = observed(rng, (20, 21), dtype), kernel(rng, (5, 5), dtype)
    image[:8] = 0.01
    got = ours.richardson_lucy(image, psf, 6, filter_epsilon=filter_epsilon)
    agree(got, theirs.richardson_lucy(image, psf, 6, filter_epsilon=filter_epsilon))


def test_zero_background_and_dark_frames(rng, dtype, agree):
    image = np.zeros((24, 24), dtype)
    image[10:14, 9:13] = observed(rng, (4, 4), dtype)
    psf = kernel(rng, (5, 5), dtype)
    agree(ours.richardson_lucy(image, psf, 10), theirs.richardson_lucy(image, psf, 10))
    agree(ours.richardson_lucy(0 * image, psf, 10), theirs.richardson_lucy(0 * image, psf, 10))


def test_negative_values_are_not_clamped(rng, agree):
    """scikit-image's estimate follows negative data and psfs below zero."""
    image, psf = observed(rng, (20, 21), np.float64), kernel(rng, (3, 3))
    image[5:9, 5:9] *= -1
    expected = theirs.richardson_lucy(image, psf, 3)
    assert expected.min() < 0
    agree(ours.richardson_lucy(image, psf, 3), expected)
    psf[0, 0] *= -0.5
    agree(ours.richardson_lucy(np.abs(image), psf, 3), theirs.richardson_lucy(np.abs(image), psf, 3))


@pytest.mark.parametrize("kind", ["uint8", "int64", "bool", "float16", ">f4"])
def test_dtypes(rng, kind, agree, counted):
    image = (observed(rng, (20, 21), np.float64) * 9).astype(kind)
    for psf in (kernel(rng, (3, 3)), np.ones((3, 3), int)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = theirs.richardson_lucy(image, psf, 2, False)
        agree(ours.richardson_lucy(image, psf, 2, False), expected)
    assert counted()["skimage.restoration.richardson_lucy"].own == 2


@pytest.mark.parametrize("iterations", [0, -1, np.int64(2), True])
def test_iterations(rng, iterations, agree):
    image, psf = observed(rng, (20, 21), np.float64), kernel(rng, (3, 3))
    agree(ours.richardson_lucy(image, psf, iterations), theirs.richardson_lucy(image, psf, iterations))


def test_input_is_left_alone_and_layout_does_not_matter(rng, agree):
    image, psf = observed(rng, (40, 21), np.float64), kernel(rng, (5, 3))
    kept, strided = image.copy(), np.asfortranarray(image)[::2]
    agree(ours.richardson_lucy(strided, psf.T, 3), theirs.richardson_lucy(strided, psf.T, 3))
    agree(ours.wiener(strided, psf.T, 0.1), theirs.wiener(strided, psf.T, 0.1))
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("balance", [0.05, 3])
def test_wiener(rng, dtype, shape, size, balance, agree, counted):
    image, psf = observed(rng, shape, dtype), kernel(rng, (size,) * len(shape), dtype)
    for clip in (True, False):
        agree(ours.wiener(image, psf, balance, clip=clip), theirs.wiener(image, psf, balance, clip=clip))
    assert counted()["skimage.restoration.wiener"] == mf.compat.Calls(2, {})


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "int64", "uint32"])
@pytest.mark.parametrize("shape", [(23, 30), (1009,)], ids=str)
def test_a_balance_of_numpys_promotes(rng, dtype, kind, shape, agree, counted):
    image, psf = observed(rng, shape, dtype), kernel(rng, (3,) * len(shape), dtype)
    balance = np.dtype(kind).type(2)
    for reg in (None, np.ones((1,) * len(shape), dtype)):
        expected = theirs.wiener(image, psf, balance, reg)
        # scikit-image transforms float32 in float32 whatever it multiplies the transforms by.
        agree(ours.wiener(image, psf, balance, reg), expected, dtype)
    assert counted()["skimage.restoration.wiener"] == mf.compat.Calls(2, {})


@pytest.mark.parametrize("shape", [(1009,), (40_009,), (26, 20), (6, 17, 10), (13,), (22, 3)], ids=str)
def test_wiener_of_sizes_with_a_large_factor(rng, dtype, shape, agree, counted, monkeypatch):
    """They take another way: our transforms have small factors."""
    monkeypatch.setattr(ours, "LARGEST_FACTOR", 10)
    image, psf = observed(rng, shape, dtype), kernel(rng, (5, 3, 4)[: len(shape)], dtype)
    reg = rng.standard_normal((3, 2, 2)[: len(shape)])
    for given in (reg, None) if min(shape) > 2 else (reg,):
        agree(ours.wiener(image, psf, 0.2, given), theirs.wiener(image, psf, 0.2, given))
    assert set(counted()["skimage.restoration.wiener"].delegated) == set()


@pytest.mark.parametrize("reg_shape", [(3, 3), (2, 4), (1, 1), (5, 2)], ids=str)
def test_wiener_with_a_regularizer(rng, dtype, reg_shape, agree, counted):
    """Also without symmetry: scikit-image then drops the imaginary part of its transform."""
    image, psf, reg = (
        observed(rng, (20, 23), dtype),
        kernel(rng, (5, 4), dtype),
        rng.standard_normal(reg_shape),
    )
    reg += 2 * (reg.size == 1)
    agree(ours.wiener(image, psf, 0.3, reg, clip=False), theirs.wiener(image, psf, 0.3, reg, clip=False))
    assert counted()["skimage.restoration.wiener"].own == 1


def test_large_image_on_the_spectral_engine(rng, dtype, agree):
    image, psf = observed(rng, (256, 250), dtype), kernel(rng, (21, 17), dtype)
    agree(ours.richardson_lucy(image, psf, 5), theirs.richardson_lucy(image, psf, 5))


def uft(*arguments, **options):
    from skimage.restoration import uft as module

    return module.ir2tf(*arguments, **options)


HANDED_BACK = {
    "complex": lambda im, psf: (im * 1j, psf),
    "object": lambda im, psf: (im.astype(object), psf),
    "longdouble": lambda im, psf: (im.astype(np.longdouble), psf),
    "dimensions": lambda im, psf: (im.reshape(2, 4, 4, 4), np.ones((1, 1, 2, 2))),
    "array kind": lambda im, psf: (im.tolist(), psf),
    "not finite": lambda im, psf: (np.where(im == im.max(), np.nan, im), psf),
    "empty": lambda im, psf: (im[:0], psf),
    "arguments": lambda im, psf: (im, psf[0]),
}


@pytest.mark.parametrize("reason", HANDED_BACK)
def test_what_is_handed_back_is_the_peers(rng, reason, counted):
    image, psf = HANDED_BACK[reason](observed(rng, (8, 16), np.float64), kernel(rng, (3, 3)))

    def outcome(function):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                return function(image, psf, 2)
            except Exception as error:
                return type(error), str(error)

    got, expected = outcome(ours.richardson_lucy), outcome(theirs.richardson_lucy)
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(got, expected)
    else:
        assert got == expected
    assert counted()["skimage.restoration.richardson_lucy"] == mf.compat.Calls(0, {reason: 1})


@pytest.mark.parametrize("reg_shape", [(8, 3), (7, 10), (8, 10)], ids=str)
def test_wiener_with_a_regularizer_as_long_as_the_image(rng, reg_shape, counted):
    image, psf, reg = observed(rng, (8, 10), np.float64), kernel(rng, (3, 3)), rng.random(reg_shape)
    np.testing.assert_array_equal(ours.wiener(image, psf, 0.1, reg), theirs.wiener(image, psf, 0.1, reg))
    assert counted()["skimage.restoration.wiener"].delegated == {"arguments": 1}


def test_wiener_hands_back_transfer_functions_and_unbounded_filters(rng, counted):
    image, psf = observed(rng, (20, 22), np.float64), kernel(rng, (3, 3))
    otf = uft(psf, image.shape)
    for arguments in [(otf, 0.1), (psf, 0.1, uft(np.ones((1, 1)), image.shape)), (psf, 0.1, None, False)]:
        np.testing.assert_array_equal(ours.wiener(image, *arguments), theirs.wiener(image, *arguments))
    assert counted(reset=True)["skimage.restoration.wiener"].delegated == {"transfer function": 3}
    with np.errstate(all="ignore"):
        for arguments in [(psf, 0), (psf - psf.mean(), 0.1), (psf, np.inf), (psf, np.nan)]:
            np.testing.assert_array_equal(ours.wiener(image, *arguments), theirs.wiener(image, *arguments))
        single = image.astype(np.float32)
        for balance in (1e39, 1e-46):  # not in float32
            expected = theirs.wiener(single, psf, balance)
            np.testing.assert_array_equal(ours.wiener(single, psf, balance), expected)
    assert counted()["skimage.restoration.wiener"].delegated == {"filter without bounds": 6}


def test_unsupervised_wiener_is_the_peers(rng, counted):
    image, psf = observed(rng, (20, 22), np.float64), kernel(rng, (3, 3))
    got, chains = ours.unsupervised_wiener(image, psf, rng=5)
    expected, expected_chains = theirs.unsupervised_wiener(image, psf, rng=5)
    np.testing.assert_array_equal(got, expected)
    assert chains == expected_chains
    assert counted()["skimage.restoration.unsupervised_wiener"].delegated == {"random spectrum": 1}


def test_random_calls(rng, agree, counted):
    """Shapes, psfs and options at random; everything real in one to three dimensions is computed here."""
    number = 60
    for _ in range(number):
        ndim = int(rng.integers(1, 4))
        dtype = rng.choice(["float32", "float64"])
        image = observed(rng, rng.integers(6, 24, ndim), dtype)
        psf = kernel(rng, 2 * rng.integers(0, 4, ndim) + 1)
        options = {"clip": bool(rng.integers(2)), "filter_epsilon": rng.choice([None, 1e-6, 0.2])}
        iterations = int(rng.integers(1, 8))
        agree(
            ours.richardson_lucy(image, psf, iterations, **options),
            theirs.richardson_lucy(image, psf, iterations, **options),
        )
    assert counted()["skimage.restoration.richardson_lucy"] == mf.compat.Calls(number, {})


def test_every_backend(rng, dtype, backend, agree):
    mf.use_backend(backend)
    try:
        image, reg = observed(rng, (14, 15), dtype), rng.standard_normal((2, 3))
        for size in ((3, 5), (2, 3)):
            psf = kernel(rng, size, dtype)
            for options in ({}, {"filter_epsilon": 0.3}):
                got = ours.richardson_lucy(image, psf, 4, **options)
                agree(got, theirs.richardson_lucy(image, psf, 4, **options))
            agree(ours.wiener(image, psf, 0.2, reg), theirs.wiener(image, psf, 0.2, reg))
    finally:
        mf.use_backend("auto")


@pytest.mark.shared
def test_scikit_images_own_tests(shared_data, run_patched):
    """From its source distribution, with our stand-ins in its place."""
    root = shared_data / "skimage_ref"
    tests = root / "tests" / "skimage" / "restoration" / "test_restoration.py"
    counts = run_patched("skimage", "--noconftest", str(tests), MEDECONV_SKIMAGE_DATA=str(root / "data"))
    # All real calls that are not of the listed kinds are ours: three dtypes in 1-D to 3-D, a test of shapes.
    assert counts["skimage.restoration.richardson_lucy"] == [9, {}]
    assert counts["skimage.restoration.wiener"] == [10, {"transfer function": 9}]
    own, delegated = counts["skimage.restoration.unsupervised_wiener"]
    assert own == 0 and set(delegated) == {"random spectrum"}
