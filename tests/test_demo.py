"""The demo on the real scans that it ships with, and the pictures it draws."""

import json
import re

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import _figures, demo
from medeconv_fast.cli import main

nib = pytest.importorskip("nibabel")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of the demo: its directory, record and lines."""
    out = tmp_path_factory.mktemp("demo") / "out"
    lines = []
    record = demo.run(out, say=lines.append)
    return out, record, lines


def test_demo_gains_at_least_1_5_db(finished):
    out, record, _ = finished
    known = record["known_blur"]
    assert known["gain_db"] >= 1.5
    assert known["after"]["ssim"] > known["before"]["ssim"] + 0.03
    # and its files say the same
    truth, blurred, restored = (
        mf.io.read(out / f"{name}.nii.gz") for name in ("truth", "blurred", "restored")
    )
    assert mf.metrics.psnr(truth.array, restored.array) == pytest.approx(known["after"]["psnr"], abs=1e-3)
    assert mf.metrics.psnr(truth.array, blurred.array) == pytest.approx(known["before"]["psnr"], abs=1e-3)


def test_demo_is_reproducible(finished, tmp_path):
    out, record, _ = finished
    again = demo.run(tmp_path / "again", say=lambda line: None, num_threads=1)
    assert again["known_blur"]["after"] == record["known_blur"]["after"]
    for name in ("blurred.nii.gz", "restored.nii.gz"):
        np.testing.assert_array_equal(
            mf.io.read(out / name).array, mf.io.read(tmp_path / "again" / name).array, err_msg=name
        )


def test_demo_prints_what_it_measured(finished):
    out, record, lines = finished
    text = "\n".join(lines)
    known = record["known_blur"]
    for wanted in (
        f"{known['before']['psnr']:.2f}",
        f"{known['after']['ssim']:.3f}",
        f"{known['gain_db']:+.2f}",
        f"{known['milliseconds_per_iteration']:.2f} ms",
        f"backend {known['backend']}",
        f"{known['num_threads']} threads",
        "peak of this process",
        str(out),
        "demo.png",
    ):
        assert wanted in text
    assert known["peak_memory_bytes"] > known["working_bytes"] > 0


def test_demo_writes_what_it_lists(finished):
    out, record, _ = finished
    assert sorted(record["files"]) == sorted(str(path) for path in out.iterdir())
    assert (
        json.loads((out / "demo.json").read_text())["known_blur"]["gain_db"]
        == record["known_blur"]["gain_db"]
    )
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 300_000


def test_scans_as_they_are_keep_their_geometry(finished):
    out, record, _ = finished
    for entry in record["as_it_is"]:
        source = nib.load(demo.scan_path(entry["scan"]))
        result = nib.load(out / (entry["scan"].split(".")[0] + "_as_it_is.nii.gz"))
        assert result.shape == source.shape and result.get_data_dtype() == np.float32
        np.testing.assert_allclose(result.affine, source.affine, atol=1e-4)
        before, after = (np.asarray(image.dataobj, np.float64) for image in (source, result))
        assert np.isfinite(after).all() and after.min() >= 0
        assert after.mean() == pytest.approx(
            np.maximum(before, 0).mean(), rel=0.02
        )  # intensities keep their scale
        assert after.std() > before.std()  # sharper


def test_truth_is_a_part_of_the_scan_in_its_place():
    truth = demo.load_truth()
    scan = nib.load(demo.scan_path("example4d.nii.gz"))
    array = np.asarray(scan.dataobj)[..., 0]
    index = np.array([40, 30, 10])  # x, y, z in the truth
    world = truth.affine @ [*index, 1]
    where = np.rint(np.linalg.solve(scan.affine, world)[:3]).astype(int)
    assert truth.array[tuple(index[::-1])] == array[tuple(where)]
    assert np.linalg.norm(scan.affine @ [*where, 1] - world) < 1e-3
    removed = array.sum(dtype=np.float64) - truth.array.sum(dtype=np.float64)
    assert 0 <= removed < 0.01 * array.sum()  # only air was cut away


def test_demo_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--out", "here", "--backend", "reference", "--json", "d.json"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"gain +\+[1-9]\.\d\d", out)
    assert json.loads((tmp_path / "d.json").read_text())["known_blur"]["backend"] == "reference"
    # once more into its own directory, but not into somebody else's
    assert main(["demo", "--out", "here", "--quiet"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "truth.nii.gz").write_text("precious")
    assert main(["demo", "--out", "mine"]) == 2
    assert "holds files that no demo wrote" in capsys.readouterr().err
    assert (tmp_path / "mine" / "truth.nii.gz").read_text() == "precious"
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", "file"]) == 2
    assert "expected a directory" in capsys.readouterr().err


def test_demo_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(nib, "__file__", str(tmp_path / "nibabel" / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="the wheel on PyPI has it"):
        demo.run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_orientation_agrees_with_nibabel(order, flips):
    affine = np.eye(4)
    affine[:3, :3] = (np.diag([2.0, 3.0, 4.0]) * flips)[:, order]
    tilt = np.deg2rad(12)
    affine[:3, :3] = (
        np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
        @ affine[:3, :3]
    )
    axes, flipped = _figures.orientation(affine)
    codes = nib.aff2axcodes(affine)[::-1]  # of our array axes z, y, x
    for axis, flip, (plain, reversed_) in zip(
        axes, flipped, (("S", "I"), ("A", "P"), ("R", "L")), strict=True
    ):
        assert codes[axis] == (reversed_ if flip else plain)


class Panels:
    """Stands in for matplotlib's Axes.imshow: keeps what was drawn where."""

    def __init__(self, monkeypatch):
        from matplotlib.axes import Axes

        self.drawn = []
        original = Axes.imshow

        def imshow(axes, plane, **options):
            self.drawn.append((np.array(plane), options["extent"], options["vmin"], options["vmax"]))
            return original(axes, plane, **options)

        monkeypatch.setattr(Axes, "imshow", imshow)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_patients_right_is_on_the_viewers_left(tmp_path, monkeypatch, flips):
    """A bright mark at the patient's right, front and top lands there whatever the array's order is."""
    panels = Panels(monkeypatch)
    affine = np.diag([*(np.array([2.0, 3.0, 4.0]) * flips), 1.0])
    array = np.zeros((5, 7, 9))  # z, y, x
    # world direction of each array axis: x -> R, y -> A, z -> S, times its flip
    ends = [n - 1 if flip > 0 else 0 for n, flip in zip(array.shape, flips[::-1], strict=True)]
    array[ends[0], 3, 4] = 1  # top
    array[2, ends[1], 4] = 2  # front
    array[2, 3, ends[2]] = 3  # right
    _figures.orthogonal_slices(
        tmp_path / "p.png", [("a", array)], voxel_size=(4, 3, 2), affine=affine, window=(0, 3)
    )
    (axial, extent, *_), (coronal, *_), (sagittal, *_) = panels.drawn
    assert extent == (0, 18, 0, 21)  # 9 x 2 mm wide, 7 x 3 mm high
    assert axial[3, 0] == 3 and axial[0, 4] == 2  # right on the left, front on top
    assert coronal[2, 0] == 3 and coronal[0, 4] == 1
    assert sagittal[2, 0] == 2 and sagittal[0, 3] == 1  # front on the left, top on top


