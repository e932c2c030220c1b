"""JSON of exports, checkpoints, runs and results as another version or a stray hand may leave it.

It is opened correctly or refused in one line.
"""

from __future__ import annotations

import copy
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.config.errors import UserError
from distill.data.archives import open_files
from distill.data.sources.array import read_array
from distill.eval.__main__ import main as evaluate
from distill.eval.fid.reference import holds_statistics
from distill.eval.fid.results import read_results
from distill.eval.fid.sweep import continue_sweep
from distill.eval.prompt_sets import read_prompt_set
from distill.networks.diffusers.opening.folders import left_out_parts
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import load_denoiser, load_generator, meta_denoiser, save_model
from distill.publishing.model_card import write_card
from distill.publishing.report.page import write_report
from distill.rewards.pretrained.classifier import is_own, load_classifier
from distill.training.checkpoints import load_checkpoint, save_checkpoint
from distill.training.checkpoints.damage import require_whole
from tests.helpers.alone import ALONE
from tests.helpers.fid_result import RESULT
from tests.helpers.finished_run import finished_run

INSTEAD: tuple[Any, ...] = (None, [], {}, [None], {"x": []}, "x", "", -1, 0, 2.5, True, [[-3]], float("nan"))
ABSENT = object()


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every part of nested data, the whole first."""
    yield above
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(inner, (*above, key))


def changed(value: Any, place: tuple[Any, ...], instead: Any) -> Any:
    """Copy the data with another value at a path, or with nothing there."""
    if not place:
        return instead
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if instead is ABSENT:
        del inner[place[-1]]
    else:
        inner[place[-1]] = instead
    return value


def read_all(path: Path, read: Callable[[], object]) -> int:
    """Read a file with every part of it changed in every way, and count how often it was refused.

    Any error but a UserError of one line is raised.
    """
    content = json.loads(path.read_text())
    lines: list[str] = []
    for place in places(content):
        for instead in (*INSTEAD, ABSENT) if place else INSTEAD:
            path.write_text(json.dumps(changed(content, place, instead)))
            try:
                read()
            except UserError as error:
                lines.append(str(error))
            except Exception as error:
                raise AssertionError(f"{path.name}: {place} is {instead!r}") from error
    path.write_text(json.dumps(content))
    read()
    assert not any("\n" in line for line in lines)
    return len(lines)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_descriptions_of_networks(tmp_path: Path) -> None:
    teacher, classifier = (
        Path(shutil.copytree(f"assets/digits-{name}", tmp_path / name)) for name in ("teacher", "classifier")
    )
    student = tmp_path / "student"
    student.mkdir()
    save_model(FewStepGenerator(load_denoiser(teacher), 2.5, 0.5), student)
    assert read_all(teacher / "config.json", lambda: load_denoiser(teacher)) > 100
    assert read_all(teacher / "config.json", lambda: meta_denoiser(teacher)) > 100
    assert read_all(student / "config.json", lambda: load_generator(student)) > 100
    assert (
        read_all(classifier / "config.json", lambda: is_own(classifier) and load_classifier(classifier)) > 50
    )


def test_the_index_of_a_pipeline(tmp_path: Path) -> None:
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_3": [None, None],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert "text_encoder_3" in left_out_parts(tmp_path)
    read_all(tmp_path / "model_index.json", lambda: left_out_parts(tmp_path))


def test_a_checkpoint_without_its_progress_is_damaged(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 2)
    path = save_checkpoint(
        tmp_path, 3, {"network": network}, {}, {"seconds": 1.0}, lambda folder: None, 1, ALONE
    )

    def read() -> dict[str, Any]:
        require_whole(path, ALONE)
        return load_checkpoint(path, {"network": network}, {}, ALONE)

    assert read() == {"step": 3, "seconds": 1.0}
    assert read_all(path / "manifest.json", read) > 10
    (path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"progress.json: is damaged; remove .*step-00000003 to continue"):
        read()


@pytest.mark.slow
def test_what_a_report_tells_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are not drawn, but their data are read."""
    monkeypatch.setattr("distill.publishing.report.charts.card", lambda *_: "")
    run = finished_run(tmp_path)
    spread = {"mean": 0.5, "std": 0.1, "min": 0.4}
    results = {"summary": {"fd": spread}, "repetitions": [{}, {}]}
    sweep = {
        "metric": "FD",
        "protocol": "fd-pixel",
        "n": 80,
        "checkpoints": {"3": {"fd": spread}},
        "best": {"step": 3, "results": results},
    }
    score = {
        "title": "PickScore",
        "sheet": "x.png",
        "convention": "",
        "mean": 1.0,
        "standard_error": 0.1,
        "also": {},
    }
    category = {"count": 1, "mean": 1.0, "standard_error": None}
    preference = {
        "prompts": {"departures": [], "count": 2, "set": "x"},
        "per_prompt": 1,
        "independent": 2,
        "notes": [],
        "scores": {"pickscore": {**score, "by_category": {"a": category}}},
    }
    for name, content in {
        "sweep.json": sweep,
        "preference.json": preference,
        "calibration.json": {
            "predicted": [0.0, 1.0],
            "observed": [0.1, 0.9],
            "real": [5, 6],
            "student": [6, 5],
        },
        "eval.json": json.loads((run / "eval.json").read_text())
        | {"warnings": ["few images"], "skipped": {"recall": "no features"}},
    }.items():
        (run / name).write_text(json.dumps(content))

    def written() -> str:
        return write_report(run).read_text()

    assert "Not as this version writes it" not in written()
    for name in ("sweep.json", "preference.json", "calibration.json", "eval.json", "meta.json"):
        read_all(run / name, written)
    (run / "sweep.json").write_text(json.dumps({**sweep, "checkpoints": {"3": []}}))
    assert "Not as this version writes it" in written()


