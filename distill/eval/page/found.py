"""The result files that a page is made of: found in folders, recognised by their content, and checked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, PositiveInt, ValidationError

from distill.config.errors import UserError
from distill.eval.fid import results as of_fid
from distill.eval.fid.sets.results import read_all_results
from distill.eval.page import diversity as of_diversity
from distill.eval.page.arguments import NamedPath
from distill.eval.page.examined import KEYS, read_examined
from distill.eval.preference.comparison import read_results
from distill.eval.preference.result_types import Results
from distill.eval.results.file import Part, read_results_of
from distill.eval.run.results import EvalResults
from distill.storage.files import read_json

EXPECTED = "expected what python -m eval preference, fid or --run writes"
Kind = Literal["scored", "examined", "distances", "diversity", "evaluations"]


@dataclasses.dataclass(frozen=True)
class FoundResults:
    """Results by the paths of their files, and the names that the command line gives.

    `scored` are those of `preference`, of commands that write the same shape, and of benchmarks that judge
    each image; `distances` and `diversity` those of these commands, by protocol; `evaluations` the eval.json
    of runs.
    """

    scored: dict[str, Results] = dataclasses.field(default_factory=dict)
    distances: dict[str, dict[str, of_fid.FidResults]] = dataclasses.field(default_factory=dict)
    diversity: dict[str, dict[str, of_diversity.Diversity]] = dataclasses.field(default_factory=dict)
    evaluations: dict[str, EvalResults] = dataclasses.field(default_factory=dict)
    names: dict[str, str] = dataclasses.field(default_factory=dict)


class _Prompts(Part):
    texts: list[str] = Field(min_length=1)
    categories: list[str | None]
    count: PositiveInt


class _Subject(Part):
    folder: str
    files: list[str] | None = None


class _Scored(Part):
    """The parts of scored results that a page needs and a comparison does not."""

    prompts: _Prompts
    subject: _Subject
    against: _Subject | None = None


class _Reference(Part):
    train_images: int


class _Evaluation(Part):
    protocol: str
    n: PositiveInt
    reference: _Reference
    hashes: dict[str, str]
    warnings: list[str]


def read_found(named: Sequence[NamedPath]) -> FoundResults:
    """Read result files, and those in folders of runs; refuse a folder without any."""
    found = FoundResults()
    for one in named:
        paths = _files_in(one.path) if one.path.is_dir() else [one.path]
        if not paths:
            raise UserError(f"{one.path}: holds no results, nor does a folder in it; {EXPECTED}")
        for path in paths:
            _read(path, found)
            if one.name is not None:
                found.names[str(path)] = one.name
    return found


def _files_in(folder: Path) -> list[Path]:
    """Return the result files in a folder; if there are none, those of the folders directly in it."""
    own = [path for path in sorted(folder.glob("*.json")) if _kind_of(path) is not None]
    below = sorted(folder.glob("*/*.json"))
    return own or [path for path in below if _kind_of(path) is not None]


def _kind_of(path: Path) -> Kind | None:
    """Recognise a file of results in a folder; None for any other file, which the folder may hold too."""
    try:
        return _kind_of_content(read_json(path))
    except UserError:
        return None


def _kind_of_content(content: object) -> Kind | None:
    """Recognise results by their shape."""
    if not isinstance(content, Mapping):
        return None
    format = content.get("format")
    if isinstance(format, str):
        if format.startswith("distill-fid"):
            return "distances"
        if format == of_diversity.FORMAT:
            return "diversity"
        if content.keys() >= KEYS:
            return "examined"
        return "scored" if content.keys() >= {"scores", "prompts", "subject", "seeds"} else None
    return "evaluations" if content.keys() >= {"protocol", "n", "reference", "hashes"} else None


def _read(path: Path, found: FoundResults) -> None:
    content = read_json(path)
    kind = _kind_of_content(content)
    if kind == "distances":
        for protocol, results in read_all_results(path).items():
            found.distances.setdefault(protocol, {})[str(path)] = results
    elif kind == "diversity":
        one = of_diversity.read_diversity(path)
        found.diversity.setdefault(one.protocol, {})[str(path)] = one
    elif kind == "scored":
        found.scored[str(path)] = _read_scored(path, str(content["format"]))
    elif kind == "examined":
        benchmark = str(content["benchmark"])
        found.scored[str(path)] = read_examined(path, str(content["format"]), benchmark)
    elif kind == "evaluations":
        found.evaluations[str(path)] = _read_evaluation(path, content)
    else:
        raise UserError(f"{path}: holds no results that a page can show; {EXPECTED}")


def _read_scored(path: Path, format: str) -> Results:
    """Read the results of `preference`, or of another command that writes the same shape."""
    name = re.fullmatch(r"distill-([a-z-]+)/\d+", format)
    if name is None:
        raise UserError(f"{path}: is of the format '{format}'; {EXPECTED}")
    results = read_results(path, name[1], format)
    parts = read_results_of(name[1], path, format, _Scored)[1]
    prompts = parts.prompts
    rows = len(results["seeds"])
    lengths = {len(prompts.texts), len(prompts.categories), prompts.count}
    files = [side.files for side in (parts.subject, parts.against) if side and side.files is not None]
    if len(lengths) > 1 or rows % prompts.count or any(len(names) != rows for names in files):
        raise UserError(
            f"{path}: its prompts, seeds and files are not equally many; "
            f"expected what python -m eval {name[1]} writes"
        )
    return results


def _read_evaluation(path: Path, content: Mapping[str, Any]) -> EvalResults:
    """Read the eval.json of a run of images."""
    try:
        _Evaluation.model_validate(content)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(f"{path}: {place} is not as python -m eval --run writes it") from error
    return cast(EvalResults, content)
