"""medeconv restore and plan in tiles: options, exit status, batches, the report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import cli
from medeconv_fast._cli import volume_report

pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")
SHAPE, SIZE = (80, 90, 70), (2.0, 1.0, 1.0)
FWHM = ["--fwhm-um", "4", "2.5", "2.5"]
TILES = ["--memory", "1GB", "--tile", "64", "64", "64"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def image(here):
    array = np.random.default_rng(2).poisson(6, SHAPE).astype(np.uint16)
    array[30:50, 30:60, 20:50] += 40
    mf.io.write("in.zarr", mf.io.Volume(array, SIZE, None, "um"))
    return array


@pytest.fixture
def run(capsys):
    def run(*words):
        status = cli.main([str(w) for w in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_restore_in_tiles(run, image, here):
    words = ["restore", "in.zarr", "-o", "out.ome.zarr", *FWHM, "--method", "rl", "--iterations", 3, *TILES]
    status, out, err = run(*words, "--json", "r.json")
    assert status == 0, err
    assert "tiles     8 of 8 done, 8 now" in out and "seam" in out and "wrote     out.ome.zarr" in out
    record = json.loads(Path("r.json").read_text())
    assert record["tiles"] == 8 and record["finished"] and record["plan"]["core"] == [64, 64, 64]
    made = mf.io.open_source("out.ome.zarr")
    assert made.voxel_size == SIZE and made.unit == "um"
    psf = mf.psf.gaussian((4, 2.5, 2.5), SIZE)
    whole = mf.richardson_lucy(image, psf, 3)
    assert np.abs(made.read(0) - whole).max() < 1e-3 * np.ptp(whole)
    status, out, _ = run(*words)
    assert status == 0 and "0 now" in out and "exists     out.ome.zarr" in out
    status, _, err = run(*words[:-1], 32)
    assert status == 2 and "made by another job (tile was" in err


def test_other_formats_and_dtypes(run, image, here):
    words = ["restore", "in.zarr", *FWHM, "--method", "rl", "--iterations", 2, *TILES]
    assert run(*words, "-o", "out.nii")[0] == 0
    assert mf.io.read("out.nii").voxel_size == (0.002, 0.001, 0.001) or mf.io.read("out.nii").unit == "um"
    status, _, err = run(*words, "-o", "out.zarr", "--dtype", "input", "--scale", 1)
    assert status == 0, err
    assert mf.io.open_source("out.zarr").stored_dtype == np.uint16
    status, _, err = run(*words, "-o", "other.zarr", "--dtype", "input")
    assert status == 2 and "scale" in err
    assert not Path("other.zarr").exists() and not Path("other.zarr.partial").exists()
    status, _, err = run(*words, "-o", "clipped.zarr", "--dtype", "input", "--scale", 1e-4)
    assert status == 0 and "clipped: uint16 with this --scale does not hold them" in err
    status, _, err = run(*words, "-o", "nowhere/out.zarr")
    assert status == 2 and "out.zarr: the directory" in err and "nowhere does not exist" in err


@pytest.mark.parametrize("given", [["2", "1", "1"], ["3", "1", "1", "--override-voxel-size"]])
def test_a_voxel_size_on_the_command_line_keeps_the_orientation(run, here, given):
    """As in memory: naming the unit moves nothing, another size only stretches the axes."""
    nib = pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
    affine = np.array([[-0.8, 0.6, 0, 10], [0.6, 0.8, 0, -7], [0, 0, 2, 3], [0, 0, 0, 1]])
    made = nib.Nifti1Image(np.random.default_rng(2).random((16, 14, 12), np.float32), affine)
    made.set_sform(affine, 2)
    nib.save(made, "in.nii")
    words = ["restore", "in.nii", "--method", "rl", "--iterations", 1, "--fwhm-mm", 3, 2, 2]
    words += ["--voxel-size-mm", *given]
    assert run(*words, "-o", "whole.nii")[0] == 0
    assert run(*words, "-o", "tiles.nii", "--memory", "1GB")[0] == 0
    whole, tiles = nib.load("whole.nii"), nib.load("tiles.nii")
    expected = affine @ np.diag([1, 1, float(given[0]) / 2, 1])
    np.testing.assert_allclose(whole.affine, expected, atol=1e-6)
    np.testing.assert_allclose(tiles.affine, expected, atol=1e-6)
    assert int(tiles.header["sform_code"]) == int(whole.header["sform_code"]) == 2


def test_shards_and_resuming(run, image, here):
    words = ["restore", "in.zarr", "-o", "out.zarr", *FWHM, "--method", "rl", "--iterations", 2, *TILES]
    status, out, _ = run(*words, "--shard-index", 0, "--num-shards", 2)
    assert status == 0 and "unfinished out.zarr: 4 tiles are left" in out
    status, _, err = run(*words[:7], 3, *words[8:])
    assert status == 2 and "the psf is another one" in err and "--no-resume" in err
    status, out, _ = run(*words)
    assert status == 0 and "8 of 8 done, 4 now" in out


def test_plan_in_tiles(run, image):
    words = ["plan", "in.zarr", *FWHM, "--method", "rl", "--iterations", 3]
    status, out, err = run(*words, *TILES, "--json", "p.json")
    assert status == 0, err
    assert "in tiles" in out and "8: 2 x 2 x 2 per image" in out
    plan = json.loads(Path("p.json").read_text())["in_tiles"]
    run("restore", *words[1:], "-o", "out.zarr", *TILES, "--json", "r.json")
    done = json.loads(Path("r.json").read_text())["plan"]
    assert {k: done[k] for k in plan} == plan
    status, _, err = run(*words, "--memory", "1MB")
    assert status == 0 and "a block of" in err
    status, out, _ = run("plan", "in.zarr", *FWHM)
    assert status == 0 and "in tiles" not in out


def test_report(run, image, here):
    pytest.importorskip("matplotlib", reason="SKIPPED: matplotlib is not installed (extra report)")
    words = ["restore", "in.zarr", "-o", "out.zarr", *FWHM, "--method", "rl", "--iterations", 2, *TILES]
    status, _out, err = run(*words, "--report", "r.html")
    assert status == 0, err
    page = Path("r.html").read_text()
    for part in ("Maximum-intensity projections", "Seams", "cut across z", "share of halos", "num_iter"):
        assert part in page
    assert page.count("data:image/png") == 3
    assert run(*words, "--report", "r.txt")[0] == 2


@pytest.mark.parametrize("name", ["out.nii.gz", "out.mha"])
def test_a_report_on_what_is_too_large_to_be_read_again(run, image, here, monkeypatch, name):
    """The restoration is finished, and must not be called failed. (Formats without random access: 2 GiB.)"""
    pytest.importorskip("matplotlib", reason="SKIPPED: matplotlib is not installed (extra report)")
    pytest.importorskip("SimpleITK" if name.endswith("mha") else "nibabel")
    words = ["restore", "in.zarr", "-o", name, *FWHM, "--method", "rl", "--iterations", 2, *TILES]
    monkeypatch.setitem(mf.io.open_source.__kwdefaults__, "max_bytes", 1000)
    with pytest.raises(ValueError, match="has no random access"):
        mf.io.write("small.nii.gz", mf.io.Volume(image))
        mf.io.open_source("small.nii.gz")
    status, out, err = run(*words, "--report", "r.html")
    assert status == 0, err
    assert f"wrote     {name}" in out and "wrote     r.html" in out
    page = Path("r.html").read_text()
    assert "share of halos" in page
    if name.endswith("mha"):
        assert "No projections" in page and "has no random access" in page
    else:
        assert page.count("data:image/png") == 3


@pytest.mark.parametrize("tiles", [True, False])
def test_a_report_that_fails_does_not_fail_the_restoration(run, image, here, monkeypatch, tiles):
    pytest.importorskip("matplotlib", reason="SKIPPED: matplotlib is not installed (extra report)")

    def full(*_, **__):
        raise OSError(28, "No space left on device", "r.html")

    monkeypatch.setattr(volume_report if tiles else mf.report, "write", full)
    words = ["restore", "in.zarr", "-o", "out.zarr", *FWHM, "--method", "rl", "--iterations", 1]
    status, out, err = run(*words, *(TILES if tiles else []), "--report", "r.html", "--json", "r.json")
    assert status == 0 and "wrote     out.zarr" in out and "wrote     r.html" not in out
    assert "note: the report r.html was not written (" in err and "No space left on device" in err
    record = json.loads(Path("r.json").read_text())
    assert record["report"] is None and "No space left" in record["warnings"][-1]


def test_compressed_files_are_read_in_one_pass(here, monkeypatch):
    pytest.importorskip("nibabel")
    from medeconv_fast.io._source import open_streamed

    array = np.random.default_rng(1).integers(0, 900, (9, 14, 11)).astype(np.int16)
    mf.io.write("a.nii.gz", mf.io.Volume(array, SIZE, None, "mm"))
    made = open_streamed(Path("a.nii.gz"))
    assert made.shape == array.shape and made.chunks == (1, 14, 11) and made.voxel_size == SIZE
    assert np.array_equal(made.read(0), array)
    part = (slice(2, 7), slice(3, 9), slice(1, 10))
    assert np.array_equal(made.read(0, part), array[part])
    starts = []
    read = made.read
    monkeypatch.setattr(made, "read", lambda item, region: (starts.append(region[0]), read(item, region))[1])
    monkeypatch.setattr(volume_report, "SLAB", 320)
    projected = volume_report.projections(made)
    assert [s.start for s in starts] == sorted({s.start for s in starts}) and len(starts) == 5
    for axis in range(3):
        assert np.array_equal(projected[axis], array.max(axis))
    content = Path("a.nii.gz").read_bytes()
    Path("a.nii.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.nii\.gz: "):
        open_streamed(Path("a.nii.gz")).read(0)


@pytest.mark.parametrize("shape", [(30, 600, 70), (1100, 40)])
def test_projections_are_the_largest_values(shape, monkeypatch):
    monkeypatch.setattr(volume_report, "SLAB", 5000)
    array = np.random.default_rng(0).random(shape)
    made = volume_report.projections(mf.io.open_source(array))
    step = [-(-n // 512) for n in shape]
    padded = np.pad(array, [(0, -n % s) for n, s in zip(shape, step, strict=True)], constant_values=-np.inf)
    small = padded.reshape([k for n, s in zip(padded.shape, step, strict=True) for k in (n // s, s)])
    small = small.max(axis=tuple(range(1, 2 * len(shape), 2)))
    expected = [small] if len(shape) == 2 else [small.max(axis=a) for a in range(3)]
    for got, wanted in zip(made, expected, strict=True):
        assert np.array_equal(got, wanted)


def test_a_folder_of_images(run, here):
    folder = here / "images"
    folder.mkdir()
    for number in range(3):
        array = np.random.default_rng(number).poisson(9, (12, 14, 10)).astype(np.float32)
        mf.io.write(folder / f"scan{number}.npy", mf.io.Volume(array, SIZE, None, "mm"))
    bad = np.load(folder / "scan1.npy")
    bad[0, 0, 0] = np.nan
    np.save(folder / "scan1.npy", bad)
    (folder / "notes.txt").write_text("not an image")
    words = ["restore", "images", "-o", "restored", "--fwhm-mm", 4, 2, 2, "--method", "rl", "--iterations", 2]
    status, out, err = run(*words, "--json", "b.json")
    assert status == 3 and "1 of 3 images could not be restored" in err and "scan1.npy" in err
    assert "scan1.npy  failed" in out and "scan2.npy  restored" in out
    rows = json.loads(Path("b.json").read_text())["images"]
    assert [row["status"] for row in rows] == ["restored", "failed", "restored"]
    alone, _, _ = run("restore", "images/scan2.npy", "-o", "alone.npy", *words[4:])
    assert alone == 0
    assert np.array_equal(np.load("alone.npy"), np.load("restored/scan2.npy"))
    bad[0, 0, 0] = 9
    np.save(folder / "scan1.npy", bad)
    status, out, _ = run(*words)
    assert status == 0 and "scan0.npy  exists" in out and "scan1.npy  restored" in out
    status, out, _ = run(*words, "--overwrite")
    assert status == 0 and out.count("npy  restored") == 3
    status, _, err = run(*words, "--overwrite", "--json", "images/scan0.npy")
    assert status == 2 and "would replace images/scan0.npy, which is read" in err
    assert run("restore", "images", "-o", "images", *words[4:])[0] == 2
    assert run("restore", "images", "-o", "images/notes.txt", *words[4:])[0] == 2


def test_a_folder_of_images_says_that_dicom_beside_them_is_left_out(run, here):
    """One stray file of another format made a batch of a study, and the series went by without a word."""
    folder = here / "study"
    folder.mkdir()
    mf.io.write(folder / "map.npy", mf.io.Volume(np.ones((6, 7, 8), np.float32), SIZE, None, "mm"))
    words = ["restore", "study", "-o", "restored", "--fwhm-mm", 4, 2, 2, "--method", "rl", "--iterations", 1]
    assert "left out" not in run(*words)[2]
    for name in ("slice1", "slice2.dcm"):
        (folder / name).write_bytes(bytes(128) + b"DICM")
    status, _, err = run(*words, "--overwrite")
    assert status == 0 and "study: left out 2 DICOM files beside images of other formats" in err


@pytest.mark.parametrize("number, expected", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_keep_what_is_finished(image, here, number, expected):
    words = ["restore", "in.zarr", "-o", "out.zarr", *FWHM, "--method", "rl", "--iterations", "30", *TILES]
    command = [sys.executable, "-m", "medeconv_fast", *map(str, words), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    log = here / "out.zarr.job.log"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.stat().st_size:
            break
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == expected, err
    assert "of 8 tiles are done, the same command does the others" in err
    assert 1 <= len(log.read_text().splitlines()) < 8


def test_a_failure_on_the_way_says_what_is_kept(run, image, monkeypatch):
    from medeconv_fast.volumes._job import Job

    write = Job.write

    def full(self, number, *rest):
        if number == 3:
            raise OSError(28, "No space left on device", "out.zarr")
        return write(self, number, *rest)

    monkeypatch.setattr(Job, "write", full)
    words = ["restore", "in.zarr", "-o", "out.zarr", *FWHM, "--method", "rl", "--iterations", 2, *TILES]
    status, _, err = run(*words)
    assert status == 3 and "No space left" in err and "3 of 8 tiles are done" in err
    monkeypatch.setattr(Job, "write", write)
    assert run(*words)[0] == 0


def test_an_input_that_changes_is_a_failure(run, image, monkeypatch):
    from medeconv_fast.volumes._job import Job

    write = Job.write

    def touching(self, number, *rest):
        for file in Path("in.zarr").rglob("c/*/*/*") if number == 3 else ():
            os.utime(file)
        return write(self, number, *rest)

    monkeypatch.setattr(Job, "write", touching)
    words = ["restore", "in.zarr", "-o", "out.zarr", *FWHM, "--method", "rl", "--iterations", 1, *TILES]
    status, _, err = run(*words)
    assert status == 3 and "the input has been changed" in err and "nothing of it is of use" in err
    monkeypatch.setattr(Job, "write", write)
    status, _, err = run(*words)
    assert status == 2 and "changed while it was being read" in err
    assert run(*words, "--no-resume")[0] == 0


def test_large_files_are_restored_in_tiles_unasked(run, image, monkeypatch):
    from medeconv_fast._cli import tiles

    monkeypatch.setattr(tiles, "_available_memory", lambda: 1000)
    words = ["restore", "in.zarr", "-o", "out.zarr", *FWHM, "--method", "rl", "--iterations", 1]
    status, out, _ = run(*words)
    assert status == 0 and "tiles     1 of 1 done" in out


def test_large_files_that_have_no_random_access_are_restored_as_a_whole(run, here, monkeypatch):
    pytest.importorskip("nibabel")
    from medeconv_fast._cli import tiles

    mf.io.write("in.nii.gz", mf.io.Volume(np.ones((8, 9, 10), np.float32), SIZE, None, "mm"))
    monkeypatch.setattr(tiles, "_available_memory", lambda: 10**9)
    monkeypatch.setattr(tiles, "_LARGE_FILE", 10)
    monkeypatch.setitem(mf.io.open_source.__kwdefaults__, "max_bytes", 1000)
    words = [
        "restore",
        "in.nii.gz",
        "-o",
        "out.nii",
        "--fwhm-mm",
        4,
        2,
        2,
        "--method",
        "rl",
        "--iterations",
        1,
    ]
    status, out, err = run(*words)
    assert status == 0 and "wrote     out.nii" in out, err


@pytest.mark.parametrize("ending", ["", ".json", ".job.json", ".job.log", ".partial"])
def test_the_json_of_a_run_in_tiles_is_none_of_its_files(run, image, here, ending):
    words = ["restore", "in.zarr", "-o", "out.npy", *FWHM, "--method", "rl", "--iterations", 1, *TILES]
    status, _, err = run(*words, "--overwrite", "--json", f"out.npy{ending}")
    assert status == 2 and f"--json out.npy{ending}: --output out.npy writes to the same file" in err
    assert [path.name for path in here.iterdir()] == ["in.zarr"]
