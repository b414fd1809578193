"""Regions of NIfTI, .npy, TIFF and dask arrays; Zarr by read and write; other formats made of a store."""

import itertools
import json
import os
import pickle
import re
import shlex
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import medeconv_fast as mf
from medeconv_fast.cli import main
from medeconv_fast.io import Volume

zarr = pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
nib = pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
tifffile = pytest.importorskip("tifffile", reason="SKIPPED: tifffile is not installed (extra io)")

OBLIQUE = np.array(
    [[-0.79, 0.05, 0.6, 10.0], [0.02, -0.98, 0.9, -7.5], [0.1, 0.08, 2.2, 3.25], [0, 0, 0, 1]], np.float64
)


def image(*shape, dtype=np.float32, seed=4):
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


def same_as_read(path, **options):
    """A lazy source gives what reading the whole file gives: voxels, geometry, items."""
    source, whole = mf.io.open_source(path), mf.io.read(path, **options)
    assert source.voxel_size == pytest.approx(whole.voxel_size) and source.unit == whole.unit
    assert (source.affine is not None) == whole.oriented
    if whole.oriented:
        np.testing.assert_array_equal(source.affine, whole.affine)
    assert source.dtype == whole.dtype
    order = [whole.axes.replace("s", "c").index(a) for a in source.axes]
    expected = whole.array.transpose(order).reshape(-1, *source.shape)
    assert len(source.items) == len(expected)
    region = tuple(slice(n // 3, n - n // 4) for n in source.shape)
    for item, values in enumerate(expected):
        got = source.read(item, region)
        np.testing.assert_array_equal(got, values[region])
        assert got.dtype.isnative and got.flags.c_contiguous
    return source


# Lazy sources


@pytest.mark.parametrize("scale", [None, (0.5, -1024)])
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("<i2", (7, 6, 5)),
        (">i2", (7, 6, 5)),
        ("<f4", (7, 6)),
        ("<f4", (7, 6, 5, 2)),
        ("<u1", (7, 6, 5, 2, 3)),
    ],
)
def test_nifti(tmp_path, dtype, shape, scale):
    made = nib.Nifti1Image(image(*shape, dtype=dtype), OBLIQUE, nib.Nifti1Header(endianness=dtype[0]))
    made.header.set_data_dtype(dtype)
    made.header.set_xyzt_units("mm", "sec")
    if scale is not None:
        made.header.set_slope_inter(*scale)
    nib.save(made, tmp_path / "a.nii")
    source = same_as_read(tmp_path / "a.nii")
    assert source.stored_dtype == np.dtype(dtype).newbyteorder("=")
    if scale is not None:
        assert source.dtype == np.float32
        np.testing.assert_allclose(
            source.read(0, None),
            nib.load(tmp_path / "a.nii").get_fdata().reshape(*shape[:3], -1)[..., 0].T.squeeze(),
            rtol=1e-6,
        )


def test_nifti_without_orientation_stays_so(tmp_path):
    made = nib.Nifti1Image(image(4, 5, 6), None)
    made.header.set_zooms((0.5, 2, 3))
    made.header.set_xyzt_units("mm")
    nib.save(made, tmp_path / "a.nii")
    assert same_as_read(tmp_path / "a.nii").affine is None


def test_nifti_that_is_compressed_is_read_as_a_whole_where_it_fits(tmp_path):
    nib.save(nib.Nifti1Image(image(20, 30, 40), OBLIQUE), tmp_path / "a.nii.gz")
    source = same_as_read(tmp_path / "a.nii.gz")
    assert source.shape == (40, 30, 20)
    before = source.identity()
    assert mf.io.open_source(tmp_path / "a.nii.gz").identity() == before == json.loads(json.dumps(before))
    os.utime(tmp_path / "a.nii.gz", ns=(5, 5))
    assert mf.io.open_source(tmp_path / "a.nii.gz").identity() != before
    # Its size in memory counts, not that of the file.
    nib.save(nib.Nifti1Image(np.zeros((20, 30, 40), np.float32), OBLIQUE), tmp_path / "b.nii.gz")
    assert (tmp_path / "b.nii.gz").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"b\.nii\.gz: takes 96000 bytes and has no random access.*gunzip"):
        mf.io.open_source(tmp_path / "b.nii.gz", max_bytes=95_999)


