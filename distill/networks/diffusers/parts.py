"""Build the parts of a diffusers pipeline from configurations, and open those that are pretrained."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.config.errors import UserError, did_you_mean, first_line, reading
from distill.config.installation import find_asset
from distill.networks.diffusers.autoencoders.kinds import AUTOENCODERS
from distill.networks.diffusers.families import FAMILIES
from distill.networks.diffusers.meta import without_weights
from distill.networks.diffusers.served import SERVED
from distill.networks.diffusers.source import PipelineSettings
from distill.networks.quiet_libraries import quiet_transformers
from distill.storage.files import read_mapping

SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "PNDMScheduler",
)
"""Classes of schedulers that messages propose."""
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that no training or sampling here needs; the pipeline is built without them."""


def build_pipeline(settings: PipelineSettings, seed: int = 0, on_meta: bool = False) -> Any:
    """Build the pipeline that settings describe, around a denoiser whose weights are drawn by `seed`.

    With `on_meta` the denoiser is on the meta device.
    """
    from diffusers import DiffusionPipeline, SchedulerMixin

    with quiet_transformers():
        kind = find_class("pipeline.class_name", settings.class_name, SERVED, DiffusionPipeline)
    denoiser_name = _denoiser_name(settings, kind)
    scheduler = find_class(
        "pipeline.scheduler.class_name", settings.scheduler["class_name"], SCHEDULERS, SchedulerMixin
    )
    parts = {
        "scheduler": _build_scheduler(settings, scheduler, kind),
        **_open_parts(settings, kind, denoiser_name),
    }
    denoiser_kind = _class_of_diffusers(settings.denoiser["class_name"])
    _check_size(settings, denoiser_kind)
    _check_latents(settings, parts.get("vae"))
    if on_meta:
        with without_weights():
            denoiser = build_from_configuration(denoiser_kind, settings.denoiser, "pipeline.denoiser")
    else:
        torch.manual_seed(seed)
        denoiser = build_from_configuration(denoiser_kind, settings.denoiser, "pipeline.denoiser")
    if settings.init_from is not None and not on_meta:
        load_start(denoiser, settings.init_from, denoiser_name)
    arguments: dict[str, Any] = {**parts, denoiser_name: denoiser}
    if "requires_safety_checker" in inspect.signature(kind).parameters:
        arguments["requires_safety_checker"] = False
    with reading("pipeline"):
        return kind(**arguments)


def build_from_configuration(kind: Any, configuration: Mapping[str, Any], place: str) -> Any:
    """Build an object of a class of diffusers; settings that the class lacks are refused."""
    given = {name: value for name, value in configuration.items() if name != "class_name"}
    parameters = inspect.signature(kind).parameters
    known = parameters.keys() - {"kwargs"}
    for name, value in given.items():
        if name not in known:
            raise UserError(f"{place}: {kind.__name__} has no setting '{name}'{did_you_mean(name, known)}")
        _check_text(f"{place}.{name}", value, parameters[name].annotation)
    with reading(place):
        return kind(**{name: _as_tuples(value) for name, value in given.items()})


def _check_text(place: str, value: Any, annotation: Any) -> None:
    """Refuse a text, such as a number in quotes, as a setting that is annotated with other types."""
    expected = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    if not isinstance(value, str) or annotation is inspect.Parameter.empty:
        return
    if "str" not in expected and "Literal" not in expected:
        raise UserError(f"{place}: is the text '{value}'; expected {expected.replace('typing.', '')}")


def _as_tuples(value: Any) -> Any:
    """Turn lists into tuples, as which the classes of diffusers have their defaults."""
    return tuple(_as_tuples(entry) for entry in value) if isinstance(value, list) else value


def find_class(place: str, name: str, known: Iterable[str], base: type) -> Any:
    """Return a class of diffusers by its name; messages propose one of `known`."""
    found = _class_of_diffusers(name)
    if found is None:
        raise UserError(f"{place}: '{name}' is not in diffusers{did_you_mean(name, known)}")
    if not isinstance(found, type) or not issubclass(found, base) or found is base:
        raise UserError(f"{place}: '{name}' of diffusers is of another kind{did_you_mean(name, known)}")
    return found


