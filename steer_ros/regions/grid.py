"""The patch grid of a frame: how Qwen2-VL's vision tower cuts it up."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

from .boxes import Box, check_frame_size

__all__ = ["Box", "PatchGrid"]

MAX_ASPECT = 200  # Qwen2-VL refuses longer images


@dataclass(frozen=True)
class PatchGrid:
    """Patches of the resized image, rows x cols, row by row; merge x merge of them make one token.

    `patch` is a patch's side in pixels of the resized image. rows and cols are multiples of merge.
    """

    rows: int
    cols: int
    patch: int = 14
    merge: int = 2

    def __post_init__(self) -> None:
        for name in ("rows", "cols", "patch", "merge"):
            value = getattr(self, name)
            try:
                number = operator.index(value)
            except TypeError:
                number = 0
            if number < 1 or isinstance(value, bool):
                raise ValueError(f"{name}: got {value!r}, accepted: a whole number of at least 1")
            object.__setattr__(self, name, number)
        for name in ("rows", "cols"):
            if getattr(self, name) % self.merge:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted: a multiple of merge = {self.merge}")

    @classmethod
    def for_image(
        cls,
        width: int,
        height: int,
        *,
        min_pixels: int = 56 * 56,
        max_pixels: int = 28 * 28 * 1280,
        patch: int = 14,
        merge: int = 2,
    ) -> PatchGrid:
        """The grid that Qwen2-VL's image processor gives a frame of width x height px.

        The same rule, rounding included, as transformers' `smart_resize`: sides rounded to whole tokens,
        then shrunk or grown to min_pixels..max_pixels. ValueError for an empty frame, one more than 200
        times as long as wide, or limits that contradict each other.
        """
        width, height = check_frame_size((width, height), "image")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ValueError(f"image: got {width}x{height}, accepted: sides at most 1:{MAX_ASPECT}")
        if not 0 < min_pixels <= max_pixels:
            raise ValueError(
                f"min_pixels, max_pixels: got {min_pixels}, {max_pixels}, accepted: 0 < min_pixels <= max_pixels"
            )
        side = patch * merge
        if side < 1:
            raise ValueError(f"patch, merge: got {patch}, {merge}, accepted: whole numbers of at least 1")
        tall, wide = round(height / side) * side, round(width / side) * side
        if tall * wide > max_pixels:
            shrink = math.sqrt((height * width) / max_pixels)
            tall = max(side, math.floor(height / shrink / side) * side)
            wide = max(side, math.floor(width / shrink / side) * side)
        elif tall * wide < min_pixels:
            grow = math.sqrt(min_pixels / (height * width))
            tall = math.ceil(height * grow / side) * side
            wide = math.ceil(width * grow / side) * side
        return cls(tall // patch, wide // patch, patch, merge)

    @property
    def token_rows(self) -> int:
        return self.rows // self.merge

    @property
    def token_cols(self) -> int:
        return self.cols // self.merge

    @property
    def num_patches(self) -> int:
        return self.rows * self.cols

    @property
    def num_tokens(self) -> int:
        return self.token_rows * self.token_cols

    @property
    def width(self) -> int:
        """Pixels of the resized image."""
        return self.cols * self.patch

    @property
    def height(self) -> int:
        """Pixels of the resized image."""
        return self.rows * self.patch

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols} patches"
