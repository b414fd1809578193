"""Preprocessing: what steps do, against formulas and SimpleITK; where voxels go; that undoing undoes."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

import medeconv_fast as mf

pp = mf.preprocess
hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")
arrays = pytest.importorskip("hypothesis.extra.numpy").arrays

SIZE = (3.0, 0.8, 1.1)


def oblique(size=SIZE, origin=(-31.0, 12.5, 40.0)):
    """An affine with all three axes turned, for arrays (z, y, x) with voxels of `size`."""
    a, b, c = np.deg2rad([17.0, -9.0, 31.0])
    turn = (
        np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        @ np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        @ np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(size[::-1])
    affine[:3, 3] = origin
    return affine


def blobs(shape=(11, 24, 19), seed=3):
    """Smooth structure on an uneven ground, so that interpolation has something to be right about."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    image = 40 + 30 * x - 20 * y * z
    for _ in range(5):
        centre = rng.uniform(0.2, 0.8, 3)
        image += rng.uniform(100, 400) * np.exp(
            -((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) / 0.05
        )
    return image


@pytest.fixture
def volume():
    return mf.io.Volume(blobs().astype(np.float32), SIZE, oblique(), "mm", "zyx", {"kept": 7})


def world(volume, index):
    """Coordinates of a voxel given in array order."""
    return volume.affine @ [*index[::-1], 1]


# ---------------------------------------------------------------- undoing

CALLS = {
    "crop": {"box": [(2, 9), None, (1, 15)]},
    "crop content": {"threshold": 200.0, "margin": (1, 0, 2)},
    "pad": {"width": [(1, 2), 3, (0, 4)], "mode": "mirror"},
    "resample": {"new_voxel_size": (1.0, 1.0, 1.0)},
    "resample coarse": {"shape": (5, 12, 8), "order": 3},
    "resample nearest": {"new_voxel_size": (2.0, 2.0, 2.0), "order": 0},
    "normalize": {},
    "normalize z-score": {"method": "z-score"},
    "normalize percentile": {"method": "percentile", "percentiles": (5, 95)},
    "window": {"level": 150.0, "width": 120.0},
    "taper": {"width": (2, 5, 0)},
    "background": {},
}


def call(name, image):
    return getattr(pp, name.split()[0])(image, **CALLS[name])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "uint16"])
def test_undoing_gives_back_the_volume(volume, name, dtype):
    volume.array = volume.array.astype(dtype)
    before = copy.deepcopy(volume)
    result, step = call(name, volume)
    back = pickle.loads(pickle.dumps(step)).undo(result)
    assert back.shape == volume.shape and back.axes == "zyx" and back.unit == "mm"
    assert back.metadata == result.metadata == {"kept": 7}
    scale = np.abs(before.array).max()
    assert np.abs(back.array.astype(float) - before.array).max() <= 1e-6 * scale
    np.testing.assert_array_equal(back.affine, before.affine)
    assert back.voxel_size == before.voxel_size
    # Nothing of what came in was touched.
    np.testing.assert_array_equal(volume.array, before.array)
    assert not np.shares_memory(result.array, volume.array)
    if name in ("crop", "crop content", "pad", "resample nearest"):
        assert result.dtype == np.dtype(dtype)
    else:
        assert result.dtype == (np.float64 if dtype == "float64" else np.float32)


@pytest.mark.parametrize("name", CALLS)
def test_arrays_and_volumes_agree(volume, name):
    options = dict(CALLS[name])
    if "new_voxel_size" in options:
        options["voxel_size"] = SIZE
    result, step = getattr(pp, name.split()[0])(volume.array, **options)
    np.testing.assert_array_equal(result, call(name, volume)[0].array)
    np.testing.assert_allclose(step.undo(result), volume.array, rtol=0, atol=1e-6 * volume.array.max())
    # A step made on an array knows where a volume's voxels go as well.
    moved = call(name, volume)[0]
    back = step.undo(moved)
    np.testing.assert_allclose(back.affine, volume.affine, rtol=1e-12)
    np.testing.assert_allclose(back.voxel_size, SIZE, rtol=1e-12)


@pytest.mark.parametrize("name", ["pad", "resample", "taper", "crop"])
def test_every_time_point_by_itself(volume, name):
    movie = np.stack([volume.array, 2 * volume.array, volume.array[::-1]])
    four = mf.io.Volume(movie, SIZE, oblique(), "mm", "tzyx")
    options = dict(CALLS[name])
    if name == "taper":
        options["level"] = 10.0  # else it is that of the whole movie
    result, step = getattr(pp, name)(four, **options)
    assert result.axes == "tzyx"
    for got, part in zip(result.array, movie, strict=True):
        np.testing.assert_allclose(
            got, getattr(pp, name)(mf.io.Volume(part, SIZE, oblique(), "mm"), **options)[0].array, rtol=1e-6
        )
    np.testing.assert_allclose(step.undo(result).array, movie, rtol=0, atol=1e-6 * movie.max())
    with pytest.raises(TypeError, match="'tzyx'"):
        step.undo(result.array[0])


def test_colour_samples_stay_behind_the_axes_of_space():
    rgb = np.random.default_rng(0).integers(0, 255, (12, 15, 3), dtype=np.uint8)
    volume = mf.io.Volume(rgb, (1, 2), None, "mm", "yxs")
    result, step = pp.crop(volume, [(2, 8), (3, 15)])
    np.testing.assert_array_equal(result.array, rgb[2:8, 3:15])
    np.testing.assert_array_equal(step.undo(result).array, rgb)
    fine, step = pp.resample(volume, shape=(12, 30))
    red, _ = pp.resample(rgb[..., 0], shape=(12, 30))
    np.testing.assert_array_equal(fine.array[..., 0], red)
    assert fine.voxel_size == (1, 1)


def shapes(ndim):
    return st.lists(st.integers(1, 9), min_size=ndim, max_size=ndim).map(tuple)


@st.composite
def images(draw):
    shape = draw(st.integers(1, 3).flatmap(shapes))
    dtype = draw(st.sampled_from(["float32", "float64", "int16", "uint8"]))
    elements = st.floats(-1e4, 1e4, width=32) if dtype.startswith("f") else st.integers(0, 200)
    return draw(arrays(dtype, shape, elements=elements))


