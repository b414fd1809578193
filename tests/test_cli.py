"""The command line: every command on files, exit statuses, messages, and what is left on the disk."""

import contextlib
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.cli import main

pytest.importorskip("nibabel")
pytest.importorskip("tifffile")

SHAPE = (9, 12, 14)
SIZE = (2.5, 1.0, 1.5)
AFFINE = np.array([[-1.5, 0, 0, 30], [0, 0.8, -1.5, -20], [0, 0.6, 2.0, 5], [0, 0, 0, 1]])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def scan(here, rng):
    """scan.nii: blobs on a low background, int16, oblique affine, mm."""
    truth = np.zeros(SHAPE)
    for _ in range(12):
        truth[tuple(int(rng.integers(2, n - 2)) for n in SHAPE)] = rng.uniform(500, 3000)
    array = mf.simulate(truth + 50, mf.psf.gaussian((3, 2, 2), SIZE), noise="poisson", seed=1)
    mf.io.write("scan.nii", mf.io.Volume(array.astype(np.int16), SIZE, AFFINE, "mm", "zyx"))
    return mf.io.read("scan.nii")


@pytest.fixture
def run(capsys):
    """run("info", "x.nii") -> (exit status, stdout, stderr)."""

    def go(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return go


def refused(result, *texts, status=2):
    """One line on stderr that names the problem, no traceback, nothing on stdout."""
    code, out, err = result
    assert code == status
    assert out == ""
    lines = err.strip().splitlines()
    assert lines[-1].startswith("medeconv: error: " if status == 2 else "medeconv: failed: "), err
    assert all(line.startswith("medeconv: ") for line in lines), err
    for text in texts:
        assert text in lines[-1], err


def files(directory):
    return sorted(path.name for path in directory.iterdir())


# ---------------------------------------------------------------- restore


@pytest.mark.parametrize(
    ("widths", "axis", "said"),
    [(("3000", "2000", "2000"), "z", "3000 mm"), (("3", "2", "4e6"), "x", "4e+06 mm")],
)
def test_a_psf_wider_than_the_image_is_a_wrong_unit(run, scan, here, widths, axis, said):
    result = run("restore", "scan.nii", "-o", "out.nii", "--fwhm-mm", *widths)
    refused(result, f"--fwhm-mm: the width along {axis} is {said}", "are the units right?")
    assert files(here) == ["scan.nii"]


def test_a_psf_of_one_voxel_is_said(run, scan):
    status, _, err = run("restore", "scan.nii", "-o", "out.nii", "--fwhm-um", 3, 2, 2, "--iterations", 2)
    assert status == 0 and "one voxel on the image's grid: no blur; are the units right?" in err
    status, _, err = run("restore", "scan.nii", "-o", "b.nii", "--fwhm-mm", 3, 2, 2, "--iterations", 2)
    assert status == 0 and "units" not in err


def test_restore_is_the_librarys_result(scan, run, here):
    status, out, err = run("restore", "scan.nii", "-o", "out.nii.gz", "--method", "rl", "--fwhm-mm", 3, 2, 2)
    assert (status, err) == (0, "")
    assert "30 iterations" in out and "wrote     out.nii.gz" in out
    result = mf.io.read("out.nii.gz")
    expected = mf.richardson_lucy(scan.array, mf.psf.gaussian((3, 2, 2), scan.voxel_size))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result.array, expected)
    np.testing.assert_allclose(result.affine, scan.affine, atol=1e-5)
    np.testing.assert_allclose(result.voxel_size, SIZE, rtol=1e-6)
    assert (result.unit, result.axes) == ("mm", "zyx")
    assert files(here) == ["out.nii.gz", "scan.nii"]


@pytest.mark.parametrize(
    "width", [("--fwhm-mm", 3, 2, 2), ("--fwhm-um", 3000, 2000, 2000), ("--fwhm-mm=3,2,2",)]
)
@pytest.mark.parametrize("order", ["file first", "file last"])
def test_numbers_may_stand_anywhere(scan, run, width, order):
    words = [*width, "scan.nii"] if order == "file last" else ["scan.nii", *width]
    assert run("restore", "-o", "out.nii", "--iterations", 3, *words)[0] == 0
    psf = mf.psf.gaussian((3, 2, 2), scan.voxel_size)
    np.testing.assert_allclose(
        mf.io.read("out.nii").array, mf.restore(scan.array, psf, num_iter=3, voxel_size=SIZE), rtol=1e-5
    )