def test_one_grey_scale_for_all_panels(tmp_path, monkeypatch, rng):
    panels = Panels(monkeypatch)
    truth = rng.uniform(10, 20, (8, 9, 10))
    _figures.orthogonal_slices(tmp_path / "p.png", [("a", truth), ("b", truth * 3)], voxel_size=(1, 1, 1))
    assert len(panels.drawn) == 6
    assert len({(low, high) for *_, low, high in panels.drawn}) == 1
    assert 9.9 < panels.drawn[0][2] < panels.drawn[0][3] < 20.1  # that of the first image


def test_pictures_of_planes_and_bad_shapes(tmp_path, rng):
    plane = rng.uniform(0, 1, (12, 16))
    _figures.orthogonal_slices(tmp_path / "p.png", [("a", plane), ("b", plane)], voxel_size=None, unit=None)
    assert (tmp_path / "p.png").stat().st_size > 1000
    flat = np.ones((4, 5, 6))
    _figures.orthogonal_slices(tmp_path / "f.png", [("a", flat)], voxel_size=(1, 1, 1))
    with pytest.raises(ValueError, match="expected 2 or 3"):
        _figures.orthogonal_slices(tmp_path / "q.png", [("a", np.ones(5))], voxel_size=None)
    with pytest.raises(ValueError, match="'b' has shape"):
        _figures.orthogonal_slices(tmp_path / "q.png", [("a", plane), ("b", plane[1:])], voxel_size=None)
    assert not (tmp_path / "q.png").exists()


def test_matplotlib_missing_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"medeconv-fast\[report\]"):
        _figures.require_matplotlib()
