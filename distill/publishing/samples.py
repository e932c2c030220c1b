"""Arguments of `sample.py` as models, labels, prompts and seeds; and the folder of images that it writes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import UInt8
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError
from torch import Tensor

from distill.config.command_line import MAX_NUMBER
from distill.config.config_file import describe as describe_error
from distill.config.errors import UserError, writing_to
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.image_labels import INDEX
from distill.data.images import check_images, save_grid, to_bytes, to_pil
from distill.data.prompts import text_file
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import balanced_labels, sample_generator, sample_teacher, seeded_noise
from distill.networks.folder import load_generator
from distill.storage.files import check_new_folder, new_folder, write_json
from distill.storage.provenance import version
from distill.types import Condition, Denoiser, Generator, ImageModel

Model = TypeVar("Model", bound=ImageModel)

COUNT = 100
"""Default number of images."""


def open_generator(run: Path, resolution: int | None, device: str) -> Generator:
    """Open the generator of a run at a resolution, None for its own, on a device."""
    chosen = choose_device(device)
    return check_makes_images(load_generator(run, resolution), run).to(chosen)


def choose_device(name: str) -> str:
    """Turn `auto`, `cuda` or `cpu` into `cuda` or `cpu`; `auto` takes a CUDA device if there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: cuda is not available; expected auto or cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def check_makes_images(network: Model, run: Path) -> Model:
    """Return a run's network, and refuse one that makes vectors."""
    if len(network.pixel_shape) != 3:
        raise UserError(
            f"--run {run}: its networks make vectors; expected images, python -m eval measures vectors"
        )
    return network


def computing(network: ImageModel, dtype: str) -> torch.autocast:
    """Make networks on this one's device compute in `float32`, `bfloat16` or `float16` within a context."""
    return torch.autocast(_device(network).type, getattr(torch, dtype), enabled=dtype != "float32")


def describe(network: ImageModel) -> dict[str, Any]:
    """Describe what images depend on beyond network, seed and condition: size, device, versions."""
    versions = {name: version(name) for name in ("distill", "torch")}
    return {"size": list(network.pixel_shape[1:]), "device": _device(network).type, "versions": versions}


def describe_images(
    network: Generator | Denoiser, run: Path, sampler: Heun | None, dtype: str
) -> dict[str, Any]:
    """Describe how images of a student, or of a teacher with its sampler, are made."""
    origin = {"run": str(run), "teacher": sampler is not None, "dtype": dtype, **describe(network)}
    if sampler is not None:
        return {**origin, "evaluations": sampler.evaluations, "sampler": sampler.model_dump()}
    assert isinstance(network, Generator)
    return {**origin, "evaluations": network.evaluations}


