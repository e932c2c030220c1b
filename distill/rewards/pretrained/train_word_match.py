"""`python -m distill train-word-match` trains the reward `word_match`, a judge of another kind than CLIP."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from distill.config.command_line import ArgumentParser, at_least
from distill.config.errors import UserError
from distill.data.option import parse_data
from distill.storage.files import check_new_folder, new_folder


def main(arguments: list[str]) -> None:
    """Train the reward, measure it on held-out images, and write it as a folder."""
    options = _parse(arguments)
    settings = parse_data(options.data, "data")

    from distill.rewards.pretrained.contrastive.retrieval import measure
    from distill.rewards.pretrained.contrastive.sources import check_captioned
    from distill.rewards.pretrained.contrastive.word_match import Recipe, train_word_match
    from distill.rewards.pretrained.word_match import save_word_match

    data, held_out = check_captioned(settings.load()), check_captioned(settings.load("held_out"))
    names = [field.name for field in dataclasses.fields(Recipe)]
    recipe = Recipe(**{name: getattr(options, name) for name in names})
    reward = train_word_match(data, recipe)
    found = measure(held_out, reward.embed_images, reward.match.embed_texts)
    made = {
        "data": settings.model_dump(mode="json"),
        "recipe": dataclasses.asdict(recipe),
        "held_out": dataclasses.asdict(found),
    }
    with new_folder(options.out) as folder:
        save_word_match(reward, folder, made)
    print(f"{options.out}: {len(reward.match.words):,} words; held out, {found.line()}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        "python -m distill train-word-match",
        "Train the reward `word_match` on captioned images: a linear map of ImageNet features, and "
        "embeddings of words.",
    )
    parser.add_argument(
        "data",
        help="captioned images, as under `data` in a run's configuration: "
        "'{name: emoji, condition: captions}'",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="a new folder for config.json and model.safetensors",
    )
    numbers = {
        "steps": (600, "training steps; more fit the training captions better"),
        "seed": (0, "seed of all randomness"),
        "batch-size": (256, "images in a step, of which each is told from the others"),
        "width": (128, "width of the embeddings"),
        "size": (
            128,
            "side in pixels that images are resized to for EfficientNet-Lite0, which saw 224; "
            "smaller ones cost less time",
        ),
    }
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: %(default)s)")
    rate = "learning rate of AdamW at its start (default: %(default)s)"
    parser.add_argument("--learning-rate", type=float, default=3e-3, help=rate)
    options = parser.parse_args(arguments)
    at_least(options, steps=1, seed=0, batch_size=2, width=1, size=32)
    if not 0 < options.learning_rate < 1:
        raise UserError(f"--learning-rate {options.learning_rate}: expected a number in (0, 1)")
    if options.out.exists():
        raise UserError(f"--out {options.out}: exists; expected a new folder")
    check_new_folder(options.out, "--out")
    return options
