"""Builds the module _cuda with nvcc and reads the report of its assembler: no spills where it counts.

Without nvcc it says so and ends well. The module must import on a machine without a driver. ``--all`` lists
every kernel.
"""

import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "nvcc"
# Kernels that must have no stack frame and no spills, in any instance. Parts of names, by file ("": headers).
HOT = {
    "": ["conv_tableIf", "conv_rowsIf", "conv_pointsIf", "conv_weightIf", "sum_chunks", "add_parts"],
    "denoise": ["values", "ascend"],
    "direct": ["direct_tiles", "direct_lines"],
    "overlap": ["overlap_kernel"],
    "elementwise": ["formula_values", "pad_rows", "fold_rows", "combine"],
    "penalty": ["factors"],
    "separable": ["filter_slices", "filter_columns"],
    "spectral": ["line_kernel", "row_kernel"],
    "spectral_double": ["line_kernel", "row_kernel"],
}
ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)
STEM = re.compile(r"_GLOBAL__N__[0-9a-f]+_\d+_(\w+?)_cu_[0-9a-f]+")  # the unnamed namespace of a .cu


def find_nvcc() -> str | None:
    for place in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if place and (Path(place) / "bin" / "nvcc").exists():
            return str(Path(place) / "bin" / "nvcc")
    return shutil.which("nvcc")


def run(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: failed\n{done.stdout[-8000:]}")
    return done.stdout


def build() -> str:
    """The output of a build from nothing."""
    shutil.rmtree(BUILD, ignore_errors=True)
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DMEDECONV_CUDA=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    options += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    options += ["-DCMAKE_CUDA_FLAGS=-Xptxas -v -Werror all-warnings"]
    run("cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", *options)
    return run("cmake", "--build", str(BUILD), "--target", "_cuda")


def file_of(stem: str) -> str:
    return f"{stem}.cu" if stem else "headers"


def check_import() -> None:
    (path,) = BUILD.glob("_cuda.*")
    loader = importlib.machinery.ExtensionFileLoader("_cuda", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_cuda", loader))
    loader.exec_module(module)
    print(f"imported; devices: {module.devices()}")


def main() -> int:
    if find_nvcc() is None:
        print("SKIPPED: no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda; no .cu was compiled by it")
        return 0
    kernels = [match.groupdict() for match in ENTRY.finditer(build())]
    check_import()
    bad = 0
    by_stem: dict[str, list[dict[str, str]]] = {}
    for kernel in kernels:
        found = STEM.search(kernel["name"])
        by_stem.setdefault(found[1] if found else "", []).append(kernel)
    for stem, parts in HOT.items():
        for part in parts:
            if not any(part in kernel["name"] for kernel in by_stem.get(stem, ())):
                print(f"{file_of(stem)}: no kernel is called {part}")
                bad += 1
    for stem, found in sorted(by_stem.items()):
        spilling = 0
        for kernel in found:
            frame = any(int(kernel[key]) for key in ("stack", "stores", "loads"))
            hot = any(part in kernel["name"] for part in HOT.get(stem, ()))
            spilling += frame
            bad += frame and hot
            if "--all" in sys.argv or (frame and hot):
                print(
                    f"{file_of(stem)}: {kernel['name']}: {kernel['registers']} registers, "
                    f"stack {kernel['stack']}, spills {kernel['stores']} + {kernel['loads']} bytes"
                )
        print(f"{file_of(stem)}: {len(found)} kernels, {spilling} with a stack frame or spills")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
