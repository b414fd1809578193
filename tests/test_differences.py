"""What docs/differences.md says about scikit-image and SimpleITK, computed."""

import re
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "differences.md").read_text(encoding="utf-8")


@pytest.fixture
def framed():
    """An image with zeros around it, where no boundary matters."""
    truth = np.zeros((90, 90))
    truth[35:55, 35:55] = 100 * np.random.default_rng(0).random((20, 20))
    image = mf.simulate(truth, mf.psf.gaussian((4.0, 3.0), (1, 1), (9, 9)), noise=None, boundary="zero")
    return np.where(image < 1e-9, 0, image)


def centre_of_mass(image):
    return np.array([(image * axis).sum() for axis in np.indices(image.shape)]) / image.sum()


class TestScikitImage:
    restoration = property(lambda self: pytest.importorskip("skimage.restoration"))

    def test_a_flat_image(self, tol):
        image, psf = np.full((40, 40), 0.7), mf.psf.gaussian(5.0, (1, 1))
        there = self.restoration.richardson_lucy(image, psf, 30, clip=False)
        assert there.min() < 1e-5 and there.max() > 3
        assert np.abs(mf.richardson_lucy(image, psf, 30) - 0.7).max() < tol("flat", np.float64)

    def test_an_even_psf_moves_the_estimate(self):
        psf = mf.psf.gaussian(3.0, (1, 1), (8, 8))
        truth = np.pad(10 * np.random.default_rng(0).random((20, 20)), 20)
        image = np.maximum(mf.simulate(truth, psf, noise=None, boundary="zero"), 0)
        there = self.restoration.richardson_lucy(image, psf, 10, clip=False)
        here = mf.richardson_lucy(image, psf, 10, boundary="zero")
        start = centre_of_mass(truth)
        assert (np.abs(centre_of_mass(there) - start) > 0.9).all()
        assert (np.abs(centre_of_mass(here) - start) < 0.05).all()

    def test_clipping_and_negative_values(self):
        psf = mf.psf.gaussian(5.0, (1, 1))
        rng = np.random.default_rng(1)
        assert self.restoration.richardson_lucy(100 + 100 * rng.random((30, 30)), psf, 5).max() == 1
        noise = rng.normal(0.1, 1, (40, 40))
        assert np.abs(self.restoration.richardson_lucy(noise, psf, 30, clip=False)).max() > 100
        with pytest.raises(ValueError, match="clip"):
            mf.richardson_lucy(noise, psf)


