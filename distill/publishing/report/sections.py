"""The sections of a run's report, each as HTML."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from distill.config.errors import UserError, reading
from distill.publishing.report import charts
from distill.publishing.report.numbers import short
from distill.publishing.report.results import render_glossary, render_table, render_warnings, title_of
from distill.publishing.run_record import Run, numbers, student_cost

STATS = {
    "loss/": (
        "Losses",
        "Thick: running mean; faint: logged values. A distillation's losses need not fall; "
        "look for sudden jumps.",
    ),
    "reward/": (
        "Rewards",
        "Means of the rewards that the student is aligned with; a steady rise that other scores do not share "
        "is hacking.",
    ),
    "ratio/": (
        "Density ratio",
        "How the discriminator weighs student samples against the teacher's, as the objective uses it.",
    ),
    "discriminator/": (
        "Discriminator",
        "Share of real and student samples that it tells apart, 0.5 by chance, and the means of its logits; "
        "an accuracy near 1 leaves the student little to learn from.",
    ),
    "grad_norm/": (
        "Gradient norms",
        "Length of each network's gradient; a lasting rise announces divergence.",
    ),
    "lr/": ("Learning rates", "As the optimisers used them."),
}
"""Families of keys in stats.jsonl: the title of their section, and what to look for."""


def section(title: str, body: str) -> str:
    """Wrap HTML as a section."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def missing(what: str, command: str) -> str:
    """Say that a part is missing, and the command that makes it."""
    return f'<p class="missing">{escape(what)} Make it with <code>{escape(command)}</code></p>'


def guard(source: Path, render: Callable[[], str]) -> str:
    """Render a part of the page, or one line in its place if another version wrote the file that it shows."""
    try:
        with reading(source):
            return render()
    except UserError as error:
        return f'<p class="missing">{escape(f"Not as this version writes it: {error}.")}</p>'


def render_images(run: Run) -> str:
    """Show grids of real, teacher and student images side by side; nothing for a run that has none."""
    if not run.shows_images:
        return ""
    evaluations = numbers(run.evaluation.get("sampling")).get("teacher_evaluations")
    cost = f"{short(evaluations)} evaluations an image" if evaluations else "many evaluations an image"
    captions = {
        "real": "Real|training images",
        "teacher": f"Teacher|{cost}",
        "student": f"Student|{student_cost(run)} an image",
    }
    layout = run.evaluation.get("grids")
    if run.config.get("task") == "train_teacher":
        del captions["student"]
    found = {
        f"eval/{name}.png": charts.image(run.folder / "eval" / f"{name}.png", caption)
        for name, caption in captions.items()
    }
    absent = ", ".join(name for name, figure in found.items() if figure is None)
    row = "".join(figure for figure in found.values() if figure)
    body = f'<div class="row">{row}</div>' if row else ""
    if body and isinstance(layout, str):
        body = f'<p class="note">{escape(f"Each grid has {layout}.")}</p>{body}'
    if absent:
        body += missing(f"There is no readable {absent}.", run.eval_command)
    return section("Images", body)


def render_monitor(run: Run) -> str:
    """Show the distances measured during training, with the teacher's.

    The teacher's is of as many images if the run logged it, and of the final evaluation otherwise.
    """
    series = run.series("monitor/")
    counts = series.pop("n", ([], []))[1]
    series.pop("trained_features", None)
    size = f"{short(counts[-1])} images a point" if counts else "few images a point"
    figures = ""
    for name in [name for name in series if not name.startswith("teacher_")]:
        if f"teacher_{name}" in series:
            teacher: float | None = series[f"teacher_{name}"][1][-1]
            label = "teacher, as many images"
        else:
            teacher = numbers(run.evaluation.get("teacher")).get(name)
            label = f"teacher, final evaluation over {short(run.evaluation.get('n', 0))} images"
        title = title_of(name) if name.startswith("fd_") else name
        figures += charts.monitored(f"{title}|small-sample estimate, {size}", *series[name], teacher, label)
    if not figures:
        return (
            '<p class="missing">No distance was measured during training. A run with real images, or '
            "statistics of them as monitor_reference, measures it every monitor_every steps.</p>"
        )
    note = (
        "Few images bias a Fréchet distance upwards: read the course of this curve, "
        "and do not compare its height with the final results."
    )
    return f'<p class="note">{note}</p>{render_averages(run)}{figures}'


