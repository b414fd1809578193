"""The Wiener filter: against scikit-image, against its formula, and the choice of the balance."""

import importlib
import json
import warnings

import numpy as np
import pytest
from scipy import ndimage

import medeconv_fast as mf

SHAPES = [
    ((31,), (5,)),
    ((32,), (4,)),
    ((16, 21), (3, 3)),
    ((17, 16), (5, 4)),
    ((15, 17), (4, 5)),
    ((8, 9, 11), (3, 4, 3)),
    ((7, 9, 10), (3, 3, 3)),
]


def gaussian(shape, sigma):
    axes = [np.exp(-0.5 * ((np.arange(k) - k // 2) / sigma) ** 2) for k in shape]
    out = axes[0]
    for axis in axes[1:]:
        out = np.multiply.outer(out, axis)
    return out / out.sum()


def placed(response, grid):
    out = np.zeros(grid)
    for tap in np.ndindex(response.shape):
        out[tuple((j - k // 2) % n for j, k, n in zip(tap, response.shape, grid, strict=True))] += response[
            tap
        ]
    return np.fft.fftn(out)


@pytest.mark.parametrize(("shape", "psf_shape"), SHAPES, ids=str)
@pytest.mark.parametrize("balance", [0.003, 0.1, 40.0])
def test_scikit_image(shape, psf_shape, balance, dtype, backend, rng, tol, relative_error):
    restoration = pytest.importorskip("skimage.restoration")
    psf = rng.random(psf_shape)
    psf /= psf.sum()
    image = rng.random(shape).astype(dtype)
    expected = restoration.wiener(image.astype(float), psf, balance, clip=False)
    got = mf.wiener(image, psf, balance, boundary="wrap", backend=backend)
    assert got.dtype == dtype
    assert relative_error(got, expected) < tol("skimage_wiener", dtype)


@pytest.mark.parametrize("regularizer", ["laplacian", "identity", "array"])
@pytest.mark.parametrize("shape", [(20, 22), (19, 21), (9, 1), (5, 2, 7)], ids=str)
def test_formula_on_the_periodic_grid(regularizer, shape, backend, rng, tol, relative_error):
    image = rng.random(shape)
    psf = rng.random([min(n, 3) for n in shape])
    response = rng.standard_normal((2,) * len(shape)) if regularizer == "array" else regularizer
    if regularizer == "identity":
        r = np.ones(shape)
    elif regularizer == "array":
        r = placed(response, shape)
    else:
        delta = np.zeros((3,) * len(shape))
        delta[(1,) * len(shape)] = 1
        r = placed(
            sum(2 * delta - np.roll(delta, 1, a) - np.roll(delta, -1, a) for a in range(len(shape))), shape
        )
    h = placed(psf / psf.sum(), shape)
    expected = np.fft.ifftn(h.conj() / (abs(h) ** 2 + 0.05 * abs(r) ** 2) * np.fft.fftn(image)).real
    got = mf.wiener(image, psf, 0.05, regularizer=response, boundary="wrap", backend=backend)
    assert relative_error(got, expected) < tol("wiener")


@pytest.mark.parametrize("boundary", ["reflect", "nearest", "mirror", "zero"])
@pytest.mark.parametrize(
    ("shape", "psf_shape"), [((17, 20), (5, 4)), ((6, 8), (11, 9)), ((5, 9, 8), (3, 4, 5))], ids=str
)
def test_formula_on_the_padded_grid(boundary, shape, psf_shape, backend, rng, tol, relative_error):
    image, psf = rng.random(shape), rng.random(psf_shape)
    got, info = mf.wiener(image, psf, 0.02, boundary=boundary, return_info=True, backend=backend)
    grid = info.settings["grid"]
    assert all(g >= n + k - 1 for g, n, k in zip(grid, shape, psf_shape, strict=True))
    low = [(g - n) // 2 for g, n in zip(grid, shape, strict=True)]
    widths = [(a, g - n - a) for a, g, n in zip(low, grid, shape, strict=True)]
    mode = {"reflect": "symmetric", "nearest": "edge", "mirror": "reflect", "zero": "constant"}[boundary]
    padded = np.pad(image, widths, mode=mode)
    delta = np.zeros((3,) * len(shape))
    delta[(1,) * len(shape)] = 1
    r = placed(sum(2 * delta - np.roll(delta, 1, a) - np.roll(delta, -1, a) for a in range(len(shape))), grid)
    h = placed(psf / psf.sum(), grid)
    full = np.fft.ifftn(h.conj() / (abs(h) ** 2 + 0.02 * abs(r) ** 2) * np.fft.fftn(padded)).real
    expected = full[tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))]
    assert relative_error(got, expected) < tol("wiener")


def scene(rng, sigma, noise, shape=(96, 100)):
    """A blurred crop of a larger scene of smooth patches with edges: its opposite sides do not match."""
    k = 2 * int(4 * sigma) + 1
    psf = gaussian((k, k), sigma)
    size = [n + 2 * k for n in shape]
    y, x = np.indices(size)
    truth = 40 + 0.8 * y + 0.3 * x
    for _ in range(25):
        cy, cx, r, level = rng.random(4) * [size[0], size[1], 14, 90]
        truth = truth + level * ((y - cy) ** 2 + (x - cx) ** 2 < (r + 3) ** 2)
    inside = np.s_[k : k + shape[0], k : k + shape[1]]
    blurred = np.fft.ifftn(np.fft.fftn(truth) * placed(psf, size)).real[inside]
    return truth[inside], blurred + rng.normal(0, noise, shape), psf


@pytest.mark.parametrize("boundary", ["reflect", "nearest", "mirror"])
@pytest.mark.parametrize(("sigma", "noise"), [(1.0, 1.0), (1.0, 10.0), (2.5, 1.0), (2.5, 10.0)])
def test_automatic_balance_is_near_the_best(boundary, sigma, noise, backend, rng):
    truth, image, psf = scene(rng, sigma, noise)

    def error(balance):
        return np.linalg.norm(mf.wiener(image, psf, balance, boundary=boundary, backend=backend) - truth)

    best = min(error(10.0**e) for e in np.arange(-6, 3, 0.25))
    automatic, info = mf.wiener(image, psf, boundary=boundary, return_info=True, backend=backend)
    assert np.linalg.norm(automatic - truth) < 1.05 * best
    assert best < np.linalg.norm(image - truth)
    assert info.settings["balance_searched"]
    assert info.warnings == []
    given = mf.wiener(image, psf, info.settings["balance"], boundary=boundary, backend=backend)
    assert np.array_equal(given, automatic)


@pytest.mark.parametrize("method", [mf.wiener, mf.tikhonov])
@pytest.mark.parametrize("factor", [1e-7, 1e7])
def test_automatic_weight_of_a_psf_with_another_sum(method, factor, rng, relative_error):
    """|H|^2 is 1e14 times as large, or small, and so must be what stands beside it."""
    _, image, psf = scene(rng, 1.5, 4.0, (40, 45))
    found, info = method(image, psf * factor, normalize_psf=False, return_info=True)
    assert info.warnings == []
    assert relative_error(found * factor, method(image, psf)) < 1e-3


@pytest.mark.parametrize("width", [0.7, 1.5])
@pytest.mark.parametrize("method", ["wiener", "tikhonov", "restore"])
def test_noise_that_is_not_white_is_not_blown_up(method, width, backend, rng):
    """Reconstructed and interpolated images: cross-validation takes their smooth noise for detail."""
    truth, _, psf = scene(rng, 1.7, 0.0)
    noise = ndimage.gaussian_filter(rng.normal(0, 1, truth.shape), width)
    noise *= 5 / noise.std()
    image = ndimage.convolve(truth, psf) + noise - 1000  # a signed scale, which restore gives to wiener
    options = {"backend": backend} | ({"regularizer": 1} if method == "tikhonov" else {})
    with pytest.warns(UserWarning, match="noise outgrows the image: it is not white") as caught:
        found, info = getattr(mf, method)(image, psf, return_info=True, **options)
    assert len(caught) == (2 if method == "restore" else 1)  # and that of a signed scale
    error = np.linalg.norm(found + 1000 - truth)
    assert error < 1.2 * np.linalg.norm(image + 1000 - truth)
    assert any("is taken instead" in note for note in info.warnings)
    name = "weight" if method == "tikhonov" else "balance"
    exact = mf.tikhonov if method == "tikhonov" else mf.wiener
    assert np.array_equal(found, exact(image, psf, info.settings[name], **options))


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(128, 128), (24, 64, 64)], ids=str)
@pytest.mark.parametrize("method", ["wiener", "restore"])
def test_without_white_noise_the_border_is_not_blown_up(method, shape, noise, rng):
    """Cross-validation finds the smallest weight of all, and no scene grows so much when it gets sharp."""
    indices = np.indices(shape)
    truth = np.zeros(shape)
    for _ in range(14):
        centre, radius = (
            rng.uniform(0.1, 0.9, len(shape)) * shape,
            rng.uniform(0.04, 0.22, len(shape)) * shape,
        )
        distance = sum(((i - c) / (r + 1)) ** 2 for i, c, r in zip(indices, centre, radius, strict=True))
        truth[distance < 1] += 100 * rng.uniform(-0.3, 1)
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, shape), 1.0)
    psf = mf.psf.gaussian((3.0,) * len(shape), (1.0,) * len(shape))
    blurred = ndimage.convolve(truth, psf)
    image = (blurred + noise * smooth / smooth.std() - 1000).astype(np.float32)
    with pytest.warns(UserWarning, match="outgrows") as caught:
        found, info = getattr(mf, method)(image, psf, return_info=True)
    assert len(caught) == (2 if method == "restore" else 1)
    assert any("is taken instead" in note for note in info.warnings)
    assert np.linalg.norm(found + 1000 - truth) < np.linalg.norm(image + 1000 - truth)


@pytest.mark.parametrize("method", [mf.wiener, mf.tikhonov])
def test_a_side_is_compared_with_itself(method, rng):
    """A dark image whose object is cut by one side spreads wider there: nothing has grown."""
    scene = np.zeros((160, 160))
    scene[:12, 30:130] = 1000 * (1 + np.arange(100) // 25 % 2)
    scene[60:64, 60:64] = 1500
    psf = mf.psf.gaussian((4.0, 4.0), (1.0, 1.0))
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, scene.shape), 1.0)
    image = ndimage.convolve(scene, psf) + 5 * smooth / smooth.std() + 100
    with pytest.warns(UserWarning, match="outgrows"):
        found = method(image.astype(np.float32), psf)
    assert found.std() > 0.8 * image.std()


