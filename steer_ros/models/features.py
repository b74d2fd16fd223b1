"""One frame as visual tokens: what perception makes and reasoning reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..regions.grid import PatchGrid


@dataclass(frozen=True)
class VisualFeatures:
    """One frame as visual tokens.

    Attributes:
        tokens: [token_rows * token_cols, hidden], row by row, on the model's device.
        grid: the patch grid they were made from.
        frame_size: (width, height) of the frame in pixels.
        model: name of the model that made them.
        stamp: the frame's stamp in nanoseconds, or None.
    """

    tokens: torch.Tensor
    grid: PatchGrid
    frame_size: tuple[int, int]
    model: str
    stamp: int | None = None
