"""Prompts of several competing facts, any of which answers the question; what an answer names of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PromptFact:
    """One sentence of a prompt. An answer names it by any of its words: its value, or what else tells it apart."""

    text: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class FactPrompt:
    """Facts that compete, a question that any of them answers, and how an answer begins that is begun for it."""

    kind: str
    facts: tuple[PromptFact, ...]
    question: str
    opening: str


@dataclass(frozen=True)
class Form:
    """A wording of a kind with its number of facts; {0} and {1} stand for the items of a value."""

    count: int
    fact: str
    question: str
    opening: str


@dataclass(frozen=True)
class Kind:
    """Values that compete, and the forms that ask about them."""

    name: str
    values: tuple[tuple[str, ...], ...]
    forms: tuple[Form, ...]


def _each(words: str) -> tuple[tuple[str, ...], ...]:
    return tuple((word,) for word in words.split())


def _pairs(words: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(pair.split("/")) for pair in words.split())


# What is judged.
JUDGED = (
    Kind(
        "objects",
        _each("hammer lamp bottle phone basket ladder camera helmet bucket clock"),
        (
            Form(3, "A {0} lies on the floor.", "Which one thing can the robot carry?", "The robot can carry the"),
            Form(4, "The shelf holds a {0}.", "What should the robot bring?", "The robot should bring the"),
            Form(5, "Somebody left a {0} here.", "What should the robot put away?", "The robot should put away the"),
        ),
    ),
    Kind(
        "people",
        _pairs("Maria/nurse David/driver Anna/lawyer Peter/baker Laura/pilot James/gardener Sarah/doctor Emma/farmer"),
        (
            Form(3, "{0} is the {1}.", "Who should be called?", "The person to call is"),
            Form(4, "{0} works as a {1}.", "Who can help with the problem?", "The person who can help is"),
            Form(5, "{0}, the {1}, is free today.", "Who should be asked?", "The person to ask is"),
        ),
    ),
    Kind(
        "places",
        _each("kitchen garage garden library office basement balcony bathroom bedroom attic"),
        (
            Form(3, "One parcel goes to the {0}.", "Where does the parcel go?", "The parcel goes to the"),
            Form(4, "There is water in the {0}.", "Where can I find water?", "You can find water in the"),
            Form(5, "The lights are on in the {0}.", "Which room should I visit?", "You should visit the"),
        ),
    ),
    Kind(
        "numbers",
        _each("12 24 36 48 52 64 78 86 94"),
        (
            Form(3, "One sign says {0} metres.", "How far is it?", "The distance is"),
            Form(4, "One box holds {0} screws.", "How many screws are in the box?", "The number of screws is"),
            Form(5, "One page shows the code {0}.", "What is the code?", "The code is"),
        ),
    ),
    Kind(
        "times",
        _each("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
        (
            Form(3, "A train leaves on {0}.", "When does the train leave?", "The train leaves on"),
            Form(4, "The doctor is free on {0}.", "When can I see the doctor?", "You can see the doctor on"),
            Form(5, "One meeting is on {0}.", "When is the meeting?", "The meeting is on"),
        ),
    ),
    Kind(
        "colours",
        _each("red green blue yellow purple orange white black"),
        (
            Form(3, "One cup is {0}.", "What colour is the cup?", "The colour of the cup is"),
            Form(4, "There is a {0} door.", "Which door should the robot open?", "The robot should open the"),
            Form(5, "One cable is {0}.", "Which cable should be pulled?", "The cable to pull is the"),
        ),
    ),
    Kind(
        "instructions",
        _pairs("wash/dishes open/window feed/cat sweep/floor repair/fence paint/wall fold/laundry water/plants"),
        (
            Form(3, "One note says to {0} the {1}.", "What should the robot do?", "The robot should"),
            Form(4, "The operator wants the robot to {0} the {1}.", "What will the robot do?", "The robot will"),
            Form(5, "One task is to {0} the {1}.", "Which task comes first?", "The first task is to"),
        ),
    ),
    Kind(
        "food",
        _each("soup salad bread rice pizza pasta cake cheese fish steak"),
        (
            Form(3, "One guest ordered {0}.", "What should the cook prepare?", "The cook should prepare"),
            Form(4, "The menu has {0}.", "What would you like to eat?", "I would like to eat"),
            Form(5, "There is some {0} left.", "What can I have for dinner?", "You can have"),
        ),
    ),
)

# What the setting was chosen on: other wordings and other values, and kinds of its own. Numbers have three of the ten
# kinds: they are what steering finds hardest to have spelled out.
TUNING = (
    Kind(
        "tools",
        _each("drill shovel rope brush lantern candle pencil wallet radio towel"),
        (
            Form(3, "I can see a {0} in the corner.", "What should I take?", "You should take the"),
            Form(4, "A {0} is for sale.", "What will the customer buy?", "The customer will buy the"),
            Form(5, "The drawer contains a {0}.", "What do you need?", "I need the"),
        ),
    ),
    Kind(
        "staff",
        _pairs("Lucy/chef Robert/teacher Julia/mechanic Mark/painter Alice/judge Henry/singer Susan/dentist"),
        (
            Form(3, "The {1} is called {0}.", "Who will come tomorrow?", "The one who will come is"),
            Form(4, "{0} is a {1}.", "Who gets the prize?", "The prize goes to"),
            Form(5, "The {1} here is {0}.", "Who wrote the letter?", "The letter was written by"),
        ),
    ),
    Kind(
        "buildings",
        _each("museum station airport bakery market school hospital pharmacy"),
        (
            Form(3, "A taxi waits at the {0}.", "Where is the taxi?", "The taxi is at the"),
            Form(4, "The map shows the {0}.", "Where should the tourist go?", "The tourist should go to the"),
            Form(5, "A bus stops near the {0}.", "Where does the bus stop?", "The bus stops near the"),
        ),
    ),
    Kind(
        "amounts",
        _each("13 25 37 41 59 63 75 87 91"),
        (
            Form(3, "One ticket costs {0} euros.", "How much is the ticket?", "The price of the ticket is"),
            Form(4, "A thermometer reads {0} degrees.", "How warm is it?", "The temperature is"),
            Form(5, "One label shows the weight {0}.", "What is the weight?", "The weight is"),
        ),
    ),
    Kind(
        "counts",
        _each("14 27 39 46 53 68 71 82 95"),
        (
            Form(3, "One bus has the number {0}.", "Which bus goes to town?", "The number of the bus is"),
            Form(4, "One house has {0} windows.", "How many windows are there?", "The number of windows is"),
            Form(5, "One card says that the door is {0}.", "Which door is it?", "It is door"),
        ),
    ),
    Kind(
        "measures",
        _each("16 29 34 47 58 61 73 85 92"),
        (
            Form(3, "One of them is {0} years old.", "How old is he?", "He is"),
            Form(4, "One bag weighs {0} kilograms.", "How heavy is the bag?", "The bag weighs"),
            Form(5, "One player scored {0} points.", "What was the score?", "The score was"),
        ),
    ),
    Kind(
        "months",
        _each("January February March April June July August October December"),
        (
            Form(3, "A holiday begins in {0}.", "When is the holiday?", "The holiday is in"),
            Form(4, "The shop is closed in {0}.", "When is the shop closed?", "The shop is closed in"),
            Form(5, "A concert takes place in {0}.", "When will the concert be?", "The concert will be in"),
        ),
    ),
    Kind(
        "shades",
        _each("brown pink grey silver golden turquoise violet"),
        (
            Form(3, "One shirt is {0}.", "What colour is the shirt?", "The colour of the shirt is"),
            Form(4, "One wall is {0}.", "What colour is the wall?", "The wall is"),
            Form(5, "She owns a {0} car.", "Which car does she drive?", "She drives the"),
        ),
    ),
    Kind(
        "orders",
        _pairs("lock/gate empty/bin close/curtain move/table clean/carpet fill/bath count/coins"),
        (
            Form(3, "Please {0} the {1}.", "What is the order?", "The order is to"),
            Form(4, "Somebody must {0} the {1}.", "What has to be done?", "Somebody has to"),
            Form(5, "One job is to {0} the {1}.", "Which job is urgent?", "The urgent job is to"),
        ),
    ),
    Kind(
        "drinks",
        _each("tea coffee milk juice wine beer lemonade cocoa"),
        (
            Form(3, "The bar serves {0}.", "What shall we drink?", "We shall drink"),
            Form(4, "The fridge has {0}.", "What would you like to drink?", "I would like to drink"),
            Form(5, "A bottle of {0} is open.", "What is in the bottle?", "The bottle contains"),
        ),
    ),
)


def draw_prompts(kinds: Sequence[Kind], count: int, seed: int) -> list[FactPrompt]:
    """`count` prompts that differ, of the kinds in turn and of each kind's forms in turn; values at random.

    Raises:
        ValueError: more prompts than there are.
    """
    rng = np.random.default_rng(seed)
    prompts: list[FactPrompt] = []
    seen: set[tuple[str, str, tuple[PromptFact, ...]]] = set()
    misses = 0
    while len(prompts) < count:
        number = len(prompts)
        kind = kinds[number % len(kinds)]
        form = kind.forms[number // len(kinds) % len(kind.forms)]
        chosen = rng.permutation(len(kind.values))[: form.count]
        values = [kind.values[i] for i in chosen]
        facts = tuple(PromptFact(form.fact.format(*value), value) for value in values)
        prompt = FactPrompt(kind.name, facts, form.question, form.opening)
        key = (kind.name, form.question, facts)
        misses = misses + 1 if key in seen else 0
        if misses > 1000:
            raise ValueError(f"limit: {count} prompts; accepted are at most {number}, there are no others")
        if not misses:
            seen.add(key)
            prompts.append(prompt)
    return prompts


def mentions(text: str, facts: Sequence[PromptFact], *, ended: bool = True) -> list[int]:
    """Which facts a text names, by index, in the order in which it first names them.

    A fact is named by any of its words as a whole word, whatever the case, or with -s, -es, -ed or -ing.

    Args:
        ended: whether the text is whole. If not, a word that the text ends in may still become another one, and
            does not count yet.
    """
    found = []
    for index, fact in enumerate(facts):
        words = "|".join(re.escape(word) for word in fact.words)
        match = re.search(rf"\b(?:{words})(?:s|es|ed|ing)?\b{'' if ended else '(?=.)'}", text, re.I | re.S)
        if match:
            found.append((match.start(), index))
    return [index for _, index in sorted(found)]
