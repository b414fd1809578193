"""The separable engine against the dense matrix, against the spectral engine, and the choice between them."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

import medeconv_fast as mf
from medeconv_fast import _taps

BOUNDARIES = ["extended", "zero", "reflect", "nearest", "mirror", "wrap"]
CASES = [
    ((9,), (4,)),
    ((37,), (9,)),
    ((7, 19), (3, 4)),
    ((1, 23), (1, 6)),
    ((6, 9, 11), (3, 4, 5)),
    ((5, 1, 18), (2, 1, 7)),
    ((8, 13, 1), (5, 3, 1)),
    ((1, 1, 1), (1, 1, 1)),
    ((13, 6, 10), (1, 5, 2)),
]


def product_psf(shape, seed=0):
    rng = np.random.default_rng(seed)
    psf = np.ones(())
    for k in shape:
        psf = np.multiply.outer(psf, rng.random(k) + 0.1)
    return psf / psf.sum()


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "psf_shape"), CASES)
def test_forward_and_adjoint(
    shape, psf_shape, boundary, backend, dtype, tol, dense_blur, relative_error, rng
):
    psf = product_psf(psf_shape)
    matrix, estimate_shape, _ = dense_blur(psf, shape, boundary)
    blur = mf.Blur(psf, shape, boundary=boundary, engine="separable", backend=backend, dtype=dtype)
    assert blur.engine == "separable" and blur.estimate_shape == estimate_shape
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
@pytest.mark.parametrize("weighted", [False, True])
def test_richardson_lucy_equals_the_spectral_engine(
    boundary, weighted, backend, dtype, tol, relative_error, rng
):
    psf = product_psf((5, 4, 7))
    image = rng.poisson(50.0, (12, 21, 18)).astype(dtype)
    options = dict(boundary=boundary, background=2.0, backend=backend)
    if weighted:
        options["weights"] = (rng.random(image.shape) > 0.1).astype(dtype)
    a = mf.richardson_lucy(image, psf, 8, engine="separable", **options)
    b = mf.richardson_lucy(image, psf, 8, engine="spectral", **options)
    assert relative_error(a, b) < tol("backends", dtype)


def test_same_bits_for_any_number_of_threads(rng, dtype):
    image = rng.poisson(50.0, (30, 70, 41)).astype(dtype)
    psf = product_psf((5, 7, 9))
    first, *others = (
        mf.richardson_lucy(image, psf, 5, engine="separable", num_threads=n) for n in (1, 2, 3, 7)
    )
    assert all(np.array_equal(first, o) for o in others)


def test_sweep_onto_its_own_input(backend, rng):
    psf = product_psf((3, 5))
    blur = mf.Blur(psf, (20, 30), boundary="wrap", engine="separable", backend=backend, dtype="float64")
    x = rng.random((20, 30))
    expected = blur.forward(x)
    result = blur.sweep(x, "copy", out=x)
    assert result is x
    np.testing.assert_allclose(x, expected, rtol=1e-14)


def test_auto_takes_the_separable_engine_for_a_gaussian():
    psf = mf.psf.gaussian(2.0, (1, 1, 1))
    blur = mf.Blur(psf, (100, 100, 100))
    assert blur.engine == "separable" and "product" in blur.explain()
    assert mf.Blur(psf, (40, 40, 40), engine="spectral").engine == "spectral"


def test_auto_takes_transforms_for_long_filters_and_other_psfs(rng):
    long = mf.psf.gaussian(30.0, (1, 1))
    assert mf.Blur(long, (300, 300), boundary="wrap").engine == "spectral"
    assert mf.Blur(rng.random((13, 13, 13)), (20, 20, 20)).engine == "spectral"


def test_separable_refuses_other_psfs(rng):
    with pytest.raises(ValueError, match="product"):
        mf.Blur(rng.random((3, 3)), (20, 20), engine="separable")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (4, 7), (3, 8, 5)])
def test_product_is_detected_to_rounding(shape, dtype):
    psf = product_psf(shape).astype(dtype)
    lines = _taps.product_taps(psf)
    product = np.ones(())
    for line in lines:
        product = np.multiply.outer(product, line.astype(float))
    assert np.abs(product - psf).max() < (1e-6 if dtype == np.float32 else 1e-14)
    assert product.sum() == pytest.approx(float(psf.sum(dtype=float)), rel=8 * float(np.finfo(dtype).eps))
    if len(shape) > 1:
        psf[(0,) * len(shape)] *= 1.001
        assert _taps.product_taps(psf) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("residue", [0.0, 1e-6])
def test_product_whose_taps_cancel(ndim, residue, dtype, tol, relative_error, rng):
    """A derivative's taps sum to rounding, by which nothing may be scaled."""
    t = np.arange(-4, 5)
    smooth = np.exp(-(t**2) / 4.2)
    for axis in range(ndim):
        lines = [(residue - t) * smooth if a == axis else smooth / smooth.sum() for a in range(ndim)]
        psf = _taps.product_of(lines).astype(dtype)
        assert relative_error(_taps.product_of(_taps.product_taps(psf)), psf) < tol("forward", dtype)
        x = rng.standard_normal((24, 25, 26)[:ndim]).astype(dtype)
        got = mf.convolve(x, psf, "same", method="separable")
        assert relative_error(got, mf.convolve(x, psf, "same", method="direct")) < tol("forward", dtype)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5, 8, 9, 16, 17, 25])
