"""Low-rank adapters (LoRA, Hu et al. 2021) by peft: few trainable parameters, no second copy of the base."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.config.errors import UserError, did_you_mean
from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.networks.diffusers.meta import without_weights
from distill.networks.diffusers.pipeline import Pipeline
from distill.networks.folder import ADAPTERS
from distill.storage.tensors import check_weights, load_tensors

ADAPTER = "default"
"""peft's name for an adapter without a name. It is part of weights' names in modules, but not in files."""
CAMERA = ".cond_proj.camera."
"""Part of the name of the weights of a map of the camera, in a fake score that reads it."""


class LoRANetwork(DiffusersNetwork):
    """A `DiffusersNetwork` with the frozen weights of another one and its own adapters at scale alpha/rank.

    `alpha` None takes `rank`, for a scale of 1. `targets` are the ends of the names of the layers to adapt;
    None takes all linear layers in blocks. The frozen weights are the other network's tensors themselves, and
    a copy of this network shares them again but has its own adapters. Its state is the adapters only.
    """

    def __init__(
        self,
        base: DiffusersNetwork,
        rank: int,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
    ) -> None:
        import peft

        if base.is_quantized and not _can_be_exported(base.pipeline):
            raise UserError(
                "teacher.path: is quantised in its files, and its pipeline loads no adapters, so that no "
                "student could be exported; expected the pipeline in full precision, and teacher.quantization"
            )
        super().__init__(copy.deepcopy(base.network, shared(base.network)), base.pipeline)
        self.sizes: dict[str, Any] = {
            "rank": rank,
            "alpha": rank if alpha is None else alpha,
            "targets": targets,
        }
        layers = choose_layers(self.network, targets)
        config = peft.LoraConfig(r=rank, lora_alpha=self.sizes["alpha"], target_modules=layers)
        with without_weights():
            peft.inject_adapter_in_model(config, self.network, ADAPTER)
        for parameter in self.adapters():
            parameter.data = parameter.data.float()
        device = next(self.network.parameters()).device
        if device.type != "meta":
            self.initialize_own_weights(device)
        self.register_state_dict_post_hook(_leave_out_the_base)
        self.register_load_state_dict_post_hook(_miss_no_base)

    def __deepcopy__(self, memo: dict[int, Any]) -> LoRANetwork:
        memo.update(shared(self, without=self.adapters()))
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def adapters(self) -> list[nn.Parameter]:
        """Return the adapters' parameters, the only ones that are trained."""
        return [parameter for name, parameter in self.named_parameters() if is_adapter(name)]

    def whole_parameters(self) -> list[nn.Parameter]:
        """Return the adapters too: they are small."""
        return [*super().whole_parameters(), *self.adapters()]

    def initialize_own_weights(self, device: torch.device) -> None:
        """Initialise the adapters, built on the meta device, so that they change nothing."""
        for layer in _adapted(self.network).values():
            for matrices in (layer.lora_A, layer.lora_B):
                matrices[ADAPTER].to_empty(device=device)
            layer.reset_lora_parameters(ADAPTER, init_lora_weights=True)

    def describe(self) -> dict[str, Any]:
        """Return the settings that open its pipeline, and those of its adapters."""
        return {**super().describe(), "lora": self.sizes}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> LoRANetwork:
        """Open the network with the pipeline's weights and untrained adapters."""
        source = {name: value for name, value in description.items() if name != "lora"}
        return cls(DiffusersNetwork.from_description(source), **description["lora"])

    def exported(self) -> DiffusersNetwork:
        """Return this network with adapters of scale 1, which diffusers assumes in their files.

        If its pipeline cannot load adapters, return the network with merged weights.
        """
        if not hasattr(self.pipeline.pipe, "save_lora_weights"):
            return self.merged()
        other = copy.deepcopy(self)
        other.rescale(self.sizes["rank"])
        return other

    def rescale(self, alpha: float) -> None:
        """Change alpha, and divide the matrices B by as much, so that the network computes the same."""
        factor = self.sizes["alpha"] / alpha
        self.sizes = {**self.sizes, "alpha": alpha}
        for layer in _adapted(self.network).values():
            layer.lora_B[ADAPTER].weight.data.mul_(factor)
            layer.scaling[ADAPTER] = alpha / self.sizes["rank"]

    def merged(self) -> DiffusersNetwork:
        """Return the network without adapters, which are added to a copy of its weights, in float32.

        Those of a quantised network are added to the weights that it was quantised from.
        """
        if self.is_quantized:
            return self._on_full_precision().merged()
        network = copy.deepcopy(self.network).float()
        for name, layer in _adapted(network).items():
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, layer.get_base_layer())
        return DiffusersNetwork(network, self.pipeline)

    def _on_full_precision(self) -> LoRANetwork:
        """Return these adapters on the weights before their quantisation."""
        source = self.pipeline.source.model_copy(update={"dtype": "float32", "quantization": None})
        other = LoRANetwork(DiffusersNetwork.open(source), **self.sizes)
        other.load_state_dict(self.state_dict())
        return other

    def save_pipeline(self, times: Sequence[float], folder: Path) -> None:
        """Write what turns the base's pipeline into this one: a scheduler, and adapters of scale 1.

        `load_lora_weights` of diffusers reads the adapters.
        """
        part = self.pipeline.family.part
        weights = {_without_adapter(name): value.contiguous() for name, value in self.network_state().items()}
        self.pipeline.pipe.save_lora_weights(folder, **{f"{part}_lora_layers": weights})
        self.pipeline.student_scheduler(times).save_pretrained(folder / "scheduler")

    def example_call(self, steps: int) -> dict[str, Any] | None:
        """Return the call of the base's pipeline, with the guidance scale that the network takes, if any."""
        call = super().example_call(steps)
        guidance = self.pipeline.embedded_guidance
        if call is None or guidance is None:
            return call
        return {**call, "guidance_scale": guidance}

    @property
    def saves_resolution(self) -> bool:
        """False: the base's pipeline has its own size."""
        return False

    def load_adapters(self, folder: Path) -> None:
        """Read the adapters that `save_pipeline` wrote."""
        part = self.pipeline.family.part
        names = {f"{part}.{_without_adapter(name)}": name for name in self.network_state()}
        found = load_tensors(folder / ADAPTERS)
        tensors = {names.get(name, name): value for name, value in found.items()}
        check_weights(self, {f"network.{name}": value for name, value in tensors.items()}, folder / ADAPTERS)
        self.network.load_state_dict(tensors, strict=False)

    def network_state(self) -> dict[str, Tensor]:
        """Return the adapters by their names in the network."""
        return {name.removeprefix("network."): value for name, value in self.state_dict().items()}


