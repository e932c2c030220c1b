"""LoRA: networks share one base; adapters are trained, saved by themselves, and exported for diffusers."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import distill
from distill.config.errors import UserError
from distill.networks.diffusers.adapters.lora import LoRANetwork
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import ADAPTERS, WEIGHTS, load_generator, newest_checkpoint
from distill.publishing.export import export_generator
from distill.storage.tensors import weights_sha256
from distill.students.lora import Student
from distill.teachers.diffusers import Settings
from distill.training.distillation.build import build_generator, build_untrained_generator, load_start
from distill.training.distillation.settings import GeneratorSettings
from distill.training.optimization.ema import EMA
from distill.training.parallel.filling import fill_from_main
from tests.helpers import tiny_pipelines
from tests.helpers.alone import ALONE
from tests.helpers.diffusers_families import FAMILIES, FLOW, GUIDANCE, MERGED, ONE_STEP, size_of
from tests.helpers.diffusers_runs import OBJECTIVES, PROMPTS, image_of_diffusers, image_of_ours, run
from train import main as train

DEFAULT = ("sdxl", "dit")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lora")
    tiny_pipelines.stable_diffusion_xl(root / "sdxl")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    return root


def disturbed(generator: FewStepGenerator) -> FewStepGenerator:
    """Move the adapters away from zero, so that they change the output."""
    for parameter in generator.denoiser.adapters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return generator


def image_with_adapters(teacher: Path, export: Path, z: Tensor, guidance: float, steps: int) -> Tensor:
    """Make an image by the teacher's pipeline with the export's adapters and scheduler."""
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(teacher)
    kind = (
        "FlowMatchEulerDiscreteScheduler"
        if "FlowMatch" in (export / "scheduler" / "scheduler_config.json").read_text()
        else "LCMScheduler"
    )
    pipe.scheduler = getattr(diffusers, kind).from_pretrained(export / "scheduler")
    pipe.load_lora_weights(export)
    return tiny_pipelines.renoised(pipe, z, PROMPTS[: len(z)], steps, guidance_scale=guidance)


@pytest.mark.parametrize(
    ("family", "steps"),
    [
        pytest.param(family, steps, marks=() if family in DEFAULT and steps == 1 else pytest.mark.slow)
        for family in FAMILIES
        for steps in (1, 3)
        if steps == 1 or family not in ONE_STEP
    ],
)
def test_diffusers_loads_an_export(family: str, steps: int, tmp_path: Path) -> None:
    """It is a file of adapters if the family's pipeline loads one, else a pipeline. Images agree to 1e-5."""
    embedded = GUIDANCE.get(family)
    settings = {
        "path": str(FAMILIES[family](tmp_path / "teacher")),
        "embedded_guidance": embedded,
        **size_of(family),
    }
    entry = 1e4 if family in FLOW else 2.5
    teacher = Settings(**settings).load()
    generator = disturbed(
        Student(rank=4, alpha=2.0).build(teacher, *teacher.student_noise_levels(entry, steps))
    )
    export_generator(generator, _made(tmp_path / "export"))
    z = torch.randn(2, *generator.noise_shape)
    ours = image_of_ours(generator, z)
    assert (
        ours - image_of_ours(FewStepGenerator(Settings(**settings).load(), *generator.noise_to_signal), z)
    ).abs().max() > 1e-3
    if family not in MERGED:
        theirs = image_with_adapters(tmp_path / "teacher", tmp_path / "export", z, embedded or 0.0, steps)
    else:
        theirs = image_of_diffusers(tmp_path / "export", z, steps)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        image_of_ours(distill.load_generator(tmp_path / "export"), z), ours, rtol=0, atol=1e-5
    )


