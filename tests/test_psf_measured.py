"""PSFs from beads and edges, and what is done with a PSF: against simulations whose truth is known."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage, special

import medeconv_fast as mf

SIGMA_PER_FWHM = 1 / 2.3548200450309493


def centre_of_mass(array):
    return np.subtract(ndimage.center_of_mass(array), [n // 2 for n in array.shape])


# ---------------------------------------------------------------- beads


@pytest.fixture(scope="module")
def known():
    """A PSF that is not symmetric along z, centred as from_beads centres."""
    psf = mf.psf.gibson_lanni(0.52, 0.9, (0.25, 0.1, 0.1), (33, 33, 33), depth=3.0)
    return mf.psf.recentre(psf, threshold=0.25)


def bead_image(psf, positions, heights, shape, background=2.0):
    """Beads at any place: SciPy's Fourier shift, not ours."""
    image = np.full(shape, background)
    base = np.zeros(shape)
    base[tuple(slice(0, n) for n in psf.shape)] = psf / psf.max()
    spectrum = np.fft.fftn(base)
    for place, height in zip(positions, heights, strict=True):
        move = [p - n // 2 for p, n in zip(place, psf.shape, strict=True)]
        image += height * np.fft.ifftn(ndimage.fourier_shift(spectrum, move)).real
    return np.maximum(image, 0)


POSITIONS = np.array(
    [[20.3, 18.6, 19.1], [18.5, 19.45, 45.8], [20.75, 45.2, 18.49], [20.1, 44.5, 45.3], [22.0, 19.0, 73.7]]
)
SHAPE = (40, 90, 96)
HEIGHTS = np.array([1.0, 0.5, 0.8, 0.9, 0.6])


def window(psf, shape):
    """What from_beads should return of a larger PSF: the frame without its border's level."""
    cut = psf[
        tuple(slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in zip(psf.shape, shape, strict=True))
    ]
    return mf.psf.remove_background(cut)


@pytest.mark.parametrize(
    ("shape", "photons", "within", "place"),
    [
        ((17, 21, 21), 0, 0.01, 0.005),
        ((16, 20, 21), 0, 0.01, 0.005),
        ((17, 21, 21), 2000, 0.05, 0.05),
    ],
)
def test_beads_give_the_psf_and_their_places(known, shape, photons, within, place):
    image = bead_image(known, POSITIONS, HEIGHTS * (photons or 1), SHAPE, 0.002 * (photons or 1))
    if photons:
        image = np.random.default_rng(0).poisson(image).astype(np.uint16)
    psf, info = mf.psf.from_beads(image, shape, return_info=True)
    expected = window(known, shape)
    assert psf.dtype == np.float64 and psf.shape == shape
    assert psf.sum() == pytest.approx(1) and psf.min() >= 0
    assert np.linalg.norm(psf - expected) < within * np.linalg.norm(expected)
    assert info.num_beads == 5 and info.rejected == ()
    for found in info.positions:
        assert np.abs(POSITIONS - found).max(axis=1).min() < place
    assert sum(info.weights) == pytest.approx(1) and len(info.deviations) == 5
    np.testing.assert_array_equal(psf, mf.psf.from_beads(image, shape))


def test_beads_left_out_are_named_with_the_reason(known):
    places = [*POSITIONS, [21, 86.0, 40.0], [20, 46.0, 72.0], [20, 46.0, 81.0]]
    image = bead_image(known, places, [*HEIGHTS, 1.0, 1.0, 0.7], SHAPE, 0.002)
    image = np.random.default_rng(1).poisson(2000 * image).astype(np.int32)
    psf, info = mf.psf.from_beads(image, (17, 21, 21), return_info=True)
    assert info.num_beads == 5
    reasons = {tuple(round(p) for p in place): reason for place, reason in info.rejected}
    assert len(reasons) == 3
    for place, reason in reasons.items():
        assert reason == ("too near the edge" if place[1] > 80 else "too near another bead")
    assert np.linalg.norm(psf - window(known, (17, 21, 21))) < 0.05 * np.linalg.norm(psf)


def test_a_clipped_bead_is_left_out(known):
    image = 1000 * bead_image(known, POSITIONS, [4.0, 1, 1, 1, 1], SHAPE, 0.1)
    clipped = np.minimum(np.random.default_rng(2).poisson(image), 1500)
    _, info = mf.psf.from_beads(clipped, (17, 21, 21), return_info=True)
    assert [reason for _, reason in info.rejected] == ["saturated"] and info.num_beads == 4
    # Few counts repeat by chance; that is not saturation.
    dim = np.random.default_rng(3).poisson(image / 500)
    assert mf.psf.from_beads(dim, (13, 15, 15), POSITIONS.round().astype(int)).sum() == pytest.approx(1)


def test_two_beads_seen_as_one_are_unlike_the_others(known):
    places = [*POSITIONS, [20, 45.0, 72.0], [20, 45.0, 76.0]]
    image = bead_image(known, places, [*HEIGHTS, 0.6, 0.6], SHAPE)
    psf, info = mf.psf.from_beads(image, (17, 21, 21), return_info=True)
    assert info.num_beads == 5
    assert {reason for _, reason in info.rejected} <= {"unlike the others", "too near another bead"}
    assert np.linalg.norm(psf - window(known, (17, 21, 21))) < 0.02 * np.linalg.norm(psf)


def test_a_faint_neighbour_in_one_frame_does_little(known):
    places = [*POSITIONS, [20.0, 26.0, 26.0]]  # in the first bead's frame, below the detection
    image = bead_image(known, places, [*HEIGHTS, 0.04], SHAPE, 0.0)
    psf, info = mf.psf.from_beads(image, (17, 21, 21), return_info=True)
    assert info.num_beads == 5
    expected = window(known, (17, 21, 21))
    spot = (slice(6, 11), slice(15, 21), slice(15, 21))
    plain_mean = 0.04 / 5 * expected.max()
    assert np.abs(psf - expected)[spot].max() < 0.5 * plain_mean


def test_beads_in_two_dimensions_and_given_places():
    psf = mf.psf.airy(0.52, 0.9, (0.1, 0.1), (31, 31))
    places = np.array([[30.2, 31.7], [30.4, 80.1], [75.5, 28.6]])
    image = bead_image(psf, places, [1, 0.3, 0.8], (110, 112))
    found, info = mf.psf.from_beads(image, (19, 19), places.round().astype(int) + 1, return_info=True)
    assert np.linalg.norm(found - window(psf, (19, 19))) < 0.01 * np.linalg.norm(found)
    np.testing.assert_allclose(info.positions, places, atol=0.01)


def test_no_bead_at_all():
    with pytest.raises(ValueError, match=r"no usable bead among 0 .*threshold"):
        mf.psf.from_beads(np.ones((30, 30)), (7, 7))


@pytest.mark.shared
def test_beads_of_a_confocal_microscope(shared_data):
    """Against the centres of mass that the notebook of the data's authors prints (its SOURCE.txt)."""
    pytest.importorskip("tifffile")
    directory = shared_data / "micro_confocal_beads_bia"
    if not directory.is_dir():
        pytest.skip(f"SKIPPED: real beads not found (expected in {directory})")
    beads = mf.io.read(directory / "Bead_Image1_crop.tif")
    published = np.array(
        [
            (23.327475, 73.028938, 30.107895),
            (23.329062, 111.633430, 44.293156),
            (23.299677, 82.453033, 76.092850),
            (23.390951, 35.972496, 125.439606),
        ]
    )
    psf, info = mf.psf.from_beads(beads.array, (25, 31, 31), return_info=True)
    assert info.num_beads == 4 and info.rejected == ()
    found = np.array(sorted(info.positions, key=lambda p: p[2]))
    # Another definition of the centre (all of a segmented label), so the same for all beads within a voxel.
    off = found - published
    assert np.abs(off).max() < 0.75
    assert np.abs(off - off.mean(axis=0)).max() < 0.3
    # What a confocal of this kind resolves: 0.17 to 0.24 µm across, 0.55 µm along.
    z, y, x = mf.psf.fwhm(psf, beads.voxel_size)
    assert 0.45 < z < 0.65 and 0.15 < x < y < 0.27
    assert max(info.deviations) < 0.2
    np.testing.assert_allclose(centre_of_mass(np.maximum(psf - 0.25 * psf.max(), 0)), 0, atol=0.02)


# ---------------------------------------------------------------- edges


def edge_image(shape, size, fwhm, angle, *, axis=1, falling=False, noise=0.0, fine=9, profile=None):
    """A Gaussian edge (or any edge spread function), averaged over each pixel by brute force."""
    if axis == 0:
        shape, size = shape[::-1], size[::-1]
    y, x = (((np.arange(n * fine) + 0.5) / fine - n / 2) * d for n, d in zip(shape, size, strict=True))
    slope = np.tan(np.deg2rad(angle))
    d = (x[None, :] - 0.2 * size[1] - slope * y[:, None]) / np.hypot(1, slope)
    edge = special.ndtr(d / (fwhm * SIGMA_PER_FWHM)) if profile is None else profile(d)
    edge = edge.reshape(shape[0], fine, shape[1], fine).mean(axis=(1, 3))
    image = 20 + 100 * (1 - edge if falling else edge)
    image += np.random.default_rng(7).normal(0, noise, image.shape) if noise else 0
    return image if axis == 1 else image.T


@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize(
    ("shape", "size", "fwhm", "angle", "axis", "noise", "within"),
    [
        ((60, 50), (1.0, 1.0), 3.0, 5, 1, 0, 0.005),
        ((60, 50), (1.0, 1.0), 3.0, 0, 0, 0, 0.005),  # a knife edge along the pixels
        ((60, 50), (1.0, 1.0), 0.6, 5, 1, 0, 0.02),  # below the pixel
        ((60, 50), (1.0, 1.0), 1.5, -8, 0, 3, 0.03),
        ((60, 80), (0.5, 0.3), 2.0, 20, 1, 2, 0.02),
        ((60, 80), (0.5, 0.3), 2.0, -12, 0, 2, 0.02),
        ((80, 80), (1.0, 1.0), 9.0, 5, 1, 2, 0.02),
        ((80, 80), (1.0, 1.0), 3.0, 40, 1, 0, 0.01),
    ],
)
def test_edge_gives_the_width(shape, size, fwhm, angle, axis, noise, within, falling):
    image = edge_image(shape, size, fwhm, angle, axis=axis, falling=falling, noise=noise)
    psf, info = mf.psf.from_edge(image, size, return_info=True)
    assert info.fwhm == pytest.approx(fwhm, rel=within)
    assert abs(info.fwhm - fwhm) < max(4 * info.fwhm_error, 0.01 * fwhm + 0.01)
    assert info.across == axis and info.angle == pytest.approx(angle, abs=0.3)
    assert (info.low, info.high) == pytest.approx((20, 120), abs=1)
    np.testing.assert_array_equal(psf, mf.psf.gaussian(info.fwhm, (size[axis],)))
    line = mf.psf.from_edge(image, size, model="line")
    expected = mf.psf.gaussian(fwhm, (size[axis],), line.shape)
    assert np.linalg.norm(line - expected) < (0.07 + 0.04 * noise) * np.linalg.norm(expected)
    assert line.sum() == pytest.approx(1) and line.size % 2 == 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("unit", [1e-200, 1e-30, 1e-14, -1e-14, 1e14, 1e200])
def test_edge_of_values_in_any_unit(unit, axis):
    image = edge_image((60, 50), (1.0, 1.0), 1.0, 5, axis=axis, noise=0.2)
    _, expected = mf.psf.from_edge(image, return_info=True)
    _, info = mf.psf.from_edge(image * unit, return_info=True)
    assert (info.fwhm, info.fwhm_error) == pytest.approx((expected.fwhm, expected.fwhm_error), rel=1e-6)
    assert (info.angle, info.across) == (pytest.approx(expected.angle), expected.across)
    levels = sorted((expected.low * unit, expected.high * unit))
    assert [info.low, info.high] == pytest.approx(levels, rel=1e-9, abs=0)
    assert info.residual == pytest.approx(expected.residual)


def test_isotropic_edge_psf_restores_the_width_in_both_axes():
    image = edge_image((60, 50), (0.5, 0.4), 2.0, 6)
    psf = mf.psf.from_edge(image, (0.5, 0.4), isotropic=True)
    np.testing.assert_allclose(psf, mf.psf.gaussian(2.0, (0.5, 0.4), psf.shape), atol=2e-4)


@pytest.mark.parametrize("falling", [False, True])
def test_line_keeps_a_tail_on_its_side(falling):
    """An exponential tail towards larger x, which no Gaussian has."""

    def profile(d):
        t = d / 2.0
        return special.ndtr(t) - np.exp(0.5 - t) * special.ndtr(t - 1)  # normal plus exponential

    image = edge_image((80, 80), (1.0, 1.0), 0, 6, profile=profile, falling=falling)
    line = mf.psf.from_edge(image, model="line")
    position = np.arange(line.size) - line.size // 2
    mean = (line * position).sum()
    third = (line * (position - mean) ** 3).sum() / (line * (position - mean) ** 2).sum() ** 1.5
    assert third > 0.3  # the distribution's own skewness is 0.707; the frame cuts its tail
    # The edge spread function of the line is the image's own row.
    _, info = mf.psf.from_edge(image, model="line", return_info=True)
    place = 0.2 + info.distance
    shift = np.interp(0.5, info.edge, info.distance) - np.interp(0.5, profile(place - 0.2), info.distance)
    np.testing.assert_allclose(info.edge, profile(place - 0.2 - shift), atol=0.02)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.ones((20, 20)), "all values are equal"),
        (np.random.default_rng(0).normal(size=(40, 40)), "stands out"),
        (np.pad(np.ones((20, 20)), 10), "crosses the image"),
        (np.add.outer(np.zeros(40), np.linspace(0, 1, 40)), "even region"),
        (np.ones((5, 20)), "at least 8 pixels"),
        (np.ones(20), "two axes"),
        (np.full((20, 20), np.nan), "NaN"),
    ],
)
def test_images_without_an_edge_are_refused(image, text):
    with pytest.raises(ValueError, match=text):
        mf.psf.from_edge(image)


