"""Exports of this project's networks as pipelines of diffusers, and the command that writes them."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import HFValidationError, HTTPError

import distill
from distill.config.command_line import run_command
from distill.config.errors import UserError
from distill.eval.__main__ import main as evaluate
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import load_generator, newest_checkpoint, save_model
from distill.publishing.export import main
from distill.teachers.diffusers import Settings as Diffusers
from distill.teachers.edm2 import Settings as EDM2
from distill.types import Condition
from tests.helpers.exported import ORACLES, exported, images, opened, own_student, run_of

pytestmark = pytest.mark.usefixtures("code_cache")


@pytest.mark.parametrize("kind", ["unet", "edm", "edm2"])
def test_a_network_of_ours_leaves_as_a_pipeline(kind: str, tmp_path: Path) -> None:
    """The pipeline works as any other, from a folder that has moved, and makes the generator's images."""
    generator = own_student(kind, tmp_path / "here")
    labels = [1, 0, 2]
    z = torch.randn(3, *generator.image_shape, generator=torch.Generator().manual_seed(7))
    expected = images(generator, z, Condition(torch.tensor(labels)))
    exported(generator, tmp_path / "here" / "export").rename(tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    pipe = opened(tmp_path / "there")
    for given in ({"generator": torch.Generator().manual_seed(7)}, {"latents": z}):
        made = pipe(labels, output_type="pt", **given).images
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        images(load_generator(tmp_path / "there"), z, Condition(torch.tensor(labels))),
        expected,
        rtol=0,
        atol=1e-5,
    )
    assert (
        np.abs(
            np.asarray(pipe(labels, latents=z).images[1]).reshape(-1)
            - 255 * expected[1].permute(1, 2, 0).flatten().numpy()
        ).max()
        <= 0.5001
    )
    assert pipe(1, latents=z[:1], output_type="np", return_dict=False)[0].shape == (
        1,
        *expected.shape[2:],
        expected.shape[1],
    )
    if kind == "edm2":  # one autoencoder, not two
        assert pipe.network.generator.denoiser.codec.vae is pipe.autoencoder
    pipe.save_pretrained(tmp_path / "again")
    pipe = opened(tmp_path / "again").to(torch.bfloat16)
    assert pipe.dtype == torch.bfloat16
    # Rounding to eight bits: on average about a thousandth of the range, of random weights.
    assert 0 < (pipe(labels, latents=z, output_type="pt").images - expected).abs().mean() < 0.005


def test_a_pipeline_of_ours_says_what_it_cannot(tmp_path: Path) -> None:
    pipe = opened(exported(own_student("unet", tmp_path), tmp_path / "export"))
    assert len(pipe(batch_size=2).images) == 2
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"class_labels": [3, 10]}, r"class_labels: 10 is out of range; expected labels from 0 to 9"),
        ({"class_labels": -1}, r"class_labels: -1 is out of range"),
        ({"num_inference_steps": 4}, r"num_inference_steps is 4; expected 1"),
        ({"latents": torch.zeros(1, 1, 4, 4)}, r"latents: of shape \(1, 1, 4, 4\); expected \(1, 1, 8, 8\)"),
    ]
    for settings, message in wrong:
        with pytest.raises(ValueError, match=message):
            pipe(**settings)


def test_an_autoencoder_of_the_hub_is_named(tmp_path: Path) -> None:
    """The autoencoder is not fetched, neither when the export is written nor when it is opened."""
    network = EDM2(path=ORACLES / "edm2_tiny.pkl", autoencoder="nobody/nothing").load()
    folder = exported(FewStepGenerator(network, 2.5), tmp_path / "export")
    assert json.loads((folder / "config.json").read_text())["network"]["autoencoder"] == "nobody/nothing"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "model_index.json",
        "network",
        "pipeline.py",
    ]
    assert opened(folder).network.generator.denoiser.codec.source == "nobody/nothing"


