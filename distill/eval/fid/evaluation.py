"""Results of a measurement from the features of its images: statistics, and all that they depend on."""

from __future__ import annotations

from distill.config.errors import UserError
from distill.eval.features import Extractor
from distill.eval.fid.measure import Effort, measure, summarise
from distill.eval.fid.reference import HeldOut, Reference
from distill.eval.fid.results import FORMAT, DescribedHeldOut, FidResults
from distill.eval.images.extraction import Features
from distill.eval.images.streams import ImageStream
from distill.eval.metrics.frechet_ratio import SUBSET_SEED
from distill.eval.protocols import Protocol
from distill.storage.provenance import commit, machine


def evaluate(
    protocol: Protocol,
    extractor: Extractor,
    streams: list[ImageStream],
    made: list[Features],
    reference: Reference,
    effort: Effort,
) -> FidResults:
    """Measure one or more repetitions, given as streams and their features.

    The results also describe all that the numbers depend on.
    """
    first = streams[0]
    check_dimensions(first, made[0], reference)
    measured = [measure(features, reference, effort, first.classes) for features in made]
    seeds = [stream.first_seed for stream in streams if stream.first_seed is not None]
    first_seeds = seeds or None
    repetitions = zip(made, measured, strict=True)
    results: FidResults = {
        "format": FORMAT,
        "protocol": protocol.name,
        "metric": protocol.metric,
        "source": {"of": first.origin, **first.describe()},
        "n": len(first),
        "first_seeds": first_seeds,
        "departures": protocol.departures(len(first), first_seeds) + unknown_statistics(reference),
        "summary": summarise([one.numbers for one in measured]),
        "repetitions": [
            {"images_sha256": features.images_sha256, **one.numbers} for features, one in repetitions
        ],
        "reference": {**reference.origin, "sha256": reference.sha256},
        "preprocessing_sha256": protocol.sha256,
        "weights_sha256": extractor.sha256,
        "skipped": measured[0].skipped,
        "warnings": warnings(first, made, measured[0].warning, reference),
        "commit": commit(),
        "machine": machine(),
    }
    if reference.held_out is not None:
        results["held_out"] = describe_held_out(reference.held_out)
    return results


def describe_held_out(held_out: HeldOut) -> DescribedHeldOut:
    """Describe the real images that are the unit of FDr."""
    return {
        "of": held_out.origin,
        "count": len(held_out.images),
        "sha256": held_out.images.images_sha256,
        "subset_seed": SUBSET_SEED,
    }


def warnings(stream: ImageStream, made: list[Features], doubt: str | None, reference: Reference) -> list[str]:
    """Collect what makes the numbers doubtful: too few images, notes on images, and repeated prompts."""
    doubts = {"generated": doubt, "reference": reference.statistics.warning}
    real = [reference.images, None if reference.held_out is None else reference.held_out.images]
    sides = [*made, *(features for features in real if features is not None)]
    notes = dict.fromkeys(note for features in sides for note in features.notes)
    return [
        *(f"{name}: {found}" for name, found in doubts.items() if found),
        *notes,
        *repeated_prompts(stream),
    ]


def check_dimensions(stream: ImageStream, made: Features, reference: Reference) -> None:
    """Refuse features of another dimension than the reference's, such as pixels of another size."""
    found, expected = made.features.shape[1], len(reference.statistics.mean)
    if found != expected:
        real = f"expected {expected} as of the reference, {reference.origin['of']}"
        raise UserError(f"{stream.origin}: features of {found} dimensions; {real}")


def unknown_statistics(reference: Reference) -> list[str]:
    """Name a departure from the protocol if nobody says how the reference's statistics were made."""
    return [] if reference.origin.get("known", True) else ["reference statistics of unknown origin"]


def repeated_prompts(stream: ImageStream) -> list[str]:
    """Warn of more images than prompts, which make another number than as many different prompts."""
    prompts = stream.describe().get("prompts", len(stream))
    if prompts >= len(stream):
        return []
    return [f"generated: {prompts} prompts for {len(stream)} images, taken in turn"]
