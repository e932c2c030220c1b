"""What `python -m eval` does once its options are known to be right."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import distill
from distill.config.errors import UserError
from distill.data import DataSettings
from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.sampling import balanced_labels, sample_generator
from distill.publishing.model_card import CARD, write_card
from distill.publishing.samples import choose_prompts
from distill.storage.files import write_json
from distill.teachers.gaussian_mixture import Settings as LaboratoryTeacher
from distill.training.config import read_run
from distill.training.distillation.build import read_prompts
from distill.training.settings import DistillRun, TrainTeacherRun
from eval.metrics import exact as laboratory
from eval.protocols import default_protocol
from eval.run.evaluate import evaluate, sampling_times
from eval.run.grids import save_grids
from eval.run.images import (
    Images,
    draw_student,
    draw_teacher,
    parse_data,
    read_array_file,
    read_folder,
    read_real,
)
from eval.run.table import render

DRAWN = 10_000


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Gather the images, measure, print the table, and write `eval.json` and the grids. Returns the results."""
    out = options.out or options.run
    config: Any = None if options.run is None else read_run(options.run)
    if (
        options.data is None
        and config.data is None
        and isinstance(getattr(config, "teacher", None), LaboratoryTeacher)
    ):
        return run_laboratory(options, config)
    data: DataSettings | None = parse_data(options.data) if options.data else config.data
    if data is None:
        raise UserError(f"{options.run}: the run has no data to compare with; give --data")
    train, held_out = read_real(data)
    default_protocol(train.shape)  # that its package is there is known before hours are spent
    if out is not None:
        check_writable(out)
    made = gather_images(options, config, train)
    drawn = options.run or options.teacher
    results = evaluate(made, train, held_out, options.seed if drawn else None)
    times = sampling_times(made, options.batch_size)
    if times:
        results["sampling"] = times
    print(render(results))
    if out is not None:
        save_grids(out / "eval", train, made)
        write_json(out / "eval.json", results)
        if out == options.run and (out / "export" / CARD).is_file():
            write_card(out / "export", out)
        print(f"\n{out / 'eval.json'} and {out / 'eval'} are written")
    return results


def run_laboratory(options: argparse.Namespace, config: Any) -> dict[str, Any]:
    """The same for a run of the laboratory, whose teacher is known exactly: print the table and write `eval.json`."""
    out = options.out or options.run
    check_writable(out)
    generator, n = distill.load_generator(options.run), options.n or DRAWN
    samples = sample_generator(
        generator,
        range(options.seed, options.seed + n),
        balanced_labels(n, generator.label_count),
        options.batch_size,
    )
    student = laboratory.evaluate_vectors(config.teacher.load(), generator, samples)
    results = {"protocol": "laboratory", "n": n, "seed": options.seed, "student": student}
    print(laboratory.render(results))
    write_json(out / "eval.json", results)
    return results


def gather_images(options: argparse.Namespace, config: Any, train: Images) -> dict[str, Images]:
    """The images to measure, by their role."""
    if options.images is not None:
        return {"images": read_folder(options.images, train).some(options.n, str(options.images))}
    if options.array is not None:
        return {"images": read_array_file(options.array, train).some(options.n, str(options.array))}
    networks = open_networks(options, config)
    for role, network in networks.items():
        check_fits(role, network, train)
    seeds = range(options.seed, options.seed + (options.n or DRAWN))
    prompts = {role: prompts_of_run(options, config, network) for role, network in networks.items()}
    drawn: dict[str, Images] = {}
    if "student" in networks:
        drawn["student"] = draw_student(networks["student"], seeds, options.batch_size, prompts["student"])
    if (
        "teacher" in networks
    ):  # guided as the student's loss had it, where it takes prompts: without guidance such teachers are of no use
        guidance = (
            config.guidance.teacher
            if isinstance(config, DistillRun) and networks["teacher"].takes_text
            else 1.0
        )
        drawn["teacher"] = draw_teacher(
            networks["teacher"], seeds, options.batch_size, prompts["teacher"], guidance
        )
    return drawn


def prompts_of_run(options: argparse.Namespace, config: Any, network: Any) -> EncodedPrompts | None:
    """`--prompts`, or else those of the run, for a network that takes any. Raises UserError as `choose_prompts`."""
    if network.takes_text and options.prompts is None and isinstance(config, DistillRun):
        return read_prompts(config, network)
    return choose_prompts(options.prompts, network)


def open_networks(options: argparse.Namespace, config: Any) -> dict[str, Any]:
    """A run's student and teacher, or the teacher alone, opened before anything is sampled. Raises UserError where one cannot be."""
    if options.teacher is not None:
        return {"teacher": distill.load_teacher(options.teacher)}
    if isinstance(config, TrainTeacherRun):
        if options.no_teacher:
            raise UserError(f"--no-teacher: {options.run} trained a teacher and has nothing else")
        return {"teacher": distill.load_teacher(options.run)}
    networks: dict[str, Any] = {"student": distill.load_generator(options.run)}
    if not options.no_teacher:
        networks["teacher"] = distill.load_teacher(config.teacher)
    return networks


def check_fits(role: str, network: Any, train: Images) -> None:
    """Raises UserError where a network makes other images, or has other labels, than the data."""
    if tuple(network.pixel_shape) != train.shape:
        raise UserError(
            f"the {role} makes images of {tuple(network.pixel_shape)}; expected {train.shape} as the data's"
        )
    if train.label_count and not network.takes_text and network.label_count not in (0, train.label_count):
        raise UserError(
            f"the {role} has {network.label_count} labels; expected {train.label_count} as the data's"
        )


def check_writable(folder: Path) -> None:
    """Raises UserError where results could not be written, before hours are spent on them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"--out {folder}: cannot be written to")
