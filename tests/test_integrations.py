"""examples/integrations.py does what it says, whole and part by part."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "integrations.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("integrations", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def image(rng):
    return rng.random((12, 40, 40), dtype=np.float32) + 1


PSF = np.ones((3, 3, 3)) / 27


def test_runs():
    for module in ("dask.array", "scipy", "skimage"):
        pytest.importorskip(module, reason=f"SKIPPED: {module} is not installed")
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    before, *after = (float(line.split()[-2]) for line in done.stdout.splitlines() if line.endswith(" dB"))
    assert len(after) == 3
    assert min(after) > before + 2
    assert done.stdout.count("1 computed here, 0 handed back") == 2


def test_dictionary_transform(example, image):
    data = {"image": np.stack([image, 2 * image]), "label": "kept"}
    result = example.Deblurd(["image"], PSF, num_iter=3)(data)
    assert result["label"] == "kept"
    expected = mf.richardson_lucy(image, PSF, 3)
    np.testing.assert_array_equal(result["image"][0], expected)
    np.testing.assert_array_equal(data["image"][0], image)


def test_dictionary_transform_of_tensors(example, image):
    torch = pytest.importorskip("torch", reason="SKIPPED: torch is not installed")
    result = example.Deblurd(["image"], PSF, num_iter=3)({"image": torch.from_numpy(image)[None]})
    assert isinstance(result["image"], torch.Tensor)
    np.testing.assert_array_equal(result["image"][0].numpy(), mf.richardson_lucy(image, PSF, 3))


def test_dask_blocks_join_without_a_seam(example, image):
    da = pytest.importorskip("dask.array", reason="SKIPPED: dask is not installed")
    blocks = example.deblur_blocks(da.from_array(image, chunks=(12, 20, 20)), PSF, num_iter=3)
    assert blocks.dtype == np.float32
    whole = mf.richardson_lucy(image, PSF, 3, boundary="reflect")
    # Three iterations reach six voxels, the overlap is two: what is left of the seam is small, not nothing.
    np.testing.assert_allclose(blocks.compute(), whole, rtol=0.05)
