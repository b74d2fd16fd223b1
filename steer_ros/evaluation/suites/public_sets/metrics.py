"""The official metrics of VQAv2, GQA and POPE: from an answer's text to a score.

Written after their evaluation scripts' definitions; where those have quirks that change scores, the quirks are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Words to which VQAv2's evaluation gives back an apostrophe that is missing; its odd ones are apart.
_WITH_APOSTROPHES = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_OTHERS = {
    "twas": "'twas",
    "somebody'd": "somebodyd",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
}
_TO_TEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_TO_TEN)} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def _spellings(word: str) -> list[str]:
    """The spellings of a word that lack one of its apostrophes."""
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {spelling: word for word in _WITH_APOSTROPHES.split() for spelling in _spellings(word)} | _OTHERS


def without_signs(text: str) -> str:
    """VQAv2's rule for signs: dropped beside a blank or in a text with a number like 1,000; else a blank."""
    drop = _THOUSANDS.search(text) is not None
    made = text
    for sign in _SIGNS:
        beside = f"{sign} " in text or f" {sign}" in text
        made = made.replace(sign, "" if drop or beside else " ")
    return _PERIOD.sub("", made)


def normalised(text: str) -> str:
    """An answer as VQAv2's evaluation compares it: no signs, no articles, digits for small numbers, apostrophes."""
    words = without_signs(text.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    words = [_NUMBERS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQAv2's accuracy of one answer, 0-1: min(1, agreeing people / 3), averaged over leaving out each person.

    Args:
        answers: of the ten people, as in the annotations. If they differ, their signs are dropped before comparing.
    """
    if not answers:
        raise ValueError("answers: none; VQAv2 has ten to a question")
    given = [without_signs(answer) for answer in answers] if len(set(answers)) > 1 else list(answers)
    said = normalised(prediction)
    agree = [answer == said for answer in given]
    total = sum(agree)
    return sum(min(1.0, (total - mine) / 3) for mine in agree) / len(agree)


def gqa_correct(prediction: str, answer: str) -> bool:
    """GQA's accuracy: the answer, letter for letter; capitals and a final period of a written answer aside."""
    return prediction.strip().rstrip(".").strip().lower() == answer.strip().lower()


def pope_says_yes(text: str) -> bool:
    """POPE's reading of an answer: no, if the first sentence has the word No, no or not; else yes."""
    words = text.split(".")[0].replace(",", "").split()
    return not {"No", "no", "not"} & set(words)
