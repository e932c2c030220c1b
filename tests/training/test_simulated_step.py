"""Compare a dry run's prediction with what torch's allocator counts in a step, or with counts by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import sample_teacher
from distill.networks.diffusers.prompt_encoder import PipelinePromptEncoder
from distill.networks.folder import save_model
from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.training.config import read_config
from distill.training.distillation.task import Distillation
from distill.training.dry_run.cost import Cost, measure, measure_both, measure_own
from distill.training.dry_run.distillation import simulate_distillation
from distill.training.dry_run.meta_kernels import MetaKernels, fused_attention
from distill.training.dry_run.meter import Meter
from distill.training.dry_run.pretraining import (
    meta_autoencoder_of,
    simulate_autoencoder_training,
    simulate_teacher_training,
)
from distill.training.dry_run.step import FAKE_UPDATE, GENERATOR_UPDATE, META, meta_teacher_of
from distill.training.launch import build_processes
from distill.training.logging import Clock
from distill.training.pretraining.autoencoder import build_autoencoder
from distill.training.pretraining.teacher import build_teacher
from distill.training.settings import DistillRun, TrainAutoencoderRun, TrainTeacherRun
from tests.helpers import tiny_pipelines
from tests.helpers.configured_pipelines import autoencoder, make_parts, text_to_image
from tests.helpers.diffusers_runs import PROMPTS
from tests.helpers.runs import write_run
from train import main as train

LORA = {"network": {"name": "lora", "rank": 4}}
DMD = {"name": "distribution_matching", "divergence": "reverse_kl"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("simulated_step")
    (root / "unet").mkdir()
    save_model(
        UNet(
            UNetConfig(resolution=16, channels=3, sizes=UNetSizes(width=16, multipliers=(1, 2), dropout=0.1))
        ),
        root / "unet",
    )
    tiny_pipelines.stable_diffusion_xl(root / "sdxl")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    return root


def config_of(root: Path, teacher: str, **changes: Any) -> DistillRun:
    """Return a run with all that takes memory: a discriminator, and guidance if there are prompts."""
    source: dict[str, Any] = {"teacher": {"name": "native", "path": str(root / "unet")}}
    if teacher == "sdxl":
        source = {"teacher": {"name": "diffusers", "path": str(root / "sdxl")}, "guidance": {"teacher": 2.0}}
        source["prompts"] = {"name": "text_file", "path": str(root / "prompts.txt")}
    content = {
        **{"task": "distill", "run_dir": str(root / "run"), "steps": 2, "batch_size": 32, "device": "cpu"},
        "fake": {"updates": 2},
        "objective": {"name": "score_matching"},
        "teacher_samples": {"path": str(root / "samples" / teacher), "count": 4, "sampler": {"steps": 1}},
        "discriminator": {"reads": "fake", "real": "teacher", "width": 16},
        "terms": [{"name": "gan", "weight": 0.1}],
    }
    (root / "config.yaml").write_text(yaml.safe_dump({**content, **source, **changes}))
    config = read_config(root / "config.yaml")
    assert isinstance(config, DistillRun)
    return config


def moments(task: Distillation) -> list[Tensor]:
    """Return Adam's moments."""
    states = [state for updater in task.updaters.values() for state in updater.optimizer.state.values()]
    return [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]


def peak_allocated(act: Callable[[], Any]) -> int:
    """Return the bytes that torch's allocator held at most, beyond those that it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        act()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize(
    ("teacher", "changes"),
    [
        pytest.param("unet", {}, id="unet"),
        pytest.param(
            "unet",
            {"objective": DMD, "micro_batch_size": 16},
            id="unet in micro-batches",
            marks=pytest.mark.slow,
        ),
        pytest.param("sdxl", {}, id="sdxl in full", marks=pytest.mark.slow),
        pytest.param("sdxl", {"generator": LORA, "fake": LORA}, id="sdxl lora", marks=pytest.mark.slow),
    ],
)
def test_it_predicts_what_a_step_takes(
    root: Path, teacher: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that is held throughout agrees to the byte.

    What a step adds agrees to 3 %, or to the megabyte that kernels of CPUs take for a moment.
    """
    # The tiny pipeline's prompts are of 16 tokens, not of CLIP's 77.
    monkeypatch.setattr(
        PipelinePromptEncoder, "shapes", lambda encoder: {"tokens": (16, 24), "pooled": (16,)}
    )
    for is_checkpointed in (False, True):
        config = config_of(root, teacher, **changes, activation_checkpointing=is_checkpointed)
        AcceleratorState._reset_state(reset_partial_state=True)
        task = Distillation(config, build_processes(config), Clock())
        task.start(0)
        task.update(0, detailed=False)  # after which the optimisers have their states
        networks = [
            task.teacher,
            *task.teacher.frozen_components().values(),
            task.networks.generator,
            task.networks.fake,
            task.networks.discriminator,
        ]
        held = {
            "weights": {parameter for network in networks for parameter in network.parameters()},
            "optimiser": moments(task),
            "average": [
                mine
                for mine, own in zip(task.ema.average.parameters(), task.generator.parameters(), strict=True)
                if mine is not own
            ],
        }
        step = simulate_distillation(config, config.teacher.meta().eval().requires_grad_(False), META)
        costs = measure_both("", step, config)
        cost = costs[max(costs, key=len) if is_checkpointed else ""]
        batch = cost.held.pop("batch")  # which each update draws anew
        assert {name: sum(value.nbytes for value in values) for name, values in held.items()} == cost.held
        predicted = batch + max(value for name, value in cost.added.items() if name in step.updates)
        assert predicted == pytest.approx(
            peak_allocated(lambda task=task: task.update(1, detailed=False)), rel=0.03, abs=1.3e6
        )


