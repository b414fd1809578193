"""The direct engine against the dense matrix, scipy.ndimage and the spectral engine, and the choice of it."""

import numpy as np
import pytest
from scipy import ndimage

import medeconv_fast as mf
from medeconv_fast import _blur

BOUNDARIES = ["extended", "zero", "reflect", "nearest", "mirror", "wrap"]
# Odd and even sizes on every axis, axes without taps, one to more than six rows, rows shorter and longer than
# a tile, and what is left of a tile.
CASES = [
    ((9,), (4,)),
    ((300,), (9,)),
    ((1300,), (280,)),
    ((7, 19), (3, 4)),
    ((15, 100), (7, 6)),
    ((1, 23), (1, 6)),
    ((9, 9), (9, 1)),
    ((6, 9, 11), (3, 4, 5)),
    ((7, 13, 5), (4, 2, 3)),
    ((5, 1, 18), (2, 1, 7)),
    ((8, 13, 1), (5, 3, 1)),
    ((1, 1, 1), (1, 1, 1)),
    ((3, 6, 90), (1, 5, 2)),
]
SYMMETRIES = [(), (0,), (2,), (0, 2)]


def any_psf(shape, symmetric=(), seed=0):
    psf = np.random.default_rng(seed).random(shape) + 0.1
    for axis in symmetric:
        psf = psf + np.flip(psf, axis)
    return psf / psf.sum()


def check_forward_and_adjoint(psf, shape, boundary, backend, dtype, tol, dense_blur, relative_error, rng):
    matrix, estimate_shape, _ = dense_blur(psf, shape, boundary)
    blur = mf.Blur(psf, shape, boundary=boundary, engine="direct", backend=backend, dtype=dtype)
    assert blur.engine == "direct" and blur.estimate_shape == estimate_shape
    x, y = rng.normal(size=estimate_shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    hx, hty = blur.forward(x), blur.adjoint(y)
    assert hx.dtype == dtype and hty.dtype == dtype
    assert relative_error(hx, (matrix @ x.ravel().astype(float)).reshape(shape)) < tol("forward", dtype)
    assert relative_error(hty, (matrix.T @ y.ravel().astype(float)).reshape(estimate_shape)) < tol(
        "forward", dtype
    )
    left, right = np.vdot(hx.astype(float), y.astype(float)), np.vdot(x.astype(float), hty.astype(float))
    assert abs(left - right) / (np.linalg.norm(x) * np.linalg.norm(y)) < tol("adjoint", dtype)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "psf_shape"), CASES)
def test_forward_and_adjoint(
    shape, psf_shape, boundary, backend, dtype, tol, dense_blur, relative_error, rng
):
    psf = any_psf(psf_shape)
    check_forward_and_adjoint(psf, shape, boundary, backend, dtype, tol, dense_blur, relative_error, rng)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("symmetric", SYMMETRIES)
