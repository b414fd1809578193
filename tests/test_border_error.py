"""What the border asks of a filter's weight: against the truth, which the filter does not know."""

import warnings

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.algorithms import _border_error


def texture(shape, seed):
    """Positive, with details of all sizes."""
    rng = np.random.default_rng(seed)
    frequencies = np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")
    power = (sum(f**2 for f in frequencies) + 1e-4) ** -0.75
    values = np.fft.ifftn(np.fft.fftn(rng.standard_normal(shape)) * power).real
    return (values - values.min()) / np.ptp(values)


def cut_from_a_larger_image(shape, psf, counts, seed):
    """Truth and image of a part: what lies beyond its border has been blurred into it."""
    around = [k // 2 for k in psf.shape]
    whole = texture([n + 2 * a for n, a in zip(shape, around, strict=True)], seed) * counts
    inside = tuple(slice(a, a + n) for n, a in zip(shape, around, strict=True))
    blurred = mf.Blur(psf, whole.shape, boundary="wrap", dtype=np.float64).forward(whole)
    image = np.random.default_rng(seed).poisson(np.maximum(blurred, 0))
    return whole[inside], image[inside].astype(np.float32)


SMALL = [((24, 26), (4.0, 4.0)), ((12, 20, 18), (2.5, 3.0, 3.0)), ((21, 29, 21), (2.5, 2.5, 2.5))]


@pytest.mark.parametrize(("method", "weight"), [("wiener", "balance"), ("tikhonov", "weight")])
def test_nearer_to_the_best_weight(method, weight):
    function = getattr(mf, method)
    lost, without = [], []
    for shape, fwhm in SMALL:
        psf = mf.psf.gaussian(fwhm=fwhm, voxel_size=(1.0,) * len(shape))
        for seed in range(3):
            truth, image = cut_from_a_larger_image(shape, psf, 1000, seed)
            found, info = function(image, psf, return_info=True)
            assert info.settings["border_factor"] >= 1
            with _border_error.no_border():
                plain, other = function(image, psf, return_info=True)
            assert other.settings["border_factor"] == 1
            raised = info.settings["border_factor"] * other.settings[weight]
            assert info.settings[weight] == pytest.approx(raised, rel=1e-12)
            weights = info.settings[weight] * 10.0 ** np.arange(-2, 2.1, 0.25)
            best = max(mf.metrics.psnr(truth, function(image, psf, float(w))) for w in weights)
            lost.append(best - mf.metrics.psnr(truth, found))
            without.append(best - mf.metrics.psnr(truth, plain))
    assert np.mean(lost) < 0.5 * np.mean(without)
    assert np.mean(lost) < 0.2


@pytest.mark.parametrize(
    ("shape", "fwhm", "counts"),
    [((40, 44), 8.0, 1e5), ((24, 26), 4.0, 1e5), ((16, 40, 40), 4.0, 1e5), ((64, 64), 10.0, 1e7)],
)
def test_little_noise_asks_for_the_largest_factors(shape, fwhm, counts):
    """Next to all that the filter would amplify is the border's error: nothing was done against it."""
    psf = mf.psf.gaussian(fwhm=(fwhm,) * len(shape), voxel_size=(1.0,) * len(shape))
    for seed in (0, 2):
        truth, image = cut_from_a_larger_image(shape, psf, counts, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of noise that outgrows the image
            found, info = mf.wiener(image, psf, return_info=True)
        weights = info.settings["balance"] * 10.0 ** np.arange(-3, 2.1, 0.25)
        best = max(mf.metrics.psnr(truth, mf.wiener(image, psf, float(w))) for w in weights)
        assert mf.metrics.psnr(truth, found) > best - 2, seed
        assert mf.metrics.psnr(truth, found) > mf.metrics.psnr(truth, image) - 0.2, seed


@pytest.mark.parametrize("method", ["wiener", "tikhonov"])
@pytest.mark.parametrize("noise", [1e-4, 1e-3])
@pytest.mark.parametrize(("shape", "fwhm"), [((150, 160), 4.5), ((40, 84, 84), 4.0)])
def test_little_noise_and_a_border_that_few_voxels_lie_near(method, noise, shape, fwhm):
    """With a weight that the noise alone asks for, the border's error is amplified all over the image."""
    psf = mf.psf.gaussian(fwhm=(fwhm,) * len(shape), voxel_size=(1.0,) * len(shape))
    around = [k // 2 for k in psf.shape]
    inside = tuple(slice(a, a + n) for n, a in zip(shape, around, strict=True))
    for seed in range(2):
        whole = texture([n + 2 * a for n, a in zip(shape, around, strict=True)], seed)
        whole = np.where(whole > np.median(whole), 1.0, 0.2 * whole)  # edges
        blurred = mf.Blur(psf, whole.shape, boundary="wrap", dtype=np.float64).forward(whole)
        image = blurred + noise * np.random.default_rng(seed).standard_normal(whole.shape)
        truth, image = whole[inside], image[inside].astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what outgrows the image
            found, info = getattr(mf, method)(image, psf, return_info=True)
        weight = info.settings["balance" if method == "wiener" else "weight"]
        weights = weight * 10.0 ** np.arange(-3, 3.1, 0.5)
        best = max(mf.metrics.psnr(truth, getattr(mf, method)(image, psf, float(w))) for w in weights)
        assert mf.metrics.psnr(truth, found) > best - 1.5, seed
        assert mf.metrics.psnr(truth, found) > mf.metrics.psnr(truth, image), seed


def test_same_for_any_number_of_threads(backend):
    psf = mf.psf.gaussian(fwhm=(2.5, 3.0, 3.0), voxel_size=(1.0, 1.0, 1.0))
    _, image = cut_from_a_larger_image((12, 20, 18), psf, 1000, 0)
    factors = [
        mf.wiener(image, psf, return_info=True, backend=backend, num_threads=n)[1].settings["border_factor"]
        for n in (1, 2, 5)
    ]
    assert factors[0] > 1.5
    assert factors == [factors[0]] * 3


def test_backends_agree():
    """Nearly: each continues the image to the size of a transform that it finds cheap."""
    psf = mf.psf.gaussian(fwhm=(4.0, 4.0), voxel_size=(1.0, 1.0))
    _, image = cut_from_a_larger_image((24, 26), psf, 1000, 1)
    factors = [
        mf.wiener(image.astype(float), psf, return_info=True, backend=name)[1].settings["border_factor"]
        for name in mf.backends.available()
    ]
    assert factors == pytest.approx([factors[0]] * len(factors), rel=0.02)


@pytest.mark.parametrize(
    ("shape", "boundary"), [((24, 26), "wrap"), ((120, 130), "reflect"), ((1, 90), "reflect")], ids=str
)
def test_where_the_border_has_no_say(shape, boundary, backend):
    """Periodic images have none; of large ones most lies inside."""
    psf = mf.psf.gaussian(fwhm=(3.0, 3.0), voxel_size=(1.0, 1.0))[-min(shape[0], 99) :]
    psf = psf if shape[0] > 1 else psf.sum(axis=0, keepdims=True)
    _, image = cut_from_a_larger_image(shape, psf, 300, 2)
    _, info = mf.wiener(image, psf, boundary=boundary, return_info=True, backend=backend)
    assert info.settings["border_factor"] == 1
    _, info = mf.wiener(image, psf, 0.1, boundary=boundary, return_info=True, backend=backend)
    assert info.settings["border_factor"] == 1


def test_reach():
    psf = np.zeros((7, 1, 9))
    psf[3, 0, 4], psf[3, 0, 7], psf[1, 0, 4] = 0.9, 0.06, 0.04
    assert _border_error.reach(psf) == (2, 0, 3)
    psf[1, 0, 4], psf[3, 0, 4] = 0.015, 0.925
    assert _border_error.reach(psf) == (0, 0, 3)
