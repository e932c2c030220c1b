"""The identity of stored images and encoded prompts: all that decides them, but not where it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import distill
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.identity import describe_images_of, part_sha256
from distill.publishing.export import export_generator
from tests.helpers import tiny_pipelines
from tests.helpers.random_teacher import save_random_teacher


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.stable_diffusion(
        tmp_path_factory.mktemp("identity") / "pipe", kind="DDIMScheduler", clip_sample=False
    )


def edited(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


CHANGES: dict[str, Any] = {
    "unet": lambda folder: edited(folder, "unet/config.json", act_fn="gelu"),
    "vae": lambda folder: edited(folder, "vae/config.json", scaling_factor=0.7),
    "scheduler": lambda folder: edited(
        folder, "scheduler/scheduler_config.json", prediction_type="v_prediction"
    ),
    "text_encoder": lambda folder: edited(folder, "text_encoder/config.json", hidden_act="relu"),
    # The same words, but fewer of them.
    "tokenizer": lambda folder: edited(folder, "tokenizer/tokenizer_config.json", model_max_length=8),
}


@pytest.mark.parametrize("part", CHANGES)
def test_every_setting_of_every_part_counts(part: str, pipe: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pipe, tmp_path / "pipe")
    before, there = distill.load_teacher(folder), distill.load_teacher(pipe)
    CHANGES[part](folder)
    after = distill.load_teacher(folder)
    parts = [describe_images_of(teacher)["parts_sha256"] for teacher in (before, there, after)]
    assert parts[0] == parts[1]  # two folders with the same content
    assert [name for name in parts[0] if parts[0][name] != parts[2][name]] == [part]
    encoders = [teacher.prompt_encoder.sha256() for teacher in (before, there, after)]
    assert encoders[0] == encoders[1]
    assert (encoders[0] != encoders[2]) == (part in ("text_encoder", "tokenizer"))


def test_a_call_changes_nothing(pipe: Path) -> None:
    """Tokenizers remember how a call made them pad and truncate; that is no part of the identity."""
    teacher = distill.load_teacher(pipe)
    before = describe_images_of(teacher), teacher.prompt_encoder.sha256()
    teacher.encode_prompts(["a cat", "two dogs"])
    assert (describe_images_of(teacher), teacher.prompt_encoder.sha256()) == before


def test_a_students_parts_are_its_pipelines(pipe: Path, tmp_path: Path) -> None:
    teacher = distill.load_teacher(pipe)
    student = FewStepGenerator(teacher, 80.0)
    described = describe_images_of(student)
    assert described["parts_sha256"] == describe_images_of(teacher)["parts_sha256"]
    assert described["model"]["init_noise_to_signal"] == 80.0
    (tmp_path / "export").mkdir()
    export_generator(student, tmp_path / "export")
    exported = describe_images_of(distill.load_generator(tmp_path / "export"))
    assert exported["parts_sha256"]["vae"] == described["parts_sha256"]["vae"]
    # A student has its own scheduler.
    assert exported["parts_sha256"]["scheduler"] != described["parts_sha256"]["scheduler"]


def test_a_teacher_of_our_own_is_its_configuration(tmp_path: Path) -> None:
    one, two = save_random_teacher(tmp_path / "one"), save_random_teacher(tmp_path / "two", sigma_data=2.0)
    described = describe_images_of(one)
    assert described["parts_sha256"] == {}
    assert json.loads(json.dumps(described["model"])) == json.loads(
        (tmp_path / "one" / "config.json").read_text()
    )
    assert describe_images_of(two) != described


def test_weights_count(pipe: Path) -> None:
    encoder = distill.load_teacher(pipe).components()["text_encoder"]
    before = part_sha256(encoder)
    next(encoder.parameters()).data.add_(1)
    assert part_sha256(encoder) != before
