"""What a GPU's memory does not hold is cut into tiles: on the emulator, whose memory is as small as asked."""

import os
import warnings

import numpy as np
import pytest
from test_tiles import PSF, difference, in_tiles, scene

import medeconv_fast as mf
from medeconv_fast import _device
from medeconv_fast.algorithms import _tile

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("MEDECONV_TEST_EMULATOR"),
        reason="SKIPPED: needs a GPU with little memory, and MEDECONV_TEST_EMULATOR names no emulator",
    ),
    pytest.mark.usefixtures("nothing_kept"),
]


@pytest.fixture
def image():
    return scene((24, 40, 36))


def needed(image, **options):
    """What the whole run takes on the GPU."""
    _, info = mf.richardson_lucy(image, PSF, 2, backend="cuda", return_info=True, **options)
    return info.bytes + image.nbytes


@pytest.mark.parametrize("streams", ["eager", "lazy"])
def test_what_does_not_fit_is_cut(image, streams, monkeypatch, tol):
    """The emulator refuses what goes beyond: that the run ends well says that it stays within."""
    whole = mf.richardson_lucy(image, PSF, 5, backend="cuda")
    limit = int(0.6 * needed(image))
    monkeypatch.setenv("MEDECONV_EMULATOR_STREAMS", streams)
    monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", str(limit))
    with pytest.warns(UserWarning, match=r"MB are free: restored in .* tiles with a halo of"):
        tiled, info = mf.richardson_lucy(image, PSF, 5, backend="cuda", return_info=True)
    tiling = info.settings["tiles"]
    assert np.prod(tiling["counts"]) > 1 and len(info.warnings) == 1 and info.bytes < limit
    (said,) = (w for w in mf.plan(image.shape, PSF, backend="cuda").warnings if w.startswith("memory"))
    assert "MB are free; richardson_lucy works in tiles, of a NumPy array" in said
    assert 0 < difference(tiled, whole) < tol("seam", np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="restored in"):  # before anything is computed
            mf.richardson_lucy(image, PSF, 5, backend="cuda")
    asked = in_tiles(tiling["counts"], mf.richardson_lucy, image, PSF, 5, backend="cuda")
    assert np.array_equal(asked, tiled)
    monkeypatch.delenv("MEDECONV_EMULATOR_MEMORY")
    assert np.array_equal(mf.richardson_lucy(image, PSF, 5, backend="cuda"), whole)


@pytest.mark.parametrize(
    "options",
    [
        {"boundary": "reflect"},
        {"boundary": "wrap", "background": 0.5},
        {"acceleration": "biggs-andrews", "stop": "relative-change", "regularizer": ("tv", 0.002)},
        {"weights": np.random.default_rng(5).random((130, 120)) + 0.5, "negative": "clip"},
        {"damping": np.full((130, 120), 1.5), "readout_variance": np.full((130, 120), 1.0)},
        {"back_projector": "gaussian", "num_iter": 2},
    ],
    ids=lambda o: " ".join(o),
)
def test_the_prediction_holds(options, monkeypatch, tol):
    image, psf = scene((130, 120)), PSF.sum(0)
    options = {"num_iter": 4, "backend": "cuda"} | options
    if "negative" in options:
        image = image - 4
    share = 0.75 if "back_projector" not in options else 1.1  # of which info.bytes does not count all
    whole, info = mf.richardson_lucy(image, psf, return_info=True, **options)
    monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", str(int(share * (info.bytes + image.nbytes))))
    with pytest.warns(UserWarning, match="restored in"):
        tiled, of_tiles = mf.richardson_lucy(image, psf, return_info=True, **options)
    assert np.prod(of_tiles.settings["tiles"]["counts"]) > 1
    if "acceleration" not in options:  # whose factors are a part's
        assert difference(tiled, whole) < tol("seam", np.float32)


def test_restore_is_cut_as_well(monkeypatch):
    image, psf = scene((130, 120)), PSF.sum(0)
    run = {"backend": "cuda", "return_info": True}
    _, info = mf.richardson_lucy(image, psf, 2, acceleration="biggs-andrews", **run)
    monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", str(int(0.8 * info.bytes)))
    with pytest.warns(UserWarning, match="with iterations and factors of the brightest tile"):
        tiled, info = mf.restore(image, psf, **run)
    assert np.isfinite(tiled).all() and info.settings["tiles"]["found_in"] is not None


def test_what_cannot_be_cut_names_need_and_have(image, monkeypatch):
    monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", str(int(0.6 * needed(image))))
    run = {"num_iter": 3, "backend": "cuda"}
    sizes = r"GPU memory: richardson_lucy takes [\d.]+ MB beside the image, [\d.]+ MB of [\d.]+ MB are free; "
    with pytest.raises(
        MemoryError, match=sizes + "in tiles it would fit, but with a callback it cannot be cut"
    ):
        mf.richardson_lucy(image, PSF, callback=lambda i, x: None, **run)
    device = _device.own_memory().uploaded(image)
    with pytest.raises(MemoryError, match=sizes + "from a NumPy array with backend"):
        mf.richardson_lucy(device, PSF, 3)
    del device
    monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", "60000")
    with pytest.raises(MemoryError, match=sizes + "which does not even hold a tile with its halo"):
        mf.richardson_lucy(image, PSF, **run)


