"""Images of a diffusers pipeline, called as its users call it: with its own scheduler and guidance."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.images.streams import prompts_sha256
from distill.networks.identity import PLACES, part_sha256


class PipelineImages:
    """`count` images of a pipeline, row i from the seed first_seed + i alone, with prompts or labels in turn.

    `settings` go to every call of the pipeline. An image that is not finite is given as the UserError that
    says so.
    """

    def __init__(
        self,
        pipe: Any,
        count: int,
        first_seed: int = 0,
        prompts: Sequence[str] = (),
        batch_size: int = 16,
        **settings: Any,
    ) -> None:
        self.pipe = pipe
        self.count = count
        self.first_seed = first_seed
        self.prompts = prompts
        self.batch_size = batch_size
        self.settings = settings
        self.origin = f"the {type(pipe).__name__}"
        self.classes: tuple[str, ...] = ()
        known = inspect.signature(type(pipe).__call__).parameters
        self.takes_text = "prompt" in known
        if self.takes_text != bool(prompts):
            takes = "text; expected a file of prompts" if self.takes_text else "no text; leave them out"
            raise UserError(f"--prompts: {self.origin} takes {takes}")
        for name in settings:
            if name not in known:
                raise UserError(f"--pipeline: {self.origin} takes no {name}; leave it out")
        takes_labels = "class_labels" in known
        self.label_count: int = pipe.transformer.config.num_embeds_ada_norm if takes_labels else 0
        pipe.set_progress_bar_config(disable=True)
        self.parts = {
            name: part_sha256(part) for name, part in sorted(pipe.components.items()) if part is not None
        }
        self.parts["pipeline"] = _sha256(
            {name: value for name, value in pipe.config.items() if name not in PLACES}
        )

    def __len__(self) -> int:
        return self.count

    @property
    def identity(self) -> dict[str, Any]:
        """All that an image depends on apart from its seed and its prompt."""
        return {
            "kind": "pipeline",
            "class": type(self.pipe).__name__,
            "dtype": str(self.pipe.dtype),
            "parts_sha256": _sha256(self.parts),
            "settings": self.settings,
        }

    def describe(self) -> dict[str, Any]:
        described = self.identity | {"first_seed": self.first_seed}
        if self.prompts:
            described["prompts"] = len(self.prompts)
            described["prompts_sha256"] = prompts_sha256(self.prompts)
        return described

    def name(self, row: int) -> str:
        return f"the image of seed {self.first_seed + row}"

    def stamp(self, row: int) -> str:
        return str(self.first_seed + row)

    def label(self, row: int) -> int:
        return row % self.label_count

    def read(self, rows: Sequence[int]) -> Iterator[UInt8[Tensor, "c h w"] | UserError]:
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            for row, image in zip(batch, self._call(batch), strict=True):
                if image.isfinite().all():
                    yield (image * 255).round().to(torch.uint8)
                else:
                    yield UserError(f"{self.origin}: {self.name(row)} has values that are not finite")

    def _call(self, rows: Sequence[int]) -> Float[Tensor, "b c h w"]:
        """Make images in [0, 1]."""
        inputs: dict[str, Any] = {"batch_size": len(rows)}
        if self.takes_text:
            inputs = {"prompt": [self.prompts[row % len(self.prompts)] for row in rows]}
        elif self.label_count:
            inputs = {"class_labels": [self.label(row) for row in rows]}
        generators = [torch.Generator().manual_seed(self.first_seed + row) for row in rows]
        images = self.pipe(**inputs, generator=generators, output_type="np", **self.settings).images
        return torch.from_numpy(images).permute(0, 3, 1, 2)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
