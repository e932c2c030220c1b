"""Notes that processes leave for each other beside their collectives, so that a stuck one can be named."""

from __future__ import annotations

import datetime
import json
import os
from typing import Any

from distill.training.parallel.processes import Processes

SECONDS = 5.0
"""Maximum time that a note takes to write or read; it gets lost if the machine that keeps it is gone."""


class Board:
    """Keeps a note of each process in a store of its own connection, which collectives do not wait for.

    The store is the one through which the processes found each other: torchrun's, or the first process's.
    Whatever fails is left out, since a board is read when much has failed already.
    """

    def __init__(self, processes: Processes) -> None:
        from torch.distributed import PrefixStore, TCPStore

        self._count = processes.count
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        try:
            store = TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                timeout=datetime.timedelta(seconds=SECONDS),
                wait_for_workers=False,
            )
        except (RuntimeError, KeyError):
            self._store = None
        else:
            self._store = PrefixStore(f"distill/{attempt}", store)

    def write(self, process: int, note: dict[str, Any]) -> None:
        """Replace the note of a process."""
        if self._store is not None:
            try:
                self._store.set(f"note/{process}", json.dumps(note))
            except RuntimeError:
                self._store = None

    def read(self) -> list[dict[str, Any] | None]:
        """Return the notes of all processes, None for one that wrote none."""
        return [self._read(process) for process in range(self._count)]

    def _read(self, process: int) -> dict[str, Any] | None:
        key = f"note/{process}"
        try:
            if self._store is None or not self._store.check([key]):
                return None
            note: dict[str, Any] = json.loads(self._store.get(key))
        except RuntimeError:
            self._store = None
            return None
        return note

    def speaks_first(self) -> bool:
        """Return True to the first process that asks, which then says why the run ends, and to no other.

        Without a store it is True to all, so that one of them says it.
        """
        if self._store is None:
            return True
        try:
            return bool(self._store.add("speaker", 1) == 1)
        except RuntimeError:
            self._store = None
            return True
