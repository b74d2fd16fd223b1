"""Whether an action is about another object than the region it was steered to, and whether it moves anything at all.
Sure cases only: words that are not known here, pronouns and actions that name nothing contradict nobody."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Each line is one meaning; two words of one table on different lines exclude one another. A word that may stand for
# several of them (a cup for a beaker, a bottle for a flask, teal for green, blue or cyan) is in none.
COLOURS = (
    "red crimson scarlet ruby",
    "green lime emerald",
    "blue navy",
    "yellow golden",
    "orange",
    "purple violet mauve",
    "cyan",
    "pink rose",
    "brown tan",
    "black",
    "white",
    "grey gray silver",
)
THINGS = (
    "beaker",
    "flask",
    "vial ampoule ampule",
    "dish plate saucer bowl",
    "cube block box",
    "ball sphere",
    "spoon",
    "fork",
    "knife",
    "hammer",
    "screwdriver",
    "wrench spanner",
    "apple",
    "banana",
    "pen pencil",
    "phone telephone",
    "keyboard",
    "laptop",
    "chair",
    "table desk",
    "towel",
    "glove",
    "battery",
    "lamp",
    "camera",
    "car",
    "door",
)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DETERMINERS = _set("the a an this that these those one another")
_NEGATIONS = _set("no not never without neither nor dont isnt cannot cant avoid except")
_PRONOUNS = _set("it them him her this that these those something anything everything one")
_COPULAS = _set("is are was were be looks seems appears its thats")
_PREPOSITIONS = _set(
    "on onto in into inside at to toward towards from of off near by beside behind under below above over with "
    "against between next for through around"
)
_GOALS = _set("at to toward towards for")
_PLACES = _set("beside near by behind under below above between")  # what else stands there
_SIDES = {"to": _set("next close"), "of": _set("left right front top side bottom back")}  # "next to", "left of"
_VERBS = _set("pick take grasp grab lift get fetch bring move push pull hold touch use")
_ADVERBS = _set("up down over back out now then please slowly carefully just closer straight")
_OWN = _set("gripper arm hand effector robot claw tool")  # what a robot moves to an object
_BREAKS = _set("and or but then so while which who")
_DOING = _VERBS | _BREAKS | _set("it them up down put place go turn open close drop pour press start stop release")
_ABSENT = re.compile(
    r"(?:no\W+)?(?:there (?:is|are) (?:no|not)|i (?:do not|don.t|cannot|can.t) see)((?: \w[\w-]*){1,5})[\s.!]*", re.I
)


@dataclass(frozen=True)
class _Mention:
    """A thing that a text names: its colour and kind, None where it does not say or the word is not known."""

    first: int  # index of its first word
    last: int
    colour: int | None
    thing: int | None

    def agrees(self, other: _Mention) -> bool:
        pairs = ((self.colour, other.colour), (self.thing, other.thing))
        return not self.excludes(other) and any(a is not None and a == b for a, b in pairs)

    def excludes(self, other: _Mention) -> bool:
        pairs = ((self.colour, other.colour), (self.thing, other.thing))
        return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def contradiction(action: str, labels: Sequence[str]) -> str:
    """Why the action's object is none of the labelled regions', in words; "" if it may be one of them.

    The action's object is the first thing it names ("Pick up the blue dish.", "It is blue."); a label's is what its
    noun phrase says ("the red beaker on the left"). They contradict one another if colour or kind exclude one
    another. A synonym, a word not in the tables, a pronoun ("Put it on the plate."), a negation, a tool ("Use the fork
    to …"), a yes or a no never do, nor does an action that names a region's object, unless that only says where its
    own is ("the blue dish next to the red beaker").

    Args:
        labels: of the regions that the look was drawn to. A region without a known word may be what the action is
            about, whatever it says.
    """
    wanted = [mentions[0] for label in labels if (mentions := _mentions(_words(label), bare=True))]
    if not wanted or len(wanted) < len(labels):
        return ""
    clauses = [(words, _mentions(words, bare=_is_noun_phrase(words))) for words in _clauses(action)]
    for words, found in clauses:
        if any(m.agrees(want) and not _is_place(words, m) for m in found for want in wanted):
            return ""
    objects = ((words, m) for words, found in clauses for m in found if _is_object(words, m))
    words, named = next(objects, ([], None))
    if named is None or not all(named.excludes(want) for want in wanted):
        return ""
    said = " ".join(words[named.first : named.last + 1])
    return f"contradiction: the action is about {said!r}, the region is {' or '.join(map(repr, labels))}"


def moves_nothing(action: str) -> bool:
    """Whether an action is a bare yes or no, or says in a few words that something is not there: whatever the region,
    it may be said, and no robot moves for it."""
    if re.fullmatch(r"\W*(yes|no)\W*", action, re.I):
        return True
    absent = _ABSENT.fullmatch(action.strip())
    return absent is not None and not _DOING.intersection(_words(absent[1]))


def _clauses(text: str) -> list[list[str]]:
    """The words of each sentence, and of each part after a comma that is no list's next member ("…, the dish")."""
    made: list[list[str]] = []
    for sentence in re.split(r"[.!?;:\n]+", text):
        words: list[str] = []
        for part in map(_words, sentence.split(",")):
            if words and part and not _goes_on(words, part):
                made.append(words)
                words = []
            words = [*words, ",", *part] if words else part
        if words:
            made.append(words)
    return made


def _goes_on(words: list[str], part: list[str]) -> bool:
    """Whether what stands after a comma belongs to what stands before: a list's next member, or what a "do not" is
    said of ("Do not, whatever happens, …")."""
    listed = part[0] in _DETERMINERS | {"and", "or", "nor"} or part[0] in _COLOUR_OF or part[0] in _THING_OF
    denied = len(words) > 1 and any(word in _NEGATIONS for word in words) and not _VERBS.intersection(words)
    return listed or denied


def _is_noun_phrase(words: list[str]) -> bool:
    """Whether colours and things are all that these words are: "Blue.", "red beaker"."""
    return bool(words) and all(word in _COLOUR_OF or word in _THING_OF or word in _ADJECTIVES for word in words)


def _mentions(words: list[str], bare: bool) -> list[_Mention]:
    """The things named, in order. bare: a label, which may name its thing without a determiner."""
    found: list[_Mention] = []
    for index, word in enumerate(words):
        colour, thing = _COLOUR_OF.get(word), _THING_OF.get(word)
        if colour is None and thing is None:
            continue
        before = words[index - 1] if index else ""
        if thing is not None:
            if found and found[-1].last == index - 1:  # "red beaker", "table lamp"; "red glass beaker" below
                start = found.pop()
                found.append(_Mention(start.first, index, start.colour, thing))
            elif (adjective := _open_colour(words, found, index)) is not None:
                found.remove(adjective)
                found.append(_Mention(adjective.first, index, adjective.colour, thing))
            elif (
                bare
                or before in _DETERMINERS
                or (found and before in (",", "and", "or"))  # "the dish, beaker and flask"
                or _after_determiner(words, index)
                or _after_verb(words, index)
            ):
                found.append(_Mention(index, index, None, thing))
        elif bare or before in _DETERMINERS | _COPULAS or _after_determiner(words, index) or _leads(words, index):
            found.append(_Mention(index, index, colour, None))
    if bare:  # what stands after the first preposition is where the thing is
        end = next((i for i, word in enumerate(words) if word in _PREPOSITIONS and i), len(words))
        found = [mention for mention in found if mention.first < end]
    return found


def _open_colour(words: list[str], found: list[_Mention], index: int) -> _Mention | None:
    """The colour up to two words before the thing at `index` in one noun phrase: "the red glass beaker"."""
    last = found[-1] if found else None
    if last is None or last.thing is not None or not index - 3 <= last.last < index:
        return None
    between = words[last.last + 1 : index]
    return None if any(word in _STOPS for word in between) else last


def _after_determiner(words: list[str], index: int) -> bool:
    """Whether up to two other words stand between a determiner and this one: "the small red"."""
    for back in range(index - 1, max(-1, index - 4), -1):
        if words[back] in _DETERMINERS:
            return True
        if words[back] in _STOPS:
            return False
    return False


def _after_verb(words: list[str], index: int) -> bool:
    """Whether a thing without a determiner is what a verb is said of: "Pick up dish"."""
    before = [word for word in words[max(0, index - 2) : index] if word not in _ADVERBS]
    return bool(before) and before[-1] in _VERBS


def _leads(words: list[str], index: int) -> bool:
    """Whether a colour without a determiner stands before a thing: "Take red beaker"."""
    return index + 1 < len(words) and words[index + 1] in _THING_OF


def _is_object(words: list[str], mention: _Mention) -> bool:
    """Whether what the mention names is what the action is about, and not where or with what, nor denied."""
    before = words[: mention.first]
    if any(word in _NEGATIONS for word in before):
        return False
    at = _lead(words, mention)
    lead = words[at] if at >= 0 else ""
    if lead in ("use", "using") and "to" in words[mention.last + 1 :]:
        return False  # a tool
    copula = any(word in _COPULAS for word in before)
    pronoun = any(word in _PRONOUNS - _DETERMINERS for word in before)
    if lead in _PREPOSITIONS:
        said = [word for word in before if word not in _DETERMINERS | _ADJECTIVES | _ADVERBS | _OWN]
        return lead in _GOALS and len(said) <= 2 and not pronoun and not copula  # "Go to the blue dish."
    return copula or not pronoun


def _is_place(words: list[str], mention: _Mention) -> bool:
    """Whether the mention only says where something else is: "next to the red beaker"."""
    at = _lead(words, mention)
    if at < 0:
        return False
    return words[at] in _PLACES or (at > 0 and words[at - 1] in _SIDES.get(words[at], ()))


def _lead(words: list[str], mention: _Mention) -> int:
    """The index of the word before a mention's noun phrase; -1 if there is none."""
    passed = _DETERMINERS | _ADJECTIVES
    return next((i for i in reversed(range(mention.first)) if words[i] not in passed), -1)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower().replace("'", "").replace("’", ""))


def _table(lines: tuple[str, ...]) -> dict[str, int]:
    return {form: index for index, line in enumerate(lines) for word in line.split() for form in (word, _plural(word))}


def _plural(word: str) -> str:
    if word.endswith(("s", "sh", "ch", "x")):
        return word + "es"
    if word.endswith("fe"):
        return word[:-2] + "ves"
    return word[:-1] + "ies" if word.endswith("y") else word + "s"


_COLOUR_OF, _THING_OF = _table(COLOURS), _table(THINGS)
_STOPS = _PREPOSITIONS | _COPULAS | _BREAKS | _PRONOUNS - _DETERMINERS | {","}
_ADJECTIVES = _set("small large big little tall short tiny left right upper lower top bottom glass")
