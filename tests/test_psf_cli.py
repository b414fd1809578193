"""``medeconv psf`` on files: every kind is the library's result, with its geometry, picture and messages."""

import json
import subprocess
import sys

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.cli import main

pytest.importorskip("nibabel")
pytest.importorskip("tifffile")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys, here):
    """run("gaussian", …) -> stdout of ``medeconv psf gaussian …``, which must succeed and not complain."""

    def go(*words):
        capsys.readouterr()
        status = main(["psf", *map(str, words)])
        captured = capsys.readouterr()
        assert (status, captured.err) == (0, "")
        return captured.out

    return go


@pytest.fixture
def refused(capsys, here):
    """refused([words], text…): exit status 2, one line that holds every text, and no file made."""

    def go(words, *texts):
        before = sorted(here.iterdir())
        capsys.readouterr()
        status = main(["psf", *map(str, words)])
        captured = capsys.readouterr()
        assert status == 2 and captured.out == ""
        last = captured.err.strip().splitlines()[-1]
        assert last.startswith("medeconv: error: ")
        for text in texts:
            assert text in last
        assert sorted(here.iterdir()) == before

    return go


SHEET = ["--excitation-nm", 488, "--sheet-na", 0.1]
DETECTION = ["--na", 0.8, "--wavelength-nm", 520, "--voxel-size-um", 0.4, 0.2, 0.2, "--shape", 15, 11, 12]


def test_light_sheet_with_each_detection(run, here):
    size = (0.4, 0.2, 0.2)
    wolf = mf.psf.born_wolf(0.52, 0.8, 1.33, size, (15, 11, 12))
    run("light-sheet", *SHEET, *DETECTION, "-o", "s.nii")
    volume = mf.io.read("s.nii")
    expected = mf.psf.light_sheet(wolf, size, 0.488, na=0.1)
    np.testing.assert_allclose(volume.array, expected, rtol=1e-5, atol=1e-9)
    assert volume.dtype == np.float32
    np.testing.assert_allclose(volume.to_unit("um").voxel_size, size, rtol=1e-6)

    run(
        "light-sheet", "--excitation-nm", 488, "--sheet-waist-um", 1.5, "--position-um", -40,
        "--offset-um", -0.3,
        "--detection", "gibson-lanni", "--depth-um", 5, "--refractive-index", 1.4, *DETECTION, "-o", "g.npy",
    )  # fmt: skip
    lanni = mf.psf.gibson_lanni(0.52, 0.8, size, (15, 11, 12), depth=5, immersion_index=1.4)
    expected = mf.psf.light_sheet(lanni, size, 0.488, waist=1.5, position=-40, offset=-0.3)
    np.testing.assert_allclose(np.load("g.npy"), expected, rtol=1e-5, atol=1e-9)

    # A measured detection PSF in mm: the sheet's lengths are still µm, and float64 stays.
    mf.psf.save("d.npy", wolf, np.divide(size, 1000), "mm")
    run("light-sheet", *SHEET, "--detection", "d.npy", "-o", "f.npy")
    array, voxel_size = mf.psf.load("f.npy", "um")
    np.testing.assert_allclose(array, mf.psf.light_sheet(wolf, size, 0.488, na=0.1), rtol=1e-9)
    assert array.dtype == np.float64 and voxel_size == pytest.approx(size)


def test_light_sheet_refuses(refused):
    refused(["light-sheet", *SHEET, "-o", "s.npy"], "needs --na, --wavelength-nm, --voxel-size-um")
    refused(["light-sheet", *DETECTION, "--excitation-nm", 488, "-o", "s.npy"], "--sheet-na")
    refused(["light-sheet", *SHEET, "--detection", "none.npy", "-o", "s.npy"], "none.npy: no such file")
    refused(["light-sheet", *SHEET, *DETECTION, "--detection", "d.npy", "-o", "s.npy"], "--na: belongs to")


