"""`python -m eval diversity` from its arguments to its file, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.config.errors import UserError
from distill.data.images import to_bytes, to_pil
from distill.data.sources.digits import Settings as Digits
from distill.eval.__main__ import main
from distill.eval.features.pixels import pixels
from distill.eval.metrics.diversity.within import (
    cosine_distance,
    recall_of_each,
    vendi_score,
    within_each,
)
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.tiny_pipelines import stable_diffusion

TRAIN, HELD_OUT = (Digits().load(split) for split in ("train", "held_out"))


def diversity(folder: Path, *arguments: str) -> dict[str, Any]:
    out = folder / "diversity.json"
    main(["diversity", *arguments, "--features", str(folder / "features"), "--out", str(out)])
    return json.loads(out.read_text())


def save_digits(path: Path) -> Path:
    np.savez(path, images=to_bytes(HELD_OUT.images).numpy(), labels=HELD_OUT.labels.numpy())
    return path


def test_held_out_digits_with_the_recall_of_each_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = save_digits(tmp_path / "held_out.npz")
    found = diversity(tmp_path, "--array", str(array), "--reference", "digits")
    features, labels = pixels(to_bytes(HELD_OUT.images)), HELD_OUT.labels
    expected = {
        "cosine_distance": within_each(features, labels, cosine_distance),
        "vendi": within_each(features, labels, vendi_score),
        "recall": recall_of_each(features, labels, pixels(to_bytes(TRAIN.images)), TRAIN.labels),
    }
    assert list(found["statistics"]) == list(expected)
    for name, statistic in found["statistics"].items():
        assert statistic["values"] == expected[name].values.tolist()
        assert statistic["mean"] == expected[name].mean
        assert statistic["standard_error"] == expected[name].standard_error
        assert statistic["conditions"] == list(range(10))
    assert (found["kind"], found["conditions"], found["n"]) == ("label", 10, len(labels))
    assert found["images"] == [int(labels.bincount().min()), int(labels.bincount().max())]
    printed = capsys.readouterr().out
    recall = expected["recall"]
    assert f"{'recall within a label':<42}{recall.mean:.4f} ± {recall.standard_error:.4f}\n" in printed
    assert "±: the standard error over labels; a Vendi score is at most" in printed


def test_images_of_prompts_in_a_folder_of_samples(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    pictures = to_bytes(HELD_OUT.images[:6])
    records = []
    for row, prompt in enumerate(["a", "b", "a", "b", "a", "c"]):
        to_pil(pictures[row]).save(folder / f"{row}.png")
        records.append({"file": f"{row}.png", "seed": row, "label": None, "prompt": prompt})
    (folder / "samples.json").write_text(json.dumps({"images": records}))
    found = diversity(tmp_path, "--images", str(folder), "--reference", "digits")
    features = pixels(pictures)
    expected = [cosine_distance(features[rows].double()) for rows in ([0, 2, 4], [1, 3])]
    assert found["statistics"]["cosine_distance"]["values"] == pytest.approx(expected)
    assert (found["kind"], found["conditions"], found["images"]) == ("prompt", 3, [1, 3])
    assert found["skipped"] == {"recall": "labels are needed on both sides"}


def test_a_network_makes_as_many_images_of_each_label_as_are_asked_for(tmp_path: Path) -> None:
    save_random_teacher(tmp_path / "teacher")
    given = [
        "--teacher",
        str(tmp_path / "teacher"),
        "--steps",
        "2",
        "--seed",
        "5",
        "--perceptual",
        "effnet-layers",
    ]
    found = diversity(tmp_path, *given, "--per-prompt", "2")
    conditions = found["conditions"]
    assert (found["n"], found["images"], found["first_seed"]) == (2 * conditions, [2, 2], 5)
    assert found["source"]["evaluations"] == 3
    assert len(found["statistics"]["effnet-layers"]["values"]) == conditions
    assert min(found["statistics"]["effnet-layers"]["values"]) > 0
    assert list(found["perceptual"]) == ["effnet-layers"]
    for value in found["statistics"]["vendi"]["values"]:
        assert 1 <= value <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--array", "x.npz", "--n", "5"], r"^--n: goes with fid; expected --per-prompt"),
        (
            ["--array", "x.npz", "--per-prompt", "5"],
            r"^--per-prompt: goes with --run, --teacher and --pipeline",
        ),
        (["--run", "x", "--per-prompt", "1"], r"^--per-prompt 1: expected at least 2$"),
        (["--array", "x.npz", "--steps", "5"], r"^--steps: goes with --teacher and --pipeline only$"),
        ([], r"^none of them: expected one of --run"),
        (
            ["--array", "x.npz", "--perceptual", "lpips-vgg=a", "--perceptual", "lpips-vgg=b"],
            r"^--perceptual lpips-vgg: is given twice; expected it once$",
        ),
        (
            ["--array", "x.npz", "--perceptual", "effnet-layers", "--lpips-heads", "x"],
            r"^--lpips-heads: goes with --perceptual lpips-alex or lpips-vgg$",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(["diversity", *arguments])


def test_prompts_of_a_benchmark_with_categories(tmp_path: Path) -> None:
    """Each prompt is a condition, not its category."""
    folder = stable_diffusion(tmp_path / "pipe", "DDIMScheduler", clip_sample=False)
    file = tmp_path / "meta_data.json"
    prompts = {"a": ("a red cat", "animals"), "b": ("a blue hat", "fashion"), "c": ("a green dog", "animals")}
    content = {name: {"prompt": prompt, "category": kind} for name, (prompt, kind) in prompts.items()}
    file.write_text(json.dumps(content))
    given = ["--pipeline", str(folder), "--prompts", str(file), "--per-prompt", "2", "--steps", "2"]
    found = diversity(tmp_path, *given, "--protocol", "fd-pixel")
    assert (found["kind"], found["conditions"], found["n"]) == ("prompt", 3, 6)
    assert len(found["statistics"]["vendi"]["values"]) == 3


def test_images_without_prompts_or_labels_and_statistics_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", images=to_bytes(HELD_OUT.images[:4]).numpy())
    with pytest.raises(UserError, match="has neither prompts nor labels; expected folders of labels"):
        diversity(tmp_path, "--array", str(tmp_path / "plain.npz"))
    np.savez(tmp_path / "edm.npz", mu=np.zeros(64), sigma=np.eye(64))
    array = save_digits(tmp_path / "held_out.npz")
    with pytest.raises(UserError, match="is statistics; expected real images with labels"):
        diversity(tmp_path, "--array", str(array), "--reference", str(tmp_path / "edm.npz"))
