"""Files and folders are written whole or not at all, and a broken file is named."""

import os
from pathlib import Path

import pytest

from distill.config.errors import UserError
from distill.storage.files import check_new_folder, new_file, new_folder, read_json
from tests.helpers.full_disk import fail_for_lack_of_space


def test_a_folder_whose_writing_fails_leaves_the_old_one(tmp_path: Path) -> None:
    with new_folder(tmp_path / "x") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "x") as folder:
        (folder / "a").write_text("new")
        raise RuntimeError("interrupted")
    assert (tmp_path / "x" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_whose_writing_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(RuntimeError), new_file(tmp_path / "x") as partial:
        partial.write_text("new")
        raise RuntimeError("interrupted")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "old"}


def test_a_file_that_cannot_be_flushed_or_put_in_place_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError), new_file(tmp_path / "folder") as partial:
        partial.write_text("new")
    monkeypatch.setattr(os, "fsync", fail_for_lack_of_space)
    with pytest.raises(OSError, match="No space left"), new_file(tmp_path / "x") as partial:
        partial.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_be_put_in_place_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_for_new_folders(path: Path, target: Path) -> Path:
        return fail_for_lack_of_space() if path.suffix == ".partial" else rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_new_folders)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "weights").write_text("old")
    for name in ("old", "new"):
        with pytest.raises(OSError, match="No space left"), new_folder(tmp_path / name):
            pass
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["old", "old/weights"]


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with new_folder(tmp_path / "x") as folder:
            (folder / name).write_text(name)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["b"]


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "file").symlink_to("real.txt")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("x")
    with new_file(tmp_path / "file") as partial:
        partial.write_text("y")
    assert ((tmp_path / "real" / "a").read_text(), (tmp_path / "real.txt").read_text()) == ("x", "y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "real", "real.txt"]
    assert (tmp_path / "folder").is_symlink()


def test_a_place_where_no_folder_can_be_made_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path / "x" / "y")
    check_new_folder(Path("new/and/newer"), "--out")
    for place in (Path(), tmp_path / "x"):
        message = rf"^--out {place}: is the folder that this runs in; expected another"
        with pytest.raises(UserError, match=message):
            check_new_folder(place, "--out")
    with pytest.raises(UserError, match=rf"^--out {tmp_path}/file/a: cannot be made in {tmp_path}/file$"):
        check_new_folder(tmp_path / "file" / "a", "--out")


@pytest.mark.parametrize(("content", "message"), [(b"{", "is not JSON"), (None, "cannot be read")])
def test_a_broken_json_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "x.json")
