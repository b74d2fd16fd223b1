"""What the language models learn from: the visual tokens of many scenes, and dialogues about them as token ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from ...commands.processes import spawned
from ..scenes.instructions import OPEN, OPENING, Dialogue, draw_dialogue
from ..scenes.referring_expressions import grounding_answer, grounding_query, grounding_request
from ..scenes.render import SIDE, render
from ..scenes.scene import make_scene
from ..scenes.visible_objects import PLACES, VisibleObject, visible_objects_of
from .attention_losses import object_tokens
from .loop import mixed_precision
from .token_labels import BARE, CELL
from .vision import to_patches, tower_forward


@dataclass
class TokenSet:
    """Visual tokens and visible objects of many scenes.

    Attributes:
        tokens: float16 ``[scenes, tokens, hidden]``.
        bare: bool ``[scenes, tokens]``: cells that show hardly any object.
        objects: the visible objects of each scene.
    """

    tokens: torch.Tensor
    bare: torch.Tensor
    objects: list[tuple[VisibleObject, ...]]

    def object_tokens(self, scene: int) -> torch.Tensor:
        """bool ``[objects, tokens]``: the visual tokens of each of a scene's objects."""
        return object_tokens(self.objects[scene], SIDE // CELL, SIDE // CELL)


def _make(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[VisibleObject, ...]]:
    frame = render(make_scene(seed))
    any_object = np.zeros(frame.image.shape[:2], bool)
    for obj in frame.objects:
        any_object |= obj.mask
    rows, cols = any_object.shape[0] // CELL, any_object.shape[1] // CELL
    cover = any_object.reshape(rows, CELL, cols, CELL).mean((1, 3)).ravel()
    return frame.image, cover < BARE, visible_objects_of(frame)


def encode_scenes(tower: nn.Module, seeds: range, workers: int = 2, batch: int = 32) -> TokenSet:
    """Render the scenes of ``seeds`` and keep what the tower makes of them."""
    tokens, bare, objects, images = [], [], [], []

    def flush() -> None:
        x = torch.from_numpy(np.stack(images))
        with torch.inference_mode(), mixed_precision():
            out = tower_forward(tower, to_patches(x), x.shape[1] // 14, x.shape[2] // 14)
        tokens.append(out.to(torch.float16))
        images.clear()

    with spawned(workers) as pool:
        for image, empty, said in pool.map(_make, seeds, chunksize=batch):
            images.append(image)
            bare.append(empty)
            objects.append(said)
            if len(images) == batch:
                flush()
    if images:
        flush()
    return TokenSet(torch.cat(tokens), torch.from_numpy(np.stack(bare)), objects)


@dataclass(frozen=True)
class Sample:
    """One training sequence: text before the visual tokens, text after them, and the answer to be learnt."""

    before: list[int]
    after: list[int]
    answer: list[int]
    weights: tuple[float, ...] = ()  # of the answer's tokens in the loss; empty: all alike
    undecided: int = 0  # tokens of the answer before it names the object that the instruction leaves open
    place: tuple[int, int] = (0, 0)  # the answer's tokens [first, last) that say where the named object is
    named: int = -1  # which of the scene's objects that is
    places: tuple[int, ...] = ()  # of the scene's objects, as indices into ``PLACES``


def grounding_sampler(tokenizer) -> Callable[[np.random.Generator, tuple[VisibleObject, ...]], Sample]:
    """Samples of Qwen2-VL's grounding dialogue."""

    def sample(rng: np.random.Generator, objects: tuple[VisibleObject, ...]) -> Sample:
        phrase, found = grounding_query(rng, objects)
        text = tokenizer.apply_chat_template(
            [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": grounding_request(rng, phrase)}],
                }
            ],
            tokenize=False,
            add_generation_prompt=True,
        )
        sampled = _split(tokenizer, text, grounding_answer(phrase, found) + tokenizer.eos_token)
        return replace(sampled, weights=_grounding_weights(tokenizer.convert_ids_to_tokens(sampled.answer)))

    return sample


def _place(dialogue: Dialogue) -> tuple[int, int]:
    """Where in an answer its thought says a place; (0, 0): nowhere. Characters."""
    target = dialogue.target
    words = "" if target is None else f" {target.place}."
    if not words or not dialogue.thought.endswith(f" at the{words}"):
        return 0, 0
    return len(dialogue.thought) - len(words), len(dialogue.thought)


def _verdict(dialogue: Dialogue) -> tuple[int, int]:
    """Where in an answer stands what is hard to know: the place, or whether the thing is there. Characters."""
    if dialogue.task in ("exists", "named"):
        return dialogue.answer.index(".") + 1, len(dialogue.answer)
    return _place(dialogue)


def _grounding_weights(tokens: list[str]) -> tuple[float, ...]:
    """Loss weights of an answer's tokens.

    Whether and which object is decided by few tokens among many, as is whether there is another one; a coordinate's
    last digit is a third of a pixel at this resolution, and its first is what places the box.
    """
    weights, run = [5.0], 0  # there, or not
    for before, token in pairwise(tokens):
        weights.append((2.0, 1.0, 0.1)[run] if token.isdigit() else 4.0 if before == "<|box_end|>" else 0.4)
        run = (run + 1) % 3 if token.isdigit() else 0
    return tuple(weights)


def instruction_sampler(tokenizer) -> Callable[[np.random.Generator, tuple[VisibleObject, ...]], Sample]:
    """Samples of lab-r1's instructions and answers."""

    def sample(rng: np.random.Generator, objects: tuple[VisibleObject, ...]) -> Sample:
        dialogue = draw_dialogue(rng, objects)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "<|vision_start|><|image_pad|><|vision_end|>" + dialogue.prompt}],
            tokenize=False,
            add_generation_prompt=True,
        )
        opening = len(tokenizer(OPENING, add_special_tokens=False).input_ids) if dialogue.task in OPEN else 0
        sampled = _split(tokenizer, text, dialogue.answer + tokenizer.eos_token)
        heavy, place = (_tokens_of(tokenizer, dialogue.answer, f(dialogue)) for f in (_verdict, _place))
        weights = tuple(4.0 if heavy[0] <= i < heavy[1] else 1.0 for i in range(len(sampled.answer)))
        named = objects.index(dialogue.target) if place[1] else -1
        return replace(
            sampled,
            undecided=opening,
            weights=weights,
            place=place,
            named=named,
            places=tuple(PLACES.index(o.place) for o in objects),
        )

    return sample


def _tokens_of(tokenizer, text: str, part: tuple[int, int]) -> tuple[int, int]:
    """The tokens [first, last) of a part of a text that is given in characters."""
    first, last = (len(tokenizer(text[:end], add_special_tokens=False).input_ids) for end in part)
    return first, last


def _split(tokenizer, text: str, answer: str) -> Sample:
    before, after = text.split("<|image_pad|>")
    return Sample(*(tokenizer(part, add_special_tokens=False).input_ids for part in (before, after, answer)))


def thin_out(bare: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Which visual tokens to keep, ``[n]`` bool: a random share of a scene's bare cells, and all of its objects'.

    An answer must not hang on how much empty bench there is to look at.
    """
    return ~bare | (torch.from_numpy(rng.random(len(bare))) < rng.random())
