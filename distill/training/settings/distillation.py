"""Settings of the task `distill`. The docstring under a field is its help text."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from distill.config.settings import choice_of
from distill.diffusion.guidance_scales import GuidanceScales
from distill.diffusion.noise_levels import NoiseLevels
from distill.diffusion.samplers import Heun
from distill.objectives.settings import ObjectiveSettings, RatioSettings
from distill.training.distillation.settings import (
    DiscriminatorSettings,
    FakeScoreSettings,
    GeneratorSettings,
    TeacherSamplesSettings,
)
from distill.training.settings.run import RunSettings


class DistillRun(RunSettings):
    """Distil a teacher into a generator of one step or a few."""

    task: Literal["distill"]
    """Task of the run: `distill`, `train_teacher` or `train_autoencoder`."""
    data: choice_of("data.sources") | None = None  # type: ignore[valid-type]
    """Source of real images, for the discriminator and for measurements. null works for methods without a
    discriminator, or with `discriminator.real: teacher`."""
    teacher: choice_of("teachers")  # type: ignore[valid-type]
    """Pretrained diffusion model to distil."""
    prompts: choice_of("data.prompts") | None = None  # type: ignore[valid-type]
    """Source of prompts for a text-to-image teacher; null for other teachers."""
    teacher_samples: TeacherSamplesSettings | None = None
    """Stored samples of the teacher, for `discriminator.real: teacher` and for the regression term; null
    draws none."""
    generator: GeneratorSettings = GeneratorSettings()
    """The student, which learns to make images in one step or a few."""
    fake: FakeScoreSettings = FakeScoreSettings()
    """The fake score, a denoiser that learns the student's images while the student changes."""
    objective: ObjectiveSettings
    """Loss that the generator minimises: a divergence between the student's images and the teacher's."""
    guidance: GuidanceScales = GuidanceScales()
    """Classifier-free guidance of teacher and fake score."""
    discriminator: DiscriminatorSettings | None = None
    """Discriminator between real images and student samples, for the GAN term and the density ratio; null
    trains none."""
    ratio: RatioSettings | None = None
    """Density ratio of teacher to student, by which most divergences weight samples. null works for reverse
    KL and for score matching."""
    terms: tuple[choice_of("objectives.terms"), ...] = ()  # type: ignore[valid-type]
    """Losses added to the objective, such as [{name: gan, weight: 1e-3}]."""

    @model_validator(mode="after")
    def _fits_together(self) -> DistillRun:
        self.generator.network.check(self)
        for term in self.terms:
            term.check(self)
        if getattr(self.teacher, "attention", None) == "flash" and self.precision == "fp32":
            raise ValueError(
                "teacher.attention: flash computes in half precision; "
                "expected precision: bf16, or attention: sdpa or xformers"
            )
        return self

    @model_validator(mode="after")
    def _quantized_base_is_frozen(self) -> DistillRun:
        if not self.teacher.is_quantized:
            return self
        networks = {"generator.network": self.generator.network, "fake.network": self.fake.network}
        for key, network in networks.items():
            if network.name == "copy":
                raise ValueError(
                    f"{key}: copy trains all weights, and a quantised teacher's are frozen; expected lora"
                )
        if self.sharding.is_on:
            raise ValueError("sharding.strategy: does not go with a quantised teacher; expected none")
        if self.precision == "bf16-true":
            raise ValueError("precision: bf16-true would cast quantised weights; expected bf16")
        return self

    @model_validator(mode="after")
    def _levels_are_compiled(self) -> DistillRun:
        if self.compile == "step" and self.generator.annealing is not None:
            raise ValueError("compile: step does not go with generator.annealing; expected blocks or none")
        return self

    @model_validator(mode="after")
    def _aligned_networks_are_alike(self) -> DistillRun:
        if self.fake.alignment is None:
            return self
        student, fake = self.generator.network.model_dump(), self.fake.network.model_dump()
        for key in ("name", *student):
            if fake.get(key) != student[key]:
                raise ValueError(
                    f"fake.alignment: fake.network.{key} is {fake.get(key)}; expected {student[key]} as in "
                    "generator.network, or alignment: null"
                )
        return self

    @model_validator(mode="after")
    def _steps_have_their_inputs(self) -> DistillRun:
        if self.generator.step_inputs is not None and self.first_objective_step > 1:
            raise ValueError(
                "generator.step_inputs: trains every step on images, and a regression term has the first for "
                "itself; expected step_inputs: null"
            )
        return self

    @model_validator(mode="after")
    def _terms_compare_with_images(self) -> DistillRun:
        for term in self.terms:
            if term.reference is None:
                continue
            if self.compile == "step":
                raise ValueError(
                    f"compile: step does not go with terms: {term.name}; expected blocks or none"
                )
            if term.reference.source == "data" and self.data is None:
                raise ValueError(
                    f"terms: {term.name} needs real images; expected a source under 'data', or real: teacher"
                )
            if term.reference.source == "teacher" and self.teacher_samples is None:
                raise ValueError(
                    f"terms: {term.name} needs stored samples; expected settings under 'teacher_samples'"
                )
        return self

    @model_validator(mode="after")
    def _penalty_fits_sharding(self) -> DistillRun:
        r1 = None if self.discriminator is None else self.discriminator.r1
        if r1 is not None and r1.recompute and self.sharding.is_on:
            raise ValueError("discriminator.r1.recompute: true does not go with sharding; expected false")
        return self

    @model_validator(mode="after")
    def _ratio_has_its_source(self) -> DistillRun:
        if self.ratio is None:
            return self
        if self.ratio.source != "exact":
            if self.discriminator is None:
                raise ValueError("ratio: needs a discriminator; expected settings under 'discriminator'")
            return self
        if self.fake.network.name != "exact":
            raise ValueError(f"ratio.source: exact needs fake.network exact; found {self.fake.network.name}")
        if self.discriminator is not None:
            raise ValueError("ratio.source: exact takes no discriminator; expected discriminator: null")
        return self

    @model_validator(mode="after")
    def _real_images_are_there(self) -> DistillRun:
        sources = self._real_sources
        for place, source in sources.items():
            if source != self.real_source:
                first = next(iter(sources))
                raise ValueError(f"{place}: is {source}; expected {self.real_source} as {first}")
        if not self.shows_data:
            return self
        if self.data is None:
            place = next(iter(sources)).removesuffix(".real")
            raise ValueError(f"{place}: needs real images; expected a source under 'data', or real: teacher")
        if self.prompts is not None and self.prompts.name != "captions":
            raise ValueError(
                "prompts: real images are shown with their own; "
                "expected captions, or discriminator.real: teacher"
            )
        return self

    @model_validator(mode="after")
    def _fake_score_learns_real_data(self) -> DistillRun:
        name = self.fake.network.name
        if self.objective.real_data is not None and name in ("exact", "sample"):
            raise ValueError(
                f"objective.real_data: is learned by the fake score, and fake.network {name} learns nothing; "
                "expected another"
            )
        return self

    @model_validator(mode="after")
    def _ratio_fits_the_objective(self) -> DistillRun:
        if self.ratio is not None and self.ratio.low >= self.ratio.high:
            raise ValueError(
                f"ratio.low: is {self.ratio.low:g}; expected less than ratio.high, {self.ratio.high:g}"
            )
        if self.ratio is None and self.objective.uses_ratio:
            raise ValueError("objective.divergence: needs a density ratio; expected settings under 'ratio'")
        return self

    @model_validator(mode="after")
    def _terms_are_distinct(self) -> DistillRun:
        names = [term.name for term in self.terms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"terms: {name} stands there twice; expected once")
        return self

    @model_validator(mode="after")
    def _teacher_samples_fit(self) -> DistillRun:
        as_real = self.real_source == "teacher"
        if self.teacher_samples is None:
            if as_real:
                place = next(iter(self._real_sources))
                raise ValueError(
                    f"{place}: teacher needs stored samples; expected settings under 'teacher_samples'"
                )
        elif self.teacher_samples.anchor is not None and (
            as_real or self._reads_teacher_samples or self.first_objective_step == 1
        ):
            raise ValueError(
                "teacher_samples.anchor: makes targets of a first step, not images; expected null, "
                "or a regression term with step: 1, and real: data everywhere"
            )
        elif not (as_real or self.needs_pairs or self._reads_teacher_samples):
            raise ValueError(
                "teacher_samples: are used by nothing; "
                "expected discriminator.real: teacher, or a regression term"
            )
        return self

    @property
    def has_discriminator(self) -> bool:
        return self.discriminator is not None

    @property
    def pair_sampler(self) -> Heun | None:
        """The sampler of the stored teacher samples, None if there are none."""
        return None if self.teacher_samples is None else self.teacher_samples.sampler

    @property
    def sample_count(self) -> int | None:
        """Number of the teacher's samples that are stored, None if none are."""
        return None if self.teacher_samples is None else self.teacher_samples.count

    @property
    def student_steps(self) -> int:
        """Network evaluations of the student."""
        return self.generator.steps

    @property
    def first_objective_step(self) -> int:
        """First of the student's steps that the objective trains."""
        return 1 + max((term.steps_alone for term in self.terms), default=0)

    @property
    def student_network(self) -> str:
        """Name of the student's architecture."""
        return self.generator.network.name

    @property
    def is_sharded(self) -> bool:
        return self.sharding.is_on

    @property
    def real_source(self) -> str | None:
        """Source of the real images in batches: data or teacher, None if nothing reads any."""
        return next(iter(self._real_sources.values()), None)

    @property
    def _real_sources(self) -> dict[str, str]:
        """Return the source of real images that each setting names."""
        sources = {
            "discriminator.real": None if self.discriminator is None else self.discriminator.real,
            "objective.real_data.real": None
            if self.objective.real_data is None
            else self.objective.real_data.real,
            "generator.step_inputs": self.generator.step_inputs,
        }
        return {place: source for place, source in sources.items() if source is not None}

    @property
    def shows_data(self) -> bool:
        """A part of the run is trained on images of the data."""
        return self.real_source == "data"

    @property
    def drops_encoder(self) -> bool:
        """No image will be encoded: the data are latents, and so are the student's samples."""
        return self.data is not None and self.data.holds_latents and self.student_network != "scene"

    @property
    def prompt_source(self) -> str | None:
        """Name of the source of prompts, None if there is none."""
        return None if self.prompts is None else self.prompts.name

    @property
    def all_noise_levels(self) -> list[NoiseLevels]:
        """Every distribution of noise levels that the run takes some from."""
        annealing = self.generator.annealing
        return [
            self.generator.noise_levels,
            self.fake.noise_levels,
            *([] if annealing is None else [annealing.noise_levels]),
            *[term.own_noise_levels for term in self.terms if term.own_noise_levels is not None],
        ]

    @property
    def own_noise(self) -> tuple[str, ...]:
        """Fields of a batch with the noise that the discriminator or a term alone sees."""
        own = self.discriminator is not None and self.discriminator.own_noise
        of_terms = tuple(f"{term.name}_noise" for term in self.terms if term.adds_own_noise)
        return of_terms + ("discriminator_noise", "real_noise") * own

    @property
    def compares_with_data(self) -> bool:
        """A term compares the student with images of the data as a population."""
        return "data" in self._compared_with

    @property
    def _reads_teacher_samples(self) -> bool:
        """A term compares the student with the teacher's samples as a population."""
        return "teacher" in self._compared_with

    @property
    def _compared_with(self) -> set[str]:
        """Sources of the populations that terms compare with."""
        return {term.reference.source for term in self.terms if term.reference is not None}

    @property
    def needs_pairs(self) -> bool:
        """A term compares the student with the teacher's samples from the same noise."""
        return any(term.needs_pairs for term in self.terms)
