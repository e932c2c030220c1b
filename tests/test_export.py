"""Exports: folders that diffusers opens too, with a card whose text runs, on disk and on the hub."""

from __future__ import annotations

import fnmatch
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from huggingface_hub.errors import HFValidationError, HTTPError
from torch import Tensor

import distill
from distill.checkpoint import newest_checkpoint
from distill.config import read_config
from distill.errors import UserError, run_command
from distill.export import export_generator, load_generator, main, save_generator
from distill.images import to_bytes
from distill.launch import launch
from distill.model_card import write_card
from distill.models.one_step import OneStepGenerator
from distill.students.lora import Settings as LoRA
from distill.students.mlp import Settings as MLP
from distill.teachers.diffusers import Settings as Diffusers
from distill.teachers.edm import Settings as EDM
from distill.teachers.edm2 import Settings as EDM2
from distill.teachers.gaussian_mixture import Settings as GaussianMixture
from distill.types import Condition, Generator
from eval.__main__ import main as evaluate
from tests import tiny_pipelines
from tests.random_teacher import save_random_teacher

ORACLES = Path(__file__).parent / "oracles"
MIXTURE = {"name": "gaussian_mixture", "components": [{"mean": [1.0, 0.5], "std": 0.3}]}
OBJECTIVE = {"name": "distribution_matching", "divergence": "jensen_shannon"}
PROMPT = "a cat in a hat"
MADE_BY = "by `python -m eval --run"


@pytest.fixture(autouse=True)
def code_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place of its own for the code that diffusers copies out of a folder before running it."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
    monkeypatch.setattr(sys, "path", [*sys.path])


