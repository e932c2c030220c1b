"""CogView 4, whose pipeline gives its network times that are not those of the noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from distill.diffusion.constants import constant
from distill.networks.diffusers.families.depths import blocks
from distill.networks.diffusers.families.family import Family, PipelineFacts, Tensors, call_plainly
from distill.networks.diffusers.families.text import prompt_shapes


def cogview4_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of CogView 4, and the shift of its scheduler, which its time is free of.

    Sizes and crop are those of whole images.
    """
    tokens = text["tokens"]
    size = constant(tuple(pipeline.pixel_shape[1:]), tokens).expand(len(tokens), -1)
    return {
        "encoder_hidden_states": tokens,
        "attention_mask": text["mask"].bool(),
        "original_size": size,
        "target_size": size,
        "crop_coords": torch.zeros_like(size),
        "shift": shift_of(pipeline),
    }


def shift_of(pipeline: PipelineFacts) -> float:
    """Return m of the scheduler's shift from a time s to the noise level m s / (1 + (m - 1) s).

    It depends on the size of the image as in the pipeline's call.
    """
    from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift

    config = pipeline.pipe.scheduler.config
    if not config.get("use_dynamic_shifting"):
        return float(config.shift)
    height, width = pipeline.image_shape[1:]
    count = height * width // pipeline.config.patch_size**2
    settings = {"base_image_seq_len": 256, "base_shift": 0.25, "max_shift": 0.75}
    shift = calculate_shift(count, *(config.get(name, default) for name, default in settings.items()))
    return float(math.exp(shift) if config.time_shift_type == "exponential" else shift)


def run_cogview4(network: Any, x_t: Tensor, timestep: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Call CogView 4 at the time before its scheduler's shift, as its pipeline does."""
    shift = arguments["shift"]
    others = {name: value for name, value in arguments.items() if name != "shift"}
    level = timestep / 1000
    return call_plainly(network, x_t, 1000 * level / (level + shift * (1 - level)), others)


def mask_prompts(network: nn.Module) -> None:
    """Have the network's attention leave out what a mask of the prompt's tokens hides.

    Processors of diffusers add such a mask to the logits as zeros and ones, which hides nothing.
    """
    for module in network.modules():
        layer: Any = module
        kind: Any = type(getattr(layer, "processor", None))
        if kind.__name__ == "CogView4AttnProcessor":
            layer.set_processor(_masked_processor(kind)())


@functools.cache
def _masked_processor(kind: type) -> type:
    """Return a subclass of CogView 4's processor that takes a mask, (b, n), of the prompt's tokens."""

    class Masked(kind):  # type: ignore[misc, valid-type]
        @functools.wraps(kind.__call__)  # type: ignore[operator] # diffusers reads its parameters
        def __call__(
            self, attn: Any, hidden_states: Tensor, *args: Any, attention_mask: Any = None, **kwargs: Any
        ) -> Any:
            if attention_mask is None:
                return super().__call__(attn, hidden_states, *args, **kwargs)
            keys = pad(attention_mask, (0, hidden_states.shape[1]), value=True)
            with _KeyMask(keys[:, None, None]):
                return super().__call__(attn, hidden_states, *args, **kwargs)

    return Masked


class _KeyMask(TorchFunctionMode):
    """Gives PyTorch's attention a mask inside its context, also when a block is recomputed."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is scaled_dot_product_attention:
            kwargs["attn_mask"] = self.mask
        return func(*args, **kwargs)


def encode_cogview4(pipe: Any, arguments: dict[str, Any]) -> Sequence[Tensor]:
    """Encode prompts one by one, since the number of tokens in front of each depends on the longest.

    Return tokens and masks.
    """
    settings = {**arguments, "do_classifier_free_guidance": False}
    texts = [pipe.encode_prompt(**{**settings, "prompt": [prompt]})[0][0] for prompt in arguments["prompt"]]
    ones = [text.new_ones(len(text), dtype=torch.long) for text in texts]
    return [nn.utils.rnn.pad_sequence(rows, batch_first=True) for rows in (texts, ones)]


def cogview4_shapes(pipe: Any, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return prompt_shapes(settings["max_sequence_length"], pipe.transformer.config.text_embed_dim)


FAMILIES = {
    "CogView4Transformer2DModel": Family(
        blocks,
        call=run_cogview4,
        inputs=cogview4_inputs,
        encoded=("tokens", "mask"),
        encode=encode_cogview4,
        text_shapes=cogview4_shapes,
        image_output=0,
        prepare=mask_prompts,
        has_own_times=True,
        shift=shift_of,
    ),
}
