"""NRRD and MetaImage against SimpleITK itself: values, geometry in LPS, units, what is refused."""

import json

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import cli
from medeconv_fast.io import Volume, _files

sitk = pytest.importorskip("SimpleITK", reason="SKIPPED: SimpleITK is not installed (extra itk)")

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
TURN = np.array(
    [[0.91017, -0.406332, -0.080531], [0.332238, 0.832184, -0.443979], [0.247404, 0.377312, 0.892416]]
)


def original(dtype=np.float32, shape=(4, 5, 6)):
    rng = np.random.default_rng(3)
    made = sitk.GetImageFromArray((rng.random(shape) * 200).astype(dtype))
    made.SetSpacing((0.1234567890123, 2 / 3, 1.5)[: len(shape)])
    made.SetOrigin((-106.32680907019, 1 / 3, -2.0006690025)[: len(shape)])
    if len(shape) == 3:
        made.SetDirection(np.linalg.qr(TURN)[0].ravel().tolist())
    return made


def affine_of(made):
    """From ITK's three fields: index to LPS, then left and back to right and front."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(made.GetDirection()).reshape(3, 3) @ np.diag(made.GetSpacing())
    affine[:3, 3] = made.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_simpleitks_files(tmp_path, suffix, dtype):
    made = original(dtype)
    sitk.WriteImage(made, str(tmp_path / f"a{suffix}"))
    read = mf.io.read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read.array, sitk.GetArrayFromImage(made))
    assert read.dtype == dtype and read.axes == "zyx" and read.unit == "mm" and read.oriented
    np.testing.assert_allclose(read.voxel_size, made.GetSpacing()[::-1], rtol=1e-12)
    np.testing.assert_allclose(read.affine, affine_of(made), atol=1e-12)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_simpleitk_reads_ours(tmp_path, suffix):
    made = original()
    wanted = Volume(sitk.GetArrayFromImage(made), None, affine_of(made), "mm")
    mf.io.write(tmp_path / f"a{suffix}", wanted)
    read = sitk.ReadImage(str(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), wanted.array)
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(read, name)(), getattr(made, name)(), atol=1e-12)


@pytest.mark.parametrize("name", ["a.Nrrd", "a.Nhdr", "a.Mha", "a.MHA", "a.Mhd", "a.MHD"])
def test_endings_in_mixed_case(tmp_path, name):
    """ITK writes a header and values apart under such a name, or nothing."""
    wanted = Volume(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    mf.io.write(tmp_path / name, wanted)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in mf.io.destinations(tmp_path / name)}
    np.testing.assert_array_equal(mf.io.read(tmp_path / name).array, wanted.array)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("zyx", (4, 5, 6)),
        ("yx", (5, 6)),
        ("zyx", (1, 5, 6)),
        ("zyx", (4, 1, 1)),
        ("tzyx", (2, 4, 5, 6)),
        ("tyx", (2, 5, 6)),
        ("czyx", (2, 4, 5, 6)),
        ("zyxc", (4, 5, 6, 3)),
        ("yxs", (5, 6, 3)),
        ("tczyx", (2, 3, 4, 5, 6)),
        ("tczyx", (3, 1, 4, 5, 6)),
        ("tczyx", (1, 1, 4, 5, 6)),
        ("tczyx", (1, 2, 1, 5, 6)),
        ("ctzyx", (1, 2, 1, 5, 6)),
        ("tzyx", (1, 4, 5, 6)),
        ("tyx", (1, 5, 6)),
        ("czyx", (1, 4, 5, 6)),
        ("cyx", (1, 5, 6)),
        ("yxs", (5, 6, 1)),
        ("cyx", (1, 1, 6)),
    ],
)
@pytest.mark.parametrize("unit", ["mm", "um", None])
def test_round_trip(tmp_path, suffix, axes, shape, unit):
    array = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8 if "s" in axes else np.float32)
    sizes = (3.0, 0.2, 0.1)[3 - sum(a in "zyx" for a in axes) :]
    wanted = Volume(array, sizes, None, unit, axes)
    mf.io.write(tmp_path / f"a{suffix}", wanted)
    read = mf.io.read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read.array, array)
    assert (read.axes, read.unit, read.dtype) == (axes, unit, array.dtype) and not read.oriented
    np.testing.assert_allclose(read.voxel_size, sizes, rtol=1e-12)


def test_axes_that_another_program_has_changed_are_not_made_up(tmp_path):
    mf.io.write(tmp_path / "a.nrrd", Volume(np.ones((1, 4, 5, 6), np.float32), axes="czyx"))
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    joined = sitk.Compose(image, image)
    for key in image.GetMetaDataKeys():
        joined.SetMetaData(key, image.GetMetaData(key))
    sitk.WriteImage(joined, str(tmp_path / "b.nrrd"))
    read = mf.io.read(tmp_path / "b.nrrd")
    assert (read.axes, read.shape) == ("czyx", (2, 4, 5, 6))
    sitk.WriteImage(image[:, :, 1], str(tmp_path / "c.nrrd"))
    assert mf.io.read(tmp_path / "c.nrrd").axes == "yx"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("axes", ["zyx", "yx", "tzyx", "zyxc"])
@pytest.mark.parametrize("unit", ["mm", "um"])
def test_orientation_survives(tmp_path, suffix, axes, unit):
    affine = affine_of(original())
    array = np.ones([{"t": 2, "z": 4, "y": 5, "x": 6, "c": 2}[a] for a in axes], np.float32)
    wanted = Volume(array, None, affine, unit, axes)
    mf.io.write(tmp_path / f"a{suffix}", wanted)
    read = mf.io.read(tmp_path / f"a{suffix}")
    assert read.axes == axes and read.unit == unit
    np.testing.assert_allclose(read.affine, affine, atol=1e-12)
    np.testing.assert_allclose(read.voxel_size, wanted.voxel_size, rtol=1e-12)


def itk_fields(path):
    image = sitk.ReadImage(str(path))
    return {f: np.array(getattr(image, f"Get{f}")()) for f in ("Spacing", "Origin", "Direction")}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("channels", [1, 2])
def test_planes_keep_their_place(tmp_path, suffix, channels):
    array = np.ones((5, 6, channels)[: 2 + (channels > 1)], np.float32)
    made = sitk.GetImageFromArray(array, isVector=channels > 1)
    made.SetSpacing((0.2, 0.3))
    made.SetOrigin((10, 20))
    made.SetDirection((0, -1, 1, 0))
    sitk.WriteImage(made, str(tmp_path / f"a{suffix}"))
    read = mf.io.read(tmp_path / f"a{suffix}")
    assert read.metadata["origin"] == (20, 10) and read.metadata["direction"] == [[0, -1], [1, 0]]
    mf.io.write(tmp_path / f"b{suffix}", read.with_array(read.array * 2))
    for field, wanted in itk_fields(tmp_path / f"a{suffix}").items():
        np.testing.assert_allclose(itk_fields(tmp_path / f"b{suffix}")[field], wanted, rtol=1e-12)
    again = mf.io.read(tmp_path / f"b{suffix}")
    assert again.metadata == read.metadata and again.voxel_size == read.voxel_size
    part = mf.preprocess.crop(read, [(1, 4), (2, 5)])[0]
    mf.io.write(tmp_path / f"c{suffix}", part)
    there = sitk.ReadImage(str(tmp_path / f"c{suffix}"))
    place = made.TransformIndexToPhysicalPoint((2, 1))
    np.testing.assert_allclose(there.TransformIndexToPhysicalPoint((0, 0)), place, rtol=1e-12)


def test_places_in_um_and_of_stores(tmp_path):
    pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
    metadata = {"origin": (500.0, 250.0), "direction": [[0.0, -1.0], [1.0, 0.0]]}
    made = Volume(np.ones((5, 6), np.float32), (2.0, 1.0), None, "um", metadata=metadata)
    mf.io.write(tmp_path / "a.mha", made)
    np.testing.assert_allclose(itk_fields(tmp_path / "a.mha")["Origin"], (0.25, 0.5))
    mf.io.write(tmp_path / "b.ome.zarr", mf.io.read(tmp_path / "a.mha"))
    read = mf.io.read(tmp_path / "b.ome.zarr")
    assert read.metadata["origin"] == pytest.approx((500, 250))
    mf.io.write(tmp_path / "c.nrrd", read)
    again = mf.io.read(tmp_path / "c.nrrd").metadata
    assert again["origin"] == pytest.approx((500, 250)) and again["direction"] == metadata["direction"]


def slices(folder, lines, shape=(4, 5, 6)):
    """A header, and a file of values for each of four slices."""
    array = np.random.default_rng(3).random(shape).astype(np.float32)
    for number, values in enumerate(array):
        values.tofile(folder / f"s{number}.raw")
    entries = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "ElementSpacing = 1 1 2"]
    entries += [f"DimSize = {shape[2]} {shape[1]} {shape[0]}", "ElementType = MET_FLOAT"]
    text = "\n".join([*entries, f"ElementDataFile = {lines}", ""])
    (folder / "a.mhd").write_text(text)
    return array


@pytest.mark.parametrize(
    "lines",
    ["LIST\ns0.raw\ns1.raw\ns2.raw\ns3.raw", "LIST 2\ns0.raw\ns1.raw\ns2.raw\ns3.raw", "s%d.raw 0 3 1"],
)
def test_a_file_of_values_for_every_slice(tmp_path, lines):
    array = slices(tmp_path, lines)
    np.testing.assert_array_equal(mf.io.read(tmp_path / "a.mhd").array, array)
    named = {path.name for path in mf.io.sources(tmp_path / "a.mhd")}
    assert named >= {"s0.raw", "s1.raw", "s2.raw", "s3.raw"}
    source = mf.io.open_source(tmp_path / "a.mhd")
    before = source.identity()
    array[2].tofile(tmp_path / "s2.raw")
    assert mf.io.open_source(tmp_path / "a.mhd").identity() != before


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("LIST\ns0.raw\ns1.raw\ns2.raw", "its 3 files of values hold 360 bytes, expected 480"),
        ("s%d.raw 0 2 1", "its 3 files of values hold 360 bytes, expected 480"),
        ("s%d.raw 0 3", "expected a pattern such as"),  # ITK divides by the step
        ("s%d.raw 0 3 0", "expected a pattern such as"),
        ("LISTof.raw", "is LISTof.raw; what begins with LIST stands for a list of files"),
    ],
)
def test_files_of_values_that_itk_would_misread(tmp_path, lines, text):
    """It leaves memory as it was, takes the header for a list, or divides by zero."""
    slices(tmp_path, lines)
    with pytest.raises(ValueError, match=text):
        mf.io.read(tmp_path / "a.mhd")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_compressed_values_are_refused(tmp_path, suffix):
    """ITK does not look at the checksums."""
    rng = np.random.default_rng(5)
    image = sitk.GetImageFromArray(rng.integers(0, 9, (20, 30, 40)).astype(np.float32))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), useCompression=True)
    np.testing.assert_array_equal(mf.io.read(tmp_path / f"a{suffix}").array, sitk.GetArrayFromImage(image))
    values = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    whole = values.read_bytes()
    for place in rng.integers(len(whole) // 2, len(whole) - 1, 8):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        values.write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match=r"damaged|ends? early"):
            mf.io.read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("name", ["LISTMODE.mhd", "LISTMODE.nhdr", "50%.mhd", "a%d.nhdr"])
def test_names_that_headers_take_for_lists_are_refused(tmp_path, name):
    volume = Volume(np.ones((4, 5, 6), np.float32), (1.0, 1.0, 1.0), None, "mm")
    for refuse in (mf.io.check_destination, lambda path: mf.io.write(path, volume)):
        with pytest.raises(ValueError, match="which headers take for a list or a pattern"):
            refuse(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_fourth_axis_keeps_step_and_start(tmp_path, suffix):
    made = sitk.GetImageFromArray(np.ones((2, 4, 5, 6), np.float32), isVector=False)
    made.SetSpacing((0.2, 0.3, 1, 2.5))
    made.SetOrigin((10, 20, 30, 4))
    made.SetDirection(np.diag([-1.0, 1, -1, 1]).ravel().tolist())
    sitk.WriteImage(made, str(tmp_path / f"a{suffix}"))
    read = mf.io.read(tmp_path / f"a{suffix}")
    assert (read.metadata["time_step"], read.metadata["time_unit"]) == (2.5, "unknown")
    read.metadata["time_unit"] = "sec"
    mf.io.write(tmp_path / f"b{suffix}", read)
    for field, wanted in itk_fields(tmp_path / f"a{suffix}").items():
        np.testing.assert_allclose(itk_fields(tmp_path / f"b{suffix}")[field], wanted, rtol=1e-12)
    assert mf.io.read(tmp_path / f"b{suffix}").metadata == read.metadata
    # Another program halves the rate and leaves the field in place.
    changed = sitk.ReadImage(str(tmp_path / f"b{suffix}"))
    changed.SetSpacing((0.2, 0.3, 1, 5))
    sitk.WriteImage(changed, str(tmp_path / f"c{suffix}"))
    again = mf.io.read(tmp_path / f"c{suffix}").metadata
    assert (again["time_step"], again["time_unit"], again["toffset"]) == (5, "sec", 4)


@pytest.mark.parametrize("step", [0, 0.1, 1])
def test_time_from_and_to_nifti(tmp_path, step):
    nib = pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
    image = nib.Nifti1Image(np.ones((6, 5, 4, 2), np.float32), np.eye(4))
    image.header.set_zooms((1, 1, 1, step))
    image.header.set_xyzt_units("mm", "msec")
    image.header["toffset"] = 7
    nib.save(image, tmp_path / "a.nii")
    mf.io.write(tmp_path / "b.mha", mf.io.read(tmp_path / "a.nii"))
    assert itk_fields(tmp_path / "b.mha")["Spacing"][3] == pytest.approx(step or 1)
    mf.io.write(tmp_path / "c.nii", mf.io.read(tmp_path / "b.mha"))
    header = nib.load(tmp_path / "c.nii").header
    assert header.get_zooms()[3] == pytest.approx(step) and header.get_xyzt_units() == ("mm", "msec")
    assert header["toffset"] == 7


def test_time_of_nrrd(tmp_path):
    head = ["NRRD0004", "type: short", "dimension: 4", "sizes: 4 3 1 2", "endian: little", "encoding: raw"]
    head += ['units: "mm" "mm" "mm" "s"', "spacings: 0.5 0.4 2 1", "axis mins: 1 2 3 4", "", ""]
    (tmp_path / "a.nrrd").write_bytes("\n".join(head).encode() + bytes(48))
    read = mf.io.read(tmp_path / "a.nrrd")
    assert (read.metadata["time_step"], read.metadata["time_unit"]) == (1, "sec") and not read.oriented
    # Mins are those of cells.
    assert read.metadata["origin"] == pytest.approx((4, 2.2, 1.25)) and read.metadata["toffset"] == 4.5
    mf.io.write(tmp_path / "b.nrrd", read)
    assert mf.io.read(tmp_path / "b.nrrd").metadata == read.metadata


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"origin": (1, 2, 3)}, r"origin is \(1, 2, 3\), expected \(2,\) finite numbers"),
        ({"origin": (1, np.nan)}, "origin is"),
        ({"direction": [[1, 1], [1, 1]]}, r"direction is \[\[1, 1\], \[1, 1\]\], expected a matrix"),
        ({"direction": "LPS"}, "direction is 'LPS'"),
        ({"toffset": "now"}, "toffset is 'now', expected a finite number"),
    ],
)
def test_impossible_places(tmp_path, entry, text):
    axes = "tyx" if "toffset" in entry else "yx"
    made = Volume(np.ones((2, 5, 6)[3 - len(axes) :], np.float32), (1, 1), None, "mm", axes, entry)
    with pytest.raises(ValueError, match=f"a.mha: metadata: {text}"):
        mf.io.write(tmp_path / "a.mha", made)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("unit", ["mm", None])
def test_unknown_sizes_stay_unknown(tmp_path, suffix, unit):
    mf.io.write(tmp_path / f"a{suffix}", Volume(np.ones((4, 5, 6), np.float32), unit=unit))
    read = mf.io.read(tmp_path / f"a{suffix}")
    assert read.voxel_size is None and read.unit == unit and not read.oriented


def nrrd(path, *fields, sizes=(4, 3, 2)):
    array = np.arange(24, dtype=np.int16)
    shape = (f"dimension: {len(sizes)}", f"sizes: {' '.join(map(str, sizes))}")
    head = ["NRRD0004", "type: short", *shape, "endian: little", "encoding: raw"]
    path.write_bytes("\n".join([*head, *fields, "", ""]).encode() + array.tobytes())
    return mf.io.read(path)


IN_SPACE = ("space directions: (0.5,0,0) (0,0.4,0) (0,0,2)", "space origin: (1,2,3)")


def test_units_and_spaces_of_nrrd(tmp_path):
    read = nrrd(tmp_path / "a.nrrd", "space: right-anterior-superior", *IN_SPACE)
    assert read.unit == "mm" and read.voxel_size == (2, 0.4, 0.5)
    expected = np.diag([0.5, 0.4, 2, 1]) + np.array([1, 2, 3, 0])[:, None] * [0, 0, 0, 1]
    np.testing.assert_allclose(read.affine, expected, atol=1e-12)
    read = nrrd(tmp_path / "b.nrrd", "space: RAS", 'space units: "um" "um" "um"', *IN_SPACE)
    assert read.unit == "um" and read.voxel_size == pytest.approx((2, 0.4, 0.5))
    np.testing.assert_allclose(read.affine, expected, atol=1e-12)
    read = nrrd(tmp_path / "c.nrrd", 'units: "nm" "nm" "nm"', "spacings: 500 400 2000")
    assert read.unit == "um" and read.voxel_size == pytest.approx((2, 0.4, 0.5)) and not read.oriented
    read = nrrd(tmp_path / "d.nrrd", "spacings: 0.5 0.4 2")
    assert read.unit is None and read.voxel_size == (2, 0.4, 0.5) and not read.oriented
    read = nrrd(tmp_path / "e.nrrd")
    assert read.unit is None and read.voxel_size is None and not read.oriented


@pytest.mark.parametrize(
    ("long", "short", "to_ras"),
    [
        ("left-posterior-superior", "LPS", (-1, -1, 1)),
        ("right-anterior-superior", "RAS", (1, 1, 1)),
        ("left-anterior-superior", "LAS", (-1, 1, 1)),
    ],
)
def test_a_patients_space_of_nrrd(tmp_path, long, short, to_ras):
    """By the format's definition; ITK turns these of three axes, but not of four."""
    turn = np.linalg.qr(TURN)[0] * (0.5, 0.4, 2)  # a column per axis
    expected = np.eye(4)
    expected[:3, :3], expected[:3, 3] = turn, (1, 2, 3)
    expected = np.diag([*to_ras, 1]) @ expected
    directions = " ".join(f"({','.join(map(repr, c))})" for c in turn.T.tolist())
    for name in (long, short):
        read = nrrd(tmp_path / "a.nrrd", f"space: {name}", f"space directions: {directions}", IN_SPACE[1])
        assert read.oriented and read.unit == "mm"
        np.testing.assert_allclose(read.affine, expected, atol=1e-12)
        by_itk = affine_of(sitk.ReadImage(str(tmp_path / "a.nrrd")))
        np.testing.assert_allclose(read.affine, by_itk, atol=1e-12)
    directions = directions.replace(")", ",0)") + " (0,0,0,2.5)"
    for name in (f"{long}-time", f"{short}T"):
        fields = (f"space: {name}", f"space directions: {directions}", "space origin: (1,2,3,0)")
        read = nrrd(tmp_path / "b.nrrd", *fields, sizes=(4, 3, 2, 1))
        assert read.oriented and read.unit == "mm" and read.axes == "tzyx"
        assert read.metadata["time_step"] == 2.5
        np.testing.assert_allclose(read.affine, expected, atol=1e-12)
        mf.io.write(tmp_path / "c.nrrd", read, overwrite=True)
        np.testing.assert_allclose(mf.io.read(tmp_path / "c.nrrd").affine, expected, atol=1e-12)


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed", "3D-left-handed"])
def test_other_spaces_of_nrrd_are_no_orientation(tmp_path, space):
    read = nrrd(tmp_path / "a.nrrd", f"space: {space}", *IN_SPACE)
    assert read.affine is None and not read.oriented
    assert (read.unit, read.voxel_size, read.metadata["origin"]) == ("mm", (2, 0.4, 0.5), (3, 2, 1))
    directions = "space directions: (1,0,0,0) (0,1,0,0) (0,0,1,0) (0,0,0,2.5)"
    fields = (f"space: {space}-time", directions, "space origin: (1,2,3,0)")
    read = nrrd(tmp_path / "b.nrrd", *fields, sizes=(4, 3, 2, 1))
    assert (read.affine, read.unit, read.voxel_size) == (None, "mm", (1, 1, 1))