@pytest.mark.parametrize("method", [mf.wiener, mf.tikhonov])
def test_what_a_blur_has_flattened_is_not_taken_for_noise(method, rng):
    """Textures and isolated points come back many times as strong; cross-validation is right about them."""
    psf = mf.psf.gaussian((3.0, 3.0), (1.0, 1.0))
    points = np.zeros((64, 64))
    points[rng.integers(8, 56, 12), rng.integers(8, 56, 12)] = 1000
    for truth in (rng.random((64, 64)), points):
        image = mf.simulate(truth, psf, noise="gaussian", sigma=0.005 * float(truth.max()))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = method(image, psf)
        assert np.linalg.norm(found - truth) < np.linalg.norm(image - truth)


def test_automatic_balance_minimises_the_score(backend, rng):
    """No other balance has a smaller score, with the score written out here from the full spectrum."""
    _, image, psf = scene(rng, 1.5, 4.0, (40, 45))
    _, info = mf.wiener(image, psf, boundary="wrap", return_info=True, backend=backend)
    window = np.multiply.outer(*[np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in image.shape])
    power = abs(np.fft.fftn((image - (image * window).sum() / window.sum()) * window)) ** 2
    h2 = abs(placed(psf, image.shape)) ** 2
    r2 = abs(placed(np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0.0]]), image.shape)) ** 2

    def score(balance):
        g = balance * r2 / (h2 + balance * r2)
        return image.size * (g**2 * power).sum() / g.sum() ** 2

    found = info.settings["balance"]
    assert info.settings["gcv_score"] == pytest.approx(score(found), rel=1e-9)
    lowest = min(score(10.0**e) for e in np.arange(-8, 4, 0.02))
    assert score(found) <= lowest * (1 + 1e-5)


