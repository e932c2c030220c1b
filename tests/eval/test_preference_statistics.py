"""Means, standard errors and win rates of scores, against sums by hand, closed forms and simulated coverage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from distill.config.errors import UserError
from eval.__main__ import main
from eval.preference.result_types import FORMAT
from eval.preference.results import by_prompt, measure
from eval.preference.statistics import mean_over_prompts, wilson, win_rate
from eval.prompt_sets import PromptSet
from eval.prompt_sets.formats import Prompt

SCORES = torch.tensor([[1.0, 3.0], [5.0, 5.0], [0.0, 2.0]], dtype=torch.float64)
"""Of two images of each of three prompts."""
PROMPTS = PromptSet.whole("mine", "mine.txt", [Prompt("a", "x"), Prompt("b", "y"), Prompt("c", "x")])


def test_a_mean_and_its_error_by_hand() -> None:
    mean, error = mean_over_prompts(SCORES)  # of the means 2, 5, 1
    assert mean == pytest.approx(8 / 3)
    assert error == pytest.approx(math.sqrt(((2 - 8 / 3) ** 2 + (5 - 8 / 3) ** 2 + (1 - 8 / 3) ** 2) / 2 / 3))
    assert mean_over_prompts(SCORES[:1]) == (2.0, None)


def test_the_error_is_that_of_means_however_alike_the_images_of_a_prompt() -> None:
    """With images that are copies of each other a prompt counts once; with 400 experiments the errors are those of the means' spread."""
    alone = mean_over_prompts(SCORES[:, :1])
    assert mean_over_prompts(SCORES[:, :1].repeat(1, 7)) == pytest.approx(alone)
    torch.manual_seed(0)
    drawn = torch.randn(400, 50, 1, dtype=torch.float64) + 0.5 * torch.randn(400, 50, 4, dtype=torch.float64)
    found = [mean_over_prompts(experiment) for experiment in drawn]
    spread = torch.tensor([one.mean for one in found]).std().item()
    assert sum(one.standard_error or 0 for one in found) / 400 == pytest.approx(spread, rel=0.08)
    assert math.sqrt((1 + 0.25 / 4) / 50) == pytest.approx(spread, rel=0.08)


