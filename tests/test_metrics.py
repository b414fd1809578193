"""Metrics against scikit-image, and against cases with a known answer."""

import numpy as np
import pytest
from scipy import special
from skimage import metrics as peer

import medeconv_fast as mf


@pytest.fixture(params=[(40, 53), (14, 17, 20), (1, 30, 31)])
def pair(request):
    rng = np.random.default_rng(5)
    truth = rng.random(request.param) * 900 - 100
    return truth, truth + rng.normal(0, 30, request.param)


def test_psnr_and_nrmse_equal_scikit_image(pair):
    truth, image = pair
    span = float(np.ptp(truth))
    assert mf.metrics.psnr(truth, image) == pytest.approx(
        peer.peak_signal_noise_ratio(truth, image, data_range=span), rel=1e-12
    )
    assert mf.metrics.nrmse(truth, image) == pytest.approx(peer.normalized_root_mse(truth, image), rel=1e-12)


def test_ssim_equals_scikit_image(pair):
    truth, image = (np.squeeze(a) for a in pair)
    span = float(np.ptp(truth))
    for offset in (0.0, 5000.0):
        expected = peer.structural_similarity(truth + offset, image + offset, data_range=span)
        assert mf.metrics.ssim(truth + offset, image + offset) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("window", [3, 5, 9])
@pytest.mark.parametrize("shape", [(11, 90), (300,), (30, 12, 40), (9, 10, 9, 11)])
def test_ssim_of_other_windows_and_ranks_equals_scikit_image(window, shape):
    """In slabs of a few planes, which windows reach beyond."""
    rng = np.random.default_rng(1)
    truth = rng.random(shape)
    image = truth + 0.2 * rng.random(shape)
    expected = peer.structural_similarity(truth, image, data_range=2.0, win_size=window)
    assert mf.metrics.ssim(truth, image, data_range=2, window=window) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float16, np.float32, np.int64, ">f4"])
@pytest.mark.parametrize("metric", ["psnr", "nrmse", "ssim"])
def test_all_work_is_done_in_float64(metric, dtype):
    values = 1.9 * np.random.default_rng(1).random((2, 30, 17))
    given = [a.T[::-1] for a in (np.floor(values) if dtype is bool else 100 * values).astype(dtype)]
    call = getattr(mf.metrics, metric)
    assert call(*given) == pytest.approx(call(*(a.astype(float) for a in given)), rel=1e-13)


def test_identical_images():
    a = np.random.default_rng(0).random((20, 20))
    assert mf.metrics.psnr(a, a) == np.inf
    assert mf.metrics.ssim(a, a) == pytest.approx(1)
    assert mf.metrics.nrmse(a, a) == 0


def test_fourier_shell_correlation():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(20, 32, 32))
    frequency, same = mf.metrics.fourier_shell_correlation(a, 3 * a + 2, (2.0, 1.0, 1.0))
    np.testing.assert_allclose(same, 1)
    assert np.all(np.diff(frequency) > 0) and frequency[-1] <= 0.25
    _, unrelated = mf.metrics.fourier_shell_correlation(a, rng.normal(size=a.shape))
    assert np.abs(unrelated[2:]).max() < 0.2


@pytest.mark.parametrize("taper", [True, False])
@pytest.mark.parametrize(
    "shape, size", [((64, 65), (1.0, 1.0)), ((40, 96, 63), (2.0, 0.5, 1.0)), ((4000,), 0.1)]
)
def test_radial_power_of_white_noise_is_its_variance(shape, size, taper):
    noise = np.random.default_rng(1).normal(7, 3, shape)
    frequency, power = mf.metrics.radial_power(noise, size, taper=taper)
    assert (np.diff(frequency) > 0).all() and frequency[-1] <= 0.5 / np.max(size)
    outer = power[len(power) // 3 :]  # inner shells hold few values
    assert outer.mean() == pytest.approx(9, rel=0.1)


def test_radial_power_finds_a_wave_and_keeps_all_power():
    x, y = np.meshgrid(np.arange(80) * 0.5, np.arange(64) * 2.0)
    image = 5 + np.cos(2 * np.pi * (0.15 * x + 0.10 * y))
    frequency, power = mf.metrics.radial_power(image, (2.0, 0.5))
    assert frequency[np.argmax(power)] == pytest.approx(np.hypot(0.15, 0.10), abs=1 / 40)
    # Against a sum over the whole spectrum, shell by shell (Parseval inside the smallest Nyquist frequency).
    frequency, power = mf.metrics.radial_power(image, taper=False)
    fy, fx = np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(80), indexing="ij")
    radius = np.hypot(fy, fx)
    spectrum = np.abs(np.fft.fft2(image)) ** 2 / image.size
    shells = 32
    which = np.floor(radius / 0.5 * shells).astype(int)
    for k in range(shells):
        inside = (which == k) & (radius > 0)
        assert power[k] == pytest.approx(spectrum[inside].mean(), rel=1e-9, abs=1e-12)
        assert frequency[k] == pytest.approx(radius[inside].mean(), rel=1e-9)


