"""Reading and writing: values, geometry, conversions, damaged files, interrupted writes."""

import errno
import gzip
import importlib.util
import itertools
import json
import pathlib
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import _extras
from medeconv_fast.io import Volume, _files, _source, _units

nib = pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
tifffile = pytest.importorskip("tifffile", reason="SKIPPED: tifffile is not installed (extra io)")
from nibabel.testing import data_path  # noqa: E402

OBLIQUE = np.array(
    [[-0.79, 0.05, 0.6, 10.0], [0.02, -0.98, 0.9, -7.5], [0.1, 0.08, 2.2, 3.25], [0, 0, 0, 1]], np.float64
)
UPRIGHT = np.eye(4)  # as turned, with perpendicular axes
UPRIGHT[:3] = np.hstack([np.linalg.qr(OBLIQUE[:3, :3])[0] * (0.8, 1, 2.4), OBLIQUE[:3, 3:]])
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


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npy", ".tif", ".ome.tif", ".mha", ".nhdr", ".zarr"])
def test_an_image_that_was_read_is_not_the_file(tmp_path, suffix):
    for library in {".mha": ["SimpleITK"], ".nhdr": ["SimpleITK"], ".zarr": ["zarr"]}.get(suffix, []):
        pytest.importorskip(library)
    path = tmp_path / f"a{suffix}"
    mf.io.write(path, volume())
    read = mf.io.read(path)
    files = sorted(p for p in [*tmp_path.iterdir(), *path.rglob("*")] if p.is_file())
    for file in files:
        size = file.stat().st_size
        with open(file, "r+b") as opened:  # in place, as programs do that write nothing beside
            opened.write(b"\xff" * size)
    np.testing.assert_array_equal(read.array, volume().array)
    for file in files:
        file.write_bytes(b"")  # a mapped page behind the end would kill the process
    np.testing.assert_array_equal(read.array, volume().array)
    assert read.array.flags.writeable


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


def test_from_dicom_through_nifti_and_ome_tiff(tmp_path):
    """An oblique series with its own scale: values, voxel size, unit and orientation reach the last file."""
    pydicom = pytest.importorskip("pydicom", reason="SKIPPED: pydicom is not installed (extra io)")
    right, down = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, 0.8])
    rng = np.random.default_rng(8)
    stored = rng.integers(0, 4000, (5, 6, 7)).astype(np.uint16)
    (tmp_path / "series").mkdir()
    for z, array in enumerate(stored):
        made = pydicom.dataset.Dataset()
        made.file_meta = pydicom.dataset.FileMetaDataset()
        made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        made.SOPClassUID, made.SOPInstanceUID = pydicom.uid.MRImageStorage, f"1.2.3.{z + 1}"
        made.SeriesInstanceUID = "1.2.3"
        made.Rows, made.Columns = array.shape
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
        made.PixelSpacing, made.ImageOrientationPatient = [0.9, 0.7], [*right, *down]
        made.ImagePositionPatient = [f"{v:.10f}" for v in [10, -20, 30] + 3.3 * z * np.cross(right, down)]
        made.RescaleSlope, made.RescaleIntercept = "0.125", "-7"
        made.PixelData = array.tobytes()
        made["PixelData"].VR = "OW"
        pydicom.dcmwrite(tmp_path / "series" / f"{z}.dcm", made, enforce_file_format=True)
    original = mf.io.read(tmp_path / "series")
    np.testing.assert_array_equal(original.array, stored * np.float32(0.125) - 7)
    read = original
    for name in ("a.nii.gz", "b.ome.tif", "c.nii"):
        mf.io.write(tmp_path / name, read)
        read = mf.io.read(tmp_path / name)
        np.testing.assert_array_equal(read.array, original.array)
        assert read.dtype == np.float32 and read.oriented
        same_geometry(read, original)
    np.testing.assert_allclose(nib.load(tmp_path / "c.nii").affine, original.affine, atol=1e-5)
    assert original.voxel_size == pytest.approx((3.3, 0.9, 0.7))


@pytest.mark.parametrize("suffix", [".ome.tif", ".tif", ".npy"])
def test_conversion_keeps_geometry(tmp_path, suffix):
    original = mf.io.read(pathlib.Path(data_path) / "example4d.nii.gz")
    original = original.with_array(original.array.astype(np.float32))
    mf.io.write(tmp_path / f"a{suffix}", original)
    mf.io.write(tmp_path / "b.nii.gz", mf.io.read(tmp_path / f"a{suffix}"))
    back = mf.io.read(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(back.array, original.array)
    same_geometry(back, original)


@pytest.mark.parametrize("name", ["a.Nii", "a.NII", "a.Nii.gz", "a.nii.Gz", "a.Tif", "a.Ome.tif", "a.Npy"])
def test_endings_in_mixed_case(tmp_path, name):
    """Libraries know them in lower case, and write or read under that name instead."""
    (tmp_path / name).write_bytes(b"old")
    mf.io.write(tmp_path / name, volume(), overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in mf.io.destinations(tmp_path / name)}
    mf.io.write(tmp_path / name.lower(), Volume(np.zeros((2, 3, 4), np.float32)), overwrite=True)
    np.testing.assert_array_equal(mf.io.read(tmp_path / name).array, volume().array)


def test_a_writer_that_writes_elsewhere_does_not_pass(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OSError, match=r"nothing was written.*a\.txt"):
        _files.write_whole(tmp_path / "a.txt", lambda _: None, overwrite=True)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_nifti_codes_and_time_survive(tmp_path):
    original = mf.io.read(pathlib.Path(data_path) / "example4d.nii.gz")
    mf.io.write(tmp_path / "a.nii", original)
    a, b = nib.load(pathlib.Path(data_path) / "example4d.nii.gz"), nib.load(tmp_path / "a.nii")
    for key in ("qform_code", "sform_code", "descrip"):
        assert a.header[key] == b.header[key]
    np.testing.assert_allclose(a.header.get_zooms(), b.header.get_zooms(), rtol=1e-6)
    assert a.header.get_xyzt_units() == b.header.get_xyzt_units()


def two_forms(path):
    """Scanner coordinates in the qform, a template's in the sform."""
    scanner = np.array([[0, -2.0, 0, 90], [1.5, 0, 0, -80], [0, 0, 3, -40], [0, 0, 0, 1]])
    template = np.array([[1.4, 0.5, 0, -60], [-0.2, 2.1, 0, 30], [0, 0, 3.2, 10], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), template)
    image.set_qform(scanner, 1)
    image.set_sform(template, 4)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pixdim says")
        return scanner, template, mf.io.read(path)


def test_the_unit_of_time_survives_without_time(tmp_path):
    """The durations of slices count in it."""
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "a.nii")
    read = mf.io.read(tmp_path / "a.nii")
    mf.io.write(tmp_path / "b.nii", read)
    assert nib.load(tmp_path / "b.nii").header.get_xyzt_units() == ("mm", "sec")
    assert "time_step" not in read.metadata
    pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
    mf.io.write(tmp_path / "c.ome.zarr", read)
    mf.io.write(tmp_path / "d.nii", mf.io.read(tmp_path / "c.ome.zarr"))
    assert nib.load(tmp_path / "d.nii").header.get_xyzt_units() == ("mm", "sec")


