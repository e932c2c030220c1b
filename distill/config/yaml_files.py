"""YAML as configurations are written: the core schema of YAML 1.2, in which `no` is a word, `1e-4` a number and `010` is ten.

PyYAML follows YAML 1.1, where these are false, a text and eight. A key that stands twice in a mapping is refused here, since YAML would
silently keep the last.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from distill.config.errors import UserError

SCALARS = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)
"""The plain scalars that are not texts: tag, form, first characters. An integer is looked for before a float."""
MAX_DEPTH = 100


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 and unique keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(
                    f"line {key.start_mark.line + 1}: a key is a list or a mapping; expected a name"
                )
            line = key.start_mark.line + 1
            if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                raise UserError(
                    f"'{key.value}' stands twice, in lines {lines[key.value]} and {line}; expected once"
                )
            lines[key.value] = line
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > MAX_DEPTH:
            raise UserError(
                f"line {self.peek_event().start_mark.line + 1}: is nested more than {MAX_DEPTH} deep"
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes the texts that `_Loader` would not read as texts."""


_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {
    first: list(forms) for first, forms in yaml.SafeDumper.yaml_implicit_resolvers.items()
}


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text, 16 if text.lower().startswith("0x") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
for _tag, _form, _first in SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_form})$"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_form})$"), _first)


def parse_yaml(text: str) -> Any:
    """The value that a YAML text holds. Raises UserError, one line, where it is no YAML or has a key twice."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"is not YAML ({_reason(error)})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not YAML ({error})") from error


def dump_yaml(value: Any) -> str:
    """Plain data as YAML that `parse_yaml`, and PyYAML, read as it was."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=140)


def _reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    if "'\\t'" in str(error.problem):  # type: ignore[attr-defined]
        return f"{where}: a tab; expected spaces"
    return f"{where}: {error.problem}"  # type: ignore[attr-defined]
