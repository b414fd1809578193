"""The checked-in stub of the compiled module says what the module has (pybind11-stubgen reads the module)."""

import ast
import pathlib
import subprocess
import sys

import pytest

import medeconv_fast

STUB = pathlib.Path(medeconv_fast.__file__).with_name("_cpp.pyi")


def interface(text: str) -> dict[str, list]:
    """Names with their arguments, kinds, order and defaults; annotations depend on the tools' versions."""
    found: dict[str, list] = {}

    def visit(body, prefix):
        for node in body:
            if isinstance(node, ast.ClassDef):
                found[prefix + node.name] = ["class"]
                visit(node.body, prefix + node.name + ".")
            elif isinstance(node, ast.FunctionDef):
                a = node.args
                defaults = [ast.unparse(d) if d else None for d in (*a.defaults, *a.kw_defaults)]
                names = [arg.arg for arg in (*a.posonlyargs, *a.args)], [arg.arg for arg in a.kwonlyargs]
                found.setdefault(prefix + node.name, []).append((names, defaults))

    visit(ast.parse(text).body, "")
    return found


def test_stub_matches_module(tmp_path):
    pytest.importorskip("medeconv_fast._cpp", reason="SKIPPED: no compiled module in this installation")
    subprocess.run(
        [sys.executable, "-m", "pybind11_stubgen", "medeconv_fast._cpp", "-o", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    made = next(tmp_path.rglob("_cpp.pyi")).read_text()
    assert interface(made) == interface(STUB.read_text())


def test_comparison_sees_a_difference():
    text = STUB.read_text()
    assert interface(text) != interface(text.replace("keep: bool = True", "keep: bool = False"))
    assert interface(text) != interface(text.replace("def load(", "def loaded("))


def test_package_is_typed():
    assert STUB.with_name("py.typed").exists()
