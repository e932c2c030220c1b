"""Stored scores and images are not used after anything that they depend on has changed on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from distill.config.errors import UserError
from distill.eval.__main__ import main
from tests.helpers import tiny_reward_networks as tiny_networks
from tests.helpers.preference_runs import install_small_rewards, preference, save_models
from tests.helpers.random_teacher import save_random_teacher


@pytest.fixture(autouse=True)
def _small_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    install_small_rewards(monkeypatch)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


def edit(path: Path, **changes: Any) -> None:
    """Change settings of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def other_mean(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])


def other_crop(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", size={"shortest_edge": 30})


def other_words(folder: Path) -> None:
    """Exchange the numbers of two letters."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["a</w>"], words["b</w>"] = words["b</w>"], words["a</w>"]
    path.write_text(json.dumps(content))


def other_activation(folder: Path) -> None:
    """Change the activation function and no weight."""
    content = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", vision_config={**content["vision_config"], "hidden_act": "relu"})


def other_scale(folder: Path) -> None:
    """Change a weight that belongs to neither half of the network."""
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {**tensors, "logit_scale": tensors["logit_scale"] + 0.5},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_mean, "preparation.mean"),
        (other_crop, "preparation.resize"),
        (other_words, "tokenizer_sha256"),
        (other_activation, "vision.hidden_act"),
        (other_scale, "scale"),
    ],
)
def test_a_stored_score_is_of_the_reward_as_it_is_on_disk(
    change: Callable[[Path], None], named: str, models: Path, tmp_path: Path
) -> None:
    """Only one setting of a file changes, and no path.

    The old store then gives what a new one gives, and results from before and after are not compared.
    """
    clip = tiny_networks.clip(tmp_path / "clip")
    weights = f"--weights pickscore={clip} --weights pickscore.processor={clip}"
    arguments = f"--pipeline {models}/pipe --steps 2 --prompts {models}/prompts.tsv {weights}"

    def values(store: str) -> list[float]:
        (tmp_path / store).mkdir(exist_ok=True)
        return preference(tmp_path / store, arguments, scores="pickscore")["scores"]["pickscore"]["values"]

    before = values("one")
    (tmp_path / "one" / "result.json").rename(tmp_path / "before.json")
    change(clip)
    after = values("one")
    assert after == pytest.approx(values("two"), abs=1e-6)
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) > 1e-3
    expected = "expected .* as in .*before.json, scores of different ones"
    with pytest.raises(UserError, match=rf"result.json: {named} of pickscore is .*; {expected}"):
        main(["compare", str(tmp_path / "before.json"), str(tmp_path / "one" / "result.json")])


def other_prediction(folder: Path) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")


def other_latents(folder: Path) -> None:
    edit(folder / "vae" / "config.json", scaling_factor=0.7)


def other_text_activation(folder: Path) -> None:
    edit(folder / "text_encoder" / "config.json", hidden_act="relu")


def other_words_of_a_pipeline(folder: Path) -> None:
    other_words(folder / "tokenizer")


@pytest.mark.parametrize(
    "change", [other_prediction, other_latents, other_text_activation, other_words_of_a_pipeline]
)
@pytest.mark.parametrize("kind", ["pipeline", "teacher"])
def test_stored_images_are_of_the_pipeline_as_it_is_on_disk(
    kind: str, change: Callable[[Path], None], models: Path, tmp_path: Path
) -> None:
    """Settings beside the weights, or words of the tokenizer, change in place."""
    pipe = shutil.copytree(models / "pipe", tmp_path / "pipe")
    arguments = f"--{kind} {pipe} --steps 2 --prompts {models}/prompts.tsv"
    _check_that_images_are_made_again(arguments, change, pipe, tmp_path)


def test_stored_images_are_of_the_teachers_own_settings(tmp_path: Path) -> None:
    """`sigma_data` changes, which is no weight."""
    save_random_teacher(tmp_path / "teacher")

    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        edit(folder / "config.json", network={**content["network"], "sigma_data": 2.0})

    arguments = f"--teacher {tmp_path}/teacher --steps 2 --prompts labels:10"
    _check_that_images_are_made_again(arguments, change, tmp_path / "teacher", tmp_path)


def test_stored_images_of_a_run_are_of_its_own_settings(models: Path, tmp_path: Path) -> None:
    """A student's export is a pipeline, whose autoencoder changes."""
    run = shutil.copytree(models / "run", tmp_path / "run")
    arguments = f"--run {run} --prompts {models}/prompts.tsv"
    _check_that_images_are_made_again(arguments, other_latents, run / "export", tmp_path)


def _check_that_images_are_made_again(
    arguments: str, change: Callable[[Path], None], changed: Path, tmp_path: Path
) -> None:
    """After a change, the old store must give what a new one gives, and not what it gave before."""

    def hashes(store: str) -> str:
        (tmp_path / store).mkdir(exist_ok=True)
        score = "classifier:assets/digits-classifier" if "labels:10" in arguments else "brightness"
        return preference(tmp_path / store, arguments, scores=score)["subject"]["images_sha256"]

    before = hashes("one")
    assert hashes("one") == before
    change(changed)
    after = hashes("one")
    assert after == hashes("two")
    assert after != before
