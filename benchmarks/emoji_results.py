"""Measure the networks of the emoji: `python benchmarks/emoji_results.py [--stages dmd2] [--seeds 0 1 2]`.

Takes the committed teachers, and the finished runs of benchmarks/emoji.py or their committed copies. Classes:
`python -m eval` under fd-effnet. Text: the same with the captions of the training pictures, and the agreement
with prompts of held-out names by the reward (clipscore) and by the judge (word_match). What is measured
already, under runs/emoji, is not repeated. Writes benchmarks/results/emoji.json, the tables in README.md, and
docs/emoji.png: pictures of prompts that a seed chooses.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import project
from benchmarks.document import Block, markdown_table, mean_and_std
from benchmarks.emoji import CAPTIONED, FOLDER, finished_run, run_folder
from benchmarks.project import ROOT, SEEDS, argument_parser, run_python
from distill.data import Captioned
from distill.data.option import parse_data
from distill.storage.files import read_json, write_json
from distill.storage.provenance import commit, machine
from distill.training.trainer import STATS

RESULTS = project.RESULTS / "emoji.json"
README = ROOT / "README.md"
CLASS_TABLE, TEXT_TABLE = Block(README, "emoji classes"), Block(README, "emoji text")
CLASSES = ("uni_instruct", "f_distill", "dmd2", "sida")
TEXT = ("text_dmd2", "text_dmd2_4_steps", "text_dmd2_lora", "text_di_star", "text_di_plus_plus")
SMALL = "{name: emoji, resolution: 16}"
IMAGES = 10_000
"""Images of a network."""
TRAIN_PROMPTS = 1_000
"""Captions of training pictures, drawn by a seed, that text-to-image networks get in turn."""
GUIDANCE = "2"
"""Guidance scale of the text-to-image teacher, as in training."""
SCORES = {"clipscore": "assets/emoji-clip", "word_match": "assets/emoji-judge"}
COLUMNS = {
    "fd_effnet": "fd-effnet",
    "precision": "precision",
    "recall": "recall",
    "diversity": "diversity",
    "memorised": "memorised",
}
MONITORED = "fd_pixel"
"""Distance of 2 000 images, which the run of a network of classes measures at its end."""
DISTANCES = ("fd_effnet", MONITORED)
"""Columns whose ratio to the teacher's follows them."""
SHOWN = ("text_dmd2", "text_dmd2_4_steps")
"""Students in the picture, after real pictures and the teacher's."""
PICTURES = 10
"""Training names in the picture, and as many held-out names."""
ZOOM = 2
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network to measure: its name in the table, its seed, and its run or, for a teacher, its weights."""

    name: str
    seed: int
    folder: Path
    is_teacher: bool = False

    @property
    def takes_text(self) -> bool:
        return self.name.startswith("text_")

    @property
    def out(self) -> Path:
        """Folder of the results."""
        return FOLDER / "results" / run_folder(self.name, self.seed).name


TEACHERS = (
    Subject("teacher", 0, ROOT / "assets" / "emoji-teacher", is_teacher=True),
    Subject("text_teacher", 0, ROOT / "assets" / "emoji-text-teacher", is_teacher=True),
)


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    names = (*(teacher.name for teacher in TEACHERS), *CLASSES, *TEXT)
    parser.add_argument("--stages", nargs="+", choices=names, default=names, help="networks (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds (default: 0 1 2)")
    options = parser.parse_args(arguments)
    chosen = [name for name in options.stages if name in (*CLASSES, *TEXT)]
    runs = {(name, seed): finished_run(name, seed) for name in chosen for seed in options.seeds}
    subjects = [teacher for teacher in TEACHERS if teacher.name in options.stages]
    subjects += [Subject(*key, folder) for key, folder in runs.items() if folder is not None]
    new = [measure(subject) for subject in subjects]
    keys = {(row["name"], row["seed"]) for row in new}
    kept = [row for row in stored_rows() if (row["name"], row["seed"]) not in keys]
    rows = sorted(kept + new, key=lambda row: (names.index(row["name"]), row["seed"]))
    results = {"conditions": {"machine": machine(), "commit": commit()}, "networks": rows}
    write_json(RESULTS, results)
    for block, text in render(results).items():
        block.write(text)
        print(text)
    shown = {name: finished_run(name, 0) for name in SHOWN}
    if None not in shown.values():
        draw(shown).save(ROOT / "docs" / "emoji.png", optimize=True)


def measure(subject: Subject) -> Row:
    """Return the metrics of a network, measured unless they are there."""
    images = subject.out / "eval.json"
    if not images.is_file():
        options = ("--protocol", "fd-effnet", "--n", str(IMAGES), "--out", str(subject.out))
        run_python("-m", "eval", *images_of(subject), *options)
    evaluation = read_json(images)
    role = "teacher" if subject.is_teacher else "student"
    evaluations = evaluation["sampling"][f"{role}_evaluations"]
    row = {"name": subject.name, "seed": subject.seed, "evaluations": evaluations, "n": evaluation["n"]}
    row |= {name: evaluation[role][name] for name in COLUMNS}
    row["held_out"] = evaluation[role]["held_out"]
    row["reference"] = evaluation["reference"]
    return row | (agreement(subject) if subject.takes_text else {MONITORED: monitored(subject)})


def monitored(subject: Subject) -> float:
    """Return the last distance in the statistics of a network's own run."""
    run = FOLDER / subject.name if subject.is_teacher else subject.folder
    lines = (run / STATS).read_text(encoding="utf-8").splitlines()
    found = [value for line in lines if (value := json.loads(line).get(f"monitor/{MONITORED}")) is not None]
    return float(found[-1])


