"""The licence of a model card, which is the one that the teacher's own card states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config.errors import UserError
from distill.config.yaml_files import parse_yaml
from distill.networks.folder import PIPELINE
from distill.publishing.model_card.names import CARD, hub_name
from distill.storage.files import read_mapping

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Licence:
    """A licence as the metadata of a card names it.

    Source: https://huggingface.co/docs/hub/repositories-licenses.
    """

    license: str
    """Identifier from the hub's list, such as `openrail++`; `other` for a licence that is not in the list."""
    license_name: str | None = None
    """Name of a licence that is not in the list."""
    license_link: str | None = None
    """Address of a licence that is not in the list."""

    def entries(self) -> dict[str, str]:
        """Return the entries of the card's metadata."""
        return {key: value for key, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        name = f"`{self.license_name or self.license}`"
        return name if self.license_link is None else f"[{name}]({self.license_link})"


def read_licence(teacher: Mapping[str, Any]) -> Licence | None:
    """Read the licence that the teacher's card or else its `model_index.json` states; None if neither does.

    The card of a teacher on the hub is looked for in the hub's cache on this machine, without a download.
    """
    name = hub_name(teacher)
    stated = _read_front_matter(_file_of(teacher, CARD))
    if _text(stated.get("license")) is None:
        stated = _read_index(_file_of(teacher, PIPELINE))
    if _text(stated.get("license")) is None:
        return None
    link = _text(stated.get("license_link"))
    if link is not None and "://" not in link:  # a file of the teacher's repository
        link = None if name is None else f"{HUB}/{name}/blob/main/{link}"
    return Licence(str(stated["license"]), _text(stated.get("license_name")), link)


def say_licence(licence: Licence | None, teacher: str) -> str:
    """Write the section on the licence; `teacher` names the teacher in Markdown."""
    if licence is None:
        said = f"No card of {teacher} that states a licence was found, so that this card states none."
    else:
        said = f"The card of {teacher} states the licence {licence}."
    return (
        f"{said} Weights that were learned from a teacher and from data are bound by the licences of both: "
        f"see that of {teacher} and of the data in the recipe. This file grants nothing."
    )


def _file_of(teacher: Mapping[str, Any], name: str) -> Path | None:
    """Return a file of the teacher's folder, or of its repository in the hub's cache; None if absent."""
    if hub_name(teacher) is None:
        path = Path(str(teacher.get("path"))) / name
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(str(teacher["path"]), name, revision=teacher.get("revision"))
        if not isinstance(found, str):
            return None
        path = Path(found)
    return path if path.is_file() else None


def _read_front_matter(path: Path | None) -> dict[str, Any]:
    """Read the YAML between two lines of `---` that a card begins with; nothing without any."""
    if path is None:
        return {}
    lines = [line.rstrip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    try:
        content = parse_yaml("\n".join(lines[1 : lines.index("---", 1)]))
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def _read_index(path: Path | None) -> dict[str, Any]:
    return {} if path is None else read_mapping(path)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
