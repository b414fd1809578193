"""``medeconv train`` and ``medeconv predict``."""

import json

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast.cli import main

pytest.importorskip("safetensors", reason="SKIPPED: safetensors is not installed (extra nn)")
pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")

FWHM = (2.5, 2.5, 2.5)


@pytest.fixture
def files(tmp_path):
    """Two blurred, noisy volumes and what they were made of."""
    rng = np.random.default_rng(4)
    psf = mf.psf.gaussian(fwhm=FWHM, voxel_size=(1.0, 1.0, 1.0))
    for i in range(2):
        truth = 700 * np.kron(rng.random((4, 5, 5)) ** 2, np.ones((4, 4, 4))).astype(np.float32)
        image = mf.simulate(truth, psf, photons=500, seed=i)
        for name, array in (("truth", truth), ("image", image)):
            volume = mf.io.Volume(array, (1.0, 1.0, 1.0), unit="mm", affine=np.eye(4))
            mf.io.write(tmp_path / f"{name}{i}.nii.gz", volume)
    return tmp_path


def run(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def gain(files, made):
    read = [mf.io.read(files / name).array for name in ("truth1.nii.gz", "image1.nii.gz", made)]
    return mf.metrics.psnr(read[0], read[2]) - mf.metrics.psnr(read[0], read[1])


TRAINING = ("--epochs", "4", "--samples", "32", "--patch", "12", "12", "12", "--learning-rate", "0.005")
WAYS = {
    "pairs": ("image0.nii.gz", "--targets", "truth0.nii.gz", "--filters", "8", "--epochs", "25"),
    "simulated": ("truth0.nii.gz", "--fwhm-mm", *FWHM, "--photons", "500"),
    "alone": ("image0.nii.gz", "--fwhm-mm", *FWHM, "--without-truth"),
}


@pytest.mark.parametrize("way", WAYS)
def test_train_then_predict(way, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    status, text = run(
        capsys, "train", *TRAINING, *WAYS[way], "--net", "net.safetensors", "--json", "net.json"
    )
    assert status == 0, text
    record = json.loads((files / "net.json").read_text())
    assert len(record["epochs"]) in (4, 25) and record["way"] in text
    status, text = run(capsys, "predict", "image1.nii.gz", "-o", "out.nii.gz", "--net", "net.safetensors")
    assert status == 0, text
    assert gain(files, "out.nii.gz") > 0.5
    made, image = mf.io.read(files / "out.nii.gz"), mf.io.read(files / "image1.nii.gz")
    np.testing.assert_array_equal(made.affine, image.affine)
    status, text = run(
        capsys, "predict", "image1.nii.gz", "-o", "tiled.nii.gz", "--net", "net.safetensors", "--tile", "8"
    )
    assert status == 0, text
    assert gain(files, "tiled.nii.gz") == pytest.approx(gain(files, "out.nii.gz"), abs=0.2)


@pytest.mark.parametrize(
    ("size", "affine", "text"),
    [(2.0, None, "has voxels of"), (1.0, np.diag([-1.0, 1, 1, 1]), "lies 38 mm away")],
)
def test_targets_of_another_grid_are_refused(files, capsys, monkeypatch, size, affine, text):
    """Their voxels are other places of the body."""
    monkeypatch.chdir(files)
    truth = mf.io.read("truth0.nii.gz").array
    mf.io.write("other.nii.gz", mf.io.Volume(truth, (size,) * 3, affine, "mm"))
    words = ("train", *TRAINING, "image0.nii.gz", "--targets", "other.nii.gz", "--net", "net.safetensors")
    status, said = run(capsys, *words)
    assert status == 2 and f"--targets: other.nii.gz: {text}" in said


def test_slices_another_psf_and_resume(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    words = (
        "train",
        "image0.nii.gz",
        "--targets",
        "truth0.nii.gz",
        "--net",
        "flat.safetensors",
        "--filters",
        "8",
    )
    status, text = run(capsys, *words, "--patch", "12", "12", "--epochs", "1", "--samples", "16")
    assert status == 0, text
    assert mf.nn.Model.load(files / "flat.safetensors").ndim == 2
    status, text = run(capsys, "predict", "image1.nii.gz", "-o", "flat.nii.gz", "--net", "flat.safetensors")
    assert status == 0, text
    assert mf.io.read(files / "flat.nii.gz").shape == (16, 20, 20)

    known = (
        "train",
        *WAYS["simulated"],
        "--net",
        "rl.safetensors",
        "--samples",
        "8",
        "--patch",
        "12",
        "12",
        "12",
    )
    for epochs in ("1", "2"):
        status, text = run(capsys, *known, "--epochs", epochs, "--resume", "--json", f"{epochs}.json")
        assert status == 0, text
    assert len(json.loads((files / "2.json").read_text())["epochs"]) == 2
    before = (files / "2.json").read_bytes()
    status, text = run(capsys, *known, "--epochs", "3", "--resume", "--json", "2.json")
    assert status == 2 and "2.json: exists already; --overwrite replaces it" in text
    assert (files / "2.json").read_bytes() == before
    status, text = run(
        capsys, *words, "--patch", "12", "12", "--samples", "4", "--epochs", "1", "--overwrite"
    )
    assert status == 0, text  # batches of no more than there are
    signed = mf.io.read("image0.nii.gz")
    signed.array = signed.array - signed.array.max() / 2
    mf.io.write("signed.nii.gz", signed)
    status, text = run(
        capsys, "train", "signed.nii.gz", "--fwhm-mm", "3", "--sigma", "1", "--net", "s.safetensors"
    )
    assert (
        status == 2
        and "signed.nii.gz: has negative values" in text
        and not (files / "s.safetensors").exists()
    )
    status, text = run(
        capsys, "predict", "image1.nii.gz", "-o", "w.nii.gz", "--net", "rl.safetensors", "--fwhm-mm", "3.5"
    )
    assert status == 0, text


def test_a_finer_grid_covers_the_same_field(files, capsys, monkeypatch):
    """Slices of twice as many pixels; voxel size and affine follow, pixel centres share the extent."""
    monkeypatch.chdir(files)
    for i in range(2):
        truth = mf.io.read(f"truth{i}.nii.gz")
        coarse = truth.array.reshape(16, 10, 2, 10, 2).mean((2, 4))
        affine = np.diag([2.0, 2, 1, 1])
        affine[:2, 3] = 0.5
        mf.io.write(f"coarse{i}.nii.gz", mf.io.Volume(coarse, (1.0, 2.0, 2.0), unit="mm", affine=affine))
    words = ("train", "coarse0.nii.gz", "--targets", "truth0.nii.gz", "--net", "fine.safetensors")
    words += ("--scale", "2", "--filters", "8", "--patch", "8", "8", "--samples", "32", "--epochs", "4")
    status, text = run(capsys, *words)
    assert status == 0, text
    finer = ("predict", "coarse1.nii.gz", "--net", "fine.safetensors")
    status, text = run(capsys, *finer, "-o", "fine.nii.gz")
    assert status == 0, text
    made, truth = mf.io.read("fine.nii.gz"), mf.io.read("truth1.nii.gz")
    assert made.shape == (16, 20, 20) and made.voxel_size == (1.0, 1.0, 1.0)
    np.testing.assert_allclose(made.affine, np.eye(4), atol=1e-6)
    assert mf.metrics.psnr(truth.array, made.array) > 22  # a shift by one pixel costs 10 dB
    status, text = run(capsys, *words[:3], "coarse0.nii.gz", *words[4:], "--overwrite")
    assert status == 2 and "expected (16, 20, 20) for an image of (16, 10, 10)" in text
    status, text = run(capsys, *finer, "-o", "fine.dcm")
    assert status == 2 and "keeps its grid" in text
    status, text = run(capsys, "train", *WAYS["simulated"], "--scale", "2", "--net", "n.safetensors")
    assert status == 2 and "--scale 2: needs --targets" in text


def test_pairs_are_mirrored_where_the_psf_is(files, capsys, monkeypatch):
    """And the noise of every image is that of its own unit."""
    monkeypatch.chdir(files)
    psf = np.zeros((3, 4, 5), np.float32)  # the centre of the even axis is its third value
    psf[:, 1:4] = 1
    psf[1, 2, 4] = 2
    mf.io.write("psf.nii.gz", mf.io.Volume(psf, (1.0, 1.0, 1.0), unit="mm"))
    image = mf.io.read("truth1.nii.gz")
    mf.io.write("truth1.nii.gz", image.with_array(3 * image.array), overwrite=True)
    seen = []
    fit, made = mf.nn.Model.fit, mf.nn.SimulatedPairs

    def noted(self, *arguments, augment, **options):
        seen.append(augment.flips)
        return fit(self, *arguments, augment=augment, **options)

    monkeypatch.setattr(mf.nn.Model, "fit", noted)
    monkeypatch.setattr(mf.nn, "SimulatedPairs", lambda *a, **o: seen.append(o["units"]) or made(*a, **o))
    words = ("--epochs", "1", "--samples", "8", "--filters", "2", "--net", "n.safetensors", "--overwrite")
    known = ("train", "truth0.nii.gz", "truth1.nii.gz", "--sigma", "7", "--kind", "deconv")
    for more in (
        (*known, "--psf", "psf.nii.gz"),
        (*known, "--psf", "psf.nii.gz", "--patch", "8", "8"),
        (*known, "--fwhm-mm", "2.5"),
        ("train", "image0.nii.gz", "--targets", "truth0.nii.gz"),
        ("train", "image0.nii.gz", "--targets", "truth0.nii.gz", "--no-flips"),
    ):
        status, text = run(capsys, *more, *words)
        assert status == 0, text
    units = seen[0]
    assert seen[1::2][:3] == [(True, True, False), (True, False), True] and seen[-2:] == [True, False]
    assert units[1] / units[0] == pytest.approx(
        3 * np.percentile(image.array, 99.9) / np.percentile(mf.io.read("truth0.nii.gz").array, 99.9)
    )


def test_what_an_unfinished_training_leaves_is_said(files, capsys, monkeypatch):
    from medeconv_fast.nn._training import Training

    monkeypatch.chdir(files)
    words = ("train", "image0.nii.gz", "--targets", "truth0.nii.gz", "--net", "n.safetensors")
    words += ("--filters", "2", "--samples", "8", "--epochs", "2")
    save = Training._save

    def interrupted(self, path):
        if self.epoch == 2:
            raise KeyboardInterrupt
        save(self, path)

    monkeypatch.setattr(Training, "_save", interrupted)
    status, text = run(capsys, *words)
    assert status == 130 and "stopped; n.safetensors holds the last whole epoch, and --resume goes on" in text
    monkeypatch.setattr(Training, "_save", save)
    status, text = run(capsys, *words, "--resume")
    assert status == 0, text

    saved = mf.nn.Model.save

    def interrupted_too(self, path, **options):
        if (files / "alone.safetensors").exists():
            raise KeyboardInterrupt
        saved(self, path, **options)

    monkeypatch.setattr(mf.nn.Model, "save", interrupted_too)
    status, text = run(capsys, "train", *TRAINING, *WAYS["alone"], "--net", "alone.safetensors")
    assert status == 130 and "stopped; alone.safetensors holds the last whole epoch" in text
    assert "--resume" not in text
    assert isinstance(mf.nn.Model.load(files / "alone.safetensors"), mf.nn.RLNet)


def test_negative_values_are_named_as_the_file_holds_them(files, capsys, monkeypatch):
    """The network sees them divided by the image's unit."""
    monkeypatch.chdir(files)
    net = mf.nn.RLNet(mf.psf.gaussian(fwhm=(2, 2, 2), voxel_size=(1, 1, 1)), steps=1, filters=2)
    net.notes["unit_percentile"] = 99.9
    net.save("n.safetensors")
    image = mf.io.read("image0.nii.gz")
    array = 1000 * image.array
    array[3, 4, 5] = -610
    mf.io.write("signed.nii.gz", image.with_array(array))
    status, text = run(capsys, "predict", "signed.nii.gz", "-o", "o.nii.gz", "--net", "n.safetensors")
    assert status == 2 and "signed.nii.gz: " in text and "negative, the smallest -610; expected none" in text
    mf.nn.RLNet(steps=1, filters=2).save("no-psf.safetensors")  # learns both ways, and divides by no image
    assert run(capsys, "predict", "signed.nii.gz", "-o", "o.nii.gz", "--net", "no-psf.safetensors")[0] == 0


def test_images_of_few_values_are_predicted(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    net = mf.nn.DeconvNet(filters=2, ndim=3)  # at its start it changes nothing
    net.notes["unit_percentile"] = 99.9
    net.save("n.safetensors")
    image = mf.io.read("image0.nii.gz")
    for largest in (7.0, 0.0):
        array = np.zeros_like(image.array)
        array[3, 4, 5] = largest
        mf.io.write("few.nii.gz", image.with_array(array), overwrite=True)
        status, text = run(
            capsys, "predict", "few.nii.gz", "-o", "o.nii.gz", "--net", "n.safetensors", "--overwrite"
        )
        assert status == 0, text
        np.testing.assert_allclose(mf.io.read("o.nii.gz").array, array)
    status, text = run(
        capsys, "train", "few.nii.gz", "--targets", "few.nii.gz", "--net", "n.safetensors", "--overwrite"
    )
    assert status == 2 and "its 99.9th percentile is 0, expected values to train on" in text


def test_psf_of_a_network_is_that_of_the_images_voxels(files, capsys, monkeypatch):
    """A blur is so many mm wide, not so many voxels."""
    monkeypatch.chdir(files)
    image = mf.io.read("image1.nii.gz").array
    for name, size, unit in (
        ("thick", (1.0, 0.5, 0.5), "mm"),
        ("um", (1000.0, 500.0, 500.0), "um"),
        ("rounded", (1.0, 0.502, 0.498), "mm"),
        ("cubes", (1.0, 1.0, 1.0), "mm"),
        ("nothing", (1.0, 0.5, 0.5), None),
        ("other", (3.0, 3.0, 3.0), None),
    ):
        mf.io.write(f"{name}.nii.gz", mf.io.Volume(image, size, unit=unit))
    mf.io.write("bare.npy", mf.io.Volume(image))
    few = ("--epochs", "1", "--samples", "2", "--batch-size", "1", "--patch", "12", "12", "12")
    width = ("--fwhm-mm", "3", "1.5", "1.5")
    status, text = run(capsys, "train", "thick.nii.gz", "um.nii.gz", *width, *few, "--net", "n.safetensors")
    assert status == 0 and "voxel sizes differ" not in text
    notes = mf.nn.Model.load("n.safetensors").notes
    assert notes["voxel_size"] == [1.0, 0.5, 0.5] and notes["unit"] == "mm"

    def predicted(name, *words):
        words = ("-o", "out.npy", "--net", "n.safetensors", "--overwrite", *words)
        status, text = run(capsys, "predict", name, *words)
        assert status == 0, text
        return mf.io.read("out.npy").array, text

    same, text = predicted("thick.nii.gz")
    assert "resampled" not in text
    for name in ("um.nii.gz", "rounded.nii.gz", "nothing.nii.gz", "bare.npy"):
        made, text = predicted(name)
        assert "resampled" not in text and ("taken as 1 x 0.5 x 0.5 mm" in text) == (name == "bare.npy")
        np.testing.assert_array_equal(made, same)
    made, text = predicted("cubes.nii.gz")
    assert "voxels of 1 x 1 x 1 mm: the PSF of n.safetensors, made for 1 x 0.5 x 0.5 mm, is resampled" in text
    given, text = predicted("cubes.nii.gz", *width)
    assert "resampled" not in text
    assert np.linalg.norm(made - given) < 0.03 * np.linalg.norm(given) < 0.3 * np.linalg.norm(made - same)
    status, text = run(capsys, "predict", "other.nii.gz", "-o", "o.npy", "--net", "n.safetensors")
    assert status == 2
    assert "has voxels of 3 x 3 x 3 (no unit), the PSF of n.safetensors is made for 1 x 0.5 x 0.5 mm" in text

    pairs = ("train", "thick.nii.gz", "--targets", "thick.nii.gz", "--net", "d.safetensors", "--filters", "2")
    status, text = run(capsys, *pairs, *few)
    assert status == 0, text
    for name in ("thick.nii.gz", "um.nii.gz", "nothing.nii.gz", "bare.npy", "cubes.nii.gz", "other.nii.gz"):
        text = predicted(name, "--net", "d.safetensors")[1]
        said = "d.safetensors was trained on 1 x 0.5 x 0.5 mm, and the blur that it has learnt" in text
        assert said == (name in ("cubes.nii.gz", "other.nii.gz"))

    net = mf.nn.Model.load("n.safetensors")  # as those written earlier
    del net.notes["voxel_size"], net.notes["unit"]
    net.save("n.safetensors", overwrite=True)
    made, text = predicted("cubes.nii.gz")
    assert "resampled" not in text
    np.testing.assert_array_equal(made, same)
    status, text = run(
        capsys, "train", "thick.nii.gz", "cubes.nii.gz", *width, *few, "--net", "m.safetensors"
    )
    assert status == 0 and "voxel sizes differ" in text


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("train", "image0.nii.gz", "--net", "n.safetensors"), "needs --targets, or a PSF"),
        (
            (
                "train",
                "image0.nii.gz",
                "--targets",
                "truth0.nii.gz",
                "truth1.nii.gz",
                "--net",
                "n.safetensors",
            ),
            "--targets: got 2 files, expected 1",
        ),
        (
            (
                "train",
                "image0.nii.gz",
                "--targets",
                "truth0.nii.gz",
                "--photons",
                "5",
                "--net",
                "n.safetensors",
            ),
            "--photons: belongs to pairs",
        ),
        (
            ("train", "truth0.nii.gz", "--fwhm-mm", "2", "--patch", "40", "9", "9", "--net", "n.safetensors"),
            r"patch: got \(40, 9, 9\)",
        ),
        (("train", "no.nii.gz", "--fwhm-mm", "2", "--net", "n.safetensors"), "no.nii.gz"),
        (("predict", "image0.nii.gz", "-o", "o.nii.gz", "--net", "image1.nii.gz"), "not a whole safetensors"),
        (("predict", "image0.nii.gz", "-o", "o.nii.gz", "--net", "no.safetensors"), "does not exist"),
    ],
)
def test_bad_input(words, match, files, capsys, monkeypatch):
    import re

    monkeypatch.chdir(files)
    status, text = run(capsys, *words)
    assert status == 2, text
    assert re.search(match, text)
    assert not (files / "n.safetensors").exists() and not (files / "o.nii.gz").exists()
