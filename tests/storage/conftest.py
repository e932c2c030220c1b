"""Reading hostile files under watch: nothing in them may run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.config.errors import UserError
from distill.networks.edm.published import read_network

ORACLES = Path(__file__).parents[1] / "oracles"
DANGEROUS = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "exec",
    "compile",
    "import",
    "pickle.find_class",
    "socket.connect",
}
"""Events of Python's audit hooks that code in a file might cause."""
watched: list[str] | None = None


def watch(event: str, arguments: tuple) -> None:
    if watched is not None and event in DANGEROUS:
        watched.append(event)


sys.addaudithook(watch)


@pytest.fixture(scope="module")
def imported() -> None:
    """Import everything that the first reading of a network imports, so that the watch sees only the file."""
    read_network(ORACLES / "edm_tiny.pkl")


@pytest.fixture
def refused(
    imported: None, unchecked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[bytes], str]:
    """Return a function that reads a file's bytes and returns the message that refuses it, without its path.

    It checks that nothing in the file ran and that the message is one short line. Checks of types would
    compile code of their own.
    """
    monkeypatch.chdir(tmp_path)

    def read(data: bytes) -> str:
        global watched
        path = tmp_path / "network.pkl"
        path.write_bytes(data)
        watched = []
        with pytest.raises(UserError) as error:
            read_network(path)
        events, watched = watched, None
        assert events == []
        assert [file.name for file in tmp_path.iterdir()] == ["network.pkl"]
        message = str(error.value)
        assert message.isprintable()
        assert message.startswith(f"{path}: ")
        assert len(message) < len(str(path)) + 250
        return message.removeprefix(f"{path}: ")

    return read
