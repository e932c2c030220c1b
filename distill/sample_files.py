"""What `sample.py` reads and writes: a model, labels from text; a folder of PNG files, a grid and a JSON."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from distill.config import read_run
from distill.encoded_prompts import EncodedPrompts
from distill.errors import UserError
from distill.export import load_generator
from distill.files import new_folder, write_json
from distill.image_files import INDEX
from distill.images import save_grid, to_bytes, to_pil
from distill.prompts import text_file
from distill.sampling import balanced_labels
from distill.types import Condition, ImageModel


def open_model(run: Path, teacher: bool, resolution: int | None, device: str) -> Any:
    """The generator of a run, or its teacher, at a resolution, on a device. Raises UserError where one cannot be had."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: cuda is not available; expected auto or cpu")
    chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if not teacher:
        return load_generator(run, resolution).to(chosen)
    settings = getattr(read_run(run), "teacher", None)
    if settings is None:
        raise UserError(f"--teacher: {run} trained a teacher; expected a run that distils one")
    if resolution is not None:
        if "resolution" not in type(settings).model_fields:
            raise UserError(f"--resolution {resolution}: teachers of '{settings.name}' make images of one size; leave it out")
        settings = settings.model_copy(update={"resolution": resolution})
    return settings.load().to(chosen)


def computing(network: ImageModel, dtype: str) -> torch.autocast:
    """Within, networks on this one's device compute in `float32`, `bfloat16` or `float16`."""
    device = next(itertools.chain(network.parameters(), network.buffers())).device
    return torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32")


def choose_labels(text: str, count: int, label_count: int) -> Condition:
    """Labels for `count` images from `all`, `3`, `0-9` or `1,3,5-7`, in turn. Raises UserError where one is out of range."""
    if text == "all":
        return balanced_labels(count, label_count)
    if not label_count:
        raise UserError(f"--labels {text}: the model is unconditional; leave the labels out")
    labels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UserError(f"--labels {text}: '{part}' is no label; expected numbers such as 3, 0-9 or 1,3,5")
        labels.extend(range(int(first), int(last or first) + 1))
    wrong = [label for label in labels if label >= label_count]
    if wrong or not labels:
        raise UserError(f"--labels {text}: {wrong[0] if wrong else 'an empty range'} is out of range; expected labels from 0 to {label_count - 1}")
    return Condition(torch.tensor(labels)[torch.arange(count) % len(labels)])


def choose_prompts(given: str | Path | None, network: ImageModel) -> EncodedPrompts | None:
    """Prompts for a model that takes text, of a text file, or, where it is a str that names no file, that one; None for another model.

    Raises UserError where they are needed and not given, or given and not needed.
    """
    if not network.takes_text:
        if given is not None:
            raise UserError("--prompts: the model takes no text; leave the prompts out")
        return None
    if given is None:
        raise UserError("--prompts: the model takes text; expected a text file of prompts, one a line")
    is_file = isinstance(given, Path) or Path(given).is_file()
    prompts = text_file.Settings(path=Path(given)).load() if is_file else [str(given)]
    return EncodedPrompts(prompts, network.encode_prompts, network.prompt_encoder_sha256())


def check_out(out: Path) -> None:
    """Raise UserError where `out` holds anything but earlier samples."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / INDEX).is_file())):
        raise UserError(f"--out {out}: is there and holds no samples; expected a new folder")


def save_samples(images: Tensor, seeds: Sequence[int], cond: Condition, out: Path, origin: dict[str, Any], prompts: Sequence[str] = ()) -> None:
    """Write `000000.png`, ..., `grid.png` and `samples.json` as one whole folder; what stood in `out` is replaced. `prompts` were taken in turn.

    Raises UserError where `out` cannot be written.
    """
    pixels = to_bytes(images)
    labels = [None] * len(images) if cond.label is None else cond.label.tolist()
    records = [{"file": f"{i:06d}.png", "seed": seed, "label": label} for i, (seed, label) in enumerate(zip(seeds, labels, strict=True))]
    if prompts:
        records = [{**record, "prompt": prompts[i % len(prompts)]} for i, record in enumerate(records)]
    try:
        with new_folder(out) as folder:
            for record, image in zip(records, pixels, strict=True):
                note = PngInfo()
                shown = f"prompt {record['prompt']!r}" if prompts else f"label {record['label']}"
                note.add_text("Comment", f"seed {record['seed']}, {shown}, {origin}")
                to_pil(image).save(folder / record["file"], pnginfo=note)
            save_grid(pixels[:400], folder / "grid.png", columns=10)
            write_json(folder / INDEX, {**origin, "images": records})
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error
