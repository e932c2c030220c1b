"""Tiny pipelines of AuraFlow, HunyuanDiT, CogView 4 and Kolors with random weights, saved as folders."""

from __future__ import annotations

import importlib.machinery
import json
import string
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tests.helpers.tiny_components import autoencoder, t5, t5_tokenizer, unet
from tests.helpers.tiny_pipelines import saved


def aura_flow(folder: Path) -> Path:
    """Save an `AuraFlowPipeline`, whose call makes images of 1024 pixels. Its latents are of 2x2 pixels."""
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(0)
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.73)
    return saved(AuraFlowPipeline(t5_tokenizer(), t5(), autoencoder(), transformer, scheduler), folder)


def hunyuan_dit(folder: Path) -> Path:
    """Save a `HunyuanDiTPipeline` of 64x64 images in 8x8 latents, the only factor that it knows."""
    from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline

    torch.manual_seed(0)
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=4,
        cross_attention_dim=16,
        cross_attention_dim_t5=32,
        pooled_projection_dim=8,
    )
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.03,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        clip_sample=False,
    )
    parts = {
        "text_encoder": bert(),
        "tokenizer": bert_tokenizer(),
        "text_encoder_2": t5(),
        "tokenizer_2": t5_tokenizer(),
        "vae": deep_autoencoder(),
    }
    pipe = HunyuanDiTPipeline(
        **parts,
        transformer=transformer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return saved(pipe, folder)


def cogview4(folder: Path) -> Path:
    """Save a `CogView4Pipeline` of 16x16 images, whose scheduler's shift depends on their size."""
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(0)
    transformer = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=8,
        time_embed_dim=16,
        condition_dim=8,
        sample_size=8,
        rope_axes_dim=(16, 16),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
    )
    return saved(CogView4Pipeline(glm_tokenizer(), glm(), autoencoder(), transformer, scheduler), folder)


def kolors(folder: Path) -> Path:
    """Save a `KolorsPipeline` of 16x16 images, whose text the U-Net projects."""
    from diffusers import EulerDiscreteScheduler

    kind = kolors_pipeline()
    torch.manual_seed(0)
    network = unet(
        encoder_hid_dim=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.014,
        beta_schedule="scaled_linear",
        num_train_timesteps=1100,
        steps_offset=1,
        timestep_spacing="leading",
    )
    folder.mkdir(parents=True)
    pipe = kind(autoencoder(), chat_glm(), chat_glm_tokenizer(folder), network, scheduler)
    return saved(pipe, folder)


def deep_autoencoder() -> torch.nn.Module:
    """Make an autoencoder of 8x8 pixels to one side of a latent."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )


def bert() -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    return BertModel(BertConfig(**sizes, vocab_size=32, max_position_embeddings=80))


def bert_tokenizer() -> Any:
    """Make a tokenizer of BERT whose words are letters, alone or within a word."""
    from transformers import BertTokenizer

    inner = [f"##{letter}" for letter in "abcdefgotx"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgofxyz", *inner]
    return BertTokenizer(vocab={word: row for row, word in enumerate(dict.fromkeys(words))})


def glm() -> torch.nn.Module:
    from transformers import GlmConfig, GlmModel

    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "head_dim": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 2,
    }
    return GlmModel(GlmConfig(**sizes, vocab_size=32, pad_token_id=0, eos_token_id=0))


def glm_tokenizer() -> Any:
    """Make a tokenizer like GLM's whose words are letters; it begins with padding and two tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<|endoftext|>", "[gMASK]", "<sop>", " ", *string.ascii_lowercase]
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, "<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[("[gMASK]", 1), ("<sop>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", padding_side="left")


def kolors_pipeline() -> Any:
    """Return the class of Kolors' pipeline, which diffusers offers only beside sentencepiece.

    A stand-in for that package is left in this process, so that the pipeline can be opened.
    """
    import diffusers
    from diffusers.pipelines.kolors import tokenizer

    with warnings.catch_warnings():  # of functions that torch.jit compiles
        warnings.simplefilter("ignore", DeprecationWarning)
        from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline

    module = ModuleType("sentencepiece")
    module.__spec__ = importlib.machinery.ModuleSpec("sentencepiece", None)
    setattr(module, "SentencePieceProcessor", Letters)  # noqa: B010
    sys.modules["sentencepiece"] = module
    tokenizer.is_sentencepiece_available = lambda: True
    setattr(diffusers, "KolorsPipeline", KolorsPipeline)  # noqa: B010
    return KolorsPipeline


def chat_glm() -> torch.nn.Module:
    from diffusers.pipelines.kolors import ChatGLMModel
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    sizes = {
        "num_layers": 2,
        "padded_vocab_size": 64,
        "hidden_size": 16,
        "ffn_hidden_size": 16,
        "kv_channels": 8,
        "num_attention_heads": 2,
    }
    kind = {"multi_query_attention": True, "add_qkv_bias": True, "original_rope": True}
    network = ChatGLMModel(ChatGLMConfig(**sizes, **kind))
    for parameter in network.parameters():  # it leaves memory as it is
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def chat_glm_tokenizer(folder: Path) -> Any:
    """Make a tokenizer of ChatGLM whose words are letters."""
    from diffusers.pipelines.kolors import ChatGLMTokenizer

    words = ["<unk>", "<s>", "</s>", "\u2581", *string.ascii_lowercase]
    (folder / "letters.model").write_text(json.dumps(words))
    return ChatGLMTokenizer(str(folder / "letters.model"))


class Letters:
    """A `SentencePieceProcessor` whose pieces are letters, which a file of JSON lists."""

    def __init__(self, model_file: str) -> None:
        self.words: list[str] = json.loads(Path(model_file).read_text())

    def vocab_size(self) -> int:
        return len(self.words)

    def get_piece_size(self) -> int:
        return len(self.words)

    def unk_id(self) -> int:
        return 0

    def bos_id(self) -> int:
        return 1

    def eos_id(self) -> int:
        return 2

    def EncodeAsPieces(self, text: str) -> list[str]:
        return list(f"\u2581{text.replace(' ', chr(0x2581))}")

    def PieceToId(self, piece: str) -> int:
        return self.words.index(piece) if piece in self.words else 0

    def IdToPiece(self, index: int) -> str:
        return self.words[index]
