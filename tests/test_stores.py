"""Images read and written region by region: OME-Zarr, its metadata on every level, and what goes wrong."""

import asyncio
import contextlib
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.io import Volume, _convert, _pyramid, _store

zarr = pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")

OBLIQUE = np.array(
    [[-0.79, 0.05, 0.6, 10.0], [0.02, -0.98, 0.9, -7.5], [0.1, 0.08, 2.2, 3.25], [0, 0, 0, 1]], np.float64
)
SIZES = tuple(np.sqrt((OBLIQUE[:3, :3] ** 2).sum(axis=0))[::-1])
CHANNELS = ({"label": "DAPI", "color": "0000FF"}, {"label": "GFP", "color": "00FF00", "active": False})


def regions(store):
    """Item and region of every block."""
    for item in range(len(store.items)):
        for start in itertools.product(
            *(range(0, n, b) for n, b in zip(store.shape, store.blocks, strict=True))
        ):
            yield (
                item,
                tuple(
                    slice(s, min(s + b, n)) for s, b, n in zip(start, store.blocks, store.shape, strict=True)
                ),
            )


def copied(path, source, **options):
    """The source, written block by block."""
    store = mf.io.create_store(path, source, **options)
    for item, region in regions(store):
        store.write(item, region, source.read(item, region))
    return store


def image(*shape, dtype=np.float32, seed=4):
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


# Reading regions


@pytest.mark.parametrize(
    "axes", ["yx", "zyx", "xyz", "yxz", "cyx", "tzyx", "tczyx", "xyzct", "zctyx", "czyx", "yxc"]
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_any_order_of_axes(tmp_path, axes, zarr_format):
    length = {"t": 2, "c": 3, "z": 4, "y": 5, "x": 7}
    stored = image(*(length[a] for a in axes))
    made = zarr.create_array(
        store=str(tmp_path / "a.zarr"), data=stored, chunks=(2,) * stored.ndim, zarr_format=zarr_format
    )
    assert made.shape == stored.shape
    source = mf.io.open_source(tmp_path / "a.zarr", axes=axes)
    spatial = "".join(a for a in "zyx" if a in axes)
    assert source.shape == tuple(length[a] for a in spatial)
    assert len(source.items) == length.get("t" if "t" in axes else "", 1) * (3 if "c" in axes else 1)
    assert source.axes == "".join(a for a in "tczyx" if a in axes)
    expected = stored.transpose([axes.index(a) for a in source.axes])
    expected = expected.reshape(-1, *source.shape)
    region = tuple(slice(1, n - 1) for n in source.shape)
    for item in range(len(source.items)):
        got = source.read(item, region)
        np.testing.assert_array_equal(got, expected[item][region])
        assert got.flags.c_contiguous and got.flags.writeable
    assert source.items[-1] == (1 if "t" in axes else 0, 2 if "c" in axes else 0)


@pytest.mark.parametrize("dtype", [">u2", ">f4", "|b1", "<f2"])
def test_dtypes_come_in_native_order(tmp_path, dtype):
    stored = (image(6, 7) > 100).astype(dtype) if dtype == "|b1" else image(6, 7).astype(dtype)
    zarr.create_array(store=str(tmp_path / "a.zarr"), data=stored, zarr_format=2)
    source = mf.io.open_source(tmp_path / "a.zarr")
    assert source.dtype == np.dtype(dtype).newbyteorder("=") and source.read(0).dtype.isnative
    np.testing.assert_array_equal(source.read(0), stored)


@pytest.mark.parametrize("order", ["xyz", "tczyx"])
def test_arrays_in_memory(order):
    array = image(*range(3, 3 + len(order)))
    source = mf.io.open_source(array, axes=order, voxel_size=(3, 2, 1), unit="um")
    before = source.identity()
    assert source.voxel_size == (3, 2, 1) and source.unit == "um"
    got = source.read(0)
    got[:] = -1  # the caller's own
    assert array.min() >= 0 and source.identity() == before
    array[(0,) * array.ndim] += 1
    assert source.identity() != before
    json.dumps(before)


def test_a_volume_brings_its_geometry():
    volume = Volume(image(2, 4, 5, 6), None, OBLIQUE, "mm", "czyx", {"channels": CHANNELS})
    source = mf.io.open_source(volume)
    assert source.items == ((0, 0), (0, 1)) and source.channel_names == ("DAPI", "GFP")
    np.testing.assert_array_equal(source.affine, OBLIQUE)
    assert source.voxel_size == pytest.approx(SIZES)
    np.testing.assert_array_equal(source.read(1), volume.array[1])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"axes": "zyxc"}, "axes: got 'zyxc' for an array of 3 axes"),
        ({"axes": "zzx"}, "axes: got 'zzx'"),
        ({"axes": "abc"}, "axes: got 'abc'"),
        ({"level": 1}, "level and series are for files"),
        ({"voxel_size": (1, 2)}, "voxel_size: got 2 values"),
        ({"unit": "furlong"}, "unit: got 'furlong'"),
    ],
)
def test_options_that_make_no_sense(options, text):
    with pytest.raises(ValueError, match=text):
        mf.io.open_source(image(4, 5, 6), **options)


def test_what_is_no_source(tmp_path):
    with pytest.raises(ValueError, match=r"axes: the array has 4 axes .*'tczyx'"):
        mf.io.open_source(image(2, 3, 4, 5))
    with pytest.raises(FileNotFoundError, match="no such file"):
        mf.io.open_source(tmp_path / "absent.zarr")
    with pytest.raises(TypeError, match="source"):
        mf.io.open_source(np.zeros((3, 4), complex))


@pytest.mark.parametrize(
    "region",
    [(slice(0, 3),), (slice(0, 3), slice(0, 9)), (slice(2, 2), slice(0, 3)), (slice(0, 4, 2),) * 2, (0, 1)],
)
def test_regions_are_checked(region):
    with pytest.raises(ValueError, match="region: got"):
        mf.io.open_source(image(4, 5)).read(0, region)


