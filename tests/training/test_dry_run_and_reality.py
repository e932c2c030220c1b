"""One process of several holds and sends what a dry run says, to the byte, and a step adds about as much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.training.config import read_config
from distill.training.dry_run import distillation
from distill.training.dry_run.cost import Cost, measure_own
from distill.training.dry_run.distillation import simulate_distillation
from distill.training.dry_run.plan import Plan
from distill.training.dry_run.pretraining import simulate_teacher_training
from distill.training.dry_run.step import META, meta_teacher_of
from distill.training.settings import TrainTeacherRun
from tests.helpers import tiny_pipelines
from tests.helpers.diffusers_runs import PROMPTS
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import write_run
from tests.helpers.sent_bytes import Measured, measure_runs

PROCESSES = 4
FULL: dict[str, Any] = {"sharding": {"strategy": "full"}}
DMD = {"objective": {"name": "distribution_matching", "divergence": "reverse_kl"}}
DIGITS = {**FULL, **DMD, "data": {"name": "digits"}}
HEADS = {"reads": "fake", "real": "data", "width": 8}
LORA = {"network": {"name": "lora", "rank": 4}}
RUNS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "hybrid": {"sharding": {"strategy": "hybrid", "group_size": 2}},
    "whole networks": {},
    "without resharding": {"sharding": {"strategy": "full", "reshard_after_forward": False}},
    "distribution matching": {**FULL, **DMD, "fake": {"updates": 2}},
    "micro-batches": {**FULL, "micro_batch_size": 1},
    "recomputation": {**FULL, "activation_checkpointing": True},
    "bfloat16": {**FULL, "precision": "bf16-true"},
    "exact penalty": {**DIGITS, "discriminator": {**HEADS, "r1": {"weight": 1.0}}},
    "penalty of the teacher": {
        **DIGITS,
        "discriminator": {**HEADS, "reads": "teacher", "r1": {"weight": 1.0, "approximate": True}},
    },
    "teacher": {**FULL, "task": "train_teacher", "data": {"name": "digits"}, "network": {"width": 8}},
    "pipeline": {**FULL, **DMD, "activation_checkpointing": True},
    "adapters": {**FULL, **DMD, "generator": {**LORA, "init_noise_to_signal": 1.16}, "fake": LORA},
}
PIPELINES = ("pipeline", "adapters")


def write_runs(folder: Path, *names: str) -> dict[str, Path]:
    """Write runs of small networks, and return their files by name."""
    save_random_teacher(folder / "unet")
    source: dict[str, Any] = {"teacher": {"name": "native", "path": str(folder / "unet")}}
    of_text: dict[str, Any] = {}
    if set(names) & set(PIPELINES):
        tiny_pipelines.stable_diffusion_xl(folder / "sdxl")
        (folder / "prompts.txt").write_text("\n".join(PROMPTS))
        of_text["teacher"] = {"name": "diffusers", "path": str(folder / "sdxl")}
        of_text["prompts"] = {"name": "text_file", "path": str(folder / "prompts.txt")}
    files = {}
    for name in names:
        (folder / name).mkdir()
        settings = {"batch_size": 8, **(of_text if name in PIPELINES else source), **RUNS[name]}
        if settings.get("task") == "train_teacher":
            del settings["teacher"]
        else:
            settings.setdefault("objective", {"name": "score_matching"})
        files[name] = write_run(folder / name, **settings)
    return files


def predict(file: Path, processes: int) -> tuple[Cost, int]:
    """Return the cost of a step of one process, and the bytes that its updates add at most."""
    config = read_config(file)
    plan = Plan.of(config, processes)
    own = plan.of_one_process(config)
    if isinstance(own, TrainTeacherRun):
        simulated = simulate_teacher_training(own, meta_teacher_of(own), plan)
    else:
        simulated = simulate_distillation(own, meta_teacher_of(own), META, plan)
    cost = measure_own(simulated, own)
    return cost, max(cost.added[name] for name in simulated.updates)


def assert_as_predicted(measured: Measured, cost: Cost) -> None:
    held = {"weights": measured["weights"], "optimiser": measured["optimiser"]}
    held["average"] = measured["average"]
    assert held == {name: cost.held[name] for name in held}
    assert measured["gathered"] == cost.traffic.gathered
    assert measured["scattered"] == cost.traffic.scattered
    # Buckets begin each gradient at a multiple of four elements.
    assert measured["averaged"] == pytest.approx(cost.traffic.averaged, rel=3e-3)


@pytest.fixture(autouse=True)
def no_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "preview", lambda generator, batch: None)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Measured]]:
    """Measure all runs in one process, since it takes seconds to start."""
    root = tmp_path_factory.mktemp("runs")
    files = write_runs(root, *RUNS)
    found = measure_runs(root / "measured.json", list(files.values()), PROCESSES)
    return {name: (files[name], value) for name, value in zip(files, found, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_one_of_four_processes(name: str, measured: dict[str, tuple[Path, Measured]]) -> None:
    file, found = measured[name]
    cost, added = predict(file, PROCESSES)
    assert_as_predicted(found, cost)
    # More than the real peak: what is gathered and what is computed are not at their most at once.
    assert 0.95 < added / found["peak"] < 1.35


@pytest.mark.slow
def test_a_block_that_is_fetched_and_not_used_is_not_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The discriminator differentiates half of the fake score, and `fully_shard` fetches one block more."""
    gan = {**DIGITS, "discriminator": HEADS, "terms": [{"name": "gan", "weight": 0.1}]}
    monkeypatch.setitem(RUNS, "gan", gan)
    (file,) = write_runs(tmp_path, "gan").values()
    (found,) = measure_runs(tmp_path / "measured.json", [file], PROCESSES)
    cost, _ = predict(file, PROCESSES)
    assert cost.traffic.gathered < found["gathered"] < 1.02 * cost.traffic.gathered
    assert found["scattered"] == cost.traffic.scattered


@pytest.mark.slow
def test_two_processes_of_a_sharded_run(tmp_path: Path) -> None:
    (file,) = write_runs(tmp_path, "full").values()
    (found,) = measure_runs(tmp_path / "measured.json", [file], 2, alone=False)
    assert_as_predicted(found, predict(file, 2)[0])