def autoencoder(folder: Path) -> Path:
    """Of the published one's class and latents, small."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    AutoencoderKL(**blocks, block_out_channels=(4,) * 4, norm_num_groups=4).save_pretrained(folder)
    return folder


def own_student(kind: str, folder: Path) -> OneStepGenerator:
    """Of our own U-Net, of EDM's network, or of EDM2's network of latents with an autoencoder that lies in `folder`."""
    folder.mkdir(exist_ok=True)
    if kind == "unet":
        denoiser: Any = save_random_teacher(folder / "teacher", multipliers=(1,))
    elif kind == "edm":
        denoiser = EDM(path=ORACLES / "edm_tiny.pkl").load()
    else:
        denoiser = EDM2(path=ORACLES / "edm2_tiny.pkl", autoencoder=str(autoencoder(folder / "vae"))).load()
    return OneStepGenerator(denoiser, 2.5).eval()


def exported(generator: Generator, folder: Path) -> Path:
    folder.mkdir(parents=True)
    export_generator(generator, folder)
    return folder


def run_of(generator: Generator, folder: Path, teacher: dict[str, Any], **settings: Any) -> Path:
    """A finished run's folder, with its export."""
    exported(generator, folder / "export")
    config = {"task": "distill", "run_dir": str(folder), "steps": 3, "objective": OBJECTIVE, "teacher": teacher, **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@torch.no_grad()
def images(generator: Generator, z: Tensor, cond: Condition) -> Tensor:
    """In [0, 1]."""
    return (generator.decode(generator(z, cond)) / 2 + 0.5).clamp(0, 1)


def opened(source: Path | str) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(str(source), trust_remote_code=True)
    assert type(pipe).__name__ == "OneStepPipeline"
    return pipe


@pytest.mark.parametrize("kind", ["unet", "edm", "edm2"])
def test_a_network_of_ours_leaves_as_a_pipeline(kind: str, tmp_path: Path) -> None:
    """Called as any pipeline, from a folder that has moved, without what lay beside it; the image is ours to 1e-5."""
    generator = own_student(kind, tmp_path / "here")
    labels = [1, 0, 2]
    z = torch.randn(3, *generator.image_shape, generator=torch.Generator().manual_seed(7))
    expected = images(generator, z, Condition(torch.tensor(labels)))
    exported(generator, tmp_path / "here" / "export").rename(tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    pipe = opened(tmp_path / "there")
    for given in ({"generator": torch.Generator().manual_seed(7)}, {"latents": z}):
        made = pipe(labels, output_type="pt", **given).images
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(images(load_generator(tmp_path / "there"), z, Condition(torch.tensor(labels))), expected, rtol=0, atol=1e-5)
    assert np.abs(np.asarray(pipe(labels, latents=z).images[1]).reshape(-1) - 255 * expected[1].permute(1, 2, 0).flatten().numpy()).max() <= 0.5001
    assert pipe(1, latents=z[:1], output_type="np", return_dict=False)[0].shape == (1, *expected.shape[2:], expected.shape[1])
    pipe.save_pretrained(tmp_path / "again")
    pipe = opened(tmp_path / "again").to(torch.bfloat16)
    assert pipe.dtype == torch.bfloat16
    assert 0 < (pipe(labels, latents=z, output_type="pt").images - expected).abs().max() < 0.1


def test_a_pipeline_of_ours_says_what_it_cannot(tmp_path: Path) -> None:
    pipe = opened(exported(own_student("unet", tmp_path), tmp_path / "export"))
    assert len(pipe(batch_size=2).images) == 2
    for settings, message in {
        "class_labels=[3, 10]": r"class_labels: 10 is out of range; expected labels from 0 to 9",
        "class_labels=-1": r"class_labels: -1 is out of range",
        "num_inference_steps=4": r"num_inference_steps is 4; expected 1",
        "latents=torch.zeros(1, 1, 4, 4)": r"latents: of shape \(1, 1, 4, 4\); expected \(1, 1, 8, 8\)",
    }.items():
        with pytest.raises(ValueError, match=message):
            eval(f"pipe({settings})")


def test_from_the_hub_comes_all_that_a_pipeline_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loader fetches the files that it thinks it needs: of a repository with an export, the network and its autoencoder."""
    generator = own_student("edm2", tmp_path)
    stored, fetched = exported(generator, tmp_path / "stored"), tmp_path / "fetched"
    names = [path.relative_to(stored).as_posix() for path in stored.rglob("*") if path.is_file()]

    def fetch(name: str) -> str:
        (fetched / name).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copyfile(stored / name, fetched / name))

    def snapshot(repo: str, allow_patterns: Sequence[str], ignore_patterns: Sequence[str], **settings: Any) -> str:
        assert repo == "me/student"
        for name in names:
            if any(fnmatch.fnmatch(name, one) for one in allow_patterns) and not any(fnmatch.fnmatch(name, one) for one in ignore_patterns):
                fetch(name)
        return str(fetched)

    information = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names], sha="0" * 40)
    for module in ("diffusers.pipelines.pipeline_utils", "diffusers.utils.dynamic_modules_utils"):
        monkeypatch.setattr(f"{module}.model_info", lambda *args, **settings: information)
        monkeypatch.setattr(f"{module}.hf_hub_download", lambda repo, filename, **settings: fetch(filename))
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.snapshot_download", snapshot)
    pipe = opened("me/student")
    shutil.rmtree(tmp_path / "vae")
    shutil.rmtree(stored)
    z = torch.randn(1, *generator.image_shape)
    expected = images(generator, z, Condition(torch.tensor([1])))
    torch.testing.assert_close(pipe(1, latents=z, output_type="pt").images, expected, rtol=0, atol=1e-5)


def test_such_a_folder_is_no_teacher_of_diffusers(tmp_path: Path) -> None:
    folder = exported(own_student("unet", tmp_path), tmp_path / "export")
    complaint = rf"{folder} is a student's export of a network that diffusers does not have; expected a pipeline that it has$"
    with pytest.raises(UserError, match=f"^teacher.path: {complaint}"):
        Diffusers(path=str(folder)).load()
    with pytest.raises(UserError, match=f"^teacher.path: {complaint}"):
        Diffusers(path=str(folder)).outline()
    with pytest.raises(UserError, match=f"^--pipeline: {complaint}"):
        evaluate(["fid", "--pipeline", str(folder), "--protocol", "fd-pixel", "--reference", "digits", "--n", "8"])
    with pytest.raises(UserError, match=r"export: holds a generator; expected a denoiser$"):
        distill.load_teacher(folder)


# The card.


def code_of(card: str) -> tuple[str, str]:
    """Its Python: all but the last line, and that line."""
    code = card.split("```python\n")[1].split("```")[0]
    setup, _, last = code.rstrip().rpartition("\n")
    return setup, last


def run_code(folder: Path, seed: int) -> tuple[Any, str]:
    """What the card's code makes, from the global noise of a seed, and the call."""
    setup, last = code_of((folder / "README.md").read_text())
    names: dict[str, Any] = {}
    exec(setup.replace("with torch.no_grad():", ""), names)
    torch.manual_seed(seed)
    with torch.no_grad():
        exec(last.strip(), names)
    return names.get("image", names.get("sample")), last.strip()


def students_of_diffusers(kind: str, folder: Path) -> tuple[OneStepGenerator, dict[str, Any], str]:
    """A student, its teacher's settings, and the call that its card is to show."""
    make = {"lora": tiny_pipelines.stable_diffusion, "labels": lambda path: tiny_pipelines.ddpm(path, classes=5)}
    path = make.get(kind, getattr(tiny_pipelines, kind, None))(folder / "teacher")  # type: ignore[misc]
    size = {"resolution": 16} if kind in ("flux", "lora") else {}
    calls = {
        "stable_diffusion": f'image = pipe(prompt="{PROMPT}", num_inference_steps=1, guidance_scale=0).images[0]',
        "lora": f'image = pipe(prompt="{PROMPT}", num_inference_steps=1, guidance_scale=0, height=16, width=16).images[0]',
        "flux": f'image = pipe(prompt="{PROMPT}", num_inference_steps=1, guidance_scale=3.5, height=16, width=16).images[0]',
        "dit": "image = pipe(class_labels=[0], num_inference_steps=1, guidance_scale=0).images[0]",
        "ddpm": "image = pipe(num_inference_steps=1).images[0]",
        "labels": "sample = generator.decode(generator(torch.randn(1, *generator.image_shape), Condition(torch.tensor([0]))))[0]",
    }
    teacher = Diffusers(path=str(path), **size).load()
    generator = LoRA(rank=2).build(teacher, 1e4) if kind in ("lora", "flux") else OneStepGenerator(teacher, 1e4)
    for name, parameter in generator.named_parameters():
        if kind not in ("lora", "flux") or ".lora_B." in name:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return generator.eval(), {"name": "diffusers", "path": str(path), **size}, calls[kind]


@pytest.mark.parametrize("kind", ["stable_diffusion", "lora", "flux", "dit", "ddpm", "labels"])
def test_the_code_of_a_card_makes_the_student_s_image(kind: str, tmp_path: Path) -> None:
    """Pipelines and adapters of diffusers; guidance is told a network that was told it, sizes a pipeline that does not know them."""
    torch.manual_seed(0)
    generator, teacher, call = students_of_diffusers(kind, tmp_path)
    run = run_of(generator, tmp_path / "run", teacher)
    write_card(run / "export", run)
    made, line = run_code(run / "export", seed=3)
    assert line == call
    torch.manual_seed(3)
    z = torch.randn(1, *generator.image_shape)
    cond = generator.encode_prompts([PROMPT]) if generator.takes_text else Condition(torch.tensor([0]) if generator.label_count else None)
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
    assert data.tags == ["one-step", "diffusion-distillation", "distribution_matching", type(getattr(generator, "denoiser", generator)).__name__]
    if kind == "unet":
        assert line == "image = pipe(class_labels=[0]).images[0]"
        assert np.abs(np.asarray(made, dtype=float) - 255 * images(generator, z, Condition(torch.tensor([0])))[0, 0].numpy()).max() <= 0.51
        assert (data.library_name, data.pipeline_tag, data.base_model) == ("diffusers", "unconditional-image-generation", None)
        assert "One network evaluation for each image. Distilled from `assets/digits-teacher` by distribution_matching (jensen_shannon)." in card
    else:
        with torch.no_grad():
            torch.testing.assert_close(made, generator(z, Condition())[0])
        assert sorted(path.name for path in (run / "export").iterdir()) == ["README.md", "config.json", "model.safetensors"]
        assert (data.library_name, data.pipeline_tag) == ("distill", None)
        assert "One network evaluation for each sample. Distilled from a teacher of the kind `gaussian_mixture`" in card


def test_a_card_names_teacher_results_and_recipe(tmp_path: Path) -> None:
    generator, teacher, _ = students_of_diffusers("lora", tmp_path)
    run = run_of(generator, tmp_path / "run", teacher)
    published = {"name": "diffusers", "path": "stabilityai/stable-diffusion-xl-base-1.0", "revision": "main", "variant": "fp16"}
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"teacher": published, "prompts": {"name": "text_file", "path": "prompts.txt"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    write_card(run / "export", run, "me/student")
    card = (run / "export" / "README.md").read_text()
    assert f"Not measured yet; `python -m eval --run {run}` does" in card
    setup, _ = code_of(card)
    assert setup.splitlines()[0] == "from diffusers import DDIMScheduler, DiffusionPipeline"
    assert 'DiffusionPipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0", revision="main", variant="fp16")' in setup
    assert 'pipe.load_lora_weights("me/student")' in setup
    assert 'DDIMScheduler.from_pretrained("me/student", subfolder="scheduler")' in setup
    (run / "meta.json").write_text(json.dumps({"versions": {"python": "3.11", "torch": "2.9"}, "commit": "abc1234", "machine": "Linux, 2 cores"}))
    (run / "stats.jsonl").write_text('{"step": 3, "images": 192, "seconds": 12.4}\n')
    student, real = {"fd_pixel": 0.12345, "precision": 0.9, "held_out": {}}, {"fd_pixel": 0.0381, "recall": 0.5}
    (run / "eval.json").write_text(json.dumps({"protocol": "fd-pixel", "n": 500, "seed": 3, "student": student, "teacher": real}))
    fid = {"protocol": "edm-50k", "metric": "FID", "departures": ["10 images"], "n": 10, "summary": {"fd": {"mean": 2.34567}}}
    (run / "fid.json").write_text(json.dumps({**fid, "source": {"of": "the student"}}))
    write_card(run / "export", run)
    card = (run / "export" / "README.md").read_text()
    data = huggingface_hub.ModelCard(card).data
    assert (data.base_model, data.to_dict()["base_model_relation"], data.pipeline_tag) == (published["path"], "adapter", "text-to-image")
    assert "Distilled from [stabilityai/stable-diffusion-xl-base-1.0](https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0) by" in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert rows == ["| | student, 1 evaluation | teacher |", "|---|---|---|", "| fd-pixel | 0.1235 | 0.0381 |", "| precision | 0.9 |  |"]
    assert f"Over 500 samples from seed 3, {MADE_BY} {run}`." in card
    assert "FID 2.346 under `edm-50k` and 10 images, 10 images, by `python -m eval fid`." in card
    assert "3 steps, 192 images of the student, 12 s; Linux, 2 cores; commit abc1234; python 3.11, torch 2.9." in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0]) == config
    assert "This file grants nothing." in card


def test_training_leaves_a_card_and_an_evaluation_rewrites_it(tmp_path: Path) -> None:
    save_random_teacher(tmp_path / "teacher", multipliers=(1,))
    config = {
        "task": "distill",
        "run_dir": str(tmp_path / "run"),
        "data": {"name": "digits"},
        "teacher": {"name": "native", "path": str(tmp_path / "teacher")},
        "objective": {"name": "score_matching"},
        **{"steps": 2, "batch_size": 2, "log_every": 1, "checkpoint_every": 2, "monitor_every": 2, "monitor_images": 2, "device": "cpu"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    AcceleratorState._reset_state(reset_partial_state=True)
    run = tmp_path / "run"
    launch(read_config(tmp_path / "config.yaml"))
    z = torch.randn(2, 1, 8, 8)
    cond = Condition(torch.tensor([4, 5]))
    torch.testing.assert_close(opened(run / "export")([4, 5], latents=z, output_type="pt").images, images(load_generator(run), z, cond))
    card = (run / "export" / "README.md").read_text()
    assert "2 steps, 4 images of the student" in card
    assert MADE_BY not in card
    evaluate(["--run", str(run), "--n", "20", "--no-teacher"])
    measured = json.loads((run / "eval.json").read_text())["student"]["fd_pixel"]
    rewritten = (run / "export" / "README.md").read_text()
    assert f"| fd-pixel | {measured:.4g} |  |" in rewritten
    assert code_of(rewritten) == code_of(card)


# The command.


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of(own_student("unet", tmp_path), tmp_path / "run", {"name": "native", "path": str(tmp_path / "teacher")})


def test_an_export_is_written_anew_from_the_newest_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = load_generator(run)
    shutil.rmtree(run / "export")
    for step, factor in ((100, 0.5), (200, 2.0)):
        for parameter in generator.parameters():
            parameter.data.mul_(factor)
        (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        save_generator(generator, run / "checkpoints" / f"step-{step:08d}")
    main(["--run", str(run), "--out", str(tmp_path / "a" / "student")])
    assert capsys.readouterr().out == f"{tmp_path / 'a' / 'student'} is written\n"
    weights = dict(generator.state_dict())
    assert all(torch.equal(value, weights[name]) for name, value in load_generator(tmp_path / "a" / "student").state_dict().items())
    assert f'from_pretrained("{tmp_path / "a" / "student"}", trust_remote_code=True)' in (tmp_path / "a" / "student" / "README.md").read_text()
    main(["--run", str(run)])
    main(["--run", str(run), "--out", str(run / "export")])  # one that is there is replaced
    assert all(torch.equal(value, weights[name]) for name, value in load_generator(run / "export").state_dict().items())


def test_an_exported_pipeline_exported_again_is_the_same(tmp_path: Path) -> None:
    generator, teacher, _ = students_of_diffusers("stable_diffusion", tmp_path)
    run = run_of(generator, tmp_path / "run", teacher)
    main(["--run", str(run)])
    z, cond = torch.randn(2, *generator.image_shape), generator.encode_prompts(["a", "b"])
    torch.testing.assert_close(images(load_generator(run), z, cond), images(generator, z, cond), rtol=0, atol=1e-5)


def test_what_is_no_export_is_not_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000100"
    checkpoint.mkdir(parents=True)
    save_generator(load_generator(run), checkpoint)
    (checkpoint / "manifest.json").write_text("{}")
    assert newest_checkpoint(run) == checkpoint
    for folder in (tmp_path / "notes", tmp_path / "notes" / "thesis.txt", tmp_path / "teacher", checkpoint):
        with pytest.raises(UserError, match=rf"^--out {folder}: is there and holds no export; expected a new folder$"):
            main(["--run", str(run), "--out", str(folder)])
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "mine"
    with pytest.raises(UserError, match=r"^--private: goes with --push-to-hub only$"):
        main(["--run", str(run), "--private"])
    with pytest.raises(UserError, match=r"nowhere: no such folder; expected the folder of a run"):
        main(["--run", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"export: is not a run; expected a folder with config.yaml"):
        main(["--run", str(run / "export"), "--out", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


class Hub:
    """Of the hub, what is called; keeps what was uploaded, or raises `error`."""

    error: Exception | None = None
    calls: list[tuple[Any, ...]]
    files: dict[str, str]

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> str:
        if self.error is not None:
            raise self.error
        self.calls.append((repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, repo_id: str, folder_path: Path) -> None:
        self.calls.append((repo_id, folder_path))
        self.files.update({path.relative_to(folder_path).as_posix(): path.read_text(errors="replace") for path in Path(folder_path).rglob("*.*")})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    hub = type("FreshHub", (Hub,), {"calls": [], "files": {}})
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    return hub


def test_an_upload_is_the_export_under_its_name(run: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    main(["--run", str(run), "--push-to-hub", "me/student", "--private"])
    assert hub.calls == [("me/student", True, True), ("me/student", run / "export")]
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors", "model_index.json", "network/network.py", "pipeline.py"]
    assert 'DiffusionPipeline.from_pretrained("me/student", trust_remote_code=True)' in hub.files["README.md"]
    assert capsys.readouterr().out == f"{run / 'export'} is written\nhttps://huggingface.co/me/student is uploaded\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            HFValidationError("Repo id must be in the form 'repo_name': 'a/b/c'.\nMore."),
            "cannot be uploaded (Repo id must be in the form 'repo_name': 'a/b/c'.)",
        ),
        (HTTPError("[Errno -2] Name or service not known"), "cannot be uploaded ([Errno -2] Name or service not known)"),
        (ConnectionError(), "cannot be uploaded (ConnectionError)"),
        (None, "there is no token of the hub; expected one from hf auth login, or in HF_TOKEN"),
    ],
)
def test_what_cannot_be_uploaded_stays_on_disk(
    run: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception | None, reason: str
) -> None:
    """One line, exit code 2."""
    hub.error = error
    if error is None:
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(sys, "argv", ["export", "--run", str(run), "--push-to-hub", "a/b/c"])
    (run / "export" / "config.json").touch()
    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: --push-to-hub a/b/c: {reason}; {run / 'export'} is written\n"
    assert (run / "export" / "README.md").is_file()
    assert to_bytes(load_generator(run)(torch.zeros(1, 1, 8, 8), Condition(torch.tensor([0])))).shape == (1, 1, 8, 8)