def test_the_base_is_in_memory_once(root: Path) -> None:
    """Student and average share all tensors but adapters with the teacher, and start equal to it."""
    teacher = Settings(path=str(root / "sdxl")).load()
    before, count = weights_sha256(teacher), sum(1 for _ in teacher.parameters())
    student = Student(rank=4).build(teacher, 80.0)
    z = torch.randn(2, *student.image_shape)
    assert torch.equal(image_of_ours(student, z), image_of_ours(FewStepGenerator(teacher, 80.0), z))
    average = EMA(student, 0.5)
    adapters = student.denoiser.adapters()
    theirs = {id(parameter) for parameter in teacher.parameters()}
    for network in (student, average.average, copy.deepcopy(average.average)):
        mine = {id(parameter) for parameter in network.parameters()}
        assert (len(mine & theirs), len(mine - theirs)) == (count, len(adapters))
    assert [parameter for parameter in student.parameters() if parameter.requires_grad] == adapters
    first = adapters[0].detach().clone()
    adapters[0].data.add_(1.0)
    average.update()  # the first decay is 1/10
    torch.testing.assert_close(average.average.denoiser.adapters()[0], first + 0.9)
    assert weights_sha256(teacher) == before


def test_merged_weights_are_base_and_adapters(root: Path) -> None:
    """The merged weight is W + alpha/rank B A: by hand for one layer, by its predictions for the network."""
    teacher = Settings(path=str(root / "sdxl")).load()
    network = disturbed(Student(rank=4, alpha=8.0, targets=("to_q", "conv1")).build(teacher, 80.0)).denoiser
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    layer, base = network.network.get_submodule(name), teacher.network.get_submodule(name)
    merged = network.merged()
    expected = base.weight + 2 * layer.lora_B.default.weight @ layer.lora_A.default.weight
    torch.testing.assert_close(merged.network.get_submodule(name).weight, expected)
    z, t = torch.randn(2, *teacher.image_shape), torch.tensor([10.0, 900.0])
    cond = teacher.encode_prompts(PROMPTS[:2])
    torch.testing.assert_close(merged(z, t, cond), network(z, t, cond), rtol=1e-4, atol=1e-4)
    assert not any(
        isinstance(module, nn.Linear) and ".lora_" in name for name, module in merged.named_modules()
    )


@pytest.mark.parametrize(
    "objective",
    [
        "score_matching",
        *(pytest.param(name, marks=pytest.mark.slow) for name in OBJECTIVES if name != "score_matching"),
    ],
)
def test_only_adapters_are_trained_and_saved(root: Path, objective: str) -> None:
    """The student's adapters and the fake score's differ in size; a discriminator reads the fake score."""
    config = {
        "teacher": {"name": "diffusers", "path": str(root / "sdxl")},
        "prompts": {"name": "text_file", "path": str(root / "prompts.txt")},
        "generator": {"network": {"name": "lora", "rank": 4}, "ema": 0.0, "init_noise_to_signal": 80.0},
        "fake": {"network": {"name": "lora", "rank": 2, "targets": ["to_q", "to_v"]}},
        "teacher_samples": {"path": str(root / "samples"), "count": 4, "sampler": {"steps": 2}},
        "discriminator": {"reads": "fake", "real": "teacher", "width": 8},
        "ratio": {"bins": 2} if "divergence" in OBJECTIVES[objective] else None,
        "objective": {"name": objective, **OBJECTIVES[objective]},
        "terms": [{"name": "gan", "weight": 0.1}],
    }
    run_dir = run(root, objective, config)
    student = distill.load_generator(run_dir)
    assert isinstance(student.denoiser, LoRANetwork)
    z = torch.randn(2, *student.image_shape)
    teacher = FewStepGenerator(Settings(path=str(root / "sdxl")).load(), 80.0)
    assert (image_of_ours(student, z) - image_of_ours(teacher, z)).abs().max() > 1e-4
    checkpoint = newest_checkpoint(run_dir)
    assert checkpoint is not None
    torch.testing.assert_close(
        image_of_ours(distill.load_generator(checkpoint), z), image_of_ours(student, z), rtol=0, atol=1e-6
    )
    for name, file in {
        "generator": "generator",
        "fake": "fake",
        "average": WEIGHTS.partition(".")[0],
    }.items():
        with safe_open(checkpoint / f"{file}.safetensors", "pt") as tensors:
            assert all(".lora_" in key for key in tensors.keys()), name  # noqa: SIM118 - it is no mapping
    with safe_open(checkpoint / "fake.safetensors", "pt") as tensors:
        assert {key.rsplit(".", 4)[1] for key in tensors.keys()} == {"to_q", "to_v"}  # noqa: SIM118
    longer = {**config, "resume": "auto", "checkpoint_every": 4, "steps": 3}
    assert run(root, objective, longer) == run_dir  # restores its newest checkpoint, at its end


