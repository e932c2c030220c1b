"""`python -m distill precompute` encodes a run's images and prompts once and stores them for training."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config.command_line import ArgumentParser, process_count, process_number
from distill.config.errors import UserError, writing_to
from distill.config.presets import find_config
from distill.config.progress import track

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill.data.stored_inputs import Shards
    from distill.training.settings import RunConfig
    from distill.types import DataSource, ImageModel

    Compute = Callable[[range], dict[str, Tensor]]


def main(arguments: list[str]) -> None:
    """Store latents and prompts of a run, and print the settings that read them.

    Processes of a launcher share the files: each writes every n-th that is absent.
    """
    options = _parse(arguments)
    from distill.training.config import read_config

    path = find_config(options.config)
    config = read_config(path)
    device = _device(options.device)
    network, data, texts = _open(config, path)
    network.to(device)
    said = []
    if data is not None:
        said.append(_store_latents(options.out, network, data, device))
    if texts:
        said.append(_store_prompts(options.out, config, network, texts))
    if not said:
        raise UserError(f"{path}: has neither images for an autoencoder nor prompts to encode")
    if process_number() == 0:
        print("\n".join(said))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        "python -m distill precompute",
        "Encode the images and prompts of a run once, so that training needs neither text encoders nor the "
        "autoencoder's encoder. Stopped and started again, it goes on.",
    )
    parser.add_argument("config", help="configuration of the run: a YAML file or the name of a preset")
    parser.add_argument("--out", type=Path, required=True, help="new folder, or one to go on with")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device (default: cuda if there is one)",
    )
    return parser.parse_args(arguments)


def _device(name: str) -> torch.device:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no CUDA device")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _open(config: RunConfig, path: Path) -> tuple[ImageModel, DataSource | None, list[str]]:
    """Open the network of a run, its images if they are to be encoded, and its prompts, each once."""
    from distill.training.batches.batches import check_data
    from distill.training.pretraining.teacher import build_teacher
    from distill.training.settings import DistillRun, TrainTeacherRun

    if config.data is not None and config.data.holds_latents:
        raise UserError(f"{path}: data: are latents already; expected a source of images")
    data = None if config.data is None else config.data.load("train")
    texts: list[str] = []
    network: ImageModel
    if isinstance(config, DistillRun):
        network = config.teacher.load()
        if config.prompts is not None and not network.takes_text:
            raise UserError("prompts: the teacher takes no text; expected null")
        if config.prompts is not None:
            texts = list(dict.fromkeys(config.prompts.load(data)))
        if not config.shows_data:
            data = None  # no image is encoded in training
    elif isinstance(config, TrainTeacherRun):
        assert data is not None
        network = build_teacher(config, data)
    else:
        raise UserError(f"{path}: task: is {config.task}; expected distill or train_teacher")
    if data is not None:
        check_data(data, network)
    return network, data if network.codec is not None else None, texts


def _store_latents(out: Path, network: ImageModel, data: DataSource, device: torch.device) -> str:
    """Store the latents of all images, with labels and captions; return the setting that reads them."""
    import torch

    from distill.data import Captioned
    from distill.data.sources.latents import CAPTIONS
    from distill.data.stored_inputs import LATENTS, begin
    from distill.storage.files import write_json
    from distill.training.batches.latents import describe_autoencoder, encode_parts

    captions = (
        [list(of_image) for of_image in data.captions.of_images] if isinstance(data, Captioned) else None
    )
    folder = out / LATENTS
    description = {
        "count": len(data),
        "image_shape": list(network.image_shape),
        "label_count": data.label_count,
        "has_captions": captions is not None,
        "captions_sha256": _sha256(captions),
        "autoencoder": describe_autoencoder(network),
    }
    with writing_to(f"--out: {folder}"):
        shards = begin(folder, description)
        if captions is not None:
            write_json(folder / CAPTIONS, captions)

    def compute(rows: range) -> dict[str, Tensor]:
        images, labels = zip(*[data[row] for row in rows], strict=True)
        with torch.no_grad():
            x = encode_parts(network.encode, torch.stack(images).to(device)).cpu()
        has_labels = data.label_count > 0 or captions is not None
        return {"x": x, "label": torch.tensor(labels)} if has_labels else {"x": x}

    _fill(shards, compute, "latents")
    shape = "x".join(map(str, network.image_shape))
    return f"data: {{name: latents, path: {out}}}  # {len(data)} latents of {shape}"


def _store_prompts(out: Path, config: Any, network: Any, texts: list[str]) -> str:
    """Store the encodings of prompts, each encoded alone; return the setting that reads them."""
    import torch

    from distill.data.stored_inputs import PROMPTS, begin
    from distill.data.stored_prompts import TEXTS, UNCONDITIONAL
    from distill.storage.files import new_file, write_json
    from distill.storage.tensors import save_tensors

    folder = out / PROMPTS
    description = {
        "count": len(texts),
        "texts_sha256": _sha256(texts),
        "encoder": config.teacher.describe_encoder(network),
        "encoder_sha256": network.prompt_encoder.sha256(),
    }
    unconditional = network.encode_prompts([""]).to("cpu").text.unconditional
    with writing_to(f"--out: {folder}"):
        shards = begin(folder, description)
        write_json(folder / TEXTS, texts)
        with new_file(folder / UNCONDITIONAL) as partial:
            save_tensors(partial, unconditional, sealed=True)

    def compute(rows: range) -> dict[str, Tensor]:
        encoded = [network.encode_prompts([texts[row]]).to("cpu").text.given for row in rows]
        return {name: torch.cat([given[name] for given in encoded]) for name in encoded[0]}

    _fill(shards, compute, "prompts")
    return f"prompts: {{name: {config.prompts.name}, ..., precomputed: {out}}}  # {len(texts)} prompts"


def _fill(shards: Shards, compute: Compute, name: str) -> None:
    """Write this process's part of the files that are absent."""
    own = list(shards.rows)[process_number() :: process_count()]
    absent = [path for path in own if not path.is_file()]
    for path in track(absent, name, "shards", hidden=process_number() > 0, leave=True):
        tensors = compute(shards.rows[path])
        with writing_to(f"--out: {path.parent}"):
            shards.write(path, tensors)


def _sha256(value: Any) -> str:
    import json

    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
