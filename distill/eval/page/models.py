"""The models of scored results: one column each, whatever files their scores are in."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import cast

from distill.eval.page.examined import ExaminedScore
from distill.eval.preference.comparison import doubts, refuse_different
from distill.eval.preference.result_types import PairStatistics, Results, ScoreResult
from distill.eval.preference.results import by_prompt, paired
from distill.eval.results.names import distinct_names


@dataclasses.dataclass(frozen=True)
class Model:
    """A column of the page: its name, its file, its results without a second subject, and its notes."""

    name: str
    file: str
    results: Results
    doubts: list[str]

    def score(self, name: str) -> ScoreResult | None:
        """Return what is known of a score, None if this model has not got it."""
        return self.results["scores"].get(name)

    def measures(self, name: str) -> list[tuple[str, float, float | None]]:
        """Return title, value and standard error of a benchmark's own measures; none of other scores."""
        return cast(ExaminedScore, self.score(name) or {}).get("measures", [])

    def reason(self, name: str, row: int) -> str:
        """Return what a benchmark found wrong with an image, nothing for other scores."""
        reasons = cast(ExaminedScore, self.score(name) or {}).get("reasons")
        return reasons[row] if reasons else ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Models on the same prompts and seeds. Row i has prompt i % len(prompts)."""

    models: list[Model]
    prompts: list[str]
    categories: list[str | None]
    seeds: list[int | None]
    scores: dict[str, ScoreResult]
    """For each score one model's, for its title and its other scales."""

    @property
    def prompt_set(self) -> str:
        """The name of the list of prompts."""
        return self.models[0].results["prompts"]["set"]

    @classmethod
    def by_prompts(cls, results: Mapping[str, Results], names: Mapping[str, str]) -> list[Comparison]:
        """Collect the models of result files by their paths, those of each list of prompts by themselves."""
        lists: dict[str, dict[str, Results]] = {}
        for file, one in results.items():
            lists.setdefault(one["prompts"]["sha256"], {})[file] = one
        return [cls.of(one, names) for one in lists.values()]

    @classmethod
    def of(cls, results: Mapping[str, Results], names: Mapping[str, str]) -> Comparison:
        """Collect the models of result files by their paths; refuse what cannot be compared.

        `names` are those that the command line gives to the first subjects of some files.
        """
        sides = dict(_sides(results))
        for first, other in itertools.combinations(sides, 2):
            shared = [name for name in sides[first]["scores"] if name in sides[other]["scores"]]
            refuse_different(other, sides[other], first, sides[first], shared)
        merged = _merge(sides)
        shown = distinct_names({file: names.get(file, one["subject"]["of"]) for file, one in merged.items()})
        models: list[Model] = []
        for file, one in merged.items():
            earlier = {model.name: model.results for model in models}
            notes = [*one["notes"], *doubts(one, earlier, list(one["scores"]))]
            models.append(Model(shown[file], file, one, notes))
        first_results = models[0].results
        scores = {
            name: score for model in reversed(models) for name, score in model.results["scores"].items()
        }
        known = [model.results["seeds"] for model in models if None not in model.results["seeds"]]
        return cls(
            models,
            first_results["prompts"]["texts"],
            first_results["prompts"]["categories"],
            known[0] if known else first_results["seeds"],
            {name: scores[name] for name in _in_order(models)},
        )

    def value(self, model: Model, score: str, row: int) -> float | None:
        """Return the score of one image, None if the model has not got it."""
        known = model.score(score)
        return None if known is None else known["values"][row]

    def paired(self, model: Model, score: str) -> PairStatistics | None:
        """Compare a model with the first one; None for the first, and if either has not got the score."""
        one, other = model.score(score), self.models[0].score(score)
        if model is self.models[0] or one is None or other is None:
            return None
        count = model.results["independent"]
        return paired(by_prompt(one["values"], count), by_prompt(other["values"], count))


def _in_order(models: list[Model]) -> list[str]:
    """Return the scores of all models, in the order in which they first appear."""
    return list(dict.fromkeys(name for model in models for name in model.results["scores"]))


def _sides(results: Mapping[str, Results]) -> Iterator[tuple[str, Results]]:
    """Yield the results of each subject of each file, a second subject as if it had a file of its own."""
    for file, one in results.items():
        notes = list(one.get("notes", ()))
        yield file, cast(Results, {**one, "notes": notes})
        if "against" in one:
            scores = {name: _of_second(score) for name, score in one["scores"].items()}
            yield (
                f"{file}, against",
                cast(Results, {**one, "subject": one["against"], "scores": scores, "notes": []}),
            )


def _of_second(score: ScoreResult) -> ScoreResult:
    """Return a score of the second subject as that of a first one."""
    second = score["against"]
    categories = {
        name: {"count": category["count"], **category["against"]}
        for name, category in score["by_category"].items()
    }
    own = {key: second[key] for key in ("mean", "standard_error", "values")}
    return cast(ScoreResult, {**score, **own, "by_category": categories})


def _merge(sides: Mapping[str, Results]) -> dict[str, Results]:
    """Join the scores of the same images from several files, under the first file that has them."""
    places: dict[tuple[str, str], str] = {}
    merged: dict[str, Results] = {}
    for file, one in sides.items():
        subject = one["subject"]
        place = places.setdefault((subject["of"], subject["images_sha256"]), file)
        if place == file:
            merged[file] = one
            continue
        earlier = merged[place]
        notes = list(dict.fromkeys([*earlier["notes"], *one["notes"]]))
        scores = {**one["scores"], **earlier["scores"]}
        ordered = {name: scores[name] for name in (*earlier["scores"], *one["scores"])}
        merged[place] = cast(Results, {**earlier, "scores": ordered, "notes": notes})
    return merged
