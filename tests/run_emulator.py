"""Runs the suite's tests of kernels on the emulated CUDA backend, with threads taking turns in three ways.

``run_emulator.py DIRECTORY`` (of the module ``_cuda_emu``). The order forward takes all tests in the table,
the others those marked so: what depends on the order of threads shows in a kernel's own tests.
"""

import os
import subprocess
import sys
from pathlib import Path

# Test file -> -k expression beside "cuda", and whether it runs in every order.
TESTS = {
    "tests/test_cuda.py": ("", True),
    "tests/test_cuda_conv.py": ("", True),
    "tests/test_cuda_lasting.py": ("", False),
    "tests/test_cuda_tiles.py": ("", False),
    "tests/test_cuda_torch.py": ("", False),
    "tests/test_tiles.py": ("", False),
    "tests/test_conv.py": ("", False),
    "tests/test_direct.py": ("", False),
    "tests/test_separable.py": ("", False),
    "tests/test_penalty.py": ("", False),
    "tests/test_total_variation.py": ("", False),
    "tests/test_formulas.py": ("", False),
    "tests/test_spectral.py": ("", True),
    "tests/test_blur.py": ("", False),
    "tests/test_wiener.py": ("", False),
}


def run(module: Path, order: str, tests: list[str], expression: str) -> int:
    env = os.environ | {"MEDECONV_TEST_EMULATOR": str(module), "MEDECONV_EMULATOR_ORDER": order}
    print(f"--- threads take turns: {order}", flush=True)
    return subprocess.call([sys.executable, "-m", "pytest", "-q", "-k", expression, *tests], env=env)


def main() -> int:
    (module,) = Path(sys.argv[1]).resolve().glob("_cuda_emu*")
    failed = 0
    for order in ("forward", "reverse", "random:1"):
        by_expression: dict[str, list[str]] = {}
        for test, (expression, every_order) in TESTS.items():
            if order == "forward" or every_order:
                by_expression.setdefault(f"cuda and ({expression})" if expression else "cuda", []).append(
                    test
                )
        for expression, tests in by_expression.items():
            failed |= run(module, order, tests, expression)
    return failed


if __name__ == "__main__":
    sys.exit(main())
