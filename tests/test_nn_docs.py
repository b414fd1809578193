"""docs/nets.md: the literal example on real slices gains what it says."""

import importlib.util
from pathlib import Path

import pytest

import medeconv_fast as mf

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def example():
    for name in ("nibabel", "pydicom", "openjpeg", "scipy"):
        pytest.importorskip(name, reason=f"SKIPPED: {name} is not installed (extra io)")
    spec = importlib.util.spec_from_file_location("train_net", ROOT / "examples" / "train_net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:.*padding.*:UserWarning")
def test_ten_epochs_beat_cubic_interpolation(example):
    x, y = example.pairs(example.training_scans())
    net = mf.nn.DeconvNet(scale=2).compile(optimizer="adam", loss="mse")
    net.fit(x, y, epochs=10, batch_size=32)
    gains = [after - before for before, after in example.gains(net).values()]
    assert len(gains) == 3 and min(gains) > 0.8  # measured: 2.6, 1.5, 1.0 dB
