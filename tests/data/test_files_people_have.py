"""Images, labels and captions as people have them: each is read rightly, or named in one line."""

import io
import json
import struct
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.config.errors import UserError
from distill.data import Captions
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.image_files import ImageFiles
from distill.data.images import decode, pixels_of
from distill.data.prompts import jsonl, text_file
from distill.data.sources import image_folder
from distill.data.sources.captioned_folder import CaptionedFolder
from distill.data.sources.digits import Settings as Digits
from distill.data.sources.hub_dataset import read_labels
from distill.data.sources.image_folder import ImageFolder
from distill.training.batches import Batches
from distill.types import Condition, Text
from eval.images.streams import DataImages, FileImages
from eval.prompt_sets import read_prompt_set
from eval.run.subjects import folder_images, open_real
from tests.helpers.image_sets import labels_of


def png(shade: int = 0, mode: str = "RGB", size: tuple[int, int] = (4, 4)) -> bytes:
    content = io.BytesIO()
    Image.new(mode, size, shade if mode != "RGB" else (shade, 0, 0)).save(content, format="PNG")
    return content.getvalue()


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


# Text.

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
    write(tmp_path, {"prompts.txt": content})
    assert text_file.Settings(path=tmp_path / "prompts.txt").load() == expected
    assert read_prompt_set(str(tmp_path / "prompts.txt")).texts == expected
    objects = "\n".join(json.dumps({"text": prompt}, ensure_ascii=False) for prompt in expected)
    write(tmp_path, {"prompts.jsonl": b"\xef\xbb\xbf" + objects.encode() + b"\n\n"})
    assert jsonl.Settings(path=tmp_path / "prompts.jsonl").load() == expected
    assert read_prompt_set(str(tmp_path / "prompts.jsonl")).texts == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [("a cat".encode("utf-16"), "is UTF-16"), ("é".encode("latin-1"), r"is not UTF-8 \(byte 0\)")],
)
def test_another_encoding_is_named_by_both(tmp_path: Path, content: bytes, reason: str) -> None:
    write(tmp_path, {"prompts.txt": content})
    with pytest.raises(UserError, match=f"{reason}; expected it saved as UTF-8"):
        text_file.Settings(path=tmp_path / "prompts.txt").load()
    with pytest.raises(UserError, match=f"{reason}; expected it saved as UTF-8"):
        read_prompt_set(str(tmp_path / "prompts.txt"))


@pytest.mark.parametrize(
    "line", ['{"text": null}', '{"text": ["a", "b"]}', '{"text": " "}', '{"txet": "a"}', "[1]", "{"]
)
def test_a_line_without_a_prompt_is_named(tmp_path: Path, line: str) -> None:
    write(tmp_path, {"prompts.jsonl": f'{{"text": "a cat"}}\n{line}\n'})
    with pytest.raises(UserError, match=r"prompts.jsonl, line 2: "):
        jsonl.Settings(path=tmp_path / "prompts.jsonl").load()


# Captions.


def captioned(tmp_path: Path, *lines: object) -> CaptionedFolder:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return CaptionedFolder(write(tmp_path, {"a.png": png(), "sub/b.png": png(), "metadata.jsonl": text}), 4)


def test_names_in_a_list_may_be_of_any_system(tmp_path: Path) -> None:
    folder = captioned(
        tmp_path, {"file_name": "./a.png", "text": "x"}, "", {"file_name": "sub\\b.png", "text": "y"}, ""
    )
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
    write(tmp_path, {"sub/b.png": png(255)})
    folder = captioned(tmp_path, *lines)
    write(tmp_path, {"sub/b.png": png(255)})

    def encode(texts: list[str]) -> Condition:
        return Condition(text=Text({"e": torch.zeros(len(texts), 1)}, {"e": torch.zeros(1, 1)}, tuple(texts)))

    prompts = EncodedPrompts(folder.captions.texts, encode, "none", None, 0.0)
    stream = Batches((3, 4, 4), 0, folder, 64, 0, torch.device("cpu"), prompts=prompts).starting_at(0)
    batch = next(stream)
    shown = {"black": set(), "red": set()}
    for image, caption in zip(batch.real, batch.cond.text.prompts, strict=True):
        shown["red" if image[0].mean() > 0 else "black"].add(caption)
    assert shown == {"black": {"x", "y"}, "red": {"p", "q", "r"}}
    again = next(Batches((3, 4, 4), 0, folder, 64, 0, torch.device("cpu"), prompts=prompts).starting_at(0))
    assert again.cond.text.prompts == batch.cond.text.prompts


