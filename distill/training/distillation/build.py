"""The parts of a distillation, built from its settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.guidance import check_guidance
from distill.networks.computation.activation_checkpointing import checkpoint_activations
from distill.networks.diffusers.adapters.lora import LoRANetwork
from distill.networks.exact.marginal import ExactDiscriminator
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import load_generator
from distill.objectives.calibration import Calibration, LogRatio
from distill.objectives.term import TermSettings
from distill.students.exact import FakeScore as ExactFakeScore
from distill.training.device.preparation import prepare_networks
from distill.training.distillation.method import Method, Networks, WeightedTerm
from distill.training.distillation.settings import DiscriminatorSettings, GeneratorSettings
from distill.training.settings import DistillRun
from distill.types import Condition, Critic, Denoiser, Generator, ImageModel, Penalty


def load_teacher(config: DistillRun) -> Denoiser:
    """Open the teacher, without the text encoders if the prompts are precomputed."""
    folder = _precomputed(config)
    return config.teacher.load() if folder is None else config.teacher.load_with_prompts(folder)


def load_template(config: DistillRun) -> Denoiser:
    """Open the teacher as `load_teacher` does, with its large parts on the meta device."""
    return config.teacher.load_without_weights(
        config.sharding.min_component_parameters, *filter(None, [_precomputed(config)])
    )


def _precomputed(config: DistillRun) -> Path | None:
    return None if config.prompts is None else config.prompts.precomputed


def read_prompts(
    config: DistillRun,
    teacher: ImageModel,
    encoder_sha256: str | None = None,
    most: Callable[[int], int] | None = None,
) -> EncodedPrompts | None:
    """Return the prompts of a run, None for a teacher that takes none.

    A prompt encoder that is sharded comes with its hash, which no process can compute, and with `most`, as
    `EncodedPrompts` says.
    """
    check_prompts(config, teacher)
    encoder, settings = teacher.prompt_encoder, config.prompts
    if encoder is None or settings is None:
        return None
    prompts = settings.load(config.data.load("train") if config.data is not None else None)
    encoder_sha256 = encoder_sha256 or encoder.sha256()
    return EncodedPrompts(prompts, encoder.encode, encoder_sha256, settings.cache, settings.dropout, most)


def check_prompts(config: DistillRun, teacher: ImageModel) -> None:
    """Refuse prompts for a teacher that takes no text, and one that takes text without them."""
    if config.prompts is not None and not teacher.takes_text:
        raise UserError("prompts: the teacher takes no text; expected null")
    if config.prompts is None and teacher.takes_text:
        raise UserError("prompts: the teacher takes text; expected a source of prompts")


def check_networks(config: DistillRun, teacher: Denoiser) -> None:
    """Raise UserError if a run asks for what its teacher cannot do."""
    for name, scale in config.guidance:
        check_guidance(teacher, scale, f"guidance.{name}")
    if config.pair_sampler is not None:
        check_guidance(teacher, config.pair_sampler.guidance, "teacher_samples.sampler.guidance")
    if any(term.needs_both_sides for term in config.terms):
        teacher.require_unconditional()
    for term in config.terms:
        term.check_model(teacher)
    for levels in config.all_noise_levels:
        levels.t(torch.tensor([0.5]), teacher.schedule)


def build_networks(config: DistillRun, teacher: Denoiser, device: torch.device) -> Networks:
    """Build the networks of a run as they are before its first step."""
    check_networks(config, teacher)
    generator = build_generator(config.generator, teacher).to(device).train()
    fake = config.fake.network.build(teacher, generator).to(device).train()
    if config.activation_checkpointing:
        for network in (teacher, generator, fake):
            checkpoint_activations(network)
    critic = build_critic(config, teacher, fake, device)
    prepare_networks(config, [teacher, generator, fake, *filter(None, [critic])])
    return Networks(teacher, fake, generator, critic)


def build_generator(settings: GeneratorSettings, teacher: Denoiser) -> Generator:
    """Build the student before its first step: untrained, or with the weights of `init_from`."""
    generator = build_untrained_generator(settings, teacher)
    if settings.init_from is not None:
        generator.load_state_dict(load_start(settings, generator).state_dict())
    return generator


def load_start(settings: GeneratorSettings, generator: Generator) -> Generator:
    """Load the generator of `init_from`, whose weights are those of `generator` at its start."""
    assert settings.init_from is not None
    start = load_generator(settings.init_from)
    check_start(generator, start, settings)
    if isinstance(generator, FewStepGenerator) and isinstance(start, FewStepGenerator):
        own, theirs = generator.denoiser, start.denoiser
        if isinstance(own, LoRANetwork) and isinstance(theirs, LoRANetwork):
            theirs.rescale(own.sizes["alpha"])  # an export has alpha = rank
    return start


def build_untrained_generator(settings: GeneratorSettings, teacher: Denoiser) -> Generator:
    """Build the student as its teacher, or as random weights, begin it."""
    first, further = settings.init_noise_to_signal, settings.further_noise_to_signal
    if further is None:
        levels = teacher.student_noise_levels(first, settings.steps)
    else:
        levels = (first, *further)
    return settings.network.build(teacher, *levels)


def check_start(generator: Generator, start: Generator, settings: GeneratorSettings) -> None:
    """Check that another run's generator has the same architecture and entry noise level."""
    source, init_noise_to_signal = settings.init_from, settings.init_noise_to_signal
    theirs = start.noise_to_signal[0] if isinstance(start, FewStepGenerator) else init_noise_to_signal
    if init_noise_to_signal != theirs:
        raise UserError(
            f"generator.init_noise_to_signal: is {init_noise_to_signal:g}; expected {theirs:g} as in {source}"
        )
    if _shapes(generator) != _shapes(start):
        raise UserError(
            f"generator.init_from: {source} holds a generator of another architecture than generator.network"
        )


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def build_critic(
    config: DistillRun, teacher: Denoiser, fake: Denoiser, device: torch.device
) -> Critic | None:
    """Build the source of logits for density ratio and GAN term, if there is one."""
    if config.ratio is not None and config.ratio.source == "exact":
        return ExactDiscriminator()
    if config.discriminator is None:
        return None
    return config.discriminator.build(teacher, fake).to(device)


