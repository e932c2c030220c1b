"""One prompt with words for the view, such as "a red apple, front view": for a scene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.data.prompts import PromptSettings

if TYPE_CHECKING:
    from distill.types import DataSource

VIEWS = ("front view", "side view", "back view", "overhead view")
"""Words of the views, in the order of the labels of a scene's cameras."""


class Settings(PromptSettings):
    """One prompt, with which the camera of each image is named."""

    name: Literal["views"] = "views"
    prompt: str = Field(min_length=1)
    """Description of the scene."""
    words: tuple[str, str, str, str] = VIEWS
    """Words for the front, a side, the back and overhead, which follow the prompt and a comma."""

    def load(self, data: DataSource | None = None) -> list[str]:
        """Return the prompt with the words of each view."""
        return [f"{self.prompt}, {words}" for words in self.words]
