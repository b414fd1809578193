"""docs/restoration.md: its tables are what docs/make_restoration.py computes."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import medeconv_fast as mf

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "restoration.md").read_text()
# Small enough to be run here.
QUICK = ("CT slice", "MR slice", "retinal vessels")

for _package in ("nibabel", "pydicom", "skimage"):
    pytest.importorskip(_package, reason=f"SKIPPED: {_package} is not installed (extra test)")


@pytest.fixture(scope="module")
def maker():
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("make_restoration")
    sys.path.remove(str(DOCS))


def table(name):
    part = PAGE.split(f"<!-- {name}:")[1].split(f"<!-- end of {name}")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if "|" in line
    ]
    return rows[2:], part


def test_rows_are_computed(maker):
    written = {(row[0], row[2]): row for row in table("stopping")[0]}
    assert len(written) >= 24
    for case in maker.cases():
        if case.name not in QUICK:
            continue
        for counts in maker.COUNTS:
            row = maker.restored(case.name, case.blur, str(counts), *case.simulate(counts), case.psf)
            found = written[case.name, str(counts)]
            assert found[1] == case.blur
            # An iteration more or less where the curve is flat may come from another instruction set.
            assert float(found[4]) == pytest.approx(row.found, abs=0.03)
            assert float(found[6]) == pytest.approx(row.best, abs=0.01)
            assert row.lost <= maker.WORST


def test_what_the_tables_show(maker):
    rows, part = table("stopping")
    lost = np.array([float(row[8]) for row in rows if row[2]])
    assert np.mean(lost <= maker.WITHIN) >= 0.8 and lost.max() <= maker.WORST
    share, worst = re.search(r"images (\d+)% end .* loses ([\d.]+) dB", part.replace("\n", " ")).groups()
    assert int(share) == round(100 * np.mean(lost <= maker.WITHIN))
    assert float(worst) == pytest.approx(lost.max(), abs=0.011)
    rows, part = table("balance")
    lost = np.array([float(row[5]) for row in rows])
    share = re.search(r"(\d+)% of them", part).group(1)
    assert int(share) == pytest.approx(100 * np.mean(lost <= maker.WIENER_WITHIN), abs=5)


def test_balance_of_the_wiener_filter(maker):
    for case in maker.cases():
        if case.name in ("CT slice", "retinal vessels"):
            for counts in maker.COUNTS:
                truth, image = case.simulate(counts)
                found = mf.metrics.psnr(truth, mf.wiener(image, case.psf))
                best = max(
                    mf.metrics.psnr(truth, mf.wiener(image, case.psf, float(b))) for b in maker.BALANCES
                )
                assert best - found <= maker.WIENER_WITHIN


def test_pollen(maker, shared_data):
    """No tuning, no truth: at least 33.0 dB."""
    pytest.importorskip("tifffile", reason="SKIPPED: tifffile is not installed (extra test)")
    row = maker.pollen(shared_data / "micro_pollen_sdeconv")
    assert row.found >= 33.0 and row.lost <= 0.15
