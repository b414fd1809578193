"""What goes through the tiles of a job: this process, or the workers of a dask cluster.

A driver yields each tile when it is safe in the store. What a failing tile means is the same in all of them:
see `Failures`.
"""

from __future__ import annotations

import errno
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from .. import _device
from .._extras import library
from ._job import Job
from ._manifest import Done

# An input with more damaged places than this is not worth going on with.
MOST_FAILURES = 16
# The store or the machine are at their end: no other tile would fare better.
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
SLOTS = 2  # tiles that a worker has in hand
AHEAD = 3  # tiles per worker that a cluster is given at a time


class TileError(RuntimeError):
    """Some tiles could not be restored; the others are kept, and a rerun does these alone."""


class Failures:
    """Notes tiles that fail; a place of the input that cannot be read does not keep the others from being
    restored, anything that would meet them as well does."""

    def __init__(self, job: Job, unchanged: Callable[[], bool]) -> None:
        self._job, self._unchanged = job, unchanged
        self.seen: list[tuple[int, Exception]] = []

    def note(self, number: int, error: Exception) -> None:
        """Raise `error` if it ends the run."""
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _FATAL):
            raise error
        if not isinstance(error, ValueError | OSError):
            raise error
        if not self._unchanged():
            raise OSError(errno.ESTALE, f"the input has changed or vanished ({error})") from error
        self.seen.append((number, error))
        if len(self.seen) >= MOST_FAILURES:
            self.end()

    def end(self) -> None:
        if self.seen:
            numbers = ", ".join(str(number) for number in sorted(number for number, _ in self.seen))
            raise TileError(
                f"{len(self.seen)} of {len(self._job)} tiles could not be restored (numbers {numbers}); the "
                f"first: {self.seen[0][1]}"
            ) from self.seen[0][1]


def in_process(job: Job, numbers: Sequence[int], failures: Failures) -> Iterator[Done]:
    """One tile after the other; the next is read and the one before is written meanwhile."""
    written: Future[Done] | None = None
    closed = False
    with (
        ThreadPoolExecutor(1, "medeconv-read") as reading,
        ThreadPoolExecutor(1, "medeconv-write") as writing,
    ):
        ahead = reading.submit(job.read, numbers[0]) if numbers else None
        try:
            for number, following in zip(numbers, [*numbers[1:], None], strict=True):
                begun = time.perf_counter()
                assert ahead is not None
                try:
                    read = [ahead.result()]
                    ahead = None if following is None else reading.submit(job.read, following)
                    restored = job.compute(number, read)
                except Exception as error:
                    if ahead is not None and ahead.done() and ahead.exception() is error:
                        ahead = None if following is None else reading.submit(job.read, following)
                    failures.note(number, error)
                    continue
                if written is not None:
                    before, written = written, None
                    yield before.result()
                written = writing.submit(job.write, number, restored, begun)
                del restored
        except GeneratorExit:  # nobody is there to take another one
            closed = True
            raise
        finally:
            # Also where something went wrong, and on Ctrl-C: what is in the store shall be known of.
            if written is not None and not closed:
                yield written.result()


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

    Only a few tiles per worker are handed out at a time: the scheduler never holds a million.
    """
    distributed = library("distributed", "dask", "a cluster")
    job.turns = turns_of(client.scheduler_info(n_workers=-1)["workers"])
    sent = client.scatter(job, broadcast=True, hash=False)
    left = deque(numbers)
    running = distributed.as_completed()
    of_future: dict[Any, int] = {}

    def hand_out() -> None:
        workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        while left and len(of_future) < AHEAD * workers:
            number = left.popleft()
            future = client.submit(_on_worker, name, sent, number, key=f"{name}-{number}", pure=False)
            of_future[future] = number
            running.add(future)

    try:
        hand_out()
        for future in running:
            number = of_future.pop(future)
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
