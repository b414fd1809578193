"""What a job is, and what of it is done: NAME.job.json, and a line per finished tile in NAME.job.log.

The log is only ever appended to: a line is written when its tile is safe on disk, and a line that a crash has
cut short does not count. Each of several processes of one job (``--shard-index``) has a log of its own.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..io._files import is_at, lock, write_whole

FORMAT = 1


class Done(NamedTuple):
    """A finished tile: its number, the checksum of its voxels as stored, how many input values were negative
    and set to zero, and the seconds that it took."""

    number: int
    checksum: str
    negative: int
    seconds: float


class Manifest:
    """The record of one job beside its destination."""

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.path = destination.with_name(destination.name + ".job.json")
        self.record: dict[str, Any] = {}

    def load(self) -> bool:
        """Whether there is one; its record is then at hand."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        try:
            record = json.loads(text)
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']}, expected {FORMAT}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path}: damaged, or no record of a job ({error}); remove it to begin anew"
            ) from error
        self.record = record
        return True

    def save(self, **entries: Any) -> None:
        """Put entries into the record, as a whole or not at all."""
        self.record |= {"format": FORMAT, **entries}
        text = json.dumps(self.record, indent=1)
        write_whole(self.path, lambda p: p.write_text(text + "\n", encoding="utf-8"), overwrite=True)

    def discard(self) -> None:
        for log in self._logs():
            log.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self.record = {}

    def finish(self, **entries: Any) -> None:
        """All tiles are in and the result has its name."""
        self.save(finished=True, **entries)
        for log in self._logs():
            log.unlink(missing_ok=True)

    def _logs(self) -> list[Path]:
        return sorted(self.path.parent.glob(_escaped(self.destination.name) + ".job.log*"))

    def log_path(self, shard: tuple[int, int] | None) -> Path:
        suffix = "" if shard is None else f".{shard[0]}-of-{shard[1]}"
        return self.destination.with_name(f"{self.destination.name}.job.log{suffix}")

    def done(self) -> dict[int, Done]:
        """All tiles of the job that some process has finished."""
        found: dict[int, Done] = {}
        tiles = (self.record.get("plan") or {}).get("tiles", math.inf)
        for log in self._logs():
            for line in log.read_bytes().split(b"\n")[:-1]:  # what follows the last newline was cut short
                with contextlib.suppress(ValueError):
                    entry = _parsed(line)
                    if 0 <= entry.number < tiles:
                        found[entry.number] = entry
        return found

    @contextlib.contextmanager
    def logging(self, shard: tuple[int, int] | None) -> Iterator[Log]:
        """The log of this process, which no other may write to meanwhile."""
        with open(self.log_path(shard), "ab+") as file:
            try:
                lock(file)
            except OSError as error:
                raise self._busy(file.name) from error
            for other in self._logs():
                if not _of_the_same_cut(other.name, self.log_path(shard).name):
                    self._check_idle(other)
            _drop_torn_line(file)
            yield Log(file)

    def check_idle(self) -> None:
        """Refuse to take the job from under a process that is at work on it.

        Raises
        ------
        BlockingIOError
        """
        for log in self._logs():
            self._check_idle(log)

    def _busy(self, name: Any) -> OSError:
        return BlockingIOError(f"{self.destination}: another process is at work on it (it holds {name})")

    def _check_idle(self, log: Path) -> None:
        """Two that work on the same tiles take each other's blocks away while they write theirs."""
        with open(log, "rb+") as file:  # NFS locks nothing for one that is open for reading
            try:
                lock(file)
            except OSError as error:
                raise self._busy(log) from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While a job is begun or ended: of several processes one after the other."""
        path = self.destination.with_name(self.destination.name + ".job.lock")
        while True:
            with open(path, "ab") as file:
                lock(file, wait=True)
                if not is_at(file, path):
                    continue  # whoever held it has taken it away meanwhile
                try:
                    yield
                finally:
                    if self.record.get("finished") or not self.path.exists():
                        path.unlink(missing_ok=True)
                return


class Log:
    def __init__(self, file: Any) -> None:
        self._file = file

    def add(self, done: Done) -> None:
        line = f"{done.number} {done.checksum} {done.negative} {done.seconds:.3f}\n"
        self._file.write(line.encode("ascii"))
        self._file.flush()
        os.fsync(self._file.fileno())


def _parsed(line: bytes) -> Done:
    number, checksum, negative, seconds = line.decode("ascii").split(" ")
    return Done(int(number), checksum, int(negative), float(seconds))


def _of_the_same_cut(one: str, other: str) -> bool:
    """Whether two logs are of different parts of one division of the tiles, or the same log."""
    cuts = [name.rpartition("-of-") for name in (one, other)]
    return one == other or (cuts[0][1] != "" and cuts[0][2] == cuts[1][2] and cuts[1][1] != "")


def _drop_torn_line(file: Any) -> None:
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        file.truncate(whole)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
