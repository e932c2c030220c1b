"""`python -m distill train-word-match` trains the reward `word_match`, a judge of another kind than CLIP."""

from __future__ import annotations

import argparse
import dataclasses

from distill.config.command_line import ArgumentParser
from distill.config.errors import writing_to
from distill.data.option import parse_data
from distill.rewards.pretrained.contrastive.arguments import add_files, add_numbers, check
from distill.storage.files import new_folder


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
    with writing_to(f"--out {options.out}:"), new_folder(options.out) as folder:
        save_word_match(reward, folder, made)
    print(f"{options.out}: {len(reward.match.words):,} words; held out, {found.line()}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        "python -m distill train-word-match",
        "Train the reward `word_match` on captioned images: a linear map of ImageNet features, and "
        "embeddings of words.",
    )
    add_files(parser, "config.json and model.safetensors")
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
    add_numbers(parser, numbers)
    rate = "learning rate of AdamW at its start (default: %(default)s)"
    parser.add_argument("--learning-rate", type=float, default=3e-3, help=rate)
    options = parser.parse_args(arguments)
    check(options, width=1, size=32)
    return options
