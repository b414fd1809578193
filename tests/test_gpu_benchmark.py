"""The GPU benchmark of layers, on the processor: that its contenders compute the same thing."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("gpu_networks", BENCHMARKS / "gpu_networks.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_networks", module)
    spec.loader.exec_module(module)
    return module


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
                "layer": "1-64",
                "what": "forward",
                "ms_graph": {"ours": 0.02},
                "share_of_roofline": {"ours": 0.8},
            },
            {"layer": "64-1", "what": "weight_grad", "failed": "RuntimeError: no"},
        ],
    }
    lines = gpu.table(record).splitlines()
    assert lines[2] == "copy: 4.25 TB/s, bytes read and written"
    assert lines[6] == "| 1-64 | forward | 0.0200 | refused | 0.80 |"
    assert lines[7] == "| 64-1 | weight_grad | RuntimeError: no | | |"
