"""The header of a model card has the licence of the teacher's card, and cards name the published method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from distill.publishing import export
from distill.publishing.hub import fetch_card
from distill.publishing.model_card import write_card
from distill.publishing.model_card.licence import Licence, read_licence
from distill.publishing.run_record import published_method, read_yaml, say_method
from distill.training.config import read_config
from tests.helpers.exported import own_student, run_of

TEACHER = {"name": "diffusers", "path": "owner/teacher", "revision": None}
OPENRAIL = "---\nlicense: openrail++\ntags: [a]\n---\n# Teacher\n"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of `owner/teacher` in an empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--owner--teacher"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (OPENRAIL, Licence("openrail++")),
        (
            "---\nlicense: other\nlicense_name: tongyi\nlicense_link: LICENSE.md\n---\n",
            Licence("other", "tongyi", "https://huggingface.co/owner/teacher/blob/main/LICENSE.md"),
        ),
        (
            "---\nlicense: other\nlicense_name: own\nlicense_link: https://example.com/terms\n---\n",
            Licence("other", "own", "https://example.com/terms"),
        ),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
        ("---\nlicense: null\n---\n", None),
        ("---\nlicense: [\n---\n", None),
        ("license: mit\n", None),
        ("", None),
    ],
)
def test_the_licence_is_the_one_that_the_card_of_the_teacher_states(
    hub_cache: Path, card: str, expected: Licence | None
) -> None:
    assert read_licence(TEACHER) is None
    (hub_cache / "README.md").write_text(card)
    assert read_licence(TEACHER) == expected


def test_the_licence_of_a_teacher_in_a_folder_is_that_of_its_card_or_of_its_index(tmp_path: Path) -> None:
    teacher = {"name": "diffusers", "path": str(tmp_path)}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "A", "license": "mit"}))
    assert read_licence(teacher) == Licence("mit")
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_link: LICENSE\n---\n")
    assert read_licence(teacher) == Licence("other")


def test_a_card_has_the_licence_in_its_header_and_a_sentence_on_it(tmp_path: Path) -> None:
    teacher = {"name": "native", "path": str(tmp_path / "a" / "teacher")}
    run = run_of(own_student("unet", tmp_path / "a"), tmp_path / "run", teacher)
    path = f"`{teacher['path']}`"

    def read_card() -> str:
        write_card(run / "export", run)
        return (run / "export" / "README.md").read_text()

    unknown = read_card()
    assert huggingface_hub.ModelCard(unknown).data.license is None
    assert f"No card of {path} that states a licence was found, so that this card states none." in unknown
    (tmp_path / "a" / "teacher" / "README.md").write_text(OPENRAIL)
    known = read_card()
    assert huggingface_hub.ModelCard(known).data.license == "openrail++"
    assert f"The card of {path} states the licence `openrail++`." in known


def test_the_card_of_a_teacher_on_the_hub_is_fetched_for_an_upload(
    tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, filename: str, revision: str | None) -> str:
        assert (name, filename, revision) == ("owner/teacher", "README.md", None)
        (hub_cache / filename).write_text(OPENRAIL)
        return str(hub_cache / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr("distill.publishing.hub.upload", lambda out, name, private: f"hub/{name}")
    run = run_of(own_student("unet", tmp_path / "a"), tmp_path / "run", TEACHER)
    export.main(["--run", str(run)])
    assert "license" not in (run / "export" / "README.md").read_text().split("---")[1]
    export.main(["--run", str(run), "--push-to-hub", "me/student"])
    card = (run / "export" / "README.md").read_text()
    assert card.startswith("---\nlicense: openrail++\nlibrary_name: diffusers\n")
    assert huggingface_hub.ModelCard(card).data.base_model == "owner/teacher"


def test_a_card_that_cannot_be_fetched_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    fetch_card(TEACHER)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", pytest.fail)
    fetch_card({"name": "native", "path": "owner/teacher"})


METHODS = {
    "decoupled_dmd": "Decoupled DMD",
    "di_plus_plus": "Diff-Instruct++",
    "di_star": "Diff-Instruct*",
    "diff_instruct": "Diff-Instruct",
    "dmd": "DMD",
    "dmd2": "DMD2",
    "dmd2_4_steps": "DMD2",
    "dmd2_alignment": "DMD2 with SenseFlow's alignment",
    "dp_dmd": "DP-DMD",
    "f_distill": "f-distill",
    "fd_loss": "FD-loss",
    "realuid": "RealUID",
    "sid": "SiD",
    "sid_anti_cfg": "few-step SiD",
    "sid_lsg": "SiD-LSG",
    "sid_zero_cfg": "few-step SiD",
    "sida": "SiDA",
    "sim": "SIM",
    "uni_instruct": "Uni-Instruct",
    "uni_instruct_long": "Uni-Instruct",
}


@pytest.mark.parametrize("preset", METHODS)
def test_the_preset_of_a_method_is_named_by_it(preset: str) -> None:
    path = Path("configs/digits") / f"{preset}.yaml"
    assert published_method(read_yaml(path)) == METHODS[preset]
    # The configuration in the folder of a run also has every default.
    assert published_method(read_config(path).model_dump(mode="json")) == METHODS[preset]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"objective": {"name": "distribution_matching", "divergence": "jensen_shannon"}}, None),
        ({"objective": {"name": "distribution_matching", "divergence": "reverse_kl"}}, None),
        (
            {
                "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
                "terms": [{"name": "gan"}],
            },
            "DMD2: distribution_matching (reverse_kl) + gan",
        ),
        (
            {
                "objective": {"name": "score_matching", "distance": "l2"},
                "generator": {"network": {"name": "scene"}},
            },
            None,
        ),
    ],
)
def test_another_combination_has_no_published_name(config: dict[str, Any], said: str | None) -> None:
    assert (None if published_method(config) is None else say_method(config)) == said
