"""`python -m distill report runs/X`: what a run did, as a page for people (report.html) and a few numbers for programs (summary.json)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, NoReturn

from distill.config.errors import UserError, reading
from distill.publishing.report import charts
from distill.publishing.report.charts import duration, short
from distill.publishing.report.preference import preference_of
from distill.publishing.report.results import doubts, glossary, results_table, tiles
from distill.publishing.run_record import Run, numbers, read_run, student_cost, summarise
from distill.storage.files import write_json, write_text

STATS = {  # families of keys in stats.jsonl: the title of their section, and what to look for
    "loss/": (
        "Losses",
        "Thick: running mean; faint: logged values. A distillation's losses need not fall; look for sudden jumps.",
    ),
    "reward/": (
        "Rewards",
        "Means of the rewards that the student is aligned with; a steady rise that other scores do not share is hacking.",
    ),
    "ratio/": (
        "Density ratio",
        "How the discriminator weighs student samples against the teacher's, as the objective uses it.",
    ),
    "grad_norm/": (
        "Gradient norms",
        "Length of each network's gradient; a lasting rise announces divergence.",
    ),
    "lr/": ("Learning rates", "As the optimisers used them."),
}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the browser fetches and runs nothing, whatever a run's files contain


def story(run: Run, summary: dict[str, Any]) -> str:
    """The run in a paragraph of plain text, for a reader who was not there: only what its numbers support."""
    train, student, teacher, sampling = (
        summary.get(key, {}) for key in ("train", "student", "teacher", "sampling")
    )
    many = (
        f"{short(sampling['teacher_evaluations'])} network evaluations"
        if "teacher_evaluations" in sampling
        else "many network evaluations"
    )
    said = [f"This run trained a diffusion teacher: a network that makes an image in {many}."]
    if run.config.get("task") != "train_teacher":
        source = run.config.get("teacher")
        path = f", {source['path']}," if isinstance(source, dict) and "path" in source else ""
        said = [
            f"This run distilled a diffusion teacher{path} that makes an image in {many} into a student that makes one in {student_cost(run)}."
        ]
        said += [f"The method is {summary['method']}."] if "method" in summary else []
    if "seconds" in train and "steps" in train:
        machine = f" on {run.meta['machine']}" if run.meta.get("machine") else ""
        images = f" over {short(train['images'])} images" if train.get("images") else ""
        said.append(
            f"Training took {duration(train['seconds'])}{machine}: {short(train['steps'])} steps{images}."
        )
    count = (
        f"Over {short(run.evaluation['n'])} images"
        if numbers(run.evaluation).get("n")
        else "In the evaluation"
    )
    ratio = student.get("fd_over_teacher")
    if ratio is not None:
        verdict = (
            "closer to them than"
            if ratio < 0.98
            else "further from them than"
            if ratio > 1.02
            else "as close to them as"
        )
        said.append(
            f"{count}, the student's Fréchet distance to the training images is {short(student[run.distance])} and the teacher's "
            f"{short(teacher[run.distance])}: the student is {verdict} its teacher, at {ratio:.2f} times the distance."
        )
    elif run.distance in student or run.distance in teacher:
        who = "student" if run.distance in student else "teacher"
        said.append(
            f"{count}, the {who}'s Fréchet distance to the training images is {short(summary[who][run.distance])}."
        )
    if "speedup" in sampling:
        said.append(f"The student makes images {short(sampling['speedup'])} times faster than the teacher.")
    return " ".join(said)


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def missing(what: str, command: str) -> str:
    """One line in the place of something that is not there, with the command that makes it."""
    return f'<p class="missing">{escape(what)} Make it with <code>{escape(command)}</code></p>'


def told(source: Path, tell: Callable[[], str]) -> str:
    """A part of the page, or a line in its place where the file that it tells of is not as this version writes it."""
    try:
        with reading(source):
            return tell()
    except UserError as error:
        return f'<p class="missing">{escape(f"Not as this version writes it: {error}.")}</p>'


def images_of(run: Run) -> str:
    """Real, teacher and student grids side by side."""
    evaluations = numbers(run.evaluation.get("sampling")).get("teacher_evaluations")
    cost = f"{short(evaluations)} evaluations an image" if evaluations else "many evaluations an image"
    captions = {
        "real": "Real|training images",
        "teacher": f"Teacher|{cost}",
        "student": f"Student|{student_cost(run)} an image",
    }
    if run.config.get("task") == "train_teacher":
        del captions["student"]
    found = {
        f"eval/{name}.png": charts.image(run.folder / "eval" / f"{name}.png", caption)
        for name, caption in captions.items()
    }
    absent = ", ".join(name for name, figure in found.items() if figure is None)
    row = "".join(figure for figure in found.values() if figure)
    return (f'<div class="row">{row}</div>' if row else "") + (
        missing(f"There is no readable {absent}.", run.eval_command) if absent else ""
    )


def monitor_of(run: Run) -> str:
    """Distances measured during training, with the teacher's: of the same sample size where the run logged it, else of the evaluation."""
    series = run.series("monitor/")
    counts = series.pop("n", ([], []))[1]
    size = f"{short(counts[-1])} images a point" if counts else "few images a point"
    figures = ""
    for name in [name for name in series if not name.startswith("teacher_")]:
        teacher, label = (
            numbers(run.evaluation.get("teacher")).get(name),
            f"teacher, final evaluation over {short(run.evaluation.get('n', 0))} images",
        )
        if f"teacher_{name}" in series:
            teacher, label = series[f"teacher_{name}"][1][-1], "teacher, as many images"
        figures += charts.monitored(f"{name}|small-sample estimate, {size}", *series[name], teacher, label)
    note = "Few images bias a Fréchet distance upwards: read the course of this curve, and do not compare its height with the final results."
    return (
        f'<p class="note">{note}</p>{figures}'
        if figures
        else missing("No distance was measured during training.", run.train_command)
    )


