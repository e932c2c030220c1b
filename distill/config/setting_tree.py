"""The settings of a run as a tree of names, types, defaults and help texts, for help to show."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from distill.config.settings import Choice, Settings

REQUIRED = PydanticUndefined
"""The default of a field that has none."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting. `settings` holds those nested in it, `options` the choices of its `name`."""

    flag: str
    """Dotted name on the command line and in messages, such as teacher.path."""
    topic: str
    """Dotted name with the choices on the way, such as teacher.diffusers.path."""
    kind: str
    default: Any
    text: str
    settings: tuple[Setting, ...] = ()
    options: tuple[Option, ...] = ()

    @property
    def below(self) -> tuple[Setting | Option, ...]:
        """The entries that a longer dotted name can mean, among them the settings of all choices."""
        of_options = tuple(setting for option in self.options for setting in option.settings)
        return self.settings + self.options + of_options


@dataclasses.dataclass(frozen=True)
class Option:
    """One choice of a setting's `name`, with the settings that it brings."""

    flag: str
    """Dotted name of the setting that it is a choice of."""
    topic: str
    text: str
    settings: tuple[Setting, ...]

    @property
    def name(self) -> str:
        """The name that a configuration gives."""
        return self.topic.rpartition(".")[2]

    @property
    def below(self) -> tuple[Setting | Option, ...]:
        """The entries that a longer dotted name can mean."""
        return self.settings


def read_settings(
    model: type[Settings], flag: str = "", topic: str = "", defaults: object = None
) -> tuple[Setting, ...]:
    """Read the fields of a settings class. `defaults` is the instance that its parent has by default."""
    return tuple(
        _read_setting(field, f"{flag}{name}", f"{topic}{name}", default_of(model, name, defaults))
        for name, field in model.model_fields.items()
        if not is_tag(field)
    )


def _read_setting(field: FieldInfo, flag: str, topic: str, default: Any) -> Setting:
    nested = dict(_nested(field))
    plain = nested.pop("", None)
    options = tuple(
        Option(
            flag,
            f"{topic}.{name}",
            (settings.__doc__ or "").strip(),
            read_settings(settings, f"{flag}.", f"{topic}.{name}.", default),
        )
        for name, settings in nested.items()
    )
    return Setting(
        flag,
        topic,
        _kind(field, [option.name for option in options]),
        default,
        " ".join((field.description or "").split()),
        read_settings(plain, f"{flag}.", f"{topic}.", default) if plain else (),
        options,
    )


def default_of(model: type[Settings], name: str, defaults: object) -> Any:
    """Return the default of a field: the value in `defaults`, an instance, or else the class's own."""
    if isinstance(defaults, model):
        return getattr(defaults, name)
    field = model.model_fields[name]
    choice = _find_choice(field)
    if choice is not None and isinstance(field.default, dict):
        return choice.resolve(field.default)
    return field.default


def is_tag(field: FieldInfo) -> bool:
    """Return whether a field only names the choice that its class is."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def name_of(settings: Settings) -> str | None:
    """Return the name by which a configuration chooses these settings, or None if they are no choice."""
    tag = type(settings).model_fields.get("name")
    return str(settings.name) if tag is not None and is_tag(tag) else None  # type: ignore[attr-defined]


def _nested(field: FieldInfo) -> Iterator[tuple[str, type[Settings]]]:
    """List the settings classes that a field may hold, each with the name that chooses it, or with ""."""
    choice = _find_choice(field)
    if choice is not None:
        yield from ((name, choice.settings(name)) for name in choice.names)
        return
    leaves = list(_leaves(field.annotation))
    classes = [leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, Settings)]
    for settings in classes:
        tag = settings.model_fields.get("name")
        yield (get_args(tag.annotation)[0] if tag and len(classes) > 1 else ""), settings


def _find_choice(field: FieldInfo) -> Choice | None:
    metadata = [*field.metadata, *_metadata(field.annotation)]
    choices = [item for item in metadata if isinstance(item, Choice)]
    return choices[0] if choices else None


def _metadata(annotation: Any) -> Iterator[Any]:
    """List the annotations of the types inside a union, a tuple or an annotated type."""
    if get_origin(annotation) is typing.Annotated:
        yield from annotation.__metadata__
        yield from _metadata(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType, tuple):
        for part in get_args(annotation):
            yield from _metadata(part)


def _leaves(annotation: Any) -> Iterator[Any]:
    """List the types inside a union, a tuple or an annotated type."""
    if get_origin(annotation) is typing.Annotated:
        yield from _leaves(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType, tuple):
        for part in get_args(annotation):
            yield from _leaves(part)
    else:
        yield annotation


def _kind(field: FieldInfo, names: list[str]) -> str:
    """Describe the type of a field; `names` are its choices."""
    if not names:
        return _type_name(field.annotation)
    kind = "{name: " + "|".join(names) + "}"
    if get_origin(field.annotation) is tuple:
        return f"[{kind}, ...]"
    return f"{kind}|null" if type(None) in get_args(field.annotation) else kind


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "|".join(str(argument) for argument in arguments)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is tuple:
        return "[" + ", ".join("..." if a is Ellipsis else _type_name(a) for a in arguments) + "]"
    if origin is list:
        return f"[{_type_name(arguments[0])}, ...]"
    if origin in (Union, types.UnionType):
        return "|".join(_type_name(argument) for argument in arguments)
    if annotation is type(None):
        return "null"
    if annotation is Path:
        return "path"
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return "{...}"
    return getattr(annotation, "__name__", str(annotation))
