"""Rules by which text that was read is compared with text that was asked for.

Those of CVTG-2K (Du et al. 2025, TextCrafter) compare words: which were read at all, and how near the nearest
word that was read is. That of LongText-Bench (Geng et al. 2025, X-Omni) counts words that were read as often
as they were asked for; in Chinese it counts characters.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

HAN = re.compile(r"[一-龥]")
NOT_COUNTED = re.compile(r"[^一-龥a-zA-Z0-9\sàâäéèêëîïôöùûüçÀÂÄÉÈÊËÎÏÔÖÙÛÜÇ]")
"""Characters that LongText-Bench drops."""
SOFTENING = 1e-5
"""Added to the length that CVTG-2K divides an edit distance by."""


class WordCounts(NamedTuple):
    """Words that were asked for, those of them that were read, and the sum of their similarities."""

    asked: int
    read: int
    similarity: float


def compare_words(targets: Sequence[str], read: str) -> WordCounts:
    """Compare words by the rules of CVTG-2K: in lower case, each with its nearest word."""
    asked = [word for text in targets for word in text.lower().split()]
    found = read.lower().split() or [""]
    similarities = [similarity(word, nearest(word, found)) for word in asked]
    return WordCounts(len(asked), sum(word in found for word in asked), sum(similarities))


def nearest(word: str, found: Sequence[str]) -> str:
    """Return the word that is most like another by `difflib`, as CVTG-2K's script chooses it."""
    return difflib.get_close_matches(word, found, n=1, cutoff=0)[0]


def similarity(word: str, other: str) -> float:
    """Return 1 minus the edit distance of two words, normalised by the length of the longer one."""
    return 1 - edit_distance(word, other) / (max(len(word), len(other)) + SOFTENING)


def edit_distance(first: str, second: str) -> int:
    """Count the characters to insert, delete or replace to turn one text into another (Levenshtein 1966)."""
    distances = list(range(len(second) + 1))
    for row, letter in enumerate(first, start=1):
        above_left, distances[0] = distances[0], row
        for column, other in enumerate(second, start=1):
            replaced = above_left + (letter != other)
            above_left = distances[column]
            distances[column] = min(replaced, above_left + 1, distances[column - 1] + 1)
    return distances[-1]


def count_matches(targets: Sequence[str], read: str, by_character: bool) -> tuple[int, int]:
    """Count the words, or characters, that were read as often as asked, and all that were asked for."""
    asked = _units(" ".join(targets), by_character)
    found = _units(read, by_character)
    return (Counter(asked) & Counter(found)).total(), len(asked)


def _units(text: str, by_character: bool) -> list[str]:
    kept = NOT_COUNTED.sub("", text)
    return list("".join(kept.split())) if by_character else kept.lower().split()


def are_chinese(targets: Sequence[Sequence[str]]) -> bool:
    """Return True if any of the texts has a Chinese character."""
    return any(HAN.search(text) for texts in targets for text in texts)


def has_every_text(targets: Sequence[str], read: str, by_character: bool) -> bool:
    """Return True if each text was read as a whole, apart from case, punctuation and line ends."""
    found = _plain(read, by_character)
    for text in targets:
        asked = _plain(text, by_character)
        places = range(len(found) - len(asked) + 1)
        if not any(found[place : place + len(asked)] == asked for place in places):
            return False
    return True


def _plain(text: str, by_character: bool) -> list[str]:
    """Return the words, or characters, of a text in lower case, of letters and digits only."""
    kept = "".join(letter for letter in text.lower() if letter.isalnum() or letter.isspace())
    return list("".join(kept.split())) if by_character else kept.split()