def test_gcv_kernel_counts_every_frequency_once(dtype, backend, rng):
    for shape in ((9,), (10,), (8, 9), (7, 10), (5, 6, 7), (4, 5, 6)):
        kernels = mf.backends.resolve(backend)
        box = tuple((0, n) for n in shape)
        plan = kernels.SpectralPlan(shape, box, box, dtype)
        image, psf, reg = (rng.random(s).astype(dtype) for s in (shape, [3] * len(shape), [2] * len(shape)))
        transfers = [plan.transfer(a, tuple(k // 2 for k in a.shape)) for a in (psf, reg)]
        top, bottom = plan.gcv(image, *transfers, np.array([1e-3, 1.0, 50.0]))
        h2, r2, power = (
            abs(placed(psf, shape)) ** 2,
            abs(placed(reg, shape)) ** 2,
            abs(np.fft.fftn(image)) ** 2,
        )
        for i, b in enumerate((1e-3, 1.0, 50.0)):
            g = b * r2 / (h2 + b * r2)
            assert top[i] == pytest.approx((g**2 * power).sum(), rel=1e-4 if dtype == np.float32 else 1e-11)
            assert bottom[i] == pytest.approx(g.sum(), rel=1e-4 if dtype == np.float32 else 1e-11)


def test_automatic_balance_in_float32(backend, rng):
    _, image, psf = scene(rng, 1.5, 4.0)
    single = mf.wiener(image.astype(np.float32), psf, return_info=True, backend=backend)
    double = mf.wiener(image, psf, return_info=True, backend=backend)
    assert single[0].dtype == np.float32
    assert single[1].settings["balance"] == pytest.approx(double[1].settings["balance"], rel=0.05)


def test_search_finds_the_minimum_and_reports_an_end():
    minimise = importlib.import_module("medeconv_fast.algorithms._cross_validation").minimise
    exponent, score, at_end = minimise(lambda e: (e - 0.777) ** 2 + 3)
    assert abs(exponent - 0.777) < 0.01
    assert score == pytest.approx(3, abs=1e-4)
    assert not at_end
    assert minimise(lambda e: e)[2]
    assert minimise(lambda e: -e)[2]


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_constant_image_stays(value, dtype, backend):
    for boundary in ("reflect", "nearest", "mirror", "wrap"):
        got = mf.wiener(
            np.full((20, 17), value, dtype), gaussian((5, 5), 1.0), boundary=boundary, backend=backend
        )
        assert np.abs(got - value).max() <= (1e-4 if dtype == np.float32 else 1e-9) * max(abs(value), 1)


def test_no_clipping_and_no_rescaling(backend, rng, relative_error):
    image, psf = rng.normal(0, 1000, (24, 25)), gaussian((5, 5), 1.0)
    got = mf.wiener(image, psf, 0.1, backend=backend)
    assert got.min() < -1
    assert got.max() > 1
    assert relative_error(mf.wiener(image * 1e-6, psf, 0.1, backend=backend) * 1e6, got) < 1e-12


def test_balance_zero_is_the_inverse_filter(backend, rng, relative_error):
    truth, psf = rng.random((16, 18)), np.array([[0, 1, 0], [1, 8, 1], [0, 1, 0.0]])
    image = mf.Blur(psf, truth.shape, boundary="wrap", backend=backend).forward(truth)
    assert relative_error(mf.wiener(image, psf, 0, boundary="wrap", backend=backend), truth) < 1e-12


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("dtype", "factor"), [("float32", 1e37), ("float32", 1e-37), ("float64", 1e300)])
def test_scales_that_leave_the_dtypes_range(dtype, factor, sign, backend, rng):
    """Large finite values gave NaN; the check is Richardson-Lucy's."""
    image = (sign * factor * (1 + rng.random((20, 22)))).astype(dtype)
    with pytest.raises(ValueError, match=f"image: the largest value is .*in {dtype}; rescale the image"):
        mf.wiener(image, gaussian((5, 5), 1.0), 0.1, backend=backend)


def test_info(backend, rng):
    image = rng.random((20, 22)).astype(np.float32)
    _, info = mf.wiener(image, gaussian((5, 5), 1.0), return_info=True, backend=backend)
    assert info.backend == backend
    assert info.engine == "spectral"
    assert info.settings["regularizer"] == "laplacian"
    assert info.settings["boundary"] == "reflect"
    assert info.bytes > image.nbytes
    json.dumps(info)


def test_extended_is_refused_with_the_accepted_ones():
    with pytest.raises(ValueError, match=r"'extended'.*'reflect', 'nearest', 'mirror', 'wrap', 'zero'"):
        mf.wiener(np.ones((5, 5)), np.ones((3, 3)), boundary="extended")


@pytest.mark.parametrize("balance", ["gcv", -1, np.nan, np.inf])
def test_bad_balance(balance):
    with pytest.raises(ValueError, match="balance: got"):
        mf.wiener(np.ones((5, 5)), np.ones((3, 3)), balance)


@pytest.mark.parametrize("balance", [None, [0.1], 1j, True])
def test_balance_of_wrong_type(balance):
    with pytest.raises(TypeError, match="balance: got"):
        mf.wiener(np.ones((5, 5)), np.ones((3, 3)), balance)


@pytest.mark.parametrize(
    ("regularizer", "error"),
    [
        ("laplace", ValueError),
        (np.zeros((3, 3)), ValueError),
        (np.ones(3), ValueError),
        (np.array([[np.nan]]), ValueError),
        (np.ones((3, 3), complex), TypeError),
        (None, TypeError),
    ],
    ids=["misspelt", "zeros", "rank", "nan", "complex", "none"],
)
def test_bad_regularizer(regularizer, error):
    with pytest.raises(error, match="regularizer: "):
        mf.wiener(np.ones((5, 5)), np.ones((3, 3)), 0.1, regularizer=regularizer)


def test_psf_larger_than_the_image_under_wrap():
    with pytest.raises(ValueError, match=r"psf: got shape \(7, 3\)"):
        mf.wiener(np.ones((5, 5)), np.ones((7, 3)), 0.1, boundary="wrap")


def test_noise_to_signal_is_the_weight_of_the_identity(backend, rng):
    image, psf = rng.random((20, 22)), rng.random((3, 5))
    for boundary in ("wrap", "reflect"):
        expected = mf.wiener(image, psf, 0.07, regularizer="identity", boundary=boundary, backend=backend)
        for options in ({"noise_to_signal": 0.07}, {"noise_power": 0.14, "signal_power": 2}):
            got, info = mf.wiener(image, psf, boundary=boundary, backend=backend, return_info=True, **options)
            np.testing.assert_array_equal(got, expected)
            assert info.settings["balance"] == pytest.approx(0.07)


@pytest.mark.parametrize("shape", [(31,), (12,), (17, 20), (16, 19), (6, 9, 8)], ids=str)
def test_powers_on_the_periodic_grid(shape, backend, dtype, rng, tol, relative_error):
    image = rng.random(shape).astype(dtype)
    psf = rng.random((3,) * len(shape))
    signal = abs(np.fft.fftn(rng.random(shape))) ** 2
    noise = abs(np.fft.fftn(rng.normal(0, 0.5, shape))) ** 2
    h = placed(psf / psf.sum(), shape)
    for powers in ((noise, signal), (0.3, signal), (noise, 25.0)):
        transfer = h.conj() / (abs(h) ** 2 + powers[0] / powers[1])
        expected = np.fft.ifftn(transfer * np.fft.fftn(image)).real
        got = mf.wiener(
            image, psf, noise_power=powers[0], signal_power=powers[1], boundary="wrap", backend=backend
        )
        assert got.dtype == dtype
        assert relative_error(got, expected) < tol("wiener", dtype)


def test_true_powers_are_better_than_any_balance(backend, rng):
    """The Wiener filter of the powers has the least mean squared error of all linear filters."""
    shape, sigma = (64, 60), 4.0
    # A stationary random field with a peak in its spectrum, which no weight of a Laplacian has.
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij"))
    signal = 400 * np.exp(-(((frequency - 0.15) / 0.03) ** 2)) + 1e-3
    truth = np.fft.ifftn(np.sqrt(signal) * np.fft.fftn(rng.normal(0, 1, shape))).real
    psf = gaussian((7, 7), 1.2)
    image = np.fft.ifftn(np.fft.fftn(truth) * placed(psf, shape)).real + rng.normal(0, sigma, shape)

    def error(**options):
        return np.linalg.norm(mf.wiener(image, psf, backend=backend, **options) - truth)

    powers = {"noise_power": sigma**2, "signal_power": signal}
    others = [error(balance=10.0**e, boundary="wrap") for e in np.arange(-4, 2, 0.5)]
    others += [error(noise_to_signal=10.0**e, boundary="wrap") for e in np.arange(-4, 2, 0.5)]
    assert error(boundary="wrap", **powers) < 0.9 * min(others)
    # Elsewhere the padded grid has other frequencies, between those that are given (and the field has edges).
    assert error(boundary="reflect", **powers) < min(others)


def test_powers_where_nothing_is_known(backend, rng):
    """No signal expected, or neither signal nor noise: 0, not NaN."""
    image, psf = rng.random((16, 18)), np.ones((3, 3))
    signal = np.ones((16, 18))
    signal[3, 5] = signal[-3, -5] = 0
    got = np.fft.fftn(mf.wiener(image, psf, noise_power=0.1, signal_power=signal, boundary="wrap"))
    assert abs(got[3, 5]) < 1e-12
    assert abs(got[3, 4]) > 1e-3
    noise = np.where(signal == 0, 0, 0.1)
    for boundary in ("wrap", "reflect"):
        got = mf.wiener(
            image, psf, noise_power=noise, signal_power=signal, boundary=boundary, backend=backend
        )
        assert np.isfinite(got).all()


@pytest.mark.peers
def test_simpleitk_wiener(backend, rng, relative_error):
    """Its signal power is the image's own less the noise's, on a larger grid: agreement to a percent."""
    sitk = pytest.importorskip("SimpleITK")
    psf = gaussian((5, 7), 0.8)
    image = np.zeros((60, 64))
    image[24:-24, 24:-24] = rng.random((12, 16)) * 100
    image = mf.Blur(psf, image.shape, boundary="zero", backend=backend).forward(image)
    signal = np.maximum(abs(np.fft.fftn(image)) ** 2 - 0.01, 0)
    got = mf.wiener(image, psf, noise_power=0.01, signal_power=signal, boundary="wrap", backend=backend)
    expected = sitk.WienerDeconvolution(sitk.GetImageFromArray(image), sitk.GetImageFromArray(psf), 0.01)
    assert relative_error(got, sitk.GetArrayFromImage(expected)) < 0.01


UNIT = np.ones((5, 5))
PEAK = np.zeros((5, 5))
PEAK[2, 2] = 1  # as after fftshift
LOPSIDED = PEAK.copy()
LOPSIDED[2, 4] = 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"noise_to_signal": 0.1, "balance": 0.1}, ValueError, "balance: got 0.1 together with noise_to_sig"),
        (
            {"noise_to_signal": 0.1, "noise_power": 1, "signal_power": 1},
            ValueError,
            "noise_to_signal: got it together with noise_power and signal_power",
        ),
        ({"noise_power": 1}, ValueError, "signal_power: missing; noise_power needs it"),
        ({"signal_power": UNIT}, ValueError, "noise_power: missing; signal_power needs it"),
        (
            {"noise_to_signal": 0.1, "regularizer": "identity"},
            ValueError,
            "regularizer: got 'identity' together with noise_to_signal, which has none",
        ),
        ({"noise_to_signal": -1}, ValueError, "noise_to_signal: got -1"),
        ({"noise_to_signal": UNIT}, TypeError, "noise_to_signal: got ndarray"),
        ({"noise_power": 1, "signal_power": 0}, ValueError, "signal_power: got 0"),
        ({"noise_power": 1, "signal_power": 0 * UNIT}, ValueError, "signal_power: all values are zero"),
        ({"noise_power": -UNIT, "signal_power": 1}, ValueError, "noise_power: 25 of 25 values are negative"),
        ({"noise_power": UNIT[:4], "signal_power": 1}, ValueError, r"noise_power: got shape \(4, 5\)"),
        ({"noise_power": 1, "signal_power": LOPSIDED}, ValueError, "signal_power: it is not symmetric"),
        ({"noise_power": 1, "signal_power": PEAK}, ValueError, "frequency 0 at index 0"),
    ],
)
def test_powers_refused(options, error, words):
    with pytest.raises(error, match=words):
        mf.wiener(np.ones((5, 5)), np.ones((3, 3)), **options)


