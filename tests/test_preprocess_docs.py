"""What docs/preprocess.md says is true: its examples run in order, and it names every step."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.cli import main

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "preprocess.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_examples_and_commands(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("scipy")
    pytest.importorskip("tifffile")
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks("python"):
        exec(code, names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("{'box': ((") and lines[0].endswith("(24, 60, 70)")
    assert lines[1] == "(48, 60, 70) (1.0, 1.0, 1.0) (48, 60, 70)"
    assert float(lines[3]) < 1e-6 * names["scan"].array.max()
    truth, scan, whole = names["truth"], names["scan"], names["whole"]
    assert mf.metrics.psnr(truth, whole.array) > mf.metrics.psnr(truth, scan.array) + 1

    mf.io.write("scan.npy", scan)
    mf.io.write("mask.npy", scan.with_array(names["mask"].astype(np.uint8)))
    for line in "".join(blocks("sh")).splitlines():
        program, *words = shlex.split(line)
        assert (program, main([*words, "--quiet"])) == ("medeconv", 0), line
    assert mf.io.read("restored.npy").shape == scan.shape
    assert mf.io.read("fine.npy").voxel_size == pytest.approx((1, 1, 1))
    assert {path.name for path in Path().glob("*.html")} == {"report.html", "python_report.html"}


def test_every_step_has_its_row():
    steps = {"crop", "pad", "resample", "normalize", "window", "taper", "background"}
    assert steps | {"apply", "estimate_background"} < set(mf.preprocess.__all__)
    assert set(re.findall(r"^\| `(\w+)\(image", PAGE, re.MULTILINE)) == steps
