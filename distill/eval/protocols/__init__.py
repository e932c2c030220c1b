"""Protocols: one YAML file each holds every choice that decides a number's meaning, under a fixed name."""

from __future__ import annotations

import hashlib
import json
import math
import textwrap
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml
from pydantic import Field

from distill.config.errors import UserError, did_you_mean
from distill.config.settings import Settings

FOLDER = Path(__file__).parent


class Protocol(Settings):
    """Says how images become a number.

    What decides the number never changes once numbers were published with a file: a correction is a new
    protocol.
    """

    name: str
    """Name of the file, which a result is printed with."""
    metric: str
    """Name of the distance in papers."""
    features: str
    """Name of the file in `eval/features`."""
    resize: str | None
    """Name of the function in `eval/images/resize.py`; without one, images keep their size."""
    size: int = Field(0, ge=0)
    """Height and width in pixels to which images are resized."""
    mixed: bool
    """Accept images of several sizes in one set, and grey ones among colour ones."""
    count: int = Field(ge=2)
    """Number of generated images."""
    first_seeds: tuple[int, ...] = Field(min_length=1)
    """Seed of the first image, for each repetition."""
    per_label: bool = False
    """Measure the distance of each label too, such as the category of a prompt."""
    cmmd: bool = False
    """Compute CMMD too, which is defined for embeddings of length 1."""
    prompts: str | None = None
    """Format in `eval/prompt_sets` of the list whose prompts the images are for, in order."""
    prompts_md5: str | None = None
    """MD5 of the published file of that list."""
    foreign: tuple[str, ...] = ()
    """Parts of the names of published statistics that were made by another protocol."""
    explanation: str
    """Description that `python -m eval protocols` prints."""
    published: str
    """Papers whose numbers can be compared with it."""

    @property
    def sha256(self) -> str:
        """Hash of the choices that decide the features of an image."""
        decisive = {"features": self.features, "resize": self.resize, "size": self.size}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def departures(self, count: int, first_seeds: list[int] | None) -> list[str]:
        """Return the points in which a measurement departs from the protocol.

        A number with any departure must not be called by the protocol's name alone.
        """
        found = []
        if count != self.count:
            found.append(f"{count} images, not {self.count}")
        if first_seeds is not None and tuple(first_seeds) != self.first_seeds:
            found.append(f"{seeds(first_seeds)}, not {_listed(self.first_seeds)}")
        return found


def seeds(first_seeds: Sequence[int]) -> str:
    """Return `first seed 0`, or `first seeds 0, 50000`."""
    return f"first seed{'s' * (len(first_seeds) > 1)} {_listed(first_seeds)}"


def _listed(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in values)


def protocol_names() -> list[str]:
    """Return the names of all protocols, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_protocol(name: str, setting: str = "--protocol") -> Protocol:
    """Read the protocol of this name; `setting` is the flag or key that messages name."""
    if name not in protocol_names():
        raise UserError(f"{setting} {name}: is not in eval/protocols{did_you_mean(name, protocol_names())}")
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return Protocol.model_validate({"name": name, **content})


def read_protocols(names: str, setting: str = "--protocol") -> list[Protocol]:
    """Read the protocols of these names, separated by commas."""
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if chosen.count(name) > 1:
            raise UserError(f"{setting} {names}: names {name} twice; expected each protocol once")
    return [read_protocol(name, setting) for name in chosen]


def distance_key(protocol: str) -> str:
    """Return the name of a protocol's distance in results and statistics, such as fd_pixel."""
    return protocol.replace("-", "_")


FEW = 1024
"""Maximum number of values of an image whose pixels are its features by default."""


def default_protocol(shape: Sequence[int], chosen: str | None = None) -> Protocol:
    """Choose the protocol for images of this shape: fd-pixel if they have few pixels, otherwise fd-effnet.

    `chosen` is the name of one of the two if the user chose it. The weights of fd-effnet come with a Python
    package. Raises UserError if it is needed but not installed.
    """
    if chosen == "fd-pixel" or (chosen is None and math.prod(shape) <= FEW):
        return read_protocol("fd-pixel")
    if find_spec("efficientnet_lite_pytorch") is None:
        raise UserError(
            f"images of {tuple(shape)}: their pixels are no features; "
            "expected pip install '.[eval]' for fd-effnet, or a protocol"
        )
    return read_protocol("fd-effnet")


def explain() -> str:
    """Return the explanation of all protocols as lines of text."""
    return "\n\n".join(_explained(read_protocol(name)) for name in protocol_names())


def _explained(protocol: Protocol) -> str:
    resized = f"{protocol.resize} to {protocol.size}x{protocol.size}" if protocol.resize else "none"
    return "\n".join(
        [
            f"{protocol.name}: {protocol.metric}",
            f"  features   {protocol.features}",
            f"  resizing   {resized}",
            f"  images     {protocol.count}, {seeds(protocol.first_seeds)}",
            _wrapped("  what       ", protocol.explanation),
            _wrapped("  published  ", protocol.published),
        ]
    )


def _wrapped(name: str, text: str) -> str:
    return textwrap.fill(
        text, 100, initial_indent=name, subsequent_indent=" " * len(name), break_on_hyphens=False
    )
