"""The GPU benchmark's contenders, on the processor: that they compute the same thing as ours does."""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("gpu", BENCHMARKS / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    return module


def test_psf_and_its_transform(gpu, rng):
    psf, x = gpu.gaussian(2, 5), rng.standard_normal((12, 16))
    otf = gpu.otf_of(np, psf, x.shape, np.float64)
    blurred = np.fft.irfftn(np.fft.rfftn(x) * otf, s=x.shape, axes=(0, 1))
    assert abs(blurred - mf.Blur(psf, x.shape, boundary="wrap").forward(x)).max() < 1e-6


@pytest.mark.peers
def test_torch_solver(gpu, rng, relative_error):
    torch = pytest.importorskip("torch")
    image = rng.poisson(50.0, (12, 14, 16)).astype(np.float32)
    psf = gpu.gaussian(3, 5)
    otf = torch.from_numpy(gpu.otf_of(np, psf, image.shape, np.float32).astype(np.complex64))
    solve = gpu.torch_richardson_lucy(torch, torch.from_numpy(image), otf, 1e-6 * float(image.max()))
    expected = mf.richardson_lucy(image, psf, 7, boundary="wrap")
    assert relative_error(solve(7).numpy(), expected) < gpu.BOUNDS["deconvolution"]


@pytest.mark.peers
@pytest.mark.parametrize("transposed", [False, True])
def test_layers(gpu, transposed):
    torch = pytest.importorskip("torch")
    cases = sys.modules["cases"]
    w = (4, 3, 3, 2) if transposed else (6, 2, 3, 2)
    layer = cases.Layer("", "", (2, 4, 9, 11), w, 2, padding=1, groups=2, transposed=transposed)
    sets = [
        {k: torch.randn(s) for k, s in (("x", layer.x), ("w", layer.w), ("grad", layer.output()))}
        for _ in range(2)
    ]
    runs = gpu.layer_runs(types.SimpleNamespace(torch=torch), layer, sets)
    assert list(runs) == ["forward", "input_grad", "weight_grad"]
    for contenders in runs.values():
        first = {name: run() for name, run in contenders.items()}
        assert torch.allclose(first["ours"], first["torch"], rtol=1e-4, atol=1e-4)
        second = contenders["ours"]()  # of other operands
        assert not torch.allclose(first["ours"], second, rtol=1e-2, atol=1e-2)


def test_table(gpu):
    record = {
        "machine": {"device": "A GPU"},
        "copy_bytes_per_s": 4.25e12,
        "entries": [
            {
                "kind": "networks",
                "layer": "1-64",
                "what": "forward",
                "ms_graph": {"ours": 0.02, "torch": 0.05},
                "share_of_roofline": {"ours": 0.8, "torch": 0.32},
            },
            {"kind": "deconvolution", "grid": [2, 3, 4], "failed": "RuntimeError: no"},
        ],
    }
    lines = gpu.table(record).splitlines()
    assert lines[0] == "A GPU, copy 4.25 TB/s"
    assert lines[4] == "| networks 1-64 forward | ours 0.020, torch 0.050 | 0.80 |"
    assert lines[5] == "| deconvolution [2, 3, 4] | RuntimeError: no | |"
