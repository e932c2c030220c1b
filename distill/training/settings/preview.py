"""Settings of the pictures that a run shows of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from distill.config.settings import Settings


def _several(value: Any) -> Any:
    """Accept a single text, which may have commas, where a list is expected."""
    return [value] if isinstance(value, str) else value


class PreviewSettings(Settings):
    """Pictures of samples during training, of the same seeds, prompts and labels each time."""

    prompts: Annotated[list[str], BeforeValidator(_several)] | None = Field(None, min_length=1)
    """Prompts that the images have in turn, such as [a red fox, two cats]; images of one prompt stand
    together. The name of a text file stands for its lines. null takes prompts of the run, spread over its
    list. They are not trained on."""
    labels: tuple[int, ...] | None = Field(None, min_length=1)
    """Labels that the images have in turn, those of one label together. null takes all in turn."""
    seed: int = Field(0, ge=0, lt=2**62)
    """Seed of the first image; image i has seed + i, whatever the run's own seed is, so that runs are
    compared on the same noise."""
    count: int | None = Field(None, ge=1, le=10_000)
    """Number of images. null shows as many as a picture of about 2^22 pixels holds, from 4 to 100. More take
    longer, above all for a teacher, which is sampled in many steps."""

    @model_validator(mode="after")
    def _has_one_condition(self) -> PreviewSettings:
        if self.prompts is not None and self.labels is not None:
            raise ValueError("labels: are given beside 'prompts'; expected one of them")
        return self

    def read_prompts(self) -> list[str]:
        """Return the prompts, the lines of a file among them; none if none are given."""
        from distill.data.prompts.text_file import Settings as TextFile

        found: list[str] = []
        for text in self.prompts or ():
            found += TextFile(path=Path(text)).load() if _is_file(text) else [text]
        return found


def _is_file(text: str) -> bool:
    """Tell whether a prompt is the name of a file; one that is too long for a name is none."""
    try:
        return Path(text).is_file()
    except OSError:
        return False
