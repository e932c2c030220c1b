"""The page: fields, a button, the images of both networks, and all that were made in this session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, no_type_check

from distill.config.errors import TrainingError, UserError, is_out_of_memory
from distill.publishing.demo.fields import Fields
from distill.publishing.demo.inputs import is_small, read_inputs, read_teacher_sampler
from distill.publishing.demo.networks import Made, ShownRun
from distill.publishing.demo.words import TIMED, alert, caption, cost, header, title

if TYPE_CHECKING:
    import gradio

MAX_KEPT = 240
"""Maximum number of images that a visitor's session shows; the oldest leave first."""
STYLE = Path(__file__).with_name("style.css")

Items = list[tuple[str, str]]
"""Image files with captions, as gradio's galleries take them."""


def import_gradio() -> Any:
    """Import gradio without its reports and statistics on use, and refuse to go on if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)  # clicks between two statistics of the queue
    try:
        import gradio
    except ImportError as error:
        raise UserError("demo: gradio is not installed; expected it from pip install '.[demo]'") from error
    return gradio


def look() -> dict[str, Any]:
    """Return arguments of `launch` for the look of the page, in the fonts of the visitor's own system."""
    import gradio as gr

    theme = gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="zinc",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )
    return {"theme": theme, "css_paths": STYLE, "footer_links": []}


class Page:
    """The page of a run as gradio's `blocks`; image files go into `folder`, which must outlive it."""

    def __init__(self, shown: ShownRun, folder: Path) -> None:
        self.shown = shown
        self.folder = folder
        self.is_small = is_small(shown.student.network)
        self.class_names = dict(enumerate(shown.class_names))
        self.blocks = self._build()

    @no_type_check  # gradio looks for a generator function, which a checker's wrapper under pytest is not
    def make(self, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Make the images that the fields ask for, and yield the page's outputs after each network.

        The last of `values` holds the images of the session so far, newest first; the others are those of the
        fields. What cannot be made leaves the page as it is, with one line that says why.
        """
        *given, kept = values
        try:
            for outputs in self._make(dict(zip(self.fields.by_name, given, strict=True)), kept):
                yield "", *outputs
        except (UserError, TrainingError) as error:
            yield self._refused(str(error))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            yield self._refused("Out of memory; expected fewer images at once")

    def _make(self, given: dict[str, Any], kept: Items) -> Iterator[tuple[Any, ...]]:
        """Yield the outputs but the message."""
        inputs = read_inputs(given["seed"], given["count"], given.get("labels"), given.get("prompt"))
        sampler = None
        if given.get("with_teacher"):
            sampler = read_teacher_sampler(given["steps"], given.get("guidance"))
        student = self.shown.student.make(inputs, self.folder)
        kept = self._keep(student, kept)
        outputs = (title("Student", cost(student)), self._items(student))
        if self.shown.teacher is None:
            yield *outputs, kept, kept
            return
        yield *outputs, title("Teacher"), [], kept, kept
        if sampler is not None:
            teacher = self.shown.teacher.make(inputs, self.folder, sampler)
            kept = self._keep(teacher, kept)
            yield *outputs, title("Teacher", cost(teacher, student)), self._items(teacher), kept, kept

    def _refused(self, message: str) -> tuple[Any, ...]:
        """Return the message, and that all other outputs stay as they are."""
        import gradio as gr

        return alert(message), *[gr.skip()] * (4 if self.shown.teacher is None else 6)

    def _items(self, made: Made) -> Items:
        captions = [caption(note, self.class_names) for note in made.notes]
        return list(zip(map(str, made.files), captions, strict=True))

    def _keep(self, made: Made, kept: Items) -> Items:
        return [*self._items(made), *kept][:MAX_KEPT]

    def _build(self) -> gradio.Blocks:
        import gradio as gr

        with gr.Blocks(
            title=f"{self.shown.run.resolve().name}: distill demo", analytics_enabled=False
        ) as blocks:
            gr.HTML(header(self.shown), elem_id="header")
            with gr.Row():
                with gr.Column(scale=1, min_width=260):
                    self.fields = Fields(self.shown, self.class_names)
                    message = gr.HTML(elem_id="message")
                with gr.Column(scale=3, min_width=300):
                    with gr.Row():
                        outputs = self._add_pictures("student", "Student")
                        if self.shown.teacher is not None:
                            outputs += self._add_pictures("teacher", "Teacher")
                    gr.HTML(f"<p class='note'>{TIMED}</p>")
            gr.HTML(title("Made in this session, newest first"))
            session = self._add_gallery("session", columns=10)
            kept = gr.State([])
            gr.on(
                self.fields.starts,
                self.make,
                inputs=[*self.fields.by_name.values(), kept],
                outputs=[message, *outputs, session, kept],
                api_visibility="private",
                concurrency_limit=1,
                show_progress_on=outputs[1],
            )
        return blocks

    def _add_pictures(self, name: str, text: str) -> list[Any]:
        """Add a network's images, with a title that says what they cost."""
        import gradio as gr

        with gr.Column(min_width=280):
            return [
                gr.HTML(title(text), elem_id=f"{name}-cost"),
                self._add_gallery(name, columns=5 if self.is_small else 2),
            ]

    def _add_gallery(self, name: str, columns: int) -> Any:
        import gradio as gr

        return gr.Gallery(
            show_label=False,
            columns=columns,
            object_fit="contain",
            buttons=["download", "download_all", "fullscreen"],
            interactive=False,
            elem_id=name,
            elem_classes=["pictures", "enlarged"] if self.is_small else ["pictures"],
        )
