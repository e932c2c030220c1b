"""Rendered text: what prompts quote, the rules beside independent implementations, and the command."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import to_pil
from distill.eval.__main__ import main
from distill.eval.composition.rendered_text.rules import (
    compare_words,
    count_matches,
    edit_distance,
    has_every_text,
    similarity,
)
from distill.eval.composition.rendered_text.targets import quoted, read_targets
from tests.helpers.preference_runs import save_models
from tests.helpers.tiny_vision_language import chat_model


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('a sign that says "Open late" above "24 h"', ["Open late", "24 h"]),
        ("a poster with \u201cHello\u201d and \u2018bye\u2019", ["Hello", "bye"]),
        ("the dog's sign reads 'no dogs' in Tom's garden", ["no dogs"]),
        ("\u4e00\u5757\u724c\u5b50\u5199\u7740\u300c\u6b22\u8fce\u300d", ["\u6b22\u8fce"]),
        ("nothing in it", []),
    ],
)
def test_quoted_texts(prompt: str, texts: list[str]) -> None:
    assert quoted(prompt) == texts


def write(folder: Path, name: str, content: Any) -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def test_targets_of_each_list(tmp_path: Path) -> None:
    lines = write(tmp_path, "p.txt", 'a sign "A b"\na cake with "c"\n')
    assert read_targets(lines, None)[1] == [["A b"], ["c"]]
    rows = [
        {"prompt_id": 0, "prompt": "a long page", "text": ["One two.", "three"], "category": "book"},
        {"prompt_id": 1, "prompt": "a sign", "text": "four", "category": "sign"},
    ]
    source = write(tmp_path, "text_prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    prompts, targets = read_targets(source, None)
    assert targets == [["One two.", "three"], ["four"]]
    assert (prompts.name, list(prompts.categories)) == ("longtext", ["book", "sign"])
    assert prompts.departures == ("2 prompts, not 160",)
    cvtg = {"data_list": [{"index": 0, "prompt": "a wall with 'Big Sale' and 'Now'", "carrier_list": []}]}
    prompts, targets = read_targets(write(tmp_path, "2.json", cvtg), None)
    assert targets == [["Big Sale", "Now"]]
    assert (prompts.name, prompts.departures) == ("cvtg", ("1 prompts, not 2000",))


def test_lists_without_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'a cat' quotes no text; expected prompts such as a sign that says"):
        read_targets(write(tmp_path, "p.txt", 'a sign "A"\na cat\n'), None)
    row = {"prompt_id": 0, "prompt": "a", "text": [3]}
    with pytest.raises(UserError, match=r"row 1 has \[3\] for text; expected a list of texts"):
        read_targets(write(tmp_path, "l.jsonl", json.dumps(row)), None)
    for texts in ([], ["open", " "]):
        source = write(tmp_path, "l.jsonl", json.dumps({**row, "text": texts}))
        with pytest.raises(UserError) as raised:
            read_targets(source, None)
        assert str(raised.value) == (
            f"--prompts {source}: row 1 has {texts!r} for text; expected a list of texts"
        )
    with pytest.raises(UserError, match="are labels; expected prompts that quote text"):
        read_targets("labels:10", None)
    with pytest.raises(UserError, match="entry 1 has None for a prompt; expected text"):
        read_targets(write(tmp_path, "c.json", {"data_list": [{"index": 0}]}), None)


def expected_distance(first: str, second: str) -> int:
    """Return the edit distance by its recursive definition."""

    @functools.cache
    def of(a: int, b: int) -> int:
        if a == 0 or b == 0:
            return a + b
        if first[a - 1] == second[b - 1]:
            return of(a - 1, b - 1)
        return 1 + min(of(a - 1, b), of(a, b - 1), of(a - 1, b - 1))

    return of(len(first), len(second))


def test_edit_distances_equal_their_definition() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    draw = np.random.default_rng(0)
    for _ in range(300):
        first, second = ("".join(draw.choice(list("abc"), size=draw.integers(0, 9))) for _ in range(2))
        assert edit_distance(first, second) == expected_distance(first, second)


def test_edit_distances_equal_those_of_torchmetrics() -> None:
    from torchmetrics.functional.text import edit_distance as others

    draw = np.random.default_rng(1)
    words = ["".join(draw.choice(list("lorem "), size=12)) for _ in range(40)]
    pairs = list(zip(words[:20], words[20:], strict=True))
    expected = [int(others([first], [second], reduction="sum")) for first, second in pairs]
    assert [edit_distance(first, second) for first, second in pairs] == expected


def test_words_are_compared_by_the_rules_of_cvtg() -> None:
    found = compare_words(["Grand Opening", "SALE"], "grand\nopning sale sale")
    assert found[:2] == (3, 2)
    assert found.similarity == pytest.approx(1 + (1 - 1 / 7) + 1, abs=1e-4)  # a letter of opening is missing
    assert similarity("abc", "abc") == 1
    assert similarity("abc", "xyz") == pytest.approx(1 - 3 / (3 + 1e-5))
    assert compare_words(["a"], "") == (1, 0, pytest.approx(0, abs=1e-4))


def test_matches_are_counted_by_the_rules_of_longtext_bench() -> None:
    assert count_matches(["To be, or not", "to be!"], "to be to sea: or", False) == (4, 6)
    assert count_matches(["caf\u00e9 \u00a9 24"], "CAF\u00c9 24", False) == (2, 2)
    assert count_matches(["\u6b22\u8fce\u6b22"], "\u8fce \u6b22a", True) == (2, 3)
    assert count_matches(["..."], "...", False) == (0, 0)


def test_whole_texts() -> None:
    assert has_every_text(["Grand opening", "now"], "NOW: grand\nopening!", False)
    assert not has_every_text(["Grand opening"], "grand final opening", False)
    assert has_every_text(["\u6b22\u8fce"], "\u6b22 \u8fce", True)
    assert not has_every_text(["\u041c\u0438\u0440"], "\u041c\u0430\u0439", False)


KNOWN = ("OPEN", "OPEM", "GRAND SALE", "SALE")


class LineReader:
    """Reads text that was drawn with Pillow's default font, by comparing it with all that it knows."""

    def __init__(self) -> None:
        self.calls = 0
        self.identity: dict[str, object] = {"stand-in": "lines"}

    def read(self, image: Tensor) -> str:
        self.calls += 1
        drawn = np.asarray(to_pil(image).convert("L"), dtype=float)
        errors = {text: np.abs(np.asarray(write_text(text).convert("L")) - drawn).sum() for text in KNOWN}
        best = min(errors, key=lambda text: errors[text])
        return best if errors[best] == 0 else ""


