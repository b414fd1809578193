"""The workers of a dask cluster as a driver, and a cluster of this machine's own processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .. import _device
from .._extras import library
from ._drivers import Failures
from ._job import Job
from ._manifest import Done

# Tiles that a worker has in hand: one is computed, one is read or written meanwhile. A third would wait where
# another worker could take it.
SLOTS = 2
# What a worker imports before it can work: a second of one processor, which all processes of this machine
# spend once, in a process from which they are forked, while this one still prepares the job.
IMPORTED = ["distributed", "zarr", "medeconv_fast.volumes._cluster"]
# dask has freed memory go back to the system at once, and every array of a tile come anew page by page; these
# are what glibc arrives at by itself.
_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 26),
    "OMP_NUM_THREADS": "1",
}

_kept: dict[str, Job] = {}
_computing, _slots = threading.Lock(), threading.Semaphore(SLOTS)


def _on_worker(name: str, job: Any, number: int) -> Done:
    # A worker keeps the job, and with it the operator, from tile to tile. Its memory is for one tile that is
    # computed and one that is read or written meanwhile, however many threads it has.
    with _slots:
        begun = time.perf_counter()
        with _computing:
            if name not in _kept:
                _kept.clear()
                job.check()
                if job.backend == "cuda":
                    take_device(job, library("distributed", "dask", "a cluster").get_worker().name)
                _kept[name] = job
            kept = _kept[name]
        read = [kept.read(number)]
        with _computing:
            restored = kept.compute(number, read)
        return kept.write(number, restored, begun)


def turns_of(workers: Mapping[str, Any]) -> dict[str, int]:
    """Name of each worker -> how many of its machine come before it; of what a scheduler says of them."""
    turns: dict[str, int] = {}
    hosts: Counter[str] = Counter()
    for worker in sorted(workers.values(), key=lambda w: str(w["name"])):
        turns[str(worker["name"])] = hosts[worker["host"]]
        hosts[worker["host"]] += 1
    return turns


def take_device(job: Job, name: Any) -> None:
    """A GPU for each worker of a machine, as far as there are so many; by its name, which stays when it is
    started anew."""
    turn = job.turns.get(str(name), zlib.crc32(str(name).encode()))
    _device.choose_device(turn % _device.native().devices()["count"])


def on_cluster(
    job: Job, numbers: Sequence[int], failures: Failures, client: Any, name: str
) -> Iterator[Done]:
    """Through the workers of a `dask.distributed.Client`; a worker that dies has its tiles done by others.

    Only what each worker has in hand is handed out: the scheduler never holds a million tiles.
    """
    distributed = library("distributed", "dask", "a cluster")
    job.turns = turns_of(client.scheduler_info(n_workers=-1)["workers"])
    sent = client.scatter(job, broadcast=True, hash=False)
    left = deque(numbers)
    running = distributed.as_completed()
    of_future: dict[Any, tuple[int, str]] = {}

    def hand_out() -> None:
        has = Counter(worker for _, worker in of_future.values())
        # Without any worker tiles wait for the first that comes.
        for worker in list(client.scheduler_info(n_workers=-1)["workers"]) or [""]:
            while left and has[worker] < SLOTS:
                number = left.popleft()
                has[worker] += 1
                where = {"workers": [worker], "allow_other_workers": True} if worker else {}
                future = client.submit(
                    _on_worker, name, sent, number, key=f"{name}-{number}", pure=False, **where
                )
                of_future[future] = number, worker
                running.add(future)

    try:
        hand_out()
        for future in running:
            number, _ = of_future.pop(future)
            try:
                done = future.result()
            except Exception as error:
                failures.note(number, error)
            else:
                yield done
            hand_out()
    finally:
        for future in list(of_future):
            future.cancel()


# ---------------------------------------------------------------- this machine's own


def _forks() -> bool:
    # Elsewhere libraries of the system do not survive it, or there is none.
    return sys.platform == "linux"


def expect() -> None:
    """Have what `local` needs imported, in another process, while this one does something else."""
    if not _forks():
        return
    from multiprocessing import forkserver

    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    # They count when a process begins: in those that are forked dask would set them too late.
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        forkserver.ensure_running()
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def local(number: int, ending: contextlib.ExitStack) -> Iterator[Any]:
    """A client of so many processes of this machine; they end beside whatever goes on until `ending`."""
    distributed, dask = library("distributed", "dask", "workers="), library("dask", "dask", "workers=")
    own = {name: value for name, value in os.environ.items() if name.startswith("MEDECONV_")}
    settings = {
        "distributed.nanny.pre-spawn-environ": _ENVIRONMENT,
        "distributed.worker.multiprocessing-method": "forkserver" if _forks() else "spawn",
        "distributed.worker.profile.enabled": False,
        "distributed.scheduler.work-stealing": False,  # each has what it works on
    }
    with dask.config.set(settings):
        try:
            cluster = distributed.LocalCluster(
                n_workers=number,
                threads_per_worker=SLOTS,
                processes=True,
                memory_limit=0,
                dashboard_address=None,
                env=own,
            )
        except RuntimeError as error:
            raise RuntimeError(
                f"workers: the processes did not start ({error}); each of them runs the script that calls "
                'this once more, so a call at its top level must stand under `if __name__ == "__main__":`'
            ) from error
        closing = threading.Thread(target=cluster.close, name="medeconv-close")
        try:
            with distributed.Client(cluster) as client:
                yield client
        finally:
            closing.start()
            ending.callback(closing.join)
