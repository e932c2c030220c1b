"""The page of `python -m eval report`: scores and images, what it marks, leaves out and refuses."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from distill.eval.page import gallery
from distill.eval.page.gallery import decimals_of_score
from distill.eval.page.models import Comparison
from distill.eval.page.pictures import SIDES
from distill.eval.preference.images import image_name
from distill.eval.prompt_sets import PromptSet
from distill.eval.prompt_sets.formats import Prompt
from tests.helpers.preference_runs import install_small_rewards, preference, save_models
from tests.helpers.result_pages import change, data_of, page_of, refusal, rows_of, small_copies
from tests.helpers.scored_results import PROMPTS, write_scored


def test_means_wins_and_differences_by_model(tmp_path: Path) -> None:
    """Differences of b to a are 2, 2 and -1: two wins of three, mean 1, standard error 1."""
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0], "hpsv2.1": [0.1, 0.2, 0.3]})
    b = write_scored(tmp_path, "b", {"pickscore": [3.0, 4.0, 2.0]})
    page = page_of(tmp_path, a, b)
    rows = rows_of(page)
    assert rows["PickScore"] == ["2.00 ± 0.58", "<b>3.00 ± 0.58</b>"]
    assert rows["wins [95 %]"] == ["-", "66.7% [20.8%, 93.9%]"]
    assert rows["difference"] == ["-", "1.0 ± 1.0"]
    assert rows["HPS v2.1"] == ["0.200 ± 0.058", "-"]
    assert rows["animals"][:2] == ["1.50 ± 0.50", "<b>3.50 ± 0.50</b>"]
    assert "Wins, ties counting half, and differences are against a." in page


def test_every_image_is_in_its_place_with_its_scores(tmp_path: Path) -> None:
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})
    b = write_scored(tmp_path, "b", {"pickscore": [1.5, 2.5, 3.5, 4.5, 5.5, 5.0]})
    page = page_of(tmp_path, a, b)
    assert [image.getpixel((0, 0)) for image in small_copies(page)] == [
        (40 * row, green, 90) for row in range(6) for green in (ord("a"), ord("b"))
    ]
    data = data_of(page)
    assert [data["prompts"][number] for number in data["numbers"]] == PROMPTS.texts * 2
    assert data["values"] == {"pickscore": [[1, 1.5], [2, 2.5], [3, 3.5], [4, 4.5], [5, 5.5], [6, 5]]}
    assert data["large"] == [[None, None]] * 6  # the images are shown as they are
    assert re.findall("<dd>(.*?)</dd>", page)[-2:] == ["<b>6.000</b>", "5.000"]
    assert re.findall(r'<p class="prompt">(.*?) <span>(.*?)</span>', page)[4] == ("a cat", "animals, seed 4")


def test_the_decimals_of_a_score_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They depend on every value of every model."""
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 30.0], "hpsv2.1": [0.1, 0.2, 0.3]})
    found = []

    def find_and_note(comparison: Comparison, name: str) -> int:
        found.append(name)
        return decimals_of_score(comparison, name)

    monkeypatch.setattr(gallery, "decimals_of_score", find_and_note)
    page = page_of(tmp_path, a)
    assert found == ["pickscore", "hpsv2.1"]
    assert re.findall("<dd>(.*?)</dd>", page)[:2] == ["1.00", "0.1000"]


def test_scores_of_the_same_images_from_several_files_share_a_column(tmp_path: Path) -> None:
    """Another command whose results have the shape of `preference` adds a column of scores."""
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0]})
    b = write_scored(tmp_path, "b", {"pickscore": [2.0, 3.0, 4.0]})
    other = change(
        write_scored(tmp_path / "more", "a", {"objects": [0.0, 1.0, 1.0]}),
        lambda content: content.update(format="distill-composition/1"),
    )
    data = data_of(page_of(tmp_path, a, b, other))
    assert data["models"] == ["a", "b"]
    assert data["values"]["objects"] == [[0, None], [1, None], [1, None]]


