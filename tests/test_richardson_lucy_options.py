"""Options of Richardson-Lucy against transcriptions with dense matrices, written out from the papers."""

import warnings

import numpy as np
import pytest
from scipy.special import kl_div

import medeconv_fast as mf
from medeconv_fast.backends import reference

BOUNDARIES = ["extended", "zero", "reflect", "wrap"]


@pytest.fixture
def problem(rng, dense_blur):
    """problem(boundary, dtype) -> image, psf, matrix, estimate shape, frame; even and odd sizes."""

    def make(boundary, dtype, taps=(4, 5)):
        shape = (15, 18)
        psf = rng.random(taps) + 0.05
        matrix, estimate_shape, frame = dense_blur(psf / psf.sum(), shape, boundary)
        image = (rng.poisson(40, shape) * rng.random(shape)).astype(dtype)
        image[3, 4] = 0
        return image, psf, matrix, estimate_shape, frame

    return make


def transcription(
    problem, num_iter, *, acceleration=None, factor=None, quotient=None, back=None, smallest=0.01
):
    """The iteration in float64; `quotient`: of image and model, `factor`: of what is corrected."""
    image, _, matrix, estimate_shape, frame = problem
    y = image.astype(np.float64).ravel()
    transpose = matrix.T if back is None else back
    norm = transpose @ np.ones(y.size)
    x = np.full(matrix.shape[1], y.mean())
    if back is not None:
        smallest = 0.1 * norm.max()
    gain = np.where(norm >= smallest, 1 / np.maximum(norm, 1e-30), 0)
    start, previous, steps = x, x, []
    eps = reference.smallest_divisor(y.max(), image.dtype)
    for k in range(1, num_iter + 1):
        model = np.maximum(matrix @ start, eps)
        ratio = y / model if quotient is None else quotient(y, model)
        correction = transpose @ ratio
        if factor is not None:
            correction = correction * factor(start.reshape(estimate_shape)).ravel()
        new = np.where(gain > 0, np.maximum(start * correction * gain, 0), start)
        steps.append(new - start)
        if acceleration is None:
            alpha = 0.0
        elif acceleration == "heavy-ball":
            alpha = (k - 1) / (k + 2)
        else:
            alpha = 0.0
            if k > 1:
                alpha = min(max(steps[-1] @ steps[-2] / (steps[-2] @ steps[-2]), 0), 0.999)
        previous, x = x, new
        start = np.maximum(x + alpha * (x - previous), 0)
    return x.reshape(estimate_shape)[frame]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("acceleration", [None, "biggs-andrews", "heavy-ball"])
def test_acceleration(problem, acceleration, boundary, backend, dtype, tol, relative_error):
    case = problem(boundary, dtype)
    got = mf.richardson_lucy(
        case[0], case[1], 9, acceleration=acceleration, boundary=boundary, backend=backend
    )
    assert got.dtype == dtype
    expected = transcription(case, 9, acceleration=acceleration)
    assert relative_error(got, expected) < tol("transcription", dtype)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("kind", ["tv", "tikhonov", "good-roughness", "entropy"])
@pytest.mark.parametrize("acceleration", [None, "biggs-andrews"])
def test_regularizer(problem, kind, acceleration, boundary, backend, dtype, tol, relative_error):
    case = problem(boundary, dtype)
    spacing = (2.0, 0.5)
    got = mf.richardson_lucy(
        case[0],
        case[1],
        7,
        regularizer=(kind, 0.01),
        acceleration=acceleration,
        voxel_size=spacing,
        boundary=boundary,
        backend=backend,
    )
    level = float(case[0].mean(dtype=np.float64))
    if kind == "tv":
        level *= 2 * case[0].ndim * 0.01 / 1e-5  # below this a gradient has no direction

    def factor(estimate):
        out = np.empty_like(estimate)
        reference.penalty(kind, estimate, out, spacing, 0.01, level)
        return out

    expected = transcription(case, 7, acceleration=acceleration, factor=factor)
    assert relative_error(got, expected) < tol("transcription", dtype)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("per_voxel", [False, True])