def render_averages(run: Run) -> str:
    """Say which of several averages is exported, and the last measurement of each; nothing for one."""
    series = run.series("ema/")
    best = series.pop("best", ([], []))[1]
    if not best:
        return ""
    decisive = next(iter(series)).partition("/")[2]
    last = [
        f"{name.partition('/')[0]}: {short(values[-1])}"
        for name, (_, values) in series.items()
        if name.partition("/")[2] == decisive
    ]
    kept = run.config.get("generator", {}).get("ema")
    number = int(best[-1])
    chosen = f"{number}, {kept[number - 1]}," if isinstance(kept, list) else f"{number}"
    found = ", ".join(last)
    text = f"Of several averages of the weights number {chosen} is exported; last {decisive}: {found}."
    return f'<p class="note">{escape(text)}</p>'


def render_sweep(run: Run) -> str:
    """Show the distance of every checkpoint and the repetitions of the best one; nothing without a sweep."""
    measured = run.sweep.get("checkpoints")
    if not isinstance(measured, dict) or not measured:
        return ""
    steps = sorted(int(step) for step in measured)
    values = [measured[str(step)]["fd"]["mean"] for step in steps]
    images = short(run.sweep.get("n", 0))
    caption = f"{run.sweep.get('metric')}|{run.sweep.get('protocol')}, {images} images of each checkpoint"
    best = run.sweep.get("best", {})
    note = ""
    if best:
        found = best["results"]["summary"]["fd"]
        repetitions = len(best["results"]["repetitions"])
        note = (
            f"Best: step {best['step']}, {found['mean']:.4f} ± {found['std']:.4f} "
            f"over {repetitions} repetitions (least {found['min']:.4f})."
        )
    chart = charts.monitored(caption, steps, values, None, "")
    return section("Checkpoints", f'<p class="note">{escape(note)}</p>{chart}')


def render_statistics(run: Run) -> str:
    """Show a section of small charts for each family of statistics."""
    sections = ""
    for prefix, (title, note) in STATS.items():
        panels = "".join(
            charts.curve(name, *points, smooth=prefix != "lr/") for name, points in run.series(prefix).items()
        )
        if panels:
            sections += section(title, f'<p class="note">{note}</p><div class="row small">{panels}</div>')
    if not sections:
        absent = missing("There are no statistics in stats.jsonl.", run.train_command)
        return section("Statistics", absent)
    return sections


def render_calibration(run: Run) -> str:
    """Show the discriminator's log-ratio as predicted and as observed; nothing if no samples were counted."""
    if not run.calibration.get("predicted"):
        return ""
    note = (
        "Points on the dashed line are right; a flatter course means a discriminator that is too sure. "
        "The larger a point, the more samples."
    )
    chart = charts.reliability(**run.calibration)
    return section("Calibration of the density ratio", f'<p class="note">{note}</p>{chart}')


def render_times(run: Run) -> str:
    """Show the seconds that each part of the training loop took.

    A bar of its own shows the time that no part accounts for: starting, logging, steps lost in a crash.
    """
    parts = {name: sum(values) for name, (_, values) in run.series("time/").items()}
    if not parts:
        return missing("No times were logged.", run.train_command)
    accounted = sum(parts.values())
    rest = run.series("seconds").get("", ([], [0.0]))[1][-1] - accounted
    if rest > 0.005 * accounted:
        parts["not accounted for"] = rest
    return charts.time_bars(parts) + render_speed(run)