def test_groups(tmp_path):
    """One array of a group is what is meant; of several, or of bioformats2raw's images, one is chosen."""
    group = zarr.create_group(store=str(tmp_path / "a.zarr"))
    group.create_array("first", data=image(4, 5), dimension_names=("y", "x"))
    assert mf.io.open_source(tmp_path / "a.zarr").shape == (4, 5)
    group.create_array("second", data=image(6, 7, 2), dimension_names=("y", "x", "c"))
    with pytest.raises(ValueError, match=r"without OME-NGFF metadata.*first, .*second"):
        mf.io.open_source(tmp_path / "a.zarr")
    second = mf.io.open_source(tmp_path / "a.zarr" / "second")
    assert second.shape == (6, 7) and len(second.items) == 2
    with pytest.raises(ValueError, match="level: got 1, but this is an array"):
        mf.io.open_source(tmp_path / "a.zarr" / "second", level=1)
    with pytest.raises(ValueError, match="series: got 3, but this is an array"):
        mf.io.open_source(tmp_path / "a.zarr" / "second", series=3)
    zarr.create_group(store=str(tmp_path / "b.zarr"), attributes={"ome": {"bioformats2raw.layout": 3}})
    for series, shape in enumerate([(4, 5, 6), (7, 8, 9)]):
        multiscale(tmp_path / "b.zarr" / str(series), entry(), shape)
    with pytest.warns(UserWarning, match="holds 2 images, of which the first is read"):
        assert mf.io.open_source(tmp_path / "b.zarr").shape == (4, 5, 6)
    assert mf.io.read(tmp_path / "b.zarr", series=1).shape == (7, 8, 9)
    with pytest.raises(ValueError, match="series: got 2"):
        mf.io.open_source(tmp_path / "b.zarr", series=2)
    both = entry(scale=(3, 2, 1))["multiscales"] + entry(scale=(1, 1, 1))["multiscales"]
    both[1]["datasets"][0]["path"] = "1"
    group = multiscale(tmp_path / "c.zarr", {"multiscales": both})
    group.create_array("1", data=image(7, 8, 9))
    with pytest.warns(UserWarning, match="holds 2 images, of which the first is read"):
        assert mf.io.read(tmp_path / "c.zarr").voxel_size == (3, 2, 1)
    assert mf.io.read(tmp_path / "c.zarr", series=1).shape == (7, 8, 9)
    assert mf.io.open_source(tmp_path / "c.zarr", series=1).voxel_size == (1, 1, 1)
    with pytest.raises(ValueError, match=r"series: got 2, but .* holds 2 images"):
        mf.io.open_source(tmp_path / "c.zarr", series=2)


@pytest.mark.parametrize("version", ["0.1", "0.3"])
def test_old_versions(tmp_path, version):
    """0.1 has five axes and names none, 0.3 has their names; neither has scales."""
    axes = "tczyx" if version == "0.1" else "cyx"
    shape = (2, 3, 4, 5, 6) if version == "0.1" else (3, 5, 6)
    attributes = {"multiscales": [{"version": version, "datasets": [{"path": "0"}]}]}
    if version == "0.3":
        attributes["multiscales"][0]["axes"] = list(axes)
    group = zarr.create_group(store=str(tmp_path / "a.zarr"), zarr_format=2, attributes=attributes)
    array = image(*shape)
    group.create_array("0", data=array)
    source = mf.io.open_source(tmp_path / "a.zarr")
    assert (
        source.axes == axes
        and source.voxel_size is None
        and source.layout["format"].startswith(f"OME-Zarr {version}")
    )
    np.testing.assert_array_equal(source.volume().array, array)


# OME-Zarr


@pytest.mark.shared
def test_a_real_image_of_version_0_4(shared_data):
    """Axes x, y, z; four levels whose arrays are nested; no unit is stated."""
    path = shared_data / "omezarr_mni152_slice" / "mni152_axial.ome.zarr"
    for level, (shape, factor) in enumerate([((1, 256, 207), 1), ((1, 128, 103), 2), ((1, 64, 51), 4)]):
        source = mf.io.open_source(path, level=level)
        assert source.shape == shape and source.dtype == np.float64 and source.unit is None
        size = 0.737463116645813
        assert source.voxel_size == pytest.approx((size, size * factor, size * factor))
        shift = size * (factor - 1) / 2
        assert source.origin == pytest.approx(
            (7.146018385887146, -110.76253509521484 + shift, -75.76253509521484 + shift)
        )
        array = zarr.open_array(str(path / f"scale{level}" / "nibabel_converted_image"), mode="r")
        np.testing.assert_array_equal(source.read(0), np.asarray(array[:]).T)
    assert "0.4" in source.layout["format"] and len(source.layout["levels"]) == 4


def transformations(path):
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    (multiscale,) = ome["multiscales"]
    for dataset in multiscale["datasets"]:
        scale, translation = dataset["coordinateTransformations"]
        yield dataset["path"], scale["scale"], translation["translation"]


@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (3.0, 0.5, 0.5), (0.2, 0.3, 0.1)])
def test_pyramid(tmp_path, monkeypatch, sizes):
    """A linear function of the place is in every level what its transformation says."""
    monkeypatch.setitem(_pyramid.SMALLEST, 3, 16)
    monkeypatch.setattr(_pyramid, "SHORT", 8)
    shape, origin, slopes = (24, 64, 32), (5.0, 6.0, 7.0), (1.0, 20.0, 300.0)

    def function(shape, start, step):
        at = np.ix_(*(o + np.arange(n) * s for n, o, s in zip(shape, start, step, strict=True)))
        return sum(slope * a for slope, a in zip(slopes, at, strict=True))

    volume = Volume(function(shape, origin, sizes), sizes, None, "um", metadata={"origin": origin})
    path = tmp_path / "a.zarr"
    copied(path, mf.io.open_source(volume), dtype="float64", chunks=(8, 8, 8), shards=(16, 16, 16)).finish()
    levels = list(transformations(path))
    assert len(levels) >= 3
    for name, scale, translation in levels:
        array = zarr.open_array(str(path / name), mode="r")
        factor = np.round(np.divide(scale, sizes))
        np.testing.assert_array_equal(np.multiply(factor, sizes), scale)  # exact
        assert array.shape == tuple(-(-n // int(f)) for n, f in zip(shape, factor, strict=True))
        np.testing.assert_allclose(array[:], function(array.shape, translation, scale), rtol=1e-12)
    every = np.array([scale for _, scale, _ in levels])
    # No level is more anisotropic than the image, and the longest axis fits in the last.
    assert np.all(every.max(1) / every.min(1) <= max(2, every[0].max() / every[0].min()))
    assert max(array.shape) <= 16


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.float16, np.float32, np.bool_])
def test_means_of_blocks(dtype):
    values = image(5, 6, 7, dtype=np.float64).astype(dtype)
    got = _pyramid.mean_of_blocks(values, (2, 1, 2))
    padded = np.pad(values.astype(np.float64), ((0, 1), (0, 0), (0, 1)), mode="edge")
    expected = padded.reshape(3, 2, 6, 4, 2).mean(axis=(1, 4))
    assert got.dtype == dtype and got.shape == (3, 6, 4)
    if np.dtype(dtype).kind == "b":
        np.testing.assert_array_equal(got, expected >= 0.5)
    else:
        step = 0.5 if np.dtype(dtype).kind in "iu" else expected.max() * np.finfo(dtype).eps
        np.testing.assert_allclose(got.astype(np.float64), expected, atol=step)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.int64, np.uint64])
def test_means_of_the_largest_values_do_not_overflow(dtype):
    top = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else np.finfo(dtype).max
    got = _pyramid.mean_of_blocks(np.full((2, 2), top, dtype), (2, 2))
    assert float(got[0, 0]) == pytest.approx(float(top), rel=1e-9)


def test_channels_times_and_their_names(tmp_path):
    axes, shape = "tczyx", (2, 2, 5, 40, 30)
    metadata = {"channels": CHANNELS, "time_step": 2.5, "time_unit": "sec"}
    volume = Volume(image(*shape), (2, 0.5, 0.25), None, "um", axes, metadata)
    store = copied(tmp_path / "a.ome.zarr", mf.io.open_source(volume))
    assert store.items == ((0, 0), (0, 1), (1, 0), (1, 1))
    store.finish()
    again = mf.io.open_source(tmp_path / "a.ome.zarr")
    assert again.channel_names == ("DAPI", "GFP") and again.axes == axes
    assert [c["color"] for c in again.geometry.channels] == ["0000FF", "00FF00"]
    assert again.geometry.channels[1]["active"] is False
    low, high = volume.array[:, 1].min(), volume.array[:, 1].max()
    window = again.geometry.channels[1]["window"]
    assert window["min"] == pytest.approx(low) and window["end"] == pytest.approx(high)
    assert (again.geometry.time_step, again.geometry.time_unit) == (2.5, "second")
    assert again.voxel_size == (2, 0.5, 0.25) and again.unit == "um"
    for item, (t, c) in enumerate(again.items):
        np.testing.assert_array_equal(again.read(item), volume.array[t, c])


