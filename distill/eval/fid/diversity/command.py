"""`python -m eval diversity`: how much images of one prompt, or of one label, differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.config.progress import track
from distill.eval.features import Extractor
from distill.eval.fid.arguments import name_of
from distill.eval.fid.choices import load_extractors
from distill.eval.fid.diversity.arguments import PER_PROMPT, DiversityOptions
from distill.eval.fid.diversity.conditions import Conditions, conditions_of, open_stream
from distill.eval.fid.diversity.results import FORMAT, DiversityResults, Statistic, describe, render
from distill.eval.fid.subjects import Subject, open_references
from distill.eval.images.extraction import Features
from distill.eval.images.feature_store import extract
from distill.eval.images.processes import Processes
from distill.eval.images.streams import ImageStream
from distill.eval.metrics.diversity.perceptual import Perceptual, load_perceptual, mean_pairwise_distance
from distill.eval.metrics.diversity.within import (
    ByCondition,
    cosine_distance,
    recall_of_each,
    vendi_score,
    within_each,
)
from distill.eval.protocols import Protocol, default_protocol, read_protocol
from distill.eval.results.file import check_out, write_results
from distill.eval.results.tracked import track_diversity
from distill.eval.results.tracking import log_results, step_of_run
from distill.storage.provenance import commit, machine


def run(options: DiversityOptions) -> DiversityResults | None:
    """Extract features, measure, print and, with `--out`, write.

    Processes other than the main one return None.
    """
    if options.out is not None:
        check_out(options.out)
    networks = [load_perceptual(text, options.lpips_heads) for text in options.perceptual]
    subject = Subject(options)
    protocol = read_protocol(options.protocol or default_protocol(subject.shape).name)
    stream = open_stream(subject, options.per_prompt or PER_PROMPT, protocol)
    conditions = conditions_of(stream)
    processes = Processes.of_environment()
    (extractor,) = load_extractors([protocol], options.weights, processes.device(options.device))
    made = extract(stream, protocol, extractor, options.features, processes, progress=True)
    real = _reference(options, protocol, stream, extractor, processes)
    perceptual = {
        network.name: _distances(network.to(processes.device(options.device)), stream, conditions, processes)
        for network in networks
    }
    if not processes.is_main:
        return None
    results = describe_origin(protocol, extractor, stream, made, conditions)
    results["statistics"], results["skipped"] = measure(made, conditions, real)
    results["statistics"] |= {name: describe(found) for name, found in perceptual.items()}
    results["perceptual"] = {network.name: network.sha256 for network in networks}
    if real is not None:
        results["reference_sha256"] = real.images_sha256
    print(render(results))
    if options.out is not None:
        write_results(options.out, results)
        print(f"\n{options.out} is written")
    log_results(options.tracking, track_diversity(results, name_of(options), step_of_run(options.run)))
    return results


def measure(
    made: Features, conditions: Conditions, real: Features | None
) -> tuple[dict[str, Statistic], dict[str, str]]:
    """Compute the statistics of features, and the reasons for those that cannot be had."""
    numbers = conditions.numbers
    found: dict[str, Statistic] = {}
    skipped: dict[str, str] = {}

    def add(name: str, statistic: Callable[[], ByCondition]) -> None:
        try:
            found[name] = describe(statistic())
        except UserError as error:
            skipped[name] = str(error)

    add("cosine_distance", lambda: within_each(made.features, numbers, cosine_distance))
    add("vendi", lambda: within_each(made.features, numbers, vendi_score))
    if real is not None:
        add("recall", lambda: _recall(made, conditions, real))
    return found, skipped


def _recall(made: Features, conditions: Conditions, real: Features) -> ByCondition:
    if conditions.kind != "label" or real.labels is None:
        raise UserError("labels are needed on both sides")
    return recall_of_each(made.features, conditions.numbers, real.features, real.labels)


def _reference(
    options: DiversityOptions,
    protocol: Protocol,
    stream: ImageStream,
    extractor: Extractor,
    processes: Processes,
) -> Features | None:
    """Extract the features of the real images that `--reference` names, if it is given."""
    if not options.reference:
        return None
    (real,) = open_references(options, [protocol])
    if not isinstance(real, ImageStream):
        raise UserError(
            f"--reference {options.reference[0]}: is statistics; expected real images with labels"
        )
    if stream.classes and stream.classes != real.classes:
        expected = ", ".join(real.classes) or "numbers"
        found = f"{stream.origin} has the labels {', '.join(stream.classes):.200}"
        raise UserError(f"--reference: {found}; expected {expected:.200} as the reference")
    return extract(real, protocol, extractor, options.features, processes, progress=True)


def _distances(
    network: Perceptual, stream: ImageStream, conditions: Conditions, processes: Processes
) -> ByCondition:
    """Compute a perceptual distance of the images of each condition; every process takes its share of them.

    The images are read, or made, again: activations are too large to be stored.
    """
    numbers, counts = conditions.numbers.unique(return_counts=True)
    numbers = numbers[counts > 1]
    if not len(numbers):
        raise UserError(f"--perceptual {network.name}: no {conditions.kind} has two images")
    found: list[tuple[int, float]] = []
    hidden = not processes.is_main
    for number in track(processes.share(numbers.tolist()), network.name, "images", hidden=hidden):
        rows = (conditions.numbers == number).nonzero()[:, 0]
        found.append((number, mean_pairwise_distance(network, _usable(stream, rows))))
    values = dict(processes.gather(found))
    return ByCondition(numbers, torch.tensor([values[number] for number in numbers.tolist()]).double())


def _usable(stream: ImageStream, rows: Int64[Tensor, " k"]) -> Iterator[UInt8[Tensor, "c h w"]]:
    for image in stream.read(rows.tolist()):
        if isinstance(image, UserError):
            raise image
        yield image


def describe_origin(
    protocol: Protocol, extractor: Extractor, stream: ImageStream, made: Features, conditions: Conditions
) -> DiversityResults:
    """Describe all that the numbers depend on, before there are any."""
    counts = conditions.numbers.unique(return_counts=True)[1]
    return {
        "format": FORMAT,
        "protocol": protocol.name,
        "source": {"of": stream.origin, **stream.describe()},
        "n": len(stream),
        "first_seed": stream.first_seed,
        "kind": conditions.kind,
        "conditions": len(counts),
        "images": [int(counts.min()), int(counts.max())],
        "statistics": {},
        "perceptual": {},
        "reference_sha256": None,
        "preprocessing_sha256": protocol.sha256,
        "weights_sha256": extractor.sha256,
        "images_sha256": made.images_sha256,
        "skipped": {},
        "commit": commit(),
        "machine": machine(),
    }
