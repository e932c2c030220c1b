"""Results of `python -m eval preference` side by side: what is printed, noted and refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.config.errors import UserError
from distill.eval.__main__ import main
from distill.eval.preference.result_types import FORMAT
from distill.eval.preference.results import measure
from distill.eval.prompt_sets import PromptSet
from distill.eval.prompt_sets.formats import Prompt

SCORES = torch.tensor([[1.0, 3.0], [5.0, 5.0], [0.0, 2.0]], dtype=torch.float64)
"""Scores of two images of each of three prompts."""
PROMPTS = PromptSet.whole("mine", "mine.txt", [Prompt("a", "x"), Prompt("b", "y"), Prompt("c", "x")])


def results(**changes: object) -> dict[str, Any]:
    """Build a file of results with one score, PickScore; `changes` replace parts of it."""
    reads = {
        "preparation": {"size": [224, 224], "resampler": "pillow"},
        "tokenizer_sha256": "t",
        "scale": 100.0,
    }
    score = {
        "title": "PickScore",
        "also": {},
        "weights_sha256": "w",
        "settings": {},
        "reads": reads,
        **measure([SCORES.T.flatten().tolist()], PROMPTS),
    }
    return {
        "format": FORMAT,
        "prompts": {"set": "mine", "sha256": "p", "count": 3, "departures": []},
        "subject": {"of": "the student", "images_sha256": "i", "paired_by": "seed", "lossy": {}},
        "per_prompt": 2,
        "independent": 3,
        "seeds": [0, 1, 2, 3, 4, 5],
        "scores": {"pickscore": score},
        **changes,
    }


def test_results_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(results()))
    better = results(subject={**results()["subject"], "of": "another", "images_sha256": "j"})
    better["scores"]["pickscore"] |= measure(
        [(SCORES + torch.tensor([[1.0], [1.0], [-1.0]])).T.flatten().tolist()], PROMPTS
    )
    (tmp_path / "b.json").write_text(json.dumps(better))
    main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"wins are against {tmp_path}/a.json"
    assert [line.split("json", 1)[1].split() for line in lines[3:7]] == [
        ["2.6667", "±", "1.2019"],
        ["3.0000", "±", "1.7321"],
        ["wins", "[95", "%]", "66.7%", "[20.8%,", "93.9%]"],
        ["difference", "0.3333", "±", "0.6667"],
    ]
    assert lines[7:] == [
        "",
        f"{tmp_path}/a.json: the student; mine, 3 prompts, 2 images each, seeds 0 to 5",
        f"{tmp_path}/b.json: another; mine, 3 prompts, 2 images each, seeds 0 to 5",
    ]


def compared(folder: Path, capsys: pytest.CaptureFixture[str], **others: dict) -> list[str]:
    """Compare a.json, which holds `results()`, with others; return the printed lines without the folder."""
    for name, content in {"a": results(), **others}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    main(["compare", *(str(folder / f"{name}.json") for name in ("a", *others))])
    return capsys.readouterr().out.replace(f"{folder}/", "").splitlines()


def test_every_row_has_its_own_label_and_its_doubts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results that agree in all that decides are marked if something is not known or not as good."""
    subject = {"of": "b", "images_sha256": "j", "paired_by": "seed", "lossy": {}}
    part = {**results()["prompts"], "set": "other", "departures": ["3 of its 9 prompts, the first"]}
    lossy = results(
        subject={**subject, "paired_by": "order", "lossy": {"JPEG": 5, "WebP": 1}},
        seeds=[None] * 6,
        prompts=part,
    )
    same = results(subject=results()["subject"])
    lines = compared(tmp_path, capsys, b=lossy, c=same)
    assert [line.split("  ")[0] for line in lines[3:10]] == [
        "a.json",
        "b.json [1] [2] [3]",
        "c.json [4]",
        "b.json [1] [2] [3] wins [95 %]",
        "b.json [1] [2] [3] difference",
        "c.json [4] wins [95 %]",
        "c.json [4] difference",
    ]
    assert lines[11:] == [
        "a.json: the student; mine, 3 prompts, 2 images each, seeds 0 to 5",
        "b.json: b; not other (3 of its 9 prompts, the first), 3 prompts, 2 images each, "
        "seeds not known, JPEG and WebP files",
        "c.json: the student; mine, 3 prompts, 2 images each, seeds 0 to 5",
        "[1] b.json: 5 JPEG, 1 WebP of 6 images: what compression left of them was scored",
        "[2] b.json: its seeds are not known, the pairs are of the same prompts, whatever their noise",
        "[3] b.json: its images are paired with prompts by their order, no index names these",
        "[4] c.json: has the very images of a.json",
    ]


