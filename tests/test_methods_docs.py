"""What docs/methods says is true: the examples run, every option named is one of the function's, and every
algorithm has a page, a picture and a line in the index; examples/methods.py draws and measures them."""

import importlib.util
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf
from medeconv_fast import algorithms

ROOT = Path(__file__).resolve().parents[1]
METHODS = ROOT / "docs" / "methods"
INDEX = (METHODS / "README.md").read_text(encoding="utf-8")
# `restore` chooses among the others.
ALGORITHMS = sorted(set(algorithms.__all__) - {"Info", "restore"})


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
    spec = importlib.util.spec_from_file_location("methods", ROOT / "examples" / "methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.filterwarnings("error")
def test_page(name, capsys):
    text = (METHODS / f"{name}.md").read_text(encoding="utf-8")
    options = inspect.signature(getattr(mf, name)).parameters
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(code, {})  # a warning would be an example of how not to
        assert f"mf.{name}(" in code
    (table,) = re.findall(r"^\*\*Options\.\*\*$(.*?)(?=^\*\*)", text, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert named
    assert set(named) <= set(options)
    for heading in ("Formula", "Source", "When to use it", "Options", "Cost"):
        assert f"**{heading}.**" in text
    assert f"![before and after]({name}.png)" in text


def test_pages_pictures_and_index_are_complete():
    assert sorted(page.stem for page in METHODS.glob("*.md")) == sorted([*ALGORITHMS, "README"])
    pictures = sorted(METHODS.glob("*.png"))
    assert [picture.stem for picture in pictures] == ALGORITHMS
    assert max(picture.stat().st_size for picture in pictures) < 120_000
    listing, costs = INDEX.split("## What an iteration costs")
    assert sorted(re.findall(r"^\| \[(\w+)\]\(\1\.md\) \|", listing, re.MULTILINE)) == ALGORITHMS
    assert sorted(set(re.findall(r"^\| \[(\w+)\]\(\1\.md\)", costs, re.MULTILINE))) == ALGORITHMS


def test_stopping_rules_of_the_page():
    text = (METHODS / "richardson_lucy.md").read_text(encoding="utf-8")
    rules = re.findall(r"`([A-Z]\w+)\((.*?)\)`", text)
    assert len(rules) == 5
    for rule, settings in rules:
        options = list(inspect.signature(getattr(mf.stop, rule)).parameters)
        assert settings.split(", ") == options[: len(settings.split(", "))]


def test_the_script_knows_all(script):
    assert sorted(script.CASES) == ALGORITHMS
    assert sorted({name.partition(",")[0] for name in [*script.ITERATIVE, *script.CLOSED]}) == ALGORITHMS


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_method_gains_on_a_crop_of_the_scan(script, name):
    volume = script.scan()
    crop = np.ascontiguousarray(volume.array[4:20, 24:72, 32:96])
    gained = script.restored(name, crop, volume.voxel_size).gained
    assert gained["PSNR / dB"][1] > gained["PSNR / dB"][0] + 0.5
    assert gained["SSIM"][1] > gained["SSIM"][0]


def test_the_script_draws(script, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="SKIPPED: matplotlib is not installed (extra report)")
    script.main(["--pictures", str(tmp_path), "wiener"])
    assert [path.name for path in tmp_path.iterdir()] == ["wiener.png"]
    assert len(re.findall(r"^wiener +.* -> ", capsys.readouterr().out, re.MULTILINE)) == 2
    with pytest.raises(SystemExit):
        script.main(["--pictures", str(tmp_path), "sharpen"])


def test_the_script_measures(script, tmp_path):
    lines = script.costs((16, 24, 24), rounds=1, iterations=2)
    row = r"^\| \[(\w+)\]\(\1\.md\)(?:, .*?)? \| (?:iteration|call) \| -?\d+\.\d \|"
    shown = re.findall(row, "\n".join(lines), re.MULTILINE)
    assert len(shown) == len(script.ITERATIVE) + len(script.CLOSED)
    assert sorted(set(shown)) == ALGORITHMS
    page = tmp_path / "page.md"
    page.write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n", encoding="utf-8")
    script.write_costs(page, ["new"])
    assert page.read_text(encoding="utf-8") == f"before\n{script.BEGIN}\nnew\n{script.END}\nafter\n"