def test_lists_of_prompts_have_sections_of_their_own(tmp_path: Path) -> None:
    """The results of a run under several benchmarks: each has its own prompts."""
    write_scored(tmp_path / "run", "a", {"pickscore": [1.0, 2.0, 3.0]})
    other = PromptSet.whole("other", "o", [Prompt("a boat"), Prompt("an apple")])
    change(write_scored(tmp_path / "run", "b", {"objects": [0.0, 1.0]}, other), as_benchmark)
    page = page_of(tmp_path, tmp_path / "run")
    assert re.findall("<h2>(.*?)</h2>", page) == [
        f"{part} of {name}" for part in ("Scores", "Images") for name in ("mine", "other")
    ]
    assert len(small_copies(page)) == 5
    assert "mine, 3 prompts, an image each, seeds 0 to 2; other, 2 prompts, an image each" in page
    a, b = tmp_path / "run" / "a.json", change(tmp_path / "run" / "b.json", rename_prompts)
    assert f"<h2>Images of mine ({b})</h2>" in page_of(tmp_path, a, b)


def rename_prompts(content: dict[str, Any]) -> None:
    content["prompts"]["set"] = "mine"


def as_benchmark(content: dict[str, Any]) -> None:
    """Turn results into those of a benchmark, which judges each image and says why."""
    values = content.pop("scores")["objects"]["values"]
    files = content["subject"]["files"]
    content.pop("independent")
    content |= {
        "format": "distill-composition/1",
        "benchmark": "geneval",
        "title": "GenEval",
        "asked_sha256": "asked",
        "examiner": {"detector": "d"},
        "measures": {
            "overall": {"title": "overall", "value": 0.625, "standard_error": 0.125, "scale": 100.0}
        },
        "images": [
            {"file": file, "score": value, "reason": "" if value else "no <zebra>"}
            for file, value in zip(files, values, strict=True)
        ],
    }


def test_a_benchmark_that_judges_each_image_is_a_score(tmp_path: Path) -> None:
    """Its mean is that of its images; its own measures and its reasons are shown with it."""
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0]})
    b = write_scored(tmp_path, "b", {"pickscore": [2.0, 3.0, 4.0]})
    judged = change(write_scored(tmp_path / "more", "a", {"objects": [0.0, 1.0, 1.0]}), as_benchmark)
    page = page_of(tmp_path, a, b, judged)
    assert data_of(page)["values"]["geneval"] == [[0, None], [1, None], [1, None]]
    rows = rows_of(page)
    assert rows["GenEval"] == ["0.67 ± 0.33", "-"]
    assert rows["overall"] == ["62 ± 12", "-"]
    assert re.findall('<p class="reason">(.*?)</p>', page) == ["no &lt;zebra&gt;"]
    assert len(small_copies(page)) == 6
    other = change(write_scored(tmp_path / "other", "b", {"objects": [0.0, 1.0, 1.0]}), as_benchmark)
    change(other, lambda content: content["examiner"].update(detector="e"))
    assert "of geneval is" in refusal(tmp_path / "other", judged, other)
    change(other, lambda content: content["images"].pop())
    assert "its prompts, seeds and images are not equally many" in refusal(tmp_path / "other", other)


@pytest.mark.slow
def test_a_second_subject_is_a_model_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page of a real result: its images are the store's, its wins the other way round."""
    install_small_rewards(monkeypatch)
    models = save_models(tmp_path)
    results = preference(
        tmp_path, f"--run {models}/run --against teacher --against-steps 2 --prompts {models}/prompts.tsv"
    )
    capsys.readouterr()
    page = page_of(tmp_path, f"mine={tmp_path}/result.json")
    data = data_of(page)
    second = results["scores"]["brightness"]["against"]["values"]
    assert data["models"] == ["mine", results["against"]["of"]]
    values = zip(results["scores"]["brightness"]["values"], second, strict=True)
    assert data["values"]["brightness"] == [list(pair) for pair in values]
    for side, place in ((results["subject"], 0), (results["against"], 1)):
        stored = [Image.open(Path(side["folder"]) / name) for name in side["files"]]
        shown = small_copies(page)[place::2]
        assert [image.tobytes() for image in shown] == [image.tobytes() for image in stored]
    assert "others than those" not in page


