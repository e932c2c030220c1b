"""Opens what answers questions, or reads text, according to the family of the network."""

from __future__ import annotations

import torch

from distill.eval.composition.answering.blip import open_blip
from distill.eval.composition.answering.chat import ChatAnswers, ChatReader, open_chat_model
from distill.eval.composition.answering.got_ocr import open_got
from distill.eval.composition.answering.protocols import Answerer, Reader
from distill.rewards.pretrained.vision_language.networks import read_config
from distill.rewards.pretrained.vision_language.vqascore import FAMILIES

ANSWERERS = ("blip", *FAMILIES)
READERS = ("got_ocr2", *FAMILIES)


def check_answerer(source: str, flag: str) -> None:
    """Refuse a network that cannot answer questions, by its configuration."""
    read_config(source, flag, ANSWERERS)


def check_reader(source: str, flag: str) -> None:
    """Refuse a network that cannot read text, by its configuration."""
    read_config(source, flag, READERS)


def open_answerer(source: str, flag: str, dtype: torch.dtype, device: torch.device) -> Answerer:
    """Open BLIP or a chat model, by folder or by name on the hub. `flag` names it in messages."""
    config = read_config(source, flag, ANSWERERS)
    if config.model_type == "blip":
        answers = open_blip(source, flag, dtype)
        answers.network.to(device)
        return answers
    model = open_chat_model(config, source, flag, dtype)
    model.network.to(device)
    return ChatAnswers(model)


def open_reader(source: str, flag: str, dtype: torch.dtype, device: torch.device) -> Reader:
    """Open GOT-OCR 2 or a chat model, by folder or by name on the hub. `flag` names it in messages."""
    config = read_config(source, flag, READERS)
    if config.model_type == "got_ocr2":
        reader = open_got(source, flag, dtype)
        reader.network.to(device)
        return reader
    model = open_chat_model(config, source, flag, dtype)
    model.network.to(device)
    return ChatReader(model)