def test_a_step_on_the_cpu_counts_as_on_the_meta_device(root: Path) -> None:
    """The meter remembers outcomes on the meta device alone, so this checks what it remembers too."""
    config = config_of(root, "unet")
    teachers = (config.teacher.meta(), config.teacher.load())
    steps = [
        simulate_distillation(config, teacher.eval().requires_grad_(False), device)
        for teacher, device in zip(teachers, (META, torch.device("cpu")), strict=True)
    ]
    predicted, counted = (measure(step, step.updates) for step in steps)
    assert predicted == counted


def test_a_call_with_other_settings_is_not_answered_from_memory() -> None:
    """1, 1.0 and True are equal as keys of a dictionary, and other types for torch."""
    x = torch.empty(2, 3, dtype=torch.int64, device="meta")
    with Meter([x]):
        assert [(x + 1).dtype, (x + 1.0).dtype, (x + 1).dtype] == [torch.int64, torch.float32, torch.int64]
        assert [x.sum(0).shape, x.sum(1).shape, x.T.sum(0).shape] == [(3,), (2,), (2,)]
        assert [tuple(part.shape) for part in torch.empty(5, device="meta").sort()] == [(5,), (5,)]


def test_attention_without_heads_is_computed_by_its_definition() -> None:
    """The autoencoder of HunyuanImage has it, which no formula of torch's counter takes."""
    parts = [torch.randn(2, 5, 4) for _ in range(3)]
    torch.testing.assert_close(fused_attention(*parts), F.scaled_dot_product_attention(*parts))
    counted = torch.empty(2, 5, 4, device="meta")
    with Meter([counted]) as meter:
        with MetaKernels(autocast=None):
            F.scaled_dot_product_attention(counted, counted, counted)
        assert meter.take_flops() == 2 * (4 * 5 * 5 * 4)


def test_attention_holds_no_weights_of_attention() -> None:
    """It holds its output and a logarithm for each query.

    It takes 4 n^2 d operations a head forward, and 10 n^2 d backward, where it recomputes its weights.
    """
    heads, n, d = 2, 64, 8
    parts = [torch.empty(1, heads, n, d, device="meta", requires_grad=True) for _ in range(3)]
    with Meter(parts) as meter:
        with MetaKernels(autocast=None):
            output = F.scaled_dot_product_attention(*parts)
        assert meter.live < 2 * 4 * heads * n * (d + 1)
        assert meter.take_flops() == 4 * heads * n * n * d
        output.sum().backward()
        assert meter.take_flops() == 10 * heads * n * n * d
    plain = F.scaled_dot_product_attention(*parts)
    assert (output.shape, output.dtype) == (plain.shape, plain.dtype)


def test_autocast_on_the_meta_device_has_the_types_of_cuda() -> None:
    """The types are those that torch's documentation lists.

    A trainable weight is cast once, a frozen one each time, and gradients have the weights' type.
    """
    x = torch.randn(2, 8, 4, 4, device="meta")
    conv, norm, linear = (
        nn.Conv2d(8, 8, 1, device="meta"),
        nn.GroupNorm(2, 8, device="meta"),
        nn.Linear(4, 4, device="meta"),
    )
    with Meter([x]) as meter, MetaKernels(autocast=torch.bfloat16):
        assert conv(x).dtype == (x @ x).dtype == linear(x).dtype == torch.bfloat16
        assert (
            norm(conv(x)).dtype
            == conv(x).softmax(1).dtype
            == conv(x).sum().dtype
            == F.interpolate(conv(x), scale_factor=2.0).dtype
            == torch.float32
        )
        assert F.silu(conv(x)).dtype == torch.bfloat16
        assert (x + conv(x)).dtype == torch.float32
        before = meter.live
        assert linear(x.bfloat16()).dtype == torch.bfloat16
        assert meter.live == before  # no cast of the weight is added
    assert conv(x).dtype == torch.float32
    conv(x).sum().backward()
    assert conv.weight.grad.dtype == torch.float32


def table_of(said: str) -> dict[str, list[float]]:
    """Return the numbers of each variant; the mark "this run" becomes infinity."""
    lines = said.split("MiB      ")[1].split("\n\n")[0].splitlines()[1:]
    cells = [re.split(r"\s{2,}", line.replace(",", "").replace("this run", "inf")) for line in lines]
    return {name: [float(cell) for row in rest for cell in row.split()] for name, *rest in cells}