@pytest.mark.parametrize("boundary", ["reflect", "nearest", "mirror", "zero"])
@pytest.mark.parametrize(
    ("method", "options"), [("wiener", {"balance": 0.02}), ("tikhonov", {"weight": 1e-2, "regularizer": 1})]
)
def test_the_ends_of_an_axis_without_blur_are_not_neighbours(method, options, boundary, backend, rng):
    """A regularizer couples slices that the PSF does not: neighbours, not the first and the last."""
    psf = mf.psf.gaussian((0, 2, 2), (1, 1, 1))
    image = rng.uniform(0, 100, (7, 12, 14))
    other = image.copy()
    other[-1] *= 3
    first, second = (
        getattr(mf, method)(x, psf, boundary=boundary, backend=backend, **options) for x in (image, other)
    )
    moved = np.abs(second - first).max((1, 2)) / np.abs(second - first).max()
    assert moved[-2] > 0.01 and moved[0] < 1e-3


@pytest.mark.parametrize("boundary", ["reflect", "wrap"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (3, 5)])
def test_scores_that_are_all_the_same_leave_the_image(shape, boundary, dtype, backend, rng):
    """Of a point and the identity |H|^2 and |R|^2 are constant: rounding alone told balances apart."""
    image, psf = rng.poisson(50, (32, 40)).astype(dtype), np.zeros(shape)
    psf[0, -1] = 2.5  # off the centre the transfer function has a phase, in float32 rounded
    options = {"boundary": boundary, "return_info": True, "backend": backend}
    for name, found in (
        ("balance", mf.wiener(image, psf, regularizer="identity", **options)),
        ("weight", mf.tikhonov(image, psf, **options)),
        ("weight", mf.tikhonov(image, psf, normalize_psf=False, **options)),
    ):
        assert found[0].mean() * found[1].settings["psf_sum"] == pytest.approx(image.mean(), rel=0.02)
        assert any(f"every {name} has the same score" in note for note in found[1].warnings)
