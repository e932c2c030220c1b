"""Lists of prompts: a small file of each format, how formats are recognised, and files that are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from distill.config.errors import UserError
from distill.eval.prompt_sets import OWN, read_prompt_set
from distill.eval.prompt_sets.formats import Prompt

PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "bond\tAbstract\tBasic\tmany meanings\n"
    '"KEEP" on a sign\tArts\tComplex\t\n'
    "a boat \tVehicles\tBasic\n"
)
DRAWBENCH = 'Prompts,Category\r\nA red car.,Colors\r\n"A sign, that says ""hi"".",Text\r\n\r\n'
COCO = {
    "info": {},
    "images": [{"id": 9}, {"id": 4}],
    "annotations": [
        {"image_id": 9, "id": 31, "caption": "a late caption"},
        {"image_id": 4, "id": 12, "caption": "second of four"},
        {"image_id": 9, "id": 30, "caption": "a dog\n"},
        {"image_id": 4, "id": 11, "caption": " a cat. "},
    ],
}
MJHQ = {
    "0a": {"prompt": "a fox, 8k", "category": "animals"},
    "0b": {"prompt": "a hat", "category": "fashion"},
}


def write(folder: Path, name: str, content: Any) -> str:
    """Write text, or another value as JSON; return the path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def prompts(*arguments: Any, **settings: Any) -> list[tuple[str, str | None]]:
    """Return texts and categories of `read_prompt_set` with these arguments."""
    return [(prompt.text, prompt.category) for prompt in read_prompt_set(*arguments, **settings).prompts]


def test_parti_and_drawbench(tmp_path: Path) -> None:
    parti = read_prompt_set(write(tmp_path, "PartiPrompts.tsv", PARTI))
    assert parti.prompts == [
        Prompt("bond", "Abstract"),
        Prompt('"KEEP" on a sign', "Arts"),
        Prompt("a boat", "Vehicles"),
    ]
    assert (parti.name, parti.departures) == ("parti", ("3 prompts, not 1632",))
    assert read_prompt_set(write(tmp_path, "p.txt", PARTI)).name == "parti"  # known by its content
    drawbench = read_prompt_set(write(tmp_path, "drawbench.csv", DRAWBENCH))
    assert drawbench.prompts == [Prompt("A red car.", "Colors"), Prompt('A sign, that says "hi".', "Text")]
    assert (drawbench.name, drawbench.departures) == ("drawbench", ("2 prompts, not 200",))
    rows = "".join(f"prompt {i},Text\n" for i in range(200))
    assert read_prompt_set(write(tmp_path, "all.csv", f"Prompts,Category\n{rows}")).departures == ()


def test_parti_of_the_hub_is_parquet_and_only_its_text_is_read(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "Prompt": ["bond", " a boat"],
        "Category": ["Abstract", "Vehicles"],
        "Challenge": ["Basic", "Basic"],
        "Note": [None, "x"],
        "image": [b"", b""],
    }
    (tmp_path / "data").mkdir()
    parquet.write_table(pyarrow.table(columns), tmp_path / "data" / "train-00000.parquet")
    found = read_prompt_set(str(tmp_path))
    assert (found.name, found.prompts) == (
        "parti",
        [Prompt("bond", "Abstract"), Prompt("a boat", "Vehicles")],
    )
    parquet.write_table(pyarrow.table({"image": [b""], "size": [3]}), tmp_path / "other.parquet")
    expected = "expected a table .* with a column prompt, prompts"
    with pytest.raises(
        UserError, match=f"other.parquet: has no column of prompts among image, size; {expected}"
    ):
        read_prompt_set(str(tmp_path / "other.parquet"))