@st.composite
def calls(draw, shape):
    """A step and arguments that suit an image of this shape."""
    name = draw(st.sampled_from(["crop", "pad", "resample", "window", "taper", "background"]))
    if name == "crop":
        box = []
        for n in shape:
            start = draw(st.integers(0, n - 1))
            box.append((start, draw(st.integers(start + 1, n))))
        return name, {"box": box, "margin": draw(st.integers(0, 2))}
    if name == "pad":
        pairs = st.tuples(st.integers(0, 4), st.integers(0, 4))
        return name, {
            "width": [draw(pairs) for _ in shape],
            "mode": draw(st.sampled_from(["zero", "reflect", "nearest", "mirror", "wrap"])),
        }
    if name == "resample":
        return name, {
            "shape": draw(shapes(len(shape))),
            "order": draw(st.integers(0, 3)),
            "antialias": draw(st.booleans()),
        }
    if name == "taper":
        return name, {"width": [draw(st.integers(0, n // 2)) for n in shape]}
    if name == "background":
        return name, {"method": draw(st.sampled_from(["mode", "sigma-clip", "percentile"]))}
    return name, {"level": draw(st.floats(-50, 50)), "width": draw(st.floats(1e3, 2e4))}


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=120, deadline=None, derandomize=True)
def test_any_chain_of_steps_is_undone(data):
    image = data.draw(images())
    steps, result = [], image
    for _ in range(data.draw(st.integers(1, 3))):
        name, options = data.draw(calls(result.shape))
        if name == "window":
            # A window must have values inside.
            hypothesis.assume(options["level"] - options["width"] / 2 < result.max())
            hypothesis.assume(options["level"] + options["width"] / 2 > result.min())
        result, step = getattr(pp, name)(result, **options)
        steps.append(step)
    chain = pp.Chain(steps)
    back = chain.undo(result)
    assert back.shape == image.shape
    scale = max(np.abs(image.astype(float)).max(), np.abs(result.astype(float)).max(), 1)
    assert np.abs(back.astype(float) - image).max() <= 1e-6 * scale * len(steps)


@hypothesis.given(images(), st.sampled_from(["min-max", "z-score", "percentile"]))
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_normalizing_is_undone(image, method):
    hypothesis.assume(np.ptp(image.astype(float)) > 1e-3 * max(1, np.abs(image.astype(float)).max()))
    try:
        result, step = pp.normalize(image, method)
    except ValueError as error:
        assert "expected values that differ" in str(error)  # nearly all values are the same
        assert method == "percentile"
        return
    back = step.undo(result)
    assert np.abs(back.astype(float) - image).max() <= 1e-6 * np.abs(image.astype(float)).max()


def test_scaled_values_have_lost_their_unit(volume):
    volume.metadata["intensity_unit"] = "HU"
    scaled, step = pp.normalize(volume)
    assert scaled.metadata == {"kept": 7} and volume.metadata["intensity_unit"] == "HU"
    assert step.undo(scaled.with_array(scaled.array)).metadata == volume.metadata
    limited, back = pp.window(volume, 200.0, 150.0)  # values inside are what they were
    assert limited.metadata == volume.metadata == back.undo(limited).metadata
    twice, chain = pp.apply(volume, [("crop", CALLS["crop"]), ("normalize", {}), ("normalize", {})])
    assert twice.metadata == {"kept": 7} and chain.undo(twice).metadata == volume.metadata
    np.testing.assert_array_equal(step.undo(scaled.array), step.undo(scaled).array)
    del volume.metadata["intensity_unit"]
    scaled, step = pp.normalize(volume)
    assert scaled.metadata == step.undo(scaled).metadata == {"kept": 7}


def test_scaled_values_are_not_shown_in_the_range_of_the_old_ones(volume):
    volume.metadata |= {"cal_min": -100.0, "cal_max": 3000.0}
    scaled, step = pp.normalize(volume)
    assert scaled.metadata == {"kept": 7} and step.undo(scaled).metadata == volume.metadata
    assert pp.background(volume, 0)[0].metadata == volume.metadata


def test_hounsfield_units_less_a_constant_are_none(volume):
    volume.metadata["intensity_unit"] = "HU"
    moved, step = pp.background(volume, -1024)
    assert moved.metadata == {"kept": 7} and step.undo(moved).metadata == volume.metadata
    assert pp.background(volume, 0)[0].metadata == volume.metadata
    volume.metadata["intensity_unit"] = "BQML"  # an activity above another one is one
    assert pp.background(volume, 5)[0].metadata == volume.metadata


def test_a_restored_part_is_pasted_into_the_original(volume):
    result, step = pp.crop(volume, [(2, 9), (5, 20), (1, 15)])
    restored = result.with_array(result.array * 2)
    back = step.undo(restored)
    inside = np.zeros(volume.shape, bool)
    inside[2:9, 5:20, 1:15] = True
    np.testing.assert_array_equal(back.array, np.where(inside, 2 * volume.array, volume.array))
    np.testing.assert_array_equal(
        step.undo(restored, put_back=False).array, np.where(inside, 2 * volume.array, 0)
    )


def test_pasting_takes_the_wider_dtype():
    counts = np.arange(60, dtype=np.uint16).reshape(6, 10)
    part, step = pp.crop(counts, [(1, 3), (2, 5)])
    assert step.undo(part).dtype == np.uint16
    assert step.undo(part.astype(np.float32) + 0.5).dtype == np.float32
    assert step.undo(part.astype(np.float64)).dtype == np.float64


def test_a_step_keeps_what_it_needs_though_the_image_changes():
    image = np.arange(40.0).reshape(5, 8)
    original = image.copy()
    undone = [
        (step, result)
        for result, step in (
            pp.crop(image, [(1, 3), (2, 5)]),
            pp.window(image, 20, 10),
            pp.taper(image, 2),
            pp.resample(image, shape=(3, 4)),
        )
    ]
    image[:] = -1
    for step, result in undone:
        np.testing.assert_allclose(step.undo(result), original, atol=1e-12)


def test_window_and_taper_can_leave_away_what_they_took(volume):
    result, step = pp.window(volume, 150, 120)
    np.testing.assert_array_equal(step.undo(result, put_back=False).array, np.clip(volume.array, 90, 210))
    changed = result.with_array(result.array + 1)
    outside = (volume.array < 90) | (volume.array > 210)
    np.testing.assert_array_equal(step.undo(changed).array, np.where(outside, volume.array, volume.array + 1))
    assert step.settings["outside"] == outside.sum()
    result, step = pp.taper(volume, (2, 5, 4))
    np.testing.assert_array_equal(step.undo(result, put_back=False).array, result.array)


def test_undo_refuses_what_it_did_not_make(volume):
    result, step = pp.crop(volume, [(2, 9), None, None])
    with pytest.raises(ValueError, match=r"image: got shape \(6, 24, 19\).*expected \(7, 24, 19\).*crop"):
        step.undo(result.array[:6])
    with pytest.raises(ValueError, match="is in um, expected mm"):
        step.undo(result.to_unit("um"))
    with pytest.raises(TypeError, match="put_back"):
        step.undo(result, put_back=1)
    with pytest.raises(TypeError, match=r"steps\[0\]"):
        pp.Chain(["crop"])


# ---------------------------------------------------------------- chains


def test_a_chain_undoes_in_reverse_and_masks_follow(volume):
    mask = np.zeros(volume.shape, bool)
    mask[3:8, 6:18, 4:14] = True
    operations = [
        ("crop", {"mask": True, "margin": 1}),
        ("resample", {"new_voxel_size": (1.5, 0.8, 1.1)}),
        ("pad", {"width": (2, 0, 1)}),
        ("normalize", {"method": "z-score", "mask": True}),
    ]
    result, chain = pp.apply(volume, operations, mask=mask)
    # The same by hand.
    part, first = pp.crop(volume, mask=mask, margin=1)
    fine, second = pp.resample(part, (1.5, 0.8, 1.1))
    framed, third = pp.pad(fine, (2, 0, 1))
    inside = np.pad(np.repeat(mask[2:9, 5:19, 3:15], 2, axis=0), ((2, 2), (0, 0), (1, 1)))
    np.testing.assert_array_equal(chain.carry(mask), inside)
    scaled, fourth = pp.normalize(framed, "z-score", mask=inside)
    np.testing.assert_array_equal(result.array, scaled.array)
    np.testing.assert_allclose(result.array[inside].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(result.array[inside].std(), 1, atol=1e-6)
    np.testing.assert_allclose(result.affine, scaled.affine)
    assert [s["name"] for s in chain.settings] == ["crop", "resample", "pad", "normalize"] and len(chain) == 4
    changed = result.with_array(result.array * 1.5)
    by_hand = first.undo(second.undo(third.undo(fourth.undo(changed))))
    np.testing.assert_array_equal(chain.undo(changed).array, by_hand.array)
    np.testing.assert_allclose(chain.undo(result).array, volume.array, atol=1e-6 * volume.array.max())


def test_a_width_in_an_array():
    for width in (np.array(2), np.array([2, 2, 2]), np.full((3, 2), 2)):
        assert np.array_equal(pp.pad(blobs(), width)[0], pp.pad(blobs(), 2)[0])


@pytest.mark.parametrize(
    "operations, error, text",
    [
        ([("crop", {}), ("sharpen", {})], ValueError, "name of entry 2: got 'sharpen'"),
        ([("crop", {"margin": -1})], ValueError, r"step 1 \(crop\): margin\[0\]: got -1"),
        ([("pad", {"width": 1}), ("pad", {})], TypeError, r"step 2 \(pad\)"),
        ([("normalize", {"mask": True})], ValueError, r"step 1 \(normalize\): mask: got True, but no mask"),
        (["crop"], TypeError, "entry 1 is 'crop', expected a pair"),
        (None, TypeError, "operations: got None, expected pairs"),
        (
            [("pad", {"width": [1, [3, (4, 5)], 2]})],
            TypeError,
            r"step 1 \(pad\): width\[1\]: cannot be read",
        ),
        ([("window", {"level": [[1, 2], [3]], "width": 1})], TypeError, r"step 1 \(window\): level: cannot"),
    ],
)
def test_chain_names_the_step_that_fails(operations, error, text):
    with pytest.raises(error, match=text):
        pp.apply(blobs(), operations)


def test_carry_labels(volume):
    labels = mf.io.Volume((blobs() > 150).astype(np.uint8) * 3, SIZE, oblique(), "mm")
    result, step = pp.resample(volume, (1, 1, 1))
    carried = step.carry(labels)
    assert carried.dtype == np.uint8 and set(np.unique(carried.array)) == {0, 3}
    np.testing.assert_allclose(carried.affine, result.affine)
    assert pp.normalize(volume)[1].carry(labels) is labels
    for made in (step, pp.crop(volume)[1], pp.pad(volume, 2)[1]):
        with pytest.raises(ValueError, match=r"labels: got shape \(2, 3, 4\)"):
            made.carry(np.ones((2, 3, 4), bool))


# ---------------------------------------------------------------- crop and pad


def test_crop_moves_the_origin(volume):
    result, _ = pp.crop(volume, [(2, 9), (5, 20), None])
    np.testing.assert_array_equal(result.array, volume.array[2:9, 5:20])
    np.testing.assert_allclose(world(result, (0, 0, 0)), world(volume, (2, 5, 0)))
    np.testing.assert_allclose(world(result, (3, 4, 5)), world(volume, (5, 9, 5)))
    assert result.voxel_size == SIZE


def test_crop_and_resample_agree_with_nibabels_geometry(volume):
    nib = pytest.importorskip("nibabel")
    processing = pytest.importorskip("nibabel.processing")
    image = nib.Nifti1Image(volume.array.T, volume.affine)
    result, _ = pp.crop(volume, [(2, 9), (5, 20), (1, 15)])
    sliced = image.slicer[1:15, 5:20, 2:9]
    np.testing.assert_allclose(result.affine, sliced.affine, atol=1e-9)
    np.testing.assert_array_equal(result.array.T, sliced.dataobj)
    fine, _ = pp.resample(volume, (1.5, 1.0, 0.9))
    theirs = processing.resample_from_to(image, (fine.shape[::-1], fine.affine), order=1, mode="nearest")
    np.testing.assert_allclose(fine.array, np.asarray(theirs.dataobj).T, rtol=1e-4)


def test_crop_to_content_and_mask():
    image = np.full((30, 40), 10.0) + np.random.default_rng(0).normal(0, 1, (30, 40))
    image[8:19, 12:31] += 50
    result, step = pp.crop(image)
    assert step.settings == {"box": ((8, 19), (12, 31))}
    np.testing.assert_array_equal(result, image[8:19, 12:31])
    assert pp.crop(image, threshold=40.0, margin=(2, 20))[1].settings["box"] == ((6, 21), (0, 40))
    mask = np.zeros((30, 40), np.int16)
    mask[3, 4] = mask[5, 30] = -2
    assert pp.crop(image, mask=mask)[1].settings["box"] == ((3, 6), (4, 31))
    # The same box again from the record.
    np.testing.assert_array_equal(pp.crop(image, **step.settings)[0], result)
    assert pp.crop(image[0], threshold=-1e9)[0].shape == (40,)


def test_box_and_mask_do_not_look_at_values():
    image = np.full((5, 6), np.nan)
    image[1:4, 2:5] = 7
    assert np.isfinite(pp.crop(image, [(1, 4), (2, 5)])[0]).all()
    assert np.isfinite(pp.crop(image, mask=np.isfinite(image))[0]).all()
    with pytest.raises(ValueError, match="not finite"):
        pp.crop(image)


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"box": [(0, 3)]}, ValueError, "box: got 1 entries, expected 2"),
        ({"box": 3}, TypeError, "box: got 3"),
        ({"box": [(0, 3, 4), None]}, ValueError, r"box\[0\]"),
        ({"box": [(3, 3), None]}, ValueError, r"box\[0\]\[1\]: got 3, expected an integer of at least 4"),
        ({"box": [(0, 31), None]}, ValueError, r"box\[0\]\[1\]: got 31.*at most 30"),
        ({"box": [(-1, 3), None]}, ValueError, r"box\[0\]\[0\]: got -1"),
        ({"box": [(0.5, 3), None]}, TypeError, r"box\[0\]\[0\]: got 0.5"),
        ({"box": [(0, 3), None], "threshold": 3}, TypeError, "threshold: got it together with box"),
        ({"mask": np.zeros((30, 40))}, ValueError, "mask: nothing is inside"),
        ({"mask": np.ones((30, 41))}, ValueError, r"mask: got shape \(30, 41\)"),
        ({"mask": np.full((30, 40), np.nan)}, ValueError, "mask: 1200 of 1200 values are not finite"),
        ({"threshold": 1e9}, ValueError, "threshold: no value is above 1e"),
        ({"threshold": "much"}, TypeError, "threshold"),
        ({"margin": 1.5}, TypeError, "margin"),
        ({"margin": (1, 2, 3)}, ValueError, "margin: got 3 entries"),
        ({"margin": ((1, 2), 3)}, TypeError, r"margin\[0\]"),
    ],
)
def test_crop_refuses(options, error, text):
    with pytest.raises(error, match=text):
        pp.crop(np.random.default_rng(0).uniform(0, 1, (30, 40)), **options)


