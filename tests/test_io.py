"""Reading and writing: values, geometry, conversions, damaged files, interrupted writes."""

import errno
import gzip
import pathlib

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.io import Volume, _files

nib = pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
tifffile = pytest.importorskip("tifffile", reason="SKIPPED: tifffile is not installed (extra io)")
from nibabel.testing import data_path  # noqa: E402

OBLIQUE = np.array(
    [[-0.79, 0.05, 0.6, 10.0], [0.02, -0.98, 0.9, -7.5], [0.1, 0.08, 2.2, 3.25], [0, 0, 0, 1]], np.float64
)
SIZES = tuple(np.sqrt((OBLIQUE[:3, :3] ** 2).sum(axis=0))[::-1])
SCANS = ["anatomical.nii", "example4d.nii.gz", "example_nifti2.nii.gz", "functional.nii"]


def volume(dtype=np.float32, shape=(4, 5, 6), unit="mm", affine=OBLIQUE):
    rng = np.random.default_rng(3)
    array = (rng.random(shape) * 200).astype(dtype)
    axes = {1: "x", 2: "yx", 3: "zyx", 4: "tzyx"}[len(shape)]
    return Volume(
        array, None if affine is not None else (2.5, 1.5, 0.75)[3 - min(3, len(shape)) :], affine, unit, axes
    )


def same_geometry(a, b, rtol=1e-6):
    assert a.axes == b.axes and a.unit == b.unit
    np.testing.assert_allclose(a.voxel_size, b.voxel_size, rtol=rtol)
    if a.affine is not None and b.affine is not None:
        np.testing.assert_allclose(a.affine, b.affine, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("name", SCANS)
def test_real_nifti_equals_nibabel(name):
    path = pathlib.Path(data_path) / name
    image, read = nib.load(path), mf.io.read(path)
    np.testing.assert_array_equal(read.affine, image.affine)
    expected = np.asanyarray(image.dataobj).T
    np.testing.assert_allclose(read.array, expected, rtol=1e-6)
    assert read.array.dtype.isnative and read.array.flags.c_contiguous
    assert read.unit == "mm"
    np.testing.assert_allclose(read.voxel_size, image.header.get_zooms()[:3][::-1])


def test_big_endian_integers_keep_dtype():
    read = mf.io.read(pathlib.Path(data_path) / "anatomical.nii")
    assert read.dtype == np.int16 and read.shape == (25, 41, 33) and read.voxel_size == (2, 2, 2)


def test_scaled_integers(tmp_path):
    raw = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nib.Nifti1Image(raw, np.eye(4))
    image.header.set_slope_inter(0.5, -1024)
    nib.save(image, tmp_path / "a.nii")
    # nibabel rescales on saving; write the raw values and the slope by hand
    loaded = nib.load(tmp_path / "a.nii")
    read = mf.io.read(tmp_path / "a.nii")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read.array.T, loaded.get_fdata(), rtol=1e-6)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".ome.tif", ".tif", ".npy"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6), (2, 4, 5, 6)])
def test_round_trip(tmp_path, suffix, dtype, shape):
    wanted = volume(dtype, shape)
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif" and dtype in (np.int16, np.float64):
        with pytest.raises(ValueError, match=r"ome\.tif"):
            mf.io.write(path, wanted)
        assert not path.exists()
        return
    mf.io.write(path, wanted)
    read = mf.io.read(path)
    assert read.dtype == wanted.dtype
    np.testing.assert_array_equal(read.array, wanted.array)
    same_geometry(read, wanted)


@pytest.mark.parametrize("unit", ["mm", "um"])
@pytest.mark.parametrize("suffix", [".nii", ".ome.tif", ".tif", ".npy"])
def test_sizes_without_orientation(tmp_path, suffix, unit):
    wanted = volume(affine=None, unit=unit)
    mf.io.write(tmp_path / f"a{suffix}", wanted)
    read = mf.io.read(tmp_path / f"a{suffix}")
    same_geometry(read, wanted)