def test_hpsv2(tmp_path: Path) -> None:
    for style in ("photo", "anime", "paintings", "concept-art", "drawbench"):
        write(tmp_path, f"benchmark/{style}.json", [f"{style} 1", f"{style} 2"])
    found = read_prompt_set(str(tmp_path / "benchmark"))
    # DrawBench is not one of its styles.
    assert list(found.categories) == ["anime", "concept-art", "paintings", "photo"]
    assert found.prompts[:2] == [Prompt("anime 1", "anime"), Prompt("anime 2", "anime")]
    assert (found.name, found.departures) == ("hpsv2", ("8 prompts, not 3200",))
    assert prompts(str(tmp_path / "benchmark" / "photo.json")) == [("photo 1", "photo"), ("photo 2", "photo")]


def test_coco_takes_of_every_image_the_caption_of_the_lowest_id(tmp_path: Path) -> None:
    path = write(tmp_path, "captions_val2014.json", COCO)
    one = read_prompt_set(path)
    assert one.prompts == [Prompt("a cat."), Prompt("a dog")]
    assert (one.name, one.rule, one.departures) == (
        "coco",
        "one caption an image, that of the lowest id, by image",
        (),
    )
    every = read_prompt_set(path, all_captions=True)
    assert every.texts == ["a cat.", "second of four", "a dog", "a late caption"]
    assert every.rule == "every caption, by image and id"
    with pytest.raises(
        UserError, match=r"expected annotations of image_id, id and caption, as in captions_val2014.json"
    ):
        read_prompt_set(
            write(tmp_path, "instances.json", {"annotations": [{"image_id": 3, "id": 1, "bbox": []}]})
        )


def test_mjhq_text_and_jsonl(tmp_path: Path) -> None:
    mjhq = read_prompt_set(write(tmp_path, "meta_data.json", MJHQ))
    assert (mjhq.name, mjhq.prompts) == ("mjhq", [Prompt("a fox, 8k", "animals"), Prompt("a hat", "fashion")])
    text = read_prompt_set(write(tmp_path, "mine.txt", "a cat, a dog\n\n [two] \n"))
    assert (text.name, text.prompts, text.categories) == (
        "mine",
        [Prompt("a cat, a dog"), Prompt("[two]")],
        {},
    )
    lines = write(tmp_path, "mine.jsonl", '{"text": "a cat", "category": "animals"}\n\n{"text": "a hat"}\n')
    assert prompts(lines) == [("a cat", "animals"), ("a hat", None)]
    assert prompts(write(tmp_path, "list.json", [{"Prompt": "a cat", "Category": "x"}])) == [("a cat", "x")]
    assert prompts(write(tmp_path, "brackets.txt", "[a photo] of a cat\n{a}\n")) == [
        ("[a photo] of a cat", None),
        ("{a}", None),
    ]


def test_the_format_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path, "PartiPrompts.tsv", PARTI)
    assert prompts(path, "table")[0] == ("bond", "Abstract")
    assert prompts(path, "text")[1] == ("bond\tAbstract\tBasic\tmany meanings", None)
    expected = "expected JSON with annotations of image_id, id and caption"
    with pytest.raises(UserError, match=f"PartiPrompts.tsv: is not of the format 'coco'; {expected}$"):
        read_prompt_set(path, "coco")


def test_our_own_list_is_what_numbers_were_published_with() -> None:
    own = read_prompt_set(None)
    assert (own.name, len(own), own.repeated) == ("distill-80", 80, 0)
    categories = "animals people food places art_styles counting colours_and_relations text_in_images"
    assert {name: len(rows) for name, rows in own.categories.items()} == {
        name.replace("_", " "): 10 for name in categories.split()
    }
    digest = hashlib.sha256(OWN.read_bytes()).hexdigest()
    assert digest == "75afa65832a0c02b57feef20e25e88996d920ec8ee64c6a5f49bc66cf7232c4a"