def test_a_mask_of_another_grid_is_refused(volume):
    mask = np.ones(volume.shape, bool)
    same = mf.io.Volume(mask, SIZE, oblique(), "mm")
    assert pp.crop(volume, mask=same)[0].shape == volume.shape
    with pytest.raises(ValueError, match="mask: has voxels"):
        pp.crop(volume, mask=mf.io.Volume(mask, (3, 1, 1.1), None, "mm"))
    with pytest.raises(ValueError, match=r"mask: lies 2 mm away"):
        pp.crop(volume, mask=mf.io.Volume(mask, SIZE, oblique(origin=(-31, 14.5, 40)), "mm"))
    # Lengths in another unit are converted, not passed over.
    assert pp.crop(volume, mask=same.to_unit("um"))[0].shape == volume.shape
    with pytest.raises(ValueError, match="mask: has voxels"):
        pp.crop(volume, mask=mf.io.Volume(mask, SIZE, None, "um"))
    with pytest.raises(ValueError, match=r"mask: lies 2 mm away"):
        away = mf.io.Volume(mask, SIZE, oblique(origin=(-31, 14.5, 40)), "mm")
        pp.crop(volume, mask=away.to_unit("um"))
    turned = oblique()
    turned[:3, 0] *= -1  # the same first voxel, x the other way
    with pytest.raises(ValueError, match=r"mask: lies 39.6 mm away"):
        pp.crop(volume, mask=mf.io.Volume(mask, SIZE, turned, "mm"))
    plane = mf.io.Volume(volume.array[0], SIZE[1:], oblique(), "mm")
    with pytest.raises(ValueError, match=r"mask: lies 2 mm away"):
        pp.crop(plane, mask=mf.io.Volume(mask[0], SIZE[1:], oblique(origin=(-31, 14.5, 40)), "mm"))


