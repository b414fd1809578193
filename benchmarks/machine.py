"""What is said about the machine and the versions in every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from rates import last_cache_bytes

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
