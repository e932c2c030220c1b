"""What a visitor of the page asks for, checked: seeds, labels or a prompt, and the teacher's sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from distill.config.command_line import MAX_NUMBER
from distill.config.errors import UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.samplers import Heun
from distill.publishing.samples import choose_labels, read_sampler
from distill.types import Condition, ImageModel

MAX_IMAGES = 16
"""Maximum number of images of one click."""
MAX_STEPS = 100
"""Maximum number of steps of the teacher's sampler, so that nobody keeps the model busy for long."""
SMALL = 128
"""Images with fewer pixels in a row are shown enlarged with square pixels, and made ten at a time."""
MAX_PROMPT = 2000
"""Maximum number of characters of a prompt; text encoders read a few hundred words at most."""


def is_small(network: ImageModel) -> bool:
    """Return True if a network's images are small, as those of digits are."""
    return max(network.pixel_shape[1:]) < SMALL


def default_count(network: ImageModel) -> int:
    """Return the number of images that the page makes unless it is told otherwise."""
    return 10 if is_small(network) else 1


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The seeds of the images of one click, and their labels, as `sample.py` reads them, or their prompt."""

    seeds: Sequence[int]
    labels: str = "all"
    prompt: str = ""

    def condition_for(self, network: ImageModel) -> tuple[Condition, Sequence[str]]:
        """Return the condition of the images of a network, and their prompt, if it takes text.

        A prompt is text, never the name of a file, which a visitor must not read.
        """
        count = len(self.seeds)
        if network.prompt_encoder is not None:
            encoded = EncodedPrompts.by(network.prompt_encoder, [self.prompt])
            return encoded.balanced(count), encoded.prompts
        return choose_labels(self.labels if network.label_count else "all", count, network.label_count), ()


def read_inputs(seed: str, count: float, labels: str | None, prompt: str | None) -> Inputs:
    """Read what a visitor gave; `labels` and `prompt` are None where the page does not ask for them."""
    return Inputs(_read_seeds(seed, count), _read_labels(labels), _read_prompt(prompt))


def read_teacher_sampler(steps: float, guidance: float | None) -> Heun:
    """Read the settings of the teacher's sampler; None is no guidance."""
    if not 1 <= steps <= MAX_STEPS:
        raise UserError(f"Steps of the teacher: {steps:g}; expected 1 to {MAX_STEPS}")
    given: Mapping[str, object] = {"steps": steps, "guidance": guidance}
    return read_sampler(given, "Teacher's ")


def _read_seeds(text: str, count: float) -> range:
    seed = text.strip()
    if not seed.isdecimal() or len(seed) > len(str(MAX_NUMBER)) or int(seed) >= MAX_NUMBER:
        found = f"'{seed[:40]}'" if seed else "nothing"
        raise UserError(f"Seed: found {found}; expected a whole number less than 2^62, such as 7")
    if count != int(count) or not 1 <= count <= MAX_IMAGES:
        raise UserError(f"Images: {count:g}; expected a whole number from 1 to {MAX_IMAGES}")
    return range(int(seed), int(seed) + int(count))


def _read_labels(text: str | None) -> str:
    if text is None:
        return "all"
    if not text.strip():
        raise UserError("Labels: found nothing; expected all, or numbers such as 3, 0-9 or 1,3,5")
    return text.strip()


def _read_prompt(text: str | None) -> str:
    if text is None:
        return ""
    prompt = " ".join(text.split())
    if not prompt:
        raise UserError("Prompt: is empty; expected a text, such as: a red apple")
    if len(prompt) > MAX_PROMPT:
        raise UserError(f"Prompt: has {len(prompt)} characters; expected at most {MAX_PROMPT}")
    return prompt