def test_a_dry_run_counts_the_base_once(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(
        "task: distill\nrun_dir: nowhere\nsteps: 1\nbatch_size: 2\nobjective: {name: score_matching}\n"
    )
    source = ["--teacher.name", "diffusers", "--teacher.path", str(root / "sdxl")]
    prompts = ["--prompts.name", "text_file", "--prompts.path", str(root / "prompts.txt")]
    lora = ["--generator.network", "{name: lora, rank: 4}", "--fake.network", "{name: lora, rank: 4}"]
    assert train([str(tmp_path / "config.yaml"), "--dry-run", *source, *prompts, *lora]) == 0
    said = capsys.readouterr().out
    teacher = Settings(path=str(root / "sdxl")).load()
    learnt = sum(parameter.numel() for parameter in Student(rank=4).build(teacher, 80.0).denoiser.adapters())
    held = [teacher, *teacher.frozen_components().values()]
    weights = sum(parameter.numel() for network in held for parameter in network.parameters()) + 2 * learnt
    assert f"{4 * weights / 2**20:,.1f} MiB  weights" in said
    assert f"{2 * 2 * 4 * learnt / 2**20:,.1f} MiB  optimiser" in said
    assert f"{4 * learnt / 2**20:,.1f} MiB  average" in said
    assert f"{learnt:,} of them learn, the others are the teacher's" in said
    assert re.search(
        r"\nLoRA +[\d., ]+1\.00  this run\nLoRA, activation checkpointing +[\d., ]+1\.[1-3]\d\n", said
    )


def test_impossible_adapters_are_refused_in_one_line(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^generator\.network: lora is for teachers of diffusers; expected copy$"
    ):
        Student().build(distill.load_teacher("assets/digits-teacher"), 80.0)
    teacher = Settings(path=str(root / "sdxl")).load()
    with pytest.raises(
        UserError, match=r"^lora\.targets: 'to_qq' is no layer of the network; did you mean 'to_q'\?$"
    ):
        Student(targets=("to_qq",)).build(teacher, 80.0)
    export_generator(Student(rank=4).build(teacher, 80.0), _made(tmp_path / "export"))
    export_generator(Student(rank=2).build(teacher, 80.0), _made(tmp_path / "other"))
    (tmp_path / "other" / ADAPTERS).replace(tmp_path / "export" / ADAPTERS)
    with pytest.raises(
        UserError,
        match=r"pytorch_lora_weights.safetensors: weights of another architecture: "
        r".* is \(2, \d+\); expected \(4, \d+\)",
    ):
        load_generator(tmp_path / "export")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("alpha", [2.0, 4.0, 16.0])
def test_a_student_starts_as_the_export_that_it_starts_from(root: Path, tmp_path: Path, alpha: float) -> None:
    """An export has alpha = rank, whatever the student's was, and the new student has an alpha of its own."""
    teacher = Settings(path=str(root / "sdxl")).load()
    exported = disturbed(Student(rank=4, alpha=2.0).build(teacher, 80.0))
    export_generator(exported, _made(tmp_path / "export"))
    settings = GeneratorSettings.model_validate(
        {"network": {"name": "lora", "rank": 4, "alpha": alpha}, "init_from": tmp_path / "export"}
    )
    z = torch.randn(2, *exported.noise_shape)
    expected = image_of_ours(exported, z)
    assert (expected - image_of_ours(FewStepGenerator(teacher, 80.0), z)).abs().max() > 1e-3
    whole = build_generator(settings, teacher)
    filled = build_untrained_generator(settings, teacher)
    fill_from_main(filled, load_start(settings, filled), ALONE)  # as a sharded student is
    for started in (whole, filled):
        assert started.denoiser.sizes["alpha"] == alpha
        torch.testing.assert_close(image_of_ours(started, z), expected, rtol=0, atol=1e-5)
