"""Low-rank adapters (LoRA, Hu et al. 2021) by peft: a network of diffusers that learns little and holds no second copy of its weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distill.config.errors import UserError, did_you_mean
from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.networks.diffusers.meta import without_weights
from distill.networks.folder import ADAPTERS
from distill.storage.tensors import check_weights, load_tensors

ADAPTER = "default"
"""What peft calls an adapter that has no name. It stands in the names of weights, though not in files."""


class LoRANetwork(DiffusersNetwork):
    """A `DiffusersNetwork` on the frozen weights of another, with adapters of its own: scale alpha/rank, `alpha` None for 1.

    `targets` are the layers that are adapted, by the ends of their names, None for all linear layers within blocks. The frozen weights are the
    other's tensors themselves; a copy of this network has adapters of its own and those tensors again, and its state is the adapters alone. Raises
    UserError for targets that are no layers.
    """

    def __init__(
        self,
        base: DiffusersNetwork,
        rank: int,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
    ) -> None:
        import peft

        super().__init__(copy.deepcopy(base.network, shared(base.network)), base.pipeline)
        self.sizes: dict[str, Any] = {
            "rank": rank,
            "alpha": rank if alpha is None else alpha,
            "targets": targets,
        }
        layers = choose_layers(self.network, targets)
        config = peft.LoraConfig(r=rank, lora_alpha=self.sizes["alpha"], target_modules=layers)
        is_meta = next(self.network.parameters()).is_meta
        with without_weights() if is_meta else nullcontext():
            peft.inject_adapter_in_model(config, self.network, ADAPTER)
        for parameter in self.adapters():
            parameter.data = parameter.data.float()
        self.register_state_dict_post_hook(_leave_out_the_base)
        self.register_load_state_dict_post_hook(_miss_no_base)

    def __deepcopy__(self, memo: dict[int, Any]) -> LoRANetwork:
        memo.update(shared(self, but=self.adapters()))
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def adapters(self) -> list[nn.Parameter]:
        """What learns."""
        return [parameter for name, parameter in self.named_parameters() if is_adapter(name)]

    def describe(self) -> dict[str, Any]:
        """The settings that open its pipeline, and those of its adapters."""
        return {**super().describe(), "lora": self.sizes}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> LoRANetwork:
        """The network with the pipeline's weights and untrained adapters. Raises UserError where the settings open no pipeline."""
        source = {name: value for name, value in description.items() if name != "lora"}
        return cls(DiffusersNetwork.from_description(source), **description["lora"])

    def exported(self) -> DiffusersNetwork:
        """Adapters of scale 1, which is what diffusers takes a file of them to have; where its pipeline loads none, the weights with them added."""
        if not hasattr(self.pipeline.pipe, "save_lora_weights"):
            return self.merged()
        other = copy.deepcopy(self)
        scale, other.sizes = (
            self.sizes["alpha"] / self.sizes["rank"],
            {**self.sizes, "alpha": self.sizes["rank"]},
        )
        for name, module in other.network.named_modules():
            if name.endswith(f".lora_B.{ADAPTER}"):
                module.weight.data.mul_(scale)
        for layer in _adapted(other.network).values():
            layer.scaling[ADAPTER] = 1.0
        return other

    def merged(self) -> DiffusersNetwork:
        """The network without adapters, which are added to a copy of its weights, in float32."""
        network = copy.deepcopy(self.network).float()
        for name, layer in _adapted(network).items():
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, layer.get_base_layer())
        return DiffusersNetwork(network, self.pipeline)

    def save_pipeline(self, times: Sequence[float], folder: Path) -> None:
        """Write what the base's pipeline needs to be this one: adapters, of scale 1, for `load_lora_weights`, and the scheduler of its steps."""
        part = self.pipeline.family.part
        weights = {_name_in_file(name): value.contiguous() for name, value in self.network_state().items()}
        self.pipeline.pipe.save_lora_weights(folder, **{f"{part}_lora_layers": weights})
        self.pipeline.student_scheduler(times).save_pretrained(folder / "scheduler")

    def example_call(self, steps: int) -> dict[str, Any] | None:
        """A network that is told its guidance is told it by the call of its base's pipeline."""
        call, guidance = super().example_call(steps), self.pipeline.embedded_guidance
        return call if call is None or guidance is None else {**call, "guidance_scale": guidance}

    @property
    def leaves_with_its_size(self) -> bool:
        return False

    def load_adapters(self, folder: Path) -> None:
        """Read what `save_pipeline` wrote. Raises UserError where it is another network's."""
        part, found = self.pipeline.family.part, load_tensors(folder / ADAPTERS)
        names = {f"{part}.{_name_in_file(name)}": name for name in self.network_state()}
        tensors = {names.get(name, name): value for name, value in found.items()}
        check_weights(self, {f"network.{name}": value for name, value in tensors.items()}, folder / ADAPTERS)
        self.network.load_state_dict(tensors, strict=False)

    def network_state(self) -> dict[str, Tensor]:
        """The adapters, by their names in the network."""
        return {name.removeprefix("network."): value for name, value in self.state_dict().items()}


def is_adapter(name: str) -> bool:
    """Whether a weight of this name belongs to an adapter."""
    return f".lora_A.{ADAPTER}" in name or f".lora_B.{ADAPTER}" in name


def shared(network: nn.Module, but: Sequence[Tensor] = ()) -> dict[int, Any]:
    """A memo of `copy.deepcopy` under which the copy has this network's weights and buffers themselves, but for these."""
    own = {id(value) for value in but}
    return {id(value): value for value in [*network.parameters(), *network.buffers()] if id(value) not in own}


def choose_layers(network: nn.Module, targets: Sequence[str] | None) -> list[str]:
    """Names of the layers to adapt. Raises UserError for a target that is the end of no layer's name."""
    kinds = (nn.Linear, nn.Conv2d)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    if targets is None:
        return [name for name, module in layers.items() if isinstance(module, nn.Linear) and "block" in name]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            raise UserError(
                f"lora.targets: '{target}' is no layer of the network{did_you_mean(target, {_short(name) for name in layers})}"
            )
    return [
        name for name in layers if any(name == target or name.endswith(f".{target}") for target in targets)
    ]


def _short(name: str) -> str:
    """The end of a layer's name that says what it is: `to_q`, `to_out.0`."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() and len(parts) > 1 else parts[-1]


def _adapted(network: nn.Module) -> dict[str, Any]:
    """The layers with adapters, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}


def _name_in_file(name: str) -> str:
    """A weight's name as diffusers has it in files, but for the part of the pipeline that stands before it."""
    return name.replace(f".{ADAPTER}.", ".")


def _leave_out_the_base(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(prefix) and not is_adapter(name)]:
        del state[name]


def _miss_no_base(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if is_adapter(name)]