def test_the_same_seed_twice_is_no_repetition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows 0 and 3 are of one prompt, so are 1 and 4, and 2 and 5."""
    twice = results(seeds=[0, 1, 2, 0, 1, 5])
    twice["subject"]["images_sha256"] = "j"
    for name, content in {
        "a": twice,
        "b": {**twice, "subject": {**twice["subject"], "images_sha256": "k"}},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    lines = capsys.readouterr().out.replace(f"{tmp_path}/", "").splitlines()
    assert lines[-2:] == [
        f"[{place}] {name}.json: 2 of its 6 images repeat a seed of their prompt, "
        "and are no draws of their own"
        for place, name in ((1, "a"), (2, "b"))
    ]
    once = results(seeds=[0, 0, 0, 1, 1, 1])  # the same seed for every prompt is what many benchmarks do
    once["subject"]["images_sha256"] = "j"
    (tmp_path / "a.json").write_text(json.dumps(once))
    main(["compare", str(tmp_path / "a.json")])
    assert "[1]" not in capsys.readouterr().out


def test_results_of_an_earlier_version_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is known of the preparation and the tokenizer then, nor of compression."""
    old = results(subject={"of": "old", "images_sha256": "j"})
    del old["scores"]["pickscore"]["reads"]
    lines = compared(tmp_path, capsys, b=old)
    assert lines[-2:] == [
        "[1] b.json: whether its images were compressed with loss is not known, "
        "it was written by an earlier version",
        "[2] b.json: preparation and tokenizer of pickscore are not known, "
        "it was written by an earlier version",
    ]


@pytest.mark.parametrize(
    "parts", ["seeds", "prompts.sha256", "subject.of", "scores.pickscore.values"], ids=lambda parts: parts
)
def test_results_that_lack_a_part_are_refused(
    parts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *above, missing = parts.split(".")
    broken = content = results()
    for part in above:
        content = content[part]
    del content[missing]
    with pytest.raises(
        UserError, match=rf"b.json: has no {parts}; expected what python -m eval preference writes$"
    ):
        compared(tmp_path, capsys, b=broken)


WRONG_PARTS: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("scores", "pickscore", "values", 2), "x", "scores.pickscore.values.2 is x"),
    (("scores", "pickscore", "mean"), math.nan, "scores.pickscore.mean is nan"),
    (
        ("scores", "pickscore", "values"),
        [1.0, 2.0],
        "has 2 values in scores.pickscore, 6 seeds and 3 independent draws",
    ),
    (("independent",), 4, "has 6 values in scores.pickscore, 6 seeds and 4 independent draws"),
    (("subject", "lossy"), ["JPEG"], r"subject.lossy is \['JPEG'\]"),
]


@pytest.mark.parametrize(("parts", "value", "found"), WRONG_PARTS)
def test_results_with_a_wrong_part_are_refused(
    parts: tuple[str | int, ...], value: Any, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *above, last = parts
    broken: Any = results()
    content = broken
    for part in above:
        content = content[part]
    content[last] = value
    with pytest.raises(UserError, match=rf"b.json: {found}; expected what python -m eval preference writes$"):
        compared(tmp_path, capsys, b=broken)


def test_a_file_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(results()))
    with pytest.raises(
        UserError, match=r"a.json: is named twice; expected results of different measurements$"
    ):
        main(["compare", str(tmp_path / "a.json"), f"{tmp_path}/../{tmp_path.name}/a.json"])


def changed(path: str, value: Any) -> dict[str, Any]:
    """Build results with another value for one part of PickScore; None removes it."""
    found = results()
    content = found["scores"]["pickscore"]
    *above, last = path.split(".")
    for part in above:
        content = content[part]
    content[last] = value
    if value is None:
        del content[last]
    return found


DIFFERENT = {
    "prompts_sha256 is q; expected p": results(prompts={**results()["prompts"], "sha256": "q"}),
    "per_prompt is 1; expected 2": results(per_prompt=1),
    r"seeds is \[6, 7, 8, 9, 10, 11\]; expected \[0, 1, 2, 3, 4, 5\]": results(seeds=list(range(6, 12))),
    "weights_sha256 of pickscore is v; expected w": changed("weights_sha256", "v"),
    "tokenizer_sha256 of pickscore is u; expected t": changed("reads.tokenizer_sha256", "u"),
    "preparation.resampler of pickscore is torch; expected pillow": changed(
        "reads.preparation.resampler", "torch"
    ),
    "scale of pickscore is nothing; expected 100.0": changed("reads.scale", None),
}


@pytest.mark.parametrize(("message", "other"), DIFFERENT.items())
def test_results_of_different_things_are_not_compared(
    message: str, other: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "scores of different ones are not to be compared"
    with pytest.raises(UserError, match=rf"^.*b.json: {message} as in .*a.json, {reason}$"):
        compared(tmp_path, capsys, b=other)


def test_results_without_a_common_score_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = results()
    other["scores"]["aesthetic"] = other["scores"].pop("pickscore")
    with pytest.raises(
        UserError, match=r"b.json: has no score that .*a.json has; expected one of pickscore$"
    ):
        compared(tmp_path, capsys, b=other)


def test_results_of_another_command_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = "expected what python -m eval preference writes"
    with pytest.raises(UserError, match=rf"b.json: is not of the format 'distill-preference/1'; {expected}$"):
        compared(tmp_path, capsys, b=results(format="distill-fid/1"))


def test_images_of_unknown_seeds_are_paired_by_their_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared(tmp_path, capsys, b=results(seeds=[None] * 6))[0] == "wins are against a.json"
