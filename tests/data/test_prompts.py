"""Reading prompts from text, JSON Lines, Parquet and webdataset's files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from distill.config.errors import UserError
from distill.data.prompts import jsonl, text_file, webdataset
from distill.data.prompts.parquet import Settings as read_parquet
from distill.eval.prompt_sets import read_prompt_set
from tests.helpers.image_files import write_files

LINES = {
    "a byte-order mark": (b"\xef\xbb\xbfa cat\na dog\n", ["a cat", "a dog"]),
    "Windows": (b"a cat\r\na dog\r\n", ["a cat", "a dog"]),
    "old Macs": (b"a cat\ra dog", ["a cat", "a dog"]),
    "blank lines": (b"\n a cat\n\n \na dog\n\n", ["a cat", "a dog"]),
    "separators inside a line": ("a\u2028b\nc\x85d\ne\x0cf\n".encode(), ["a\u2028b", "c\x85d", "e\x0cf"]),
}


@pytest.mark.parametrize(("content", "expected"), LINES.values(), ids=LINES)
def test_training_and_evaluation_read_the_same_prompts(
    tmp_path: Path, content: bytes, expected: list[str]
) -> None:
    write_files(tmp_path, {"prompts.txt": content})
    assert text_file.Settings(path=tmp_path / "prompts.txt").load() == expected
    assert read_prompt_set(str(tmp_path / "prompts.txt")).texts == expected
    objects = "\n".join(json.dumps({"text": prompt}, ensure_ascii=False) for prompt in expected)
    write_files(tmp_path, {"prompts.jsonl": b"\xef\xbb\xbf" + objects.encode() + b"\n\n"})
    assert jsonl.Settings(path=tmp_path / "prompts.jsonl").load() == expected
    assert read_prompt_set(str(tmp_path / "prompts.jsonl")).texts == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [("a cat".encode("utf-16"), "is UTF-16"), ("é".encode("latin-1"), r"is not UTF-8 \(byte 0\)")],
)
def test_training_and_evaluation_refuse_another_encoding(tmp_path: Path, content: bytes, reason: str) -> None:
    write_files(tmp_path, {"prompts.txt": content})
    with pytest.raises(UserError, match=f"{reason}; expected it saved as UTF-8"):
        text_file.Settings(path=tmp_path / "prompts.txt").load()
    with pytest.raises(UserError, match=f"{reason}; expected it saved as UTF-8"):
        read_prompt_set(str(tmp_path / "prompts.txt"))


@pytest.mark.parametrize(
    "line", ['{"text": null}', '{"text": ["a", "b"]}', '{"text": " "}', '{"txet": "a"}', "[1]", "{"]
)
def test_a_line_without_a_prompt_is_named(tmp_path: Path, line: str) -> None:
    write_files(tmp_path, {"prompts.jsonl": f'{{"text": "a cat"}}\n{line}\n'})
    with pytest.raises(UserError, match=r"prompts.jsonl, line 2: "):
        jsonl.Settings(path=tmp_path / "prompts.jsonl").load()


def test_text_and_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\n\n  two dogs \n")
    assert text_file.Settings(path=tmp_path / "a.txt").load() == ["a cat", "two dogs"]
    (tmp_path / "a.jsonl").write_text('{"text": "a cat", "id": 3}\n\n{"text": "two dogs"}\n')
    assert jsonl.Settings(path=tmp_path / "a.jsonl").load() == ["a cat", "two dogs"]
    with pytest.raises(UserError, match=r"a.jsonl, line 1: expected a JSON object with 'caption'"):
        jsonl.Settings(path=tmp_path / "a.jsonl", key="caption").load()
    (tmp_path / "b.jsonl").write_text('{"text": 3}')
    with pytest.raises(UserError, match="line 1: 'text' is 3; expected text"):
        jsonl.Settings(path=tmp_path / "b.jsonl").load()
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UserError, match=r"empty.txt holds no prompt"):
        text_file.Settings(path=tmp_path / "empty.txt").load()
    with pytest.raises(UserError, match=r"none.txt cannot be read \(No such file"):
        text_file.Settings(path=tmp_path / "none.txt").load()


def test_parquet(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "shards").mkdir()
    for name, texts in {"b": ["a house"], "a": ["a cat", None, " two dogs ", ""]}.items():
        parquet.write_table(
            pyarrow.table({"text": texts, "id": list(range(len(texts)))}),
            tmp_path / "shards" / f"{name}.parquet",
        )
    assert read_parquet(path=tmp_path / "shards" / "a.parquet").load() == ["a cat", "two dogs"]
    assert read_parquet(path=tmp_path / "shards").load() == ["a cat", "two dogs", "a house"]
    with pytest.raises(
        UserError, match=r"^prompts.column: .*shards has no 'caption'; expected one of text, id$"
    ):
        read_parquet(path=tmp_path / "shards", column="caption").load()
    with pytest.raises(UserError, match=r"^prompts.column: 'id' of .*shards holds 0; expected text$"):
        read_parquet(path=tmp_path / "shards", column="id").load()
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"^prompts.path: .*broken.parquet cannot be read as Parquet \("):
        read_parquet(path=tmp_path / "broken.parquet").load()
    with pytest.raises(UserError, match=r"^prompts.path: .*nowhere cannot be read \(No such file"):
        read_parquet(path=tmp_path / "nowhere").load()
    parquet.write_table(
        pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "empty.parquet"
    )
    with pytest.raises(UserError, match=r"empty.parquet holds no prompt$"):
        read_parquet(path=tmp_path / "empty.parquet").load()


def write_shard(path: Path, members: dict[str, str | bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def test_webdataset(tmp_path: Path) -> None:
    """Prompts are in text files or in JSON files, in one shard or several; other files are ignored."""
    entry = json.dumps({"caption": "a cät", "width": 3}, ensure_ascii=False)
    write_shard(tmp_path / "shards" / "b.tar", {"0.txt": "a house\n"})
    write_shard(
        tmp_path / "shards" / "a.tar",
        {"1.txt": " two dogs ", "1.jpg": b"\xff", "0.txt": "a cat", "2.txt": "\n", "0.json": entry},
    )
    assert webdataset.Settings(path=tmp_path / "shards").load() == ["a cat", "two dogs", "a house"]
    assert webdataset.Settings(path=tmp_path / "shards" / "a.tar").load() == ["a cat", "two dogs"]
    assert webdataset.Settings(path=tmp_path / "shards" / "a.tar", key="caption").load() == ["a cät"]


@pytest.mark.parametrize(
    ("members", "key", "message"),
    [
        ({"0.jpg": b"x"}, None, r"x.tar holds no prompt; expected .txt files in it$"),
        ({"0.txt": "a"}, "text", r"x.tar holds no prompt; expected .json files in it$"),
        (
            {"0.json": '{"text": "a"}', "1.json": "{}"},
            "text",
            r"x.tar, 1.json: expected a JSON object with 'text'$",
        ),
        ({"0.json": "[]"}, "text", r"x.tar, 0.json: expected a JSON object with 'text'$"),
        ({"0.json": "{"}, "text", r"x.tar, 0.json: expected a JSON object with 'text'$"),
        ({"0.json": '{"text": 3}'}, "text", r"x.tar, 0.json: 'text' is 3; expected text$"),
        ({"0.txt": b"\xff"}, None, r"x.tar, 0.txt: is not UTF-8 \(byte 0\); expected it saved as UTF-8$"),
    ],
)
def test_a_shard_without_prompts_is_refused(
    tmp_path: Path, members: dict[str, str | bytes], key: str | None, message: str
) -> None:
    write_shard(tmp_path / "x.tar", members)
    with pytest.raises(UserError, match=f"^prompts.path: .*{message}"):
        webdataset.Settings(path=tmp_path / "x.tar", key=key).load()


def test_a_path_without_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat")
    message = "holds no .tar; expected a folder of webdataset's shards"
    with pytest.raises(UserError, match=rf"^prompts.path: .* {message}$"):
        webdataset.Settings(path=tmp_path).load()
    with pytest.raises(UserError, match=r"a.txt: is neither a folder nor a .zip nor a .tar$"):
        webdataset.Settings(path=tmp_path / "a.txt").load()
    message = r"cannot be read \(No such file or directory\); expected a folder, a .zip or a .tar"
    with pytest.raises(UserError, match=f"nowhere: {message}$"):
        webdataset.Settings(path=tmp_path / "nowhere").load()