@pytest.mark.parametrize("fields", [("units:",), ("space: RAS", "space units:")])
def test_axes_in_several_units_are_refused(tmp_path, fields):
    """The first one's would pass for all."""
    units = (*fields[:-1], f'{fields[-1]} "mm" "mm" "um"')
    with pytest.raises(ValueError, match=r"a\.nrrd: its axes count in several units"):
        nrrd(tmp_path / "a.nrrd", *units, *(["spacings: 1 2 3"] if len(fields) == 1 else IN_SPACE))


def test_a_spacing_that_is_not_known_is_not_made_up(tmp_path):
    with pytest.warns(UserWarning, match=r"a\.nrrd: no voxel size along some axes"):
        assert nrrd(tmp_path / "a.nrrd", "spacings: 1 2 nan").voxel_size is None


def test_conversion_from_and_to_nifti(tmp_path):
    pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
    made = original()
    sitk.WriteImage(made, str(tmp_path / "a.nrrd"))
    mf.io.write(tmp_path / "b.nii.gz", mf.io.read(tmp_path / "a.nrrd"))
    again = sitk.ReadImage(str(tmp_path / "b.nii.gz"))
    np.testing.assert_allclose(affine_of(again), affine_of(made), atol=1e-5)
    mf.io.write(tmp_path / "c.mha", mf.io.read(tmp_path / "b.nii.gz"))
    read = mf.io.read(tmp_path / "c.mha")
    np.testing.assert_array_equal(read.array, sitk.GetArrayFromImage(made))
    np.testing.assert_allclose(read.affine, affine_of(made), atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("this is a text file\n" * 20)
    with pytest.raises(ValueError, match=f"a{suffix}: not a readable (NRRD|MetaImage) file"):
        mf.io.read(path)
    path.unlink()
    mf.io.write(path, Volume(np.ones((10, 20, 30), np.float32)))
    data = mf.io.destinations(path)[-1]
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"a{suffix}: not a readable"):
        mf.io.read(path)
    if data != path:
        data.unlink()
        with pytest.raises(ValueError, match=r"a\.raw is missing"):
            mf.io.read(path)


