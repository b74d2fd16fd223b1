"""The demo's pictures: a film of both runs side by side, and a contact sheet for the README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..bag import read_bag
from .plan import DemoPlan, judge

PAPER, INK, FAINT = (250, 250, 248), (28, 28, 30), (120, 120, 124)
HIT, MISS = (22, 128, 68), (196, 48, 43)
REGION, UNUSED = (255, 176, 0), (235, 235, 235)
GAP = 14  # pixels between pictures
FILM_FPS = 3.0

Turn = Mapping[str, Any]
Runs = Mapping[str, Sequence[Turn]]


def spotlight(image: np.ndarray, turn: Turn, side: int, steered: bool) -> Image.Image:
    """A frame ``side`` pixels wide: where it was steered the rest is dimmed; a box stands around each region."""
    height = round(side * image.shape[0] / image.shape[1])
    canvas = cv2.resize(
        image, (side, height), interpolation=cv2.INTER_AREA if side < image.shape[1] else cv2.INTER_CUBIC
    )
    weights = [np.abs(np.float32(region["weights"])) / 127 for region in turn["regions"]]
    if steered and weights:
        light = cv2.resize(np.max(weights, 0), (side, height), interpolation=cv2.INTER_NEAREST)
        canvas = (canvas * (0.55 + 0.45 * light[..., None])).astype(np.uint8)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    scale = side / image.shape[1]
    for region in turn["regions"]:
        if region["box"] is not None:
            box = [round(value * scale) for value in region["box"]]
            draw.rectangle(box, outline=REGION if steered else UNUSED, width=3 if steered else 1)
    return picture


def card(image: np.ndarray, turn: Turn, verdict: bool | None, side: int, steered: bool) -> Image.Image:
    """A frame with its action and focus below it."""
    picture = spotlight(image, turn, side, steered)
    size = max(15, side // 18)
    made = Image.new("RGB", (side, picture.height + round(3.1 * size)), PAPER)
    made.paste(picture, (0, 0))
    draw = ImageDraw.Draw(made)
    colour = {True: HIT, False: MISS, None: FAINT}[verdict]
    action = turn["text"] or f"({turn['cut_reason'] or 'no action'})"
    draw.text((2, picture.height + 0.25 * size), fitted(draw, action, size, side), colour, font=font(size))
    before, after = turn["focus_before"], turn["focus_after"]
    told = "no region" if before is None or after is None else f"focus {before:.0%} to {after:.0%}"
    told += {True: ", hit", False: ", miss", None: ", not in sight"}[verdict]
    small = round(0.8 * size)
    draw.text((2, picture.height + 1.65 * size), f"{told}, {turn['total_ms']:.0f} ms", FAINT, font=font(small))
    return made


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font; reading it takes its time."""
    return ImageFont.load_default(size)


def fitted(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> str:
    """The text, cut where it would not fit."""
    while text and draw.textlength(text, font=font(size)) > width - 4:
        text = text[:-2].rstrip() + "…" if not text.endswith("…") else text[:-2].rstrip("… ") + "…"
    return text


def beside(pictures: Sequence[Image.Image], down: bool = False) -> Image.Image:
    """Pictures in a row, or down a column, with gaps between them."""
    widths, heights = [p.width for p in pictures], [p.height for p in pictures]
    gaps = GAP * (len(pictures) - 1)
    size = (max(widths), sum(heights) + gaps) if down else (sum(widths) + gaps, max(heights))
    made, at = Image.new("RGB", size, PAPER), 0
    for picture in pictures:
        made.paste(picture, (0, at) if down else (at, 0))
        at += GAP + (picture.height if down else picture.width)
    return made


def strip(text: str, width: int, size: int, colour: tuple[int, int, int] = INK) -> Image.Image:
    """A line of text on a strip of paper."""
    made = Image.new("RGB", (width, round(1.5 * size)), PAPER)
    draw = ImageDraw.Draw(made)
    draw.text((2, 0.15 * size), fitted(draw, text, size, width), colour, font=font(size))
    return made


def framed(picture: Image.Image) -> Image.Image:
    """A margin of paper around it, and sides that a video codec takes."""
    width, height = (side + 2 * GAP + (side % 2) for side in picture.size)
    made = Image.new("RGB", (width, height), PAPER)
    made.paste(picture, (GAP, GAP))
    return made


def write_contact_sheet(path: Path, plan: DemoPlan, runs: Runs, columns: int = 6, side: int = 260) -> Path:
    """A PNG of evenly spaced parts, one column each: both runs at the same frame, one above the other."""
    images = dict(read_bag(plan.bag))
    chosen = [plan.parts[i] for i in np.unique(np.linspace(0, len(plan.parts) - 1, columns).round().astype(int))]
    rows = []
    for name, turns in runs.items():
        answers = {turn["stamp_ns"]: (turn, verdict) for turn, verdict in zip(turns, judge(plan, turns))}
        cards = []
        for part in chosen:
            stamp = part.stamps[len(part.stamps) // 2]
            cards.append(card(images[stamp], *answers[stamp], side, steered=name == "steered"))
        row = beside(cards)
        rows += [strip(name, row.width, 20), row]
    heads = beside([strip(f"look_for: {part.look_for}", side, 15) for part in chosen])
    sheet = framed(beside([heads, *rows], down=True))
    sheet.save(path, optimize=True)
    return path


def film_frames(plan: DemoPlan, runs: Runs, side: int = 420) -> Iterator[np.ndarray]:
    """uint8 RGB ``[height, width, 3]``: both runs side by side, frame by frame."""
    verdicts = {name: judge(plan, turns) for name, turns in runs.items()}
    for index, (stamp, image) in enumerate(read_bag(plan.bag)):
        columns = []
        for name, turns in runs.items():
            made = card(image, turns[index], verdicts[name][index], side, steered=name == "steered")
            columns.append(beside([strip(name, side, 18, FAINT), made], down=True))
        row = beside(columns)
        head = strip(f"look_for: {plan.part_of(stamp).look_for}", row.width, 24)
        yield np.asarray(framed(beside([head, row], down=True)))


def write_film(path: Path, plan: DemoPlan, runs: Runs) -> Path:
    """The film as ``<path>.mp4``, or as ``<path>.gif`` where OpenCV can't write one; returns which.

    Raises:
        OSError: what was written can't be read back.
    """
    frames = list(film_frames(plan, runs))
    height, width = frames[0].shape[:2]
    film = path.with_suffix(".mp4")
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"mp4v"), FILM_FPS, (width, height))
    for frame in frames if writer.isOpened() else ():
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    if count_frames(film) == len(frames):
        return film
    film.unlink(missing_ok=True)
    film = path.with_suffix(".gif")
    first, *rest = (Image.fromarray(frame).quantize(128) for frame in frames)
    first.save(film, save_all=True, append_images=rest, duration=round(1000 / FILM_FPS), loop=0)
    if count_frames(film) != len(frames):
        raise OSError(f"{film}: can't be read back")
    return film


def count_frames(film: Path) -> int:
    """How many frames a film really gives when it is played; 0: it can't be."""
    if not film.exists():
        return 0
    if film.suffix == ".gif":
        with Image.open(film) as opened:
            return getattr(opened, "n_frames", 1)
    capture, count = cv2.VideoCapture(str(film)), 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count
