"""The files in a run's folder, read back for the report, the model card and tables of many runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

from distill.config.command_line import as_called
from distill.config.errors import UserError
from distill.config.text_files import read_text
from distill.config.yaml_files import parse_yaml
from distill.storage.files import read_mapping


@dataclass(frozen=True)
class Run:
    """The files in a run's folder; an absent file is an empty mapping."""

    folder: Path
    config: dict[str, Any]
    meta: dict[str, Any]
    evaluation: dict[str, Any]
    calibration: dict[str, Any]
    sweep: dict[str, Any]
    preference: dict[str, Any]
    lines: list[dict[str, Any]]
    """Lines of stats.jsonl, one for each logged step, ascending."""
    unreadable: list[int]
    """Numbers of the lines of stats.jsonl that are no statistics, from 1."""

    @property
    def distance(self) -> str:
        """Key of the protocol's Fréchet distance: `fd_pixel` for `fd-pixel`."""
        return str(self.evaluation.get("protocol", "fd-pixel")).replace("-", "_")

    @property
    def is_evaluated(self) -> bool:
        """False for a run of which `python -m eval` measures nothing, as it trained an autoencoder."""
        return self.config.get("task") != "train_autoencoder"

    @property
    def shows_images(self) -> bool:
        """True if `python -m eval` writes grids of images, which it does not for a run of vectors."""
        teacher = self.config.get("teacher")
        is_exact = isinstance(teacher, dict) and teacher.get("name") == "gaussian_mixture"
        return self.is_evaluated and not (is_exact and self.config.get("data") is None)

    @property
    def train_command(self) -> str:
        """Command that started the run; meta.json has it without the interpreter."""
        command = self.meta.get("command")
        return f"python {command}" if command else as_called(f"python train.py {self.folder}/config.yaml")

    @property
    def eval_command(self) -> str:
        """Command that evaluates the run."""
        return as_called(f"python -m eval --run {shlex.quote(str(self.folder))}")

    def series(self, prefix: str) -> dict[str, tuple[list[int], list[float]]]:
        """Collect the steps and values of each logged key that starts with `prefix`, by the rest of the key.

        null in a file stands for a value that was not finite, and becomes NaN.
        """
        found: dict[str, tuple[list[int], list[float]]] = {}
        for line in self.lines:
            for key, value in line.items():
                if key.startswith(prefix) and isinstance(value, int | float | None):
                    steps, values = found.setdefault(key.removeprefix(prefix), ([], []))
                    steps.append(line["step"])
                    values.append(float("nan") if value is None else float(value))
        return found


def note_of_features(meta: Mapping[str, Any], features: str | None = None) -> str | None:
    """Return a line for a run that was trained on features, by its meta.json; None for any other.

    With `features`, only if it was trained on these.
    """
    trained = meta.get("trained_features")
    if not isinstance(trained, list) or not trained or (features is not None and features not in trained):
        return None
    names = " and ".join(str(name) for name in ([features] if features else trained))
    return f"trained on the features {names}: distances, precision and recall by them do not judge this run"


