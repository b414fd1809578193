"""What is said about the machine and the versions in every result."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rates import last_cache_bytes
from report import compact

PACKAGES = ("medeconv-fast", "numpy", "scipy", "scikit-image", "pyfftw", "torch", "SimpleITK")


try:
    LOAD_BEFORE = os.getloadavg()[0]  # when this module is loaded: before anything is measured
except OSError:
    LOAD_BEFORE = float("nan")


def describe(threads: int) -> dict[str, Any]:
    """Processor, instruction set, versions. No host name, no user, no paths."""
    import cpuinfo  # comes with pytest-benchmark

    from medeconv_fast import backends

    backend = backends.resolve("auto")
    processor = cpuinfo.get_cpu_info()
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor.get("brand_raw", platform.machine()),
        "family": processor.get("family"),
        "model": processor.get("model"),
        "last_cache_bytes": last_cache_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "backend": backend.NAME,
        "isa": backend.describe().get("isa"),
        "threads": threads,
        "load_before": round(LOAD_BEFORE, 2),
        "versions": versions,
    }


def peak_bytes() -> int:
    """The largest resident size that this process has had, or one that started it."""
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def bytes_beside(work: Callable[[], object]) -> int:
    """How far the resident size rises, at most, while `work` runs a second time. The first brings in its
    code, which pages of this size of memory would be mistaken for; what it keeps for reuse is given back."""
    from medeconv_fast import release_memory

    work()
    release_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; Linux alone has that
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ValueError(f"name: got {name!r}, expected a line of /proc/self/status")


def save(output: Path | None, threads: int, **results: Any) -> None:
    """Write (or print) what was measured, with the time and the machine."""
    record = {
        "datetime": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine_info": describe(threads),
        **results,
    }
    if output is None:
        print(compact(record))
    else:
        output.write_text(compact(record))
