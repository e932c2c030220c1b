"""The emoji that come with the package: pictures, labels, captions, and the split by names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from distill.config.errors import UserError
from distill.data.sources.emoji import NAMES, PICTURES, SHIPPED, EmojiName, Settings, read_names, write_names
from distill.training.batches.reading import MemoryReader
from distill.types import InMemorySource


def test_counts_of_the_split() -> None:
    everything = (*PICTURES, "symbols", "flags")
    settings = Settings(styles=("noto",), categories=everything)
    assert (len(settings.load()), len(settings.load("held_out"))) == (1651, 201)
    assert (len(Settings().load()), len(Settings().load("held_out"))) == (3675, 453)


def test_no_name_is_in_both_parts_not_even_for_another_person() -> None:
    names = read_names(SHIPPED)
    held_out = {name.name for name in names if name.split == "held_out"}
    train = {name.name for name in names if name.split == "train"}
    assert not held_out & train
    for person in ("man", "woman"):
        others = {name.replace("person", person, 1) for name in held_out if name.startswith("person ")}
        assert not others & train


def test_labels_are_pairs_of_style_and_category() -> None:
    source = Settings(styles=("3d", "noto"), categories=("food", "animals")).load()
    assert (source.label_count, source.image_shape) == (4, (3, 32, 32))
    assert source.labels is not None
    assert source.labels.bincount().tolist() == [118, 140, 118, 140]


def test_captions_name_the_picture_and_its_style() -> None:
    source = Settings(styles=("noto", "3d"), categories=("food",), condition="captions").load()
    captions = source.captions  # type: ignore[attr-defined]
    row = captions.of_images.index(("red apple, food fruit, 3d style", "apple, food fruit, 3d style"))
    assert (source.label_count, source[row][1]) == (0, captions.first[row])
    assert captions.texts[source[row][1]] == "red apple, food fruit, 3d style"
    apple = source.pixels[row].float()
    assert apple[:, 0, 0].tolist() == [255, 255, 255]
    red, green, blue = apple[:, 16, 16].tolist()
    assert red > 150 > max(green, blue)


def test_small_pictures_are_averages() -> None:
    large, small = (Settings(resolution=side, styles=("twemoji",)).load().pixels for side in (32, 16))
    means = large.float().unflatten(3, (16, 2)).unflatten(2, (16, 2)).mean((3, 5))
    assert torch.equal(small, means.round().byte())


def test_captions_go_with_the_pictures_to_a_device() -> None:
    source = Settings(styles=("noto",), condition="captions").load()
    assert isinstance(source, InMemorySource)
    reader = MemoryReader(source, torch.device("cpu"))
    images, labels = next(reader(lambda number, device: torch.tensor([3, 5]), 0))
    assert torch.equal(images, torch.stack([source[3][0], source[5][0]]))
    assert labels.tolist() == [source[3][1], source[5][1]]
    assert reader.data.captions is source.captions  # type: ignore[attr-defined]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data.resolution: is 64; expected 4, 8, 16, 32 .* larger pictures"):
        Settings(resolution=64).load()
    with pytest.raises(UserError, match=r"^data.resolution: is 12; expected 4, 8, 16, 32 for pictures of 32"):
        Settings(resolution=12).load()
    with pytest.raises(ValidationError, match="expected at least one, each once"):
        Settings(styles=("noto", "noto"))
    with pytest.raises(UserError, match=r"^data.path: .*names.tsv cannot be read"):
        Settings(path=tmp_path).load()
    shutil.copy(SHIPPED / NAMES, tmp_path)
    with pytest.raises(UserError, match=r"^data.path: .*noto.webp cannot be read as an image"):
        Settings(path=tmp_path).load()
    (tmp_path / NAMES).write_text("code\tname\n")
    with pytest.raises(UserError, match=r"^data.path: .*names.tsv: expected the columns code, name, other"):
        Settings(path=tmp_path).load()


REFUSED = {
    "nothing": ("", "expected the columns code, name, .*, and a line for each name"),
    "no name": ("code\tname\tother_names\tcategory\tsubcategory\tsplit\n", "split, and a line for each name"),
    "columns": ("apple\n", r"names.tsv:3: 1 columns; expected code, name, other_names"),
    "category": (
        "1\tapple\t\tfod\tfruit\ttrain\n",
        r"names.tsv:3: category is 'fod'; did you mean 'food'\?",
    ),
    "split": ("1\tapple\t\tfood\tfruit\tTrain\n", r"names.tsv:3: split is 'Train'; did you mean 'train'\?"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_broken_tables_of_names_are_refused(tmp_path: Path, text: str, message: str) -> None:
    names = [EmojiName("1f34e", "red apple", (), "food", "food fruit", "train")]
    write_names(names, tmp_path / NAMES)
    whole = "" if text == "" or text.startswith("code") else (tmp_path / NAMES).read_text()
    (tmp_path / NAMES).write_text(whole + text)
    with pytest.raises(UserError, match=f"^data.path: .*{message}"):
        read_names(tmp_path)


def test_categories_without_pictures_are_refused(tmp_path: Path) -> None:
    write_names([EmojiName("1f34e", "red apple", (), "food", "food fruit", "train")], tmp_path / NAMES)
    with pytest.raises(UserError, match=r"^data.categories: .* has no name of flags in the split train"):
        Settings(path=tmp_path, categories=("flags",)).load()


def test_names_are_read_as_they_were_written(tmp_path: Path) -> None:
    names = [
        EmojiName("1f34e", "red apple", ("apple",), "food", "food fruit", "train"),
        EmojiName("1f4a3", 'a "bomb"', (), "objects", "tool", "held_out"),
    ]
    write_names(names, tmp_path / NAMES)
    assert read_names(tmp_path) == names