@pytest.mark.slow
def test_a_process_that_knows_nothing_of_us_runs_it(tmp_path: Path) -> None:
    generator = own_student("unet", tmp_path)
    exported(generator, tmp_path / "export")
    code = f"""
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("{tmp_path / "export"}", trust_remote_code=True)
random = torch.Generator().manual_seed(5)
print(pipe(class_labels=[3], generator=random, output_type="pt").images.flatten().tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
    )
    assert done.returncode == 0, done.stderr
    z = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    expected = images(generator, z, Condition(torch.tensor([3]))).flatten().tolist()
    assert json.loads(done.stdout) == pytest.approx(expected, abs=1e-5)


def test_from_the_hub_comes_all_that_a_pipeline_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers' loader fetches from the hub the files that it needs: network and autoencoder."""
    generator = own_student("edm2", tmp_path)
    stored, fetched = exported(generator, tmp_path / "stored"), tmp_path / "fetched"
    names = [path.relative_to(stored).as_posix() for path in stored.rglob("*") if path.is_file()]

    def fetch(name: str) -> str:
        (fetched / name).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copyfile(stored / name, fetched / name))

    def snapshot(
        repo: str, allow_patterns: Sequence[str], ignore_patterns: Sequence[str], **settings: Any
    ) -> str:
        assert repo == "me/student"
        for name in names:
            if any(fnmatch.fnmatch(name, one) for one in allow_patterns) and not any(
                fnmatch.fnmatch(name, one) for one in ignore_patterns
            ):
                fetch(name)
        return str(fetched)

    information = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names], sha="0" * 40)
    for module in ("diffusers.pipelines.pipeline_utils", "diffusers.utils.dynamic_modules_utils"):
        monkeypatch.setattr(f"{module}.model_info", lambda *args, **settings: information)
        monkeypatch.setattr(f"{module}.hf_hub_download", lambda repo, filename, **settings: fetch(filename))
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.snapshot_download", snapshot)
    pipe = opened("me/student")
    shutil.rmtree(tmp_path / "autoencoder")
    shutil.rmtree(stored)
    z = torch.randn(1, *generator.image_shape)
    expected = images(generator, z, Condition(torch.tensor([1])))
    torch.testing.assert_close(pipe(1, latents=z, output_type="pt").images, expected, rtol=0, atol=1e-5)


def test_such_a_folder_is_no_teacher_of_diffusers(tmp_path: Path) -> None:
    folder = exported(own_student("unet", tmp_path), tmp_path / "export")
    complaint = (
        rf"{folder} is a student's export of a network that diffusers does not have; "
        r"expected a pipeline that it has$"
    )
    with pytest.raises(UserError, match=f"^teacher.path: {complaint}"):
        Diffusers(path=str(folder)).load()
    with pytest.raises(UserError, match=f"^teacher.path: {complaint}"):
        Diffusers(path=str(folder)).meta()
    with pytest.raises(UserError, match=f"^--pipeline: {complaint}"):
        evaluate(
            ["fid", "--pipeline", str(folder), "--protocol", "fd-pixel", "--reference", "digits", "--n", "8"]
        )
    with pytest.raises(UserError, match=r"export: holds a generator; expected a denoiser$"):
        distill.load_teacher(folder)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of(
        own_student("unet", tmp_path), tmp_path / "run", {"name": "native", "path": str(tmp_path / "teacher")}
    )


