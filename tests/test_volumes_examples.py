"""The whole scripts of docs/volumes.md, small: they restore from file to file, and gain."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "volumes.md").read_text(encoding="utf-8")
NAMES = ("slide", "time_series", "scan_folder")

pytest.importorskip("zarr", reason="SKIPPED: zarr is not installed (extra zarr)")


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_slide(tmp_path):
    pytest.importorskip("tifffile", reason="SKIPPED: tifffile is not installed (extra io)")
    pytest.importorskip("skimage", reason="SKIPPED: scikit-image is not installed")
    slide = load("slide")
    before, after = slide.main(tmp_path, 700, "150 MB", tmp_path / "slide.png")
    assert after > before + 1.5
    made = mf.io.open_source(tmp_path / "restored.ome.zarr")
    assert (made.shape, made.dtype, len(made.items)) == ((700, 700), np.uint8, 3)
    assert made.voxel_size == pytest.approx((0.25, 0.25)) and made.unit == "um"
    assert len(made.layout["levels"]) > 0
    assert (tmp_path / "slide.png").stat().st_size > 10_000


def test_the_section_goes_on_without_seams():
    pytest.importorskip("skimage", reason="SKIPPED: scikit-image is not installed")
    slide = load("slide")
    part = slide.section(slice(-3, 1030), slice(500, 520))
    assert np.array_equal(part[0], part[5]) and np.array_equal(part[3 + 511], part[3 + 512])


def test_a_time_series_of_two_channels(tmp_path):
    series = load("time_series")
    gained = series.main(tmp_path, series.SMALL, "1 GB", tmp_path / "series.png")
    for before, after in gained.values():
        assert after > before + 1
    made = mf.io.open_source(tmp_path / "restored.ome.zarr")
    assert (made.axes, len(made.items)) == ("tczyx", 2 * series.SMALL[0])
    assert made.voxel_size == pytest.approx(series.VOXEL_SIZE)
    assert (tmp_path / "series.png").stat().st_size > 10_000


def test_a_folder_of_scans(tmp_path, capsys):
    pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
    folder = load("scan_folder")
    gained = folder.main(tmp_path, drawn=tmp_path / "folder.png")
    assert set(gained) == set(folder.NAMES)
    assert all(after > before for before, after in gained.values())
    said = capsys.readouterr().out
    assert re.search(rf"^  {folder.DAMAGED} +failed ", said, re.MULTILINE) and "exit status 3" in said
    assert not (tmp_path / "restored" / folder.DAMAGED).exists()
    assert (tmp_path / "folder.png").stat().st_size > 10_000


def test_the_page_names_them_and_has_their_pictures():
    for name in NAMES:
        assert f"examples/{name}.py" in PAGE and f"(volumes/{name}.png)" in PAGE
    pictures = list((ROOT / "docs" / "volumes").glob("*.png"))
    assert {path.stem for path in pictures} == set(NAMES)
    assert sum(path.stat().st_size for path in pictures) < 900_000