@pytest.mark.parametrize(("rate", "count"), [(0.5, 10), (0.9, 40), (0.0, 7), (1.0, 25), (0.612, 1632)])
def test_wilson_s_interval(rate: float, count: int) -> None:
    """Its ends solve |rate - p| = z sqrt(p (1 - p) / count), and scipy's are the same."""
    low, high = wilson(rate, count)
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(rate - end) == pytest.approx(
                stats.norm.ppf(0.975) * math.sqrt(end * (1 - end) / count), rel=1e-9
            )
    wins = round(rate * count)
    if wins == rate * count:
        theirs = stats.binomtest(wins, count).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_win_rates() -> None:
    second = torch.tensor([[0.0, 3.0], [6.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    found = win_rate(SCORES, second)  # win, tie; loss, win; tie, win
    assert found.rate == pytest.approx((3 + 2 * 0.5) / 6)
    assert (found.low, found.high) == wilson(found.rate, 3)  # of three prompts, not of six images
    reverse = win_rate(second, SCORES)
    assert (reverse.rate, reverse.low, reverse.high) == pytest.approx(
        (1 - found.rate, 1 - found.high, 1 - found.low)
    )


def test_the_interval_holds_the_true_share_as_often_as_it_says() -> None:
    """Exactly, over all outcomes of 60 coins: 95 % on average over the share; with two images of a prompt more often."""
    shares = torch.linspace(0.2, 0.8, 61, dtype=torch.float64).tolist()
    covered = [
        sum(
            stats.binom.pmf(wins, 60, share)
            for wins in range(61)
            if (ends := wilson(wins / 60, 60))[0] <= share <= ends[1]
        )
        for share in shares
    ]
    assert sum(covered) / 61 == pytest.approx(0.95, abs=0.005)
    twice = [
        sum(
            stats.binom.pmf(wins, 120, share)
            for wins in range(121)
            if (ends := wilson(wins / 120, 60))[0] <= share <= ends[1]
        )
        for share in shares
    ]
    assert min(twice) > 0.97


def test_numbers_by_category_and_against() -> None:
    rows = SCORES.T.flatten().tolist()  # the prompts by turns
    assert torch.equal(by_prompt(rows, 3), SCORES)
    second = [value - 1 if row % 3 == 0 else value + 1 for row, value in enumerate(rows)]
    found = measure([rows, second], PROMPTS)
    assert found["values"] == rows
    assert found["against"]["values"] == second
    assert list(found["by_category"]) == ["x", "y"]
    x = found["by_category"]["x"]
    assert (x["count"], x["mean"], x["standard_error"]) == (2, 1.5, pytest.approx(0.5))
    assert (x["against"]["mean"], x["against"]["win_rate"], x["against"]["difference"]) == (1.5, 0.5, 0.0)
    assert x["against"]["difference_error"] == pytest.approx(1.0)
    assert found["by_category"]["y"]["standard_error"] is None
    assert found["against"]["win_rate"] == pytest.approx(1 / 3)
    assert found["against"]["difference"] == pytest.approx(-1 / 3)
    assert "against" not in measure([rows], PROMPTS)


def test_images_of_labels_are_all_independent() -> None:
    """Labels are not drawn: ten images of each of two labels are twenty draws, and of each label ten."""
    labels = PromptSet.whole(
        "labels", "labels:2", [Prompt(f"label {label}", f"label {label}", label) for label in range(2)]
    )
    values = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = measure([values.tolist(), (values - 1).tolist()], labels)
    assert found["standard_error"] == pytest.approx((values.std() / 20**0.5).item())
    assert found["against"]["win_interval"] == [*wilson(1.0, 20)]
    odd = found["by_category"]["label 1"]
    assert (odd["count"], odd["mean"]) == (10, pytest.approx(values[1::2].mean().item()))
    assert odd["standard_error"] == pytest.approx((values[1::2].std() / 10**0.5).item())


def results(**changes: object) -> dict:
    reads = {
        "preparation": {"size": [224, 224], "resampler": "pillow"},
        "tokenizer_sha256": "t",
        "scale": 100.0,
    }
    facts = {"title": "PickScore", "also": {}, "weights_sha256": "w", "settings": {}, "reads": reads}
    score = {**facts, **measure([SCORES.T.flatten().tolist()], PROMPTS)}
    facts = {
        "format": FORMAT,
        "prompts": {"set": "mine", "sha256": "p", "count": 3, "departures": []},
        "subject": {"of": "the student", "images_sha256": "i", "paired_by": "seed", "lossy": {}},
        "per_prompt": 2,
        "independent": 3,
        "seeds": [0, 1, 2, 3, 4, 5],
    }
    return {**facts, "scores": {"pickscore": score}, **changes}


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
    """What `compare` prints of a.json, which is `results()`, and of these, without the folder."""
    for name, content in {"a": results(), **others}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    main(["compare", *(str(folder / f"{name}.json") for name in ("a", *others))])
    return capsys.readouterr().out.replace(f"{folder}/", "").splitlines()


def test_every_row_has_its_own_label_and_its_doubts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results that agree in all that decides, of which something is not known or not as good, are marked, each for itself."""
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
        "b.json: b; not other (3 of its 9 prompts, the first), 3 prompts, 2 images each, seeds not known, JPEG and WebP files",
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
        f"[{place}] {name}.json: 2 of its 6 images repeat a seed of their prompt, and are no draws of their own"
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
        "[1] b.json: whether its images were compressed with loss is not known, it was written by an earlier version",
        "[2] b.json: preparation and tokenizer of pickscore are not known, it was written by an earlier version",
    ]


def test_results_that_lack_a_part_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for parts, missing in (
        ((), "seeds"),
        (("prompts",), "sha256"),
        (("subject",), "of"),
        (("scores", "pickscore"), "values"),
    ):
        broken: Any = results()
        content = broken
        for part in parts:
            content = content[part]
        del content[missing]
        with pytest.raises(
            UserError,
            match=rf"b.json: has no {'.'.join([*parts, missing])}; expected what python -m eval preference writes$",
        ):
            compared(tmp_path, capsys, b=broken)
    for parts, value, found in (
        (("scores", "pickscore", "values", 2), "x", "scores.pickscore.values.2 is x"),
        (("scores", "pickscore", "mean"), math.nan, "scores.pickscore.mean is nan"),
        (
            ("scores", "pickscore", "values"),
            [1.0, 2.0],
            "has 2 values in scores.pickscore, 6 seeds and 3 independent draws",
        ),
        (("independent",), 4, "has 6 values in scores.pickscore, 6 seeds and 4 independent draws"),
        (("subject", "lossy"), ["JPEG"], r"subject.lossy is \['JPEG'\]"),
    ):
        broken = content = results()
        for part in parts[:-1]:
            content = content[part]
        content[parts[-1]] = value  # type: ignore[index]
        with pytest.raises(
            UserError, match=rf"b.json: {found}; expected what python -m eval preference writes$"
        ):
            compared(tmp_path, capsys, b=broken)
    with pytest.raises(
        UserError, match=r"a.json: is named twice; expected results of different measurements$"
    ):
        main(["compare", str(tmp_path / "a.json"), f"{tmp_path}/../{tmp_path.name}/a.json"])


def test_results_of_different_things_are_not_compared(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(results()))
    prompts = results()["prompts"]
    other_weights, other_score = results(), results()
    other_weights["scores"]["pickscore"]["weights_sha256"] = "v"
    other_score["scores"]["aesthetic"] = other_score["scores"].pop("pickscore")
    tokenizer, resampler, unscaled = results(), results(), results()
    tokenizer["scores"]["pickscore"]["reads"]["tokenizer_sha256"] = "u"
    resampler["scores"]["pickscore"]["reads"]["preparation"]["resampler"] = "torch"
    del unscaled["scores"]["pickscore"]["reads"]["scale"]
    wrong = {
        "prompts_sha256 is q; expected p": results(prompts={**prompts, "sha256": "q"}),
        "per_prompt is 1; expected 2": results(per_prompt=1),
        r"seeds is \[6, 7, 8, 9, 10, 11\]; expected \[0, 1, 2, 3, 4, 5\]": results(seeds=list(range(6, 12))),
        "weights_sha256 of pickscore is v; expected w": other_weights,
        "tokenizer_sha256 of pickscore is u; expected t": tokenizer,
        "preparation.resampler of pickscore is torch; expected pillow": resampler,
        "scale of pickscore is nothing; expected 100.0": unscaled,
    }
    for message, content in wrong.items():
        (tmp_path / "b.json").write_text(json.dumps(content))
        with pytest.raises(
            UserError,
            match=rf"^.*b.json: {message} as in .*a.json, scores of different ones are not to be compared$",
        ):
            main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    (tmp_path / "b.json").write_text(json.dumps(other_score))
    with pytest.raises(
        UserError, match=r"b.json: has no score that .*a.json has; expected one of pickscore$"
    ):
        main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    (tmp_path / "b.json").write_text(json.dumps(results(format="distill-fid/1")))
    with pytest.raises(
        UserError,
        match=r"b.json: is not of the format 'distill-preference/1'; expected what python -m eval preference writes$",
    ):
        main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    (tmp_path / "b.json").write_text(
        json.dumps(results(seeds=[None] * 6))
    )  # images of unknown seeds are paired by their prompts
    main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
