"""Networks of diffusers, U-Nets and transformers, as denoisers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.data.stored_prompts import StoredPrompts
from distill.diffusion.prediction import target_weight, to_x0
from distill.diffusion.schedules import Flow
from distill.networks.diffusers.families import Depths
from distill.networks.diffusers.opening.quantization import is_quantized
from distill.networks.diffusers.opening.teacher import (
    describe_encoder,
    open_source,
    open_source_without_weights,
    without_text,
)
from distill.networks.diffusers.pipeline import Pipeline
from distill.networks.diffusers.source import PipelineSource
from distill.types import Condition, Denoiser, EntryPoint, Features, expand_like

if TYPE_CHECKING:
    from typing_extensions import Self

PURE_NOISE = 80.0
"""Least sigma/alpha that counts as pure noise, which is infinite in flow matching; EDM's sigma_max."""

NO_NULL_LABEL = (
    "teacher.null_label: is not given; expected the class that means no label, "
    "without which there is no guidance"
)


class DiffusersNetwork(Denoiser):
    """A `Denoiser` around the network of a diffusers pipeline, whose other parts its copies share.

    Its depths are those of `distill.networks.diffusers.families`: in a U-Net the height of a level of the
    encoder, in latents if there are any ("64", ..., "8" in Stable Diffusion); in a transformer the number of
    a block; or "bottleneck".
    """

    network: Any

    def __init__(self, network: nn.Module, pipeline: Pipeline) -> None:
        super().__init__()
        self.network, self.pipeline = network, pipeline
        self.schedule, self.image_shape = pipeline.schedule, pipeline.image_shape
        self.label_count = pipeline.label_count
        self.codec, self.prompt_encoder = pipeline.codec, pipeline.prompt_encoder
        self.is_quantized = is_quantized(network)
        self.takes_reduced_weights = not self.is_quantized
        disable_label_dropout(network)
        pipeline.family.prepare(network)

    def describe(self) -> dict[str, Any]:
        """Return the settings that open its pipeline, with the type of its own weights as `dtype`."""
        return {**self.pipeline.source.describe(), "dtype": str(self.dtype).removeprefix("torch.")}

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of its weights, in which it computes, except for adapters if this is below float32."""
        return self.pipeline.dtype if self.is_quantized else next(self.network.parameters()).dtype

    def exported(self) -> DiffusersNetwork:
        """Return the network that `save_pipeline` is to write."""
        return self

    def save_pipeline(self, times: Sequence[float], folder: Path) -> None:
        """Write a pipeline that enters this network at these times, one for each of its steps."""
        self.pipeline.save(self.network, times, folder)

    def example_call(self, steps: int) -> dict[str, Any] | None:
        """Return arguments with which a pipeline from `save_pipeline` makes an image in as many steps.

        They include all without which it would take other steps, use guidance, or make images of another
        size. A U-Net of classes has none, since its pipeline takes no class.
        """
        known = inspect.signature(type(self.pipeline.pipe).__call__).parameters
        if self.label_count and "class_labels" not in known:
            return None
        call: dict[str, Any] = {}
        if self.takes_text:
            call["prompt"] = "a cat in a hat"
        elif self.label_count:
            call["class_labels"] = [0]
        call |= {"num_inference_steps": steps, **self.pipeline.family.unguided}
        if self.pipeline.family.keeps_guidance and self.pipeline.embedded_guidance is not None:
            del call["guidance_scale"]
        if self.pipeline.source.resolution is not None and not self.saves_resolution:
            _, height, width = self.pixel_shape
            call |= {"height": height, "width": width, "use_resolution_binning": False}
        return {name: value for name, value in call.items() if name in known}

    @property
    def saves_resolution(self) -> bool:
        """True if `save_pipeline` writes the chosen resolution, as it does into a U-Net's configuration."""
        return self.pipeline.family.is_unet

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> DiffusersNetwork:
        """Open the network of the pipeline that these settings describe, with the pipeline's weights."""
        return cls.open(PipelineSource.model_validate(description))

    @classmethod
    def open(cls, source: PipelineSource, prompts: Path | None = None) -> DiffusersNetwork:
        """Open the network of a pipeline, in evaluation mode, on the CPU.

        With a folder of precomputed `prompts` its text encoders are not opened.
        """
        if prompts is None:
            return cls.around(open_source(source), source)
        return cls._with_prompts(open_source(source, **without_text(source)), source, prompts)

    @classmethod
    def open_without_weights(
        cls, source: PipelineSource, min_component_parameters: int, prompts: Path | None = None
    ) -> DiffusersNetwork:
        """Open a pipeline as `open` does.

        Its denoiser and parts of at least so many parameters are on the meta device.
        """
        if prompts is None:
            return cls.around(open_source_without_weights(source, min_component_parameters), source)
        pipe = open_source_without_weights(source, min_component_parameters, **without_text(source))
        return cls._with_prompts(pipe, source, prompts)

    @classmethod
    def _with_prompts(cls, pipe: Any, source: PipelineSource, folder: Path) -> DiffusersNetwork:
        """Wrap the network of a pipeline without text encoders around precomputed prompts."""
        pipeline = Pipeline(pipe, source, StoredPrompts(folder, describe_encoder(pipe, source)))
        return cls(getattr(pipe, pipeline.family.part), pipeline).eval()

    @classmethod
    def around(cls, pipe: Any, source: PipelineSource) -> DiffusersNetwork:
        """Wrap the network of an opened pipeline, in evaluation mode."""
        pipeline = Pipeline(pipe, source)
        return cls(getattr(pipe, pipeline.family.part), pipeline).eval()

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Move the autoencoder and the text encoders too: every move of a module goes through here."""
        super()._apply(*args, **kwargs)
        self.pipeline.to(next(self.parameters()).device)
        return self

    def components(self) -> dict[str, Any]:
        return self.pipeline.components()

    def drop_encoder(self) -> None:
        self.pipeline.drop_encoder()

    def entry_points(self, noise_to_signal: Sequence[float]) -> list[EntryPoint]:
        """Return the nearest entry points that its pipeline has, the first with unit noise.

        These are whole steps from 1; in flow matching, t = 1 and then any time. There, a student that begins
        with less than pure noise raises UserError, as do steps that no pipeline takes.
        """
        t = self.schedule.t(torch.tensor(noise_to_signal, dtype=torch.float64))
        if not isinstance(self.schedule, Flow):
            t = t.round().clamp(min=1)
        elif noise_to_signal[0] >= PURE_NOISE:
            t[0] = 1.0
        else:
            raise UserError(
                f"generator.init_noise_to_signal: is {noise_to_signal[0]:g}; "
                f"expected at least {PURE_NOISE:g}, for pure noise, "
                "with which pipelines of flow matching begin"
            )
        alpha, sigma = self._levels(t)
        sigma[0] = 1.0
        self.pipeline.check_steps(t.tolist())
        return [EntryPoint(*row) for row in torch.stack([t, alpha, sigma], 1).tolist()]

    @property
    def depth_channels(self) -> dict[str, int]:
        """Channels at each depth that `features` may be asked for."""
        return {depth: channels for depth, (_, channels) in self._depths().items()}

    @overload
    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...
    @overload
    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]
    ) -> tuple[Tensor, Features]: ...

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Condition,
        depths: Sequence[str] = (),
    ) -> Tensor | tuple[Tensor, Features]:
        """Predict x_0 from x_t at time t; with `depths`, also return the features there."""
        with self._observed(depths, x_t) as features:
            output = self._run(x_t, t, cond)[:, : x_t.shape[1]]  # any further channels are a learned variance
        alpha, sigma = self._levels(t)
        x0 = to_x0(
            self.pipeline.prediction,
            output.to(x_t.dtype),
            x_t,
            expand_like(alpha, x_t),
            expand_like(sigma, x_t),
        )
        return (x0, features) if depths else x0

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        """Return the features at `depths` only; nothing runs after the deepest."""
        with self._observed(depths, x_t, alone=True) as features, suppress(_Enough):
            self._run(x_t, t, cond)
        return features

    def target_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the weight that turns the squared error of x_0 into that of the network's output."""
        alpha, sigma = self._levels(t)
        return target_weight(self.pipeline.prediction, alpha, sigma)

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.alpha(t), self.schedule.sigma(t)

    def _run(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Return the output of the network, (b, channels, h, w)."""
        timestep = self.pipeline.model_timestep(t)
        return self.pipeline.family.run(
            self.network, x_t.to(self.dtype), timestep, self._condition(cond, len(x_t))
        )

    def _condition(self, cond: Condition, count: int) -> dict[str, Any]:
        """Return a condition as arguments of the network."""
        if self.pipeline.prompt_encoder is not None and self.pipeline.family.inputs is not None:
            text = cond.text or self.pipeline.prompt_encoder.unconditional(count).to(self._device)
            given = {
                name: value.to(self.dtype) if value.is_floating_point() else value
                for name, value in text.given.items()
            }
            return self.pipeline.family.inputs(self.pipeline, given)
        if self.label_count:
            return {"class_labels": self._class_labels(cond, count)}
        return {}

    def _class_labels(self, cond: Condition, count: int) -> Tensor:
        """Return a batch's classes, with the network's own class for no label."""
        label, null_label = cond.label, self.pipeline.null_label
        if null_label is None:
            # Labels on a GPU are not read, which would wait for it; its kernels fail at a label of -1.
            if label is None or (label.device.type == "cpu" and (label < 0).any()):
                raise UserError(NO_NULL_LABEL)
            return label
        if label is None:
            return torch.full((count,), null_label, device=self._device)
        return label.where(label >= 0, null_label)

    def require_unconditional(self) -> None:
        """Refuse a network with labels that has none for no label: it cannot be guided."""
        if self.label_count and self.pipeline.null_label is None:
            raise UserError(NO_NULL_LABEL)

    def _depths(self) -> Depths:
        return self.pipeline.family.depths(self.network, self.image_shape[1])

    @contextmanager
    def _observed(self, depths: Sequence[str], x_t: Tensor, alone: bool = False) -> Iterator[Features]:
        """Record the features at these depths; with `alone`, stop the network after the last of them."""
        features: Features = {}
        layers = self._depths() if depths else {}

        def record(depth: str, module: nn.Module, inputs: Any, output: Any) -> None:
            features[depth] = self._as_map(output, x_t)
            if alone and len(features) == len(set(depths)):
                raise _Enough

        handles = [
            layers[depth][0].register_forward_hook(functools.partial(record, depth)) for depth in depths
        ]
        try:
            yield features
        finally:
            for handle in handles:
                handle.remove()

    def _as_map(self, output: Any, x_t: Tensor) -> Tensor:
        """Return a layer's output as (b, channels, h, w)."""
        family = self.pipeline.family
        if not isinstance(output, Tensor):
            output = output[0 if family.is_unet else family.image_output]
        return family.feature_map(output.to(x_t.dtype), self.network.config, *x_t.shape[2:])


def disable_label_dropout(network: nn.Module) -> None:
    """Keep the label embeddings of DiT from dropping labels in training by themselves."""
    for module in network.modules():
        layer: Any = module
        if type(layer).__name__ == "LabelEmbedding":
            layer.dropout_prob = 0


class _Enough(Exception):
    """Stops a forward pass when its features are all that is needed."""