@pytest.mark.slow
def test_variants_of_the_run_stand_beside_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run trains an adapted student and a full fake score; its variants train either in both."""
    config_of(root, "sdxl", generator=LORA, precision="bf16", micro_batch_size=8)
    arguments = [str(root / "config.yaml"), "--dry-run", "--teacher.dtype", "bfloat16"]
    train([*arguments, "--activation_checkpointing", "true"])
    said = capsys.readouterr().out
    table = table_of(said)
    names = [
        f"{name}{ending}"
        for name in ("lora and copy", "all weights", "LoRA")
        for ending in ("", " activation checkpointing")
    ]
    assert list(table) == names
    own = table["lora and copy activation checkpointing"]
    assert own[6:] == [1.0, float("inf")]
    assert all(len(row) == 7 for row in table.values() if row is not own)
    assert f"{own[5]:>12,.1f} MiB  at most" in said
    assert "memory of one process: 8 images at once, computing in bfloat16" in said
    assert "frozen, bfloat16" in said
    for name in names[::2]:
        *held, more, _, work = table[name]
        *held_too, less, _, more_work = table[f"{name} activation checkpointing"][:7]
        assert held == held_too
        assert less < 0.9 * more
        assert 1.1 * work < more_work < 1.4 * work
    train([*arguments, "--generator.network", "{name: copy}"])
    assert list(table_of(capsys.readouterr().out)) == names[2:]


def test_a_run_without_variants_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    train(["configs/lab/dmd2.yaml", "--dry-run"])
    assert "this run" not in capsys.readouterr().out


def cost_of(config: DistillRun) -> Cost:
    return measure_own(simulate_distillation(config, meta_teacher_of(config), META), config)


def test_a_term_counts_from_its_start_to_its_stop(root: Path) -> None:
    """The step that needs the most memory decides: one before a term stops, if the run is so long."""
    always, stopping, late, never = (
        cost_of(config_of(root, "unet", objective=DMD, terms=terms))
        for terms in (
            [{"name": "gan", "weight": 0.1}],
            [{"name": "gan", "weight": 0.1, "stop_step": 1}],
            [{"name": "gan", "weight": 0.1, "start_step": 2}],
            [],
        )
    )
    assert stopping == always
    assert late == never
    assert always.added[GENERATOR_UPDATE] > 1.1 * never.added[GENERATOR_UPDATE]


def test_a_discriminator_beside_a_fake_score_that_learns_nothing_has_its_update(root: Path) -> None:
    sample = {"network": {"name": "sample"}}
    discriminator = {"reads": "teacher", "real": "teacher", "width": 16}
    config = config_of(root, "unet", fake=sample, objective=DMD, discriminator=discriminator)
    step = simulate_distillation(config, meta_teacher_of(config), META)
    assert list(step.updates) == [FAKE_UPDATE, GENERATOR_UPDATE]
    alone = config.model_copy(update={"discriminator": None, "terms": ()})
    step = simulate_distillation(alone, meta_teacher_of(alone), META)
    assert list(step.updates) == [GENERATOR_UPDATE]


@pytest.mark.parametrize("settings", [text_to_image, autoencoder])
def test_it_predicts_what_a_training_without_a_teacher_takes_between_its_steps(
    settings: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples of 16 pixels are shown, and a latent network has the images of each batch encoded.

    Convolutions of CPUs take up to a quarter more for a moment: their inputs in another layout.
    """
    # The tiny pipeline's prompts are of 16 tokens, not of CLIP's 77.
    monkeypatch.setattr(PipelinePromptEncoder, "shapes", lambda encoder: {"tokens": (16, 16)})
    monkeypatch.setattr("distill.training.dry_run.outside_the_step.preview_count", lambda shape: 256)
    config = read_config(write_run(tmp_path, **settings(make_parts(tmp_path), batch_size=256)))
    if isinstance(config, TrainTeacherRun):
        step = simulate_teacher_training(config, meta_teacher_of(config))
        network = build_teacher(config, config.data.load("train"))
        assert network.prompt_encoder is not None
        cond = EncodedPrompts.by(network.prompt_encoder, ["a cat"]).balanced(256)
        real = {
            "preview samples": lambda: sample_teacher(network, range(256), cond, Heun(steps=2)),
            "encoding real images": lambda: pass_without_graph(network.encode),
        }
    else:
        assert isinstance(config, TrainAutoencoderRun)
        step = simulate_autoencoder_training(config, meta_autoencoder_of(config))
        trained = build_autoencoder(config, config.data.load("train"))
        real = {"preview samples": lambda: pass_without_graph(trained.reconstruct)}
    added = measure(step, step.outside_the_step).added
    assert list(added) == list(real)
    for name, act in real.items():
        assert 0.75 < added[name] / peak_allocated(act) < 1.03, name


@torch.no_grad()
def pass_without_graph(function: Callable[[Tensor], Tensor]) -> None:
    function(torch.zeros(256, 3, 16, 16))
