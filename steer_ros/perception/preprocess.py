"""Frames to the patches a Qwen2-VL vision tower reads: resize, normalise, cut. In torch, on the device.

Transformers' own processor needs Pillow or torchvision and works on the CPU; this one gives the same pixels:
exactly where no resize is needed, within two grey levels of Pillow's (0.02 on average) where it is (tested).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..models.loading import PREPROCESSOR_FILES, ModelLoadError, read_json
from ..regions.grid import PatchGrid

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class FramePreprocessor:
    """The settings of preprocessor_config.json, and the transform they describe."""

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    patch: int = 14
    merge: int = 2
    temporal: int = 2
    rescale: float = 1 / 255
    mean: tuple[float, ...] = _CLIP_MEAN
    std: tuple[float, ...] = _CLIP_STD

    @classmethod
    def from_folder(cls, folder: Path, min_pixels: int | None = None, max_pixels: int | None = None):
        """Settings of a model folder; either pixel bound may be overridden. ModelLoadError if broken."""
        for file, key in zip(PREPROCESSOR_FILES, (None, "image_processor"), strict=True):
            if (folder / file).is_file():
                config = read_json(folder / file)
                config = config.get(key) or {} if key else config
                break
        else:
            raise ModelLoadError(f"no preprocessor_config.json in {folder}")
        size = config.get("size") or {}
        defaults = cls()
        try:
            made = cls(
                min_pixels=int(config.get("min_pixels") or size.get("shortest_edge") or defaults.min_pixels),
                max_pixels=int(config.get("max_pixels") or size.get("longest_edge") or defaults.max_pixels),
                patch=int(config.get("patch_size", defaults.patch)),
                merge=int(config.get("merge_size", defaults.merge)),
                temporal=int(config.get("temporal_patch_size", defaults.temporal)),
                rescale=float(config.get("rescale_factor", defaults.rescale)),
                mean=tuple(float(v) for v in config.get("image_mean", defaults.mean)),
                std=tuple(float(v) for v in config.get("image_std", defaults.std)),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelLoadError(f"{folder / file}: {error}") from error
        made = replace(made, min_pixels=min_pixels or made.min_pixels, max_pixels=max_pixels or made.max_pixels)
        if not 0 < made.min_pixels <= made.max_pixels:
            raise ValueError(
                f"min_pixels, max_pixels: got {made.min_pixels}, {made.max_pixels}, "
                "accepted: 0 < min_pixels <= max_pixels"
            )
        return made

    def grid_for(self, width: int, height: int) -> PatchGrid:
        """Patch grid of a frame of that size in pixels."""
        return PatchGrid.for_image(
            width,
            height,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            patch=self.patch,
            merge=self.merge,
        )

    def patches(self, image: np.ndarray, grid: PatchGrid, device: torch.device) -> torch.Tensor:
        """Cut a frame into normalised patches in the order the tower wants: merged 2x2 blocks together.

        Args:
            image: uint8 [height, width, 3], RGB.
        Returns:
            float32 [patches, 3 * temporal * patch * patch] on the device.
        """
        if not (image.flags.c_contiguous and image.flags.writeable):
            image = np.array(image)  # torch wants positive strides and warns about read-only memory
        pixels = torch.from_numpy(image).to(device).permute(2, 0, 1)[None]  # [1, 3, H, W]
        if pixels.shape[-2:] != (grid.height, grid.width):
            pixels = _resize(pixels, (grid.height, grid.width))
        std = torch.tensor(self.std, dtype=torch.float32, device=device).view(-1, 1, 1)
        mean = torch.tensor(self.mean, dtype=torch.float32, device=device).view(-1, 1, 1)
        pixels = (pixels[0].float() * self.rescale - mean) / std
        p, m = self.patch, self.merge
        blocks = pixels.reshape(3, grid.rows // m, m, p, grid.cols // m, m, p).permute(1, 4, 2, 5, 0, 3, 6)
        # A still image fills each temporal slot of the patch with itself.
        blocks = blocks.unsqueeze(5).expand(-1, -1, -1, -1, -1, self.temporal, -1, -1)
        return blocks.reshape(grid.rows * grid.cols, 3 * self.temporal * p * p)


def _resize(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Antialiased bicubic resize of a uint8 batch, rounded to uint8 as the processors do."""
    if pixels.device.type == "cpu":
        return torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True)
    resized = torch.nn.functional.interpolate(pixels.float(), size, mode="bicubic", antialias=True)
    return resized.round_().clamp_(0, 255)
