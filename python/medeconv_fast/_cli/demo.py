"""``medeconv demo``."""

from __future__ import annotations

import argparse
import os

from .. import demo as scans
from .session import Session, UserError


def demo(arguments: argparse.Namespace, session: Session) -> None:
    session.claim(arguments, "json")
    target = arguments.json
    if target not in (None, "-") and os.path.realpath(os.path.dirname(target) or ".") == os.path.realpath(
        arguments.out
    ):
        raise UserError(f"--json {target}: the demo has --out to itself; choose another directory")
    report = scans.run(
        arguments.out,
        backend=arguments.backend,
        num_threads=arguments.threads,
        overwrite=arguments.overwrite,
        say=session.say,
        written=session.written,
    )
    session.write_json(report)