def test_a_card_names_the_file_that_it_cannot_tell_of(tmp_path: Path) -> None:
    run, export = finished_run(tmp_path), tmp_path / "export"
    export.mkdir()
    (export / "config.json").write_text(
        json.dumps(
            {"format": "distill/1", "kind": "generator", "network": {"class": "UNet", "label_count": 10}}
        )
    )
    named = {
        "source": {"of": "the student"},
        "protocol": "clean",
        "departures": [],
        "metric": "FID",
        "summary": {"fd": {"mean": 2.0}},
        "n": 9,
    }
    (run / "fid.json").write_text(json.dumps(named))

    def read() -> None:
        write_card(export, run)

    for path in (run / "fid.json", run / "eval.json", run / "meta.json", export / "config.json"):
        assert read_all(path, read) > 5
    (run / "fid.json").write_text(json.dumps({**named, "summary": {}}))
    with pytest.raises(UserError, match=r"fid.json: has no 'fd'$"):
        read()


def test_results_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        path.write_text(json.dumps(RESULT))
    for path in paths:
        assert read_all(path, lambda: evaluate(["compare", *map(str, paths)])) > 100
    paths[0].write_text(json.dumps({**RESULT, "reference": {}}))
    with pytest.raises(
        UserError, match=r"a.json: has no reference.sha256; expected what python -m eval fid writes$"
    ):
        read_results(paths[0])
    capsys.readouterr()


def test_an_earlier_sweep(tmp_path: Path) -> None:
    expected = {"format": "distill-sweep/2", "n": 80, "protocol": "fd-pixel"}
    measured = {"fd": {"mean": 1.0, "std": 0.0, "min": 1.0}}
    (tmp_path / "sweep.json").write_text(
        json.dumps({**expected, "checkpoints": {"3": measured}, "best": {"step": 3, "results": {}}})
    )
    assert continue_sweep(tmp_path / "sweep.json", expected)["checkpoints"] == {"3": measured}
    assert read_all(tmp_path / "sweep.json", lambda: continue_sweep(tmp_path / "sweep.json", expected)) > 20


def test_captions_of_coco(tmp_path: Path) -> None:
    path = tmp_path / "captions_val2014.json"
    captions = [
        {"image_id": 2, "id": 1, "caption": "a dog"},
        {"image_id": 1, "id": 3, "caption": "a cat"},
        {"image_id": 1, "id": 2, "caption": "a hat"},
    ]
    path.write_text(json.dumps({"annotations": captions}))
    assert read_prompt_set(str(path)).texts == ["a hat", "a dog"]
    read_all(path, lambda: read_prompt_set(str(path)))


HEADERS = [
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 4, 4)",
    b"{'descr': (",
    b"\x00\xff\xfe",
    b"[" * 200,
    b"{'descr': '|u1'}",
    b"",
]


@pytest.mark.parametrize("header", HEADERS)
def test_headers_of_arrays(tmp_path: Path, header: bytes) -> None:
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", content)
        archive.writestr("mu.npy", content)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(UserError, match=rf"{name}: cannot be read as a NumPy file"):
            read_array(tmp_path / name)
    assert not holds_statistics(tmp_path / "x.npz")


def test_a_nameless_member_of_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"nothing")
        archive.writestr("a.npy", np.zeros(2).tobytes())
    with open_files(tmp_path / "x.zip") as files:
        assert set(files.stamps()) == {"", "a.npy"}