def sweep_of(run: Run) -> str:
    """The distance of every checkpoint under a protocol, and the best one in repetitions; empty where no sweep was made."""
    measured = run.sweep.get("checkpoints")
    if not isinstance(measured, dict) or not measured:
        return ""
    steps = sorted(int(step) for step in measured)
    values = [measured[str(step)]["fd"]["mean"] for step in steps]
    name = f"{run.sweep.get('metric')}|{run.sweep.get('protocol')}, {short(run.sweep.get('n', 0))} images of each checkpoint"
    best = run.sweep.get("best", {})
    stated = ""
    if best:
        found = best["results"]["summary"]["fd"]
        repetitions = len(best["results"]["repetitions"])
        stated = f"Best: step {best['step']}, {found['mean']:.4f} ± {found['std']:.4f} over {repetitions} repetitions (least {found['min']:.4f})."
    chart = charts.monitored(name, steps, values, None, "")
    return section("Checkpoints", f'<p class="note">{escape(stated)}</p>{chart}')


def statistics_of(run: Run) -> str:
    """A section of small multiples for each family of statistics."""
    sections = ""
    for prefix, (title, note) in STATS.items():
        panels = "".join(
            charts.curve(name, *points, smooth=prefix != "lr/") for name, points in run.series(prefix).items()
        )
        sections += (
            section(title, f'<p class="note">{note}</p><div class="row small">{panels}</div>')
            if panels
            else ""
        )
    return sections or section(
        "Statistics", missing("There are no statistics in stats.jsonl.", run.train_command)
    )


def calibration_of(run: Run) -> str:
    """The discriminator's log-ratio as predicted and as observed; empty where none was counted."""
    if not run.calibration.get("predicted"):
        return ""
    note = "Points on the dashed line are right; a flatter course means a discriminator that is too sure. The larger a point, the more samples."
    return section(
        "Calibration of the density ratio",
        f'<p class="note">{note}</p>{charts.reliability(**run.calibration)}',
    )


def time_of(run: Run) -> str:
    """Where the seconds went; what no part accounts for (starting, logging, steps lost in a crash) is a bar of its own."""
    parts = {name: sum(values) for name, (_, values) in run.series("time/").items()}
    rest = run.series("seconds").get("", ([], [0.0]))[1][-1] - sum(parts.values())
    if not parts:
        return missing("No times were logged.", run.train_command)
    return charts.time_bars(
        {**parts, "not accounted for": rest} if rest > 0.005 * sum(parts.values()) else parts
    )


def samples_of(run: Run) -> str:
    """At most six grids over training, evenly chosen, the first and the last among them."""
    paths = sorted((run.folder / "samples").glob("step-*.png"))
    count = min(6, len(paths))
    chosen = [paths[round(place * (len(paths) - 1) / max(1, count - 1))] for place in range(count)]
    figures = [
        charts.image(path, f"Step {path.stem.removeprefix('step-').lstrip('0') or '0'}|") for path in chosen
    ]
    strip = "".join(figure for figure in figures if figure)
    return (
        f'<div class="row">{strip}</div>'
        if strip
        else missing("There are no sample grids in samples/.", run.train_command)
    )