@pytest.mark.parametrize("suffix", [".nii", ".tif", ".ome.tif", ".mha", ".nrrd", ".npy", ".zarr"])
def test_bool_is_uint8_where_a_format_has_no_bool(tmp_path, suffix):
    for library in {".mha": ["SimpleITK"], ".nrrd": ["SimpleITK"], ".zarr": ["zarr"]}.get(suffix, []):
        pytest.importorskip(library)
    mask = volume().array > 100
    mf.io.write(tmp_path / f"a{suffix}", Volume(mask, (1, 1, 1), None, "mm"))
    read = mf.io.read(tmp_path / f"a{suffix}")
    assert read.dtype == (np.bool_ if suffix in (".npy", ".zarr") else np.uint8)
    np.testing.assert_array_equal(read.array, mask)


def test_a_second_alignment_survives_on_the_same_grid(tmp_path):
    scanner, template, read = two_forms(tmp_path / "a.nii")
    mf.io.write(tmp_path / "b.nii", read)
    mf.io.write(tmp_path / "c.nii", read.to_unit("um"))
    for name, factor in (("b.nii", 1), ("c.nii", 1000)):
        header = nib.load(tmp_path / name).header
        for (found, code), wanted in (
            (header.get_qform(coded=True), (scanner, 1)),
            (header.get_sform(coded=True), (template, 4)),
        ):
            assert code == wanted[1]
            np.testing.assert_allclose(found[:3] / factor, wanted[0][:3], atol=1e-4)


def test_a_second_alignment_is_not_made_up_for_another_grid(tmp_path):
    """The sform's coordinates under the qform's code would pass for the scanner's."""
    _, _, read = two_forms(tmp_path / "a.nii")
    cropped, _ = mf.preprocess.crop(read, ((1, 5), (0, 5), (0, 4)))
    mf.io.write(tmp_path / "b.nii", cropped)
    header = nib.load(tmp_path / "b.nii").header
    np.testing.assert_allclose(header.get_sform(), cropped.affine, atol=1e-4)
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 4)  # sheared: no qform holds it


def test_a_sheared_affine_is_not_left_to_the_qform(tmp_path):
    sheared = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    made = Volume(
        np.zeros((4, 5, 6), np.float32), None, sheared, "mm", metadata={"qform_code": 1, "sform_code": 0}
    )
    mf.io.write(tmp_path / "a.nii", made)
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii").affine, sheared, atol=1e-6)


@pytest.mark.parametrize(
    "suffix", [".nii", ".nii.gz", ".npy", ".tif", ".ome.tif", ".ome.zarr", ".nrrd", ".mha"]
)
def test_slanted_axes_are_said(tmp_path, suffix):
    """DICOM of a tilted gantry is refused; other formats may hold a grid that was built of it."""
    if suffix in (".nrrd", ".mha"):
        pytest.importorskip("SimpleITK", reason="SKIPPED: SimpleITK is not installed (extra itk)")
    if suffix == ".ome.zarr":
        pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
    functions, turned = both_ways(), np.linalg.qr(OBLIQUE[:3, :3])[0]
    for off, said in ((0.3, True), (0.0025, True), (0.001, False), (0, False)):
        slanted = np.array([[1, 0, off], [0, 1, 0], [0, 0, 1]])
        for number, affine in enumerate((slanted, turned @ slanted, turned @ slanted.T)):
            path = tmp_path / f"{off}-{number}{suffix}"
            affine = np.block([[affine, np.ones((3, 1))], [np.zeros((1, 3)), 1]])
            mf.io.write(path, volume(affine=affine))
            for function in functions:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", UserWarning)
                    function(path)
                texts = [str(w.message) for w in caught if w.category is UserWarning]
                assert len(texts) == said, texts
                if said and number == 0:
                    assert f"its axes x and z are {np.degrees(np.arctan(off)):.3g} degrees from" in texts[0]
                    assert "voxel sizes and blur count along the slanted axes" in texts[0]


def test_slanted_axes_in_a_file_of_planes(tmp_path):
    made = volume(shape=(5, 6), affine=np.diag([2.0, 3, 4, 1]) + 0.3 * np.eye(4, k=2))
    mf.io.write(tmp_path / "a.nii", made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mf.io.read(tmp_path / "a.nii")


def test_quaternions_of_nifti2_stay_readable(tmp_path):
    path = pathlib.Path(data_path) / "example_nifti2.nii.gz"
    mf.io.write(tmp_path / "a.nii", mf.io.read(path))
    header = nib.load(tmp_path / "a.nii").header
    np.testing.assert_allclose(header.get_qform(), nib.load(path).affine, atol=1e-3)
    assert int(header["qform_code"]) == 1


def test_further_fields_survive(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4))
    fields = {
        "descrip": "gef\xe4\xdft".encode("latin-1"),
        "intent_name": b"\xb5",
        "intent_p1": 2.5,
        "dim_info": 57,
        "slice_code": 3,
        "slice_end": 5,
        "slice_duration": 0.25,
    }
    for key, value in fields.items():
        image.header[key] = value
    nib.save(image, tmp_path / "a.nii")
    read = mf.io.read(tmp_path / "a.nii")
    mf.io.write(tmp_path / "b.nii", read)
    for key in fields:
        assert nib.load(tmp_path / "b.nii").header[key] == nib.load(tmp_path / "a.nii").header[key]
    mf.io.write(tmp_path / "c.nii", mf.preprocess.crop(read, ((1, 5), (0, 5), (0, 4)))[0])
    header = nib.load(tmp_path / "c.nii").header
    assert header["slice_code"] == header["slice_end"] == 0 and header["intent_p1"] == 2.5


def test_codes_that_nifti_lacks(tmp_path):
    made = Volume(np.zeros((4, 5, 6), np.float32), None, OBLIQUE, "mm", metadata={"sform_code": 77})
    with pytest.raises(ValueError, match=r"a\.nii: metadata: sform_code is 77, expected one of"):
        mf.io.write(tmp_path / "a.nii", made)


