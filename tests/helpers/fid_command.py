"""`python -m eval fid`, run for its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill.eval.__main__ import main


def fid(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run `fid` with its feature store and its results in a folder."""
    out = folder / "fid.json"
    main(["fid", *arguments, "--features", str(folder / "features"), "--out", str(out)])
    return json.loads(out.read_text())