def make_images(
    network: Generator | Denoiser,
    seeds: Sequence[int],
    cond: Condition,
    sampler: Heun | None,
    dtype: str,
    batch_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Make the image of each seed with a student, or with a teacher and its sampler.

    They are (n, *pixel_shape), in [-1, 1] up to overshoot, on the CPU.
    """
    with computing(network, dtype):
        if isinstance(network, Generator):
            return sample_generator(network, seeds, cond, batch_size, progress)
        return sample_teacher(network, seeds, cond, sampler, batch_size, progress)


def choose_sampler(teacher: bool, given: Mapping[str, Any]) -> Heun | None:
    """Return the teacher's sampler with the settings that are not None; None for a student."""
    settings = {name: value for name, value in given.items() if value is not None}
    if not teacher:
        if settings:
            raise UserError(
                f"--{next(iter(settings))}: is of the teacher's sampler; expected --teacher beside it"
            )
        return None
    return read_sampler(settings)


def read_sampler(given: Mapping[str, object], place: str = "--") -> Heun:
    """Make the teacher's sampler with what was `given` for it and is not None; errors begin with `place`."""
    try:
        return Heun.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise UserError(f"{place}{describe_error(error, {})}") from error


def choose_seeds(text: str | None, first: int | None, count: int | None) -> Sequence[int]:
    """Return the seed of each image, from a text such as `3,7,10-12`, or `count` seeds from `first` on."""
    if text is None:
        start = first or 0
        return range(start, start + (COUNT if count is None else count))
    if first is not None or count is not None:
        raise UserError("--seeds: says itself which seeds and how many; leave --seed and --n out")
    return _read_numbers(text, "seed", MAX_NUMBER - 1)


def choose_labels(text: str, count: int, label_count: int) -> Condition:
    """Give labels to `count` images, in turn, from a text such as `all`, `3`, `0-9` or `1,3,5-7`."""
    if text == "all":
        return balanced_labels(count, label_count)
    if not label_count:
        raise UserError(f"--labels {text}: the model is unconditional; leave the labels out")
    labels = _read_numbers(text, "label", label_count - 1)
    return Condition(torch.tensor(labels)[torch.arange(count) % len(labels)])


def choose_condition(
    network: ImageModel, seeds: Sequence[int], labels: str, prompts: str | Path | None
) -> tuple[Condition, Sequence[str]]:
    """Return the condition of the image of each seed, and the prompts that it takes in turn, if any.

    It is made of labels or prompts, except for a scene, whose noise decides the view.
    """
    decided = _decided_by_noise(network, seeds)
    if decided is not None:
        if labels != "all":
            raise UserError(f"--labels {labels}: the noise of a scene decides the view; leave the labels out")
        if prompts is not None:
            raise UserError("--prompts: the noise of a scene decides the view; leave the prompts out")
        return decided, ()
    encoded = choose_prompts(prompts, network)
    if encoded is not None:
        if labels != "all":
            raise UserError(f"--labels {labels}: the model takes text; leave the labels out")
        return encoded.balanced(len(seeds)), encoded.prompts
    return choose_labels(labels, len(seeds), network.label_count), ()


def _decided_by_noise(network: ImageModel, seeds: Sequence[int]) -> Condition | None:
    """Return the condition that belongs to the noise of each seed; None if it goes with any condition."""
    if not isinstance(network, Generator):
        return None
    return network.condition_of(seeded_noise(seeds, network.step_noise_shape))


def choose_prompts(given: str | Path | None, network: ImageModel) -> EncodedPrompts | None:
    """Give prompts to a model that takes text, and None to another one.

    They are those of a text file, or a single prompt if `given` is a string that names no file.
    """
    if network.prompt_encoder is None:
        if given is not None:
            raise UserError("--prompts: the model takes no text; leave the prompts out")
        return None
    if given is None:
        raise UserError("--prompts: the model takes text; expected a text file of prompts, one a line")
    is_file = isinstance(given, Path) or Path(given).is_file()
    prompts = text_file.Settings(path=Path(given)).load() if is_file else [str(given)]
    return EncodedPrompts.by(network.prompt_encoder, prompts)


def check_out(out: Path, index: str = INDEX, content: str = "samples") -> None:
    """Refuse a folder that holds anything but earlier content with an index, or that cannot be written."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / index).is_file())):
        raise UserError(f"--out {out}: is there and holds no {content}; expected a new folder")
    check_new_folder(out, "--out")


def save_samples(
    images: Tensor,
    seeds: Sequence[int],
    cond: Condition,
    out: Path,
    origin: dict[str, Any],
    prompts: Sequence[str] = (),
) -> None:
    """Write `000000.png`, ..., `grid.png` and `samples.json` as one whole folder, which replaces `out`.

    The `Comment` of each PNG file is JSON: `origin`, which says how the images were made, with the image's
    seed and its label or prompt. `prompts` were taken in turn.
    """
    check_images(images, f"--out {out}")
    pixels = to_bytes(images)
    records = [
        {"file": f"{i:06d}.png", **record} for i, record in enumerate(list_images(seeds, cond, prompts))
    ]
    with writing_to(f"--out {out}:"), new_folder(out) as folder:
        for record, image in zip(records, pixels, strict=True):
            save_image(image, folder / record["file"], {**origin, **record})
        save_grid(pixels[:400], folder / "grid.png", columns=10)
        write_json(folder / INDEX, {**origin, "images": records})


def list_images(seeds: Sequence[int], cond: Condition, prompts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the seed and the label of each image, and its prompt where `prompts` were taken in turn."""
    labels = [None] * len(seeds) if cond.label is None else cond.label.tolist()
    records = [{"seed": seed, "label": label} for seed, label in zip(seeds, labels, strict=True)]
    if prompts:
        records = [{**record, "prompt": prompts[i % len(prompts)]} for i, record in enumerate(records)]
    return records


def save_image(pixels: UInt8[Tensor, "c h w"], path: Path, note: Mapping[str, Any]) -> None:
    """Write an image as PNG, with `note` as JSON in its `Comment`."""
    comment = PngInfo()
    comment.add_text("Comment", json.dumps(note))
    to_pil(pixels).save(path, format="PNG", pnginfo=comment)


def _read_numbers(text: str, thing: str, most: int) -> list[int]:
    """Read the numbers in a text such as `3`, `0-9` or `1,3,5-7`, in that order.

    `most` is the greatest number allowed, and `thing` names the flag, without its s, in messages.
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(
                f"--{thing}s {text}: '{part}' is no {thing}; expected numbers such as 3, 0-9 or 1,3,5"
            )
        last = last or first
        if int(first) > int(last):
            raise UserError(
                f"--{thing}s {text}: '{part}' is an empty range; expected the smaller number first"
            )
        if int(last) > most:
            raise UserError(f"--{thing}s {text}: {last} is out of range; expected {thing}s from 0 to {most}")
        numbers.extend(range(int(first), int(last) + 1))
    return numbers


def _device(network: ImageModel) -> torch.device:
    """Find the device that a network is on."""
    return next(itertools.chain(network.parameters(), network.buffers())).device
