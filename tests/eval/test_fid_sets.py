"""`python -m eval fid` under several protocols, from its arguments to `compare`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.config.errors import UserError
from distill.data.images import to_bytes
from distill.data.sources.digits import Settings as Digits
from distill.eval import protocols
from distill.eval.__main__ import main
from distill.eval.features.pixels import pixels
from distill.eval.fid.measure import Effort, measure
from distill.eval.fid.prompts import categorised, prompt_departures
from distill.eval.fid.reference import Reference
from distill.eval.fid.sets.results import join_results
from distill.eval.fid.sets.table import render_set
from distill.eval.fid.subjects import trained_note
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.images import streams
from distill.eval.images.extraction import Features
from distill.eval.images.streams import prompts_sha256
from distill.eval.protocols import FOLDER, read_protocol
from distill.rewards import of_name
from tests.helpers.drawn_images import Drawn
from tests.helpers.fid_command import fid
from tests.helpers.random_teacher import save_random_teacher

THUMB = """
metric: FD-thumb
features: pixels
resize: torch_bicubic
size: 4
mixed: false
count: 60
first_seeds: [0, 100]
cmmd: true
explanation: Thumbnails.
published: None.
"""
FLAGS = "--steps 1 --reference digits --bootstrap 0 --device cpu"


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for a random teacher, beside the protocol `fd-thumb`, which wants fewer images twice."""
    shutil.copytree(FOLDER, tmp_path / "protocols", ignore=shutil.ignore_patterns("*.py"))
    (tmp_path / "protocols" / "fd-thumb.yaml").write_text(THUMB)
    content = (FOLDER / "fd-pixel.yaml").read_text().replace("count: 10000", "count: 100")
    (tmp_path / "protocols" / "fd-pixel.yaml").write_text(content)
    monkeypatch.setattr(protocols, "FOLDER", tmp_path / "protocols")
    save_random_teacher(tmp_path / "teacher")
    return ["--teacher", str(tmp_path / "teacher"), *FLAGS.split()]


