"""What a family of denoisers is: how the networks of a class are called, and where their features are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

Tensors = dict[str, Tensor]
Depths = dict[str, tuple[nn.Module, int]]
"""Layers by the names of their depths, and the channels of their outputs."""


@runtime_checkable
class PipelineFacts(Protocol):
    """Facts about an opened pipeline that decide the arguments of its network."""

    pipe: Any
    """The pipeline of diffusers."""
    config: Any
    """The configuration of its network."""
    embedded_guidance: float | None
    """Guidance scale that a guidance-distilled network takes as input."""
    image_shape: tuple[int, ...]
    """Shape of x_t."""
    pixel_shape: tuple[int, ...]
    """Shape of the images."""


def call_plainly(network: Any, inputs: Tensor, timestep: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Call a network as most are called."""
    output: Tensor = network(inputs, timestep=timestep, **arguments, return_dict=False)[0]
    return output


def one_time_unit(config: Any) -> float:
    """Return 1: the network takes the scheduler's steps."""
    return 1.0


def thousandth(config: Any) -> float:
    """Return 1/1000: the network takes times in [0, 1]."""
    return 1e-3


def own_patch(config: Any) -> int:
    """Return the side of the squares that a transformer turns into tokens."""
    patch: int = config.patch_size
    return patch


def last_tokens(output: Tensor, count: int) -> Tensor:
    """Return the tokens of the image, (b, count, width), if those of the prompt stand before them."""
    return output[:, -count:]


def left_alone(network: nn.Module) -> None:
    """Change nothing in a network."""


def unchanged(network: Any, guidance: float | None) -> nn.Module:
    """Return the network unchanged."""
    return network


@dataclasses.dataclass(frozen=True)
class Family:
    """One class of denoisers.

    A pipeline holds such a network as `part`, and calls it with the noisy image, `timestep` and the
    condition.
    """

    depths: Callable[[Any, int], Depths]
    """Returns the layers of a network whose outputs are features, for x_t of this height."""
    part: str = "transformer"
    call: Callable[[Any, Tensor, Tensor, dict[str, Any]], Tensor] = call_plainly
    """Calls the network with x_t, packed if it takes tokens, its timestep and the condition's arguments."""
    inputs: Callable[[PipelineFacts, Tensors], dict[str, Any]] | None = None
    """Turns an encoded prompt into arguments of the network; None for networks that take no prompt."""
    encoded: tuple[str, ...] = ()
    """Names of what the pipeline's `encode_prompt` returns; "no ..." names the unconditional tensors, and ""
    what is not used.

    Without these, the empty prompt is encoded as the unconditional one.
    """
    encode: Callable[[Any, dict[str, Any]], Sequence[Any]] | None = None
    """Encodes prompts in place of the pipeline's `encode_prompt`, given the pipeline and its arguments."""
    text_shapes: Callable[[Any, dict[str, Any]], dict[str, tuple[int, ...]]] | None = None
    """Returns the shapes of one encoded prompt, given the pipeline and the arguments of `encode_prompt`; None
    reads them from the network's configuration. Shorter ones are filled up with zeros."""
    channel_settings: tuple[str, str] = ("in_channels", "out_channels")
    """Settings of the network with the numbers of channels that it takes and returns."""
    returns_packed: bool = True
    """The setting with the channels that the network returns counts those of packed latents, if they are."""
    labels: str = ""
    """Setting of the network with the number of its classes."""
    has_null_label: bool = False
    """The network has one more class, which means no label."""
    packing: int = 1
    """Side of the squares of latents that make one token. Above 1 the network takes (b, tokens, channels)."""
    patch: Callable[[Any], int] = own_patch
    """Returns the side of the squares, of latents or of packed ones, that a transformer turns into tokens."""
    image_tokens: Callable[[Tensor, int], Tensor] = last_tokens
    """Returns the tokens of the image among a layer's output, (b, tokens, width), given their number."""
    image_output: int = -1
    """Index of the image's tokens among the outputs of a layer that returns several."""
    time_factor: Callable[[Any], float] = one_time_unit
    """Returns the factor from the scheduler's steps to the network's timestep, given its configuration."""
    takes_guidance: bool = False
    """The network may take a guidance scale as input, by its setting `guidance_embeds`."""
    keeps_guidance: bool = False
    """An exported network still takes a guidance scale: the default of its pipeline stands for its own."""
    unguided: dict[str, Any] = dataclasses.field(default_factory=lambda: {"guidance_scale": 0})
    """Arguments with which the pipeline samples without guidance; it may lack some of them."""
    guiders: tuple[str, ...] = ()
    """Parts by which the pipeline guides; that of an export has none, and so samples without guidance."""
    fixed_size: bool = False
    """The pipeline makes images of one size only."""
    default_size: int | None = None
    """Height and width of the latents of the pipeline's own call, if the network's configuration does not
    name them."""
    ignores_latent_shift: bool = False
    """The pipeline scales latents, but does not shift them by its autoencoder's `shift_factor`."""
    has_own_times: bool = False
    """The pipeline gives its network other times than those of its scheduler, so that only the first, of pure
    noise, is a student's."""
    shift: Callable[[PipelineFacts], float] | None = None
    """Returns the factor by which the pipeline's scheduler raises sigma/alpha of evenly spaced times, where
    the pipeline has a formula of its own; None takes that of SD 3 and FLUX.1."""
    prepare: Callable[[nn.Module], None] = left_alone
    """Prepares an opened network for its calls here."""
    exported: Callable[[Any, float | None], nn.Module] = unchanged
    """Returns the network to export, given the guidance scale that it takes as input."""

    @property
    def is_unet(self) -> bool:
        return self.part == "unet"

    def run(self, network: nn.Module, x_t: Tensor, timestep: Tensor, arguments: dict[str, Any]) -> Tensor:
        """Return the output of a network for x_t, (b, channels, h, w)."""
        if self.packing == 1:
            return self.call(network, x_t, timestep, arguments)
        tokens = pixel_unshuffle(x_t, self.packing).flatten(2).mT
        output = self.call(network, tokens, timestep, arguments)
        return pixel_shuffle(output.mT.unflatten(2, (x_t.shape[2] // self.packing, -1)), self.packing)

    def feature_map(self, output: Tensor, config: Any, height: int, width: int) -> Tensor:
        """Return a layer's output for x_t of this size as (b, channels, h, w)."""
        if self.is_unet:
            return output
        side = self.patch(config) * self.packing
        rows, columns = height // side, width // side
        return self.image_tokens(output, rows * columns).mT.unflatten(2, (rows, columns))
