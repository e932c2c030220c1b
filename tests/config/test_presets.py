"""Presets by name from any folder, the command that lists them, and the networks that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from distill.config import installation, presets
from distill.config.errors import UserError
from distill.config.installation import LEFT_OUT, find_asset
from distill.config.presets import find_config
from distill.networks.folder import load_denoiser
from distill.rewards.classifier import Settings as Classifier
from distill.rewards.clipscore import Settings as CLIPScore
from distill.training.config import read_config
from distill.training.pretraining.teacher import build_teacher
from distill.training.settings import DistillRun, TrainTeacherRun

ROOT = Path(__file__).parents[2]
DMD2 = ROOT / "configs/digits/dmd2.yaml"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay the package out as a wheel does, with one preset and one network; return what it ships."""
    shipped = tmp_path / "site-packages/distill/shipped"
    (shipped / "configs/digits").mkdir(parents=True)
    (shipped / "configs/digits/dmd2.yaml").write_bytes(DMD2.read_bytes())
    (shipped / "assets/digits-teacher").mkdir(parents=True)
    monkeypatch.setattr(installation, "PACKAGE", shipped.parent)
    return shipped


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    presets.main([*arguments])
    return capsys.readouterr().out


def test_list_shows_every_preset_with_the_first_sentence_of_its_header(
    capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    lines = said(capsys, "list").splitlines()
    files = sorted(path.relative_to(ROOT / "configs") for path in ROOT.glob("configs/**/*.yaml"))
    assert [line.split()[0] for line in lines] == sorted(str(file.with_suffix("")) for file in files)
    (line,) = [line for line in lines if line.startswith("digits/sid ")]
    header = "SiD on digits: squared distance of the scores, alpha = 1.2."
    assert " ".join(line.split()) == f"digits/sid {header}"
    (long,) = [line for line in lines if line.startswith("sdxl/dmd2 ")]
    assert " ".join(long.split()).startswith("sdxl/dmd2 DMD2 on SDXL, one step at t = 399: ")
    assert long.endswith(" ...")
    assert max(map(len, lines)) <= max(len(line.split()[0]) for line in lines) + 2 + presets.SHOWN
    assert "3d/lab_sds SDS: score distillation sampling on a mixture of known scenes." in [
        " ".join(line.split()) for line in lines
    ]


def test_show_prints_the_file(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    assert said(capsys, "show", "digits/dmd2") == DMD2.read_text()


@pytest.mark.parametrize("destination", [None, "mine.yaml", "new/mine.yaml", "there"])
def test_copy_writes_a_new_file(
    capsys: pytest.CaptureFixture[str], elsewhere: Path, destination: str | None
) -> None:
    (elsewhere / "there").mkdir()
    expected = {None: "dmd2.yaml", "there": "there/dmd2.yaml"}.get(destination, destination)
    given = [] if destination is None else [destination]
    assert said(capsys, "copy", "configs/digits/dmd2.yaml", *given) == f"{expected}\n"
    assert (elsewhere / str(expected)).read_bytes() == DMD2.read_bytes()
    with pytest.raises(UserError, match=f"^{expected}: is there already; expected a new file$"):
        presets.main(["copy", "digits/dmd2", *given])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "show digits/f_distil",
            "'digits/f_distil': no preset has this name; did you mean 'digits/f_distill'?",
        ),
        ("show sid_cond", "'sid_cond': no preset has this name; did you mean 'cifar10/sid_cond'?"),
        ("show sida", "'sida': no preset has this name; expected one of: digits/sida, emoji/sida, "),
        ("copy nothing", "'nothing': no preset has this name; expected one that "),
        ("lst", "'lst': no action of python -m distill configs; did you mean 'list'?"),
        ("show", "show: expected the name of a preset after it, such as digits/dmd2"),
        ("list digits/sid", "'digits/sid': unexpected after list; expected show digits/sid, or list alone"),
        ("show digits/sid x", "'x': unexpected after show NAME; expected copy NAME DEST"),
        ("copy digits/sid file/x.yaml", "file/x.yaml: cannot be written (File exists)"),
        ("list --all", "'--all': unknown argument; expected one of: --help"),
    ],
)
def test_mistakes_are_one_line_with_the_nearest_right_name(
    arguments: str, message: str, elsewhere: Path
) -> None:
    (elsewhere / "file").touch()
    with pytest.raises(UserError) as error:
        presets.main(arguments.split())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["digits/dmd2", "configs/digits/dmd2.yaml", "./configs/digits/dmd2"])
