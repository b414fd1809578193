"""Compiles every cuda/*.cu with nvcc and reads the report of its assembler: no spills where it counts.

Without nvcc it says so and ends well. ``--all`` lists every kernel.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = "sm_90"
# Kernels that must have no stack frame and no spills, in any instance. Parts of names, by file.
HOT = {
    "direct": ["direct_tiles"],
    "overlap": ["overlap_kernel"],
    "elementwise": ["formula_values", "pad_rows", "fold_rows", "combine"],
    "penalty": ["factors"],
    "separable": ["filter_slices", "filter_columns"],
    "spectral": ["line_kernel", "row_kernel"],
}
ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def find_nvcc() -> str | None:
    for place in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if place and (Path(place) / "bin" / "nvcc").exists():
            return str(Path(place) / "bin" / "nvcc")
    return shutil.which("nvcc")


def report(nvcc: str, source: Path, directory: str) -> str:
    command = [
        nvcc,
        "-std=c++20",
        "-O3",
        "--expt-relaxed-constexpr",
        f"-arch={ARCHITECTURE}",
        "-Xptxas",
        "-v",
    ]
    command += ["-I", str(ROOT / "cpp"), "-I", str(ROOT / "cuda"), "-Werror", "all-warnings"]
    command += ["-cubin", "-o", f"{directory}/{source.stem}.cubin", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{source.name}: nvcc failed\n{done.stdout}{done.stderr}")
    return done.stderr


def main() -> int:
    nvcc = find_nvcc()
    if nvcc is None:
        print("SKIPPED: no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda; no .cu was compiled by it")
        return 0
    sources = sorted((ROOT / "cuda").glob("*.cu"))
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(os.cpu_count()) as pool:
        reports = list(pool.map(lambda source: report(nvcc, source, directory), sources))
    bad = 0
    for source, text in zip(sources, reports, strict=True):
        kernels = [m.groupdict() for m in ENTRY.finditer(text)]
        hot = HOT.get(source.stem, [])
        for name in hot:
            if not any(name in kernel["name"] for kernel in kernels):
                print(f"{source.name}: no kernel is called {name}")
                bad += 1
        spilling = 0
        for kernel in kernels:
            frame = int(kernel["stack"]) + int(kernel["stores"]) + int(kernel["loads"])
            listed = any(name in kernel["name"] for name in hot)
            spilling += bool(frame)
            if "--all" in sys.argv or (frame and listed):
                print(
                    f"{source.name}: {kernel['name']}: {kernel['registers']} registers, "
                    f"stack {kernel['stack']}, spill {kernel['stores']} + {kernel['loads']} bytes"
                )
            bad += bool(frame) and listed
        print(f"{source.name}: {len(kernels)} kernels, {spilling} with a stack frame or spills")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
