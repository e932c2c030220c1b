"""`train.py --help`: the most used settings, topics, and the values of a configuration."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import train
from distill.config.errors import UserError

DMD2 = "configs/digits/dmd2.yaml"
GLOSSARY = Path("docs/glossary.md")


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert train.main([*arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["--help", "all"], [DMD2, "--help"]], ids=" ".join)
def test_it_answers_without_importing_torch(arguments: list[str]) -> None:
    code = f"import sys, train; train.main({arguments}); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]], ids=str)
def test_without_a_topic_it_shows_the_most_used_settings(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    text = answer(capsys, *arguments)
    for setting in (
        "  --run_dir path (required)\n        Folder of the run, for configuration,",
        "  --batch_size int = 64\n        Images in an update, over all processes.\n",
        "  --micro_batch_size int|auto|null = null\n",
        "  --resume str = auto\n",
        "  --teacher {name: diffusers|edm|edm2|gaussian_mixture|known_scenes|native} (required)\n",
        "  --generator.optimizer.lr float = 0.0003\n",
    ):
        assert setting in text
    assert "  --help TOPIC          the settings under a dotted name, such as generator, " in text
    assert "Topics: sharding, preview, stop_when, data, teacher, prompts, teacher_samples, " in text
    assert "docs/glossary.md" in text
    assert "--monitor_every" not in text
    assert len(text.splitlines()) < 60


def test_no_line_is_longer_than_a_screen_is_wide(capsys: pytest.CaptureFixture[str]) -> None:
    texts = answer(capsys, "--help") + answer(capsys, "--help", "all") + answer(capsys, DMD2, "--help")
    assert max(map(len, texts.splitlines())) <= 110


def test_every_setting_has_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    lines = answer(capsys, "--help", "all").splitlines()
    for line, following in itertools.pairwise(lines):
        if line.startswith("  --"):
            assert following.startswith("        "), line


def test_all_shows_every_setting_of_both_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "--help", "all")
    for setting in (
        "task: distill - Distil a teacher into a generator of one step or a few.\n",
        "  --generator.optimizer.lr float = 0.0003\n",
        "  --generator.optimizer.betas [float, float] = [0, 0.999]\n",
        "  --objective.divergence str (required)\n",
        "  --fake.updates int = 1\n",
        "    with teacher.name = native:\n",
        "  --teacher.path path (required)\n",
        "  --terms [{name: gan|implicit_reward|opacity_entropy|orientation|"
        "regression|representation|reward|sparsity},\n",
        "task: train_teacher - Train a diffusion teacher on data. Further settings:\n",
        "  --optimizer.betas [float, float] = [0.9, 0.999]\n",
    ):
        assert setting in text
    assert text.count("--run_dir path") == 1


def test_a_list_has_the_type_of_its_entries(capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "--help", "preview")
    assert "  --preview.prompts [str, ...]|null = null\n" in text
    assert "  --preview.labels [int, ...]|null = null\n" in text


def test_a_topic_shows_the_settings_below_it_and_names_its_choices(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = answer(capsys, "--help", "generator")
    assert "  --generator.ema float|{...}|[float|{...}, ...] = 0.999\n" in text
    assert "  --generator.optimizer.warmup_steps int = 0\n" in text
    assert "  --generator.noise_levels {name: karras|lognormal|logit_normal|uniform} = karras\n" in text
    assert "        `--help generator.noise_levels.uniform` lists the settings of one of these.\n" in text
    assert "--generator.noise_levels.rho" not in text
    assert "--fake" not in text


def test_a_topic_may_be_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "--help", "teacher.diffusers")
    assert "    with teacher.name = diffusers:\n" in text
    assert "  --teacher.revision str|null = null\n" in text
    assert "gaussian_mixture" not in text
    text = answer(capsys, "--help", "terms.reward")
    assert "  --terms.weight float (required)\n" in text
    assert " --terms.rewards [{name: aesthetic|classifier|" in " ".join(text.split())
    text = answer(capsys, "--help", "terms.0.rewards.hpsv2")
    assert "    with terms.rewards.name = hpsv2:\n" in text
    assert "  --terms.rewards.version " in text


def test_a_setting_of_several_choices_is_shown_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "--help", "teacher.path")
    assert "    of teacher.diffusers:\n  --teacher.path str (required)\n" in text
    assert "    of teacher.native:\n  --teacher.path path (required)\n" in text


def test_a_topic_of_both_tasks_is_shown_once_where_they_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "--help", "seed").count("--seed int = 0") == 1
    assert answer(capsys, "--help", "data").count("task: ") == 3
    assert "--pipeline.denoiser dict" in answer(capsys, "--help", "pipeline")
    assert "task: train_teacher" in answer(capsys, "--help", "label_dropout")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help", "genrator.ema"], "'genrator.ema' is no topic of --help; did you mean 'generator.ema'?"),
        (["--help", "lr"], "'lr' is no topic of --help; did you mean 'generator.optimizer.lr'?"),
        (["--help", "diffusers"], "'diffusers' is no topic of --help; did you mean 'teacher.diffusers'?"),
        (
            ["--help", "q"],
            "'q' is no topic of --help; expected one of: all, data, discriminator, ema, fake, ",
        ),
        (
            ["--help", "fake", "ratio"],
            "'ratio': unexpected after --help; expected one topic, such as generator",
        ),
        ([DMD2, "--help", "tems"], f"'tems' is no topic of {DMD2}; did you mean 'terms'?"),
        (["--steps", "9", "--help"], "'--steps' stands where the configuration should; expected a YAML file"),
        ([DMD2, "--stepps", "9", "--help"], f"{DMD2}: unknown key 'stepps'; did you mean 'steps'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_it_does_not_know_is_one_line_with_the_nearest_right_name(
    arguments: list[str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        train.main(arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_unknown_topic_ends_with_exit_code_2() -> None:
    done = subprocess.run([sys.executable, "train.py", "--help", "teachr"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: 'teachr' is no topic of --help; did you mean 'teacher'?\n"
    assert done.stdout == ""


def test_a_configuration_shows_its_values_and_marks_what_differs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = answer(capsys, DMD2, "--help").splitlines()
    assert lines[0] == f"{DMD2}: * marks values that differ from the default or have no default."
    values = {line[2:].split()[0]: " ".join(line.split()) for line in lines[1:]}
    assert values["steps"] == "* steps 600 (no default)"
    assert values["batch_size"] == "batch_size 64"
    assert values["generator.ema"] == "* generator.ema 0.99 (default 0.999)"
    assert values["generator.noise_levels.name"] == "generator.noise_levels.name karras"
    assert values["fake.optimizer.betas"] == "fake.optimizer.betas [0, 0.999]"
    assert values["data.name"] == "* data.name digits (default null)"
    assert values["discriminator"] == "* discriminator {...} (default null)"
    assert values["ratio"] == "ratio null"
    assert values["terms"] == "* terms [gan] (default [])"
    assert values["terms.0.weight"] == "* terms.0.weight 0.5 (no default)"
    assert "teacher_samples.count" not in values


def test_a_choice_other_than_the_default_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = answer(capsys, DMD2, "--fake.noise_levels", "{name: karras}", "--help", "fake.noise_levels")
    assert "* fake.noise_levels.name       karras  (default lognormal)\n" in text
    assert "\n  fake.noise_levels.rho        7\n" in text


def test_a_configuration_and_a_topic_show_values_with_their_texts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = answer(capsys, DMD2, "--help", "generator.ema")
    lines = text.splitlines()
    assert lines[1] == "* generator.ema  0.99  (default 0.999)"
    assert lines[2].startswith(
        "        Decay of the exponential moving average (EMA) of the student's weights, "
    )


def test_a_configuration_and_all_show_every_value_with_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    values = answer(capsys, DMD2, "--help").splitlines()
    with_texts = answer(capsys, DMD2, "--help", "all").splitlines()
    assert [line for line in with_texts if not line.startswith("        ")] == values
    assert len(with_texts) > 2 * len(values)


@pytest.mark.parametrize("topic", ["terms", "terms.0", "terms.gan", "terms.gan.weight", "terms.weight"])
def test_a_topic_reaches_into_the_lists_of_a_configuration(
    capsys: pytest.CaptureFixture[str], topic: str
) -> None:
    text = answer(capsys, DMD2, "--help", topic)
    assert "\n* terms.0.weight" in text
    assert "generator." not in text


def test_a_text_that_entries_of_a_list_share_stands_there_once(capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "configs/lab/exact_ring.yaml", "--help", "teacher")
    assert text.count("\n* teacher.components.") == 16
    assert text.count("        Standard deviation") == 1


def test_the_glossary_is_in_alphabetical_order_and_names_topics(capsys: pytest.CaptureFixture[str]) -> None:
    text = GLOSSARY.read_text(encoding="utf-8")
    words = [word.lower().replace("-", " ") for word in re.findall(r"^\*\*(.+?)\*\*", text, re.MULTILINE)]
    assert words == sorted(words)
    for topic in re.findall(r"\(`([a-z_.0-9]+)`\)", text):
        assert f"--{topic} " in answer(capsys, "--help", topic)
