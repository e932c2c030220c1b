"""What the folder of a run holds, read back for those who tell of it: the report, the model card, tables of many runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

from distill.config.errors import UserError
from distill.config.text_files import read_text
from distill.config.yaml_files import parse_yaml
from distill.storage.files import read_mapping


@dataclass(frozen=True)
class Run:
    """What a run's folder holds, as far as it is there: an absent file is an empty mapping."""

    folder: Path
    config: dict[str, Any]
    meta: dict[str, Any]
    evaluation: dict[str, Any]
    calibration: dict[str, Any]
    sweep: dict[str, Any]
    preference: dict[str, Any]
    lines: list[dict[str, Any]]
    """stats.jsonl, one line a step, ascending"""
    unreadable: list[int]
    """numbers of the lines of stats.jsonl that are no statistics, from 1"""

    @property
    def distance(self) -> str:
        """The key of the protocol's Fréchet distance: `fd_pixel` for `fd-pixel`."""
        return str(self.evaluation.get("protocol", "fd-pixel")).replace("-", "_")

    @property
    def train_command(self) -> str:
        """What was typed; meta.json has it without the interpreter."""
        return f"python {self.meta.get('command') or f'train.py {self.folder}/config.yaml'}"

    @property
    def eval_command(self) -> str:
        return f"python -m eval --run {shlex.quote(str(self.folder))}"

    def series(self, prefix: str) -> dict[str, tuple[list[int], list[float]]]:
        """Everything logged whose key starts with `prefix`, by the rest of the key: its steps and its values; null was not finite."""
        found: dict[str, tuple[list[int], list[float]]] = {}
        for line in self.lines:
            for key, value in line.items():
                if key.startswith(prefix) and isinstance(value, int | float | None):
                    steps, values = found.setdefault(key.removeprefix(prefix), ([], []))
                    steps.append(line["step"])
                    values.append(float("nan") if value is None else float(value))
        return found


def read_run(run_dir: Path) -> Run:
    """Read a run's folder. Raises `UserError` where it is none, or one of its files is broken."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such folder; expected the folder of a run, such as runs/<name>")
    files = {
        name: run_dir / name
        for name in (
            "config.yaml",
            "meta.json",
            "eval.json",
            "calibration.json",
            "sweep.json",
            "preference.json",
        )
    }
    if not files["config.yaml"].is_file() and not (run_dir / "stats.jsonl").is_file():
        raise UserError(f"{run_dir}: is not a run; expected a folder with config.yaml or stats.jsonl")
    found = {
        name: (read_yaml if name == "config.yaml" else read_mapping)(path)
        for name, path in files.items()
        if path.is_file()
    }
    config, meta, evaluation, calibration, sweep, preference = (found.get(name, {}) for name in files)
    return Run(
        run_dir,
        config,
        meta,
        evaluation,
        calibration,
        sweep,
        preference,
        *read_stats(run_dir / "stats.jsonl"),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration as it is written: a report must open the runs of other versions, so nothing more is checked than that it is a mapping."""
    text = read_text(path, str(path))
    try:
        content = parse_yaml(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, found {type(content).__name__}")
    return content


def read_stats(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The lines of stats.jsonl by step, and the numbers of those that are none.

    A killed run leaves half a line; a resumed one repeats the steps since its checkpoint, and what it wrote last is what happened.
    """
    by_step: dict[int, dict[str, Any]] = {}
    unreadable = []
    content = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for number, text in enumerate(content.split("\n"), start=1):
        try:
            if text.strip():
                line = json.loads(text)
                by_step[index(line["step"])] = line
        except (ValueError, TypeError, KeyError):
            unreadable.append(number)
    return [by_step[step] for step in sorted(by_step)], unreadable


def numbers(mapping: object) -> dict[str, float]:
    """The entries of a mapping that are numbers (an unconditional model has no label agreement: null)."""
    entries = mapping.items() if isinstance(mapping, Mapping) else ()
    return {
        key: value for key, value in entries if isinstance(value, int | float) and not isinstance(value, bool)
    }


def method_of(config: dict[str, Any]) -> str | None:
    """The objective and what is added to it: `expanded_divergence (forward_kl) + gan`."""
    objective, terms = config.get("objective"), config.get("terms") or ()
    if not isinstance(objective, dict):
        return None
    names = (
        [str(term.get("name")) for term in terms if isinstance(term, dict)]
        if isinstance(terms, list | tuple)
        else []
    )
    detail = objective.get("divergence") or objective.get("distance")
    return " + ".join(
        [f"{objective.get('name')} ({detail})" if detail else str(objective.get("name")), *names]
    )


def summarise(run_dir: Path) -> dict[str, Any]:
    """`name, method, protocol, student, teacher, sampling, train` of a run: what a table of many runs needs; only what there is."""
    run = read_run(run_dir)
    results = {role: numbers(run.evaluation.get(role)) for role in ("student", "teacher", "sampling")}
    student, teacher = results["student"].get(run.distance), results["teacher"].get(run.distance)
    if student is not None and teacher:
        results["student"]["fd_over_teacher"] = student / teacher
    latest = run.lines[-1] if run.lines else {}
    train = {
        name: latest[key]
        for name, key in {"seconds": "seconds", "images": "images", "steps": "step"}.items()
        if key in latest
    }
    name, method, protocol = run.folder.resolve().name, method_of(run.config), run.evaluation.get("protocol")
    summary = {"name": name, "method": method, "protocol": protocol, **results, "train": train}
    return {key: value for key, value in summary.items() if value}


def student_cost(run: Run) -> str:
    """How many network evaluations an image of the student takes, in words."""
    generator = run.config.get("generator")
    steps = generator.get("steps", 1) if isinstance(generator, dict) else 1
    return "one network evaluation" if steps == 1 else f"{steps} network evaluations"