@pytest.mark.parametrize("unit", ["mm", "um"])
def test_a_mask_in_no_unit_lies_somewhere_too(volume, unit):
    """NIfTI that nibabel makes of a mask names no unit; that of another place was taken for the image's."""
    mask = np.ones(volume.shape, bool)
    image = volume.to_unit(unit)

    def unnamed(size=SIZE, **where):
        return mf.io.Volume(mask, size, oblique(**where) if size == SIZE else None, None)

    assert pp.crop(image, mask=unnamed())[0].shape == image.shape
    assert pp.crop(unnamed(), mask=mf.io.Volume(mask, image.voxel_size, image.affine, unit))
    away = {"mm": "2 mm", "um": r"2e\+03 um"}[unit]
    with pytest.raises(ValueError, match=f"mask: lies {away} away"):
        pp.crop(image, mask=unnamed(origin=(-31, 14.5, 40)))
    with pytest.raises(ValueError, match=rf"mask: has voxels of \(3.0, 1.0, 1.1\), the image of .* {unit};"):
        pp.crop(image, mask=unnamed((3, 1, 1.1)))
    assert pp.crop(image, mask=mf.io.Volume(mask))  # says nothing of a place


@pytest.mark.parametrize("mode", ["zero", "reflect", "nearest", "mirror", "wrap"])
def test_pad_is_the_blurs_own_boundary(mode, dense_blur):
    """What H sees outside is what pad puts there: a blur of the padded image is that of the image."""
    rng = np.random.default_rng(5)
    image = rng.uniform(1, 2, (7, 9))
    psf = rng.uniform(0, 1, (3, 5))
    padded, step = pp.pad(image, (2, 3), mode)
    matrix, _, _ = dense_blur(psf, image.shape, mode)
    blurred = (matrix @ image.reshape(-1)).reshape(image.shape)
    matrix, _, _ = dense_blur(psf, padded.shape, "zero")
    wide = (matrix @ padded.reshape(-1)).reshape(padded.shape)
    np.testing.assert_allclose(step.undo(wide), blurred, rtol=1e-12)


