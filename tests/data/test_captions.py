"""Captions of images: where they are read from, and how one of several is drawn."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from distill.config.errors import UserError
from distill.data import Captions
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.prompts import captions
from distill.data.sources.captioned_folder import CaptionedFolder
from distill.training.batches import Batches
from distill.types import Condition, Text
from tests.helpers.image_files import png, write_files


def captioned(tmp_path: Path, *lines: object) -> CaptionedFolder:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    write_files(tmp_path, {"a.png": png(), "sub/b.png": png(), "metadata.jsonl": text})
    return CaptionedFolder(tmp_path, 4)


def test_names_in_a_list_may_be_of_any_system(tmp_path: Path) -> None:
    unix = {"file_name": "./a.png", "text": "x"}
    windows = {"file_name": "sub\\b.png", "text": "y"}
    folder = captioned(tmp_path, unix, "", windows, "")
    assert folder.files.names == ["a.png", "sub/b.png"]
    assert folder.captions.texts == ["x", "y"]


def test_several_captions_of_an_image_are_all_drawn(tmp_path: Path) -> None:
    lines = [
        {"file_name": "a.png", "text": "x"},
        {"file_name": "a.png", "text": "y"},
        {"file_name": "sub/b.png", "text": ["p", "q", "r"]},
    ]
    folder = captioned(tmp_path, *lines)
    assert folder.captions.of_images == [("x", "y"), ("p", "q", "r")]
    assert [folder[0][1], folder[1][1]] == [0, 2]
    u = torch.tensor([0.0, 0.6, 0.0, 0.5, 0.999])
    assert folder.captions.draw(torch.tensor([0, 0, 2, 2, 2]), u).tolist() == [0, 1, 2, 3, 4]


def test_a_batch_shows_an_image_with_one_of_its_own_captions(tmp_path: Path) -> None:
    lines = [{"file_name": "a.png", "text": ["x", "y"]}, {"file_name": "sub/b.png", "text": ["p", "q", "r"]}]
    folder = captioned(tmp_path, *lines)
    write_files(tmp_path, {"sub/b.png": png(255)})

    def encode(texts: list[str]) -> Condition:
        return Condition(text=Text({"e": torch.zeros(len(texts), 1)}, {"e": torch.zeros(1, 1)}, tuple(texts)))

    prompts = EncodedPrompts(folder.captions.texts, encode, "none", None, 0.0)
    batches = Batches(
        (3, 4, 4), 0, folder, 64, 0, torch.device("cpu"), prompts=prompts, captions=folder.captions
    )
    stream = batches.starting_at(0)
    batch = next(stream)
    shown = {"black": set(), "red": set()}
    for image, caption in zip(batch.real, batch.cond.text.prompts, strict=True):
        shown["red" if image[0].mean() > 0 else "black"].add(caption)
    assert shown == {"black": {"x", "y"}, "red": {"p", "q", "r"}}
    again = next(batches.starting_at(0))
    assert again.cond.text.prompts == batch.cond.text.prompts


@pytest.mark.parametrize("text", [None, 3, [], ["x", None], "", {"en": "x"}])
def test_a_wrong_caption_is_named(tmp_path: Path, text: object) -> None:
    with pytest.raises(UserError, match=r"metadata.jsonl, line 2: 'text' is .*; expected a caption"):
        captioned(tmp_path, {"file_name": "a.png", "text": "x"}, {"file_name": "sub/b.png", "text": text})


def test_a_caption_beside_an_image_is_utf_8_and_not_blank(tmp_path: Path) -> None:
    write_files(tmp_path / "1", {"a.png": png(), "a.txt": b"\xef\xbb\xbfa cat\r\n"})
    assert CaptionedFolder(tmp_path / "1", 4).captions.texts == ["a cat"]
    with pytest.raises(UserError, match=r"a.txt: is blank; expected the caption of a.png"):
        CaptionedFolder(write_files(tmp_path / "2", {"a.png": png(), "a.txt": " \n"}), 4)
    with pytest.raises(UserError, match=r"a.txt: is not UTF-8 \(byte 3\)"):
        CaptionedFolder(write_files(tmp_path / "3", {"a.png": png(), "a.txt": b"caf\xe9"}), 4)


def test_a_list_may_lie_in_a_folder_that_holds_all_images(tmp_path: Path) -> None:
    files = {"x/metadata.csv": 'file_name,text\na.png,"a cat,\nasleep"\n', "x/a.png": png()}
    assert list(CaptionedFolder(write_files(tmp_path, files), 4).captions) == ["a cat,\nasleep"]


def test_a_list_that_leaves_an_image_out_is_refused(tmp_path: Path) -> None:
    listed = '{"file_name": "a.png", "text": "a cat"}'
    write_files(tmp_path, {"metadata.jsonl": listed, "a.png": png(), "b.png": png()})
    message = r"metadata.jsonl: has no caption of b.png; expected one for every image$"
    with pytest.raises(UserError, match=message):
        CaptionedFolder(tmp_path, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,text\na.png\n", "metadata.csv, line 2: has not the 2 columns"),
        ('file_name,text\na.png,"x\n', "is not CSV"),
        ("a,b\n1,2\n", "metadata.csv, line 2: expected a row"),
    ],
)
def test_a_broken_table_of_captions_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CaptionedFolder(write_files(tmp_path, {"metadata.csv": text, "a.png": png()}), 4)


def test_captions_count_up_from_image_to_image() -> None:
    captions = Captions([("a",), ("b", "c"), ("d",)])
    assert (list(captions), captions.first) == (["a", "b", "c", "d"], [0, 1, 3])


def test_captioned_folder(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), (0, 0, 0))
    image.paste((255, 0, 0), (10, 0, 30, 20))
    image.save(tmp_path / "x.png")
    message = r"x.png: has no caption; expected x.txt beside it, or metadata.jsonl"
    with pytest.raises(UserError, match=message):
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
        with tarfile.open(tmp_path / "shards" / shard, "w") as archive:
            for number in numbers:
                for ending in ("png", "txt"):
                    archive.add(tmp_path / "folder" / f"{number}.{ending}", f"{number}.{ending}")
    folder, shards = (CaptionedFolder(tmp_path / name, 8) for name in ("folder", "shards"))
    assert shards.captions.texts == folder.captions.texts == [f"number {number}" for number in range(5)]
    assert all(torch.equal(shards[row][0], folder[row][0]) for row in range(5))
    again = pickle.loads(pickle.dumps(shards))  # as a worker process receives it
    assert torch.equal(again[4][0], folder[4][0])