@pytest.mark.parametrize("image, text", [(np.ones((1, 1)), "one voxel"), (np.full(5, np.nan), "not finite")])
def test_radial_power_refuses(image, text):
    with pytest.raises(ValueError, match=f"image: .*{text}"):
        mf.metrics.radial_power(image)
    with pytest.raises(TypeError, match="image: got a masked array"):
        mf.metrics.radial_power(np.ma.array(image))


def test_fourier_shell_correlation_uses_physical_frequency():
    # Equal content below 0.1 per unit along every axis, independent noise above: the drop must be there,
    # whatever the voxels.
    shape, size = (32, 64, 64), (2.0, 1.0, 1.0)
    rng = np.random.default_rng(2)
    radius = np.sqrt(
        sum(
            f**2
            for f in np.meshgrid(
                *[np.fft.fftfreq(n, d) for n, d in zip(shape, size, strict=True)], indexing="ij"
            )
        )
    )
    common = np.fft.ifftn(np.fft.fftn(rng.normal(size=shape)) * (radius < 0.1)).real

    def noisy():
        return common + np.fft.ifftn(np.fft.fftn(rng.normal(size=shape)) * (radius >= 0.1)).real

    frequency, correlation = mf.metrics.fourier_shell_correlation(noisy(), noisy(), size)
    assert correlation[frequency < 0.09].min() > 0.9
    assert np.abs(correlation[frequency > 0.12]).max() < 0.2


def test_i_divergence_equals_scipy(pair):
    truth, image = (np.abs(a) for a in pair)
    truth.flat[::7] = 0
    expected = special.kl_div(truth, image).sum()
    assert mf.metrics.i_divergence(truth, image) == pytest.approx(expected, rel=1e-12)
    assert mf.metrics.i_divergence(truth, truth) == 0
    image.flat[0] = 0  # and truth too
    assert np.isfinite(mf.metrics.i_divergence(truth, image))
    image.flat[1] = 0
    assert mf.metrics.i_divergence(truth, image) == np.inf == special.kl_div(truth, image).sum()


def test_i_divergence_of_close_images_keeps_its_digits():
    truth = np.full(1000, 1e6)
    # For a small relative difference d it is truth d² / 2.
    assert mf.metrics.i_divergence(truth, truth * (1 + 1e-6)) == pytest.approx(1000 * 1e6 * 5e-13, rel=1e-5)


def test_i_divergence_of_values_far_apart():
    # Their quotient is beyond float64; 1 + (310 ln 10 - 1) is not.
    expected = 310 * np.log(10)
    assert mf.metrics.i_divergence([1e-310, 1.0], [1.0, 1e-310]) == pytest.approx(expected, rel=1e-12)


def test_i_divergence_refuses_negative_values():
    with pytest.raises(ValueError, match="truth: 1 of 3 values are negative"):
        mf.metrics.i_divergence([-1.0, 2, 3], [1.0, 2, 3])
    with pytest.raises(ValueError, match="image: 2 of 3 values are negative"):
        mf.metrics.i_divergence([1.0, 2, 3], [-1.0, -2, 3])


def band_limited(shape, size, cutoff, seed):
    """Two images with the same content below `cutoff` cycles per unit and independent noise above."""
    rng = np.random.default_rng(seed)
    axes = [np.fft.fftfreq(n, d) for n, d in zip(shape, size, strict=True)]
    low = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij"))) < cutoff
    common = np.fft.fftn(rng.normal(size=shape)) * low
    return [np.fft.ifftn(common + np.fft.fftn(rng.normal(size=shape)) * ~low).real + 100 for _ in range(2)]


@pytest.mark.parametrize("taper", [False, True])
@pytest.mark.parametrize("threshold", [1 / 7, 0.5, "half-bit", "one-bit"])
@pytest.mark.parametrize(
    ("shape", "size", "cutoff"),
    [
        ((256, 240), (0.5, 0.5), 0.4),
        ((48, 64, 60), (2.0, 1.0, 1.0), 0.13),
        ((256, 200), (0.1, 0.07), 3.0),
    ],
)
def test_resolution_is_where_the_common_band_ends(shape, size, cutoff, threshold, taper):
    a, b = band_limited(shape, size, cutoff, 3)
    found = mf.metrics.resolution(a, b, size, threshold=threshold, taper=taper)
    shell = max(1 / (n * d) for n, d in zip(shape, size, strict=True))
    assert abs(1 / found - cutoff) < 1.5 * shell


def test_resolution_at_the_ends():
    a, b = band_limited((64, 64), (0.5, 0.25), 1.0, 1)
    assert mf.metrics.resolution(a, 2 * a + 5, (0.5, 0.25)) == 1.0  # two voxels of the coarsest axis
    rng = np.random.default_rng(4)
    assert (
        mf.metrics.resolution(rng.normal(size=(64, 64)), rng.normal(size=(64, 64)), threshold=0.5) == np.inf
    )
    assert mf.metrics.resolution(np.ones((9, 9)), rng.normal(size=(9, 9))) == np.inf
    with pytest.raises(ValueError, match="threshold: got 1, expected less than 1"):
        mf.metrics.resolution(a, b, threshold=1)
    with pytest.raises(ValueError, match="threshold: got 'two-bit'"):
        mf.metrics.resolution(a, b, threshold="two-bit")