@pytest.mark.parametrize(
    ("volume", "text"),
    [
        (Volume(np.ones((3, 4), np.float16)), "float16 cannot be written"),
        (Volume(np.ones(5, np.float32)), r"axes 'x' cannot be written.*\.npy"),
        (Volume(np.ones((2, 4, 5, 3), np.float32), axes="cyxs"), "axes 'cyxs' cannot be written"),
    ],
)
def test_what_the_formats_cannot_hold(tmp_path, volume, text):
    for suffix in SUFFIXES:
        with pytest.raises(ValueError, match=text):
            mf.io.write(tmp_path / f"a{suffix}", volume)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
@pytest.mark.parametrize(
    ("dtype", "lines", "scale", "read_as"),
    [
        (np.int16, ("Slope = 2", "Offset = -100"), (2, -100), np.float32),
        (np.uint8, ("Slope = 0.5",), (0.5, 0), np.float32),
        (np.int32, ("Offset = 1e-3",), (1, 1e-3), np.float64),
        (np.float32, ("Slope = 3",), (3, 0), np.float32),
        (np.int16, ("Slope = 1", "Offset = 0"), (1, 0), np.int16),
    ],
)
def test_the_scale_of_metaimage_is_applied(tmp_path, suffix, dtype, lines, scale, read_as):
    """ITK hands on the stored values."""
    made, path = original(dtype), tmp_path / f"a{suffix}"
    sitk.WriteImage(made, str(path))
    said = "".join(f"ElementToIntensityFunction{line}\n" for line in lines).encode()
    path.write_bytes(path.read_bytes().replace(b"ElementType", said + b"ElementType", 1))
    stored = sitk.GetArrayFromImage(made)
    read = mf.io.read(path)
    assert read.dtype == read_as
    np.testing.assert_allclose(read.array, stored.astype(np.float64) * scale[0] + scale[1], rtol=1e-6)
    source = mf.io.open_source(path)
    assert (source.dtype, source.stored_dtype) == (read_as, dtype)
    mf.io.write(tmp_path / f"b{suffix}", read)
    np.testing.assert_array_equal(mf.io.read(tmp_path / f"b{suffix}").array, read.array)


