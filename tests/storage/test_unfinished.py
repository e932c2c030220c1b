"""Files that dead processes left unfinished are removed, and no others."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from distill.storage.files import temporary_path
from distill.storage.unfinished import remove_unfinished

HOST = socket.gethostname()
KILL_ITSELF = """
import os, sys
from pathlib import Path
from distill.storage.files import new_file, new_folder

with new_folder(Path(sys.argv[1]) / "step") as folder, new_file(Path(sys.argv[1]) / "x" / "shard") as partial:
    (folder / "weights").write_bytes(bytes(1000))
    partial.write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_files_that_a_killed_process_left_are_removed_and_no_others(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": "."}
    killed = subprocess.run([sys.executable, "-c", KILL_ITSELF, str(tmp_path)], env=environment)
    assert killed.returncode == -9
    assert len(list(tmp_path.rglob("*.partial"))) == 2
    others = {
        ".hidden",
        f".mine.{HOST}.{os.getpid()}.partial",
        ".theirs.elsewhere.77.partial",
        "x.77.partial",
    }
    for name in others:
        (tmp_path / name).write_text("kept")
    assert [path.name.split(".")[1] for path in remove_unfinished(tmp_path)] == ["step", "shard"]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == others


def test_a_file_of_another_machine_is_removed_once_it_is_old(tmp_path: Path) -> None:
    left = tmp_path / ".step.elsewhere.77.partial"
    left.mkdir()
    assert remove_unfinished(tmp_path) == []
    os.utime(left, (1, 1))
    assert remove_unfinished(tmp_path) == [left]


def test_an_old_folder_comes_back_if_the_new_one_never_took_its_place(tmp_path: Path) -> None:
    """The process was killed between the two renamings of `new_folder`."""
    for name in ("export", "whole"):
        old = tmp_path / f".{name}.{HOST}.999999999.old"
        old.mkdir()
        (old / "weights").write_text("old")
    (tmp_path / "whole").mkdir()
    assert [path.name for path in remove_unfinished(tmp_path)] == [f".whole.{HOST}.999999999.old"]
    assert (tmp_path / "export" / "weights").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "whole"]


def test_an_old_folder_of_another_machine_comes_back_under_its_own_name(tmp_path: Path) -> None:
    for name in ("export", "whole", "v1.5"):
        old = tmp_path / f".{name}.node-a.123.old"
        old.mkdir()
        (old / "weights").write_text("old")
    (tmp_path / "whole").mkdir()
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    assert [path.name for path in remove_unfinished(tmp_path)] == [".whole.node-a.123.old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "v1.5", "whole"]


@pytest.mark.parametrize("own", ["node_a_cluster_org", "node-a.cluster.org"])
def test_dots_in_the_name_of_this_machine_are_no_part_of_a_folders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    """Older versions wrote the dots."""
    monkeypatch.setattr(socket, "gethostname", lambda: own.replace("_", "."))
    old = tmp_path / f".export.{own}.999999999.old"
    old.mkdir()
    assert remove_unfinished(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_the_name_of_the_machine_is_one_part_of_a_temporary_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node-a.cluster.org")
    assert temporary_path(Path("x/export"), "old") == Path(f"x/.export.node-a_cluster_org.{os.getpid()}.old")
