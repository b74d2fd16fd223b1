"""The reasoner's prompt: text, the frames' tokens or the regions' words, text; and which keys are visual."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..models.bridge import Bridge
from ..models.tokenization import encode_plain, encode_template, render_template, token_id
from ..regions.grid import Box

VISION_START, VISION_END, IMAGE_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
THINK, THINK_END = "<think>", "</think>"
TOKEN, TEXT = "token", "text"


@dataclass(frozen=True)
class Region:
    """A region as the text bridge lists it: its label, and its box in a frame when known."""

    label: str
    box: Box | None = None
    frame_size: tuple[int, int] | None = None
    frame: int = 0  # index into the turn's frames

    @property
    def words(self) -> str:
        """``red beaker at the top right``; the label alone when there is no box."""
        if self.box is None or self.frame_size is None:
            return self.label
        return f"{self.label} {place_words(self.box, self.frame_size)}"


@dataclass
class Prompt:
    """One prompt, laid out.

    Attributes:
        ids: a token id for each position; a frame's positions hold image_pad's id (-1 if there is none).
        spans: (start, length) of each frame's tokens (token bridge) or each region's words (text bridge).
        bridge: "token" or "text".
        regions: the regions behind the spans of a text bridge.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    bridge: str
    regions: list[Region] = field(default_factory=list)


class PromptBuilder:
    """Lays out prompts for one reasoner: its chat template is rendered once and filled for each turn."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        before, after = render_template(tokenizer)
        self._before = encode_template(tokenizer, before)
        self._after = encode_template(tokenizer, after)
        self.think, self.think_end = token_id(tokenizer, THINK), token_id(tokenizer, THINK_END)
        # True when the template itself opens the thought, as DeepSeek-R1's does.
        self.opens_thought = self.think is not None and after.rstrip().endswith(THINK)
        pad = token_id(tokenizer, IMAGE_PAD)
        self._pad = -1 if pad is None else pad
        marks = [token_id(tokenizer, mark) for mark in (VISION_START, VISION_END)]
        self._open, self._close = [[] if None in marks else [mark] for mark in marks]

    def with_tokens(self, prompt: str, frame_tokens: list[int]) -> Prompt:
        """Token bridge: every frame's span in order, then the prompt.

        Args:
            frame_tokens: number of visual tokens of each frame.
        """
        ids, spans = list(self._before), []
        for count in frame_tokens:
            ids += self._open
            spans.append((len(ids), count))
            ids += [self._pad] * count + self._close
        ids += encode_plain(self._tokenizer, prompt) + self._after
        return Prompt(ids, spans, TOKEN)

    def with_words(self, prompt: str, regions: list[Region]) -> Prompt:
        """Text bridge: "Objects in view: red beaker at the left; blue dish at the top." and the prompt."""
        ids, spans = list(self._before), []
        for index, region in enumerate(regions):
            # Piece by piece, each with its leading blank: the cuts are where the tokenizer cuts anyway.
            ids += encode_plain(self._tokenizer, ";" if index else "Objects in view:")
            words = encode_plain(self._tokenizer, " " + region.words)
            spans.append((len(ids), len(words)))
            ids += words
        ids += encode_plain(self._tokenizer, f".\n{prompt}" if regions else prompt) + self._after
        return Prompt(ids, spans, TEXT, list(regions))


def embed(model, prompt: Prompt, frames: list[torch.Tensor], bridge: Bridge | None) -> torch.Tensor:
    """Input embeddings [1, length, hidden]; a token bridge's spans are filled with the frames' tokens.

    Args:
        frames: visual tokens [N, vl_hidden] of each frame, as many as the prompt has spans (token bridge).
    """
    table = model.get_input_embeddings()
    ids = torch.tensor([prompt.ids], device=table.weight.device)
    embeds = table(ids.clamp_min(0))
    if prompt.bridge == TOKEN:
        for (start, length), tokens in zip(prompt.spans, frames, strict=True):
            embeds[0, start : start + length] = bridge(tokens).to(embeds.device, embeds.dtype)
    return embeds


def place_words(box: Box, frame_size: tuple[int, int]) -> str:
    """Where a box's centre lies in a 3x3 division of the frame: "at the top right", "at the center"."""
    width, height = frame_size
    column = _third((box[0] + box[2]) / 2 / width, ("left", "", "right"))
    row = _third((box[1] + box[3]) / 2 / height, ("top", "", "bottom"))
    return f"at the {' '.join(part for part in (row, column) if part) or 'center'}"


def _third(position: float, names: tuple[str, str, str]) -> str:
    return names[min(2, max(0, int(position * 3)))]
