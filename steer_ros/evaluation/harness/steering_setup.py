"""Setups: a SteeringConfig under a name, as a suite tests it; those of the comparison among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...reasoning import Reasoner
from ...steering import UNSTEERED as PLAIN
from ...steering import Gate, SteeringConfig
from ...steering.laws import MAX_ALPHA

STEPS = (0.5, math.sqrt(0.5), 1.0, math.sqrt(2.0), 2.0)  # a fourfold range about a strength of 1


@dataclass(frozen=True)
class SteeringSetup:
    """How a turn is steered in an evaluation.

    Attributes:
        name: under which results are kept.
        config: how the turn is steered, whatever the model's own configuration may be. Our own setups have a guard;
            the methods that we compare with have none.
        description: in words, for a report.
        weights: what the region's mask becomes: "region" as it is, "rest" (PASTA): 0 on the region, −1 off it.
    """

    name: str
    config: SteeringConfig = PLAIN
    description: str = ""
    weights: str = "region"

    def arguments(self, weights: np.ndarray | None) -> dict[str, object]:
        """Keyword arguments for `Reasoner.generate` that steer to int8 weights [rows, cols] this way."""
        if not self.steers or weights is None:
            return {"masks": None, "config": PLAIN}
        return {"masks": self.mask(weights), "config": self.config}

    def mask(self, weights: np.ndarray) -> np.ndarray:
        """The weights that this setup steers with, int8 of the same shape."""
        return (weights.astype(np.int16) - 127).astype(np.int8) if self.weights == "rest" else weights

    @property
    def steers(self) -> bool:
        """False for the setup that leaves the model alone."""
        return self.config.law.name != "none"

    def __str__(self) -> str:
        if not self.steers:
            return "unsteered"
        config = self.config
        parts = [str(config.law)]
        parts += ["learnt gains for each head"] if config.head_gains is not None else []
        parts += [f"gate {config.gate}"] if str(config.gate) != "all" else []
        parts += [f"schedule {config.schedule}"] if str(config.schedule) != "constant" else []
        return ", ".join(parts)


UNSTEERED = SteeringSetup("unsteered", description="greedy, without steering")


def default_setup(reasoner: Reasoner) -> SteeringSetup:
    """What the model's steering.json says, or conserving, alpha 2, on all heads."""
    tuned = reasoner.steering_file is not None
    description = "what the model's steering.json says" if tuned else "conserving, on all heads"
    return SteeringSetup("ours", reasoner.config, description)


def override(setup: SteeringSetup, overrides: Mapping[str, object]) -> SteeringSetup:
    """The setup with fields of its configuration set anew, as `SteeringConfig.override` has them; None leaves a field.

    Raises:
        ValueError: a field by its name, its value and what is accepted.
    """
    config = setup.config.override(**overrides)
    return (
        setup if all(value is None for value in overrides.values()) else replace(setup, config=config, description="")
    )


def scaled(setup: SteeringSetup, scale: float, area: float) -> SteeringSetup:
    """The setup at `scale` times its strength.

    Strength is what the law adds to the region's scores. For additive and conserving that is alpha. For share and
    target it is what takes a typical region to the setpoint: logit(setpoint) − logit(area), with `area` the region's
    mean part of the frame, its share under an even look. A fourfold range is from half to twice that, the same measure
    for all laws: in odds of the setpoint alone a fourfold range would be much the narrower (e^1.4).

    Raises:
        ValueError: a setup that does not steer has no strength.
    """
    if not setup.steers:
        raise ValueError(f"strength: setup {setup.name!r} does not steer; accepted is one that does")
    law = setup.config.law
    alpha, setpoint = max(-MAX_ALPHA, min(MAX_ALPHA, law.alpha * scale)), law.setpoint
    if setpoint is not None:
        base = _logit(area)
        setpoint = 1 / (1 + math.exp(-(base + scale * (_logit(setpoint) - base))))
        setpoint = min(1 - 1e-6, setpoint)
    config = replace(setup.config, law=replace(law, alpha=alpha, setpoint=setpoint))
    return replace(setup, name=f"{setup.name} x{scale:.3g}", config=config)


def discovered_heads(reasoner: Reasoner) -> tuple[tuple[int, int], ...]:
    """The (layer, head) pairs in the model's steering.json, those of its gate where none were discovered; () if it has
    none or leaves all heads in."""
    file = reasoner.steering_file
    gate = None if file is None else file.heads or file.config.gate
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
