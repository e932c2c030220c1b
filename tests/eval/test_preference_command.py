"""`python -m eval preference` from its arguments to its files, on tiny models of the classes that real ones have."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import distill
from distill.config.errors import UserError
from distill.data.image_files import ENDINGS
from distill.data.images import from_bytes, to_bytes
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import sample_generator, sample_teacher
from distill.networks.diffusers.pipeline import open_pipeline
from distill.networks.few_step_generator import FewStepGenerator
from distill.publishing.export import export_generator
from distill.rewards import of_name
from distill.types import Condition
from eval.__main__ import main
from eval.images.pipelines import PipelineImages
from eval.images.streams import NetworkImages
from sample import main as sample
from tests.helpers import small_rewards, tiny_pipelines
from tests.helpers import tiny_reward_networks as tiny_networks
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.small_rewards import LOADED

LINES = "Prompt\tCategory\na cat\tanimals\na dog and a cat\tanimals\na house\tplaces\n"
TEXTS = ("a cat", "a dog and a cat", "a house")


@pytest.fixture(autouse=True)
def _small_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    LOADED.clear()
    monkeypatch.setattr("eval.preference.score_names.of_name", small_rewards.of_name)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline, and a run whose student is that pipeline's network entered once."""
    root = tmp_path_factory.mktemp("models")
    tiny_pipelines.stable_diffusion(root / "pipe", kind="DDIMScheduler", clip_sample=False)
    (root / "run" / "export").mkdir(parents=True)
    export_generator(FewStepGenerator(distill.load_teacher(root / "pipe"), 80.0), root / "run" / "export")
    teacher = {"name": "diffusers", "path": str(root / "pipe")}
    objective = {"name": "distribution_matching", "divergence": "reverse_kl"}
    config = {
        "task": "distill",
        "run_dir": str(root / "run"),
        "steps": 1,
        "teacher": teacher,
        "objective": objective,
    }
    (root / "run" / "config.yaml").write_text(
        yaml.safe_dump({**config, "prompts": {"name": "text_file", "path": "prompts.txt"}})
    )
    (root / "prompts.tsv").write_text(LINES)
    return root


def preference(store: Path, *arguments: str, scores: str = "brightness") -> dict[str, Any]:
    main(
        [
            "preference",
            *arguments,
            "--scores",
            scores,
            "--device",
            "cpu",
            "--store",
            str(store / "store"),
            "--out",
            str(store / "result.json"),
        ]
    )
    return json.loads((store / "result.json").read_text())


def brightness(images: Tensor, prompts: tuple[str, ...] = TEXTS) -> list[float]:
    letters = torch.tensor([len(prompts[row % len(prompts)]) for row in range(len(images))])
    return (from_bytes(images).mean((1, 2, 3)) + letters / 100).tolist()


