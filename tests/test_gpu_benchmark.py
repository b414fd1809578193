"""The GPU benchmark on the processor: its contenders compute the same thing as ours, and all of it runs.

What torch and CuPy ask of a GPU is played by what has the same names here.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
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
    otf = gpu.otf_of(np.fft.rfftn, psf, x.shape, np.float64)
    blurred = np.fft.irfftn(np.fft.rfftn(x) * otf, s=x.shape, axes=(0, 1))
    assert abs(blurred - mf.Blur(psf, x.shape, boundary="wrap").forward(x)).max() < 1e-6


@pytest.mark.peers
def test_torch_solver(gpu, rng, relative_error):
    torch = pytest.importorskip("torch")
    image = rng.poisson(50.0, (12, 14, 16)).astype(np.float32)
    psf = gpu.gaussian(3, 5)
    otf = torch.from_numpy(gpu.otf_of(np.fft.rfftn, psf, image.shape, np.float32).astype(np.complex64))
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


class Event:
    """A torch.cuda.Event of work that is done when it has been given."""

    def __init__(self, enable_timing):
        pass

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, later):
        return 1e3 * (later.at - self.at)


def fake_cupy():
    """What the benchmark asks of CuPy, by NumPy; a kernel's C is evaluated as Python."""
    module = types.ModuleType("cupy")
    for name in ("fft", "full", "maximum", "broadcast_to", "asarray"):
        setattr(module, name, getattr(np, name))

    class ElementwiseKernel:
        def __init__(self, inputs, output, text, name):
            self._names = [part.split()[1] for part in inputs.split(", ")]
            self._code = compile(text.removeprefix("y = "), name, "eval")

        def __call__(self, *arguments):
            values = dict(zip(self._names, arguments, strict=False))
            arguments[-1][...] = eval(self._code, {"conj": np.conj, "max": np.maximum}, values)

    module.ElementwiseKernel = ElementwiseKernel
    module.get_default_memory_pool = lambda: types.SimpleNamespace(free_all_blocks=lambda: None)
    return module


@pytest.mark.peers
@pytest.mark.parametrize("with_cupy", [False, True])
def test_from_end_to_end(gpu, with_cupy, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    cuda = torch.cuda
    properties = types.SimpleNamespace(name="none", total_memory=1, multi_processor_count=1)
    for name, value in {
        "Event": Event,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 100,
        "max_memory_allocated": lambda: 100 + 3 * 4 * 12 * 14 * 16,
        "get_device_properties": lambda device: properties,
    }.items():
        monkeypatch.setattr(cuda, name, value)
    monkeypatch.setattr(gpu, "graph_of", lambda bench, run, calls: lambda: [run() for _ in range(calls)])
    monkeypatch.setattr(gpu, "GRIDS", ((12, 14, 16), (16, 16, 16)))
    monkeypatch.setattr(gpu, "BATCH", (3, 20, 24))
    monkeypatch.setattr(gpu, "COPIED_VALUES", 1000)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "gaussian", lambda ndim, size=5, make=gpu.gaussian: make(ndim, size))
    layer = sys.modules["cases"].Layer("small", "", (1, 2, 9, 11), (3, 2, 3, 3), 2, padding=1)
    monkeypatch.setattr(gpu, "LAYERS", [layer])
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy() if with_cupy else None)
    out = tmp_path / "gpu.json"
    bench = gpu.Bench(out, 100, device="cpu")
    gpu.networks(bench)
    gpu.deconvolution(bench)
    record = json.loads(out.read_text())
    kinds = [entry["kind"] for entry in record["entries"]]
    assert kinds == ["networks"] * 3 + ["deconvolution", "wiener"] * 2 + ["2-D batch"]
    assert not any("failed" in entry for entry in record["entries"]), record
    contenders = {"ours", "ours, any psf", "torch.fft"} | ({"cupy"} if with_cupy else set())
    assert ("cupy" in record) is not with_cupy and ("absent: " in record.get("cupy", "absent: "))
    for entry in record["entries"]:
        if entry["kind"] == "networks":
            assert set(entry["ms_graph"]) == {"ours", "torch"} == set(entry["share_of_roofline"])
        elif entry["kind"] == "deconvolution":
            assert set(entry["ms_per_iteration"]) == contenders == set(entry["errors"])
            assert max(entry["errors"].values()) < gpu.BOUNDS["deconvolution"]
        elif entry["kind"] == "2-D batch":
            assert set(entry["ms"]) == contenders
    assert record["entries"][3]["peak_volumes"] == pytest.approx(3)
    lines = out.with_suffix(".md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 1 + len(record["entries"])


@pytest.mark.peers
def test_what_is_wrong_gets_no_time(gpu, tmp_path):
    torch = pytest.importorskip("torch")
    bench = types.SimpleNamespace(torch=torch, device="cpu")
    precise = torch.ones(10, dtype=torch.float64)

    def fails():
        raise RuntimeError("no")

    runs = {
        "right": lambda: torch.ones(10),
        "wrong": lambda: torch.full((10,), 1.01),
        "nan": lambda: torch.full((10,), float("nan")),
        "fails": fails,
    }
    good, errors = gpu.Bench.checked(bench, runs, precise, 1e-4)
    assert list(good) == ["right"] and errors["fails"] == "RuntimeError: no" and set(errors) == set(runs)


def test_failing_stages_of_the_run_are_logged(tmp_path):
    """Where nothing was built every stage fails, each for itself; only the extras may."""
    script = tmp_path / "benchmarks" / "gpu_run.sh"
    script.parent.mkdir()
    shutil.copy(BENCHMARKS / "gpu_run.sh", script)
    results = {}
    for stages in ("tests bench sanitize profile", "sanitize profile"):
        out = tmp_path / stages.replace(" ", "-")
        env = os.environ | {"STAGES": stages}
        done = subprocess.run(
            ["bash", script, out], env=env, capture_output=True, text=True, timeout=60, check=False
        )
        results[stages] = done.returncode
        lines = (out / "summary.txt").read_text().splitlines()
        assert [line.partition(":")[0] for line in lines] == stages.split()
        assert all(re.search(r": FAILED \(\d+\) after \d+ s", line) for line in lines), done.stdout
        assert all((out / f"{stage}.log").read_text() for stage in stages.split())
    assert list(results.values()) == [1, 0]


def test_limits_of_the_run():
    """All stages together, each at its limit and killed late, take less than ten minutes."""
    text = (BENCHMARKS / "gpu_run.sh").read_text()
    limits = [int(n) for n in re.findall(r"^stage \w+ (\d+) ", text, re.MULTILINE)]
    (late,) = re.findall(r"--kill-after=(\d+)", text)
    assert len(limits) == 5 and sum(limits) + len(limits) * int(late) < 600
    (budget,) = re.findall(r"--budget (\d+)", text)
    assert int(budget) + 30 < limits[2]
    table = re.findall(
        r"^\| (\w+) \| (\d+) \|", (BENCHMARKS.parent / "docs" / "gpu.md").read_text(), re.MULTILINE
    )
    assert [int(limit) for _, limit in table] == limits