@pytest.mark.peers
class TestSimpleItk:
    psf = property(lambda self: mf.psf.gaussian((4.0, 3.0), (1, 1), (9, 9)))

    @pytest.fixture(autouse=True)
    def _itk(self):
        self.itk = pytest.importorskip("SimpleITK")
        filters = self.itk.RichardsonLucyDeconvolutionImageFilter
        self.same, self.zero, self.wrap = filters.SAME, filters.ZERO_PAD, filters.PERIODIC_PAD

    def run(self, name, image, psf, *options, boundary=None, normalize=True):
        take = self.itk.GetImageFromArray
        boundary = self.zero if boundary is None else boundary
        done = getattr(self.itk, f"{name}Deconvolution")(
            take(image), take(psf), *options, normalize, boundary, self.same
        )
        return self.itk.GetArrayFromImage(done)

    def test_defaults(self):
        filters = self.itk.RichardsonLucyDeconvolutionImageFilter()
        assert not filters.GetNormalize()
        assert filters.GetBoundaryCondition() == filters.ZERO_FLUX_NEUMANN_PAD
        assert self.itk.LandweberDeconvolutionImageFilter().GetAlpha() == 0.1
        threshold = self.itk.InverseDeconvolutionImageFilter().GetKernelZeroMagnitudeThreshold()
        assert threshold == pytest.approx(1e-4)

    def test_zero_padding_without_normalizer(self):
        there = self.run("RichardsonLucy", np.full((40, 44), 100.0), self.psf, 10)
        assert there.min() < 10 and there.max() > 200

    @pytest.mark.parametrize("shape", [(9, 9), (8, 10)])
    def test_framed_they_agree(self, framed, shape, tol):
        psf = mf.psf.gaussian((4.0, 3.0), (1, 1), shape)
        settings = {"boundary": "zero", "initial": "image"}
        pairs = [
            (self.run("RichardsonLucy", framed, psf, 10), mf.richardson_lucy(framed, psf, 10, **settings)),
            (self.run("Landweber", framed, psf, 0.1, 5), mf.landweber(framed, psf, 5, step=0.1, **settings)),
            (
                self.run("ProjectedLandweber", framed, psf, 0.1, 5),
                mf.landweber(framed, psf, 5, step=0.1, non_negative=True, **settings),
            ),
        ]
        for there, here in pairs:
            assert np.abs(there - here).max() < tol("simpleitk", np.float64) * np.abs(there).max()

    def test_tikhonov(self, framed, tol):
        there = self.run("Tikhonov", framed, self.psf, 0.01)
        here = mf.tikhonov(framed, self.psf, 0.01, regularizer=0, boundary="zero")
        inside = (slice(20, -20), slice(20, -20))
        assert np.abs(there - here)[inside].max() < tol("simpleitk", np.float64) * np.abs(there).max()

    def test_periodic_is_padded(self):
        image = 100 * np.random.default_rng(0).random((40, 44))
        image = mf.simulate(image, self.psf, noise=None, boundary="wrap")
        there = self.run("Tikhonov", image, self.psf, 0.01, boundary=self.wrap)
        here = mf.tikhonov(image, self.psf, 0.01, regularizer=0, boundary="wrap")
        assert 0.02 < np.abs(there - here).max() / np.abs(there).max() < 0.2

    def test_pixel_types(self, framed):
        psf = np.round(255 * self.psf / self.psf.max()).astype(np.uint8)
        assert self.run("RichardsonLucy", framed.astype(np.uint8), psf, 3).dtype == np.uint8
        with pytest.raises(RuntimeError, match="pixel type"):
            self.run("RichardsonLucy", framed.astype(np.uint8), self.psf, 3)

    def test_negative_values(self):
        truth = 100 * np.random.default_rng(0).random((40, 44))
        image = mf.simulate(truth, self.psf, noise=None, boundary="nearest") - 50
        neumann = self.itk.RichardsonLucyDeconvolutionImageFilter.ZERO_FLUX_NEUMANN_PAD
        assert self.run("RichardsonLucy", image, self.psf, 10, boundary=neumann).min() < 10 * image.min()

    def test_landweber_diverges(self):
        image = mf.simulate(np.random.default_rng(0).random((40, 44)) * 100, self.psf, noise=None)
        assert np.abs(self.run("Landweber", image, self.psf, 2.5, 60, boundary=self.wrap)).max() > 1e6
        with pytest.warns(UserWarning, match="step"):
            mf.landweber(image, self.psf, 2, step=2.5)

    def test_thresholds_and_noise_variance_are_absolute(self, framed, tol):
        """On ITK's padded grid, 90 and 8 more, the next size of small factors being 100."""
        grid = (100, 100)
        psf = mf.psf.gaussian(3.0, (1, 1), (9, 9))
        placed = np.zeros(grid)
        placed[:9, :9] = psf
        otf = np.fft.fft2(np.roll(placed, (-4, -4), (0, 1)))
        spectrum = np.fft.fft2(framed, grid)

        def back(values):
            return np.fft.ifft2(values).real[:90, :90]

        kept = np.abs(2 * otf) >= 0.05
        inverse = back(np.where(kept, spectrum / np.where(kept, 2 * otf, 1), 0))
        there = self.run("Inverse", framed, 2 * psf, 0.05, normalize=False)
        assert np.abs(there - inverse).max() < tol("simpleitk", np.float64) * np.abs(there).max()

        def wiener(noise):
            divisor = np.abs(otf) ** 2 + noise / (np.abs(spectrum) ** 2 - noise)
            return back(np.where(np.abs(divisor) >= 1e-4, spectrum * otf.conj() / divisor, 0))

        there = self.run("Wiener", framed, psf, 25.0)
        assert np.abs(there - wiener(25.0)).max() < tol("simpleitk", np.float64) * np.abs(there).max()
        assert np.abs(there - wiener(25.0 * spectrum.size)).max() > 0.1 * np.abs(there).max()


def test_every_source_is_cited_and_every_citation_has_a_source():
    tables, sources = PAGE.split("## Sources")
    listed = {int(n) for n in re.findall(r"^(\d+)\. ", sources, re.MULTILINE)}
    assert listed == set(range(1, len(listed) + 1))
    assert {int(n) for n in re.findall(r"\[(\d+)\]", tables)} == listed