def test_a_pipeline_and_its_images_reused_by_another_score(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []
    call = PipelineImages._call
    monkeypatch.setattr(
        PipelineImages, "_call", lambda self, rows: calls.append(len(rows)) or call(self, rows)
    )
    arguments = [
        "--pipeline",
        str(models / "pipe"),
        "--steps",
        "2",
        "--prompts",
        str(models / "prompts.tsv"),
        "--per-prompt",
        "2",
        "--seed",
        "7",
    ]
    first = preference(tmp_path, *arguments)
    assert calls == [6]
    pipe = open_pipeline(str(models / "pipe"), "--pipeline")
    own = torch.stack([*PipelineImages(pipe, 6, 7, TEXTS, 6, num_inference_steps=2).read(range(6))])  # type: ignore[list-item]
    calls.clear()
    expected = brightness(own)
    found = first["scores"]["brightness"]
    assert found["values"] == pytest.approx(expected, abs=1e-6)
    means = [(expected[row] + expected[row + 3]) / 2 for row in range(3)]
    assert found["mean"] == pytest.approx(sum(means) / 3)
    assert found["standard_error"] == pytest.approx(torch.tensor(means).std().item() / math.sqrt(3), rel=1e-4)
    assert found["by_category"]["animals"]["mean"] == pytest.approx((means[0] + means[1]) / 2)
    assert (first["seeds"], first["per_prompt"], first["prompts"]["texts"]) == (
        [7, 8, 9, 10, 11, 12],
        2,
        list(TEXTS),
    )
    assert first["subject"]["settings"] == {"num_inference_steps": 2}
    both = preference(tmp_path, *arguments, scores="brightness,brightness2")
    assert calls == []
    assert len(LOADED[0.0].asked) == 1
    assert len(LOADED[2.0].asked) == 1
    assert both["scores"]["brightness2"]["mean"] == pytest.approx(found["mean"] + 2, abs=1e-6)
    assert both["subject"]["images_sha256"] == first["subject"]["images_sha256"]
    assert both["scores"]["brightness2"]["weights_sha256"] != found["weights_sha256"]
    printed = capsys.readouterr().out
    assert (
        f"prompts, 3 prompts, 2 images each, seeds 7 to 12: the StableDiffusionPipeline in {models}/pipe, steps 2\n"
        in printed
    )
    assert f"brightness   {found['mean']:.4f} ± {found['standard_error']:.4f}\n" in printed
    hashes = f"weights {found['weights_sha256'][:12]}, prompts {first['prompts']['sha256'][:12]}, images {first['subject']['images_sha256'][:12]}"
    line = f"brightness {found['mean']:.4f} ± {found['standard_error']:.4f}; prompts, 3 prompts, 2 images each, seeds 7 to 12; {hashes}, commit "
    assert line in printed
    with Image.open(tmp_path / "result-brightness2.png") as sheet:
        assert sheet.width > 3 * 168


def test_a_run_against_its_teacher(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--run",
        str(models / "run"),
        "--against",
        "teacher",
        "--against-steps",
        "2",
        "--prompts",
        str(models / "prompts.tsv"),
    ]
    results = preference(tmp_path, *arguments)
    student, teacher = distill.load_generator(models / "run"), distill.load_teacher(models / "pipe")
    cond = student.encode_prompts(TEXTS)
    sides = [
        brightness(to_bytes(sample_generator(student, range(3), cond))),
        brightness(to_bytes(sample_teacher(teacher, range(3), cond, Heun(steps=2)))),
    ]
    found = results["scores"]["brightness"]
    assert found["values"] == pytest.approx(sides[0], abs=2 / 255)
    assert found["against"]["values"] == pytest.approx(sides[1], abs=2 / 255)
    wins = sum(a > b for a, b in zip(found["values"], found["against"]["values"], strict=True))
    assert found["against"]["win_rate"] == pytest.approx(wins / 3)
    assert found["against"]["difference"] == pytest.approx(found["mean"] - found["against"]["mean"])
    assert results["against"]["sampler"]["steps"] == 2
    assert results["subject"]["model"]["init_noise_to_signal"] == 80.0
    assert (
        f"the student in {models}/run against the teacher in {models}/run, steps 2\n"
        in capsys.readouterr().out
    )
    swapped = preference(
        tmp_path,
        "--teacher",
        str(models / "pipe"),
        "--steps",
        "2",
        "--against",
        f"run:{models / 'run'}",
        "--prompts",
        str(models / "prompts.tsv"),
    )
    assert swapped["scores"]["brightness"]["against"]["win_rate"] == pytest.approx(1 - wins / 3)
    assert swapped["subject"]["images_sha256"] == results["against"]["images_sha256"]
    main(
        [
            "preference",
            *arguments,
            "--scores",
            "brightness",
            "--device",
            "cpu",
            "--store",
            str(tmp_path / "store"),
        ]
    )
    own = json.loads((models / "run" / "preference.json").read_text())  # a run's results go into its folder
    assert own["scores"]["brightness"].pop("sheet") == "preference-brightness.png"
    assert results["scores"]["brightness"].pop("sheet") == "result-brightness.png"
    assert own == results
    assert (models / "run" / "preference-brightness.png").is_file()


def test_images_of_sample_py_against_a_run(models: Path, tmp_path: Path) -> None:
    """The images of the folder decide the prompts; the same student makes the same images, so that all pairs tie."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(TEXTS))
    made = [
        "--run",
        str(models / "run"),
        "--prompts",
        str(prompts),
        "--n",
        "6",
        "--seed",
        "4",
        "--out",
        str(tmp_path / "samples"),
        "--device",
        "cpu",
    ]
    sample(made)
    images = ["--images", str(tmp_path / "samples"), "--against", f"run:{models / 'run'}"]
    results = preference(tmp_path, *images, "--seed", "4")
    assert (results["prompts"]["set"], results["prompts"]["texts"], results["per_prompt"]) == (
        "samples",
        list(TEXTS),
        2,
    )
    assert results["seeds"] == [4, 5, 6, 7, 8, 9]
    assert results["scores"]["brightness"]["against"]["win_rate"] == 0.5
    assert results["scores"]["brightness"]["against"]["difference"] == 0
    assert results["subject"]["images_sha256"] == results["against"]["images_sha256"]
    with pytest.raises(
        UserError, match=r"^--against: image 0 of 'a cat' has seed 0; expected 4 as the first subject's"
    ):
        preference(tmp_path, *images)


def test_labels_of_a_model_without_text(tmp_path: Path) -> None:
    network = save_random_teacher(tmp_path / "teacher")
    arguments = ["--teacher", str(tmp_path / "teacher"), "--steps", "2", "--per-prompt", "2"]
    results = preference(
        tmp_path, *arguments, "--prompts", "labels:10", scores="classifier:assets/digits-classifier"
    )
    cond = Condition(torch.arange(20) % 10)
    images = to_bytes(sample_teacher(network, range(20), cond, Heun(steps=2)))
    expected = of_name("classifier", path="assets/digits-classifier").load()(from_bytes(images), cond)
    found = results["scores"]["classifier"]
    assert found["values"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert found["by_category"]["label 3"]["mean"] == pytest.approx((expected[3] + expected[13]).item() / 2)
    assert results["independent"] == found["by_category"]["label 3"]["count"] * 10 == 20
    assert (found["title"], found["files"]) == ("log p(label)", {"path": "assets/digits-classifier"})
    with pytest.raises(
        UserError, match=r"^--teacher: .*teacher takes no text; expected --prompts labels:10, all of them$"
    ):
        preference(tmp_path, *arguments, "--prompts", "labels:4")
    with pytest.raises(
        UserError, match=r"^--teacher: .*teacher takes no text; expected --prompts labels:10, all of them$"
    ):
        preference(tmp_path, *arguments)


def test_text_is_not_given_labels(models: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^--run: .*run takes text; expected a file of prompts, not labels:3$"
    ):
        preference(tmp_path, "--run", str(models / "run"), "--prompts", "labels:3")
    with pytest.raises(
        UserError, match=r"^--prompts: the StableDiffusionPipeline takes text; expected a file of prompts$"
    ):
        preference(tmp_path, "--pipeline", str(models / "pipe"), "--prompts", "labels:3")


def test_a_part_of_the_list_is_named(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = preference(tmp_path, "--run", str(models / "run"), "--n", "2")
    assert results["prompts"]["departures"] == ["2 of its 80 prompts, the first"]
    label = "not distill-80 (2 of its 80 prompts, the first), 2 prompts, an image each, seeds 0 to 1"
    assert f"{label}: the student in {models}/run\n" in capsys.readouterr().out


def test_an_interrupted_command_goes_on(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--run", str(models / "run"), "--n", "5", "--batch-size", "2"]
    one_batch, sampled = NetworkImages._sample, []

    def failing(self: NetworkImages, rows: Any) -> Tensor:
        if len(sampled) == 2:
            raise KeyboardInterrupt
        sampled.append(list(rows))
        return one_batch(self, rows)

    monkeypatch.setattr(NetworkImages, "_sample", failing)
    with pytest.raises(KeyboardInterrupt):
        preference(tmp_path, *arguments)
    assert sampled == [[0, 1], [2, 3]]
    sampled.clear()
    preference(tmp_path, *arguments)
    assert sampled == [[4]]
    sampled.clear()
    preference(tmp_path, *arguments, "--dtype", "bfloat16", "--batch-size", "5")
    assert sampled == [[0, 1, 2, 3, 4]]  # other arithmetic, other images


@pytest.mark.slow
def test_two_processes(models: Path, tmp_path: Path) -> None:
    one = preference(tmp_path, "--run", str(models / "run"), "--n", "7", "--batch-size", "2")
    program = "import sys, eval.preference.score_names as rewards; from tests.eval import small_rewards; rewards.of_name = small_rewards.of_name; "
    program += "from eval.__main__ import main; main(sys.argv[1:])"
    (tmp_path / "two.py").write_text(program)
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "--",
        str(tmp_path / "two.py"),
        "preference",
    ]
    arguments = [
        "--run",
        str(models / "run"),
        "--n",
        "7",
        "--batch-size",
        "2",
        "--scores",
        "brightness",
        "--device",
        "cpu",
    ]
    out = ["--store", str(tmp_path / "others"), "--out", str(tmp_path / "two.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "."}
    done = subprocess.run(
        [*launcher, *arguments, *out], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["subject"].pop("folder") != one["subject"].pop("folder")
    assert two["scores"]["brightness"].pop("sheet") != one["scores"]["brightness"].pop("sheet")
    assert two == one
    assert {file.name for file in (tmp_path / "others").glob("*/scores/*/*.jsonl")} == {"0.jsonl", "1.jsonl"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "none of them: expected one of --run, --teacher, --pipeline and --images"),
        (
            ["--run", "a", "--images", "b"],
            "--run and --images: expected one of --run, --teacher, --pipeline and --images",
        ),
        (["--run", "a", "--steps", "3"], "--steps: goes with a teacher or a pipeline only"),
        (
            ["--run", "a", "--against", "images:b", "--against-guidance", "3"],
            "--against-guidance: goes with a teacher or a pipeline only",
        ),
        (
            ["--run", "a", "--against-steps", "3"],
            "--against-steps and --against-guidance: go with --against only",
        ),
        (
            ["--run", "a", "--against", "pipelin:b"],
            "--against pipelin:b: 'pipelin' is no kind of subject; did you mean 'pipeline'?",
        ),
        (
            ["--run", "a", "--against", "b"],
            "--against b: expected run:PATH, teacher:PATH, pipeline:PATH, images:PATH, or teacher for the run's own",
        ),
        (
            ["--pipeline", "a", "--against", "teacher"],
            "--against teacher: goes with --run, whose teacher it is; expected teacher:PATH",
        ),
        (["--run", "a", "--draw", "3"], "--draw: goes with --n, how many prompts to draw"),
        (["--run", "a", "--n", "0"], "--n 0: expected at least 1"),
        (["--run", "a", "--n", "81"], "--n 81: distill holds 80 prompts; expected at most as many"),
        (["--run", "a", "--prompts", "none.txt"], "--prompts none.txt: no such file or folder"),
        (["--run", "a", "--out", "nowhere/x.json"], "--out nowhere/x.json: nowhere is no folder"),
        (["--run", "nowhere"], "nowhere: no such folder; expected a run, a checkpoint or an export"),
        (
            ["--pipeline", "tests"],
            "--pipeline: tests holds no model_index.json; expected the folder of a diffusers pipeline",
        ),
        (
            ["--images", "tests"],
            "tests: holds no image; expected files ending in " + ", ".join(sorted(ENDINGS)),
        ),
        (["--run", "a", "--scores", "pickscor"], "'pickscor' is no score; did you mean 'pickscore'?"),
        (["--run", "a", "--scores", "hpsv2,hpsv2"], "--scores hpsv2,hpsv2: names hpsv2 twice"),
        (
            ["--run", "a", "--weights", "brigthness=x"],
            "--weights brigthness=x: 'brigthness' is none of the scores; did you mean 'brightness'?",
        ),
        (
            ["--run", "a", "--weights", "brightness"],
            "--weights brightness: expected NAME=PATH or NAME.SETTING=VALUE, such as pickscore=models/pickscore",
        ),
        (["--run", "a", "--scores", "classifier"], "classifier: path: is missing"),
        (
            ["--run", "a", "--scores", "clipscore", "--weights", "clipscore.scal=1"],
            "clipscore: unknown key 'scal'; did you mean 'scale'?",
        ),
        (["--run", "a", "--perprompt", "3"], "'--perprompt': unknown argument; did you mean '--per-prompt'?"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    scores = [] if "--scores" in arguments else ["--scores", "brightness"]
    with pytest.raises(UserError) as caught:
        main(["preference", *arguments, *scores])
    assert str(caught.value) == message


def test_settings_of_scores_from_the_command_line(models: Path, tmp_path: Path) -> None:
    arguments = [
        "--run",
        str(models / "run"),
        "--n",
        "1",
        "--weights",
        "brightness.bias=3",
        "--weights",
        "brightness2=somewhere",
    ]
    results = preference(tmp_path, *arguments, scores="brightness,brightness2")
    assert results["scores"]["brightness"]["settings"] == {"bias": 3.0}
    assert results["scores"]["brightness"]["mean"] == pytest.approx(
        results["scores"]["brightness2"]["mean"] + 1
    )
    assert results["scores"]["brightness2"]["files"] == {"path": "somewhere"}
    with pytest.raises(UserError, match=r"^brightness.path: nowhere holds no weights$"):
        preference(tmp_path, "--run", str(models / "run"), "--n", "1", "--weights", "brightness=nowhere")


def test_rewards_of_clip_in_their_conventions(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Networks of random weights; two scores of one network are one times the other."""
    clip = str(tiny_networks.clip(tmp_path / "clip"))
    weights = [f"pickscore={clip}", f"pickscore.processor={clip}", f"clipscore={clip}"]
    arguments = ["--pipeline", str(models / "pipe"), "--steps", "2", "--prompts", str(models / "prompts.tsv")]
    results = preference(
        tmp_path,
        *arguments,
        *(word for text in weights for word in ("--weights", text)),
        scores="pickscore,clipscore",
    )
    pick, cosine = (results["scores"][name] for name in ("pickscore", "clipscore"))
    scale = of_name("pickscore", path=clip, processor=clip).load().scale
    stream = PipelineImages(
        open_pipeline(str(models / "pipe"), "--pipeline"), 3, 0, TEXTS, num_inference_steps=2
    )
    made = torch.stack([*stream.read(range(3))])  # type: ignore[list-item]
    reward = of_name("clipscore", path=clip).load()
    assert cosine["values"] == pytest.approx(
        reward(from_bytes(made), tiny_networks.prompted(*TEXTS)).tolist(), abs=1e-5
    )
    assert pick["values"] == pytest.approx([scale * value for value in cosine["values"]], rel=1e-5)
    rows = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert f"PickScore / 100 {pick['mean'] / 100:.4f} ± {pick['standard_error'] / 100:.4f}" in rows
    assert (
        f"CLIPScore, cosine x 100 {100 * cosine['mean']:.4f} ± {100 * cosine['standard_error']:.4f}" in rows
    )
    assert f"clipscore: CLIPScore: how well an image fits its prompt. (path {clip}, scale cosine)" in rows


def edit(path: Path, **changes: Any) -> None:
    """Change settings of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def other_mean(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])


def other_crop(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", size={"shortest_edge": 30})


def other_words(folder: Path) -> None:
    """Two letters change places."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["a</w>"], words["b</w>"] = words["b</w>"], words["a</w>"]
    path.write_text(json.dumps(content))


def other_activation(folder: Path) -> None:
    """Of the same weights."""
    content = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", vision_config={**content["vision_config"], "hidden_act": "relu"})


def other_scale(folder: Path) -> None:
    """A weight that belongs to neither half of the network."""
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {**tensors, "logit_scale": tensors["logit_scale"] + 0.5},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_mean, "preparation.mean"),
        (other_crop, "preparation.resize"),
        (other_words, "tokenizer_sha256"),
        (other_activation, "vision.hidden_act"),
        (other_scale, "scale"),
    ],
)
def test_a_stored_score_is_of_the_reward_as_it_is_on_disk(
    change: Any, named: str, models: Path, tmp_path: Path
) -> None:
    """Nothing but one setting of a file changes, and no path: the old store gives what a new one does, and the two are not compared."""
    clip = tiny_networks.clip(tmp_path / "clip")
    weights = ["--weights", f"pickscore={clip}", "--weights", f"pickscore.processor={clip}"]
    arguments = [
        "--pipeline",
        str(models / "pipe"),
        "--steps",
        "2",
        "--prompts",
        str(models / "prompts.tsv"),
        *weights,
    ]

    def values(store: str) -> list[float]:
        (tmp_path / store).mkdir(exist_ok=True)
        return preference(tmp_path / store, *arguments, scores="pickscore")["scores"]["pickscore"]["values"]

    before = values("one")
    (tmp_path / "one" / "result.json").rename(tmp_path / "before.json")
    change(clip)
    after = values("one")
    assert after == pytest.approx(values("two"), abs=1e-6)
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) > 1e-3
    with pytest.raises(
        UserError,
        match=rf"result.json: {named} of pickscore is .*; expected .* as in .*before.json, scores of different ones",
    ):
        main(["compare", str(tmp_path / "before.json"), str(tmp_path / "one" / "result.json")])


