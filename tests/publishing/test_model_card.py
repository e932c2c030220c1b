"""Model cards of exports: their code makes the student's images, and they state origin and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml

from distill.eval.__main__ import main as evaluate
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import load_generator
from distill.publishing.export import main
from distill.publishing.model_card import write_card
from distill.students.lora import Student as LoRA
from distill.students.mlp import Student as MLP
from distill.teachers.diffusers import Settings as Diffusers
from distill.teachers.gaussian_mixture import Settings as GaussianMixture
from distill.types import Condition
from tests.helpers import tiny_flow_pipelines, tiny_kandinsky_pipelines, tiny_pipelines
from tests.helpers.exported import images, opened, own_student, run_of
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import train_run, write_run

pytestmark = pytest.mark.usefixtures("code_cache")
MIXTURE = {"name": "gaussian_mixture", "components": [{"mean": [1.0, 0.5], "std": 0.3}]}
PROMPT = "a cat in a hat"
MADE_BY = "by `python -m eval --run"


def code_of(card: str) -> tuple[str, str]:
    """Return the card's Python: all but the last line, and the last line."""
    code = card.split("```python\n")[1].split("```")[0]
    setup, _, last = code.rstrip().rpartition("\n")
    return setup, last


def run_code(folder: Path, seed: int) -> tuple[Any, str]:
    """Run the card's code, with the global noise of a seed, and return its result."""
    setup, last = code_of((folder / "README.md").read_text())
    names: dict[str, Any] = {}
    exec(setup.replace("with torch.no_grad():", ""), names)
    torch.manual_seed(seed)
    with torch.no_grad():
        exec(last.strip(), names)
    return names.get("image", names.get("sample")), last.strip()


def students_of_diffusers(kind: str, folder: Path) -> tuple[FewStepGenerator, dict[str, Any], str]:
    """Make a student, and return it with its teacher's settings and the call that its card is to show."""
    make = {
        "lora": tiny_pipelines.stable_diffusion,
        "labels": lambda path: tiny_pipelines.ddpm(path, classes=5),
        "flux2": tiny_flow_pipelines.flux2,
        "kandinsky5": tiny_kandinsky_pipelines.kandinsky5,
    }
    path = make.get(kind, getattr(tiny_pipelines, kind, None))(folder / "teacher")  # type: ignore[misc]
    size: dict[str, Any] = {"resolution": 16} if kind in ("flux", "flux2", "kandinsky5", "lora") else {}
    if kind == "flux2":
        size["embedded_guidance"] = 7.0
    text = f'prompt="{PROMPT}", num_inference_steps=1'
    calls = {
        "stable_diffusion": f"image = pipe({text}, guidance_scale=0).images[0]",
        "lora": f"image = pipe({text}, guidance_scale=0, height=16, width=16).images[0]",
        "flux": f"image = pipe({text}, guidance_scale=3.5, height=16, width=16).images[0]",
        "flux2": f"image = pipe({text}, height=16, width=16).images[0]",
        "kandinsky5": f"image = pipe({text}, guidance_scale=0, return_dict=False, height=16, width=16)[0][0]",
        "dit": "image = pipe(class_labels=[0], num_inference_steps=1, guidance_scale=0).images[0]",
        "ddpm": "image = pipe(num_inference_steps=1).images[0]",
        "labels": (
            "sample = generator.decode("
            "generator(torch.randn(1, *generator.noise_shape), Condition(torch.tensor([0]))))[0]"
        ),
    }
    teacher = Diffusers(path=str(path), **size).load()
    generator = (
        LoRA(rank=2).build(teacher, 1e4) if kind in ("lora", "flux") else FewStepGenerator(teacher, 1e4)
    )
    for name, parameter in generator.named_parameters():
        if kind not in ("lora", "flux") or ".lora_B." in name:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return generator.eval(), {"name": "diffusers", "path": str(path), **size}, calls[kind]


