"""easy-VQA as this suite uses it: tiles with what is true of them, questions with their meaning, mosaics of tiles.

easy-VQA (PyPI ``easy-vqa``) shows one coloured shape on a pale ground, 64x64 pixels, and asks about it. A tile is such
an image at 112x112 pixels, which is 4x4 visual tokens; a mosaic is ``side x side`` tiles. What is true of an image is
read off its own questions and answers, and where its shape lies off its pixels.

Split: ``train`` are the first 3,600 training images, ``tune`` the other 400 (settings are chosen there), ``test`` the
set's own test images.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ....regions.grid import Box
from ...harness.optional_packages import import_optional

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
TILE, CELL = 112, 28  # pixels of a tile's side, of a visual token's
CELLS = TILE // CELL
TUNE_FROM = 3600  # training images from this number up are kept for choosing settings
SPLITS = ("train", "tune", "test")
GROUND = 40  # how far a pixel differs from the ground, in grey levels of any channel, to belong to the shape
COVERED, BARE = 0.12, 0.005  # share of a cell from which it belongs to the shape / below which it shows only ground

_NOUN = rf"({'|'.join(('shape', *SHAPES))})"
_COLOUR = rf"({'|'.join(COLOURS)})"
_ASKS_COLOUR = re.compile(rf"what (?:color is|is the color of) the {_NOUN}\?")
_ASKS_SHAPE = re.compile(
    rf"what shape (?:is in the image|does the image contain|is present)\?|what is the {_COLOUR} shape\?"
)
_ASKS_WHETHER = re.compile(rf"(?:is|does)\b.*?\b(?:a|no) (?:{_COLOUR} shape|{_NOUN})\b.*\?")


@dataclass(frozen=True)
class VqaQuestion:
    """A question and what it means.

    Attributes:
        kind: "colour", "shape" or "whether".
        word: the colour or shape that it names; "" for none. A "whether" question asks for it, the others take it
            for granted: "what color is the circle?".
        negated: "is there no circle?": yes means that there is none.
    """

    text: str
    kind: str
    word: str = ""
    negated: bool = False


def read_question(text: str) -> VqaQuestion:
    """What one of the set's questions means. ValueError if it is none of its forms."""
    text = text.strip().lower()
    if found := _ASKS_COLOUR.fullmatch(text):
        return VqaQuestion(text, "colour", "" if found[1] == "shape" else found[1])
    if found := _ASKS_SHAPE.fullmatch(text):
        return VqaQuestion(text, "shape", found[1] or "")
    found = _ASKS_WHETHER.fullmatch(text)
    if found and (found[1] or found[2] != "shape"):
        return VqaQuestion(text, "whether", found[1] or found[2], bool(re.search(r"\b(no|not)\b", text)))
    raise ValueError(f"question {text!r}: none of easy-VQA's forms")


@dataclass(frozen=True)
class Tile:
    """One image of the set.

    Attributes:
        id: its number in its split's files.
        image: uint8 ``[112, 112, 3]``, RGB.
        colour, shape: what it shows; "" where its questions do not tell.
        asked: its questions with their answers.
        kind: 1 + colour * 3 + shape; 0 if either is unknown.
        cover: float32 ``[16]``: the share of each of its cells that the shape covers.
    """

    id: int
    image: np.ndarray
    colour: str
    shape: str
    asked: tuple[tuple[VqaQuestion, str], ...]
    cover: np.ndarray = field(repr=False)

    @property
    def name(self) -> str:
        """``blue rectangle``."""
        return f"{self.colour} {self.shape}"

    @property
    def kind(self) -> int:
        """Class of what it shows, 1 to 24; 0: unknown."""
        if not (self.colour and self.shape):
            return 0
        return 1 + COLOURS.index(self.colour) * len(SHAPES) + SHAPES.index(self.shape)

    @property
    def object_cells(self) -> np.ndarray:
        """bool ``[16]``: the cells that show the shape; the best one always does."""
        return (self.cover >= COVERED) | (self.cover == self.cover.max())

    def has(self, word: str) -> bool:
        """Whether the colour or shape of that name is there."""
        return word in (self.colour, self.shape)

    def answer(self, question: VqaQuestion) -> str:
        """The right answer, in the set's words."""
        if question.kind == "whether":
            return "yes" if self.has(question.word) != question.negated else "no"
        return self.colour if question.kind == "colour" else self.shape