def test_a_preset_is_found_by_its_name_from_any_folder(name: str, elsewhere: Path) -> None:
    assert find_config(name) == DMD2


def test_a_file_of_the_user_comes_before_a_preset(elsewhere: Path) -> None:
    own = Path("configs/digits/dmd2.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("task: distill\n")
    assert find_config(str(own)) == own
    assert find_config("digits/dmd2") == DMD2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "digits/f_distil",
            "'digits/f_distil': no such file, and no such preset; did you mean 'digits/f_distill'?",
        ),
        (
            "configs/digits/dmd3.yaml",
            "'configs/digits/dmd3.yaml': no such file, and no such preset; did you ",
        ),
        (
            "mine",
            "'mine': no such file, and no such preset; expected one that python -m distill configs list",
        ),
        ("mine.yaml", "mine.yaml cannot be read (No such file or directory)"),
        ("there", "there cannot be read (Is a directory)"),
    ],
)
def test_a_configuration_that_is_not_there_is_refused(name: str, message: str, elsewhere: Path) -> None:
    (elsewhere / "there").mkdir()
    with pytest.raises(UserError) as error:
        read_config(find_config(name))
    assert str(error.value).startswith(message)


def test_a_wheel_has_its_own_presets_and_networks(wheel: Path, elsewhere: Path) -> None:
    assert presets.preset_names() == ["digits/dmd2"]
    assert find_config("digits/dmd2") == wheel / "configs/digits/dmd2.yaml"
    assert find_asset(Path("assets/digits-teacher")) == wheel / "assets/digits-teacher"


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_wheel_says_how_to_get_a_network_that_it_lacks(name: str, wheel: Path, elsewhere: Path) -> None:
    with pytest.raises(UserError, match=rf"^assets/{name}: is in the repository, not in an installed packa"):
        find_asset(Path("assets") / name)


def test_a_path_of_the_user_comes_before_a_network_of_the_package(wheel: Path, elsewhere: Path) -> None:
    for path in ("assets/digits-teacher", "assets/emoji-judge"):
        Path(path).mkdir(parents=True)
        assert find_asset(Path(path)) == Path(path)
    for path in ("assets/mine", "assets", "runs/x", "/assets/digits-teacher", "org/name"):
        assert find_asset(Path(path)) == Path(path)


def test_every_network_is_in_the_wheel_or_said_to_be_left_out() -> None:
    listed = re.findall(r'^    "assets/([\w-]+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    in_wheel = set(listed)
    assert sorted(listed) == sorted([*in_wheel, *in_wheel])  # the wheel's list and the source archive's
    there = {path.name for path in (ROOT / "assets").iterdir()}
    assert there == in_wheel | LEFT_OUT.keys()
    assert in_wheel.isdisjoint(LEFT_OUT)
    for path in ROOT.glob("configs/**/*.yaml"):
        assert set(re.findall(r"assets/([\w-]+)", path.read_text())) <= there, path


def test_networks_of_presets_open_from_any_folder(elsewhere: Path) -> None:
    """The configuration keeps the short path, which another installation understands as well."""
    config = read_config(find_config("digits/sid"))
    assert isinstance(config, DistillRun)
    assert config.model_dump(mode="json")["teacher"]["path"] == "assets/digits-teacher"
    expected = load_denoiser(ROOT / "assets/digits-teacher").state_dict()
    opened = config.teacher.load().state_dict()
    assert all(torch.equal(opened[name], value) for name, value in expected.items())
    assert config.teacher.meta().image_shape == (1, 8, 8)


def test_rewards_of_presets_open_from_any_folder(elsewhere: Path) -> None:
    assert Classifier(path="assets/digits-classifier").load().describe()["label_count"] == 10
    assert CLIPScore(path="assets/emoji-clip").load() is not None


def test_pipelines_of_presets_open_from_any_folder(elsewhere: Path) -> None:
    config = read_config(find_config("emoji/text_dmd2"))
    assert isinstance(config, DistillRun)
    network = config.teacher.load()
    assert network.pixel_shape == (3, 32, 32)
    trained = read_config(find_config("emoji/text_teacher"))
    assert isinstance(trained, TrainTeacherRun)
    assert build_teacher(trained, trained.data.load("train")).pixel_shape == (3, 32, 32)
