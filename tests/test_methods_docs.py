"""What docs/methods says is true: the examples run, every option named is one of the function's."""

import inspect
import re
from pathlib import Path

import pytest

import medeconv_fast as mf

PAGES = sorted((Path(__file__).resolve().parents[1] / "docs" / "methods").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.filterwarnings("error")
def test_page(page, capsys):
    text = page.read_text(encoding="utf-8")
    options = inspect.signature(getattr(mf, page.stem)).parameters
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(code, {})  # a warning would be an example of how not to
        assert f"mf.{page.stem}(" in code
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert named
    assert set(named) <= set(options)
    for heading in ("Formula", "Source", "When to use it", "Options", "Cost"):
        assert f"**{heading}.**" in text


def test_there_are_pages():
    stems = {page.stem for page in PAGES}
    others = {"tikhonov", "inverse_filter", "unsupervised_wiener", "landweber", "fista", "van_cittert"}
    assert {"wiener", *others} <= stems