def _class_of_diffusers(name: str) -> Any:
    import diffusers

    return getattr(diffusers, name, None)


def _build_scheduler(settings: PipelineSettings, scheduler: Any, kind: Any) -> Any:
    """Build the scheduler, with which pipelines of this kind must be able to sample."""
    built = build_from_configuration(scheduler, settings.scheduler, "pipeline.scheduler")
    called = inspect.unwrap(kind.__call__).__code__.co_names
    if "scale_model_input" in called and not hasattr(built, "scale_model_input"):
        raise UserError(
            f"pipeline.scheduler.class_name: is {scheduler.__name__}, by which {kind.__name__} cannot "
            "sample; expected one of DDPM's kind, such as DDIMScheduler"
        )
    shift = {"mu": 1.0} if built.config.get("use_dynamic_shifting") else {}
    with reading("pipeline.scheduler"):
        copy.deepcopy(built).set_timesteps(2, **shift)
    return built


def _denoiser_name(settings: PipelineSettings, kind: Any) -> str:
    """Return the name that the pipeline has for its denoiser, `unet` or `transformer`."""
    name = settings.denoiser["class_name"]
    if name not in FAMILIES:
        hint = did_you_mean(name, FAMILIES)
        raise UserError(f"pipeline.denoiser.class_name: '{name}' cannot be trained here{hint}")
    types = kind._get_signature_types()
    expected = [one.__name__ for part in ("unet", "transformer") for one in types.get(part, ())]
    if name not in expected:
        raise UserError(
            f"pipeline.denoiser.class_name: is {name}; "
            f"expected {' or '.join(expected) or 'another pipeline'}, which {kind.__name__} has"
        )
    return FAMILIES[name].part


def _open_parts(settings: PipelineSettings, kind: Any, denoiser_name: str) -> dict[str, Any]:
    """Open the pretrained parts that a pipeline needs; those that it can do without are None."""
    types = kind._get_signature_types()
    parameters = inspect.signature(kind).parameters
    modules = [name for name in parameters if _is_part(types.get(name, ()))]
    modules = [name for name in modules if name not in (denoiser_name, "scheduler", *UNUSED)]
    for name in settings.parts:
        if name not in modules:
            hint = did_you_mean(name, modules) if modules else "; expected none"
            raise UserError(f"pipeline.parts: {kind.__name__} has no part '{name}'{hint}")
    required = [name for name in modules if parameters[name].default is inspect.Parameter.empty]
    missing = [name for name in required if name not in settings.parts]
    if missing:
        raise UserError(
            f"pipeline.parts: {kind.__name__} needs {' and '.join(missing)}; "
            f"expected {', '.join(f'{name}: FOLDER' for name in missing)}"
        )
    unused = {name: None for name in UNUSED if name in parameters}
    opened = {
        name: None if folder is None else open_part(name, find_asset(folder.expanduser()), types[name])
        for name, folder in settings.parts.items()
    }
    return {**unused, **opened}


def _is_part(types: Iterable[Any]) -> bool:
    """Tell whether an argument of a pipeline is a part with files of its own."""
    return any(isinstance(one, type) and hasattr(one, "from_pretrained") for one in types)


def open_part(name: str, folder: Path, types: Iterable[Any]) -> Any:
    """Open a part of a pipeline in a folder, as the class that the pipeline expects."""
    place = f"pipeline.parts.{name}: {folder}"
    expected = [one for one in types if hasattr(one, "from_pretrained")]
    names = " or ".join(one.__name__ for one in expected)
    found = next((path for path in (folder / name, folder / "export", folder) if path.is_dir()), None)
    if found is None:
        raise UserError(f"{place}: no such folder; expected one that holds {names}")
    if not any(issubclass(one, nn.Module) for one in expected):
        files = getattr(expected[0], "vocab_files_names", {}).values()
        if files and not any((found / file).is_file() for file in files):
            raise UserError(f"{place} holds no {' or '.join(files)}; expected the folder of {names}")
        return _from_pretrained(expected[0], found, place)
    if not (found / "config.json").is_file():
        raise UserError(f"{place} holds no config.json; expected the folder of {names}")
    part = _from_pretrained(_class_in(found, expected, place), found, place)
    return part.eval().requires_grad_(False)


