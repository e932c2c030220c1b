"""A run told in a paragraph of plain text, which says only what the run's numbers support."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.publishing.report.numbers import duration, short
from distill.publishing.run_record import Run, numbers, say_method, student_cost
from distill.publishing.scene.description import read_scene, say_particles


def tell_story(run: Run, summary: Mapping[str, Any]) -> str:
    """Say what was trained, for how long, how close it came, and how fast it is."""
    sentences = [
        *_say_task(run, summary),
        *_say_training(run, summary.get("train", {})),
        *_say_distance(run, summary),
    ]
    sampling = summary.get("sampling", {})
    if "speedup" in sampling:
        sentences.append(
            f"The student makes images {short(sampling['speedup'])} times faster than the teacher."
        )
    return " ".join(sentences)


def _say_task(run: Run, summary: Mapping[str, Any]) -> list[str]:
    cost = "many network evaluations"
    if "teacher_evaluations" in summary.get("sampling", {}):
        cost = f"{short(summary['sampling']['teacher_evaluations'])} network evaluations"
    if run.config.get("task") == "train_teacher":
        return [f"This run trained a diffusion teacher: a network that makes an image in {cost}."]
    if run.config.get("task") == "train_autoencoder":
        return ["This run trained an autoencoder: a network that encodes images as latents and decodes them."]
    teacher = run.config.get("teacher")
    path = f", {teacher['path']}," if isinstance(teacher, dict) and "path" in teacher else ""
    scene = read_scene(run.folder)
    if scene is None:
        student = f"a student that makes one in {student_cost(run)}"
    else:
        student = say_particles(scene)
    sentences = [
        f"This run distilled a diffusion teacher{path} that makes an image in {cost} into {student}."
    ]
    method = say_method(run.config)
    if method is not None:
        sentences.append(f"The method is {method}.")
    return sentences


def _say_training(run: Run, train: Mapping[str, float]) -> list[str]:
    if "seconds" not in train or "steps" not in train:
        return []
    machine = f" on {run.meta['machine']}" if run.meta.get("machine") else ""
    images = f" over {short(train['images'])} images" if train.get("images") else ""
    seconds = duration(train["seconds"])
    return [f"Training took {seconds}{machine}: {short(train['steps'])} steps{images}."]


def _say_distance(run: Run, summary: Mapping[str, Any]) -> list[str]:
    count = "In the evaluation"
    if numbers(run.evaluation).get("n"):
        count = f"Over {short(run.evaluation['n'])} images"
    distances = {role: summary.get(role, {}).get(run.distance) for role in ("student", "teacher")}
    ratio = summary.get("student", {}).get("fd_over_teacher")
    if ratio is not None:
        student, teacher = short(distances["student"]), short(distances["teacher"])
        return [
            f"{count}, the student's Fréchet distance to the training images is {student} and the teacher's "
            f"{teacher}: the student is {_compare(ratio)} its teacher, at {ratio:.2f} times the distance."
        ]
    for role, distance in distances.items():
        if distance is not None:
            return [f"{count}, the {role}'s Fréchet distance to the training images is {short(distance)}."]
    return []


def _compare(ratio: float) -> str:
    """Say in words which of two distances is the smaller; 2 % is no difference."""
    if ratio < 0.98:
        return "closer to them than"
    if ratio > 1.02:
        return "further from them than"
    return "as close to them as"