def _can_be_exported(pipeline: Pipeline) -> bool:
    """Tell whether adapters on a quantised network can leave it: as they are, or merged into full weights."""
    return hasattr(pipeline.pipe, "save_lora_weights") or pipeline.source.quantization is not None


def is_adapter(name: str) -> bool:
    """Tell whether a weight of this name belongs to an adapter, or to a map of the camera beside them."""
    return any(part in name for part in (f".lora_A.{ADAPTER}", f".lora_B.{ADAPTER}", CAMERA))


def shared(network: nn.Module, without: Sequence[Tensor] = ()) -> dict[int, Any]:
    """Return a memo of `copy.deepcopy` with which a copy shares this network's parameters and buffers.

    Those in `without` are copied.
    """
    copied = {id(value) for value in without}
    tensors = [*network.parameters(), *network.buffers()]
    return {id(value): value for value in tensors if id(value) not in copied}


def choose_layers(network: nn.Module, targets: Sequence[str] | None) -> list[str]:
    """Return the names of the layers to adapt: those that are named by a target, or end in one."""
    kinds = (nn.Linear, nn.Conv2d)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    if targets is None:
        return [
            name
            for name, module in layers.items()
            if isinstance(module, nn.Linear) and _is_in_a_block(network, name)
        ]
    chosen: set[str] = set()
    for target in targets:
        named = [name for name in layers if name == target or name.endswith(f".{target}")]
        if not named:
            hint = did_you_mean(target, {_short(name) for name in layers})
            raise UserError(f"lora.targets: '{target}' is no layer of the network{hint}")
        chosen.update(named)
    return [name for name in layers if name in chosen]


def _is_in_a_block(network: nn.Module, name: str) -> bool:
    """Tell whether a layer belongs to a block: to one of a list of modules, or to what is named so."""
    return "block" in name or isinstance(getattr(network, name.partition(".")[0]), nn.ModuleList)


def _short(name: str) -> str:
    """Return the end of a layer's name that tells what it is, such as `to_q` and `to_out.0`."""
    parts = name.split(".")
    if parts[-1].isdigit() and len(parts) > 1:
        return ".".join(parts[-2:])
    return parts[-1]


def _adapted(network: nn.Module) -> dict[str, Any]:
    """Return the layers with adapters by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}


def _without_adapter(name: str) -> str:
    """Return a weight's name as files have it, except for the name of the pipeline's part in front."""
    return name.replace(f".{ADAPTER}.", ".")


def _leave_out_the_base(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Remove all but adapters from a state dict."""
    for name in list(state):
        if name.startswith(prefix) and not is_adapter(name):
            del state[name]


def _miss_no_base(module: nn.Module, keys: Any) -> None:
    """Count only adapters as missing when a state dict is loaded."""
    keys.missing_keys[:] = [name for name in keys.missing_keys if is_adapter(name)]
