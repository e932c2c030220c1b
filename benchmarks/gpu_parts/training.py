"""Time the steps of training runs, and predict their memory and operations by the dry run."""

from __future__ import annotations

import functools
import shutil
import statistics
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.gpu_parts.part import GIB, Part, Record, forget, memory, synchronise
from benchmarks.gpu_parts.runs import Overrides, configure, memory_key, variants_of
from benchmarks.steps import Enough, Update, make_steps
from distill.config.errors import TrainingError, UserError, is_out_of_memory
from distill.training.distillation.task import Distillation
from distill.training.dry_run.cost import measure_own
from distill.training.dry_run.distillation import simulate_distillation
from distill.training.dry_run.step import META, images_at_once, meta_teacher_of
from distill.training.settings import DistillRun

WARM_UP = 2
"""Steps that do not count: they compile, choose kernels and make the optimisers' state."""
LEAST, MOST = 3, 12
"""Numbers of timed steps."""
SECONDS = 4.0
"""Time after which the least number of steps is enough."""
MARGIN = 5.0
"""Seconds before the part's end after which no step is begun."""


def compare_runs(part: Part, name: str) -> None:
    """Time the variants of a part's run in turns, and record each turn."""
    variants = variants_of(name, part.tiny)
    for turn, variant in part.turns(list(variants)):
        part.write({"variant": variant, "turn": turn, **time_run(part, name, variants[variant])})


def time_run(part: Part, name: str, variant: Overrides) -> Record:
    """Make the first steps of a run, and return their median time and the memory of the run at its peak.

    A run that is refused or fails has the message instead.
    """
    forget()
    steps: list[float] = []
    start = time.perf_counter()
    began: list[float] = []

    def watch(task: Distillation, step: int, update: Update) -> Mapping[str, Any]:
        began.append(time.perf_counter())
        if _is_enough(steps, part):
            raise Enough
        synchronise()
        before = time.perf_counter()
        metrics = update()
        synchronise()
        steps.append(time.perf_counter() - before)
        return metrics

    failure = _attempt(part, name, variant, watch)
    if not steps:
        return failure or {"failed": "no step was made"}
    timed = steps[min(WARM_UP, len(steps) - 1) :]
    return {
        **failure,
        "step_s": statistics.median(timed),
        "steps": len(timed),
        "first_step_s": steps[0],
        "start_s": began[0] - start,
        **memory(),
    }


def _is_enough(steps: list[float], part: Part) -> bool:
    timed = steps[WARM_UP:]
    if part.tiny:
        return len(timed) >= 1
    if steps and part.seconds_left() < MARGIN + max(steps):
        return True
    return len(timed) >= MOST or (len(timed) >= LEAST and sum(timed) > SECONDS)


def _attempt(part: Part, name: str, variant: Overrides, watch: Any) -> Record:
    """Make steps; return nothing, or the message of a run that is refused or fails."""
    shutil.rmtree(part.folder / "run", ignore_errors=True)
    try:
        make_steps(configure(name, variant, part.folder, part.tiny), watch)
    except UserError as error:
        return {"refused": str(error)}
    except TrainingError as error:
        return {"failed": str(error)}
    except Exception as error:  # a defect of one variant; the others are worth their time
        kind = "out of memory" if is_out_of_memory(error) else type(error).__name__
        return {"failed": f"{kind}: {error}"[:500]}
    return {}


def predict_runs(part: Part, names: tuple[str, ...]) -> None:
    """Record what the dry run says of each variant: peak memory, and operations of a step."""
    for name in names:
        predict = functools.cache(functools.partial(predict_run, part, name))
        for variant, overrides in variants_of(name, part.tiny).items():
            part.write({"run": name, "variant": variant, **predict(memory_key(overrides))})


def predict_run(part: Part, name: str, overrides: Overrides) -> Record:
    """Return the predicted peak of a run in GiB, and the operations of a step with and without recomputation.

    Operations are counted by the formulas of `torch.utils.flop_counter`. Micro-batches of `auto` depend on
    the card, so that nothing is predicted for them here.
    """
    try:
        config = configure(name, overrides, part.folder, part.tiny)
        if config.micro_batch_size == "auto":
            return {"operations": _operations(config.model_copy(update={"micro_batch_size": 1}))}
        step = simulate_distillation(config, meta_teacher_of(config), META)
        cost = measure_own(step, config)
    except UserError as error:
        return {"refused": str(error)}
    except Exception as error:  # a defect of one prediction; the others are worth their time
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    micro_batches = config.batch_size / images_at_once(config)
    found: Record = {"predicted_peak_gib": cost.peak / GIB, "operations": cost.flops * micro_batches}
    if config.activation_checkpointing:
        found["operations_without_recomputation"] = _operations(config, recomputing=False)
    return found


def _operations(config: DistillRun, recomputing: bool = True) -> float:
    """Return the operations of a step, perhaps without the recomputation of activation checkpointing."""
    if not recomputing:
        config = config.model_copy(update={"activation_checkpointing": False})
    step = simulate_distillation(config, meta_teacher_of(config), META)
    return measure_own(step, config).flops * config.batch_size / images_at_once(config)