def test_a_bent_edge_warns():
    y, x = np.mgrid[:40, :40]
    with pytest.warns(UserWarning, match="bends by"):
        mf.psf.from_edge(ndimage.gaussian_filter(((x - 20) ** 2 + y**2 < 900) * 1.0, 1.5))


def test_options_of_from_edge_are_checked():
    image = edge_image((40, 40), (1.0, 1.0), 2.0, 5)
    with pytest.raises(ValueError, match="isotropic: got True with model='line'"):
        mf.psf.from_edge(image, model="line", isotropic=True)
    with pytest.raises(ValueError, match="model: got 'box'"):
        mf.psf.from_edge(image, model="box")
    with pytest.raises(ValueError, match="voxel_size"):
        mf.psf.from_edge(image, (1, 1, 1))


# ---------------------------------------------------------------- centre and background


@pytest.mark.parametrize("shape", [(21, 24, 25), (20, 22, 24), (1, 25, 26)])
@pytest.mark.parametrize("method", ["centroid", "peak"])
def test_recentre_undoes_a_known_shift(shape, method):
    widths = tuple(4.0 if n > 1 else 0.0 for n in shape)
    psf = mf.psf.gaussian(widths, (1, 1, 1), shape)
    moved = ndimage.fourier_shift(np.fft.fftn(psf), [2.3 if n > 1 else 0 for n in shape])
    moved = np.maximum(np.fft.ifftn(moved).real, 0)
    result = mf.psf.recentre(7 * moved, method=method)
    assert result.shape == shape and result.min() >= 0
    assert result.sum() == pytest.approx(7 * moved.sum(), rel=1e-12)
    np.testing.assert_allclose(result / result.sum(), psf, atol=0.004 * psf.max())
    if method == "centroid":
        np.testing.assert_allclose(centre_of_mass(result), 0, atol=1e-5)


