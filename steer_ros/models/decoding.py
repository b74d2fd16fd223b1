"""Greedy decoding, one token at a time, over any Transformers language model with a growing cache."""

from __future__ import annotations

import inspect

import torch
from transformers import DynamicCache


class GreedyDecoder:
    """One answer's state: its cache and the logits of the next token.

    The caller drives it: ``prefill`` once, then ``best`` and ``feed`` in turn. So that it can look at a
    clock, a new mask or a cancel request before each token, no loop is hidden here. ``retract`` takes the last
    row back, to be run again another way.
    """

    def __init__(self, model):
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._cache_keyword = cache_keyword(type(model))
        self._rope_delta = 0
        self._axes = 0
        self._logits: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """Keys in the cache."""
        return int(self._cache.get_seq_length())

    def prefill(self, embeds: torch.Tensor, position_ids: torch.Tensor | None = None, rope_delta: int = 0) -> None:
        """Read the context.

        Args:
            embeds: [1, length, hidden].
            position_ids: [1, length], or [3, 1, length] for M-RoPE; None counts from 0.
            rope_delta: what M-RoPE adds to a later token's index.
        """
        if position_ids is None:
            position_ids = torch.arange(embeds.shape[1], device=embeds.device)[None]
        self._axes = position_ids.shape[0] if position_ids.ndim == 3 else 0
        self._rope_delta = int(rope_delta)
        self._forward(embeds, position_ids)

    @property
    def logits(self) -> torch.Tensor:
        """Of the next token, fp32 [vocabulary]."""
        assert self._logits is not None, "prefill first"
        return self._logits

    def best(self, scores: torch.Tensor | None = None) -> tuple[int, float]:
        """The likeliest next token, or the one with the highest of `scores` [vocabulary], and its log-probability."""
        logits = self.logits
        token = (logits if scores is None else scores).argmax()
        pair = torch.stack((token.double(), (logits.take(token) - torch.logsumexp(logits, 0)).double()))
        token, logprob = pair.tolist()  # one wait for the device, not two
        return int(token), logprob

    def feed(self, token: int) -> None:
        """Append one token (the best one, or another) and compute the next logits."""
        table = self._model.get_input_embeddings()
        self.extend(table(torch.tensor([[token]], device=table.weight.device)))

    def extend(self, embeds: torch.Tensor) -> None:
        """Append rows [1, rows, hidden] by their embeddings and compute the logits after the last of them."""
        first = self.length + self._rope_delta
        position = torch.arange(first, first + embeds.shape[1], device=embeds.device)[None]
        self._forward(embeds, position.expand(self._axes, 1, -1) if self._axes else position)

    def retract(self) -> None:
        """Take the last row out of the cache; ``feed`` or ``extend`` must follow."""
        self._cache.crop(-1)
        self._logits = None

    def _forward(self, embeds: torch.Tensor, position_ids: torch.Tensor) -> None:
        output = self._model(
            inputs_embeds=embeds,
            position_ids=position_ids,
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_keyword: self._cache},
        )
        self._logits = output.logits[0, -1].float()


def cache_keyword(model_class) -> str:
    """Transformers 5.24 calls it ``cache``, earlier releases ``past_key_values``."""
    return "cache" if "cache" in inspect.signature(model_class.forward).parameters else "past_key_values"
