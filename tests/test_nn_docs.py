"""docs/nets.md: the literal example on real slices gains what it says."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf

ROOT = Path(__file__).resolve().parents[1]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example():
    for name in ("nibabel", "pydicom", "openjpeg", "scipy"):
        pytest.importorskip(name, reason=f"SKIPPED: {name} is not installed (extra io)")
    return load("train_net")


@pytest.mark.filterwarnings("ignore:.*padding.*:UserWarning")
def test_ten_epochs_beat_cubic_interpolation(example):
    x, y = example.pairs(example.training_scans())
    net = mf.nn.DeconvNet(scale=2).compile(optimizer="adam", loss="mse")
    net.fit(x, y, epochs=10, batch_size=32)
    gains = [after - before for before, after in example.gains(net).values()]
    assert len(gains) == 3 and min(gains) > 0.8  # measured: 2.6, 1.5, 1.0 dB


@pytest.mark.shared
def test_training_without_truth_reaches_restore(shared_data):
    """Within 0.2 dB; one round of the example's four, on a smaller part."""
    pytest.importorskip("tifffile", reason="SKIPPED: tifffile is not installed (extra io)")
    example = load("train_without_truth")
    truth = mf.io.read(shared_data / "micro_pollen_sdeconv" / "pollen.tif").array[:, 96:160, 96:160]
    truth = truth.astype(np.float32)
    psf = mf.psf.gaussian(fwhm=example.FWHM, voxel_size=(1.0, 1.0, 1.0))
    image = mf.simulate(truth, psf, noise="poisson", photons=100, seed=3)
    made, restored = example.trained(image, psf, 1), mf.restore(image, psf)
    assert mf.metrics.psnr(truth, made) > mf.metrics.psnr(truth, restored) - 0.2


def test_the_shipped_network(tol):
    """Small, and on widths and phantoms that it was not trained on no worse than the best-stopped
    plain RL.
    """
    pytest.importorskip("safetensors", reason="SKIPPED: safetensors is not installed (extra nn)")
    pytest.importorskip("scipy", reason="SKIPPED: scipy is not installed (extra preprocess)")
    from medeconv_fast.nn._rl_net import SHIPPED

    assert SHIPPED.stat().st_size < 200_000
    example = load("measure_rlnet")
    gains = []
    for seed in range(3):
        truth = example.phantom((40, 40, 40), np.random.default_rng(500 + seed))
        psf = mf.psf.gaussian(fwhm=(4.2, 3.0, 3.0), voxel_size=(1.0, 1.0, 1.0))
        image = example.image_of(truth, psf, 200, seed)
        net = mf.nn.RLNet.pretrained(psf)
        made = net.predict(image[None, None])[0, 0]
        best = []
        mf.richardson_lucy(
            image, psf, 60, callback=lambda _, e, t=truth, b=best: b.append(mf.metrics.psnr(t, e))
        )
        gains.append(mf.metrics.psnr(truth, made) - max(best))
        scaled = net.predict(1000 * image[None, None])[0, 0]
        assert np.abs(scaled - 1000 * made).max() < tol("precision") * scaled.max()
    assert np.mean(gains) > 0.25 and min(gains) > 0.1  # measured: 0.38, 0.55, 0.28 dB
    with pytest.raises(ValueError, match="psf: got 2 axes"):
        mf.nn.RLNet.pretrained(psf[0])
    # A blur of rings, whose inverses ring far beyond the filters: no ruin.
    rings = mf.psf.born_wolf(
        na=0.8, wavelength=0.52, refractive_index=1.33, voxel_size=(0.4, 0.2, 0.2), shape=(25, 21, 21)
    )
    image = example.image_of(truth, rings, 500, 1)
    made = mf.nn.RLNet.pretrained(rings).predict(image[None, None])[0, 0]
    assert mf.metrics.psnr(truth, made) > mf.metrics.psnr(truth, image) + 1  # measured: 1.9 dB


def test_what_was_trained_on_differences_is_the_network(tmp_path, monkeypatch):
    """examples/pretrain_rlnet.py: a few updates lower the error, and the file does the same to images."""
    for name in ("safetensors", "scipy"):
        pytest.importorskip(name, reason=f"SKIPPED: {name} is not installed")
    monkeypatch.syspath_prepend(ROOT / "examples")
    example = load("pretrain_rlnet")
    monkeypatch.setitem(sys.modules, "pretrain_rlnet", example)  # where its other process is sent to
    for name, value in {"POOL": 24, "FRESH": 6, "CROP": (16, 16, 16), "BATCH": 4, "WARMUP": 10}.items():
        monkeypatch.setattr(example, name, value)
    example.train(3, 90, str(tmp_path / "net.safetensors"))
    net = mf.nn.RLNet.load(tmp_path / "net.safetensors")
    start = mf.nn.Input(len(example.GAINS), 3)
    known, missing = example.fresh(net, 12, np.random.default_rng(9))
    undone = np.linalg.inv(example.mixing())
    plain = np.einsum("km,nm...->nk...", undone, known)
    np.testing.assert_allclose(example.prepared(plain), known, atol=1e-6)
    made = mf.nn.Model(start, net.correction(start)).predict(plain.astype(np.float32))
    before, _ = example.decibels(np.zeros_like(missing), missing, None)
    after, grad = example.decibels(made, missing, None)
    assert after < before - 0.1  # measured: 0.92 dB
    step = (1e-2 / np.abs(grad).max() * grad).astype(np.float64)
    high, low = (example.decibels(made + s * step, missing, None)[0] for s in (0.1, -0.1))
    assert (high - low) / 0.2 == pytest.approx(float((grad * step).sum()), rel=2e-2)
