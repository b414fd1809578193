"""The operator: against dense matrices and scipy.ndimage, and its adjoint against itself."""

import pickle

import numpy as np
import pytest

import medeconv_fast as mf

BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")
# shape, psf shape: odd, even, mixed, prime sizes; axes and PSFs of one voxel; PSF as large as the image.
SIZES = [
    ((30,), (7,)),
    ((31,), (8,)),
    ((1,), (1,)),
    ((16, 20), (5, 5)),
    ((17, 23), (4, 6)),
    ((13, 18), (13, 18)),
    ((12, 1), (3, 1)),
    ((1, 19), (1, 4)),
    ((8, 10, 12), (3, 5, 3)),
    ((7, 11, 13), (2, 4, 6)),
    ((9, 10, 7), (3, 4, 7)),
    ((1, 12, 9), (1, 4, 3)),
    ((6, 1, 9), (3, 1, 4)),
    ((5, 7, 1), (1, 1, 1)),
]
LARGER = [
    ((9,), (14,)),
    ((6, 5), (11, 16)),
    ((1, 7), (5, 9)),
    ((4, 1, 5), (7, 4, 3)),
    ((1, 1, 1), (3, 2, 3)),
    ((2, 3), (9, 9)),
]

ENGINES = ("spectral", "separable")


@pytest.fixture
def product(rng):
    """product(shape): a PSF that is an outer product of one asymmetric filter per axis."""

    def make(shape):
        psf = np.ones(())
        for k in shape:
            psf = np.multiply.outer(psf, rng.random(k) + 0.1)
        return psf

    return make


def named(case):
    return "-".join("x".join(map(str, part)) for part in case)


CASES = [
    pytest.param(boundary, *case, id=f"{boundary}-{named(case)}")
    for boundary in BOUNDARIES
    for case in SIZES + ([] if boundary == "wrap" else LARGER)
]


@pytest.mark.parametrize(("boundary", "shape", "psf_shape"), CASES)
def test_adjoint_and_dense_matrix(boundary, shape, psf_shape, dtype, backend, rng, tol, dense_blur):
    psf = rng.random(psf_shape)
    blur = mf.Blur(psf, shape, boundary=boundary, backend=backend, dtype=dtype, engine="spectral")
    assert blur.engine == "spectral"
    matrix, estimate_shape, frame = dense_blur(psf / psf.sum(), shape, boundary)
    assert blur.estimate_shape == estimate_shape
    assert blur.frame == frame
    x = rng.standard_normal(estimate_shape).astype(dtype)
    y = rng.standard_normal(shape).astype(dtype)
    hx, hty = blur.forward(x), blur.adjoint(y)
    assert hx.dtype == hty.dtype == dtype
    norms = np.linalg.norm(x.astype(float)) * np.linalg.norm(y.astype(float))
    gap = np.vdot(hx.astype(float), y.astype(float)) - np.vdot(x.astype(float), hty.astype(float))
    assert abs(gap) / norms < tol("adjoint", dtype)
    # Relative to the input: a random image's blur can be close to zero.
    assert np.linalg.norm(hx.ravel() - matrix @ x.ravel()) < tol("forward", dtype) * np.linalg.norm(x)
    assert np.linalg.norm(hty.ravel() - matrix.T @ y.ravel()) < tol("forward", dtype) * np.linalg.norm(y)


@pytest.mark.parametrize(("boundary", "shape", "psf_shape"), CASES)
def test_separable_adjoint_and_dense_matrix(
    boundary, shape, psf_shape, dtype, backend, rng, tol, dense_blur, product
):
    psf = product(psf_shape)
    blur = mf.Blur(psf, shape, boundary=boundary, backend=backend, dtype=dtype, engine="separable")
    assert blur.engine == "separable"
    matrix, estimate_shape, _ = dense_blur(psf / psf.sum(), shape, boundary)
    x = rng.standard_normal(estimate_shape).astype(dtype)
    y = rng.standard_normal(shape).astype(dtype)
    hx, hty = blur.forward(x), blur.adjoint(y)
    assert hx.dtype == hty.dtype == dtype
    norms = np.linalg.norm(x.astype(float)) * np.linalg.norm(y.astype(float))
    gap = np.vdot(hx.astype(float), y.astype(float)) - np.vdot(x.astype(float), hty.astype(float))
    assert abs(gap) / norms < tol("adjoint", dtype)
    assert np.linalg.norm(hx.ravel() - matrix @ x.ravel()) < tol("forward", dtype) * np.linalg.norm(x)
    assert np.linalg.norm(hty.ravel() - matrix.T @ y.ravel()) < tol("forward", dtype) * np.linalg.norm(y)


