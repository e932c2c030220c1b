"""The page of `python -m eval report` in a browser: sorting, filtering, keys, narrow screens, dark mode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from distill.eval.__main__ import main
from distill.eval.prompt_sets import PromptSet
from distill.eval.prompt_sets.formats import Prompt
from tests.helpers.browser import needs_chromium, open_page
from tests.helpers.scored_results import PROMPTS, write_scored

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = needs_chromium
HOSTILE = "</script><script>document.title='stolen'</script><img src=x onerror=\"document.title='stolen'\">"
A = {"pickscore": [2.0, 1.0, 3.0], "hpsv2.1": [0.3, 0.1, 0.2]}
B = {"pickscore": [2.5, 4.0, 1.0]}


def write_page(folder: Path, prompts: PromptSet = PROMPTS, size: tuple[int, int] = (8, 8)) -> str:
    """Write the page of models a and b, whose differences b - a of PickScore are 0.5, 3 and -2."""
    a = write_scored(folder, "a", A, prompts, size)
    b = write_scored(folder, "b", B, prompts, size)
    out = folder / "page.html"
    main(["report", str(a), str(b), "--out", str(out)])
    return f"file://{out}"


def prompts_in_sight(page: Page) -> list[str]:
    texts = page.locator(".rows > li:visible .prompt").all_inner_texts()
    return [text.rsplit(" ", 3)[0] for text in texts]


def test_sorting_and_filtering(tmp_path: Path) -> None:
    """The prompts are a zebra, a cat and a house; model a has no HPS v2.1 of b."""
    with open_page(write_page(tmp_path)) as page:
        assert prompts_in_sight(page) == ["a zebra", "a cat", "a house"]
        head = page.locator(".heads button")
        assert head.all_inner_texts() == ["a\nPickScore 2.000", "b\nPickScore 2.500"]
        head.nth(1).click()
        assert prompts_in_sight(page) == ["a cat", "a zebra", "a house"]
        head.nth(1).click()
        assert prompts_in_sight(page) == ["a house", "a zebra", "a cat"]
        assert head.nth(1).get_attribute("aria-pressed") == "true"
        page.select_option("[name=order]", "hpsv2.1")
        page.select_option("[name=model]", "0")
        assert prompts_in_sight(page) == ["a zebra", "a house", "a cat"]
        page.select_option("[name=order]", "pickscore")
        page.select_option("[name=model]", "1")
        page.select_option("[name=minus]", "0")
        assert prompts_in_sight(page) == ["a cat", "a zebra", "a house"]
        page.click("[name=direction]")
        assert prompts_in_sight(page) == ["a house", "a zebra", "a cat"]
        page.select_option("[name=order]", "prompt")
        assert prompts_in_sight(page) == ["a cat", "a house", "a zebra"]
        page.fill("[name=filter]", "A  HOU")
        assert prompts_in_sight(page) == ["a house"]
        assert page.inner_text("[name=count]") == "1 of 3 rows"
        assert head.all_inner_texts() == ["a\nPickScore 3.000", "b\nPickScore 1.000"]
        page.fill("[name=filter]", "")
        page.select_option("[name=category]", "animals")
        assert prompts_in_sight(page) == ["a cat", "a zebra"]


@pytest.mark.slow
def test_scores_that_are_not_known_stand_last(tmp_path: Path) -> None:
    with open_page(write_page(tmp_path)) as page:
        page.select_option("[name=order]", "hpsv2.1")
        page.select_option("[name=model]", "1")
        assert prompts_in_sight(page) == ["a zebra", "a cat", "a house"]
        assert page.inner_text(".heads button:nth-child(2)") == "b\nno HPS v2.1"


@pytest.mark.slow
def test_an_image_opens_and_keys_go_to_the_others(tmp_path: Path) -> None:
    with open_page(write_page(tmp_path, size=(200, 300))) as page:
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.name") == "filter"
        page.select_option("[name=order]", "prompt")
        page.locator("[data-cell='1,0']").press("Enter")
        caption = page.locator("dialog figcaption")
        assert caption.inner_text() == "a a cat (seed 1, PickScore 1.000, HPS v2.1 0.1000)"
        image = page.locator("dialog img")
        size = image.evaluate("({naturalWidth: w, naturalHeight: h}) => [w, h]")
        assert size == [300, 200]
        page.keyboard.press("ArrowRight")
        assert caption.inner_text() == "b a cat (seed 1, PickScore 4.000)"
        page.keyboard.press("ArrowDown")  # the next row in the order in sight
        assert caption.inner_text() == "b a house (seed 2, PickScore 1.000)"
        page.keyboard.press("Escape")
        assert not page.locator("dialog").is_visible()
        assert page.evaluate("document.activeElement.dataset.cell") == "2,1"


@pytest.mark.slow
def test_lists_of_prompts_are_sorted_and_opened_by_themselves(tmp_path: Path) -> None:
    other = PromptSet.whole("other", "o", [Prompt("a boat", "things"), Prompt("an apple", "things")])
    a = write_scored(tmp_path, "a", A)
    more = write_scored(tmp_path / "more", "a", {"pickscore": [5.0, 6.0]}, other)
    main(["report", str(a), str(more), "--out", str(tmp_path / "page.html")])
    with open_page(f"file://{tmp_path}/page.html") as page:
        page.select_option(".gallery >> nth=1 >> [name=order]", "pickscore")
        assert prompts_in_sight(page) == ["a zebra", "a cat", "a house", "an apple", "a boat"]
        page.locator("[data-cell='0,0']").nth(1).click()
        caption = page.locator("dialog figcaption:visible")
        assert caption.inner_text() == "a a boat (seed 0, PickScore 5.000)"


@pytest.mark.slow
@pytest.mark.parametrize("is_dark", [False, True])
def test_narrow_screens_do_not_scroll_sideways(tmp_path: Path, is_dark: bool) -> None:
    words = "incomprehensibilities" * 12
    prompts = PromptSet.whole("mine", "m", [Prompt(f"{words} {row}", f"of {words}") for row in range(3)])
    with open_page(write_page(tmp_path, prompts, (200, 300)), 360, 740, is_dark) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.locator("[data-cell='0,1']").click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.locator("dialog").bounding_box()["width"] <= 360
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(20, 24, 29)" if is_dark else "rgb(251, 251, 250)")


@pytest.mark.slow
def test_hostile_prompts_run_nothing(tmp_path: Path) -> None:
    prompts = PromptSet.whole("mine", "m", [Prompt(f"{HOSTILE} {row}", HOSTILE) for row in range(3)])
    with open_page(write_page(tmp_path, prompts)) as page:
        page.locator("[data-cell='0,0']").click()
        assert HOSTILE in page.inner_text("dialog figcaption")
        assert page.title() == "a and b"
        assert prompts_in_sight(page) != []


@pytest.mark.slow
def test_print_shows_images_without_controls(tmp_path: Path) -> None:
    with open_page(write_page(tmp_path)) as page:
        page.emulate_media(media="print")
        assert not page.locator(".controls").is_visible()
        assert page.locator(".open img").first.is_visible()
