"""Many answers at once: prompts of one length share each forward pass, and what they begin with is read once.

What the reasoner's own turn does for one prompt at a time, without padding: greedy decoding under one steering. Rows
that are done leave the batch; rows that close their thought go on in a batch of their own, in the phase "act".
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from ..models.decode import _cache_keyword
from ..steering import Attachment


class BatchDecoder:
    """Greedy decoding of batches on one attached model.

    Args:
        model: a Transformers causal language model.
        tokenizer: its tokenizer.
        attachment: of that model; its phase is set while decoding. None: nothing is ever steered.
        stop: token ids that end an answer.
        think_end: token id that closes a thought; None: the model has none and is in the phase "act" from the start.
    """

    def __init__(
        self, model, tokenizer, attachment: Attachment | None, stop: frozenset[int], think_end: int | None = None
    ) -> None:
        self.model, self.tokenizer, self.attachment = model, tokenizer, attachment
        self.stop, self.think_end = stop, think_end
        self._keyword = _cache_keyword(type(model))

    @torch.no_grad()
    def read(
        self,
        ids: Sequence[Sequence[int]] | None = None,
        embeds: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> DynamicCache:
        """The cache of token ids [rows, n], or of embeddings [rows, n, hidden].

        Args:
            positions: [axes, rows, n] for M-RoPE; None counts from 0.
        """
        cache = DynamicCache(config=self.model.config)
        self._forward(cache, ids, embeds, positions)
        return cache

    @torch.no_grad()
    def write(
        self,
        cache: DynamicCache,
        feed: Sequence[Sequence[int]],
        limit: int,
        enough: Callable[[int, str], bool] | None = None,
        factor: Callable[[str, int], float] | None = None,
        rope: tuple[int, int] = (1, 0),
    ) -> list[str]:
        """The answers of a batch, special tokens kept except the one that ends it.

        Args:
            cache: what was read, a row for each prompt; it is used up.
            feed: token ids [rows, n] that are read next, steered if the model is being steered.
            limit: the longest answer, tokens.
            enough: asked with (row, its text so far) after each token; True ends that row's answer.
            factor: the part of the strength for a phase ("prompt", "think", "act") and the tokens written so far.
            rope: the axes of M-RoPE, and what it adds to a token's index.
        """
        rows = list(range(len(feed)))
        written: list[list[int]] = [[] for _ in rows]
        waiting = [("act" if self.think_end is None else "think", rows, cache, list(feed))]
        try:
            while waiting:
                phase, rows, cache, feed = waiting.pop()
                while rows and len(written[rows[0]]) < limit:
                    self._set(phase, len(written[rows[0]]), factor)
                    best = self._forward(cache, feed, rope=rope)
                    going, acting = [], []
                    for place, (row, token) in enumerate(zip(rows, best, strict=True)):
                        if token in self.stop:
                            continue
                        written[row].append(token)
                        if enough is not None and enough(row, self._text(written[row])):
                            continue
                        (acting if phase == "think" and token == self.think_end else going).append(place)
                    if acting:
                        chosen = [rows[place] for place in acting]
                        waiting.append(("act", chosen, pick(cache, acting), [(self.think_end,)] * len(chosen)))
                    if len(going) < len(rows) and going:
                        cache.batch_select_indices(torch.tensor(going, device=self.model.device))
                    rows, feed = [rows[place] for place in going], [(best[place],) for place in going]
        finally:
            if self.attachment is not None and factor is not None:
                self.attachment.factor = 1.0
        return [self._text(ids) for ids in written]

    def _set(self, phase: str, count: int, factor: Callable[[str, int], float] | None) -> None:
        if self.attachment is None:
            return
        self.attachment.phase = phase
        if factor is not None:
            self.attachment.factor = factor(phase if count else "prompt", count)

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _forward(
        self,
        cache: DynamicCache,
        ids: Sequence[Sequence[int]] | None,
        embeds: Tensor | None = None,
        positions: Tensor | None = None,
        rope: tuple[int, int] = (1, 0),
    ) -> list[int]:
        """Feed tokens; the likeliest next token of each row."""
        device = self.model.device
        given = {"input_ids": torch.tensor(ids, device=device)} if embeds is None else {"inputs_embeds": embeds}
        rows, length = next(iter(given.values())).shape[:2]
        if positions is None:
            axes, delta = rope
            start = int(cache.get_seq_length()) + delta
            positions = torch.arange(start, start + length, device=device).expand(axes, rows, -1)
            positions = positions if axes > 1 else positions[0]
        given |= {self._keyword: cache, "position_ids": positions}
        output = self.model(use_cache=True, logits_to_keep=1, **given)
        return output.logits[:, -1].argmax(-1).tolist()


def pick(cache: DynamicCache, rows: Sequence[int]) -> DynamicCache:
    """Some rows of a cache, in the order given, repeated if they are, as a cache of its own."""
    chosen = copy.deepcopy(cache)
    chosen.batch_select_indices(torch.tensor(list(rows), device=cache.layers[0].keys.device))
    return chosen
