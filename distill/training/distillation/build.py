"""The parts of a distillation, built from its settings."""

from __future__ import annotations

import torch
from torch import nn

from distill.config.errors import UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.guidance_scales import GuidanceScales
from distill.networks.activation_checkpointing import checkpoint_activations
from distill.networks.exact.marginal import ExactDiscriminator
from distill.networks.folder import load_generator
from distill.objectives.calibration import Calibration, LogRatio
from distill.objectives.term import TermSettings
from distill.students.exact import FakeScore as ExactFakeScore
from distill.training.distillation.losses import Method, Networks, WeightedTerm
from distill.training.settings import DistillRun, GeneratorSettings
from distill.types import Critic, Denoiser, Generator, ImageModel


def read_prompts(config: DistillRun, teacher: ImageModel) -> EncodedPrompts | None:
    """Return the prompts of a run, None for a teacher that takes none."""
    encoder, settings = teacher.prompt_encoder, config.prompts
    if encoder is None:
        if settings is not None:
            raise UserError("prompts: the teacher takes no text; expected null")
        return None
    if settings is None:
        raise UserError("prompts: the teacher takes text; expected a source of prompts")
    prompts = settings.load(config.data.load("train") if config.data is not None else None)
    return EncodedPrompts.by(encoder, prompts, settings.cache, settings.dropout)


def build_networks(config: DistillRun, teacher: Denoiser, device: torch.device) -> Networks:
    """The networks of a run before its first step. Raises UserError where settings do not fit the teacher."""
    if config.guidance != GuidanceScales() and not (teacher.label_count or teacher.takes_text):
        raise UserError("guidance: the teacher has no condition; expected scales of 1")
    for term in config.terms:
        term.check_model(teacher)
    generator = build_generator(config.generator, teacher).to(device).train()
    fake = config.fake.network.build(teacher, generator).to(device).train()
    for network in (teacher, generator, fake) if config.activation_checkpointing else ():
        checkpoint_activations(network)
    return Networks(teacher, fake, generator, build_critic(config, teacher, fake, device))


def build_generator(settings: GeneratorSettings, teacher: Denoiser) -> Generator:
    """The student before its first step: untrained, or `generator.init_from`. Raises UserError where the weights of that do not fit."""
    first, further = settings.init_noise_to_signal, settings.further_noise_to_signal
    generator = settings.network.build(
        teacher,
        *((first, *further) if further is not None else teacher.student_noise_levels(first, settings.steps)),
    )
    if settings.init_from is None:
        return generator
    start = load_generator(settings.init_from)
    mine, theirs = first, getattr(start, "noise_to_signal", (first,))[0]
    if mine != theirs:
        raise UserError(
            f"generator.init_noise_to_signal: is {mine:g}; expected {theirs:g} as in {settings.init_from}"
        )
    shapes = {name: tuple(value.shape) for name, value in generator.state_dict().items()}
    if shapes != {name: tuple(value.shape) for name, value in start.state_dict().items()}:
        raise UserError(
            f"generator.init_from: {settings.init_from} holds a generator of another architecture than generator.network"
        )
    generator.load_state_dict(start.state_dict())
    return generator


def build_critic(
    config: DistillRun, teacher: Denoiser, fake: Denoiser, device: torch.device
) -> Critic | None:
    """What gives the logits of the density ratio and of the adversarial term: a discriminator, the exact one, or none."""
    if config.ratio is not None and config.ratio.source == "exact":
        return ExactDiscriminator()
    return config.discriminator.build(teacher, fake).to(device) if config.discriminator else None


def exact_log_ratio(teacher: Denoiser, generator: Generator) -> LogRatio | None:
    """log p_t/q_t of the student as it is when asked, where teacher and student are known exactly."""
    try:
        score = ExactFakeScore().build(teacher, generator)
    except UserError:
        return None
    return lambda x_t, t, cond: score.features(x_t, t, cond, ("log_ratio",))["log_ratio"]


def build_method(
    config: DistillRun, device: torch.device, exact: LogRatio | None = None, meta: bool = False
) -> Method:
    """The mathematics that the configuration asks for. The exact log-ratio, where it is known, is what a discriminator's is compared with;
    `meta` reads no weights for the terms."""
    return Method(
        objective=config.objective.build(),
        needs_graph=config.objective.needs_graph,
        objective_weight=config.objective.weight,
        ratio=config.ratio.build(config.objective).to(device) if config.ratio else None,
        ratio_start_step=config.ratio.start_step if config.ratio else 0,
        terms=tuple(build_term(settings, device, meta) for settings in config.terms),
        levels=config.generator.noise_levels,
        fake_levels=config.fake.noise_levels,
        guidance=config.guidance,
        discriminator_weight=config.discriminator.weight if config.discriminator else 0.0,
        r1=config.discriminator.r1.build() if config.discriminator and config.discriminator.r1 else None,
        calibration=Calibration(exact).to(device) if config.discriminator else None,
    )


def build_term(settings: TermSettings, device: torch.device, meta: bool) -> WeightedTerm:
    """Return a term of the generator's loss; the networks that it holds, if any, are frozen."""
    term = settings.meta() if meta else settings.build()
    if isinstance(term, nn.Module):
        term.to(device).eval().requires_grad_(False)
    return WeightedTerm(settings, term)
