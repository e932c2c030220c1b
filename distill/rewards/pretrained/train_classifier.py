"""`python -m distill train-classifier` trains a small image classifier, for the reward `classifier`.

Noise of random strength is added to the images, so that the classifier's gradient is useful for imperfect
images too.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill.config.command_line import ArgumentParser, at_least
from distill.config.errors import UserError, writing_to
from distill.data.option import parse_data
from distill.storage.files import check_new_folder, new_folder

if TYPE_CHECKING:
    from torch import Tensor

    from distill.rewards.pretrained.classifier import Classifier
    from distill.types import DataSource

MAX_NOISE = 0.4
"""Maximum standard deviation of the noise that is added to images in [-1, 1]."""
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
BATCH_SIZE = 128


def train(data: DataSource, steps: int, seed: int = 0) -> Classifier:
    """Train a classifier on square, labelled images; the same on the same machine.

    It comes in evaluation mode and frozen.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from distill.rewards.pretrained.classifier import Classifier, ClassifierConfig

    channels, height, width = data.image_shape
    if height != width or data.label_count < 2:
        raise UserError(
            f"data: images of {height}x{width} with {data.label_count} labels; "
            "expected square ones with at least 2"
        )
    try:
        config = ClassifierConfig(height, channels, data.label_count)
    except ValueError as error:
        raise UserError(f"data: {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(config)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps)
        )
        for _ in range(steps):
            images, labels = _batch(data, torch.randint(len(data), (BATCH_SIZE,)).tolist())
            noise = MAX_NOISE * torch.rand(BATCH_SIZE, 1, 1, 1) * torch.randn_like(images)
            optimizer.zero_grad()
            cross_entropy(network(images + noise), labels).backward()
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)


def accuracy(network: Classifier, data: DataSource) -> float:
    """Measure the share of images, in [0, 1], that are classified correctly."""
    import torch

    correct = 0
    with torch.inference_mode():
        for start in range(0, len(data), BATCH_SIZE):
            images, labels = _batch(data, range(start, min(start + BATCH_SIZE, len(data))))
            correct += int((network(images).argmax(1) == labels).sum())
    return correct / len(data)


def _batch(data: DataSource, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Read images (b, c, h, w) and their labels (b,)."""
    import torch

    images, labels = zip(*(data[row] for row in rows), strict=True)
    return torch.stack(images), torch.tensor(labels)


def main(arguments: list[str]) -> None:
    """Train a classifier, measure it on held-out images, and write it as a folder."""
    options = _parse(arguments)
    settings = parse_data(options.data, "data")

    from distill.rewards.pretrained.classifier import save_classifier

    held_out = settings.load("held_out")
    network = train(settings.load(), options.steps, options.seed)
    share = accuracy(network, held_out)
    made = {
        "data": settings.model_dump(mode="json"),
        "steps": options.steps,
        "seed": options.seed,
        "held_out_images": len(held_out),
        "held_out_accuracy": share,
    }
    with writing_to(f"--out {options.out}:"), new_folder(options.out) as folder:
        save_classifier(network, folder, made)
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{options.out}: {count:,} parameters, {share:.4f} of {len(held_out)} held-out images right")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        "python -m distill train-classifier", "Train a small image classifier, for the reward `classifier`."
    )
    parser.add_argument(
        "data",
        help="labelled images, as under `data` in a run's configuration: digits, or "
        "'{name: image_folder, path: ...}'",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="a new folder for config.json and model.safetensors",
    )
    steps = "training steps, of 128 images each (default: %(default)s)"
    parser.add_argument("--steps", type=int, default=800, help=steps)
    seed = "seed of all randomness (default: %(default)s)"
    parser.add_argument("--seed", type=int, default=0, help=seed)
    options = parser.parse_args(arguments)
    at_least(options, steps=1, seed=0)
    if options.out.exists():
        raise UserError(f"--out {options.out}: exists; expected a new folder")
    check_new_folder(options.out, "--out")
    return options