def other_prediction(folder: Path) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")


def other_latents(folder: Path) -> None:
    edit(folder / "vae" / "config.json", scaling_factor=0.7)


def other_text_activation(folder: Path) -> None:
    edit(folder / "text_encoder" / "config.json", hidden_act="relu")


def other_words_of_a_pipeline(folder: Path) -> None:
    other_words(folder / "tokenizer")


@pytest.mark.parametrize(
    "change", [other_prediction, other_latents, other_text_activation, other_words_of_a_pipeline]
)
@pytest.mark.parametrize("kind", ["pipeline", "teacher"])
def test_stored_images_are_of_the_pipeline_as_it_is_on_disk(
    kind: str, change: Any, models: Path, tmp_path: Path
) -> None:
    """Settings beside the weights, or words, change in place: the old store gives what a new one does."""
    pipe = shutil.copytree(models / "pipe", tmp_path / "pipe")
    _old_store_gives_what_a_new_one_does(
        [f"--{kind}", str(pipe), "--steps", "2", "--prompts", str(models / "prompts.tsv")],
        change,
        pipe,
        tmp_path,
    )


def test_stored_images_are_of_the_teachers_own_settings(tmp_path: Path) -> None:
    """`sigma_data` is no weight."""
    save_random_teacher(tmp_path / "teacher")

    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        edit(folder / "config.json", network={**content["network"], "sigma_data": 2.0})

    arguments = ["--teacher", str(tmp_path / "teacher"), "--steps", "2", "--prompts", "labels:10"]
    _old_store_gives_what_a_new_one_does(arguments, change, tmp_path / "teacher", tmp_path)


def test_stored_images_of_a_run_are_of_its_own_settings(models: Path, tmp_path: Path) -> None:
    """A student's export is a pipeline, whose autoencoder is another afterwards."""
    run = shutil.copytree(models / "run", tmp_path / "run")
    _old_store_gives_what_a_new_one_does(
        ["--run", str(run), "--prompts", str(models / "prompts.tsv")], other_latents, run / "export", tmp_path
    )


def _old_store_gives_what_a_new_one_does(
    arguments: list[str], change: Any, changed: Path, tmp_path: Path
) -> None:
    def hashes(store: str) -> str:
        (tmp_path / store).mkdir(exist_ok=True)
        score = "classifier:assets/digits-classifier" if "labels:10" in arguments else "brightness"
        return preference(tmp_path / store, *arguments, scores=score)["subject"]["images_sha256"]

    before = hashes("one")
    assert hashes("one") == before
    change(changed)
    after = hashes("one")
    assert after == hashes("two")
    assert after != before
