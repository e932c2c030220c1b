"""The task `distill`: updates of fake score, discriminator and generator. The mathematics is in `losses`."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.diffusion.sampling import labels_of, sample_generator, spread
from distill.networks.folder import save_model
from distill.publishing.export import export_generator
from distill.publishing.model_card import write_card
from distill.training.batches import Batch, Batches
from distill.training.batches.batches import check_data
from distill.training.batches.previews import Previews
from distill.training.device.compilation import begin_step, compile_networks, compiled, uncompiled
from distill.training.device.precision import autocast
from distill.training.distillation.build import (
    build_method,
    build_networks,
    exact_log_ratio,
    load_teacher,
    read_prompts,
)
from distill.training.distillation.losses import Losses, Metrics, fake_loss, frozen, generator_loss
from distill.training.distillation.metrics import add_metrics, gradient_sizes
from distill.training.distillation.references import comparing_terms, prepare_term
from distill.training.distillation.sharded import build_sharded
from distill.training.distillation.teacher_samples import TeacherSamples
from distill.training.logging import Clock
from distill.training.optimization.average_settings import averages_of
from distill.training.optimization.ema import EMAs
from distill.training.optimization.loss_scale import LossScale
from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater, expect_last_backward
from distill.training.parallel.filling import unsharded_copy, whole_state
from distill.training.parallel.finite import FiniteCheck
from distill.training.parallel.processes import Processes
from distill.training.parallel.sharding import Sharding
from distill.training.settings import DistillRun
from distill.types import DataSource, Generator


class Distillation:
    """A teacher, its fake score and the student, with their optimisers: a `Task` of the trainer."""

    def __init__(self, config: DistillRun, processes: Processes, clock: Clock) -> None:
        self.config, self.processes, self.clock = config, processes, clock
        device = processes.device
        self.finite = FiniteCheck(processes)
        self.sharding = Sharding(config.sharding, processes)
        self.sharded = build_sharded(config, self.sharding) if self.sharding.is_on else None
        if self.sharded is None:
            self.teacher = load_teacher(config).to(device).eval().requires_grad_(False)
            self.prompts = read_prompts(config, self.teacher)
            torch.manual_seed(config.seed)
            self.networks = build_networks(config, self.teacher, device)
        else:
            self.networks = self.sharded.networks
            self.teacher = self.networks.teacher
            self.prompts = read_prompts(config, self.teacher, self.sharded.encoder_sha256, processes.most)
        self.generator = self.networks.generator
        self.method = build_method(config, device, exact_log_ratio(self.teacher, self.generator))
        self.draws_masks = any(
            isinstance(layer, nn.Dropout) and layer.p for layer in self.generator.modules()
        )
        self._compile()
        self.differentiated_twice = self._differentiated_twice()
        averages = () if self.sharded is None else self.sharded.averages
        self.ema = EMAs(self.generator, averages_of(config.generator.ema), config.batch_size, averages)
        self.teacher_samples = self._teacher_samples()
        self.batches = Batches.of(
            config,
            self.teacher,
            self._real_images(),
            processes,
            paired=self.teacher_samples if config.needs_pairs else None,
            prompts=self.prompts,
            generator=self.generator,
            own_noise=config.own_noise,
            shows_images=config.real_source is not None,
            first_step=config.first_objective_step,
            noises_inputs=config.generator.step_inputs is not None,
        )
        if config.compares_with_data and self._data is not None:
            check_data(self._data, self.teacher)
        if config.drops_encoder:
            self.teacher.drop_encoder()

        self.modules: dict[str, nn.Module] = {}
        self.updaters: dict[str, Updater] = {}
        self._add_trainable("generator", self.networks.generator, config.generator.optimizer)
        self._add_trainable("fake", self.networks.fake, config.fake.optimizer)
        if config.discriminator is not None and self.networks.discriminator is not None:
            self._add_trainable("discriminator", self.networks.discriminator, config.discriminator.optimizer)
        self.image_shape, self.label_count = self.teacher.pixel_shape, self.teacher.label_count
        most = None if self.sharded is None else processes.most
        self.previews = Previews(config.preview, self.teacher, self.prompts, most)
        if self.method.calibration is not None:
            self.modules["calibration"] = self.method.calibration
        if self.method.ratio is not None:
            self.modules["ratio"] = self.method.ratio
        self.comparing = comparing_terms(self.method)
        for comparing in self.comparing:
            self.modules[comparing.name] = comparing.term.begin(self.image_shape, device)
        self.scales: dict[str, LossScale] = {}
        if config.precision == "fp16":
            self.scales = {name: LossScale().to(device) for name in ("fake", "generator")}
            self.modules |= {f"{name}_scale": scale for name, scale in self.scales.items()}

    def _compile(self) -> None:
        """Compile the networks' blocks or the losses if the run asks for it."""
        how, device = self.config.compile, self.processes.device
        compile_networks([self.teacher, self.generator, self.networks.fake], how)
        if how == "step":
            self.method = dataclasses.replace(self.method, r1=uncompiled(self.method.r1))
        self.generate = compiled(self.generator.__call__, how, device)
        self.fake_loss = compiled(fake_loss, how, device)
        self.generator_loss = compiled(generator_loss, how, device)

    def _differentiated_twice(self) -> list[nn.Module]:
        """Return the network whose gradient an exact penalty differentiates, if there is one."""
        settings, critic = self.config.discriminator, self.networks.discriminator
        r1 = None if settings is None else settings.r1
        if critic is None or r1 is None or r1.approximate or r1.at != "image":
            return []
        return [self.networks.read_by(critic)]

    def _add_trainable(self, name: str, network: nn.Module, settings: OptimizerSettings) -> None:
        """Give a network an optimiser, unless it has no parameters, as an exact score."""
        if not list(network.parameters()):
            return
        self.modules[name] = network
        self.updaters[name] = Updater(name, network, settings, self.config.steps, self.processes)

    def start(self, step: int) -> None:
        """Start with the batches of this step, after missing samples of the teacher are drawn."""
        if self.teacher_samples is not None:
            self.teacher_samples.draw(self.teacher)
        for comparing in self.comparing:
            source = self.teacher_samples if comparing.reference.source == "teacher" else self._data
            assert source is not None  # settings without one are refused
            prepare_term(comparing, source, self.generator, self.processes)
        self.stream = self.batches.starting_at(step * self.config.fake.updates)

    def update(self, step: int, detailed: bool) -> Metrics:
        """Make one step: the fake score's updates, then the generator's.

        `detailed` adds metrics that cost time.
        """
        metrics: Metrics = {}
        begin_step(self.config.compile)
        for update in range(self.config.fake.updates):
            with self.clock("data"):
                chunks = next(self.stream).split(self.config.micro_batch)
            last = update == self.config.fake.updates - 1
            # The student's samples of the last fake update serve the generator's too, unless they come in
            # micro-batches.
            keep_graph = last and len(chunks) == 1 and step >= self.config.fake.warmup_steps
            with self.clock("fake"):
                x0, metrics = self._update_fake(step, chunks, keep_graph, detailed)
        if step >= self.config.fake.warmup_steps:
            with self.clock("generator"):
                metrics |= self._update_generator(step, chunks, x0 if keep_graph else None, detailed)
        if self.method.calibration is not None:
            self.method.calibration.commit(self.processes.sum)
            error = self.method.calibration.error() if detailed else None
            if error is not None:
                metrics["ratio/calibration_error"] = torch.tensor(error, device=self.processes.device)
        return metrics

    def sample(self, rows: Sequence[int]) -> Tensor:
        """Return images of the averaged generator by their numbers, (n, c, h, w), on the CPU."""
        if self.prompts is None:
            cond = labels_of(rows, self.label_count)
        else:
            cond = self.prompts(spread(rows, len(self.prompts)))
        return sample_generator(self.ema.average, rows, cond)

    def preview(self, rows: Sequence[int]) -> Tensor:
        """Return the images of these numbers that the run shows, (n, c, h, w), on the CPU."""
        shown = self.previews
        return sample_generator(self.ema.average, shown.seeds(rows), shown.condition(rows))

    @property
    def preview_conditions(self) -> int:
        return self.previews.condition_count

    def save(self, folder: Path) -> None:
        """Write the averaged generator for a checkpoint. All processes call it, and the main one writes."""
        if self.sharded is None:
            if self.processes.is_main:
                save_model(self.ema.average, folder)
            return
        state = whole_state(self.ema.average, self.processes)
        if state is not None:
            save_model(self.sharded.structure, folder, state)

    def export(self, folder: Path) -> None:
        """Write the averaged generator for others to use. All processes call it, and the main one writes."""
        average: Generator | None = self.ema.average
        if self.sharded is not None:
            structure = copy.deepcopy(self.sharded.structure)
            average = unsharded_copy(structure, self.ema.average, self.processes)
        if average is not None and self.processes.is_main:
            export_generator(average, folder)
            write_card(folder, self.config.run_dir)

    def frozen_networks(self) -> list[nn.Module]:
        """Return the teacher, its autoencoder and text encoders, and the networks that terms hold."""
        terms = [term.term for term in self.method.terms if isinstance(term.term, nn.Module)]
        return [self.teacher, *self.teacher.frozen_components().values(), *terms]

    def tables(self) -> dict[str, Any]:
        """Return the calibration of the discriminator, if there is one."""
        return {"calibration": self.method.calibration.table()} if self.method.calibration is not None else {}

    def _teacher_samples(self) -> TeacherSamples | None:
        settings = self.config.teacher_samples
        if settings is None:
            return None
        teacher_sha256 = None if self.sharded is None else self.sharded.teacher_sha256
        return TeacherSamples(
            settings, self.config.teacher, self.teacher, self.processes, self.prompts, teacher_sha256
        )

    def _real_images(self) -> DataSource | None:
        if self.config.real_source == "teacher":
            return self.teacher_samples
        if self.prompts is not None and self.config.real_source is None:
            return None  # the data are measured against and not trained on: their labels are no prompts
        return self._data

    @functools.cached_property
    def _data(self) -> DataSource | None:
        return self.config.data.load("train") if self.config.data is not None else None

    def _update_fake(
        self, step: int, chunks: Sequence[Batch], keep_graph: bool, detailed: bool
    ) -> tuple[Tensor | None, Metrics]:
        """Update what learns from the student's samples, and return the last ones, if any were made."""
        metrics: Metrics = {}
        x0 = None
        learns = bool(self._updaters_of("fake"))  # nothing does beside an exact fake score
        for chunk in chunks:
            # Dropout draws its masks in turn: without these samples the generator update would get others.
            if not (learns or keep_graph or self.draws_masks):
                break
            with autocast(self.config.precision, self.processes.device), torch.set_grad_enabled(keep_graph):
                x0 = self.generate(*chunk.generator_inputs)
            if not learns:
                continue
            with self.sharding.gathered(*self.differentiated_twice):
                with autocast(self.config.precision, self.processes.device):
                    losses, extra = self.fake_loss(self.networks, self.method, chunk, x0, detailed)
                self.finite.add_losses(losses, chunk.u_fake)
                share = self._backward("fake", losses, chunk, is_last=chunk is chunks[-1])
            add_metrics(metrics, losses, extra, share)
        return x0, metrics | self._step("fake", step)

    def _update_generator(
        self, step: int, chunks: Sequence[Batch], x0: Tensor | None, detailed: bool
    ) -> Metrics:
        metrics: Metrics = {}
        # The sizes of gradients take several backward passes, and a compiled loss allows one.
        loss_of = generator_loss if detailed else self.generator_loss
        active = self.method.at(step)
        if self.config.compile == "step":
            active = active.on(self.processes.device)
        with frozen(*[self.networks.fake, *filter(None, [self.networks.discriminator])]):
            for chunk in chunks:
                with autocast(self.config.precision, self.processes.device):
                    sample = self.generate(*chunk.generator_inputs) if x0 is None else x0
                    losses, extra = loss_of(self.networks, self.method, chunk, sample, active)
                if detailed:
                    extra |= gradient_sizes(losses, sample, len(chunk) / self.config.batch_size)
                self.finite.add_losses(losses, chunk.u)
                share = self._backward("generator", losses, chunk, is_last=chunk is chunks[-1])
                add_metrics(metrics, losses, extra, share)
        metrics |= self._step("generator", step)
        if self.method.ratio is not None:
            self.method.ratio.commit(self.processes.sum)
        for comparing in self.comparing:
            comparing.term.commit(self.processes.gather)
        self.ema.update(self.updaters["generator"].weights)
        if self.config.fake.alignment is not None:  # each process aligns its own part of the weights
            weights = self.updaters["generator"].weights
            self.updaters["fake"].masters.move_towards(weights, 1 - self.config.fake.alignment)
        return metrics

    def _backward(self, update: str, losses: Losses, chunk: Batch, is_last: bool) -> float:
        """Accumulate a micro-batch's gradient, and return its share of this process's batch.

        With the last micro-batch the gradients are averaged over processes.
        """
        share = len(chunk) / (self.config.batch_size // self.processes.count)
        loss = torch.stack(list(losses.values())).sum()
        scale = self.scales.get(update)
        if scale is not None:
            loss = scale(loss)
        if is_last:
            expect_last_backward(self._updaters_of(update))
        (loss if share == 1 else share * loss).backward()
        for updater in self._updaters_of(update):
            updater.accumulate()
        return share

    def _updaters_of(self, update: str) -> list[Updater]:
        """Return the optimisers of the networks that this update's backward pass trains."""
        names = ("generator",) if update == "generator" else ("fake", "discriminator")
        return [self.updaters[name] for name in names if name in self.updaters]

    def _step(self, update: str, step: int) -> Metrics:
        """Update the networks that one backward pass trained, and return the norms of their gradients."""
        scale = self.scales.get(update)
        metrics: Metrics = {}
        self.sharding.free(self.teacher, self.networks.fake, self.generator, *self.ema.averages)
        for updater in self._updaters_of(update):
            norm = updater.update(step, scale)
            if scale is None:
                self.finite.add_norm(updater.name, norm)
            metrics[f"grad_norm/{updater.name}"] = norm if scale is None else scale.norm_made(norm)
        if scale is not None:
            self.finite.add_scale(update, scale.update())
            metrics |= scale.metrics(update)
        return metrics