@pytest.mark.parametrize("suffix", [".ome.tif", ".tif", ".npy"])
def test_conversion_keeps_geometry(tmp_path, suffix):
    original = mf.io.read(pathlib.Path(data_path) / "example4d.nii.gz")
    original = original.with_array(original.array.astype(np.float32))
    mf.io.write(tmp_path / f"a{suffix}", original)
    mf.io.write(tmp_path / "b.nii.gz", mf.io.read(tmp_path / f"a{suffix}"))
    back = mf.io.read(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(back.array, original.array)
    same_geometry(back, original)


def test_nifti_codes_and_time_survive(tmp_path):
    original = mf.io.read(pathlib.Path(data_path) / "example4d.nii.gz")
    mf.io.write(tmp_path / "a.nii", original)
    a, b = nib.load(pathlib.Path(data_path) / "example4d.nii.gz"), nib.load(tmp_path / "a.nii")
    for key in ("qform_code", "sform_code", "descrip"):
        assert a.header[key] == b.header[key]
    np.testing.assert_allclose(a.header.get_zooms(), b.header.get_zooms(), rtol=1e-6)
    assert a.header.get_xyzt_units() == b.header.get_xyzt_units()


def test_peers_read_our_sizes(tmp_path):
    wanted = volume(np.uint16, affine=None, unit="um")
    mf.io.write(tmp_path / "a.tif", wanted)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        meta = file.imagej_metadata
        assert meta["unit"] == "um" and meta["spacing"] == pytest.approx(2.5)
        numerator, denominator = file.pages[0].tags["XResolution"].value
        assert denominator / numerator == pytest.approx(0.75, rel=1e-6)
    mf.io.write(tmp_path / "a.ome.tif", wanted)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert file.series[0].axes == "ZYX" and 'PhysicalSizeZ="2.5"' in file.ome_metadata


def test_tiff_resolution_tag_in_centimetres(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.ones((4, 5), np.float32), resolution=(20.0, 10.0), resolutionunit="CENTIMETER"
    )
    read = mf.io.read(tmp_path / "a.tif")
    assert read.unit == "mm" and read.voxel_size == pytest.approx((1.0, 0.5))


def test_to_unit_scales_lengths_only():
    a = volume()
    b = a.to_unit("um")
    np.testing.assert_allclose(b.voxel_size, np.array(a.voxel_size) * 1000)
    np.testing.assert_allclose(b.affine[:3], a.affine[:3] * 1000)
    assert b.array is a.array or np.array_equal(a.array, b.array)
    with pytest.raises(ValueError, match="unknown"):
        volume(unit=None).to_unit("mm")


def test_spatial_indices_visit_every_volume():
    a = Volume(np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5), axes="tcyx")
    seen = [a.array[i] for i in a.spatial_indices()]
    assert len(seen) == 6 and all(s.shape == (4, 5) for s in seen)
    assert sum(int(s.sum()) for s in seen) == int(a.array.sum())


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.nii"):
        mf.io.read(tmp_path / "nothing.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".tif", ".ome.tif", ".npy"])
def test_text_under_another_name(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("this is a text file, whatever its name says\n" * 20)
    with pytest.raises(ValueError, match="not a readable"):
        mf.io.read(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".tif", ".npy"])
def test_truncated(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    mf.io.write(path, volume(np.float32, (20, 30, 40)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"a{suffix}"):
        mf.io.read(path)


def test_gzip_of_text(tmp_path):
    with gzip.open(tmp_path / "a.nii.gz", "wb") as file:
        file.write(b"text" * 500)
    with pytest.raises(ValueError, match="not a readable NIfTI"):
        mf.io.read(tmp_path / "a.nii.gz")


def test_objects_and_complex_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="numbers"):
        mf.io.read(tmp_path / "a.npy")
    with pytest.raises(TypeError, match="complex"):
        Volume(np.ones(3, complex))


@pytest.mark.parametrize(
    ("name", "kind"), [("a.dcm", NotImplementedError), ("a.png", ValueError), ("a", ValueError)]
)
def test_unknown_formats(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(kind, match=r"\.nii\.gz"):
        mf.io.read(tmp_path / name)
    with pytest.raises(kind, match=r"\.nii\.gz"):
        mf.io.write(tmp_path / name, volume())


@pytest.mark.parametrize("suffix", [".nii", ".tif", ".npy"])
def test_existing_output_is_kept(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="overwrite"):
        mf.io.write(path, volume())
    assert path.read_bytes() == b"precious"
    mf.io.write(path, volume(), overwrite=True)
    same_geometry(mf.io.read(path), volume())


def test_unwritable_destinations(tmp_path):
    with pytest.raises(FileNotFoundError, match="directory"):
        mf.io.write(tmp_path / "no" / "a.nii", volume())
    with pytest.raises(IsADirectoryError):
        mf.io.check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        mf.io.check_writable(tmp_path / "file" / "a.nii")


def test_no_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(_files.os, "access", lambda *_: False)  # permissions do not bind root
    with pytest.raises(PermissionError, match="no permission"):
        mf.io.write(tmp_path / "a.nii", volume())


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("suffix", [".nii.gz", ".tif", ".npy"])
def test_full_disk_leaves_nothing(tmp_path, monkeypatch, suffix, existing):
    path = tmp_path / f"a{suffix}"
    if existing:
        mf.io.write(path, volume())
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fails(temporary, *_, **__):
        pathlib.Path(temporary).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    for module in ("_nifti", "_tiff", "_npy"):
        monkeypatch.setattr(getattr(mf.io, module), "save", fails)
    with pytest.raises(OSError, match="No space left"):
        mf.io.write(path, mf.io.Volume(np.zeros((2, 3, 4), np.uint8), (9.0, 8.0, 7.0)), overwrite=True)
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert after == before


def test_missing_library_names_the_extra(tmp_path, monkeypatch):
    def nothing(name):
        raise ImportError(name)

    (tmp_path / "a.nii").write_bytes(b"")
    monkeypatch.setattr(_files.importlib, "import_module", nothing)
    with pytest.raises(ImportError, match=r"pip install 'medeconv-fast\[io\]'"):
        mf.io.read(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"voxel_size": (1, 2)}, "voxel_size"),
        ({"voxel_size": (1, 2, -1)}, "voxel_size"),
        ({"unit": "furlong"}, "unit"),
        ({"axes": "xyz"}, "axes"),
        ({"axes": "zy"}, "axes"),
        ({"affine": np.ones((3, 3))}, "affine"),
    ],
)
def test_volume_checks(options, name):
    with pytest.raises(ValueError, match=name):
        Volume(np.zeros((2, 3, 4)), **options)