def test_pad_moves_the_origin(volume):
    result, _ = pp.pad(volume, [(1, 2), 3, (0, 4)])
    assert result.shape == (14, 30, 23)
    np.testing.assert_allclose(world(result, (1, 3, 0)), world(volume, (0, 0, 0)))
    np.testing.assert_allclose(world(result, (5, 5, 5)), world(volume, (4, 2, 5)))


@pytest.mark.parametrize(
    "width, mode, error, text",
    [
        (-1, "zero", ValueError, r"width\[0\]: got -1"),
        (1.5, "zero", TypeError, "width"),
        ((1, 2), "zero", ValueError, "width: got 2 entries, expected 3"),
        ((1, 2, (1, 2, 3)), "zero", ValueError, r"width\[2\]"),
        (1, "symmetric", ValueError, "mode: got 'symmetric'"),
    ],
)
def test_pad_refuses(width, mode, error, text):
    with pytest.raises(error, match=text):
        pp.pad(blobs(), width, mode)


# ---------------------------------------------------------------- resample


def as_itk(volume):
    """A SimpleITK image at the same place: RAS to LPS."""
    sitk = pytest.importorskip("SimpleITK", reason="SKIPPED: SimpleITK is not installed (extra itk)")
    image = sitk.GetImageFromArray(volume.array)
    affine = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    size = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    image.SetSpacing(size.tolist())
    image.SetDirection((affine[:3, :3] / size).reshape(-1).tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


@pytest.mark.peers
@pytest.mark.parametrize("order, tolerance", [(0, 0), (1, 1e-5), (3, 1e-3)])
@pytest.mark.parametrize("new", [(1.0, 1.0, 1.0), (2.0, 1.5, 0.7), (4.0, 2.0, 3.0)])
def test_resample_agrees_with_simpleitk(volume, order, tolerance, new):
    """Oblique and anisotropic: interpolated by SimpleITK at the places that our affine says."""
    sitk = pytest.importorskip("SimpleITK", reason="SKIPPED: SimpleITK is not installed (extra itk)")
    ours, _ = pp.resample(volume, new, order=order, antialias=False)
    np.testing.assert_allclose(ours.voxel_size, new)
    kind = {0: sitk.sitkNearestNeighbor, 1: sitk.sitkLinear, 3: sitk.sitkBSpline3}[order]
    target = as_itk(ours)
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(as_itk(volume), target, sitk.Transform(), kind, float("nan"), sitk.sitkFloat64)
    )
    # Theirs has nothing beyond the outermost voxels' centres, and its spline another edge.
    edge = 4 if order == 3 else 0
    offset = [
        (n - 1) / 2 - d / s * (m - 1) / 2
        for n, m, d, s in zip(volume.shape, ours.shape, new, SIZE, strict=True)
    ]
    places = [o + d / s * np.arange(m) for o, m, d, s in zip(offset, ours.shape, new, SIZE, strict=True)]
    inside = np.ix_(*[(p >= edge) & (p <= n - 1 - edge) for p, n in zip(places, volume.shape, strict=True)])
    assert np.isfinite(theirs[inside]).all() and theirs[inside].size > 10
    if order == 0:  # halfway between two voxels either is nearest
        clear = np.ix_(
            *[
                (p >= 0) & (p <= n - 1) & (np.abs(p % 1 - 0.5) > 1e-4)
                for p, n in zip(places, volume.shape, strict=True)
            ]
        )
        np.testing.assert_array_equal(ours.array[clear], theirs[clear])
    else:
        difference = np.abs(ours.array[inside] - theirs[inside]).max()
        assert difference <= tolerance * np.ptp(volume.array)


def test_resample_keeps_the_field(volume):
    for options in ({"shape": (22, 13, 7)}, {"new_voxel_size": (1.5, 1.6, 0.55)}):
        result, step = pp.resample(volume, **options)
        middle = [(n - 1) / 2 for n in volume.shape]
        new_middle = [(n - 1) / 2 for n in result.shape]
        np.testing.assert_allclose(world(result, new_middle), world(volume, middle), atol=1e-9)
        lengths = np.sqrt((result.affine[:3, :3] ** 2).sum(axis=0))[::-1]
        np.testing.assert_allclose(lengths, result.voxel_size, rtol=1e-12)
        np.testing.assert_allclose(result.voxel_size, np.multiply(step.settings["scale"], SIZE), rtol=1e-12)
    field = np.multiply(volume.shape, SIZE)
    np.testing.assert_allclose(
        np.multiply(
            pp.resample(volume, shape=(22, 13, 7))[0].shape,
            pp.resample(volume, shape=(22, 13, 7))[0].voxel_size,
        ),
        field,
    )
    covered = np.multiply(result.shape, result.voxel_size)
    assert (covered >= field - 1e-6).all() and (covered < field + result.voxel_size).all()


