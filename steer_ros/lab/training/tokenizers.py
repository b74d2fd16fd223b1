"""The built-in models' tokenizers: byte-level BPE over the bench's sentences, with Qwen2-VL's and R1's own marks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..scenes.instructions import draw_dialogue
from ..scenes.referring_expressions import grounding_query, grounding_request
from ..scenes.render import render
from ..scenes.scene import make_scene
from ..scenes.visible_objects import visible_objects_of
from ..seeds import TOKENIZER_SEEDS

# Qwen2's split: words with their leading blank, single digits, runs of signs.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_VISION = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
_GROUNDING = ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>")

VL_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
R1_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}{% endif %}"
    "{% if message['role'] == 'user' %}<｜User｜>{{ message['content'] }}{% endif %}"
    "{% if message['role'] == 'assistant' %}<｜Assistant｜>{{ message['content'].split('</think>')[-1] }}"
    "<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)


def sentences(scenes: int = 400, first_seed: int = TOKENIZER_SEEDS.start) -> Iterable[str]:
    """What is said on the bench, for the vocabulary to be drawn from."""
    rng = np.random.default_rng(first_seed)
    for seed in range(first_seed, first_seed + scenes):
        objects = visible_objects_of(render(make_scene(seed)))
        for _ in range(20):
            dialogue = draw_dialogue(rng, objects)
            yield dialogue.prompt
            yield dialogue.answer.replace("</think>", " ")
            phrase, _ = grounding_query(rng, objects)
            yield grounding_request(rng, phrase)
            yield phrase
        yield "(012,345),(678,900)"
        yield "user\nassistant\nnone"


def _bpe(special: tuple[str, ...], texts: Iterable[str] | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(sentences() if texts is None else texts, trainer)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def vl_tokenizer(texts: Iterable[str] | None = None) -> PreTrainedTokenizerFast:
    """lab-vl's tokenizer, with Qwen2-VL's marks and chat template; `texts`: other sentences than the bench's."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *_GROUNDING, *_VISION)
    return PreTrainedTokenizerFast(
        tokenizer_object=_bpe(special, texts),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=VL_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def r1_tokenizer(texts: Iterable[str] | None = None) -> PreTrainedTokenizerFast:
    """lab-r1's tokenizer, with DeepSeek-R1's marks and chat template; `texts`: other sentences than the bench's."""
    special = (
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<｜begin▁of▁sentence｜>",
        "<think>",
        "</think>",
        *_VISION,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=_bpe(special, texts),
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
        pad_token="<｜end▁of▁sentence｜>",
        chat_template=R1_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