def test_automatic_engine_depends_on_the_psf(backend, rng, product):
    shape = (200, 240)
    assert mf.Blur(product((5, 5)), shape, backend=backend).engine == "separable"
    # A GPU takes as long for a small image as for none, and one kernel less time than two.
    small = "separable" if backend == "cuda" else "spectral"
    assert mf.Blur(product((5, 5)), (24, 25), backend=backend).engine == small
    assert mf.Blur(rng.random((15, 17)), shape, backend=backend).engine == "spectral"
    assert mf.Blur(product((5, 5)), shape, backend=backend, engine="spectral").engine == "spectral"
    with pytest.raises(ValueError, match="engine: got 'separable', but the psf is not a product"):
        mf.Blur(rng.random((5, 5)), shape, backend=backend, engine="separable")
    # A product up to a disturbance that is not rounding is none.
    nearly = product((5, 5))
    nearly[4, 4] += 1e-4 * nearly.max()
    assert mf.Blur(nearly, shape, backend=backend).engine == "direct"


@pytest.mark.parametrize("boundary", [b for b in BOUNDARIES if b != "extended"])
@pytest.mark.parametrize(
    ("shape", "psf_shape"), [((40,), (9,)), ((21, 30), (6, 7)), ((11, 14, 10), (4, 3, 6))], ids=str
)
def test_forward_is_scipy_ndimage(boundary, shape, psf_shape, dtype, backend, rng, tol, relative_error):
    ndimage = pytest.importorskip("scipy.ndimage")
    psf = rng.random(psf_shape)
    x = rng.random(shape).astype(dtype)
    mode = "constant" if boundary == "zero" else boundary
    expected = ndimage.convolve(x.astype(float), psf / psf.sum(), mode=mode)
    got = mf.Blur(psf, shape, boundary=boundary, backend=backend).forward(x)
    assert relative_error(got, expected) < tol("forward", dtype)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_delta_psf_is_identity(boundary, backend, rng, tol, relative_error):
    delta = np.zeros((4, 5))
    delta[2, 2] = 3.0
    blur = mf.Blur(delta, (9, 12), boundary=boundary, backend=backend)
    x = rng.random(blur.estimate_shape)
    assert relative_error(blur.forward(x), x[blur.frame]) < tol("forward")


