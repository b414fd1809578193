"""Fixtures of the whole suite. Every test that computes is run once per backend that is available here."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import emulated  # noqa: F401, before the package

import medeconv_fast as mf

ROOT = Path(__file__).resolve().parents[1]
IN_MEMORY, ROOM = Path("/dev/shm"), 4 << 30


def pytest_configure():
    """Thousands of small files, each waited for until a disk has it, take longer than many of the tests."""
    if os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > ROOM:
        os.environ.setdefault("TMPDIR", str(IN_MEMORY))
        tempfile.tempdir = None  # asked for again


@pytest.fixture(params=mf.backends.available())
def backend(request):
    return request.param


def pytest_collection_modifyitems(items):
    for item in items:
        parameters = getattr(item, "callspec", None)
        on_cuda = parameters is not None and parameters.params.get("backend") == "cuda"
        if on_cuda or item.path.name.startswith("test_cuda"):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20240611)


def _load_tolerances():
    spec = importlib.util.spec_from_file_location("tolerances", Path(__file__).with_name("tolerances.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TABLE


@pytest.fixture(scope="session")
def tol():
    """tol(name, dtype): the entry of tests/tolerances.py."""
    table = _load_tolerances()
    return lambda name, dtype=np.float64: getattr(table[name], np.dtype(dtype).name)


@pytest.fixture(scope="session")
def shared_data():
    """Real images beside the repository; where they are not, the tests that need them say so."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"SKIPPED: real images not found (expected in ../shared/data beside {ROOT.name})")
    return path


@pytest.fixture(scope="session")
def relative_error():
    """relative_error(got, expected): norm of the difference over the norm of what was expected."""

    def error(got, expected):
        got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
        assert got.shape == expected.shape
        return np.linalg.norm(got - expected) / np.linalg.norm(expected)

    return error


_PAD_MODE = {"reflect": "symmetric", "nearest": "edge", "mirror": "reflect", "wrap": "wrap"}


@pytest.fixture(scope="session")
def dense_blur():
    """dense_blur(psf, shape, boundary) -> (matrix, estimate_shape, frame): H written out from its definition.

    y[i] = sum_j h[j] x[i - (j - k // 2)]; the index outside that a boundary stands for comes from np.pad on
    an index array, voxel by voxel, so that nothing is shared with the package.
    """

    def dense(psf, shape, boundary):
        psf = np.asarray(psf, np.float64)
        low = [k - 1 - k // 2 for k in psf.shape]
        high = [k // 2 for k in psf.shape]
        padded = [a + n + b for a, n, b in zip(low, shape, high, strict=True)]
        estimate_shape = tuple(padded) if boundary == "extended" else tuple(shape)
        columns = []  # per axis: padded position -> index in the estimate, -1 where there is none
        for n, a, b in zip(shape, low, high, strict=True):
            if boundary == "extended":
                columns.append(np.arange(a + n + b))
            elif boundary == "zero":
                columns.append(np.pad(np.arange(n), (a, b), constant_values=-1))
            elif boundary == "mirror" and n == 1:
                columns.append(np.zeros(a + n + b, int))
            else:
                columns.append(np.pad(np.arange(n), (a, b), mode=_PAD_MODE[boundary]))
        matrix = np.zeros((int(np.prod(shape)), int(np.prod(estimate_shape))))
        rows = np.arange(matrix.shape[0])
        voxels = np.unravel_index(rows, shape)
        for tap in np.ndindex(psf.shape):
            index = [
                column[i + a - (j - k // 2)]
                for column, i, a, j, k in zip(columns, voxels, low, tap, psf.shape, strict=True)
            ]
            inside = np.all([i >= 0 for i in index], axis=0)
            flat = np.ravel_multi_index([i[inside] for i in index], estimate_shape)
            np.add.at(matrix, (rows[inside], flat), psf[tap])
        start = low if boundary == "extended" else [0] * len(shape)
        frame = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
        return matrix, estimate_shape, frame

    return dense


@pytest.fixture
def nothing_kept(monkeypatch):
    """For a GPU of kilobytes: what the CUDA backend keeps between calls is as large."""
    from medeconv_fast import _device
    from medeconv_fast.backends import _cuda_spectral

    monkeypatch.setattr(_device, "MOST_LASTING", 0)
    monkeypatch.setattr(_cuda_spectral, "MOST_TABLES", 0)
    mf.release_memory()


@pytest.fixture
def run_patched(tmp_path):
    """run_patched(peer, *pytest_arguments, **environment) -> {name: [own, delegated]} of `compat.calls`.

    Runs a peer's own tests in a process of their own with our stand-ins in its place; all must pass.
    """

    def run(peer, *arguments, **environment):
        calls = tmp_path / "calls.json"
        paths = [str(Path(__file__).parent), str(Path(mf.__file__).parents[1])]
        env = os.environ | {"MEDECONV_PATCHED": peer, "MEDECONV_CALLS": str(calls)} | environment
        env["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "pytest", "-q", "-p", "patched_suite", "-p", "no:cacheprovider"]
        command += ["--rootdir", str(tmp_path), "-c", os.devnull, *arguments]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        return json.loads(calls.read_text())

    return run
