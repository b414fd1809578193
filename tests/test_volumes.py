"""restore_volume: it gives what the whole run gives, whatever the tiles, the workers and the crashes."""

import itertools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import cli
from medeconv_fast._grid import Grid, exact_halo
from medeconv_fast.algorithms._tile import Numbers, Restorer, halo_of_filter, read_region
from medeconv_fast.volumes import TileError, plan_volume
from medeconv_fast.volumes._job import Job
from medeconv_fast.volumes._manifest import Manifest
from medeconv_fast.volumes._numbers import resolve
from medeconv_fast.volumes._sample import Sample, block_shape, draw

pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")
SMALL = {"chunks": (8, 8, 8), "shards": (16, 16, 16)}


def counts(shape, seed=0, psf=None):
    """Points and boxes, blurred, with photon noise."""
    rng = np.random.default_rng(seed)
    truth = np.full(shape, 3.0)
    for _ in range(max(6, int(np.prod(shape)) // 800)):
        truth[tuple(rng.integers(n) for n in shape)] += rng.uniform(100, 900)
    truth[tuple(slice(n // 3, n // 2 + 1) for n in shape)] += 30
    if psf is not None:
        truth = mf.convolve(truth, psf / psf.sum(), mode="same", boundary="reflect")
    return rng.poisson(np.maximum(truth, 0))


@pytest.fixture
def psf():
    return mf.psf.gaussian((2.5, 2, 2), (1, 1, 1))


@pytest.fixture
def image(psf):
    return counts((34, 40, 29), psf=psf).astype(np.uint16)


def result(path):
    return mf.io.open_source(path).read(0)


class Memory:
    """A source and a store in memory: the whole of what tiles need of either."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, (4,) * array.ndim
        self.items = ((0, 0),)

    def read(self, item, region):
        return np.ascontiguousarray(self.array[tuple(region)])


def in_tiles(image, psf, core, halo, method="rl", **options):
    """All tiles of a grid, with the numbers of the whole image."""
    data = image if image.dtype == np.float64 else image.astype(np.float32)
    sample = Sample([data], [(0, tuple(slice(0, n) for n in image.shape))], True)
    numbers = resolve(sample, psf, method, options, None)
    grid = Grid(image.shape, core, halo, options.get("boundary") == "wrap")
    restorer = Restorer(numbers, psf, periodic=grid.periodic)
    out = np.full(image.shape, np.nan)
    for tile in grid:
        out[tile.core] = restorer(read_region(Memory(image), 0, tile.region), tile).core
    assert len(grid) > 1
    return out


# Tiles


# All boundaries on two axes; on others those whose layouts differ most.
CASES = [((61, 50), (20, 25), b) for b in BOUNDARIES]
CASES += [
    ((200,), (60,), "reflect"),
    ((30, 34, 21), (12, 34, 7), "extended"),
    ((30, 34, 21), (12, 34, 7), "zero"),
]


@pytest.mark.parametrize("shape, core, boundary", CASES)
def test_exact_halo_gives_the_whole_result(backend, shape, core, boundary):
    if backend == "numba" and len(shape) != 2:
        pytest.skip("compiling what only these need takes longer than all other tests together")
    psf = np.random.default_rng(3).random((5, 5, 4)[-len(shape) :])  # radius 2, even and odd
    image = counts(shape).astype(np.float64)
    for options in (
        {},
        {"acceleration": "biggs-andrews"},
        {"acceleration": "heavy-ball", "background": 2.0, "initial": "image"},
        {"regularizer": ("tv", 0.01), "negative": "shift"},
        {"damping": 1.5, "readout_variance": 1.0},
    ):
        if boundary == "wrap" and "regularizer" in options:
            continue  # a regularizer's gradients end at the border of a whole run
        halo = exact_halo(psf.shape, 5, penalty="regularizer" in options)
        noisy = image - 1.0 if "negative" in options else image
        options = {"num_iter": 5, "boundary": boundary, "backend": backend, **options}
        whole = mf.richardson_lucy(noisy, psf, **options)
        tiled = in_tiles(noisy, psf, core, halo, **options)
        assert np.abs(tiled - whole).max() < 1e-6 * np.ptp(whole), options


def test_back_projectors_in_tiles(psf):
    image = counts((40, 44, 36), psf=psf).astype(np.float64)
    options = {"num_iter": 2, "back_projector": "wiener-butterworth"}
    whole = mf.richardson_lucy(image, psf, **options)
    tiled = in_tiles(image, psf, (20, 22, 36), exact_halo(psf.shape, 2), **options)
    assert np.abs(tiled - whole).max() < 1e-6 * np.ptp(whole)


@pytest.mark.parametrize(
    "options",
    [{}, {"acceleration": "biggs-andrews"}, {"regularizer": ("tv", 0.002)}],
    ids=["plain", "accelerated", "regularised"],
)
def test_seams_stay_below_the_bound(tmp_path, options):
    psf = mf.psf.gaussian((4, 3, 3), (1, 1, 1))
    image = counts((72, 96, 80), psf=psf).astype(np.uint16)
    options = {"method": "rl", "num_iter": 20, **options}
    done = mf.restore_volume(
        image, tmp_path / "out.zarr", psf, tile=(36, 48, 80), chunks=(12, 16, 16), shards=None, **options
    )
    assert done.tiles == 4
    whole = mf.richardson_lucy(image, psf, **{k: v for k, v in options.items() if k != "method"})
    error = np.abs(result(tmp_path / "out.zarr") - whole).max() / np.ptp(whole)
    assert 0 < error < 1e-3
    assert 0 < done.seam["largest"] < 1e-3


@pytest.mark.parametrize(
    "method, options",
    [
        ("rl", {"num_iter": 10, "regularizer": ("tv", 0.01)}),
        ("rl", {"num_iter": 10, "regularizer": ("tikhonov", 0.01), "acceleration": "biggs-andrews"}),
        ("wiener", {"balance": 0.02}),
        ("tikhonov", {"weight": 0.01, "regularizer": 1}),
        ("tikhonov", {"weight": 0.01, "regularizer": 0}),
    ],
)
@pytest.mark.parametrize("depth", [0, 0.3])
def test_a_regularizer_is_cut_where_the_psf_has_hardly_any_extent(tmp_path, method, options, depth):
    psf = mf.psf.gaussian((depth, 2, 2), (1, 1, 1))
    image = counts((64, 20, 22), psf=psf).astype(np.uint16)
    done = mf.restore_volume(
        image, tmp_path / "out.zarr", psf, method=method, tile=(32, 20, 22), chunks=(16, 20, 22), **options
    )
    whole = {"rl": mf.richardson_lucy, "wiener": mf.wiener, "tikhonov": mf.tikhonov}[method](
        image, psf, **options
    )
    assert done.plan.counts == [2, 1, 1] and (done.plan.halo[0] > 0 or options["regularizer"] == 0 == depth)
    # Along an axis without blur the two ends of a whole filtered volume meet.
    inner = slice(14, -14) if method != "rl" else slice(None)
    error = np.abs(result(tmp_path / "out.zarr") - whole)[inner].max() / np.ptp(whole)
    assert error < 1e-4
    assert done.seam["largest"] < 1e-4


@pytest.mark.parametrize(
    "method, options", [("rl", {"num_iter": 5}), ("wiener", {"balance": 0.1}), ("tikhonov", {"weight": 0.1})]
)
def test_seams_of_a_periodic_volume(tmp_path, method, options):
    """The part that they are estimated on is shorter than the PSF, and its ends are not alike."""
    psf = mf.psf.gaussian((3, 3), (1, 1), (15, 15))
    image = counts((120, 40), psf=psf).astype(np.uint16)
    image += np.arange(0, 1200, 10, dtype=np.uint16)[:, None]
    done = mf.restore_volume(
        image, tmp_path / "out.zarr", psf, method=method, boundary="wrap", **options,
        halo=3, tile=(60, 40), chunks=(20, 20), shards=None,
    )  # fmt: skip
    function = {"rl": mf.richardson_lucy, "wiener": mf.wiener, "tikhonov": mf.tikhonov}[method]
    whole = function(image, psf, boundary="wrap", **options)
    error = np.abs(result(tmp_path / "out.zarr") - whole).max() / np.ptp(whole)
    assert done.plan.periodic and done.tiles == 2
    assert error < done.seam["largest"] < 5 * error  # whose range is a part's


def test_a_seam_without_a_halo_is_seen(tmp_path):
    psf = mf.psf.gaussian((0, 2, 2), (1, 1, 1))
    image = counts((32, 20, 22), psf=psf).astype(np.uint16)
    tiles = {"tile": (16, 20, 22), "chunks": (16, 20, 22), "halo": 0}
    options = {"method": "rl", "num_iter": 5, "regularizer": ("tikhonov", 0.01)}
    assert mf.restore_volume(image, tmp_path / "out.zarr", psf, **tiles, **options).seam["largest"] > 0.01


def test_no_halo_along_an_axis_of_one_voxel(psf):
    image = counts((1, 40, 30)).astype(np.uint16)
    options = {"method": "rl", "num_iter": 5, "regularizer": ("tv", 0.01)}
    assert plan_volume(image, psf, **options).halo[0] == 0
    assert plan_volume(image, psf, method="wiener", balance=0.1).halo[0] == 0


def test_a_filters_halo_is_as_far_as_its_response_reaches():
    """Farther than a grid of a few PSFs shows."""
    image, psf = np.random.default_rng(0).random((1, 1500)) * 100, np.ones((1, 3))
    numbers = Numbers("tikhonov", {"weight": 1e-3})
    halo = halo_of_filter(numbers, psf, "auto", image.shape)
    assert 128 < halo[1] < 512 and not numbers.warnings
    tiled = in_tiles(image, psf, (1, 750), halo, "tikhonov", weight=1e-3)
    whole = mf.tikhonov(image, psf, 1e-3)
    assert np.abs(tiled - whole)[:, 600:900].max() < 1e-3 * np.ptp(whole)


def test_a_response_beyond_the_largest_grid_is_noted(monkeypatch):
    from medeconv_fast.algorithms import _tile

    monkeypatch.setattr(_tile, "LARGEST_RESPONSE", 1 << 8)
    for psf, weight in ((np.ones((1, 3)), 1e-4), (np.random.default_rng(0).random((17, 17)), 1e-2)):
        numbers = Numbers("tikhonov", {"weight": weight})
        halo_of_filter(numbers, psf, "auto", (900, 900))
        assert numbers.warnings[0].startswith("halo: the response of tikhonov along")


@pytest.mark.shared
def test_seams_on_pollen(shared_data):
    tifffile = pytest.importorskip("tifffile", reason="SKIPPED: tifffile is not installed (extra io)")
    from medeconv_fast._grid import halo_of, trimmed

    folder = shared_data / "micro_pollen_sdeconv"
    image = tifffile.imread(folder / "pollen_poisson_noise_blurred.tif")[:, 64:192, 40:216]
    psf = trimmed(tifffile.imread(folder / "pollen_psf.tif").astype(np.float64))
    for options in ({}, {"acceleration": "biggs-andrews"}, {"regularizer": ("tv", 0.002)}):
        options = {"num_iter": 20, "negative": "clip", **options}
        whole = mf.richardson_lucy(image, psf, **options)
        halo = halo_of(psf, 20, "auto", accelerated="acceleration" in options)
        tiled = in_tiles(image, psf, (32, 64, 176), halo, **options)
        error = np.abs(tiled - whole).max() / np.ptp(whole)
        assert 0 < error < 1e-3, options


@pytest.mark.parametrize("method", ["wiener", "tikhonov"])
def test_filters_in_tiles(tmp_path, psf, method):
    image = counts((60, 70, 20), psf=psf).astype(np.int16) - 5
    done = mf.restore_volume(
        image, tmp_path / "out.zarr", psf, method=method, tile=(30, 70, 20), chunks=(10, 10, 10), shards=None
    )
    whole, info = getattr(mf, method)(image, psf, return_info=True)
    name = {"wiener": "balance", "tikhonov": "weight"}[method]
    assert done.numbers[0]["options"][name] == info.settings[name]
    assert done.plan.counts == [2, 1, 1] and 0 < done.plan.halo[0] < 45
    # At the volume's own border the padding of a whole run has another length.
    inner = (slice(12, -12), slice(12, -12))
    error = np.abs(result(tmp_path / "out.zarr") - whole)[inner].max() / np.ptp(whole)
    assert 0 < error < 1e-3
    assert done.seam["largest"] < 1e-3


def test_a_tile_of_the_lowest_value_alone_is_shifted_back(tmp_path, psf):
    """Air in a CT: what the shift makes zero stays zero, and is air again in the end."""
    image = counts((48, 32, 32), psf=psf).astype(np.int16)
    image[:28] = -1000
    options = {"method": "rl", "num_iter": 3, "negative": "shift"}
    mf.restore_volume(
        image, tmp_path / "out.zarr", psf, tile=(16, 32, 32), chunks=(8, 8, 8), shards=None, **options
    )
    whole = mf.richardson_lucy(image, psf, 3, negative="shift")
    assert whole[0].max() < -999
    assert np.abs(result(tmp_path / "out.zarr") - whole).max() < 1e-3 * np.ptp(whole)


def test_trials_of_a_signed_scale_are_shifted_as_the_volume_is(psf):
    """No value above the background before the shift, and none of a first estimate above zero."""
    image = (counts((12, 20, 22), psf=psf) - 5000).astype(np.float32)
    places = [(0, tuple(slice(0, n) for n in image.shape))]
    initial = np.full(image.shape, -4000, np.float32)
    options = {"stop": "relative-change", "num_iter": 20, "negative": "shift"}
    for maps in ([], [{"initial": initial}]):
        for more in ({}, {"acceleration": "biggs-andrews"}):
            numbers = resolve(Sample([image], places, True, maps), psf, "rl", {**options, **more}, None)
            whole = {**options, **more, **(maps[0] if maps else {})}
            _, info = mf.richardson_lucy(image, psf, return_info=True, **whole)
            assert numbers.options["num_iter"] == info.num_iter > 1
            if more:
                assert numbers.alphas == pytest.approx([e.get("alpha", 0.0) for e in info.trace])
    # Blocks of a sample share the volume's smallest value, whatever their own.
    parts = [image[:6], image[6:] + 3000]
    sample = Sample(parts, [(0, (slice(a, a + 6), *places[0][1][1:])) for a in (0, 6)], False)
    found = resolve(sample, psf, "rl", {**options, "background": 10.0}, None)
    shifted = Sample([p - image.min() for p in parts], sample.places, False)
    expected = resolve(shifted, psf, "rl", {**options, "background": 10.0}, None)
    assert found.options["num_iter"] == expected.options["num_iter"]


def test_tiles_of_a_kind_follow_each_other():
    source = Memory(np.zeros((40, 50)))
    source.items = ((0, 0), (0, 1), (1, 0), (1, 1))
    job = Job(source, None, Grid((40, 50), (10, 20), (3, 3)), {})
    order = job.in_order(range(2, len(job)))
    assert sorted(order) == list(range(2, len(job)))
    places = [job.place(number) for number in order]
    kinds = [(source.items[item][1], tile.shape) for item, tile in places]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    assert changes == len(set(kinds)) - 1 == 2 * 2 * 3 - 1


def test_periodic_regions():
    array = np.arange(5 * 7).reshape(5, 7)
    region = (slice(-3, 12), slice(2, 9))
    wide = np.pad(array, ((3, 7), (0, 2)), mode="wrap")[:, 2:]
    assert np.array_equal(read_region(Memory(array), 0, region), wide)


# Numbers


def test_auto_chooses_what_restore_chooses(tmp_path, psf, image):
    done = mf.restore_volume(image, tmp_path / "out.zarr", psf, tile=(16, 16, 32), **SMALL)
    _, info = mf.restore(image, psf, return_info=True)
    numbers = done.numbers[0]
    assert numbers["options"]["num_iter"] == info.settings["num_iter"] == info.num_iter
    assert numbers["noise"] == info.settings["noise"]
    assert tuple(numbers["options"]["regularizer"]) == info.settings["regularizer"]
    assert numbers["alphas"] == pytest.approx([e.get("alpha", 0.0) for e in info.trace])
    assert numbers["sample"]["whole"]
    signed = mf.restore_volume(
        image.astype(np.int32) - 100, tmp_path / "s.zarr", psf, tile=(48, 48, 32), **SMALL
    )
    assert signed.numbers[0]["method"] == "wiener" and "signed scale" in signed.warnings[0]
    scan = image.astype(np.int16) - 100  # with metal, which reaches farther than air
    scan[0, 0, 0] = 3000
    for unit, method in (("HU", "wiener"), (None, "richardson_lucy")):
        volume = mf.io.Volume(scan, (1, 1, 1), None, "mm", metadata={"intensity_unit": unit})
        done = mf.restore_volume(volume, tmp_path / f"{unit}.zarr", psf, tile=(48, 48, 32), **SMALL)
        assert done.numbers[0]["method"] == method
        assert any("Hounsfield units (HU) are a signed scale" in text for text in done.warnings) == (
            unit == "HU"
        )


@pytest.mark.parametrize("method, name", [("wiener", "balance"), ("tikhonov", "weight")])
def test_the_border_of_a_thin_volume_counts(method, name):
    psf = mf.psf.gaussian((2.5, 2.5, 2.5), (1, 1, 1))
    image = counts((12, 20, 22), psf=psf).astype(np.float32)
    _, info = getattr(mf, method)(image, psf, return_info=True)
    assert info.settings["border_factor"] > 1
    whole = Sample([image], [(0, tuple(slice(0, n) for n in image.shape))], True)
    assert resolve(whole, psf, method, {}, None).options[name] == info.settings[name]
    block = Sample([image], whole.places, False)
    assert resolve(block, psf, method, {}, None).options[name] < info.settings[name]


@pytest.mark.parametrize(
    "method, options", [("tikhonov", {}), ("wiener", {}), ("rl", {"back_projector": "wiener-butterworth"})]
)
@pytest.mark.filterwarnings("ignore:num_iter")
def test_notes_of_a_whole_run_are_those_of_one_in_tiles(tmp_path, psf, method, options):
    """Cross-validation that ends at the edge of its range is no warning of Python's."""
    image = np.random.default_rng(0).random((20, 24, 22)) ** 8 * 100
    image = mf.convolve(image, psf / psf.sum(), mode="same", boundary="reflect").astype(np.float32)
    options = {**options, **({"num_iter": 9} if method == "rl" else {})}
    done = mf.restore_volume(image, tmp_path / "out.zarr", psf, method=method, **options)
    function = {"rl": mf.richardson_lucy, "wiener": mf.wiener, "tikhonov": mf.tikhonov}[method]
    _, info = function(image, psf, return_info=True, **options)
    assert len(info.warnings) == 1 and info.warnings == done.warnings


def test_trials_do_not_note_their_own_values(tmp_path, psf, image):
    signed = image.astype(np.int32)
    signed[3, 4, 5:9] = -7
    done = mf.restore_volume(signed, tmp_path / "out.zarr", psf, method="rl", stop="relative-change")
    assert [text for text in done.warnings if "negative values" in text] == [
        "source: 4 negative values were set to zero (those in halos counted again)"
    ]


def test_a_large_volume_is_sampled_by_seed(rng):
    array = rng.random((50, 60, 70))
    same, again, other = (
        draw(Memory(array), [0], (5, 5, 5), memory=2_000_000, seed=seed) for seed in (1, 1, 2)
    )
    assert not same.whole and sum(p.size for p in same.parts) <= 25_000
    assert same.places == again.places != other.places
    for part, (_, region) in zip(same.parts, same.places, strict=True):
        assert np.array_equal(part, array[region])
        assert all(s.start % 4 == 0 for s in region)
    light = [part.sum() for part in same.parts]
    assert light[same.trials[0]] == max(light)
    assert draw(Memory(array), [0], (5, 5, 5), memory=10**9, seed=1).whole
    assert block_shape((2, 500, 500), (1, 5, 5), 24_000) == (2, 22, 22)


def test_a_sample_with_nothing_in_it_says_so():
    with pytest.raises(ValueError, match="nothing in its sample"):
        sample = draw(Memory(np.zeros((50, 60, 70))), [0], (3, 3, 3), memory=1_000_000, seed=0)
        resolve(sample, np.ones((3, 3, 3)), "rl", {}, None)


@pytest.mark.parametrize(
    "options, error, name",
    [
        ({"stop": ("time", 1)}, ValueError, "stop"),
        ({"weights": np.ones((34, 40, 28))}, ValueError, "weights"),
        ({"weights": np.zeros((34, 40, 29))}, ValueError, "weights"),
        ({"weights": -np.ones((34, 40, 29))}, ValueError, "weights"),
        ({"weights": 2.0}, ValueError, "weights"),
        ({"weights": "nowhere.zarr"}, ValueError, "weights"),
        ({"weights": np.ones((34, 40, 29)), "method": "wiener"}, TypeError, "weights"),
        ({"weights": np.ones((34, 40, 29)), "back_projector": "gaussian"}, ValueError, "weights"),
        ({"initial": "odd"}, ValueError, "initial"),
        ({"initial": np.full((34, 40, 29), np.nan)}, ValueError, "initial"),
        ({"initial": np.zeros((34, 40, 29))}, ValueError, "initial: all values are zero and would stay so"),
        ({"odd": 1}, TypeError, "odd"),
        ({"method": "wiener", "num_iter": 3}, TypeError, "num_iter"),
        ({"method": "landweber"}, ValueError, "method"),
        ({"memory": "1 MB"}, ValueError, "memory"),
        ({"memory": "much"}, ValueError, "memory"),
        ({"halo": -1}, ValueError, "halo"),
        ({"method": "wiener", "halo": "exact"}, ValueError, "halo"),
        ({"tile": (8, 8)}, ValueError, "tile"),
        ({"workers": 0}, ValueError, "workers"),
        ({"workers": 2, "client": object()}, ValueError, "workers"),
        ({"shard": (2, 2)}, ValueError, r"shard\[0\]"),
        ({"shard": 2}, TypeError, "shard"),
        ({"num_iter": 0}, ValueError, "num_iter"),
        ({"seed": -1}, ValueError, "seed"),
        ({"psf": [np.ones((3, 3, 3))] * 2}, ValueError, "psf"),
    ],
)
def test_errors_name_the_argument_and_leave_nothing(tmp_path, psf, image, options, error, name):
    psf = options.pop("psf", psf) if "psf" in options else psf
    with pytest.raises(error, match=rf"^{name}"):
        mf.restore_volume(image, tmp_path / "out.zarr", psf, **{"method": "rl", **options})
    # Nothing that would keep a corrected call from working.
    mf.restore_volume(image, tmp_path / "out.zarr", np.ones((3, 3, 3)), method="rl", num_iter=1)


@pytest.mark.parametrize(
    "name, value",
    [("progress", 3), ("client", 3), ("destination", None), ("destination", ""), ("dtype", None)],
)
def test_what_is_no_function_client_or_name_is_refused_first(tmp_path, psf, image, name, value):
    arguments = {"destination": tmp_path / "out.zarr", name: value}
    with pytest.raises(TypeError, match=f"^{name}: got "):
        mf.restore_volume(image, psf=psf, method="rl", num_iter=1, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_background_above_all_values_is_said(tmp_path):
    image = counts((20, 24)).astype(np.float32)
    done = mf.restore_volume(image, tmp_path / "out.zarr", np.ones((3, 3)), method="rl", background=1e4)
    assert done.warnings == ["source: no value rises above the background 10000; the result is zero"]
    assert not result(tmp_path / "out.zarr").any()


def test_numpy_numbers_are_numbers(tmp_path):
    psf, image = np.ones((3, 3)), counts((20, 24)).astype(np.float32)
    options = {
        "num_iter": np.int64(2),
        "background": np.median(image) / 9,
        "readout_variance": np.array(0.5),
        "regularizer": ("tv", np.float32(0.01)),
        "normalize_psf": np.True_,
        "voxel_size": np.array([1.0, 2.0], np.float32),
    }
    done = mf.restore_volume(
        image,
        tmp_path / "out.zarr",
        psf,
        method="rl",
        memory=np.int64(4e9),
        seed=np.int64(1),
        halo=np.int64(9),
        tile=np.array([20, 12]),
        chunks=np.array([20, 12]),
        **options,
    )
    whole = mf.richardson_lucy(image, psf, **options)
    assert done.tiles == 2 and np.abs(result(tmp_path / "out.zarr") - whole).max() < 1e-3 * np.ptp(whole)


@pytest.mark.parametrize("method", ["rl", "auto"])
def test_weights_and_a_first_estimate_are_cut_as_well(tmp_path, psf, image, method):
    """As the whole run: dead voxels with values that mark them as such, parts that nothing is known of."""
    weights = np.random.default_rng(1).uniform(0.2, 3, image.shape)
    weights[image % 7 == 3] = 0
    weights[:, :14, :20] = 0  # larger than the PSF: the first estimate stays there
    image = np.where(weights > 0, image, 60_000).astype(np.uint16)
    initial = 1 + counts(image.shape, seed=2).astype(np.float32)
    mf.io.write(tmp_path / "weights.zarr", mf.io.Volume(weights.astype(np.float32)))
    options = (
        {"num_iter": 3, "acceleration": None, "regularizer": None} if method == "rl" else {"num_iter": 4}
    )
    tiles = {"halo": "exact", "tile": (16, 16, 32), **SMALL}
    for given in (
        {"weights": tmp_path / "weights.zarr"},
        {"initial": initial},
        {"weights": weights.astype(np.float32), "initial": initial, "background": 0.5},
    ):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        done = mf.restore_volume(image, path, psf, method=method, **options, **tiles, **given)
        if "weights" in given:
            given["weights"] = weights
        function = mf.richardson_lucy if method == "rl" else mf.restore
        whole = function(image, psf, **options, **given)
        assert done.tiles > 1
        assert np.abs(result(path) - whole).max() < 1e-4 * np.ptp(whole), given.keys()


@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_weights_without_a_unit_of_length(tmp_path, psf, image, factor):
    """NIfTI that nibabel makes of an array names none: the image's numbers, or those of another unit."""
    source = mf.io.Volume(image, voxel_size=(2.0, 1.0, 1.0), unit="mm")
    weights = np.random.default_rng(1).uniform(0.2, 3, image.shape).astype(np.float32)
    results = []
    for unit, number in (("mm", 1.0), (None, factor)):
        size = tuple(number * n for n in (2.0, 1.0, 1.0))
        made = mf.io.Volume(weights, voxel_size=size, unit=unit)
        out = tmp_path / f"{unit}.zarr"
        mf.restore_volume(source, out, psf, num_iter=2, weights=made, method="rl")
        results.append(mf.io.read(out).array)
    assert np.array_equal(*results)
    with pytest.raises(ValueError, match="weights: its voxels are"):
        other = mf.io.Volume(weights, voxel_size=(2.0, 1.0, 1.1), unit=None)
        mf.restore_volume(source, tmp_path / "c.zarr", psf, num_iter=2, weights=other, method="rl")


def test_other_weights_are_another_job(tmp_path, image, psf):
    path = tmp_path / "out.zarr"
    weights = np.ones(image.shape, np.float32)
    broken(path, image, psf, weights=weights)
    with pytest.raises(ValueError, match=r"maps\.weights"):
        mf.restore_volume(image, path, psf, weights=2 * weights, **RL)
    mf.restore_volume(image, path, psf, weights=weights, **RL)
    assert np.allclose(result(path), unbroken(tmp_path, image, psf), rtol=1e-4)


@pytest.mark.parametrize("name", ["weights", "initial"])
def test_maps_lie_where_the_image_does(tmp_path, image, psf, name):
    """A mirrored file has the same shape and voxel size, and would be applied to other places."""
    affine = np.array([[1.0, 0, 0, -14], [0, 1, 0, -20], [0, 0, 2, 5], [0, 0, 0, 1]])
    mirrored = affine @ np.diag([-1.0, 1, 1, 1])
    size = (2.0, 1.0, 1.0)
    source = mf.io.Volume(image, size, affine, "mm")
    ones = np.ones(image.shape, np.float32)
    mf.io.write(tmp_path / "mirrored.zarr", mf.io.Volume(ones, size, mirrored, "mm"))
    given = mf.io.Volume(ones, size, mirrored, "mm"), tmp_path / "mirrored.zarr"
    for other in (*given, mf.io.open_source(given[1])):
        with pytest.raises(ValueError, match=rf"^{name}: lies 56 mm away from the source"):
            mf.restore_volume(source, tmp_path / "out.zarr", psf, **RL, **{name: other})
    assert not (tmp_path / "out.zarr.partial").exists()
    # Rounded, as files are, and without a place of its own.
    rounded = affine * (1 + 1e-6 * (np.arange(4) < 3)[:, None])
    for other in (mf.io.Volume(ones, size, rounded, "mm"), mf.io.Volume(ones, size, None, "mm")):
        assert mf.restore_volume(source, tmp_path / "out.zarr", psf, overwrite=True, **RL, **{name: other})


@pytest.mark.parametrize("name", ["weights", "initial"])
def test_maps_have_the_images_times_and_channels(tmp_path, psf, name):
    """As many images in another order would go to the wrong ones."""
    source = mf.io.Volume(np.ones((3, 2, 8, 20, 22), np.uint16), axes="tczyx")
    swapped = np.ones((2, 3, 8, 20, 22), np.float32)
    mf.io.write(tmp_path / "map.zarr", mf.io.Volume(swapped, axes="tczyx"))
    one_axis = mf.io.Volume(swapped.reshape(6, 8, 20, 22), axes="tzyx")
    for other in (swapped, tmp_path / "map.zarr", one_axis):
        with pytest.raises(ValueError, match=rf"^{name}: got \d time points x \d channels"):
            mf.restore_volume(source, tmp_path / "out.zarr", psf, method="rl", num_iter=1, **{name: other})
    assert not list(tmp_path.glob("out*"))
    for shape in ((3, 2, 8, 20, 22), (8, 20, 22)):
        given = {name: np.ones(shape, np.float32)}
        plan_volume(source, psf, method="rl", num_iter=1, **given)


def test_booleans_are_refused_as_a_result_before_any_work(tmp_path, psf, image):
    with pytest.raises(ValueError, match=r"^dtype: got 'input'"):
        mf.restore_volume(image > 4, tmp_path / "out.zarr", psf, dtype="input", scale=1)
    assert not list(tmp_path.iterdir())


def test_each_channel_has_its_own_psf_and_numbers(tmp_path):
    psfs = [np.ones((3, 3)), mf.psf.gaussian((4, 4), (1, 1))]
    array = np.stack([[counts((60, 70), 3 * t + c) * (1 + 9 * c) for c in range(2)] for t in range(3)])
    source = mf.io.open_source(array.astype(np.uint16), axes="tcyx")
    done = mf.restore_volume(
        source,
        tmp_path / "out.zarr",
        psfs,
        method="rl",
        num_iter=4,
        tile=(32, 70),
        halo="exact",
        chunks=(16, 16),
        shards=None,
    )
    assert done.tiles == 12 and done.plan.images == 6
    assert done.numbers[1]["level"] == pytest.approx(10 * done.numbers[0]["level"], rel=0.3)
    made = mf.io.open_source(tmp_path / "out.zarr")
    assert made.items == source.items
    for item, (t, c) in enumerate(made.items):
        whole = mf.richardson_lucy(array[t, c].astype(np.float32), psfs[c], 4)
        assert np.abs(made.read(item) - whole).max() < 1e-4 * np.ptp(whole)


# Jobs that are gone on with


def record(path):
    return json.loads(Path(f"{path}.job.json").read_text())


RL = {"method": "rl", "num_iter": 3, "tile": (16, 16, 32), **SMALL}


def unbroken(tmp_path, image, psf, **options):
    mf.restore_volume(image, tmp_path / "unbroken.zarr", psf, **{**RL, **options})
    return result(tmp_path / "unbroken.zarr")


class Stop(Exception):
    pass


def stopping_after(number):
    def progress(state):
        if state["done"] >= number:
            raise Stop

    return progress


def broken(path, image, psf, after=4, **options):
    with pytest.raises(Stop):
        mf.restore_volume(image, path, psf, progress=stopping_after(after), **{**RL, **options})


def test_a_broken_run_is_gone_on_with(tmp_path, image, psf):
    expected = unbroken(tmp_path, image, psf)
    path = tmp_path / "out.zarr"
    broken(path, image, psf)
    assert not path.exists() and Path(f"{path}.partial").is_dir()
    seen = []
    done = mf.restore_volume(image, path, psf, progress=seen.append, **RL)
    assert (done.finished, done.tiles) == (True, 9) and 3 <= done.computed <= 5
    assert seen[-1]["done"] == seen[-1]["tiles"] == 9
    assert np.array_equal(result(path), expected)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("out")) == [
        "out.zarr",
        "out.zarr.job.json",
    ]
    again = mf.restore_volume(image, path, psf, **RL)
    assert again.finished and again.computed == 0 and again.seam == done.seam


def test_metadata_are_those_of_an_unbroken_run(tmp_path, psf):
    volume = mf.io.Volume(counts((34, 40, 29)).astype(np.float32), (2.0, 0.5, 0.5), None, "um")
    unbroken(tmp_path, volume, psf)
    broken(tmp_path / "out.zarr", volume, psf)
    mf.restore_volume(volume, tmp_path / "out.zarr", psf, **RL)
    for file in (tmp_path / "unbroken.zarr").rglob("zarr.json"):
        other = tmp_path / "out.zarr" / file.relative_to(tmp_path / "unbroken.zarr")
        assert file.read_text().replace("unbroken", "out") == other.read_text()


def test_the_result_says_how_it_was_made(tmp_path, image, psf):
    source = mf.io.Volume(image, metadata={"derivation": "whatever was done before"})
    path = tmp_path / "out.zarr"
    mf.restore_volume(source, path, psf, **RL)
    shape = " x ".join(map(str, psf.shape))
    assert mf.io.read(path).metadata["derivation"] == (
        f"version {mf.__version__}, restored in tiles by richardson-lucy, 3 iterations, negative clip, "
        f"boundary extended; PSF of {shape} voxels"
    )
    assert source.metadata == {"derivation": "whatever was done before"}
    # A name makes no other job; an interrupted one is gone on with under the first.
    other = tmp_path / "other.zarr"
    broken(other, image, psf, psf_name="Gaussian")
    mf.restore_volume(image, other, psf, psf_name="another", **RL)
    assert mf.io.read(other).metadata["derivation"].endswith("; PSF Gaussian")
    with pytest.raises(TypeError, match=r"^psf_name: got 3, expected a text"):
        mf.restore_volume(image, other, psf, psf_name=3, **RL)
    asked = {"background": 1.5, "back_projector": "wiener-butterworth"}
    mf.restore_volume(image, tmp_path / "asked.zarr", psf, **RL, **asked)
    assert (
        "3 iterations, background 1.5, back projector wiener-butterworth, negative clip, boundary extended"
        in mf.io.read(tmp_path / "asked.zarr").metadata["derivation"]
    )


def test_damaged_record_of_a_job_says_what_helps(tmp_path, image, psf):
    record = tmp_path / "out.zarr.job.json"
    record.write_text("{}")
    with pytest.raises(ValueError, match=r"out\.zarr\.job\.json: damaged, .*; remove it to begin anew"):
        mf.restore_volume(image, tmp_path / "out.zarr", psf, resume=False, **RL)
    assert record.read_text() == "{}"


@pytest.mark.parametrize(
    "change, said",
    [
        ({"psf": np.ones((3, 3, 3))}, "the psf is another one"),
        ({"num_iter": 4}, "options.num_iter was 3, is 4"),
        ({"method": "wiener"}, "method was rl, is wiener"),
        ({"memory": "3 GB"}, "memory was 4000000000, is 3000000000"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"dtype": "float16"}, "output.dtype was float32, is float16"),
        ({"isa": "other"}, "isa was .*, is other"),
        ({"image": 1}, "input"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_changed_is_said(tmp_path, image, psf, change, said, monkeypatch):
    path = tmp_path / "out.zarr"
    broken(path, image, psf)
    options = {**RL, "psf": psf, "image": image, **change}
    if "method" in change:
        del options["num_iter"]
    if isinstance(options["image"], int):
        options["image"] = image + 1
    if "isa" in options:
        name = options.pop("isa")
        monkeypatch.setattr(mf.backends.resolve(), "describe", lambda: {"isa": name})
    given, kernel = options.pop("image"), options.pop("psf")
    with pytest.raises(ValueError, match=said):
        mf.restore_volume(given, path, kernel, **options)
    done = mf.restore_volume(given, path, kernel, resume=False, **options)
    assert done.finished and done.computed == done.tiles


def test_another_jobs_result_is_not_replaced(tmp_path, image, psf):
    path = tmp_path / "out.zarr"
    mf.restore_volume(image, path, psf, **RL)
    with pytest.raises(FileExistsError, match=r"options\.num_iter was 3, is 5"):
        mf.restore_volume(image, path, psf, **{**RL, "num_iter": 5})
    assert mf.restore_volume(image, path, psf, **{**RL, "num_iter": 5}, overwrite=True).computed == 9
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr" / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError):
        mf.restore_volume(image, tmp_path / "other.zarr", psf, **RL)
    assert (tmp_path / "other.zarr" / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("name", ["out.zarr", "out.nii.gz", "out.npy"])
def test_a_result_that_was_replaced_since_is_no_longer_the_jobs(tmp_path, image, psf, name):
    path = tmp_path / name
    mf.restore_volume(image, path, psf, **RL)
    assert mf.restore_volume(image, path, psf, **RL).computed == 0
    expected = result(path)
    mf.io.write(path, mf.io.Volume(np.zeros(image.shape, np.float32)), overwrite=True)
    with pytest.raises(FileExistsError, match="exists already, changed or replaced since; overwrite=True"):
        mf.restore_volume(image, path, psf, **RL)
    assert not result(path).any()
    assert mf.restore_volume(image, path, psf, overwrite=True, **RL).computed == 9
    assert np.array_equal(result(path), expected)
    assert mf.restore_volume(image, path, psf, **RL).computed == 0


@pytest.mark.parametrize("name", ["in.zarr", "in.npy"])
def test_what_is_read_is_not_replaced(tmp_path, image, psf, name):
    path = tmp_path / name
    mf.io.write(path, mf.io.Volume(image.astype(np.float32)))
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    within = [path / "0", path / "out.zarr"] if path.is_dir() else []
    for out in (path, tmp_path / "link" / name, *within):
        for options in ({"overwrite": True}, {}, {"overwrite": True, "resume": False}):
            with pytest.raises(ValueError, match=r"^destination: .* is read \(source\); choose another name"):
                mf.restore_volume(path, out, psf, **options, **RL)
        for option in ("weights", "initial"):
            with pytest.raises(ValueError, match=rf"^destination: .* is read \({option}\)"):
                mf.restore_volume(image, out, psf, overwrite=True, **{option: path}, **RL)
    if name.endswith(".npy"):  # and where an array shows the file
        with pytest.raises(ValueError, match=r"^destination: .* is read \(source\)"):
            mf.restore_volume(np.load(path, mmap_mode="r"), path, psf, overwrite=True, **RL)
    else:  # nor is a folder that the image lies in
        with pytest.raises(ValueError, match=r"^destination: .* is read \(source\)"):
            mf.restore_volume(path / "0", path, psf, overwrite=True, **RL)
    assert np.array_equal(mf.io.read(path).array, image)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["link", name, *(["in.npy.json"] if name == "in.npy" else [])]
    )


def test_a_name_that_was_taken_meanwhile_is_this_calls_to_replace(tmp_path, image, psf):
    expected = unbroken(tmp_path, image, psf)
    path = tmp_path / "out.zarr"
    broken(path, image, psf)
    mf.io.write(tmp_path / "other.zarr", mf.io.Volume(image))
    (tmp_path / "other.zarr").rename(path)
    with pytest.raises(FileExistsError, match="exists already; overwrite=True"):
        mf.restore_volume(image, path, psf, **RL)
    assert np.array_equal(result(path), image)
    assert mf.restore_volume(image, path, psf, overwrite=True, **RL).finished
    assert np.array_equal(result(path), expected)


@pytest.mark.parametrize("name, options", [("out.nii", {"dtype": "float16"}), ("out.dcm", {})])
def test_what_a_format_cannot_hold_is_refused_before_any_work(
    tmp_path, image, psf, name, options, monkeypatch
):
    from medeconv_fast.volumes import _restore_volume

    pytest.importorskip("pydicom" if name == "out.dcm" else "nibabel")
    with monkeypatch.context() as patch:
        patch.setattr(_restore_volume, "resolve", None)
        with pytest.raises(ValueError, match=name):
            mf.restore_volume(image, tmp_path / name, psf, **{**RL, **options})
    assert not list(tmp_path.iterdir())
    # Nor is what was done given up for it.
    broken(tmp_path / "out.npy", image, psf)
    with pytest.raises(ValueError, match="scale"):
        mf.restore_volume(image, tmp_path / "out.npy", psf, resume=False, scale=2, **RL)
    assert mf.restore_volume(image, tmp_path / "out.npy", psf, **RL).computed < 9


def test_a_store_that_cannot_be_begun_leaves_no_job(tmp_path, image, psf, monkeypatch):
    from medeconv_fast.io import _pyramid

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_pyramid, "create_group", full)
        with pytest.raises(OSError, match="No space left"):
            mf.restore_volume(image, tmp_path / "out.zarr", psf, **RL)
    assert not list(tmp_path.iterdir())


def test_lines_of_the_log_that_are_no_tiles_do_not_count(tmp_path, image, psf):
    path = tmp_path / "out.zarr"
    mf.restore_volume(image, path, psf, shard=(0, 2), **RL)
    log = Path(f"{path}.job.log.0-of-2")
    lines = [f"{number} 0123 0 0.1\n" for number in (-1, 9, 10, 11, 12)]
    log.write_text(log.read_text() + "".join(lines))
    done = mf.restore_volume(image, path, psf, shard=(0, 2), **RL)
    assert not done.finished and done.done == 4
    assert mf.restore_volume(image, path, psf, shard=(1, 2), **RL).finished


def several(path, images):
    """A TIFF of several images, or a folder of several OME-Zarr."""
    if path.suffix == ".tif":
        tifffile = pytest.importorskip("tifffile", reason="SKIPPED: tifffile is not installed (extra io)")
        with tifffile.TiffWriter(path) as file:
            for each in images:
                file.write(each, metadata={"axes": "ZYX"}, photometric="minisblack")
        return
    path.mkdir()
    (path / "zarr.json").write_text(
        json.dumps(
            {
                "zarr_format": 3,
                "node_type": "group",
                "attributes": {"ome": {"version": "0.5", "bioformats2raw.layout": 3}},
            }
        )
    )
    for number, each in enumerate(images):
        mf.io.write(path / "inner.zarr", mf.io.Volume(each, (2.0, 1.0, 1.0), None, "um"))
        (path / "inner.zarr").rename(path / str(number))


@pytest.mark.parametrize("name", ["in.ome.tif", "in.zarr"])
def test_another_image_of_the_same_file_is_another_job(tmp_path, image, psf, name):
    several(tmp_path / name, [image, image + 50])
    first, second = (mf.io.open_source(tmp_path / name, series=i) for i in range(2))
    path = tmp_path / "out.zarr"
    broken(path, first, psf)
    with pytest.raises(ValueError, match=r"input\.(series was 0, is 1|array was)"):
        mf.restore_volume(second, path, psf, **RL)
    assert mf.restore_volume(first, path, psf, **RL).finished
    with pytest.raises(FileExistsError, match=r"made by another job \(input\."):
        mf.restore_volume(second, path, psf, **RL)
    # No choice is that of the first.
    with pytest.warns(UserWarning, match=r"holds 2 images, of which the first is read"):
        assert mf.restore_volume(mf.io.open_source(tmp_path / name), path, psf, **RL).computed == 0


@pytest.mark.parametrize("name", ["in.ome.tif", "in.zarr"])
def test_the_first_of_several_images_is_not_taken_in_silence(tmp_path, image, psf, name, recwarn):
    several(tmp_path / name, [image, image + 50])
    path = tmp_path / name
    for opened in (mf.io.open_source, mf.io.read, lambda path: plan_volume(path, psf, **RL)):
        with pytest.warns(UserWarning, match=r"holds 2 images, of which the first is read") as told:
            made = opened(path)
        # Files that other tests left open may be collected meanwhile, which warns as well.
        assert len([w for w in told if "holds 2 images" in str(w.message)]) == 1
        if isinstance(made, mf.io.Source):
            first = made
    recwarn.clear()
    assert pickle.loads(pickle.dumps(first)).identity() == mf.io.open_source(path, series=0).identity()
    mf.io.write(tmp_path / "one.zarr", mf.io.read(path, series=1))
    mf.io.open_source(tmp_path / "one.zarr")
    assert not [w for w in recwarn if "holds 2 images" in str(w.message)]


def test_another_part_of_a_mapped_file_is_another_job(tmp_path, image, psf):
    mapped = np.memmap(tmp_path / "raw", np.uint16, "w+", shape=(2, *image.shape))
    mapped[:] = image, image[::-1] + 1
    mapped.flush()
    path = tmp_path / "out.zarr"
    assert mf.restore_volume(mapped[0], path, psf, **RL).finished
    shifted = np.memmap(tmp_path / "raw", np.uint16, "r", image[0].nbytes, image.shape)
    for other in (mapped[1], mapped[0][::-1], mapped[0].view("i2"), mapped[0].view(">u2"), shifted):
        with pytest.raises(FileExistsError, match=r"made by another job \(input\."):
            mf.restore_volume(other, path, psf, **RL)
    again = np.memmap(tmp_path / "raw", np.uint16, "r", shape=(2, *image.shape))
    assert mf.restore_volume(again[0], path, psf, **RL).computed == 0
    assert np.array_equal(result(path), unbroken(tmp_path, image, psf))


def test_damaged_tiles_are_done_again(tmp_path, image, psf):
    expected = unbroken(tmp_path, image, psf)
    path = tmp_path / "out.zarr"
    broken(path, image, psf)
    blocks = sorted(p for p in Path(f"{path}.partial").rglob("c/*/*/*") if p.is_file())
    with open(blocks[0], "r+b") as file:
        file.truncate(20)
    blocks[1].unlink()
    log = Path(f"{path}.job.log")
    log.write_bytes(log.read_bytes() + b"8 0123")  # cut short by a crash
    mf.restore_volume(image, path, psf, **RL)
    assert np.array_equal(result(path), expected)


def test_killed_between_the_steps_of_the_beginning_and_the_end(tmp_path, image, psf, monkeypatch):
    expected = unbroken(tmp_path, image, psf)
    path = tmp_path / "out.zarr"
    from medeconv_fast.volumes import _restore_volume

    def stop(*_, **__):
        raise Stop

    for where, what in (
        (_restore_volume, "resolve"),
        (_restore_volume, "estimate_seam"),
        (Manifest, "finish"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, what, stop)
            with pytest.raises(Stop):
                mf.restore_volume(image, path, psf, **RL)
    assert path.exists() and not record(path)["finished"]
    done = mf.restore_volume(image, path, psf, **RL)
    assert done.finished and done.computed == 0 and record(path)["finished"]
    assert np.array_equal(result(path), expected)


def test_an_unfinished_image_that_vanished(tmp_path, image, psf):
    path = tmp_path / "out.zarr"
    broken(path, image, psf)
    shutil.rmtree(f"{path}.partial")
    with pytest.raises(FileNotFoundError, match="has vanished"):
        mf.restore_volume(image, path, psf, **RL)
    # Nor is an image that was there before the one that the job was to make.
    mf.io.write(path, mf.io.Volume(image))
    with pytest.raises(FileNotFoundError, match="has vanished"):
        mf.restore_volume(image, path, psf, **RL)
    shutil.rmtree(path)
    assert mf.restore_volume(image, path, psf, resume=False, **RL).finished


def test_two_processes_do_not_share_a_log(tmp_path, image, psf):
    path = tmp_path / "out.zarr"
    broken(path, image, psf)
    with Manifest(path).logging(None), pytest.raises(BlockingIOError, match="another process"):
        mf.restore_volume(image, path, psf, **RL)


@pytest.mark.parametrize("after", [0, 4])
def test_a_job_is_not_begun_anew_under_a_process_at_work_on_it(tmp_path, image, psf, after):
    """Its tiles would go into the new job's image."""
    expected = unbroken(tmp_path, image, psf)
    path = tmp_path / "out.zarr"
    refused = []

    def beside(state):
        if state["done"] == after and not refused:
            with pytest.raises(BlockingIOError, match="another process is at work on it") as told:
                mf.restore_volume(image, path, psf, resume=False, **{**RL, "num_iter": 9})
            refused.append(told.value)
            with pytest.raises(BlockingIOError, match="another process is at work on it"):
                mf.io.write(path, mf.io.Volume(image), overwrite=True)

    done = mf.restore_volume(image, path, psf, progress=beside, **RL)
    assert refused and done.finished and done.computed == 9
    assert np.array_equal(result(path), expected)


def test_a_job_goes_on_in_its_own_image_only(tmp_path, image, psf):
    path = tmp_path / "out.zarr"
    broken(path, image, psf)
    store = mf.io.create_store(path, mf.io.open_source(image), overwrite=True, **SMALL)
    with pytest.raises(FileNotFoundError, match="has vanished"):
        mf.restore_volume(image, path, psf, **RL)
    assert len(store.missing()) == 18
    assert mf.restore_volume(image, path, psf, resume=False, **RL).finished


def stored(tmp_path, image):
    path = tmp_path / "in.zarr"
    mf.io.write(path, mf.io.Volume(image))
    return path


def test_a_damaged_input_costs_only_its_tiles(tmp_path, image, psf):
    source = stored(tmp_path, np.tile(image, (2, 2, 2)))
    expected = unbroken(tmp_path, source, psf)
    path = tmp_path / "out.zarr"
    (file,) = [p for p in source.rglob("c/*/*/*") if p.is_file()][:1]
    content = file.read_bytes()
    stamp = file.stat()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises((TileError, ValueError)):
        mf.restore_volume(source, path, psf, **RL)
    file.write_bytes(content)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert mf.restore_volume(source, path, psf, resume=False, **RL).finished
    assert np.array_equal(result(path), expected)


def test_failures_of_the_input_go_on_others_end_the_run(tmp_path, image, psf, monkeypatch):
    path = tmp_path / "out.zarr"
    expected = unbroken(tmp_path, image, psf)
    read, write = Job.read, Job.write

    def damaged(self, number):
        if number in (2, 5):
            raise ValueError("a chunk is damaged")
        return read(self, number)

    def full(self, number, *rest):
        if number == 2:
            raise OSError(28, "No space left on device")
        return write(self, number, *rest)

    monkeypatch.setattr(Job, "read", damaged)
    with pytest.raises(TileError, match=r"2 of 9 tiles .* \(numbers 2, 5\).*a chunk is damaged"):
        mf.restore_volume(image, path, psf, **RL)
    assert len(Manifest(path).done()) == 7
    monkeypatch.setattr(Job, "read", read)
    monkeypatch.setattr(Job, "write", full)
    with pytest.raises(OSError, match="No space left"):
        mf.restore_volume(image, path, psf, **RL)
    assert len(Manifest(path).done()) == 8
    monkeypatch.setattr(Job, "write", write)
    assert mf.restore_volume(image, path, psf, **RL).computed == 1
    assert np.array_equal(result(path), expected)


def test_an_input_that_vanishes_or_changes_ends_the_run(tmp_path, image, psf):
    source = stored(tmp_path, image)
    path = tmp_path / "out.zarr"

    def vanish(state):
        if state["done"] == 2:
            os.rename(source, tmp_path / "elsewhere.zarr")

    with pytest.raises(OSError):
        mf.restore_volume(source, path, psf, progress=vanish, **RL)
    assert 2 <= len(Manifest(path).done()) < 9
    os.rename(tmp_path / "elsewhere.zarr", source)
    assert 0 < mf.restore_volume(source, path, psf, **RL).computed <= 7


@pytest.mark.parametrize("last", [False, True])
def test_an_input_that_changes_is_noticed_though_nothing_fails(tmp_path, image, psf, last):
    """Blocks are replaced by whole and valid ones, as by a program that still writes them."""
    source, path = stored(tmp_path, image), tmp_path / "out.zarr"
    files = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in source.rglob("c/*/*/*") if p.is_file()}

    def change(state):
        if state["done"] == (9 if last else 3):
            for file, (content, _) in files.items():
                file.write_bytes(content)

    with pytest.raises(OSError, match=r"has been changed .*input\.chunks\.digest .*resume=False"):
        mf.restore_volume(source, path, psf, progress=change, **RL)
    assert not path.exists() and len(Manifest(path).done()) == 9
    # Not even when it looks as it did before: what the tiles have seen is not known.
    for file, (_, stamp) in files.items():
        os.utime(file, ns=(stamp, stamp))
    with pytest.raises(ValueError, match="its input changed while it was being read"):
        mf.restore_volume(source, path, psf, **RL)
    assert mf.restore_volume(source, path, psf, resume=False, **RL).finished
    assert np.array_equal(result(path), unbroken(tmp_path, source, psf))


def test_an_array_that_changes_is_noticed(tmp_path, image, psf):
    """One that the caller writes into meanwhile."""

    def change(state):
        if state["done"] == 3:
            image[:] = 1

    with pytest.raises(OSError, match="has been changed"):
        mf.restore_volume(image, tmp_path / "out.zarr", psf, progress=change, **RL)


# Drivers


def test_shards_of_a_job_array(tmp_path, image, psf):
    expected = unbroken(tmp_path, image, psf)
    path = tmp_path / "out.zarr"
    done = [mf.restore_volume(image, path, psf, shard=(i, 3), **RL) for i in (2, 0, 1)]
    assert [d.finished for d in done] == [False, False, True]
    assert sum(d.computed for d in done) == 9
    assert np.array_equal(result(path), expected)
    assert mf.restore_volume(image, path, psf, shard=(0, 3), **RL).computed == 0


def test_a_shard_does_not_end_a_job_in_which_another_shards_tile_is_damaged(tmp_path, image, psf):
    path = tmp_path / "out.zarr"
    expected = unbroken(tmp_path, image, psf)
    mf.restore_volume(image, path, psf, shard=(0, 2), **RL)
    blocks = sorted(p for p in Path(f"{path}.partial").rglob("c/*/*/*") if p.is_file())
    block = blocks[0]
    with open(block, "r+b") as file:
        file.truncate(20)
    done = mf.restore_volume(image, path, psf, shard=(1, 2), **RL)
    assert (
        not done.finished and done.done == 8 and "1 finished tiles of other shards are" in done.warnings[-1]
    )
    assert not path.exists()
    done = mf.restore_volume(image, path, psf, shard=(0, 2), **RL)
    assert done.finished and done.computed == 1 and not done.warnings
    assert np.array_equal(result(path), expected)


def test_parts_that_overlap_are_not_worked_on_together(tmp_path, image, psf):
    """Each would take away blocks that the other has counted as done."""
    path = tmp_path / "out.zarr"
    broken(path, image, psf)
    manifest = Manifest(path)
    with manifest.logging((0, 2)):
        with manifest.logging((1, 2)):
            pass
        for other in (None, (0, 3), (0, 2)):
            with pytest.raises(BlockingIOError, match="another process"), manifest.logging(other):
                pass
    with manifest.logging(None), pytest.raises(BlockingIOError), manifest.logging((1, 2)):
        pass


def test_what_was_clipped_is_known_to_who_ends_the_job(tmp_path, image, psf, monkeypatch):
    """Also where the one before was killed just after the image had got its name."""
    path = tmp_path / "out.zarr"
    options = {**RL, "dtype": "uint8", "scale": 1}
    whole = mf.restore_volume(image * 9, tmp_path / "whole.zarr", psf, **options)
    assert whole.clipped > 0

    def stop(*_, **__):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "finish", stop)
        with pytest.raises(Stop):
            mf.restore_volume(image * 9, path, psf, **options)
    done = mf.restore_volume(image * 9, path, psf, **options)
    assert done.computed == 0 and done.clipped == whole.clipped and done.negative == whole.negative


def test_workers_of_a_script_without_a_guard(tmp_path):
    pytest.importorskip("distributed", reason="SKIPPED: distributed is not installed (extra dask)")
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, medeconv_fast as mf\n"
        "image = np.ones((8, 9, 10), np.float32)\n"
        f"mf.restore_volume(image, {str(tmp_path / 'out.zarr')!r}, np.ones((3, 3, 3)), method='rl',"
        " num_iter=1, tile=(8, 9, 10), workers=1)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:  # where workers are forked they do not run it
        assert 'must stand under `if __name__ == "__main__":`' in done.stderr


class Killed(BaseException):
    pass


class Interruption:
    """Stops this process, as a kill would, before change number `at` to the file system."""

    changes = ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.link")

    def __init__(self):
        self.at = self.count = -1
        sys.addaudithook(self.hook)  # there is no way to take one away

    def hook(self, event, arguments):
        if self.at >= 0 and event in self.changes and threading.current_thread() is threading.main_thread():
            self.count += 1
            if self.count > self.at:  # what cleans up behind it does not come to it either
                raise Killed


@pytest.fixture(scope="module")
def interruption():
    return Interruption()


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize("name", ["out.ome.zarr", "out.nii.gz", "out.npy"])
def test_killed_at_any_moment_of_the_end(tmp_path, image, psf, monkeypatch, interruption, name, overwrite):
    """The same call goes on, to the same result, and knows how much was clipped."""
    from medeconv_fast.io._store import Store

    path = tmp_path / name
    image = image[:10, :12, :14] * 9
    options = {**RL, "tile": (8, 12, 14), "num_iter": 1, "dtype": "uint8", "scale": 1}
    if name.endswith(".npy"):
        options |= {"dtype": "float32", "scale": None}
    whole = mf.restore_volume(image, tmp_path / f"whole.{name}", psf, **options)
    expected = mf.io.read(tmp_path / f"whole.{name}").array

    def begin():
        interruption.at = interruption.count = -1
        for left in tmp_path.glob("out.*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if overwrite:
            mf.restore_volume(image[:4, :12, :14], path, psf, **options)
        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(Store, "finish", stopped)
            mf.restore_volume(image, path, psf, overwrite=overwrite, **options)

    def stopped(*_, **__):
        raise Stop

    finish = Store.finish

    def watched(self, **how):
        interruption.count = 0
        interruption.at = moment
        finish(self, **how)
        interruption.at = -1

    moment, step = 0, 1
    while True:
        begin()
        with monkeypatch.context() as patch:
            patch.setattr(Store, "finish", watched)
            try:
                mf.restore_volume(image, path, psf, overwrite=overwrite, **options)
                break  # there are no more
            except Killed:
                pass
            finally:
                interruption.at = -1
        done = mf.restore_volume(image, path, psf, overwrite=overwrite, **options)
        assert done.computed == 0 and done.clipped == whole.clipped, moment
        assert np.array_equal(mf.io.read(path).array, expected), moment
        assert not (tmp_path / f"{name}.partial").exists()
        moment += step
        step = 1 + moment // 12  # later ones are more and more alike
    assert moment > 5


def test_workers_give_the_same_voxels(tmp_path, image, psf):
    pytest.importorskip("distributed", reason="SKIPPED: distributed is not installed (extra dask)")
    from distributed import Client, LocalCluster

    source = stored(tmp_path, image)
    expected = unbroken(tmp_path, source, psf)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        done = mf.restore_volume(source, tmp_path / "client.zarr", psf, client=client, **RL)
    assert done.computed == 9
    assert np.array_equal(result(tmp_path / "client.zarr"), expected)
    first, second = (record(tmp_path / name)["plan"] for name in ("unbroken.zarr", "client.zarr"))
    assert first == second


def test_four_two_and_one_workers_give_the_same_voxels(tmp_path, image, psf):
    pytest.importorskip("distributed", reason="SKIPPED: distributed is not installed (extra dask)")
    from distributed import Client, LocalCluster

    source = stored(tmp_path, image)
    expected = unbroken(tmp_path, source, psf)
    with (
        LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for number in (4, 2, 1):
            client.retire_workers(list(client.scheduler_info(n_workers=-1)["workers"])[number:])
            assert len(client.scheduler_info(n_workers=-1)["workers"]) == number
            path = tmp_path / f"{number}.zarr"
            assert mf.restore_volume(source, path, psf, client=client, **RL).computed == 9
            assert np.array_equal(result(path), expected)


def test_workers_of_this_machine(tmp_path, image, psf, monkeypatch):
    """Forked from a process that may have begun with another environment; ended when the call returns."""
    distributed = pytest.importorskip("distributed", reason="SKIPPED: distributed is not installed (dask)")
    from medeconv_fast.volumes import _cluster

    source = stored(tmp_path, image)
    expected = unbroken(tmp_path, source, psf)
    seen = []

    def look(state):
        client = distributed.default_client()
        seen.append(client.run(lambda: (os.environ["MEDECONV_MARK"], os.getpid(), os.getppid())))

    for mark in ("first", "second"):
        monkeypatch.setenv("MEDECONV_MARK", mark)
        path = tmp_path / f"{mark}.zarr"
        seen.clear()
        done = mf.restore_volume(
            source, path, psf, workers=2, progress=lambda s: s["done"] == 4 and look(s), **RL
        )
        assert done.computed == 9 and np.array_equal(result(path), expected)
        (found,) = seen
        assert len(found) == 2 and {entry[0] for entry in found.values()} == {mark}
        if _cluster._forks():
            assert len({parent for _, _, parent in found.values()} - {os.getpid()}) == 1
        for _, worker, _ in found.values():
            with pytest.raises(ProcessLookupError):
                os.kill(worker, 0)


def test_workers_compute_with_what_this_process_has_chosen(tmp_path, image, psf):
    """Never with another backend or instruction set than the record says."""
    pytest.importorskip("distributed", reason="SKIPPED: distributed is not installed (extra dask)")
    from distributed import Client, LocalCluster

    source = stored(tmp_path, image[:16])
    options = {**RL, "num_iter": 1}
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        mf.use_backend("reference")
        try:
            mf.restore_volume(source, tmp_path / "here.zarr", psf, **options)
            done = mf.restore_volume(source, tmp_path / "there.zarr", psf, client=client, **options)
        finally:
            mf.use_backend("auto")
        assert done.plan.backend == "reference"
        assert np.array_equal(result(tmp_path / "here.zarr"), result(tmp_path / "there.zarr"))
        if "isa" in mf.backends.resolve().describe():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(mf.backends.resolve(), "describe", lambda: {"isa": "other"})
                with pytest.raises(RuntimeError, match="instruction set"):
                    mf.restore_volume(source, tmp_path / "isa.zarr", psf, client=client, **options)


def test_workers_of_a_machine_take_its_gpus_in_turn(monkeypatch):
    from medeconv_fast import _device
    from medeconv_fast.volumes._cluster import take_device, turns_of

    names = [0, 1, 2, "a", "b"]
    workers = {f"tcp://{i}": {"name": n, "host": "xxxyy"[i]} for i, n in enumerate(names)}
    job = Job(Memory(np.zeros((4, 4))), None, Grid((4, 4), (4, 4), (0, 0)), {}, backend="cuda")
    job.turns = turns_of(workers)
    assert job.turns == {"0": 0, "1": 1, "2": 2, "a": 0, "b": 1}
    taken = []

    class Module:
        def devices(self):
            return {"count": 2}

    monkeypatch.setattr(_device, "module", Module())
    monkeypatch.setattr(_device, "choose_device", taken.append)
    for name in [*names, "later"]:
        take_device(pickle.loads(pickle.dumps(job)), name)
    assert taken[:5] == [0, 1, 0, 0, 1] and taken[5] in (0, 1)


def test_a_worker_that_dies_has_its_tiles_done_by_others(tmp_path, image, psf):
    pytest.importorskip("distributed", reason="SKIPPED: distributed is not installed (extra dask)")
    from distributed import Client, LocalCluster

    source = stored(tmp_path, image)
    expected = unbroken(tmp_path, source, psf)
    killed = []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        workers = list(client.run(os.getpid).values())

        def kill_one(state):
            if state["done"] == 2 and not killed:
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])

        done = mf.restore_volume(source, tmp_path / "out.zarr", psf, client=client, progress=kill_one, **RL)
    assert killed and done.finished and done.computed == 9
    assert np.array_equal(result(tmp_path / "out.zarr"), expected)


def test_jobs_can_be_sent(tmp_path, image, psf):
    source = stored(tmp_path, image)
    path = tmp_path / "out.zarr"
    broken(path, source, psf)
    from medeconv_fast.volumes._restore_volume import _Setup

    options = {k: v for k, v in RL.items() if k not in ("num_iter", "method", "tile")}
    manifest = Manifest(path)
    manifest.load()
    setup = _Setup(
        source,
        psf,
        "rl",
        "4 GB",
        "auto",
        RL["tile"],
        "float32",
        None,
        options["chunks"],
        options["shards"],
        0,
        None,
        {"num_iter": 3},
    )
    job = setup.job(manifest, resume=True, overwrite=False)
    there = pickle.loads(pickle.dumps(job))
    done = there.run(8)
    assert job.intact(done) and not job.intact(done._replace(checksum="other"))


KILLED = """
import sys, numpy as np, medeconv_fast as mf
source, path = sys.argv[1:]
psf = mf.psf.gaussian((2.5, 2, 2), (1, 1, 1))
options = {"tile": (16, 16, 32), "chunks": (8, 8, 8), "shards": (16, 16, 16)}
mf.restore_volume(source, path, psf, method="rl", num_iter=3, **options)
"""


@pytest.mark.parametrize("number", range(2))
def test_killed_at_any_moment(tmp_path, image, psf, number):
    import time

    source = stored(tmp_path, image)
    expected = unbroken(tmp_path, source, psf)
    path = tmp_path / "out.zarr"
    rng = np.random.default_rng(number)
    log = Path(f"{path}.job.log")
    process = subprocess.Popen([sys.executable, "-c", KILLED, source, path])
    wanted = int(rng.integers(0, 200))  # bytes of the log: somewhere among the tiles
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.stat().st_size >= wanted:
            break
        time.sleep(0.001)
    process.kill()
    process.wait()
    done = mf.restore_volume(source, path, psf, **RL)
    assert done.finished
    assert np.array_equal(result(path), expected)


# Plans and memory


def test_plan_is_what_is_done(tmp_path, image, psf):
    options = {"method": "rl", "num_iter": 3, "tile": (16, 16, 32), **SMALL}
    plan = plan_volume(image, psf, **options)
    done = mf.restore_volume(image, tmp_path / "out.zarr", psf, **options)
    for name, value in plan.items():
        assert done.plan[name] == (list(value) if isinstance(value, tuple) else value)
    assert plan.tiles == 9 and plan.counts == (3, 3, 1) and plan.disk == image.size * 4
    text = str(plan)
    for part in ("9: 3 x 3 x 1 per image", "halo", "GB per worker", "3 iterations"):
        assert part in text


def test_memory_decides_the_grid_and_workers_do_not(psf):
    source = mf.io.open_source(np.broadcast_to(np.uint16(7), (256, 256, 256)))
    options = {"method": "rl", "num_iter": 10, "chunks": (32, 32, 32), "shards": None}
    small, large = (plan_volume(source, psf, memory=m, **options) for m in ("200 MB", "2 GB"))
    assert large.tiles == 1 < small.tiles
    assert small.predicted_memory <= 200e6
    assert plan_volume(source, psf, memory="200 MB", num_threads=1, **options)["core"] == small.core


def test_what_is_read_as_a_whole_counts(tmp_path, psf):
    pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
    array = np.full((128, 160, 160), 3, np.float32)
    mf.io.write(tmp_path / "a.nii.gz", mf.io.Volume(array))
    options = {"method": "rl", "num_iter": 3, "tile": (64, 64, 64), "chunks": (32, 32, 32)}
    caller, file = (plan_volume(s, psf, **options) for s in (array, tmp_path / "a.nii.gz"))
    assert file.predicted_memory - caller.predicted_memory == array.nbytes
    small = plan_volume(array, psf, memory=caller.predicted_memory, **options).predicted_memory
    with pytest.raises(ValueError, match="tile"):
        plan_volume(tmp_path / "a.nii.gz", psf, memory=small + array.nbytes // 2, **options)


def test_pages_of_mapped_files_are_given_back(tmp_path):
    """Mapped pages count as memory of the process: a whole file's, after enough tiles."""
    status = Path("/proc/self/status")
    if not status.exists() or "RssFile" not in status.read_text():
        pytest.skip("reads the process' memory from /proc")
    array = np.arange(128 * 256 * 512, dtype=np.float32).reshape(128, 256, 512)
    np.save(tmp_path / "a.npy", array)
    source = mf.io.open_source(tmp_path / "a.npy")

    def mapped():
        return int(re.search(r"RssFile:\s*(\d+)", status.read_text())[1]) * 1024

    before = mapped()
    for z in range(0, 128, 32):
        part = (slice(z, z + 32), slice(3, 250), slice(5, 500))
        assert np.array_equal(source.read(0, part), array[part])
    assert mapped() - before < array.nbytes / 8


MEASURED = """
import re, sys, medeconv_fast as mf
psf = mf.psf.gaussian((3, 3, 3), (1, 1, 1))
options = {"engine": "spectral", "chunks": (32, 32, 32), "shards": (64, 64, 64), "memory": "250 MB"}
if sys.argv[3] == "rl":
    options |= {"acceleration": "biggs-andrews", "regularizer": ("tv", 0.002), "num_iter": 2}
else:
    options |= {"engine": "auto", "balance": 0.05, "memory": "300 MB"}
done = mf.restore_volume(sys.argv[1], sys.argv[2], psf, method=sys.argv[3], **options)
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(done.tiles, done.plan.memory, done.plan.predicted_memory, peak)
"""


SEARCHED = """
import re, sys, medeconv_fast as mf
psf = mf.psf.gaussian((3, 3, 3), (1, 1, 1))
options = {"chunks": (32, 32, 32), "shards": (64, 64, 64), "memory": sys.argv[3]}
done = mf.restore_volume(sys.argv[1], sys.argv[2], psf, method="wiener", **options)
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(done.plan.memory, done.plan.predicted_memory, peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize("memory", ["450 MB", "500 MB"])
def test_memory_is_kept_to_while_numbers_are_found(tmp_path, memory):
    """The search for a balance takes its share, and leaves nothing of it to the tiles."""
    source = tmp_path / "in.zarr"
    noise = np.random.default_rng(0).poisson(50, (160, 160, 160)).astype(np.uint16)
    mf.io.write(source, mf.io.Volume(noise))
    done = subprocess.run(
        [sys.executable, "-c", SEARCHED, source, tmp_path / "out.zarr", memory],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    allowed, predicted, peak = map(int, done.stdout.split())
    assert peak < predicted <= allowed


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize("method", ["rl", "wiener"])
def test_memory_is_kept_to(tmp_path, method):
    source = tmp_path / "in.zarr"
    mf.io.write(source, mf.io.Volume(counts((160, 160, 160)).astype(np.uint16)))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, source, tmp_path / "out.zarr", method],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tiles, memory, predicted, peak = map(int, done.stdout.split())
    assert tiles > 3
    assert peak < predicted <= memory


def test_the_page_on_volumes(tmp_path, monkeypatch, capsys):
    """docs/volumes.md, on an image made for it."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "volumes.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    image = mf.io.Volume(counts((20, 40, 40)).astype(np.uint16), (0.3, 0.1, 0.1), None, "um")
    mf.io.write("embryo.ome.zarr", image)
    exec(compile(code, "docs/volumes.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1 ")
    # Whatever options it names, the command has.
    assert cli.main(["restore", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in re.findall(r"`(--[a-z-]+)", text):
        assert option in shown, option