# Errors that say which file


def test_npy_of_four_axes_says_the_way_out(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3, 4, 5), np.float32))
    with pytest.raises(ValueError, match=r"a\.npy: 4 axes .*a\.npy\.json .*\"axes\".*tzyx"):
        mf.io.read(tmp_path / "a.npy")
    (tmp_path / "a.npy.json").write_text('{"axes": "tzyx"}')
    read = mf.io.read(tmp_path / "a.npy")
    assert read.axes == "tzyx" and read.voxel_size is None
    for text in ("[]", "{}"):
        (tmp_path / "a.npy.json").write_text(text)
        with pytest.raises(ValueError, match=r"a\.npy\.json: does not describe"):
            mf.io.read(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", [".nii", ".ome.tif", ".tif"])
def test_refused_dtypes_name_the_file(tmp_path, suffix):
    with pytest.raises(ValueError, match=f"a{suffix}: float16 cannot be written"):
        mf.io.write(tmp_path / f"a{suffix}", volume(np.float16))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError("cannot write")])
def test_a_failed_write_names_the_file(tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(mf.io._tiff, "save", fails)
    with pytest.raises(OSError, match=r"(No space left|cannot write).*a\.tif") as raised:
        mf.io.write(tmp_path / "a.tif", volume())
    assert raised.value.errno == (error.errno or errno.EIO)
