"""Images of many scenes with their tokens' labels, drawn by several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ..scenes.render import RenderedScene
from .token_labels import token_labels

CHUNK = 4  # pictures that a process hands over at a time; many at once hold twice the memory


@dataclass
class Frames:
    """Images of one size with their tokens' labels; see `token_labels.TokenLabels`.

    Attributes:
        images: uint8 ``[n, height, width, 3]``.
        kind, object_index: int64 ``[n, tokens]``.
        box: float32 ``[n, tokens, 4]``.
    """

    images: torch.Tensor
    kind: torch.Tensor
    box: torch.Tensor
    object_index: torch.Tensor

    def __getitem__(self, index: torch.Tensor | slice) -> Frames:
        return Frames(*(tensor[index] for tensor in self.tensors))

    def __add__(self, other: Frames) -> Frames:
        return Frames(*(torch.cat(pair) for pair in zip(self.tensors, other.tensors, strict=True)))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All four, in the order of the fields."""
        return self.images, self.kind, self.box, self.object_index


def arrays_of(frame: RenderedScene) -> tuple[np.ndarray, ...]:
    """One picture's share of `Frames`, in the order of its fields."""
    labels = token_labels(frame)
    return frame.image, labels.kind, labels.box, labels.object_index


def draw_frames(
    pool: ProcessPoolExecutor, draw: Callable[..., tuple[np.ndarray, ...]], *arguments: Sequence[int]
) -> Frames:
    """The pictures that ``draw`` makes as `arrays_of` has them; ``arguments`` as `map` takes them."""
    stores: list[np.ndarray] = []
    for i, made in enumerate(pool.map(draw, *arguments, chunksize=CHUNK)):
        stores = stores or [np.empty((len(arguments[0]), *array.shape), array.dtype) for array in made]
        for store, array in zip(stores, made, strict=True):
            store[i] = array
    return Frames(*(torch.from_numpy(store) for store in stores))
