"""Tiny random-weight models of the real classes, saved to disk as the hub lays them out. For tests only."""

from __future__ import annotations

import atexit
import functools
import json
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from steer_ros.models import Bridge, VisualFeatures
from steer_ros.models.decoding import GreedyDecoder
from steer_ros.perception import Perceiver
from steer_ros.reasoning import Reasoner
from steer_ros.regions.mask import Mask, box_weights

torch.set_num_threads(1)  # nothing here is large enough to share out

VL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# As in DeepSeek-R1-Distill-Qwen: those in the second list are not marked special.
R1_SPECIAL = ["<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"]
R1_PLAIN = [
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
]

VL_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
R1_TEMPLATE = (
    "{% set ns = namespace(system_prompt='') %}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}"
    "{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{{'<｜User｜>' + message['content']}}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
)


def byte_tokenizer(special: list[str], plain: list[str]) -> Tokenizer:
    """A byte-level BPE tokenizer without merges: any text round-trips."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return tokenizer


def _write(folder: Path, name: str, content: dict) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def save_vl(folder: Path, hidden: int = 32, seed: int = 0, pixels: int = 112 * 112, layers: int = 4) -> Path:
    """A Qwen2VLForConditionalGeneration with patch 14, merge 2; frames become near `pixels` px in area."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer(VL_TOKENS, [])
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in VL_TOKENS}
    _write(
        folder,
        "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": VL_TEMPLATE,
        },
    )
    _write(
        folder,
        "preprocessor_config.json",
        {
            "min_pixels": pixels,
            "max_pixels": pixels,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
        },
    )
    config = Qwen2VLConfig(
        text_config=dict(
            hidden_size=hidden,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=tokenizer.get_vocab_size(),
            max_position_embeddings=1024,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]},
            bos_token_id=ids["<|endoftext|>"],
            eos_token_id=ids["<|im_end|>"],
            pad_token_id=ids["<|endoftext|>"],
        ),
        vision_config=dict(
            depth=2,
            embed_dim=24,
            num_heads=2,
            mlp_ratio=2,
            hidden_size=hidden,
            patch_size=14,
            spatial_merge_size=2,
            temporal_patch_size=2,
        ),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config).float()
    _spread(model)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.save_pretrained(folder)
    return folder


def save_r1(folder: Path, hidden: int = 24, seed: int = 0, layers: int = 4, max_length: int = 512) -> Path:
    """A Qwen2ForCausalLM with grouped queries and DeepSeek-R1-Distill's tokens and chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer(R1_SPECIAL, R1_PLAIN)
    tokenizer.save(str(folder / "tokenizer.json"))
    end, begin = (tokenizer.token_to_id(token) for token in R1_SPECIAL)
    _write(
        folder,
        "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizerFast",
            "bos_token": R1_SPECIAL[1],
            "eos_token": R1_SPECIAL[0],
            "pad_token": R1_SPECIAL[0],
            "add_bos_token": True,
            "chat_template": R1_TEMPLATE,
        },
    )
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=max_length,
        bos_token_id=begin,
        eos_token_id=end,
        pad_token_id=end,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config).float()
    _spread(model)
    model.generation_config.eos_token_id = [end, tokenizer.token_to_id("<｜User｜>")]
    model.save_pretrained(folder)
    return folder


def _spread(model) -> None:
    """Make attention far from uniform, so that a wrong bias or position shows in the logits."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6.0)


@functools.cache
def root() -> Path:
    """Folder of this process's tiny models."""
    folder = Path(tempfile.mkdtemp(prefix="steer_ros_tiny_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def vl_folder() -> Path:
    return save_vl(root() / "vl")


@functools.cache
def r1_folder() -> Path:
    return save_r1(root() / "r1")


@functools.cache
def bridged_folder() -> Path:
    """The same reasoner with a bridge from the tiny vision-language model beside it."""
    folder = save_r1(root() / "r1-bridged")
    torch.manual_seed(1)
    Bridge(32, 24).save(folder)
    return folder


@functools.cache
def perceiver() -> Perceiver:
    return Perceiver.from_pretrained(str(vl_folder()))


@functools.cache
def reasoner(bridged: bool = True) -> Reasoner:
    return Reasoner.from_pretrained(str(bridged_folder() if bridged else r1_folder()))


def frame(width: int = 112, height: int = 112, seed: int = 0) -> np.ndarray:
    """Noise, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def left_mask(features: VisualFeatures) -> Mask:
    """The left half of a frame, as a red beaker."""
    width, height = features.frame_size
    box = (0, 0, width / 2, height)
    return Mask(box_weights(features.grid, features.frame_size, box), label="red beaker", box=box)


def script(monkeypatch, tokenizer, text: str, probability: float = 0.5) -> None:
    """Put an answer into a model's mouth, every token with one probability. The model runs all the same."""
    ids = iter([*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])
    monkeypatch.setattr(GreedyDecoder, "best", lambda self, scores=None: (next(ids), math.log(probability)))


def reference_patches(image, patch=14, merge=2):
    """The patches of an image that needs no resize, spelt out cell by cell."""
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = ((image / 255 - mean) / std).transpose(2, 0, 1)
    rows, cols = image.shape[0] // patch, image.shape[1] // patch
    out = []
    for block_row in range(0, rows, merge):
        for block_col in range(0, cols, merge):
            for row in range(block_row, block_row + merge):
                for col in range(block_col, block_col + merge):
                    cell = pixels[:, row * patch : (row + 1) * patch, col * patch : (col + 1) * patch]
                    out.append(np.stack([cell, cell], axis=1).ravel())  # [C, T, p, p]
    return torch.tensor(np.stack(out), dtype=torch.float32)
