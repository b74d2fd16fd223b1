"""Settings: a law with its strength, gate and schedule, under a name; those of the comparison among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ...reasoning import Reasoner
from ...steering import Gate, Law, make_law
from ...steering.head_gains import StrengthNet
from ...steering.laws import MAX_ALPHA, SETPOINT_LAWS
from ...steering.schedule import Schedule, as_schedule

FIELDS = ("law", "alpha", "mark", "gate", "schedule")
STEPS = (0.5, math.sqrt(0.5), 1.0, math.sqrt(2.0), 2.0)  # a fourfold range about a strength of 1


@dataclass(frozen=True)
class Setting:
    """How a turn is steered. law None: not at all. gate, schedule: None steers all heads and the whole answer alike,
    whatever the model's own may be.

    weights: what the region's mask becomes: "region" as it is, "rest" (PASTA): 0 on the region, −1 off it.
    strength: what each head's alpha is multiplied by: a network, or a table [layers, query heads].
    guard: whether over-steering is noticed and rolled back within the turn. Our own settings have it, the
    methods that we compare with do not.
    """

    name: str
    law: Law | None = None
    gate: Gate | str | None = None
    schedule: Schedule | None = None
    description: str = ""
    weights: str = "region"
    guard: bool = True
    strength: StrengthNet | Tensor | None = None

    def arguments(self, weights: np.ndarray | None) -> dict[str, object]:
        """Keyword arguments for `Reasoner.generate` that steer to int8 weights [rows, cols] this way."""
        if self.law is None or weights is None:
            return {"steering_mask": None, "law": "none", "guard": False}
        return {  # all of it is said: what is left out would be the model's own
            "steering_mask": self.mask(weights),
            "law": self.law,
            "gate": self.gate or Gate(),
            "schedule": as_schedule(self.schedule),
            "adaptive": self.strength,
            "guard": self.guard,
        }

    def mask(self, weights: np.ndarray) -> np.ndarray:
        """The weights that this setting steers with, int8 of the same shape."""
        return (weights.astype(np.int16) - 127).astype(np.int8) if self.weights == "rest" else weights

    @property
    def gain(self) -> Tensor | None:
        """The strength where it is a table: what a `SteeringField` takes."""
        return self.strength if isinstance(self.strength, Tensor) else None

    @property
    def steers(self) -> bool:
        """False for the setting that leaves the model alone."""
        return self.law is not None and self.law.name != "none"

    def __str__(self) -> str:
        if self.law is None:
            return "unsteered"
        parts = [self.law.name, f"alpha {self.law.alpha:g}"]
        if self.law.mark is not None:
            parts.append(f"mark {self.law.mark:g}")
        parts += ["a learnt strength for each head"] if self.strength is not None else []
        parts += [f"gate {self.gate}"] if str(self.gate or "all") != "all" else []
        parts += [f"schedule {self.schedule}"] if str(self.schedule or "constant") != "constant" else []
        return ", ".join(parts)


UNSTEERED = Setting("unsteered", description="greedy, without steering")


def default_setting(reasoner: Reasoner) -> Setting:
    """What the model's steering.json says, or conserving, alpha 2, on all heads."""
    tuned = reasoner.tuned
    if tuned is None:
        return Setting("ours", make_law("conserving", 2.0), description="conserving, on all heads")
    return Setting(
        "ours",
        tuned.law,
        tuned.gate,
        tuned.schedule,
        description="what the model's steering.json says",
        strength=tuned.strength,
    )


def override(setting: Setting, overrides: Mapping[str, object]) -> Setting:
    """The setting with fields set anew; None leaves a field. A law, alpha or mark that is given stands as it is,
    without a learnt strength. Another law begins with no gate and no schedule, at alpha 2 (share and target: alpha 0,
    and a mark must be given).

    Raises:
        ValueError: a field by its name, its value and what is accepted.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    unknown = set(given) - set(FIELDS)
    if unknown:
        raise ValueError(f"setting: {', '.join(sorted(unknown))}; accepted are {', '.join(FIELDS)}")
    if not given:
        return setting
    base = setting.law
    name = str(given.get("law", base.name if base is not None else "conserving"))
    same = base is not None and base.name == name
    alpha = given.get("alpha", base.alpha if same else 0.0 if name in SETPOINT_LAWS else 2.0)
    mark = given.get("mark", base.mark if same else None)
    gate = given.get("gate", setting.gate if same else None)
    if isinstance(gate, str):
        gate = Gate.parse(gate)
    schedule = given.get("schedule", setting.schedule if same else None)
    schedule = None if schedule is None else as_schedule(schedule)
    strength = None if {"law", "alpha", "mark"} & set(given) else setting.strength
    law = law_of(name, alpha, mark)
    return replace(setting, law=law, gate=gate, schedule=schedule, strength=strength, description="")


def law_of(name: str, alpha: float = 0.0, mark: float | None = None) -> Law:
    """The law; ValueError names what is not accepted."""
    return make_law(name, alpha, mark)


def scaled(setting: Setting, factor: float, area: float) -> Setting:
    """The setting at `factor` times its strength.

    Strength is what the law adds to the region's scores. For additive and conserving that is alpha. For share and
    target it is what takes a typical region to the mark: logit(mark) − logit(area), with `area` the region's mean
    part of the frame, its share under an even look. A fourfold range is from half to twice that, the same measure
    for all laws: in odds of the mark alone a fourfold range would be much the narrower (e^1.4).

    Raises:
        ValueError: a setting that does not steer has no strength.
    """
    law = setting.law
    if law is None or not setting.steers:
        raise ValueError(f"strength: setting {setting.name!r} does not steer; accepted is one that does")
    alpha, mark = max(-MAX_ALPHA, min(MAX_ALPHA, law.alpha * factor)), law.mark
    if mark is not None:
        base = _logit(area)
        mark = 1 / (1 + math.exp(-(base + factor * (_logit(mark) - base))))
        mark = min(1 - 1e-6, mark)
    return replace(setting, name=f"{setting.name} x{factor:.3g}", law=law_of(law.name, alpha, mark))


def discovered_heads(reasoner: Reasoner) -> tuple[tuple[int, int], ...]:
    """The (layer, head) pairs in the model's steering.json, those of its gate where none were discovered; () if it has
    none or leaves all heads in."""
    gate = None if reasoner.tuned is None else reasoner.tuned.heads or reasoner.tuned.gate
    if not isinstance(gate, Gate):
        return ()
    table = gate.table(*head_counts(reasoner))
    return () if bool((table != 0).all()) else tuple((int(i), int(j)) for i, j in table.nonzero().tolist())


def head_counts(reasoner: Reasoner) -> tuple[int, int]:
    """(layers, query heads) of a reasoner."""
    config = reasoner.model.config.get_text_config()
    return int(config.num_hidden_layers), int(config.num_attention_heads)


def random_heads(reasoner: Reasoner, count: int, seed: int = 0) -> tuple[tuple[int, int], ...]:
    """As many (layer, head) pairs, drawn at random without replacement: the control of discovered ones."""
    layers, heads = head_counts(reasoner)
    drawn = np.random.default_rng(seed).choice(layers * heads, min(count, layers * heads), replace=False)
    return tuple(sorted((int(i) // heads, int(i) % heads) for i in drawn))


def _logit(p: float) -> float:
    p = min(1 - 1e-6, max(1e-6, p))
    return math.log(p / (1 - p))
