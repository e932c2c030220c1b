"""Read and write YAML 1.2, in which `no` is a word, `1e-4` is a number and `010` is ten.

PyYAML follows YAML 1.1, where these are false, a text and eight. A key that stands twice in a mapping is
refused, since PyYAML would silently keep the last value.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from distill.config.errors import UserError

FLOAT = (
    r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
SCALARS = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+", "-+0123456789"),
    ("tag:yaml.org,2002:float", FLOAT, "-+.0123456789"),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)
"""Plain scalars that are not text: tag, pattern, first characters. Integers are tried before floats."""
MAX_DEPTH = 100
"""Maximum nesting of lists and mappings."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2, unique keys and limited nesting."""

    depth = 0

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"line {line}: a key is a list or a mapping; expected a name")
            if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                raise UserError(
                    f"'{key.value}' stands twice, in lines {lines[key.value]} and {line}; expected once"
                )
            lines[key.value] = line
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1
            raise UserError(f"line {line}: is nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes texts that `_Loader` would not read back as text."""


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
    """Read the value that a YAML text holds."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"is not YAML ({_reason(error)})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not YAML ({error})") from error


def dump_yaml(value: Any) -> str:
    """Write plain data as YAML that both `parse_yaml` and PyYAML read back unchanged."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=140)


def _reason(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    if "'\\t'" in str(error.problem):
        return f"{place}: a tab; expected spaces"
    return f"{place}: {error.problem}"