@pytest.mark.parametrize("suffix", [".nii", ".tif", ".ome.tif", ".npy", ".mha", ".nrrd", ".zarr"])
@pytest.mark.parametrize(
    ("step", "unit", "seconds"),
    [(2.5, "sec", 2.5), (40, "msec", 0.04), (2, "minute", 120), (3, "unknown", None)],
)
def test_the_time_step_survives(tmp_path, suffix, step, unit, seconds):
    if suffix in (".mha", ".nrrd"):
        pytest.importorskip("SimpleITK", reason="SKIPPED: SimpleITK is not installed (extra itk)")
    if suffix == ".zarr":
        pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
    made = volume(shape=(2, 4, 5, 6))
    made.metadata |= {"time_step": step, "time_unit": unit}
    mf.io.write(tmp_path / f"a{suffix}", made)
    mf.io.write(tmp_path / "b.nii", mf.io.read(tmp_path / f"a{suffix}"))
    header = nib.load(tmp_path / "b.nii").header
    factor = {"sec": 1, "msec": 1e-3, "unknown": None}[header.get_xyzt_units()[1]]
    found = float(header.get_zooms()[3])
    assert (factor is None) == (seconds is None)
    assert found == pytest.approx(step) if seconds is None else found * factor == pytest.approx(seconds)


def test_time_steps_of_other_programs(tmp_path):
    stack = np.ones((3, 4, 5), np.float32)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TYX", "finterval": 0.5})
    about = {"axes": "TYX", "TimeIncrement": 2.0, "TimeIncrementUnit": "min"}
    tifffile.imwrite(tmp_path / "b.ome.tif", stack, ome=True, metadata=about)
    for name, wanted in (("a.tif", (0.5, "sec")), ("b.ome.tif", (2.0, "minute"))):
        metadata = mf.io.read(tmp_path / name).metadata
        assert (metadata["time_step"], metadata["time_unit"]) == wanted


@pytest.mark.parametrize(("step", "unit"), [(1.0, "fortnight"), (-1.0, "sec"), (np.nan, "sec")])
def test_impossible_time_steps(tmp_path, step, unit):
    made = volume(shape=(2, 4, 5, 6))
    made.metadata |= {"time_step": step, "time_unit": unit}
    with pytest.raises(ValueError, match=r"a\.nii: metadata: time_(unit|step) is"):
        mf.io.write(tmp_path / "a.nii", made)


@pytest.mark.parametrize("change", ["half", "cropped", "edited", "none"])
def test_an_orientation_that_another_program_has_outdated(tmp_path, change):
    """It keeps the description, and knows nothing of the line in it."""
    made = volume(shape=(4, 6, 8))
    if change == "edited":
        mf.io.write(tmp_path / "a.ome.tif", made)
        text = tifffile.TiffFile(tmp_path / "a.ome.tif").ome_metadata
        x = made.voxel_size[2]
        assert f'PhysicalSizeX="{x}"' in text
        text = text.replace(f'PhysicalSizeX="{x}"', f'PhysicalSizeX="{x / 2}"')
        path = tmp_path / "b.ome.tif"
        tifffile.imwrite(path, made.array, photometric="minisblack", metadata=None, description=text)
    else:
        mf.io.write(tmp_path / "a.tif", made)
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            about = file.imagej_metadata
        array, sizes = made.array, list(made.voxel_size)
        if change == "half":
            array, sizes = array[:, ::2, ::2], [sizes[0], 2 * sizes[1], 2 * sizes[2]]
        if change == "cropped":
            array = array[:, 1:]
        path = tmp_path / "b.tif"
        metadata = {"axes": "ZYX", "unit": "mm", "spacing": sizes[0], "Info": about["Info"]}
        resolution = (1 / sizes[2], 1 / sizes[1])
        tifffile.imwrite(path, array, imagej=True, metadata=metadata, resolution=resolution)
    if change == "none":
        np.testing.assert_allclose(mf.io.read(path).affine, OBLIQUE)
        return
    with pytest.warns(UserWarning, match="another program has changed the image or its voxel size"):
        read = mf.io.read(path)
    assert read.affine is None
    factor = {"half": (1, 2, 2), "cropped": (1, 1, 1), "edited": (1, 1, 0.5)}[change]
    np.testing.assert_allclose(read.voxel_size, np.array(made.voxel_size) * factor, rtol=1e-5)


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


