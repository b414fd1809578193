"""Settings of the benchmark suite. Every library gets the same number of threads, 2 unless BENCH_THREADS says
otherwise; that must be in the environment before the first of them is loaded.
"""

import os
import sys
from pathlib import Path

THREADS = int(os.environ.get("BENCH_THREADS", "2"))
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, str(THREADS))
sys.path.insert(0, str(Path(__file__).parent))

import pytest  # noqa: E402

import rates  # noqa: E402
from machine import describe  # noqa: E402


@pytest.fixture(scope="session")
def threads():
    return THREADS


@pytest.fixture(scope="session")
def copy():
    """The copy whose bandwidth is measured beside every case."""
    return rates.Copy(1 << 25, THREADS)


@pytest.fixture(scope="session")
def product():
    """The same for arithmetic."""
    return rates.Product()


def pytest_benchmark_update_machine_info(config, machine_info):
    """Only what says how to read the numbers: no host name, no paths."""
    machine_info.clear()
    machine_info.update(describe(THREADS))
