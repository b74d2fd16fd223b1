"""Masks, tokens and turns to messages, and back. What comes from another node is checked before it is believed."""

from __future__ import annotations

import array
import math
import sys
from typing import Any

import numpy as np
import torch
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from steer_ros.models.features import VisualFeatures
from steer_ros.msg import ActionText, RoiMask, RoiMaskArray, VisualTokens
from steer_ros.reasoning.turn import Turn
from steer_ros.regions.grid import PatchGrid
from steer_ros.regions.mask import Mask

SOURCES = {
    "grounding": RoiMask.SOURCE_GROUNDING,
    "saliency": RoiMask.SOURCE_SALIENCY,
    "phrase": RoiMask.SOURCE_PHRASE,
    "roi": RoiMask.SOURCE_ROI,
    "track": RoiMask.SOURCE_TRACK,
}
SOURCE_NAMES = {number: name for name, number in SOURCES.items()}
DTYPES = {
    VisualTokens.DTYPE_FLOAT32: torch.float32,
    VisualTokens.DTYPE_FLOAT16: torch.float16,
    VisualTokens.DTYPE_BFLOAT16: torch.bfloat16,
}
DTYPE_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}


def stamp_of(header: Header) -> int:
    """The header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def masks_message(masks: list[Mask], features: VisualFeatures, header: Header) -> RoiMaskArray:
    """The frame's masks, with its header."""
    grid = features.grid
    width, height = features.frame_size
    return RoiMaskArray(
        header=header,
        image_width=width,
        image_height=height,
        grid_rows=grid.rows,
        grid_cols=grid.cols,
        merge_size=grid.merge,
        masks=[_mask_message(mask) for mask in masks],
    )


def read_masks(message: RoiMaskArray) -> tuple[PatchGrid, list[Mask]]:
    """The masks and the grid they lie on. Raises ValueError naming the field that does not fit."""
    grid = _grid("roi_masks", message.grid_rows, message.grid_cols, message.merge_size)
    masks = []
    for index, mask in enumerate(message.masks):
        name = f"roi_masks.masks[{index}]"
        if (mask.grid_rows, mask.grid_cols) != (grid.rows, grid.cols):
            raise ValueError(f"{name}: grid {mask.grid_rows}x{mask.grid_cols}; the array's is {grid.rows}x{grid.cols}")
        if len(mask.weights) != grid.num_patches:
            raise ValueError(
                f"{name}.weights: {len(mask.weights)} of them; grid {grid.rows}x{grid.cols} needs {grid.num_patches}"
            )
        weights = np.array(mask.weights, np.int8).reshape(grid.rows, grid.cols)
        weights = np.maximum(weights, -127)  # -128 is not used
        box = mask.box
        corners = None
        if box.width and box.height:
            corners = (
                float(box.x_offset),
                float(box.y_offset),
                float(box.x_offset + box.width),
                float(box.y_offset + box.height),
            )
        try:
            masks.append(
                Mask(
                    weights=weights,
                    label=mask.label,
                    track_id=mask.track_id,
                    score=float(mask.score),
                    strength=float(mask.strength),
                    source=SOURCE_NAMES.get(mask.source, "roi"),
                    box=corners,
                )
            )
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from error
    return grid, masks


def tokens_message(features: VisualFeatures, header: Header, masks_follow: bool, perceive_ms: float) -> VisualTokens:
    """The frame's tokens, copied to the host."""
    tokens = features.tokens.detach()
    if tokens.dtype not in DTYPE_NUMBERS:
        tokens = tokens.float()
    data = array.array("B")
    data.frombytes(_little_endian(tokens.contiguous().view(torch.uint8).cpu().numpy(), tokens.element_size()))
    width, height = features.frame_size
    grid = features.grid
    return VisualTokens(
        header=header,
        model=features.model,
        image_width=width,
        image_height=height,
        grid_rows=grid.token_rows,
        grid_cols=grid.token_cols,
        merge_size=grid.merge,
        hidden_size=tokens.shape[-1],
        dtype=DTYPE_NUMBERS[tokens.dtype],
        masks_follow=masks_follow,
        perceive_ms=perceive_ms,
        data=data,
    )