@pytest.mark.parametrize(
    "words, method, options",
    [
        (["--method", "wiener"], "wiener", {}),
        (
            ["--method", "wiener", "--balance", "0.02", "--boundary", "mirror"],
            "wiener",
            {"balance": 0.02, "boundary": "mirror"},
        ),
        (["--method", "wiener", "--balance", "0"], "wiener", {"balance": 0}),
        (
            ["--method", "rl", "--boundary", "zero", "--iterations", "4"],
            "rl",
            {"boundary": "zero", "num_iter": 4},
        ),
        (
            ["--method", "rl", "--background", "40", "--iterations", "4"],
            "rl",
            {"background": 40.0, "num_iter": 4},
        ),
        (
            ["--iterations", "4", "--backend", "reference", "--threads", "1"],
            "auto",
            {"num_iter": 4, "backend": "reference"},
        ),
        (["--iterations", "4", "--device", "cpu"], "auto", {"num_iter": 4}),
        (["--method", "tikhonov", "--weight", "0.1"], "tikhonov", {"weight": 0.1}),
        (["--method", "inverse_filter"], "inverse_filter", {}),
        (["--method", "fista", "--weight", "2", "--iterations", "3"], "fista", {"weight": 2, "num_iter": 3}),
        (["--method", "landweber", "--iterations", "3"], "landweber", {"num_iter": 3}),
        (["--method", "van_cittert", "--iterations", "3"], "van_cittert", {"num_iter": 3}),
        (["--method", "unsupervised_wiener", "--iterations", "40"], "unsupervised_wiener", {"num_iter": 40}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_reach_the_method(scan, run, words, method, options):
    assert run("restore", "scan.nii", "-o", "out.nii", "--fwhm-mm", 3, 2, 2, *words)[0] == 0
    psf = mf.psf.gaussian((3, 2, 2), scan.voxel_size)
    expected = mf.restore(scan.array, psf, method, voxel_size=scan.voxel_size, **options)
    np.testing.assert_array_equal(mf.io.read("out.nii").array, expected)


def test_restore_every_time_point_by_itself(here, run, rng):
    array = rng.poisson(100, (2, *SHAPE)).astype(np.float32)
    mf.io.write(
        "four.nii.gz", mf.io.Volume(array, SIZE, AFFINE, "mm", "tzyx", {"time_step": 2.5, "time_unit": "sec"})
    )
    status, out, _ = run(
        "restore", "four.nii.gz", "-o", "out.nii.gz", "--fwhm-mm", 3, "--iterations", 3, "--json", "r.json"
    )
    assert status == 0 and "2 parts" in out
    result = mf.io.read("out.nii.gz")
    psf = mf.psf.gaussian(3, mf.io.read("four.nii.gz").voxel_size)
    for got, source in zip(result.array, array, strict=True):
        expected = mf.restore(source, psf, num_iter=3, voxel_size=mf.io.read("four.nii.gz").voxel_size)
        np.testing.assert_array_equal(got, expected)
    assert result.axes == "tzyx" and result.metadata["time_step"] == 2.5
    assert [part["part"] for part in json.loads((here / "r.json").read_text())["runs"]] == ["t=0", "t=1"]


def test_restore_an_ome_tiff_with_channels_in_um(here, run, rng):
    array = rng.poisson(100, (2, 8, 16, 18)).astype(np.uint16)
    mf.io.write("cells.ome.tif", mf.io.Volume(array, (0.3, 0.1, 0.1), None, "um", "czyx"))
    assert (
        run(
            "restore",
            "cells.ome.tif",
            "-o",
            "out.ome.tif",
            "--fwhm-um",
            0.9,
            0.25,
            0.25,
            "--method",
            "rl",
            "--iterations",
            3,
        )[0]
        == 0
    )
    result = mf.io.read("out.ome.tif")
    assert result.axes == "czyx" and result.unit == "um" and result.dtype == np.float32
    np.testing.assert_allclose(result.voxel_size, (0.3, 0.1, 0.1))
    psf = mf.psf.gaussian((0.9, 0.25, 0.25), (0.3, 0.1, 0.1))
    np.testing.assert_allclose(result.array[1], mf.richardson_lucy(array[1], psf, 3), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64", "uint32", "int16", "uint8"])
def test_the_images_dtype_decides_that_of_the_result(scan, run, dtype):
    """The library's rule holds on the command line too: wide dtypes are computed and written in float64."""
    wide = dtype not in ("int16", "uint8")
    # Beyond float32's digits where there are more: a detour through float32 would show.
    array = np.maximum(scan.array, 0).astype(np.float64) * (1.0 + 1e-9 if dtype == "float64" else 1)
    array = np.minimum(array, np.iinfo(dtype).max if dtype != "float64" else np.inf).astype(dtype)
    if dtype in ("int32", "int64", "uint32"):
        array[0, 0, 0] = 2**24 + 1
    mf.io.write("wide.nii", mf.io.Volume(array, SIZE, AFFINE, "mm"))
    words = ["--fwhm-mm", 3, "--json", "-"]
    psf = mf.psf.gaussian(3, mf.io.read("wide.nii").voxel_size)
    expected = {
        "restore": mf.richardson_lucy(array, psf, 2),
        "simulate": mf.simulate(array, psf, noise=None),
    }
    for command, more in (("restore", ["--method", "rl", "--iterations", 2]), ("simulate", [])):
        status, out, err = run(command, "wide.nii", "-o", f"{command}.nii", *words, *more)
        assert status == 0 and f"wrote {'    ' if command == 'restore' else ''}{command}.nii (float" in err
        result = mf.io.read(f"{command}.nii")
        assert result.dtype == (np.float64 if wide else np.float32)
        np.testing.assert_array_equal(result.array, expected[command])
        json.loads(out)


@pytest.mark.parametrize("command", ["restore", "simulate"])
def test_a_format_without_float64_is_refused_before_computing(scan, run, here, monkeypatch, command):
    mf.io.write("wide.nii", mf.io.Volume(scan.array.astype(np.int32), SIZE, AFFINE, "mm"))
    for name in ("restore", "richardson_lucy", "simulate"):
        monkeypatch.setattr(mf, name, None)
    refused(
        run(command, "wide.nii", "-o", "out.tif", "--fwhm-mm", 3),
        "out.tif: float64 cannot be written",
        ".ome.tif",
        "an image of int32 is computed in float64",
    )
    assert files(here) == ["scan.nii", "wide.nii"]


def test_restore_colour(here, run, rng):
    tifffile = pytest.importorskip("tifffile")
    array = rng.integers(1, 255, (16, 17, 3), dtype=np.uint8)
    tifffile.imwrite("rgb.ome.tif", array, photometric="rgb", metadata={"axes": "YXS"})
    words = [
        "restore",
        "rgb.ome.tif",
        "--fwhm-um",
        3,
        "--voxel-size-um",
        1,
        "--method",
        "rl",
        "--iterations",
        2,
        "-o",
    ]
    refused(run(*words, "o.tif"), "o.tif: colour samples", ".ome.tif")
    assert run(*words, "o.ome.tif")[0] == 0
    result = mf.io.read("o.ome.tif")
    assert result.axes == "yxs"
    expected = mf.richardson_lucy(array[..., 1], mf.psf.gaussian((3, 3), (1, 1)), 2)
    np.testing.assert_array_equal(result.array[..., 1], expected)


def test_a_psf_of_one_slice(scan, run):
    psf = mf.psf.gaussian((2, 2), SIZE[1:])[np.newaxis].astype(np.float32)
    mf.io.write("psf.tif", mf.io.Volume(psf, SIZE, None, "mm"))
    words = ["restore", "scan.nii", "-o", "out.nii", "--psf", "psf.tif", "--method", "rl", "--iterations", 2]
    assert run(*words)[0] == 0
    np.testing.assert_array_equal(mf.io.read("out.nii").array, mf.richardson_lucy(scan.array, psf, 2))


def test_json_says_what_was_done(scan, run, here):
    status, out, err = run(
        "restore", "scan.nii", "-o", "out.nii", "--fwhm-mm", 3, 2, 2, "--iterations", 5, "--json", "-"
    )
    assert status == 0
    record = json.loads(out)  # nothing but JSON on stdout
    assert "wrote     out.nii" in err
    assert (
        record["input"] == "scan.nii"
        and record["output"] == "out.nii"
        and record["version"] == mf.__version__
    )
    assert record["runs"][0]["num_iter"] == 5 and record["runs"][0]["backend"] in mf.backends.available()
    assert record["psf"]["kind"] == "gaussian" and record["psf"]["fwhm"] == [3, 2, 2]
    np.testing.assert_allclose(record["voxel_size"], SIZE, rtol=1e-6)
    assert record["peak_memory_bytes"] > 1e6
    assert (
        run(
            "restore",
            "scan.nii",
            "-o",
            "out.nii",
            "--fwhm-mm",
            3,
            "--iterations",
            5,
            "--json",
            "r.json",
            "--overwrite",
        )[0]
        == 0
    )
    assert json.loads((here / "r.json").read_text())["command"] == "restore"


def test_quiet_prints_nothing(scan, run):
    assert run("restore", "scan.nii", "-o", "out.nii", "--fwhm-mm", 3, "--iterations", 2, "--quiet") == (
        0,
        "",
        "",
    )


# ---------------------------------------------------------------- preprocessing


PRE = [
    ("crop=1:8,:,2:14", ("crop", {"box": [(1, 8), None, (2, 14)]})),
    ("crop=content:2", ("crop", {"margin": 2})),
    ("resample=1.25,1,1mm", ("resample", {"new_voxel_size": (1.25, 1.0, 1.0)})),
    ("resample=2000um", ("resample", {"new_voxel_size": 2.0})),
    ("resample=1.25,1,1:3", ("resample", {"new_voxel_size": (1.25, 1.0, 1.0), "order": 3})),
    ("resample=shape:12,12,14", ("resample", {"shape": (12, 12, 14)})),
    ("normalize=percentile:2:98", ("normalize", {"method": "percentile", "percentiles": (2.0, 98.0)})),
    ("normalize=min-max", ("normalize", {"method": "min-max"})),
    ("window=300:400", ("window", {"level": 300.0, "width": 400.0})),
    ("pad=2,3,4:mirror", ("pad", {"width": (2, 3, 4), "mode": "mirror"})),
    ("pad=3", ("pad", {"width": 3})),
    ("taper=2", ("taper", {"width": 2})),
    ("background=percentile:5", ("background", {"method": "percentile", "percentile": 5.0})),
    ("background=mode", ("background", {"method": "mode"})),
    ("background=-12.5", ("background", {"level": -12.5})),
]


@pytest.mark.parametrize("text, operation", PRE, ids=[text for text, _ in PRE])
def test_steps_are_done_before_and_undone_after(scan, run, here, text, operation):
    words = [
        "restore",
        "scan.nii",
        "--fwhm-mm",
        3,
        2,
        2,
        "--method",
        "wiener",
        "--balance",
        0.1,
        "--pre",
        text,
    ]
    status, out, err = run(*words, "-o", "out.nii", "--json", "r.json")
    assert (status, err) == (0, "")
    assert f"prepared  {text}: " in out
    prepared, chain = mf.preprocess.apply(scan, [operation])
    restored = mf.wiener(prepared.array, mf.psf.gaussian((3, 2, 2), prepared.voxel_size), 0.1)
    expected = chain.undo(prepared.with_array(restored))
    result = mf.io.read("out.nii")
    np.testing.assert_array_equal(result.array, expected.array)
    np.testing.assert_allclose(result.affine, scan.affine, atol=1e-5)
    record = json.loads((here / "r.json").read_text())
    assert record["preprocessing"][0]["name"] == operation[0] and record["preprocessing_kept"] is False
    assert run(*words, "-o", "kept.nii", "--keep-preprocessed")[0] == 0
    kept = mf.io.read("kept.nii")
    np.testing.assert_array_equal(kept.array, restored)
    np.testing.assert_allclose(kept.affine, prepared.affine, atol=1e-4)


@pytest.mark.parametrize("unit", ["mm", None])
def test_a_voxel_size_on_the_command_line_is_the_masks_too(scan, run, unit):
    """The mask's file, made from the image's, says the wrong size as well: it was refused for it."""
    affine = np.array([[0, 0, -1.0, 4], [1, 0, 0, -7], [0, 1, 0, 2], [0, 0, 0, 1]])
    inside = np.zeros(scan.shape, np.uint8)
    inside[2:5, 3:9, 4:9] = 1
    for name, array in (("wrong.nii", scan.array), ("mask.nii", inside)):
        mf.io.write(name, mf.io.Volume(array, (1, 1, 1), affine, unit))
    words = ["restore", "wrong.nii", "--fwhm-um", 3, "--voxel-size-um", 2, 1, 1, "--override-voxel-size"]
    words += ["--method", "rl", "--iterations", 1, "--pre", "crop=mask", "--keep-preprocessed"]
    status, out, err = run(*words, "--mask", "mask.nii", "-o", "out.nii")
    assert status == 0 and "3 x 6 x 5, voxels of 2 x 1 x 1 um" in out, err
    mf.io.write("turned.nii", mf.io.Volume(inside, (1, 1, 1), np.diag([-1.0, 1, 1, 1]) @ affine, unit))
    refused(run(*words, "--mask", "turned.nii", "-o", "other.nii"), "mask: lies")


def test_steps_are_done_in_the_order_given(scan, run):
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:8, 3:10, 2:11] = 1
    mf.io.write("mask.nii", scan.with_array(mask))
    words = [
        "--pre",
        "crop=mask:1",
        "--pre",
        "normalize=min-max",
        "--pre",
        "resample=1.2",
        "--mask",
        "mask.nii",
    ]
    words += ["--fwhm-mm", 3, "--iterations", 3, "--negative", "clip", "--report", "r.html"]
    assert run("restore", "scan.nii", "-o", "out.nii", *words)[0] == 0
    operations = [
        ("crop", {"mask": True, "margin": 1}),
        ("normalize", {"method": "min-max", "mask": True}),
        ("resample", {"new_voxel_size": 1.2}),
    ]
    prepared, chain = mf.preprocess.apply(scan, operations, mask=mask)
    restored = mf.restore(
        prepared.array, mf.psf.gaussian(3, prepared.voxel_size), num_iter=3, negative="clip"
    )
    expected = chain.undo(prepared.with_array(restored))
    np.testing.assert_array_equal(mf.io.read("out.nii").array, expected.array)
    page = Path("r.html").read_text(encoding="utf-8")
    assert "crop=mask:1, normalize=min-max, resample=1.2 (undone)" in page


def test_a_unit_needs_one_in_the_image(here, run, rng):
    mf.io.write("nounit.nii", mf.io.Volume(rng.poisson(100, SHAPE).astype(np.float32), SIZE, None, None))
    psf = mf.io.Volume(mf.psf.gaussian((3, 3, 3), (1, 1, 1)).astype(np.float32))
    mf.io.write("psf.npy", psf)
    words = ["restore", "nounit.nii", "-o", "out.nii", "--psf", "psf.npy", "--iterations", 2]
    refused(run(*words, "--pre", "resample=1mm"), "--pre resample=1mm", "--voxel-size-mm")
    assert run(*words, "--pre", "resample=1")[0] == 0


# ---------------------------------------------------------------- voxel size


def test_image_without_voxel_size_needs_it_for_a_psf_in_mm(here, run, rng):
    np.save("plain.npy", rng.poisson(100, SHAPE).astype(np.float32))
    words = ["restore", "plain.npy", "-o", "out.npy", "--fwhm-mm", 3, "--method", "rl", "--iterations", 2]
    refused(run(*words), "--fwhm-mm", "plain.npy has no voxel size", "--voxel-size-mm")
    assert run(*words, "--voxel-size-mm", *SIZE)[0] == 0
    result = mf.io.read("out.npy")
    assert result.voxel_size == SIZE and result.unit == "mm"
    np.testing.assert_array_equal(
        result.array, mf.richardson_lucy(np.load("plain.npy"), mf.psf.gaussian(3, SIZE), 2)
    )


def test_lengths_without_a_unit_are_asked_about(here, run, rng):
    mf.io.write("nounit.nii", mf.io.Volume(rng.poisson(100, SHAPE).astype(np.float32), SIZE, None, None))
    words = ["restore", "nounit.nii", "-o", "out.nii", "--fwhm-mm", 3, "--iterations", 2]
    refused(run(*words), "unknown unit", "--voxel-size-mm 2.5 1 1.5")
    assert run(*words, "--voxel-size-mm", *SIZE)[0] == 0
    assert mf.io.read("out.nii").unit == "mm"
    refused(run(*words, "--overwrite", "--voxel-size-mm", 9), "--voxel-size-mm", "nounit.nii says")


def test_contradicting_voxel_size_is_refused_unless_forced(scan, run):
    words = ["restore", "scan.nii", "-o", "out.nii", "--fwhm-mm", 3, "--method", "rl", "--iterations", 2]
    refused(
        run(*words, "--voxel-size-mm", 2, 1, 1.5),
        "--voxel-size-mm: got 2 x 1 x 1.5 mm, but scan.nii says 2.5 x 1 x 1.5 mm",
    )
    refused(run(*words, "--voxel-size-um", 2.5, 1, 1.5), "--override-voxel-size")
    refused(run(*words, "--override-voxel-size"), "needs --voxel-size-mm or --voxel-size-um")
    assert run(*words, "--voxel-size-mm", 2.5005, 1, 1.5)[0] == 0  # files round
    np.testing.assert_allclose(mf.io.read("out.nii").affine, scan.affine, atol=1e-5)
    assert run(*words, "--voxel-size-mm", 5, 1, 1.5, "--override-voxel-size", "--overwrite")[0] == 0
    result = mf.io.read("out.nii")
    np.testing.assert_allclose(result.voxel_size, (5, 1, 1.5), rtol=1e-6)
    expected = scan.affine.copy()
    expected[:3, 2] *= 2  # the third column is the step along z, the array's first axis
    np.testing.assert_allclose(result.affine, expected, atol=1e-4)
    np.testing.assert_array_equal(
        result.array, mf.richardson_lucy(scan.array, mf.psf.gaussian(3, (5, 1, 1.5)), 2)
    )


# ---------------------------------------------------------------- PSF files


def test_psf_file_on_the_images_grid_is_used_as_it_is(scan, run):
    psf = mf.psf.gaussian((3, 2, 2), SIZE).astype(np.float32)
    mf.io.write("psf.nii", mf.io.Volume(psf, SIZE, None, "mm"))
    status, _, err = run(
        "restore", "scan.nii", "-o", "out.nii", "--psf", "psf.nii", "--method", "rl", "--iterations", 3
    )
    assert (status, err) == (0, "")
    np.testing.assert_array_equal(mf.io.read("out.nii").array, mf.richardson_lucy(scan.array, psf, 3))


def test_psf_file_on_another_grid_is_resampled_and_said_so(scan, run, here):
    fine = mf.psf.gaussian((3000, 2000, 2000), (500, 500, 500))
    mf.io.write("psf.ome.tif", mf.io.Volume(fine.astype(np.float32), (500, 500, 500), None, "um"))
    status, _, err = run(
        "restore",
        "scan.nii",
        "-o",
        "out.nii",
        "--psf",
        "psf.ome.tif",
        "--method",
        "rl",
        "--iterations",
        3,
        "--json",
        "r.json",
    )
    assert status == 0 and "resampled to the image's 2.5 x 1 x 1.5 mm, its sum kept" in err
    psf = mf.psf.resample(mf.io.read("psf.ome.tif").array, (0.5, 0.5, 0.5), mf.io.read("scan.nii").voxel_size)
    np.testing.assert_allclose(mf.io.read("out.nii").array, mf.richardson_lucy(scan.array, psf, 3), rtol=1e-5)
    assert json.loads((here / "r.json").read_text())["psf"]["resampled"] is True


def test_psf_file_without_geometry_is_said_so(scan, run):
    np.save("psf.npy", mf.psf.gaussian((3, 2, 2), SIZE))
    status, _, err = run("restore", "scan.nii", "-o", "out.nii", "--psf", "psf.npy", "--iterations", 3)
    assert status == 0 and "psf.npy has no voxel size: taken as sampled on the image's grid" in err


def test_a_psf_file_that_shifts_is_said(scan, run):
    """Cropped around elsewhere, or of an even length with its centre between two voxels."""
    psf = mf.psf.gaussian((3, 2, 2), SIZE)
    even = np.stack([psf[0] * 0, *(0.5 * (psf[1:] + psf[:-1]))])[1:]
    cases = {"+0 x +0 x +2": np.pad(psf, ((0, 0), (0, 0), (4, 0))), "-0.5 x +0 x +0": even, "": psf}
    for i, (said, array) in enumerate(cases.items()):
        np.save("psf.npy", array)
        status, _, err = run("restore", "scan.nii", "-o", f"{i}.nii", "--psf", "psf.npy", "--iterations", 2)
        assert status == 0 and (f"has its centre {said} voxels (z, y, x) from" in err) is bool(said)
        assert ("medeconv psf recentre" in err) is bool(said)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (np.eye(3), "z along feet-head and left-right"),  # the image lies sagittally
        (np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]), ""),
    ],
)
def test_a_psf_file_that_lies_otherwise_is_said(run, here, columns, said):
    """Its axes are taken in their order, whatever they point to."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    image = np.random.default_rng(1).random((8, 9, 10)).astype(np.float32)
    mf.io.write("image.nii", mf.io.Volume(image, None, affine, "mm"))
    other = np.eye(4)
    other[:3, :3] = columns
    mf.io.write("psf.nii", mf.io.Volume(np.ones((3, 1, 3), np.float32), None, other, "mm"))
    words = ["restore", "image.nii", "-o", "out.nii", "--psf", "psf.nii", "--method", "rl"]
    status, _, err = run(*words, "--iterations", 1)
    assert status == 0 and ("its axes point in other directions than those of image.nii" in err) is bool(said)
    assert said in err and "y along" not in err  # of which the PSF has one voxel


@pytest.mark.parametrize("step", ["resample=5,2,3", "resample=shape:18,24,28", "crop=content:1"])
def test_psf_file_without_geometry_follows_the_image_to_another_grid(scan, run, here, step):
    psf = mf.psf.gaussian((6, 4, 4), SIZE).astype(np.float32)
    mf.io.write("with.npy", mf.io.Volume(psf, mf.io.read("scan.nii").voxel_size, None, "mm"))
    np.save("without.npy", psf)
    words = ["restore", "scan.nii", "--method", "wiener", "--balance", 0.1, "--pre", step]
    assert run(*words, "-o", "with.nii", "--psf", "with.npy")[0] == 0
    status, _, err = run(*words, "-o", "without.nii", "--psf", "without.npy", "--json", "r.json")
    assert status == 0 and "without.npy has no voxel size: taken as sampled on the " in err
    moved = step.startswith("resample")
    assert ("sampled on the grid of scan.nii, and resampled to the preprocessed image's, of " in err) is moved
    record = json.loads((here / "r.json").read_text())["psf"]
    assert record["resampled"] is moved
    if moved:
        np.testing.assert_allclose(record["resampled_from"], SIZE, rtol=1e-5)
    np.testing.assert_allclose(mf.io.read("without.nii").array, mf.io.read("with.nii").array, rtol=1e-4)
    # The file need not know its voxel size either.
    np.save("plain.npy", scan.array)
    if "shape:" in step:
        words[1] = "plain.npy"
        status, _, err = run(*words, "-o", "plain_restored.npy", "--psf", "without.npy")
        assert status == 0 and "of 0.5 x 0.5 x 0.5 such voxels each" in err
        made = mf.io.read("plain_restored.npy").array
        np.testing.assert_allclose(made, mf.io.read("with.nii").array, rtol=1e-4)


def test_bad_psf_files(scan, run):
    np.save("flat.npy", np.ones((3, 3)))
    refused(
        run("restore", "scan.nii", "-o", "out.nii", "--psf", "flat.npy"),
        "flat.npy has 2 axes",
        "scan.nii has 3",
    )
    np.save("zero.npy", np.zeros((3, 3, 3)))
    refused(run("restore", "scan.nii", "-o", "out.nii", "--psf", "zero.npy"), "psf", "zero")
    refused(run("restore", "scan.nii", "-o", "out.nii", "--psf", "none.npy"), "none.npy: no such file")
    refused(run("restore", "scan.nii", "-o", "out.nii"), "a PSF is needed", "--psf FILE", "--fwhm-mm")
    refused(
        run("restore", "scan.nii", "-o", "o.nii", "--psf", "zero.npy", "--fwhm-mm", 3), "not allowed with"
    )


@pytest.mark.parametrize(
    ("options", "axes"),
    [
        ({"photometric": "rgb", "planarconfig": "separate"}, "y, x, s (9 x 9 x 3)"),  # a default
        ({"imagej": True, "metadata": {"axes": "TYX"}}, "t, y, x (3 x 9 x 9)"),
    ],
)
def test_a_psf_of_colours_or_time_points_is_no_psf_of_planes(scan, run, here, options, axes):
    import tifffile

    psf = mf.psf.gaussian((3, 2, 2), SIZE, (3, 9, 9)).astype(np.float32)
    tifffile.imwrite("psf.tif", psf, **options)
    said = ("--psf psf.tif: has the axes", axes, "expected a PSF of space only (z, y, x)", "time points")
    refused(run("restore", "scan.nii", "-o", "out.nii", "--psf", "psf.tif", "--iterations", 2), *said)
    refused(run("plan", "scan.nii", "--psf", "psf.tif"), *said)
    refused(run("simulate", "scan.nii", "-o", "out.nii", "--psf", "psf.tif"), *said)
    assert files(here) == ["psf.tif", "scan.nii"]
    tifffile.imwrite("psf.tif", psf, photometric="minisblack")  # planes of z
    assert run("restore", "scan.nii", "-o", "out.nii", "--psf", "psf.tif", "--iterations", 2)[0] == 0


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "words, texts",
    [
        (["--iterations", "0"], ["--iterations", "'0'"]),
        (["--iterations", "2.5"], ["--iterations"]),
        (["--fwhm-mm", "-3"], ["--fwhm-mm", "0 or more"]),
        (["--fwhm-mm", "3", "2"], ["--fwhm-mm: got 2 numbers, expected 1 or 3", "z, y, x"]),
        (["--fwhm-mm", "nan"], ["--fwhm-mm"]),
        (["--voxel-size-mm", "0"], ["--voxel-size-mm", "positive"]),
        (["--method", "magic"], ["--method", "magic"]),
        (["--boundary", "beyond"], ["--boundary", "beyond"]),
        (["--negative", "ignore"], ["--negative", "ignore"]),
        (["--backend", "fortran"], ["backend", "fortran"]),
        (["--backend", "cuda"], ["backend", "'cuda' is not available here", "_cuda"]),
        (["--device", "cuda"], ["--device cuda", "is not available here", "_cuda"]),
        (["--device", "cuda:1"], ["--device cuda:1", "is not available here"]),
        (["--device", "cuda:x"], ["--device", "cuda:x", "cuda:NUMBER"]),
        (["--device", "cuda", "--backend", "cpp"], ["--device cuda", "'cpp' computes on the CPU"]),
        (["--device", "tpu"], ["--device", "tpu"]),
        (["--memory", "much"], ["memory", "much"]),
        (["--memory", "1kB"], ["memory", "a block of"]),
        (["--workers", "0"], ["--workers", "'0'"]),
        (["--halo", "1.5"], ["--halo", "whole numbers"]),
        (["--memory", "1GB", "--method", "fista", "--weight", "1"], ["--method: fista", "in tiles"]),
        (["--memory", "1GB", "--pre", "crop=0:9,0:9,:"], ["--pre", "tiles"]),
        (["--shard-index", "0"], ["--shard-index and --num-shards"]),
        (["--shard-index", "2", "--num-shards", "2"], ["shard[0]", "got 2"]),
        (["--workers", "2", "--scheduler", "tcp://x:1"], ["--workers", "--scheduler"]),
        (["--pre", "sharpen=3"], ["--pre", "sharpen=3", "crop, resample, normalize"]),
        (["--pre", "window"], ["--pre", "window", "expected an argument"]),
        (["--pre", "window=40"], ["--pre", "window=40", "LEVEL:WIDTH"]),
        (["--pre", "window=40:wide"], ["window=40:wide", "got 'wide', expected a number"]),
        (["--pre", "crop=middle"], ["crop=middle", "content, mask, or START:STOP"]),
        (["--pre", "crop=mask"], ["crop=mask", "--mask FILE"]),
        (["--pre", "crop=0:9,0:99,:"], ["--pre: step 1 (crop): box[1][1]: got 99"]),
        (["--pre", "pad=1", "--pre", "resample=1,1"], ["--pre: step 2 (resample): new_voxel_size: got 2"]),
        (["--pre", "resample=1,1,1:9"], ["--pre: step 1 (resample): order: got 9"]),
        (["--pre", "resample=1,1,1:2:3"], ["resample=1,1,1:2:3", "at most 2"]),
        (["--pre", "resample=shape:4,x,4"], ["got 'x', expected a whole number"]),
        (["--pre", "normalize=minmax"], ["--pre: step 1 (normalize): method: got 'minmax'"]),
        (["--pre", "normalize=percentile:1"], ["percentile:LOW:HIGH"]),
        (["--pre", "pad=2:around"], ["--pre: step 1 (pad): mode: got 'around'"]),
        (["--pre", "taper=9"], ["--pre: step 1 (taper): width[0]: got 9"]),
        (["--pre", "background=low:3"], ["background=low:3", "sigma-clip"]),
        (["--pre", "background=low"], ["--pre: step 1 (background): method: got 'low'"]),
        (["--keep-preprocessed"], ["--keep-preprocessed: has no use without --pre"]),
        (["--mask", "scan.nii"], ["--mask: has no use without --pre"]),
        (["--pre", "crop=mask", "--mask", "none.nii"], ["none.nii: no such file"]),
        (["--threads", "0"], ["--threads"]),
        (["--threads", "1000000000000"], ["num_threads: got 1000000000000", "at most 65536"]),
        (["--method", "wiener", "--iterations", "3"], ["--iterations", "wiener"]),
        (["--method", "rl", "--balance", "3"], ["--balance", "rl"]),
        (["--method", "wiener", "--balance", "-1"], ["--balance", "-1"]),
        (["--method", "wiener", "--balance", "least"], ["--balance: got 'least', expected auto or a number"]),
        (["--method", "wiener", "--boundary", "extended"], ["boundary", "extended"]),
        (["--photons", "3"], ["--photons"]),
        (["--iter", "3"], ["--iter"]),
    ],
    ids=" ".join,
)
def test_bad_arguments(scan, run, here, words, texts):
    if "--fwhm-mm" not in words:
        words = ["--fwhm-mm", "3", *words]
    refused(run("restore", "scan.nii", "-o", "out.nii", *words), *texts)
    assert files(here) == ["scan.nii"]


@pytest.mark.parametrize("command", ["deblur", "Restore", ""])
def test_unknown_commands(run, command):
    refused(run(*([command] if command else [])), "COMMAND")


def test_bad_input_files(scan, run, here):
    def attempt(name, *texts, output="out.nii"):
        refused(run("restore", name, "-o", output, "--fwhm-mm", 3), name, *texts)

    attempt("absent.nii", "no such file")
    (here / "text.tif").write_text("not a picture")
    attempt("text.tif")
    (here / "text.nii").write_text("not a volume")
    attempt("text.nii")
    mf.io.write("whole.nii.gz", scan)
    (here / "cut.nii.gz").write_bytes((here / "whole.nii.gz").read_bytes()[:-300])
    attempt("cut.nii.gz")
    (here / "picture.png").write_bytes(b"\x89PNG")
    attempt("picture.png", "unknown file type")
    (here / "folder").mkdir()
    attempt("folder", "no DICOM image in this folder")
    assert "out.nii" not in files(here)


def test_nan_is_counted_and_placed(scan, run):
    array = scan.array.astype(np.float32)
    array[2, 3, 4] = np.nan
    mf.io.write("nan.nii", mf.io.Volume(array, SIZE, AFFINE, "mm"))
    refused(
        run("restore", "nan.nii", "-o", "out.nii", "--fwhm-mm", 3), "nan.nii: image", "1 NaN", "(2, 3, 4)"
    )
    mf.io.write("nan4.nii", mf.io.Volume(np.stack([scan.array, array]), SIZE, AFFINE, "mm", "tzyx"))
    refused(run("restore", "nan4.nii", "-o", "out.nii", "--fwhm-mm", 3), "nan4.nii (t=1)")
    assert not os.path.exists("out.nii")


def test_negative_values(scan, run, here):
    array = scan.array.astype(np.float32) - 60
    count = int((array < 0).sum())
    assert count > 0
    mf.io.write("neg.nii", mf.io.Volume(array, SIZE, AFFINE, "mm"))
    words = ["restore", "neg.nii", "-o", "out.nii", "--fwhm-mm", 3, "--iterations", 2]
    refused(
        run(*words, "--method", "rl"),
        "neg.nii",
        f"{count} of {array.size} values are negative",
        "clip",
        "shift",
    )
    status, _, err = run(*words, "--json", "r.json")  # auto clips and says so, once
    assert status == 0 and err.count(f"{count} negative values") == 1
    assert any(
        f"{count} negative values" in text for text in json.loads((here / "r.json").read_text())["warnings"]
    )
    psf = mf.psf.gaussian(3, mf.io.read("neg.nii").voxel_size)
    for method in ("clip", "shift"):
        assert run(*words, "--method", "rl", "--negative", method, "--overwrite")[0] == 0
        np.testing.assert_array_equal(
            mf.io.read("out.nii").array, mf.richardson_lucy(array, psf, 2, negative=method)
        )


# ---------------------------------------------------------------- outputs


@pytest.fixture
def metal(here):
    """metal.dcm: a CT slice with an insert that reaches further above 0 than air lies below."""
    pydicom = pytest.importorskip("pydicom", reason="SKIPPED: pydicom is not installed (extra io)")
    from pydicom.data import get_testdata_file

    path = get_testdata_file("CT_small.dcm", download=False)
    if path is None:
        pytest.skip("SKIPPED: CT_small.dcm is not in this version of pydicom's wheel")
    slice_ = pydicom.dcmread(path)
    values = slice_.pixel_array.copy()
    values[60:64, 60:64] = 6000
    slice_.PixelData = values.tobytes()
    slice_.save_as("metal.dcm")
    return mf.io.read("metal.dcm")


def test_hounsfield_units_are_a_signed_scale_whatever_metal_reaches(metal, run, here):
    image = np.asarray(metal.array)
    assert image.max() > 4 * -image.min() > 0
    psf = mf.psf.gaussian((1, 1), metal.voxel_size)
    expected = mf.wiener(image, psf)
    words = ["restore", "metal.dcm", "--fwhm-mm", 1, 1]
    said = "metal.dcm is in Hounsfield units (HU), a signed scale, for which --method auto takes the Wiener"
    for name, more in (("whole.npy", []), ("tiles.npy", ["--memory", "1GB"])):
        status, out, err = run(*words, "-o", name, *more, "--json", "r.json")
        assert status == 0 and said in err and "--negative shift" in err and "clipped" not in err
        assert "method    wiener" in out
        assert any(said in text for text in json.loads((here / "r.json").read_text())["warnings"])
        np.testing.assert_allclose(mf.io.read(name).array, expected, rtol=1e-4, atol=1e-2)
        (here / "r.json").unlink()
    # The plan says the same; an option that only one of the methods has still decides.
    status, out, err = run("plan", "metal.dcm", "--fwhm-mm", 1, 1, "--memory", "1GB")
    assert status == 0 and said in err and "1 iterations" in out
    status, out, err = run(*words, "-o", "rl.npy", "--negative", "shift", "--iterations", 3)
    assert status == 0 and "Hounsfield" not in err and "richardson-lucy" in out


def test_fista_on_a_signed_scale_keeps_what_is_below_0(metal, run):
    """Its constraint set air to 0 HU, without a word and with no option against it."""
    image = np.asarray(metal.array)
    psf = mf.psf.gaussian((1, 1), metal.voxel_size)
    words = ["restore", "metal.dcm", "--fwhm-mm", 1, 1, "--method", "fista", "--weight", 1, "--iterations", 3]
    status, _, err = run(*words, "-o", "signed.npy")
    assert status == 0 and "a signed scale, so that --method fista may go below 0" in err
    result = mf.io.read("signed.npy").array
    options = {"non_negative": False, "voxel_size": metal.voxel_size}
    np.testing.assert_allclose(result, mf.fista(image, psf, 1, 3, **options), rtol=1e-5, atol=1e-3)
    assert result.min() < -800
    status, _, err = run(*words, "-o", "counts.npy", "--pre", "background=-2000", "--keep-preprocessed")
    assert status == 0 and "signed" not in err and mf.io.read("counts.npy").array.min() >= 0


def test_what_moves_the_zero_of_hounsfield_units_leaves_the_choice_to_the_values(metal, run):
    words = ["restore", "metal.dcm", "--fwhm-mm", 1, 1, "--keep-preprocessed"]
    status, out, err = run(*words, "-o", "shifted.npy", "--pre", "background=-2000")
    assert status == 0 and "Hounsfield" not in err and "method    richardson-lucy" in out
    status, out, err = run(*words, "-o", "window.npy", "--pre", "window=2000:6000")
    assert status == 0 and "Hounsfield" in err and "method    wiener" in out


def test_existing_output_is_kept(scan, run, here):
    (here / "out.nii").write_text("precious")
    words = ["restore", "scan.nii", "-o", "out.nii", "--fwhm-mm", 3, "--iterations", 2]
    refused(run(*words), "out.nii: exists already; --overwrite replaces it")
    assert (here / "out.nii").read_text() == "precious"
    (here / "r.json").write_text("precious")
    refused(run(*words, "--overwrite", "--json", "absent/r.json"), "absent")
    refused(
        run("restore", "scan.nii", "-o", "new.nii", "--fwhm-mm", 3, "--json", "r.json"),
        "r.json: exists already",
    )
    assert (here / "out.nii").read_text() == "precious"
    assert run(*words, "--overwrite")[0] == 0
    assert mf.io.read("out.nii").shape == SHAPE


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize(
    ("words", "output", "other"),
    [
        (["restore", "scan.nii", "--fwhm-mm", 3, "-o"], "a.nii.gz", "a.nii.gz"),
        (["restore", "scan.nii", "--fwhm-mm", 3, "-o"], "a.nii.gz", "./folder/../a.nii.gz"),
        (["restore", "scan.nii", "--fwhm-mm", 3, "-o"], "a.npy", "a.npy.json"),
        (["restore", "scan.nii", "--fwhm-mm", 3, "-o"], "A.NPY", "A.NPY.json"),
        (["restore", "scan.nii", "--fwhm-mm", 3, "-o"], "alias/a.nii", "folder/a.nii"),
        (["simulate", "scan.nii", "--fwhm-mm", 3, "-o"], "a.nii", "a.nii"),
        (["psf", "gaussian", "--fwhm-mm", 3, "--voxel-size-mm", 1, "-o"], "p.npy", "p.npy.json"),
        (["psf", "gaussian", "--fwhm-mm", 3, "--voxel-size-mm", 1, "-o"], "p.tif", "p.tif"),
        (["compare", "scan.nii", "scan.nii", "--picture"], "c.png", "c.png"),
    ],
    ids=str,
)
def test_two_outputs_under_one_name(scan, run, here, monkeypatch, words, output, other, overwrite):
    for name in ("restore", "simulate"):
        monkeypatch.setattr(mf, name, None)  # nothing is computed
    os.mkdir("folder")
    os.symlink("folder", "alias")
    refused(
        run(*words, output, "--json", other, *overwrite), f"--json {other}", "writes to the same file", output
    )
    assert files(here) == ["alias", "folder", "scan.nii"] and files(here / "folder") == []


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        (["restore", "scan.nii", "--fwhm-mm", 3, "-o", "o.nii", "--json", "folder/../scan.nii"], "scan.nii"),
        (["restore", "scan.nii", "--psf", "p.npy", "-o", "p.npy"], "p.npy"),
        (["restore", "scan.nii", "--psf", "p.npy", "-o", "o.nii", "--json", "p.npy.json"], "p.npy"),
        (["restore", "scan.nii", "--psf", "p.npy", "-o", "p.npy", "--memory", "1GB"], "p.npy"),
        (["restore", "scan.nii", "--fwhm-mm", 3, "-o", "scan.nii"], "scan.nii"),
        (["compare", "scan.nii", "p.npy", "--json", "p.npy"], "p.npy"),
        (["info", "scan.nii", "--json", "scan.nii"], "scan.nii"),
        (["train", "a.nii", "scan.nii", "--targets", "b.nii", "p.npy", "--net", "p.npy"], "p.npy"),
    ],
    ids=str,
)
def test_what_is_read_is_not_replaced(scan, run, here, words, lost):
    os.mkdir("folder")
    mf.io.write("p.npy", mf.io.Volume(np.ones((3, 3, 3), np.float32)))
    before = {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()}
    refused(run(*words, "--overwrite"), f"would replace {lost}, which is read")
    assert {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()} == before


def test_names_that_are_empty_are_no_folder(run, here):
    """Those of variables that are not set: the folder that one is in was restored, and replaced."""
    mf.io.write("a.nii.gz", mf.io.Volume(np.ones((4, 5, 6), np.float32), (1, 1, 1), unit="mm"))
    before = sorted(os.listdir())
    refused(run("restore", "", "-o", "out", "--fwhm-mm", 3), "input: got an empty text")
    refused(run("restore", "a.nii.gz", "-o", "", "--fwhm-mm", 3, "--overwrite"), "output: got an empty text")
    refused(run("restore", ".", "-o", "b.nii.gz", "--fwhm-mm", 3), "is named as one image, expected a folder")
    assert sorted(os.listdir()) == before
    assert "DICOM" not in run("psf", "gaussian", "--help")[1]


@pytest.mark.parametrize(
    ("name", "lost"),
    [("slice.dcm", "study"), ("plain", "study"), ("study.zarr", "study.zarr"), ("new", None)],
)
def test_a_part_of_the_folder_that_is_read_is_not_replaced(run, here, monkeypatch, name, lost):
    """A slice of the series, or the metadata of the Zarr, went for --json with --overwrite."""
    read = "study.zarr" if name.endswith("zarr") else "study"
    if read == "study":
        os.mkdir("study")
        Path("study", name).write_bytes(b"{}" if name == "new" else bytes(128) + b"DICM")
        inside = f"study/{name}"
    else:
        zarr = pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
        zarr.save_array("study.zarr", np.ones((6, 7, 8), np.float32))
        inside = "study.zarr/zarr.json"
    before = Path(inside).read_bytes()
    words = ["restore", read, "--fwhm-mm", 3, "-o", "o.nii", "--json", f"./{inside}", "--overwrite"]
    for more in ([], ["--memory", "1GB"]):
        result = run(*words, *more)
        if lost is None:  # what lies beside the slices is no part of the image
            assert result[0] == 2 and "replace" not in result[2]
        else:
            refused(result, f"would replace a file of {lost}, which is read")
    assert Path(inside).read_bytes() == before


def test_slanted_axes_are_said(run, here):
    affine = np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    mf.io.write("in.nii", mf.io.Volume(np.random.default_rng(1).random((6, 7, 8)), None, affine, "mm"))
    words = ["--fwhm-mm", 3, "--method", "rl", "--iterations", 1, "--json", "r.json", "--overwrite"]
    for command in (["info", "in.nii", *words[-3:]], ["restore", "in.nii", *words, "-o", "out.nii"]):
        assert "in.nii: its axes x and z are 16.7 degrees from perpendicular" in run(*command)[2]
        (text,) = [w for w in json.loads(Path("r.json").read_text())["warnings"] if "perpendicular" in w]
        assert text.endswith("resample it to an upright grid where that matters")


@pytest.mark.parametrize("header", ["in.mhd", "in.nhdr"])
def test_values_that_a_header_names_are_not_replaced(run, here, header):
    pytest.importorskip("SimpleITK", reason="SKIPPED: SimpleITK is not installed (extra itk)")
    mf.io.write(header, mf.io.Volume(np.ones((6, 7, 8), np.float32), SIZE, None, "mm"))
    os.rename("in.raw", "values.raw")
    text = Path(header).read_bytes()
    Path(header).write_bytes(text.replace(b"in.raw", b"values.raw"))
    before = Path("values.raw").read_bytes()
    words = ["restore", header, "--fwhm-mm", 3, "--method", "rl", "--iterations", 1, "-o", "values.mhd"]
    refused(run(*words, "--overwrite"), f"would replace {header}, which is read")
    words = [*words[:-1], "out.mhd", "--json", "values.raw"]
    refused(run(*words, "--overwrite"), f"would replace {header}, which is read")
    assert Path("values.raw").read_bytes() == before and not Path("values.mhd").exists()


def test_sigterm_is_heard_like_ctrl_c(scan, run, here, monkeypatch):
    monkeypatch.setattr(mf, "restore", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))

    def ignored(*_):
        """Where the command does not hear it, this test fails and the others go on."""

    before = signal.signal(signal.SIGTERM, ignored)
    try:
        status, _, err = run("restore", "scan.nii", "--fwhm-mm", 3, "-o", "o.nii")
        assert signal.getsignal(signal.SIGTERM) is ignored
    finally:
        signal.signal(signal.SIGTERM, before)
    assert status == 143 and err.endswith("medeconv: stopped; nothing was written\n")
    assert files(here) == ["scan.nii"]


def test_a_file_that_appears_meanwhile_is_not_overwritten(scan, run, here, monkeypatch):
    """What is checked before computing is checked again when writing."""
    original = mf.io.write

    def write(path, *rest, **options):
        if str(path) == "out.nii":
            (here / "r.json").write_text("precious")
        original(path, *rest, **options)

    monkeypatch.setattr(mf.io, "write", write)
    words = ["restore", "scan.nii", "-o", "out.nii", "--fwhm-mm", 3, "--iterations", 2, "--json", "r.json"]
    code, _, err = run(*words)
    assert code == 3 and "r.json: exists already" in err and "written: out.nii" in err
    assert (here / "r.json").read_text() == "precious"


def test_demo_keeps_its_directory_to_itself(here, run):
    refused(run("demo", "--out", "here", "--json", "here/../here/demo.json"), "does not exist")
    os.mkdir("here")
    refused(run("demo", "--out", "here", "--json", "here/demo.json"), "--json here/demo.json", "--out")


def test_outputs_are_checked_before_anything_is_computed(scan, run, here, monkeypatch):
    def never(*_, **__):
        raise AssertionError("computed although the output cannot be written")

    for name in ("restore", "richardson_lucy", "wiener", "simulate"):
        monkeypatch.setattr(mf, name, never)
    os.mkdir("folder")
    np.save("taken.npy", np.ones(3))
    mf.io.write("taken.npy", mf.io.Volume(np.ones((3, 3))), overwrite=True)
    os.unlink("taken.npy")
    for name, text in (
        ("absent/out.nii", "does not exist"),
        ("folder", "this volume was read from none"),
        ("scan.nii", "exists already"),
        ("out.dcm", "this volume was read from none"),
        ("out.jpg", "out.jpg: unknown file type"),
        ("taken.npy", "taken.npy.json: exists already"),
    ):
        refused(run("restore", "scan.nii", "-o", name, "--fwhm-mm", 3), text)
        refused(run("simulate", "scan.nii", "-o", name, "--fwhm-mm", 3), text)
    if os.geteuid() != 0:  # root may write anywhere
        os.mkdir("locked", 0o500)
        refused(run("restore", "scan.nii", "-o", "locked/out.nii", "--fwhm-mm", 3), "permission")


def test_output_that_the_format_cannot_hold(here, run, rng):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite("colour.tif", rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), photometric="rgb")
    refused(
        run("restore", "colour.tif", "-o", "out.nii", "--fwhm-um", 3, "--voxel-size-um", 1), "colour samples"
    )
    assert files(here) == ["colour.tif"]


def subprocess_status(words, **kwargs):
    done = subprocess.run(
        [sys.executable, "-m", "medeconv_fast", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        **kwargs,
    )
    return done.returncode, done.stdout, done.stderr


def test_full_disk_leaves_nothing_behind(here, rng):
    # A limit on the size of files stands in for a full disk: the system refuses to write beyond it.
    array = rng.poisson(1000, (40, 64, 64)).astype(np.float32)
    mf.io.write("big.nii", mf.io.Volume(array, (1, 1, 1), None, "mm"))
    (here / "old.nii").write_bytes(b"precious")

    def limited():
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    words = ["restore", "big.nii", "--fwhm-mm", 2, "--iterations", 1, "-o"]
    code, out, err = subprocess_status([*words, "out.nii"], preexec_fn=limited)
    assert code == 3 and out == "" and "Traceback" not in err
    assert err.startswith("medeconv: failed: ") and "nothing was written" in err
    assert "out.nii" in err
    code, _, err = subprocess_status([*words, "old.nii", "--overwrite"], preexec_fn=limited)
    assert code == 3 and "old.nii" in err
    assert (here / "old.nii").read_bytes() == b"precious"
    assert files(here) == ["big.nii", "old.nii"]


def test_failure_while_running_says_what_was_written(scan, run, here, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the kernel\ngave up")

    monkeypatch.setattr(mf, "richardson_lucy", broken)
    words = ["restore", "scan.nii", "-o", "out.nii", "--fwhm-mm", 3, "--method", "rl"]
    refused(run(*words), "RuntimeError: the kernel gave up", "nothing was written", status=3)
    monkeypatch.undo()
    monkeypatch.chdir(here)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medeconv_fast._cli.session.write_text", full)
    code, out, err = run(*words, "--json", "r.json")
    assert code == 3 and "wrote     out.nii" in out
    assert "No space left" in err and "written: out.nii" in err
    assert files(here) == ["out.nii", "scan.nii"]


def test_debug_shows_where(scan, run):
    code, _, err = run("restore", "absent.nii", "-o", "out.nii", "--fwhm-mm", 3, "--debug")
    assert code == 2 and "Traceback" in err


def test_memory_error_is_a_failure(scan, run, monkeypatch):
    def greedy(*_, **__):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(mf, "restore", greedy)
    refused(
        run("restore", "scan.nii", "-o", "out.nii", "--fwhm-mm", 3), "not enough memory", "9 TiB", status=3
    )


def test_ctrl_c_stops_and_leaves_nothing(here, rng):
    mf.io.write(
        "scan.nii", mf.io.Volume(rng.poisson(100, (32, 48, 48)).astype(np.float32), (1, 1, 1), None, "mm")
    )
    program = (
        "import os, signal, sys, threading, time\n"
        "from medeconv_fast.cli import main\n"
        "sent = []\n"
        "def stop():\n"
        "    sent.append(time.monotonic())\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Timer(1.5, stop).start()\n"
        "words = 'restore scan.nii -o out.nii --fwhm-mm 3 --iterations 1000000'\n"
        "status = main(words.split())\n"
        "print(time.monotonic() - sent[0])\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "medeconv: stopped; nothing was written\n"
    assert float(done.stdout) < 1.0
    assert files(here) == ["scan.nii"]


def test_progress_only_on_a_terminal(scan, here):
    words = [
        "restore",
        "scan.nii",
        "-o",
        "out.nii",
        "--fwhm-mm",
        "3",
        "--iterations",
        "40",
        "--backend",
        "reference",
    ]
    code, _, err = subprocess_status(words)
    assert (code, err) == (0, "")
    master, slave = pty.openpty()
    with contextlib.closing(os.fdopen(slave, "wb")) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "medeconv_fast", *words, "--overwrite"],
            stdout=subprocess.DEVNULL,
            stderr=terminal,
        )
        assert process.wait(timeout=120) == 0
    shown = os.read(master, 100_000).decode()
    os.close(master)
    assert "restoring [" in shown and "40/40" in shown
    assert shown.endswith("\r\x1b[K")  # and cleared away


def test_reader_that_goes_away(scan, here):
    process = subprocess.Popen(
        [sys.executable, "-m", "medeconv_fast", "info", "scan.nii"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert "Traceback" not in process.stderr.read().decode()
    process.wait(timeout=60)
    process.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="SKIPPED: no /dev/full on this system")
@pytest.mark.parametrize(
    "words",
    [["info", "scan.nii"], ["info", "scan.nii", "--json", "-"], ["backends"], ["--help"], ["--version"]],
    ids=str,
)
def test_full_standard_output_is_a_failure(scan, here, words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "medeconv_fast", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("medeconv: failed: standard output: No space left")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="SKIPPED: no /dev/full on this system")
@pytest.mark.parametrize(("name", "status"), [("scan.nii", 0), ("missing.nii", 2)])
def test_a_full_standard_error_changes_no_status(scan, here, name, status):
    words = ["restore", name, "-o", "out.nii", "--fwhm-mm", "3", "2", "2", "--json", "-"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "medeconv_fast", *words],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == status
    assert (here / "out.nii").exists() == (status == 0)
    if status == 0:
        assert json.loads(done.stdout)["output"] == "out.nii"


def test_json_for_a_closed_standard_output_is_a_failure(scan, run, here, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    status, _, err = run("info", "scan.nii", "--json", "-")
    assert status == 3 and "failed: standard output: is closed" in err


def test_what_the_encoding_of_standard_output_lacks_is_no_failure(scan, here):
    os.rename("scan.nii", "Schädel.nii")
    words = ["restore", "Schädel.nii", "-o", "größer.nii", "--fwhm-mm", "3", "2", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "medeconv_fast", *words],
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote     gr\\xf6\\xdfer.nii" in done.stdout


# ---------------------------------------------------------------- info


def test_info(scan, run, here):
    status, out, err = run("info", "scan.nii", "--json", "i.json")
    assert (status, err) == (0, "")
    assert "9 x 12 x 14 (z, y, x), int16" in out and "2.5 x 1 x 1.5 mm" in out
    assert "anisotropic" in out and "factor 2.5" in out
    record = json.loads((here / "i.json").read_text())
    assert record["minimum"] == scan.array.min() and record["maximum"] == scan.array.max()
    assert record["mean"] == pytest.approx(scan.array.mean()) and record["nan"] == record["negative"] == 0
    assert record["shape"] == list(SHAPE) and record["dtype"] == "int16"


def test_info_of_zarr_reads_a_small_level(run, here, rng, monkeypatch):
    pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
    from medeconv_fast._cli import inspect

    array = rng.random((2, 1, 20, 300, 280), dtype=np.float32)
    metadata = {"channels": ({"label": "DAPI"},), "time_step": 2.5, "time_unit": "sec"}
    mf.io.write("a.ome.zarr", mf.io.Volume(array, (2, 0.5, 0.5), None, "um", "tczyx", metadata))
    status, out, err = run("info", "a.ome.zarr")
    assert (status, err) == (0, "")
    for text in (
        "format      OME-Zarr 0.5 (Zarr 3)",
        "2 x 1 x 20 x 300 x 280 (t, c, z, y, x), float32, 13.44 MB",
        "2: 2 time points every 2.5 second, 1 channel (DAPI)",
        "voxel size  2 x 0.5 x 0.5 um",
        "level 0     2 x 1 x 20 x 300 x 280 (0), scale 2.5 x 1 x 2 x 0.5 x 0.5, chunks 1 x 1 x 20 x 128 x "
        "128 in shards 1 x 1 x 20 x 256 x 256, blosc",
        "level 1     2 x 1 x 20 x 150 x 140",
    ):
        assert text in out
    # Level 0 is larger than what is read: it may as well be damaged.
    monkeypatch.setattr(inspect, "_READ_BYTES", 4_000_000)
    for chunk in (here / "a.ome.zarr" / "0" / "c").rglob("0"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    status, out, _ = run("info", "a.ome.zarr", "--json", "i.json")
    assert status == 0 and "(level 1: means of blocks)" in out
    record = json.loads((here / "i.json").read_text())
    assert record["times"] == 2 and record["levels"][0]["shards"] == [1, 1, 20, 256, 256]
    assert record["mean"] == pytest.approx(array.mean(), rel=1e-3) and record["values_of_level"] == 1
    refused(run("info", "a.ome.zarr", "--channel", "red"), "--channel: is for DICOM")
    refused(run("info", "a.ome.zarr", "--series", "head"), "--series: got 'head'")


def test_names_of_channels_go_into_zarr_without_a_warning(here, run, rng):
    """The trial of the format had fewer channels than names, and warned that they are left out."""
    tifffile = pytest.importorskip("tifffile", reason="SKIPPED: tifffile is not installed (extra io)")
    pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
    array = rng.poisson(100, (3, 4, 16, 18)).astype(np.uint16)
    about = {"axes": "CZYX", "Channel": {"Name": ["a", "b", "c"]}}
    for axis in "XYZ":
        about |= {f"PhysicalSize{axis}": 0.1, f"PhysicalSize{axis}Unit": "µm"}
    tifffile.imwrite("cells.ome.tif", array, metadata=about)
    words = ["--fwhm-um", 0.2, "--method", "rl", "--iterations", 1]
    status, _, err = run("restore", "cells.ome.tif", "-o", "out.ome.zarr", *words)
    assert status == 0 and err == ""
    assert mf.io.open_source("out.ome.zarr").channel_names == ("a", "b", "c")


def test_restore_takes_and_makes_zarr(scan, run, here):
    pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
    mf.io.write("in.zarr", scan)
    words = ["--fwhm-mm", 3, "--iterations", 2]
    assert run("restore", "scan.nii", "-o", "out.nii", *words)[0] == 0
    assert run("restore", "in.zarr", "-o", "out.zarr", *words)[0] == 0
    first, second = mf.io.read("out.nii"), mf.io.read("out.zarr")
    np.testing.assert_array_equal(second.array, first.array)
    np.testing.assert_allclose(second.affine, first.affine, rtol=1e-6, atol=1e-6)
    assert second.unit == "mm" and not list(here.glob("*.partial"))
    refused(run("restore", "in.zarr", "-o", "out.zarr", *words), "exists already; --overwrite replaces it")


def test_info_says_whether_there_is_an_orientation(scan, run):
    nib = pytest.importorskip("nibabel")
    out = run("info", "scan.nii")[1]
    assert "orientation" not in out
    # y and z are turned by atan2(0.6, 0.8) about the x axis, which points to the left.
    assert (
        "placed      z to S, y to A, x to L, oblique by 36.9 degrees; first voxel at R, A, S = 30, -20, 5 mm"
        in out
    )
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.diag([2, -2, -3, 1])), "straight.nii")
    assert "placed      z to I, y to P, x to R; first voxel" in run("info", "straight.nii")[1]
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.float32), None), "none.nii")
    assert "orientation none stated in the file (qform and sform codes 0" in run("info", "none.nii")[1]
    record = json.loads(run("info", "none.nii", "--json", "-")[1])
    assert record["oriented"] is False and record["voxel_size"] is None
    np.save("a.npy", np.ones((4, 5)))
    assert "orientation none stated in the file\n" in run("info", "a.npy")[1]


def test_a_given_voxel_size_makes_no_orientation(run, here):
    nib = pytest.importorskip("nibabel")
    nib.save(nib.Nifti1Image(np.ones((6, 7, 8), np.float32), None), "none.nii")
    words = ["restore", "none.nii", "-o", "out.nii", "--fwhm-mm", 3, "--iterations", 2, "--voxel-size-mm", 2]
    assert run(*words)[0] == 0
    header = nib.load("out.nii").header
    assert (header["qform_code"], header["sform_code"]) == (0, 0)
    assert mf.io.read("out.nii").voxel_size == (2, 2, 2) and mf.io.read("out.nii").unit == "mm"


def test_info_on_what_stands_in_the_way(here, run):
    array = np.array([[1, np.nan, np.inf], [-2, -3, 4]], np.float32)
    np.save("odd.npy", array)
    status, out, _ = run("info", "odd.npy", "--json", "-")
    record = json.loads(out)
    assert status == 0
    assert (record["nan"], record["infinite"], record["negative"]) == (1, 1, 2)
    assert (record["minimum"], record["maximum"], record["mean"]) == (-3, 4, 0)
    advice = " ".join(record["warnings"])
    assert "not finite" in advice and "--negative" in advice and "--voxel-size-mm" in advice
    np.save("nothing.npy", np.full((2, 2), np.nan))
    assert run("info", "nothing.npy")[0] == 0
    refused(run("info", "absent.npy"), "no such file")


def test_info_draws_the_histogram(scan, run, here):
    out = run("info", "scan.nii", "--json", "i.json")[1]
    record = json.loads((here / "i.json").read_text())
    counts, edges = np.histogram(scan.array, 10)
    assert record["histogram"] == {"counts": counts.tolist(), "edges": pytest.approx(edges.tolist())}
    bars = [line.split("%")[1].strip() for line in out.splitlines() if " % " in line or line.endswith("%")]
    assert len(bars) == 10 and max(map(len, bars)) == 40
    for bar, n in zip(bars, counts, strict=True):
        assert len(bar) == (max(1, round(40 * (n / counts.max()) ** 0.5)) if n else 0)
    np.save("labels.npy", np.array([[0, 1, 1], [3, 3, 3]], np.uint8))  # whole numbers: one bin each
    out = run("info", "labels.npy")[1]
    assert "-0.5 to 0.5   16.67 %" in out and "1.5 to 2.5    0.00 %" in out and "2.5 to 3.5   50.00 %" in out
    np.save("flat.npy", np.full((4, 5), 7.0))
    out = run("info", "flat.npy")[1]
    assert "histogram" not in out and "all values are equal" in out


def test_info_sees_saturation(here, run, rng):
    image = np.minimum(rng.normal(200, 30, (50, 60)), 255).astype(np.uint8)
    np.save("clipped.npy", image)
    out = run("info", "clipped.npy")[1]
    assert f"note: {(image == 255).sum()} values are exactly the largest, 255" in out
    np.save("fine.npy", rng.normal(200, 30, (50, 60)))
    assert "saturated" not in run("info", "fine.npy")[1]


# ---------------------------------------------------------------- psf


def test_psf_gaussian(here, run):
    status, out, err = run(
        "psf", "gaussian", "--fwhm-mm", 5, 4, 3, "--voxel-size-mm", 0.5, "-o", "psf.nii.gz"
    )
    assert (status, err) == (0, "") and "wrote psf.nii.gz" in out
    psf = mf.io.read("psf.nii.gz")
    np.testing.assert_allclose(psf.array, mf.psf.gaussian((5, 4, 3), (0.5,) * 3), rtol=1e-6)
    assert psf.unit == "mm"
    np.testing.assert_allclose(psf.voxel_size, 0.5)
    np.testing.assert_allclose(mf.psf.fwhm(psf.array, psf.voxel_size), (5, 4, 3), rtol=0.02)
    refused(
        run("psf", "gaussian", "--fwhm-mm", 5, "--voxel-size-mm", 0.5, "-o", "psf.nii.gz"), "exists already"
    )
    # widths in one unit, voxels in another; two axes; a shape of one's own
    assert (
        run(
            "psf", "gaussian", "--fwhm-um", 900, 500, "--voxel-size-mm", 0.1, "--shape", 31, 21, "-o", "p.npy"
        )[0]
        == 0
    )
    np.testing.assert_allclose(np.load("p.npy"), mf.psf.gaussian((0.9, 0.5), (0.1, 0.1), (31, 21)), rtol=1e-6)


def test_psf_of_microscopes(here, run):
    optics = ["--na", 1.2, "--wavelength-nm", 520, "--shape", 9, 11, 13]
    size = ["--voxel-size-um", 0.25, 0.1, 0.1]
    assert run("psf", "born-wolf", *optics, *size, "--refractive-index", 1.33, "-o", "bw.npy")[0] == 0
    expected = mf.psf.born_wolf(0.52, 1.2, 1.33, (0.25, 0.1, 0.1), (9, 11, 13))
    np.testing.assert_allclose(np.load("bw.npy"), expected, rtol=1e-5, atol=1e-9)
    assert (
        run("psf", "gibson-lanni", *optics, *size, "--depth-um", 4, "--specimen-index", 1.38, "-o", "gl.npy")[
            0
        ]
        == 0
    )
    expected = mf.psf.gibson_lanni(0.52, 1.2, (0.25, 0.1, 0.1), (9, 11, 13), depth=4, specimen_index=1.38)
    np.testing.assert_allclose(np.load("gl.npy"), expected, rtol=1e-5, atol=1e-9)
    # the same lengths in mm give the same PSF
    mm = ["--voxel-size-mm", 0.00025, 0.0001, 0.0001]
    assert (
        run("psf", "gibson-lanni", *optics, *mm, "--depth-um", 4, "--specimen-index", 1.38, "-o", "mm.npy")[0]
        == 0
    )
    np.testing.assert_allclose(np.load("mm.npy"), np.load("gl.npy"), rtol=1e-4, atol=1e-9)
    assert (
        run("psf", "airy", "--na", 1.2, "--wavelength-nm", 520, "--voxel-size-um", 0.1, "-o", "a.tif")[0] == 0
    )
    airy = mf.io.read("a.tif")
    np.testing.assert_allclose(airy.array, mf.psf.airy(0.52, 1.2, (0.1, 0.1)), rtol=1e-5, atol=1e-9)
    assert airy.unit == "um"


def test_psf_refuses(here, run):
    refused(run("psf"), "MODEL")
    refused(run("psf", "gaussian", "--fwhm-mm", 3, "-o", "p.npy"), "--voxel-size-mm")
    refused(run("psf", "gaussian", "--voxel-size-mm", 3, "-o", "p.npy"), "--fwhm-mm")
    refused(
        run("psf", "gaussian", "--fwhm-mm", 3, 2, "--voxel-size-mm", 1, 1, 1, "-o", "p.npy"),
        "--fwhm-mm: got 2 numbers",
    )
    refused(
        run("psf", "gaussian", "--fwhm-mm", 3, "--voxel-size-mm", 1, "--shape", 3.5, "-o", "p.npy"), "--shape"
    )
    refused(
        run("psf", "born-wolf", "--na", 1.6, "--wavelength-nm", 520, "--voxel-size-um", 0.1, "-o", "p.npy"),
        "na: got 1.6",
    )
    assert files(here) == []


# ---------------------------------------------------------------- simulate


def test_simulate_is_the_librarys_and_seeded(scan, run):
    words = [
        "simulate",
        "scan.nii",
        "--fwhm-mm",
        4,
        3,
        3,
        "--noise",
        "poisson",
        "--photons",
        500,
        "--background",
        2,
    ]
    assert run(*words, "-o", "a.nii", "--seed", 7)[0] == 0
    assert run(*words, "-o", "b.nii", "--seed", 7)[0] == 0
    assert run(*words, "-o", "c.nii")[0] == 0
    a, b, c = (mf.io.read(f"{name}.nii") for name in "abc")
    np.testing.assert_array_equal(a.array, b.array)
    assert not np.array_equal(a.array, c.array)
    expected = mf.simulate(
        scan.array,
        mf.psf.gaussian((4, 3, 3), scan.voxel_size),
        noise="poisson",
        photons=500,
        background=2,
        seed=7,
    )
    np.testing.assert_array_equal(a.array, expected)
    np.testing.assert_allclose(a.affine, scan.affine, atol=1e-5)


def test_simulate_gaussian_and_none(scan, run):
    psf = mf.psf.gaussian(4, scan.voxel_size)
    assert run("simulate", "scan.nii", "--fwhm-mm", 4, "-o", "n.nii", "--boundary", "mirror")[0] == 0
    clean = mf.simulate(scan.array, psf, noise=None, boundary="mirror")
    np.testing.assert_array_equal(mf.io.read("n.nii").array, clean)
    assert (
        run("simulate", "scan.nii", "--fwhm-mm", 4, "-o", "g.nii", "--noise", "gaussian", "--sigma", 5)[0]
        == 0
    )
    noise = mf.io.read("g.nii").array - mf.simulate(scan.array, psf, noise=None)
    assert noise.std() == pytest.approx(5, rel=0.1)


def test_time_points_get_their_own_noise(here, run):
    mf.io.write("four.nii", mf.io.Volume(np.full((2, *SHAPE), 100, np.float32), SIZE, None, "mm", "tzyx"))
    assert run("simulate", "four.nii", "--fwhm-mm", 4, "-o", "n.nii", "--noise", "poisson")[0] == 0
    first, second = mf.io.read("n.nii").array
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.2


def test_simulate_refuses(scan, run, here):
    start = ["simulate", "scan.nii", "-o", "out.nii", "--fwhm-mm", 4]
    refused(run(*start, "--photons", 5), "--photons: belongs to --noise poisson")
    refused(run(*start, "--noise", "poisson", "--sigma", 5), "--sigma: belongs to --noise gaussian")
    refused(run(*start, "--noise", "gaussian"), "needs --sigma")
    refused(run(*start, "--boundary", "extended"), "--boundary")
    refused(run(*start, "--seed", "-1"), "--seed")
    mf.io.write("neg.nii", mf.io.Volume(scan.array.astype(np.float32) - 60, SIZE, AFFINE, "mm"))
    refused(
        run("simulate", "neg.nii", "-o", "out.nii", "--fwhm-mm", 4, "--noise", "poisson"),
        "neg.nii",
        "negative",
    )
    assert files(here) == ["neg.nii", "scan.nii"]


# ---------------------------------------------------------------- compare


@pytest.fixture
def pair(scan, run):
    assert (
        run("simulate", "scan.nii", "-o", "blurred.nii", "--fwhm-mm", 5, 4, 4, "--noise", "poisson")[0] == 0
    )
    assert run("restore", "blurred.nii", "-o", "restored.nii", "--fwhm-mm", 5, 4, 4)[0] == 0
    return mf.io.read("blurred.nii"), mf.io.read("restored.nii")


def test_compare_with_a_truth(scan, pair, run, here):
    status, out, _ = run("compare", "blurred.nii", "restored.nii", "--truth", "scan.nii", "--json", "c.json")
    assert status == 0 and "against scan.nii" in out
    record = json.loads((here / "c.json").read_text())
    for row, volume in zip(record["images"], pair, strict=True):
        assert row["psnr"] == pytest.approx(mf.metrics.psnr(scan.array, volume.array))
        assert row["ssim"] == pytest.approx(mf.metrics.ssim(scan.array, volume.array))
        assert row["nrmse"] == pytest.approx(mf.metrics.nrmse(scan.array, volume.array))
        assert row["i_divergence"] == pytest.approx(mf.metrics.i_divergence(scan.array, volume.array))
        assert row["resolution"] == pytest.approx(
            mf.metrics.resolution(scan.array, volume.array, scan.voxel_size, threshold=0.5)
        )
        assert f"{row['psnr']:9.2f}" in out
        assert f"{row['i_divergence']:.5g}" in out and f"{row['resolution']:.4g}" in out
    assert "resolution / mm" in out and record["resolution_unit"] == "mm"


def test_compare_with_negative_values_has_no_i_divergence(here, run, rng):
    np.save("a.npy", rng.normal(size=(20, 20)))
    np.save("b.npy", rng.normal(size=(20, 20)))
    status, out, err = run("compare", "a.npy", "b.npy")
    assert status == 0 and "no I-divergence of b.npy" in err and "resolution / voxels" in out
    status, out, _ = run("compare", "a.npy", "b.npy", "--json", "-")
    assert json.loads(out)["images"][0]["i_divergence"] is None


def test_compare_two_and_draw(scan, pair, run, here):
    pytest.importorskip("matplotlib")
    status, out, _ = run("compare", "scan.nii", "blurred.nii", "--picture", "c.png", "--json", "-")
    record = json.loads(out)
    assert status == 0 and [row["image"] for row in record["images"]] == ["blurred.nii"]
    assert (here / "c.png").read_bytes().startswith(b"\x89PNG")
    refused(run("compare", "scan.nii", "blurred.nii", "--picture", "c.png"), "c.png: exists already")
    refused(run("compare", "scan.nii", "blurred.nii", "--picture", "c.xyz"), "--picture c.xyz", ".png")
    assert not (here / "c.xyz").exists()
    assert json.loads(run("compare", "scan.nii", "scan.nii", "--json", "-")[1])["images"][0]["psnr"] == "inf"


def test_compare_brings_axes_to_one_order(here, run, rng):
    """Formats have orders of their own, and what is restored in tiles has its colours as channels."""
    array = rng.uniform(1, 2, (2, 3, 8, 9, 10)).astype(np.float32)
    volume = mf.io.Volume(array, (1, 1, 1), None, "mm", "tczyx")
    mf.io.write("a.npy", volume)
    mf.io.write("b.nii", volume)
    turned = np.ascontiguousarray(array.transpose(0, 2, 1, 3, 4))
    mf.io.write("c.ome.tif", mf.io.Volume(turned, (1, 1, 1), None, "mm", "tzcyx"))
    assert mf.io.read("b.nii").axes == "ctzyx" and mf.io.read("c.ome.tif").axes == "tzcyx"
    colours = np.ascontiguousarray(array[0, :, 0])
    mf.io.write("d.npy", mf.io.Volume(colours, None, None, None, "cyx"))
    mf.io.write("e.npy", mf.io.Volume(np.moveaxis(colours, 0, -1), None, None, None, "yxs"))
    for one, other in (("a.npy", "b.nii"), ("b.nii", "c.ome.tif"), ("d.npy", "e.npy"), ("e.npy", "d.npy")):
        status, out, err = run("compare", one, other, "--json", "-")
        assert status == 0, err
        assert json.loads(out)["images"][0]["psnr"] == "inf"
    refused(run("compare", "a.npy", "d.npy"), "d.npy is 3 x 9 x 10 (cyx)", "expected the same grid")


def test_compare_refuses(scan, run, here):
    mf.io.write("small.nii", mf.io.Volume(scan.array[1:], SIZE, None, "mm"))
    refused(run("compare", "scan.nii", "small.nii"), "small.nii is 8 x 12 x 14", "expected the same grid")
    array = scan.array.astype(np.float32)
    array[0, 0, 0] = np.nan
    mf.io.write("nan.nii", mf.io.Volume(array, SIZE, None, "mm"))
    refused(run("compare", "scan.nii", "nan.nii"), "image is nan.nii", "NaN")
    mf.io.write("flat.nii", mf.io.Volume(np.ones(SHAPE, np.float32), SIZE, None, "mm"))
    refused(run("compare", "flat.nii", "scan.nii"), "truth is flat.nii", "equal")


def test_compare_thin_images_has_no_ssim(here, run, rng):
    np.save("a.npy", rng.uniform(1, 2, (3, 20, 20)))
    np.save("b.npy", rng.uniform(1, 2, (3, 20, 20)))
    status, out, err = run("compare", "a.npy", "b.npy", "--json", "-")
    assert status == 0 and "no SSIM" in err and json.loads(out)["images"][0]["ssim"] is None


def test_compare_says_when_images_lie_elsewhere(scan, run):
    turned = np.diag([-1.0, 1, 1, 1]) @ scan.affine
    mf.io.write("other.nii", mf.io.Volume(scan.array, SIZE, turned, "mm"))
    status, _, err = run("compare", "scan.nii", "other.nii")
    assert status == 0 and "other.nii: lies " in err and "compared voxel by voxel" in err
    assert "lies" not in run("compare", "scan.nii", "scan.nii")[2]


def test_compare_says_so_where_no_unit_is_named(scan, run):
    turned = np.diag([-1.0, 1, 1, 1]) @ scan.affine
    mf.io.write("other.nii", mf.io.Volume(scan.array, SIZE, turned, None))
    status, _, err = run("compare", "scan.nii", "other.nii")
    assert status == 0 and "other.nii: lies " in err and "compared voxel by voxel" in err


def test_compare_says_when_voxel_sizes_differ(scan, run):
    mf.io.write("other.nii", mf.io.Volume(scan.array, (5, 1, 1.5), None, "mm"))
    status, _, err = run("compare", "scan.nii", "other.nii")
    assert status == 0 and "voxel sizes differ" in err


# ---------------------------------------------------------------- backends, help


def test_backends(run):
    status, out, _ = run("backends", "--json", "-")
    record = json.loads(out)
    rows = {row["name"]: row for row in record["backends"]}
    assert status == 0 and rows["reference"]["available"]
    assert {name for name, row in rows.items() if row["available"]} == set(mf.backends.available())
    assert record["auto"] == mf.backends.available()[0] and record["num_threads"] == mf.get_num_threads()
    assert not rows["cuda"]["available"] and "medeconv_fast._cuda" in rows["cuda"]["reason"]
    if rows["cpp"]["available"]:
        assert rows["cpp"]["details"]["isa"] in rows["cpp"]["details"]["supported_isas"]
    assert "reference" in run("backends")[1]


def test_backends_marks_what_auto_is_here(run, monkeypatch):
    def marked(*words):
        return [line.split()[0] for line in run("backends", *words)[1].splitlines() if "<- auto" in line]

    assert marked() == [mf.backends.resolve("auto").NAME]
    monkeypatch.setenv("MEDECONV_BACKEND", "reference")
    assert marked() == ["reference"]
    monkeypatch.setenv("MEDECONV_BACKEND", "cuda")
    status, out, err = run("backends")
    assert status == 0 and "<- auto" not in out
    assert "MEDECONV_BACKEND: 'cuda' is not available here" in err
    assert json.loads(run("backends", "--json", "-")[1])["auto"] is None


def test_backends_say_why_one_is_missing(run, monkeypatch):
    from medeconv_fast.backends import cpp

    monkeypatch.setattr(cpp, "is_available", lambda: False)
    monkeypatch.setattr(cpp, "unavailable_reason", lambda: "no compiler that day")
    out = run("backends")[1]
    assert "no compiler that day" in out


@pytest.mark.parametrize(
    "command",
    [
        "",
        "restore",
        "info",
        "psf",
        "psf gaussian",
        "simulate",
        "compare",
        "backends",
        "bench",
        "calibrate",
        "demo",
    ],
)
def test_help_says_what_it_is_for(run, command):
    status, out, err = run(*command.split(), "--help")
    assert (status, err) == (0, "")
    assert "research, not a medical device" in " ".join(out.split())


def test_help_lists_what_is_built(run):
    out = run("--help")[1]
    for command in (
        "restore",
        "plan",
        "info",
        "psf",
        "simulate",
        "compare",
        "backends",
        "bench",
        "calibrate",
        "train",
        "predict",
        "demo",
    ):
        assert re.search(rf"^    {command}\s", out, re.M)


def test_version_and_module(run):
    assert run("--version")[:2] == (0, f"medeconv-fast {mf.__version__}\n")
    code, out, _ = subprocess_status(["--version"])
    assert (code, out) == (0, f"medeconv-fast {mf.__version__}\n")


def test_warning_filters_are_left_alone(scan, run):
    before = list(warnings.filters), warnings.showwarning
    run("info", "scan.nii")
    assert (list(warnings.filters), warnings.showwarning) == before


# ---------------------------------------------------------------- plan


def test_plan_says_what_restore_would_take(scan, run, here):
    status, out, err = run("plan", "scan.nii", "--fwhm-mm", 3, 2, 2, "--json", "plan.json")
    assert status == 0
    expected = mf.plan(SHAPE, mf.psf.gaussian((3, 2, 2), scan.voxel_size))
    # The times are predicted for cpp; where another backend computes, a note says so.
    assert (err == "") == (not expected.warnings) == (mf.backends.resolve("auto").NAME == "cpp")
    assert str(expected).partition("\nwarning")[0] in out
    record = json.loads((here / "plan.json").read_text())
    assert record["command"] == "plan" and record["plan"]["engine"] == expected.engine
    assert record["plan"]["bytes"] == expected.bytes
    assert files(here) == ["plan.json", "scan.nii"]


def test_plan_of_a_shape_knows_no_tiles(run, here):
    words = ["plan", "--shape", 64, 64, 64, "--fwhm-mm", 3, "--voxel-size-mm", 1]
    refused(run(*words, "--tile", 16), "--tile: is of tiles")
    assert "of plain Richardson-Lucy (--method rl); wiener may" in run(*words, "--method", "wiener")[1]
    assert "plain" not in run(*words, "--method", "rl")[1]


def test_plan_of_a_shape(run, here):
    words = ["plan", "--shape", 300, 400, 500, "--fwhm-um", 4, 3, 3, "--voxel-size-um", 2, 1, 1]
    status, out, err = run(*words, "--boundary", "reflect", "--memory", "4GB", "--json", "-")
    assert status == 0
    record = json.loads(out)
    assert record["plan"]["shape"] == [300, 400, 500] and record["plan"]["boundary"] == "reflect"
    status, _, err = run(*words, "--memory", "4MB")
    assert status == 0 and "restore_volume (on the command line --memory) works in tiles" in err


def test_plan_with_a_psf_file(scan, run):
    mf.io.write("psf.npy", mf.io.Volume(np.ones((3, 3, 3), np.float32), None, None, None, "zyx"))
    status, out, err = run("plan", "scan.nii", "--psf", "psf.npy")
    assert status == 0 and "psf        3 x 3 x 3" in out and "no voxel size" in err


@pytest.mark.parametrize(
    "words, texts",
    [
        (["--fwhm-mm", 3], ["IN", "--shape"]),
        (["scan.nii", "--shape", 3, 4, 5, "--fwhm-mm", 3], ["not both"]),
        (["scan.nii"], ["PSF is needed"]),
        (["missing.nii", "--fwhm-mm", 3], ["missing.nii"]),
        (["--shape", 8, 9, "--fwhm-mm", 3], ["voxel size"]),
        (["scan.nii", "--fwhm-mm", 3, "--memory", "much"], ["memory", "much"]),
        (["scan.nii", "--fwhm-mm", 3, "--device", "cuda"], ["--device cuda", "not available here"]),
    ],
)
def test_plan_refuses(scan, run, words, texts):
    refused(run("plan", *words), *texts)


def test_the_json_of_a_batch_is_none_of_its_images(run, here):
    (here / "in").mkdir()
    (here / "out").mkdir()
    mf.io.write("in/a.nii", mf.io.Volume(np.ones((6, 7, 8), np.float32), SIZE, None, "mm"))
    words = ["restore", "in", "-o", "out", "--fwhm-mm", 3, "--method", "rl", "--iterations", 1, "--overwrite"]
    refused(run(*words, "--json", "out/a.nii"), "--output out/a.nii writes to the same file")
    assert not list((here / "out").iterdir())
    words[3] = "missing/out"
    refused(run(*words), "--output missing/out: the folder ", "missing does not exist")
