"""`python -m eval compare`: results side by side, marks, and refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from distill.config.errors import UserError
from distill.eval.__main__ import main
from tests.helpers.fid_result import RESULT


@pytest.fixture
def table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def compare(**changed: dict[str, Any]) -> list[str]:
        for name, changes in changed.items():
            Path(f"{name}.json").write_text(
                json.dumps({**RESULT, "repetitions": [{"images_sha256": name, "fd": 2.0}], **changes})
            )
        main(["compare", *(f"{name}.json" for name in changed)])
        return capsys.readouterr().out.splitlines()

    return compare


def test_every_row_has_its_own_label_and_a_mark_where_it_departs(table) -> None:
    lines = table(a={}, b={"departures": ["first seed 7, not 0"], "first_seeds": [7]})
    assert lines[0] == "edm-50k: 100 images"
    assert lines[3].split() == ["a.json", "edm-50k", "2.0000"]
    assert lines[4].split() == [
        "b.json",
        "[1]",
        "not",
        "edm-50k",
        "(first",
        "seed",
        "7,",
        "not",
        "0)",
        "2.0000",
    ]
    assert lines[6:] == ["[1] not edm-50k: a number by that name is measured as the protocol says"]


def test_one_run_beside_three_is_marked(table) -> None:
    three = {
        "first_seeds": [0, 100, 200],
        "repetitions": [{"images_sha256": name, "fd": 2.0} for name in "abc"],
    }
    lines = table(a={}, b=three)
    assert lines[6:] == [
        "[1] 1 repetition: the least of several is below one of a single kind",
        "[2] 3 repetitions: the least of several is below one of a single kind",
    ]


def test_files_saved_with_losses_and_unknown_prompts_are_marked(table) -> None:
    lines = table(a={"source": {"prompts_sha256": "q"}}, b={"source": {"kind": "files", "lossy": 12}})
    assert lines[4].startswith("b.json [1] [2]")
    assert lines[6:] == [
        "[1] its prompts are not known: others may be of easier ones",
        "[2] 12 of its images were saved with losses, which a distance counts",
    ]


def test_the_very_same_images_are_marked(table) -> None:
    lines = table(a={}, b={"repetitions": [{"images_sha256": "a"}]}, c={})
    assert [line.split()[:2] for line in lines[3:6]] == [
        ["a.json", "edm-50k"],
        ["b.json", "[1]"],
        ["c.json", "edm-50k"],
    ]
    assert lines[7:] == ["[1] has the very images of a.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"first_seeds": [0, 0, 0]},
            "b.json: its repetitions share seeds (first seeds 0, 0, 0, 100 images each); "
            "expected other seeds for each",
        ),
        (
            {"first_seeds": [0, 50]},
            "b.json: its repetitions share seeds (first seeds 0, 50, 100 images each)",
        ),
        (
            {"repetitions": [{"images_sha256": "i"}] * 3},
            "b.json: its repetitions are of the same images; expected other images for each",
        ),
        ({"reference": {"sha256": "s"}}, "b.json: reference is s; expected r as in a.json"),
    ],
)
def test_what_is_not_comparable_is_refused(table, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        table(a={}, b=changes)
    assert message in str(error.value)


def test_results_of_different_things_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = {**RESULT, "source": {"prompts_sha256": "q"}}
    changed: dict[str, dict[str, Any]] = {
        "a": {},
        "w": {"weights_sha256": "v"},
        "n": {"n": 6},
        "r": {"reference": {"sha256": "s"}},
        "x": {"format": "?"},
        "p": {"source": {"prompts_sha256": "o"}},
        "files": {"source": {}},
    }
    for name, changes in changed.items():
        repetitions = {"repetitions": [{"images_sha256": name}]}
        (tmp_path / f"{name}.json").write_text(json.dumps({**results, **repetitions, **changes}))
    messages = {
        "w": "weights_sha256 is v; expected w",
        "n": "n is 6; expected 100",
        "r": "reference is s; expected r",
        "p": "prompts is o; expected q",
    }
    for name, message in messages.items():
        with pytest.raises(
            UserError,
            match=rf"{name}.json: {message} as in .*a.json, "
            rf"numbers of different ones are not to be compared$",
        ):
            main(["compare", str(tmp_path / "a.json"), str(tmp_path / f"{name}.json")])
    main(["compare", str(tmp_path / "a.json"), str(tmp_path / "files.json")])
    assert "[1] its prompts are not known" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"x.json: is not of the format 'distill-fid/1'"):
        main(["compare", str(tmp_path / "x.json")])
