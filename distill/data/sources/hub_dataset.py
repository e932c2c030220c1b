"""Images with labels or captions in a dataset of the `datasets` library, from the hub or from disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from distill.config.errors import UserError, did_you_mean, first_line
from distill.data import Captions, DataSettings
from distill.data.class_folders import relabelled
from distill.data.image_captions import captions_of

if TYPE_CHECKING:
    from torch import Tensor


class Settings(DataSettings):
    """A dataset of the Hugging Face hub or from disk; needs `pip install '.[data]'`."""

    name: Literal["hub_dataset"] = "hub_dataset"
    path: str
    """Name of the dataset on the hub, such as `ylecun/mnist`, or a local folder that `datasets.load_dataset`
    can read or `save_to_disk` wrote."""
    revision: str | None = None
    """Branch, tag or commit on the hub. null, the default, takes the newest version, which may change between
    runs; a commit never does."""
    split: str = "train"
    """Name of the split with the training images."""
    held_out_split: str | None = None
    """Name of the split with held-out images, for the evaluation. null, the default, if there is none."""
    image: str = "image"
    """Name of the column of images. They are read as RGB."""
    label: str | None = None
    """Name of the column of class labels: whole numbers from 0, or words, which are numbered alphabetically.
    null, the default, reads no labels."""
    caption: str | None = None
    """Name of the column of captions, each a text or a list of texts, one of which is drawn each time. null,
    the default, reads no captions. A dataset is read with labels or captions, not both."""
    resolution: int = Field(ge=1)
    """Height and width in pixels to which the central square of every image is scaled. It should be that of
    the teacher's images; memory and time grow with its square."""

    @model_validator(mode="after")
    def _one_condition(self) -> Settings:
        if self.label is not None and self.caption is not None:
            raise ValueError("label: goes without caption; expected one of them")
        return self

    @property
    def has_held_out(self) -> bool:
        return self.held_out_split is not None

    def load(self, split: str = "train") -> HubDataset:
        """Open the split `train` (`split`) or `held_out` (`held_out_split`).

        Words that are labels of held-out images get the numbers of the training images' labels.
        """
        chosen = self.split if split == "train" else self.held_out_split
        if chosen is None:
            raise UserError("data.held_out_split: no held-out split is given")
        words: tuple[str, ...] = ()
        if split != "train" and self.label is not None:
            words = HubDataset(self._open(self.split), self).words
        return HubDataset(self._open(chosen), self, words)

    def _open(self, split: str) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise UserError("data: hub_dataset needs the package datasets; pip install '.[data]'") from error
        try:
            if not self._is_saved():
                return datasets.load_dataset(self.path, revision=self.revision, split=split)
            saved = datasets.load_from_disk(self.path)
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"data.path: split '{split}' of {self.path} cannot be opened ({first_line(error)})"
            ) from error

    def _is_saved(self) -> bool:
        """Return True for a folder that `save_to_disk` wrote."""
        folder = Path(self.path)
        return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


class HubDataset:
    """A `DataSource` over a dataset of the `datasets` library.

    With captions, the label of an image is the position of its first caption. Labels that are words become
    their positions in `words`, those of the training images, or else in alphabetical order.
    """

    def __init__(self, dataset: Any, settings: Settings, words: tuple[str, ...] = ()) -> None:
        self.dataset = dataset
        self.settings = settings
        self.words = words
        self.image_shape = (3, settings.resolution, settings.resolution)
        self.label_count = 0
        self._check_columns()
        if settings.label is not None:
            place = f"data.label: column '{settings.label}' of {settings.path}"
            self.labels, self.words = read_labels(dataset[settings.label], place, words)
            self.label_count = len(self.words) or max(self.labels) + 1
        if settings.caption is not None:
            place = f"data.caption: column '{settings.caption}' of {settings.path}, row"
            rows = enumerate(dataset[settings.caption])
            self.captions = Captions([captions_of(value, f"{place} {row}") for row, value in rows])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self._read_image(index)
        if self.settings.label is not None:
            return pixels, self.labels[index]
        return pixels, self.captions.first[index] if self.settings.caption is not None else 0

    def _check_columns(self) -> None:
        settings = self.settings
        columns = {"image": settings.image, "label": settings.label, "caption": settings.caption}
        known = self.dataset.column_names
        for field, column in columns.items():
            if column is not None and column not in known:
                raise UserError(
                    f"data.{field}: no column '{column}' in {settings.path}{did_you_mean(column, known)}"
                )

    def _read_image(self, index: int) -> Tensor:
        from PIL.Image import Image

        from distill.data.images import central_square, pixels_of

        settings = self.settings
        image = self.dataset[index][settings.image]
        if not isinstance(image, Image):
            found = type(image).__name__
            raise UserError(
                f"data.image: '{settings.image}' of {settings.path} holds a {found}; expected images"
            )
        try:
            return central_square(pixels_of(image, "RGB"), settings.resolution)
        except (ValueError, OSError) as error:
            raise UserError(
                f"data.image: row {index} of {settings.path} cannot be read as an image ({error})"
            ) from error


def read_labels(
    values: Iterable[Any], place: str, words: tuple[str, ...] = ()
) -> tuple[list[int], tuple[str, ...]]:
    """Return the labels of a column as numbers from 0, and the words that they stand for, if any.

    Numbers stay as they are. A word becomes its position in `words`, or else in alphabetical order. An error
    message begins with `place`.
    """
    values = list(values)
    if values and all(isinstance(value, str) for value in values):
        own = tuple(sorted(set(values)))
        try:
            numbers = dict(zip(own, relabelled(range(len(own)), own, words or own), strict=True))
        except ValueError as error:
            raise UserError(f"{place}: {error}") from error
        return [numbers[value] for value in values], words or own
    for row, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            hidden = "; a split whose labels are hidden has -1" if value == -1 else ""
            raise UserError(
                f"{place}, row {row}, is {value!r}; expected a number from 0, or words in all rows{hidden}"
            )
    if not values:
        raise UserError(f"{place} is empty; expected a label for each image")
    return values, ()
