"""Build the networks of a distillation that are sharded over processes.

No device ever holds a whole network. All networks are built on the meta device, sharded there, and filled:
the teacher by the main process, which reads it into the host's memory, and the others by the teacher's parts.
"""

from __future__ import annotations

import copy
import dataclasses
from functools import partial

import torch
from torch import nn

from distill.networks.computation.activation_checkpointing import checkpoint_activations
from distill.storage.tensors import weights_sha256
from distill.training.device.preparation import prepare_networks
from distill.training.distillation.build import (
    build_critic,
    build_untrained_generator,
    check_networks,
    load_start,
    load_teacher,
    load_template,
)
from distill.training.distillation.method import Networks
from distill.training.distillation.settings import GeneratorSettings
from distill.training.optimization.average_settings import averages_of
from distill.training.optimization.ema import average_of
from distill.training.parallel.filling import copy_weights, fill_from, fill_from_main
from distill.training.parallel.processes import Processes
from distill.training.parallel.sharding import Sharding, sharded_root
from distill.training.settings import DistillRun
from distill.types import Denoiser, Generator

FEATURES = ("features",)
"""Methods of a denoiser, besides its forward pass, that compute with its weights."""
CODEC_METHODS = ("encode", "decode")
"""Those of an autoencoder."""


@dataclasses.dataclass(frozen=True)
class ShardedNetworks:
    """The networks of a distillation, sharded, and what is known of the whole ones."""

    networks: Networks
    averages: list[Generator]
    """The averages of the generator's weights, sharded as the generator is."""
    structure: Generator
    """The average as it was before it was sharded, which an export fills with its values."""
    teacher_sha256: str | None
    """Hash of the teacher's weights, if the run stores samples of the teacher."""
    encoder_sha256: str | None
    """Hash of the prompt encoder, if the run has prompts."""


def build_sharded(config: DistillRun, sharding: Sharding) -> ShardedNetworks:
    """Build teacher, fake score, generator and its averages, and shard them."""
    processes = sharding.processes
    template = load_template(config)
    template.eval().requires_grad_(False)
    check_networks(config, template)
    source = processes.on_main(partial(load_teacher, config))
    networks = _build_whole(config, template, processes.device)
    averages = [average_of(networks.generator) for _ in averages_of(config.generator.ema)]
    structure = copy.deepcopy(averages[0])
    for network in (networks.teacher, networks.fake, networks.generator, *averages):
        root = sharded_root(network)
        if isinstance(root, Denoiser) and list(root.parameters()):  # an exact score has none
            sharding.shard(root, FEATURES)
    _fill(networks, averages, source, sharding)
    if config.generator.init_from is not None:
        start = processes.on_main(partial(_load_start, config.generator, template))
        fill_from_main(networks.generator, start, processes)
        for average in averages:
            copy_weights(average, networks.generator)
    return ShardedNetworks(networks, averages, structure, *_hashes(config, source, processes))


def _load_start(settings: GeneratorSettings, template: Denoiser) -> Generator:
    """Load the generator of another run that this one starts from."""
    return load_start(settings, build_untrained_generator(settings, template))


def _build_whole(config: DistillRun, template: Denoiser, device: torch.device) -> Networks:
    """Build the networks of a run without the teacher's weights; others have their first values."""
    torch.manual_seed(config.seed)
    generator = build_untrained_generator(config.generator, template).train()
    _initialize_own_weights(generator, device)
    fake = config.fake.network.build(template, generator).train()
    _initialize_own_weights(fake, device)
    # A teacher without weights is known exactly, and an exact fake score holds it.
    teacher = copy.deepcopy(template) if list(template.parameters()) else template
    if config.activation_checkpointing:
        for network in (teacher, generator, fake):
            checkpoint_activations(network)
    critic = build_critic(config, template, fake, device)
    prepare_networks(config, [teacher, generator, fake, *([] if critic is None else [critic])])
    return Networks(teacher, fake, generator, critic)


def _initialize_own_weights(network: nn.Module, device: torch.device) -> None:
    root = sharded_root(network)
    if isinstance(root, Denoiser):
        root.initialize_own_weights(device)


def _fill(networks: Networks, averages: list[Generator], source: Denoiser | None, sharding: Sharding) -> None:
    """Give the sharded networks the weights of the teacher, and of the text encoders and autoencoder."""
    processes, teacher = sharding.processes, networks.teacher
    for name, component in teacher.frozen_components().items():
        if any(parameter.is_meta for parameter in component.parameters()):
            sharding.shard(component, [name for name in CODEC_METHODS if hasattr(component, name)])
            whole = None if source is None else source.frozen_components()[name]
            fill_from_main(component, whole, processes)
    fill_from_main(teacher, source, processes)
    generator = networks.generator
    copies = [(average, generator) for average in averages]
    for network, origin in ((generator, teacher), (networks.fake, teacher), *copies):
        fill_from(sharded_root(network), sharded_root(origin), processes)
        network.to(processes.device)


def _hashes(
    config: DistillRun, source: Denoiser | None, processes: Processes
) -> tuple[str | None, str | None]:
    """Return the hashes of the whole teacher and of the whole prompt encoder where the run needs them."""
    teacher = encoder = None
    if source is not None and config.teacher_samples is not None:
        teacher = weights_sha256(source)
    if source is not None and source.prompt_encoder is not None:
        encoder = source.prompt_encoder.sha256()
    return processes.main_object((teacher, encoder))