def test_a_ramp_is_resampled_to_a_ramp(volume):
    """Values are those at the new voxels' places: a ramp in world coordinates stays one, blurred or not."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij")
    places = np.stack([x, y, z, np.ones_like(x)], axis=-1) @ volume.affine.T
    ramp = volume.with_array(places[..., :3] @ [0.3, -1.2, 0.7])
    for new in ((1.0, 1.0, 1.0), (5.0, 2.0, 2.0)):
        result, _ = pp.resample(ramp, new)
        index = np.stack(np.meshgrid(*(np.arange(n) for n in result.shape), indexing="ij"))[::-1]
        at = np.concatenate([index, np.ones((1, *result.shape))])
        expected = np.einsum("ij,j...->i...", result.affine, at)[:3]
        expected = np.einsum("i...,i->...", expected, [0.3, -1.2, 0.7])
        cut = tuple(slice(n // 4, n - n // 4) for n in result.shape)  # away from the constant outside
        if new[0] == 1.0:
            cut = tuple(slice(2, n - 2) for n in result.shape)
        np.testing.assert_allclose(result.array[cut], expected[cut], atol=0.03)


def test_antialiasing_removes_what_the_grid_cannot_hold():
    stripes = np.tile([0.0, 1.0], 60)  # the finest there is: any coarser grid must see grey
    aliased, _ = pp.resample(stripes, shape=33, antialias=False)
    smooth, step = pp.resample(stripes, shape=33)
    assert aliased.std() > 0.1 and smooth[2:-2].std() < 0.001  # the edge's value goes on outside
    np.testing.assert_allclose(smooth.mean(), 0.5, atol=1e-3)
    np.testing.assert_allclose(step.undo(smooth), stripes, atol=1e-12)
    assert step.undo(smooth, put_back=False)[8:-8].std() < 0.001


def test_linear_interpolation_makes_no_new_extremes_and_nearest_no_new_values(volume):
    noise = np.random.default_rng(2).integers(0, 5, (9, 8, 7), dtype=np.int32)
    linear, _ = pp.resample(noise, shape=(14, 5, 20))
    assert linear.dtype == np.float64 and linear.min() >= 0 and linear.max() <= 4
    labels, step = pp.resample(noise, shape=(14, 5, 20), order=0)
    assert labels.dtype == np.int32 and set(np.unique(labels)) <= set(range(5))
    np.testing.assert_array_equal(step.undo(labels), noise)
    inside, _ = pp.resample(noise > 2, shape=(14, 5, 20), order=0)
    assert inside.dtype == np.bool_


def test_nearest_needs_no_scipy(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    assert pp.resample(np.arange(6), shape=3, order=0)[0].shape == (3,)
    with pytest.raises(ImportError, match=r"medeconv-fast\[preprocess\]"):
        pp.resample(np.arange(6), shape=3)


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({}, ValueError, "new_voxel_size, shape: got None and None"),
        ({"new_voxel_size": 1, "shape": (3, 3, 3)}, ValueError, "expected one of the two"),
        ({"new_voxel_size": 1}, ValueError, "voxel_size: got None with an array"),
        ({"shape": (3, 3)}, ValueError, r"shape: got \(3, 3\), expected 3"),
        ({"shape": (3, 3, 0)}, ValueError, "shape"),
        ({"shape": (3, 3, 3), "voxel_size": 2}, ValueError, "voxel_size: has no use"),
        ({"new_voxel_size": (1, 1), "voxel_size": 1}, ValueError, "new_voxel_size: got 2 values"),
        ({"new_voxel_size": 0, "voxel_size": 1}, ValueError, "new_voxel_size"),
        ({"new_voxel_size": 1e-9, "voxel_size": 1}, ValueError, "the new grid would have"),
        ({"shape": (3, 3, 3), "order": 6}, ValueError, "order: got 6"),
        ({"shape": (3, 3, 3), "antialias": "yes"}, TypeError, "antialias"),
    ],
)
def test_resample_refuses(options, error, text):
    with pytest.raises(error, match=text):
        pp.resample(blobs(), **options)


def test_resample_holds_on_to_the_volumes_voxel_size(volume):
    assert pp.resample(volume, 1, voxel_size=SIZE)[0].voxel_size == pytest.approx((1, 1, 1))
    with pytest.raises(ValueError, match="but the volume's is"):
        pp.resample(volume, 1, voxel_size=2)
    with pytest.raises(ValueError, match="a volume without a voxel size"):
        pp.resample(mf.io.Volume(blobs()), 1)


def test_a_made_up_affine_is_dropped_not_moved(tmp_path):
    """A NIfTI file without orientation has a made-up affine; cropping must not turn it into a real one."""
    nib = pytest.importorskip("nibabel")
    nib.save(nib.Nifti1Image(np.ones((6, 7, 8), np.float32), None), tmp_path / "none.nii")
    volume = mf.io.read(tmp_path / "none.nii")
    result, step = pp.crop(volume, [(1, 4), None, None])
    assert not result.oriented
    assert not step.undo(result).oriented
    np.testing.assert_array_equal(step.undo(result).affine, volume.affine)


# ---------------------------------------------------------------- values


def test_normalize_is_what_it_says(rng):
    image = rng.normal(100, 20, (20, 30)).astype(np.float32)
    small, step = pp.normalize(image)
    assert (small.min(), small.max()) == (0, 1)
    np.testing.assert_allclose(small, (image - image.min()) / np.ptp(image), rtol=1e-5, atol=1e-7)
    scores, _ = pp.normalize(image, "z-score")
    assert abs(scores.mean()) < 1e-5 and scores.std() == pytest.approx(1, rel=1e-5)
    between, step = pp.normalize(image, "percentile", percentiles=(10, 80))
    np.testing.assert_allclose(np.percentile(between, [10, 80]), [0, 1], atol=1e-5)
    assert between.min() < 0 and between.max() > 1  # nothing is cut off
    low, high = np.percentile(image, [10, 80])
    assert (step.settings["offset"], step.settings["scale"]) == pytest.approx((low, high - low), rel=1e-5)


@pytest.mark.parametrize("method", ["min-max", "z-score", "percentile"])
@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_normalize_values_in_any_unit(method, unit):
    image = blobs().astype(np.float64)
    expected, _ = pp.normalize(image, method)
    got, step = pp.normalize(image * unit, method)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(step.undo(got), image * unit, rtol=0, atol=1e-12 * unit * image.max())


@pytest.mark.parametrize("method", ["min-max", "z-score", "percentile"])
def test_normalize_looks_only_inside_the_mask(rng, method):
    image = rng.normal(100, 20, (8, 20, 30))
    mask = np.zeros(image.shape, bool)
    mask[2:6, 4:15, 3:20] = True
    expected, _ = pp.normalize(image[mask], method)
    image[~mask] += 1000
    result, _ = pp.normalize(image, method, mask=mask)
    np.testing.assert_allclose(result[mask], expected, rtol=1e-12, atol=1e-12)
    if method == "percentile":  # of twice as many values, which lie a little elsewhere
        return
    movie = mf.io.Volume(np.stack([image, image]), None, None, None, "tzyx")
    np.testing.assert_allclose(
        pp.normalize(movie, method, mask=mask)[0].array[1], result, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"method": "minmax"}, ValueError, "method: got 'minmax'"),
        ({"percentiles": 5, "method": "percentile"}, ValueError, "percentiles"),
        ({"percentiles": (80, 10), "method": "percentile"}, ValueError, "ascending"),
        ({"percentiles": (10, 101), "method": "percentile"}, ValueError, "ascending"),
        ({"mask": np.zeros((4, 5))}, ValueError, "mask: nothing is inside"),
    ],
)
def test_normalize_refuses(options, error, text):
    with pytest.raises(error, match=text):
        pp.normalize(np.arange(20.0).reshape(4, 5), **options)


@pytest.mark.parametrize("method", ["min-max", "z-score", "percentile"])
def test_a_flat_image_has_no_scale(method):
    with pytest.raises(ValueError, match="expected values that differ"):
        pp.normalize(np.full((4, 5), 3.0), method)
    mask = np.zeros((4, 5), bool)
    mask[1, 1:3] = True
    image = np.arange(20.0).reshape(4, 5)
    image[1, 1:3] = 3
    with pytest.raises(ValueError, match="inside the mask"):
        pp.normalize(image, method, mask=mask)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("name", ["normalize", "taper", "background", "resample"])
def test_the_scale_of_values_does_not_matter(rng, name, scale):
    options = {"taper": {"width": 3}, "resample": {"shape": (7, 19)}}.get(name, {})
    image = rng.uniform(1, 2, (10, 12)).astype(np.float32)
    plain, _ = getattr(pp, name)(image, **options)
    result, step = getattr(pp, name)(image * np.float32(scale), **options)
    factor = 1 if name == "normalize" else scale
    np.testing.assert_allclose(result, plain * np.float32(factor), rtol=1e-4, atol=2e-6 * factor)
    np.testing.assert_allclose(step.undo(result), image * np.float32(scale), rtol=1e-5)


def test_window_is_ct_level_and_width():
    hu = np.array([-1000, -161, -160, 0, 40, 239.5, 240, 1500])
    result, _ = pp.window(hu, 40, 400)
    np.testing.assert_array_equal(result, [-160, -160, -160, 0, 40, 239.5, 240, 240])
    with pytest.raises(ValueError, match="width: got 0"):
        pp.window(hu, 40, 0)
    with pytest.raises(ValueError, match=r"the window 2000 to 2100 has none"):
        pp.window(hu, 2050, 100)


def test_taper_is_a_raised_cosine(rng):
    image = rng.uniform(0, 1, (12, 9))
    result, step = pp.taper(image, (4, 0), level=0)
    weight = np.ones(12)
    weight[:4] = np.sin(np.pi * (np.arange(4) + 0.5) / 8) ** 2
    weight[-4:] = weight[3::-1]
    np.testing.assert_allclose(result, image * weight[:, None], rtol=1e-12)
    result, step = pp.taper(image, (4, 0))
    assert step.settings["level"] == pytest.approx(image[[0, -1]].mean())
    result, step = pp.taper(image, 3)
    rim = np.ones(image.shape, bool)
    rim[1:-1, 1:-1] = False
    assert step.settings["level"] == pytest.approx(image[rim].mean())
    np.testing.assert_allclose(pp.taper(np.full((9, 9), 5.0), 4)[0], 5, rtol=1e-12)


def test_taper_lets_opposite_edges_meet(rng):
    ramp = np.linspace(0, 100, 64)
    result, _ = pp.taper(ramp, 16)
    assert abs(result[0] - result[-1]) < 0.01 * abs(ramp[0] - ramp[-1])
    with pytest.raises(ValueError, match=r"width\[0\]: got 33.*at most 32"):
        pp.taper(ramp, 33)
    with pytest.raises(ValueError, match="level"):
        pp.taper(ramp, 3, level=np.nan)


@pytest.mark.parametrize("method", ["mode", "sigma-clip"])
def test_background_is_found_below_sparse_content(rng, method):
    image = rng.normal(100, 5, (20, 64, 64))
    z, y, x = (rng.integers(4, n - 4, 40) for n in image.shape)
    for k in range(40):
        image[z[k] - 2 : z[k] + 3, y[k] - 3 : y[k] + 3, x[k] - 3 : x[k] + 3] += rng.uniform(50, 2000)
    level, noise = pp.estimate_background(image, method)
    assert level == pytest.approx(100, abs=1)
    assert noise == pytest.approx(5, rel=0.1)
    result, step = pp.background(image, method=method)
    assert step.settings["level"] == pytest.approx(level)
    np.testing.assert_allclose(result, image - level)
    assert pp.background(image, 42.0)[1].settings == {"level": 42.0, "method": "given"}


def test_the_mode_is_found_where_content_fills_more_than_half(rng):
    image = np.concatenate([rng.normal(100, 3, 4000), rng.uniform(150, 4000, 6000)]).reshape(100, 100)
    level, noise = pp.estimate_background(image)
    assert level == pytest.approx(100, abs=1.5) and noise == pytest.approx(3, rel=0.35)
    low = pp.estimate_background(image, "percentile", percentile=20)
    assert low.level == pytest.approx(np.percentile(image, 20))


def test_the_mode_is_the_densest_level_not_the_widest_peak(rng):
    """Tissue fills more voxels, over a wide range; the dark around it is the most frequent level."""
    image = np.concatenate([rng.normal(20, 2, 4000), rng.normal(470, 70, 6000)]).reshape(100, 100)
    level, noise = pp.estimate_background(image)
    assert level == pytest.approx(20, abs=1) and noise == pytest.approx(2, rel=0.35)


def test_background_of_a_zero_frame_and_of_a_mask(rng):
    image = np.zeros((40, 40), np.uint16)
    image[10:30, 10:30] = rng.integers(200, 300, (20, 20))
    assert pp.estimate_background(image) == (0, 0)
    mask = image > 0
    level, _ = pp.estimate_background(image, "percentile", percentile=50, mask=mask)
    assert level == pytest.approx(np.median(image[mask]))
    assert pp.estimate_background(np.array([3.0])) == (3, 0)
    assert pp.estimate_background(np.array([3.0, 5.0]), "sigma-clip").level == 4


def test_large_images_are_sampled_alike(rng):
    image = rng.normal(50, 4, (130, 100, 100)).astype(np.float32)
    assert image.size > 1 << 20
    found = pp.estimate_background(image)
    assert found == pp.estimate_background(image.copy())
    assert found.level == pytest.approx(50, abs=0.5) and found.noise == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"method": "median"}, ValueError, "method: got 'median'"),
        ({"percentile": 101}, ValueError, "percentile: got 101"),
        ({"level": np.inf}, ValueError, "level"),
        ({"level": "low"}, TypeError, "level"),
    ],
)
def test_background_refuses(options, error, text):
    with pytest.raises(error, match=text):
        pp.background(np.arange(20.0), **options)


# ---------------------------------------------------------------- kinds of input


@pytest.mark.parametrize("name", ["normalize", "window", "taper", "background", "resample"])
def test_values_that_are_not_finite_are_refused(name):
    image = np.ones((4, 5))
    image[1, 2] = np.nan
    options = {"window": (0, 1), "taper": (2,)}.get(name, ())
    keywords = {"shape": (3, 3)} if name == "resample" else {}
    with pytest.raises(ValueError, match=r"image: 1 of 20 values are not finite"):
        getattr(pp, name)(image, *options, **keywords)


def test_what_is_no_image_is_refused():
    for image in ("scan.nii", np.ones((2, 2, 2, 2)), np.ones((0, 3)), 1j * np.ones((3, 3))):
        with pytest.raises((TypeError, ValueError), match="image"):
            pp.normalize(image)


def test_torch_comes_back_as_torch():
    torch = pytest.importorskip("torch", reason="SKIPPED: torch is not installed")
    image = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    for result, step in (
        pp.crop(image, [(1, 4), None]),
        pp.normalize(image),
        pp.resample(image, shape=(3, 20)),
    ):
        assert isinstance(result, torch.Tensor)
        assert torch.allclose(step.undo(result), image, atol=1e-4)


def test_restoring_a_crop_leaves_the_rest(rng):
    """The whole way: crop with room for the PSF, restore, put back."""
    psf = mf.psf.gaussian((2.5, 2.5), (1, 1))
    image = np.full((40, 44), 20.0)
    image[15:24, 18:30] += 300
    blurred = mf.simulate(image, psf, noise="poisson", seed=1)
    part, step = pp.crop(blurred, margin=6)
    back = step.undo(mf.richardson_lucy(part, psf, 10))
    (a, b), (c, d) = step.settings["box"]
    outside = np.ones(image.shape, bool)
    outside[a:b, c:d] = False
    assert outside.any()
    np.testing.assert_array_equal(back[outside], blurred[outside])
    assert mf.metrics.psnr(image, back) > mf.metrics.psnr(image, blurred) + 1


@pytest.mark.parametrize("read", [False, True])
def test_an_origin_moves_with_its_grid(read, tmp_path, rng):
    pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
    image = mf.io.Volume(
        rng.random((6, 8, 9)).astype(np.float32),
        (0.5, 0.2, 0.1),
        unit="um",
        metadata={"origin": (1.0, 2.0, 3.0)},
    )
    if read:
        mf.io.write(tmp_path / "a.ome.zarr", image)
        image = mf.io.read(tmp_path / "a.ome.zarr").to_unit("um")
        assert image.metadata["origin"] == pytest.approx((1, 2, 3))
    cropped, step = mf.preprocess.crop(image, [(2, 6), (3, 8), (0, 9)])
    padded, _ = mf.preprocess.pad(cropped, [(2, 0), (3, 0), (0, 0)])
    resampled, _ = mf.preprocess.resample(image, (1.0, 0.2, 0.1))
    for made, origin in ((cropped, (2, 2.6, 3)), (padded, (1, 2, 3)), (resampled, (1.25, 2, 3))):
        assert made.metadata["origin"] == pytest.approx(origin)
        mf.io.write(tmp_path / "b.ome.zarr", made, overwrite=True)
        assert mf.io.read(tmp_path / "b.ome.zarr").to_unit("um").metadata["origin"] == pytest.approx(origin)
    assert step.carry(image).metadata["origin"] == pytest.approx((2, 2.6, 3))
    assert step.undo(cropped).metadata["origin"] == pytest.approx((1, 2, 3))
    if read:  # sliced by hand, it lies elsewhere
        sliced = dataclasses.replace(image, array=image.array[2:])
        mf.io.write(tmp_path / "b.ome.zarr", sliced, overwrite=True)
        assert not any(mf.io.read(tmp_path / "b.ome.zarr").metadata.get("origin", ()))
        assert "origin" not in mf.preprocess.crop(sliced, [(0, 2), None, None])[0].metadata
    millimetres = image.to_unit("mm")
    assert millimetres.metadata["origin"] == pytest.approx((0.001, 0.002, 0.003))
    mf.io.write(tmp_path / "c.ome.zarr", millimetres)
    assert mf.io.read(tmp_path / "c.ome.zarr").to_unit("um").metadata["origin"] == pytest.approx((1, 2, 3))
