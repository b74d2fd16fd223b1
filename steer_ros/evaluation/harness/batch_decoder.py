"""Many answers at once: prompts of one length share each forward pass, and what they begin with is read once.

What the reasoner's own turn does for one prompt at a time, without padding: greedy decoding under one steering. Rows
that are done leave the batch; rows that close their thought go on in a batch of their own, in the phase "act", and so
do those that are in_doubt where others are not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from ...models.decoding import cache_keyword
from ...steering import Attachment
from ...steering.schedule import Schedule, chosen_by


class BatchDecoder:
    """Greedy decoding of batches on one attached model.

    Args:
        model: a Transformers causal language model.
        tokenizer: its tokenizer.
        attachment: of that model; its phase is set while decoding, and "think" after. None: nothing is ever steered.
        stop: token ids that end an answer.
        think_end: token id that closes a thought; None: the model has none and is in the phase "act" from the start.
    """

    def __init__(
        self, model, tokenizer, attachment: Attachment | None, stop: frozenset[int], think_end: int | None = None
    ) -> None:
        self.model, self.tokenizer, self.attachment = model, tokenizer, attachment
        self.stop, self.think_end = stop, think_end
        self._keyword = cache_keyword(type(model))

    @torch.no_grad()
    def read(
        self,
        ids: Sequence[Sequence[int]] | None = None,
        embeds: Tensor | None = None,
        positions: Tensor | None = None,
        behind: DynamicCache | None = None,
    ) -> DynamicCache:
        """The cache of token ids [rows, n], or of embeddings [rows, n, hidden].

        Args:
            positions: [axes, rows, n] for M-RoPE; None counts on.
            behind: the cache of what was read before, a row for each; it becomes the one that is given.
        """
        cache = DynamicCache(config=self.model.config) if behind is None else behind
        self._forward(cache, ids, embeds, positions)
        return cache

    @torch.no_grad()
    def write(
        self,
        cache: DynamicCache,
        feed: Sequence[Sequence[int]],
        limit: int,
        enough: Callable[[int, str], bool] | None = None,
        schedule: Schedule | None = None,
        rope: tuple[int, int] = (1, 0),
    ) -> list[str]:
        """The answers of a batch, special tokens kept except the one that ends it.

        Args:
            cache: what was read, a row for each prompt; it is used up.
            feed: token ids [rows, n] that are read next, steered if the model is being steered.
            limit: the longest answer, tokens.
            enough: asked with (row, its text so far) after each token; True ends that row's answer.
            schedule: of the strength, the fed ids being the context's rows; None: all of it throughout. Rows of the
                batch that are in doubt (below its confidence_threshold) go on in a batch of their own, steered, where
                others are not.
            rope: the axes of M-RoPE, and what it adds to a token's index.
        """
        written: list[list[int]] = [[] for _ in feed]
        schedule = None if self.attachment is None else schedule
        first = "act" if self.think_end is None else "think"
        waiting = [(first, list(range(len(feed))), cache, [tuple(ids) for ids in feed])]
        try:
            while waiting:
                phase, rows, cache, feed = waiting.pop()
                count = len(written[rows[0]])
                if count >= limit:
                    continue
                for places, own, best in self._step(phase, count, cache, feed, schedule, rope):
                    going: dict[str, list[int]] = {}  # phase -> places in this part
                    for place, (whole, token) in enumerate(zip(places, best, strict=True)):
                        row = rows[whole]
                        if token in self.stop:
                            continue
                        written[row].append(token)
                        if enough is None or not enough(row, self._text(written[row])):
                            closes = phase == "think" and token == self.think_end
                            going.setdefault("act" if closes else phase, []).append(place)
                    for then, kept in going.items():
                        left = own if len(kept) == len(places) else pick(own, kept, copied=len(going) > 1)
                        chosen = [rows[places[place]] for place in kept]
                        waiting.append((then, chosen, left, [(best[place],) for place in kept]))
        finally:
            if self.attachment is not None:
                self.attachment.phase = "think"
            if schedule is not None:
                self.attachment.strength_scale = 1.0
        return [self._text(ids) for ids in written]

    def _step(
        self,
        phase: str,
        count: int,
        cache: DynamicCache,
        feed: Sequence[Sequence[int]],
        schedule: Schedule | None,
        rope: tuple[int, int],
    ) -> Iterator[tuple[list[int], DynamicCache, list[int]]]:
        """Feed tokens to rows that have written `count`: (places in the batch, their cache, their next tokens), once
        or, where some are in doubt and others not, twice."""
        everyone = list(range(len(feed)))
        if self.attachment is not None:
            self.attachment.phase = phase
        strength_scale = 1.0 if schedule is None else schedule.strength_scale(phase if count else "prompt", count)
        if schedule is not None:
            self.attachment.strength_scale = strength_scale
        if schedule is None or not schedule.asks_plain or not strength_scale:
            yield everyone, cache, best_of(self._forward(cache, feed, rope=rope))
            return
        if len(feed[0]) > 1:  # the last row is the one that decides, as in reasoning/generation.py
            self._forward(cache, [ids[:-1] for ids in feed], rope=rope)
        last = [ids[-1:] for ids in feed]
        self.attachment.strength_scale = 0.0
        plain = self._forward(cache, last, rope=rope)
        likely = plain.softmax(-1).amax(-1).tolist()
        in_doubt = [
            place
            for place in everyone
            if schedule.confidence_threshold is None or likely[place] < schedule.confidence_threshold
        ]
        confident = sorted(set(everyone) - set(in_doubt))
        own = pick(cache, in_doubt) if confident and in_doubt else cache
        if confident:
            yield confident, pick(cache, confident) if in_doubt else cache, best_of(plain[confident])
        if in_doubt:
            own.crop(-1)
            self.attachment.strength_scale = strength_scale
            steered = self._forward(own, [last[place] for place in in_doubt], rope=rope)
            yield in_doubt, own, best_of(chosen_by(steered, plain[in_doubt], schedule))

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _forward(
        self,
        cache: DynamicCache,
        ids: Sequence[Sequence[int]] | None,
        embeds: Tensor | None = None,
        positions: Tensor | None = None,
        rope: tuple[int, int] = (1, 0),
    ) -> Tensor:
        """Feed tokens; the logits after the last, fp32 [rows, vocabulary]."""
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
        return output.logits[:, -1].float()


def best_of(logits: Tensor) -> list[int]:
    """The likeliest token of each row."""
    return logits.argmax(-1).tolist()


def pick(cache: DynamicCache, rows: Sequence[int], copied: bool = True) -> DynamicCache:
    """Some rows of a cache, in the order given, repeated if they are: of a copy, or of the cache itself."""
    chosen = copy.deepcopy(cache) if copied else cache
    chosen.batch_select_indices(torch.tensor(list(rows), device=cache.layers[0].keys.device))
    return chosen