@pytest.mark.parametrize("shape", [(29, 40), (11, 35, 27)])
def test_symmetric_taps(shape, taps, boundary, dtype, tol, relative_error, rng):
    """Pairs are added first; a large volume's rows go through the lanes of several vectors, with a rest."""
    line = rng.random(taps) + 0.1
    line = line + line[::-1]
    psf = line / line.sum()
    for _ in shape[1:]:
        psf = np.multiply.outer(psf, line / line.sum())
    psf = psf[tuple(slice(0, min(taps, n)) for n in shape)] if boundary == "wrap" else psf
    a = mf.Blur(psf, shape, boundary=boundary, engine="separable", dtype=dtype, normalize_psf=False)
    b = mf.Blur(psf, shape, boundary=boundary, engine="spectral", dtype="float64", normalize_psf=False)
    x, y = rng.standard_normal(a.estimate_shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
    assert relative_error(a.forward(x), b.forward(x.astype(float))) < tol("forward", dtype)
    assert relative_error(a.adjoint(y), b.adjoint(y.astype(float))) < tol("forward", dtype)


@pytest.mark.parametrize("boundary", ["extended", "zero", "reflect", "wrap"])
@pytest.mark.parametrize(
    ("shape", "taps"),
    [
        ((100, 301), (15, 15)),
        ((130, 257), (3, 70)),
        ((131, 130), (70, 1)),
        ((67, 300), (1, 33)),
        ((140, 131), (110, 131)),
        ((4, 70, 161), (3, 9, 15)),
        ((45, 9, 21), (21, 3, 4)),
        ((50, 1, 140), (16, 1, 2)),
        ((33, 30, 1), (33, 17, 1)),
    ],
)
def test_tiles_and_segments(shape, taps, boundary, backend, dtype, tol, relative_error, rng):
    """Tiles with neighbours on both sides, chunks of taps, columns that are filtered in several steps."""
    psf = product_psf(taps)
    a = mf.Blur(psf, shape, boundary=boundary, engine="separable", backend=backend, dtype=dtype)
    b = mf.Blur(psf, shape, boundary=boundary, engine="spectral", dtype="float64")
    x, y = rng.standard_normal(a.estimate_shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
    assert relative_error(a.forward(x), b.forward(x.astype(float))) < tol("forward", dtype)
    assert relative_error(a.adjoint(y), b.adjoint(y.astype(float))) < tol("forward", dtype)


def test_long_segments(backend, tol, relative_error, rng):
    """So many columns that each is cut into few segments."""
    psf, shape = product_psf((6, 2, 3)), (40, 260, 530)
    a = mf.Blur(psf, shape, boundary="wrap", engine="separable", backend=backend, dtype="float32")
    x = rng.standard_normal(shape).astype("float32")
    expected = np.zeros(shape)
    for z, y, i in np.ndindex(psf.shape):
        offset = (z - psf.shape[0] // 2, y - psf.shape[1] // 2, i - psf.shape[2] // 2)
        expected += a.psf[z, y, i] * np.roll(x, offset, (0, 1, 2))
    assert relative_error(a.forward(x), expected) < tol("forward", np.float32)


def tilted(shape, tilt=0.35):
    """A Gaussian whose axes are not the grid's: no product of filters, but close to a short sum of them."""
    axes = np.meshgrid(*(np.arange(k) - k // 2 for k in shape), indexing="ij")
    form = 0.25 * sum(a.astype(float) ** 2 for a in axes)
    for a, b in pairwise(axes):
        form += tilt * 0.25 * a * b
    return np.exp(-form)


@pytest.mark.parametrize("boundary", ["extended", "zero", "reflect", "wrap"])
@pytest.mark.parametrize(
    ("shape", "taps"), [((14, 15, 33), (5, 7, 6)), ((31, 40), (9, 8)), ((1, 20, 17), (1, 5, 5))]
)
def test_sum_of_products(shape, taps, boundary, backend, dtype, rng, tol, relative_error, dense_blur):
    """The operator is exactly that of `Blur.psf`, its transpose included, and that as close as asked for."""
    psf = tilted(taps)
    blur = mf.Blur(psf, shape, boundary=boundary, engine=("separable", 1e-2), backend=backend)
    assert blur.engine == "separable" and "products of filters; they leave out" in blur.explain()
    given = psf / psf.sum()
    assert 0 < np.abs(blur.psf - given).sum() <= 1e-2
    assert abs(blur.psf.sum() - 1) < 1e-12
    matrix, estimate_shape, _ = dense_blur(blur.psf, shape, boundary)
    x = rng.random(estimate_shape).astype(dtype)
    y = rng.random(shape).astype(dtype)
    forward, adjoint = blur.forward(x), blur.adjoint(y)
    assert relative_error(forward, (matrix @ x.ravel()).reshape(shape)) < tol("forward", dtype)
    assert relative_error(adjoint, (matrix.T @ y.ravel()).reshape(estimate_shape)) < tol("forward", dtype)
    left, right = np.vdot(forward, y.astype(np.float64)), np.vdot(x, adjoint.astype(np.float64))
    assert abs(left - right) < tol("adjoint", dtype) * np.linalg.norm(x) * np.linalg.norm(y)
    ratio, sums = blur.sweep(x, "ratio", image=y, eps=1e-3, return_sums=True)
    model = np.maximum((matrix @ x.ravel()).reshape(shape), 1e-3)
    assert relative_error(ratio, y / model) < tol("formula", dtype)
    assert sums["squared_residual"] == pytest.approx(((y - model) ** 2).sum(), rel=tol("sums", dtype))
    copy = pickle.loads(pickle.dumps(blur))
    np.testing.assert_array_equal(copy.psf, blur.psf)
    np.testing.assert_array_equal(copy.forward(x), forward)


def test_two_gaussians_are_two_products(rng):
    """A core and a halo, as many point spread functions have them."""
    core, halo = (mf.psf.gaussian(fwhm=(f, f, f), voxel_size=(1, 1, 1), shape=(15, 15, 15)) for f in (2, 6))
    blur = mf.Blur(core + 0.3 * halo, (20, 20, 20), engine=("separable", 1e-6))
    assert ", 2 products" in blur.explain()


def test_restoration_with_a_sum_of_products(backend, rng, relative_error):
    psf = tilted((5, 7, 7))
    truth = ndimage.gaussian_filter(rng.random((16, 24, 24)), 1.5) * 100
    image = mf.Blur(psf, truth.shape, boundary="reflect").forward(truth)
    exact = mf.richardson_lucy(image, psf, 10, backend=backend, engine="spectral")
    close = mf.richardson_lucy(image, psf, 10, backend=backend, engine=("separable", 1e-3))
    assert 1e-9 < relative_error(close, exact) < 2e-3


def test_sum_of_products_refusals(rng):
    with pytest.raises(ValueError, match=r"engine: got \('separable', 1e-06\), but no sum of at most 8 prod"):
        mf.Blur(rng.random((9, 9, 9)), (30, 30, 30), engine=("separable", 1e-6))
    with pytest.raises(ValueError, match=r"engine\[1\]: got 2\.0, expected a tolerance between 0 and 1"):
        mf.Blur(rng.random((3, 3)), (30, 30), engine=("separable", 2.0))
    with pytest.raises(ValueError, match=r"engine: got \('direct', 0\.1\), expected a name"):
        mf.Blur(rng.random((3, 3)), (30, 30), engine=("direct", 0.1))
    with pytest.raises(ValueError, match="takes a short sum of such products"):
        mf.Blur(rng.random((3, 3)), (30, 30), engine="separable")


FOLDED = ["reflect", "nearest", "mirror"]
FAR = [
    ((1,), (5,)),
    ((5,), (12,)),
    ((40,), (131,)),
    ((3, 17), (7, 41)),
    ((2, 50), (9, 2)),
    ((2, 3, 4), (5, 9, 9)),
    ((12, 1, 33), (3, 6, 8)),
    ((4, 5, 37), (25, 1, 3)),
    ((19, 21, 6), (4, 15, 20)),
]


@pytest.mark.parametrize("boundary", FOLDED)
@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize(("shape", "psf_shape"), FAR)
def test_far_beyond_the_border(
    shape, psf_shape, even, boundary, backend, dtype, tol, dense_blur, relative_error, rng
):
    """PSFs that are longer than the image several times; `even`: symmetric along every axis."""
    psf = product_psf(psf_shape)
    if even:
        for axis in range(psf.ndim):
            psf = psf + np.flip(psf, axis)
        psf /= psf.sum()
    matrix, _, _ = dense_blur(psf, shape, boundary)
    blur = mf.Blur(psf, shape, boundary=boundary, engine="separable", backend=backend, dtype=dtype)
    x, y = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    hx, hty = blur.forward(x), blur.adjoint(y)
    assert relative_error(hx, (matrix @ x.ravel().astype(float)).reshape(shape)) < tol("forward", dtype)
    assert relative_error(hty, (matrix.T @ y.ravel().astype(float)).reshape(shape)) < tol("forward", dtype)
    left, right = np.vdot(hx.astype(float), y.astype(float)), np.vdot(x.astype(float), hty.astype(float))
    assert abs(left - right) / (np.linalg.norm(x) * np.linalg.norm(y)) < tol("adjoint", dtype)
    np.testing.assert_array_equal(blur.forward(np.stack([y, x]))[1], hx)
    np.testing.assert_array_equal(blur.adjoint(np.stack([x, y]))[1], hty)


@pytest.mark.parametrize("boundary", [*FOLDED, "wrap", "zero"])
@pytest.mark.parametrize("shape", [(33,), (21, 70), (70, 21), (12, 33, 19), (3, 40, 130)])
def test_filters_of_scipy(shape, boundary, backend, dtype, tol, relative_error, rng):
    """Of odd and of even length, symmetric and not; each axis in turn there, all at once here."""
    x = rng.random(shape).astype(dtype)
    mode = {"zero": "constant"}.get(boundary, boundary)
    options = {"boundary": boundary, "engine": "separable", "backend": backend, "dtype": dtype}
    sizes = [min(k, n) for k, n in zip((3, 8, 9), shape, strict=False)]
    box = mf.Blur(np.ones(sizes), shape, **options).forward(x)
    # scipy correlates: an even box reaches farther back there, a convolution's farther on.
    expected = x.astype(float)
    for axis, k in enumerate(sizes):
        expected = ndimage.convolve1d(expected, np.full(k, 1 / k), axis, mode=mode)
    assert relative_error(box, expected) < tol("forward", dtype)
    delta = np.zeros([2 * min(6, (n - 1) // 2) + 1 for n in shape])
    delta[tuple(k // 2 for k in delta.shape)] = 1
    gaussian = ndimage.gaussian_filter(delta, 1.5, radius=[k // 2 for k in delta.shape], mode="constant")
    expected = ndimage.gaussian_filter(x.astype(float), 1.5, radius=[k // 2 for k in delta.shape], mode=mode)
    blurred = mf.Blur(gaussian, shape, normalize_psf=False, **options).forward(x)
    assert relative_error(blurred, expected) < tol("forward", dtype)
    lines = [rng.random(k) for k in sizes]
    expected = x.astype(float)
    for axis, line in enumerate(lines):
        expected = ndimage.convolve1d(expected, line, axis, mode=mode)
    skew = mf.Blur(_taps.product_of(lines), shape, normalize_psf=False, **options).forward(x)
    assert relative_error(skew, expected) < tol("forward", dtype)


@pytest.mark.parametrize("boundary", FOLDED)
def test_nothing_is_padded(boundary, backend, dtype, rng, tol, relative_error, monkeypatch):
    """Nor folded, where H is its own transpose: under reflect, if the PSF is symmetric along every axis."""

    def refuse(*arguments, **options):
        raise AssertionError("padded or folded")

    kernels = mf.backends.resolve(backend)
    image = rng.random((9, 20, 24)).astype(dtype)
    given = {"boundary": boundary, "engine": "separable", "backend": backend}
    even = mf.Blur(mf.psf.gaussian((2, 3, 3), (1, 1, 1)), image.shape, **given)
    skew = mf.Blur(product_psf((3, 4, 5)), image.shape, **given)
    monkeypatch.setattr(kernels, "pad", refuse)
    for blur in (even, skew):
        blur.forward(image)
        blur.adjoint(image)
        blur.sweep(image, "ratio", image=image)
    monkeypatch.setattr(kernels, "fold", refuse)
    with pytest.raises(AssertionError, match="folded"):
        skew.adjoint(image)
    if boundary == "reflect":
        assert relative_error(even.adjoint(image), even.forward(image)) < tol("forward", dtype)
        mf.richardson_lucy(image, even.psf, 3, **given)
        given |= {"boundary": "nearest", "dtype": dtype}
        assert even.workspace_bytes < mf.Blur(even.psf, image.shape, **given).workspace_bytes
    else:
        with pytest.raises(AssertionError, match="folded"):
            even.adjoint(image)


@pytest.mark.parametrize("boundary", FOLDED)
@pytest.mark.parametrize("even", [False, True])
def test_restorations_equal_the_spectral_engine(boundary, even, backend, dtype, rng, tol, relative_error):
    """What hands extrapolated estimates, penalties, sums and masks from sweep to sweep."""
    psf = mf.psf.gaussian((2, 3, 3), (1, 1, 1)) if even else product_psf((3, 4, 5))
    image = mf.simulate(rng.uniform(5, 50, (10, 17, 18)), psf, noise="poisson", seed=1).astype(dtype)
    given = {"boundary": boundary, "backend": backend}
    for method, options in (
        (mf.richardson_lucy, {"acceleration": "biggs-andrews", "regularizer": ("tv", 0.002)}),
        (mf.richardson_lucy, {"stop": "relative-change", "weights": rng.uniform(0.5, 1, image.shape)}),
        (mf.landweber, {}),
    ):
        made, other = (
            method(image, psf, 8, engine=engine, **given, **options) for engine in ("separable", "spectral")
        )
        assert relative_error(made, other) < tol("transcription", dtype)


@pytest.mark.parametrize("boundary", FOLDED)
def test_sides_that_go_on(boundary, backend, dtype, rng, tol, relative_error):
    """Of a tile: such a side is extended, the others follow the boundary."""
    psf, shape = mf.psf.gaussian((2, 3, 3), (1, 1, 1)), (7, 12, 15)
    for sides in (
        ((True, False), (False, False), (False, True)),
        ((False, False), (True, True), (False, False)),
        ((True, True),) * 3,
    ):
        a, b = (
            mf.Blur(psf, shape, boundary=boundary, engine=e, backend=backend, dtype=dtype, _open_sides=sides)
            for e in ("separable", "spectral")
        )
        x = rng.standard_normal(a.estimate_shape).astype(dtype)
        y = rng.standard_normal(shape).astype(dtype)
        assert relative_error(a.forward(x), b.forward(x)) < tol("forward", dtype)
        assert relative_error(a.adjoint(y), b.adjoint(y)) < tol("forward", dtype)


@pytest.mark.parametrize("boundary", FOLDED)
@pytest.mark.parametrize("shape", [(30, 70, 41), (300, 130), (5000,)])
def test_same_bits_under_a_boundary(boundary, shape, rng, dtype):
    image = rng.poisson(50.0, shape).astype(dtype)
    psf = mf.psf.gaussian((3,) * len(shape), (1,) * len(shape))
    first, *others = (
        mf.richardson_lucy(image, psf, 3, engine="separable", boundary=boundary, num_threads=n)
        for n in (1, 2, 3, 7)
    )
    assert all(np.array_equal(first, o) for o in others)


def test_a_symmetric_sum_of_products_is_its_own_transpose(
    backend, dtype, rng, tol, dense_blur, relative_error
):
    """The terms are symmetric, though nothing asked for that when they were found."""
    core, halo = (mf.psf.gaussian(fwhm=(f, f, f), voxel_size=(1, 1, 1), shape=(7, 7, 7)) for f in (2, 4))
    options = {"engine": ("separable", 1e-4), "boundary": "reflect", "backend": backend, "dtype": dtype}
    blur = mf.Blur(core + 0.3 * halo, (8, 9, 5), **options)
    matrix, shape, _ = dense_blur(blur.psf, blur.shape, "reflect")
    x = rng.random(shape).astype(dtype)
    for made, wanted in ((blur.forward(x), matrix), (blur.adjoint(x), matrix.T)):
        assert relative_error(made, (wanted @ x.ravel().astype(float)).reshape(shape)) < tol("forward", dtype)
    assert relative_error(blur.forward(x), blur.adjoint(x)) < tol("forward", dtype)
