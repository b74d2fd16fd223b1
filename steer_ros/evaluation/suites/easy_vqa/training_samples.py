"""What the `vqa` suite's models learn from: mosaics as visual tokens, and questions about them as token ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from torch import nn

from ....lab.training.loop import mixed_precision
from ....lab.training.token_dataset import Sample
from ....lab.training.vision import to_patches, tower_forward
from .data import BARE, CELLS, COLOURS, SHAPES, Mosaic, Tile, VqaQuestion

OPENING = "I see a"  # what a thought says before it names the shape
DECIDING = 5.0  # weight in the loss of the tokens that decide: yes or no, and the answer
KINDS = 1 + len(COLOURS) * len(SHAPES)  # ground, and each colour and shape


def thought(tile: Tile, question: VqaQuestion) -> str:
    """What is thought before the answer: what the tile shows, and, of a yes/no question, whether that is asked for."""
    seen = f"{OPENING} {tile.name}."
    if question.kind != "whether":
        return seen
    return f"{seen} Is it {_a(question.word)}? {'Yes' if tile.has(question.word) else 'No'}."


def _a(word: str) -> str:
    return f"a {word}" if word in SHAPES else word


def sentences(questions: Iterable[VqaQuestion]) -> list[str]:
    """What is said, for the vocabulary to be drawn from."""
    names = [f"{OPENING} {colour} {shape}.\n \n\n{colour}" for colour, shape in product(COLOURS, SHAPES)]
    names += [f"{OPENING} Is it {_a(word)}? {said}.\n" for word in (*COLOURS, *SHAPES) for said in ("Yes", "No")]
    answers = ["\n\nyes", "\n\nno", *(f"\n\n{word}" for word in (*COLOURS, *SHAPES)), "user\nassistant\n"]
    return 20 * [*(q.text for q in questions), *names, *answers]


def token_kinds(tiles: Sequence[Tile]) -> torch.Tensor:
    """int64 ``[tiles, 16]``: what each token should know: 0 ground, a tile's kind on its shape, -100 in between."""
    kinds = np.full((len(tiles), CELLS * CELLS), -100)
    for row, tile in zip(kinds, tiles):
        row[tile.cover < BARE] = 0
        row[tile.object_cells] = tile.kind
    return torch.from_numpy(kinds)


def lay_out(values: torch.Tensor, pick: torch.Tensor) -> torch.Tensor:
    """Tiles' values ``[tiles, rows, cols, ...]``, picked as ``[B, side * side]``, as mosaics ``[B, H, W, ...]``."""
    side = math.isqrt(pick.shape[1])
    chosen = values[pick].unflatten(1, (side, side)).transpose(2, 3)
    return chosen.flatten(1, 2).flatten(2, 3)


@dataclass
class MosaicSet:
    """Visual tokens of mosaics of several sizes: what `train_language` trains on.

    Attributes:
        tokens: float16 ``[cells, hidden]`` of each mosaic.
        bare: bool ``[cells]`` of each: the cells that show only ground.
        objects: the tiles of each.
    """

    tokens: list[torch.Tensor] = field(default_factory=list)
    bare: list[torch.Tensor] = field(default_factory=list)
    objects: list[tuple[Tile, ...]] = field(default_factory=list)

    def object_tokens(self, index: int) -> torch.Tensor:
        """bool ``[tiles, cells]``: the tokens that show each tile's shape."""
        return torch.from_numpy(Mosaic(self.objects[index]).object_cells)


@torch.inference_mode()
def encode_mosaics(tower: nn.Module, mosaics: Sequence[Mosaic], batch: int = 24) -> MosaicSet:
    """What the tower makes of mosaics."""
    made = MosaicSet()
    for side in sorted({m.side for m in mosaics}):
        same = [m for m in mosaics if m.side == side]
        # One block for all: small tensors kept from between large passing ones would keep the heap from shrinking.
        tokens = torch.empty(len(same), (side * CELLS) ** 2, tower.config.hidden_size, dtype=torch.float16)
        for i in range(0, len(same), batch):
            x = torch.from_numpy(np.stack([m.image for m in same[i : i + batch]]))
            with mixed_precision():
                tokens[i : i + batch] = tower_forward(tower, to_patches(x), x.shape[1] // 14, x.shape[2] // 14)
        made.tokens += tokens.unbind()
        made.bare += [torch.from_numpy(m.cover < BARE) for m in same]
        made.objects += [m.tiles for m in same]
    return made


@dataclass(frozen=True)
class TileSample(Sample):
    """A sample with the tiles that its question may be about, as far as the question tells."""

    candidates: tuple[int, ...] = (0,)


def draw_question(
    rng: np.random.Generator, questions: dict[str, list[VqaQuestion]], tiles: Sequence[Tile]
) -> tuple[VqaQuestion, int]:
    """A question about one of a mosaic's tiles, and which.

    Whether-questions ask for something that a tile of the mosaic shows, or for anything; which tile is meant is drawn
    apart from it, so that the question does not give it away. Of one tile, half are answered yes.
    """
    draw, target = rng.random(), int(rng.integers(len(tiles)))
    if draw < 0.55:
        word = str(rng.choice((*COLOURS, *SHAPES)))
        if rng.random() < 0.5:
            shown = tiles[int(rng.integers(len(tiles)))]
            word = shown.colour if rng.random() < 0.6 else shown.shape
        return _one(rng, questions[f"whether {word}"]), target
    tile = tiles[target]
    if draw < 0.8:
        return _one(rng, questions["colour" if rng.random() < 0.5 else "shape"]), target
    return _one(rng, questions[f"colour {tile.shape}" if rng.random() < 0.5 else f"shape {tile.colour}"]), target


def _one(rng: np.random.Generator, items: Sequence) -> VqaQuestion:
    return items[int(rng.integers(len(items)))]


def question_sampler(tokenizer, questions: Iterable[VqaQuestion]) -> Callable[..., TileSample]:
    """Samples of questions about one tile of a mosaic, answered in R1's format."""
    by_kind: dict[str, list[VqaQuestion]] = {}
    for question in questions:
        by_kind.setdefault(f"{question.kind} {question.word}".strip(), []).append(question)
    kept: dict[str, list[int]] = {}

    def ids(text: str) -> list[int]:
        if text not in kept:
            kept[text] = tokenizer(text, add_special_tokens=False).input_ids
        return kept[text]

    def sample(rng: np.random.Generator, tiles: tuple[Tile, ...]) -> TileSample:
        question, target = draw_question(rng, by_kind, tiles)
        tile = tiles[target]
        content = "<|vision_start|><|image_pad|><|vision_end|>" + question.text
        before, after = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        ).split("<|image_pad|>")
        answer = ids(f"{thought(tile, question)}\n</think>\n\n{tile.answer(question)}{tokenizer.eos_token}")
        meant = [
            i for i, t in enumerate(tiles) if question.kind == "whether" or not question.word or t.has(question.word)
        ]
        weights = [1.0] * len(answer)
        weights[-2] = DECIDING
        if question.kind == "whether":
            weights[len(ids(thought(tile, question).rpartition(" ")[0]))] = DECIDING
        return TileSample(
            ids(before), ids(after), answer, tuple(weights), undecided=len(ids(OPENING)), candidates=tuple(meant)
        )

    return sample
