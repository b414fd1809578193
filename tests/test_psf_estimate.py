"""The FWHM of an image's own blur: simulated blurs of known width, and images that do not tell it."""

import json

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.cli import main


def scene(rng, shape, count):
    """Dead leaves: discs (balls) of all sizes and brightnesses that hide one another, averaged over voxels of
    a finer grid. Their edges have all directions."""
    fine = tuple(2 * n for n in shape)
    out = np.zeros(fine, np.float32)
    for _ in range(count):
        radius = min(2 * (1 - rng.random()) ** -0.5, max(fine) / 4)
        centre = [rng.uniform(0, n) for n in fine]
        box = tuple(slice(max(0, int(c - radius)), int(c + radius) + 2) for c in centre)
        part = out[box]
        places = np.ogrid[tuple(slice(s.start, s.start + n) for s, n in zip(box, part.shape, strict=True))]
        part[sum((p - c) ** 2 for p, c in zip(places, centre, strict=True)) < radius**2] = rng.random()
    for axis in range(out.ndim):
        lines = np.moveaxis(out, axis, 0)
        out = np.moveaxis((lines[::2] + lines[1::2]) / 2, 0, axis)
    return out.astype(np.float64)


def blurred(truth, fwhm, noise, rng):
    widths = np.broadcast_to(fwhm, truth.ndim)
    psf = mf.psf.gaussian(tuple(widths), (1.0,) * truth.ndim)
    image = mf.convolve(truth, psf, mode="same", boundary="reflect")
    return image + rng.normal(0, noise * np.ptp(truth), image.shape)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return {2: scene(rng, (256, 256), 12000), 3: scene(rng, (40, 52, 48), 8000)}


