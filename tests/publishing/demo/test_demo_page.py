"""The page of `python -m distill demo`: built without a browser, and played with in headless Chromium."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import sample
from distill.config.errors import UserError
from distill.networks.few_step_generator import FewStepGenerator
from distill.publishing.demo import command, page
from distill.publishing.demo.page import Page, import_gradio
from tests.helpers.browser import needs_chromium, open_page
from tests.helpers.demo_runs import class_run, opened, text_run
from tests.helpers.exported import exported
from tests.helpers.runs import train_run, write_run
from tests.helpers.small_networks import small_network

if TYPE_CHECKING:
    from playwright.sync_api import Page as BrowserPage

pytestmark = pytest.mark.usefixtures("closed_event_loops")
FIELDS = ("labels", "seed", "count", "with_teacher", "steps", "guidance")


@pytest.fixture(scope="module")
def closed_event_loops() -> Iterator[None]:
    """Close the event loops that gradio makes for its locks, and leaves open, at the end of the module."""
    made: list[asyncio.AbstractEventLoop] = []
    make = asyncio.new_event_loop

    def record() -> asyncio.AbstractEventLoop:
        made.append(make())
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", record)
        yield
    asyncio.set_event_loop(None)
    for loop in made:
        loop.close()


def test_the_page_makes_images_with_student_and_teacher_and_keeps_them(tmp_path: Path) -> None:
    import_gradio()
    built = Page(opened(class_run(tmp_path / "a")), tmp_path / "images")
    assert tuple(built.fields.by_name) == FIELDS
    assert [event.concurrency_limit for event in built.blocks.fns.values() if event.queue] == [1]
    first, last = list(built.make("3,4", "7", 2, True, 2, 1, []))
    assert (first[0], len(first[2]), first[4], len(first[5])) == ("", 2, [], 2)
    student, teacher, kept = last[2], last[4], last[6]
    assert [caption for _, caption in student] == ["student, seed 7: class 3", "student, seed 8: class 4"]
    assert teacher[0][1] == "teacher, 2 steps, seed 7: class 3"
    assert kept == last[5] == [*teacher, *student]
    assert "<strong>3 network evaluations, " in last[3]
    (again,) = built.make("3", "1", 1, False, 2, 1, kept)
    assert again[6] == [*again[2], *kept]


def test_an_unconditional_student_is_asked_for_neither_label_nor_prompt(tmp_path: Path) -> None:
    student = FewStepGenerator(small_network("unet", label_count=0), 2.5).eval()
    built = Page(opened(exported(student, tmp_path / "export"), with_teacher=False), tmp_path / "images")
    assert tuple(built.fields.by_name) == ("seed", "count")
    (outputs,) = built.make("3", 2, [])
    assert [caption for _, caption in outputs[2]] == ["student, seed 3", "student, seed 4"]


def test_the_oldest_images_leave_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_KEPT", 3)
    built = Page(opened(class_run(tmp_path / "a"), with_teacher=False), tmp_path / "images")
    (outputs,) = built.make("all", "0", 2, [("/old/1.png", "1"), ("/old/2.png", "2")])
    assert [caption for _, caption in outputs[-1]] == [
        "student, seed 0: class 0",
        "student, seed 1: class 1",
        "1",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("10", "0", 1), "labels 10: 10 is out of range; expected labels from 0 to 9"),
        (("five", "0", 1), "labels five: &#x27;five&#x27; is no label; expected numbers such as 3, 0-9 or"),
        (("all", "<b>", 1), "Seed: found &#x27;&lt;b&gt;&#x27;; expected a whole number less than 2^62"),
    ],
)
def test_bad_input_changes_nothing_but_the_message(
    tmp_path: Path, given: tuple[str, str, int], message: str
) -> None:
    import gradio as gr

    built = Page(opened(class_run(tmp_path / "a"), with_teacher=False), tmp_path / "images")
    (outputs,) = built.make(*given, [])
    assert message in outputs[0]
    assert list(outputs[1:]) == [gr.skip()] * 4


def test_a_lack_of_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = Page(opened(class_run(tmp_path / "a"), with_teacher=False), tmp_path / "images")

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(built.shown.student, "make", fail)
    (outputs,) = built.make("all", "0", 1, [])
    assert outputs[0] == "<p role='alert'>Out of memory; expected fewer images at once</p>"


def test_without_gradio_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        UserError, match=r"^demo: gradio is not installed; expected it from pip install '\.\[demo"
    ):
        command.main(["--run", "nowhere"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port 70000: expected at most 65535"),
        (["--port", "0"], "--port 0: expected at least 1"),
        (["--resolution", "-8"], "--resolution -8: expected at least 1"),
        (
            ["--host", "no.such.host.invalid"],
            "--host no.such.host.invalid: none of its ports 7860 to 7959 can",
        ),
        ([], "nowhere: no such folder; expected a run, a checkpoint or an export"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        command.main(["--run", "nowhere", *arguments])
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^--port {port}: cannot be served at 127\.0\.0\.1 \(Address alr"
        ):
            command.main(["--run", "nowhere", "--port", str(port)])


def served(run: Path, *arguments: str) -> Any:
    """Serve the page of a run on a free port, as the command does."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = command._parse(["--run", str(run), "--device", "cpu", "--port", str(port), *arguments])
    assert isinstance(options, argparse.Namespace)
    return command.serving(options)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a student of the digits for two steps."""
    return train_run(write_run(tmp_path_factory.mktemp("digits"), data={"name": "digits"}))


@pytest.fixture(scope="module")
def address(digits: Path, closed_event_loops: None) -> Iterator[str]:
    with served(digits) as (_, url):
        yield url


def make_images(browser: BrowserPage, after: str = "#teacher-cost strong") -> None:
    browser.click("#make")
    browser.wait_for_selector(after, timeout=60_000)
    browser.wait_for_function("[...document.images].every(image => image.complete)")


def fetched(browser: BrowserPage, selector: str, folder: Path) -> list[Path]:
    """Download the images in a part of the page."""
    folder.mkdir()
    sources = browser.eval_on_selector_all(f"{selector} img", "images => images.map(image => image.src)")
    files = [folder / f"{index}.png" for index in range(len(sources))]
    for file, source in zip(files, sources, strict=True):
        file.write_bytes(urllib.request.urlopen(source).read())
    return files


@needs_chromium
@pytest.mark.slow
def test_a_click_shows_the_images_of_sample_py_and_asks_no_other_server(
    digits: Path, address: str, tmp_path: Path
) -> None:
    with open_page(address) as browser:
        asked: list[str] = []
        browser.on("request", lambda request: asked.append(request.url))
        browser.reload()
        browser.wait_for_selector("#make")
        browser.fill("#seed textarea, #seed input", "5")
        make_images(browser)
        for role in ("student", "teacher"):
            files = fetched(browser, f"#{role}", tmp_path / role)
            arguments = ["--run", str(digits), "--n", "10", "--seed", "5", "--device", "cpu"]
            arguments += ["--teacher"] if role == "teacher" else []
            sample.main([*arguments, "--out", str(tmp_path / f"{role}-sampled")])
            for index, file in enumerate(files):
                theirs = np.asarray(Image.open(tmp_path / f"{role}-sampled" / f"{index:06d}.png"))
                assert np.array_equal(np.asarray(Image.open(file)), theirs)
        assert "1 network evaluation" in browser.inner_text("#student-cost")
        assert "35 network evaluations" in browser.inner_text("#teacher-cost")
        assert "times the student's time" in browser.inner_text("#teacher-cost")
        assert browser.locator("#session .thumbnail-item").count() == 20
        assert browser.eval_on_selector(
            "#student img", "image => getComputedStyle(image).imageRendering"
        ) == ("pixelated")
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert any(url.startswith(address) for url in asked)


@needs_chromium
@pytest.mark.slow
def test_an_image_is_downloaded_with_its_metadata(address: str, tmp_path: Path) -> None:
    with open_page(address) as browser:
        make_images(browser)
        browser.click("#student .thumbnail-item")
        with browser.expect_download() as started:
            browser.click("#student button[aria-label=Download]")
        started.value.save_as(tmp_path / "image.png")
        assert started.value.suggested_filename == "student-seed-0-label-0.png"
    with Image.open(tmp_path / "image.png") as image:
        assert '"seed": 0, "label": 0' in image.text["Comment"]
        assert '"weights_sha256": "' in image.text["Comment"]


@needs_chromium
@pytest.mark.slow
def test_the_page_says_what_is_wrong_and_keeps_its_images(address: str) -> None:
    with open_page(address) as browser:
        make_images(browser)
        browser.fill("#labels input", "12")
        browser.press("#labels input", "Enter")
        browser.click("#make")
        browser.wait_for_selector("#message p")
        message = "labels 12: 12 is out of range; expected labels from 0 to 9"
        assert message in browser.inner_text("#message")
        assert browser.locator("#student .thumbnail-item").count() == 10
        browser.fill("#labels input", "3")
        browser.press("#labels input", "Enter")
        browser.click("#make")
        browser.wait_for_selector("#message p", state="detached")
        browser.wait_for_selector("#student img[alt='student, seed 1: class 3']")


@needs_chromium
@pytest.mark.slow
def test_a_new_seed_is_drawn_and_the_teacher_can_be_left_out(address: str) -> None:
    with open_page(address) as browser:
        browser.wait_for_selector("#new-seed")
        browser.click("#new-seed")
        browser.wait_for_function("document.querySelector('#seed input, #seed textarea').value != '0'")
        seed = browser.input_value("#seed input, #seed textarea")
        browser.uncheck("#with-teacher input")
        make_images(browser, "#student-cost strong")
        browser.wait_for_selector(f"#session img[alt='student, seed {seed}: class 0']")
        assert browser.locator("#teacher .thumbnail-item").count() == 0


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("is_dark", [False, True])
def test_the_page_fits_wide_and_narrow_screens(address: str, width: int, is_dark: bool) -> None:
    with open_page(address, width=width, is_dark=is_dark) as browser:
        make_images(browser)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        places = browser.eval_on_selector_all(
            "#student .thumbnail-item",
            "all => all.map(one => one.getBoundingClientRect()).map(box => [box.left, box.right])",
        )
        assert min(left for left, _ in places) >= 0
        assert max(right for _, right in places) <= width
        background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, background.strip("rgb()").split(",")[:3])) / 3
        assert (brightness < 60) if is_dark else (brightness > 200)


@needs_chromium
@pytest.mark.slow
def test_a_prompt_makes_an_image_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    with served(text_run(tmp_path / "text"), "--no-teacher") as (_, url), open_page(url) as browser:
        browser.wait_for_selector("#make")
        browser.click("#make")
        browser.wait_for_selector("#message p")
        assert "Prompt: is empty; expected a text" in browser.inner_text("#message")
        browser.fill("#prompt input, #prompt textarea", "two dogs")
        browser.press("#prompt input, #prompt textarea", "Enter")
        browser.wait_for_selector("#student img[alt='student, seed 0: two dogs']")
        assert browser.locator("#teacher").count() == 0
