"""Prompts: the files that they come from, and their conditions, cached by content."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from distill.config.errors import UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.prompts import captions, jsonl, text_file, webdataset
from distill.data.prompts.parquet import Settings as read_parquet
from distill.data.sources.captioned_folder import CaptionedFolder
from distill.training.batches import Batches
from distill.types import Condition, Text


class Encoder:
    """A prompt's tokens are its length; counts its calls."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, prompts: Sequence[str]) -> Condition:
        self.asked += prompts
        lengths = torch.tensor([float(len(prompt)) for prompt in prompts])[:, None]
        return Condition(
            text=Text(
                {"tokens": lengths, "ids": torch.full_like(lengths, 7.0)},
                {"tokens": torch.full((1, 1), -1.0)},
            )
        )


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


def write_tape(path: Path, members: dict[str, str | bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tape:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tape.addfile(entry, io.BytesIO(data))


def test_webdataset(tmp_path: Path) -> None:
    """Text files or an entry of JSON files, in one shard or several; what else is in them is not looked at."""
    entry = json.dumps({"caption": "a cät", "width": 3}, ensure_ascii=False)
    write_tape(tmp_path / "shards" / "b.tar", {"0.txt": "a house\n"})
    write_tape(
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
def test_webdataset_without_prompts(
    tmp_path: Path, members: dict[str, str | bytes], key: str | None, message: str
) -> None:
    write_tape(tmp_path / "x.tar", members)
    with pytest.raises(UserError, match=f"^prompts.path: .*{message}"):
        webdataset.Settings(path=tmp_path / "x.tar", key=key).load()


def test_what_is_no_webdataset(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat")
    with pytest.raises(
        UserError, match=r"^prompts.path: .* holds no .tar; expected a folder of webdataset's shards$"
    ):
        webdataset.Settings(path=tmp_path).load()
    with pytest.raises(UserError, match=r"a.txt: is neither a folder nor a .zip nor a .tar$"):
        webdataset.Settings(path=tmp_path / "a.txt").load()
    with pytest.raises(
        UserError,
        match=r"nowhere: cannot be read \(No such file or directory\); expected a folder, a .zip or a .tar$",
    ):
        webdataset.Settings(path=tmp_path / "nowhere").load()


def test_captioned_folder(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), (0, 0, 0))
    image.paste((255, 0, 0), (10, 0, 30, 20))
    image.save(tmp_path / "x.png")
    with pytest.raises(
        UserError, match=r"x.png: has no caption; expected x.txt beside it, or metadata.jsonl"
    ):
        CaptionedFolder(tmp_path, 8)
    (tmp_path / "x.txt").write_text("a square\n")
    folder = CaptionedFolder(tmp_path, 8)
    assert (len(folder), folder.image_shape, captions.Settings().load(folder)) == (1, (3, 8, 8), ["a square"])
    pixels, row = folder[0]
    assert row == 0
    torch.testing.assert_close(pixels, torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 8, 8))
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "x.png", "text": "red"}))
    assert CaptionedFolder(tmp_path, 8).captions.texts == ["red"]
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "y.png", "text": "red"}))
    with pytest.raises(UserError, match=r"metadata.jsonl, line 1: .*y.png is not there"):
        CaptionedFolder(tmp_path, 8)


def test_captions_of_webdataset_are_those_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "shards").mkdir()
    for number in range(5):
        Image.new("RGB", (12, 10), (50 * number, 0, 0)).save(tmp_path / "folder" / f"{number}.png")
        (tmp_path / "folder" / f"{number}.txt").write_text(f"number {number}")
    for shard, numbers in {"a.tar": (0, 1, 2), "b.tar": (3, 4)}.items():
        with tarfile.open(tmp_path / "shards" / shard, "w") as tape:
            for number in numbers:
                for ending in ("png", "txt"):
                    tape.add(tmp_path / "folder" / f"{number}.{ending}", f"{number}.{ending}")
    folder, shards = (CaptionedFolder(tmp_path / name, 8) for name in ("folder", "shards"))
    assert shards.captions.texts == folder.captions.texts == [f"number {number}" for number in range(5)]
    assert all(torch.equal(shards[row][0], folder[row][0]) for row in range(5))
    again = pickle.loads(pickle.dumps(shards))  # as a worker of another process gets it
    assert torch.equal(again[4][0], folder[4][0])


def test_each_prompt_is_encoded_once_for_each_encoder(tmp_path: Path) -> None:
    encoder = Encoder()
    prompts = EncodedPrompts(["a", "bcd"], encoder, "first", tmp_path)
    for _ in range(2):
        text = prompts(torch.tensor([1, 0, 1])).text
        assert text is not None
        assert text.given["tokens"].flatten().tolist() == [3.0, 1.0, 3.0]
    assert encoder.asked == ["bcd", "a", ""]
    EncodedPrompts(["bcd"], encoder, "first", tmp_path)(torch.tensor([0]))
    assert encoder.asked == ["bcd", "a", "", ""]  # what stands for no prompt is not in the cache
    EncodedPrompts(["bcd"], encoder, "second", tmp_path)(torch.tensor([0]))
    assert encoder.asked[4:] == ["bcd", ""]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


def test_text_is_taken_apart_and_doubled() -> None:
    cond = Encoder()(["a", "bcd", "ef"])
    text = cond[torch.tensor([2, 1])].with_unconditional().text
    assert text is not None
    assert text.given["tokens"].flatten().tolist() == [2.0, 3.0, -1.0, -1.0]
    assert text.given["ids"].flatten().tolist() == [7.0] * 4  # sizes hold without a prompt too
    some = cond.drop(torch.tensor([False, True, False])).text
    assert some is not None
    assert some.given["tokens"].flatten().tolist() == [1.0, -1.0, 2.0]
    assert cond.to("meta").text.device == torch.device("meta")


def test_prompts_are_dropped_by_the_step_alone() -> None:
    prompts = EncodedPrompts(["a", "bcd"], Encoder(), dropout=0.5)

    def tokens(process: int = 0, processes: int = 1) -> list[list[float]]:
        share = {"process": process, "processes": processes, "prompts": prompts}
        stream = Batches((2,), 0, None, 32, 0, torch.device("cpu"), **share).starting_at(3)
        return [next(stream).cond.text.given["tokens"].flatten().tolist() for _ in range(2)]

    whole = tokens()
    assert whole == tokens()
    assert {value for batch in whole for value in batch} == {-1.0, 1.0, 3.0}
    assert 20 <= sum(batch.count(-1.0) for batch in whole) <= 44
    assert [one + two for one, two in zip(tokens(0, 2), tokens(1, 2), strict=True)] == whole
