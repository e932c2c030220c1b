"""Pipelines in one file of weights, in which Stable Diffusion and its successors were published.

`from_single_file` of diffusers turns the names of the weights into its own. The file holds no configuration:
a folder or a name on the hub gives that of every part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.config.errors import UserError, reading
from distill.networks.diffusers.meta import DENOISERS
from distill.networks.diffusers.opening.folders import open_pipeline
from distill.networks.diffusers.parts import UNUSED
from distill.networks.folder import PIPELINE
from distill.networks.quiet_libraries import quiet_transformers
from distill.storage.tensors import open_tensors

SAFETENSORS, GGUF = ".safetensors", ".gguf"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
AUTOENCODERS = ("first_stage_model.", "vae.")
"""Beginnings of the names of an autoencoder's weights. A file without any holds a denoiser alone."""


def is_single_file(path: str) -> bool:
    """Tell a file of weights from a folder and from a name on the hub; a pickle is refused."""
    ending = Path(path).suffix.lower()
    if Path(path).is_dir():
        return False
    if ending in PICKLES:
        raise UserError(
            f"teacher.path: {path} is a pickle, which could run code when it is opened; "
            f"expected a {SAFETENSORS} file, or the folder of a pipeline"
        )
    return ending in (SAFETENSORS, GGUF)


def is_gguf(path: str) -> bool:
    """Tell a file whose weights are quantised as GGML does."""
    return is_single_file(path) and path.lower().endswith(GGUF)


def configuration_of(path: str, config: str | None) -> str:
    """Return where the configurations of a pipeline's parts are: a folder, or a name on the hub.

    For a single file without `config` it is the pipeline that diffusers takes the file for.
    """
    if not is_single_file(path):
        if config is not None:
            raise UserError(
                f"teacher.config: is given beside {path}; expected null, or a single file as path"
            )
        return path
    if not Path(path).is_file():
        raise UserError(f"teacher.path: {path}: no such file")
    if config is None:
        return _guess_configuration(path)
    if Path(config).is_dir() and not (Path(config) / PIPELINE).is_file():
        raise UserError(
            f"teacher.config: {config} holds no {PIPELINE}; expected the folder of a diffusers pipeline"
        )
    return config


def class_of(config: str) -> str:
    """Return the name of a pipeline's class in diffusers, by its configurations."""
    import diffusers

    try:
        return str(diffusers.DiffusionPipeline.load_config(config).get("_class_name"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"teacher.config: {config} cannot be read as a diffusers pipeline's ({error})"
        ) from error


def open_single_file(path: Path, config: str, dtype: torch.dtype, quantization: Any, **parts: Any) -> Any:
    """Open the pipeline whose weights, or whose denoiser's, are in a file; `config` names its class.

    Parts that the file does not hold are opened from `config`, and `parts` are used as they are.
    `quantization` is the configuration by which diffusers quantises the denoiser, or None.
    """
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    place = f"teacher.path: {path} cannot be opened with the configurations of {config}"
    denoiser_alone = _holds_denoiser_alone(path)
    try:
        with reading(place), _refusing_missing_weights(place), quiet_transformers():
            index = diffusers.DiffusionPipeline.load_config(config)
            name = next(name for name in DENOISERS if name in index)
            if name not in parts:
                parts[name] = _open_denoiser(path, config, index, name, dtype, quantization)
            if denoiser_alone:
                return open_pipeline(config, "teacher.config", dtype=dtype, **parts)
            return _open_whole(path, config, index, parts)
    except (OSError, ImportError, SingleFileComponentError) as error:
        raise UserError(f"{place} ({error})") from error


@contextmanager
def _refusing_missing_weights(place: str) -> Iterator[None]:
    """Say what the error means that diffusers raises for weights that a file lacks."""
    try:
        yield
    except NotImplementedError as error:
        if "meta tensor" not in str(error):
            raise
        raise UserError(f"{place}: it lacks weights that they describe") from error


def _guess_configuration(path: str) -> str:
    """Return the name on the hub of the pipeline whose configurations diffusers would take."""
    if is_gguf(path) or _holds_denoiser_alone(Path(path)):
        raise UserError(
            f"teacher.config: {path} holds a denoiser alone; "
            "expected the folder of its pipeline, or its name on the hub"
        )
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

    with reading(f"teacher.path: {path}"):
        return fetch_diffusers_config(load_single_file_checkpoint(path))["pretrained_model_name_or_path"]


def _holds_denoiser_alone(path: Path) -> bool:
    if path.suffix.lower() == GGUF:
        return True
    return not any(name.startswith(AUTOENCODERS) for name in _names(path))


def _names(path: Path) -> frozenset[str]:
    """Return the names of the weights in a safetensors file."""
    return frozenset(open_tensors(path).keys())


def _open_denoiser(
    path: Path, config: str, index: Mapping[str, Any], name: str, dtype: torch.dtype, quantization: Any
) -> nn.Module:
    import diffusers

    kind = getattr(diffusers, index[name][1])
    if not hasattr(kind, "from_single_file"):
        raise UserError(
            f"teacher.path: {path}: diffusers reads no {kind.__name__} from a single file; "
            "expected the folder of a pipeline"
        )
    settings = {} if quantization is None else {"quantization_config": quantization, "dtype": dtype}
    return kind.from_single_file(str(path), config=config, subfolder=name, **settings)


def _open_whole(path: Path, config: str, index: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
    """Open a pipeline from a file that holds at least its denoiser and its autoencoder."""
    import diffusers

    kind = getattr(diffusers, index["_class_name"])
    if not hasattr(kind, "from_single_file"):
        raise ValueError(f"{kind.__name__} is not read from single files")
    expected, options = kind._get_signature_keys(kind)
    settings: dict[str, Any] = {name: None for name in UNUSED if name in {*expected, *options}}
    if "requires_safety_checker" in options:
        settings["requires_safety_checker"] = False
    settings |= _text_encoders_beside(path, config, index)
    return kind.from_single_file(str(path), config=config, **{**settings, **parts})


def _text_encoders_beside(path: Path, config: str, index: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Open the text encoders that the file does not hold."""
    import transformers
    from diffusers.loaders.single_file_utils import is_clip_model_in_single_file, is_t5_in_single_file

    names = _names(path)
    opened = {}
    for name, entry in index.items():
        if not name.startswith("text_encoder") or not isinstance(entry, (list, tuple)) or entry[1] is None:
            continue
        kind = getattr(transformers, entry[1])
        held = is_t5_in_single_file(names) if kind.__name__.startswith("T5") else False
        if not (held or is_clip_model_in_single_file(kind, names)):
            opened[name] = kind.from_pretrained(config, subfolder=name, use_safetensors=True)
    return opened