def test_a_part_of_a_list_says_so(tmp_path: Path) -> None:
    lines = [f"prompt {i}\n" for i in (*range(10), 3)]
    whole = read_prompt_set(write(tmp_path, "mine.txt", "".join(lines)))
    assert whole.repeated == 1
    first, drawn = whole.first(3, None), whole.first(4, 0)
    assert first.texts == ["prompt 0", "prompt 1", "prompt 2"]
    assert first.departures == ("3 of its 11 prompts, the first",)
    assert drawn.departures == ("4 of its 11 prompts, drawn with seed 0",)
    assert list(drawn.numbers) == sorted(drawn.numbers)
    assert drawn.numbers == whole.first(4, 0).numbers != whole.first(4, 1).numbers
    assert drawn.texts == [whole.texts[number] for number in drawn.numbers]
    assert whole.first(11, 5) is whole
    hashes = {one.describe()["sha256"] for one in (whole, first, drawn)}
    assert len(hashes) == 3
    content = json.dumps([[text, None, None] for text in whole.texts])
    assert whole.describe()["sha256"] == hashlib.sha256(content.encode()).hexdigest()
    with pytest.raises(UserError, match=r"^--n 12: .*mine.txt holds 11 prompts; expected at most as many$"):
        whole.first(12, None)


def test_labels() -> None:
    labels = read_prompt_set("labels:3")
    assert labels.prompts == [Prompt(f"label {label}", f"label {label}", label) for label in range(3)]
    assert labels.are_labels
    assert not read_prompt_set(None).are_labels


def test_a_dataset_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(name: str, repo_type: str, allow_patterns: list[str]) -> str:
        asked.append((name, repo_type, allow_patterns))
        if name == "nobody/nothing":
            raise OSError("404 Client Error.\nMore lines")
        if name == "nobody/silent":
            raise OSError
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    write(tmp_path, "PartiPrompts.tsv", PARTI)
    write(tmp_path, "benchmark/photo.json", ["a photo"])
    parti = read_prompt_set("nateraw/parti-prompts:PartiPrompts.tsv")
    assert (parti.name, parti.origin, len(parti)) == ("parti", "nateraw/parti-prompts:PartiPrompts.tsv", 3)
    assert prompts("zhwang/HPDv2:benchmark") == [("a photo", "photo")]
    with pytest.raises(
        UserError,
        match=r"^--prompts a/b: holds PartiPrompts.tsv, photo.json; expected one file of prompts: name it$",
    ):
        read_prompt_set("a/b")
    assert asked[0] == ("nateraw/parti-prompts", "dataset", ["PartiPrompts.tsv", "PartiPrompts.tsv/*"])
    assert asked[2][2] == ["*.tsv", "*.csv", "*.json", "*.jsonl", "*.parquet", "*.txt"]
    reason = r"is no file, and cannot be downloaded from the hub \(404 Client Error.\)"
    with pytest.raises(UserError, match=rf"^--prompts nobody/nothing: {reason}$"):
        read_prompt_set("nobody/nothing")
    with pytest.raises(UserError, match=r"^--prompts nobody/silent: .* from the hub \(OSError\)$"):
        read_prompt_set("nobody/silent")
    with pytest.raises(UserError, match=r"^--prompts a/b:none.csv: the dataset a/b holds no none.csv$"):
        read_prompt_set("a/b:none.csv")


