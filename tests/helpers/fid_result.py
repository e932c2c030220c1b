"""A result of `python -m eval fid`, and the command run for its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.__main__ import main

RESULT: dict[str, Any] = {
    "format": "distill-fid/1",
    "protocol": "edm-50k",
    "metric": "FID",
    "preprocessing_sha256": "p",
    "weights_sha256": "w",
    "n": 100,
    "reference": {"sha256": "r"},
    "departures": [],
    "first_seeds": [0],
    "source": {"kind": "network"},
    "summary": {"fd": {"mean": 2.0, "std": 0.0, "min": 2.0}},
    "repetitions": [{"images_sha256": "i", "fd": 2.0}],
}


def fid(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run `fid` with its store of features and its results in a folder."""
    out = folder / "fid.json"
    main(["fid", *arguments, "--features", str(folder / "features"), "--out", str(out)])
    return json.loads(out.read_text())
