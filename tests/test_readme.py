"""What README.md says is true: its examples run, its table is what the generator makes, its layout exists."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


@pytest.fixture(scope="module")
def demo_directory(tmp_path_factory):
    pytest.importorskip("nibabel", reason="SKIPPED: nibabel is not installed (extra io)")
    pytest.importorskip("matplotlib", reason="SKIPPED: matplotlib is not installed (extra report)")
    from medeconv_fast import demo

    directory = tmp_path_factory.mktemp("readme")
    demo.run(directory / "demo_output", say=lambda _: None)
    return directory


def test_python_example(demo_directory):
    (code,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=demo_directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = map(float, done.stdout.splitlines()[-1].split(" -> "))
    assert after > before + 1.5
    assert (demo_directory / "restored.nii.gz").is_file()


def test_command_line_examples(demo_directory):
    _, commands = blocks("sh")
    assert len(commands.splitlines()) == 5
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "medeconv"
        done = subprocess.run(
            [sys.executable, "-m", "medeconv_fast", *arguments],
            cwd=demo_directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_set_up_commands_are_make_targets():
    setup, _ = blocks("sh")
    commands = [line.split("#")[0].strip() for line in setup.splitlines()]
    assert commands == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)


def test_layout_exists():
    (layout,) = blocks("")
    parent = ROOT
    for line in layout.splitlines():
        indented = line.startswith("  ")
        names = [name for name in re.split(r"\s{2,}", line.strip())[0].split() if re.search(r"[./]", name)]
        for name in names:
            assert ((parent if indented else ROOT) / name).exists(), line
        if not indented:
            parent = ROOT / names[0]


SPEC = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
make_tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_tables)
TABLE = README.split(f"{make_tables.BEGIN}\n")[1].split(f"\n{make_tables.END}")[0].splitlines()


def test_table_has_every_operation():
    assert TABLE[:2] == make_tables.heading()
    assert len(TABLE) == 2 + len(make_tables.OPERATIONS)


@pytest.mark.parametrize(("line", "name"), enumerate(make_tables.OPERATIONS, 2))
def test_table_is_what_the_generator_makes(line, name):
    if make_tables.missing():
        pytest.skip(f"SKIPPED: not available here: {', '.join(make_tables.missing())}")
    assert make_tables.row(name) == TABLE[line]
