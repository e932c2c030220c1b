"""The task `distill`: fake score and generator in turn, as `distill.training.distillation.losses` says. No mathematics here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill.diffusion.sampling import balanced_labels, sample_generator
from distill.networks.folder import save_generator
from distill.publishing.export import export_generator
from distill.publishing.model_card import write_card
from distill.training.batches import Batch, Batches
from distill.training.distillation.build import build_method, build_networks, exact_log_ratio, read_prompts
from distill.training.distillation.losses import Losses, Metrics, fake_loss, frozen, generator_loss
from distill.training.distillation.teacher_samples import TeacherSamples
from distill.training.ema import EMA
from distill.training.logging import Clock, check_finite
from distill.training.optimizer import OptimizerSettings, Updater
from distill.training.settings import DistillRun
from distill.types import DataSource


class Distillation:
    """A teacher, its fake score and the student, with their optimisers. A `Task` of the trainer."""

    def __init__(self, config: DistillRun, accelerator: Accelerator, clock: Clock) -> None:
        self.config, self.accelerator, self.clock = config, accelerator, clock
        device = accelerator.device
        self.teacher = config.teacher.load().to(device).eval().requires_grad_(False)
        self.prompts = read_prompts(config, self.teacher)
        torch.manual_seed(config.seed)
        self.networks = build_networks(config, self.teacher, device)
        self.generator = self.networks.generator
        self.method = build_method(config, device, exact_log_ratio(self.teacher, self.generator))
        self.ema = EMA(self.generator, config.generator.ema)
        self.teacher_samples = self._teacher_samples()
        paired = self.teacher_samples if config.needs_pairs else None
        drawn = (paired, self.prompts, self.generator.evaluations, config.own_noise)
        self.batches = Batches.of(config, self.teacher, self._real_images(), accelerator, *drawn)

        parts = {"generator": config.generator, "fake": config.fake, "discriminator": config.discriminator}
        networks: dict[str, nn.Module | None] = {name: getattr(self.networks, name) for name in parts}
        self.modules = {
            name: network
            for name, network in networks.items()
            if network is not None and any(True for _ in network.parameters())
        }
        optimizers: dict[str, OptimizerSettings] = {
            name: part.optimizer for name, part in parts.items() if part is not None
        }
        self.updaters = {
            name: Updater(name, network, optimizers[name], config.steps, accelerator)
            for name, network in self.modules.items()
        }
        self.image_shape, self.label_count = self.teacher.pixel_shape, self.teacher.label_count
        if self.method.calibration is not None:
            self.modules["calibration"] = self.method.calibration
        if self.method.ratio is not None:
            self.modules["ratio"] = self.method.ratio

    def start(self, step: int) -> None:
        """Begin with the batches of this step, once the main process has drawn what is missing of the teacher's samples."""
        if self.teacher_samples is not None:
            with self.accelerator.main_process_first():
                self.teacher_samples.draw(self.teacher)
        self.stream = self.batches.starting_at(step * self.config.fake.updates)

    def update(self, step: int, detailed: bool) -> Metrics:
        """One step: the fake score's updates, then the generator's. `detailed` adds what is worth logging but costs time."""
        metrics: Metrics = {}
        for update in range(self.config.fake.updates):
            with self.clock("data"):
                chunks = next(self.stream).split(self.config.micro_batch_size)
            last = update == self.config.fake.updates - 1
            # The student's samples of the last fake update serve the generator's too, unless they come in micro-batches.
            keep_graph = last and len(chunks) == 1 and step >= self.config.fake.warmup_steps
            with self.clock("fake"):
                x0, metrics = self._update_fake(step, chunks, keep_graph, detailed)
        if step >= self.config.fake.warmup_steps:
            with self.clock("generator"):
                metrics |= self._update_generator(step, chunks, x0 if keep_graph else None, detailed)
        if self.method.calibration is not None:
            self.method.calibration.commit(self._sum)
            error = self.method.calibration.error() if detailed else None
            metrics |= (
                {"ratio/calibration_error": torch.tensor(error, device=self.accelerator.device)}
                if error is not None
                else {}
            )
        return metrics

    def sample(self, count: int, first_seed: int = 0) -> Tensor:
        """Images of the averaged generator, (count, c, h, w) on the CPU."""
        seeds = range(first_seed, first_seed + count)
        cond = (
            balanced_labels(count, self.label_count) if self.prompts is None else self.prompts.balanced(count)
        )
        return sample_generator(self.ema.average, seeds, cond)

    def save(self, folder: Path) -> None:
        """Write the averaged generator for a checkpoint."""
        save_generator(self.ema.average, folder)

    def export(self, folder: Path) -> None:
        """Write the averaged generator for others to use."""
        export_generator(self.ema.average, folder)
        write_card(folder, self.config.run_dir)

    def frozen_networks(self) -> list[nn.Module]:
        """The teacher and its parts, and what the terms hold."""
        terms = [term.term for term in self.method.terms if isinstance(term.term, nn.Module)]
        return [self.teacher, *self.teacher.frozen_components().values(), *terms]

    def tables(self) -> dict[str, Any]:
        """The calibration of the discriminator, if there is one."""
        return {"calibration": self.method.calibration.table()} if self.method.calibration is not None else {}

    def _teacher_samples(self) -> TeacherSamples | None:
        settings = self.config.teacher_samples
        return TeacherSamples(settings, self.config.teacher, self.teacher, self.prompts) if settings else None

    def _real_images(self) -> DataSource | None:
        settings = self.config.discriminator
        if settings is not None and settings.real == "teacher":
            return self.teacher_samples
        if (
            self.prompts is not None and settings is None
        ):  # measured by, but not learnt from: their labels are no prompts
            return None
        return self.config.data.load("train") if self.config.data is not None else None

    def _sum(self, total: Tensor) -> Tensor:
        """Over all processes."""
        return self.accelerator.reduce(total, reduction="sum")

    def _update_fake(
        self, step: int, chunks: Sequence[Batch], keep_graph: bool, detailed: bool
    ) -> tuple[Tensor, Metrics]:
        metrics: Metrics = {}
        for chunk in chunks:
            with self.accelerator.autocast():
                with torch.set_grad_enabled(keep_graph):
                    x0 = self.generator(chunk.z, chunk.cond)
                if "fake" not in self.modules:  # an exact fake score has nothing to learn
                    continue
                losses, extra = fake_loss(self.networks, self.method, chunk, x0, detailed)
            share = self._backward(losses, chunk, step, chunk.u_fake)
            add_metrics(metrics, losses, extra, share)
        for name in ("fake", "discriminator"):
            if name in self.updaters:
                metrics[f"grad_norm/{name}"] = self.updaters[name].update(step)
        return x0, metrics

    def _update_generator(
        self, step: int, chunks: Sequence[Batch], x0: Tensor | None, detailed: bool
    ) -> Metrics:
        metrics: Metrics = {}
        for chunk in chunks:
            with frozen(*[self.modules[name] for name in self.modules if name != "generator"]):
                with self.accelerator.autocast():
                    sample = self.generator(chunk.z, chunk.cond) if x0 is None else x0
                    losses, extra = generator_loss(self.networks, self.method, chunk, sample, step)
                if detailed:
                    extra |= gradient_sizes(losses, sample)
                share = self._backward(losses, chunk, step, chunk.u)
            add_metrics(metrics, losses, extra, share)
        metrics["grad_norm/generator"] = self.updaters["generator"].update(step)
        if self.method.ratio is not None:
            self.method.ratio.commit(self._sum)
        self.ema.update(self.generator)
        return metrics

    def _backward(self, losses: Losses, chunk: Batch, step: int, u: Tensor) -> float:
        """Accumulate a micro-batch's gradient; returns its share of this process's batch."""
        check_finite(losses, step, u)
        share = len(chunk) / (self.config.batch_size // self.accelerator.num_processes)
        self.accelerator.backward(share * sum(losses.values()))
        return share


def gradient_sizes(losses: Losses, x0: Tensor) -> Metrics:
    """Norm of each loss's gradient with respect to the student's samples, for the losses that look at them."""
    grad = lambda loss: torch.autograd.grad(loss, x0, retain_graph=True, allow_unused=True)[0]  # noqa: E731
    gradients = {name: grad(loss) for name, loss in losses.items() if loss.requires_grad}
    return {
        f"gradient_at_sample/{name}": gradient.norm()
        for name, gradient in gradients.items()
        if gradient is not None
    }


def add_metrics(metrics: Metrics, losses: Losses, extra: Metrics, share: float) -> None:
    """Average losses and metrics over micro-batches."""
    for name, value in {**{f"loss/{name}": loss.detach() for name, loss in losses.items()}, **extra}.items():
        metrics[name] = metrics.get(name, 0) + share * value