def _class_in(folder: Path, expected: list[Any], place: str) -> Any:
    """Return the class of the network in a folder, one of those that are expected or derived from them."""
    import transformers

    config = read_mapping(folder / "config.json")
    found = str(config.get("_class_name") or (config.get("architectures") or [""])[0])
    for kind in (getattr(transformers, found, None), _class_of_diffusers(found)):
        if isinstance(kind, type) and issubclass(kind, tuple(expected)):
            return kind
    if hasattr(expected[0], "config_class") and config.get("_class_name") is None:
        return expected[0]  # a text encoder may be read out of a larger model, such as CLIP
    names = " or ".join(one.__name__ for one in expected)
    raise UserError(f"{place} holds {found}; expected {names}")


def _from_pretrained(kind: Any, folder: Path, place: str) -> Any:
    """Open a part in a folder; weights that are not there are refused rather than drawn."""
    network = issubclass(kind, nn.Module)
    settings = {"use_safetensors": True, "output_loading_info": True} if network else {}
    try:
        with quiet_transformers():
            opened = kind.from_pretrained(str(folder), local_files_only=True, **settings)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        raise UserError(f"{place} cannot be opened as {kind.__name__} ({first_line(error)})") from error
    if not network:
        return opened
    part, report = opened
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"{place} lacks {len(missing)} weights of {kind.__name__}, the first {missing[0]}")
    return part


def _check_size(settings: PipelineSettings, denoiser: Any) -> None:
    """Check the height and width of x_t, if the denoiser's configuration has them."""
    setting = inspect.signature(denoiser).parameters.get("sample_size")
    if setting is None:
        return
    size = settings.denoiser.get("sample_size", setting.default)
    sides = size if isinstance(size, (list, tuple)) else [size]
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and side > 0 for side in sides):
        found = "null" if size is None else size
        raise UserError(
            f"pipeline.denoiser.sample_size: is {found}; expected the side of the images that the denoiser "
            "takes, latents if there are any: a whole number above 0"
        )


def _check_latents(settings: PipelineSettings, vae: Any) -> None:
    """Check that the denoiser takes and returns as many channels as the autoencoder's latents have.

    Channels of packed latents are those of their squares, but some denoisers count what they return unpacked.
    """
    if vae is None:
        return
    kind, family = settings.denoiser["class_name"], FAMILIES[settings.denoiser["class_name"]]
    channels = AUTOENCODERS[type(vae).__name__].channels(vae.config)
    packed = channels * family.packing**2
    returned = (packed, 2 * packed, None) if family.returns_packed else (channels,)
    defaults = inspect.signature(_class_of_diffusers(kind)).parameters
    for name, numbers in zip(family.channel_settings, ((packed,), returned), strict=True):
        if name not in defaults:
            continue
        given = settings.denoiser.get(name, defaults[name].default)
        if given not in numbers:
            squares = "" if numbers[0] == channels else f" in squares of {family.packing}x{family.packing}"
            raise UserError(
                f"pipeline.denoiser.{name}: is {given}; expected {numbers[0]}, "
                f"as many as the latents of pipeline.parts.vae have{squares}"
            )


def load_start(denoiser: Any, folder: Path, name: str) -> None:
    """Give a denoiser the weights of another pipeline's, of the same class and shapes."""
    place = f"pipeline.init_from: {folder}"
    found = next((path / name for path in (folder, folder / "export") if (path / name).is_dir()), None)
    if found is None:
        raise UserError(f"{place} holds no '{name}'; expected a pipeline, or a run that exported one")
    copy_pretrained(denoiser, found, place, "a denoiser of other shapes than pipeline.denoiser describes")


def copy_pretrained(network: Any, folder: Path, place: str, other: str) -> None:
    """Give a network the weights of one of its class in a folder.

    Messages begin with `place`; `other` says what a folder of other shapes holds.
    """
    start = _from_pretrained(type(network), folder, place)
    if {key: value.shape for key, value in start.state_dict().items()} != {
        key: value.shape for key, value in network.state_dict().items()
    }:
        raise UserError(f"{place} holds {other}")
    network.load_state_dict(start.state_dict())