def test_the_stored_dtype_is_that_of_the_file_however_it_is_read(tmp_path):
    nifti = nib.Nifti1Image(image(9, 8, 7, dtype=np.uint8), np.eye(4))
    nifti.header.set_slope_inter(0.5, 3)
    for name in ("a.nii", "a.nii.gz"):
        nib.save(nifti, tmp_path / name)
    for name in ("a.nii", "a.nii.gz"):
        source = mf.io.open_source(tmp_path / name)
        assert source.dtype == np.float32 and source.stored_dtype == np.uint8
        with pytest.raises(ValueError, match="scale: needed to store computed values as uint8"):
            mf.io.create_store(tmp_path / "b.nii", source, dtype="input")
        store = made_of(tmp_path / f"{name}.zarr", source, dtype="input", scale=(0.5, 3))
        store.finish()
        assert store.dtype == np.uint8
        np.testing.assert_array_equal(mf.io.read(tmp_path / f"{name}.zarr").array, source.read(0))


@pytest.mark.parametrize("cut", [100, 400, 3000])
def test_files_that_end_early(tmp_path, cut):
    nib.save(nib.Nifti1Image(image(10, 10, 10), OBLIQUE), tmp_path / "a.nii")
    np.save(tmp_path / "a.npy", image(10, 10, 10))
    tifffile.imwrite(tmp_path / "a.tif", image(10, 10, 10))
    for name in ("a.nii", "a.npy", "a.tif"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:cut])
        with pytest.raises(ValueError, match=name):
            mf.io.open_source(tmp_path / name).read(0)


@pytest.mark.parametrize("name", ["a.nii", "a.npy", "a.ome.tif"])
def test_files_that_change_or_vanish_meanwhile(tmp_path, name):
    path = tmp_path / name
    mf.io.write(path, Volume(image(10, 11, 12), (3, 2, 1), None, "um"))
    source = mf.io.open_source(path)
    before, whole = source.identity(), source.read(0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(0), whole)
    assert json.loads(json.dumps(before)) == mf.io.open_source(path).identity()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="has been changed while it was being read"):
        source.read(0)
    assert source.identity() != before
    path.unlink()
    with pytest.raises(FileNotFoundError, match="has vanished"):
        source.read(0)


def test_npy_with_and_without_its_geometry(tmp_path):
    volume = Volume(image(2, 3, 4, 5, 6), None, OBLIQUE, "mm", "ctzyx")
    mf.io.write(tmp_path / "a.npy", volume)
    source = same_as_read(tmp_path / "a.npy")
    assert source.items[1] == (0, 1) and source.items[2] == (1, 0)
    np.testing.assert_array_equal(source.read(1), volume.array[1, 0])
    (tmp_path / "a.npy.json").unlink()
    with pytest.raises(ValueError, match="nothing says which of them are time"):
        mf.io.open_source(tmp_path / "a.npy")
    assert mf.io.open_source(tmp_path / "a.npy", axes="ctzyx").items == source.items
    with pytest.raises(ValueError, match="axes: got 'zyx'"):
        mf.io.open_source(tmp_path / "a.npy", axes="zyx")


TIFFS = {
    "strips": {"rowsperstrip": 5},
    "tiles": {"tile": (16, 16)},
    "packed tiles": {"tile": (16, 32), "compression": "zlib", "predictor": True},
    "big": {"bigtiff": True, "tile": (16, 16)},
    "planes": {},
}


@pytest.mark.filterwarnings("ignore:.*no voxel size along z")
@pytest.mark.parametrize("kind", TIFFS)
@pytest.mark.parametrize("shape", [(45, 60), (4, 45, 60)])
def test_plain_tiff(tmp_path, kind, shape):
    sizes = {"resolution": (2.5, 2.5), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        tmp_path / "a.tif",
        image(*shape, dtype=np.uint16),
        metadata=None if len(shape) == 2 else {"axes": "ZYX"},
        **sizes,
        photometric="minisblack",
        **TIFFS[kind],
    )
    source, whole = mf.io.open_source(tmp_path / "a.tif"), mf.io.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.read(0), whole.array)
    assert source.voxel_size == whole.voxel_size and source.unit == whole.unit
    if "tile" in TIFFS[kind]:
        assert source.chunks[-2:] == TIFFS[kind]["tile"]


@pytest.mark.parametrize("name", ["anatomical.nii", "functional.nii", "example4d.nii.gz"])
def test_real_scans(name):
    """Of big-endian integers, of a time series with a scale, of a compressed one."""
    from nibabel.testing import data_path

    same_as_read(Path(data_path) / name)


