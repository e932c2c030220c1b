"""Say what a run would take, without weights, data or training, and what variants of it would take."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from distill.config.progress import ProgressBar
from distill.students import lora
from distill.training.dry_run.cost import (
    CHECKPOINTED,
    Cost,
    Report,
    count_trained,
    measure_both,
    measure_flops,
    unique_parameters,
)
from distill.training.dry_run.distillation import simulate_distillation
from distill.training.dry_run.micro_batch import largest_micro_batch
from distill.training.dry_run.plan import Plan
from distill.training.dry_run.pretraining import (
    meta_autoencoder_of,
    simulate_autoencoder_training,
    simulate_teacher_training,
)
from distill.training.dry_run.step import FAKE_UPDATE, META, SimulatedStep, images_at_once, meta_teacher_of
from distill.training.settings import DistillRun, RunConfig, TrainAutoencoderRun, TrainTeacherRun, optimizers
from distill.types import Denoiser

MIB = 2**20
ALL_WEIGHTS = "all weights"
PRECISIONS = {
    "fp32": "float32",
    "bf16": "bfloat16, as CUDA's autocast does",
    "bf16-true": "bfloat16, with float32 copies of what is trained",
    "fp16": "float16, as CUDA's autocast does",
}
STAGES = 3
"""Measurements of each variant: outside the step, the step, and the step with activation checkpointing."""


def describe_run(
    config: RunConfig, memory: int, show_progress: bool = False, processes: int = 1, nodes: int = 1
) -> str:
    """Return the networks of a run, its memory on one process and the work of one step, as text.

    `memory` are the free bytes of the GPU that `micro_batch_size: auto` is chosen for. A progress line on
    stderr names what is being measured. Several `processes`, on so many machines, share the batch; what they
    send is described too.
    """
    plan = Plan.of(config, processes, nodes)
    lines = [f"{config.task}: nothing is loaded, trained or written"]
    if processes > 1:
        lines.append(plan.describe(config))
    if config.micro_batch_size == "auto":
        micro_batch = largest_micro_batch(config, processes, memory, nodes)
        config = config.model_copy(update={"micro_batch_size": micro_batch.size})
        lines.append(str(micro_batch))
    own = plan.of_one_process(config)
    with ProgressBar("dry run", STAGES, "measurements", hidden=not show_progress) as progress:
        if isinstance(own, DistillRun):
            described = _describe_distillation(own, plan, progress)
        else:
            described = _describe_training(own, plan, progress)
    return "\n".join([*lines, "", *described])


def _describe_distillation(config: DistillRun, plan: Plan, progress: ProgressBar) -> list[str]:
    progress.note("building the teacher")
    teacher = meta_teacher_of(config)
    runs = variants(config, teacher)
    progress.expect(STAGES * len(runs))
    costs: dict[str, Cost] = {}
    for name, run in runs.items():
        progress.note(f"{name}: building the networks")
        step = simulate_distillation(run, teacher, META, plan)
        costs |= measure_both(name, step, run, _reporter(progress))
        if run == config:
            own, chosen = step, name + CHECKPOINTED * config.activation_checkpointing
    return [
        *_describe_networks(own),
        "",
        *_describe_memory(config, costs[chosen]),
        "",
        *_compare(costs, chosen),
        *_describe_traffic(plan, costs[chosen]),
        *_describe_work(config, own, costs[chosen]),
        *_describe_rates(config),
    ]


def _describe_training(
    config: TrainTeacherRun | TrainAutoencoderRun, plan: Plan, progress: ProgressBar
) -> list[str]:
    progress.expect(STAGES)
    if isinstance(config, TrainTeacherRun):
        step = simulate_teacher_training(config, meta_teacher_of(config), plan)
    else:
        step = simulate_autoencoder_training(config, meta_autoencoder_of(config), plan)
    costs = measure_both(ALL_WEIGHTS, step, config, _reporter(progress))
    chosen = ALL_WEIGHTS + CHECKPOINTED * config.activation_checkpointing
    return [
        *_describe_networks(step),
        "",
        *_describe_memory(config, costs[chosen]),
        "",
        *_compare(costs, chosen),
        *_describe_traffic(plan, costs[chosen]),
        f"a step reads {config.batch_size} images",
        _flops(config, costs[chosen]),
        *_describe_rates(config),
    ]


def variants(config: DistillRun, teacher: Denoiser) -> dict[str, DistillRun]:
    """Return the run and, by what they train, the runs between which its teacher leaves the choice.

    A student that is no network of the teacher's, such as a scene, leaves none.
    """
    student, fake = config.generator.network, config.fake.network
    alternatives = lora.alternatives(teacher)
    own = f"{student.name} and {fake.name}" if alternatives else ALL_WEIGHTS
    if not any(isinstance(student, type(other)) for other, _ in alternatives.values()):
        return {own: config}
    found = {}
    for name, (other_student, other_fake) in alternatives.items():
        parts = {
            "generator": config.generator.model_copy(
                update={"network": student if isinstance(student, type(other_student)) else other_student}
            ),
            "fake": config.fake.model_copy(
                update={"network": fake if isinstance(fake, type(other_fake)) else other_fake}
            ),
        }
        found[name] = config.model_copy(update=parts)
    return found if config in found.values() else {own: config, **found}


def _reporter(progress: ProgressBar) -> Report:
    def report(stage: str) -> None:
        progress.note(stage)
        progress.update()

    return report


def _describe_networks(step: SimulatedStep) -> list[str]:
    lines = [f"{'network':<15} {'class':<20} {'parameters':>12}"]
    for name, network in step.networks.items():
        trained = count_trained(network) if network in step.trained else 0
        lines.append(
            f"{name:<15} {type(network).__name__:<20} {_count(network):>12,}  {_role(network, trained)}"
        )
    return lines


def _role(network: nn.Module, trained: int) -> str:
    """Say what of a network is trained, and the types of a frozen one's weights if they are not float32."""
    if trained == _count(network) and trained:
        return "learns"
    if trained:
        return f"{trained:,} of them learn, the others are the teacher's"
    types = {str(parameter.dtype).removeprefix("torch.") for parameter in network.parameters()}
    return ", ".join(["frozen", *sorted(types - {"float32"})])


