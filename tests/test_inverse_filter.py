"""The inverse filter against its formula, against SimpleITK, and what the threshold promises."""

import numpy as np
import pytest

import medeconv_fast as mf

NUMPY_MODE = {"reflect": "symmetric", "nearest": "edge", "mirror": "reflect", "zero": "constant"}


def otf_on(grid, psf):
    placed = np.zeros(grid)
    placed[tuple(slice(0, k) for k in psf.shape)] = psf
    return np.fft.fftn(np.roll(placed, [-(k // 2) for k in psf.shape], range(psf.ndim)))


def formula(otf, threshold, below):
    """Frequency by frequency, in Python."""
    least = threshold * abs(otf).max()
    out = np.empty_like(otf)
    for at, h in np.ndenumerate(otf):
        if abs(h) >= least:
            out[at] = 1 / h
        else:
            out[at] = 0 if below == "zero" or h == 0 else np.exp(-1j * np.angle(h)) / least
    return out


@pytest.mark.parametrize("below", ["zero", "clip"])
@pytest.mark.parametrize("boundary", ["wrap", *NUMPY_MODE])
@pytest.mark.parametrize(
    ("shape", "psf_shape"),
    [((31,), (5,)), ((12,), (4,)), ((17, 20), (5, 4)), ((1, 14), (1, 3)), ((5, 9, 8), (3, 4, 5))],
    ids=str,
)
def test_formula(below, boundary, shape, psf_shape, backend, dtype, rng, tol, relative_error):
    image, psf = rng.random(shape).astype(dtype), rng.random(psf_shape)
    psf /= psf.sum()
    got, info = mf.inverse_filter(
        image, psf, 0.2, below=below, boundary=boundary, return_info=True, backend=backend
    )
    grid = info.settings["grid"]
    low = [(g - n) // 2 for g, n in zip(grid, shape, strict=True)]
    widths = [(a, g - n - a) for a, g, n in zip(low, grid, shape, strict=True)]
    padded = image if boundary == "wrap" else np.pad(image, widths, mode=NUMPY_MODE[boundary])
    # The PSF in the work's dtype: a frequency may lie on either side of the threshold by its rounding.
    transfer = formula(otf_on(grid, psf.astype(dtype).astype(float)), 0.2, below)
    full = np.fft.ifftn(transfer * np.fft.fftn(padded.astype(float))).real
    expected = full[tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))]
    assert got.dtype == dtype
    assert relative_error(got, expected) < tol("wiener", dtype)
    assert 0 < info.settings["kept"] < 1


def test_undoes_a_blur_that_loses_nothing(backend, rng, relative_error):
    truth, psf = rng.random((16, 18)), np.array([[0, 1, 0], [1, 8, 1], [0, 1, 0.0]])
    image = mf.Blur(psf, truth.shape, boundary="wrap", backend=backend).forward(truth)
    for below in ("zero", "clip"):
        got, info = mf.inverse_filter(
            image, psf, below=below, boundary="wrap", return_info=True, backend=backend
        )
        assert relative_error(got, truth) < 1e-12
        assert info.settings["kept"] == 1


@pytest.mark.parametrize("below", ["zero", "clip"])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 1.0])
def test_nothing_is_amplified_beyond_the_threshold(below, threshold, backend, rng):
    image, psf = rng.normal(0, 1, (40, 44)), mf.psf.gaussian(fwhm=(4.0, 4.0), voxel_size=(1.0, 1.0))
    got = mf.inverse_filter(image, psf, threshold, below=below, boundary="wrap", backend=backend)
    gain = abs(np.fft.fftn(got)) / abs(np.fft.fftn(image))
    assert gain.max() <= 1 / threshold * (1 + 1e-9)
    assert gain[0, 0] == pytest.approx(1)
    if below == "zero":
        assert np.median(gain) < 1e-9
    else:
        assert np.median(gain) == pytest.approx(1 / threshold)


@pytest.mark.peers
def test_simpleitk(backend, rng, tol, relative_error):
    """With a blur that no frequency falls victim to: what is left out else depends on the padded size."""
    sitk = pytest.importorskip("SimpleITK")
    psf = np.array([[0, 1, 0], [1, 12, 1], [0, 1, 0.0]]) / 16
    image = np.zeros((60, 64))
    image[26:-26, 26:-26] = rng.random((8, 12)) * 100
    image = mf.Blur(psf, image.shape, boundary="zero", backend=backend).forward(image)
    got = mf.inverse_filter(image, psf, 1e-2, boundary="zero", backend=backend)
    expected = sitk.InverseDeconvolution(sitk.GetImageFromArray(image), sitk.GetImageFromArray(psf), 1e-2)
    assert relative_error(got, sitk.GetArrayFromImage(expected)) < tol("simpleitk")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"threshold": 0}, ValueError, "threshold: got 0"),
        ({"threshold": 1.5}, ValueError, r"threshold: got 1\.5, expected a share of the largest \|H\|"),
        ({"threshold": None}, TypeError, "threshold: got None"),
        ({"below": "drop"}, ValueError, "below: got 'drop', expected one of 'zero', 'clip'"),
        ({"boundary": "extended"}, ValueError, "boundary: got 'extended', which inverse_filter cannot have"),
        ({"engine": "direct"}, ValueError, "engine: got 'direct', but inverse_filter needs transforms"),
    ],
)
def test_refusals(options, error, words):
    with pytest.raises(error, match=words):
        mf.inverse_filter(np.ones((5, 5)), np.ones((3, 3)), **options)
