"""`medeconv bench` and its contenders on tiny problems: they agree, and nothing here asserts a time."""

import importlib.util
import json

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast._cli import bench, peers
from medeconv_fast.cli import main

pytest.importorskip("scipy", reason="SKIPPED: scipy is not installed (extra test)")

OWN = [f"medeconv-{engine}" for engine in mf._blur.ENGINES if engine != "auto"]
HEAVY = ("torch", "SimpleITK")
OPERATIONS = {
    "iteration": [*OWN, "pyfftw", "scipy.fft", "torch.fft", "scipy.ndimage"],
    "convolution": [*OWN, "pyfftw", "scipy.fft", "torch.fft", "scipy.ndimage", "torch.conv"],
    "wiener": ["medeconv", "pyfftw", "scipy.fft", "torch.fft", "scikit-image"],
    "function": ["medeconv", "scikit-image", "scikit-image-workers", "SimpleITK"],
    "convolve": ["medeconv", "scipy.signal"],
}
SHAPES = {1: ((91,), (7,)), 2: ((33, 40), (5, 7)), 3: ((13, 21, 22), (3, 5, 5))}
PERIODIC_ONLY = ("scipy.ndimage", "torch.conv")
CASES = [
    pytest.param(
        operation,
        contender,
        marks=[pytest.mark.peers] if peers.CONTENDERS.get(contender, ("",))[0] in HEAVY else [],
    )
    for operation, contenders in OPERATIONS.items()
    for contender in contenders
]


@pytest.mark.parametrize("ndim", SHAPES)
@pytest.mark.parametrize("kind", ["general", "gaussian"])
@pytest.mark.parametrize(("operation", "contender"), CASES)
def test_contenders_agree(operation, contender, kind, ndim):
    module = peers.CONTENDERS.get(contender, ("",))[0]
    if module and importlib.util.find_spec(module) is None:
        pytest.skip(f"SKIPPED: {peers.PACKAGES[module]} is not installed")
    if contender == "SimpleITK" and ndim == 1:
        pytest.skip("SKIPPED: SimpleITK has no 1-D images")
    shape, psf_shape = SHAPES[ndim]
    tried = 0
    for boundary in ("wrap", "extended") if operation in ("iteration", "convolution") else ("wrap",):
        if boundary == "extended" and contender in PERIODIC_ONLY:
            continue
        given = peers.problem(shape, psf_shape, kind, boundary, 2, framed=operation == "function")
        try:
            task = peers.task(contender, given, operation, planning_limit_s=1.0)
        except ValueError as refusal:
            assert contender in OWN and "engine" in str(refusal)
            pytest.skip(f"SKIPPED: {refusal}")
        expected = peers.reference(given, operation, task.initial)
        assert peers.disagreement(task, operation, expected) < peers.BOUNDS[operation]
        tried += 1
    assert tried


def test_a_wrong_result_is_seen():
    given = peers.problem((16, 18), (5, 3), "general", "wrap", 1)
    task = peers.task("medeconv-spectral", given, "convolution")
    expected = peers.reference(given, "convolution")
    shifted = np.roll(expected, 1, axis=0)
    assert peers.disagreement(task, "convolution", expected) < peers.BOUNDS["convolution"]
    assert peers.disagreement(task, "convolution", shifted) > 100 * peers.BOUNDS["convolution"]
    flipped = peers.reference(given.__class__(given.image, given.psf[::-1], None, "wrap", 1), "convolution")
    assert peers.disagreement(task, "convolution", flipped) > 100 * peers.BOUNDS["convolution"]


def test_problems_are_seeded_and_framed():
    one, two = (peers.problem((30, 31), (5, 3), "general", "extended", 1, framed=True) for _ in range(2))
    assert np.array_equal(one.image, two.image) and np.array_equal(one.psf, two.psf)
    assert one.psf.sum() == pytest.approx(1, abs=1e-12)
    assert not one.image[:8].any() and not one.image[-8:].any() and not one.image[:, :4].any()
    assert (one.image[8:-8, 4:-4] > 0).all()
    with pytest.raises(ValueError, match="frame"):
        peers.problem((16, 31), (5, 3), "general", "extended", 1, framed=True)


def test_unknown_contender():
    with pytest.raises(ValueError, match="contender"):
        peers.task("nobody", peers.problem((8,), (3,), "general", "wrap", 1), "iteration")


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "REPEAT_FOR_S", 0.01)
    monkeypatch.setattr(bench, "OTHERS", ("scipy.fft",))
    target = tmp_path / "bench.json"
    assert main(["bench", "--shape", "12", "14", "15", "--threads", "1", "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    record = json.loads(target.read_text())
    assert record["command"] == "bench" and record["num_threads"] == 1
    assert record["versions"]["numpy"] == np.__version__
    operations = {(case["operation"], case["kind"]) for case in record["cases"]}
    assert {("iteration", "general"), ("iteration", "gaussian")} <= operations
    for case in record["cases"]:
        assert case["shape"] == [12, 14, 15]
        assert case["title"] in printed
        for row in case["rows"]:
            assert row["error"] <= case["bound"]
            assert row["ms"] > 0 and row["ratio"] > 0
    assert "medeconv spectral" in printed and "medeconv separable" in printed and "scipy.fft" in printed


def test_missing_libraries_are_named(capsys, monkeypatch):
    monkeypatch.setattr(bench, "REPEAT_FOR_S", 0.01)
    found = importlib.util.find_spec
    hidden = ("torch", "pyfftw", "skimage")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n in hidden else found(n, *a))
    assert main(["bench", "--shape", "9", "10"]) == 0
    printed = capsys.readouterr().out
    for name in ("torch", "pyfftw", "scikit-image"):
        assert f"pip install {name}" in printed
    assert "torch.fft" not in printed and "scipy.fft" in printed
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert main(["bench", "--shape", "9", "10"]) == 2
    assert "scipy" in capsys.readouterr().err


def test_stays_below_the_time_given(capsys):
    assert main(["bench", "--shape", "9", "10", "--seconds", "1e-9"]) == 0
    captured = capsys.readouterr()
    assert "left out" in captured.out and "--seconds" in captured.err


def test_disagreement_is_a_failure(capsys, monkeypatch):
    monkeypatch.setattr(bench, "REPEAT_FOR_S", 0.01)
    monkeypatch.setattr(peers, "reference", lambda given, *_: np.ones(given.image.shape))
    assert main(["bench", "--shape", "9", "10"]) == 3
    captured = capsys.readouterr()
    assert "disagree" in captured.err and "not timed" in captured.out
