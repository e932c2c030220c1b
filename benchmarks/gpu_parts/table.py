"""The results of benchmarks/gpu.py as tables in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.document import markdown_table
from benchmarks.gpu_parts.part import TERA, Record
from benchmarks.gpu_parts.runs import SETUPS

NOT_RUN = "Not run: no results of a GPU are committed."
HEAD = ("run", "variant", "s a step", "TFLOP/s", "of bf16 products", "peak, GiB", "predicted, GiB")


def render_results(results: Mapping[str, Any]) -> str:
    """Return the tables of results on a card; without them, the sentence that says so."""
    card = _environment(results)
    if card is None or card.get("card") is None:
        return NOT_RUN
    rates = {
        record["matrix rate"]: record["tflops"]
        for record in _records(results, "card")
        if "matrix rate" in record
    }
    products = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    lines = [
        f"{card['card']}, driver {card['driver']}, torch {card['torch']}, commit {card['commit']}. "
        f"Products of large matrices, TFLOP/s: {products}.",
        "",
        markdown_table(HEAD, _rows(results, rates.get("bf16"))),
    ]
    return "\n".join(lines)


def _environment(results: Mapping[str, Any]) -> Record | None:
    for record in _records(results, "card"):
        if "environment" in record:
            return record["environment"]
    return None


def _records(results: Mapping[str, Any], part: str) -> list[Record]:
    return results.get("parts", {}).get(part, {}).get("records", [])


def _rows(results: Mapping[str, Any], rate: float | None) -> Iterable[list[str]]:
    """Yield a row for each variant of each run: medians over its turns, or why there is none."""
    predictions = {(one["run"], one["variant"]): one for one in _records(results, "predictions")}
    for run in SETUPS:
        turns: dict[str, list[Record]] = {}
        for record in _records(results, run):
            turns.setdefault(record["variant"], []).append(record)
        for variant, records in turns.items():
            yield [run, variant, *_cells(records, predictions.get((run, variant), {}), rate)]


def _cells(records: list[Record], prediction: Record, rate: float | None) -> list[str]:
    measured = [record for record in records if "step_s" in record]
    if not measured:
        found = records[-1]
        return [found.get("refused") or found.get("failed") or "", "", "", "", ""]
    seconds = statistics.median(record["step_s"] for record in measured)
    operations = prediction.get("operations")
    tflops = None if operations is None else operations / seconds / TERA
    return [
        f"{seconds:.4g}",
        "" if tflops is None else f"{tflops:.0f}",
        "" if tflops is None or rate is None else f"{tflops / rate:.0%}",
        _gib(max((record.get("peak_gib", 0.0) for record in measured), default=0.0)),
        _gib(prediction.get("predicted_peak_gib", 0.0)),
    ]


def _gib(size: float) -> str:
    return f"{size:.1f}" if size else ""
