"""The words of the page: what is shown, what an image cost, and what an image is."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from distill.publishing.demo.networks import Made, ShownRun
from distill.publishing.samples import describe_images

TIMED = (
    "Times are those of this machine, from the drawing of the noise to the decoded images, after a first "
    "call that is not shown. Encoding the prompt, writing files and sending them do not count."
)


def header(shown: ShownRun) -> str:
    """Return the head of the page as HTML: the run's name, what its student is, and notes."""
    student = shown.student
    channels, height, width = student.network.pixel_shape
    origin = describe_images(student.network, shown.run, None, student.dtype)
    facts = [
        "one-step student" if origin["evaluations"] == 1 else f"student of {origin['evaluations']} steps",
        f"{height}×{width} pixels, {'grey' if channels == 1 else 'colour'}",  # noqa: RUF001
        f"{origin['device']}, {student.dtype}",
        f"weights {student.weights_sha256[:12]}",
    ]
    notes = "".join(f"<p class='note'>{html.escape(note)}</p>" for note in shown.notes)
    name = html.escape(shown.run.resolve().name)
    return f"<h1>{name}</h1><p class='facts'>{html.escape(' · '.join(facts))}</p>{notes}"


def cost(made: Made, student: Made | None = None) -> str:
    """Say what an image cost, as HTML; of a teacher beside `student`, also relative to the student's."""
    evaluations = f"{made.evaluations} network evaluation{'s' * (made.evaluations > 1)}"
    time = f"{_time(made.seconds_per_image)} an image"
    count = len(made.files)
    parts = [f"<strong>{evaluations}, {time}</strong>"]
    if count > 1:
        parts.append(f"{_time(made.seconds)} for {count} images together")
    if student is not None:
        parts.append(f"{made.seconds / student.seconds:.1f} times the student's time")
    if made.is_first or (student is not None and student.is_first):
        parts.append("first batch of this size, which may take longer")
    return f"<p class='cost'>{'; '.join(parts)}</p>"


def title(name: str, text: str = "") -> str:
    """Return the title of a network's images with what they cost, as HTML."""
    return f"<h2>{name}</h2>{text}"


def alert(message: str) -> str:
    """Return a message on why nothing was made, as HTML."""
    return f"<p role='alert'>{html.escape(message)}</p>"


def caption(note: Mapping[str, Any], class_names: Mapping[int, str]) -> str:
    """Say what an image is by the note in its file: network, seed, and class or prompt."""
    who = f"teacher, {note['sampler']['steps']} steps" if note["teacher"] else "student"
    what = note.get("prompt")
    if what is None and note["label"] is not None:
        what = name_class(note["label"], class_names)
    return f"{who}, seed {note['seed']}" + ("" if what is None else f": {what}")


def name_class(label: int, class_names: Mapping[int, str]) -> str:
    """Name a class by its number and, if it has one, its name."""
    return f"class {label}, {class_names[label]}" if label in class_names else f"class {label}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