@pytest.mark.parametrize(
    "kind", ["stable_diffusion", "lora", "flux", "flux2", "kandinsky5", "dit", "ddpm", "labels"]
)
def test_the_code_of_a_card_makes_the_student_s_image(kind: str, tmp_path: Path) -> None:
    """Cards of pipelines and adapters of diffusers call them correctly.

    A network with embedded guidance gets its guidance scale, and a pipeline with another size gets the size.
    """
    torch.manual_seed(0)
    generator, teacher, call = students_of_diffusers(kind, tmp_path)
    run = run_of(generator, tmp_path / "run", teacher)
    write_card(run / "export", run)
    made, line = run_code(run / "export", seed=3)
    assert line == call
    torch.manual_seed(3)
    z = torch.randn(1, *generator.image_shape)
    if kind == "flux2":  # whose pipeline draws the noise of packed latents
        z = torch.nn.functional.pixel_shuffle(z.reshape(1, -1, z.shape[2] // 2, z.shape[3] // 2), 2)
    if kind == "kandinsky5":  # whose pipeline draws the channels last
        channels, height, width = generator.image_shape
        z = z.reshape(1, height, width, channels).movedim(-1, 1)
    cond = (
        generator.encode_prompts([PROMPT])
        if generator.takes_text
        else Condition(torch.tensor([0]) if generator.label_count else None)
    )
    expected = images(generator, z, cond)[0].permute(1, 2, 0).numpy()
    if kind == "labels":
        made = (made / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy() * 255
    assert np.abs(np.asarray(made, dtype=float).reshape(expected.shape) - 255 * expected).max() <= 0.51


@pytest.mark.parametrize("kind", ["unet", "vectors"])
def test_the_code_of_a_card_of_ours(kind: str, tmp_path: Path) -> None:
    if kind == "unet":
        generator: Any = own_student("unet", tmp_path)
        teacher = {"name": "native", "path": "assets/digits-teacher"}
    else:
        generator, teacher = MLP(width=8).build(GaussianMixture(**MIXTURE).load(), 80.0).eval(), MIXTURE
    run = run_of(generator, tmp_path / "run", teacher)
    write_card(run / "export", run)
    made, line = run_code(run / "export", seed=3)
    torch.manual_seed(3)
    z = torch.randn(1, *generator.image_shape)
    card = (run / "export" / "README.md").read_text()
    data = huggingface_hub.ModelCard(card).data
    assert data.tags == [
        "one-step",
        "diffusion-distillation",
        "distribution_matching",
        type(getattr(generator, "denoiser", generator)).__name__,
    ]
    if kind == "unet":
        assert line == "image = pipe(class_labels=[0]).images[0]"
        assert (
            np.abs(
                np.asarray(made, dtype=float)
                - 255 * images(generator, z, Condition(torch.tensor([0])))[0, 0].numpy()
            ).max()
            <= 0.51
        )
        assert (data.library_name, data.pipeline_tag, data.base_model) == (
            "diffusers",
            "unconditional-image-generation",
            None,
        )
        assert (
            "Makes each image in one network evaluation. "
            "Distilled from `assets/digits-teacher` by distribution_matching (jensen_shannon)." in card
        )
    else:
        with torch.no_grad():
            torch.testing.assert_close(made, generator(z, Condition())[0])
        assert sorted(path.name for path in (run / "export").iterdir()) == [
            "README.md",
            "config.json",
            "model.safetensors",
        ]
        assert (data.library_name, data.pipeline_tag) == ("distill", None)
        assert (
            "Makes each sample in one network evaluation. "
            "Distilled from a teacher of the kind `gaussian_mixture`" in card
        )


PUBLISHED = {
    "name": "diffusers",
    "path": "stabilityai/stable-diffusion-xl-base-1.0",
    "revision": "main",
    "variant": "fp16",
}
"""A teacher from the hub."""


@pytest.fixture
def adapters_run(tmp_path: Path) -> Path:
    """A finished run whose student is adapters, with a published teacher in its configuration."""
    generator, teacher, _ = students_of_diffusers("lora", tmp_path)
    run = run_of(generator, tmp_path / "run", teacher)
    config = yaml.safe_load((run / "config.yaml").read_text())
    prompts = {"name": "text_file", "path": "prompts.txt"}
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"teacher": PUBLISHED, "prompts": prompts}))
    return run


def card_of(run: Path, name: str | None = None) -> str:
    """Write the card of a run's export, under a name on the hub if one is given, and return it."""
    write_card(run / "export", run, *([] if name is None else [name]))
    return (run / "export" / "README.md").read_text()


def test_a_card_says_how_to_load_adapters_from_the_hub(adapters_run: Path) -> None:
    card = card_of(adapters_run, "me/student")
    assert f"Not measured yet; `python -m eval --run {adapters_run.name}` does" in card
    setup, _ = code_of(card)
    assert setup.splitlines()[0] == "from diffusers import LCMScheduler, DiffusionPipeline"
    assert (
        'DiffusionPipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0", '
        'revision="main", variant="fp16")' in setup
    )
    assert 'pipe.load_lora_weights("me/student")' in setup
    assert 'LCMScheduler.from_pretrained("me/student", subfolder="scheduler")' in setup


def test_a_card_names_the_published_teacher(adapters_run: Path) -> None:
    card = card_of(adapters_run)
    data = huggingface_hub.ModelCard(card).data
    assert (data.base_model, data.to_dict()["base_model_relation"], data.pipeline_tag) == (
        PUBLISHED["path"],
        "adapter",
        "text-to-image",
    )
    assert (
        "Distilled from [stabilityai/stable-diffusion-xl-base-1.0]"
        "(https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0) by" in card
    )


