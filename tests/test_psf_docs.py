"""What docs/psf.md says is true: its examples run in order, its pictures are those that the script draws."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

import medeconv_fast as mf
from medeconv_fast.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "psf.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("error")
def test_python_examples(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks("python"):
        exec(code, names)  # a warning would be an example of how not to
    assert names["info"].fwhm_error < 0.1
    out = capsys.readouterr().out
    assert out.startswith("3 ((") and "mm at 5.7 degrees" in out
    assert re.search(r"(2.[789]|3.[0123]) voxels, noise (0.9|1.0)", out)
    assert (tmp_path / "psf.png").is_file()


def test_commands(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tifffile")
    monkeypatch.chdir(tmp_path)
    for line in "".join(blocks("sh")).splitlines():
        program, *words = shlex.split(line)
        assert (program, main([*words, "--quiet"])) == ("medeconv", 0), line
    assert mf.psf.load("psf.ome.tif", "um")[1] == pytest.approx((0.4, 0.1, 0.1))


def test_every_model_has_its_section_picture_and_command():
    models = {"gaussian", "airy", "born_wolf", "gibson_lanni", "light_sheet", "from_beads", "from_edge"}
    assert models <= set(mf.psf.__all__)
    assert set(re.findall(r"!\[(\w+)\]\(psf/\1\.png\)", PAGE)) == models
    assert set(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)) == models
    assert set(re.findall(r"\| `medeconv psf ([\w-]+)` \|", PAGE)) == {m.replace("_", "-") for m in models}
    pictures = list((ROOT / "docs" / "psf").glob("*.png"))
    assert {path.stem for path in pictures} == models
    assert sum(path.stat().st_size for path in pictures) < 300_000


def test_the_script_draws_the_pictures(capsys):
    pytest.importorskip("matplotlib")
    script = runpy.run_path(str(ROOT / "examples" / "psf_gallery.py"))
    drawn = {name for name, figure in script["gallery"]() if figure.axes}
    assert drawn == {path.stem for path in (ROOT / "docs" / "psf").glob("*.png")}
    out = capsys.readouterr().out
    assert "12 used, 0 left out" in out and "known 2.4" in out