def images_of(subject: Subject) -> list[str]:
    """Return the arguments that name a network, its real pictures and its prompts."""
    words = ["--run", str(subject.folder), "--no-teacher"]
    if subject.is_teacher:
        words = ["--teacher", str(subject.folder), "--data", CAPTIONED if subject.takes_text else SMALL]
        words += ["--guidance", GUIDANCE] * subject.takes_text
    if subject.takes_text:
        words += ["--prompts", str(write_prompts("train", TRAIN_PROMPTS))]
    return words


def agreement(subject: Subject) -> Row:
    """Return the mean scores of a network's pictures of held-out names, by reward and judge."""
    out = subject.out / "preference.json"
    if not out.is_file():
        network = ["--run", str(subject.folder)]
        if subject.is_teacher:
            network = ["--teacher", str(subject.folder), "--guidance", GUIDANCE]
        scores = ",".join(f"{name}:{path}" for name, path in SCORES.items())
        run_python(
            *("-m", "eval", "preference", *network, "--scores", scores),
            *("--prompts", str(write_prompts("held_out")), "--format", "text", "--out", str(out)),
        )
    found = read_json(out)["scores"]
    return {name: found[name]["mean"] for name in SCORES}


def captions(split: str) -> list[str]:
    """Return the first caption of each picture."""
    data = parse_data(CAPTIONED).load(split)
    assert isinstance(data, Captioned)
    return [texts[0] for texts in data.captions.of_images]


def write_prompts(split: str, count: int | None = None) -> Path:
    """Write the captions of a split as prompts, a line each: all of them, or some that a seed draws."""
    found = captions(split)
    if count is not None:
        found = random.Random(0).sample(found, count)
    path = FOLDER / "prompts" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(found) + "\n", encoding="utf-8")
    return path


def stored_rows() -> list[Row]:
    """Return the rows of the results on disk."""
    return read_json(RESULTS)["networks"] if RESULTS.is_file() else []


def render(results: Mapping[str, Any]) -> dict[Block, str]:
    """Return the generated blocks with their texts."""
    rows = results.get("networks", [])
    return {
        CLASS_TABLE: table(rows, ("teacher", *CLASSES), {MONITORED: "fd-pixel"}),
        TEXT_TABLE: table(rows, ("text_teacher", *TEXT), {"clipscore": "CLIP", "word_match": "judge"}),
    }


def table(rows: Sequence[Row], names: Sequence[str], more: Mapping[str, str]) -> str:
    """Return a table of networks, the teacher first: mean and standard deviation over seeds.

    Ratios are to the teacher's distance if it was measured with as many images.
    """
    columns = {**COLUMNS, **more}
    head = ["network", "evaluations", "images"]
    for column, title in columns.items():
        head += [title, "ratio"] if column in DISTANCES else [title]
    head.append("seeds")
    teacher = next((row for row in rows if row["name"] == names[0]), None)
    lines = []
    for name in names:
        found = [row for row in rows if row["name"] == name]
        if not found:
            lines.append([f"`{name}`", "not run", *[""] * (len(head) - 2)])
            continue
        cells = [f"`{name}`", str(found[0]["evaluations"]), f"{found[0]['n']:,}".replace(",", " ")]
        unit = teacher if teacher is not None and teacher["n"] == found[0]["n"] else None
        for column in columns:
            values = [row[column] for row in found]
            cells.append(mean_and_std(values))
            if column in DISTANCES:
                ratios = [] if unit is None else [value / unit[column] for value in values]
                cells.append(mean_and_std(ratios, ".2f") if ratios else "")
        lines.append([*cells, str(len(found))])
    return markdown_table(head, lines)


def draw(students: Mapping[str, Path | None]) -> Image.Image:
    """Return real pictures above those of the teacher and of students, for prompts that a seed chooses."""
    rows: list[list[Image.Image]] = [[]]
    prompts = []
    for split in ("train", "held_out"):
        data = parse_data(CAPTIONED).load(split)
        chosen = random.Random(0).sample(range(len(data)), PICTURES)
        texts = captions(split)
        prompts += [texts[row] for row in chosen]
        rows[0] += [to_picture(data[row][0]) for row in chosen]
    path = FOLDER / "prompts" / "shown.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(prompts) + "\n", encoding="utf-8")
    teacher = str(ROOT / "assets" / "emoji-text-teacher")
    rows.append(sample(path, len(prompts), "teacher", "--teacher", teacher, "--guidance", GUIDANCE))
    rows += [sample(path, len(prompts), name, "--run", str(run)) for name, run in students.items()]
    side = ZOOM * rows[0][0].width
    sheet = Image.new("RGB", (len(prompts) * side, len(rows) * side), "white")
    for top, row in enumerate(rows):
        for left, picture in enumerate(row):
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left * side, top * side))
    return sheet


def sample(prompts: Path, count: int, name: str, *network: str) -> list[Image.Image]:
    """Return a network's pictures of the prompts, one each."""
    out = FOLDER / "shown" / name
    if not out.is_dir():
        run_python("sample.py", *network, "--prompts", str(prompts), "--n", str(count), "--out", str(out))
    return [Image.open(path).convert("RGB") for path in sorted(out.glob("[0-9]*.png"))]


def to_picture(image: Any) -> Image.Image:
    """Turn an image in [-1, 1], (3, h, w), into a picture."""
    from distill.data.images import to_bytes, to_pil

    return to_pil(to_bytes(image[None])[0])


if __name__ == "__main__":
    main(sys.argv[1:])
