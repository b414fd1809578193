"""Tikhonov regularisation against its normal equations, against SimpleITK, and what its options mean."""

import numpy as np
import pytest

import medeconv_fast as mf

SHAPES = [((31,), (5,)), ((12,), (4,)), ((6, 7), (3, 4)), ((1, 12), (1, 3)), ((3, 4, 5), (3, 2, 3))]
NUMPY_MODE = {"reflect": "symmetric", "nearest": "edge", "mirror": "reflect", "zero": "constant"}


def differences(shape, spacing):
    """The periodic forward difference of every axis as a matrix, in units of the smallest voxel length."""
    size = int(np.prod(shape))
    real = [a for a, n in enumerate(shape) if n > 1]
    smallest = min(spacing[a] for a in real)
    index = np.arange(size).reshape(shape)
    for axis in real:
        matrix = -np.eye(size)
        matrix[np.arange(size), np.roll(index, -1, axis).ravel()] += 1
        yield matrix * (smallest / spacing[axis])


def penalty_matrix(regularizer, shape, spacing, dense_blur):
    """R'R."""
    size = int(np.prod(shape))
    if np.ndim(regularizer):
        matrix = dense_blur(regularizer, shape, "wrap")[0]
        return matrix.T @ matrix
    if regularizer == 0:
        return np.eye(size)
    laplacian = sum(d.T @ d for d in differences(shape, spacing))
    return laplacian if regularizer == 1 else laplacian.T @ laplacian


@pytest.mark.parametrize("regularizer", [0, 1, 2, "array"])
@pytest.mark.parametrize(("shape", "psf_shape"), SHAPES, ids=str)
def test_normal_equations(
    regularizer, shape, psf_shape, backend, dtype, rng, dense_blur, tol, relative_error
):
    """Least squares with matrices: H from its definition, derivatives as differences, no transforms."""
    image, prior = rng.random(shape).astype(dtype), rng.random(shape)
    psf = rng.random(psf_shape)
    spacing = tuple(rng.random(len(shape)) + 0.5)
    if regularizer == "array":
        regularizer = rng.standard_normal([min(n, 2) for n in shape])
    blur = dense_blur(psf / psf.sum(), shape, "wrap")[0]
    penalty = penalty_matrix(regularizer, shape, spacing, dense_blur)
    for weight, drawn_to in ((0.05, np.zeros(shape)), (0.4, prior)):
        expected = np.linalg.solve(
            blur.T @ blur + weight * penalty,
            blur.T @ image.ravel().astype(float) + weight * penalty @ drawn_to.ravel(),
        )
        got = mf.tikhonov(
            image, psf, weight, regularizer=regularizer, prior=drawn_to, boundary="wrap", voxel_size=spacing,
            backend=backend,
        )  # fmt: skip
        assert got.dtype == dtype
        assert relative_error(got, expected.reshape(shape)) < tol("wiener", dtype)


