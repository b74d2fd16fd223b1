"""Qwen2-VL's grounding answers, written and read. Coordinates are 0-999 of the frame's width and height."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..regions.boxes import Box

COORDINATES = 1000
NOTHING = "none"
REF_START, REF_END = "<|object_ref_start|>", "<|object_ref_end|>"
BOX_START, BOX_END = "<|box_start|>", "<|box_end|>"

_PAIR = r"\(\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\)"
# The box marks are optional: an instruct model asked in words at times leaves them out.
_ITEM = re.compile(
    rf"{re.escape(REF_START)}(?P<label>.*?){re.escape(REF_END)}|(?P<box>{_PAIR}\s*,?\s*{_PAIR})", re.DOTALL
)


@dataclass(frozen=True)
class Grounding:
    """One object found: its label, its box in frame pixels, and how sure the model was (0..1)."""

    label: str
    box: Box
    score: float


@dataclass(frozen=True)
class ParsedBox:
    """One box of an answer, before scoring: frame pixels, and the characters that spell it."""

    label: str
    box: Box
    start: int
    end: int


def format_box(box: Box, frame_size: tuple[int, int], digits: int = 3) -> str:
    """``<|box_start|>(045,123),(210,345)<|box_end|>`` for a box in frame pixels."""
    width, height = frame_size
    x0, y0, x1, y1 = (
        min(COORDINATES - 1, max(0, round(value * COORDINATES / side)))
        for value, side in zip(box, (width, height, width, height), strict=True)
    )
    return f"{BOX_START}({x0:0{digits}d},{y0:0{digits}d}),({x1:0{digits}d},{y1:0{digits}d}){BOX_END}"


def format_answer(items: list[tuple[str, Box]], frame_size: tuple[int, int], digits: int = 3) -> str:
    """The whole answer for labelled boxes: one label, then its boxes; ``none`` for an empty list."""
    if not items:
        return NOTHING
    answer, previous = "", None
    for label, box in items:
        if label != previous:
            answer += f"{REF_START}{label}{REF_END}"
        answer += format_box(box, frame_size, digits)
        previous = label
    return answer


def parse_answer(answer: str, frame_size: tuple[int, int], label: str = "") -> list[ParsedBox]:
    """Boxes of an answer, in its order. Coordinates beyond 999 are clamped; boxes without area are dropped.

    Args:
        answer: decoded text, special tokens kept.
        frame_size: (width, height) of the frame in pixels.
        label: name of boxes that come before any label.
    """
    width, height = frame_size
    found: list[ParsedBox] = []
    for item in _ITEM.finditer(answer):
        if item["box"] is None:
            label = " ".join(item["label"].split()) or label
            continue
        ax, ay, bx, by = (min(COORDINATES - 1, int(value)) for value in item.groups()[2:6])
        x0, x1, y0, y1 = min(ax, bx), max(ax, bx), min(ay, by), max(ay, by)
        if x1 > x0 and y1 > y0:
            box = (
                x0 * width / COORDINATES,
                y0 * height / COORDINATES,
                x1 * width / COORDINATES,
                y1 * height / COORDINATES,
            )
            found.append(ParsedBox(label, box, item.start("box"), item.end("box")))
    return found