WIDTHS = [(1.5, 1.5), (2.5, 2.5), (4, 2), (6, 6), (3, 1.5, 1.5), (4, 4, 4), (2, 3, 5)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("noise", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("fwhm", WIDTHS, ids=str)
def test_widths_of_dead_leaves(fwhm, noise, images, rng):
    """Measured: all within 15 %, most within 7 %."""
    truth = images[len(fwhm)]
    image = blurred(truth, fwhm, noise, rng)
    found, info = mf.psf.estimate_fwhm(image, return_info=True)
    np.testing.assert_allclose(found, fwhm, rtol=0.16)
    blocks = [tuple(min(n, size) for n in image.shape) for size in (32, 64)]
    assert info.block in blocks[1 if len(fwhm) == 2 or max(fwhm) > 4 else 0 :]
    assert len(fwhm) - 0.5 < info.exponent < len(fwhm) + 1.5
    if noise > 0.001:  # less is hardly seen where the image is sharp
        assert info.noise == pytest.approx(noise * np.ptp(truth), rel=0.1)
    if len(set(fwhm)) == 1:
        one = mf.psf.estimate_fwhm(image, isotropic=True)
        assert len(set(one)) == 1 and one[0] == pytest.approx(fwhm[0], rel=0.16)


def test_real_images(rng):
    """Photographs and a scan that come with their libraries; docs/psf.md has the whole table."""
    data = pytest.importorskip("skimage.data")
    nibabel = pytest.importorskip("nibabel")
    from nibabel.testing import data_path

    camera, coins = data.camera().astype(float), data.coins().astype(float)
    camera = (camera[::2, ::2] + camera[1::2, ::2] + camera[::2, 1::2] + camera[1::2, 1::2]) / 4
    scan = np.asarray(nibabel.load(f"{data_path}/example4d.nii.gz").dataobj)[..., 0].astype(float)
    for truth in (camera, coins, scan):
        for fwhm in (2.5, 4.0):
            image = blurred(truth, fwhm, 0.01, rng)
            assert mf.psf.estimate_fwhm(image, isotropic=True)[0] == pytest.approx(fwhm, rel=0.15)


def test_one_dimension(rng):
    truth = np.repeat(rng.random(400), rng.integers(2, 30, 400))
    for fwhm in (2.0, 3.0):
        (found,) = mf.psf.estimate_fwhm(blurred(truth, fwhm, 0.01, rng))
        assert found == pytest.approx(fwhm, rel=0.25)


def test_units_scale_and_orientation(images, rng):
    image = blurred(images[2], (4, 2), 0.01, rng)
    found, info = mf.psf.estimate_fwhm(image, return_info=True)
    # Units scale the result; so do neither brightness nor offset.
    np.testing.assert_allclose(mf.psf.estimate_fwhm(image, 0.25), np.multiply(found, 0.25), rtol=1e-9)
    np.testing.assert_allclose(mf.psf.estimate_fwhm(1e6 * image - 3e5), found, rtol=1e-3)
    np.testing.assert_allclose(mf.psf.estimate_fwhm(image.T), found[::-1], rtol=0.02)
    # One plane of a volume.
    flat, whole = mf.psf.estimate_fwhm(image[None], (3, 1, 1), return_info=True)
    assert flat == (0.0, *found) and whole.block == (1, *info.block)
    # Twice as long voxels along one axis: the object's structure is the same in all directions of space.
    thick = (images[2][::2] + images[2][1::2]) / 2
    thick = blurred(thick, (2, 4), 0.01, rng)
    np.testing.assert_allclose(mf.psf.estimate_fwhm(thick, (2, 1)), (4, 4), rtol=0.16)
    one = mf.psf.estimate_fwhm(thick, (2, 1), isotropic=True)
    assert one[0] == one[1] == pytest.approx(4, rel=0.16)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit", [1e-300, 1e-30, 1e30, 1e300])
def test_values_in_any_unit(unit, images, rng):
    image = blurred(images[2], 4.0, 0.01, rng)
    expected, known = mf.psf.estimate_fwhm(image, return_info=True)
    found, info = mf.psf.estimate_fwhm(image * unit, return_info=True)
    assert found == pytest.approx(expected, rel=1e-9)
    assert info.noise / unit == pytest.approx(known.noise, rel=1e-9)


def test_sharp_and_very_blurred_images(images, rng):
    assert max(mf.psf.estimate_fwhm(images[2] + rng.normal(0, 0.01, images[2].shape))) < 1
    found, info = mf.psf.estimate_fwhm(blurred(images[2], 14, 0.001, rng), return_info=True)
    np.testing.assert_allclose(found, 14, rtol=0.2)
    assert info.block == (128, 128)  # larger than usual, to see such a width


def textures(kind, rng):
    noise = rng.normal(size=(128, 128))
    y, x = np.mgrid[:128, :128]
    return {
        "noise": noise,
        "volume": rng.normal(size=(20, 24, 30)),
        "ramp": 50.0 * x + noise,
        "blob": np.exp(-((x - 64) ** 2 + (y - 64) ** 2) / 2 / 30**2) + 0.01 * noise,
        "faint": 0.02 * (x > 64) + noise,
    }[kind]


@pytest.mark.parametrize("kind", ["noise", "volume", "ramp", "blob", "faint"])
def test_images_that_do_not_tell_are_refused(kind, rng):
    with pytest.raises(ValueError, match=r"image: (its spectrum|the widths)"):
        mf.psf.estimate_fwhm(textures(kind, rng))


def test_interpolation_is_noticed(images, rng):
    ndimage = pytest.importorskip("scipy.ndimage")
    image = blurred(images[2], 3, 0.01, rng)
    for order in (1, 3):
        with pytest.warns(UserWarning, match="no white noise"):
            mf.psf.estimate_fwhm(ndimage.zoom(image, 2, order=order))


def test_structure_in_one_direction_warns(rng):
    y, x = np.mgrid[:256, :256]
    image = blurred(np.exp(-((x - 128) ** 2 + (y - 128) ** 2) / 2 / 40**2), 2, 0.001, rng)
    with pytest.warns(UserWarning, match="the width is uncertain"):
        mf.psf.estimate_fwhm(image)


@pytest.mark.parametrize(
    ("image", "options", "text"),
    [
        (np.full((20, 20), 3.0), {}, "image: all values are 3; a constant image"),
        (np.ones((1, 1)), {}, "image: got shape"),
        (np.full((20, 20), np.nan), {}, "image: .*NaN"),
        (np.arange(100.0).reshape(4, 25), {}, "image: got 4 voxels along axis 0, expected 1 or at least 8"),
        (np.ones((2, 9, 9, 9)), {}, "image: got 4 axes"),
        (np.eye(20), {"voxel_size": (1, 1, 1)}, "voxel_size: got 3 values"),
        (np.eye(20), {"voxel_size": 0}, "voxel_size: got 0"),
    ],
)
def test_bad_input(image, options, text):
    with pytest.raises(ValueError, match=text):
        mf.psf.estimate_fwhm(image, **options)


def test_flags_are_checked():
    with pytest.raises(TypeError, match="isotropic: got 1"):
        mf.psf.estimate_fwhm(np.eye(20), isotropic=1)


def test_command(images, rng, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tifffile")
    monkeypatch.chdir(tmp_path)
    image = blurred(images[2], (4, 2), 0.01, rng).astype(np.float32)
    mf.io.write("image.ome.tif", mf.io.Volume(image, (0.1, 0.2), None, "um"))
    assert main(["psf", "estimate", "image.ome.tif", "-o", "psf.npy", "--json", "psf.json"]) == 0
    width, info = mf.psf.estimate_fwhm(image, (0.1, 0.2), return_info=True)
    psf, size = mf.psf.load("psf.npy", "um")
    np.testing.assert_allclose(psf, mf.psf.gaussian(width, (0.1, 0.2)), rtol=1e-5, atol=1e-9)
    assert size == pytest.approx((0.1, 0.2))
    out = capsys.readouterr().out
    assert f"Gaussian FWHM {width[0]:.6g} x {width[1]:.6g} um" in out
    record = json.loads((tmp_path / "psf.json").read_text())
    assert record["gaussian_fwhm"] == pytest.approx(width) and record["exponent"] == pytest.approx(
        info.exponent
    )
    np.save("bare.npy", image)
    assert main(["psf", "estimate", "bare.npy", "--isotropic", "-o", "p.npy", "--quiet"]) == 0
    one = mf.psf.estimate_fwhm(image, isotropic=True)
    np.testing.assert_allclose(np.load("p.npy"), mf.psf.gaussian(one, (1, 1)), rtol=1e-5, atol=1e-9)
    np.save("noise.npy", rng.normal(size=(64, 64)))
    assert main(["psf", "estimate", "noise.npy", "-o", "q.npy"]) == 2
    assert "image: " in capsys.readouterr().err and not (tmp_path / "q.npy").exists()