def test_larger_images_have_small_copies_and_open_as_they_are(tmp_path: Path) -> None:
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0]}, size=(300, 600))
    page = page_of(tmp_path, a)
    assert [image.size for image in small_copies(page)] == [(256, 128)] * 3
    large = data_of(page)["large"]
    content = (tmp_path / "store-a" / "1.png").read_bytes()
    assert large[1] == [f"data:image/png;base64,{base64.b64encode(content).decode()}"]
    assert 'width="600" height="300"' in page


def noise(folder: Path, name: str, rows: int, side: int) -> Path:
    """Write results with images of noise, which no format makes small."""
    prompts = PromptSet.whole("mine", "mine.txt", [Prompt(f"prompt {row}") for row in range(rows)])
    path = write_scored(folder, name, {"pickscore": [1.0] * rows}, prompts, size=(side, side))
    for row in range(rows):
        seeded = torch.Generator().manual_seed(row)
        pixels = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=seeded)
        Image.fromarray(pixels.numpy()).save(folder / f"store-{name}" / f"{row}.png")
    return path


@pytest.mark.parametrize(
    ("rows", "side", "note", "small", "large"),
    [
        (2, 512, "compressed with loss, to at most 1024 pixels", SIDES[0], 2),
        (7, 512, f"Only copies of at most {SIDES[0]} pixels", SIDES[0], 0),
        (70, 129, f"Only copies of at most {SIDES[2]} pixels", SIDES[2], 0),
    ],
)
def test_the_page_keeps_its_limit(
    tmp_path: Path, rows: int, side: int, note: str, small: int, large: int
) -> None:
    page = page_of(tmp_path, noise(tmp_path, "a", rows, side), "--max-mb", 1)
    assert len(page) < 1.1e6
    assert note in page
    assert [image.size for image in small_copies(page)] == [(small, small)] * rows
    assert sum(uri is not None for (uri,) in data_of(page)["large"]) == large


def test_rows_beyond_the_limit_have_scores_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(tmp_path, noise(tmp_path, "a", 40, 128), "--max-mb", 1)
    shown = len(small_copies(page))
    assert 0 < shown < 40
    note = (
        f"The images of the first {shown} of 40 rows are shown: those of all would exceed the limit of 1 MB "
        "(--max-mb)."
    )
    assert note in page
    assert note in capsys.readouterr().err
    assert page.count("no image") == 40 - shown


def test_images_that_changed_are_named(tmp_path: Path) -> None:
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0]})
    Image.new("RGB", (8, 8)).save(tmp_path / "store-a" / "1.png")
    assert "The images of a are others than those that were scored." in page_of(tmp_path, a)


def test_a_store_that_is_gone_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0]})
    b = write_scored(tmp_path, "b", {"pickscore": [1.0, 2.0, 3.0]})
    shutil.rmtree(tmp_path / "store-a")
    (tmp_path / "store-b" / "2.png").unlink()
    page_of(tmp_path, a, b)
    expected = "expected its --store or its images"
    assert capsys.readouterr().err.splitlines() == [
        f"note: a is shown without images: {a} names {tmp_path}/store-a, which is not there; {expected}",
        f"note: b is shown without images: {tmp_path}/store-b holds no 2.png any more",
    ]


def test_results_of_an_earlier_version_find_their_images_by_prompt_and_seed(tmp_path: Path) -> None:
    path = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0]})
    for row, prompt in enumerate(PROMPTS.texts):
        (tmp_path / "store-a" / f"{row}.png").rename(tmp_path / "store-a" / image_name(prompt, row))
    change(path, lambda content: content["subject"].pop("files"))
    page = page_of(tmp_path, path)
    assert [image.getpixel((0, 0))[0] for image in small_copies(page)] == [0, 40, 80]
    change(path, lambda content: content["subject"].update(paired_by="order"))
    assert "does not name its images, an earlier version wrote it; measure it again" in page_of(
        tmp_path, path
    )


def test_what_compare_marks_is_marked(tmp_path: Path) -> None:
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0]})
    b = write_scored(tmp_path, "b", {"pickscore": [1.0, 2.0, 3.0]}, notes=["a prompt is there twice"])
    change(b, lambda content: content["subject"].update(paired_by="order"))
    notes = re.findall("<li><b>(.*?)</b>: (.*?)</li>", page_of(tmp_path, a, b))
    order = "its images are paired with prompts by their order, no index names these"
    assert notes == [("b", "a prompt is there twice"), ("b", order)]


