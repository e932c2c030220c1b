"""Protocols: all that decides what a number means, frozen under a name, one YAML file each."""

from __future__ import annotations

import hashlib
import json
import math
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from distill.config.errors import UserError, did_you_mean
from distill.config.settings import Settings

FOLDER = Path(__file__).parent


class Protocol(Settings):
    """How images become a number. A file's content never changes once numbers were published with it: a correction is a new protocol."""

    name: str
    metric: str
    """What papers call the distance."""
    features: str
    """The file of `eval/features`."""
    resize: str | None
    """The function of `eval/images/resize.py`; none leaves the images as they are."""
    size: int = Field(0, ge=0)
    """Pixels of height and width that images are resized to."""
    mixed: bool
    """Whether the images of a set may differ in size and, grey ones among colour, in channels."""
    count: int = Field(ge=2)
    """Generated images."""
    first_seeds: tuple[int, ...] = Field(min_length=1)
    """The seed of the first image of each repetition."""
    foreign: tuple[str, ...] = ()
    """Parts of names of published statistics that were made by another protocol."""
    explanation: str
    published: str

    @property
    def sha256(self) -> str:
        """Hash of what decides the features of an image."""
        decisive = {"features": self.features, "resize": self.resize, "size": self.size}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def departures(self, count: int, first_seeds: list[int] | None) -> list[str]:
        """In what a measurement departs from the protocol, so that its number must not be called by the protocol's name alone."""
        found = [] if count == self.count else [f"{count} images, not {self.count}"]
        if first_seeds is not None and tuple(first_seeds) != self.first_seeds:
            found.append(f"{seeds(first_seeds)}, not {_listed(self.first_seeds)}")
        return found


def seeds(first_seeds: Sequence[int]) -> str:
    """`first seed 0`, or `first seeds 0, 50000`."""
    return f"first seed{'s' * (len(first_seeds) > 1)} {_listed(first_seeds)}"


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def protocol_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_protocol(name: str, setting: str = "--protocol") -> Protocol:
    """The protocol of this name. Raises UserError where there is none, naming the setting that asked for it."""
    if name not in protocol_names():
        raise UserError(f"{setting} {name}: is not in eval/protocols{did_you_mean(name, protocol_names())}")
    return Protocol.model_validate(
        {"name": name, **yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))}
    )


def distance_key(protocol: str) -> str:
    """A protocol's distance as results and statistics call it, such as fd_pixel."""
    return protocol.replace("-", "_")


FEW = 1024
"""Values of an image up to which the pixels are its features by default."""


def default_protocol(shape: Sequence[int]) -> Protocol:
    """The protocol for images of this shape where none is asked for: fd-pixel where pixels are few, else fd-effnet, whose weights a package holds.

    Raises UserError where that package is needed and not installed.
    """
    few, installed = math.prod(shape) <= FEW, find_spec("efficientnet_lite_pytorch") is not None
    if not few and not installed:
        raise UserError(
            f"images of {tuple(shape)}: their pixels are no features; expected pip install '.[eval]' for fd-effnet, or a protocol"
        )
    return read_protocol("fd-pixel" if few else "fd-effnet")


def explain() -> str:
    """All protocols as lines of text."""
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