@pytest.mark.filterwarnings("ignore:.*another program has changed")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".tif", ".npy"])
def test_truncated(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    mf.io.write(path, volume(np.float32, (20, 30, 40)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"a{suffix}"):
        mf.io.read(path)


def test_damage_that_only_the_checksum_shows(tmp_path):
    """Stored blocks decompress whatever they hold."""
    wanted = volume(shape=(8, 30, 40))
    mf.io.write(tmp_path / "a.nii", wanted)
    content = bytearray(gzip.compress((tmp_path / "a.nii").read_bytes(), 0))
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert np.array_equal(mf.io.read(tmp_path / "a.nii.gz").array, wanted.array)
    content[20000] ^= 0x10
    (tmp_path / "a.nii.gz").write_bytes(content)
    streamed = _source.open_streamed(tmp_path / "a.nii.gz")
    for function in (lambda: mf.io.read(tmp_path / "a.nii.gz"), lambda: streamed.read(0)):
        with pytest.raises(ValueError, match=r"a\.nii\.gz: the file ends early or is damaged \(CRC"):
            function()


@pytest.mark.filterwarnings("ignore:.*pixdim says")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("datatype", 9999),
        ("datatype", 1),
        ("datatype", 1536),
        ("scl_inter", np.nan),
        ("scl_inter", np.inf),
        ("vox_offset", 10),
        ("vox_offset", -5),
        ("dim", [9, 6, 5, 4, 1, 1, 1, 1]),
        ("dim", [3, 6, 0, 4, 1, 1, 1, 1]),
        ("dim", [3, 32000, 32000, 32000, 1, 1, 1, 1]),
        ("xyzt_units", 7),
        ("srow_x", 0),
    ],
)
def test_impossible_headers(tmp_path, suffix, field, value):
    mf.io.write(tmp_path / "a.nii", volume())
    content = bytearray((tmp_path / "a.nii").read_bytes())
    header = np.frombuffer(content, nib.nifti1.header_dtype, 1)
    header["scl_slope"] = 1
    header[field] = value
    path = tmp_path / f"b{suffix}"
    path.write_bytes(content if suffix == ".nii" else gzip.compress(content))
    with pytest.raises(ValueError, match=rf"b\{suffix}: ."):
        mf.io.read(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("offset", [0, 10, 348])
@pytest.mark.parametrize(("kind", "least"), [(nib.Nifti1Image, 352), (nib.Nifti2Image, 544)])
def test_a_header_is_no_voxels(tmp_path, suffix, offset, kind, least):
    nib.save(kind(np.ones((6, 5, 4), np.float32), np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    header = np.frombuffer(content, kind.header_class.template_dtype, 1)
    assert header["vox_offset"] == least
    header["vox_offset"] = offset
    path = tmp_path / f"b{suffix}"
    path.write_bytes(content if suffix == ".nii" else gzip.compress(content))
    for function in (mf.io.read, mf.io.open_source, _source.open_streamed):
        with pytest.raises(ValueError, match=rf"b\{suffix}: .*vox.offset.* {offset}\b"):
            function(path)


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


@pytest.mark.parametrize(("name", "kind"), [("a.png", ValueError), ("a", ValueError)])
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
    (tmp_path / "link.nii").symlink_to("nothing.nii")
    with pytest.raises(FileExistsError):
        mf.io.check_writable(tmp_path / "link.nii")


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
    monkeypatch.setattr(_extras.importlib, "import_module", nothing)
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
        (
            {"voxel_size": (1, 1, 1), "affine": np.diag([2.0, 2, 2, 1])},
            r"affine: says voxels of \(2\.0, 2\.0",
        ),
        ({"affine": np.diag([1.0, 0, 1, 1])}, "affine: got axes that span no space"),
        ({"affine": np.array([[1.0, 2, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])}, "span no space"),
    ],
)
def test_volume_checks(options, name):
    with pytest.raises(ValueError, match=name):
        Volume(np.zeros((2, 3, 4)), **options)


def test_masks_are_not_dropped():
    """Beneath a mask stands what marks a voxel as not measured, such as -9999."""
    masked = np.ma.masked_less(np.array([[-9999.0, 1], [2, 3]]), 0)
    with pytest.raises(TypeError, match="array: got a masked array"):
        Volume(masked, (1, 1), None, "mm")
    with pytest.raises(TypeError, match="array: got a masked array"):
        Volume(np.zeros((2, 2))).with_array(masked)
    assert Volume(masked.filled(0)).array.min() == 0


# Lengths and their units


@pytest.mark.parametrize("name", ["Bead_Image1_crop.tif", "DeconvolutionSampleVerticalGrid1AU-crop.tif"])
@pytest.mark.shared
def test_real_bead_stacks_keep_their_unit(shared_data, name):
    """ImageJ writes the micro sign as a literal backslash and u00B5."""
    read = mf.io.read(shared_data / "micro_confocal_beads_bia" / name)
    assert read.unit == "um"
    assert read.voxel_size == pytest.approx((0.125, 0.0225, 0.0225), rel=0.03)


@pytest.mark.parametrize(
    ("name", "unit", "size"),
    [
        (r"\u00B5m", "um", 0.5),
        (r"\u00b5m", "um", 0.5),
        ("µm", "um", 0.5),
        ("μm", "um", 0.5),
        ("Micron", "um", 0.5),
        ("microns", "um", 0.5),
        ("micrometers", "um", 0.5),
        ("micrometre", "um", 0.5),
        ("UM", "um", 0.5),
        ("MM", "mm", 0.5),
        ("millimeter", "mm", 0.5),
        ("Millimetres", "mm", 0.5),
        ("cm", "mm", 5),
        ("inches", "mm", 12.7),
        ("nanometer", "um", 0.0005),
        ("Å", "um", 0.00005),
        ("pixel", None, 0.5),
        ("furlong", None, 0.5),
    ],
)
def test_names_of_units(tmp_path, name, unit, size):
    path = tmp_path / "a.tif"
    # The description as ImageJ writes it: tifffile's own writer would escape the name.
    tifffile.imwrite(
        path,
        np.ones((3, 4, 5), np.float32),
        imagej=True,
        resolution=(2, 2),
        metadata={"axes": "ZYX", "unit": "um", "spacing": 0.5},
    )
    tifffile.tiffcomment(path, f"ImageJ=1.53f\nimages=3\nslices=3\nunit={name}\nspacing=0.5\n".encode())
    read = mf.io.read(path)
    assert read.unit == unit
    assert read.voxel_size == pytest.approx((size,) * 3)


@pytest.mark.parametrize(
    ("dtype", "line", "read_as"),
    [
        (np.uint16, (-32768.0, 1.0), np.int16),  # how ImageJ saves signed values
        (np.uint16, (-1024.0, 1.0), np.float32),
        (np.uint8, (5.0, -0.5), np.float32),
        (np.float32, (-32768.0, 1.0), np.float32),  # of which ImageJ calibrates none
    ],
)
def test_calibrated_values_of_imagej(tmp_path, dtype, line, read_as):
    path = tmp_path / "a.tif"
    stored = np.array([0, 1, 100, 255, 40000, 65535], np.float64).clip(0, 255 if dtype == np.uint8 else None)
    stored = stored.reshape(1, 2, 3).astype(dtype)
    cf = {"cf": 0, "c0": line[0], "c1": line[1], "vunit": "Gray Value"}
    tifffile.imwrite(path, stored, imagej=True, metadata={"axes": "ZYX", **cf})
    expected = stored[0] if dtype == np.float32 else stored[0] * line[1] + line[0]
    read = mf.io.read(path)
    assert read.dtype == read_as
    np.testing.assert_array_equal(read.array, expected)
    if importlib.util.find_spec("zarr"):
        source = mf.io.open_source(path)
        assert source.dtype == read_as
        np.testing.assert_array_equal(source.read(0), expected)
    tifffile.imwrite(path, stored, imagej=True, metadata={"axes": "ZYX", **cf, "cf": 1, "c2": 0.5})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(mf.io.read(path).array, stored[0])
    assert ["cf=1" in str(w.message) for w in told] == ([True] if dtype != np.float32 else [])


def test_case_tells_megametres_from_millimetres():
    assert _units.in_um("mm") == 1e3 and _units.in_um("Mm") == 1e12
    assert _units.in_um("nm") == 1e-3 and _units.in_um(None) is None


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".nii", ".npy"])
@pytest.mark.parametrize("size", [(3, 1, 0.5), (0.25, 0.5)])
def test_sizes_without_unit_are_kept(tmp_path, suffix, size):
    path = tmp_path / f"a{suffix}"
    mf.io.write(path, Volume(np.ones((5, 6, 7)[: len(size)], np.float32), size))
    read = mf.io.read(path)
    assert read.unit is None and read.voxel_size == pytest.approx(size)


