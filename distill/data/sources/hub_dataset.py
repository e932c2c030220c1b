"""Images of a dataset of the `datasets` library, from the Hugging Face hub or from disk, with labels or captions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from distill.config.errors import UserError, did_you_mean
from distill.data import Captions, DataSettings
from distill.data.class_folders import relabelled
from distill.data.image_files import captions_of
from distill.data.sources.captioned_folder import covering

if TYPE_CHECKING:
    from torch import Tensor


class Settings(DataSettings):
    """A dataset with a column of images, and one of labels or of captions if there is any."""

    name: Literal["hub_dataset"] = "hub_dataset"
    path: str
    """Name on the hub, folder that `load_dataset` knows, or folder that `save_to_disk` wrote."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null takes the newest."""
    split: str = "train"
    """Split of the training images."""
    held_out_split: str | None = None
    """Split of the held-out images."""
    image: str = "image"
    """Column of images."""
    label: str | None = None
    """Column of labels: numbers from 0, or words, which are numbered in their order."""
    caption: str | None = None
    """Column of captions, or of lists of captions, one of which is drawn whenever the image is."""
    resolution: int = Field(ge=1)
    """Pixels of height and width: images are scaled until they cover that square, and cropped at the centre."""

    @model_validator(mode="after")
    def _one_condition(self) -> Settings:
        if self.label is not None and self.caption is not None:
            raise ValueError("label: goes without caption; expected one of them")
        return self

    @property
    def has_held_out(self) -> bool:
        """`held_out_split` is given."""
        return self.held_out_split is not None

    def load(self, split: str = "train") -> HubDataset:
        """Open `train` (`split`) or `held_out` (`held_out_split`). Raises UserError where there is no such dataset or column."""
        chosen = self.split if split == "train" else self.held_out_split
        if chosen is None:
            raise UserError("data.held_out_split: no held-out split is given")
        words = (
            () if split == "train" or self.label is None else HubDataset(self._open(self.split), self).words
        )
        return HubDataset(self._open(chosen), self, words)

    def _open(self, split: str) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise UserError("data: hub_dataset needs the package datasets; pip install '.[data]'") from error
        try:
            if (
                not (Path(self.path) / "dataset_dict.json").is_file()
                and not (Path(self.path) / "state.json").is_file()
            ):
                return datasets.load_dataset(self.path, revision=self.revision, split=split)
            saved = datasets.load_from_disk(self.path)
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"data.path: split '{split}' of {self.path} cannot be opened ({str(error).splitlines()[0]})"
            ) from error


class HubDataset:
    """A `DataSource` over a dataset; with captions, the label of an image is the number of its first caption. Labels that are words are their places
    among `words`, those of the training images, or else in their own order."""

    def __init__(self, dataset: Any, settings: Settings, words: tuple[str, ...] = ()) -> None:
        self.dataset, self.settings, self.words = dataset, settings, words
        self.image_shape, self.label_count = (3, settings.resolution, settings.resolution), 0
        for field in ("image", "label", "caption"):
            column = getattr(settings, field)
            if column is not None and column not in dataset.column_names:
                raise UserError(
                    f"data.{field}: no column '{column}' in {settings.path}{did_you_mean(column, dataset.column_names)}"
                )
        if settings.label is not None:
            self.labels, self.words = read_labels(
                dataset[settings.label], f"data.label: column '{settings.label}' of {settings.path}", words
            )
            self.label_count = len(self.words) or max(self.labels) + 1
        if settings.caption is not None:
            place = f"data.caption: column '{settings.caption}' of {settings.path}, row"
            self.captions = Captions(
                [captions_of(value, f"{place} {row}") for row, value in enumerate(dataset[settings.caption])]
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from distill.data.images import pixels_of

        image = self.dataset[index][self.settings.image]
        if not hasattr(image, "convert"):
            raise UserError(
                f"data.image: '{self.settings.image}' of {self.settings.path} holds a {type(image).__name__}; expected images"
            )
        try:
            pixels = covering(pixels_of(image, "RGB"), self.settings.resolution)
        except (ValueError, OSError) as error:
            raise UserError(
                f"data.image: row {index} of {self.settings.path} cannot be read as an image ({error})"
            ) from error
        if self.settings.label is not None:
            return pixels, self.labels[index]
        return pixels, self.captions.first[index] if self.settings.caption is not None else 0


def read_labels(
    values: Iterable[Any], place: str, words: tuple[str, ...] = ()
) -> tuple[list[int], tuple[str, ...]]:
    """Labels from 0, and their words: numbers as they are, words by their places among `words`, or else in their order.

    Raises UserError, which begins with `place`, for anything else.
    """
    values = list(values)
    if values and all(isinstance(value, str) for value in values):
        own = tuple(sorted(set(values)))
        try:
            places = dict(zip(own, relabelled(range(len(own)), own, words or own), strict=True))
        except ValueError as error:
            raise UserError(f"{place}: {error}") from error
        return [places[value] for value in values], words or own
    for row, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            hidden = "; a split whose labels are hidden has -1" if value == -1 else ""
            raise UserError(
                f"{place}, row {row}, is {value!r}; expected a number from 0, or words in all rows{hidden}"
            )
    if not values:
        raise UserError(f"{place} is empty; expected a label for each image")
    return values, ()
