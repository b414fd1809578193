"""Metrics against scikit-image, and against cases with a known answer."""

import numpy as np
import pytest
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


@pytest.mark.parametrize("metric", ["psnr", "ssim", "nrmse", "fourier_shell_correlation"])
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


def test_constant_truth_needs_a_range():
    flat = np.ones((9, 9))
    with pytest.raises(ValueError, match="data_range"):
        mf.metrics.psnr(flat, flat + 1)
    assert mf.metrics.psnr(flat, flat + 1, data_range=10) == pytest.approx(20)
    with pytest.raises(ValueError, match="data_range"):
        mf.metrics.ssim(flat, flat)
    with pytest.raises(ValueError, match="zero"):
        mf.metrics.nrmse(0 * flat, flat)
    with pytest.raises(ValueError, match="window"):
        mf.metrics.ssim(np.arange(25.0).reshape(5, 5), np.ones((5, 5)))
