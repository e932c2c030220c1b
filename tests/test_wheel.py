"""The wheel: what is in it, and that it works in an empty folder without the repository.

It is built from the source archive and installed into an environment that has this one's other packages, so
that nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from distill import __version__
from distill.__main__ import COMMANDS
from distill.config.installation import LEFT_OUT

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
MAX_BYTES = 25_000_000
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def build(target: str, source: Path, folder: Path) -> Path:
    """Build `sdist` or `wheel` from a source tree, and return the file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.tar.gz" if target == "sdist" else "*.whl")
    return file


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(source_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    unpacked = tmp_path_factory.mktemp("source")
    with tarfile.open(source_archive) as archive:
        archive.extractall(unpacked, filter="data")
    return build("wheel", unpacked / f"distill-{__version__}", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel; return the console script."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin/python"
    (packages,) = environment.glob("lib/python*/site-packages")
    # A .pth file adds the folder alone, not the editable installation that its own .pth files add.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True)
    return environment / "bin/distill"


def run(program: Path, folder: Path, arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(program), *arguments.split()],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def said(program: Path, folder: Path, arguments: str) -> str:
    done = run(program, folder, arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked(*folders: str) -> set[str]:
    """Return the tracked files below folders of the repository."""
    command = ["git", "-C", str(ROOT), "ls-files", *folders]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


def test_it_holds_the_package_the_presets_and_their_networks(wheel: Path) -> None:
    assets = {path for path in tracked("assets") if path.split("/")[1] not in LEFT_OUT}
    shipped = {f"distill/shipped/{path}" for path in tracked("configs") | assets}
    described = f"distill-{__version__}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if not name.startswith(described)}
    assert files == tracked("distill") | shipped
    for name in (
        "distill/data/emoji/names.tsv",
        "distill/data/emoji/noto.webp",
        "distill/eval/prompt_sets/distill-80.tsv",
        "distill/eval/protocols/fd-pixel.yaml",
        "distill/publishing/report/style.css",
        "distill/publishing/tested_models.json",
        "distill/py.typed",
        "distill/shipped/configs/digits/dmd2.yaml",
    ):
        assert name in files
    assert wheel.stat().st_size < MAX_BYTES


def test_the_source_archive_holds_nothing_else_than_builds_it(source_archive: Path) -> None:
    with tarfile.open(source_archive) as archive:
        names = {name.split("/")[1] for name in archive.getnames()}
    programs, texts = {"train.py", "sample.py"}, {"CHANGELOG.md", "LICENSE", "README.md"}
    assert (
        names
        == {"assets", "configs", "distill", ".gitignore", "PKG-INFO", "pyproject.toml"} | programs | texts
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, program: Path, tmp_path: Path) -> None:
    assert said(program, tmp_path, f"{command} --help").startswith(f"usage: distill {command} ")


def test_it_lists_its_commands_and_presets(program: Path, tmp_path: Path) -> None:
    assert said(program, tmp_path, "").startswith("usage: distill COMMAND ...\n")
    assert said(program, tmp_path, "--version") == f"distill {__version__}\n"
    listed = [line.split()[0] for line in said(program, tmp_path, "configs list").splitlines()]
    presets = tracked("configs")
    assert listed == sorted(path.removeprefix("configs/").removesuffix(".yaml") for path in presets)
    assert "fd-pixel" in said(program, tmp_path, "eval protocols")
    assert "StableDiffusionPipeline" in said(program, tmp_path, "models")


def test_a_preset_trains_samples_and_is_measured_in_an_empty_folder(program: Path, tmp_path: Path) -> None:
    train = "train digits/dmd2 --run_dir runs/x --steps 2"
    said(program, tmp_path, train)
    meta = json.loads((tmp_path / "runs/x/meta.json").read_text())
    assert (meta["command"], meta["commit"]) == (f"-m distill {train}", None)
    said(program, tmp_path, "sample --run runs/x --n 4 --out student")
    said(program, tmp_path, "sample --run runs/x --n 4 --teacher --steps 2 --out teacher")
    for folder in ("student", "teacher"):
        assert len(list((tmp_path / folder).glob("00*.png"))) == 4
    said(program, tmp_path, "eval --run runs/x --n 100")
    assert json.loads((tmp_path / "runs/x/eval.json").read_text())["student"]["fd_pixel"] > 0
    said(program, tmp_path, "report runs/x")
    assert f"distill {train}" in (tmp_path / "runs/x/report.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "student", "teacher"}


@pytest.mark.parametrize("preset", ["emoji/text_teacher", "digits/di_star --generator.init_from null"])
def test_presets_that_name_other_networks_find_them(preset: str, program: Path, tmp_path: Path) -> None:
    said(program, tmp_path, f"train {preset} --dry-run")


def test_a_network_that_is_left_out_is_refused_in_one_line(program: Path, tmp_path: Path) -> None:
    done = run(program, tmp_path, "train emoji/text_dmd2 --run_dir runs/x --steps 2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    expected = (
        "error: assets/emoji-text-teacher: is in the repository, not in an installed package; expected "
    )
    assert done.stderr.startswith(expected)
    assert not (tmp_path / "runs").exists()


def test_a_wrong_name_is_refused_in_one_line(program: Path, tmp_path: Path) -> None:
    done = run(program, tmp_path, "train digits/f_distil")
    expected = "'digits/f_distil': no such file, and no such preset; did you mean 'digits/f_distill'?"
    assert (done.returncode, done.stderr) == (2, f"error: {expected}\n")
    done = run(program, tmp_path, "trian digits/dmd2")
    expected = "'trian': no command of distill; did you mean 'train'?"
    assert (done.returncode, done.stderr) == (2, f"error: {expected}\n")