def read_tokens(message: VisualTokens) -> VisualFeatures:
    """The tokens on the CPU, without a copy where the host is little-endian. Raises ValueError naming the field."""
    merge = message.merge_size
    grid = _grid("visual_tokens", message.grid_rows * merge, message.grid_cols * merge, merge)
    if message.dtype not in DTYPES:
        raise ValueError(f"visual_tokens.dtype: {message.dtype}; accepted are {', '.join(map(str, DTYPES))}")
    dtype = DTYPES[message.dtype]
    size = grid.num_tokens * message.hidden_size * torch.empty((), dtype=dtype).element_size()
    if not size or len(message.data) != size:
        raise ValueError(
            f"visual_tokens.data: {len(message.data)} bytes; {message.grid_rows}x{message.grid_cols} tokens "
            f"of {message.hidden_size} {str(dtype).removeprefix('torch.')} need {size}"
        )
    if not message.image_width or not message.image_height:
        raise ValueError(
            f"visual_tokens: image size {message.image_width}x{message.image_height}; accepted is above 0"
        )
    data = message.data
    if sys.byteorder == "big":
        data = bytearray(_little_endian(np.frombuffer(data, np.uint8), torch.empty((), dtype=dtype).element_size()))
    tokens = torch.frombuffer(data, dtype=dtype).reshape(grid.num_tokens, message.hidden_size)
    return VisualFeatures(
        tokens, grid, (message.image_width, message.image_height), message.model, stamp_of(message.header)
    )


def region_message(box: Any, frame_size: tuple[int, int]) -> RegionOfInterest:
    """The smallest region of whole pixels around a box, within the frame."""
    width, height = frame_size
    x0, y0 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x1, y1 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    return RegionOfInterest(x_offset=x0, y_offset=y0, width=max(0, x1 - x0), height=max(0, y1 - y0))


def _mask_message(mask: Mask) -> RoiMask:
    rows, cols = mask.weights.shape
    weights = array.array("b")
    weights.frombytes(np.ascontiguousarray(mask.weights, np.int8).tobytes())
    box = RegionOfInterest() if mask.box is None else region_message(mask.box, (1 << 31, 1 << 31))
    return RoiMask(
        label=mask.label,
        track_id=mask.track_id,
        source=SOURCES.get(mask.source, RoiMask.SOURCE_UNKNOWN),
        score=float(mask.score),
        strength=float(mask.strength),
        box=box,
        grid_rows=rows,
        grid_cols=cols,
        weights=weights,
    )


def _grid(name: str, rows: int, cols: int, merge: int) -> PatchGrid:
    if rows < 1 or cols < 1 or merge < 1 or rows % merge or cols % merge:
        raise ValueError(
            f"{name}: grid of {rows}x{cols} patches, merge_size {merge}; accepted are multiples of it above 0"
        )
    return PatchGrid(rows, cols, merge=merge)


def _little_endian(data: np.ndarray, width: int) -> bytes:
    if sys.byteorder == "little" or width == 1:
        return data.tobytes()
    return data.reshape(-1, width)[:, ::-1].tobytes()


def fill_action(answer: ActionText, turn: Turn) -> None:
    """Put into a message what a turn says of itself: the action, how it was steered, and its times."""
    answer.text = turn.action
    if turn.steered:
        law = turn.config.law
        answer.law, answer.alpha = law.name, float(law.alpha * turn.scale)
        answer.setpoint = math.nan if law.setpoint is None else float(law.setpoint * turn.scale)
    answer.steered_tokens, answer.rollbacks = turn.steered_tokens, turn.rollbacks
    answer.warnings = list(turn.warnings)
    answer.focus_before = math.nan if turn.focus_before is None else float(turn.focus_before)
    answer.focus_after = math.nan if turn.focus_after is None else float(turn.focus_after)
    answer.prefill_ms = float(turn.timings.get("embed", 0.0) + turn.timings.get("prefill", 0.0))
    answer.decode_ms = float(turn.timings.get("decode", 0.0))
    answer.thought_tokens, answer.action_tokens = turn.thought_tokens, turn.action_tokens
    answer.cut_short, answer.cut_reason = turn.cut_short, turn.cut_reason