def test_units_that_differ_by_axis(tmp_path):
    path = tmp_path / "a.ome.tif"
    sizes = {"PhysicalSizeX": 250.0, "PhysicalSizeY": 0.3, "PhysicalSizeZ": 0.002}
    units = {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "µm", "PhysicalSizeZUnit": "mm"}
    array = np.ones((3, 4, 5), np.float32)
    tifffile.imwrite(path, array, ome=True, metadata={"axes": "ZYX", **sizes, **units})
    read = mf.io.read(path)
    assert read.unit == "um" and read.voxel_size == pytest.approx((2, 0.3, 0.25))
    tifffile.imwrite(
        tmp_path / "b.tif",
        array,
        imagej=True,
        resolution=(4, 2),
        metadata={"axes": "ZYX", "unit": "um", "yunit": "nm", "spacing": 0.002, "zunit": "mm"},
    )
    read = mf.io.read(tmp_path / "b.tif")
    assert read.unit == "um" and read.voxel_size == pytest.approx((2, 0.0005, 0.25))


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"PhysicalSizeX": 1.5, "PhysicalSizeY": 1.5}, "no voxel size along z"),
        (
            {"PhysicalSizeX": 1.5, "PhysicalSizeY": 1.5, "PhysicalSizeZ": 2, "PhysicalSizeZUnit": "pixel"},
            "no unit of its voxel size along z",
        ),
    ],
)
def test_sizes_that_do_not_fit_together_are_not_dropped_silently(tmp_path, sizes, text):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.ones((3, 4, 5), np.float32), ome=True, metadata={"axes": "ZYX", **sizes})
    with pytest.warns(UserWarning, match=f"a.ome.tif: {text}"):
        assert mf.io.read(path).voxel_size is None


# Axes


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".npy"])
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("zyx", (4, 6, 1)),
        ("zyx", (4, 1, 7)),
        ("zyx", (1, 6, 7)),
        ("zyx", (1, 1, 1)),
        ("yx", (6, 1)),
        ("yx", (1, 7)),
        ("x", (7,)),
        ("x", (1,)),
        ("tzyx", (1, 4, 6, 7)),
        ("tyx", (1, 6, 7)),
        ("czyx", (1, 1, 6, 7)),
        ("zcyx", (3, 2, 6, 7)),
        ("tczyx", (2, 1, 3, 1, 7)),
    ],
)
def test_axes_of_one_survive(tmp_path, suffix, axes, shape):
    path = tmp_path / f"a{suffix}"
    sizes = (3.0, 2.0, 0.5)[3 - sum(a in "zyx" for a in axes) :]
    wanted = Volume(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), sizes, None, "um", axes)
    mf.io.write(path, wanted)
    read = mf.io.read(path)
    np.testing.assert_array_equal(read.array, wanted.array)
    same_geometry(read, wanted)


def test_others_single_planes_stay_images(tmp_path):
    for name, kind in (("a.tif", {"imagej": True}), ("a.ome.tif", {"ome": True})):
        tifffile.imwrite(tmp_path / name, np.ones((1, 1, 1, 6, 7), np.float32), **kind)
        assert mf.io.read(tmp_path / name).axes == "yx"


def test_stored_axes_that_no_longer_fit_are_ignored(tmp_path):
    """Another program may have joined images and kept the description."""
    mf.io.write(tmp_path / "a.tif", volume(shape=(1, 5, 6), affine=None))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        info = file.imagej_metadata["Info"]
    joined = np.ones((3, 1, 1, 5, 6, 1), np.float32)
    tifffile.imwrite(tmp_path / "b.tif", joined, imagej=True, metadata={"axes": "TZCYXS", "Info": info})
    assert mf.io.read(tmp_path / "b.tif").axes == "tyx"


@pytest.mark.parametrize("axes", ["zcyx", "cyx", "czyx", "ctzyx"])
def test_channels_stay_channels_in_nifti(tmp_path, axes):
    shape = tuple({"t": 2, "c": 3, "z": 4, "y": 5, "x": 6}[a] for a in axes)
    wanted = Volume(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), axes=axes)
    mf.io.write(tmp_path / "a.nii", wanted)
    read = mf.io.read(tmp_path / "a.nii")
    assert read.shape[read.axes.index("c")] == 3
    got = np.moveaxis(read.array, read.axes.index("c"), 0)
    np.testing.assert_array_equal(np.squeeze(got), np.moveaxis(wanted.array, axes.index("c"), 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("samples", [2, 3, 4])
@pytest.mark.parametrize("suffix", [".ome.tif", ".npy"])
def test_colour_samples(tmp_path, suffix, samples, dtype):
    shape = (2, 5, 6, samples)
    wanted = Volume(np.arange(np.prod(shape)).reshape(shape).astype(dtype), axes="zyxs")
    mf.io.write(tmp_path / f"a{suffix}", wanted)
    read = mf.io.read(tmp_path / f"a{suffix}")
    assert read.axes == "zyxs" and read.dtype == dtype
    np.testing.assert_array_equal(read.array, wanted.array)


@pytest.mark.parametrize("suffix", [".tif", ".nii"])
def test_colour_samples_are_refused_with_a_way_out(tmp_path, suffix):
    with pytest.raises(ValueError, match=rf"a{suffix}: colour samples .*ending in \.ome\.tif or \.npy"):
        mf.io.write(tmp_path / f"a{suffix}", Volume(np.ones((5, 6, 3), np.uint8), axes="yxs"))


# Orientation


def test_no_orientation_is_gained(tmp_path):
    """NIfTI with both codes 0: the affine is nibabel's, and what is written claims no more than the file."""
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), None)
    image.header.set_zooms((0.5, 2, 3))
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    read = mf.io.read(tmp_path / "a.nii")
    np.testing.assert_array_equal(read.affine, nib.load(tmp_path / "a.nii").affine)
    assert not read.oriented and read.voxel_size == (3, 2, 0.5)
    for name in ("b.nii", "b.tif", "b.ome.tif", "b.npy"):
        mf.io.write(tmp_path / name, read)
        again = mf.io.read(tmp_path / name)
        assert not again.oriented and again.voxel_size == pytest.approx((3, 2, 0.5))
        mf.io.write(tmp_path / "c.nii", again, overwrite=True)
        header = nib.load(tmp_path / "c.nii").header
        assert (header["qform_code"], header["sform_code"]) == (0, 0)
        np.testing.assert_allclose(nib.load(tmp_path / "c.nii").affine, read.affine, rtol=1e-6)


