"""Spatial phrases: "top-left", "the red beaker on the left", "leftmost cube" as noun, area and rank.

Text comes from outside: any string parses to some Phrase, and only words reach its noun. Words that say
where something is *relative to another thing* ("left of the cube", "on top of the box", "second from the
left") are no area of the frame; they stay in the noun, for the grounding model to understand.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from .areas import RANKS, SIDES, area_box, area_name, select_boxes
from .boxes import Box

__all__ = ["Phrase", "area_box", "parse_phrase", "select"]

MAX_CHARACTERS = 1000  # of a phrase; the rest is ignored


@dataclass(frozen=True)
class Phrase:
    """What a text names and where it says that is.

    noun: words to look for, lower case; "" for a bare place.
    area: a name of areas.AREAS, or None. A bare rank ("leftmost") has the area of its side too.
    rank: "leftmost", "rightmost", "topmost", "bottommost", or None.
    many: the text asks for all that fit ("all cubes", "the beakers"), not for one.
    """

    noun: str
    area: str | None = None
    rank: str | None = None
    many: bool = False


def select(phrase: Phrase, candidates: list[tuple[Box, float]], frame_size: tuple[int, int]) -> list[int]:
    """The candidates (box in frame px, score) that the phrase means, as indices; see select_boxes."""
    return select_boxes(candidates, frame_size, area=phrase.area, rank=phrase.rank, many=phrase.many)


def parse_phrase(text: str) -> Phrase:
    """Split a text into noun, area and rank. ValueError only for what is no string.

    An area is read where the text ends with a place ("the red beaker on the left", "beaker, top left"),
    starts with one ("on the left, the beaker"), has one as an attribute ("the upper right cube"), or is
    nothing else ("center", "left half of the image"). Either spelling, any case; with hyphen, blank or
    neither. Places that agree add up ("at the top, on the left"); those that contradict are no place
    ("left right"). "far left" and "furthest to the left" are ranks.
    """
    if not isinstance(text, str):
        raise ValueError(f"phrase: got {type(text).__name__}, accepted: a string")
    rest = _IN_SCENE.sub("", _OF_SCENE.sub(r"\1", _normalise(text)))
    rest, many = _strip(rest)
    whole = rest
    rest, rank = _take_rank(rest)
    words: list[str] = []
    for _ in range(3):  # "at the top, on the left": more places than that are no phrase
        rest, more = _strip(rest)
        many |= more
        match = _find_place(rest)
        if match is None or area_name([*words, *match["place"].split()]) is None:
            break
        place = match["place"].split()
        if rank is None and len(place) == 1 and match.groupdict().get("far"):
            rank = _rank_of(place[0])
        words += place
        rest = f"{rest[: match.start()]} , {rest[match.end() :]}"
    if words and _TWO_PLACES.search(rest):
        return Phrase(whole.replace(" ,", ""), many=True)
    area = area_name(words)
    if rank is not None and area == RANKS[rank]:
        area = None  # "far left": the rank says it
    rest, more = _strip(rest)
    noun = " ".join(rest.replace(",", " ").split())
    if noun in _NO_NOUN or (noun in _PARTS and (area or rank)):
        noun = ""
    if not noun and area is None and rank is not None:
        area = RANKS[rank]
    return Phrase(noun, area, rank, many or more or _plural(noun))


_SIDE = rf"(?:{'|'.join(SIDES)})"
_PARTS = (
    *("side", "half", "corner", "edge", "part", "area", "region", "portion", "quarter", "quadrant"),
    *("third", "section", "end", "zone", "place", "spot"),
)
_PLACE = (
    rf"(?:(?P<far>far|extreme|very) )?(?P<place>{_SIDE}(?: {_SIDE}){{0,2}})"
    rf"(?:(?: hand)? (?:{'|'.join(_PARTS)}))?\b"
)
_AT = r"(?:right )?(?:on|at|in|to|near|towards?|along|within|inside)(?: the| its| your| my)? "

# Where a place may stand, in the order tried.
_TRAILING = re.compile(rf"(?:^|(?<= )){_AT}{_PLACE}$")  # "beaker on the left"
_APPENDED = re.compile(rf"(?:^|(?<=, )){_PLACE}$")  # "beaker, top left"; "top left"
_POSTFIX = re.compile(  # "beaker top left", but not "bottle top", "second from the left"
    rf"(?<= )(?<!the )(?<!from )(?P<place>(?:{_SIDE} )?(?:left|right))$"
)
_LEADING = re.compile(  # "on the left, the cube"
    rf"^{_AT}{_PLACE}(?= ,| (?:the|an?|all|both|is|are|there)\b)"
)
_ATTRIBUTE = re.compile(  # "left beaker", but not "left of the cube", "right next to", "left hand", "top hat"
    rf"^{_PLACE}(?! (?:of|and|or|in|on|at|to|from|next|beside|behind|above|below|under|now|there|here|away"
    r"|angle|hat|hand|arm|foot|leg|eye|ear|finger|thumb|wrist|elbow|shoulder|knee|glove|shoe|boot|sock"
    r"|gripper|wheel|wing)s?\b)"
)

_SCENE = (
    r"(?:the |this |that |your |my )?(?:camera )?"
    r"(?:image|picture|photo|photograph|frame|view|scene|screen|video)(?: view| image| frame)?(?=$| ,)"
)
_IN_SCENE = re.compile(rf" (?:in|within) {_SCENE}")
_OF_SCENE = re.compile(rf"\b({_SIDE}|[a-z]+most|{'|'.join(_PARTS)}) (?:of|in) {_SCENE}")

_RANK = re.compile(
    r"\b(?:(?P<most>left|right|top|upper|up|bottom|lower) ?most|(?P<high>highest|lowest)"
    r"|(?:furthest|farthest)(?: (?:to|on|at))?(?: the)? (?P<far>left|right|top|bottom))\b"
)
_RANK_SIDES = {"highest": "top", "lowest": "bottom", "up": "top"}

_LEAD = re.compile(  # requests and determiners before the noun
    r"^(?:,|please|now|then|can you|could you|look(?:ing)?(?: only)?(?: at| for)?|search(?: for)?"
    r"|find(?: me)?|locate|detect|show(?: me)?|focus(?: on)?|attend(?: to)?|pay attention to|concentrate on"
    r"|point (?:at|to|out)|pick up|grab|grasp|take|get|give me|where(?: is| are|'s)|is there|are there"
    r"|there (?:is|are)|describe|select|choose|(?P<all>all|every|each|both|these|those)"
    r"|the|an?|any|this|that|some|my|your|its|only|of|is|are)"
    r"(?: |$)"
)
_TAIL = re.compile(  # what is left over behind the noun
    r"(?:^| )(?:,|please|now|the|on|at|in|to|that|which|(?:that|which|it)'s|is|are|sits?|stands?|lies|located"
    r"|positioned|placed|lying|standing|sitting)$"
)
_NO_NOUN = (
    *("one", "ones", "thing", "things", "something", "anything", "everything", "stuff"),
    *("what", "whatever", "it"),
)
_HEAD_END = re.compile(r" (?:with|without|of|in|on|at|to|from|near|next|under|behind|above|below|between|that)\b")
_TWO_PLACES = re.compile(rf" {_AT}{_SIDE}\b.* (?:and|or) ")  # "the cube on the left and the vial"

_COMPACT = re.compile(r"\b(top|upper|bottom|lower)(left|right)\b")
_HYPHEN = re.compile(rf"\b({_SIDE})-(?={_SIDE}\b|most\b|side\b|hand\b|half\b|corner\b)")


def _normalise(text: str) -> str:
    """Lower-case words and commas, one blank apart. Marks, controls and surrogates become blanks."""
    kept = []
    for char in unicodedata.normalize("NFKC", text[:MAX_CHARACTERS]).lower():
        if char in "'’":
            kept.append("'")
        elif char in "-‐‑–—" or unicodedata.category(char)[0] in "LMN":
            kept.append("-" if char in "-‐‑–—" else char)
        else:
            kept.append(" , " if char in ",;:.!?" else " ")
    words = (word.strip("-'") for word in "".join(kept).split())
    line = " ".join(word for word in words if word)[:MAX_CHARACTERS]
    line = _HYPHEN.sub(r"\1 ", _COMPACT.sub(r"\1 \2", line)).replace(" hand side", " side")
    return re.sub(r"(?: ,)+", " ,", line.replace("lefthand", "left").replace("righthand", "right"))


def _strip(text: str) -> tuple[str, bool]:
    """Take requests, determiners and dangling words off both ends; whether they asked for all."""
    text, many, before = " ".join(text.split()), False, None
    while text != before:
        before = text
        if lead := _LEAD.match(text):
            many |= lead["all"] is not None
            text = text[lead.end() :]
        text = _TAIL.sub("", text)
    return text, many


def _take_rank(text: str) -> tuple[str, str | None]:
    match = _RANK.search(text)
    if match is None:
        return text, None
    word = match["most"] or match["high"] or match["far"]
    return f"{text[: match.start()]} {text[match.end() :]}", _rank_of(_RANK_SIDES.get(word, word))


def _rank_of(side: str) -> str | None:
    return next((rank for rank, area in RANKS.items() if area == SIDES[side]), None)


def _find_place(text: str) -> re.Match[str] | None:
    for pattern in (_TRAILING, _APPENDED, _POSTFIX, _LEADING, _ATTRIBUTE):
        if match := pattern.search(text):
            return match
    return None


def _plural(noun: str) -> bool:
    """A guess by the last word of the noun proper: "red beakers with caps" is many, "lens" is one."""
    head = _HEAD_END.split(noun, maxsplit=1)[0]
    return " and " in noun or (head.endswith("s") and not head.endswith(("ss", "us", "is", "lens")))