@pytest.mark.parametrize(("unit", "seconds"), [("second", 1), ("minute", 60), (None, 1)])
def test_the_time_of_the_first_image_is_kept(tmp_path, monkeypatch, unit, seconds):
    axes = [{"name": "t", "type": "time"}] + [{"name": a, "type": "space"} for a in "yx"]
    axes[0] |= {} if unit is None else {"unit": unit}
    made = entry(axes, (2.5, 1, 1))
    steps = made["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    steps.append({"type": "translation", "translation": [60.0, 0.0, 0.0]})
    multiscale(tmp_path / "a.zarr", made, (2, 5, 6))
    read = mf.io.read(tmp_path / "a.zarr")
    assert read.metadata["toffset"] == 60  # as of NRRD and NIfTI
    mf.io.write(tmp_path / "b.zarr", read)
    copied(tmp_path / "c.zarr", mf.io.open_source(tmp_path / "b.zarr")).finish()
    assert next(transformations(tmp_path / "c.zarr"))[2] == [60, 0, 0]
    monkeypatch.setitem(_pyramid.SMALLEST, 2, 16)
    monkeypatch.setattr(_pyramid, "SHORT", 8)
    large = Volume(image(2, 64, 64), (1, 1), None, "um", "tyx", {"toffset": 60.0, "origin": (5.0, 7.0)})
    copied(tmp_path / "d.zarr", mf.io.open_source(large)).finish()
    levels = list(transformations(tmp_path / "d.zarr"))
    assert len(levels) > 1 and all(translation[0] == 60 for _, _, translation in levels)
    if unit is not None:
        mf.io.write(tmp_path / "a.nii", mf.io.read(tmp_path / "c.zarr"))
        metadata = mf.io.read(tmp_path / "a.nii").metadata
        assert (metadata["time_step"], metadata["toffset"]) == (2.5 * seconds, 60 * seconds)
        assert metadata["time_unit"] == "sec"


def test_a_time_that_another_program_set_counts(tmp_path):
    volume = Volume(image(2, 5, 6), (1, 1), None, "um", "tyx", {"toffset": 60.0, "time_step": 2.0})
    mf.io.write(tmp_path / "a.zarr", volume)
    edited(tmp_path / "a.zarr", lambda attributes: steps(attributes)[1].__setitem__(0, 0.0))
    assert mf.io.read(tmp_path / "a.zarr").metadata["toffset"] == 0
    edited(tmp_path / "a.zarr", lambda attributes: attributes["medeconv_fast"].pop("translation"))
    assert mf.io.read(tmp_path / "a.zarr").metadata["toffset"] == 60  # where earlier versions kept it


def test_the_orientation_goes_along_on_every_level(tmp_path):
    volume = Volume(image(4, 300, 280), None, OBLIQUE, "mm")
    copied(tmp_path / "a.zarr", mf.io.open_source(volume)).finish()
    level = mf.io.open_source(tmp_path / "a.zarr", level=1)
    base = mf.io.open_source(tmp_path / "a.zarr")
    np.testing.assert_array_equal(base.affine, OBLIQUE)
    # The centre of the whole image stays where it is.
    for source in (base, level):
        centre = [(n - 1) / 2 for n in source.shape[::-1]]
        np.testing.assert_allclose(
            source.affine @ [*centre, 1], OBLIQUE @ [139.5, 149.5, 1.5, 1], rtol=1e-12, atol=1e-9
        )
    assert level.shape == (4, 150, 140)


def edited(path, change):
    """As by a program that keeps the attributes that it does not know."""
    entry = json.loads((path / "zarr.json").read_text())
    change(entry["attributes"])
    (path / "zarr.json").write_text(json.dumps(entry))


def steps(attributes):
    """Of level 0."""
    return [
        step[step["type"]]
        for step in attributes["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    ]


def coarser_slices(path):
    edited(path, lambda attributes: steps(attributes)[0].__setitem__(0, 2 * SIZES[0]))


def cropped_at_the_start(path):
    edited(path, lambda attributes: steps(attributes)[1].__setitem__(0, SIZES[0]))


def cropped_at_the_end(path):
    cut = zarr.open_array(str(path / "0"))[:3]
    zarr.create_array(str(path / "0"), data=cut, overwrite=True)


@pytest.mark.parametrize(
    ("change", "text", "size", "origin"),
    [
        (coarser_slices, r"the voxel size to \(.*kept for", 2 * SIZES[0], None),
        (
            cropped_at_the_start,
            r"the translation to \(.*kept for \(0\.0, 0\.0, 0\.0\)",
            SIZES[0],
            (SIZES[0], 0, 0),
        ),
        (cropped_at_the_end, r"the shape to \(3, 5, 6\); .*kept for \(4, 5, 6\)", SIZES[0], None),
    ],
)
def test_an_orientation_that_no_longer_fits_is_left_out(tmp_path, change, text, size, origin):
    copied(tmp_path / "a.zarr", mf.io.open_source(Volume(image(4, 5, 6), None, OBLIQUE, "mm"))).finish()
    change(tmp_path / "a.zarr")
    with pytest.warns(UserWarning, match=f"a.zarr: another program has changed {text}"):
        source = mf.io.open_source(tmp_path / "a.zarr")
    assert source.affine is None and source.voxel_size[0] == pytest.approx(size)
    assert source.origin == (None if origin is None else pytest.approx(origin))
    for key in ("shape", "translation", "dtype"):  # as written before these were kept
        edited(tmp_path / "a.zarr", lambda attributes, key=key: attributes["medeconv_fast"].pop(key))
    if change != coarser_slices:
        assert mf.io.open_source(tmp_path / "a.zarr").affine is not None


def test_an_orientation_that_still_fits_is_kept(tmp_path):
    """By a program that took one of the channels."""
    volume = Volume(image(2, 4, 5, 6), None, OBLIQUE, "mm", "czyx")
    copied(tmp_path / "a.zarr", mf.io.open_source(volume)).finish()

    def one_channel(attributes):
        del attributes["ome"]["multiscales"][0]["axes"][0]
        for values in steps(attributes):
            del values[0]

    zarr.create_array(str(tmp_path / "a.zarr" / "0"), data=volume.array[1], overwrite=True)
    edited(tmp_path / "a.zarr", one_channel)
    source = mf.io.open_source(tmp_path / "a.zarr")
    assert source.shape == (4, 5, 6)
    np.testing.assert_array_equal(source.affine, OBLIQUE)


def test_a_scale_of_other_values_is_left_out(tmp_path):
    path = tmp_path / "a.zarr"
    copied(path, mf.io.open_source(image(8, 9)), dtype="uint16", scale=0.001).finish()
    cut = zarr.open_array(str(path / "0"))[:4]
    zarr.create_array(str(path / "0"), data=cut, overwrite=True)
    np.testing.assert_allclose(mf.io.read(path).array, cut * 0.001, rtol=1e-6)  # a part, as stored
    zarr.create_array(str(path / "0"), data=np.full((8, 9), 11, np.float32), overwrite=True)
    text = (
        r"a\.zarr: another program has changed the dtype to float32; the scale .* kept for uint16 is left out"
    )
    with pytest.warns(UserWarning, match=text):
        assert (mf.io.read(path).array == 11).all()
    edited(path, lambda attributes: attributes["medeconv_fast"].pop("dtype"))  # as written before
    np.testing.assert_allclose(mf.io.read(path).array, 0.011, rtol=1e-6)


@pytest.mark.parametrize("shards", ["auto", None])
def test_yaozarrs_has_nothing_to_say(tmp_path, shards):
    yaozarrs = pytest.importorskip("yaozarrs", reason="SKIPPED: yaozarrs is not installed (extra test)")
    metadata = {"channels": CHANNELS, "time_step": 2.5, "time_unit": "sec"}
    volume = Volume(image(2, 2, 5, 40, 30), (2, 0.5, 0.25), None, "um", "tczyx", metadata)
    for name, source in (("a", mf.io.open_source(volume)), ("b", mf.io.open_source(image(1100, 90)))):
        copied(tmp_path / f"{name}.ome.zarr", source, shards=shards).finish()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert yaozarrs.validate_zarr_store(str(tmp_path / f"{name}.ome.zarr")).ome_version() == "0.5"


# Writing


@pytest.mark.parametrize(
    ("options", "lengths", "columns"),
    [
        ({"voxel_size": (3, 2, 1)}, 1, 1),  # what the file says
        ({"voxel_size": (6, 2, 0.5)}, 1, (0.5, 1, 2)),
        ({"voxel_size": (3000, 2000, 1000), "unit": "um"}, 1000, 1),
        ({"voxel_size": (3000, 1000, 1000), "unit": "um"}, 1000, (1, 0.5, 1)),
    ],
)
def test_a_voxel_size_that_is_given_keeps_the_orientation(options, lengths, columns):
    affine = np.array([[0, -2.0, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    volume = mf.io.Volume(np.zeros((4, 5, 6), np.float32), (3, 2, 1), affine, "mm")
    source = mf.io.open_source(volume, **options)
    expected = affine.copy()
    expected[:3] *= lengths
    expected[:3, :3] *= columns
    np.testing.assert_allclose(source.affine, expected)
    assert source.voxel_size == tuple(map(float, options["voxel_size"]))


def test_nothing_under_the_name_until_it_is_finished(tmp_path):
    source = mf.io.open_source(image(20, 30, 40))
    store = mf.io.create_store(tmp_path / "a.zarr", source, chunks=(8, 8, 8), shards=(16, 16, 16))
    assert os.listdir(tmp_path) == ["a.zarr.partial"] and store.blocks == (16, 16, 16)
    sums = []
    todo = list(regions(store))
    assert len(store.missing()) == len(todo) == 12
    for item, region in todo[:5]:
        sums.append(store.write(item, region, source.read(item, region)))
    with pytest.raises(ValueError, match=r"7 blocks were not written, the first is item 0"):
        store.finish()
    # Another process, later.
    again = pickle.loads(pickle.dumps(mf.io.open_partial(tmp_path / "a.zarr")))
    assert again.missing() == todo[5:]
    assert [again.checksum(item, region) for item, region in todo[:5]] == sums
    with pytest.raises(ValueError, match="never written"):
        again.checksum(*todo[6])
    for item, region in todo[5:]:
        again.write(item, region, source.read(item, region))
    again.finish()
    assert os.listdir(tmp_path) == ["a.zarr"]
    np.testing.assert_array_equal(mf.io.open_source(tmp_path / "a.zarr").read(0), source.read(0))
    with pytest.raises(FileNotFoundError, match="no unfinished image"):
        mf.io.open_partial(tmp_path / "a.zarr")


def test_one_of_several_processes_begins(tmp_path):
    """The others are told that there is something to go on with."""
    source, wait, told = mf.io.open_source(image(20, 30)), threading.Barrier(4), []

    def begin():
        wait.wait()
        try:
            told.append(mf.io.create_store(tmp_path / "a.zarr", source))
        except FileExistsError as error:
            told.append(str(error))

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(t, mf.io.Store) for t in told) == 1
    assert all("mf.io.open_partial goes on with it" in t for t in told if isinstance(t, str))
    assert os.listdir(tmp_path) == ["a.zarr.partial"]


def test_an_image_that_was_begun_anew_takes_nothing_of_the_one_before(tmp_path):
    source = mf.io.open_source(image(20, 30))
    before = mf.io.create_store(tmp_path / "a.zarr", source)
    store = mf.io.create_store(tmp_path / "a.zarr", source, overwrite=True)
    (block,) = regions(store)
    with pytest.raises(FileNotFoundError, match="is another image, which was begun since"):
        before.write(*block, source.read(0))
    assert store.missing() == [block]
    store.write(*block, source.read(0))
    with pytest.raises(FileNotFoundError, match="is another image, which was begun since"):
        before.finish()
    store.finish()
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_two_that_write_an_image_at_a_time(tmp_path, monkeypatch):
    """The second is refused, and the first ends as if it had not been."""
    first, second = (Volume(image(20, 30, seed=seed)) for seed in (1, 2))
    write, refused = mf.io.Store.write, []

    def beside(store, *block):
        if not refused:
            with pytest.raises(BlockingIOError, match=r"a\.zarr: another process is at work on it") as told:
                mf.io.write(tmp_path / "a.zarr", second, overwrite=True)
            refused.append(told.value)
        return write(store, *block)

    monkeypatch.setattr(mf.io.Store, "write", beside)
    mf.io.write(tmp_path / "a.zarr", first, overwrite=True)
    assert refused and os.listdir(tmp_path) == ["a.zarr"]
    np.testing.assert_array_equal(mf.io.read(tmp_path / "a.zarr").array, first.array)
    mf.io.write(tmp_path / "a.zarr", second, overwrite=True)
    np.testing.assert_array_equal(mf.io.read(tmp_path / "a.zarr").array, second.array)


def test_an_interrupted_image_leaves_nothing_that_blocks_its_name(tmp_path, monkeypatch):
    """zarr goes on with a chunk in its threads, and would make folders anew that were taken away."""
    store, interrupted = zarr.storage.LocalStore, []
    put = store.set

    async def slow(self, key, value):
        if "c/" in key and not interrupted:
            interrupted.append(key)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            await asyncio.sleep(0.3)
        await put(self, key, value)

    monkeypatch.setattr(store, "set", slow)
    with pytest.raises(KeyboardInterrupt):
        mf.io.write(tmp_path / "a.zarr", Volume(image(20, 30)))
    time.sleep(0.5)
    assert interrupted and os.listdir(tmp_path) == []


def test_an_unfinished_image_that_was_half_discarded_blocks_nothing(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(folder, **_):
        (Path(folder) / "a.zarr.partial" / "store.json").unlink()
        raise Killed

    source = mf.io.open_source(image(20, 30))
    mf.io.create_store(tmp_path / "a.zarr", source)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(_store.shutil, "rmtree", killed)
        mf.io.create_store(tmp_path / "a.zarr", source, overwrite=True)
    mf.io.write(tmp_path / "a.zarr", Volume(image(20, 30)))
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == ["a.zarr"]


def test_blocks_of_zeros_are_written_too(tmp_path):
    """What is not there was not written: a lost block of zeros is noticed."""
    store = copied(tmp_path / "a.zarr", mf.io.open_source(np.zeros((10, 12), np.float32)), chunks=(8, 8))
    assert store.missing() == []
    one = store.checksum(0, (slice(0, 10), slice(0, 12)))
    assert one == _store._checksum(np.zeros((10, 12), np.float32))
    next((tmp_path / "a.zarr.partial").rglob("c/0/0")).unlink()
    assert len(store.missing()) == 1


@pytest.mark.parametrize(
    "region", [(slice(0, 8), slice(0, 16)), (slice(8, 16), slice(0, 16)), (slice(0, 16), slice(0, 12))]
)
def test_only_whole_blocks_are_written(tmp_path, region):
    store = mf.io.create_store(
        tmp_path / "a.zarr", mf.io.open_source(image(30, 30)), chunks=(8, 8), shards=(16, 16)
    )
    with pytest.raises(ValueError, match=r"region: .*whole blocks of \(16, 16\)"):
        store.write(0, region, np.zeros([s.stop - s.start for s in region], np.float32))
    with pytest.raises(ValueError, match="array: got shape"):
        store.write(0, (slice(16, 30), slice(0, 16)), np.zeros((16, 16), np.float32))
    with pytest.raises(TypeError, match="array: got a masked array"):
        store.write(0, (slice(16, 30), slice(0, 30)), np.ma.zeros((14, 30), np.float32))
    store.write(0, (slice(16, 30), slice(0, 30)), np.zeros((14, 30), np.float32))


def test_a_checksum_is_of_the_voxels(tmp_path):
    """The same by whatever chunks and compression, another for another value."""
    array = image(16, 16)
    sums = []
    for name, options in (("a", {"chunks": (8, 8)}), ("b", {"shards": None}), ("c", {"dtype": "float64"})):
        store = mf.io.create_store(tmp_path / f"{name}.zarr", mf.io.open_source(array), **options)
        sums.append(store.write(0, (slice(0, 16), slice(0, 16)), array))
    assert sums[0] == sums[1] != sums[2]
    array[3, 3] = np.nextafter(array[3, 3], np.inf)
    assert store.write(0, (slice(0, 16), slice(0, 16)), array) != sums[2]


@pytest.mark.parametrize(
    ("dtype", "scale", "values", "expected", "clipped"),
    [
        (
            "uint8",
            (1, 0),
            [-3.0, -0.4, 0.5, 1.5, 254.6, 255.4, 256.0, 1e9],
            [0, 0, 0, 2, 255, 255, 255, 255],
            3,
        ),
        ("int16", (0.5, -1024), [-1024.0, 0.0, 20000.0], [0, 2048, 32767], 1),
        ("float16", (1, 0), [1e5, -1e5, 3.0, np.inf, np.nan], [65504, -65504, 3, np.inf, np.nan], 2),
        ("float32", (1, 0), np.array([1e300, 1.0]), [np.finfo(np.float32).max, 1], 1),
        ("float32", (2, 1), [5.0, 1.0], [2, 0], 0),
        ("int64", (1, 0), np.array([1e30, -1e30]), [np.nextafter(2.0**63, 0), -(2.0**63)], 2),
        ("uint16", (1, 0), np.array([-5, 70000, 12], np.int32), [0, 65535, 12], 2),
    ],
)
def test_conversion(dtype, scale, values, expected, clipped):
    values = np.array(values, getattr(values, "dtype", np.float32))
    got, count = _convert.stored(values, np.dtype(dtype), scale)
    assert got.dtype == dtype and count == clipped
    np.testing.assert_array_equal(got.astype(np.float64), np.array(expected, np.float64))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"dtype": "uint16"}, ValueError, "scale: needed"),
        ({"dtype": "input"}, ValueError, "scale: needed to store computed values as int16"),
        ({"dtype": "complex64"}, TypeError, "dtype"),
        ({"dtype": "nonsense"}, TypeError, "dtype: got 'nonsense'"),
        ({"dtype": "int16", "scale": 0}, ValueError, "scale"),
        ({"dtype": "int16", "scale": (1, 2, 3)}, ValueError, "scale"),
        ({"dtype": "uint8", "scale": 1e40}, ValueError, r"scale: got 1e\+40, expected magnitudes"),
        ({"dtype": "uint8", "scale": 1e-40}, ValueError, "scale: got 1e-40"),
        ({"dtype": "uint8", "scale": (1, 1e40)}, ValueError, "scale: got"),
        ({"shards": (3, 3)}, ValueError, "shards: got"),
        ({"shards": (48, 48, 48), "chunks": (32, 32, 32)}, ValueError, "expected multiples of the chunks"),
        ({"chunks": (0, 1, 1)}, ValueError, r"chunks\[0\]"),
        ({"path": "a.zarr.partial"}, ValueError, "give the final name"),
        ({"derivation": 3}, TypeError, "derivation: got 3, expected a text"),
    ],
)
def test_stores_that_make_no_sense(tmp_path, options, error, text):
    source = mf.io.open_source(image(8, 9, 10, dtype=np.int16))
    with pytest.raises(error, match=text):
        mf.io.create_store(tmp_path / options.pop("path", "a.zarr"), source, **options)
    assert os.listdir(tmp_path) == []


def test_the_input_s_dtype_with_a_scale_and_a_count_of_what_was_clipped(tmp_path):
    source = mf.io.open_source(image(40, 40, dtype=np.uint8))
    store = mf.io.create_store(
        tmp_path / "a.zarr", source, dtype="input", scale=0.25, chunks=(32, 32), shards=None
    )
    for item, region in regions(store):
        store.write(item, region, source.read(item, region).astype(np.float32))
    beyond = int((source.read(0).astype(float) / 0.25 > 255).sum())
    assert 0 < beyond == store.clipped == mf.io.open_partial(tmp_path / "a.zarr").clipped
    # Written again with values that fit: the count is that of what is stored.
    store.write(0, (slice(0, 32), slice(0, 32)), np.ones((32, 32), np.float32))
    assert store.clipped < beyond
    left = store.clipped
    store.finish()
    assert store.clipped == left
    again = mf.io.open_source(tmp_path / "a.zarr")
    assert again.dtype == np.float32 and again.stored_dtype == np.uint8
    np.testing.assert_array_equal(again.read(0)[:32, :32], 1)
    with pytest.raises(ValueError, match="values are NaN, which uint8 lacks"):
        copied(tmp_path / "b.zarr", mf.io.open_source(np.full((4, 4), np.nan)), dtype="uint8", scale=1)


def test_an_existing_image_is_kept(tmp_path):
    source = mf.io.open_source(image(8, 9))
    path = tmp_path / "a.zarr"
    copied(path, source).finish()
    before = (path / "zarr.json").read_bytes()
    with pytest.raises(FileExistsError, match="exists already; overwrite=True"):
        mf.io.create_store(path, source)
    store = copied(path, mf.io.open_source(np.ones((5, 5), np.float32)), overwrite=True)
    assert (path / "zarr.json").read_bytes() == before  # until the other is finished
    (tmp_path / "b.zarr.partial").mkdir()
    with pytest.raises(FileExistsError, match="is no unfinished image; remove it"):
        mf.io.create_store(tmp_path / "b.zarr", source)
    (tmp_path / "b.zarr.partial").rmdir()
    mf.io.create_store(tmp_path / "b.zarr", source)
    with pytest.raises(FileExistsError, match=r"an unfinished image; mf\.io\.open_partial goes on"):
        mf.io.create_store(tmp_path / "b.zarr", source)
    store.finish()
    assert mf.io.open_source(path).shape == (5, 5)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.zarr.partial"]
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr" / "precious").touch()
    with pytest.raises(FileExistsError, match="is no Zarr; replacing it would delete it"):
        mf.io.create_store(tmp_path / "other.zarr", source, overwrite=True)


@pytest.mark.parametrize("place", ["notes.txt", "0/notes.txt", "masks/0.png", "7/0.png"])
def test_what_lies_in_a_zarr_folder_is_not_deleted(tmp_path, place):
    source = mf.io.open_source(image(8, 9))
    path = tmp_path / "a.zarr"
    copied(path, source).finish()
    store = copied(path, source, overwrite=True)
    (path / place).parent.mkdir(exist_ok=True)
    (path / place).write_text("mine")
    name = place.removesuffix("/0.png")
    for function in (store.finish, lambda: mf.io.write(path, Volume(image(8, 9)), overwrite=True)):
        with pytest.raises(FileExistsError, match=f"a.zarr: holds {name}, which is no part of one image"):
            function()
    assert (path / place).read_text() == "mine"
    (path / place).unlink()
    if name in ("masks", "7"):
        (path / name).rmdir()
    store.finish()


def plate(path):
    group = zarr.create_group(str(path), attributes={"ome": {"version": "0.5", "plate": {}}})
    group.create_group("A").create_group("1")
    mf.io.write(path / "A" / "1" / "0.zarr", Volume(image(8, 9)))
    return "A"


def rows_of_digits(path):
    zarr.create_group(str(path), zarr_format=2, attributes={"plate": {}})
    mf.io.write(path / "0.zarr", Volume(image(8, 9)))
    os.rename(path / "0.zarr", path / "0")
    return "0"


def several_images(path):
    zarr.create_group(str(path), attributes={"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    for number in ("0", "1", "2"):
        mf.io.write(path / f"{number}.zarr", Volume(image(8, 9)))
        os.rename(path / f"{number}.zarr", path / number)
    return "0"


def several_in_one_group(path):
    datasets = [entry()["multiscales"][0] | {"name": name} for name in ("a", "b")]
    multiscale(path, {"multiscales": datasets})
    return "0"


def labelled(path):
    mf.io.write(path, Volume(image(8, 9)))
    zarr.open_group(str(path)).create_group("labels").create_group("cells").create_array(
        "0", data=image(8, 9)
    )
    return "labels"


def tables(path):
    mf.io.write(path, Volume(image(8, 9)))
    zarr.open_group(str(path)).create_group("tables")
    return "tables"


def within_a_level(path):
    mf.io.write(path, Volume(image(8, 9)))
    zarr.create_array(str(path / "0" / "1"), data=image(8, 9))
    return "0/1"


def no_image(path):
    zarr.create_group(str(path)).create_array("X", data=image(8, 9))
    return "X"


@pytest.mark.parametrize(
    "made",
    [
        plate,
        rows_of_digits,
        several_images,
        several_in_one_group,
        labelled,
        tables,
        within_a_level,
        no_image,
    ],
    ids=lambda made: made.__name__,
)
def test_one_image_does_not_replace_many(tmp_path, made):
    path = tmp_path / "a.zarr"
    name = made(path)
    before = sorted(path.rglob("*"))
    text = f"a.zarr: holds {name}, which is no part of one image"
    with pytest.raises(FileExistsError, match=text):
        mf.io.write(path, Volume(image(8, 9)), overwrite=True)
    os.rename(path, tmp_path / "b.zarr")
    store = copied(path, mf.io.open_source(image(8, 9)))
    os.rename(tmp_path / "b.zarr", path)  # meanwhile
    with pytest.raises(FileExistsError, match=text):
        store.finish(overwrite=True)
    assert sorted(path.rglob("*")) == before


def array_of_zarr_2(path):
    zarr.create_array(
        str(path),
        data=image(8, 9),
        chunks=(4, 4),
        zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )


def levels_in_folders(path):
    datasets = [{"path": f"scale{i}/image", "coordinateTransformations": []} for i in (0, 1)]
    group = zarr.create_group(
        str(path), zarr_format=2, attributes={"multiscales": [{"version": "0.4", "datasets": datasets}]}
    )
    for number in (0, 1):
        group.create_array(f"scale{number}/image", data=image(8, 9))
    (path / "OME").mkdir()
    (path / "OME" / "METADATA.ome.xml").touch()


@pytest.mark.parametrize("made", [array_of_zarr_2, levels_in_folders], ids=lambda made: made.__name__)
def test_one_image_replaces_another(tmp_path, made):
    made(tmp_path / "a.zarr")
    mf.io.write(tmp_path / "a.zarr", Volume(image(5, 6)), overwrite=True)
    assert mf.io.read(tmp_path / "a.zarr").shape == (5, 6) and os.listdir(tmp_path) == ["a.zarr"]


def test_a_folder_of_damaged_metadata_is_kept(tmp_path):
    mf.io.write(tmp_path / "a.zarr", Volume(image(8, 9)))
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    with pytest.raises(FileExistsError, match=r"zarr\.json: damaged metadata .* remove it or choose another"):
        mf.io.write(tmp_path / "a.zarr", Volume(image(8, 9)), overwrite=True)
    assert (tmp_path / "a.zarr" / "0").is_dir()


def test_a_name_that_was_taken_meanwhile(tmp_path):
    store = copied(tmp_path / "a.zarr", mf.io.open_source(image(8, 9)))
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "theirs").touch()
    with pytest.raises(FileExistsError, match="exists already"):
        store.finish()
    (tmp_path / "a.zarr" / "theirs").unlink()
    store.finish()
    store = copied(tmp_path / "b.zarr", mf.io.open_source(image(8, 9)))
    os.rename(tmp_path / "a.zarr", tmp_path / "b.zarr")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        store.finish()
    store.finish(overwrite=True)
    assert os.listdir(tmp_path) == ["b.zarr"]


@pytest.mark.parametrize("at", ["before", "pyramid", "renamed"])
def test_finish_goes_on_after_it_was_killed(tmp_path, monkeypatch, at):
    class Killed(BaseException):
        pass

    source = mf.io.open_source(image(3, 300, 280))
    copied(tmp_path / "whole.zarr", source).finish()
    path = tmp_path / "a.zarr"
    store = copied(path, source)

    def killed(*_, **__):
        raise Killed

    target, name = {
        "before": (_pyramid, "build"),
        "pyramid": (_pyramid, "windows"),
        "renamed": (_store.shutil, "rmtree"),
    }[at]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(target, name, killed)
        store.finish()
    (tmp_path / "a.zarr.partial" / "rest.0123.partial").touch()
    mf.io.open_partial(path).finish()
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "whole.zarr"]
    names = [sorted(p.relative_to(top) for p in top.rglob("*")) for top in (path, tmp_path / "whole.zarr")]
    assert names[0] == names[1]
    for name in names[0]:
        if (path / name).is_file():
            wanted = (tmp_path / "whole.zarr" / name).read_bytes().replace(b'"whole"', b'"a"')
            assert (path / name).read_bytes() == wanted


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_name_of_zarr_alone_is_no_zarr(tmp_path, kind):
    path = tmp_path / "a.ome.zarr"
    path.mkdir() if kind == "folder" else path.write_bytes(b"x")
    for function in (mf.io.read, mf.io.open_source):
        with pytest.raises(ValueError, match=r"a\.ome\.zarr: is named as Zarr, but has none of its"):
            function(path)


WRITER = """
import sys
import numpy as np
import medeconv_fast as mf
store = mf.io.open_partial(sys.argv[1])
rng = np.random.default_rng(int(sys.argv[2]))
todo = store.missing()
todo = [todo[i] for i in rng.permutation(len(todo))]
print("ready", flush=True)
for item, region in todo:
    at = np.ix_(*(np.arange(s.start, s.stop, dtype=np.float32) for s in region))
    store.write(item, region, np.sin(at[0] * 900 + at[1] * 30 + at[2]))
"""


@pytest.mark.parametrize("shards", ["auto", None])
def test_a_killed_writer_leaves_whole_blocks_only(tmp_path, shards):
    at = np.ix_(*(np.arange(n, dtype=np.float32) for n in (48, 64, 64)))
    wanted = np.sin(at[0] * 900 + at[1] * 30 + at[2])
    path = tmp_path / "a.zarr"
    store = mf.io.create_store(path, mf.io.open_source(wanted), chunks=(16, 16, 16), shards=shards)
    total = len(store.missing())
    words = [sys.executable, "-c", WRITER, str(path), "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 20
        while len(store.missing()) > total - 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
    left = store.missing()
    assert process.returncode == -9 and 0 < len(left) < total
    for item, region in regions(store):
        if (item, region) not in left:
            np.testing.assert_array_equal(store.read(item, region), wanted[region])
    for item, region in left:
        store.write(item, region, wanted[region])
    store.finish()
    np.testing.assert_array_equal(mf.io.open_source(path).read(0), wanted)
    assert not list(path.rglob("*.partial")) and not list(path.rglob("*tmp*"))


# What goes wrong


def test_a_vanished_input_is_not_taken_for_zeros(tmp_path):
    copied(tmp_path / "a.zarr", mf.io.open_source(image(8, 9))).finish()
    source = mf.io.open_source(tmp_path / "a.zarr")
    os.rename(tmp_path / "a.zarr", tmp_path / "b.zarr")
    with pytest.raises(FileNotFoundError, match="has vanished while it was being read"):
        source.read(0)


def test_a_vanished_destination_is_not_made_anew(tmp_path):
    store = mf.io.create_store(tmp_path / "a.zarr", mf.io.open_source(image(8, 9)))
    shutil.rmtree(tmp_path / "a.zarr.partial")
    with pytest.raises(FileNotFoundError, match="has vanished while it was being written"):
        store.write(0, (slice(0, 8), slice(0, 9)), image(8, 9))
    assert os.listdir(tmp_path) == []


def test_a_destination_that_cannot_be_written_to(tmp_path, monkeypatch):
    source = mf.io.open_source(image(8, 9))
    with pytest.raises(FileNotFoundError, match=r"the directory .*absent does not exist"):
        mf.io.create_store(tmp_path / "absent" / "a.zarr", source)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is not a directory"):
        mf.io.create_store(tmp_path / "file" / "a.zarr", source)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root may write anywhere
    with pytest.raises(PermissionError, match=r"a\.zarr: no permission to write there"):
        mf.io.create_store(tmp_path / "a.zarr", source)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("how", ["truncated", "overwritten", "empty"])
@pytest.mark.parametrize(("shards", "zarr_format"), [((16, 16), 3), (None, 3), (None, 2)])
def test_a_damaged_chunk_is_named(tmp_path, how, shards, zarr_format):
    array = image(40, 40)
    options = {} if shards is None else {"shards": shards}
    zarr.create_array(
        store=str(tmp_path / "a.zarr"), data=array, chunks=(8, 8), zarr_format=zarr_format, **options
    )
    source = mf.io.open_source(tmp_path / "a.zarr")
    chunk = tmp_path / "a.zarr" / ("c/1/0" if zarr_format == 3 else "1.0")
    data = chunk.read_bytes()
    damaged = {"truncated": data[: len(data) // 2], "overwritten": b"\xff" * len(data), "empty": b""}[how]
    chunk.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"{chunk}: damaged or truncated chunk"):
        source.read(0)
    assert source.read(0, (slice(0, 8), slice(0, 40))).shape == (8, 40)


@pytest.mark.parametrize("shards", ["auto", None])
def test_one_bit_that_flips_is_noticed(tmp_path, shards):
    path = tmp_path / "a.zarr"
    copied(path, mf.io.open_source(image(48, 40)), chunks=(16, 16), shards=shards).finish()
    source = mf.io.open_source(path)
    chunk = path / "0" / "c" / "0" / "0"
    data = chunk.read_bytes()
    for bit in np.random.default_rng(3).integers(8 * len(data), size=40):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        chunk.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{chunk}: damaged or truncated chunk"):
            source.read(0)
    chunk.write_bytes(data)
    np.testing.assert_array_equal(source.read(0), image(48, 40))
    assert source.layout["levels"][0]["compression"] == ["blosc"]


def test_the_identity_changes_with_a_chunk(tmp_path):
    copied(tmp_path / "a.zarr", mf.io.open_source(image(40, 40)), chunks=(8, 8), shards=None).finish()
    source = mf.io.open_source(tmp_path / "a.zarr")
    before = source.identity()
    assert before == mf.io.open_source(tmp_path / "a.zarr").identity() == json.loads(json.dumps(before))
    chunk = tmp_path / "a.zarr" / "0" / "c" / "0" / "0"
    os.utime(chunk, ns=(1, 1))
    assert source.identity() != before


@pytest.fixture
def full_disk():
    """full_disk(bytes): a limit on the size of files stands in for a full disk, the system refuses more."""
    resource = pytest.importorskip("resource")
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    @contextlib.contextmanager
    def limited(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    yield limited
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [100, 1000, 5000])
def test_a_full_disk_leaves_nothing_of_a_whole_image(tmp_path, full_disk, size):
    with full_disk(size), pytest.raises(OSError, match=r"File too large.*a\.zarr"):
        mf.io.write(tmp_path / "a.zarr", Volume(image(64, 64)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.zarr", "a.npy"])
def test_a_disk_that_is_full_at_the_end(tmp_path, full_disk, name):
    array = image(1100, 40)
    store = copied(tmp_path / name, mf.io.open_source(array), chunks=(256, 40), shards=None)
    with full_disk(1000), pytest.raises(OSError, match=rf"File too large.*{name}"):
        store.finish()
    assert os.listdir(tmp_path) == [f"{name}.partial"]
    store.finish()
    np.testing.assert_array_equal(mf.io.read(tmp_path / name).array, array)


def test_a_full_disk_names_the_image(tmp_path, full_disk):
    store = mf.io.create_store(tmp_path / "a.zarr", mf.io.open_source(image(64, 64)))
    with full_disk(1000), pytest.raises(OSError, match=r"File too large.*a\.zarr"):
        store.write(0, (slice(0, 64), slice(0, 64)), image(64, 64))
    assert len(store.missing()) == 1 and not (tmp_path / "a.zarr").exists()
    assert not [
        p
        for p in (tmp_path / "a.zarr.partial" / "image.zarr" / "0").rglob("*")
        if p.name != "zarr.json" and p.is_file()
    ]
    store.write(0, (slice(0, 64), slice(0, 64)), image(64, 64))
    store.finish()


def multiscale(path, attributes, shape=(4, 5, 6)):
    group = zarr.create_group(
        store=str(path), zarr_format=3, attributes={"ome": {"version": "0.5", **attributes}}
    )
    group.create_array("0", data=image(*shape))
    return group


def entry(axes=None, scale=(1, 1, 1), **more):
    kinds = {"t": "time", "c": "channel"}
    axes = [{"name": a, "type": kinds.get(a, "space")} for a in "zyx"] if axes is None else axes
    steps = [{"type": "scale", "scale": list(scale)}]
    return {
        "multiscales": [
            {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}], **more}
        ]
    }


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        (entry([{"name": n} for n in "azx"]), "axes: 'a' is not supported"),
        (entry([{"name": n} for n in "zzx"]), "axes: got 'zzx'"),
        (entry([{"name": n} for n in "yx"]), r"axes: the metadata names 2 \(y, x\), the arrays have 3"),
        (entry([{"name": "z", "type": "time"}, {"name": "y"}, {"name": "x"}]), "'z' of the type 'time'"),
        (entry([{"name": n, "unit": "second"} for n in "zyx"]), "unit of z is 'second', expected a length"),
        (entry(scale=(1, 1)), r"datasets\[0\]: scale is \[1.0, 1.0\], expected 3 positive numbers"),
        (entry(scale=(1, -1, 1)), "expected 3 positive numbers"),
        ({"multiscales": [{"axes": []}]}, "lists no datasets"),
        ({"plate": {}}, "a plate or well of many images"),
    ],
)  # fmt: skip
def test_metadata_that_makes_no_sense(tmp_path, attributes, text):
    multiscale(tmp_path / "a.zarr", attributes)
    with pytest.raises(ValueError, match=text):
        mf.io.open_source(tmp_path / "a.zarr")


def test_names_of_other_channels_than_there_are(tmp_path):
    """Some programs keep the channels of the image that they took one from."""
    channels = [{"label": n, "color": "FFFFFF", "window": {}} for n in "abc"]
    multiscale(tmp_path / "a.zarr", {**entry(), "omero": {"channels": channels}})
    with pytest.warns(UserWarning, match=r"a\.zarr: 3 channels are named, the image has 1"):
        source = mf.io.open_source(tmp_path / "a.zarr")
    assert source.channel_names == ()
    copied(tmp_path / "b.zarr", source).finish()


@pytest.mark.parametrize(
    "omero",
    [{"channels": None}, {"channels": 3}, {"channels": {"a": {}}}, {"channels": [1, None]}, [1], "x", 7],
)
def test_how_to_show_an_image_is_left_out_where_it_makes_no_sense(tmp_path, omero):
    multiscale(tmp_path / "a.zarr", {**entry(), "omero": omero})
    source = mf.io.open_source(tmp_path / "a.zarr")
    assert source.channel_names == ()
    assert mf.io.read(tmp_path / "a.zarr").shape == source.shape


def test_a_voxel_size_in_another_unit_moves_the_origin_with_it(tmp_path):
    affine = np.diag([0.5, 0.5, 2, 1])
    affine[:3, 3] = 10, 20, 30
    volume = mf.io.Volume(np.ones((4, 5, 6), np.float32), (2, 0.5, 0.5), affine, "mm")
    for name in ("a.ome.zarr", "a.nii", "a.npy"):
        mf.io.write(tmp_path / name, volume)
        source = mf.io.open_source(tmp_path / name, voxel_size=(2000, 500, 500), unit="um")
        np.testing.assert_allclose(source.affine[:3, 3], (10000, 20000, 30000))
        np.testing.assert_allclose(source.affine[:3, :3], np.diag([500, 500, 2000]))


@pytest.mark.parametrize("name", ["a.ome.zarr", "a.nii", "a.npy", "a.ome.tif"])
def test_a_changed_voxel_size_that_contradicts_the_affine_is_not_written(tmp_path, name):
    volume = mf.io.Volume(np.ones((4, 5, 6), np.float32), (2, 1, 1), np.diag([1.0, 1, 2, 1]), "mm")
    volume.voxel_size = (3.0, 1.0, 1.0)
    for use in (lambda: mf.io.write(tmp_path / name, volume), lambda: mf.io.open_source(volume)):
        with pytest.raises(ValueError, match="affine: says voxels of"):
            use()
    assert not list(tmp_path.iterdir())


def test_axes_and_units_can_be_corrected(tmp_path):
    multiscale(tmp_path / "a.zarr", entry([{"name": n, "unit": "second"} for n in "abc"], (3, 2, 1)))
    source = mf.io.open_source(tmp_path / "a.zarr", axes="zyx", unit="um")
    assert source.shape == (4, 5, 6) and source.voxel_size == (3, 2, 1) and source.unit == "um"


def test_units_of_lengths(tmp_path):
    units = ("micrometer", "nanometer", "millimeter")
    multiscale(
        tmp_path / "a.zarr",
        entry([{"name": n, "unit": u} for n, u in zip("zyx", units, strict=True)], (3, 200, 0.001)),
    )
    source = mf.io.open_source(tmp_path / "a.zarr")
    assert source.unit == "um" and source.voxel_size == pytest.approx((3, 0.2, 1))
    multiscale(
        tmp_path / "b.zarr", entry([{"name": "z"}, *({"name": n, "unit": "micrometer"} for n in "yx")])
    )
    with pytest.warns(UserWarning, match="no unit of the voxel size along z"):
        assert mf.io.open_source(tmp_path / "b.zarr").unit is None


def test_transformations_of_the_whole_image_come_after_those_of_a_level(tmp_path):
    common = [{"type": "scale", "scale": [1, 2, 3]}, {"type": "translation", "translation": [5, 6, 7]}]
    multiscale(tmp_path / "a.zarr", entry(scale=(10, 10, 10), coordinateTransformations=common))
    source = mf.io.open_source(tmp_path / "a.zarr")
    assert source.voxel_size == (10, 20, 30) and source.origin == (5, 6, 7)


def test_damaged_metadata_is_named(tmp_path):
    multiscale(tmp_path / "a.zarr", entry())
    path = tmp_path / "a.zarr" / "zarr.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"zarr\.json: damaged metadata"):
        mf.io.open_source(tmp_path / "a.zarr")
