"""Arguments of `python -m eval preference`: what is refused, and settings of scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.config.errors import UserError
from distill.data.image_files import ENDINGS
from distill.eval.__main__ import main
from tests.helpers.preference_runs import install_small_rewards, preference, save_models


@pytest.fixture(autouse=True)
def _small_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    install_small_rewards(monkeypatch)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


SUBJECTS = "expected one of --run, --teacher, --pipeline and --images"

WRONG = {
    "": f"none of them: {SUBJECTS}",
    "--run a --images b": f"--run and --images: {SUBJECTS}",
    "--run a --steps 3": "--steps: goes with a teacher or a pipeline only",
    "--run a --against images:b --against-guidance 3": (
        "--against-guidance: goes with a teacher or a pipeline only"
    ),
    "--run a --against-steps 3": "--against-steps and --against-guidance: go with --against only",
    "--run a --against pipelin:b": (
        "--against pipelin:b: 'pipelin' is no kind of subject; did you mean 'pipeline'?"
    ),
    "--run a --against b": (
        "--against b: expected run:PATH, teacher:PATH, pipeline:PATH, images:PATH, "
        "or teacher for the run's own"
    ),
    "--pipeline a --against teacher": (
        "--against teacher: goes with --run, whose teacher it is; expected teacher:PATH"
    ),
    "--teacher a --guidance nan": "--guidance nan: expected a finite number",
    "--pipeline a --guidance inf": "--guidance inf: expected a finite number",
    "--run a --against teacher --against-guidance nan": "--against-guidance nan: expected a finite number",
    "--run a --draw 3": "--draw: goes with --n, how many prompts to draw",
    "--run a --n 0": "--n 0: expected at least 1",
    "--run a --n 81": "--n 81: distill holds 80 prompts; expected at most as many",
    "--run a --prompts none.txt": "--prompts none.txt: no such file or folder",
    "--run a --out nowhere/x.json": "--out nowhere/x.json: nowhere is no folder",
    "--run nowhere": "nowhere: no such folder; expected a run, a checkpoint or an export",
    "--pipeline tests": (
        "--pipeline: tests holds no model_index.json; expected the folder of a diffusers pipeline"
    ),
    "--images tests": f"tests: holds no image; expected files ending in {', '.join(sorted(ENDINGS))}",
    "--run a --scores pickscor": "'pickscor' is no score; did you mean 'pickscore'?",
    "--run a --scores hpsv2,hpsv2": "--scores hpsv2,hpsv2: names hpsv2 twice",
    "--run a --weights brigthness=x": (
        "--weights brigthness=x: 'brigthness' is none of the scores; did you mean 'brightness'?"
    ),
    "--run a --weights brightness": (
        "--weights brightness: expected NAME=PATH or NAME.SETTING=VALUE, such as pickscore=models/pickscore"
    ),
    "--run a --scores classifier": "classifier: path: is missing",
    "--run a --scores clipscore --weights clipscore.scal=1": (
        "clipscore: unknown key 'scal'; did you mean 'scale'?"
    ),
    "--run a --perprompt 3": "'--perprompt': unknown argument; did you mean '--per-prompt'?",
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.items())
def test_wrong_arguments_are_refused(arguments: str, message: str) -> None:
    scores = "" if "--scores" in arguments else "--scores brightness"
    with pytest.raises(UserError) as caught:
        main(["preference", *arguments.split(), *scores.split()])
    assert str(caught.value) == message


def test_settings_of_scores_from_the_command_line(models: Path, tmp_path: Path) -> None:
    arguments = f"--run {models}/run --n 1 --weights brightness.bias=3 --weights brightness2=somewhere"
    scores = preference(tmp_path, arguments, scores="brightness,brightness2")["scores"]
    assert scores["brightness"]["settings"] == {"bias": 3.0}
    assert scores["brightness"]["mean"] == pytest.approx(scores["brightness2"]["mean"] + 1)
    assert scores["brightness2"]["files"] == {"path": "somewhere"}
    with pytest.raises(UserError, match=r"^brightness.path: nowhere holds no weights$"):
        preference(tmp_path, f"--run {models}/run --n 1 --weights brightness=nowhere")
