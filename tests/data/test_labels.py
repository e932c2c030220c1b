"""Labels of images from folders, lists and columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.config.errors import UserError
from distill.data.image_files import ImageFiles
from distill.data.sources import image_folder
from distill.data.sources.digits import Settings as Digits
from distill.data.sources.hub_dataset import read_labels
from distill.data.sources.image_folder import ImageFolder
from distill.eval.images.streams import DataImages, FileImages
from distill.eval.run.subjects import folder_images, open_real
from tests.helpers.image_files import png, write_files, write_shards
from tests.helpers.image_sets import labels_of


def test_folders_that_are_numbers_keep_them(tmp_path: Path) -> None:
    labels = {f"{label}/x.png": label for label in (0, 2, 10, 11, 3)}
    folder = ImageFolder(write_files(tmp_path, {name: png() for name in labels}))
    assert dict(zip(folder.files.names, folder.files.labels, strict=True)) == labels
    assert folder.label_count == 12
    padded = ImageFolder(write_files(tmp_path / "padded", {f"{label:03d}/x.png": png() for label in (7, 9)}))
    assert padded.files.labels == [7, 9]


def test_other_folders_are_numbered_alphabetically(tmp_path: Path) -> None:
    files = {f"{label}/x.png": png() for label in ("10", "9", "dog")}
    assert ImageFolder(write_files(tmp_path, files)).files.labels == [0, 1, 2]


def test_two_folders_of_one_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folders 01 and 1 have one number"):
        ImageFolder(write_files(tmp_path, {"1/x.png": png(), "01/x.png": png()}))


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
def test_a_missing_or_wrong_label_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageFiles(write_files(tmp_path, {"a.png": png(), "b.png": png(), **files}))


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


def test_classes_are_the_same_in_every_shard(tmp_path: Path) -> None:
    shards = {"s0.tar": ["cat/0.png", "dog/1.png"], "s1.tar": ["dog/2.png", "cat/3.png"]}
    files = ImageFiles(write_shards(tmp_path / "x", shards))
    assert files.names == ["s0.tar:cat/0.png", "s0.tar:dog/1.png", "s1.tar:cat/3.png", "s1.tar:dog/2.png"]
    assert files.labels == [0, 1, 0, 1]


def test_a_folder_that_holds_all_images_is_no_class(tmp_path: Path) -> None:
    files = {f"photos/2024/{label}/x.png": png() for label in ("cat", "dog")}
    assert ImageFiles(write_files(tmp_path, files)).labels == [0, 1]


def test_a_list_of_labels_may_lie_in_a_folder_that_holds_all_images(tmp_path: Path) -> None:
    labels = json.dumps({"labels": [["00000/b.png", 3], ["00000/a.png", 5]]})
    files = {"ds/dataset.json": labels, "ds/00000/a.png": png(), "ds/00000/b.png": png()}
    assert ImageFiles(write_files(tmp_path, files)).labels == [5, 3]


def test_the_index_of_samples_leaves_the_grid_out(tmp_path: Path) -> None:
    record = {"file": "0.png", "seed": 4, "label": 2}
    index = json.dumps({"images": [record]})
    files = {"out/samples.json": index, "out/0.png": png(), "out/grid.png": png()}
    made = ImageFiles(write_files(tmp_path, files))
    assert (made.names, made.labels, made.records) == (["out/0.png"], [2], [record])


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
def test_folders_that_may_be_no_classes_are_refused_in_training_only(
    tmp_path: Path, message: str, names: tuple[str, ...]
) -> None:
    write_files(tmp_path, {name: png() for name in names})
    with pytest.raises(UserError, match=f"^{tmp_path}: {message}$"):
        ImageFolder(tmp_path)
    assert (FileImages(tmp_path).label_count, len(FileImages(tmp_path))) == (0, len(names))


def test_held_out_classes_have_the_labels_of_the_training_classes(tmp_path: Path) -> None:
    write_files(tmp_path / "train", {f"{label}/x.png": png() for label in ("cat", "dog", "horse")})
    write_files(tmp_path / "held-out", {f"{label}/x.png": png() for label in ("cat", "horse")})
    data = image_folder.Settings(path=tmp_path / "train", held_out_path=tmp_path / "held-out")
    real = open_real(data)
    assert real.held_out is not None
    assert (labels_of(real.held_out), real.held_out.label_count) == ([0, 2], 3)
    assert labels_of(folder_images(tmp_path / "held-out", real.train)) == [0, 2]
    write_files(tmp_path / "made", {f"{label}/x.png": png() for label in ("cat", "hors", "dog")})
    message = "'hors' is none of the classes of the training images; expected some of cat, dog, horse"
    with pytest.raises(UserError, match=f"made: {message}$"):
        folder_images(tmp_path / "made", real.train)


def test_a_part_of_the_images_has_all_classes(tmp_path: Path) -> None:
    classes = ("cat", "dog", "horse")
    write_files(tmp_path, {f"{label}/{number}.png": png() for label in classes for number in range(4)})
    files = FileImages(tmp_path)
    data = DataImages(ImageFolder(tmp_path), "x", {})
    for stream in (files, data):
        stream.keep(6)
        assert [stream.label(row) for row in range(len(stream))] == [0, 0, 1, 1, 2, 2]
    assert [files.name(row) for row in (0, 1)] == ["cat/0.png", "cat/2.png"]
    assert [data.name(row) for row in (0, 1)] == ["image 0", "image 2"]


def test_a_list_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    labels = '{"labels": [["a.png", 0], ["./a.png", 1]]}'
    message = r"dataset.json: lists ./a.png with the labels 0 and 1; expected one$"
    with pytest.raises(UserError, match=message):
        ImageFiles(write_files(tmp_path, {"dataset.json": labels, "a.png": png()}))


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
        ImageFiles(write_files(tmp_path, {"a.png": png(), "samples.json": json.dumps({"images": records})}))


def test_folders_with_names_are_no_labels_of_data_without_names(tmp_path: Path) -> None:
    real = open_real(Digits()).train
    write_files(tmp_path, {f"{name}/x.png": png() for name in ("one", "two")})
    message = "names, .*, or their names to be numbers, as the labels of the data, 0 to 9"
    with pytest.raises(UserError, match=f"has sub-folders with {message}$"):
        folder_images(tmp_path, real)