@pytest.mark.parametrize("pixdim", [(1, 1, 1), (0, 0, 0)])
def test_sizes_that_contradict_the_sform(tmp_path, pixdim):
    """The affine decides, as in other programs; else the blur would depend on the file's format."""
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.diag([0.5, 0.5, 3, 1]))
    image.header["pixdim"][1:4] = pixdim
    image.header["qform_code"] = 0
    image.header["vox_offset"] = 352
    image.header.set_xyzt_units("mm")
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + bytes(4) + bytes(4 * 120))
    with pytest.warns(UserWarning, match="a.nii: pixdim says .* the sform's are taken"):
        read = mf.io.read(tmp_path / "a.nii")
    assert read.voxel_size == (3, 0.5, 0.5)
    np.testing.assert_array_equal(read.affine, np.diag([0.5, 0.5, 3, 1]))


def test_an_orientation_given_to_such_a_volume_is_kept(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), None), tmp_path / "a.nii")
    read = mf.io.read(tmp_path / "a.nii")
    turned = Volume(read.array, None, OBLIQUE, "mm", read.axes, read.metadata)
    assert turned.oriented and turned.voxel_size == pytest.approx(SIZES)
    for name in ("b.nii", "b.tif", "b.npy"):
        mf.io.write(tmp_path / name, turned)
        np.testing.assert_allclose(mf.io.read(tmp_path / name).affine, OBLIQUE, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unit", [None, "mm"])
def test_unknown_voxel_size_stays_unknown(tmp_path, unit):
    wanted = Volume(np.ones((4, 5, 6), np.float32), unit=unit)
    names = ["a.tif", "b.nii", "c.nii.gz", "d.ome.tif", "e.npy", "f.nii", "g.tif"]
    for name in names:
        mf.io.write(tmp_path / name, wanted)
        wanted = mf.io.read(tmp_path / name)
        assert wanted.voxel_size is None, name


# Compressed files, and errors that say which file


@pytest.mark.shared
def test_real_compressed_stacks(shared_data):
    pytest.importorskip("imagecodecs", reason="SKIPPED: imagecodecs is not installed (extra io)")
    for name in ("pollen.tif", "pollen_psf.tif", "pollen_poisson_noise_blurred.tif"):
        read = mf.io.read(shared_data / "micro_pollen_sdeconv" / name)
        assert read.axes == "zyx" and read.shape == (32, 256, 256)
        assert np.isfinite(read.array).all() and read.array.max() > read.array.min()


COMPRESSIONS = [("lzw", False), ("zlib", True), ("zstd", False), ("packbits", False)]


@pytest.mark.parametrize(("compression", "predictor"), COMPRESSIONS)
def test_compressed_tiff(tmp_path, compression, predictor):
    pytest.importorskip("imagecodecs", reason="SKIPPED: imagecodecs is not installed (extra io)")
    path, array = tmp_path / "a.tif", volume(shape=(3, 40, 50)).array
    tifffile.imwrite(path, array, compression=compression, predictor=predictor, photometric="minisblack")
    np.testing.assert_array_equal(mf.io.read(path).array, array)
    content = bytearray(path.read_bytes())
    content[2000:6000] = bytes([0xFE]) * 4000
    path.write_bytes(bytes(content))
    if compression != "packbits":  # any bytes are packbits
        with pytest.raises(ValueError, match=r"a\.tif"):
            mf.io.read(path)


def test_compressed_tiff_without_imagecodecs_names_the_extra(tmp_path):
    pytest.importorskip("imagecodecs", reason="SKIPPED: imagecodecs is not installed (extra io)")
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 9), np.float32), compression="lzw")
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "import medeconv_fast as mf\n"
        "try:\n    mf.io.read('a.tif')\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.startswith("a.tif: ") and "LZW" in done.stdout
    assert "pip install 'medeconv-fast[io]'" in done.stdout


def test_further_images_of_a_tiff_are_not_left_out_silently(tmp_path):
    """Frames appended one by one are as many images, of which readers return the first."""
    tifffile = pytest.importorskip("tifffile")
    frames = np.arange(120, dtype=np.uint16).reshape(4, 5, 6)
    for number, frame in enumerate(frames):
        tifffile.imwrite(tmp_path / "x.tif", frame, append=number > 0)
    with pytest.warns(
        UserWarning, match=r"x.tif: holds 4 images, of which the first is read, \(5, 6\); series=1"
    ):
        assert np.array_equal(mf.io.read(tmp_path / "x.tif").array, frames[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(mf.io.read(tmp_path / "x.tif", series=2).array, frames[2])


@pytest.mark.parametrize("kind", ["planes", "file"])
def test_missing_planes_are_not_zeros(tmp_path, kind):
    """OME-XML may name planes that the file, or another of its set, does not have."""
    path = tmp_path / "a.ome.tif"
    stack = np.arange(1, 121, dtype=np.uint16).reshape(6, 4, 5)
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "ZYX"})
    text = tifffile.TiffFile(path).ome_metadata
    if kind == "planes":
        text = text.replace('SizeZ="6"', 'SizeZ="8"').replace('PlaneCount="6"', 'PlaneCount="8"')
    else:
        other = '<TiffData FirstZ="4" PlaneCount="2"><UUID FileName="b.ome.tif">urn:uuid:b</UUID></TiffData>'
        text = text.replace('<TiffData IFD="0" PlaneCount="6"/>', '<TiffData PlaneCount="4"/>' + other)
    tifffile.imwrite(path, stack, photometric="minisblack", metadata=None, description=text)
    opened = [mf.io.read]
    if importlib.util.find_spec("zarr"):
        opened.append(mf.io.open_source)
    for function in opened:
        with pytest.raises(ValueError, match=r"a\.ome\.tif: 2 of [68] planes .* are missing"):
            function(path)


def ome_image(number, shape, size, inside):
    """An Image of OME-XML with the axes z, y, x."""
    sizes = "".join(f' Size{a}="{n}" PhysicalSize{a}="{size}"' for a, n in zip("ZYX", shape, strict=True))
    pixels = f'ID="Pixels:{number}" DimensionOrder="XYZCT" Type="uint16"{sizes} SizeC="1" SizeT="1"'
    channel = f'<Channel ID="Channel:{number}:0" SamplesPerPixel="1"/>'
    return f'<Image ID="Image:{number}"><Pixels {pixels}>{channel}{inside}</Pixels></Image>'


def in_file(name, planes, first=0):
    uuid = f'<UUID FileName="{name}.ome.tif">urn:uuid:{name}</UUID>'
    return f'<TiffData FirstZ="{first}" IFD="0" PlaneCount="{planes}">{uuid}</TiffData>'


def write_ome(folder, name, array, inside):
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    text = f'<?xml version="1.0"?><OME xmlns="{schema}" UUID="urn:uuid:{name}">{inside}</OME>'
    path = folder / f"{name}.ome.tif"
    tifffile.imwrite(path, array, photometric="minisblack", metadata=None, description=text)
    return path


