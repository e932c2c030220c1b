"""Features of real images, for terms that compare the student's with them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from distill.config.errors import UserError
from distill.diffusion.sampling import max_batch_size
from distill.objectives.term import Reference, StatefulTerm
from distill.training.batches.reading import read_images
from distill.training.distillation.method import Method
from distill.training.parallel.processes import Processes
from distill.training.parallel.sampling import gather_rows, own_rows
from distill.types import DataSource, ImageModel, to_device


class ComparingTerm(NamedTuple):
    """A term that compares with real images and remembers the steps before."""

    name: str
    term: StatefulTerm
    reference: Reference


def comparing_terms(method: Method) -> list[ComparingTerm]:
    """Return the terms of a method that compare with real images."""
    found = []
    for weighted in method.terms:
        settings, term = weighted.settings, weighted.term
        if settings.reference is not None and isinstance(term, StatefulTerm):
            found.append(ComparingTerm(settings.name, term, settings.reference))
    return found


@torch.no_grad()
def prepare_term(
    comparing: ComparingTerm, source: DataSource, model: ImageModel, processes: Processes
) -> None:
    """Give a term the features of at most as many real images as its reference says, spread over the source.

    Processes share the work, and all get the whole.
    """
    term = comparing.term
    count = min(len(source), comparing.reference.limit)
    if count < 2:
        raise UserError(f"terms: {comparing.name} needs at least 2 real images; found {count}")
    rows = torch.tensor([row * len(source) // count for row in own_rows(count, processes)])
    parts = []
    for part in rows.split(max_batch_size(model.pixel_shape)):
        images = to_device(read_images(source, part), processes.device)
        if source.image_shape != model.pixel_shape:
            images = model.decode(images)
        parts.append(term.features(images))
    term.prepare(to_device(gather_rows(torch.cat(parts), count, processes), processes.device))
