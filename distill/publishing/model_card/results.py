"""The results and the recipe of a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from distill.config.errors import reading
from distill.publishing.run_record import Run, student_cost
from distill.storage.files import read_mapping

RESULTS = {
    "precision": "precision",
    "recall": "recall",
    "diversity": "diversity within a condition",
    "label_agreement": "label agreement",
    "memorised": "nearer to training images",
    "reverse_kl": "reverse KL",
    "forward_kl": "forward KL",
    "jensen_shannon": "Jensen-Shannon",
    "mode_error": "error of the modes' shares",
}
"""Results of `python -m eval` other than the distance, and their names in the card's table."""


def render_results(run: Run) -> str:
    """Show a table of `eval.json`, and the distance in `fid.json`, as far as the run has them."""
    fid = _fid_result(run.folder / "fid.json")
    if not run.evaluation.get("student"):
        return fid or f"Not measured yet; `{run.eval_command}` does and writes them here."
    with reading(run.folder / "eval.json"):
        lines = _table(run, run.evaluation["student"], run.evaluation.get("teacher") or {})
    if fid:
        lines += ["", fid]
    return "\n".join(lines)


def _table(run: Run, student: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    evaluation = run.evaluation
    evaluations = (evaluation.get("sampling") or {}).get("teacher_evaluations")
    cost = f", {evaluations} evaluations" if evaluations else ""
    lines = [f"| | student, {student_cost(run)} | teacher{cost} |", "|---|---|---|"]
    distance = f"{evaluation.get('protocol', 'fd-pixel')}, a Fréchet distance"
    for key, name in {run.distance: distance, **RESULTS}.items():
        if key in student:
            theirs = f"{teacher[key]:.4g}" if key in teacher else ""
            lines.append(f"| {name} | {student[key]:.4g} | {theirs} |")
    samples = f"Over {evaluation.get('n')} samples from seed {evaluation.get('seed', 0)}"
    return [*lines, "", f"{samples}, by `{run.eval_command}`."]


def _fid_result(path: Path) -> str:
    """Say the student's distances that `python -m eval fid --out` wrote, if it did."""
    content = read_mapping(path) if path.is_file() else {}
    with reading(path):
        several = content["results"].values() if "results" in content else [content]
        return "\n".join(text for text in map(_fid_sentence, several) if text)


def _fid_sentence(results: dict[str, Any]) -> str:
    """Say the distance under one protocol; empty unless it is the student's."""
    # The origin names the folder too: "the student in runs/mine".
    if str(results.get("source", {}).get("of")).partition(" in ")[0] != "the student":
        return ""
    protocol = " and ".join([f"`{results['protocol']}`", *results["departures"]])
    summary = results["summary"]
    distance = f"{results['metric']} {summary['fd']['mean']:.4g}"
    if "cmmd" in summary:
        distance = f"CMMD {summary['cmmd']['mean']:.4g}, {distance}"
    note = f" It was {results['trained']}." if "trained" in results else ""
    return f"{distance} under {protocol}, {results['n']} images, by `python -m eval fid`.{note}"


def render_recipe(run: Run) -> str:
    """Say what the run did, on which machine, with which versions, and show its configuration."""
    facts = []
    if run.lines:
        last = run.lines[-1]
        facts.append(f"{last['step']} steps, {last['images']} images of the student, {last['seconds']:.0f} s")
    if run.meta.get("machine"):
        facts.append(str(run.meta["machine"]))
    if run.meta.get("commit"):
        facts.append(f"commit {run.meta['commit']}")
    if run.meta.get("versions"):
        facts.append(", ".join(f"{name} {version}" for name, version in run.meta["versions"].items()))
    origin = "; ".join(facts)
    config = f"```yaml\n{yaml.safe_dump(run.config, sort_keys=False, width=140)}```"
    return f"{origin}.\n\n{config}" if origin else config
