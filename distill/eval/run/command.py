"""`python -m eval --run X`: student and teacher, or other images, beside the real images."""

from __future__ import annotations

from pathlib import Path

import torch

import distill
from distill.config.errors import UserError, writing_to
from distill.data import DataSettings
from distill.data.option import parse_data
from distill.diffusion.sampling import balanced_labels, sample_generator
from distill.eval.features import Extractor, load_extractor
from distill.eval.images.streams import DataImages, NetworkImages
from distill.eval.metrics import exact as laboratory
from distill.eval.protocols import Protocol, default_protocol
from distill.eval.results.file import check_writable, write_results
from distill.eval.results.tracked import track_evaluation
from distill.eval.results.tracking import log_results, step_of_run
from distill.eval.run.arguments import RunOptions
from distill.eval.run.evaluate import GRID_IMAGES, ImageSet, evaluate, measure_images, sampling_times
from distill.eval.run.grids import by_label, fill, save_grids
from distill.eval.run.results import EvalResults, LaboratoryResults, Role
from distill.eval.run.subjects import SAMPLED, RealStreams, open_files, open_networks, open_real
from distill.eval.run.table import render
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.publishing.model_card import CARD, write_card
from distill.publishing.run_record import note_of_features
from distill.publishing.run_record import read_run as read_record
from distill.teachers.gaussian_mixture import Settings as LaboratoryTeacher
from distill.training.config import read_run
from distill.training.settings import DistillRun, RunConfig

FEATURES = Path("runs/features")
"""Folder that keeps features unless `--features` says otherwise."""


def run(options: RunOptions) -> EvalResults | LaboratoryResults:
    """Measure images under the protocol that suits the data, and print the table.

    `eval.json` and the grids are written to the run's folder, or to `--out`.
    """
    config = None if options.run is None else read_run(options.run)
    teacher = laboratory_teacher(config) if options.data is None else None
    if teacher is not None:
        refuse_settings_of_images(options)
        return run_laboratory(options, teacher)
    real = open_real(choose_data(options, config))
    protocol = default_protocol(real.train.image_shape, options.protocol)
    out = options.out or options.run
    if out is not None:
        check_writable(out)
    files = options.images is not None or options.array is not None
    networks = {} if files else open_networks(options, config, real.train)
    streams: dict[Role, DataImages | NetworkImages]
    streams = {"images": open_files(options, real.train)} if files else {**networks}
    measured = Measurements(real, protocol, options.features or FEATURES)
    made = {role: measured.of(stream, role) for role, stream in streams.items()}
    results = evaluate(made, measured.train, measured.held_out, protocol, options.seed if networks else None)
    times = sampling_times(networks)
    if times is not None:
        results["sampling"] = times
    print(render(results))
    note = None if options.run is None else note_of_features(read_record(options.run).meta, protocol.features)
    if note is not None:
        print(f"\n{note}")
    if out is not None:
        save(out, results, real.train, measured.train, made)
        if out == options.run and (out / "export" / CARD).is_file():
            with writing_to(f"{out / 'export'}:"):
                write_card(out / "export", out)
        print(f"\n{out / 'eval.json'} and {out / 'eval'} are written")
    track(options, results, out)
    return results


def laboratory_teacher(config: RunConfig | None) -> GaussianMixture | None:
    """Load the teacher of a laboratory run, whose images would be vectors; None for other runs."""
    if not isinstance(config, DistillRun) or config.data is not None:
        return None
    return config.teacher.load() if isinstance(config.teacher, LaboratoryTeacher) else None


def refuse_settings_of_images(options: RunOptions) -> None:
    """Refuse flags that say how images are compared; vectors are compared with their exact teacher."""
    for flag, value in {
        "--prompts": options.prompts,
        "--protocol": options.protocol,
        "--guidance": options.guidance,
        "--features": options.features,
    }.items():
        if value is not None:
            raise UserError(
                f"{flag}: goes with images; {options.run} is a run of vectors, which are compared with their "
                "exact teacher; leave it out"
            )


def choose_data(options: RunOptions, config: RunConfig | None) -> DataSettings:
    """Choose the real images: those of `--data`, else those of the run."""
    if options.data is not None:
        return parse_data(options.data)
    data = None if config is None else config.data
    if data is None:
        raise UserError(f"{options.run}: the run has no data to compare with; give --data")
    assert isinstance(data, DataSettings)
    return data


class Measurements:
    """A protocol with its feature network and the measured real images.

    The features of the real images are kept in the folder `store`, unless they are the pixels.
    """

    def __init__(self, real: RealStreams, protocol: Protocol, store: Path) -> None:
        self.protocol = protocol
        self.store = None if protocol.features == "pixels" else store
        self.extractor: Extractor = load_extractor(protocol.features)
        self.progress = True
        self.train = self.of(real.train, "real training images")
        self.held_out = None if real.held_out is None else self.of(real.held_out, "real held-out images")

    def of(self, stream: DataImages | NetworkImages, name: str) -> ImageSet:
        """Compute the features of a stream; `name` is that of the set in messages."""
        store = self.store
        if isinstance(stream, NetworkImages):
            stream.warm_up()
            store = None
        return measure_images(stream, name, self.protocol, self.extractor, GRID_IMAGES, self.progress, store)


def save(
    out: Path, results: EvalResults, real: DataImages, train: ImageSet, made: dict[Role, ImageSet]
) -> None:
    """Write the grids and `eval.json`."""
    rows = by_label(train.features.labels, len(real), real.label_count, GRID_IMAGES)
    found = real.read([row for row in rows if row is not None])
    shown = fill(found, rows)
    firsts: dict[str, torch.Tensor] = {role: images.first for role, images in made.items()}
    # Images from files have their labels in another order.
    is_in_turn = all(has_labels_in_turn(images, real.label_count) for images in made.values())
    layout = save_grids(out / "eval", shown, firsts, real.label_count if is_in_turn else 0)
    if layout:
        results["grids"] = layout
    write_results(out / "eval.json", results)


def has_labels_in_turn(images: ImageSet, label_count: int) -> bool:
    """Tell whether image i of the first images has the label i % `label_count`."""
    if label_count == 0 or images.conditions is None:
        return False
    labels = images.conditions[: len(images.first)]
    return bool((labels == torch.arange(len(labels)) % label_count).all())


def run_laboratory(options: RunOptions, teacher: GaussianMixture) -> LaboratoryResults:
    """Measure a run of vectors, whose teacher is known exactly: print the table and write `eval.json`."""
    assert options.run is not None
    out = options.out or options.run
    check_writable(out)
    generator = distill.load_generator(options.run)
    n = options.n or SAMPLED
    seeds = range(options.seed, options.seed + n)
    labels = balanced_labels(n, generator.label_count)
    samples = sample_generator(generator, seeds, labels, options.batch_size, progress=True)
    student = laboratory.evaluate_vectors(teacher, generator, samples)
    results: LaboratoryResults = {
        "protocol": "laboratory",
        "n": n,
        "seed": options.seed,
        "student": student,
    }
    print(laboratory.render(dict(results)))
    write_results(out / "eval.json", results)
    track(options, results, None)
    return results


def track(options: RunOptions, results: EvalResults | LaboratoryResults, out: Path | None) -> None:
    """Log the results, and the grids in the folder `out`, to the trackers that were asked for."""
    measured = options.run or options.teacher or options.images or options.array
    assert measured is not None
    step = step_of_run(options.run)
    log_results(options.tracking, track_evaluation(results, measured.resolve().name, step, out))