def exact_log_ratio(teacher: Denoiser, generator: Generator) -> LogRatio | None:
    """Return log p_t/q_t of the present student as a function, if teacher and student are known exactly."""
    try:
        score = ExactFakeScore().build(teacher, generator)
    except UserError:
        return None

    def log_ratio(x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return score.features(x_t, t, cond, ("log_ratio",))["log_ratio"]

    return log_ratio


def build_method(
    config: DistillRun, device: torch.device, exact: LogRatio | None = None, meta: bool = False
) -> Method:
    """Build everything that the run minimises.

    `exact` is the exact log-ratio, if it is known, to compare the discriminator's with. `meta` reads no
    weights for terms.
    """
    discriminator, ratio = config.discriminator, config.ratio
    return Method(
        objective=config.objective.build(),
        needs_graph=config.objective.needs_graph,
        objective_weight=config.objective.weight,
        ratio=None if ratio is None else ratio.build(config.objective).to(device),
        ratio_start_step=0 if ratio is None else ratio.start_step,
        terms=tuple(build_term(settings, device, meta) for settings in config.terms),
        levels=config.generator.noise_levels,
        annealing=config.generator.annealing,
        fake_levels=config.fake.noise_levels,
        guidance=config.guidance,
        real_data=config.objective.real_data,
        discriminator_weight=0.0 if discriminator is None else discriminator.weight,
        r1=build_penalty(discriminator),
        calibration=None if discriminator is None else Calibration(exact).to(device),
    )


def build_penalty(discriminator: DiscriminatorSettings | None) -> Penalty | None:
    """Build the gradient penalty, if there is one. A fake score may have dropout; the teacher has none."""
    if discriminator is None or discriminator.r1 is None:
        return None
    return discriminator.r1.build(one_pass=discriminator.reads == "teacher")


def build_term(settings: TermSettings, device: torch.device, meta: bool) -> WeightedTerm:
    """Return a term of the generator's loss; the networks that it holds, if any, are frozen."""
    term = settings.meta() if meta else settings.build()
    if isinstance(term, nn.Module):
        term.to(device).eval().requires_grad_(False)
    return WeightedTerm(settings, term)