TABLE = "expected a table (TSV, CSV, JSONL or Parquet) with a column prompt, prompts, text or caption"
KINDS = "parti, drawbench, hpsv2, coco, mjhq, geneval, dpg, longtext, cvtg, table, text"
WRONG: list[tuple[str, Any, str]] = [
    ("empty.tsv", " \n", "holds no prompt"),
    ("head.csv", "Prompts,Category\n", "holds no prompt"),
    ("none.json", [], "holds no prompt"),
    ("a.tsv", "Words\tCategory\nx\ty\n", f"has no column of prompts among Words, Category; {TABLE}"),
    ("a.csv", "Prompts,Category\na,b,c\n", "row 2 has 3 columns; expected 2 as its first"),
    ("b.csv", "Prompts,Category\n ,Colors\n", "row 1 has ' ' for a prompt; expected text"),
    ("a.jsonl", '{"prompt": "x"}\n{"prompt": 3}\n', "row 2 has 3 for a prompt; expected text"),
    ("c.json", {"a": 3}, f"is JSON of no known kind; expected what one of {KINDS} is"),
    ("d.json", ["a", 4], "entry 2 has 4 for a prompt; expected text"),
    ("e.json", {"x": {"prompt": "a", "category": 3}}, "'x' has 3 for a category; expected text"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_files_without_prompts_are_refused(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        read_prompt_set(path)
    assert str(caught.value) == f"--prompts {path}: {message}"


NO_JSON = [
    (
        "b.jsonl",
        '{"prompt": "x"}\n{"prompt": \n',
        ", line 2: is not JSON (Expecting value: line 1 column 12 (char 11))",
    ),
    ("c.jsonl", '{"prompt": "x"}\n3\n', ", line 2: expected a JSON object, found int"),
    (
        "b.json",
        "{",
        ": is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), NO_JSON)
def test_files_that_are_no_json_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        read_prompt_set(path)
    assert str(caught.value) == f"--prompts {path}{message}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing more")
    for source, message in {
        str(tmp_path / "none.txt"): "no such file or folder",
        "none/at-all.tsv": "no such file or folder",
        str(tmp_path / "latin.txt"): "is not UTF-8 (byte 0); expected it saved as UTF-8",
        f"{tmp_path}/empty": (
            "holds no file of prompts; expected one ending in .tsv, .csv, .json, .jsonl, .parquet, .txt"
        ),
    }.items():
        with pytest.raises(UserError) as caught:
            read_prompt_set(source)
        assert str(caught.value) == f"--prompts {source}: {message}"
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match=r"broken.parquet: cannot be read as Parquet \("):
        read_prompt_set(str(tmp_path / "broken.parquet"))


def test_tables_of_spreadsheets(tmp_path: Path) -> None:
    """Quotes around a cell are removed if quotes in it are doubled, as spreadsheets do; Parti's are text."""
    assert prompts(write(tmp_path, "a.tsv", 'prompt\tid\n"a sign that says ""hi"""\t1\n"Welcome"\t2\n')) == [
        ('a sign that says "hi"', None),
        ('"Welcome"', None),
    ]
    for name, text, message in (
        (
            "b.tsv",
            'prompt\tcategory\n"a\nb"\tx\n',
            "row 2 ends before its column 'category'; expected one row a line, without line ends in cells",
        ),
        ("c.csv", 'prompt,category\na,x\n"b with a lost quote,y\nc,x\n', "cannot be read as a table"),
        ("d.csv", 'prompt,category\n"b" and more,x\n', "cannot be read as a table"),
        ("e.jsonl", '{"prompt": "a \\ud800 b"}', "row 1 has 'a .ud800 b' for a prompt; expected text"),
    ):
        with pytest.raises(UserError, match=message):
            prompts(write(tmp_path, name, text))


def test_what_does_not_go_together(tmp_path: Path) -> None:
    assert read_prompt_set(write(tmp_path, "labels.txt", "a cat\n")).texts == ["a cat"]
    for source in ("labels:0", "lables:10", ""):
        with pytest.raises(
            UserError,
            match=rf"^--prompts '{source}': expected a file, .* or labels:N of N labels, such as labels:10$",
        ):
            read_prompt_set(source)
    with pytest.raises(UserError, match=r"^--format and --captions: go with a file of prompts"):
        read_prompt_set("labels:10", "table")
    with pytest.raises(
        UserError, match=r"^--captions all: goes with COCO's captions; expected one for the text of"
    ):
        read_prompt_set(write(tmp_path, "a.txt", "a cat\n"), None, True)


def test_files_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (0, 1, 2, 9, 10, 11):
        write(tmp_path / "shards", f"part-{number}.tsv", f"prompt\nprompt {number}\n")
    assert [text for text, _ in prompts(str(tmp_path / "shards"))] == [
        f"prompt {number}" for number in (0, 1, 2, 9, 10, 11)
    ]