def test_several_protocols_are_measured_from_one_pass(
    teacher: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: Counter[int] = Counter()
    sample = streams.sample_teacher

    def count(network: Any, seeds: Any, *rest: Any) -> Any:
        made.update(seeds)
        return sample(network, seeds, *rest)

    monkeypatch.setattr(streams, "sample_teacher", count)
    found = fid(tmp_path, *teacher, "--protocol", "fd-thumb,fd-pixel")
    assert made == Counter(range(160))  # fd-thumb's first 60 images are among the 100 of fd-pixel
    printed = capsys.readouterr().out
    for name in ("fd-thumb", "fd-pixel"):
        (tmp_path / name).mkdir()
        alone = fid(tmp_path / name, *teacher, "--protocol", name)
        assert found["results"][name]["repetitions"] == alone["repetitions"]
        assert found["results"][name]["held_out"] == alone["held_out"]
        assert found["results"][name]["departures"] == []
        row = next(line for line in printed.splitlines() if line.startswith(name))
        assert f"{alone['summary']['fd']['mean']:.4f}" in row
        assert f"{alone['summary']['fdr']['mean']:.3f}" in row
    assert found["fdr_mean"]["value"] == pytest.approx(
        sum(found["results"][name]["summary"]["fdr"]["mean"] for name in ("fd-thumb", "fd-pixel")) / 2
    )
    assert "FDr, mean of 2 features:" in printed
    assert "cmmd" in found["results"]["fd-thumb"]["summary"]
    assert "cmmd" not in found["results"]["fd-pixel"]["summary"]
    assert "fd-thumb: held-out: digits held-out images, 60 of 360 images, drawn with seed 0, " in printed


def test_fdr_of_held_out_digits_is_that_of_the_formula(
    teacher: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """100 generated images are compared with 100 of the 360 held-out ones, drawn with the seed 0."""
    found = fid(tmp_path, *teacher, "--protocol", "fd-pixel")["repetitions"][0]
    train, held_out = (pixels(to_bytes(Digits().load(split).images)) for split in ("train", "held_out"))
    chosen = held_out[torch.from_numpy(np.random.default_rng(0).permutation(360))[:100]]
    unit = frechet_distance(Statistics.of(chosen), Statistics.of(train))
    assert found["fdr_real"] == pytest.approx(unit, rel=1e-9)
    assert found["fdr"] == pytest.approx(found["fd"] / unit, rel=1e-9)
    printed = capsys.readouterr().out
    assert "held-out: digits held-out images, 100 of 360 images, drawn with seed 0, sha256 " in printed
    assert f"FDr: in units of {unit:.4g}, the distance of the held-out images\n" in printed
    few = fid(tmp_path, *teacher, "--protocol", "fd-pixel", "--n", "64")
    assert "fdr" not in few["summary"]
    assert few["skipped"]["fdr"].startswith(
        "360 held-out and 64 generated images; expected more than the 64 "
    )
    np.save(tmp_path / "real.npy", to_bytes(Digits().load("train").images).numpy())
    arguments = [*teacher[:2], *FLAGS.replace("--reference digits", "--protocol fd-pixel").split()]
    bare = fid(tmp_path, *arguments, "--reference", str(tmp_path / "real.npy"))
    assert bare["skipped"]["fdr"] == "no held-out real images are known; give --held-out"
    np.save(tmp_path / "held_out.npy", to_bytes(Digits().load("held_out").images).numpy())
    files = ["--reference", str(tmp_path / "real.npy"), "--held-out", str(tmp_path / "held_out.npy")]
    assert fid(tmp_path, *arguments, *files)["repetitions"][0]["fdr"] == pytest.approx(found["fdr"], rel=1e-9)


def test_compare_reads_sets_and_single_results(
    teacher: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = fid(tmp_path, *teacher, "--protocol", "fd-thumb,fd-pixel")
    results = both["results"]
    other = json.loads(json.dumps(both))
    for one in other["results"].values():
        one["trained"] = "trained on the features pixels: distances by them do not judge this run"
        for repetition in one["repetitions"]:
            repetition["images_sha256"] = f"other {repetition['images_sha256']}"
    (tmp_path / "other.json").write_text(json.dumps(other))
    (tmp_path / "single.json").write_text(json.dumps(results["fd-pixel"]))
    capsys.readouterr()
    main(["compare", str(tmp_path / "fid.json"), str(tmp_path / "other.json")])
    table = capsys.readouterr().out
    assert table.count(f"{results['fd-thumb']['summary']['cmmd']['mean']:.4f}") == 2
    assert "fd-thumb: 60 images" in table
    assert "fd-pixel: 100 images" in table
    assert table.count("[1] trained on the features pixels: distances by them do not judge this run") == 2
    other["results"]["fd-pixel"]["held_out"]["sha256"] = "another"
    (tmp_path / "single.json").write_text(json.dumps(other["results"]["fd-pixel"]))
    main(["compare", str(tmp_path / "fid.json"), str(tmp_path / "single.json")])
    table = capsys.readouterr().out
    assert f"{tmp_path}/fid.json: fd-thumb is not in all files" in table
    assert "FDr is left out: rows have other held-out images as its unit" in table
    assert f"{results['fd-pixel']['summary']['fdr']['mean']:.3f}" not in table
    other["results"]["fd-pixel"]["weights_sha256"] = "another"
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"other.json: weights_sha256 is another; expected"):
        main(["compare", str(tmp_path / "fid.json"), str(tmp_path / "other.json")])
    (tmp_path / "other.json").write_text(json.dumps({**both, "results": {"fd-pixel": {"n": 1}}}))
    with pytest.raises(UserError, match=r"other.json: has no results.fd-pixel.protocol; expected what"):
        main(["compare", str(tmp_path / "fid.json"), str(tmp_path / "other.json")])


def result(protocol: str, fdr: float, **more: Any) -> Any:
    spread = {"mean": fdr, "std": 0.0, "min": fdr}
    return {
        "protocol": protocol,
        "metric": "FD",
        "n": 9,
        "source": {"of": "the student"},
        "summary": {"fd": spread, "fdr": spread},
        "repetitions": [{"fd": fdr, "fdr": fdr, "fdr_real": 1.0, "fdr_count": 9}],
        "reference": {"of": "digits", "kind": "images", "sha256": "r"},
        "departures": [],
        "skipped": {},
        "warnings": [],
        "first_seeds": [0],
        "weights_sha256": "w",
        "commit": None,
        **more,
    }


def test_features_that_a_run_trained_on_do_not_count_for_its_claim() -> None:
    note = "trained on the features clip: distances, precision and recall by them do not judge this run"
    both = join_results([result("a", 2.0), result("b", 4.0), result("c", 0.5, trained=note)])
    assert both["fdr_mean"] == {"value": 3.0, "protocols": ["a", "b"]}
    lines = render_set(both).splitlines()
    assert next(line for line in lines if line.startswith("c ")).endswith("trained on")
    assert f"c: {note}" in lines
    assert "fdr_mean" not in join_results([result("a", 2.0), result("c", 0.5, trained=note)])


def test_the_note_is_that_of_the_run_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / "step-1").mkdir(parents=True)
    (tmp_path / "run" / "meta.json").write_text('{"trained_features": ["clip"]}')
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-1"):
        assert (trained_note(path, "clip") or "").startswith("trained on the features clip: ")
        assert trained_note(path, "inception") is None
    assert trained_note(None, "clip") is None


def test_rewards_on_clip_train_its_features() -> None:
    from distill.objectives.terms.reward import Settings

    settings = Settings.model_validate({"weight": 1, "rewards": [{"name": "pickscore"}]})
    assert settings.trained_features == ("clip",)
    others = Settings.model_validate({"weight": 1, "rewards": [{"name": "imagereward"}]})
    assert others.trained_features == ()


def test_word_match_trains_the_features_of_fd_effnet() -> None:
    settings = of_name("word_match", path="here")
    assert settings.trained_features == (read_protocol("fd-effnet").features,) == ("efficientnet_lite0",)


@pytest.mark.parametrize(
    ("path", "features"),
    [
        ("llava-hf/llava-1.5-7b-hf", ("clip",)),
        ("Qwen/Qwen2.5-VL-7B-Instruct", ()),
        ("here/llava", ("clip",)),
        ("here/other", ()),
    ],
)
def test_vqascore_trains_clip_only_by_llava(
    path: str, features: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, family in (("llava", "llava"), ("other", "qwen3_vl")):
        (tmp_path / "here" / folder).mkdir(parents=True)
        (tmp_path / "here" / folder / "config.json").write_text(json.dumps({"model_type": family}))
    assert of_name("vqascore", path=path).trained_features == features


def test_coco30k_is_of_the_first_captions_of_cocos_own_file(tmp_path: Path) -> None:
    captions = [{"image_id": 7, "id": 5, "caption": "a dog"}, {"image_id": 7, "id": 2, "caption": "a cat"}]
    file, text = tmp_path / "captions_val2014.json", tmp_path / "prompts.txt"
    file.write_text(json.dumps({"annotations": captions}))
    text.write_text("a cat\n")
    coco, images = read_protocol("coco30k"), Drawn(1, prompts=["a cat"])
    digest = prompts_sha256(["a cat"])[:12]
    for path in (file, text):  # another file than the published one, and a list of unknown origin
        assert prompt_departures(coco, path, images) == [f"prompts of another list, sha256 {digest}"]
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    published = coco.model_copy(update={"prompts_md5": md5})
    assert prompt_departures(published, file, images) == []
    assert prompt_departures(published, text, images) != []
    assert prompt_departures(read_protocol("edm-50k"), text, images) == []


def test_categories_of_mjhqs_prompts_are_labels(tmp_path: Path) -> None:
    file = tmp_path / "meta_data.json"
    entries = {"a": ("x", "people"), "b": ("y", "art"), "c": ("z", "people")}
    content = {name: {"prompt": prompt, "category": kind} for name, (prompt, kind) in entries.items()}
    file.write_text(json.dumps(content))
    stream = categorised(Drawn(6, prompts=["x", "y", "z"]), file)
    assert (stream.classes, stream.label_count) == (("art", "people"), 2)
    assert [stream.label(row) for row in range(6)] == [1, 0, 1, 1, 0, 1]
    digest = prompts_sha256(["x", "y", "z"])[:12]
    departures = prompt_departures(read_protocol("mjhq-30k"), file, stream)
    assert departures == [f"prompts of another list, sha256 {digest}"]  # three are not 30 000
    plain = Drawn(1, prompts=["q"])
    assert categorised(plain, file) is plain


def test_distances_by_label_have_the_names_of_the_labels() -> None:
    rows = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = Features(rows, None, torch.arange(12) % 2, "made", [])
    reference = Reference.of(Features(rows + 1, None, torch.arange(12) % 2, "real", []), "photos")
    effort = Effort(bootstrap=0, per_label=True)
    numbered = measure(made, reference, effort).numbers["per_label"]
    named = measure(made, reference, effort, ("art", "people")).numbers["per_label"]
    assert named == {"art": numbered["0"], "people": numbered["1"]}
    assert list(named.values()) == pytest.approx([2, 2])


WRONG = {
    "--protocol fd-pixel,fd-pixel": "--protocol fd-pixel,fd-pixel: names fd-pixel twice; "
    "expected each protocol once",
    "--protocol fd-pixel,fd-effet": "--protocol fd-effet: is not in eval/protocols; "
    "did you mean 'fd-effnet'?",
    "--protocol fd-pixel --weights clip=x": "--weights clip=x: 'clip' is not measured; expected one of the "
    "features measured, pixels",
    "--protocol fd-pixel,clean --weights x": "--weights x: the protocols have several networks; expected "
    "FEATURES=PATH with one of pixels, inception",
    "--protocol fd-pixel --weights x --weights y": "--weights y: is given twice (also x); expected it once",
    "--protocol fd-pixel --reference clean=x.npz": "--reference clean=x.npz: 'clean' is not measured; "
    "expected one of the protocols measured, fd-pixel",
    "--protocol fd-pixel --reference fd-pixel=": "--reference fd-pixel=: is empty; expected fd-pixel=VALUE, "
    "or a value for all",
    "--protocol fd-pixel --held-out nowhere/x.png": "--held-out nowhere/x.png: no such file or folder",
    "--held-out latents:x": "--held-out: the data are latents, and images are compared; expected real images",
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.items(), ids=WRONG)
def test_bad_choices(arguments: str, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 8, 1), dtype=np.uint8))
    command = [
        "fid",
        "--array",
        str(tmp_path / "a.npy"),
        "--reference",
        "digits",
        "--n",
        "8",
        "--device",
        "cpu",
    ]
    with pytest.raises(UserError) as caught:
        main([*command, *arguments.split()])
    assert str(caught.value) == message