@pytest.mark.shared
@pytest.mark.parametrize(
    "folder", ["micro_confocal_beads_bia", "micro_pollen_sdeconv", "micro_celegans2d_sdeconv"]
)
@pytest.mark.filterwarnings("ignore:.*no voxel size along z")
def test_real_micrographs(shared_data, folder):
    paths = sorted((shared_data / folder).glob("*.tif"))
    assert paths
    for path in paths:
        source, whole = mf.io.open_source(path), mf.io.read(path)
        np.testing.assert_array_equal(source.volume().array, whole.array)
        assert (source.voxel_size, source.unit) == (whole.voxel_size, whole.unit)


@pytest.mark.parametrize("axes", ["TCZYX", "CYX", "ZCYX", "YX", "TZYX"])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "bigtiff": True}])
def test_ome_tiff(tmp_path, axes, options):
    length = {"T": 2, "C": 3, "Z": 4, "Y": 45, "X": 60}
    metadata = {"axes": axes, "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25}
    if "Z" in axes:
        metadata |= {"PhysicalSizeZ": 1500, "PhysicalSizeZUnit": "nm"}
    if "C" in axes:
        metadata["Channel"] = {"Name": ["DAPI", "GFP", "Cy5"]}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", image(*(length[a] for a in axes)), ome=True, metadata=metadata, **options
    )
    source = same_as_read(tmp_path / "a.ome.tif")
    assert source.unit == "um" and source.voxel_size[-1] == 0.25
    assert source.channel_names == (("DAPI", "GFP", "Cy5") if "C" in axes else ())


def test_channel_names_survive_in_ome_tiff(tmp_path):
    channels = ({"label": "DAPI", "color": "0000FF"}, {"label": "µ & <Cy5>", "color": "FF0000"})
    mf.io.write(tmp_path / "a.ome.tif", Volume(image(2, 5, 6), axes="cyx", metadata={"channels": channels}))
    read = mf.io.read(tmp_path / "a.ome.tif")
    assert read.metadata["channels"] == channels


def test_a_channel_without_a_colour_does_not_take_that_of_others(tmp_path):
    channels = ({"label": "DAPI", "color": "0000FF"}, {"label": "GFP"}, {"label": "Cy5", "color": "red"})
    volume = Volume(image(3, 5, 6), axes="cyx", metadata={"channels": channels})
    mf.io.write(tmp_path / "a.ome.tif", volume)
    found = mf.io.read(tmp_path / "a.ome.tif").metadata["channels"]
    assert [(c["label"], c["color"]) for c in found] == [
        ("DAPI", "0000FF"),
        ("GFP", "FFFFFF"),  # OME's default
        ("Cy5", "FFFFFF"),
    ]
    mf.io.write(
        tmp_path / "b.ome.tif", Volume(volume.array, axes="cyx", metadata={"channels": channels[1:2] * 3})
    )
    assert "color" not in mf.io.read(tmp_path / "b.ome.tif").metadata["channels"][0]


def test_tiff_of_one_plane_and_of_colours(tmp_path):
    mf.io.write(tmp_path / "a.ome.tif", Volume(image(1, 12, 13), None, OBLIQUE, "mm"))
    assert same_as_read(tmp_path / "a.ome.tif").shape == (1, 12, 13)
    tifffile.imwrite(tmp_path / "b.tif", image(20, 30, 3, dtype=np.uint8), photometric="rgb")
    source = mf.io.open_source(tmp_path / "b.tif")
    assert source.channel_names == ("red", "green", "blue") and source.shape == (20, 30)
    np.testing.assert_array_equal(source.read(1), tifffile.imread(tmp_path / "b.tif")[..., 1])