def test_taper_removes_agreement_that_the_frame_makes():
    # A ramp jumps between its ends; with noise much larger than any fine structure, only that jump agrees.
    rng = np.random.default_rng(6)
    ramp = np.add.outer(np.linspace(0, 300, 128), np.zeros(128))
    a, b = (ramp + rng.normal(size=ramp.shape) for _ in range(2))
    _, bare = mf.metrics.fourier_shell_correlation(a, b)
    _, tapered = mf.metrics.fourier_shell_correlation(a, b, taper=True)
    assert bare[20:40].mean() > 0.5 and abs(tapered[20:40].mean()) < 0.1


@pytest.mark.parametrize(
    "metric", ["psnr", "ssim", "nrmse", "i_divergence", "fourier_shell_correlation", "resolution"]
)
def test_bad_input(metric):
    call = getattr(mf.metrics, metric)
    good = np.random.default_rng(0).random((9, 9))
    with pytest.raises(ValueError, match="shape"):
        call(good, good[:-1])
    bad = good.copy()
    bad[2, 3] = np.nan
    with pytest.raises(ValueError, match=r"1 NaN.*\(2, 3\)"):
        call(good, bad)
    with pytest.raises(TypeError, match="complex"):
        call(good, good * 1j)
    for masked in ((np.ma.array(good), good), (good, np.ma.array(good, mask=good > 0.5))):
        with pytest.raises(TypeError, match="got a masked array"):
            call(*masked)
    with pytest.raises(TypeError, match="cannot be read as an array"):
        call(good, [[1, 2], [3]])


@pytest.mark.parametrize("metric", ["fourier_shell_correlation", "resolution"])
def test_errors_name_the_arguments_of_two_images(metric):
    call = getattr(mf.metrics, metric)
    good = np.random.default_rng(0).random((9, 9))
    with pytest.raises(TypeError, match=r"a: got complex"):
        call(good * 1j, good)
    with pytest.raises(ValueError, match=r"b: 1 of 81 values are not finite"):
        call(good, np.where(good == good.max(), np.nan, good))
    with pytest.raises(ValueError, match=r"b: got shape \(8, 9\), expected \(9, 9\), the shape of the a"):
        call(good, good[1:])


@pytest.mark.parametrize("factor", [1e-290, 1e-200, 1e-100, 1e100, 1e160, 1e290])
def test_no_metric_depends_on_the_unit(factor):
    rng = np.random.default_rng(0)
    truth = rng.random((16, 17))
    image = truth + 0.1 * rng.random(truth.shape)
    for metric in (mf.metrics.psnr, mf.metrics.nrmse, mf.metrics.ssim):
        assert metric(truth * factor, image * factor) == pytest.approx(metric(truth, image), rel=1e-9)
    found, expected = (mf.metrics.fourier_shell_correlation(f * truth, f * image)[1] for f in (factor, 1))
    assert found == pytest.approx(expected, rel=1e-9)
    assert mf.metrics.psnr([1.0, 0.0], [1.0, 1e-200]) == pytest.approx(4003.01, abs=0.01)


@pytest.mark.parametrize("shape", [(200, 200), (60, 90), (21, 20, 24), (120,)])
def test_no_spectrum_depends_on_the_unit_of_lengths(shape):
    rng = np.random.default_rng(0)
    truth = rng.random(shape)
    image = truth + 0.5 * rng.random(shape)
    spectra = (
        lambda size: mf.metrics.fourier_shell_correlation(truth, image, size),
        lambda size: mf.metrics.radial_power(image, size),
    )
    for spectrum in spectra:
        expected = spectrum(1.0)
        for unit in (1e-9, 0.065, 0.1, 0.3, 3.0, 7.0, 1e9):
            frequency, values = spectrum(unit)
            np.testing.assert_allclose(frequency * unit, expected[0], rtol=1e-12)
            np.testing.assert_allclose(values, expected[1], rtol=1e-9, atol=1e-12)


def test_constant_truth_needs_a_range():
    flat = np.ones((9, 9))
    with pytest.raises(ValueError, match="data_range"):
        mf.metrics.psnr(flat, flat + 1)
    assert mf.metrics.psnr(flat, flat + 1, data_range=10) == pytest.approx(20)
    with pytest.raises(ValueError, match="data_range"):
        mf.metrics.ssim(flat, flat)
    with pytest.raises(ValueError, match="data_range: got 1e-200, which is nothing beside"):
        mf.metrics.ssim(np.zeros((9, 20)), 1e200 * np.eye(9, 20), data_range=1e-200)
    with pytest.raises(ValueError, match="zero"):
        mf.metrics.nrmse(0 * flat, flat)
    with pytest.raises(ValueError, match="window"):
        mf.metrics.ssim(np.arange(25.0).reshape(5, 5), np.ones((5, 5)))
