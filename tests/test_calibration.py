"""Calibrated times: what `medeconv calibrate` finds scales predictions, and never takes part in a choice."""

import json

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import cli
from medeconv_fast._cli import calibrate

FACTORS = {"spectral": [2.0, 3.0, 4.0], "separable": [20.0, 30.0, 40.0], "direct": [5.0, 6.0, 7.0]}


@pytest.fixture
def calibration():
    details = mf.backends.resolve("auto").describe()
    return {
        "kind": "medeconv_fast calibration 1",
        "backend": mf.backends.available()[0],
        "isa": details.get("isa"),
        "num_threads": 1,
        "factors": FACTORS,
    }


@pytest.mark.parametrize("shape", [(600,), (40, 50), (20, 30, 1), (12, 13, 14)])
def test_times_are_scaled_and_nothing_else(calibration, shape):
    psf = mf.psf.gaussian((2.5,) * len(shape), (1.0,) * len(shape))
    plain, scaled = (mf.plan(shape, psf, num_threads=1, calibration=c) for c in (None, calibration))
    rank = sum(n > 1 for n in shape)
    for name, row in FACTORS.items():
        assert scaled.predicted_ms[name] == pytest.approx(row[rank - 1] * plain.predicted_ms[name])
        assert scaled.predicted_iteration_ms[name] == 2 * scaled.predicted_ms[name]
    times = ("predicted_ms", "predicted_iteration_ms", "calibrated", "warnings")
    assert {k: v for k, v in plain.items() if k not in times} == {
        k: v for k, v in scaled.items() if k not in times
    }
    assert scaled.calibrated and not plain.calibrated and scaled.warnings == []
    assert ", calibrated" in str(scaled) and ", calibrated" not in str(plain)


def test_other_settings_than_the_calibrated_ones_are_said(calibration):
    warned = mf.plan((40, 50), (5, 5), num_threads=2, calibration=calibration).warnings
    assert len(warned) == 1 and "num_threads 1" in warned[0]
    calibration["isa"] = "another"
    warned = mf.plan((40, 50), (5, 5), num_threads=1, calibration=calibration).warnings
    assert len(warned) == 1 and "isa another" in warned[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "something else"}, "expected what `medeconv calibrate --save FILE` writes"),
        ({"factors": None}, "are damaged"),
        ({"factors": {"spectral": [1, 1, 1]}}, "are damaged"),
        ({"factors": FACTORS | {"direct": [1, 0, 1]}}, "are damaged"),
        ({"factors": FACTORS | {"direct": [1, float("nan"), 1]}}, "are damaged"),
        ({"factors": FACTORS | {"direct": [1, "2", 1]}}, "are damaged"),
        ({"factors": FACTORS | {"direct": [1, 1]}}, "are damaged"),
        ({"factors": FACTORS | {"direct": 3}}, "are damaged"),
        ({"factors": FACTORS | {"direct": [1, True, 1]}}, "are damaged"),
        ({"factors": FACTORS | {"direct": [1, 10**400, 1]}}, "are damaged"),
    ],
)
def test_damaged_calibrations(calibration, change, text):
    with pytest.raises(ValueError, match=f"calibration: .*{text}"):
        mf.plan((40, 50), (5, 5), calibration=calibration | change)


def test_damaged_files(tmp_path):
    path = tmp_path / "c.json"
    for content in ("", "[]", "3", '{"kind": '):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"calibration: .*c\.json"):
            mf.plan((40, 50), (5, 5), calibration=path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"calibration: .*c\.json"):
        mf.plan((40, 50), (5, 5), calibration=path)
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        mf.plan((40, 50), (5, 5), calibration=tmp_path / "absent.json")
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"calibration: .*c\.json"):
        mf.plan((40, 50), (5, 5), calibration=path)
    for wrong in (3, [1], np.ones(3)):
        with pytest.raises(ValueError, match="calibration: got"):
            mf.plan((40, 50), (5, 5), calibration=wrong)


@pytest.mark.parametrize("key", ["backend", "isa", "num_threads"])
def test_a_calibration_says_what_it_was_made_with(calibration, key):
    del calibration[key]
    with pytest.raises(ValueError, match=f"calibration: .* damaged: it does not say with which {key}"):
        mf.plan((40, 50), (5, 5), calibration=calibration)


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibrate, "CASES", (((300,), 5), ((20, 24), 3), ((8, 9, 10), 3)))
    monkeypatch.setattr(calibrate, "REPEAT_FOR_S", 0.002)
    path = tmp_path / "here.json"
    assert cli.main(["calibrate", "--threads", "1", "--save", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("taps") == 9 and "separable  line" in printed and str(path) in printed
    made = json.loads(path.read_text())
    assert set(made["factors"]) == {"spectral", "separable", "direct"}
    assert made["num_threads"] == 1
    words = ["plan", "--shape", "8", "9", "10", "--fwhm-mm", "2", "--voxel-size-mm", "1", "--threads", "1"]
    record = tmp_path / "plan.json"
    assert cli.main([*words, "--calibration", str(path), "--json", str(record)]) == 0
    plan = json.loads(record.read_text())["plan"]
    assert plan["calibrated"]
    assert cli.main([*words, "--json", str(record), "--overwrite"]) == 0
    plain = json.loads(record.read_text())["plan"]
    for engine, row in made["factors"].items():
        assert plan["predicted_ms"][engine] == pytest.approx(row[2] * plain["predicted_ms"][engine])
    assert cli.main(["calibrate", "--save", str(path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    (tmp_path / "no.json").write_text("{}")
    assert cli.main([*words, "--calibration", str(tmp_path / "no.json")]) == 2
    assert "calibrate --save FILE" in capsys.readouterr().err
