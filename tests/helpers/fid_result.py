"""A result of `python -m eval fid`."""

from __future__ import annotations

from typing import Any

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
