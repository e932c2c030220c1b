"""The networks of diffusers, U-Nets and transformers, as denoisers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from distill.config.errors import UserError
from distill.diffusion import prediction as parameterization
from distill.diffusion.schedules import Flow
from distill.networks.diffusers.families import Depths
from distill.networks.diffusers.pipeline import Pipeline, open_pipeline
from distill.networks.diffusers.source import PipelineSource
from distill.types import Condition, Denoiser, EntryPoint, Features, expand_like

if TYPE_CHECKING:
    from typing_extensions import Self

PURE_NOISE = 80.0
"""sigma/alpha from which on a noise level is taken for nothing but noise, which is infinite in flow matching: EDM's sigma_max."""


class DiffusersNetwork(Denoiser):
    """A `Denoiser` around the network of a diffusers pipeline, whose other parts its copies share.

    Features for a discriminator are asked for by depth, as in `distill.networks.diffusers.families`: in a U-Net the height of a level of
    the encoder, in latents where there are any ("64", ..., "8" in Stable Diffusion), as it leaves the level; in a transformer the number of a
    block; or "bottleneck".
    """

    network: Any

    def __init__(self, network: nn.Module, pipeline: Pipeline) -> None:
        super().__init__()
        self.network, self.pipeline = network, pipeline
        self.schedule, self.image_shape = pipeline.schedule, pipeline.image_shape
        self.label_count = pipeline.label_count
        self.codec, self.prompt_encoder = pipeline.codec, pipeline.prompt_encoder
        labels: list[Any] = [
            module for module in network.modules() if type(module).__name__ == "LabelEmbedding"
        ]
        for module in labels:
            module.dropout_prob = 0  # in training it would drop labels by itself

    def describe(self) -> dict[str, Any]:
        """The settings that open its pipeline, with weights of its own type."""
        return {**self.pipeline.source.describe(), "dtype": str(self.dtype).removeprefix("torch.")}

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are held in, and what it computes in, but for adapters, where these are less than float32."""
        return next(self.network.parameters()).dtype

    def exported(self) -> DiffusersNetwork:
        """The network that `save_pipeline` is to write."""
        return self

    def save_pipeline(self, times: Sequence[float], folder: Path) -> None:
        """Write a pipeline that enters this network at these times, one for each of its steps."""
        self.pipeline.save(self.network, times, folder)

    def example_call(self, steps: int) -> dict[str, Any] | None:
        """Arguments for an image, in so many steps, of a pipeline with what `save_pipeline` wrote: those without which it would take other steps, be
        guided, or be of another size. None for U-Nets of classes, whose pipelines cannot be told one."""
        known = inspect.signature(type(self.pipeline.pipe).__call__).parameters
        if self.label_count and "class_labels" not in known:
            return None
        call: dict[str, Any] = (
            {"prompt": "a cat in a hat"}
            if self.takes_text
            else {"class_labels": [0]}
            if self.label_count
            else {}
        )
        call |= {"num_inference_steps": steps, "guidance_scale": 0}
        if self.pipeline.source.resolution is not None and not self.leaves_with_its_size:
            call |= {
                "height": self.pixel_shape[1],
                "width": self.pixel_shape[2],
                "use_resolution_binning": False,
            }
        return {name: value for name, value in call.items() if name in known}

    @property
    def leaves_with_its_size(self) -> bool:
        """Whether `save_pipeline` writes down another size than the teacher's own: a U-Net's configuration says it."""
        return self.pipeline.family.part == "unet"

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> DiffusersNetwork:
        """The network of the pipeline that these settings open, with the pipeline's weights. Raises UserError where they open none."""
        return cls.open(PipelineSource.model_validate(description))

    @classmethod
    def open(cls, source: PipelineSource) -> DiffusersNetwork:
        """Open the network of a pipeline, in evaluation mode, on the CPU. Raises UserError where there is none, or it is of an unknown kind."""
        settings: dict[str, Any] = {"revision": source.revision, "variant": source.variant}
        if source.dtype != "float32":  # which is the default
            settings["dtype"] = getattr(torch, source.dtype)
        return cls.around(open_pipeline(source.path, "teacher.path", **settings), source)

    @classmethod
    def around(cls, pipe: Any, source: PipelineSource) -> DiffusersNetwork:
        """The network of an opened pipeline, in evaluation mode."""
        pipeline = Pipeline(pipe, source)
        return cls(getattr(pipe, pipeline.family.part), pipeline).eval()

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """What every move of a module goes through: the pipeline's other parts that work on tensors go with it."""
        super()._apply(*args, **kwargs)
        self.pipeline.to(next(self.parameters()).device)
        return self

    def components(self) -> dict[str, Any]:
        return self.pipeline.components()

    def entry_points(self, noise_to_signal: Sequence[float]) -> list[EntryPoint]:
        """The nearest that its pipeline can enter at, first with unit noise: whole steps from 1, in flow matching t = 1 and then any time.

        Raises UserError where the student is to begin with less than pure noise in flow matching, or to take steps that a pipeline cannot.
        """
        t = self.schedule.t(torch.tensor(noise_to_signal, dtype=torch.float64))
        if not isinstance(self.schedule, Flow):
            t = t.round().clamp(min=1)
        elif noise_to_signal[0] >= PURE_NOISE:
            t[0] = 1.0
        else:
            expected = f"expected at least {PURE_NOISE:g}, for pure noise, with which pipelines of flow matching begin"
            raise UserError(f"generator.init_noise_to_signal: is {noise_to_signal[0]:g}; {expected}")
        alpha, sigma = self._levels(t)
        sigma[0] = 1.0
        self.pipeline.check_steps(t.tolist())
        return [EntryPoint(*row) for row in torch.stack([t, alpha, sigma], 1).tolist()]

    @property
    def depth_channels(self) -> dict[str, int]:
        """Names of the depths that `features` may ask for, and the channels of each."""
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
        """Predict x_0 from x_t at time t; with `depths`, also return the features at those depths."""
        with self._observed(depths, x_t) as features:
            output = self._run(x_t, t, cond)[:, : x_t.shape[1]]  # what may follow is a learned variance
        x0 = parameterization.to_x0(
            self.pipeline.prediction,
            output.to(x_t.dtype),
            x_t,
            *(expand_like(value, x_t) for value in self._levels(t)),
        )
        return (x0, features) if depths else x0

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        """Only the features at `depths`: nothing runs after the deepest."""
        with self._observed(depths, x_t, alone=True) as features, suppress(_Enough):
            self._run(x_t, t, cond)
        return features

    def target_weight(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Weight of the squared error of x_0 that makes it the squared error of what the network predicts."""
        return parameterization.target_weight(self.pipeline.prediction, *self._levels(t))

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.alpha(t), self.schedule.sigma(t)

    def _run(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """What the network predicts, (b, channels, h, w)."""
        packing = self.pipeline.family.packing
        x = x_t.to(self.dtype)
        inputs = x if packing == 1 else pixel_unshuffle(x, packing).flatten(2).mT
        output = self.network(
            inputs,
            timestep=self.pipeline.model_timestep(t),
            **self._condition(cond, len(x_t)),
            return_dict=False,
        )[0]
        if packing == 1:
            return output
        return pixel_shuffle(output.mT.unflatten(2, (x_t.shape[2] // packing, -1)), packing)

    def _condition(self, cond: Condition, count: int) -> dict[str, Any]:
        """The condition as the network takes it."""
        if self.pipeline.prompt_encoder is not None and self.pipeline.family.inputs is not None:
            text = cond.text or self.pipeline.prompt_encoder.unconditional(count)
            given = {
                name: value.to(self.dtype) if value.is_floating_point() else value
                for name, value in text.given.items()
            }
            return self.pipeline.family.inputs(self.pipeline, given)
        if not self.label_count:
            return {}
        label = (
            torch.full((count,), -1, device=next(self.parameters()).device)
            if cond.label is None
            else cond.label
        )
        if self.pipeline.null_label is not None:
            label = label.where(label >= 0, self.pipeline.null_label)
        elif not label.is_meta and (label < 0).any():
            raise UserError(
                "teacher.null_label: is not given; expected the class that means no label, without which there is no guidance"
            )
        return {"class_labels": label}

    def _depths(self) -> Depths:
        return self.pipeline.family.depths(self.network, self.image_shape[1])

    @contextmanager
    def _observed(self, depths: Sequence[str], x_t: Tensor, alone: bool = False) -> Iterator[Features]:
        """Within, what passes these depths is written down; where it is wanted `alone`, the network stops after the last of them."""
        features: Features = {}
        handles = []
        for depth in depths:

            def note(module: nn.Module, inputs: Any, output: Any, depth: str = depth) -> None:
                features[depth] = self._as_map(output, x_t)
                if alone and len(features) == len(set(depths)):
                    raise _Enough

            handles.append(self._depths()[depth][0].register_forward_hook(note))
        try:
            yield features
        finally:
            for handle in handles:
                handle.remove()

    def _as_map(self, output: Any, x_t: Tensor) -> Tensor:
        """A layer's output, (b, channels, h, w): a transformer's tokens of the image, which come last, lie row by row."""
        is_unet = self.pipeline.family.part == "unet"
        value: Tensor = output if isinstance(output, Tensor) else output[0 if is_unet else -1]
        value = value.to(x_t.dtype)
        if is_unet:
            return value
        side = self.network.config.patch_size * self.pipeline.family.packing
        height, width = (length // side for length in x_t.shape[2:])
        return value[:, -height * width :].mT.unflatten(2, (height, width))


class _Enough(Exception):
    """Ends a pass of which only the features are wanted."""
