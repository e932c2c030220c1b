"""Images with captions in a folder or an archive: a text file beside each image, or one list of all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.config.errors import UserError
from distill.data import Captions, DataSettings
from distill.data.image_files import ImageFiles

if TYPE_CHECKING:
    from torch import Tensor


class Settings(DataSettings):
    """Captioned images of any size in a folder or an archive."""

    name: Literal["captioned_folder"] = "captioned_folder"
    path: Path
    """Training images: a folder, a `.zip`, a `.tar`, or a folder of webdataset's `.tar` files. Captions are
    in `x.txt` beside each `x.jpg`, or in one `metadata.jsonl` or `metadata.csv` of `file_name` and `text`. If
    an image has several captions, one is drawn each time."""
    caption_key: str | None = None
    """Key of the caption in a file `x.json` beside each `x.jpg`, such as img2dataset writes into webdataset's
    shards. null, the default, reads captions as `path` says."""
    resolution: int = Field(ge=1)
    """Height and width in pixels to which the central square of every image is scaled. It should be that of
    the teacher's images; memory and time grow with its square."""
    held_out_path: Path | None = None
    """Held-out images in the same form, for the evaluation. null, the default, if there are none."""

    @property
    def has_held_out(self) -> bool:
        return self.held_out_path is not None

    def load(self, split: str = "train") -> CaptionedFolder:
        """Open the split `train` (`path`) or `held_out` (`held_out_path`)."""
        path = self.path if split == "train" else self.held_out_path
        if path is None:
            raise UserError("data.held_out_path: no held-out folder is given")
        return CaptionedFolder(path, self.resolution, self.caption_key)


class CaptionedFolder:
    """A `DataSource` whose label of an image is the position of its first caption."""

    label_count = 0

    def __init__(self, path: Path, resolution: int, caption_key: str | None = None) -> None:
        self.files = ImageFiles(path)
        self.image_shape = (3, resolution, resolution)
        self.captions = Captions(self.files.read_captions(caption_key))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from distill.data.images import central_square

        pixels = self.files.pixels(index, "RGB")
        return central_square(pixels, self.image_shape[1]), self.captions.first[index]
