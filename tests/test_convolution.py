"""convolve and correlate against scipy.signal and scipy.ndimage."""

import numpy as np
import pytest

import medeconv_fast as mf

signal = pytest.importorskip("scipy.signal")
ndimage = pytest.importorskip("scipy.ndimage")

PAIRS = [
    ((20,), (5,)),
    ((21,), (6,)),
    ((5,), (20,)),
    ((6,), (21,)),
    ((1,), (1,)),
    ((13, 16), (4, 5)),
    ((12, 17), (5, 4)),
    ((4, 5), (13, 16)),
    ((12, 3), (5, 8)),
    ((1, 11), (3, 1)),
    ((7, 8, 9), (3, 2, 4)),
    ((2, 3, 4), (7, 8, 9)),
    ((5, 1, 6), (2, 3, 5)),
]


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize(("a_shape", "b_shape"), PAIRS, ids=str)
def test_scipy_signal(mode, a_shape, b_shape, dtype, backend, rng, tol, relative_error):
    a, b = rng.standard_normal(a_shape).astype(dtype), rng.standard_normal(b_shape).astype(dtype)
    contained = all(n >= k for n, k in zip(a_shape, b_shape, strict=True)) or all(
        n <= k for n, k in zip(a_shape, b_shape, strict=True)
    )
    for ours, theirs in ((mf.convolve, signal.convolve), (mf.correlate, signal.correlate)):
        if mode == "valid" and not contained:
            with pytest.raises(ValueError, match="at least as large"):
                ours(a, b, mode, backend=backend)
            continue
        expected = theirs(a.astype(float), b.astype(float), mode, method="direct")
        got = ours(a, b, mode, backend=backend)
        assert got.dtype == dtype
        assert got.shape == expected.shape
        # Relative to the inputs: a single value of the result may cancel.
        error = np.linalg.norm(got - expected) / (np.linalg.norm(a) * np.linalg.norm(b))
        assert error < tol("convolution", dtype)