def tile_from(number: int, image: np.ndarray, asked: Sequence[tuple[str, str]]) -> Tile:
    """A tile of an image uint8 ``[height, width, 3]``, RGB, and its questions with their answers."""
    pairs = tuple((read_question(text), answer) for text, answer in asked)
    known: set[str] = set()
    for question, answer in pairs:
        if question.kind != "whether":
            known |= {answer, question.word}
        elif (answer == "yes") != question.negated:
            known.add(question.word)
    colour, shape = (next((w for w in words if w in known), "") for words in (COLOURS, SHAPES))
    ground = np.median(image.reshape(-1, 3), axis=0)
    off = (np.abs(image.astype(np.float32) - ground).max(-1) > GROUND).astype(np.float32)
    cover = cv2.resize(off, (TILE, TILE), interpolation=cv2.INTER_LINEAR)
    cover = cover.reshape(CELLS, CELL, CELLS, CELL).mean((1, 3)).ravel()
    resized = cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    return Tile(number, resized, colour, shape, pairs, cover)


def load_tiles(split: str, limit: int | None = None) -> list[Tile]:
    """The tiles of a split, in their order; the first `limit` of them.

    Raises:
        MissingPackageError: easy-vqa is missing and can't be installed.
        ValueError: no such split, or an image of the set that can't be read.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: must be one of {', '.join(SPLITS)}")
    easy_vqa = import_optional("easy_vqa", "easy-vqa")
    part = "test" if split == "test" else "train"
    texts, answers, numbers = getattr(easy_vqa, f"get_{part}_questions")()
    paths = getattr(easy_vqa, f"get_{part}_image_paths")()
    asked = defaultdict(list)
    for text, answer, number in zip(texts, answers, numbers):
        asked[number].append((text, answer))
    chosen = [n for n in sorted(asked) if split == "test" or (n >= TUNE_FROM) == (split == "tune")][:limit]
    return [tile_from(n, read_image(Path(paths[n])), asked[n]) for n in chosen]


def read_image(path: Path) -> np.ndarray:
    """uint8 ``[height, width, 3]``, RGB. ValueError names a file that is missing or no image."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"image {path}: {'broken or of an unknown format' if path.is_file() else 'missing'}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class Mosaic:
    """``side x side`` tiles, row by row."""

    tiles: tuple[Tile, ...]

    @property
    def side(self) -> int:
        """Tiles along each side."""
        return round(len(self.tiles) ** 0.5)

    @property
    def image(self) -> np.ndarray:
        """uint8 ``[112 * side, 112 * side, 3]``, RGB."""
        rows = [np.hstack([t.image for t in self.tiles[r : r + self.side]]) for r in self._starts]
        return np.vstack(rows)

    @property
    def object_cells(self) -> np.ndarray:
        """bool ``[tiles, cells]``: which of the mosaic's cells show each tile's shape."""
        return self._spread([tile.object_cells for tile in self.tiles]).astype(bool)

    @property
    def cover(self) -> np.ndarray:
        """float32 ``[cells]``: the share of each of the mosaic's cells that a shape covers."""
        return self._spread([tile.cover for tile in self.tiles]).sum(0)

    def box(self, index: int) -> Box:
        """The tile's place in the frame, pixels."""
        row, col = divmod(index, self.side)
        return (col * TILE, row * TILE, (col + 1) * TILE, (row + 1) * TILE)

    @property
    def _starts(self) -> range:
        return range(0, len(self.tiles), self.side)

    def _spread(self, values: Sequence[np.ndarray]) -> np.ndarray:
        cells = self.side * CELLS
        spread = np.zeros((len(self.tiles), cells, cells), np.float32)
        for i, value in enumerate(values):
            row, col = (CELLS * place for place in divmod(i, self.side))
            spread[i, row : row + CELLS, col : col + CELLS] = value.reshape(CELLS, CELLS)
        return spread.reshape(len(self.tiles), -1)


def draw_mosaic(rng: np.random.Generator, tiles: Sequence[Tile], side: int, first: Tile | None = None) -> Mosaic:
    """A mosaic of different tiles; `first`, if given, is one of them, at a random place.

    ValueError: fewer tiles than the mosaic has places.
    """
    if not 1 <= side <= 8 or len(tiles) < side * side:
        raise ValueError(f"side {side}: a mosaic of {side * side} tiles needs as many; there are {len(tiles)}")
    picked = [tiles[i] for i in rng.choice(len(tiles), side * side, replace=False)]
    if first is not None and all(tile is not first for tile in picked):
        picked[int(rng.integers(len(picked)))] = first
    return Mosaic(tuple(picked))
