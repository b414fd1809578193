"""``medeconv restore FOLDER -o FOLDER``: every image of a folder, one after the other."""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import medeconv_fast as mf

from ..io._dicom import has_prefix
from .session import Session, UserError, one_line


class BatchError(Exception):
    """Some images of a folder could not be restored."""


def images_of(folder: Path) -> list[Path]:
    """The images of a folder, by name; DICOM files are those of one series, which is one image."""
    if not folder.is_dir() or mf.io.is_zarr(folder):
        return []
    endings = tuple(s for s in mf.io.formats() if not mf.io.is_dicom(f"x{s}"))
    return sorted(
        path
        for path in folder.iterdir()
        if mf.io.is_zarr(path)
        or (path.is_file() and path.name.lower().endswith(endings) and not path.name.startswith("."))
    )


def restore(
    arguments: argparse.Namespace,
    session: Session,
    images: list[Path],
    each: Callable[[argparse.Namespace, Session], None],
) -> None:
    """`each` restores one image. A failed one does not keep the others from being restored."""
    for name in ("report", "scheduler", "num_shards"):
        if getattr(arguments, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')}: is for one image, and {arguments.input} is a folder of them"
            )
    folder = Path(arguments.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: is a file, expected a folder for the {len(images)} images")
    if folder.name.lower().endswith(mf.io.formats()):
        raise UserError(
            f"--output {folder}: is named as one image, expected a folder: {arguments.input} is a folder of "
            f"{len(images)} images"
        )
    if folder.exists() and folder.samefile(arguments.input):
        raise UserError(f"--output {folder}: is the folder of the images itself; choose another one")
    every = copy.copy(arguments)
    every.images = [str(path) for path in images]  # none of which is a place for the JSON
    for path in images:
        session.reserve(folder / path.name)
    session.claim(every, "json")
    others = sum(has_prefix(path) for path in Path(arguments.input).iterdir() if path not in images)
    if others:
        session.note(
            f"{arguments.input}: left out {others} DICOM file{'s' * (others > 1)} beside images of other "
            "formats; a series needs a folder of its own"
        )
    if not folder.absolute().parent.is_dir():
        raise UserError(f"--output {folder}: the folder {folder.absolute().parent} does not exist")
    folder.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(images, 1):
        one = copy.copy(arguments)
        one.input, one.output, one.json = str(path), str(folder / path.name), None
        row: dict[str, Any] = {"input": one.input, "output": one.output, "seconds": None, "error": None}
        rows.append(row)
        if Path(one.output).exists() and not session.overwrite:
            row["status"] = "exists"
            continue
        session.say(f"--- {number} of {len(images)}: {path.name}")
        own = Session(overwrite=session.overwrite, quiet=session.quiet, to_stderr=session.json_target == "-")
        begun = time.perf_counter()
        try:
            with own.warnings_as_lines():
                each(one, own)
            row["status"] = "restored"
        except Exception as error:
            row |= {"status": "failed", "error": one_line(error)}
            session.note(f"{path.name}: {row['error']}; {own.what_was_written()}")
        row["seconds"] = time.perf_counter() - begun
        session.written += own.written
        session.warnings += [f"{path.name}: {text}" for text in own.warnings]
    width = max(len(Path(row["input"]).name) for row in rows)
    session.say("summary")
    for row in rows:
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.3g} s"
        session.say(f"  {Path(row['input']).name:{width}}  {row['status']:8}  {row['error'] or seconds}")
    session.write_json({"command": "restore", "version": mf.__version__, "images": rows})
    failed = sum(row["status"] == "failed" for row in rows)
    if failed:
        raise BatchError(f"{failed} of {len(rows)} images could not be restored")
