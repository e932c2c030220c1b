"""The captions of the run's images: image and prompt belong together, as a discriminator that sees both needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.data.prompts import PromptSettings

if TYPE_CHECKING:
    from distill.types import DataSource


class Settings(PromptSettings):
    """The captions that come with `data`."""

    name: Literal["captions"] = "captions"

    def load(self, data: DataSource | None) -> list[str]:
        """All captions of the images, in the data's order. Raises UserError where the data have none."""
        captions = getattr(data, "captions", None)
        if captions is None:
            raise UserError(
                "prompts: captions needs data that have them; expected data: {name: captioned_folder, ...}"
            )
        return captions.texts
