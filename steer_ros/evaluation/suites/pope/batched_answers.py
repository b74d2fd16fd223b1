"""The questions of one scene answered in batches: the frame is prefilled once, and each question's rows follow it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache

from ....models import VisualFeatures
from ....models.loading import stop_ids
from ....reasoning import Reasoner
from ....reasoning.prompt import THINK_END, TOKEN, Prompt, embed
from ....regions.mask import pool_to_tokens
from ....steering import Span, SteeringField
from ...harness.batch_decoder import BatchDecoder, pick
from ...harness.steering_setup import SteeringSetup
from ...harness.turns import LONGEST, must_see

YES, NO = "Yes.", "No."


@dataclass(frozen=True, eq=False)
class PrefilledFrame:
    """A frame prefilled into the reasoner, up to its last visual token: none of these rows is ever steered."""

    features: VisualFeatures
    head: Prompt
    cache: DynamicCache


class Answerer:
    """Answers many prompts about one frame as `Reasoner.generate` would one by one, without its guard.

    Raises:
        ValueError: a reasoner that does not get frames by a token bridge (in words a region says what it is).
    """

    def __init__(self, reasoner: Reasoner):
        self._reasoner = reasoner
        layout = reasoner.prompts
        self._attachment = reasoner.attachment
        self._decoder = BatchDecoder(
            reasoner.model,
            reasoner.tokenizer,
            self._attachment,
            stop_ids(reasoner.model, reasoner.tokenizer),
            layout.think_end if layout.opens_thought else None,
        )

    def prefill(self, features: VisualFeatures) -> PrefilledFrame:
        """Prefill a frame."""
        reasoner = self._reasoner
        must_see(reasoner, features)
        laid_out = reasoner.prompts.with_tokens("", [int(features.tokens.shape[0])])
        start, length = laid_out.spans[0]
        head = Prompt(laid_out.ids[: start + length], laid_out.spans, TOKEN)
        with torch.no_grad():
            cache = self._decoder.read(embeds=embed(reasoner.model, head, [features.tokens], reasoner.bridge))
        return PrefilledFrame(features, head, cache)

    def answer(
        self, frame: PrefilledFrame, prompts: Sequence[str], setup: SteeringSetup, weights: np.ndarray | None
    ) -> list[str]:
        """The action of each answer, stripped; "" where the thought was never closed.

        Args:
            weights: the region, int8 [rows, cols] on the patch grid; None: unsteered.
        """
        steers = weights is not None and setup.steers
        schedule = setup.config.schedule if steers else None
        known = len(frame.head.ids)
        tails = [self._reasoner.prompts.with_tokens(p, [frame.head.spans[0][1]]).ids[known:] for p in prompts]
        by_length: dict[int, list[int]] = defaultdict(list)
        for place, tail in enumerate(tails):
            by_length[len(tail)].append(place)
        answers = [""] * len(prompts)
        for places in by_length.values():
            with self._steering(frame, setup, weights) if steers else nullcontext():
                cache = pick(frame.cache, [0] * len(places))
                texts = self._decoder.write(cache, [tails[place] for place in places], LONGEST, schedule=schedule)
            for place, text in zip(places, texts, strict=True):
                answers[place] = self._action(text)
        return answers

    def _steering(self, frame: PrefilledFrame, setup: SteeringSetup, weights: np.ndarray):
        spans = [Span(*span) for span in frame.head.spans]
        tokens = pool_to_tokens(setup.mask(weights), frame.features.grid.merge).reshape(-1)
        field = SteeringField(spans, [tokens], setup.config.gain_table, self._reasoner.device)
        return self._attachment.steer(field, setup.config.law, setup.config.gate)

    def _action(self, text: str) -> str:
        if not self._reasoner.prompts.opens_thought:
            return text.strip()
        return text.partition(THINK_END)[2].strip()
