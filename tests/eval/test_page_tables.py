"""The page of `python -m eval report`: distances, diversity and runs, which have no images of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.helpers.fid_result import RESULT
from tests.helpers.finished_run import EVALUATION, write_png
from tests.helpers.result_pages import page_of, refusal, rows_of


def write_fid(path: Path, **changes: Any) -> Path:
    """Write a result of `fid`, with images of the file's name."""
    content = {**RESULT, "repetitions": [{"images_sha256": path.stem, "fd": 2.0}], **changes}
    path.write_text(json.dumps(content))
    return path


def test_distances_by_protocol(tmp_path: Path) -> None:
    a = write_fid(tmp_path / "a.json")
    summary = {"fd": {"mean": 1.5, "std": 0.0, "min": 1.5}, "kid": {"mean": 0.004, "std": 0.0, "min": 0.004}}
    b = write_fid(tmp_path / "b.json", summary=summary, departures=["100 images, not 50000"])
    c = write_fid(tmp_path / "c.json", protocol="fd-effnet", metric="FD")
    page = page_of(tmp_path, f"mine={a}", b, c)
    rows = rows_of(page)
    assert rows["FID"] == ["2.0000", "<b>1.5000</b>"]
    assert rows["KID x 1000"] == ["-", "4.0000"]
    assert rows["FD"] == ["2.0000"]
    assert '<th scope="col">mine</th>' in page
    assert f'<th scope="col">{b} [1]</th>' in page
    assert "[1] not edm-50k: a number by that name is measured as the protocol says" in page
    assert "not edm-50k (100 images, not 50000)" in page
    assert "<script" not in page  # nothing to sort


def fdr_of(value: float, held_out: str) -> dict[str, Any]:
    """Parts of a result whose FDr, CMMD and distance have one value."""
    spread = {"mean": value, "std": 0.0, "min": value}
    numbers = {"images_sha256": f"{value}", "fd": value, "fdr": value, "fdr_real": 1.0, "fdr_count": 9}
    return {
        "summary": dict.fromkeys(("fd", "fdr", "cmmd"), spread),
        "repetitions": [numbers],
        "held_out": {"of": "real", "count": 9, "sha256": held_out, "subset_seed": 0},
    }


def test_the_lowest_of_every_distance_is_in_bold(tmp_path: Path) -> None:
    a = write_fid(tmp_path / "a.json", **fdr_of(1.5, "h"))
    b = write_fid(tmp_path / "b.json", **fdr_of(2.5, "h"))
    rows = rows_of(page_of(tmp_path, a, b))
    assert rows["CMMD"] == ["<b>1.5000</b>", "2.5000"]
    assert rows["FDr, relative to real images"] == ["<b>1.500</b>", "2.500"]


def test_fdr_in_several_units_is_left_out_as_compare_does(tmp_path: Path) -> None:
    a = write_fid(tmp_path / "a.json", **fdr_of(1.5, "h"))
    b = write_fid(tmp_path / "b.json", **fdr_of(2.5, "others"))
    page = page_of(tmp_path, a, b)
    assert "FDr, relative to real images" not in rows_of(page)
    assert "FDr is left out: rows have other held-out images as its unit" in page


def test_distances_that_compare_refuses_are_refused(tmp_path: Path) -> None:
    a, b = write_fid(tmp_path / "a.json"), write_fid(tmp_path / "b.json", n=50)
    rest = "numbers of different ones are not to be compared"
    assert refusal(tmp_path, a, b) == f"{b}: n is 50; expected 100 as in {a}, {rest}"


def write_diversity(path: Path, vendi: float, **changes: Any) -> Path:
    statistics = {
        "cosine_distance": {"mean": 0.25, "standard_error": 0.01, "conditions": [0], "values": [0.25]}
    }
    statistics["vendi"] = {"mean": vendi, "standard_error": None, "conditions": [0], "values": [vendi]}
    content = {
        "format": "distill-diversity/1",
        "protocol": "fd-effnet",
        "source": {"of": path.stem},
        "n": 8,
        "kind": "prompt",
        "conditions": 2,
        "images": [4, 4],
        "statistics": statistics,
        "perceptual": {},
        "preprocessing_sha256": "p",
        "weights_sha256": "w",
        "reference_sha256": None,
    }
    path.write_text(json.dumps(content | changes))
    return path


def test_diversity_by_model(tmp_path: Path) -> None:
    a, b = write_diversity(tmp_path / "a.json", 2.5), write_diversity(tmp_path / "b.json", 3.5)
    page = page_of(tmp_path, a, b)
    assert rows_of(page) == {"Cosine distance": ["0.250 ± 0.010"] * 2, "Vendi": ["2.5", "<b>3.5</b>"]}
    assert "4 images of each of 2 prompts, features of fd-effnet." in page
    (tmp_path / "page.html").unlink()
    write_diversity(b, 3.5, images=[2, 4])
    rest = "numbers of different ones are not to be compared"
    assert refusal(tmp_path, a, b) == f"{b}: images is [2, 4]; expected [4, 4] as in {a}, {rest}"


def write_run(folder: Path, name: str, distance: float, real: str = "r") -> Path:
    run = folder / name
    run.mkdir(parents=True)
    content = {
        **EVALUATION,
        "student": {**EVALUATION["student"], "fd_pixel": distance},
        "hashes": {"real_train": real, "student": name, "teacher": "teacher"},
        "warnings": [f"{name} is small"],
        "skipped": {},
    }
    (run / "eval.json").write_text(json.dumps(content))
    (run / "meta.json").write_text("{}")
    write_png(run / "eval" / "student.png")
    return run


def test_runs_side_by_side(tmp_path: Path) -> None:
    """The folder of two runs, whose teacher is one: it has one column."""
    write_run(tmp_path / "runs", "one", 0.5)
    write_run(tmp_path / "runs", "two", 0.25)
    page = page_of(tmp_path, tmp_path / "runs")
    assert re.findall('<th scope="col">(.*?)</th>', page) == ["fd-pixel", "one", "one: teacher", "two"]
    assert rows_of(page)["Fréchet distance (fd-pixel)"] == ["0.500", "0.618", "<b>0.250</b>"]
    assert rows_of(page)["Network evaluations per image"] == ["<b>1</b>", "35", "<b>1</b>"]
    assert re.findall("<figcaption><b>(.*?)</b>", page) == ["one", "two"]
    assert "<li>two: two is small</li>" in page


def test_runs_of_other_real_images_are_refused(tmp_path: Path) -> None:
    one, two = write_run(tmp_path, "one", 0.5), write_run(tmp_path, "two", 0.5, real="other")
    assert refusal(tmp_path, one, two) == (
        f"{two}/eval.json: hashes.real_train is other; expected r as in {one}/eval.json, "
        "numbers of different ones are not to be compared"
    )
