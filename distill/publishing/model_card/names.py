"""Names on the hub and of a card, and the kind of an export."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.networks.folder import ADAPTERS, PIPELINE

CARD = "README.md"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_on_hub(name: str) -> bool:
    return HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def hub_name(teacher: Mapping[str, Any]) -> str | None:
    """Return the teacher's name on the hub, or None for one from elsewhere."""
    path = str(teacher.get("path"))
    if teacher.get("name") != "diffusers" or not HUB_NAME.fullmatch(path) or Path(path).exists():
        return None
    return path


def makes_images(folder: Path) -> bool:
    return (folder / PIPELINE).is_file() or (folder / ADAPTERS).is_file()
