"""Look up the versions, the commit and the machine that a result was made with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path


def version(package: str) -> str:
    """Return the installed version of a package, or `not installed`, as in a checkout that runs in place."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def machine() -> str:
    """Describe this machine in words: CUDA device if there is one, system, architecture, cores."""
    import torch

    device = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{device}{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def commit() -> str | None:
    """Return the commit of the source tree, with `+` if tracked files differ; None outside a checkout.

    A package that is installed inside another project's tree has no commit.
    """
    try:
        _git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
        head = _git("rev-parse", "--short", "HEAD")
        is_changed = bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+" if is_changed else head


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