def test_failing_halfway_leaves_no_result(image, monkeypatch):
    """Someone else takes the memory between two tiles."""
    beside = _tile.Restorer.beside
    done = []

    def fails(self, raw, tile):
        if done:
            monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", "1000")
        done.append(tile.index)
        return beside(self, raw, tile)

    monkeypatch.setattr(_tile.Restorer, "beside", fails)
    with pytest.raises(MemoryError, match=r"GPU memory: \d+ MB more are needed, \d+ MB of \d+ MB are free"):
        in_tiles((2, 2, 1), mf.richardson_lucy, image, PSF, 3, backend="cuda")
    assert done == [0, 1]


def test_volumes_take_tiles_that_the_gpu_holds(tmp_path, monkeypatch, tol):
    pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
    image = scene((24, 64, 64))
    whole = mf.richardson_lucy(image, PSF, 4)
    store = {"chunks": (8, 16, 16), "shards": None}
    run = {"num_iter": 4, "backend": "cuda", "memory": "4 GB"}
    monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", str(int(0.5 * needed(image))))
    result = mf.restore_volume(image, tmp_path / "out.zarr", PSF, method="rl", **store, **run)
    assert result.tiles > 1
    assert difference(mf.io.open_source(tmp_path / "out.zarr").read(0), whole) < tol("seam", np.float32)


@pytest.mark.parametrize("streams", ["eager", "lazy"])
@pytest.mark.parametrize(
    ("mode", "boundary"),
    [("full", "zero"), ("valid", "zero")]
    + [("same", b) for b in ("zero", "reflect", "nearest", "mirror", "wrap")],
)
def test_convolve_in_tiles_is_the_whole(mode, boundary, streams, rng, monkeypatch, tol, relative_error):
    """Kernels whose parts overlap little, and one that is longer than the image."""
    monkeypatch.setenv("MEDECONV_EMULATOR_STREAMS", streams)
    image = rng.random((22, 41, 30)).astype(np.float32)
    small, long = rng.random((3, 6, 5)).astype(np.float32), np.ones((4, 1, 45), np.float32)
    carried = []
    carry = _device.carry
    monkeypatch.setattr(_device, "carry", lambda *a, **k: carried.append(len(a[0])) or carry(*a, **k))
    for kernel, method in ((small, "direct"), (small, "fft"), (long, "auto")):
        if mode == "valid" and kernel.shape[2] > image.shape[2]:
            continue
        run = {"mode": mode, "boundary": boundary, "method": method}
        monkeypatch.delenv("MEDECONV_EMULATOR_MEMORY", raising=False)
        expected = mf.convolve(image.astype(float), kernel, backend="reference", **run)
        monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", str(2 * image.nbytes))
        carried.clear()
        got = mf.convolve(image, kernel, backend="cuda", **run)
        assert carried and carried[0] > 1
        assert relative_error(got, expected) < tol("convolution", np.float32)
    monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", "100")
    with pytest.raises(MemoryError, match=r"GPU memory: convolve takes .* which does not even hold a tile"):
        mf.convolve(image, kernel, backend="cuda", mode="same")


@pytest.mark.parametrize("boundary", ["reflect", "wrap", "zero"])
def test_filters_in_tiles(boundary, monkeypatch, tol):
    image, psf = scene((130, 120)) - 5, PSF.sum(0)
    same = {"boundary": boundary}
    calls = {
        "wiener": lambda **o: mf.wiener(image, psf, 0.05, **same, **o),
        "tikhonov": lambda **o: mf.tikhonov(image, psf, 0.05, regularizer=1, prior=2.0, **same, **o),
        "noise": lambda **o: mf.wiener(image, psf, noise_to_signal=0.05, **same, **o),
    }
    for name, run in calls.items():
        monkeypatch.delenv("MEDECONV_EMULATOR_MEMORY", raising=False)
        whole = run()
        monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", str(4 * 4 * image.size))
        with pytest.warns(UserWarning, match="MB are free: filtered in .* tiles with a halo of"):
            tiled, info = run(backend="cuda", return_info=True)
        tiling = info.settings["tiles"]
        assert np.prod(tiling["counts"]) > 1 and tiling["found_in"] is None, name
        assert difference(tiled, whole) < tol("seam", np.float32), name


def test_a_filters_weight_is_found_in_the_brightest_tile(monkeypatch):
    image, psf = scene((130, 120)), PSF.sum(0)
    monkeypatch.setenv("MEDECONV_EMULATOR_MEMORY", str(4 * 4 * image.size))
    with pytest.warns(UserWarning, match="filtered in"):
        _, info = mf.wiener(image, psf, backend="cuda", return_info=True)
    region = tuple(slice(*span) for span in info.settings["tiles"]["found_in"])
    _, part = mf.wiener(image[region], psf, return_info=True)
    assert info.settings["balance_searched"]
    assert info.settings["balance"] == pytest.approx(part.settings["balance"], rel=1e-2)
    powers = {"noise_power": np.ones(image.shape), "signal_power": np.ones(image.shape)}
    with pytest.raises(MemoryError, match=r"wiener takes .* but with arrays of powers it cannot be cut"):
        mf.wiener(image, psf, backend="cuda", **powers)
    with pytest.raises(MemoryError, match=r"tikhonov takes .* but with an array as prior it cannot be cut"):
        mf.tikhonov(image, psf, 0.1, prior=image, backend="cuda")