def test_even_psf_has_its_centre_at_half(backend):
    """A tap behind the centre moves the image towards larger indices, for odd and even lengths alike."""
    for k in (4, 5):
        psf = np.zeros(k)
        psf[k // 2 + 1] = 1
        x = np.zeros(10)
        x[4] = 1
        assert np.argmax(mf.Blur(psf, (10,), boundary="zero", backend=backend).forward(x)) == 5
        assert np.argmax(mf.Blur(psf, (10,), boundary="zero", backend=backend).adjoint(x)) == 3


def test_normalizer(backend, rng, dense_blur):
    psf, weights = rng.random((3, 4)), rng.random((8, 9))
    for boundary in BOUNDARIES:
        blur = mf.Blur(psf, (8, 9), boundary=boundary, backend=backend)
        matrix, shape, _ = dense_blur(psf / psf.sum(), (8, 9), boundary)
        assert np.abs(blur.normalizer() - (matrix.T @ np.ones(72)).reshape(shape)).max() < 1e-14
        assert np.abs(blur.normalizer(weights) - (matrix.T @ weights.ravel()).reshape(shape)).max() < 1e-14


def test_normalize_psf(backend, rng):
    psf = rng.random((3, 3)) * 7
    x = rng.random((6, 8))
    raw = mf.Blur(psf, x.shape, boundary="wrap", normalize_psf=False, backend=backend)
    unit = mf.Blur(psf, x.shape, boundary="wrap", backend=backend)
    assert raw.psf_sum == pytest.approx(psf.sum())
    assert unit.psf_sum == 1
    assert unit.psf.sum() == pytest.approx(1)
    np.testing.assert_allclose(raw.forward(x), unit.forward(x) * psf.sum(), rtol=1e-12)
    # A wrong scale of the OTF cancels in Richardson-Lucy; here it cannot.
    assert raw.forward(x).sum() == pytest.approx(x.sum() * psf.sum())


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_sweep_formulas(boundary, adjoint, engine, dtype, backend, rng, tol, relative_error, product):
    blur = mf.Blur(product((3, 4)), (9, 10), boundary=boundary, backend=backend, dtype=dtype, engine=engine)
    source, target = (blur.shape, blur.estimate_shape) if adjoint else (blur.estimate_shape, blur.shape)
    x = rng.random(source)
    image, weights, estimate = (rng.random(target) for _ in range(3))
    gain = np.where(rng.random(target) < 0.3, 0, rng.random(target))
    c = (blur.adjoint if adjoint else blur.forward)(x).astype(float)
    limit = tol("forward", dtype) * 10
    assert relative_error(blur.sweep(x, "copy", adjoint=adjoint), c) < limit
    ratio = blur.sweep(x, "ratio", adjoint=adjoint, image=image, weights=weights, background=0.25, eps=0.5)
    assert relative_error(ratio, weights * image / np.maximum(c + 0.25, 0.5)) < limit
    assert relative_error(blur.sweep(x, "ratio", adjoint=adjoint, image=image, eps=0), image / c) < limit
    product = blur.sweep(x, "multiply", adjoint=adjoint, estimate=estimate, gain=gain)
    assert relative_error(product, np.where(gain > 0, estimate * c * gain, estimate)) < limit
    assert relative_error(blur.sweep(x, "multiply", adjoint=adjoint, estimate=estimate), estimate * c) < limit
    residual = blur.sweep(x, "residual", adjoint=adjoint, image=image, weights=weights, background=0.25)
    assert relative_error(residual, weights * (image - c - 0.25)) < limit
    assert relative_error(blur.sweep(x, "residual", adjoint=adjoint, image=image), image - c) < limit
    added = blur.sweep(x, "add", adjoint=adjoint, estimate=estimate, gain=gain, step=-1.5)
    assert relative_error(added, estimate - 1.5 * c * gain) < limit
    clipped = blur.sweep(x, "add", adjoint=adjoint, estimate=estimate, step=-1.5, positive=True)
    assert relative_error(clipped, np.maximum(estimate - 1.5 * c, 0)) < limit
    # In place: the estimate is its own destination.
    own = estimate.astype(dtype)
    returned = blur.sweep(x, "multiply", adjoint=adjoint, out=own, estimate=own, gain=gain)
    assert returned is own
    assert np.array_equal(own, product)


@pytest.mark.parametrize("name", ["x", "estimate"])
def test_out_that_shares_part_of_an_operand_is_refused(name, backend):
    blur = mf.Blur(np.ones((3, 3)), (8, 9), boundary="zero", engine="direct", backend=backend)
    buffer = np.zeros(8 * 9 + 9)
    given = {"x": np.ones((8, 9)), "estimate": np.ones((8, 9))} | {name: buffer[:72].reshape(8, 9)}
    with pytest.raises(ValueError, match=f"out: shares a part of its memory with {name}"):
        blur.sweep(given["x"], "add", estimate=given["estimate"], out=buffer[9:].reshape(8, 9))


def test_multiply_stays_non_negative(backend):
    blur = mf.Blur([1.0], (4,), boundary="wrap", backend=backend)
    result = blur.sweep([1.0, -1.0, 2.0, -3.0], "multiply", estimate=np.ones(4), gain=[1.0, 1.0, 0.0, 0.0])
    assert np.allclose(result, [1, 0, 1, 1])


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("engine", ENGINES)
def test_chain_feeds_sweeps(boundary, engine, backend, rng, tol, relative_error, product):
    """A chain's second sweep consumes what its first one kept."""
    psf = product((4, 3))
    blur = mf.Blur(psf, (10, 9), boundary=boundary, backend=backend, dtype="float64", engine=engine)
    x, image = rng.random(blur.estimate_shape), rng.random(blur.shape)
    estimate = x.copy()
    chain = blur.begin(estimate)
    for _ in range(2):
        chain.sweep("ratio", image=image, background=0.5, eps=1e-9)
        chain.sweep("multiply", adjoint=True, out=estimate, estimate=estimate)
    expected = x
    for _ in range(2):
        expected = expected * blur.adjoint(image / (blur.forward(expected) + 0.5))
    assert relative_error(estimate, expected) < 10 * tol("same_grid")
    with pytest.raises(RuntimeError, match="alternate"):
        chain.sweep("copy", adjoint=True, out=estimate)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("engine", (*ENGINES, "direct"))
@pytest.mark.parametrize("shape", [(23,), (10, 9), (6, 10, 17)], ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["kept", "stored"])
def test_chain_extrapolates(
    boundary, engine, shape, given, dtype, backend, rng, tol, relative_error, product
):
    """The next sweep gets max(new + alpha (new - previous), 0); `out`, here `previous` itself, gets new."""
    psf = product((4, 3, 3)[: len(shape)])
    blur = mf.Blur(psf, shape, boundary=boundary, backend=backend, dtype=dtype, engine=engine)
    y, previous = (rng.random(blur.estimate_shape).astype(dtype) for _ in range(2))
    image = rng.random(blur.shape).astype(dtype)
    correction = blur.adjoint(image / (blur.forward(y) + dtype.type(0.5))).astype(float)
    expected = y * correction
    ahead = np.maximum(expected + 0.75 * (expected - previous), 0)
    limit = 100 * tol("forward", dtype)
    chain = blur.begin(y)
    chain.sweep("ratio", image=image, background=0.5, eps=1e-9)
    extra = {"extrapolated": y} if given else {}
    chain.sweep("multiply", adjoint=True, out=previous, estimate=y, previous=previous, alpha=0.75, **extra)
    blurred = np.empty(shape, dtype)
    chain.sweep("copy", keep=False, out=blurred)
    assert relative_error(previous, expected) < limit
    assert relative_error(blurred, blur.forward(ahead.astype(dtype))) < limit
    if given:
        assert relative_error(y, ahead) < limit


@pytest.mark.parametrize("engine", ENGINES)
def test_chain_keeps_nothing_when_told(engine, backend, product):
    blur = mf.Blur(product((3, 3)), (8, 8), boundary="wrap", backend=backend, dtype="float64", engine=engine)
    chain = blur.begin(np.ones((8, 8)))
    chain.sweep("copy", keep=False, out=np.empty((8, 8)))
    with pytest.raises(RuntimeError, match="nothing is kept"):
        chain.sweep("copy", adjoint=True, out=np.empty((8, 8)))


def test_dtype_none_follows_each_array(backend, rng):
    blur = mf.Blur(rng.random((3, 3)), (8, 9), boundary="wrap", backend=backend)
    x = rng.random((8, 9))
    assert blur.dtype is None
    assert blur.forward(x).dtype == np.float64
    assert blur.forward(x.astype(np.float32)).dtype == np.float32
    assert blur.forward((x * 100).astype(np.int16)).dtype == np.float32
    assert blur.forward((x * 100).astype(np.int32)).dtype == np.float64
    fixed = mf.Blur(rng.random((3, 3)), (8, 9), boundary="wrap", backend=backend, dtype="float32")
    assert fixed.forward(x).dtype == np.float32


def test_inputs_are_not_changed(backend, rng):
    psf, x = rng.random((3, 4)), rng.random((8, 9))
    copies = psf.copy(), x.copy()
    for boundary in ("wrap", "reflect"):
        mf.Blur(psf, x.shape, boundary=boundary, backend=backend).forward(x)
    assert np.array_equal(psf, copies[0])
    assert np.array_equal(x, copies[1])


def test_pickle(backend, rng):
    blur = mf.Blur(
        rng.random((3, 4)), (8, 9), boundary="mirror", backend=backend, dtype="float64", num_threads=1
    )
    x = rng.random((8, 9))
    copy = pickle.loads(pickle.dumps(blur))
    assert np.array_equal(copy.forward(x), blur.forward(x))
    assert copy.backend == backend


def test_explain_names_what_is_used(backend):
    psf = 1.0 + np.arange(15).reshape(5, 3)
    blur = mf.Blur(psf, (20, 30), backend=backend, engine="spectral")
    text = blur.explain()
    for part in (
        f"backend {backend}",
        "engine spectral",
        "(20, 30)",
        "(24, 32)",
        "extended",
        str(blur.grid),
        "MB",
    ):
        assert part in text
    # A spectrum and an OTF, which is real and half as large for a symmetric PSF.
    assert blur.workspace_bytes >= 2 * 4 * 24 * 32
    symmetric = mf.Blur(np.ones((5, 3)), (20, 30), backend=backend, engine="spectral")
    assert symmetric.workspace_bytes >= 1.5 * 4 * 24 * 32


def test_padding_and_fold_are_transposes(backend, rng, dtype):
    kernels = mf.backends.resolve(backend)
    for boundary in ("reflect", "nearest", "mirror", "wrap"):
        for shape, low, high in (
            ((5,), (3,), (4,)),
            ((3, 4), (7, 0), (9, 5)),
            ((1, 2, 3), (2, 5, 1), (3, 4, 8)),
        ):
            x = rng.random(shape).astype(dtype)
            padded = kernels.pad(x, low, high, boundary)
            assert padded.dtype == dtype
            mode = {"reflect": "symmetric", "nearest": "edge", "mirror": "reflect", "wrap": "wrap"}[boundary]
            assert np.array_equal(padded, np.pad(x, list(zip(low, high, strict=True)), mode=mode))
            y = rng.random(padded.shape).astype(dtype)
            folded = kernels.fold(y, low, high, boundary)
            assert folded.shape == shape
            gap = np.vdot(padded.astype(float), y.astype(float)) - np.vdot(
                x.astype(float), folded.astype(float)
            )
            assert abs(gap) < (1e-5 if dtype == np.float32 else 1e-12) * np.linalg.norm(
                padded
            ) * np.linalg.norm(y)


@pytest.mark.parametrize("engine", ["spectral", "separable", "direct"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "psf_shape"), [((31,), (4,)), ((13, 18), (3, 4)), ((7, 9, 8), (3, 2, 5))])
def test_batches_equal_their_items(shape, psf_shape, boundary, engine, backend, dtype, product, rng):
    blur = mf.Blur(product(psf_shape), shape, boundary=boundary, engine=engine, backend=backend)
    x = rng.standard_normal((3, *blur.estimate_shape)).astype(dtype)
    y = rng.standard_normal((3, *shape)).astype(dtype)
    forward, adjoint = blur.forward(x), blur.adjoint(y)
    assert forward.shape == y.shape and adjoint.shape == x.shape
    assert forward.dtype == adjoint.dtype == dtype
    for i in range(3):
        assert np.array_equal(forward[i], blur.forward(x[i]))
        assert np.array_equal(adjoint[i], blur.adjoint(y[i]))
    assert np.array_equal(blur.forward(x[1:2]), forward[1:2])
    assert np.array_equal(blur.forward(x[::-2]), forward[::-2])


@pytest.mark.parametrize("shape", [(5, 7, 8), (2, 3, 8, 7), (0, 8, 7), (7, 8), (8, 7, 2)])
def test_other_batches_are_refused(shape, backend):
    blur = mf.Blur(np.ones((3, 3)), (8, 7), boundary="zero", backend=backend)
    with pytest.raises(ValueError, match=r"^x: got shape .*expected"):
        blur.forward(np.ones(shape))
    with pytest.raises(ValueError, match=r"^y: got shape .*expected"):
        blur.adjoint(np.ones(shape))
    with pytest.raises(ValueError, match="expected"):
        blur.sweep(np.ones((2, 8, 7)), "copy")


@pytest.mark.parametrize("before", [False, True])
def test_a_psf_that_is_changed_later_changes_nothing(backend, before):
    psf = np.ones((3, 3))
    blur = mf.Blur(psf, (32, 32), normalize_psf=False, backend=backend)
    if before:
        blur.forward(np.ones((34, 34)))
    psf /= 9
    for dtype in ("float64", "float32"):
        assert blur.forward(np.ones((34, 34), dtype))[5, 5] == pytest.approx(9)


def test_a_psf_beyond_the_images_dtype_is_refused(backend):
    image = np.ones((20, 20), np.float32)
    for factor, text in ((1e39, "psf in float32: 9 of 9 values are not finite"), (1e-50, "are 0 in float32")):
        blur = mf.Blur(
            factor * np.ones((3, 3)), (20, 20), boundary="wrap", normalize_psf=False, backend=backend
        )
        with pytest.raises(ValueError, match=text):
            blur.forward(image)


def test_a_ratio_to_an_image_without_light_is_finite(backend):
    blur = mf.Blur(np.ones((3, 3)), (20, 20), boundary="zero", backend=backend)
    estimate = np.zeros((20, 20))
    estimate[5, 5] = 1
    for image in (np.zeros((20, 20)), np.full((20, 20), -1.0)):
        assert np.isfinite(blur.sweep(estimate, "ratio", image=image)).all()
