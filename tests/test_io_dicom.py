"""DICOM: geometry, values, what is refused, and derived series; bad input is made small, for each case."""

import datetime
import itertools
import json
import re
import shlex
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import _extras, cli
from medeconv_fast.io import _dicom_geometry, _dicom_series

pydicom = pytest.importorskip("pydicom", reason="SKIPPED: pydicom is not installed (extra io)")
nib = pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate, generate_frames  # noqa: E402
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid  # noqa: E402

STUDY, SERIES, SPACE = "1.2.3.1", "1.2.3.2", "1.2.3.3"
CT, PET, ENHANCED_MR = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.4.1",
)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
# Turned about two axes, rounded as files round.
OBLIQUE = (0.91017, 0.332238, 0.247404, -0.406332, 0.832184, 0.377312)
ENCODINGS = ["", "_RLE", "_bigendian", "_expb", "_implicit", "_jp2klossless", "_jpeg_ls_lossless", "_padded"]


def shipped(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"SKIPPED: {name} is not in this version of pydicom's wheel")
    return Path(path)


def image(array, **values):
    """A dataset with values as they are stored, little endian."""
    array = np.asarray(array)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = CT, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = STUDY, SERIES
    made.FrameOfReferenceUID = SPACE
    made.Modality, made.SeriesNumber, made.SeriesDescription = "CT", 4, "head"
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.PatientName, made.PatientID = "Nobody", "0"
    made.Rows, made.Columns = array.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = array.dtype.itemsize * 8
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(array.dtype.kind == "i")
    made.PixelData = array.tobytes()
    made["PixelData"].VR = "OW"
    for name, value in values.items():
        if value is None:
            made.pop(name, None)
        else:
            setattr(made, name, value)
    return made


def save(made, path):
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    pydicom.dcmwrite(path, made, enforce_file_format=True)
    return path


def normal(orientation):
    return np.cross(orientation[:3], orientation[3:])


def stack(count=5, step=2.5, orientation=AXIAL, dtype=np.int16, shape=(6, 7), shift=(0, 0, 0), **values):
    """Slices in the order of space, each with its own noise; `shift` per slice is added to the positions."""
    rng = np.random.default_rng(5)
    made = []
    for i in range(count):
        position = np.array([-31.5, 12.25, 4.0]) + i * (step * normal(orientation) + np.array(shift))
        array = rng.integers(0, 1000, shape).astype(dtype)
        common = {
            "ImagePositionPatient": [f"{v:.6f}" for v in position],
            "ImageOrientationPatient": list(orientation),
            "PixelSpacing": [0.8, 0.5],
            "SliceThickness": 99,  # says nothing of the step
            "SpacingBetweenSlices": 77,
            "InstanceNumber": count - i,
        }
        made.append(image(array, **(common | values)))
    return made


def folder(path, datasets):
    """Files whose names say nothing of the order of the slices."""
    path.mkdir(exist_ok=True)
    for i, made in enumerate(datasets):
        save(made, path / f"{(7 * i + 3) % 101:03}.dcm")
    return path


def stored(made):
    kind = "i" if made.PixelRepresentation else "u"
    return np.frombuffer(made.PixelData, f"<{kind}{made.BitsAllocated // 8}").reshape(
        -1, made.Rows, made.Columns
    )


def values(datasets):
    return np.concatenate([stored(made) for made in datasets])


# Geometry


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE])
def test_affine_follows_from_positions(tmp_path, orientation):
    slices = stack(orientation=orientation)
    read = mf.io.read(folder(tmp_path / "ct", slices))
    np.testing.assert_array_equal(read.array, values(slices))
    assert read.axes == "zyx" and read.unit == "mm" and read.oriented
    np.testing.assert_allclose(read.voxel_size, (2.5, 0.8, 0.5), rtol=1e-5)
    # Voxel by voxel from PS3.3 C.7.6.2.1-1, then left and back to right and front.
    for z, y, x in itertools.product((0, 4), (0, 5), (0, 6)):
        position = np.array(slices[z].ImagePositionPatient, float)
        lps = position + np.array(orientation[:3]) * 0.5 * x + np.array(orientation[3:]) * 0.8 * y
        np.testing.assert_allclose((read.affine @ [x, y, z, 1])[:3], lps * [-1, -1, 1], atol=1e-5)


def test_slices_are_ordered_along_the_normal_and_not_by_number(tmp_path):
    slices = stack()
    read = mf.io.read(folder(tmp_path / "ct", slices[::-1]))
    np.testing.assert_array_equal(read.array, values(slices))
    assert np.linalg.det(read.affine[:3, :3]) > 0


def test_simpleitk_reads_the_same(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="SKIPPED: SimpleITK is not installed (extra itk)")
    path = folder(tmp_path / "ct", stack(orientation=OBLIQUE, RescaleSlope=2, RescaleIntercept=-1024))
    array, affine = by_simpleitk(sitk, path)
    read = mf.io.read(path)
    np.testing.assert_array_equal(read.array, array)
    np.testing.assert_allclose(read.affine, affine, atol=1e-5)


def by_simpleitk(sitk, path):
    reader = sitk.ImageSeriesReader()
    (series,) = reader.GetGDCMSeriesIDs(str(path))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path), series))
    read = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(read.GetDirection()).reshape(3, 3) * read.GetSpacing()
    affine[:3, 3] = read.GetOrigin()
    return sitk.GetArrayFromImage(read), np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["anatomical/001", "generic/compressed_j2k/001", "generic/compressed_rle/001"]
)
def test_ground_truth(shared_data, name):
    """dicom2nifti's own pairs. They count slices up along an axis of the patient, we along the normal."""
    path = shared_data / "dicom_geom_d2n_dev" / name
    read, truth = mf.io.read(path), nib.load(f"{path}_ground_truth.nii.gz")
    expected, affine = np.asanyarray(truth.dataobj).T, truth.affine
    if affine[:3, 2] @ read.affine[:3, 2] < 0:
        expected, affine = expected[::-1], affine @ [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1]]
    np.testing.assert_array_equal(read.array, expected)
    np.testing.assert_allclose(read.affine, affine, atol=1e-5)


def test_one_slice_is_a_plane_in_space(tmp_path):
    (made,) = stack(1, orientation=OBLIQUE)
    read = mf.io.read(save(made, tmp_path / "without_ending"))
    assert read.axes == "yx" and read.voxel_size == (0.8, 0.5) and read.oriented
    np.testing.assert_allclose(np.linalg.norm(read.affine[:3, 2]), 1, rtol=1e-5)
    mf.io.write(tmp_path / "a.nii.gz", read)
    np.testing.assert_allclose(mf.io.read(tmp_path / "a.nii.gz").affine, read.affine, atol=1e-5)


def without(slices, *gone):
    return [made for i, made in enumerate(slices) if i not in gone]


def changed(slices, number, **new):
    for name, value in new.items():
        if value is None:
            delattr(slices[number], name)
        else:
            setattr(slices[number], name, value)
    return slices


def copied(slices, number, same=False, **new):
    again = Dataset.from_json(slices[number].to_json())
    again.file_meta = slices[number].file_meta
    again.SOPInstanceUID = slices[number].SOPInstanceUID if same else generate_uid()
    return [*slices, *changed([again], 0, **new)]


