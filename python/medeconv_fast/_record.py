"""A dict whose entries can also be read as attributes: what a run, a plan or a job says of itself."""

from __future__ import annotations

from typing import Any


class Record(dict[str, Any]):
    """A dict; ``record.name`` is ``record["name"]``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}; there are {', '.join(self)}") from None
