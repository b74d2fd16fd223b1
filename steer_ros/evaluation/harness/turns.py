"""One question to the reasoner under a setup, and the same while the region moves."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ...models import VisualFeatures
from ...reasoning import Callbacks, Limits, Reasoner, Turn
from ...reasoning.prompt import TOKEN
from .answer_grammar import mentions
from .steering_setup import SteeringSetup

LONGEST = 48  # tokens of an answer; the longest right one has fewer than 30


def ask(
    reasoner: Reasoner,
    features: VisualFeatures,
    prompt: str,
    setup: SteeringSetup,
    weights: np.ndarray | None,
    **more: object,
) -> Turn:
    """One turn, steered to weights int8 [rows, cols] as the setup says; None asks unsteered."""
    return reasoner.generate(
        prompt,
        features,
        limits=Limits(max_new_tokens=LONGEST),
        measure_focus=setup.config.guard is not None,  # which a guard needs to see attention collapse
        **setup.arguments(weights),
        **more,
    )


def ask_switching(
    reasoner: Reasoner,
    features: VisualFeatures,
    prompt: str,
    setup: SteeringSetup,
    first: np.ndarray,
    second: np.ndarray,
    due: Callable[[int, str], bool],
) -> tuple[Turn, bool]:
    """A turn that begins steered to `first` and goes on steered to `second`.

    Args:
        due: asked before each forward pass with the number of tokens written so far and the text of the thought;
            the first True switches: `second` holds from the next token on.
    Returns:
        the turn, and whether it was switched while it was written.
    """
    thought: list[str] = []
    passes, switched = 0, False

    def listen(phase: str, text: str) -> None:
        if phase == "rollback":  # the answer begins anew
            thought.clear()
        elif phase == "think":
            thought.append(text)

    def update() -> np.ndarray | None:
        nonlocal passes, switched
        written, passes = passes, passes + 1
        if switched or not due(written, "".join(thought)):
            return None
        switched = True
        return setup.mask(second)

    turn = ask(reasoner, features, prompt, setup, first, callbacks=Callbacks(on_text=listen, update_masks=update))
    return turn, switched


def named_one(_: int, thought: str) -> bool:
    """Due once the thought has named its first object, the name's last letter written."""
    return bool(mentions(thought))


def after_tokens(count: int) -> Callable[[int, str], bool]:
    """Due once so many tokens are written."""
    return lambda written, _: written >= count


def opening_tokens(reasoner: Reasoner, opening: str) -> int:
    """How many tokens the words take that a thought begins with."""
    return len(reasoner.tokenizer(re.sub(r"\s+", " ", opening), add_special_tokens=False)["input_ids"])


def must_see(reasoner: Reasoner, features: VisualFeatures) -> None:
    """ValueError for a reasoner that does not get these frames by a token bridge: it knows a region's words alone."""
    if reasoner.bridge_for(features) != TOKEN:
        raise ValueError(
            f"model {reasoner.name!r}: has no bridge for these frames and sees them by words alone; accepted is a "
            "reasoner with a token bridge"
        )
