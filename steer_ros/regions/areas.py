"""The named areas of a frame, and which of several boxes a place word means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .boxes import Box, center, check_box, check_frame_size

# Spans across and down, as fractions of the frame. Halves throughout: a side is its half of the frame, a
# corner the quarter where two sides meet, and "center" the middle half of either direction, so that it is
# as large as a corner. Areas overlap on purpose; people's do.
_LOW, _MIDDLE, _HIGH, _ALL = (0.0, 0.5), (0.25, 0.75), (0.5, 1.0), (0.0, 1.0)
AREAS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "left": (_LOW, _ALL),
    "right": (_HIGH, _ALL),
    "top": (_ALL, _LOW),
    "bottom": (_ALL, _HIGH),
    "center": (_MIDDLE, _MIDDLE),
    "top-left": (_LOW, _LOW),
    "top-right": (_HIGH, _LOW),
    "bottom-left": (_LOW, _HIGH),
    "bottom-right": (_HIGH, _HIGH),
    "top-center": (_MIDDLE, _LOW),
    "bottom-center": (_MIDDLE, _HIGH),
    "center-left": (_LOW, _MIDDLE),
    "center-right": (_HIGH, _MIDDLE),
}

SIDES = {  # words of a side, and the side
    "left": "left",
    "right": "right",
    "top": "top",
    "upper": "top",
    "bottom": "bottom",
    "lower": "bottom",
    "center": "center",
    "centre": "center",
    "central": "center",
    "middle": "center",
    "mid": "center",
}
RANKS = {"leftmost": "left", "rightmost": "right", "topmost": "top", "bottommost": "bottom"}

_MIN_SEPARATION = 0.05  # of the frame: what is less far to the left is not clearly the one on the left

# A side as (axis, sign): along which axis, and whether small (1) or large (-1) coordinates come first.
_DIRECTIONS = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}


def area_name(words: Iterable[str]) -> str | None:
    """The area that words like ("upper", "left") name together; None if none or they contradict."""
    sides = {SIDES.get(word) for word in words}
    if sides == {"center"}:
        return "center"
    name = "-".join(side for side in ("top", "bottom", "center", "left", "right") if side in sides)
    return name if name in AREAS and None not in sides else None


def area_box(name: str, frame_size: tuple[int, int]) -> Box:
    """The box, in px of a frame of (width, height), of an area: a name of AREAS, or of a rank.

    Other spellings ("centre", "upper left", "Top_Right") are understood too. "leftmost" alone is "left".
    """
    width, height = check_frame_size(frame_size)
    words = str(name).lower().replace("-", " ").replace("_", " ").split()
    found = RANKS.get(words[0]) if len(words) == 1 else None
    found = found or area_name(words)
    if found is None:
        raise ValueError(f"area: got {name!r}, accepted: {', '.join([*AREAS, *RANKS])}")
    (x0, x1), (y0, y1) = AREAS[found]
    return x0 * width, y0 * height, x1 * width, y1 * height


def select_boxes(
    candidates: Sequence[tuple[Box, float]],
    frame_size: tuple[int, int],
    *,
    area: str | None = None,
    rank: str | None = None,
    many: bool = False,
) -> list[int]:
    """Which candidates (box in frame px, score) a place means, as indices in order of fitness.

    - Neither area nor rank: all of them, in the order given.
    - rank ("leftmost"): the one whose centre lies farthest that way, wherever that is; with an area, of
      those whose centre lies in the area.
    - area, many ("the beakers on the left"): all whose centre lies in the area; perhaps none.
    - area, one ("the beaker on the left"):
      * one centre in the area: that one;
      * several: the one farthest to that side; for a corner or the centre, the one nearest to it;
      * none, but several candidates: the one that is on that side of every other (on both sides, for a
        corner), its centre by more than a twentieth of the frame. So of two beakers in the right half "the
        beaker on the left" is the left one, and of two above each other it is neither. "center" means
        the middle one of an odd number in a row;
      * none, and a single candidate: nothing. The text says where it is, and it is not there.

    Equal candidates go by score, then by order.
    """
    width, height = check_frame_size(frame_size)
    boxes = [check_box(box, f"candidates[{i}]") for i, (box, _) in enumerate(candidates)]
    points = [(x / width, y / height) for x, y in map(center, boxes)]
    inside = [i for i, point in enumerate(points) if area is None or _in_area(point, area)]

    def best(indices: list[int], distance) -> list[int]:
        return sorted(indices, key=lambda i: (distance(points[i]), -_score(candidates[i]), i))[:1]

    if rank is not None:
        axis, sign = _DIRECTIONS[RANKS[rank]]
        return best(inside, lambda point: sign * point[axis])
    if area is None or many:
        return inside
    if inside:
        return best(inside, lambda point: _distance(point, area))
    if len(boxes) > 1:
        return _by_order(points, area)
    return []


def _in_area(point: tuple[float, float], area: str) -> bool:
    return all(low <= value <= high for value, (low, high) in zip(point, AREAS[area], strict=True))


def _distance(point: tuple[float, float], area: str) -> float:
    """From an area's far side, corner or middle: what "more to the left" is measured by."""
    total = 0.0
    for value, span in zip(point, AREAS[area], strict=True):
        if span != _ALL:
            total += (value - {_LOW: 0.0, _MIDDLE: 0.5, _HIGH: 1.0}[span]) ** 2
    return total


def _by_order(points: list[tuple[float, float]], area: str) -> list[int]:
    """The one that is the area's among the others, if there is one. Points are fractions of the frame."""
    directions = [_DIRECTIONS[side] for side in area.split("-") if side in _DIRECTIONS]
    if not directions:
        return _middle(points)
    for i, point in enumerate(points):
        others = points[:i] + points[i + 1 :]
        if all(sign * (other[axis] - point[axis]) > _MIN_SEPARATION for axis, sign in directions for other in others):
            return [i]
    return []


def _middle(points: list[tuple[float, float]]) -> list[int]:
    if len(points) % 2 == 0:
        return []
    spread = [max(p[axis] for p in points) - min(p[axis] for p in points) for axis in (0, 1)]
    axis = 0 if spread[0] >= spread[1] else 1
    return [sorted(range(len(points)), key=lambda i: points[i][axis])[len(points) // 2]]


def _score(candidate: tuple[Box, float]) -> float:
    score = float(candidate[1])
    return score if score == score else float("-inf")  # NaN sorts last
