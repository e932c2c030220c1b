"""Arguments of `python -m eval fid`: what is refused, and how many images and repetitions there are."""

from __future__ import annotations

from pathlib import Path

import pytest

import distill
from distill import load_teacher
from distill.config.errors import UserError
from distill.data.image_files import ENDINGS
from distill.eval.__main__ import main
from distill.eval.fid.arguments import parse_fid
from distill.eval.fid.subjects import Subject, open_streams
from distill.eval.protocols import read_protocol
from distill.types import Denoiser
from tests.helpers.image_sets import save_held_out_digits
from tests.helpers.random_teacher import save_random_teacher


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_held_out_digits(tmp_path_factory.mktemp("array") / "held_out.npz")


def test_repetitions_are_the_protocols_unless_there_are_fewer_images(tmp_path: Path) -> None:
    save_random_teacher(tmp_path / "teacher")
    arguments = ["--teacher", str(tmp_path / "teacher"), "--reference", "digits", "--device", "cpu"]
    for extra, seeds in (
        ([], [0, 50000, 100000]),
        (["--n", "50000"], [0, 50000, 100000]),
        (["--n", "10"], [0]),
        (["--seed", "7"], [7]),
    ):
        (streams,) = open_streams(Subject(parse_fid([*arguments, *extra])), [read_protocol("edm-50k")])
        assert [stream.first_seed for stream in streams] == seeds


@pytest.mark.parametrize(
    "command", ["fid --reference digits --n 10 --bootstrap 0", "diversity --per-prompt 2"]
)
def test_a_network_is_loaded_once(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_random_teacher(tmp_path / "teacher")
    loaded = []

    def load(path: Path) -> Denoiser:
        loaded.append(path)
        return load_teacher(path)

    monkeypatch.setattr(distill, "load_teacher", load)
    given = ["--teacher", str(tmp_path / "teacher"), "--features", str(tmp_path / "features")]
    main([*command.split(), *given, "--steps", "1", "--device", "cpu"])
    assert loaded == [tmp_path / "teacher"]


TEACHER = "--teacher assets/digits-teacher --reference digits"
WRONG = {
    "fud": "'fud': no command of python -m eval; did you mean 'fid'?",
    "fid": "none of them: expected one of --run, --teacher, --pipeline, --images and --array",
    "fid --images a --reference digits --steps 3": "--steps: goes with --teacher and --pipeline only",
    "fid --run a --dtype bfloat16": "--dtype: goes with --pipeline only",
    "fid --pipeline tests --reference digits": (
        "--pipeline: tests holds no model_index.json; expected the folder of a diffusers pipeline"
    ),
    "fid --array a --reference digits --seed 3": "--seed: goes with --run, --teacher and --pipeline only",
    "fid --array a --reference digits --prompts p": (
        "--prompts: goes with --run, --teacher and --pipeline only"
    ),
    "fid --array a --reference digits --out nowhere/fid.json": (
        "--out nowhere/fid.json: nowhere is no folder"
    ),
    "fid --array a --reference digits --out tests": "--out tests: is a folder; expected a file to write",
    "fid --images a": "--images: expected --reference with the real images or their statistics",
    "fid --array a --reference digits --protocol edm50k": (
        "--protocol edm50k: is not in eval/protocols; did you mean 'edm-50k'?"
    ),
    "fid --array a --reference digits --bootstrap 1": (
        "--bootstrap 1: has no spread; expected 0 or at least 2"
    ),
    "fid --array a.npz --reference digits": "a.npz: no such file",
    "fid --images tests --reference digits": (
        f"tests: holds no image; expected files ending in {', '.join(sorted(ENDINGS))}"
    ),
    "fid --teacher assets/digits-teacher --reference digts": (
        "--reference digts: 'digts' is not in distill/data/sources; did you mean 'digits'?"
    ),
    "fid --teacher assets/digits-teacher --reference stats/edm2.pkl": (
        "--reference stats/edm2.pkl: no such file or folder"
    ),
    "fid --teacher assets/digits-teacher --reference latents:x": (
        "--reference: the data are latents, and images are compared; expected real images"
    ),
    f"fid {TEACHER} --guidance nan": "--guidance nan: expected a finite number",
    f"diversity {TEACHER} --guidance inf": "--guidance inf: expected a finite number",
    "fid --pipeline a --reference digits --guidance inf": "--guidance inf: expected a finite number",
    f"fid {TEACHER} --weights w": "--weights w: pixels have no weights; leave them out",
    f"fid {TEACHER} --prompts p": "--prompts: the model takes no text; leave the prompts out",
    f"fid {TEACHER} --protocol clean --weights nowhere": (
        "--weights nowhere: no such file; "
        "expected pt_inception-2015-12-05-6726825d.pth or inception-2015-12-05.pt"
    ),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.items(), ids=WRONG)
def test_bad_arguments(arguments: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        main(arguments.split())
    assert str(caught.value) == message


def test_too_few_images_are_refused_unless_asked_for(held_out: Path) -> None:
    arguments = ["fid", "--array", str(held_out), "--reference", "digits"]
    with pytest.raises(
        UserError,
        match=r"held_out.npz holds 360 images; fd-pixel wants 10000; "
        r"give --n to measure fewer, which is another number$",
    ):
        main(arguments)
    with pytest.raises(
        UserError, match=r"^--n 400: .*held_out.npz holds 360 images; expected at most as many$"
    ):
        main([*arguments, "--n", "400"])


def test_a_store_that_cannot_be_written_is_named(held_out: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["fid", "--array", str(held_out), "--n", "360", "--reference", "digits"]
    with pytest.raises(UserError, match=r"^--features .*/file: cannot be written \(Not a directory\)$"):
        main([*arguments, "--features", str(tmp_path / "file")])
