"""Build diffusers pipelines without weights: networks on the meta device, made from their configurations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from distill.config.errors import UserError, first_line
from distill.networks.diffusers.opening.folders import check_folder
from distill.networks.diffusers.opening.published import PUBLISHED, PartConfigs

DENOISERS = ("unet", "transformer")
"""Names that pipelines give their denoisers."""


@contextmanager
def without_weights() -> Iterator[None]:
    """Make tensors on the meta device, and skip initialising weights, which takes seconds even there."""
    with torch.device("meta"), _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    """Within this mode the functions of `torch.nn.init` return their tensor unchanged."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def meta_pipeline(source: str, revision: str | None = None) -> Any:
    """Build the pipeline of a folder or of the hub, which may lack weights and tokenizers.

    Parts that the configurations do not list, such as tokenizers, are None.
    """
    import diffusers

    is_folder = Path(source).is_dir()
    if is_folder:
        check_folder(Path(source), "teacher.path")
    try:
        if source in PUBLISHED and not is_folder:
            kind, configs = PUBLISHED[source]
        else:
            kind, configs = _read_configs(source, revision)
        pipeline = getattr(diffusers, kind)
        parts: dict[str, Any] = dict.fromkeys([*_required(pipeline), *_text_encoders(pipeline)])
        for name in parts.keys() & configs.keys():
            parts[name] = _build_part(*configs[name])
        if "safety_checker" in parts:
            parts["requires_safety_checker"] = False
        return pipeline(**parts)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, ImportError) as error:
        raise UserError(
            f"teacher.path: the configurations of {source} cannot be read "
            f"as a diffusers pipeline's ({first_line(error)})"
        ) from error


def large_parts(source: str, revision: str | None, min_parameters: int) -> dict[str, nn.Module]:
    """Build a pipeline's denoiser, and its other networks of at least so many parameters, without weights."""
    _, configs = _read_configs(source, revision)
    built = {name: _build_part(*config) for name, config in configs.items()}
    networks = {name: part for name, part in built.items() if isinstance(part, nn.Module)}
    return {
        name: part
        for name, part in networks.items()
        if name in DENOISERS or sum(weight.numel() for weight in part.parameters()) >= min_parameters
    }


def _required(pipeline: Any) -> list[str]:
    """Return the arguments without which this kind of pipeline cannot be made."""
    parameters = inspect.signature(pipeline.__init__).parameters
    required = [name for name, value in parameters.items() if value.default is inspect.Parameter.empty]
    return [name for name in required if name != "self"]


def _text_encoders(pipeline: Any) -> list[str]:
    """Return the arguments for text encoders, of which a pipeline may have some that it can do without."""
    return [
        name for name in inspect.signature(pipeline.__init__).parameters if name.startswith("text_encoder")
    ]


def _read_configs(source: str, revision: str | None) -> tuple[str, PartConfigs]:
    """Read the class of a pipeline and the configurations of its networks and scheduler."""
    import diffusers

    index = diffusers.DiffusionPipeline.load_config(source, revision=revision)
    configs: PartConfigs = {}
    for name, entry in index.items():
        if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not isinstance(entry[0], str):
            continue
        library, kind = entry
        place = {"subfolder": name, "revision": revision}
        if library == "diffusers":
            configs[name] = (library, kind, getattr(diffusers, kind).load_config(source, **place))
        elif library == "transformers" or hasattr(diffusers.pipelines, library):
            network: Any = getattr(_module_of(library), kind)
            is_network = isinstance(network, type) and issubclass(network, nn.Module)
            if is_network:
                config = network.config_class.from_pretrained(source, **place)
                configs[name] = (library, kind, config.to_dict())
    return index["_class_name"], configs


def _module_of(library: str) -> Any:
    """Return the module of a library that a pipeline names: transformers, or of a pipeline of diffusers."""
    import diffusers
    import transformers

    return transformers if library == "transformers" else getattr(diffusers.pipelines, library)


def _build_part(library: str, kind: str, config: dict[str, Any]) -> Any:
    """Build one part of a pipeline: a network on the meta device, or a scheduler."""
    import diffusers

    if library != "diffusers":
        network = getattr(_module_of(library), kind)
        # ChatGLM would reserve the memory of its weights, which it does not initialise.
        settings = {"empty_init": False} if "empty_init" in inspect.signature(network).parameters else {}
        with without_weights():
            return network(network.config_class(**config), **settings)
    part = getattr(diffusers, kind)
    if not issubclass(part, nn.Module):
        return part.from_config(config)
    with without_weights():
        return part.from_config(config)
