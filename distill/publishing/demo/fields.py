"""The fields of the page, by name: those that the run's networks need, and no others."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distill.publishing.demo.inputs import MAX_IMAGES, MAX_PROMPT, MAX_STEPS, default_count
from distill.publishing.demo.networks import ShownRun
from distill.publishing.demo.words import name_class

if TYPE_CHECKING:
    from gradio.components import Component


class Fields:
    """The fields of a run's page and its button, added to the page where it is made."""

    def __init__(self, shown: ShownRun, class_names: Mapping[int, str]) -> None:
        import gradio as gr

        self.by_name: dict[str, Component] = {}
        self.starts: list[Any] = []
        """Events that ask for images."""
        networks = [shown.student.network, *([] if shown.teacher is None else [shown.teacher.network])]
        if any(network.takes_text for network in networks):
            prompt = gr.Textbox(
                label="Prompt", placeholder="a red apple", max_length=MAX_PROMPT, elem_id="prompt"
            )
            self.by_name["prompt"] = prompt
            self.starts.append(prompt.submit)
        label_count = max((network.label_count for network in networks if not network.takes_text), default=0)
        if label_count:
            self.by_name["labels"] = _labels(label_count, class_names)
        self._add_seed()
        self.by_name["count"] = gr.Slider(
            1, MAX_IMAGES, default_count(shown.student.network), step=1, label="Images", elem_id="count"
        )
        if shown.teacher is not None:
            self._add_teacher(shown.teacher_guidance)
        button = gr.Button("Make images", variant="primary", elem_id="make")
        self.starts.append(button.click)

    def _add_seed(self) -> None:
        import gradio as gr

        with gr.Group():
            seed = gr.Textbox("0", label="Seed of the first image", elem_id="seed")
            new_seed = gr.Button("New seed", elem_id="new-seed", size="sm")
        new_seed.click(_draw_seed, outputs=seed, queue=False, api_visibility="private")
        self.by_name["seed"] = seed
        self.starts.append(seed.submit)

    def _add_teacher(self, guidance: float | None) -> None:
        import gradio as gr

        self.by_name["with_teacher"] = gr.Checkbox(True, label="With its teacher", elem_id="with-teacher")
        self.by_name["steps"] = gr.Slider(
            1, MAX_STEPS, 18, step=1, label="Steps of the teacher", info="n steps take 2n - 1 evaluations"
        )
        if guidance is not None:
            self.by_name["guidance"] = gr.Number(
                guidance,
                label="Guidance of the teacher",
                info="1 is none; the student's is in its weights",
                step=0.5,
            )


def _labels(count: int, class_names: Mapping[int, str]) -> Component:
    import gradio as gr

    choices = [
        ("all, in turn", "all"),
        *((name_class(label, class_names), str(label)) for label in range(count)),
    ]
    return gr.Dropdown(
        choices,
        value="all",
        label="Labels",
        info="one, or several such as 0-4 or 1,3",
        allow_custom_value=True,
        elem_id="labels",
    )


def _draw_seed() -> str:
    return str(random.randrange(2**32))