@pytest.mark.parametrize("line", ["Slope = 0", "Slope = x", "Offset = nan"])
def test_a_scale_of_metaimage_that_is_none(tmp_path, line):
    sitk.WriteImage(original(), str(tmp_path / "a.mha"))
    said = f"ElementToIntensityFunction{line}\nElementType".encode()
    (tmp_path / "a.mha").write_bytes((tmp_path / "a.mha").read_bytes().replace(b"ElementType", said, 1))
    with pytest.raises(
        ValueError, match=r"a\.mha: ElementToIntensityFunctionSlope .* expected a finite slope"
    ):
        mf.io.read(tmp_path / "a.mha")


def test_complex_values_are_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5), np.complex64)), str(tmp_path / "a.nrrd"))
    with pytest.raises(ValueError, match=r"a\.nrrd: holds complex64 values"):
        mf.io.read(tmp_path / "a.nrrd")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_overwritten_or_left_behind(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a{suffix}"
    mf.io.write(path, Volume(np.ones((4, 5), np.float32)))
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {p.name for p in mf.io.destinations(path)}

    def content():
        return {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    before, other = content(), Volume(np.zeros((6, 7), np.float32))
    with pytest.raises(FileExistsError, match="overwrite"):
        mf.io.write(path, other)
    assert content() == before
    if len(names) == 2:  # the values are in place when the header fails
        replace, failed = _files.os.replace, []

        def fails(source, target):
            if str(target) == str(path) and not failed:
                failed.append(target)
                raise OSError(28, "No space left on device")
            replace(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(_files.os, "replace", fails)
            with pytest.raises(OSError, match="No space left"):
                mf.io.write(path, other, overwrite=True)
        assert content() == before
    mf.io.write(path, other, overwrite=True)
    np.testing.assert_array_equal(mf.io.read(path).array, other.array)
    assert {p.name for p in tmp_path.iterdir()} == names


def test_the_values_of_another_header_are_not_replaced(tmp_path):
    ones, twos = (Volume(np.full((4, 5), v, np.float32)) for v in (1, 2))
    mf.io.write(tmp_path / "s.nhdr", ones)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def refused(name, text):
        for function in (lambda p: mf.io.write(p, twos, overwrite=True),
                         lambda p: mf.io.check_destination(p, overwrite=True)):  # fmt: skip
            with pytest.raises(FileExistsError, match=rf"s\.raw: exists already, and {text}"):
                function(tmp_path / name)

    refused("s.mhd", r"is not what s\.mhd refers to")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    mf.io.write(tmp_path / "s.nhdr", twos, overwrite=True)  # its own
    np.testing.assert_array_equal(mf.io.read(tmp_path / "s.nhdr").array, twos.array)
    # Two headers of one file of values, named by one and listed by the other.
    text = (tmp_path / "s.nhdr").read_bytes()
    (tmp_path / "t.nhdr").write_bytes(text.replace(b"data file: s.raw", b"data file: LIST\ns.raw"))
    refused("s.nhdr", r"holds the values of t\.nhdr too")
    (tmp_path / "t.nhdr").unlink()
    # A header that refers elsewhere.
    (tmp_path / "s.nhdr").write_bytes(text.replace(b"s.raw", b"other.raw"))
    refused("s.nhdr", r"is not what s\.nhdr refers to")


def test_command_line(tmp_path, capsys):
    sitk.WriteImage(original(shape=(8, 9, 10)), str(tmp_path / "a.nrrd"))
    words = ["--fwhm-mm", "2", "1", "1", "--iterations", "2", "--json", str(tmp_path / "r.json")]
    assert cli.main(["restore", str(tmp_path / "a.nrrd"), "-o", str(tmp_path / "b.mhd"), *words]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["unit"] == "mm"
    read = mf.io.read(tmp_path / "b.mhd")
    np.testing.assert_allclose(read.affine, affine_of(original()), atol=1e-12)
    capsys.readouterr()
    (tmp_path / "c.raw").write_bytes(b"mine")
    assert cli.main(["restore", str(tmp_path / "a.nrrd"), "-o", str(tmp_path / "c.mhd"), *words[:6]]) == 2
    assert "c.raw: exists already" in capsys.readouterr().err