@pytest.mark.parametrize("psf_shape", [(5, 3, 4), (4, 5, 7), (2, 2, 2), (3, 1, 3)])
def test_symmetric_psfs(psf_shape, symmetric, boundary, backend, dtype, tol, dense_blur, relative_error, rng):
    psf = any_psf(psf_shape, symmetric)
    left = tuple((k + 1) // 2 if axis in symmetric else k for axis, k in enumerate(psf_shape))
    assert _blur.symmetrised(psf)[1] == left
    check_forward_and_adjoint(psf, (6, 8, 9), boundary, backend, dtype, tol, dense_blur, relative_error, rng)


@pytest.mark.parametrize("boundary", ["extended", "zero"])
def test_psf_larger_than_the_image(boundary, backend, dtype, tol, dense_blur, relative_error, rng):
    for shape, psf_shape in [((4, 5, 6), (9, 8, 13)), ((5, 7), (12, 11)), ((6,), (25,))]:
        for symmetric in (), (len(shape) - 1,), (0,):
            psf = any_psf(psf_shape, symmetric)
            check_forward_and_adjoint(
                psf, shape, boundary, backend, dtype, tol, dense_blur, relative_error, rng
            )


@pytest.mark.parametrize("boundary", ["reflect", "nearest", "mirror", "wrap", "zero"])
@pytest.mark.parametrize("k", [(3, 3, 3), (5, 4, 7), (9, 9, 9)])
def test_equals_scipy_ndimage(k, boundary, backend, dtype, tol, relative_error, rng):
    psf, x = any_psf(k), rng.random((20, 31, 70)).astype(dtype)
    mode = {"zero": "constant"}.get(boundary, boundary)
    wanted = ndimage.convolve(x.astype(float), psf, mode=mode)
    blur = mf.Blur(psf, x.shape, boundary=boundary, engine="direct", backend=backend, dtype=dtype)
    assert relative_error(blur.forward(x), wanted) < tol("forward", dtype)


@pytest.mark.parametrize("boundary", ["reflect", "wrap", "zero"])
@pytest.mark.parametrize("k", [(5, 5, 5), (2, 18, 1), (3, 17, 3), (4, 2, 16), (1, 6, 14), (6, 1, 9)])
def test_image_of_many_tiles(k, boundary, backend, dtype, tol, relative_error, rng):
    """Tiles that reach no border; filters of all numbers of taps along a row, and of many rows."""
    check_against_scipy(any_psf(k), (6, 103, 207), boundary, backend, dtype, tol, relative_error, rng)


@pytest.mark.parametrize("boundary", ["reflect", "wrap", "zero"])
@pytest.mark.parametrize("k", [(6, 2, 3), (1, 3, 5)])
def test_image_of_many_slices(k, boundary, backend, dtype, tol, relative_error, rng):
    """So many that blocks make several, the last fewer."""
    check_against_scipy(any_psf(k), (1031, 3, 5), boundary, backend, dtype, tol, relative_error, rng)


def check_against_scipy(psf, shape, boundary, backend, dtype, tol, relative_error, rng):
    x = rng.random(shape).astype(dtype)
    mode = {"zero": "constant"}.get(boundary, boundary)
    wanted = ndimage.convolve(x.astype(float), psf, mode=mode)
    blur = mf.Blur(psf, x.shape, boundary=boundary, engine="direct", backend=backend, dtype=dtype)
    assert relative_error(blur.forward(x), wanted) < tol("forward", dtype)


@pytest.mark.parametrize("shape", [(1, 3000), (70, 1500), (40, 3, 1100), (2, 120, 64)])
def test_many_units(shape, dtype, tol, relative_error, rng):
    """Blocks of rows, of columns and of slices meet without a seam."""
    for k in (3, 4, 5), (9, 6, 8):
        psf = any_psf(k[-len(shape) :], seed=1)
        x = rng.random(shape).astype(dtype)
        for boundary in "wrap", "zero":
            psf = psf[tuple(slice(0, n) for n in shape)]
            one, other = (
                mf.Blur(psf, shape, boundary=boundary, engine=engine, dtype=dtype, num_threads=2)
                for engine in ("direct", "spectral")
            )
            assert relative_error(one.forward(x), other.forward(x)) < tol("same_grid", dtype)
            assert relative_error(one.adjoint(x), other.adjoint(x)) < tol("same_grid", dtype)


def test_huge_psf(dtype, tol, relative_error, rng):
    """Slow, but right: rounding does not grow with the number of taps."""
    for shape, k in [((40, 50, 60), (33, 31, 29)), ((90, 100), (90, 77))]:
        x, psf = rng.random(shape).astype(dtype), any_psf(k)
        one, other = (
            mf.Blur(psf, shape, boundary="extended", engine=engine, dtype=dtype)
            for engine in ("direct", "spectral")
        )
        x = rng.random(one.estimate_shape).astype(dtype)
        assert relative_error(one.forward(x), other.forward(x)) < tol("same_grid", dtype)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("weighted", [False, True])
def test_richardson_lucy_equals_the_spectral_engine(
    boundary, weighted, backend, dtype, tol, relative_error, rng
):
    psf = any_psf((5, 4, 7), (2,))
    image = rng.poisson(50.0, (12, 21, 18)).astype(dtype)
    options = dict(boundary=boundary, background=2.0, backend=backend)
    if weighted:
        options["weights"] = (rng.random(image.shape) > 0.1).astype(dtype)
    a = mf.richardson_lucy(image, psf, 8, engine="direct", **options)
    b = mf.richardson_lucy(image, psf, 8, engine="spectral", **options)
    assert relative_error(a, b) < tol("backends", dtype)


@pytest.mark.parametrize("boundary", ["extended", "wrap", "reflect"])
@pytest.mark.parametrize("symmetric", SYMMETRIES)
def test_same_bits_for_any_number_of_threads(boundary, symmetric, rng, dtype):
    image = rng.poisson(50.0, (30, 70, 141)).astype(dtype)
    psf = any_psf((5, 7, 9), symmetric)
    first, *others = (
        mf.richardson_lucy(image, psf, 4, engine="direct", boundary=boundary, num_threads=n)
        for n in (1, 2, 3, 7)
    )
    assert all(np.array_equal(first, o) for o in others)


def test_same_bits_for_any_number_of_threads_with_a_large_psf(rng):
    image, psf = rng.random((60, 20, 33), np.float32), any_psf((25, 17, 19))
    first, *others = (
        mf.Blur(psf, image.shape, boundary="zero", engine="direct", num_threads=n).forward(image)
        for n in (1, 2, 3, 7)
    )
    assert all(np.array_equal(first, o) for o in others)


def test_sweep_onto_its_own_input(backend, rng):
    blur = mf.Blur(
        any_psf((3, 5)), (20, 30), boundary="wrap", engine="direct", backend=backend, dtype="float64"
    )
    x = rng.random((20, 30))
    expected = blur.forward(x)
    result = blur.sweep(x, "copy", out=x)
    assert result is x
    np.testing.assert_allclose(x, expected, rtol=1e-14)


def test_auto_takes_the_direct_engine_for_small_psfs():
    blur = mf.Blur(any_psf((3, 3, 3)), (40, 40, 40))
    assert blur.engine == "direct" and "relative" in blur.explain() and "taps" in blur.explain()
    assert mf.Blur(any_psf((3, 3)), (400, 400)).engine == "direct"
    assert mf.Blur(any_psf((13, 13, 13)), (40, 40, 40), boundary="wrap").engine == "spectral"
    assert mf.Blur(any_psf((65, 65)), (400, 400)).engine == "spectral"


def test_auto_counts_what_symmetry_saves():
    shape = (128, 128, 128)
    assert mf.Blur(any_psf((5, 5, 5)), shape, boundary="wrap").engine == "spectral"
    assert mf.Blur(any_psf((5, 5, 5), (0, 2)), shape, boundary="wrap").engine == "direct"
    assert _blur.symmetrised(any_psf((5, 5, 5)))[1] == (5, 5, 5)
    assert _blur.symmetrised(any_psf((5, 4)))[1] == (5, 4)
    assert _blur.symmetrised(any_psf((5, 4), (0,)))[1] == (5, 4)  # y has no use for it
    assert _blur.symmetrised(any_psf((5, 4), (1,)))[1] == (5, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_symmetry_to_rounding_becomes_exact(dtype):
    psf = any_psf((5, 4, 7), (0, 2)).astype(dtype)
    psf[0, 0, 0] *= 1 + 2 * np.finfo(dtype).eps
    made, left = _blur.symmetrised(psf)
    assert left == (3, 4, 4) and made.dtype == dtype
    assert np.array_equal(made, np.flip(made, 0)) and np.array_equal(made, np.flip(made, 2))
    assert np.abs(made - psf).max() <= 4 * np.finfo(dtype).eps * psf.max()
    psf[0, 0, 0] *= 1.001
    assert _blur.symmetrised(psf)[1] == psf.shape


def test_wiener_refuses_it():
    with pytest.raises(ValueError, match="engine: got 'direct'"):
        mf.wiener(np.ones((9, 9)), any_psf((3, 3)), engine="direct")