@pytest.mark.parametrize("text", [None, 3, [], ["x", None], "", {"en": "x"}])
def test_what_is_no_caption_is_named(tmp_path: Path, text: object) -> None:
    with pytest.raises(UserError, match=r"metadata.jsonl, line 2: 'text' is .*; expected a caption"):
        captioned(tmp_path, {"file_name": "a.png", "text": "x"}, {"file_name": "sub/b.png", "text": text})


def test_a_caption_beside_an_image_is_utf_8_and_not_blank(tmp_path: Path) -> None:
    assert CaptionedFolder(
        write(tmp_path / "1", {"a.png": png(), "a.txt": b"\xef\xbb\xbfa cat\r\n"}), 4
    ).captions.texts == ["a cat"]
    with pytest.raises(UserError, match=r"a.txt: is blank; expected the caption of a.png"):
        CaptionedFolder(write(tmp_path / "2", {"a.png": png(), "a.txt": " \n"}), 4)
    with pytest.raises(UserError, match=r"a.txt: is not UTF-8 \(byte 3\)"):
        CaptionedFolder(write(tmp_path / "3", {"a.png": png(), "a.txt": "caf\u00e9".encode("latin-1")}), 4)


def test_captions_count_up_from_image_to_image() -> None:
    captions = Captions([("a",), ("b", "c"), ("d",)])
    assert (list(captions), captions.first) == (["a", "b", "c", "d"], [0, 1, 3])


# Labels.


def test_folders_that_are_numbers_keep_them(tmp_path: Path) -> None:
    folder = ImageFolder(write(tmp_path, {f"{label}/x.png": png() for label in (0, 2, 10, 11, 3)}))
    assert dict(zip(folder.files.names, folder.files.labels, strict=True)) == {
        f"{label}/x.png": label for label in (0, 2, 10, 11, 3)
    }
    assert folder.label_count == 12
    padded = ImageFolder(write(tmp_path / "padded", {f"{label:03d}/x.png": png() for label in (7, 9)}))
    assert padded.files.labels == [7, 9]


def test_other_folders_are_numbered_in_their_order(tmp_path: Path) -> None:
    assert ImageFolder(
        write(tmp_path, {f"{label}/x.png": png() for label in ("10", "9", "dog")})
    ).files.labels == [0, 1, 2]


def test_two_folders_of_one_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folders 01 and 1 have one number"):
        ImageFolder(write(tmp_path, {"1/x.png": png(), "01/x.png": png()}))


LABEL_FILES = {
    "an image without a label": (
        {"dataset.json": '{"labels": [["a.png", 1]]}'},
        "dataset.json: lists no label for b.png",
    ),
    "a label without an image": (
        {"dataset.json": '{"labels": [["a.png", 1], ["b.png", 0], ["c.png", 0]]}'},
        "lists c.png, which is not there",
    ),
    "a hidden label": (
        {"dataset.json": '{"labels": [["a.png", -1], ["b.png", 0]]}'},
        "a.png: its label is -1; expected a number from 0",
    ),
    "a missing label": (
        {"dataset.json": '{"labels": [["a.png", null], ["b.png", 0]]}'},
        "a.png: its label is None",
    ),
    "a fraction": ({"dataset.json": '{"labels": [["a.png", 1.5], ["b.png", 0]]}'}, "a.png: its label is 1.5"),
    "a word in webdataset's file": (
        {"a.cls": "cat", "b.cls": "1"},
        "a.cls: holds 'cat'; expected the number of a class",
    ),
    "half of webdataset's files": ({"a.cls": "1"}, "b.png: has no label; expected b.cls beside it"),
}


