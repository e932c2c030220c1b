"""Prompts of students of diffusers: on the command line, in an evaluation, and in a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import distill
from distill.config.errors import UserError
from distill.data.images import to_bytes
from distill.diffusion.sampling import sample_generator, seeded_noise
from distill.eval.__main__ import main as evaluate
from distill.networks.few_step_generator import FewStepGenerator
from distill.publishing.export import export_generator
from distill.training.distillation.task import Distillation
from distill.training.launch import build_processes
from distill.training.logging import Clock
from sample import main as sample
from tests.helpers.diffusers_runs import PROMPTS, make_inputs, run
from tests.helpers.image_sets import pixels_sha256
from tests.helpers.runs import read_run, write_finished_run, write_run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("students"))


def test_prompts_from_the_command_line(root: Path, tmp_path: Path) -> None:
    """`sample.py` gives an export, and a teacher, the prompts of a file in turn."""
    (tmp_path / "export").mkdir()
    export_generator(FewStepGenerator(distill.load_teacher(root / "sd15"), 80.0), tmp_path / "export")
    arguments = f"--run {tmp_path}/export --n 4 --out {tmp_path}/samples --device cpu".split()
    sample([*arguments, "--prompts", str(root / "prompts.txt")])
    written = json.loads((tmp_path / "samples" / "samples.json").read_text())
    records = written["images"]
    assert (written["size"], written["dtype"]) == ([16, 16], "float32")
    assert [record["prompt"] for record in records] == [*PROMPTS, PROMPTS[0]]
    with Image.open(tmp_path / "samples" / "000001.png") as image:
        assert image.size == (16, 16)
        noted = json.loads(image.text["Comment"])
        assert (noted["seed"], noted["prompt"], noted["size"], noted["dtype"]) == (
            1,
            "two dogs",
            [16, 16],
            "float32",
        )
        plain = np.asarray(image).astype(int)
    sample([*arguments, "--prompts", str(root / "prompts.txt"), "--dtype", "bfloat16"])
    with Image.open(tmp_path / "samples" / "000001.png") as image:
        assert 0 < np.abs(np.asarray(image).astype(int) - plain).max() <= 8
    sample([*arguments, "--prompts", "a cat", "--resolution", "24"])
    with Image.open(tmp_path / "samples" / "000000.png") as image:
        assert image.size == (24, 24)
    with pytest.raises(
        UserError, match="--prompts: the model takes text; expected a text file of prompts, one a line"
    ):
        sample(arguments)
    with pytest.raises(UserError, match=r"^--labels 3: the model takes text; leave the labels out$"):
        sample([*arguments, "--prompts", "a cat", "--labels", "3"])


def test_an_evaluation_draws_prompts(root: Path, tmp_path: Path) -> None:
    """A student and its teacher are evaluated with the run's prompts and with others.

    The captions of real images are no labels.
    """
    np.save(
        tmp_path / "real.npy", np.random.default_rng(0).integers(256, size=(8, 16, 16, 3), dtype=np.uint8)
    )
    (tmp_path / "run" / "export").mkdir(parents=True)
    export_generator(FewStepGenerator(distill.load_teacher(root / "sd15"), 80.0), tmp_path / "run" / "export")
    write_finished_run(
        tmp_path / "run",
        teacher={"name": "diffusers", "path": str(root / "sd15")},
        prompts={"name": "text_file", "path": str(root / "prompts.txt")},
        guidance={"teacher": 2.0},
    )
    arguments = ["--run", str(tmp_path / "run"), "--data", f"array:{tmp_path / 'real.npy'}", "--n", "4"]
    evaluate(arguments)
    measured = json.loads((tmp_path / "run" / "eval.json").read_text())
    generator = distill.load_generator(tmp_path / "run")
    with torch.no_grad():
        z = seeded_noise(range(4), generator.image_shape)
        made = to_bytes(generator.decode(generator(z, generator.encode_prompts([*PROMPTS, PROMPTS[0]]))))
    assert measured["hashes"]["student"] == pixels_sha256(made)
    (tmp_path / "others.txt").write_text("abc")
    evaluate([*arguments, "--prompts", str(tmp_path / "others.txt"), "--no-teacher"])
    others = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert others["hashes"]["student"] != measured["hashes"]["student"]


def test_previews_are_spread_over_the_prompts_as_those_of_their_teacher(root: Path, tmp_path: Path) -> None:
    prompts = {"name": "text_file", "path": str(root / "prompts.txt")}
    config = read_run(
        write_run(tmp_path, teacher={"name": "diffusers", "path": str(root / "sd15")}, prompts=prompts)
    )
    task = Distillation(config, build_processes(config), Clock(torch.device("cpu")))
    assert task.prompts is not None
    spread, in_turn = (task.prompts(torch.tensor(rows)) for rows in ([0, 2, 1], [0, 1, 2]))
    average, shown = task.ema.average, task.sample(range(3))
    assert torch.equal(shown, sample_generator(average, range(3), spread))
    assert not torch.equal(shown, sample_generator(average, range(3), in_turn))


def test_prompts_belong_to_text(root: Path) -> None:
    def complaint(config: dict[str, Any]) -> str:
        with pytest.raises(UserError) as error:
            run(root, "refused", {"objective": {"name": "score_matching"}, **config})
        return str(error.value)

    text = {"teacher": {"name": "diffusers", "path": str(root / "sd15")}}
    prompts = {"prompts": {"name": "text_file", "path": str(root / "prompts.txt")}}
    images = {"data": {"name": "captioned_folder", "path": str(root / "images"), "resolution": 16}}
    assert complaint(text) == "prompts: the teacher takes text; expected a source of prompts"
    assert (
        complaint({"teacher": {"name": "diffusers", "path": str(root / "ddpm")}, **prompts})
        == "prompts: the teacher takes no text; expected null"
    )
    shown = complaint({**text, **prompts, **images, "discriminator": {}})
    assert shown.endswith(
        "prompts: real images are shown with their own; expected captions, or discriminator.real: teacher"
    )
    assert "captions needs data that have them" in complaint({**text, "prompts": {"name": "captions"}})
    small = {**images["data"], "resolution": 8}
    wrong_size = complaint({**text, "data": small, "prompts": {"name": "captions"}, "discriminator": {}})
    assert wrong_size == "data: images of (3, 8, 8); expected (3, 16, 16) as the network's"