def test_from_beads(run, refused, here):
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*[np.arange(n) for n in (24, 60, 90)], indexing="ij")
    image = np.full(z.shape, 20.0)
    for place in (
        [11.3, 15.2, 15.4],
        [12.4, 15.1, 44.8],
        [12.1, 44.7, 15.0],
        [11.8, 45.0, 45.3],
        [12, 30, 88],
    ):
        image += 800 * np.exp(
            -sum((a - p) ** 2 / w for a, p, w in zip((z, y, x), place, (8, 5, 5), strict=True))
        )
    image = rng.poisson(image).astype(np.uint16)
    mf.io.write("beads.tif", mf.io.Volume(image, (0.3, 0.1, 0.1), None, "um"))
    out = run(
        "from-beads",
        "beads.tif",
        "--shape",
        15,
        17,
        17,
        "-o",
        "p.ome.tif",
        "--plot",
        "p.png",
        "--json",
        "p.json",
    )
    assert "4 beads used, 1 left out" in out and "left out: too near the edge, at (12, 30, 88)" in out
    psf, size = mf.psf.load("p.ome.tif", "um")
    expected, info = mf.psf.from_beads(image, (15, 17, 17), return_info=True)
    np.testing.assert_allclose(psf, expected, rtol=1e-5, atol=1e-9)
    assert size == pytest.approx((0.3, 0.1, 0.1)) and psf.dtype == np.float32
    assert (here / "p.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((here / "p.json").read_text())
    assert record["num_beads"] == 4 and record["rejected"] == [[[12, 30, 88], "too near the edge"]]
    np.testing.assert_allclose(record["positions"], info.positions)
    assert record["plot"] == "p.png"
    # A plain .npy says nothing about voxels: the command line does, or nobody.
    np.save("bare.npy", image)
    run("from-beads", "bare.npy", "--shape", 15, 17, 17, "-o", "b.npy", "--voxel-size-um", 0.3, 0.1, 0.1)
    assert mf.psf.load("b.npy", "um")[1] == pytest.approx((0.3, 0.1, 0.1))
    assert "voxels as sampled" in run("from-beads", "bare.npy", "--shape", 15, 17, 17, "-o", "c.npy")

    words = ["from-beads", "beads.tif", "-o", "q.npy", "--shape"]
    refused([*words, 15, 17, 17, "--threshold", 1], "--threshold", "0 to less than 1")
    refused([*words, 15, 17], "--shape: got 2 numbers")
    refused([*words, 25, 17, 17], "shape: got (25, 17, 17)")
    refused([*words, 15, 31, 31], "no usable bead among 5", "too near another bead")
    refused(words[:-1], "--shape")
    refused([*words, 15, 17, 17, "--voxel-size-um", 1], "beads.tif says")


def edge(shape=(50, 44)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    d = x - 21.3 - 0.1 * (y - 25)
    return 100 + 500 / (1 + np.exp(-d / 0.9))


def test_from_edge(run, refused, here):
    mf.io.write("edge.nii", mf.io.Volume(edge(), (0.5, 0.5), None, "mm"))
    for options, keywords in (
        ([], {}),
        (["--isotropic"], {"isotropic": True}),
        (["--model", "line"], {"model": "line"}),
    ):
        out = run("from-edge", "edge.nii", *options, "-o", "e.npy", "--overwrite", "--json", "e.json")
        expected, info = mf.psf.from_edge(edge(), (0.5, 0.5), return_info=True, **keywords)
        psf, size = mf.psf.load("e.npy", "mm")
        np.testing.assert_allclose(psf, expected, rtol=1e-12)
        assert psf.ndim == expected.ndim and size == pytest.approx((0.5,) * psf.ndim)
        assert (
            "crossed along x" in out and f"Gaussian FWHM {info.fwhm:.4g} +- " in out and " mm without" in out
        )
        record = json.loads((here / "e.json").read_text())
        assert record["gaussian_fwhm"] == pytest.approx(info.fwhm) and record["across"] == 1
    # What it makes restores an image of the same scanner.
    run("from-edge", "edge.nii", "--isotropic", "-o", "iso.nii")
    assert (
        main(["restore", "edge.nii", "-o", "sharp.nii", "--psf", "iso.nii", "--iterations", "3", "--quiet"])
        == 0
    )
    # One slice of a volume counts as an image.
    mf.io.write("slice.nii", mf.io.Volume(edge()[None], (2.0, 0.5, 0.5), None, "mm"))
    run("from-edge", "slice.nii", "-o", "slice.npy")
    assert mf.psf.load("slice.npy", "mm")[1] == pytest.approx((0.5,))
    mf.io.write("two.nii", mf.io.Volume(np.stack([edge()] * 2), (2.0, 0.5, 0.5), None, "mm"))
    refused(["from-edge", "two.nii", "-o", "x.npy"], "two.nii: is 2 x 50 x 44, expected an image of two axes")
    np.save("flat.npy", np.ones((20, 20)))
    refused(["from-edge", "flat.npy", "-o", "x.npy"], "all values are equal")
    refused(["from-edge", "edge.nii", "--model", "line", "--isotropic", "-o", "x.npy"], "isotropic")


def test_resample(run, refused):
    psf = mf.psf.gaussian((3, 2, 2), (0.5, 0.25, 0.25))
    mf.psf.save("p.nii", psf, (0.5, 0.25, 0.25), "mm")
    run("resample", "p.nii", "--new-voxel-size-um", 1000, 500, 500, "-o", "r.npy")
    array, size = mf.psf.load("r.npy", "mm")
    np.testing.assert_allclose(
        array, mf.psf.resample(psf, (0.5, 0.25, 0.25), (1, 0.5, 0.5)), rtol=1e-6, atol=1e-9
    )
    assert size == pytest.approx((1, 0.5, 0.5)) and array.dtype == np.float64
    refused(["resample", "p.nii", "-o", "x.npy"], "--new-voxel-size-mm")
    refused(["resample", "p.nii", "--new-voxel-size-mm", 1, 1, "-o", "x.npy"], "--new-voxel-size-mm: got 2")
    np.save("bare.npy", psf)
    refused(["resample", "bare.npy", "--new-voxel-size-mm", 1, "-o", "x.npy"], "bare.npy has no voxel size")


def test_recentre(run, refused):
    psf = np.zeros((21, 22))
    psf[3:14, 8:19] = mf.psf.gaussian(3, (1, 1), (11, 11))
    mf.psf.save("p.npy", psf + 1e-4, 0.1, "um")
    run("recentre", "p.npy", "--remove-background", "-o", "c.npy")
    array, size = mf.psf.load("c.npy", "um")
    np.testing.assert_allclose(array, mf.psf.recentre(mf.psf.remove_background(psf + 1e-4)))
    assert size == pytest.approx((0.1, 0.1)) and np.unravel_index(array.argmax(), (21, 22)) == (10, 11)
    run("recentre", "p.npy", "--method", "peak", "-o", "k.npy")
    assert np.unravel_index(np.load("k.npy").argmax(), (21, 22)) == (10, 11)
    refused(["recentre", "p.npy", "--method", "middle", "-o", "x.npy"], "--method", "centroid")
    mf.io.write("t.npy", mf.io.Volume(np.ones((2, 5, 5)), (1, 1), None, "um", "tyx"))
    refused(["recentre", "t.npy", "-o", "x.npy"], "t.npy: has the axes t, y, x")


MODELS = [
    ["gaussian", "--fwhm-um", "0.5", "--voxel-size-um", "0.2", "0.1", "0.1"],
    ["airy", "--na", "1.2", "--wavelength-nm", "520", "--voxel-size-um", "0.1"],
    ["born-wolf", "--na", "1.2", "--wavelength-nm", "520", "--voxel-size-um", "0.3", "--shape", "9"],
    ["gibson-lanni", "--na", "1.2", "--wavelength-nm", "520", "--voxel-size-um", "0.3", "--shape", "9"],
]


@pytest.mark.parametrize("words", MODELS, ids=lambda words: words[0])
def test_every_model_draws_and_never_overwrites(words, run, refused, here):
    pytest.importorskip("matplotlib")
    out = run(*words, "-o", "p.npy", "--plot", "p.png")
    assert "wrote p.npy" in out and "wrote p.png" in out
    picture = (here / "p.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    refused([*words, "-o", "p.npy"], "p.npy: exists already")
    refused([*words, "-o", "q.npy", "--plot", "p.png"], "p.png: exists already")
    refused([*words, "-o", "q.npy", "--plot", "q.jpg"], "--plot q.jpg", ".png")
    assert (here / "p.png").read_bytes() == picture
    run(*words, "-o", "p.npy", "--plot", "p.png", "--overwrite")


def test_in_a_process_of_its_own(here):
    command = [sys.executable, "-m", "medeconv_fast", "psf"]
    done = subprocess.run(
        [*command, *MODELS[0], "-o", "p.nii.gz"], capture_output=True, text=True, check=True
    )
    assert "FWHM" in done.stdout and done.stderr == ""
    done = subprocess.run(
        [*command, "recentre", "p.nii.gz", "-o", "q.nii.gz"], capture_output=True, text=True, check=True
    )
    np.testing.assert_allclose(mf.io.read("q.nii.gz").array, mf.io.read("p.nii.gz").array, atol=1e-6)
    again = subprocess.run(
        [*command, *MODELS[0], "-o", "p.nii.gz"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 2 and "exists already" in again.stderr
    text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    for name in ("gaussian", "airy", "born-wolf", "gibson-lanni", "light-sheet", "from-beads", "from-edge"):
        assert name in text
