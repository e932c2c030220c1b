"""Find the presets and the small pretrained networks that come with the package."""

from __future__ import annotations

from pathlib import Path

from distill.config.errors import UserError

PACKAGE = Path(__file__).parents[1]
SHIPPED = "shipped"
"""Folder of a wheel's package that holds `configs` and `assets`. A checkout has them beside the package."""
ASSETS = "assets"
LEFT_OUT = {
    "emoji-text-teacher": "a run of the preset emoji/text_teacher trains one",
    "emoji-text-student": "a run of the preset emoji/text_dmd2 trains one",
    "emoji-judge": "distill train-word-match trains one",
}
"""Networks in the repository's `assets` that wheels leave out for their size, and how to get one."""


def shipped_root() -> Path:
    """Return the folder that holds `configs` and `assets`: that of a wheel, or the repository."""
    folder = PACKAGE / SHIPPED
    return folder if folder.is_dir() else PACKAGE.parent


def find_asset(path: Path) -> Path:
    """Return the path itself if it exists, and the package's own folder for `assets/NAME` that does not.

    Presets name their networks by such paths, which lead there from any folder. `assets/NAME` of a network
    that this installation lacks is refused.
    """
    if path.parts[:1] != (ASSETS,) or path.exists():
        return path
    found = shipped_root() / path
    if found.exists():
        return found
    name = path.parts[1] if len(path.parts) > 1 else ""
    if name in LEFT_OUT:
        raise UserError(
            f"{path}: is in the repository, not in an installed package; expected its path in a clone, or "
            f"another network: {LEFT_OUT[name]}"
        )
    return path
