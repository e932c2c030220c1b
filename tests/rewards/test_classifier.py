"""The log-probability of a label, under classifiers of transformers and of this project."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import from_bytes
from distill.data.sources.digits import Settings as Digits
from distill.rewards import of_name
from distill.rewards.pretrained.classifier import load_classifier
from distill.rewards.pretrained.train_classifier import accuracy, main, train
from distill.storage.tensors import load_tensors
from distill.types import Condition, Reward
from tests.helpers import published_rewards as published
from tests.helpers import tiny_reward_networks as tiny_networks
from tests.helpers.full_disk import fill_disk
from tests.helpers.tiny_reward_networks import floats, gradient_errors, pixels

ASSET = Path("assets/digits-classifier")


@pytest.fixture(scope="module")
def digits() -> Reward:
    return of_name("classifier", path=str(ASSET)).load()


def published_classifier(kind: str, folder: Path) -> tuple[Any, Any]:
    """Write a tiny classifier of transformers with five classes, and its image processor."""
    import transformers

    torch.manual_seed(0)
    config: Any
    if kind == "ViT":
        sizes = {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "patch_size": 8,
        }
        config = transformers.ViTConfig(**sizes, image_size=24, num_labels=5)
        processor = transformers.ViTImageProcessorPil(size={"height": 24, "width": 24})
    else:
        config = transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_labels=5)
        processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875)
    network = tiny_networks.disturbed(getattr(transformers, f"{kind}ForImageClassification")(config))
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network, processor


@pytest.mark.parametrize("kind", ["ViT", "ConvNext"])
def test_any_classifier_of_transformers(kind: str, tmp_path: Path) -> None:
    network, processor = published_classifier(kind, tmp_path)
    images, label = pixels(3, 50, 40), torch.tensor([4, 0, 2])
    seen = processor(images=[published.to_image(image) for image in images], return_tensors="pt")[
        "pixel_values"
    ]
    reward = of_name("classifier", path=str(tmp_path)).load()
    with torch.no_grad():
        probabilities = network(pixel_values=seen).logits.exp() / network(pixel_values=seen).logits.exp().sum(
            1, keepdim=True
        )
        found = reward(from_bytes(images), Condition(label))
    expected = torch.stack([probabilities[row, int(column)].log() for row, column in enumerate(label)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    error, size = gradient_errors(reward, floats(), Condition(label[:2]))
    assert size > 1e-4
    assert error < 1e-6


def test_the_digits_classifier_knows_digits(digits: Reward) -> None:
    """More than 97 of 100 held-out digits are right, and the right label is preferred to any other."""
    held_out = Digits().load("held_out")
    description = json.loads((ASSET / "config.json").read_text())["made"]
    assert accuracy(load_classifier(ASSET), held_out) == description["held_out_accuracy"] > 0.97
    assert description["held_out_images"] == len(held_out) == 360
    images, labels = held_out.images, held_out.labels
    assert labels is not None
    with torch.no_grad():
        right, wrong = digits(images, Condition(labels)), digits(images, Condition((labels + 1) % 10))
    assert right.exp().mean() > 0.95
    assert (right > wrong).float().mean() > 0.98
    all_labels = [digits(images[:7], Condition(torch.full((7,), label))) for label in range(10)]
    torch.testing.assert_close(torch.stack(all_labels).exp().sum(0), torch.ones(7))


def test_its_gradient_leads_to_the_digit(digits: Reward) -> None:
    """Noise becomes a digit for another kind of classifier too, which the reward never saw."""
    from distill.eval.metrics.label_agreement import LabelClassifier

    data = Digits().load()
    assert data.labels is not None
    judge = LabelClassifier.fit(data.images.flatten(1), data.labels)
    label = torch.arange(10).repeat(5)
    images = data.images[:50].clone()
    for _ in range(60):
        (gradient,) = torch.autograd.grad(digits(images.requires_grad_(), Condition(label)).sum(), images)
        images = (
            images.detach() + 0.15 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
        ).clamp(-1, 1)
    before = judge.agreement(data.images[:50].flatten(1), label)
    assert before < 0.2
    assert judge.agreement(images.flatten(1), label) > 0.6


def test_its_gradient_is_that_of_finite_differences() -> None:
    images = Digits().load().images[:4].double().mul(0.9).requires_grad_()
    error, size = gradient_errors(
        of_name("classifier", path=str(ASSET)).load(), images, Condition(torch.tensor([1, 2, 3, 4]))
    )
    assert size > 1e-2
    assert error < 1e-6


def test_overshoot_gains_nothing(digits: Reward) -> None:
    images = 2 * Digits().load().images[:4]
    label = Condition(torch.tensor([1, 2, 3, 4]))
    assert torch.equal(digits(images, label), digits(images.clamp(-1, 1), label))


@pytest.mark.parametrize(
    ("label", "complaint"),
    [
        (None, "classifier: reads labels, and the images come without; expected a model with classes"),
        (
            torch.tensor([3, -1]),
            "classifier: an image has label -1; expected 0 to 9, which are the classifier's",
        ),
        (
            torch.tensor([10, 3]),
            "classifier: an image has label 10; expected 0 to 9, which are the classifier's",
        ),
    ],
)
def test_images_need_a_label_that_it_knows(label: Tensor | None, complaint: str, digits: Reward) -> None:
    with pytest.raises(UserError) as error:
        digits(torch.zeros(2, 1, 8, 8), Condition(label))
    assert str(error.value) == complaint


def test_in_training_a_label_that_it_does_not_know_gives_no_number(digits: Reward) -> None:
    images = torch.zeros(3, 1, 8, 8, requires_grad=True)
    scores = digits(images, Condition(torch.tensor([3, 10, 9])))
    assert scores.isnan().tolist() == [False, True, False]


def test_other_images_and_folders_are_refused(digits: Reward, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^classifier: images of \(3, 8, 8\); expected \(1, 8, 8\) as the network's$"
    ):
        digits(torch.zeros(2, 3, 8, 8), Condition(torch.tensor([1, 2])))
    with pytest.raises(UserError, match=r"holds a denoiser; expected a classifier$"):
        of_name("classifier", path="assets/digits-teacher").load()
    with pytest.raises(UserError, match=r"^classifier: path: is missing$"):
        of_name("classifier")
    with pytest.raises(UserError, match=rf"^classifier.path: {tmp_path} cannot be opened"):
        of_name("classifier", path=str(tmp_path)).load()


def test_training_repeats_and_its_folder_is_a_reward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["digits", "--out", str(tmp_path / "one"), "--steps", "40"])
    assert "38,866 parameters" in capsys.readouterr().out
    torch.manual_seed(7)  # of others, which does not matter
    again = train(Digits().load(), steps=40).state_dict()
    stored = load_tensors(tmp_path / "one" / "model.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in again.items())
    assert accuracy(load_classifier(tmp_path / "one"), Digits().load("held_out")) > 0.8
    assert math.isfinite(
        float(
            of_name("classifier", path=str(tmp_path / "one")).load()(
                torch.zeros(1, 1, 8, 8), Condition(torch.tensor([3]))
            )
        )
    )
    with pytest.raises(UserError, match=r"exists; expected a new folder$"):
        main(["digits", "--out", str(tmp_path / "one")])
    with pytest.raises(
        UserError, match=r"^data digit: 'digit' is not in distill/data/sources; did you mean 'digits'\?$"
    ):
        main(["digit", "--out", str(tmp_path / "two")])
    assert not (tmp_path / "two").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch)
    out = tmp_path / "out"
    with pytest.raises(UserError) as error:
        main(["digits", "--out", str(out), "--steps", "1"])
    assert str(error.value) == f"--out {out}: cannot be written (No space left on device)"
    assert list(tmp_path.iterdir()) == []