def test_readout_and_damping(problem, per_voxel, boundary, backend, dtype, rng, tol, relative_error):
    """MATLAB's formulas (deconvlucy): u = min(2 misfit / T², 1), 1 + u⁹ (10 - 9 u) (ratio - 1)."""
    case = problem(boundary, dtype)
    shape = case[0].shape
    variance = (rng.random(shape) * 9).astype(dtype) if per_voxel else 4.0
    threshold = (rng.random(shape) * 4).astype(dtype) if per_voxel else 2.0
    if per_voxel:
        threshold[:3] = 0
    v = np.broadcast_to(np.asarray(variance, np.float64), shape).ravel()
    t = np.broadcast_to(np.asarray(threshold, np.float64), shape).ravel()

    def quotient(y, model):
        model = model + v
        ratio = (y + v) / model
        u = np.minimum(2 * kl_div(y + v, model) / np.maximum(t, 1e-19) ** 2, 1)
        return 1 + u**9 * (10 - 9 * u) * (ratio - 1)

    got = mf.richardson_lucy(
        case[0],
        case[1],
        6,
        readout_variance=variance,
        damping=threshold,
        boundary=boundary,
        backend=backend,
    )
    expected = transcription(case, 6, quotient=quotient)
    assert relative_error(got, expected) < tol("transcription", dtype)
    neither = mf.richardson_lucy(case[0], case[1], 6, boundary=boundary, backend=backend)
    zero = mf.richardson_lucy(
        case[0], case[1], 6, readout_variance=0, damping=0, boundary=boundary, backend=backend
    )
    np.testing.assert_array_equal(neither, zero)
    assert relative_error(neither, got) > 1e-3


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("taps", [(5, 7), (4, 6)])
def test_back_projector_array(problem, taps, boundary, backend, dtype, rng, dense_blur, tol, relative_error):
    """A correction is the ratio's convolution with the array, zeros outside the image."""
    case = problem(boundary, dtype, taps)
    array = rng.random(taps)
    for axis, k in enumerate(taps):
        if k % 2 == 0:
            np.moveaxis(array, axis, 0)[0] = 0
    odd = array[tuple(slice(1 - k % 2, None) for k in taps)]
    back = dense_blur(np.flip(odd) / odd.sum(), case[0].shape, boundary)[0].T
    if boundary == "extended" and any(k % 2 == 0 for k in taps):
        # The dense operator of the smaller array reaches one voxel less on one side of even axes.
        wide = np.zeros((case[2].shape[1], back.shape[1]))
        inner = dense_blur(odd, case[0].shape, boundary)[1]
        place = tuple(
            slice(k - 1 - k // 2 - (o - 1 - o // 2), k - 1 - k // 2 - (o - 1 - o // 2) + n)
            for k, o, n in zip(taps, odd.shape, inner, strict=True)
        )
        index = np.arange(wide.shape[0]).reshape(case[3])[place].ravel()
        wide[index] = back
        back = wide
    got = mf.richardson_lucy(
        case[0], case[1], 3, back_projector=array * 7, boundary=boundary, backend=backend
    )
    assert relative_error(got, transcription(case, 3, back=back)) < tol("transcription", dtype)


def test_matched_projector_as_array_is_the_transpose(problem, backend, relative_error):
    """Where no divisor is small: the flipped PSF is what "matched" applies."""
    case = problem("wrap", np.float64, (5, 7))
    named = mf.richardson_lucy(case[0], case[1], 4, boundary="wrap", backend=backend)
    flipped = np.flip(case[1])
    given = mf.richardson_lucy(case[0], case[1], 4, boundary="wrap", back_projector=flipped, backend=backend)
    assert relative_error(given, named) < 1e-12


NAMED = ["gaussian", "butterworth", "wiener-butterworth", "otf-masked-wiener"]


def test_back_projectors_of_an_even_line(rng, relative_error):
    line = rng.poisson(30, 40).astype(float)
    psf = np.array([1.0, 2, 6, 9, 7, 2])
    for back_projector in ("gaussian", "otf-masked-wiener", np.array([0.0, 1, 3, 5, 2, 1])):
        got = mf.richardson_lucy(line, psf, 2, back_projector=back_projector, boundary="wrap")
        in_plane = back_projector if isinstance(back_projector, str) else back_projector[None]
        plane = mf.richardson_lucy(line[None], psf[None], 2, back_projector=in_plane, boundary="wrap")
        assert relative_error(got, plane[0]) < 1e-12


def test_named_back_projectors_need_few_iterations(backend, rng, relative_error):
    truth = np.zeros((20, 32, 32))
    truth[tuple(rng.integers(4, (16, 28, 28), (30, 3)).T)] = 500
    psf = mf.psf.gaussian(fwhm=(3.0, 3.0, 3.0), voxel_size=(1.0, 1.0, 1.0))
    image = rng.poisson(mf.Blur(psf, truth.shape, boundary="reflect").forward(truth) + 2.0).astype(float)
    plain = {n: relative_error(mf.richardson_lucy(image, psf, n), truth) for n in (2, 8)}
    errors = {}
    for name in NAMED:
        got, info = mf.richardson_lucy(image, psf, back_projector=name, backend=backend, return_info=True)
        assert info.num_iter == 2 and info.engine == "spectral"
        assert info.settings["back_projector"] == name
        assert np.isfinite(got).all() and got.min() >= 0
        errors[name] = relative_error(got, truth)
    assert errors["wiener-butterworth"] < plain[8] < plain[2]
    assert errors["otf-masked-wiener"] < plain[8]
    assert errors["butterworth"] < plain[2]


def test_back_projector_refusals(rng):
    image = rng.random((16, 16)) + 1
    psf = mf.psf.gaussian(fwhm=(2.0, 2.0), voxel_size=(1.0, 1.0), shape=(5, 5))
    for options, words in (
        ({"acceleration": "heavy-ball"}, "acceleration: got 'heavy-ball' together with back_projector"),
        ({"regularizer": ("tv", 0.1)}, "regularizer: got .* together with back_projector"),
        ({"engine": "direct"}, "engine: got 'direct', but back_projector='gaussian' needs transforms"),
        ({"stop": mf.stop.Thinning(gain=1.0)}, "stop: thinning does not go with"),
    ):
        with pytest.raises(ValueError, match=words):
            mf.richardson_lucy(image, psf, 2, back_projector="gaussian", **options)
    for array, words in (
        (np.ones((3, 3)), r"back_projector: got shape \(3, 3\), expected the psf's \(5, 5\)"),
        (-np.ones((5, 5)), "back_projector: its sum is -25"),
        (np.full((5, 5), np.nan), "back_projector"),
    ):
        with pytest.raises(ValueError, match=words):
            mf.richardson_lucy(image, psf, 2, back_projector=array)
    box = np.ones((3, 3))  # never falls to half
    assert np.isfinite(mf.richardson_lucy(image, box, 2, back_projector="otf-masked-wiener")).all()
    with pytest.raises(ValueError, match="psf: "):
        mf.richardson_lucy(image, box, 2, back_projector="gaussian")
    with pytest.raises(ValueError, match="axis 1 has even length 4; its first values"):
        mf.richardson_lucy(image, np.ones((3, 4)), 2, back_projector=np.ones((3, 4)))
    with pytest.warns(UserWarning, match="num_iter: 6 iterations with back_projector='gaussian'"):
        mf.richardson_lucy(image, psf, 6, back_projector="gaussian")


@pytest.mark.parametrize("scale", [1e-24, 1e-9, 1.0, 1e9, 1e24])
@pytest.mark.parametrize("acceleration", ["biggs-andrews", "heavy-ball"])
def test_options_do_not_depend_on_the_scale(acceleration, scale, backend, rng, tol, relative_error):
    image = rng.poisson(20, (24, 30)).astype(np.float32)
    psf = mf.psf.gaussian(fwhm=(3.0, 3.0), voxel_size=(1.0, 1.0))
    options = {"acceleration": acceleration, "regularizer": ("tv", 0.01), "backend": backend}
    plain = mf.richardson_lucy(image, psf, 12, **options)
    scaled = mf.richardson_lucy(image * np.float32(scale), psf, 12, **options)
    assert relative_error(scaled / np.float32(scale), plain) < 10 * tol("scale", np.float32)


@pytest.mark.shared
def test_pollen(shared_data):
    """The contract's numbers on real data (peak-to-peak PSNR against its truth)."""
    tifffile = pytest.importorskip("tifffile")
    folder = shared_data / "micro_pollen_sdeconv"
    truth = tifffile.imread(folder / "pollen.tif").astype(np.float32)
    image = np.maximum(tifffile.imread(folder / "pollen_poisson_noise_blurred.tif"), 0)
    psf = tifffile.imread(folder / "pollen_psf.tif")

    def best(num_iter, **options):
        found = []
        mf.richardson_lucy(
            image,
            psf,
            num_iter,
            boundary="wrap",
            callback=lambda _, e: found.append(mf.metrics.psnr(truth, e)),
            **options,
        )
        return max(found)

    assert best(12, acceleration="biggs-andrews") >= 32.95
    assert best(12, acceleration="heavy-ball") >= 32.95
    assert best(4, back_projector="wiener-butterworth") >= 32.85
    assert best(16, acceleration="biggs-andrews", regularizer=("tv", 0.002)) >= 33.15


@pytest.mark.parametrize(
    ("kind", "weight", "acceleration", "most"),
    [
        ("tikhonov", 0.2, None, "0.062"),
        ("tikhonov", 0.1, "heavy-ball", "0.021"),
        ("good-roughness", 0.1, None, "0.062"),
        ("entropy", 0.5, "biggs-andrews", "0.33"),
    ],
)
def test_a_regularizer_that_overshoots_is_warned_of(backend, kind, weight, acceleration, most):
    """Below that weight what is flat stays flat."""
    psf, flat = mf.psf.gaussian((3, 3), (1, 1)), np.full((32, 32), 100.0)
    options = {"acceleration": acceleration, "backend": backend, "return_info": True}
    with pytest.warns(UserWarning, match=rf"^regularizer: got .* expected a weight of at most {most} here"):
        _, info = mf.richardson_lucy(flat, psf, 2, regularizer=(kind, weight), **options)
    assert len(info.warnings) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result, info = mf.richardson_lucy(flat, psf, 40, regularizer=(kind, 0.9 * float(most)), **options)
    np.testing.assert_allclose(result, flat, rtol=1e-4)


@pytest.mark.parametrize("boundary", ["extended", "nearest", "reflect", "wrap"])
@pytest.mark.parametrize("name", ["gaussian", "butterworth", "wiener-butterworth", "otf-masked-wiener"])
def test_unmatched_back_projectors_leave_what_is_flat(backend, name, boundary):
    """At the border, too, where little of the divisor is left."""
    psf, flat = mf.psf.gaussian((4, 4), (1, 1)), np.full((60, 60), 77.0)
    result = mf.richardson_lucy(flat, psf, 2, back_projector=name, boundary=boundary, backend=backend)
    np.testing.assert_allclose(result, flat, rtol=1e-4)


@pytest.mark.parametrize("acceleration", [None, "biggs-andrews", "heavy-ball"])
@pytest.mark.parametrize("shape", [(64,), (40, 48), (16, 20, 24)])
def test_total_variation_leaves_what_is_flat(backend, shape, acceleration):
    """A step that overshoots enlarges rounding into ripples of some percent."""
    psf = mf.psf.gaussian((2.0,) * len(shape), (1.0,) * len(shape))
    flat = np.full(shape, 100, np.float32)
    for weight in (0.002, 0.05):
        options = {"regularizer": ("tv", weight), "acceleration": acceleration, "backend": backend}
        result = mf.richardson_lucy(flat, psf, 60, **options)
        np.testing.assert_allclose(result, flat, rtol=1e-3)
