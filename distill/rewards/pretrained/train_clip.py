"""`python -m distill train-clip` trains a small CLIP network, for `clipscore` and as a text encoder.

Images are changed at random and get noise of random strength, so that the network's gradient is useful for
imperfect images too.
"""

from __future__ import annotations

import argparse
import dataclasses

from distill.config.command_line import ArgumentParser
from distill.config.errors import UserError, writing_to
from distill.data.option import parse_data
from distill.rewards.pretrained.contrastive.arguments import add_files, add_numbers, check
from distill.storage.files import new_folder


def main(arguments: list[str]) -> None:
    """Train a CLIP network, measure it on held-out images, and write it as a folder."""
    options = _parse(arguments)
    settings = parse_data(options.data, "data")

    from distill.rewards.pretrained.contrastive.clip import Recipe, train_clip
    from distill.rewards.pretrained.contrastive.retrieval import measure
    from distill.rewards.pretrained.contrastive.sources import check_captioned

    data, held_out = check_captioned(settings.load()), check_captioned(settings.load("held_out"))
    if data.image_shape[1] % options.patch:
        side = data.image_shape[1]
        raise UserError(f"--patch {options.patch}: expected a divisor of {side}, the images' side")
    names = [field.name for field in dataclasses.fields(Recipe)]
    recipe = Recipe(**{name: getattr(options, name) for name in names})
    clip = train_clip(data, recipe)
    found = measure(held_out, clip.embed_images, clip.embed_texts)
    made = {
        "data": settings.model_dump(mode="json"),
        "recipe": dataclasses.asdict(recipe),
        "held_out": dataclasses.asdict(found),
    }
    with writing_to(f"--out {options.out}:"), new_folder(options.out) as folder:
        clip.save(folder, made)
    count = sum(parameter.numel() for parameter in clip.parameters())
    print(f"{options.out}: {count:,} parameters; held out, {found.line()}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        "python -m distill train-clip",
        "Train a small CLIP network on captioned images, for the reward `clipscore` and as a text encoder.",
    )
    add_files(parser, "the network, its tokenizer and its image processor, as transformers opens it")
    numbers = {
        "steps": (1500, "training steps; more fit the training captions better"),
        "seed": (0, "seed of all randomness"),
        "batch-size": (64, "images in a step, of which each is told from the others"),
        "width": (128, "width of both towers and of the embedding, a multiple of 32"),
        "image-layers": (4, "layers of the image tower"),
        "text-layers": (2, "layers of the text tower"),
        "patch": (8, "side in pixels of the squares that an image is cut into; smaller ones cost more time"),
        "vocabulary": (1536, "maximum number of tokens, at least 514"),
    }
    add_numbers(parser, numbers)
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=1.5e-3,
        help="maximum learning rate of AdamW; larger ones are faster and less stable (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.width < 32 or options.width % 32:
        raise UserError(f"--width {options.width}: expected a multiple of 32")
    check(options, image_layers=1, text_layers=1, patch=1, vocabulary=514)
    return options