def test_what_compare_refuses_is_refused(tmp_path: Path) -> None:
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0]})
    b = write_scored(tmp_path, "b", {"pickscore": [1.0, 2.0, 3.0]}, seeds=[5, 6, 7])
    rest = "scores of different ones are not to be compared"
    assert refusal(tmp_path, a, b) == f"{b}: seeds is [5, 6, 7]; expected [0, 1, 2] as in {a}, {rest}"
    c = write_scored(tmp_path, "c", {"pickscore": [1.0, 2.0, 3.0]})
    change(c, lambda content: content["scores"]["pickscore"].update(weights_sha256="other"))
    assert refusal(tmp_path, a, c) == (
        f"{c}: weights_sha256 of pickscore is other; expected weights of pickscore as in {a}, {rest}"
    )


def test_scores_that_only_two_later_models_share_are_checked_too(tmp_path: Path) -> None:
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0]})
    b = write_scored(tmp_path, "b", {"pickscore": [1.0, 2.0, 3.0], "hpsv2.1": [1.0, 2.0, 3.0]})
    c = write_scored(tmp_path, "c", {"pickscore": [1.0, 2.0, 3.0], "hpsv2.1": [1.0, 2.0, 3.0]})
    change(c, lambda content: content["scores"]["hpsv2.1"].update(settings={"version": 2}))
    assert refusal(tmp_path, a, b, c).startswith(
        f"{c}: settings of hpsv2.1 is {{'version': 2}}; expected {{}}"
    )


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    prompts = PromptSet.whole("mine", "m", [Prompt(f"{hostile} {row}", f"{hostile}{row}") for row in (0, 1)])
    a = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0]}, prompts)
    change(a, lambda content: content["subject"].update(of=hostile))
    page = page_of(tmp_path, a)
    assert page.count("<script") == 2  # the data and the page's own script
    assert "<img src=x" not in page
    assert data_of(page)["prompts"][0] == f"{hostile} 0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "{}",
            "holds no results that a page can show; expected what python -m eval preference, fid or --run",
        ),
        ("{", "is not JSON"),
        ('{"protocol": "x", "n": "3", "reference": {}, "hashes": {}}', "n is not as python -m eval --run"),
        (
            '{"format": "other/1", "scores": {}, "prompts": {}, "subject": {}, "seeds": []}',
            "is of the format 'other/1'; expected what python -m eval preference, fid or --run writes",
        ),
        (
            '{"format": "distill-x/1", "scores": {}, "prompts": {}, "subject": {}, "seeds": []}',
            "has no prompts.set; expected what python -m eval x writes",
        ),
        (
            '{"protocol": "fd-pixel", "n": 5, "reference": {}, "hashes": {}}',
            "reference.train_images is not as python -m eval --run writes it",
        ),
        (
            '{"protocol": "fd-pixel", "n": 5, "reference": {"train_images": 9}, "hashes": {}}',
            "warnings is not as python -m eval --run writes it",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    assert message in refusal(tmp_path, path)


def test_rows_without_a_file_are_refused(tmp_path: Path) -> None:
    path = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0]})
    change(path, lambda content: content["subject"]["files"].pop())
    assert refusal(tmp_path, path) == (
        f"{path}: its prompts, seeds and files are not equally many; "
        "expected what python -m eval preference writes"
    )


def test_bad_arguments(tmp_path: Path) -> None:
    path = write_scored(tmp_path, "a", {"pickscore": [1.0, 2.0, 3.0]})
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path, path, f"b={path}") == (
        f"{path}: is named twice; expected results of different measurements"
    )
    assert refusal(tmp_path, f"={path}") == f"'={path}': expected NAME=PATH, or the path of results"
    assert refusal(tmp_path, path, "--max-mb", 0) == "--max-mb 0: expected at least 1"
    assert refusal(tmp_path, tmp_path / "empty").startswith(
        f"{tmp_path}/empty: holds no results, nor does a folder in it; expected"
    )