@pytest.mark.parametrize(("files", "message"), LABEL_FILES.values(), ids=LABEL_FILES)
def test_a_label_that_is_missing_or_none_is_named(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ImageFiles(write(tmp_path, {"a.png": png(), "b.png": png(), **files}))


def test_labels_of_a_dataset_are_numbers_or_words() -> None:
    assert read_labels([2, 0, 1], "x") == ([2, 0, 1], ())
    assert read_labels(["dog", "cat", "dog"], "x") == ([1, 0, 1], ("cat", "dog"))
    assert read_labels(["owl"], "x", ("cat", "dog", "owl")) == ([2], ("cat", "dog", "owl"))
    for values, wrong in (
        ([1, None], "row 1, is None"),
        ([0, -1], "hidden has -1"),
        ([0.0], "row 0, is 0.0"),
        ([True], "is True"),
        (["a", 1], "is 'a'"),
    ):
        with pytest.raises(UserError, match=wrong):
            read_labels(values, "x")


def shards(folder: Path, files: dict[str, list[str]]) -> Path:
    folder.mkdir(exist_ok=True)
    for shard, names in files.items():
        with tarfile.open(folder / shard, "w") as tape:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(png())
                tape.addfile(info, io.BytesIO(png()))
    return folder


def test_classes_are_the_same_in_every_shard(tmp_path: Path) -> None:
    files = ImageFiles(
        shards(tmp_path / "x", {"s0.tar": ["cat/0.png", "dog/1.png"], "s1.tar": ["dog/2.png", "cat/3.png"]})
    )
    assert dict(zip(files.names, files.labels, strict=True)) == {
        "s0.tar:cat/0.png": 0, "s0.tar:dog/1.png": 1, "s1.tar:cat/3.png": 0, "s1.tar:dog/2.png": 1,
    }  # fmt: skip


def test_a_folder_that_all_share_is_no_class_and_may_hold_the_list(tmp_path: Path) -> None:
    assert ImageFiles(
        write(tmp_path / "a", {f"photos/2024/{label}/x.png": png() for label in ("cat", "dog")})
    ).labels == [0, 1]
    listed = {
        "ds/dataset.json": json.dumps({"labels": [["00000/b.png", 3], ["00000/a.png", 5]]}),
        "ds/00000/a.png": png(),
        "ds/00000/b.png": png(),
    }
    assert ImageFiles(write(tmp_path / "b", listed)).labels == [5, 3]
    samples = {"file": "0.png", "seed": 4, "label": 2}
    made = ImageFiles(
        write(
            tmp_path / "c",
            {
                "out/samples.json": json.dumps({"images": [samples]}),
                "out/0.png": png(),
                "out/grid.png": png(),
            },
        )
    )
    assert (made.names, made.labels, made.records) == (["out/0.png"], [2], [samples])
    captioned = CaptionedFolder(
        write(
            tmp_path / "d", {"x/metadata.csv": 'file_name,text\na.png,"a cat,\nasleep"\n', "x/a.png": png()}
        ),
        4,
    )
    assert list(captioned.captions) == ["a cat,\nasleep"]


DOUBTS = {
    "cover.png": (
        "cover.png lies beside the folders cat, dog; expected each image in the folder of its class",
        ("cat/a.png", "dog/b.png", "cover.png"),
    ),
    "splits": (
        "the folders test, train are parts of a dataset, no classes; expected the path of one of them",
        ("train/cat/a.png", "test/cat/b.png"),
    ),
}


@pytest.mark.parametrize(("message", "names"), DOUBTS.values(), ids=DOUBTS)
def test_folders_that_may_be_no_classes_are_refused_in_training_and_do_not_matter_otherwise(
    tmp_path: Path, message: str, names: tuple[str, ...]
) -> None:
    write(tmp_path, {name: png() for name in names})
    with pytest.raises(UserError, match=f"^{tmp_path}: {message}$"):
        ImageFolder(tmp_path)
    assert (FileImages(tmp_path).label_count, len(FileImages(tmp_path))) == (0, len(names))


def test_held_out_images_have_the_labels_of_the_training_images_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train", {f"{label}/x.png": png() for label in ("cat", "dog", "horse")})
    write(tmp_path / "held-out", {f"{label}/x.png": png() for label in ("cat", "horse")})
    data = image_folder.Settings(path=tmp_path / "train", held_out_path=tmp_path / "held-out")
    real = open_real(data)
    assert real.held_out is not None
    assert (labels_of(real.held_out), real.held_out.label_count) == ([0, 2], 3)
    assert labels_of(folder_images(tmp_path / "held-out", real.train)) == [0, 2]
    write(tmp_path / "made", {f"{label}/x.png": png() for label in ("cat", "hors", "dog")})
    with pytest.raises(
        UserError,
        match=r"made: 'hors' is none of the classes of the training images; expected some of cat, dog, horse$",
    ):
        folder_images(tmp_path / "made", real.train)


def test_some_of_the_images_are_of_all_classes(tmp_path: Path) -> None:
    write(
        tmp_path, {f"{label}/{number}.png": png() for label in ("cat", "dog", "horse") for number in range(4)}
    )
    for stream in (FileImages(tmp_path), DataImages(ImageFolder(tmp_path), "x", {})):
        stream.keep(6)
        assert [stream.label(row) for row in range(len(stream))] == [0, 0, 1, 1, 2, 2]
        assert [stream.name(row) for row in (0, 1)] == (
            ["cat/0.png", "cat/2.png"] if isinstance(stream, FileImages) else ["image 0", "image 2"]
        )


def test_a_list_that_contradicts_itself_or_leaves_captions_out_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", {"dataset.json": '{"labels": [["a.png", 0], ["./a.png", 1]]}', "a.png": png()})
    with pytest.raises(
        UserError, match=r"dataset.json: lists ./a.png with the labels 0 and 1; expected one$"
    ):
        ImageFiles(tmp_path / "a")
    write(
        tmp_path / "b",
        {"metadata.jsonl": '{"file_name": "a.png", "text": "a cat"}', "a.png": png(), "b.png": png()},
    )
    with pytest.raises(
        UserError, match=r"metadata.jsonl: has no caption of b.png; expected one for every image$"
    ):
        CaptionedFolder(tmp_path / "b", 4)
    for text, message in (
        ("file_name,text\na.png\n", "line 2: has not the 2 columns"),
        ('file_name,text\na.png,"x\n', "is not CSV"),
        ("a,b\n1,2\n", "line 2: expected a row"),
    ):
        with pytest.raises(
            UserError, match=f"metadata.csv, {message}" if message.startswith("line") else message
        ):
            CaptionedFolder(write(tmp_path / "c", {"metadata.csv": text, "a.png": png()}), 4)


WRONG_RECORDS = {
    "twice": (
        [{"file": "a.png", "label": 0}, {"file": "a.png", "label": 0}],
        "lists a.png more than once; expected each image once",
    ),
    "a seed that is text": (
        [{"file": "a.png", "label": 0, "seed": "0"}],
        "is not what sample.py writes; expected 'images' of 'file'",
    ),
    "a prompt that is a list": (
        [{"file": "a.png", "label": 0, "prompt": ["a"]}],
        "is not what sample.py writes",
    ),
}


@pytest.mark.parametrize(("records", "message"), WRONG_RECORDS.values(), ids=WRONG_RECORDS)
def test_a_wrong_index_of_samples_is_named(
    tmp_path: Path, records: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(UserError, match=rf"^{tmp_path}/samples.json: {message}"):
        ImageFiles(write(tmp_path, {"a.png": png(), "samples.json": json.dumps({"images": records})}))


def test_folders_with_names_are_no_labels_of_data_without_names(tmp_path: Path) -> None:
    real = open_real(Digits()).train
    write(tmp_path, {f"{name}/x.png": png() for name in ("one", "two")})
    with pytest.raises(
        UserError,
        match=r"has sub-folders with names, .*, or their names to be numbers, as the labels of the data, 0 to 9$",
    ):
        folder_images(tmp_path, real)


# Images.


def turned() -> bytes:
    """Two pixels, white above black, that a camera held sideways stored as black, white from left to right."""
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 8  # stored turned by a quarter clockwise
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(content, format="PNG", exif=exif)
    return content.getvalue()


def test_every_source_shows_images_upright(tmp_path: Path) -> None:
    expected = torch.tensor([[[255], [0]]], dtype=torch.uint8)
    assert torch.equal(decode(turned()), expected)
    with Image.open(io.BytesIO(turned())) as image:
        assert torch.equal(pixels_of(image), expected)
    assert ImageFolder(write(tmp_path, {"a.png": turned()})).image_shape == (3, 2, 1)


def test_a_protocol_reads_files_as_they_lie_as_clean_fid_does(tmp_path: Path) -> None:
    (image,) = FileImages(write(tmp_path, {"a.png": turned()})).read([0])
    assert torch.equal(image, torch.tensor([[[0, 255]]], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("mode", "value", "expected"), [("1", 1, [255]), ("L", 7, [7]), ("P", 0, [0, 0, 0]), ("LA", (7, 0), [7])]
)
def test_modes_of_a_byte_are_read(mode: str, value: object, expected: list[int]) -> None:
    content = io.BytesIO()
    Image.new(mode, (2, 2), value).save(content, format="PNG")
    assert decode(content.getvalue())[:, 0, 0].tolist() == expected


def png_of_16_bits(kind: int, channels: int) -> bytes:
    """A grey surface, of the colour type that PNG gives this number."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    rows = b"".join(b"\0" + b"\x12\x34" * channels * 4 for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_more_than_a_byte_a_channel_is_refused_everywhere(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((4, 4), 30000, dtype=np.uint16))
    with pytest.raises(ValueError, match="mode I;16; expected 8 bits a channel"):
        pixels_of(deep)
    (tmp_path / "deep").mkdir()
    deep.save(tmp_path / "deep" / "a.png")
    for name, content in {
        "rgb.png": png_of_16_bits(2, 3),
        "grey and alpha.png": png_of_16_bits(4, 2),
        "a.ppm": b"P6 2 2 65535\n" + bytes(24),
    }.items():
        with pytest.raises(ValueError, match="of more than 8; expected 8 bits a channel"):
            decode(content)
        with pytest.raises(UserError, match=f"{name}: cannot be read as an image"):
            ImageFolder(write(tmp_path / name.split(".")[0], {name: content}))
    assert decode(b"P6 2 2 100\n" + bytes([100]) * 12).flatten().tolist() == [255] * 12
    with pytest.raises(
        UserError, match=r"a.png: cannot be read as an image \(mode I;16; expected 8 bits a channel\)"
    ):
        ImageFolder(tmp_path / "deep")


@pytest.mark.parametrize("kind", ["tif", "ppm", "pgm", "gif", "bmp", "tga", "webp"])
def test_every_common_kind_of_image_is_read(tmp_path: Path, kind: str) -> None:
    Image.new("L", (3, 2), 77).save(tmp_path / f"a.{kind}")
    image, _ = ImageFolder(tmp_path, grey=True)[0]
    assert image.shape == (1, 2, 3)
    assert image[0, 0, 0].item() == pytest.approx(77 / 127.5 - 1, abs=0.02)


def test_an_image_that_cannot_be_read_is_not_left_out_in_silence(tmp_path: Path) -> None:
    for kind in ("heic", "cr3", "ico"):
        with pytest.raises(
            UserError, match=rf"b.{kind}: is of a kind that cannot be read; expected it as PNG, or elsewhere"
        ):
            ImageFiles(write(tmp_path / kind, {"a.png": png(), f"b.{kind}": b"x"}))
    with pytest.raises(
        UserError,
        match=r"0.png: lies beside .tar files; expected images in archives or beside them, not both$",
    ):
        ImageFiles(write(shards(tmp_path / "x", {"old.tar": ["a.png"]}), {"0.png": png()}))


# Archives.


def test_a_zip_of_windows_has_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("cat\\0.png", "dog\\1.png"):
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            archive.writestr(info, png())
    files = ImageFiles(tmp_path / "x.zip")
    assert (files.names, files.labels) == (["cat/0.png", "dog/1.png"], [0, 1])
    assert files.pixels(1).shape == (3, 4, 4)


def test_names_that_lead_out_of_an_archive_are_names(tmp_path: Path) -> None:
    """Nothing is unpacked: where a name leads does not matter."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for shade, name in enumerate(("../../a.png", "/b/c.png", "d.png", ".hidden/e.png")):
            archive.writestr(name, png(shade))
    files = ImageFiles(tmp_path / "x.zip")
    assert [int(files.pixels(row)[0, 0, 0]) for row in range(len(files))] == [0, 1, 2]


def encrypted(path: Path) -> None:
    """A stored member whose header says that it is encrypted."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png())
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def test_an_encrypted_archive_is_named(tmp_path: Path) -> None:
    encrypted(tmp_path / "x.zip")
    with pytest.raises(UserError, match=r"a.png: cannot be read as an image \(.*encrypted"):
        ImageFolder(tmp_path / "x.zip")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_cut_at_any_place_is_read_or_named(tmp_path: Path, kind: str) -> None:
    whole = tmp_path / f"whole.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for row in range(3):
                archive.writestr(f"{row}.png", png(row))
    else:
        with tarfile.open(whole, "w:gz" if kind.endswith("gz") else "w") as archive:
            for row in range(3):
                info = tarfile.TarInfo(f"{row}.png")
                info.size = len(png(row))
                archive.addfile(info, io.BytesIO(png(row)))
    content = whole.read_bytes()
    for share in range(1, 20):
        cut = tmp_path / f"cut.{kind}"
        cut.write_bytes(content[: len(content) * share // 20])
        message = ""
        try:
            folder = ImageFolder(cut)
            for row in range(len(folder)):
                folder[row]
        except UserError as error:
            message = str(error)
        assert "\n" not in message


def test_a_case_s_zip_of_a_real_packer_is_read(tmp_path: Path) -> None:
    write(tmp_path / "in", {"cat/0.png": png(), "dog/1.png": png()})
    packed = subprocess.run(["python", "-m", "zipfile", "-c", "../x.zip", "cat", "dog"], cwd=tmp_path / "in")
    assert packed.returncode == 0
    assert ImageFiles(tmp_path / "x.zip").labels == [0, 1]