@pytest.mark.parametrize("boundary", NUMPY_MODE)
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(("shape", "psf_shape"), [((17, 20), (5, 4)), ((5, 9, 8), (3, 4, 5))], ids=str)
def test_formula_on_the_padded_grid(boundary, order, shape, psf_shape, backend, rng, tol, relative_error):
    image, psf = rng.random(shape), rng.random(psf_shape)
    psf /= psf.sum()
    got, info = mf.tikhonov(
        image, psf, 0.02, regularizer=order, boundary=boundary, return_info=True, backend=backend
    )
    grid = info.settings["grid"]
    low = [(g - n) // 2 for g, n in zip(grid, shape, strict=True)]
    widths = [(a, g - n - a) for a, g, n in zip(low, grid, shape, strict=True)]
    padded = np.pad(image, widths, mode=NUMPY_MODE[boundary])
    otf = np.zeros(grid)
    otf[tuple(slice(0, k) for k in psf_shape)] = psf
    otf = np.fft.fftn(np.roll(otf, [-(k // 2) for k in psf_shape], range(len(shape))))
    frequencies = np.meshgrid(*[np.fft.fftfreq(n) for n in grid], indexing="ij")
    square = sum((2 - 2 * np.cos(2 * np.pi * f)) for f in frequencies) ** order
    full = np.fft.ifftn(otf.conj() / (abs(otf) ** 2 + 0.02 * square) * np.fft.fftn(padded)).real
    expected = full[tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))]
    assert relative_error(got, expected) < tol("wiener")


@pytest.mark.parametrize("boundary", ["wrap", "reflect"])
def test_orders_of_the_wiener_filter(boundary, backend, rng):
    """Order 0 is its identity, order 2 its Laplacian; a given operator is its regularizer."""
    image, psf = rng.random((20, 22)), rng.random((3, 5))
    response = rng.standard_normal((2, 3))
    for order, regularizer in ((0, "identity"), (2, "laplacian"), (response, response)):
        for weight in (0.1, "auto"):
            got = mf.tikhonov(image, psf, weight, regularizer=order, boundary=boundary, backend=backend)
            expected = mf.wiener(
                image, psf, weight, regularizer=regularizer, boundary=boundary, backend=backend
            )
            assert np.array_equal(got, expected)


@pytest.mark.peers
def test_simpleitk(backend, rng, tol, relative_error):
    sitk = pytest.importorskip("SimpleITK")
    psf = np.multiply.outer([1, 3, 1], np.outer([1, 4, 1], [1, 2, 5, 2, 1])) / 300.0
    image = np.zeros((44, 46, 48))  # the filter's response has died away before the frame ends
    image[18:-18, 19:-19, 20:-20] = rng.random((8, 8, 8)) * 100
    image = mf.Blur(psf, image.shape, boundary="zero", backend=backend).forward(image)
    got = mf.tikhonov(image, psf, 0.3, boundary="zero", backend=backend)
    expected = sitk.TikhonovDeconvolution(
        sitk.GetImageFromArray(image), sitk.GetImageFromArray(psf / psf.sum()), 0.3
    )
    assert relative_error(got, sitk.GetArrayFromImage(expected)) < tol("simpleitk")


@pytest.mark.parametrize("boundary", ["reflect", "nearest", "mirror", "zero", "wrap"])
def test_prior(boundary, backend, rng, relative_error):
    """The more weight, the closer to the prior; one that explains the image is the estimate."""
    truth, psf = rng.random((18, 20)) + 1, np.outer([1, 2, 1], [1, 2, 1])
    image = mf.Blur(psf, truth.shape, boundary=boundary, backend=backend).forward(truth)
    prior = rng.random(truth.shape)
    options = {"boundary": boundary, "backend": backend}
    distances = [
        relative_error(mf.tikhonov(image, psf, w, prior=prior, **options), prior) for w in (0.01, 1, 1e8)
    ]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-6
    assert relative_error(mf.tikhonov(image, psf, 0.3, prior=truth, **options), truth) < 1e-12
    level = mf.tikhonov(image, psf, 1.0, prior=1.5, **options)
    same = mf.tikhonov(image, psf, 1.0, prior=np.full(truth.shape, 1.5), **options)
    assert np.array_equal(level, same)
    assert abs(level.mean() - 1.5) < abs(mf.tikhonov(image, psf, 1.0, **options).mean() - 1.5)


def test_mean_is_kept_but_for_order_0(backend, rng):
    image, psf = rng.random((16, 18)) + 5, np.ones((3, 3))
    means = [
        mf.tikhonov(image, psf, 1.0, regularizer=order, boundary="wrap", backend=backend).mean()
        for order in (0, 1, 2)
    ]
    assert means[0] == pytest.approx(image.mean() / 2, rel=1e-12)
    assert means[1] == pytest.approx(image.mean(), rel=1e-12)
    assert means[2] == pytest.approx(image.mean(), rel=1e-12)


def test_long_lines(backend, rng):
    """No matrices of the line's length squared."""
    image = rng.random(200_000).astype(np.float32)
    if backend == "cuda":
        with pytest.raises(ValueError, match=r"got an axis of \d+, but backend 'cuda' transforms at most"):
            mf.tikhonov(image, np.ones(5), 0.1, regularizer=1, backend=backend)
        image = image[:20_000]
    got = mf.tikhonov(image, np.ones(5), 0.1, regularizer=1, backend=backend)
    assert np.isfinite(got).all()
    assert np.std(got) > 0.1 * np.std(image)


def test_voxel_size_weighs_the_axes(backend, rng):
    """Slices far apart are hardly smoothed across."""
    image = np.repeat(rng.random((16, 1)), 16, 1)
    flat = [
        np.std(mf.tikhonov(image, np.ones((1, 1)), 10, regularizer=1, voxel_size=v, backend=backend)[:, 8])
        for v in ((1, 1), (50, 1))
    ]
    assert flat[0] < 0.5 * flat[1]
    assert flat[1] > 0.95 * np.std(image[:, 8])


@pytest.mark.parametrize("order", [0, 1, 2])
def test_automatic_weight_is_near_the_best(order, backend, rng):
    y, x = np.indices((90, 100))
    truth = 40.0 * sum((y - a) ** 2 + (x - b) ** 2 < r * r for a, b, r in rng.random((12, 3)) * [90, 100, 18])
    psf = mf.psf.gaussian(fwhm=(3.0, 3.0), voxel_size=(1.0, 1.0))
    image = mf.Blur(psf, truth.shape, boundary="wrap").forward(truth) + rng.normal(0, 3, truth.shape)

    def error(weight):
        options = {"regularizer": order, "boundary": "wrap", "backend": backend}
        return np.linalg.norm(mf.tikhonov(image, psf, weight, **options) - truth)

    # Order 0 takes the image for white noise, which it is not: the choice is worth less.
    assert error("auto") < (1.2 if order == 0 else 1.05) * min(error(10.0**e) for e in np.arange(-6, 2, 0.25))
    if order:
        assert error("auto") < 0.9 * np.linalg.norm(image - truth)


def test_info(backend, rng):
    image = rng.random((20, 22)).astype(np.float32)
    _, info = mf.tikhonov(
        image, np.ones((3, 3)), regularizer=1, prior=image, return_info=True, backend=backend
    )
    assert info.settings["method"] == "tikhonov"
    assert info.settings["weight_searched"]
    assert info.settings["regularizer"] == 1
    assert info.settings["prior"] == "array"
    assert info.bytes > 2 * image.nbytes


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"weight": -1}, ValueError, "weight: got -1"),
        ({"weight": "gcv"}, ValueError, "weight: got 'gcv', expected 'auto' or a number"),
        (
            {"regularizer": 3},
            ValueError,
            "regularizer: got 3, expected an integer of at least 0 and at most 2",
        ),
        ({"regularizer": "laplacian"}, TypeError, "regularizer: got 'laplacian'"),
        ({"regularizer": np.zeros((3, 3))}, ValueError, "regularizer: all values are zero"),
        ({"prior": np.ones((4, 4))}, ValueError, r"prior: got shape \(4, 4\), expected \(5, 5\)"),
        ({"prior": np.nan}, ValueError, "prior: got nan"),
        ({"boundary": "extended"}, ValueError, "boundary: got 'extended', which tikhonov cannot have"),
        ({"engine": "separable"}, ValueError, "engine: got 'separable', but tikhonov needs transforms"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_refusals(options, error, words):
    with pytest.raises(error, match=words):
        mf.tikhonov(np.ones((5, 5)), np.ones((3, 3)), **options)