@pytest.mark.parametrize("planes", [1, 3])
def test_images_of_an_ome_tiff_in_several_files(tmp_path, planes):
    """Each comes from its file, whichever of the set is opened."""
    a = np.arange(planes * 20, dtype=np.uint16).reshape(planes, 4, 5)
    b, shape = a + 1000, (planes, 4, 5)
    images = ome_image(0, shape, 0.5, in_file("a", planes)) + ome_image(1, shape, 2.0, in_file("b", planes))
    paths = [write_ome(tmp_path, "a", a, images), write_ome(tmp_path, "b", b, images)]
    for path, function in itertools.product(paths, both_ways()):
        for series, (array, size) in enumerate([(a, 0.5), (b, 2.0)]):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read = function(path, series=series)
            values = read.read(0) if function is not mf.io.read else read.array
            np.testing.assert_array_equal(values, array[0] if values.ndim == 2 else array)
            assert set(read.voxel_size) == {size}


@pytest.mark.parametrize("lost", ["file", "planes"])
def test_an_image_of_an_ome_tiff_beside_one_that_is_not_at_hand(tmp_path, lost):
    """Its voxel size is its own, not that of the first which is described."""
    a, b = np.zeros((3, 4, 5), np.uint16), np.ones((2, 6, 7), np.uint16)
    elsewhere = in_file("a", 3) if lost == "file" else "<MetadataOnly/>"
    images = ome_image(0, a.shape, 9.0, elsewhere) + ome_image(1, b.shape, 0.5, in_file("b", 2))
    path = write_ome(tmp_path, "b", b, images)
    for function in both_ways():
        assert function(path).voxel_size == (0.5, 0.5, 0.5)
    same = ome_image(0, b.shape, 9.0, elsewhere) + ome_image(1, b.shape, 0.5, in_file("b", 2))
    path = write_ome(tmp_path, "b", b, same)
    for function in both_ways():
        with pytest.warns(UserWarning, match="describes 2 images, of which 1 are at hand, and which this is"):
            assert function(path).voxel_size is None


def test_a_part_of_a_set_that_another_file_describes(tmp_path):
    inside = '<BinaryOnly MetadataFile="x.companion.ome" UUID="urn:uuid:x"/>'
    path = write_ome(tmp_path, "z0", np.zeros((4, 5), np.uint16), inside)
    for function in both_ways():
        with pytest.raises(
            ValueError, match=r"z0\.ome\.tif: holds a part of an image that .* x\.companion\.ome"
        ):
            function(path)


def test_an_image_whose_planes_lie_in_two_files(tmp_path):
    stack = np.arange(80, dtype=np.uint16).reshape(4, 4, 5)
    image = ome_image(0, stack.shape, 0.5, in_file("a", 1) + in_file("b", 3, 1))
    paths = [write_ome(tmp_path, "a", stack[:1], image), write_ome(tmp_path, "b", stack[1:], image)]
    for path in paths:
        np.testing.assert_array_equal(mf.io.read(path).array, stack)
        assert set(paths) <= set(mf.io.sources(path))  # so that none is replaced by the result
    if importlib.util.find_spec("zarr"):
        before = [mf.io.open_source(path).identity() for path in paths]
        write_ome(tmp_path, "b", stack[1:] + 100, image)
        assert all(mf.io.open_source(path).identity() != was for path, was in zip(paths, before, strict=True))


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ('SizeX="0.5"', 'SizeX=""', "no voxel size along x"),
        ('SizeX="0.5"', 'SizeX="abc"', "no voxel size along x"),
        ('SizeX="0.5"', 'SizeX="-0.1"', "no voxel size along x"),
        ('="0.5"', '="INF"', "no voxel size along y, x"),
        (r'l(SizeZ|SizeY|SizeX)="[\d.]+"', r'l\1="0"', r"its voxel size \(z 0, y 0, x 0\) is left out"),
        (r'l(SizeZ|SizeY|SizeX)="[\d.]+"', r'l\1=""', r"its voxel size \(z nan, y nan, x nan\) is left out"),
        ("</Pixels>", "", r"its OME-XML is damaged \(mismatched tag"),
        ('SizeX="0.5"', 'SizeX="0.5" &', r"its OME-XML is damaged \(not well-formed"),
        ("</Image>.*", "", r"its OME-XML is damaged \(it has no end\)"),
    ],
)
def test_sizes_that_are_none_in_ome_tiff(tmp_path, before, after, text):
    array, path = np.arange(120, dtype=np.uint16).reshape(4, 5, 6), tmp_path / "a.ome.tif"
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(path, array, ome=True, metadata={"axes": "ZYX", **sizes})
    with tifffile.TiffFile(path) as file:
        said = file.ome_metadata
    changed = re.sub(before, after, said, flags=re.DOTALL)
    assert changed != said
    tifffile.imwrite(path, array, photometric="minisblack", metadata=None, description=changed)
    for function in both_ways():
        with pytest.warns(UserWarning, match=rf"a\.ome\.tif: {text}"):
            read = function(path)
        assert (read.shape, read.voxel_size, read.unit) == (array.shape, None, None)


RAMP = np.arange(256, dtype=np.uint16) * 257
MIXED = np.random.default_rng(5).permutation(RAMP)


