"""Types of the results that `python -m eval preference` writes as JSON."""

from __future__ import annotations

from typing import Any

from typing_extensions import NotRequired, TypedDict

from distill.eval.prompt_sets import PromptSetFacts

FORMAT = "distill-preference/1"


class PairStatistics(TypedDict):
    """Comparison of two subjects on the same prompts and seeds.

    `win_interval` is a 95 % interval; `difference` is the mean of the first subject's score minus the
    second's.
    """

    win_rate: float
    win_interval: list[float]
    difference: float
    difference_error: float | None


class Against(PairStatistics):
    """Mean score of the second subject, and its comparison with the first."""

    mean: float
    standard_error: float | None


class AgainstWithScores(Against):
    """The same with every score of the second subject; `values` are in the order of the rows."""

    values: list[float]


class _Mean(TypedDict):
    mean: float
    standard_error: float | None


class CategoryStatistics(_Mean, total=False):
    """Statistics of the prompts of one category; `count` is the number of independent draws."""

    count: int
    against: Against


class SecondScores(TypedDict, total=False):
    """Statistics of the second subject's scores, if there is a second subject."""

    against: AgainstWithScores


class Statistics(_Mean, SecondScores):
    """Statistics of one score; `values` are in the order of the rows."""

    by_category: dict[str, CategoryStatistics]
    values: list[float]


class ScoreIdentity(TypedDict):
    """Everything that decides a score except the image and its prompt."""

    score: str
    weights_sha256: str
    settings: dict[str, Any]
    reads: dict[str, Any]


class ScoreFacts(TypedDict):
    """Names, scales and files of a score. `also` maps names of other printed scales to their factors."""

    title: str
    also: dict[str, float]
    convention: str
    files: dict[str, Any]


class ScoreResult(ScoreFacts, ScoreIdentity, Statistics, total=False):
    """All that a result says of one score; `sheet` is the file name of its contact sheet."""

    sheet: str


class SubjectResult(TypedDict):
    """The subject whose images were scored.

    Everything that its images depend on adds keys of its own. `files` names the image of each row in
    `folder`; earlier versions did not write it. `lossy` counts the images of each lossy compression.
    """

    of: str
    folder: str
    files: NotRequired[list[str]]
    paired_by: str
    lossy: dict[str, int]
    images_sha256: str


class PromptFacts(PromptSetFacts):
    """Facts about the prompts, with all texts and categories."""

    texts: list[str]
    categories: list[str | None]


class SecondSubject(TypedDict, total=False):
    """The second subject, if there is one."""

    against: SubjectResult


class PromptedResults(SecondSubject):
    """What results of images of prompts say of prompts, seeds and subjects."""

    format: str
    prompts: PromptFacts
    per_prompt: int
    seeds: list[int | None]
    subject: SubjectResult


class Results(PromptedResults):
    """The content of `preference.json`.

    `independent` is the number of independent draws that standard errors and intervals assume.
    """

    independent: int
    scores: dict[str, ScoreResult]
    notes: list[str]
    commit: str | None
    machine: str