def provenance_of(run: Run) -> str:
    """Everything needed to repeat the run: the configuration as written, command, versions, commit, machine."""
    path = run.folder / "config.yaml"
    config = missing("There is no config.yaml.", run.train_command)
    if path.is_file():
        config = f"<details><summary>config.yaml</summary><pre>{escape(path.read_text(encoding='utf-8'))}</pre></details>"
    versions = run.meta.get("versions")
    facts = {key: run.meta[key] for key in ("command", "commit", "machine", "started") if run.meta.get(key)}
    facts |= versions if isinstance(versions, dict) else {}
    rows = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items()
    )
    absent = missing("There is no meta.json: versions, commit and machine are not known.", run.train_command)
    return config + (f'<dl class="facts">{rows}</dl>' if rows else absent)


def glossary_of(run: Run) -> str:
    """What each number is; empty where none was measured."""
    return (
        section("How to read the numbers", glossary(run.evaluation, run.distance))
        if results_table(run.evaluation, run.distance)
        else ""
    )


def results_of(run: Run) -> str:
    """What was measured at the end, and under which conditions."""
    table = results_table(run.evaluation, run.distance)
    if not table:
        return section(
            "Results", missing("There is no eval.json: this run has not been evaluated.", run.eval_command)
        )
    reference = run.evaluation.get("reference")
    # Without its conditions a number cannot be compared.
    known = reference if isinstance(reference, dict) else {}
    conditions = run.evaluation | {
        key: known[key] for key in ("train_images", "held_out_images", "classifier_accuracy") if key in known
    }
    conditions |= {"memorised by real images": known["memorised"]} if "memorised" in known else {}
    stated = ", ".join(
        f"{key} {value}"
        for key, value in conditions.items()
        if key != run.distance and isinstance(value, str | int | float)
    )
    return section(
        "Results", f'{table}{doubts(run.evaluation)}<p class="note">Evaluated with {escape(stated)}.</p>'
    )


def page(run: Run, summary: dict[str, Any]) -> str:
    """The whole report as one HTML document."""
    title = escape(summary["name"])
    lost = f"Line {', '.join(map(str, run.unreadable))} of stats.jsonl is not a whole record and was skipped; a run killed while writing leaves one."
    preferred = told(run.folder / "preference.json", lambda: preference_of(run.folder, run.preference))
    lead = told(
        run.folder, lambda: f'<p class="lead">{escape(story(run, summary))}</p>{tiles(summary, run.distance)}'
    )
    body = [
        f"<header><h1>{title}</h1>{lead}</header>",
        f'<p class="missing">{lost}</p>' if run.unreadable else "",
        told(run.folder / "eval.json", lambda: glossary_of(run)),
        section("Images", images_of(run)),
        told(run.folder / "eval.json", lambda: results_of(run)),
        section("Preference scores", preferred) if preferred else "",
        section("Distance during training", told(run.folder, lambda: monitor_of(run))),
        told(run.folder / "sweep.json", lambda: sweep_of(run)),
        statistics_of(run),
        told(run.folder / "calibration.json", lambda: calibration_of(run)),
        section("Where the time went", time_of(run)),
        section("Samples over training", samples_of(run)),
        section("How to repeat it", provenance_of(run)),
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{charts.STYLESHEET}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{"".join(body)}</main></body></html>\n'


def write_report(run_dir: Path) -> Path:
    """Write `report.html`, one file that needs no other, into the run's folder. Raises `UserError` where the folder is no run."""
    write_text(run_dir / "report.html", page(read_run(run_dir), summarise(run_dir)))
    return run_dir / "report.html"


def write_summary(run_dir: Path) -> Path:
    """Write `summary.json` into the run's folder. Raises `UserError` where the folder is no run."""
    write_json(run_dir / "summary.json", summarise(run_dir))
    return run_dir / "summary.json"


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python -m distill report --help")


def main(arguments: list[str]) -> None:
    """Write both files of a run and print its summary."""
    parser = Parser(
        prog="python -m distill report",
        description="Write report.html and summary.json of a run.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="folder of the run, such as runs/<name>")
    run_dir = parser.parse_args(arguments).run
    print(f"wrote {write_report(run_dir)} and {write_summary(run_dir)}")
    print(json.dumps(summarise(run_dir), indent=2))
