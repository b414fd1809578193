"""Per-ISA object files export one table and nothing weak.

A weak symbol compiled with AVX flags could be the copy that the linker keeps for the baseline, which then
dies with an illegal instruction on an older machine.
"""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def symbols(object_file: pathlib.Path) -> dict[str, str]:
    lines = subprocess.run(
        ["nm", "-C", str(object_file)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return {line[19:]: line[17] for line in lines}


def objects_of_build(name: str) -> list[pathlib.Path]:
    return sorted(p for p in (ROOT / "build").rglob(f"{name}.cpp.o") if "sanitize" not in p.parts)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_nothing_weak_and_one_export(isa, dtype):
    if shutil.which("nm") is None:
        pytest.skip("SKIPPED: no nm on this machine")
    found = [p for p in objects_of_build(f"isa_{dtype}") if f"isa_{isa}.dir" in str(p)]
    if not found:
        pytest.skip(f"SKIPPED: this build kept no object file for {isa}")
    table = symbols(found[-1])
    assert {name: kind for name, kind in table.items() if kind in "WwVvu"} == {}
    exported = [name for name, kind in table.items() if kind in "TDBR"]
    assert exported == [f"medeconv::{isa}::kernels_{dtype}"]