@pytest.mark.parametrize("boundary", ["zero", "reflect", "nearest", "mirror", "wrap"])
@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((20,), (5,)),
        ((21,), (6,)),
        ((5,), (18,)),
        ((13, 16), (4, 5)),
        ((12, 17), (3, 3)),
        ((3, 4), (9, 8)),
        ((6, 7, 8), (3, 2, 4)),
        ((6, 1, 5), (3, 3, 3)),
    ],
    ids=str,
)
def test_boundaries_are_scipy_ndimage(boundary, a_shape, b_shape, dtype, backend, rng, tol):
    a, b = rng.standard_normal(a_shape).astype(dtype), rng.standard_normal(b_shape).astype(dtype)
    mode = "constant" if boundary == "zero" else boundary
    # scipy.ndimage centres convolutions at k // 2, correlations too; scipy.signal and we at (k - 1) // 2 of
    # the kernel that is convolved with. On even axes that is one voxel, which its `origin` can express.
    even = [1 - k % 2 for k in b_shape]
    for ours, theirs, origin in (
        (mf.convolve, ndimage.convolve, [-e for e in even]),
        (mf.correlate, ndimage.correlate, [0] * len(even)),
    ):
        if any(not -(k // 2) <= o <= (k - 1) // 2 for o, k in zip(origin, b_shape, strict=True)):
            continue
        expected = theirs(a.astype(float), b.astype(float), mode=mode, origin=origin)
        got = ours(a, b, "same", boundary, backend=backend)
        assert np.linalg.norm(got - expected) < tol("convolution", dtype) * np.linalg.norm(
            a
        ) * np.linalg.norm(b)


def test_same_differs_from_blur_by_the_documented_shift(backend, rng):
    a, b = rng.random(16), rng.random(4)
    blurred = mf.Blur(b, (16,), boundary="wrap", normalize_psf=False, backend=backend).forward(a)
    np.testing.assert_allclose(
        mf.convolve(a, b, "same", "wrap", backend=backend), np.roll(blurred, 1), rtol=1e-12
    )


def test_result_follows_the_first_array(backend, rng):
    a, b = rng.random(12), rng.random(3)
    assert mf.convolve(a.astype(np.float32), b, backend=backend).dtype == np.float32
    assert mf.convolve(a, b.astype(np.float32), backend=backend).dtype == np.float64
    assert mf.convolve((a * 9).astype(np.uint8), b, backend=backend).dtype == np.float32
    assert mf.convolve((a * 9).astype(np.int64), b, backend=backend).dtype == np.float64
    # The swap of mode="valid" does not change that.
    assert mf.convolve(b.astype(np.float32), a, "valid", backend=backend).dtype == np.float32


def test_kernels_are_not_normalised(backend):
    assert np.allclose(mf.convolve(np.ones(5), np.array([2.0]), backend=backend), 2)
    assert np.allclose(mf.convolve(np.ones(5), np.array([0.0, 0.0]), backend=backend), 0)
    assert np.allclose(mf.convolve(np.ones(5), np.array([1.0, -1.0]), "valid", backend=backend), 0)


@pytest.mark.parametrize("boundary", ["reflect", "nearest", "mirror", "wrap"])
@pytest.mark.parametrize("mode", ["full", "valid"])
def test_boundary_needs_mode_same(boundary, mode):
    with pytest.raises(ValueError, match=r"boundary: .*mode='same'"):
        mf.convolve(np.ones(5), np.ones(3), mode, boundary)


def test_bad_options():
    with pytest.raises(ValueError, match="mode: got 'ful', expected one of 'full', 'same', 'valid'"):
        mf.convolve(np.ones(5), np.ones(3), "ful")
    with pytest.raises(ValueError, match="boundary: got 'extended'"):
        mf.convolve(np.ones(5), np.ones(3), "same", "extended")
    with pytest.raises(ValueError, match="method: got 'overlap-add'"):
        mf.convolve(np.ones(5), np.ones(3), method="overlap-add")
    with pytest.raises(ValueError, match="method: got 'separable', but b is not a product"):
        mf.convolve(np.ones((5, 5)), np.eye(3), method="separable")


@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [((40,), (6,)), ((9, 12), (4, 3)), ((3, 4), (5, 8)), ((6, 7, 9), (3, 2, 4))],
    ids=str,
)
def test_methods_are_scipy_signal(method, mode, a_shape, b_shape, dtype, backend, rng, tol):

    def product(shape):  # either array can be the filter: "valid" swaps them
        result = np.ones(())
        for n in shape:
            result = np.multiply.outer(result, rng.standard_normal(n))
        return result.astype(dtype)

    a, b = product(a_shape), product(b_shape)
    for ours, theirs in ((mf.convolve, signal.convolve), (mf.correlate, signal.correlate)):
        expected = theirs(a.astype(float), b.astype(float), mode, method="direct")
        got = ours(a, b, mode, method=method, backend=backend)
        assert got.shape == expected.shape and got.dtype == dtype
        assert np.linalg.norm(got - expected) < tol("convolution", dtype) * np.linalg.norm(
            a
        ) * np.linalg.norm(b)


def test_small_integers_stay_exact(backend):
    """Which a transform would not do: "auto" sums over few taps."""
    assert np.array_equal(mf.convolve([1, 2, 3], [1, 1], backend=backend), [1, 3, 5, 3])
    image = np.arange(30).reshape(5, 6)
    box = np.ones((3, 3), int)
    assert np.array_equal(mf.convolve(image, box, backend=backend), signal.convolve(image, box))


def test_bad_arrays():
    with pytest.raises(
        ValueError, match=r"b: got 1 axes \(shape \(3,\)\), expected 2, as many as the array a has"
    ):
        mf.convolve(np.ones((5, 5)), np.ones(3))
    with pytest.raises(ValueError, match="a: 1 of 3 values are not finite"):
        mf.convolve([1.0, np.nan, 2.0], np.ones(3))
    with pytest.raises(ValueError, match="b: 1 of 3 values are not finite"):
        mf.convolve(np.ones(3), [1.0, np.inf, 2.0])
    with pytest.raises(TypeError, match="b: got complex"):
        mf.convolve(np.ones(3), [1j])
    with pytest.raises(ValueError, match="a: got an empty array"):
        mf.convolve(np.ones(0), np.ones(3))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (1, 4), (1, 1, 3), (1, 3, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("method", ["auto", "direct", "fft"])
def test_one_voxel(shape, method, backend, rng):
    b = rng.random(shape)
    got = mf.convolve(np.full((1,) * len(shape), 2.0), b, method=method, backend=backend)
    np.testing.assert_allclose(got, 2 * b, rtol=1e-13)
