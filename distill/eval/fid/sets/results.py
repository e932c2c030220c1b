"""Results of `python -m eval fid` under several protocols, and reading them back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from distill.eval.fid.results import FidResults, Results, read_results
from distill.eval.metrics.frechet_ratio import mean_ratio
from distill.eval.results.file import Part, read_results_of
from distill.storage.files import read_json

SET_FORMAT = "distill-fid-set/1"


class MeanRatio(TypedDict):
    """FDr^k: the mean FDr of some protocols, of which none were trained on."""

    value: float
    protocols: list[str]


class FidSetResults(TypedDict):
    """The content of `fid.json` for several protocols: the results of each, and the mean of their FDr."""

    format: str
    results: dict[str, FidResults]
    fdr_mean: NotRequired[MeanRatio]


class _Set(Part):
    results: dict[str, Results] = Field(min_length=1)


def join_results(results: Sequence[FidResults]) -> FidSetResults:
    """Join the results of several protocols.

    The mean of FDr leaves out features that the run was trained on, and features without FDr.
    """
    content: FidSetResults = {"format": SET_FORMAT, "results": {one["protocol"]: one for one in results}}
    counted = [one for one in results if "fdr" in one["summary"] and "trained" not in one]
    if len(counted) > 1:
        value = mean_ratio([one["summary"]["fdr"]["mean"] for one in counted])
        content["fdr_mean"] = {"value": value, "protocols": [one["protocol"] for one in counted]}
    return content


def read_all_results(path: Path) -> dict[str, FidResults]:
    """Read what `fid` wrote, under one protocol or several, by protocol."""
    content: Any = read_json(path)
    if isinstance(content, dict) and content.get("format") == SET_FORMAT:
        return cast("dict[str, FidResults]", read_results_of("fid", path, SET_FORMAT, _Set)[0]["results"])
    results = read_results(path)
    return {results["protocol"]: results}
