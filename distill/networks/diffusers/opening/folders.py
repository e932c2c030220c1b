"""Pipelines of diffusers in folders and on the hub, whole, in shards, and in variants of their weights."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from distill.config.errors import UserError, did_you_mean
from distill.networks.folder import PIPELINE, is_own_pipeline
from distill.networks.quiet_libraries import quiet_transformers
from distill.storage.files import read_mapping

WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors"
)
"""Names of files of weights: `model.fp16-00001-of-00002.safetensors` is a shard of the variant fp16."""


def open_pipeline(source: str, flag: str, **settings: Any) -> Any:
    """Open a pipeline of diffusers by folder or hub name; errors name the flag.

    `settings` are arguments of `from_pretrained`.
    """
    from diffusers import DiffusionPipeline

    if Path(source).is_dir():
        check_folder(Path(source), flag)
        check_weights(Path(source), flag, settings.get("variant"), given=settings.keys())
    settings["use_safetensors"] = True  # weights in pickles are refused: opening them could run code
    try:
        folder = source if Path(source).is_dir() else DiffusionPipeline.download(source, **settings)
        with quiet_transformers():
            return DiffusionPipeline.from_pretrained(source, **{**left_out_parts(Path(folder)), **settings})
    except (OSError, ValueError, AttributeError, ImportError) as error:
        raise UserError(f"{flag}: {source} cannot be opened as a diffusers pipeline ({error})") from error


def left_out_parts(folder: Path) -> dict[str, None]:
    """Return the text encoders and tokenizers that a pipeline was saved without, such as T5 of SD 3.

    `from_pretrained` expects each of them to be passed as None.
    """
    import diffusers

    index = read_mapping(folder / PIPELINE)
    kind = getattr(diffusers, str(index.get("_class_name")), None)
    parts = inspect.signature(kind).parameters if isinstance(kind, type) else {}
    return {
        name: None
        for name in parts
        if name.startswith(("text_encoder", "tokenizer")) and index.get(name) in (None, [None, None])
    }


def check_folder(folder: Path, flag: str) -> None:
    """Refuse a folder that is no pipeline of classes that diffusers has; errors name the flag."""
    if is_own_pipeline(folder):
        raise UserError(
            f"{flag}: {folder} is a student's export of a network that diffusers does not have; "
            "expected a pipeline that it has"
        )
    if not (folder / PIPELINE).is_file():
        raise UserError(f"{flag}: {folder} holds no {PIPELINE}; expected the folder of a diffusers pipeline")


def check_weights(folder: Path, flag: str, variant: str | None, given: Any = ()) -> None:
    """Refuse a pipeline without weights of the asked variant, or with a shard missing; errors name the flag.

    A part in `given` is not read. Parts that have no such variant are read from their plain files.
    """
    parts = [path.name for path in folder.iterdir() if path.is_dir() and path.name not in given]
    found = {part: _variants(folder / part) for part in sorted(parts)}
    known = sorted(set().union(*found.values()) - {""})
    if variant is not None and known != [] and variant not in known:
        raise UserError(
            f"{flag}: {folder} has no weights of variant '{variant}'{did_you_mean(variant, known)}"
        )
    if variant is not None and not known and any(found.values()):
        raise UserError(f"{flag}: {folder} has no weights of variant '{variant}'; expected variant: null")
    for part, variants in found.items():
        if variant is None and variants and "" not in variants:
            raise UserError(
                f"{flag}: {folder / part} holds weights of variant {' and '.join(sorted(variants))} alone; "
                f"expected variant: {min(variants)}"
            )
        for index in sorted((folder / part).glob("*.safetensors.index*.json")):
            _check_shards(index, flag)


def _variants(folder: Path) -> set[str]:
    """Return the variants of the weights in a part's folder; those of none are named with nothing."""
    names = [WEIGHTS.fullmatch(path.name) for path in folder.glob("*.safetensors")]
    return {found["variant"] or "" for found in names if found is not None}


def _check_shards(index: Path, flag: str) -> None:
    """Check that the shards that an index lists are there."""
    listed = read_mapping(index).get("weight_map")
    if not isinstance(listed, dict):
        raise UserError(f"{flag}: {index} has no 'weight_map'; expected the shard of each weight")
    for shard in sorted(set(map(str, listed.values()))):
        if not (index.parent / shard).is_file():
            raise UserError(f"{flag}: {index.parent / shard} is not there; {index.name} lists it as a shard")