REFUSED = {
    "gap": (lambda: without(stack(8), 3, 4), "gap: 2 slices missing, the step is 2.5 mm, but 7.5 mm from"),
    "gaps": (lambda: without(stack(20), 3, 9, 10), "gap: 3 slices missing.*5 mm from.*; 7.5 mm from"),
    "uneven": (
        lambda: changed(stack(), 2, ImagePositionPatient=[-31.5, 12.25, 10.0]),
        r"uneven steps .* from 1.5 to 3.5 mm; most are 2.5 mm",
    ),
    "alternating": (  # no slice is missing
        lambda: [
            s
            for i, z in enumerate((4, 6.48, 9, 11.48, 14, 16.48))
            for s in changed(stack(6)[i : i + 1], 0, ImagePositionPatient=[-31.5, 12.25, z])
        ],
        r"uneven steps .* from 2.48 to 2.52 mm; most are 2.48 mm",
    ),
    "duplicate": (
        lambda: copied(stack(), 2, ContentTime="120000"),
        r"duplicate slices: 6 slices at 5 places.* both at -31.5\\12.25\\9 mm; .* differ in ContentTime",
    ),
    "the same file twice": (
        lambda: copied(stack(), 2, same=True),
        r"duplicate slices: 6 slices at 5 places.*the same image twice \(one SOPInstanceUID\)",
    ),
    "two echoes": (
        lambda: [*stack(EchoTime=10), *stack(EchoTime=20)],
        "duplicate slices: 10 slices at 5 places.*EchoTime, 10.0 and 20.0: keep the files of one volume",
    ),
    "side by side": (
        lambda: copied(stack(), 2, ImagePositionPatient=[58.5, 12.25, 9.0]),
        "lie side by side, 90 mm apart in one plane",
    ),
    "tilt": (
        lambda: stack(shift=(0, 0.67, 0), GantryDetectorTilt=15),
        r"gantry tilt: .* sideways by 0.67 mm .* 15 degrees off .* states a GantryDetectorTilt of 15",
    ),
    "one slice off": (
        lambda: changed(stack(), 2, ImagePositionPatient=[-31.5, 14.25, 9.0]),
        "lies 2 mm off the line through the first and the last slice",
    ),
    "orientations": (
        lambda: changed(stack(), 4, ImageOrientationPatient=list(SAGITTAL)),
        r"slices of 2 orientations: .*1\\0\\0\\0\\1\\0",
    ),
    "localizers": (
        lambda: changed(stack(), 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        r"1 of 5 images are localizers .*010\.dcm; take them out of the folder",
    ),
    "no positions": (
        lambda: stack(ImagePositionPatient=None),
        "5 of 5 slices have no ImagePositionPatient .*: their order and distance are unknown",
    ),
    "one without a position": (
        lambda: changed(stack(), 0, ImagePositionPatient=None),
        r"1 of 5 slices have no ImagePositionPatient and ImageOrientationPatient \(003.dcm\)",
    ),
    "an empty position": (lambda: stack(ImagePositionPatient=""), "5 of 5 slices have no ImagePosition"),
    "zero spacing": (lambda: stack(PixelSpacing=[0, 0]), r"PixelSpacing 0 \\ 0, expected positive lengths"),
    "no spacing": (lambda: stack(PixelSpacing=None), "no PixelSpacing in 003.dcm"),
    "spacings": (
        lambda: changed(stack(), 3, PixelSpacing=[0.9, 0.5]),
        r"different PixelSpacing: 4 of 0.8\\0.5 mm, 1 of 0.9\\0.5 mm",
    ),
    "sizes": (
        lambda: [*stack(4), *stack(5, shape=(6, 8))[4:]],
        r"different sizes \(rows x columns\): 4 of 6 x 7 .*, 1 of 6 x 8",
    ),
    "skew": (
        lambda: stack(ImageOrientationPatient=[1, 0, 0, 0.5, 0.5, 0]),
        "ImageOrientationPatient .*, expected two perpendicular unit vectors",
    ),
    "mosaic": (
        lambda: stack(1, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]),
        r"mosaic \(ImageType MOSAIC\).*dcm2niix",
    ),
    "frames of reference": (
        lambda: changed(stack(), 3, FrameOfReferenceUID="1.2.9"),
        "2 frames of reference",
    ),
    "units": (
        lambda: changed(stack(RescaleType="HU"), 3, RescaleType="OD"),
        "different units of intensity: HU, OD",
    ),
    "one raw slice": (
        lambda: changed(
            stack(Modality="MR", RescaleSlope=3, RescaleIntercept=1),
            1,
            RescaleSlope=None,
            RescaleIntercept=None,
        ),
        r"1 of 5 slices \(010\.dcm\) state no transformation of their values .*: they are not on one scale",
    ),
    "one raw slice beside tables": (
        lambda: changed(
            stack(Modality="MR", ModalityLUTSequence=[modality_table()]), 1, ModalityLUTSequence=[]
        ),
        r"1 of 5 slices \(010\.dcm\) state no transformation",
    ),
    "one slice that is not raw": (
        lambda: changed(stack(Modality="MR"), 1, RescaleSlope=1, RescaleIntercept=0),
        "4 of 5 slices .* state no transformation",
    ),
    "slope 0": (lambda: stack(RescaleSlope=0, RescaleIntercept=0), "RescaleSlope 0, .* other than 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_one_even_stack_is_refused(tmp_path, case):
    make, text = REFUSED[case]
    path = folder(tmp_path / "ct", make())
    with pytest.raises(ValueError, match=text) as raised:
        mf.io.read(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("digits", [1e-5, 5e-4])
def test_rounded_positions_pass(tmp_path, digits):
    rng = np.random.default_rng(2)
    slices = stack(40, step=1.0)
    for made in slices:
        position = np.array(made.ImagePositionPatient, float) + rng.uniform(-digits, digits, 3)
        made.ImagePositionPatient = [f"{v:.7f}" for v in position]
    assert mf.io.read(folder(tmp_path / "ct", slices)).voxel_size[0] == pytest.approx(1, rel=1e-3)


def test_small_tilt_is_refused_in_a_long_stack():
    planes = [
        _dicom_geometry.Plane(f"{i}", (4, 4), (1.0, 1.0), (0.0, 0.004 * i, 1.0 * i), AXIAL)
        for i in range(200)
    ]
    with pytest.raises(ValueError, match=r"0\.229 degrees"):
        _dicom_geometry.grid(planes, lambda i, j: "")


# Values


@pytest.mark.parametrize("ending", ENCODINGS)
def test_every_encoding_gives_the_same_values(ending):
    plain = pydicom.dcmread(shipped("MR_small.dcm"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pydicom's, about padding
        read = mf.io.read(shipped(f"MR_small{ending}.dcm"))
    np.testing.assert_array_equal(read.array, stored(plain)[0])
    assert read.dtype == np.int16 and read.dtype.isnative and read.voxel_size == (0.3125, 0.3125)


def test_rescale_is_each_slices_own(tmp_path):
    slices = stack(3, dtype=np.uint16, Modality="PT", SOPClassUID=PET, Units="BQML", RescaleIntercept=0)
    for i, made in enumerate(slices):
        made.RescaleSlope = f"{0.37 * (i + 1):.10g}"
    read = mf.io.read(folder(tmp_path / "pet", slices))
    expected = values(slices) * np.array([0.37, 0.74, 1.11])[:, None, None]
    assert read.dtype == np.float32 and read.metadata["intensity_unit"] == "BQML"
    np.testing.assert_array_equal(read.array, expected.astype(np.float32))
    source = mf.io.open_source(tmp_path / "pet")
    assert source.dtype == np.float32 and source.stored_dtype == np.uint16


@pytest.mark.parametrize(
    ("dtype", "slope", "expected"),
    [
        (np.uint8, 1, np.uint8),
        (np.int16, 1, np.int16),
        (np.uint16, 2, np.float32),
        (np.int8, 0.5, np.float32),
        (np.uint32, 1, np.uint32),
        (np.uint32, 0.5, np.float64),
    ],
)
def test_dtype(tmp_path, dtype, slope, expected):
    array = np.array([[0, 1, 2], [3, np.iinfo(dtype).min, np.iinfo(dtype).max]], dtype)
    made = image(array, RescaleSlope=slope, RescaleIntercept=0, PixelSpacing=[1, 1])
    read = mf.io.read(save(made, tmp_path / "a.dcm"))
    assert read.dtype == expected
    np.testing.assert_array_equal(read.array, (array * np.float64(slope)).astype(expected))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_unused_bits_are_no_values(tmp_path, dtype):
    """Old overlays lie in the bits above Bits Stored; signed values end there too."""
    array = np.array([[0, 5, 2047], [7, 100, -3 if dtype == np.int16 else 4000]], dtype)
    bits = array.view(np.uint16) & 0x0FFF | np.array([[0x8000, 0, 0], [0, 0x4000, 0]], np.uint16)
    made = image(bits.view(dtype), BitsStored=12, HighBit=11, PixelSpacing=[1, 1])
    made.add_new((0x6000, 0x0010), "US", 2)
    made.add_new((0x6000, 0x0102), "US", 15)
    read = mf.io.read(save(made, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(read.array, array)
    mf.io.write(tmp_path / "b.dcm", read)
    derived = pydicom.dcmread(tmp_path / "b.dcm")
    assert derived.BitsStored == 16 and (0x6000, 0x0102) not in derived
    np.testing.assert_array_equal(mf.io.read(tmp_path / "b.dcm").array, array)


@pytest.mark.parametrize("high", [13, 15])
def test_values_in_upper_bits_are_refused(tmp_path, high):
    """pydicom takes the lowest bits, and SimpleITK too."""
    made = image(np.arange(42, dtype=np.uint16).reshape(6, 7) << (high - 11))
    made.BitsStored, made.HighBit = 12, high
    save(made, tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=f"HighBit is {high} and BitsStored 12"):
        mf.io.read(tmp_path / "a.dcm")


def test_hounsfield_units(tmp_path):
    read = mf.io.read(folder(tmp_path / "ct", stack(RescaleSlope=1, RescaleIntercept=-1024)))
    np.testing.assert_array_equal(read.array, values(stack()) - np.float32(1024))
    assert read.dtype == np.float32 and read.metadata["intensity_unit"] == "HU" and read.unit == "mm"


@pytest.mark.parametrize(
    ("elements", "unit"),
    [
        ({"Modality": "PT", "Units": "BQML", "RescaleType": "US"}, "BQML"),
        ({"Modality": "PT", "Units": "GML", "RescaleType": "BQML"}, "GML"),
        ({"Modality": "PT", "Units": "NONE", "RescaleType": "BQML"}, "BQML"),
        ({"Modality": "PT", "Units": "NONE", "RescaleType": "US"}, None),
        ({"Modality": "PT", "Units": "CNTS"}, "CNTS"),
        ({"Modality": "NM", "Units": "PROPCNTS", "RescaleType": "US"}, "PROPCNTS"),
        ({"Modality": "CT", "RescaleType": "US"}, None),
        ({"Modality": "CT", "RescaleType": "HU"}, "HU"),
    ],
)
def test_an_unspecified_unit_does_not_hide_another(tmp_path, elements, unit):
    slices = stack(**elements, RescaleSlope=1, RescaleIntercept=0)
    read = mf.io.read(folder(tmp_path / "a", slices))
    assert read.metadata["intensity_unit"] == unit
    for name, other in (("same", unit), ("none", None)):  # nor does what is written keep the old one
        read.metadata["intensity_unit"] = other
        mf.io.write(tmp_path / name, read)
        assert mf.io.read(tmp_path / name).metadata["intensity_unit"] == other


def test_half_a_scale_of_ct_is_none_of_hounsfield_units(tmp_path):
    """What a file lacks that CT must have, nobody can tell from 0."""
    read = mf.io.read(folder(tmp_path / "ct", stack(Modality="CT", RescaleSlope=1, RescaleIntercept=None)))
    assert read.metadata["intensity_unit"] is None


def modality_table(**values):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 16], [10, 20, 400, 8000]
    table["LUTData"].VR = table["LUTDescriptor"].VR = "US"
    for name, value in values.items():
        setattr(table, name, value)
    return table


@pytest.mark.parametrize(
    ("kind", "beside", "unit"),
    [
        ({"ModalityLUTType": "US"}, {}, None),
        ({"ModalityLUTType": "HU"}, {"Modality": "CT"}, "HU"),
        ({"ModalityLUTType": "OD"}, {"Modality": "CR"}, "OD"),
        ({"ModalityLUTType": "US"}, {"RescaleSlope": 2, "RescaleIntercept": 1, "RescaleType": "HU"}, None),
        ({}, {"RescaleSlope": 2, "RescaleIntercept": 1}, None),
    ],
)
def test_modality_table(tmp_path, kind, beside, unit):
    table = modality_table(**kind)
    array = np.array([[0, 1], [2, 3]], np.uint16)
    made = image(array, ModalityLUTSequence=[table], PixelSpacing=[1, 1], **beside)
    read = mf.io.read(save(made, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(read.array, np.array([[10, 20], [400, 8000]], np.float32))
    assert read.metadata["intensity_unit"] == unit


@pytest.mark.parametrize("table", [None, []])
def test_raw_values_of_ct_have_no_unit(tmp_path, table):
    made = stack(1, RescaleSlope=None, RescaleIntercept=None, ModalityLUTSequence=table)[0]
    made.add_new("RescaleSlope", "DS", "")
    read = mf.io.read(save(made, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(read.array, stored(made)[0])
    assert read.metadata["intensity_unit"] is None


def test_an_empty_table_does_not_hide_the_rescale(tmp_path):
    made = stack(1, RescaleSlope=2, RescaleIntercept=None, ModalityLUTSequence=[])[0]
    read = mf.io.read(save(made, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(read.array, 2 * stored(made)[0].astype(np.float32))


def test_padding_is_said(tmp_path):
    slices = stack(PixelPaddingValue=-2000)
    array = stored(slices[0]).copy()
    array[0, :2, :3] = -2000
    slices[0].PixelData = array.tobytes()
    with pytest.warns(UserWarning, match=r"6 of 210 values are padding \(PixelPaddingValue\)"):
        read = mf.io.read(folder(tmp_path / "ct", slices))
    assert (read.array == -2000).sum() == 6


def test_padding_beside_signed_values_may_be_stated_unsigned(tmp_path):
    slices = stack()
    stated = [(63536, None), (63536, None), (63530, 63536), (-2000, None), (63536, -1995)]
    for made, (value, limit) in zip(slices, stated, strict=True):
        made.add_new("PixelPaddingValue", "US" if value > 0 else "SS", value)
        if limit is not None:
            made.add_new("PixelPaddingRangeLimit", "US" if limit > 0 else "SS", limit)
        array = stored(made)[0].copy()
        array[0, :3] = (-2000, -2001, -1999)
        made.PixelData = array.tobytes()
    with pytest.warns(UserWarning, match=r" 7 of 210 values are padding \(PixelPaddingValue\)"):
        mf.io.read(folder(tmp_path / "ct", slices))


def test_dose_planes_by_offset():
    path = shipped("rtdose.dcm")
    made, read = pydicom.dcmread(path), mf.io.read(path)
    assert read.shape == (15, 10, 10) and read.dtype == np.float64
    np.testing.assert_allclose(read.array, stored(made) * float(made.DoseGridScaling), rtol=1e-12)
    assert read.voxel_size[0] == float(np.diff(made.GridFrameOffsetVector)[0])
    last = np.array(made.ImagePositionPatient) + [0, 0, made.GridFrameOffsetVector[-1]]
    np.testing.assert_allclose((read.affine @ [0, 0, 14, 1])[:3], last * [-1, -1, 1], rtol=1e-9)
    with pytest.raises(ValueError, match="RT Dose cannot be written as a derived series"):
        mf.io.write(path.with_name("out"), read)


# Damaged, encrypted, unsupported


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("ending", ENCODINGS[:-1])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.9])
def test_truncated_files(tmp_path, ending, part):
    content = shipped(f"MR_small{ending}.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match=r"a\.dcm: .*(end|damaged|not an image)"):
        mf.io.read(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "JPGExtended", "SC_rgb_jpeg_gdcm"],
)
@pytest.mark.parametrize("part", [0.3, 0.95])
def test_a_compressed_image_that_was_cut_is_not_filled_up(tmp_path, name, part):
    """libjpeg, behind pylibjpeg, returns such an image with its rest made up."""
    made = pydicom.dcmread(shipped(f"{name}.dcm"))
    (code,) = generate_frames(made.PixelData, number_of_frames=1)
    made.PixelData = encapsulate([code[: int(len(code) * part)]])
    made.save_as(tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=r"a\.dcm: the values end early or are damaged"):
        mf.io.read(tmp_path / "a.dcm", channel="red" if "rgb" in name else None)


def test_damaged_headers_raise_nothing_but_value_errors(tmp_path):
    """Bytes of real headers changed at random: read or refused, and written where they are read."""
    rng = np.random.default_rng(11)
    made, _ = enhanced()
    save(made, tmp_path / "enhanced.dcm")
    outcomes = set()
    for path in (shipped("CT_small.dcm"), shipped("MR_small_implicit.dcm"), tmp_path / "enhanced.dcm"):
        content = path.read_bytes()
        for _ in range(60):
            damaged = np.frombuffer(content, np.uint8).copy()
            places = rng.integers(132, min(len(content), 3000), 4)
            damaged[places] = rng.integers(0, 256, 4)
            (tmp_path / "a.dcm").write_bytes(damaged.tobytes())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                try:
                    read = mf.io.read(tmp_path / "a.dcm")
                    outcomes.add("read")
                    mf.io.write(tmp_path / "b.dcm", read, overwrite=True)
                except ValueError:
                    outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_truncated_slice_of_a_folder(tmp_path):
    path = folder(tmp_path / "ct", stack())
    content = (path / "003.dcm").read_bytes()  # the first slice: nothing else would show that it is missing
    (path / "003.dcm").write_bytes(content[:-20])
    with pytest.raises(ValueError, match=r"ct: 003\.dcm: the values end early"):
        mf.io.read(path)
    for length in (200, 400, 700):
        (path / "003.dcm").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"ct: 003\.dcm: .*(ends before|damaged|no PixelData)"):
            mf.io.read(path)


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        ("1.2.840.10008.1.2.4.102", "MPEG-4.*ffmpeg"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL: the package imagecodecs"),
        ("1.2.840.10008.1.2.4.94", "JPIP.*server"),
        ("1.2.840.10008.1.2.4.52", r"python-gdcm\) or DCMTK"),
        ("1.2.3.4.5", r"1\.2\.3\.4\.5 is not read by pydicom: GDCM \(pip install python-gdcm\)"),
    ],
)
def test_unsupported_syntax_names_who_reads_it(tmp_path, syntax, text):
    made = stack(1)[0]
    made.PixelData = encapsulate([b"\0" * 64])
    made["PixelData"].VR = "OB"
    made.file_meta.TransferSyntaxUID = UID(syntax)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    with open(tmp_path / "a.dcm", "wb") as file:
        file.write(b"\0" * 128 + b"DICM")
        pydicom.filewriter.write_file_meta_info(file, made.file_meta, enforce_standard=False)
        stream = pydicom.filebase.DicomFileLike(file)
        stream.is_implicit_VR, stream.is_little_endian = False, True
        pydicom.filewriter.write_dataset(stream, made)
    with pytest.raises(ValueError, match=f"transfer syntax .*{text}"):
        mf.io.read(tmp_path / "a.dcm")


def test_missing_plugin_names_the_extra(monkeypatch):
    class Without:
        is_available = False
        missing_dependencies = ("pylibjpeg - requires pylibjpeg-openjpeg",)

    path = shipped("MR_small_jp2klossless.dcm")
    monkeypatch.setattr(pydicom.pixels, "get_decoder", lambda _: Without)
    with pytest.raises(ImportError, match=r"pylibjpeg-openjpeg.*pip install 'medeconv-fast\[io\]'"):
        mf.io.read(path)


def test_missing_library_names_the_extra(tmp_path, monkeypatch):
    def nothing(name):
        raise ImportError(name)

    monkeypatch.setattr(_extras.importlib, "import_module", nothing)
    for name, extra in (("a.dcm", "io"), ("a.nrrd", "itk")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ImportError, match=rf"pip install 'medeconv-fast\[{extra}\]'"):
            mf.io.read(tmp_path / name)


def test_encrypted_files(tmp_path):
    (tmp_path / "a.dcm").write_bytes(bytes.fromhex("30820400 06092a864886f70d010703") + b"\x5a" * 300)
    with pytest.raises(ValueError, match=r"encrypted .*openssl"):
        mf.io.read(tmp_path / "a.dcm")
    made = stack(1)[0]
    for name in ("Rows", "Columns", "BitsAllocated", "PixelData"):
        delattr(made, name)
    item = Dataset()
    item.EncryptedContentTransferSyntaxUID, item.EncryptedContent = ExplicitVRLittleEndian, b"1234"
    made.EncryptedAttributesSequence = [item]
    with pytest.raises(ValueError, match=r"encrypted \(EncryptedAttributesSequence\)"):
        mf.io.read(save(made, tmp_path / "b.dcm"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("test-SR.dcm", "Comprehensive SR Storage, SR"),
        ("rtplan.dcm", "RT Plan"),
        ("waveform_ecg.dcm", "12-lead ECG"),
    ],
)
def test_other_objects_are_not_images(tmp_path, name, kind):
    path = shipped(name)
    with pytest.raises(ValueError, match=rf"{name}: not an image \({kind}"):
        mf.io.read(path)
    (tmp_path / "x").mkdir()
    shutil.copy(path, tmp_path / "x")
    with pytest.raises(
        ValueError, match=rf"no DICOM image in this folder; 1 files are not an image \({kind}"
    ):
        mf.io.read(tmp_path / "x")


def test_headers_without_values(tmp_path):
    with pytest.raises(ValueError, match=r"no PixelData.: truncated, or headers only"):
        mf.io.read(save(image(np.ones((2, 3), np.int16), PixelData=None), tmp_path / "a.dcm"))


# Folders


def test_a_series_is_chosen(tmp_path):
    one, two = stack(3), stack(4, SeriesInstanceUID="1.2.7", SeriesNumber=5, SeriesDescription="Head, thin")
    path = tmp_path / "study"
    path.mkdir()
    for i, made in enumerate([*one, *two]):
        save(made, path / f"{i}")
    with pytest.raises(
        ValueError, match=r"2 series: 4 'head' \(CT, 3 files, UID 1\.2\.3\.2\); 5 'Head, thin'.*--series"
    ):
        mf.io.read(path)
    for choice in ("1.2.7", 5, "5", "head, THIN"):
        np.testing.assert_array_equal(mf.io.read(path, series=choice).array, values(two))
    np.testing.assert_array_equal(mf.io.read(path, series="head").array, values(one))
    thin, also, head = (mf.io.open_source(path, series=n).identity() for n in ("1.2.7", 5, 4))
    assert thin == also and thin["series"] == "1.2.7" and head["series"] == "1.2.3.2"
    with pytest.raises(ValueError, match="series: got 'foot', which none of these has: 4 'head'"):
        mf.io.read(path, series="foot")
    with pytest.raises(TypeError, match=r"series: got 1\.5"):
        mf.io.read(path, series=1.5)


def test_a_series_of_the_number_0(tmp_path):
    path = tmp_path / "study"
    path.mkdir()
    one, two = stack(3, SeriesNumber=0), stack(4, SeriesInstanceUID="1.2.7", SeriesNumber=5)
    for i, made in enumerate([*one, *two]):
        save(made, path / f"{i}")
    for choice in (0, "0"):
        np.testing.assert_array_equal(mf.io.read(path, series=choice).array, values(one))
    assert mf.io.open_source(path, series=0).shape[0] == 3
    with pytest.raises(ValueError, match=r"2 series: 0 'head' \(CT, 3 files"):
        mf.io.read(path)


def test_what_else_a_folder_holds(tmp_path):
    path = folder(tmp_path / "ct", stack())
    for name in ("notes.txt", ".DS_Store", "thumb.png"):
        (path / name).write_bytes(b"whatever")
    shutil.copy(shipped("test-SR.dcm"), path / "report.dcm")
    (path / "older").mkdir()
    folder(path / "older", stack())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mf.io.read(path).shape == (5, 6, 7)
    (path / "IM1").write_bytes(b"cut")
    with pytest.warns(UserWarning, match="left out, because not DICOM: IM1"):
        mf.io.read(path)
    (path / "broken.dcm").write_bytes(b"DICOM it is not")
    with pytest.raises(ValueError, match=r"broken\.dcm: not a readable DICOM file"):
        mf.io.read(path)


def test_folders_without_images(tmp_path):
    (tmp_path / "series1").mkdir()
    with pytest.raises(ValueError, match=r"no DICOM image in this folder; folders in it: series1"):
        mf.io.read(tmp_path)


def test_index_of_a_disc():
    with pytest.raises(ValueError, match=r"\(DICOMDIR\); name the folder"):
        mf.io.read(shipped("DICOMDIR"))


@pytest.mark.parametrize(("option", "value"), [("series", 1), ("channel", "red"), ("frame", 0)])
def test_options_of_other_formats_are_refused(tmp_path, option, value):
    mf.io.write(tmp_path / "a.nii", mf.io.Volume(np.ones((2, 3), np.float32)))
    with pytest.raises(ValueError, match=f"a.nii: {option}: "):
        mf.io.read(tmp_path / "a.nii", **{option: value})


# Many frames


def enhanced(count=5, order=None, repeats=1, **values):
    """Enhanced multi-frame: positions per frame, orientation, sizes and rescale in functional groups."""
    slices = stack(count, orientation=OBLIQUE, dtype=np.uint16)
    order = list(order or range(count)) * repeats

    def item(**entries):
        made = Dataset()
        for name, value in entries.items():
            setattr(made, name, value)
        return made

    groups = []
    for i, n in enumerate(order):
        rescale = item(RescaleSlope=0.5 * (n + 1), RescaleIntercept=-10, RescaleType="MSEC")
        groups.append(
            item(
                PlanePositionSequence=[item(ImagePositionPatient=slices[n].ImagePositionPatient)],
                PixelValueTransformationSequence=[rescale],
                FrameContentSequence=[item(DimensionIndexValues=[1 + i // count, 1 + n])],
                FrameVOILUTSequence=[item(WindowCenter=100, WindowWidth=200)],
            )
        )
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(OBLIQUE))],
        PixelMeasuresSequence=[item(PixelSpacing=[0.8, 0.5], SliceThickness=99, SpacingBetweenSlices=77)],
        MRImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "T1", "NONE"])],
    )
    made = image(
        np.concatenate([stored(slices[n]) for n in order]),
        SOPClassUID=ENHANCED_MR,
        Modality="MR",
        NumberOfFrames=len(order),
        ImageType=["ORIGINAL", "PRIMARY", "T1", "NONE"],
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=groups,
        **values,
    )
    scaled = values_of_frames(slices)
    return made, scaled


def values_of_frames(slices):
    slope = 0.5 * np.arange(1, len(slices) + 1)[:, None, None]
    return (values(slices) * slope - 10).astype(np.float32)


def test_enhanced_multi_frame(tmp_path):
    made, expected = enhanced(order=[3, 0, 4, 1, 2])
    read = mf.io.read(save(made, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(read.array, expected)
    assert read.metadata["intensity_unit"] == "MSEC" and read.axes == "zyx"
    single = mf.io.read(folder(tmp_path / "s", stack(orientation=OBLIQUE)))
    np.testing.assert_allclose(read.affine, single.affine, rtol=1e-12)
    plane = mf.io.read(tmp_path / "a.dcm", frame=0)
    np.testing.assert_array_equal(plane.array, expected[3])
    np.testing.assert_allclose(plane.affine[:, 3], single.affine @ [0, 0, 3, 1], rtol=1e-6)
    assert plane.axes == "yx"


def test_simpleitk_reads_the_same_of_many_frames(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="SKIPPED: SimpleITK is not installed (extra itk)")
    made, _ = enhanced()
    read = mf.io.read(save(made, tmp_path / "a.dcm"))
    mf.io.write(tmp_path / "out.dcm", blurred(read))
    for name in ("a.dcm", "out.dcm"):
        theirs = sitk.ReadImage(str(tmp_path / name))
        np.testing.assert_allclose(theirs.GetSpacing(), read.voxel_size[::-1], rtol=1e-9)
        for index in ((0, 0, 0), (6, 5, 4)):
            point = np.array(theirs.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
            np.testing.assert_allclose((read.affine @ [*index, 1])[:3], point, atol=1e-4)
    array = mf.io.read(tmp_path / "out.dcm").array
    np.testing.assert_allclose(sitk.GetArrayFromImage(theirs), array, rtol=1e-6)


def test_an_enhanced_frame_without_a_rescale_is_not_mixed_in(tmp_path):
    made, expected = enhanced()
    for group in made.PerFrameFunctionalGroupsSequence:
        del group.PixelValueTransformationSequence[0].RescaleType
    np.testing.assert_array_equal(mf.io.read(save(made, tmp_path / "a.dcm")).array, expected)
    rescale = made.PerFrameFunctionalGroupsSequence[3].pop("PixelValueTransformationSequence").value
    with pytest.raises(ValueError, match=r"1 of 5 slices \(b\.dcm frame 3\) state no transformation"):
        mf.io.read(save(made, tmp_path / "b.dcm"))
    assert mf.io.read(tmp_path / "b.dcm", frame=3).axes == "yx"
    made.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = rescale
    np.testing.assert_array_equal(mf.io.read(save(made, tmp_path / "c.dcm")).array, expected)


def test_enhanced_of_two_volumes_is_refused(tmp_path):
    made, _ = enhanced(repeats=2)
    with pytest.raises(
        ValueError, match=r"10 slices at 5 places.*DimensionIndexValues are \[1, 1\] and \[2, 1\]"
    ):
        mf.io.read(save(made, tmp_path / "a.dcm"))


def test_film(tmp_path):
    array = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    made = image(array, NumberOfFrames=3, FrameTime=40, Modality="US", PixelSpacing=[0.2, 0.1])
    path = save(made, tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=r"3 frames over time \(one in 40 ms\), a film .* --frame\), 0 to 2"):
        mf.io.read(path)
    read = mf.io.read(path, frame=1)
    np.testing.assert_array_equal(read.array, array[1])
    assert read.axes == "yx" and read.voxel_size == (0.2, 0.1)
    with pytest.raises(ValueError, match="frame: got 3, the file has 3, counted from 0"):
        mf.io.read(path, frame=3)
    mf.io.write(tmp_path / "out.dcm", read)
    derived = pydicom.dcmread(tmp_path / "out.dcm")
    assert derived.NumberOfFrames == 1 and "FrameTime" not in derived
    assert derived.SourceImageSequence[0].ReferencedFrameNumber == 2
    with pytest.raises(ValueError, match="frame: chooses one frame of one file, the series has 5 files"):
        mf.io.read(folder(tmp_path / "ct", stack()), frame=0)


# Colour, and images without a place in space


def test_colour_needs_a_choice(tmp_path):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    made = image(array[..., 0], SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    made.PixelData, made.Modality = array.tobytes(), "US"
    path = save(made, tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=r"holds colour \(RGB\).*--channel.*red, green, blue, luminance"):
        mf.io.read(path)
    with pytest.warns(UserWarning, match="the file states no pixel size"):
        for i, name in enumerate(("red", "green", "blue")):
            read = mf.io.read(path, channel=name)
            np.testing.assert_array_equal(read.array, array[..., i])
        grey = mf.io.read(path, channel="luminance")
    assert read.voxel_size is None and read.unit is None and not read.oriented
    np.testing.assert_allclose(grey.array, array @ np.array([0.299, 0.587, 0.114]), rtol=1e-6)
    mf.io.write(tmp_path / "out.dcm", read)
    derived = pydicom.dcmread(tmp_path / "out.dcm")
    assert derived.SamplesPerPixel == 1 and derived.PhotometricInterpretation == "MONOCHROME2"
    np.testing.assert_array_equal(stored(derived)[0], array[..., 2])
    with pytest.raises(ValueError, match="channel: got 'mauve', expected one of 'red'"):
        mf.io.read(path, channel="mauve")
    with pytest.raises(ValueError, match=r"channel: got 'red', but the image has no colour \(MONOCHROME2\)"):
        mf.io.read(save(stack(1)[0], tmp_path / "b.dcm"), channel="red")


def test_colour_is_the_same_however_it_is_stored():
    """One picture, as RGB by run lengths and as YBR_FULL by JPEG, which loses a little."""
    plain = mf.io.read(shipped("SC_rgb_rle.dcm"), channel="luminance").array
    lossy = mf.io.read(shipped("SC_rgb_dcmtk_+eb+cy+n1.dcm"), channel="luminance").array
    assert np.abs(plain - lossy).mean() < 1 and np.ptp(plain) > 200


@pytest.mark.parametrize("kind", ["HSV", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_RCT", "YBR_ICT"])
@pytest.mark.parametrize("channel", ["red", "luminance"])
def test_colours_that_are_not_decoded_to_rgb_are_refused(tmp_path, kind, channel):
    """Their first sample is a hue, or a brightness."""
    array = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    made = image(array[..., 0], SamplesPerPixel=array.shape[-1], PhotometricInterpretation=kind)
    made.PlanarConfiguration, made.PixelData = 0, array.tobytes()
    save(made, tmp_path / "a.dcm")
    with pytest.raises(
        ValueError, match=rf"a\.dcm: channel: got '{channel}', but the colours are {kind} and"
    ):
        mf.io.read(tmp_path / "a.dcm", channel=channel)


def test_jpeg_2000_is_decoded_to_rgb():
    path = shipped("examples_jpeg2k.dcm")
    assert pydicom.dcmread(path).PhotometricInterpretation == "YBR_RCT"
    with pytest.warns(UserWarning, match="the file states no pixel size"):
        red = mf.io.read(path, channel="red")
    np.testing.assert_array_equal(red.array, pydicom.dcmread(path).pixel_array[..., 0])


def test_palette(tmp_path):
    tables = {"Red": [10, 200, 30, 0], "Green": [1, 2, 3, 4], "Blue": [0, 0, 255, 0]}
    made = image(np.array([[0, 1], [2, 1]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    made.PixelSpacing = [1, 1]
    for name, table in tables.items():
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [4, 0, 8])
        setattr(made, f"{name}PaletteColorLookupTableData", bytes(table))
    path = save(made, tmp_path / "a.dcm")
    with pytest.raises(ValueError, match="holds colour"):
        mf.io.read(path)
    np.testing.assert_array_equal(mf.io.read(path, channel="red").array, [[10, 200], [30, 200]])


def region(size, unit=3):
    made = Dataset()
    made.PhysicalUnitsXDirection = made.PhysicalUnitsYDirection = unit
    made.PhysicalDeltaX, made.PhysicalDeltaY = size, -2 * size
    return made


@pytest.mark.parametrize(
    ("entries", "size", "text"),
    [
        ({"ImagerPixelSpacing": [0.15, 0.14]}, (0.15, 0.14), r"at the detector, larger .*ImagerPixelSpacing"),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, (0.1, 0.1), "scanned film"),
        ({"SequenceOfUltrasoundRegions": [region(0.01)]}, (0.2, 0.1), None),
        ({"SequenceOfUltrasoundRegions": [region(0.01), region(7, 4)]}, (0.2, 0.1), "show tissue"),
        ({"SequenceOfUltrasoundRegions": [region(0.01), region(0.02)]}, None, "2 ultrasound regions"),
        ({"PixelAspectRatio": [2, 1]}, None, "states no pixel size"),
        ({"PixelSpacing": [0.3, 0.2]}, (0.3, 0.2), None),
    ],
)
def test_pixel_sizes_without_a_place_in_space(tmp_path, entries, size, text):
    path = save(image(np.ones((3, 4), np.uint8), Modality="US", **entries), tmp_path / "a.dcm")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read = mf.io.read(path)
    assert read.axes == "yx" and not read.oriented
    assert read.voxel_size == (size if size is None else pytest.approx(size))
    assert read.unit == (None if size is None else "mm")
    if text is None:
        assert said == []
    else:
        (one,) = said
        assert str(one.message).startswith(str(path)) and re.search(text, str(one.message))


@pytest.mark.parametrize("name", ["PixelSpacing", "ImagerPixelSpacing"])
def test_zero_pixel_size(tmp_path, name):
    path = save(image(np.ones((3, 4), np.uint8), **{name: [0, 0.1]}), tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=f"{name} .*expected positive lengths"):
        mf.io.read(path)


# Derived series


def blurred(read, scale=1.0, offset=0.0):
    """Something that is not the image any more."""
    array = read.array.astype(np.float32)
    return read.with_array((array + np.roll(array, 1, -1)) * np.float32(0.37 * scale) + np.float32(offset))


STALE = (
    "WindowCenter", "WindowWidth", "SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue",
    "PaletteColorLookupTableUID", "IconImageSequence",
)  # fmt: skip


def check_derived(sources, path, wanted, half=0.5):
    """Identity, references, geometry and values of the files of a derived series."""
    files = sorted(path.iterdir())
    derived = [pydicom.dcmread(file) for file in files]
    assert len(derived) == len(sources)
    series = {made.SeriesInstanceUID for made in derived}
    assert len(series) == 1 and series.isdisjoint({made.SeriesInstanceUID for made in sources})
    assert len({made.SOPInstanceUID for made in derived}) == len(derived)
    originals = {made.SOPInstanceUID: made for made in sources}
    for made, expected in zip(derived, wanted, strict=True):
        for uid in (made.SeriesInstanceUID, made.SOPInstanceUID):
            assert uid.startswith("2.25.") and UID(uid).is_valid and len(uid) <= 64
        assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
        (reference,) = made.SourceImageSequence
        source = originals.pop(reference.ReferencedSOPInstanceUID)
        assert made.SOPInstanceUID != source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == source.SOPClassUID == made.SOPClassUID
        for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "Modality", "PixelSpacing"):
            assert made.get(name) == source.get(name), name
        for name in ("ImagePositionPatient", "ImageOrientationPatient"):
            np.testing.assert_allclose(made.get(name), source.get(name), atol=1e-6)
        assert list(made.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert "not a medical device" in made.DerivationDescription
        assert not any(name in made for name in STALE) and not any(e.tag.is_private for e in made)
        slope = float(made.RescaleSlope)
        values = stored(made)[0] * slope + float(made.RescaleIntercept)
        assert np.abs(values - expected).max() <= half * slope * (1 + 1e-6)
    assert not originals
    return derived


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-4, 0), (3e5, 0), (1, -1000), (1e-3, 500)])
def test_derived_series(tmp_path, scale, offset):
    slices = stack(orientation=OBLIQUE, WindowCenter=40, WindowWidth=400, SmallestImagePixelValue=0,
                   LargestImagePixelValue=999, RescaleSlope=1, RescaleIntercept=-24)  # fmt: skip
    for made in slices:
        block = made.private_block(0x0019, "SOMEBODY", create=True)
        block.add_new(1, "DS", "3.5")
    read = mf.io.read(folder(tmp_path / "ct", slices))
    result = blurred(read, scale, offset)
    result.metadata["derivation"] = "averaged"
    mf.io.write(tmp_path / "out", result)
    derived = check_derived(slices, tmp_path / "out", result.array)
    assert "averaged" in derived[0].DerivationDescription and derived[0].RescaleType == "HU"
    assert [made.InstanceNumber for made in derived] == [1, 2, 3, 4, 5]
    back = mf.io.read(tmp_path / "out")
    np.testing.assert_allclose(back.affine, read.affine, atol=1e-9)
    slope = float(derived[0].RescaleSlope)
    np.testing.assert_allclose(back.array, result.array, rtol=1e-6, atol=0.5 * slope)
    assert back.metadata["intensity_unit"] == "HU"


def test_zero_stays_zero_and_integers_are_exact(tmp_path):
    read = mf.io.read(folder(tmp_path / "ct", stack()))
    for number, array in enumerate((read.array, (read.array.astype(np.int32) * 60).astype(np.int32))):
        mf.io.write(tmp_path / f"out{number}", read.with_array(array))
        back = mf.io.read(tmp_path / f"out{number}")
        np.testing.assert_array_equal(back.array, array)
        assert back.dtype.kind in "iu"
    whole = read.array.astype(np.float32) - 1024  # as read where there is an intercept
    mf.io.write(tmp_path / "whole", read.with_array(whole))
    np.testing.assert_array_equal(mf.io.read(tmp_path / "whole").array, whole)
    array = read.array.astype(np.float32) * np.float32(0.1)
    array[0, 0, 0] = 0
    mf.io.write(tmp_path / "zero", read.with_array(array))
    assert mf.io.read(tmp_path / "zero").array[0, 0, 0] == 0


def test_pet_has_no_intercept(tmp_path):
    slices = stack(Modality="PT", SOPClassUID=PET, Units="BQML", RescaleSlope=1, RescaleIntercept=0)
    read = mf.io.read(folder(tmp_path / "pet", slices))
    for number, offset in enumerate((300, -300)):
        result = blurred(read, offset=offset)
        mf.io.write(tmp_path / f"out{number}", result)
        derived = check_derived(slices, tmp_path / f"out{number}", result.array)
        assert float(derived[0].RescaleIntercept) == 0 and "RescaleType" not in derived[0]
        assert mf.io.read(tmp_path / f"out{number}").metadata["intensity_unit"] == "BQML"


def test_scaled_values_do_not_claim_the_old_unit(tmp_path):
    """A SUV is computed from values that say BQML."""
    pet = stack(Modality="PT", SOPClassUID=PET, Units="GML", SUVType="BW", RescaleSlope=1, RescaleIntercept=0)
    ct = stack(RescaleSlope=1, RescaleIntercept=-10, RescaleType="HU")
    for name, slices, element, unit, none in (
        ("pet", pet, "Units", "GML", "NONE"), ("ct", ct, "RescaleType", "HU", "US"),
    ):  # fmt: skip
        read = mf.io.read(folder(tmp_path / name, slices))
        scaled, step = mf.preprocess.normalize(read)
        for kind, image, wanted in (("scaled", scaled, none), ("undone", step.undo(scaled), unit)):
            mf.io.write(tmp_path / f"{name}_{kind}", image)
            made = pydicom.dcmread(tmp_path / f"{name}_{kind}" / "IM0001.dcm")
            assert made[element].value == wanted
            assert ("SUVType" in made) == (name == "pet" and kind == "undone")
            back = mf.io.read(tmp_path / f"{name}_{kind}")
            assert back.metadata["intensity_unit"] == (None if kind == "scaled" else unit)


@pytest.mark.parametrize("low", [-1e6, -1024, -1e-3, 0, 1e-9, 1, 12345.678, 1e8])
@pytest.mark.parametrize("span", [0, 1e-5, 1, 4096.5, 1e7])
@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_encoding_is_within_half_a_slope(low, span, modality):
    array = low + np.linspace(0, span, 1001)
    made = _dicom_series.encode(array, modality=modality)
    slope, intercept = float(made.slope), float(made.intercept)
    assert len(made.slope) <= 16 and len(made.intercept) <= 16 and made.array.dtype.itemsize == 2
    error = np.abs(made.array.astype(np.float64) * slope + intercept - array).max()
    assert error <= 0.5 * slope * (1 + 1e-6) + 1e-12 * abs(low)
    if span >= 1 and abs(low) < 1e5 and modality == "CT":
        assert slope <= 2.1 * span / 65534  # nor is range given away


@pytest.mark.parametrize("named", [None, "ISO_IR 100", "ISO_IR 192"])
def test_letters_of_a_derivation_beside_those_of_the_source(tmp_path, named):
    letters = {} if named is None else {"SpecificCharacterSet": named, "InstitutionName": "Universität"}
    read = mf.io.read(folder(tmp_path / "ct", stack(**letters)))
    read.metadata["derivation"] = "PSF of 3 µm, 日本"
    mf.io.write(tmp_path / "out", read)
    for file in (tmp_path / "out").iterdir():
        made = pydicom.dcmread(file)
        assert "PSF of 3 µm, 日本" in made.DerivationDescription
        assert named is None or made.InstitutionName == "Universität"


def test_uids_follow_from_input_options_and_values(tmp_path):
    read = mf.io.read(folder(tmp_path / "ct", stack()))
    result = blurred(read)

    def uids(name, volume, description):
        volume.metadata["derivation"] = description
        mf.io.write(tmp_path / name, volume)
        made = [pydicom.dcmread(file) for file in sorted((tmp_path / name).iterdir())]
        return [made[0].SeriesInstanceUID, *(m.SOPInstanceUID for m in made)]

    first = uids("a", result, "30 iterations")
    assert uids("b", result, "30 iterations") == first
    for name, volume, text in (("c", result, "31 iterations"), ("d", blurred(read, 2), "30 iterations")):
        assert set(uids(name, volume, text)).isdisjoint(first)


def test_what_was_lossy_stays_lossy(tmp_path):
    for name, stated, flag in (
        ("JPGExtended.dcm", None, "01"),
        ("MR_small.dcm", "00", "00"),
        ("MR_small.dcm", None, None),
    ):
        made = pydicom.dcmread(shipped(name))
        if stated is None:
            made.pop("LossyImageCompression", None)
        else:
            made.LossyImageCompression = stated
        made.save_as(tmp_path / "a.dcm")
        mf.io.write(tmp_path / "b.dcm", blurred(mf.io.read(tmp_path / "a.dcm")), overwrite=True)
        assert pydicom.dcmread(tmp_path / "b.dcm").get("LossyImageCompression") == flag


def test_big_endian_source(tmp_path):
    made = pydicom.dcmread(shipped("MR_small_bigendian.dcm"))
    made.add_new((0x6000, 0x0010), "US", 4)
    made.add_new((0x6000, 0x0011), "US", 8)
    made.add_new((0x6000, 0x0100), "US", 1)
    made.add_new((0x6000, 0x3000), "OW", b"\x01\x02\x03\x04")
    made.save_as(tmp_path / "a.dcm")
    read = mf.io.read(tmp_path / "a.dcm")
    mf.io.write(tmp_path / "out.dcm", read)
    derived = pydicom.dcmread(tmp_path / "out.dcm")
    assert derived.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert derived[0x6000, 0x3000].value == b"\x02\x01\x04\x03" and derived.Rows == made.Rows == 64
    np.testing.assert_array_equal(mf.io.read(tmp_path / "out.dcm").array, read.array)


def test_derived_enhanced_multi_frame(tmp_path):
    made, _ = enhanced(order=[3, 0, 4, 1, 2], WindowCenter=5, WindowWidth=7)
    read = mf.io.read(save(made, tmp_path / "a.dcm"))
    result = blurred(read)
    mf.io.write(tmp_path / "out", result)
    (file,) = (tmp_path / "out").iterdir()
    back, derived = mf.io.read(tmp_path / "out"), pydicom.dcmread(file)
    slope = float(derived.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleSlope)
    np.testing.assert_allclose(back.array, result.array, rtol=1e-6, atol=0.5 * slope)
    np.testing.assert_allclose(back.affine, read.affine, rtol=1e-12)
    assert derived.NumberOfFrames == 5 and list(derived.ImageType[:2]) == ["DERIVED", "PRIMARY"]
    groups = [*derived.SharedFunctionalGroupsSequence, *derived.PerFrameFunctionalGroupsSequence]
    assert groups[0].MRImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    assert not any("FrameVOILUTSequence" in g for g in groups) and "WindowCenter" not in derived
    assert back.metadata["intensity_unit"] == "MSEC"


def test_volumes_that_cannot_be_derived(tmp_path):
    path = folder(tmp_path / "ct", stack())
    read = mf.io.read(path)
    bare = mf.io.Volume(read.array, read.voxel_size, read.affine, "mm")
    with pytest.raises(
        ValueError, match=r"out: .*this volume was read from none; choose a name ending in \.nii\.gz"
    ):
        mf.io.write(tmp_path / "out", bare)
    cropped = mf.io.Volume(read.array[1:], None, read.affine, "mm", metadata=read.metadata)
    with pytest.raises(ValueError, match=r"shape \(4, 6, 7\) .*its DICOM source \(5, 6, 7\)"):
        mf.io.write(tmp_path / "out", cropped)
    moved = mf.io.Volume(read.array, None, read.affine + np.eye(4, k=3), "mm", metadata=read.metadata)
    with pytest.raises(ValueError, match="orientation is no longer that of its DICOM source"):
        mf.io.write(tmp_path / "out", moved)
    with pytest.raises(ValueError, match="NaN"):
        mf.io.write(tmp_path / "out", read.with_array(np.full(read.shape, np.nan)))
    with pytest.raises(
        ValueError, match=r"out\.dcm: the volume was read from 5 DICOM files .* name of a folder"
    ):
        mf.io.write(tmp_path / "out.dcm", read)
    mf.io.write(tmp_path / "um", read.to_unit("um"))  # the same grid
    other = stack(1)[0]
    save(other, path / "003.dcm")
    with pytest.raises(ValueError, match=r"003\.dcm: is no longer the image that the volume was read from"):
        mf.io.write(tmp_path / "out", read)
    shutil.rmtree(path)
    with pytest.raises(ValueError, match=r"003\.dcm: the volume was read from it, and .* needs it again"):
        mf.io.write(tmp_path / "out", read)
    assert [p.name for p in tmp_path.iterdir()] == ["um"]


def test_folders_are_not_lost(tmp_path):
    path = folder(tmp_path / "ct", stack())
    result = blurred(mf.io.read(path))
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds the files that the volume was read from"):
            mf.io.write(path, result, overwrite=overwrite)
        with pytest.raises(ValueError, match="holds the files that the volume was read from"):
            mf.io.write(path / "003.dcm", result, overwrite=overwrite)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before
    out = tmp_path / "out"
    out.mkdir()
    mf.io.write(out, result)  # empty: nothing is lost
    with pytest.raises(FileExistsError, match="overwrite"):
        mf.io.write(out, result)
    mf.io.write(out, blurred(mf.io.read(path), 2), overwrite=True)
    assert len(list(out.iterdir())) == 5
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt, which is not of a series written by"):
        mf.io.write(out, result, overwrite=True)
    originals = folder(tmp_path / "other", stack(3))
    with pytest.raises(FileExistsError, match=r"\.dcm, which is not of a series written by this library"):
        mf.io.write(originals, result, overwrite=True)
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileExistsError, match="taken: exists already"):
        mf.io.check_destination(tmp_path / "taken")
    with pytest.raises(FileNotFoundError, match=r"directory .* does not exist"):
        mf.io.write(tmp_path / "no" / "out", result)


@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_series_leaves_nothing(tmp_path, monkeypatch, existing):
    result = blurred(mf.io.read(folder(tmp_path / "ct", stack())))
    if existing:
        mf.io.write(tmp_path / "out", result)

    def content():
        return {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    before, write, count = content(), _dicom_series._write, itertools.count()

    def fails(dataset, path):
        if next(count) == 3:
            raise OSError(28, "No space left on device")
        write(dataset, path)

    monkeypatch.setattr(_dicom_series, "_write", fails)
    with pytest.raises(OSError, match=r"No space left on device: .*out"):
        mf.io.write(tmp_path / "out", result, overwrite=True)
    assert content() == before and (tmp_path / "out").exists() == existing
    assert not any(p.name.startswith(".medeconv") for p in tmp_path.iterdir())


@pytest.mark.shared
def test_restored_mr_series(shared_data, tmp_path, capsys):
    """A real series through the command line, then read by pydicom and SimpleITK."""
    source = shared_data / "dicom_mr_vsseg"
    words = ["--fwhm-mm", "2", "0.8", "0.8", "--iterations", "4", "--quiet"]
    assert cli.main(["restore", str(source), "-o", str(tmp_path / "out"), *words]) == 0
    assert cli.main(["restore", str(source), "-o", str(tmp_path / "out.npy"), *words]) == 0
    wanted = np.load(tmp_path / "out.npy")
    sources = [pydicom.dcmread(file) for file in source.glob("*.dcm")]
    derived = check_derived(sources, tmp_path / "out", wanted)
    text = derived[0].DerivationDescription
    assert "richardson-lucy, biggs-andrews" in text
    assert ", 4 iterations, negative clip, boundary extended" in text
    sitk = pytest.importorskip("SimpleITK", reason="SKIPPED: SimpleITK is not installed (extra itk)")
    before, after = by_simpleitk(sitk, source), by_simpleitk(sitk, tmp_path / "out")
    np.testing.assert_allclose(after[1], before[1], atol=1e-6)
    np.testing.assert_allclose(mf.io.read(source).affine, before[1], atol=1e-6)
    assert np.abs(after[0] - wanted).max() <= 0.5 * float(derived[0].RescaleSlope) * (1 + 1e-6)


# Command line


@pytest.fixture
def run(capsys):
    def go(*words):
        status = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out, err

    return go


def test_command_line(tmp_path, run):
    path = folder(tmp_path / "study", [*stack(4), *stack(5, SeriesInstanceUID="1.2.7", SeriesNumber=5)])
    status, _, err = run("info", path)
    assert status == 2 and "2 series: " in err and "--series" in err and len(err.splitlines()) == 1
    status, out, _ = run("info", path, "--series", 5, "--json", tmp_path / "r.json")
    assert (
        status == 0
        and "5 x 6 x 7" in out
        and "series      5 head (CT)" in out
        and "2.5 x 0.8 x 0.5 mm" in out
    )
    assert json.loads((tmp_path / "r.json").read_text())["shape"] == [5, 6, 7]
    restore = ("restore", path, "--series", 5, "--fwhm-mm", 3, 1, 1, "--iterations", 2)
    status, out, _ = run(*restore, "-o", tmp_path / "out")
    assert status == 0 and "wrote" in out and len(list((tmp_path / "out").iterdir())) == 5
    assert run(*restore, "-o", tmp_path / "out.nii.gz")[0] == 0
    series, nifti = mf.io.read(tmp_path / "out"), mf.io.read(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(series.affine, nifti.affine, atol=1e-5)
    np.testing.assert_allclose(series.array, nifti.array, atol=np.ptp(nifti.array) / 65000)
    for words, text in (
        (("-o", tmp_path / "out"), "exists already and is not empty; --overwrite replaces it"),
        (("-o", path, "--overwrite"), "which is not of a series written by this library"),
        (("-o", tmp_path / "a.dcm"), "the volume was read from 5 DICOM files"),
    ):
        status, _, err = run(*restore, *words)
        assert status == 2 and text in err, err
    assert run(*restore, "-o", tmp_path / "out", "--overwrite")[0] == 0
    status, _, err = run("restore", tmp_path / "out.nii.gz", "--fwhm-mm", 3, "-o", tmp_path / "from_nifti")
    assert status == 2 and "this volume was read from none" in err


def test_preprocessing_and_report(tmp_path, run):
    """What is undone is written on the source's grid; what is kept is not, or loses a unit it has left."""
    pytest.importorskip("matplotlib", reason="SKIPPED: matplotlib is not installed (extra report)")
    scale = {"shape": (12, 14), "RescaleSlope": 1, "RescaleIntercept": -10}
    path = folder(tmp_path / "ct", stack(**scale))
    words = ("restore", path, "--fwhm-mm", 3, 1, 1, "--iterations", 2, "--negative", "clip")
    cropped = ("--pre", "crop=0:5,2:10,2:12")
    page = tmp_path / "page.html"
    assert run(*words, *cropped, "-o", tmp_path / "out", "--report", page)[0] == 0
    made = pydicom.dcmread(tmp_path / "out" / "IM0001.dcm")
    assert (made.Rows, made.Columns) == (12, 14) and made.RescaleType == "HU"
    assert "crop=0:5,2:10,2:12 (undone)" in made.DerivationDescription and page.is_file()
    status, _, err = run(*words, *cropped, "--keep-preprocessed", "-o", tmp_path / "cut")
    assert status == 2 and "a derived series keeps the source's grid" in err
    scaled = ("--pre", "normalize=min-max", "--keep-preprocessed")
    assert run(*words, *scaled, "-o", tmp_path / "scaled")[0] == 0
    assert pydicom.dcmread(tmp_path / "scaled" / "IM0001.dcm").RescaleType == "US"
    limited = ("--pre", "window=60:60", "--keep-preprocessed")
    assert run(*words, *limited, "-o", tmp_path / "limited")[0] == 0
    assert pydicom.dcmread(tmp_path / "limited" / "IM0001.dcm").RescaleType == "HU"


@pytest.mark.parametrize("words", [("--iterations", 2), ("--method", "wiener", "--balance", 0.01)])
def test_a_series_restored_in_tiles_says_how(tmp_path, run, words):
    pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
    path = folder(tmp_path / "ct", stack())
    method = words if "wiener" in words else ("--method", "rl", *words)
    for name, tiles in (("whole", ()), ("tiles", ("--memory", "1GB"))):
        status, _, err = run("restore", path, "-o", tmp_path / name, "--fwhm-mm", 3, *method, *tiles)
        assert status == 0, err
    whole, tiled = (
        pydicom.dcmread(tmp_path / name / "IM0001.dcm").DerivationDescription for name in ("whole", "tiles")
    )
    assert tiled.split("; PSF ")[1] == whole.split("; PSF ")[1] and "PSF Gaussian" in tiled
    done = "wiener, balance 0.01" if "wiener" in words else "richardson-lucy, 2 iterations"
    boundary = whole.partition("boundary ")[2].partition(";")[0]
    assert f"version {mf.__version__}, restored in tiles by {done}, boundary {boundary}; PSF" in tiled


def test_a_simulated_series_says_so(tmp_path, run):
    path = folder(tmp_path / "ct", stack())
    words = ("--fwhm-mm", 3, "--noise", "gaussian", "--sigma", 5, "--seed", 7)
    assert run("simulate", path, "-o", tmp_path / "out", *words)[0] == 0
    text = pydicom.dcmread(tmp_path / "out" / "IM0001.dcm").DerivationDescription
    assert "not a medical device" in text and "simulated: blurred by Gaussian" in text and "seed 7" in text
    assert run("plan", path, "--fwhm-mm", 3)[0] == 0


def test_command_line_chooses_channel_and_frame(tmp_path, run):
    film = np.arange(2 * 8 * 9 * 3, dtype=np.uint8).reshape(2, 8, 9, 3)
    made = image(film[..., 0], SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    made.PixelData, made.NumberOfFrames, made.PixelSpacing = film.tobytes(), 2, [0.2, 0.2]
    path = save(made, tmp_path / "us.dcm")
    for words, text in (((), "--frame"), (("--frame", 1), "--channel")):
        status, _, err = run("info", path, *words)
        assert status == 2 and text in err
    words = ("restore", path, "--frame", 1, "--channel", "green", "--fwhm-mm", 0.5, "-o", tmp_path / "o.npy")
    assert run(*words)[0] == 0
    assert np.load(tmp_path / "o.npy").shape == (8, 9)


def test_examples_of_the_page(tmp_path, monkeypatch, capsys):
    """docs/scans.md, on series made for it."""
    pytest.importorskip("SimpleITK", reason="SKIPPED: SimpleITK is not installed (extra itk)")
    page = (Path(__file__).resolve().parents[1] / "docs" / "scans.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    scale = {"RescaleSlope": 1, "RescaleIntercept": -1024, "shape": (12, 14)}
    folder(tmp_path / "head_ct", stack(**scale))
    thin = stack(9, SeriesInstanceUID="1.2.7", SeriesNumber=5, SeriesDescription="Head, thin", **scale)
    folder(tmp_path / "study", [*stack(**scale), *thin])
    (commands,), (code,) = (
        re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        for language in ("sh", "python")
    )
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        assert (program, cli.main(words)) == ("medeconv", 0), capsys.readouterr().err
    exec(code, {})
    assert "(9, 12, 14) (2.5, 0.8, 0.5) mm HU" in capsys.readouterr().out
    for name in ("head_ct_restored", "head_ct_restored.nii.gz", "thick.mha", "thin_restored"):
        assert mf.io.read(name).voxel_size == pytest.approx((2.5, 0.8, 0.5))


def test_derived_files_carry_the_day_they_were_made(tmp_path):
    mf.io.write(tmp_path / "out", blurred(mf.io.read(folder(tmp_path / "ct", stack(2)))))
    made = pydicom.dcmread(tmp_path / "out" / "IM0001.dcm")
    day = datetime.datetime.strptime(made.SeriesDate + made.SeriesTime, "%Y%m%d%H%M%S")
    assert abs((datetime.datetime.now() - day).total_seconds()) < 600
    assert made.ContributingEquipmentSequence[-1].Manufacturer == "medeconv_fast"


def test_a_series_is_chosen_by_its_description_in_tiles_too(tmp_path, run):
    other = stack(5, SeriesInstanceUID="1.2.7", SeriesNumber=5, SeriesDescription="Thin 4")
    path = folder(tmp_path / "study", [*stack(4), *other])
    for series in (5, "5", "Thin 4", "1.2.7"):
        assert mf.io.open_source(path, series=series).shape == (5, 6, 7)
    words = ("restore", path, "--fwhm-mm", 3, 1, 1, "--method", "rl", "--iterations", 2, "--memory", "1GB")
    status, _, err = run(*words, "--series", "Thin 4", "-o", tmp_path / "out.npy")
    assert status == 0, err
    assert mf.io.read(tmp_path / "out.npy").shape == (5, 6, 7)
    status, _, err = run(*words, "--series", "thick", "-o", tmp_path / "other.npy")
    assert status == 2 and "series: got 'thick', which none of these has" in err
    np.save(tmp_path / "plain.npy", np.ones((4, 5, 6)))
    with pytest.raises(ValueError, match="series: got 'thick', expected the number of an image"):
        mf.io.open_source(tmp_path / "plain.npy", series="thick")
