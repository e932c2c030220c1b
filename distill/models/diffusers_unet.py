"""The U-Nets of diffusers, `UNet2DModel` and `UNet2DConditionModel`, as denoisers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill import parameterization
from distill.errors import UserError
from distill.models.pipeline import Pipeline
from distill.schedules import Flow, like
from distill.types import Condition, Denoiser, Features

if TYPE_CHECKING:
    from typing_extensions import Self


class DiffusersUNet(Denoiser):
    """A `Denoiser` around the U-Net of a diffusers pipeline, whose other parts its copies share.

    Features for a discriminator are asked for by depth: the height of a level of the encoder, in latents where there are any ("64", ..., "8" in
    Stable Diffusion), as it leaves the level, or "bottleneck".
    """

    network: Any

    def __init__(self, network: nn.Module, pipeline: Pipeline) -> None:
        super().__init__()
        self.network, self.pipeline = network, pipeline
        self.schedule, self.image_shape = pipeline.schedule, pipeline.image_shape
        self.label_count, self.takes_text = pipeline.label_count, pipeline.takes_text
        # Flow-matching networks are told t in thousandths, as others their steps.
        self.time_scale = pipeline.train_steps if isinstance(self.schedule, Flow) else 1

    def describe(self) -> dict[str, Any]:
        """The settings that open its pipeline."""
        return self.pipeline.source

    def save_pipeline(self, noise_to_signal: float, folder: Path) -> None:
        """Write a pipeline whose one step enters this network at its entry for that noise level."""
        self.pipeline.save(self.network, self.entry_point(noise_to_signal)[0], folder)

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> DiffusersUNet:
        """The network of the pipeline that these settings open, with the pipeline's weights. Raises UserError where they open none."""
        from distill.teachers.diffusers import Settings

        return Settings(**description).load()

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As of any module; the pipeline's other parts that work on tensors go with it."""
        super().to(*args, **kwargs)
        self.pipeline.to(next(self.parameters()).device)
        return self

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        return self.pipeline.pixel_shape

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        return self.pipeline.encode(images)

    def decode(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        return self.pipeline.decode(x0)

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        return self.pipeline.encode_prompts(prompts)

    def prompt_encoder_sha256(self) -> str:
        return self.pipeline.prompt_encoder_sha256()

    def entry_point(self, noise_to_signal: float) -> tuple[float, float]:
        """The nearest time that its pipeline can begin at, which is a whole step, and the scale of the noise that it begins with, 1.

        Raises UserError for flow matching: diffusers has no pipeline that could run such a student.
        """
        if isinstance(self.schedule, Flow):
            raise UserError("generator.network: a copy of a flow-matching U-Net is no pipeline of diffusers; expected a teacher of DDPM's kind")
        return self.schedule.t(torch.tensor(noise_to_signal, dtype=torch.float64)).round().item(), 1.0

    @property
    def depth_channels(self) -> dict[str, int]:
        """Names of the depths that `features` may ask for, and the channels of each."""
        channels = self.network.config.block_out_channels
        return {str(self.image_shape[1] >> level): count for level, count in enumerate(channels)} | {"bottleneck": channels[-1]}

    @overload
    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...
    @overload
    def forward(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> tuple[Tensor, Features]: ...

    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition, depths: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, Features]:
        """Predict x_0 from x_t at time t; with `depths`, also return the encoder's features at those depths."""
        with self._observed(depths) as features:
            output = self._run(x_t, t, cond)[:, : x_t.shape[1]]  # what may follow is a learned variance
        x0 = parameterization.to_x0(self.pipeline.prediction, output.to(x_t.dtype), x_t, *(like(value, x_t) for value in self._levels(t)))
        return (x0, features) if depths else x0

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        """Only the encoder's features at `depths`: the decoder does not run."""

        def stop(*_: Any) -> None:
            raise _DecoderReached

        handle = self.network.up_blocks[0].register_forward_pre_hook(stop)
        try:
            with self._observed(depths) as features:
                self._run(x_t, t, cond)
        except _DecoderReached:
            pass
        finally:
            handle.remove()
        return features

    def target_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Weight of the squared error of x_0 that makes it the squared error of what the network predicts."""
        return parameterization.target_weight(self.pipeline.prediction, *self._levels(t))

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.alpha(t), self.schedule.sigma(t)

    def _run(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.network(x_t, t * self.time_scale, **self._inputs(cond, len(x_t)), return_dict=False)[0]

    def _inputs(self, cond: Condition, count: int) -> dict[str, Any]:
        """The condition as the U-Net takes it."""
        if self.takes_text:
            text = cond.text or self.pipeline.no_text(count)
            added = {name: text.given[key] for name, key in (("text_embeds", "pooled"), ("time_ids", "ids")) if key in text.given}
            return {"encoder_hidden_states": text.given["tokens"], "added_cond_kwargs": added or None}
        if not self.label_count:
            return {}
        label = torch.full((count,), -1, device=next(self.parameters()).device) if cond.label is None else cond.label
        if self.pipeline.null_label is not None:
            label = label.where(label >= 0, self.pipeline.null_label)
        elif (label < 0).any():
            raise UserError("teacher.null_label: is not given; expected the class that means no label, without which there is no guidance")
        return {"class_labels": label}

    @contextmanager
    def _observed(self, depths: Sequence[str]) -> Iterator[Features]:
        """Within, what passes these depths is written down."""
        features: Features = {}
        handles = []
        for depth in depths:

            def note(module: nn.Module, inputs: Any, output: Any, depth: str = depth) -> None:
                features[depth] = output if isinstance(output, Tensor) else output[0]

            handles.append(self._layer(depth).register_forward_hook(note))
        try:
            yield features
        finally:
            for handle in handles:
                handle.remove()

    def _layer(self, depth: str) -> nn.Module:
        """The last layer at a depth, before the resolution is halved."""
        if depth == "bottleneck":
            return self.network.mid_block
        block = self.network.down_blocks[list(self.depth_channels).index(depth)]
        layers = getattr(block, "attentions", None) or block.resnets
        return layers[-1]


class _DecoderReached(Exception):
    """Ends a pass of which only the encoder is wanted."""