@pytest.mark.filterwarnings("ignore:.*no voxel size along z")
def test_a_tiff_of_several_images(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(image(12, 13))
        file.write(image(3, 22, 23), photometric="minisblack", metadata={"axes": "ZYX"})
    assert mf.io.open_source(tmp_path / "a.tif", series=1).shape == (3, 22, 23)
    with pytest.raises(ValueError, match="series: got 2, the file has 2"):
        mf.io.open_source(tmp_path / "a.tif", series=2)


def test_the_identity_is_of_what_was_chosen(tmp_path):
    """The same file, read as another image."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for seed in range(2):
            volume = image(3, 22, 23, seed=seed)
            file.write(volume, photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.warns(UserWarning, match="holds 2 images, of which the first is read"):
        sources = [mf.io.open_source(tmp_path / "a.tif", series=i) for i in (None, 0, 1)]
    first, same, second = (source.identity() for source in sources)
    assert first == same != second
    assert pickle.loads(pickle.dumps(sources[2])).identity() == second
    np.save(tmp_path / "b.npy", image(4, 4, 4, 4))
    times, channels = (mf.io.open_source(tmp_path / "b.npy", axes=axes) for axes in ("tzyx", "czyx"))
    assert times.identity() != channels.identity()


def test_the_identity_of_a_mapped_array_is_of_its_place_in_the_file(tmp_path):
    mapped = np.memmap(tmp_path / "raw", np.float32, "w+", shape=(2, 12, 13, 14))
    mapped[:] = image(2, 12, 13, 14)
    mapped.flush()
    views = [mapped[0], mapped[1], mapped[0][::-1], mapped[0].view("i4"), mapped[0].view(">f4")]
    assert len({json.dumps(mf.io.open_source(view).identity()) for view in views}) == len(views)
    # The same bytes, whatever is mapped besides them; the second begins behind a page.
    pages = np.memmap(tmp_path / "raw", np.float32, "r", mapped[0].nbytes, (12, 13, 14))
    assert mapped[0].nbytes > 4096
    assert mf.io.open_source(pages).identity() == mf.io.open_source(mapped[1]).identity()
    private = np.memmap(tmp_path / "raw", np.float32, "c", shape=(12, 13, 14))
    before = mf.io.open_source(private).identity()
    private[0] += 1
    assert mf.io.open_source(private).identity() != before


def test_a_damaged_tile_is_named(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", image(64, 64), tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        at, length = file.pages[0].dataoffsets[3], file.pages[0].databytecounts[3]
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[at : at + length] = b"\xff" * length
    (tmp_path / "a.tif").write_bytes(data)
    source = mf.io.open_source(tmp_path / "a.tif")
    source.read(0, (slice(0, 32), slice(0, 64)))
    with pytest.raises(
        ValueError, match=r"a\.tif: the values of the region y 40 to 49, x 50 to 59 are damaged"
    ):
        source.read(0, (slice(40, 50), slice(50, 60)))


def test_dask(tmp_path):
    da = pytest.importorskip("dask.array", reason="SKIPPED: dask is not installed (extra dask)")
    computed = []

    def block(block_info=None):
        computed.append(block_info[None]["chunk-location"])
        return np.full((2, 8, 8), computed[-1][1], np.float32)

    lazy = da.map_blocks(
        block, chunks=((2,), (8, 8, 8), (8, 8)), dtype=np.float32, meta=np.empty((0,) * 3, np.float32)
    )
    source = mf.io.open_source(lazy, axes="cyx", voxel_size=0.5, unit="um")
    computed.clear()
    got = source.read(1, (slice(9, 15), slice(0, 4)))
    assert computed == [(0, 1, 0)] and np.all(got == 1)
    assert source.chunks == (8, 8)
    again = mf.io.open_source(lazy, axes="cyx", voxel_size=0.5, unit="um").identity()
    assert source.identity() == again != mf.io.open_source(lazy + 1, axes="cyx").identity()
    with pytest.raises(ValueError, match="chunks of unknown size"):
        mf.io.open_source(
            da.from_array(np.arange(12.0).reshape(3, 4))[np.array([True, False, True])][
                :, da.from_array(np.arange(4)) > 1
            ]
        )


@pytest.mark.parametrize("name", ["a.zarr", "a.nii", "a.ome.tif"])
def test_threads_read_at_a_time(tmp_path, name):
    array = image(24, 32, 40)
    mf.io.write(tmp_path / name, Volume(array, (3, 2, 1), None, "um"))
    source, failed = mf.io.open_source(tmp_path / name), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(10):
            start = [int(rng.integers(0, n - 8)) for n in source.shape]
            region = tuple(slice(s, s + 8) for s in start)
            if not np.array_equal(source.read(0, region), array[region]):
                failed.append(region)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# read and write


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.uint8, np.uint16, np.int16, np.int64, np.float16, np.float32, np.float64]
)
@pytest.mark.parametrize("axes", ["yx", "zyx", "tzyx", "cyx", "tczyx"])
def test_round_trip(tmp_path, dtype, axes):
    length = {"t": 2, "c": 3, "z": 1, "y": 15, "x": 16}
    array = (
        (image(*(length[a] for a in axes)) > 100)
        if dtype is np.bool_
        else image(*(length[a] for a in axes), dtype=dtype)
    )
    sizes = (3.0, 2.0, 0.5)[-sum(a in "zyx" for a in axes) :]
    mf.io.write(tmp_path / "a.ome.zarr", Volume(array, sizes, None, "um", axes))
    read = mf.io.read(tmp_path / "a.ome.zarr")
    assert read.dtype == dtype and read.axes == axes and read.voxel_size == sizes and read.unit == "um"
    np.testing.assert_array_equal(read.array, array)
    assert os.listdir(tmp_path) == ["a.ome.zarr"]


def test_what_zarr_cannot_hold_and_what_exists(tmp_path):
    with pytest.raises(ValueError, match=r"a\.zarr: axes: got 'x'"):
        mf.io.write(tmp_path / "a.zarr", Volume(image(5)))
    assert os.listdir(tmp_path) == []
    mf.io.write(tmp_path / "a.zarr", Volume(image(5, 6)))
    with pytest.raises(FileExistsError, match="exists already"):
        mf.io.write(tmp_path / "a.zarr", Volume(image(7, 8)))
    assert mf.io.read(tmp_path / "a.zarr").shape == (5, 6)
    mf.io.write(tmp_path / "a.zarr", Volume(image(7, 8)), overwrite=True)
    assert mf.io.read(tmp_path / "a.zarr").shape == (7, 8) and os.listdir(tmp_path) == ["a.zarr"]
    with pytest.raises(ValueError, match="channel: is for DICOM"):
        mf.io.read(tmp_path / "a.zarr", channel="red")


def test_the_place_of_a_volume_that_was_cut_goes_along(tmp_path):
    metadata = {"origin": (5.0, 6.0, 7.0)}
    mf.io.write(tmp_path / "a.zarr", Volume(image(8, 9, 10), (3, 2, 1), None, "um", metadata=metadata))
    whole = mf.io.read(tmp_path / "a.zarr")
    assert whole.metadata["origin"] == (5, 6, 7)
    cut, step = mf.preprocess.crop(whole, box=((2, 6), (0, 9), (3, 8)))
    for name, volume, origin in (
        ("cut", cut, (11, 6, 10)),
        ("unit", whole.to_unit("mm"), pytest.approx((0.005, 0.006, 0.007))),
        ("back", step.undo(cut), (5, 6, 7)),
    ):
        mf.io.write(tmp_path / f"{name}.zarr", volume)
        assert mf.io.open_source(tmp_path / f"{name}.zarr").origin == origin


LENGTHS = st.floats(1e-4, 1e4, allow_nan=False)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.tuples(LENGTHS, LENGTHS, LENGTHS),
    unit=st.sampled_from(["mm", "um", None]),
    names=st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=2),
    origin=st.tuples(*[st.floats(-1e6, 1e6)] * 3),
    turn=st.one_of(st.none(), st.tuples(*[st.floats(-3, 3)] * 3)),
)
def test_geometry_survives(tmp_path, sizes, unit, names, origin, turn):
    affine = None
    if turn is not None:
        a, b, c = turn
        z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        affine = np.eye(4)
        affine[:3, :3] = z @ y * sizes[::-1]
        affine[:3, 3] = (c, b, a)
    metadata = {"channels": tuple({"label": n, "color": "00FF00"} for n in names)}
    if affine is None:
        metadata["origin"] = origin
    wanted = Volume(image(2, 3, 4, 5), sizes, affine, unit, "czyx", metadata)
    mf.io.write(tmp_path / "a.zarr", wanted, overwrite=True)
    read = mf.io.read(tmp_path / "a.zarr")
    assert read.unit == unit and read.voxel_size == sizes
    assert [c["label"] for c in read.metadata["channels"]] == names
    if affine is None:
        assert read.affine is None
        assert read.metadata.get("origin", (0, 0, 0)) == origin
    else:
        np.testing.assert_array_equal(read.affine, affine)


@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (4, 0), (0, 0)])
@pytest.mark.parametrize("unit", ["mm", "micron", "unknown"])
@pytest.mark.parametrize("shape", [(7, 6, 5), (7, 6, 5, 3)])
def test_nifti_through_zarr(tmp_path, codes, unit, shape):
    """Voxel size, unit, orientation, the words of the header and the values."""
    made = nib.Nifti1Image(image(*shape, dtype=np.int16), OBLIQUE)
    made.header.set_xyzt_units(unit, "msec")
    made.header["descrip"] = b"through Zarr"
    if len(shape) == 4:
        made.header.set_zooms((*made.header.get_zooms()[:3], 12.5))
    made.set_qform(OBLIQUE, codes[0])
    made.set_sform(OBLIQUE, codes[1])
    nib.save(made, tmp_path / "a.nii")
    mf.io.write(tmp_path / "b.ome.zarr", mf.io.read(tmp_path / "a.nii"))
    mf.io.write(tmp_path / "c.nii", mf.io.read(tmp_path / "b.ome.zarr"))
    first, last = nib.load(tmp_path / "a.nii"), nib.load(tmp_path / "c.nii")
    np.testing.assert_allclose(last.affine, first.affine, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(last.dataobj), np.asarray(first.dataobj))
    assert last.get_data_dtype() == np.int16
    for field in ("qform_code", "sform_code", "xyzt_units", "descrip"):
        if field == "xyzt_units" and len(shape) == 3:
            assert last.header.get_xyzt_units()[0] == first.header.get_xyzt_units()[0]
        else:
            assert last.header[field] == first.header[field], field
    np.testing.assert_allclose(last.header.get_zooms(), first.header.get_zooms(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(17, 16, 15), (17, 16, 15, 3)])
def test_nifti_through_stores(tmp_path, shape):
    """The same region by region, integers with a scale: values bit for bit, sizes but for their rounding."""
    made = nib.Nifti1Image(image(*shape, dtype=np.int16), OBLIQUE)
    made.header.set_xyzt_units("micron", "msec" if len(shape) == 4 else "unknown")
    made.header.set_slope_inter(0.25, -1024)
    made.header["descrip"] = b"region by region"
    made.set_qform(OBLIQUE, 1)
    made.set_sform(OBLIQUE, 2)
    nib.save(made, tmp_path / "a.nii")
    scale = {"dtype": "input", "scale": (0.25, -1024)}
    made_of(tmp_path / "b.zarr", mf.io.open_source(tmp_path / "a.nii"), chunks=(8, 8, 8), **scale).finish()
    between = mf.io.open_source(tmp_path / "b.zarr")
    assert between.stored_dtype == np.int16 and between.dtype == np.float32 and between.unit == "um"
    made_of(tmp_path / "c.nii", between, **scale).finish()
    assert (tmp_path / "c.nii").read_bytes()[352:] == (tmp_path / "a.nii").read_bytes()[352:]
    first, last = nib.load(tmp_path / "a.nii").header, nib.load(tmp_path / "c.nii").header
    for field in first:
        if first[field].dtype.kind == "f":
            np.testing.assert_allclose(last[field], first[field], rtol=1e-6, atol=1e-6, err_msg=field)
        else:
            np.testing.assert_array_equal(last[field], first[field], err_msg=field)


# Other formats, made of a store


def made_of(path, source, **options):
    store = mf.io.create_store(path, source, **options)
    for item, region in store.missing():
        store.write(item, region, source.read(item, region).astype(np.float32))
    return store


@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "a.ome.tif", "a.tif", "a.npy", "a.nrrd", "a.mhd", "a.ome.zarr"]
)
def test_files_made_of_a_store(tmp_path, name):
    if name.endswith((".nrrd", ".mhd")):
        pytest.importorskip("SimpleITK", reason="SKIPPED: SimpleITK is not installed (extra itk)")
    volume = Volume(image(9, 20, 21), None, OBLIQUE, "mm")
    mf.io.write(tmp_path / "in.npy", volume)
    source = mf.io.open_source(tmp_path / "in.npy")
    (tmp_path / "out").mkdir()
    store = made_of(tmp_path / "out" / name, source, chunks=(8, 8, 8), shards=(8, 16, 16))
    assert os.listdir(tmp_path / "out") == [f"{name}.partial"]
    mf.io.open_partial(tmp_path / "out" / name).finish()
    assert set(os.listdir(tmp_path / "out")) == {p.name for p in mf.io.destinations(tmp_path / "out" / name)}
    read = mf.io.read(tmp_path / "out" / name)
    np.testing.assert_array_equal(read.array, volume.array)
    np.testing.assert_allclose(read.affine, OBLIQUE, rtol=1e-6, atol=1e-5)
    assert read.unit == "mm" and store.path == tmp_path / "out" / name
    with pytest.raises(FileExistsError, match="exists already"):
        mf.io.create_store(tmp_path / "out" / name, source)
    made_of(tmp_path / "out" / name, source, overwrite=True).finish()


@pytest.mark.parametrize("name", ["a.nii", "a.ome.tif", "a.tif", "a.npy", "a.ome.zarr"])
def test_channels_and_times_made_of_a_store(tmp_path, name):
    volume = Volume(image(2, 3, 4, 20, 21), (3, 2, 1), None, "um", "tczyx")
    made_of(tmp_path / name, mf.io.open_source(volume)).finish()
    read = mf.io.read(tmp_path / name)
    np.testing.assert_array_equal(read.array.transpose([read.axes.index(a) for a in "tczyx"]), volume.array)
    assert read.voxel_size == pytest.approx((3, 2, 1)) and read.unit == "um"
    assert read.axes == ("ctzyx" if name == "a.nii" else "tczyx")


@pytest.mark.parametrize("kind", ["NIfTI-1", "NIfTI-2"])
@pytest.mark.parametrize("axes", ["zyx", "tczyx"])
@pytest.mark.parametrize("name", ["a.nii", "a.npy"])
def test_files_that_grow_in_place_are_those_that_are_written_at_once(tmp_path, name, axes, kind):
    shape = (2, 3, 4, 20, 21)[-len(axes) :]
    metadata = {"format": kind, "qform_code": 1, "sform_code": 2, "descrip": "in place"}
    volume = Volume(image(*shape), None, OBLIQUE, "mm", axes, metadata)
    mf.io.write(tmp_path / name, volume)
    (tmp_path / "out").mkdir()
    made_of(tmp_path / "out" / name, mf.io.open_source(volume), chunks=(3, 8, 8)).finish()
    for path in mf.io.destinations(tmp_path / name):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_nifti_keeps_the_scale_of_integers(tmp_path):
    volume = Volume(image(9, 20, 21) - 100, None, OBLIQUE, "mm")
    store = made_of(tmp_path / "a.nii", mf.io.open_source(volume), dtype="int16", scale=(0.01, -3))
    store.finish()
    loaded = nib.load(tmp_path / "a.nii")
    assert loaded.get_data_dtype() == np.int16 and store.clipped == 0
    np.testing.assert_allclose(loaded.get_fdata().T, volume.array, atol=0.00502)
    np.testing.assert_allclose(mf.io.read(tmp_path / "a.nii").array, volume.array, atol=0.00502)


def test_what_is_stored_is_for_the_scale_that_nifti_keeps(tmp_path):
    """0.001 is another number in the header's float32: 250 000 000 steps of it are 12 of them apart."""
    values = np.linspace(200_000, 250_000, 60).reshape(3, 4, 5)
    store = made_of(tmp_path / "a.nii", mf.io.open_source(Volume(values)), dtype="int32", scale=1e-3)
    store.finish()
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii").get_fdata().T, values, atol=0.000501)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("a.tif", {"dtype": "float64"}, r"a\.tif: float64 cannot be written as \.tif"),
        ("a.nii", {"dtype": "float16"}, r"a\.nii: float16 cannot be written"),
        ("a.ome.tif", {"dtype": "uint16", "scale": 2}, r"scale: a\.ome\.tif has no place for it"),
        ("series", {}, "this volume was read from none"),
        ("a.jpg", {}, "unknown file type"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before(tmp_path, name, options, text):
    with pytest.raises(ValueError, match=text):
        mf.io.create_store(tmp_path / name, mf.io.open_source(image(4, 5, 6)), **options)
    assert os.listdir(tmp_path) == []


def test_a_killed_assembly_goes_on(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    volume = Volume(image(9, 20, 21), None, OBLIQUE, "mm")
    store = made_of(tmp_path / "a.npy", mf.io.open_source(volume))
    calls = itertools.count()
    rename = os.rename

    def killed(source, destination):
        if destination == tmp_path / "a.npy":
            raise Killed
        next(calls)
        rename(source, destination)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "rename", killed)
        store.finish()
    assert next(calls) > 0 and not (tmp_path / "a.npy").exists()
    mf.io.open_partial(tmp_path / "a.npy").finish()
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "a.npy.json"]
    np.testing.assert_array_equal(mf.io.read(tmp_path / "a.npy").array, volume.array)


@pytest.mark.shared
def test_a_dicom_series_made_of_a_store(tmp_path, shared_data):
    """Of a real scan, resumed by another process: the derived series has the source's place and study."""
    pydicom = pytest.importorskip("pydicom", reason="SKIPPED: pydicom is not installed (extra io)")
    scan = shared_data / "dicom_mr_vsseg"
    whole = mf.io.read(scan)
    source = mf.io.open_source(scan)
    with pytest.raises(ValueError, match="scale: derived has no place"):
        mf.io.create_store(tmp_path / "derived", source, dtype="int16", scale=2)
    made_of(tmp_path / "derived", source)
    mf.io.open_partial(tmp_path / "derived").finish()
    read = mf.io.read(tmp_path / "derived")
    np.testing.assert_allclose(read.affine, whole.affine, atol=1e-6)
    np.testing.assert_allclose(read.array, whole.array, atol=np.ptp(whole.array) / 60000)
    first = pydicom.dcmread(next((tmp_path / "derived").iterdir()), stop_before_pixels=True)
    theirs = pydicom.dcmread(next(p for p in scan.iterdir() if p.suffix == ".dcm"), stop_before_pixels=True)
    assert first.StudyInstanceUID == theirs.StudyInstanceUID
    assert first.SeriesInstanceUID != theirs.SeriesInstanceUID


def test_docs(tmp_path, monkeypatch):
    """docs/stores.md, on an image made for it."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "stores.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    metadata = {"channels": ({"label": "DAPI"}, {"label": "GFP"})}
    mf.io.write("embryo.ome.zarr", Volume(image(2, 6, 40, 30), (0.5, 0.2, 0.2), None, "um", "czyx", metadata))
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(code, {})
    np.testing.assert_array_equal(mf.io.read("sharp.ome.zarr").array, mf.io.read("embryo.ome.zarr").array)
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for line in commands.splitlines():
        assert main(shlex.split(line.partition("#")[0])[1:]) == 0
    assert mf.io.read("restored.nii.gz").voxel_size == pytest.approx((0.5, 0.2, 0.2))


# Others' readers


@pytest.mark.peers
def test_ome_zarr_and_ngff_zarr_open_what_is_written(tmp_path):
    ngff_zarr = pytest.importorskip("ngff_zarr", reason="SKIPPED: ngff-zarr is not installed")
    pytest.importorskip("ome_zarr", reason="SKIPPED: ome-zarr is not installed")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    channels = ({"label": "DAPI", "color": "0000FF"}, {"label": "GFP", "color": "00FF00"})
    metadata = {"channels": channels, "origin": (5.0, 6.0, 7.0)}
    volume = Volume(image(2, 6, 300, 280), (2, 0.5, 0.25), None, "um", "czyx", metadata)
    path = tmp_path / "a.ome.zarr"
    mf.io.write(path, volume)
    found = ngff_zarr.from_ngff_zarr(str(path)).images
    for level, (y, x) in zip(found, ((1, 1), (1, 2), (2, 4)), strict=True):
        assert level.scale == {"c": 1.0, "z": 2.0, "y": 0.5 * y, "x": 0.25 * x}
        assert level.translation == {
            "c": 0.0,
            "z": 5.0,
            "y": 6.0 + 0.25 * (y - 1),
            "x": 7.0 + 0.125 * (x - 1),
        }
        assert level.axes_units == {"c": None, "z": "micrometer", "y": "micrometer", "x": "micrometer"}
    np.testing.assert_array_equal(np.asarray(found[0].data), volume.array)
    (node,) = list(Reader(parse_url(str(path)))())
    assert node.metadata["channel_names"] == ["DAPI", "GFP"]
    np.testing.assert_array_equal(np.asarray(node.data[0]), volume.array)
    # And the other way.
    image_of = ngff_zarr.to_ngff_image(
        volume.array[0],
        dims=("z", "y", "x"),
        scale={"z": 2.0, "y": 0.5, "x": 0.25},
        axes_units={a: "micrometer" for a in "zyx"},
    )
    for version in ("0.4", "0.5"):
        ngff_zarr.to_ngff_zarr(
            str(tmp_path / f"{version}.zarr"), ngff_zarr.to_multiscales(image_of, [2]), version=version
        )
        source = mf.io.open_source(tmp_path / f"{version}.zarr", level=1)
        assert source.voxel_size == (4, 1, 0.5) and source.unit == "um"
        np.testing.assert_array_equal(mf.io.read(tmp_path / f"{version}.zarr").array, volume.array[0])
