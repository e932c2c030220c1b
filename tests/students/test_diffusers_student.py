"""Students of diffusers' pipelines: their training, and the same images by their exports in diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import distill
from distill.config.errors import UserError
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import newest_checkpoint
from distill.publishing.export import export_generator
from distill.teachers.diffusers import Settings
from tests.helpers.diffusers_families import FAMILIES, FLOW, GUIDANCE, ONE_STEP, folder_of, size_of
from tests.helpers.diffusers_runs import (
    OBJECTIVES,
    PROMPTS,
    SMALL,
    image_of_diffusers,
    image_of_ours,
    make_inputs,
    run,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("students"))


ENTRIES = [
    (family, entry, 1) for family in FAMILIES for entry in (2.5, 1e4) if entry > 80 or family not in FLOW
]
"""Entries in the middle of the schedule and at its end; in flow matching at its end alone."""
SEVERAL = [
    pytest.param(family, 1e4, steps, marks=() if family in ("ddpm", "flux") else pytest.mark.slow)
    for family in FAMILIES
    for steps in (3, 8)
    if family not in ONE_STEP
]
SEVERAL += [("sd15", 2.5, 4), ("sd3", 1e4, 4)]
SEVERAL += [("ddpm", 0.03, 2)]
"""The last has steps at t = 5 and 2, where a consistency model would mix its input in."""


@pytest.mark.parametrize(("family", "noise_to_signal", "steps"), [*ENTRIES, *SEVERAL])
def test_an_export_is_a_pipeline_of_diffusers(
    family: str, noise_to_signal: float, steps: int, tmp_path: Path
) -> None:
    settings = {
        "path": str(FAMILIES[family](tmp_path / "teacher")),
        **size_of(family),
        "embedded_guidance": GUIDANCE.get(family),
    }
    network = Settings(**settings).load()
    levels = network.student_noise_levels(noise_to_signal, steps)
    generator = FewStepGenerator(network, *levels)
    for parameter in generator.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    (tmp_path / "export").mkdir()
    export_generator(generator, tmp_path / "export")
    z = torch.randn(2, *generator.noise_shape)
    ours = image_of_ours(generator, z)
    torch.testing.assert_close(image_of_diffusers(tmp_path / "export", z, steps), ours, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        image_of_ours(distill.load_generator(tmp_path / "export"), z), ours, rtol=0, atol=1e-5
    )
    teacher = Settings(**{**settings, "path": str(tmp_path / "export"), "embedded_guidance": None}).load()
    assert teacher.schedule.t_max == generator.entry_points[0].t
    torch.testing.assert_close(image_of_ours(FewStepGenerator(teacher, *levels), z), ours, rtol=0, atol=1e-5)


def test_a_generator_of_random_numbers_makes_the_noise_of_all_steps(root: Path, tmp_path: Path) -> None:
    """The pipeline is called as users call it, and makes the image of a seed.

    The pipeline draws the first noise of the generator, and the scheduler the others, one after another.
    """
    from diffusers import DiffusionPipeline

    teacher = distill.load_teacher(root / "sd15")
    student = FewStepGenerator(teacher, *teacher.student_noise_levels(80.0, 4))
    export_generator(student, _made(tmp_path / "export"))
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "export")
    drawn = torch.Generator().manual_seed(5)
    theirs = pipe(
        PROMPTS[:1], num_inference_steps=4, guidance_scale=0, generator=drawn, output_type="pt"
    ).images
    random = torch.Generator().manual_seed(5)
    z = torch.cat([torch.randn(1, *student.image_shape, generator=random) for _ in range(4)], 1)
    torch.testing.assert_close(theirs, image_of_ours(student, z), rtol=0, atol=1e-5)


DEFAULT = [("sd15", objective) for objective in OBJECTIVES] + [("sd3", "expanded_divergence")]


@pytest.mark.parametrize(
    ("family", "objective"),
    [
        pytest.param(family, objective, marks=() if (family, objective) in DEFAULT else pytest.mark.slow)
        for family in FAMILIES
        for objective in OBJECTIVES
    ],
)
def test_every_objective_moves_the_student(root: Path, family: str, objective: str) -> None:
    """The discriminator sees stored samples; text teachers have guidance, prompt dropout and a cache."""
    source = {"path": str(folder_of(root, family)), **size_of(family)}
    teacher = FewStepGenerator(Settings(**source).load(), 80.0)
    text = {
        "prompts": {
            "name": "text_file",
            "path": str(root / "prompts.txt"),
            "dropout": 0.3,
            "cache": str(root / "cache" / family),
        }
    }
    guidance = {"guidance": {"teacher": 2.0, "fake": 1.5}}
    settings: dict[str, Any] = {
        "teacher": {"name": "diffusers", **source},
        "generator": {
            "init_noise_to_signal": 80.0,
            "ema": 0.0,
            "noise_levels": {"name": "uniform", "start": 0.02, "stop": 0.98},
        },
        "teacher_samples": {"path": str(root / "samples" / family), "count": 4, "sampler": {"steps": 2}},
        "objective": {"name": objective, **OBJECTIVES[objective]},
        "discriminator": {
            "reads": "fake",
            "real": "teacher",
            "depths": [next(iter(teacher.denoiser.depth_channels)), "bottleneck"],
            "width": 8,
        },
        "ratio": {"bins": 2} if "divergence" in OBJECTIVES[objective] else None,
        "terms": [{"name": "gan", "weight": 0.1}, {"name": "regression", "weight": 0.1}],
        **(text if teacher.takes_text else {}),
        **(guidance if teacher.takes_text or family == "dit" else {}),
    }
    run_dir = run(root, f"{family}-{objective}", settings)
    z = torch.randn(2, *teacher.image_shape, generator=torch.Generator().manual_seed(0))
    student = image_of_ours(distill.load_generator(run_dir), z)
    assert (student - image_of_ours(teacher, z)).abs().max() > 1e-4
    torch.testing.assert_close(image_of_diffusers(run_dir / "export", z), student, rtol=0, atol=1e-5)
    checkpoint = newest_checkpoint(run_dir)
    assert checkpoint is not None
    assert not (checkpoint / "model_index.json").exists()
    torch.testing.assert_close(
        image_of_ours(distill.load_generator(checkpoint), z), student, rtol=0, atol=1e-5
    )


def test_flow_matching_begins_with_pure_noise(root: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"init_noise_to_signal: is 2\.5; expected at least 80, "
        r"for pure noise, with which pipelines of flow",
    ):
        FewStepGenerator(distill.load_teacher(folder_of(root, "sd3")), 2.5)


def test_steps_that_no_pipeline_takes_are_refused(root: Path) -> None:
    """A schedule of whole steps takes only an even division, and a flow too but for the last step."""
    sd15, sd3 = (distill.load_teacher(folder_of(root, family)) for family in ("sd15", "sd3"))
    refused = [
        (sd15, (80.0, 2.5), r"steps at t = 999, 625; expected 999, 499, or null: pipelines have no others"),
        (sd15, (80.0, 20.0), r"steps at t = 999, 999; expected 999, 499, or null: pipelines have no others"),
        (
            sd3,
            (80.0, 3.0, 1.0, 0.5),
            r"steps at t = 1, 0\.75, 0\.5, 0\.333333; expected 1, 0\.777778, 0\.555556, 0\.333333, or null",
        ),
        (sd3, (2.5, 1.0), r"generator\.init_noise_to_signal: is 2\.5; expected at least 80"),
    ]
    for teacher, levels, message in refused:
        with pytest.raises(UserError, match=message):
            FewStepGenerator(teacher, *levels)
    assert [entry.t for entry in FewStepGenerator(sd3, 80.0, 0.25).entry_points] == [1.0, pytest.approx(0.2)]


def test_a_pipeline_with_times_of_its_own_takes_one_step(root: Path) -> None:
    teacher = distill.load_teacher(folder_of(root, "cogview4"))
    with pytest.raises(
        UserError,
        match=r"^generator.steps: is 2; expected 1: CogView4Pipeline gives its network times of its own",
    ):
        FewStepGenerator(teacher, 80.0, 1.0)


def test_a_run_of_several_steps_leaves_as_a_pipeline_or_does_not_begin(root: Path) -> None:
    settings = {
        "teacher": {"name": "diffusers", "path": str(root / "sdxl")},
        "prompts": {"name": "text_file", "path": str(root / "prompts.txt")},
        "objective": {"name": "score_matching"},
    }
    student = {"network": {"name": "lora", "rank": 4}, "init_noise_to_signal": 80.0, "steps": 2, "ema": 0.0}
    full = {**student, "network": {"name": "copy"}, "steps": 4}
    run_dir = run(root, "four-steps", {**settings, "generator": full})
    generator = distill.load_generator(run_dir)
    z = torch.randn(2, *generator.noise_shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        image_of_diffusers(run_dir / "export", z, 4), image_of_ours(generator, z), rtol=0, atol=1e-5
    )
    assert "num_inference_steps=4, guidance_scale=0" in (run_dir / "export" / "README.md").read_text()
    adapters = run(root, "two-steps", {**settings, "generator": student})
    assert [entry.t for entry in distill.load_generator(adapters).entry_points] == [999, 499]
    with pytest.raises(UserError, match="expected 999, 499, or null: pipelines have no others"):
        run(root, "no-steps", {**settings, "generator": {**student, "further_noise_to_signal": [2.5]}})
    assert not (root / "runs" / "no-steps").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", ["sd15/f_distill", "sd15/sid_lsg", "sd15/dmd2", "sdxl/f_distill", "sdxl/dmd2", "sdxl/dmd2_lora"]
)
def test_the_papers_presets_run(root: Path, preset: str) -> None:
    """Three steps run with a tiny pipeline of the same classes.

    Everything that is not a size, a path or a count is the preset's, but for compilation, which takes minutes
    on a CPU and has tests of its own.
    """
    content = yaml.safe_load(Path(f"configs/{preset}.yaml").read_text())
    content["teacher"].update(path=str(root / preset.split("/")[0]), resolution=16)
    content["prompts"]["cache"] = None
    if "data" in content:
        content["data"].update(path=str(root / "images"), resolution=16)
    else:
        content["prompts"]["path"] = str(root / "prompts.txt")
    content["fake"] |= {"updates": 1, "warmup_steps": 0}
    content["generator"].pop("init_from", None)  # a student of another preset
    run_dir = run(
        root,
        preset.replace("/", "-"),
        {
            **content,
            **SMALL,
            "compile": "none",
            "micro_batch_size": 1,
            "run_dir": str(root / "runs" / preset),
        },
    )
    last = json.loads((run_dir / "stats.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 3
    assert last["grad_norm/generator"] > 0
    assert distill.load_generator(run_dir).denoiser.entry_points(
        [content["generator"]["init_noise_to_signal"]]
    )[0].t == {
        "sd15/sid_lsg": 625.0,
        "sdxl/dmd2": 399.0,
        "sdxl/dmd2_lora": 399.0,
    }.get(preset, 999.0)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_more_steps_than_the_teacher_has_below_the_first_are_refused(root: Path) -> None:
    network = Settings(path=str(root / "ddpm")).load()
    last = round(network.entry_points([0.05])[0].t)
    with pytest.raises(UserError) as error:
        FewStepGenerator(network, *network.student_noise_levels(0.05, last + 2))
    assert str(error.value) == (
        f"generator.steps: is {last + 2}; expected at most {last + 1}, as many noise levels as the teacher "
        "was trained at up to generator.init_noise_to_signal"
    )
