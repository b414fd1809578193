"""What goes through the tiles of a job: this process; `_cluster` has the workers of a dask cluster.

A driver yields each tile when it is safe in the store. What a failing tile means is the same in all of them:
see `Failures`.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ._job import Job
from ._manifest import Done

# An input with more damaged places than this is not worth going on with.
MOST_FAILURES = 16
# The store or the machine are at their end: no other tile would fare better.
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


class TileError(RuntimeError):
    """Some tiles could not be restored; the others are kept, and a rerun does these alone."""


class Failures:
    """Notes tiles that fail; a place of the input that cannot be read does not keep the others from being
    restored, anything that would meet them as well does."""

    def __init__(self, job: Job, look: Callable[[], None]) -> None:
        """`look` raises if the input is not what it was."""
        self._job, self._look = job, look
        self.seen: list[tuple[int, Exception]] = []

    def note(self, number: int, error: Exception) -> None:
        """Raise `error` if it ends the run."""
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _FATAL):
            raise error
        if not isinstance(error, ValueError | OSError):
            raise error
        try:
            self._look()
        except OSError as stale:
            raise stale from error
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