def both_ways():
    return [mf.io.read, *([mf.io.open_source] if importlib.util.find_spec("zarr") else [])]


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_numbers_of_colours_are_no_intensities(tmp_path, name):
    """Of a palette; one of the shades of a single colour only shows intensities in it."""
    array = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    other = MIXED[::-1].copy()

    def options(palette):
        return {"photometric": "palette", "colormap": np.array(palette), "metadata": None}

    for palette in ([MIXED] * 3, [RAMP, RAMP[::-1].copy(), other], [0 * RAMP] * 3, [MIXED >> 8] * 3):
        tifffile.imwrite(tmp_path / name, array, ome=False, **options(palette))
        for function in both_ways():
            with pytest.raises(ValueError, match=r"a\..*tif: holds colours by a palette.*convert it to RGB"):
                function(tmp_path / name)
    for palette in ([RAMP] * 3, [0 * RAMP, RAMP, 0 * RAMP], [RAMP[::-1]] * 3, [RAMP >> 8] * 3):
        tifffile.imwrite(tmp_path / name, array, ome=False, **options(palette))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for function in both_ways():
                function(tmp_path / name)
        np.testing.assert_array_equal(mf.io.read(tmp_path / name).array, array)


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_microscopes_show_intensities_by_a_palette(tmp_path, kind):
    """ImageJ stores its look-up table as one."""
    array, path = np.arange(120, dtype=np.uint8).reshape(4, 5, 6), tmp_path / f"a.{kind}.tif"
    options = {"photometric": "palette", "colormap": np.array([MIXED, RAMP, MIXED]), "metadata": None}
    said = "ImageJ=1.53t\nimages=4\nslices=4\n"
    if kind == "ome":
        tifffile.imwrite(path, array, ome=True)
        with tifffile.TiffFile(path) as file:
            said = file.ome_metadata
    tifffile.imwrite(path, array, description=said, **options)
    for function in both_ways():
        with pytest.warns(UserWarning, match=r"a\..*tif: its values are shown in colours of a palette"):
            function(path)
    with pytest.warns(UserWarning):
        np.testing.assert_array_equal(mf.io.read(path).array, array)
    heat = [np.clip(3 * RAMP.astype(int) - k * 65535, 0, 65535).astype(np.uint16) for k in range(3)]
    tifffile.imwrite(path, array, description=said, **options | {"colormap": np.array(heat)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mf.io.read(path)


def test_other_colours_than_rgb_are_refused(tmp_path):
    """Inks taken for light would be restored as its inverse."""
    three, path = np.arange(240, dtype=np.uint8).reshape(8, 10, 3), tmp_path / "a.tif"
    four = np.concatenate([three, three[..., :1]], -1)
    for kind, array in (
        *((k, three) for k in ("cielab", "icclab", "itulab", "logluv", "ycbcr", "linear_raw")),
        *((k, three[..., 0]) for k in ("logl", "cfa")),
        ("separated", four),
    ):
        pattern = [(33421, 3, 2, (2, 2), True), (33422, 1, 4, (0, 1, 1, 2), True)]
        tifffile.imwrite(path, array, photometric=kind, extratags=pattern if kind == "cfa" else ())
        for function in both_ways():
            with pytest.raises(ValueError, match=rf"a\.tif: holds .*\({kind.upper()}\), expected .* RGB"):
                function(path)
    tifffile.imwrite(path, three[..., 0] > 9, photometric="mask")
    np.testing.assert_array_equal(mf.io.read(path).array, three[..., 0] > 9)


def test_jpeg_of_ycbcr_is_decoded_to_rgb(tmp_path):
    pytest.importorskip("imagecodecs")
    array, path = np.full((16, 16, 3), (200, 100, 20), np.uint8), tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR
    np.testing.assert_allclose(mf.io.read(path).array, array, atol=4)
    if importlib.util.find_spec("zarr"):
        np.testing.assert_allclose(mf.io.open_source(path).read(0), array[..., 0], atol=4)


def test_values_that_viewers_turn_are_refused(tmp_path):
    array, path = np.arange(12, dtype=np.uint8).reshape(3, 4), tmp_path / "a.tif"
    for tag in range(10):
        tifffile.imwrite(path, array, photometric="minisblack", extratags=[(274, 3, 1, tag, True)])
        for function in both_ways():
            if 2 <= tag <= 8:
                with pytest.raises(ValueError, match=rf"a\.tif: its Orientation is {tag} .*-auto-orient"):
                    function(path)
            else:
                function(path)
    np.testing.assert_array_equal(mf.io.read(path).array, array)


def test_white_that_is_zero_is_not_inverted(tmp_path):
    """As MONOCHROME1 of DICOM."""
    array = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    read = mf.io.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.array, array)
    assert read.metadata["photometric_interpretation"] == "MINISWHITE"


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("axes", ["yx", "zyx", "tczyx"])
def test_white_stays_zero_where_it_is_written(tmp_path, suffix, dtype, axes):
    """Or the result of an inverted image would look inverted beside it."""
    shape = (2, 3, 4, 5, 3)[-len(axes) :]
    array = (np.arange(np.prod(shape)).reshape(shape) % 7).astype(dtype)
    of_dicom = {"MONOCHROME1": "MINISWHITE", "MONOCHROME2": "MINISBLACK"}
    for given in ("MINISWHITE", "MINISBLACK", *of_dicom):
        path, kind = tmp_path / f"{given}{suffix}", of_dicom.get(given, given)
        mf.io.write(path, Volume(array, axes=axes, metadata={"photometric_interpretation": given}))
        with tifffile.TiffFile(path) as file:
            assert file.pages[0].photometric.name == kind
            assert file.is_imagej == (suffix == ".tif")
        read = mf.io.read(path)
        np.testing.assert_array_equal(read.array, array)
        assert read.axes == axes
        assert read.metadata.get("photometric_interpretation", "MINISBLACK") == kind


def test_colour_samples_have_no_white_that_is_zero(tmp_path):
    made = Volume(
        np.ones((4, 5, 3), np.uint8), axes="yxs", metadata={"photometric_interpretation": "MINISWHITE"}
    )
    mf.io.write(tmp_path / "a.ome.tif", made)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.RGB


def test_complex_tiff_names_the_file(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 5), np.complex64))
    with pytest.raises(ValueError, match=r"a\.tif: holds complex64 values, expected real numbers"):
        mf.io.read(tmp_path / "a.tif")


@pytest.mark.parametrize("shape", [(4, 5, 6), (2, 4, 5, 6)])
def test_a_description_of_another_array_is_left_out(tmp_path, shape):
    """numpy.save puts an array under the name and leaves the description of the old one beside it."""
    path, made = tmp_path / "a.npy", volume(shape=shape, affine=UPRIGHT)
    made.metadata["time_step"] = 2.5
    mf.io.write(path, made)
    np.save(path, made.array + 1)  # the same grid
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same_geometry(mf.io.read(path), made)
    other = np.ones((*shape[:-1], 9), np.float32)
    np.save(path, other)
    if len(shape) == 3:
        for opened in (mf.io.read, mf.io.open_source):
            with pytest.warns(UserWarning, match=r"a\.npy: another program has written.*a\.npy\.json"):
                read = opened(path)
            assert (read.shape, read.voxel_size, read.affine, read.unit) == (other.shape, None, None, None)
    else:
        with pytest.warns(UserWarning, match="another program"), pytest.raises(ValueError, match="no file"):
            mf.io.read(path)
        with pytest.warns(UserWarning, match="another program"):
            source = mf.io.open_source(path, axes="czyx")
        assert (source.voxel_size, source.geometry.time_step) == (None, None)
    beside = tmp_path / "a.npy.json"  # as earlier versions, and people, write it
    beside.write_text(json.dumps({k: v for k, v in json.loads(beside.read_text()).items() if k != "shape"}))
    same_geometry(mf.io.read(path), made)


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