def render_speed(run: Run) -> str:
    """Show the student's images by second of training; nothing for a run of one logged step."""
    seconds, images = (run.series(key).get("", ([], []))[1] for key in ("seconds", "images"))
    steps = run.series("images").get("", ([], []))[0]
    speeds = {
        step: (images[i] - images[i - 1]) / (seconds[i] - seconds[i - 1])
        for i, step in enumerate(steps)
        if i > 0 and len(seconds) == len(images) and seconds[i] > seconds[i - 1]
    }
    if not speeds:
        return ""
    panel = charts.curve("speed", list(speeds), list(speeds.values()), unit="images/s")
    return f'<div class="row small">{panel}</div>'


def render_samples(run: Run) -> str:
    """Show at most six grids of samples, evenly spaced over training, with the first and the last."""
    paths = sorted((run.folder / "samples").glob("step-*.png"))
    count = min(6, len(paths))
    chosen = [paths[round(i * (len(paths) - 1) / max(1, count - 1))] for i in range(count)]
    figures = [
        charts.image(path, f"Step {path.stem.removeprefix('step-').lstrip('0') or '0'}|") for path in chosen
    ]
    row = "".join(figure for figure in figures if figure)
    if not row:
        return missing("There are no sample grids in samples/.", run.train_command)
    return f'<div class="row">{row}</div>'


def render_provenance(run: Run) -> str:
    """Show what is needed to repeat the run: its configuration, command, versions, commit and machine."""
    path = run.folder / "config.yaml"
    config = missing("There is no config.yaml.", run.train_command)
    if path.is_file():
        text = escape(path.read_text(encoding="utf-8"))
        config = f"<details><summary>config.yaml</summary><pre>{text}</pre></details>"
    versions = run.meta.get("versions")
    facts = {"command": run.train_command} if run.meta.get("command") else {}
    facts |= {key: run.meta[key] for key in ("commit", "machine", "started") if run.meta.get(key)}
    facts |= versions if isinstance(versions, dict) else {}
    rows = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items()
    )
    absent = missing("There is no meta.json: versions, commit and machine are not known.", run.train_command)
    return config + (f'<dl class="facts">{rows}</dl>' if rows else absent)


def render_definitions(run: Run) -> str:
    """Explain each number; nothing if none was measured."""
    if not render_table(run.evaluation, run.distance):
        return ""
    return section("How to read the numbers", render_glossary(run.evaluation, run.distance))


def render_results(run: Run) -> str:
    """Show what was measured at the end, and under which conditions; nothing if nothing can be."""
    if not run.is_evaluated:
        return ""
    table = render_table(run.evaluation, run.distance)
    if not table:
        absent = missing("There is no eval.json: this run has not been evaluated.", run.eval_command)
        return section("Results", absent)
    stated = ", ".join(
        f"{key} {short(value) if isinstance(value, float) else value}"
        for key, value in _conditions(run).items()
        if key != run.distance and isinstance(value, str | int | float)
    )
    note = f'<p class="note">Evaluated with {escape(stated)}.</p>'
    return section("Results", f"{table}{render_warnings(run.evaluation)}{note}")


def _conditions(run: Run) -> dict[str, Any]:
    """Collect the conditions of an evaluation, without which its numbers cannot be compared."""
    found = run.evaluation.get("reference")
    reference = found if isinstance(found, dict) else {}
    conditions = dict(run.evaluation)
    for key in ("train_images", "held_out_images", "classifier_accuracy"):
        if key in reference:
            conditions[key] = reference[key]
    if "memorised" in reference:
        conditions["memorised by real images"] = reference["memorised"]
    if "diversity" in reference:
        conditions["diversity of the training images within a label"] = reference["diversity"]
    deviations = [
        numbers(run.evaluation.get(role)).get("memorised_deviation", 0.0) for role in ("student", "teacher")
    ]
    if any(deviations):
        conditions["standard deviation of memorised by chance"] = max(deviations)
    return conditions