def test_a_card_has_the_results(adapters_run: Path) -> None:
    measured = {
        "protocol": "fd-pixel",
        "n": 500,
        "seed": 3,
        "student": {"fd_pixel": 0.12345, "precision": 0.9, "held_out": {}},
        "teacher": {"fd_pixel": 0.0381, "recall": 0.5},
        "sampling": {"teacher_evaluations": 35},
    }
    fid = {
        "protocol": "edm-50k",
        "metric": "FID",
        "departures": ["10 images"],
        "n": 10,
        "summary": {"fd": {"mean": 2.34567}},
        "source": {"of": "the student"},
    }
    (adapters_run / "eval.json").write_text(json.dumps(measured))
    (adapters_run / "fid.json").write_text(json.dumps(fid))
    card = card_of(adapters_run)
    assert [line for line in card.splitlines() if line.startswith("|")] == [
        "| | student, one network evaluation | teacher, 35 evaluations |",
        "|---|---|---|",
        "| fd-pixel, a Fréchet distance | 0.1235 | 0.0381 |",
        "| precision | 0.9 |  |",
    ]
    assert f"Over 500 samples from seed 3, {MADE_BY} {adapters_run}`." in card
    assert "FID 2.346 under `edm-50k` and 10 images, 10 images, by `python -m eval fid`." in card


def test_a_card_says_what_fid_wrote_of_a_run(adapters_run: Path) -> None:
    spread = {"mean": 2.5}
    one = {"protocol": "clean", "metric": "FID", "departures": [], "n": 10, "summary": {"fd": spread}}
    ours = {"of": f"the student in {adapters_run}"}
    several = {
        "format": "distill-fid-set/1",
        "results": {
            "clean": {**one, "source": ours},
            "cmmd": {
                **one,
                "protocol": "cmmd",
                "metric": "FD-CLIP",
                "source": ours,
                "summary": {"fd": spread, "cmmd": {"mean": 0.75}},
                "trained": "trained on the features clip: distances by them do not judge this run",
            },
            "edm-50k": {**one, "source": {"of": f"the teacher in {adapters_run}"}},
        },
    }
    (adapters_run / "fid.json").write_text(json.dumps(several))
    card = card_of(adapters_run)
    assert "FID 2.5 under `clean`, 10 images, by `python -m eval fid`.\n" in card
    assert (
        "CMMD 0.75, FD-CLIP 2.5 under `cmmd`, 10 images, by `python -m eval fid`. "
        "It was trained on the features clip: distances by them do not judge this run.\n"
    ) in card
    assert "edm-50k" not in card


def test_a_card_has_the_recipe(adapters_run: Path) -> None:
    versions = {"python": "3.11", "torch": "2.9"}
    meta = {"versions": versions, "commit": "abc1234", "machine": "Linux, 2 cores"}
    (adapters_run / "meta.json").write_text(json.dumps(meta))
    (adapters_run / "stats.jsonl").write_text('{"step": 3, "images": 192, "seconds": 12.4}\n')
    card = card_of(adapters_run)
    assert (
        "3 steps, 192 images of the student, 12 s; Linux, 2 cores; commit abc1234; python 3.11, torch 2.9."
        in card
    )
    config = yaml.safe_load((adapters_run / "config.yaml").read_text())
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0]) == config
    assert "This file grants nothing." in card


def test_training_leaves_a_card_and_an_evaluation_rewrites_it(tmp_path: Path) -> None:
    save_random_teacher(tmp_path / "teacher", multipliers=(1,))
    every = {"checkpoint_every": 2, "monitor_every": 2}
    run = train_run(write_run(tmp_path, data={"name": "digits"}, steps=2, monitor_images=2, **every))
    z = torch.randn(2, 1, 8, 8)
    cond = Condition(torch.tensor([4, 5]))
    torch.testing.assert_close(
        opened(run / "export")([4, 5], latents=z, output_type="pt").images,
        images(load_generator(run), z, cond),
    )
    card = (run / "export" / "README.md").read_text()
    assert "2 steps, 4 images of the student" in card
    assert MADE_BY not in card
    evaluate(["--run", str(run), "--n", "20", "--no-teacher"])
    results = json.loads((run / "eval.json").read_text())
    assert results["grids"] == "a column for each of the labels 0 to 9"
    measured = results["student"]["fd_pixel"]
    rewritten = (run / "export" / "README.md").read_text()
    assert f"| fd-pixel, a Fréchet distance | {measured:.4g} |  |" in rewritten
    assert code_of(rewritten) == code_of(card)


def test_an_exported_pipeline_exported_again_is_the_same(tmp_path: Path) -> None:
    generator, teacher, _ = students_of_diffusers("stable_diffusion", tmp_path)
    run = run_of(generator, tmp_path / "run", teacher)
    main(["--run", str(run)])
    z, cond = torch.randn(2, *generator.image_shape), generator.encode_prompts(["a", "b"])
    torch.testing.assert_close(
        images(load_generator(run), z, cond), images(generator, z, cond), rtol=0, atol=1e-5
    )
