"""`python -m eval preference` from its arguments to its files, on tiny models of the real classes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import distill
from distill.config.errors import UserError
from distill.data.images import from_bytes, to_bytes
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import sample_generator, sample_teacher
from distill.eval.__main__ import main
from distill.eval.images.pipelines import PipelineImages
from distill.eval.images.streams import NetworkImages
from distill.networks.diffusers.opening.folders import open_pipeline
from distill.rewards import of_name
from distill.types import Condition
from sample import main as sample
from tests.helpers import tiny_reward_networks as tiny_networks
from tests.helpers.preference_runs import TEXTS, brightness, install_small_rewards, preference, save_models
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.small_rewards import LOADED


@pytest.fixture(autouse=True)
def _small_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    install_small_rewards(monkeypatch)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


def test_a_pipeline_and_its_images_reused_by_another_score(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []
    call = PipelineImages._call
    monkeypatch.setattr(
        PipelineImages, "_call", lambda self, rows: calls.append(len(rows)) or call(self, rows)
    )
    arguments = f"--pipeline {models}/pipe --steps 2 --prompts {models}/prompts.tsv --per-prompt 2 --seed 7"
    first = preference(tmp_path, arguments)
    assert calls == [6]
    pipe = open_pipeline(str(models / "pipe"), "--pipeline")
    stream = PipelineImages(pipe, 6, 7, TEXTS, 6, num_inference_steps=2)
    own = torch.stack([*stream.read(range(6))])  # type: ignore[list-item]
    calls.clear()
    expected = brightness(own)
    found = first["scores"]["brightness"]
    assert found["values"] == pytest.approx(expected, abs=1e-6)
    means = [(expected[row] + expected[row + 3]) / 2 for row in range(3)]
    assert found["mean"] == pytest.approx(sum(means) / 3)
    assert found["standard_error"] == pytest.approx(torch.tensor(means).std().item() / math.sqrt(3), rel=1e-4)
    assert found["by_category"]["animals"]["mean"] == pytest.approx((means[0] + means[1]) / 2)
    assert first["seeds"] == [7, 8, 9, 10, 11, 12]
    assert first["per_prompt"] == 2
    assert first["prompts"]["texts"] == list(TEXTS)
    assert first["subject"]["settings"] == {"num_inference_steps": 2}
    both = preference(tmp_path, arguments, scores="brightness,brightness2")
    assert calls == []
    assert len(LOADED[0.0].asked) == 1
    assert len(LOADED[2.0].asked) == 1
    assert both["scores"]["brightness2"]["mean"] == pytest.approx(found["mean"] + 2, abs=1e-6)
    assert both["subject"]["images_sha256"] == first["subject"]["images_sha256"]
    assert both["scores"]["brightness2"]["weights_sha256"] != found["weights_sha256"]
    printed = capsys.readouterr().out
    label = "prompts, 3 prompts, 2 images each, seeds 7 to 12"
    assert f"{label}: the StableDiffusionPipeline in {models}/pipe, steps 2\n" in printed
    mean = f"{found['mean']:.4f} ± {found['standard_error']:.4f}"
    assert f"brightness   {mean}\n" in printed
    hashes = ", ".join(
        [
            f"weights {found['weights_sha256'][:12]}",
            f"prompts {first['prompts']['sha256'][:12]}",
            f"images {first['subject']['images_sha256'][:12]}",
        ]
    )
    assert f"brightness {mean}; {label}; {hashes}, commit " in printed
    with Image.open(tmp_path / "result-brightness2.png") as sheet:
        assert sheet.width > 3 * 168


def test_a_run_against_its_teacher(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = f"--prompts {models}/prompts.tsv"
    results = preference(tmp_path, f"--run {models}/run --against teacher --against-steps 2 {prompts}")
    student = distill.load_generator(models / "run")
    teacher = distill.load_teacher(models / "pipe")
    cond = student.encode_prompts(TEXTS)
    sides = [
        brightness(to_bytes(sample_generator(student, range(3), cond))),
        brightness(to_bytes(sample_teacher(teacher, range(3), cond, Heun(steps=2)))),
    ]
    found = results["scores"]["brightness"]
    assert found["values"] == pytest.approx(sides[0], abs=2 / 255)
    assert found["against"]["values"] == pytest.approx(sides[1], abs=2 / 255)
    wins = sum(a > b for a, b in zip(found["values"], found["against"]["values"], strict=True))
    assert found["against"]["win_rate"] == pytest.approx(wins / 3)
    assert found["against"]["difference"] == pytest.approx(found["mean"] - found["against"]["mean"])
    assert results["against"]["sampler"]["steps"] == 2
    assert results["subject"]["model"]["init_noise_to_signal"] == 80.0
    printed = capsys.readouterr().out
    assert f"the student in {models}/run against the teacher in {models}/run, steps 2\n" in printed
    swapped = preference(tmp_path, f"--teacher {models}/pipe --steps 2 --against run:{models}/run {prompts}")
    assert swapped["scores"]["brightness"]["against"]["win_rate"] == pytest.approx(1 - wins / 3)
    assert swapped["subject"]["images_sha256"] == results["against"]["images_sha256"]


def test_results_of_a_run_go_into_its_folder(models: Path, tmp_path: Path) -> None:
    arguments = f"--run {models}/run --against teacher --against-steps 2 --prompts {models}/prompts.tsv"
    results = preference(tmp_path, arguments)
    settings = f"--scores brightness --device cpu --store {tmp_path}/store"
    main(["preference", *arguments.split(), *settings.split()])
    own = json.loads((models / "run" / "preference.json").read_text())
    assert own["scores"]["brightness"].pop("sheet") == "preference-brightness.png"
    assert results["scores"]["brightness"].pop("sheet") == "result-brightness.png"
    assert own == results
    assert (models / "run" / "preference-brightness.png").is_file()


def test_images_of_sample_py_against_a_run(models: Path, tmp_path: Path) -> None:
    """The folder's index decides the prompts; the same student makes the same images, so all pairs tie."""
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS))
    prompts = f"--prompts {tmp_path}/prompts.txt"
    sample(f"--run {models}/run {prompts} --n 6 --seed 4 --out {tmp_path}/samples --device cpu".split())
    images = f"--images {tmp_path}/samples --against run:{models}/run"
    results = preference(tmp_path, f"{images} --seed 4")
    assert results["prompts"]["set"] == "samples"
    assert results["prompts"]["texts"] == list(TEXTS)
    assert results["per_prompt"] == 2
    assert results["seeds"] == [4, 5, 6, 7, 8, 9]
    assert results["scores"]["brightness"]["against"]["win_rate"] == 0.5
    assert results["scores"]["brightness"]["against"]["difference"] == 0
    assert results["subject"]["images_sha256"] == results["against"]["images_sha256"]
    with pytest.raises(
        UserError, match=r"^--against: image 0 of 'a cat' has seed 0; expected 4 as the first subject's"
    ):
        preference(tmp_path, images)