def read_run(run_dir: Path) -> Run:
    """Read the folder of a run."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such folder; expected the folder of a run, such as runs/<name>")
    config, stats = run_dir / "config.yaml", run_dir / "stats.jsonl"
    if not config.is_file() and not stats.is_file():
        raise UserError(f"{run_dir}: is not a run; expected a folder with config.yaml or stats.jsonl")

    def read(name: str) -> dict[str, Any]:
        return read_mapping(run_dir / name) if (run_dir / name).is_file() else {}

    lines, unreadable = read_stats(stats)
    return Run(
        folder=run_dir,
        config=read_yaml(config) if config.is_file() else {},
        meta=read("meta.json"),
        evaluation=read("eval.json"),
        calibration=read("calibration.json"),
        sweep=read("sweep.json"),
        preference=read("preference.json"),
        lines=lines,
        unreadable=unreadable,
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration as it is written, unchecked: a report must open the runs of other versions too."""
    text = read_text(path, str(path))
    try:
        content = parse_yaml(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, found {type(content).__name__}")
    return content


def read_stats(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Read the lines of stats.jsonl by step, and the numbers of the lines that are no statistics.

    A killed run leaves half a line. A resumed run repeats the steps since its checkpoint, and its last lines
    count.
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
    """Select the entries of a mapping that are numbers; null stands for what a model does not have."""
    entries = mapping.items() if isinstance(mapping, Mapping) else ()
    return {
        key: value for key, value in entries if isinstance(value, int | float) and not isinstance(value, bool)
    }


def method_of(config: dict[str, Any]) -> str | None:
    """Name a run's objective and terms: `expanded_divergence (forward_kl) + gan`."""
    objective = config.get("objective")
    if not isinstance(objective, dict):
        return None
    detail = objective.get("divergence") or objective.get("distance")
    parts = [f"{objective.get('name')} ({detail})" if detail else str(objective.get("name"))]
    terms = config.get("terms")
    if isinstance(terms, list | tuple):
        parts += [str(term.get("name")) for term in terms if isinstance(term, dict)]
    return " + ".join(parts)


def published_method(config: dict[str, Any]) -> str | None:
    """Return the name under which a run's method was published; None for any other combination, or a scene.

    The conditions are those of the table in docs/methods.md, which gives the papers.
    """
    objective, terms = config.get("objective"), config.get("terms") or ()
    network = (config.get("generator") or {}).get("network")
    is_scene = isinstance(network, dict) and network.get("name") == "scene"
    if is_scene or not isinstance(objective, dict) or not all(isinstance(term, dict) for term in terms):
        return None
    names = frozenset(str(term.get("name")) for term in terms)
    kind, divergence = objective.get("name"), objective.get("divergence")
    if names == {"representation"}:
        return "FD-loss"
    if kind == "expanded_divergence":
        return "Uni-Instruct" if names in ({"gan"}, {"gan", "regression"}) else None
    if kind == "score_matching":
        return _method_of_score_matching(config, objective, names)
    if kind != "distribution_matching":
        return None
    if names == {"gan"} and config.get("ratio"):
        return "f-distill"
    return _method_of_reverse_kl(config, names) if divergence == "reverse_kl" else None


def _method_of_score_matching(
    config: dict[str, Any], objective: dict[str, Any], terms: frozenset[str]
) -> str | None:
    if objective.get("distance") == "pseudo_huber":
        return {frozenset[str](): "SIM", frozenset({"reward"}): "Diff-Instruct*"}.get(terms)
    if terms:
        return "SiDA" if terms == {"gan"} else None
    if objective.get("real_data"):
        return "RealUID"
    scales = config.get("guidance") or {}
    if scales.get("fake", 1.0) <= 0:
        return "few-step SiD"
    return "SiD-LSG" if any(scale != 1.0 for scale in scales.values()) else "SiD"


def _method_of_reverse_kl(config: dict[str, Any], terms: frozenset[str]) -> str | None:
    if not terms:
        # DMD's normaliser without its regression has no name of its own.
        return "Diff-Instruct" if config["objective"].get("weighting", "dmd") != "dmd" else None
    if terms == {"gan"}:
        has_alignment = (config.get("fake") or {}).get("alignment")
        return "DMD2 with SenseFlow's alignment" if has_alignment else "DMD2"
    if terms == {"regression"}:
        return "DP-DMD" if config["terms"][0].get("step") is not None else "DMD"
    if terms == {"implicit_reward"}:
        return "Decoupled DMD"
    return "Diff-Instruct++" if terms == {"implicit_reward", "reward"} else None


def say_method(config: dict[str, Any]) -> str | None:
    """Name a run's method as it was published, if it was, and by its settings.

    An example is `DMD2: distribution_matching (reverse_kl) + gan`.
    """
    name, settings = published_method(config), method_of(config)
    return settings if name is None else f"{name}: {settings}"


def summarise(run: Run) -> dict[str, Any]:
    """Summarise a run for a table of many runs.

    The keys are name, method, protocol, student, teacher, sampling and train, as far as the run has them.
    """
    results = {role: numbers(run.evaluation.get(role)) for role in ("student", "teacher", "sampling")}
    student, teacher = results["student"].get(run.distance), results["teacher"].get(run.distance)
    if student is not None and teacher:
        results["student"]["fd_over_teacher"] = student / teacher
    latest = run.lines[-1] if run.lines else {}
    keys = {"seconds": "seconds", "images": "images", "steps": "step"}
    summary = {
        "name": run.folder.resolve().name,
        "method": method_of(run.config),
        "protocol": run.evaluation.get("protocol"),
        **results,
        "train": {name: latest[key] for name, key in keys.items() if key in latest},
    }
    return {key: value for key, value in summary.items() if value}


def student_cost(run: Run) -> str:
    """Say in words how many network evaluations an image of the student takes."""
    generator = run.config.get("generator")
    steps = generator.get("steps", 1) if isinstance(generator, dict) else 1
    return "one network evaluation" if steps == 1 else f"{steps} network evaluations"