def write_text(text: str) -> Image.Image:
    image = Image.new("RGB", (120, 40), "white")
    ImageDraw.Draw(image).text((10, 10), text, "black")
    return image


def test_drawn_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = LineReader()
    module = "distill.eval.composition.rendered_text.benchmark"
    monkeypatch.setattr(f"{module}.check_reader", lambda *_: None)
    monkeypatch.setattr(f"{module}.open_reader", lambda *_: reader)
    images = tmp_path / "images"
    images.mkdir()
    for number, text in enumerate(["OPEN", "GRAND SALE", "OPEM", "SALE"]):
        write_text(text).save(images / f"{number}.png")
    prompts = write(tmp_path, "p.txt", 'a sign "Open"\na poster "Grand Sale"\n')
    arguments = (
        f"text --images {images} --prompts {prompts} --per-prompt 2 --device cpu --out {tmp_path}/t.json"
    )
    main([*arguments.split(), "--store", f"{tmp_path}/store"])
    results = json.loads((tmp_path / "t.json").read_text())
    assert [one["score"] for one in results["images"]] == [1, 1, 0, 0.5]
    assert results["images"][2]["reason"] == "read 'OPEM'"
    values = {name: one["value"] for name, one in results["measures"].items()}
    assert values["word_accuracy"] == pytest.approx(4 / 6)
    near = [1, 1, 1, 1 - 1 / 4, 1 - 4 / 5, 1]  # GRAND is nearest to SALE
    assert values["edit_similarity"] == pytest.approx(sum(near) / 6, abs=1e-4)
    assert values["text_score"] == pytest.approx(4 / 6)
    assert values["every_text"] == pytest.approx(2 / 4)
    assert results["prompts"]["departures"] == []
    assert "published numbers are by PaddleOCR for CVTG-2K" in capsys.readouterr().out
    assert reader.calls == 4


@pytest.mark.slow
def test_a_run_on_a_tiny_chat_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.eval.composition.answering.chat.READ_TOKENS", 8)
    models = save_models(tmp_path)
    chat_model(tmp_path / "reader", "qwen2_5_vl")
    prompts = write(tmp_path, "p.txt", 'a sign "Open"\na poster "Grand Sale"\n')
    networks = f"--ocr {tmp_path}/reader --ocr-dtype bfloat16"
    arguments = (
        f"text --run {models}/run --prompts {prompts} {networks} --device cpu --store {tmp_path}/store"
    )
    main([*arguments.split(), "--n", "1"])
    results = json.loads((models / "run" / "text.json").read_text())
    assert results["examiner"]["reader"]["request"].startswith("Recognize the text in the image")
    assert results["measures"]["word_accuracy"]["count"] == 1