def test_labels_of_a_model_without_text(tmp_path: Path) -> None:
    network = save_random_teacher(tmp_path / "teacher")
    arguments = f"--teacher {tmp_path}/teacher --steps 2 --per-prompt 2 --prompts labels:10"
    results = preference(tmp_path, arguments, scores="classifier:assets/digits-classifier")
    cond = Condition(torch.arange(20) % 10)
    images = to_bytes(sample_teacher(network, range(20), cond, Heun(steps=2)))
    expected = of_name("classifier", path="assets/digits-classifier").load()(from_bytes(images), cond)
    found = results["scores"]["classifier"]
    assert found["values"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert found["by_category"]["label 3"]["mean"] == pytest.approx((expected[3] + expected[13]).item() / 2)
    assert results["independent"] == found["by_category"]["label 3"]["count"] * 10 == 20
    assert (found["title"], found["files"]) == ("log p(label)", {"path": "assets/digits-classifier"})


@pytest.mark.parametrize("prompts", ["--prompts labels:4", ""])
def test_a_model_without_text_is_given_all_its_labels(prompts: str, tmp_path: Path) -> None:
    save_random_teacher(tmp_path / "teacher")
    with pytest.raises(
        UserError, match=r"^--teacher: .*teacher takes no text; expected --prompts labels:10, all of them$"
    ):
        preference(tmp_path, f"--teacher {tmp_path}/teacher --steps 2 --per-prompt 2 {prompts}")


def test_text_is_not_given_labels(models: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^--run: .*run takes text; expected a file of prompts, not labels:3$"
    ):
        preference(tmp_path, f"--run {models}/run --prompts labels:3")
    with pytest.raises(
        UserError, match=r"^--prompts: the StableDiffusionPipeline takes text; expected a file of prompts$"
    ):
        preference(tmp_path, f"--pipeline {models}/pipe --prompts labels:3")


def test_a_part_of_the_list_is_named(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = preference(tmp_path, f"--run {models}/run --n 2")
    assert results["prompts"]["departures"] == ["2 of its 80 prompts, the first"]
    label = "not distill-80 (2 of its 80 prompts, the first), 2 prompts, an image each, seeds 0 to 1"
    assert f"{label}: the student in {models}/run\n" in capsys.readouterr().out


def test_an_interrupted_command_continues(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = f"--run {models}/run --n 5 --batch-size 2"
    one_batch = NetworkImages._sample
    sampled: list[list[int]] = []

    def failing(self: NetworkImages, rows: Any) -> Tensor:
        if len(sampled) == 2:
            raise KeyboardInterrupt
        sampled.append(list(rows))
        return one_batch(self, rows)

    monkeypatch.setattr(NetworkImages, "_sample", failing)
    with pytest.raises(KeyboardInterrupt):
        preference(tmp_path, arguments)
    assert sampled == [[0, 1], [2, 3]]
    sampled.clear()
    preference(tmp_path, arguments)
    assert sampled == [[4]]
    sampled.clear()
    preference(tmp_path, f"{arguments} --dtype bfloat16 --batch-size 5")
    assert sampled == [[0, 1, 2, 3, 4]]  # other arithmetic, other images


TWO = """
import sys

import distill.eval.preference.score_names
from distill.eval.__main__ import main
from tests.helpers import small_rewards

distill.eval.preference.score_names.of_name = small_rewards.of_name
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_two_processes(models: Path, tmp_path: Path) -> None:
    arguments = f"--run {models}/run --n 7 --batch-size 2"
    one = preference(tmp_path, arguments)
    (tmp_path / "two.py").write_text(TWO)
    launcher = (
        f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node 2 -- {tmp_path}/two.py"
    )
    settings = f"--scores brightness --device cpu --store {tmp_path}/others --out {tmp_path}/two.json"
    done = subprocess.run(
        f"{launcher} preference {arguments} {settings}".split(),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "."},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["subject"].pop("folder") != one["subject"].pop("folder")
    assert two["scores"]["brightness"].pop("sheet") != one["scores"]["brightness"].pop("sheet")
    assert two == one
    assert {file.name for file in (tmp_path / "others").glob("*/scores/*/*.jsonl")} == {"0.jsonl", "1.jsonl"}


def test_rewards_of_clip_in_their_conventions(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The networks have random weights; two scores of one network are multiples of each other."""
    clip = str(tiny_networks.clip(tmp_path / "clip"))
    weights = " ".join(
        f"--weights {text}={clip}" for text in ("pickscore", "pickscore.processor", "clipscore")
    )
    arguments = f"--pipeline {models}/pipe --steps 2 --prompts {models}/prompts.tsv {weights}"
    results = preference(tmp_path, arguments, scores="pickscore,clipscore")
    pick = results["scores"]["pickscore"]
    cosine = results["scores"]["clipscore"]
    scale = of_name("pickscore", path=clip, processor=clip).load().scale
    pipe = open_pipeline(str(models / "pipe"), "--pipeline")
    stream = PipelineImages(pipe, 3, 0, TEXTS, num_inference_steps=2)
    made = torch.stack([*stream.read(range(3))])  # type: ignore[list-item]
    reward = of_name("clipscore", path=clip).load()
    expected = reward(from_bytes(made), tiny_networks.prompted(*TEXTS)).tolist()
    assert cosine["values"] == pytest.approx(expected, abs=1e-5)
    assert pick["values"] == pytest.approx([scale * value for value in cosine["values"]], rel=1e-5)
    rows = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert f"PickScore / 100 {pick['mean'] / 100:.4f} ± {pick['standard_error'] / 100:.4f}" in rows
    percent = f"{100 * cosine['mean']:.4f} ± {100 * cosine['standard_error']:.4f}"
    assert f"CLIPScore, cosine x 100 {percent}" in rows
    assert f"clipscore: CLIPScore: how well an image fits its prompt. (path {clip}, scale cosine)" in rows