def _describe_memory(config: RunConfig, cost: Cost) -> list[str]:
    rows = images_at_once(config)
    images = f"{rows} {'images' if rows > 1 else 'image'}"
    lines = [f"memory of one process: {images} at once, computing in {PRECISIONS[config.precision]}"]
    lines += [f"{value / MIB:>12,.1f} MiB  {name}" for name, value in cost.held.items()]
    lines += [f"{value / MIB:>12,.1f} MiB  more for {name}" for name, value in cost.added.items()]
    lines.append(f"{cost.peak / MIB:>12,.1f} MiB  at most, not counting memory of PyTorch itself")
    return lines


def _describe_traffic(plan: Plan, cost: Cost) -> list[str]:
    """Return what one process sends in a step, by kind; nothing if there are no others."""
    if plan.processes == 1:
        return []
    kinds = {
        "weights gathered": cost.traffic.gathered,
        "gradients scattered": cost.traffic.scattered,
        "gradients averaged": cost.traffic.averaged,
    }
    lines = ["sent by one process in a step:"]
    lines += [f"{value / MIB:>12,.1f} MiB  {name}" for name, value in kinds.items()]
    return [*lines, ""]


def _describe_work(config: DistillRun, step: SimulatedStep, cost: Cost) -> list[str]:
    generated = step.generations * config.batch_size
    real = 0
    if config.real_source is not None:
        real = step.repeats.get(FAKE_UPDATE, 0) * config.batch_size
    work = _flops(config, cost)
    if _count(step.networks["teacher"]) and step.teacher_pass is not None:
        passes = cost.flops / measure_flops(step.teacher_pass)
        work += f", {passes:.1f} forward passes of the teacher on as many images"
    lines = [f"a generator step makes {generated} images of the student and reads {real} real ones", work]
    steps = config.generator.steps
    if steps > 1:
        average = "1"
        if config.generator.step_inputs is None:
            average = f"{(steps + config.first_objective_step) / 2:g} on average"
        lines.append(f"an image of the student takes {steps} evaluations, one for training {average}")
    left_out = [name for term in config.terms for name in term.left_out]
    if left_out:
        names = ", ".join(left_out)
        lines.append(
            f"not counted, neither here nor above: the networks of {names}, whose weights say what they are"
        )
    return lines


def _describe_rates(config: RunConfig) -> list[str]:
    return [
        f"learning rate of {place}: {settings.describe_rate(config.steps)}"
        for place, settings in optimizers(config).items()
    ]


def _flops(config: RunConfig, cost: Cost) -> str:
    flops = cost.flops * config.batch_size / images_at_once(config)
    return f"it costs {flops:.3g} floating-point operations"


def _compare(costs: Mapping[str, Cost], chosen: str) -> list[str]:
    """Return a table of the variants' costs; nothing where there is only one."""
    if len(costs) < 2:
        return []
    width = max(map(len, costs))
    names = ("weights", "optimiser", "average", "batch", "more", "at most")
    heads = " ".join(f"{name:>10}" for name in names)
    lines = [f"{'MiB':<{width}} {heads} {'work':>6}"]
    for name, cost in costs.items():
        numbers = [*cost.held.values(), max(cost.added.values()), cost.peak]
        cells = " ".join(f"{number / MIB:>10,.1f}" for number in numbers)
        mark = "  this run" if name == chosen else ""
        lines.append(f"{name:<{width}} {cells} {cost.flops / costs[chosen].flops:>6.2f}{mark}")
    return [*lines, ""]


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in unique_parameters(network))