def test_an_export_is_written_anew_from_the_newest_checkpoint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = load_generator(run)
    shutil.rmtree(run / "export")
    for step, factor in ((100, 0.5), (200, 2.0)):
        for parameter in generator.parameters():
            parameter.data.mul_(factor)
        (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        save_model(generator, run / "checkpoints" / f"step-{step:08d}")
    main(["--run", str(run), "--out", str(tmp_path / "a" / "student")])
    assert capsys.readouterr().out == f"{tmp_path / 'a' / 'student'} is written\n"
    weights = dict(generator.state_dict())
    assert all(
        torch.equal(value, weights[name])
        for name, value in load_generator(tmp_path / "a" / "student").state_dict().items()
    )
    assert (
        f'from_pretrained("{tmp_path / "a" / "student"}", trust_remote_code=True)'
        in (tmp_path / "a" / "student" / "README.md").read_text()
    )
    main(["--run", str(run)])
    main(["--run", str(run), "--out", str(run / "export")])  # one that is there is replaced
    assert all(
        torch.equal(value, weights[name])
        for name, value in load_generator(run / "export").state_dict().items()
    )


def test_what_is_no_export_is_not_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000100"
    checkpoint.mkdir(parents=True)
    save_model(load_generator(run), checkpoint)
    (checkpoint / "manifest.json").write_text("{}")
    assert newest_checkpoint(run) == checkpoint
    for folder in (tmp_path / "notes", tmp_path / "notes" / "thesis.txt", tmp_path / "teacher", checkpoint):
        with pytest.raises(
            UserError, match=rf"^--out {folder}: is there and holds no export; expected a new folder$"
        ):
            main(["--run", str(run), "--out", str(folder)])
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "mine"
    with pytest.raises(UserError, match=r"^--private: goes with --push-to-hub only$"):
        main(["--run", str(run), "--private"])
    for name in ("student", "a/b/c", "/student"):
        with pytest.raises(
            UserError, match=rf"^--push-to-hub {name}: expected OWNER/NAME, such as me/my-student$"
        ):
            main(["--run", str(run), "--push-to-hub", name])
    with pytest.raises(UserError, match=r"thesis.txt/student: cannot be made in .*thesis.txt$"):
        main(["--run", str(run), "--out", str(tmp_path / "notes" / "thesis.txt" / "student")])
    with pytest.raises(UserError, match=r"nowhere: no such folder; expected the folder of a run"):
        main(["--run", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"export: is not a run; expected a folder with config.yaml"):
        main(["--run", str(run / "export"), "--out", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


class Hub:
    """A stand-in for `HfApi` that keeps what was uploaded, or raises `error`."""

    error: Exception | None = None
    calls: list[tuple[Any, ...]]
    files: dict[str, str]

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> str:
        if self.error is not None:
            raise self.error
        self.calls.append((repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, repo_id: str, folder_path: Path) -> None:
        self.calls.append((repo_id, folder_path))
        self.files.update(
            {
                path.relative_to(folder_path).as_posix(): path.read_text(errors="replace")
                for path in Path(folder_path).rglob("*.*")
            }
        )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    hub = type("FreshHub", (Hub,), {"calls": [], "files": {}})
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    return hub


def test_an_upload_is_the_export_under_its_name(
    run: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--run", str(run), "--push-to-hub", "me/student", "--private"])
    assert hub.calls == [("me/student", True, True), ("me/student", run / "export")]
    assert sorted(hub.files) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "model_index.json",
        "network/network.py",
        "pipeline.py",
    ]
    assert 'DiffusionPipeline.from_pretrained("me/student", trust_remote_code=True)' in hub.files["README.md"]
    assert (
        capsys.readouterr().out
        == f"{run / 'export'} is written\nhttps://huggingface.co/me/student is uploaded\n"
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            HFValidationError("Repo id must use alphanumeric chars: 'me/my student'.\nMore."),
            "cannot be uploaded (Repo id must use alphanumeric chars: 'me/my student'.)",
        ),
        (
            HTTPError("[Errno -2] Name or service not known"),
            "cannot be uploaded ([Errno -2] Name or service not known)",
        ),
        (ConnectionError(), "cannot be uploaded (ConnectionError)"),
        (None, "there is no token of the hub; expected one from hf auth login, or in HF_TOKEN"),
    ],
)
def test_what_cannot_be_uploaded_stays_on_disk(
    run: Path,
    hub: type[Hub],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception | None,
    reason: str,
) -> None:
    """It takes one line and exit code 2."""
    before = load_generator(run)
    hub.error = error
    if error is None:
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(sys, "argv", ["export", "--run", str(run), "--push-to-hub", "me/my student"])
    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err
        == f"error: --push-to-hub me/my student: {reason}; {run / 'export'} is written\n"
    )
    z = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(
        opened(run / "export")(2, latents=z, output_type="pt").images,
        images(before, z, Condition(torch.tensor([2]))),
    )
