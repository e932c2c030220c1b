"""Images of the user's, in a folder or an archive, and how they are paired with prompts."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from pathlib import Path

from distill.config.errors import UserError
from distill.data.image_files import ImageFiles
from distill.data.image_labels import INDEX
from distill.data.natural_order import natural_key, parts_of
from distill.eval.images.sources import NAMED_FOLDERS
from distill.eval.preference.images import PromptedImages, folder_of
from distill.eval.preference.subject_spec import SubjectSpec
from distill.eval.prompt_sets import PromptSet


def find_images(spec: SubjectSpec, prompts: PromptSet, per_prompt: int, root: Path) -> PromptedImages:
    """Pair existing images with prompts.

    The prompts that an index names decide; without an index, images are in the order of the prompts. Files
    that no index lists are sorted by the numbers in their names. Raises UserError if they are not as many as
    the prompts want, or if their names count the images of one prompt before those of the next.
    """
    files = ImageFiles(Path(spec.path))
    recorded = recorded_prompts(files, prompts.are_labels)
    if recorded:
        places = _by_index(files, recorded, prompts, per_prompt)
    else:
        places = _in_order(files, prompts, per_prompt)
    seeds = [files.records[place].get("seed") if files.records else None for place in places]
    identity = {"kind": "images", "path": str(files.path.resolve())}
    return PromptedImages(
        files,
        [files.names[place] for place in places],
        prompts,
        seeds,
        spec.path,
        identity,
        folder_of(root, identity),
        "index" if recorded else "order",
    )


def recorded_prompts(files: ImageFiles, labels: bool = False) -> list[str]:
    """Return the prompt, or the label, of every image, as `sample.py` recorded them; empty if it did not."""
    if labels:
        if files.classes:
            raise UserError(f"{files.path}: {NAMED_FOLDERS} such as 0 and 1, for --prompts labels:N")
        return [f"label {label}" for label in files.labels]
    prompts = [str(record["prompt"]) for record in files.records if record.get("prompt")]
    if prompts and len(prompts) < len(files.records):
        without = [record["file"] for record in files.records if not record.get("prompt")]
        raise UserError(
            f"{files.path / INDEX}: names no prompt of {without[0]}; expected one of each image, or of none"
        )
    return prompts


def _by_index(files: ImageFiles, recorded: list[str], prompts: PromptSet, per_prompt: int) -> list[int]:
    """Return the places of the images, prompts in turn, each prompt's images in the order of the index."""
    waiting: dict[str, deque[int]] = defaultdict(deque)
    for place, prompt in enumerate(recorded):
        waiting[prompt].append(place)
    wanted = prompts.texts * per_prompt
    for prompt, count in Counter(wanted).items():
        if len(waiting[prompt]) < count:
            raise UserError(
                f"{files.path}: holds {len(waiting[prompt])} images of the prompt '{prompt}'; "
                f"expected {count}"
            )
    return [waiting[prompt].popleft() for prompt in wanted]


def _in_order(files: ImageFiles, prompts: PromptSet, per_prompt: int) -> list[int]:
    """Return the places of the prompts' images, where image i has prompt i % count.

    The prompts are those that are measured or all of their list, whichever has the right count. The index, if
    there is one, decides which image is i, otherwise the names do.
    """
    order = list(range(len(files)))
    if not files.records:
        order.sort(key=lambda place: natural_key(files.names[place]))
    for count, numbers in ((len(prompts), range(len(prompts))), (len(prompts.listed), prompts.numbers)):
        if len(files) == count * per_prompt:
            _refuse_counted_by_prompt(files, count, per_prompt)
            return [order[turn * count + number] for turn in range(per_prompt) for number in numbers]
    each = f"{per_prompt} images each" if per_prompt > 1 else "an image each"
    raise UserError(
        f"{files.path}: holds {len(files)} images; expected {len(prompts) * per_prompt}, "
        f"for {len(prompts)} prompts of {prompts.origin} {each}"
    )


def _refuse_counted_by_prompt(files: ImageFiles, count: int, per_prompt: int) -> None:
    """Refuse names that count the prompts and then the images of each.

    Examples are 0-0, 0-1, 1-0 and cat-0, cat-1, dog-0. Taken in turn they would be paired wrongly. With as
    many prompts as images of each, names such as 0-1 may be either, and are refused too.
    """
    if files.records or per_prompt == 1 or count == 1:
        return
    names = sorted(files.names, key=natural_key)
    if _block_sizes(names) == [per_prompt] * count:
        raise UserError(
            f"{files.path}: names such as {names[1]} count the prompts and then the images of each; "
            "expected the images in turn, one of every prompt before the second of the first, "
            f"or a {INDEX} that names their prompts"
        )


def _block_sizes(names: list[str]) -> list[int]:
    """Return the lengths of the runs of names that agree in the first part, text or number, that varies."""
    parts = [[part for part in parts_of(name) if part != ""] for name in names]
    for several in zip(*parts, strict=False):
        if len(set(several)) > 1:
            return [len(list(block)) for _, block in itertools.groupby(several)]
    return []