def test_recentre_far_off_and_by_the_peak_of_a_skew_psf():
    psf = np.zeros((31, 31))
    psf[2:9, 20:29] = mf.psf.gaussian((2.0, 3.0), (1, 1), (7, 9))
    np.testing.assert_allclose(mf.psf.recentre(psf)[12:19, 11:20], psf[2:9, 20:29], atol=1e-9)
    x = (np.arange(61) - 22) / 2.0
    skew = np.where(x > 0, x, 0) ** 3 * np.exp(-x)  # its maximum is at 28
    result = mf.psf.recentre(skew, method="peak")
    assert result.argmax() == 30
    np.testing.assert_allclose(result[10:50], np.roll(skew, 2)[10:50], atol=0.01 * skew.max())
    assert centre_of_mass(result)[0] > 1


def test_recentre_says_what_it_loses():
    psf = np.zeros(31)
    psf[:15] = 1.0
    with pytest.warns(UserWarning, match="leaves the frame"):
        mf.psf.recentre(np.concatenate([np.ones(3), np.zeros(15), 9 * np.ones(6)]))
    with pytest.raises(ValueError, match="method: got 'middle'"):
        mf.psf.recentre(psf, method="middle")
    with pytest.raises(ValueError, match="threshold: got 1,"):
        mf.psf.recentre(psf, threshold=1)
    with pytest.raises(ValueError, match=r"psf: .*zero"):
        mf.psf.recentre(0 * psf)


