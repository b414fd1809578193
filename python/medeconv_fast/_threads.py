"""How many threads a call uses.

The first that is set counts: the call's ``num_threads``, `set_num_threads`, the environment variable
``MEDECONV_NUM_THREADS``, and else the processors that this process may use: its affinity mask, bounded by the
CPU quota of its control groups and by ``OMP_NUM_THREADS``, with which dask, joblib, torchrun and batch
systems tell a worker its share.

Of several processes that work side by side none knows of the others. So a child of `multiprocessing` (a
pool's worker, a torch DataLoader's, a dask worker under a nanny) uses one thread unless told otherwise; this
is torch's rule too. Within a process all Python threads share one pool of threads (see ``cpp/threads.hpp``).
Results do not depend on the number.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from . import _validate

_VARIABLE = "MEDECONV_NUM_THREADS"
MOST = 2**16  # more is a mistake; the kernels count in 32 bits
_chosen: int | None = None
_chooser: int | None = None  # the process that called set_num_threads


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _quota_v2(directory: Path) -> float | None:
    fields = (_read(directory / "cpu.max") or "").split()
    if len(fields) != 2 or not all(f.isdigit() for f in fields) or int(fields[1]) == 0:
        return None  # absent, or "max": no limit
    return int(fields[0]) / int(fields[1])


def _quota_v1(directory: Path) -> float | None:
    quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    if quota is None or period is None or not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # absent, or -1: no limit
    return int(quota) / int(period)


def cgroup_quota(
    cgroup_file: str | Path = "/proc/self/cgroup", mount: str | Path = "/sys/fs/cgroup"
) -> float | None:
    """Processors' worth of time that the control groups grant (v1 and v2), or None without a limit.

    A limit may stand on any ancestor of the process's group; inside a container the group's own path may not
    be visible, while the mount's root is the container's group. So every level up to the root is asked, and
    the smallest counts.
    """
    limits: list[float] = []
    mount = Path(mount)
    for line in (_read(Path(cgroup_file)) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            roots, quota = [mount, mount / "unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            roots, quota = [mount / "cpu", mount / controllers, mount / "cpu,cpuacct"], _quota_v1
        else:
            continue
        parts = [p for p in PurePosixPath(path).parts if p not in ("/", "..")]
        for root in roots:
            for depth in range(len(parts), -1, -1):
                found = quota(root.joinpath(*parts[:depth]))
                if found is not None and found > 0:
                    limits.append(found)
    return min(limits) if limits else None


_own_quota = functools.lru_cache(maxsize=1)(cgroup_quota)


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _is_worker() -> bool:
    """This process was started by `multiprocessing` (forked, spawned or by a fork server)."""
    # Not imported for this: in such a child it is there.
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


def _openmp_share() -> int | None:
    """``OMP_NUM_THREADS`` (of a list for nested levels the outermost), or None if it says nothing usable.

    It is not ours: what we cannot read there is no reason to fail.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(text) if text.isdecimal() and int(text) > 0 else None


def default_num_threads(affinity: int | None = None, quota: float | None = None) -> int:
    """Threads for so many usable processors under so large a quota; None asks the system."""
    if _is_worker():
        return 1
    most = [_affinity() if affinity is None else affinity]
    limit = _own_quota() if quota is None else quota
    if limit is not None:
        most.append(math.ceil(limit))
    share = _openmp_share()
    if share is not None:
        most.append(share)
    return max(1, min(most))


def set_num_threads(num_threads: int | None) -> None:
    """Set the number of threads of all later calls in this process.

    Parameters
    ----------
    num_threads : int or None
        1 to 65536; None returns to ``MEDECONV_NUM_THREADS`` or the default: the processors that the process
        may use (affinity, control groups, ``OMP_NUM_THREADS``), and 1 in a child of `multiprocessing`, such
        as a worker of a pool, of a torch DataLoader or of dask. Such children do not take over what their
        parent has set here, whether they are forked or spawned.

    Raises
    ------
    TypeError, ValueError
        `num_threads` is not an integer of at least 1.
    """
    global _chosen, _chooser
    _chooser = os.getpid()
    _chosen = (
        None
        if num_threads is None
        else _validate.integer(num_threads, "num_threads", minimum=1, maximum=MOST)
    )


def get_num_threads() -> int:
    """The number of threads that a call without ``num_threads`` uses now.

    Returns
    -------
    int
        As `set_num_threads`, ``MEDECONV_NUM_THREADS`` or the default say, in this order.

    Raises
    ------
    ValueError
        ``MEDECONV_NUM_THREADS`` is not an integer of at least 1.
    """
    return resolve_num_threads(None)


def resolve_num_threads(num_threads: Any) -> int:
    """The number of threads of a call that was given `num_threads` (None: the library's setting)."""
    if num_threads is not None:
        return _validate.integer(num_threads, "num_threads", minimum=1, maximum=MOST)
    # A forked worker has the parent's setting in its memory; n of them would use n times that many threads.
    if _chosen is not None and (_chooser == os.getpid() or not _is_worker()):
        return _chosen
    text = os.environ.get(_VARIABLE, "").strip()
    if text:
        if not text.isdecimal() or not 1 <= int(text) <= MOST:
            raise ValueError(
                f"environment variable {_VARIABLE}: got {text!r}, expected an integer of at least 1 and at "
                f"most {MOST}"
            )
        return int(text)
    return default_num_threads()
