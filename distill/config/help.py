"""The help of `train.py`: every setting, its type, its default and what it does, without importing anything heavy."""

from __future__ import annotations

import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from distill.config.settings import Choice, Settings


def describe_settings(model: type[Settings], prefix: str = "") -> Iterator[str]:
    """A block of text for each field of a settings class, those of nested settings under dotted names."""
    for name, field in model.model_fields.items():
        nested = list(_nested(field))
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            continue  # the tag of a choice, named where the choice is explained
        yield _entry(f"--{prefix}{name}", field, [choice for choice, _ in nested if choice])
        for choice, settings in nested:
            if choice:
                yield f"    with {prefix}{name}.name = {choice}: {(settings.__doc__ or '').splitlines()[0]}"
            yield from describe_settings(settings, f"{prefix}{name}.")


def _entry(flag: str, field: FieldInfo, options: list[str]) -> str:
    default = "" if field.default is PydanticUndefined else f" [{_plain(field.default)}]"
    kind = "{name: " + "|".join(options) + "}" if options else _type_name(field.annotation)
    text = textwrap.fill(
        " ".join((field.description or "").split()), 110, initial_indent=" " * 8, subsequent_indent=" " * 8
    )
    return f"  {flag} {kind}{default}\n{text}"


def _plain(default: Any) -> str:
    if isinstance(default, Settings):
        return getattr(default, "name", "see below")
    return "null" if default is None else str(list(default) if isinstance(default, tuple) else default)


def _nested(field: FieldInfo) -> Iterator[tuple[str, type[Settings]]]:
    """The settings classes that a field may hold, each under the name that chooses it, or '' where there is no choice."""
    choice = _find_choice(field)
    if choice is not None:
        yield from ((name, choice.settings(name)) for name in choice.names)
        return
    classes = [
        part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, Settings)
    ]
    for settings in classes:
        tag = settings.model_fields.get("name")
        yield (get_args(tag.annotation)[0] if tag and len(classes) > 1 else ""), settings


def _find_choice(field: FieldInfo) -> Choice | None:
    found = [
        *field.metadata,
        *(item for part in _parts(field.annotation, keep=True) for item in getattr(part, "__metadata__", ())),
    ]
    return next((item for item in found if isinstance(item, Choice)), None)


def _parts(annotation: Any, keep: bool = False) -> Iterator[Any]:
    """The leaves of unions, tuples and annotations; with `keep`, the annotated types themselves too."""
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        if keep:
            yield annotation
        yield from _parts(get_args(annotation)[0], keep)
    elif origin in (Union, types.UnionType, tuple):
        for part in get_args(annotation):
            yield from _parts(part, keep)
    else:
        yield annotation


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "|".join(str(argument) for argument in arguments)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is tuple:
        return "[" + ", ".join("..." if a is Ellipsis else _type_name(a) for a in arguments) + "]"
    if origin in (Union, types.UnionType):
        return "|".join(_type_name(argument) for argument in arguments)
    if annotation is type(None):
        return "null"
    if annotation is Path:
        return "path"
    return (
        "{...}"
        if isinstance(annotation, type) and issubclass(annotation, Settings)
        else getattr(annotation, "__name__", str(annotation))
    )