@pytest.mark.parametrize("shape", [(21, 24, 25), (1, 21, 20), (31,)])
def test_remove_background(shape):
    psf = mf.psf.gaussian(tuple(3.0 if n > 1 else 0.0 for n in shape), (1,) * len(shape), shape)
    np.testing.assert_allclose(mf.psf.remove_background(1000 * psf + 5), psf, atol=1e-4 * psf.max())
    with pytest.raises(ValueError, match="psf: no value is above"):
        mf.psf.remove_background(np.ones(shape))
    with pytest.raises(ValueError, match="width: got 16"):
        mf.psf.remove_background(psf, width=16)


# ---------------------------------------------------------------- other grids


@pytest.mark.parametrize("shape", [(15,), (16,), (15, 16), (8, 15, 16)])
@pytest.mark.parametrize("factor", [0.4, 0.5, 1.7, 2.0, 3.0])
def test_resample_keeps_the_centre_of_one_bright_voxel(shape, factor):
    """shape // 2 of the old grid is shape // 2 of the new one, for odd and even lengths: nothing drifts."""
    psf = np.zeros(shape)
    psf[tuple(n // 2 for n in shape)] = 1
    old = tuple(0.5 + 0.25 * a for a in range(len(shape)))
    new = tuple(factor * d for d in old)
    result = mf.psf.resample(psf, old, new)
    assert result.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(centre_of_mass(result), 0, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-9, 0.065, 0.1, 0.3, 1.0, 3.0, 7.0, 1e9])
def test_resample_makes_as_many_voxels_in_any_unit(unit):
    for n in (3, 5, 15, 21):
        psf = mf.psf.gaussian(n / 4, (1.0,), (n,))
        for parts in (2, 3, 9):
            finer = mf.psf.resample(psf, unit, unit / parts)
            assert finer.shape == (n * parts + (n * parts + 1) % 2,)
            coarser = mf.psf.resample(finer, unit / parts, unit)
            assert coarser.shape == (n if parts % 2 else n + 2,)


def test_resample_there_and_back():
    psf = mf.psf.gaussian((6.0, 5.0, 4.0), (1.0, 0.8, 0.5))
    there = mf.psf.resample(psf, (1.0, 0.8, 0.5), (0.5, 0.5, 0.5))
    back = mf.psf.resample(there, (0.5, 0.5, 0.5), (1.0, 0.8, 0.5))
    inner = tuple(
        slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in zip(back.shape, psf.shape, strict=True)
    )
    np.testing.assert_allclose(back[inner], psf, atol=0.01 * psf.max())


# ---------------------------------------------------------------- files and pictures


@pytest.mark.parametrize("name", ["p.npy", "p.nii", "p.nii.gz", "p.ome.tif"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(5, 6, 7), (6, 7)])
def test_save_and_load(tmp_path, name, dtype, shape):
    pytest.importorskip("nibabel")
    pytest.importorskip("tifffile")
    psf = np.random.default_rng(0).random(shape).astype(dtype)
    size = (0.25, 0.1, 0.12)[-len(shape) :]
    mf.psf.save(tmp_path / name, psf, size, "um")
    array, voxel_size = mf.psf.load(tmp_path / name, "um")
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, psf)
    np.testing.assert_allclose(voxel_size, size, rtol=1e-6)
    np.testing.assert_allclose(mf.psf.load(tmp_path / name, "mm")[1], np.divide(size, 1000), rtol=1e-6)
    with pytest.raises(FileExistsError):
        mf.psf.save(tmp_path / name, psf, size, "um")
    mf.psf.save(tmp_path / name, 2 * psf, size, "mm", overwrite=True)
    np.testing.assert_array_equal(mf.psf.load(tmp_path / name, "mm")[0], 2 * psf)


