"""Answers of tiny random networks of the real classes, beside those of transformers itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.composition.answering.chat import YES_OR_NO, ChatAnswers, ChatModel, first_word
from distill.eval.composition.answering.opening import open_answerer, open_reader
from tests.helpers.tiny_answerers import blip, got_ocr
from tests.helpers.tiny_vision_language import CONFIGS, chat_model, chats, to_images, without_videos

CPU = torch.device("cpu")
QUESTIONS = ["is the cat red?", "is there a dog?", "a b c d e f"]


def noise(height: int = 40, width: int = 56) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(2)).byte()


def test_answers_of_blip_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BlipForQuestionAnswering, BlipImageProcessorPil

    folder = blip(tmp_path / "blip")
    answerer = open_answerer(str(folder), "--vqa", torch.float32, CPU)
    network = BlipForQuestionAnswering.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    image = Image.fromarray(noise().permute(1, 2, 0).numpy())
    pixels = BlipImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    expected = []
    for question in QUESTIONS:
        tokens = words([question], return_tensors="pt")
        with torch.no_grad():
            made = network.generate(
                tokens["input_ids"], pixels, attention_mask=tokens["attention_mask"], max_length=20
            )
        expected.append(words.decode(made[0], skip_special_tokens=True))
    assert answerer.answer(noise(), QUESTIONS) == expected
    assert len(set(expected)) == 3
    assert answerer.answer(255 - noise(), QUESTIONS) != expected
    assert answerer.answer(noise(), QUESTIONS[1:2]) == expected[1:2]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_replies_of_chat_models_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaProcessor, Qwen2VLImageProcessorPil

    folder = chat_model(tmp_path / family, family)
    answerer = open_answerer(str(folder), "--vqa", torch.float32, CPU)
    assert isinstance(answerer, ChatAnswers)
    words = AutoTokenizer.from_pretrained(folder)
    if family == "llava":
        processor = LlavaProcessor(
            CLIPImageProcessorPil.from_pretrained(folder),
            words,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            image_token="<|image_pad|>",
            chat_template=words.chat_template,
        )
    else:
        images = Qwen2VLImageProcessorPil.from_pretrained(folder)
        processor = without_videos(family)(images, words, None, chat_template=words.chat_template)
    text = YES_OR_NO.format(question=QUESTIONS[0])
    chat = processor.apply_chat_template(chats([text]), add_generation_prompt=True, tokenize=False)
    inputs = processor(images=to_images(noise()[None]), text=chat, return_tensors="pt")
    with torch.no_grad():
        made = answerer.model.network.generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = words.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert answerer.model.reply(noise(), text, 8) == expected
    assert answerer.answer(noise(), QUESTIONS[:1]) == [first_word(expected)]
    assert answerer.identity["request"] == YES_OR_NO


def test_text_of_got_is_that_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import (
        AutoTokenizer,
        GotOcr2ForConditionalGeneration,
        GotOcr2ImageProcessorPil,
        GotOcr2Processor,
    )

    monkeypatch.setattr("distill.eval.composition.answering.got_ocr.READ_TOKENS", 12)
    folder = got_ocr(tmp_path / "got")
    reader = open_reader(str(folder), "--ocr", torch.float32, CPU)
    words = AutoTokenizer.from_pretrained(folder)
    processor = GotOcr2Processor(GotOcr2ImageProcessorPil.from_pretrained(folder), words)
    inputs = processor(to_images(noise()[None])[0], return_tensors="pt")
    assert (inputs["input_ids"] == words.convert_tokens_to_ids("<imgpad>")).sum() == 256
    network = GotOcr2ForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        made = network.generate(**inputs, do_sample=False, max_new_tokens=12)
    expected = words.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert reader.read(noise()) == expected
    assert expected
    assert json.loads(json.dumps(reader.identity)) == reader.identity


def test_nothing_read_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_reader(str(chat_model(tmp_path, "llava")), "--ocr", torch.float32, CPU)
    replies = ["No text recognized.", "OPEN\nNo text recognized", "addCriterion OPEN"]
    monkeypatch.setattr(ChatModel, "reply", lambda *_: replies.pop(0))
    assert [reader.read(noise()) for _ in range(3)] == ["", "OPEN", "OPEN"]


@pytest.mark.parametrize(
    ("reply", "word"),
    [("Yes.", "yes"), ("\n no, it\n", "no"), ("**Yes**", "yes"), ("Maybe", "maybe"), ("", "")],
)
def test_the_first_word_of_a_reply_is_the_answer(reply: str, word: str) -> None:
    assert first_word(reply) == word


def test_networks_of_other_families_are_refused(tmp_path: Path) -> None:
    CONFIGS["qwen3_vl"]().vision_config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"--vqa: .* holds a .*; expected one of blip, llava, qwen2_5_vl"):
        open_answerer(str(tmp_path), "--vqa", torch.float32, CPU)
    with pytest.raises(UserError, match=r"--ocr: .* holds a .*; expected one of got_ocr2, llava, qwen2_5_vl"):
        open_reader(str(tmp_path), "--ocr", torch.float32, CPU)
    with pytest.raises(UserError, match=r"--vqa: .*absent cannot be opened"):
        open_answerer(str(tmp_path / "absent"), "--vqa", torch.float32, CPU)