def test_save_refuses_what_would_be_lost(tmp_path):
    pytest.importorskip("tifffile")
    psf = mf.psf.gaussian(3, (1, 1))
    with pytest.raises((ValueError, TypeError), match="float64"):
        mf.psf.save(tmp_path / "p.tif", psf, 1, "um")
    with pytest.raises(ValueError, match="unit: got 'nm'"):
        mf.psf.save(tmp_path / "p.npy", psf, 1, "nm")
    with pytest.raises(ValueError, match="voxel_size"):
        mf.psf.save(tmp_path / "p.npy", psf, (1, 1, 1), "um")
    assert list(tmp_path.iterdir()) == []
    np.save(tmp_path / "bare.npy", psf)
    assert mf.psf.load(tmp_path / "bare.npy", "um")[1] is None
    mf.io.write(tmp_path / "time.npy", mf.io.Volume(np.ones((2, 3, 3)), (1, 1), None, "um", "tyx"))
    with pytest.raises(ValueError, match=r"tyx.* without channels or time points"):
        mf.psf.load(tmp_path / "time.npy", "um")
    mf.io.write(tmp_path / "unit.npy", mf.io.Volume(psf, (1, 1)))
    with pytest.raises(ValueError, match="in no stated unit"):
        mf.psf.load(tmp_path / "unit.npy", "um")


@pytest.mark.parametrize("shape", [(9,), (9, 10), (5, 9, 10)])
def test_plot_has_a_panel_per_plane_and_the_profiles(shape, tmp_path):
    pytest.importorskip("matplotlib")
    psf = mf.psf.gaussian(3.0, (1,) * len(shape), shape)
    figure = mf.psf.plot(psf, (0.5,) * len(shape), unit="um", title="a PSF")
    assert len(figure.axes) == {1: 1, 2: 2, 3: 4}[len(shape)]
    assert len(figure.axes[-1].lines) == len(shape)
    assert "µm" in figure.axes[-1].get_xlabel()
    figure.savefig(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="psf"):
        mf.psf.plot(-psf)


def test_plot_without_matplotlib_names_the_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import medeconv_fast as mf\n"
        "try: mf.psf.plot([1.0, 2, 1])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'medeconv-fast[report]'" in done.stdout
