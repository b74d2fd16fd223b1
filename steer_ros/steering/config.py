"""SteeringConfig: how a turn is steered, as one object that files, ROS parameters, the command line and code share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .gate import Gate
from .guard import Guard
from .head_gains import HeadGainNet
from .laws import MAX_ALPHA, Law, make_law
from .schedule import Schedule

FIELDS = ("law", "alpha", "setpoint", "gate", "schedule", "guard")  # those with a text form, in this order
RENAMED = {
    "mark": "setpoint",
    "share": "setpoint",
    "target": "setpoint",
    "adaptive": "head_gains",
    "gains": "head_gains",
    "strength": "head_gains",
    "found": "provenance",
}


@dataclass(frozen=True, eq=False)
class SteeringConfig:
    """How a turn is steered. Immutable; `override` and `dataclasses.replace` make another one.

    Attributes:
        law: how weights change attention, with its alpha or its setpoint (see `Law`).
        gate: the layers, heads and phases that the law holds for.
        schedule: what scales the law over an answer, and how a token is chosen by the steered and the plain logits.
        head_gains: what multiplies alpha for each head: a network (``steer-ros tune strength``), a table float32
            [layers, query heads] (``steer-ros tune text``), or None for 1 everywhere. For laws with an alpha only.
        guard: when an over-steered answer is rolled back, and how far; None for never.

    Raises:
        ValueError: head gains beside a law that has a setpoint.
        TypeError: a part of another type.
    """

    law: Law = field(default_factory=lambda: make_law("conserving"))
    gate: Gate = field(default_factory=Gate)
    schedule: Schedule = field(default_factory=Schedule)
    head_gains: HeadGainNet | Tensor | None = None
    guard: Guard | None = field(default_factory=Guard)

    def __post_init__(self) -> None:
        for name, accepted in (
            ("law", Law),
            ("gate", Gate),
            ("schedule", Schedule),
            ("head_gains", (HeadGainNet, Tensor, type(None))),
            ("guard", (Guard, type(None))),
        ):
            value = getattr(self, name)
            if not isinstance(value, accepted):
                names = [kind.__name__ for kind in (accepted if isinstance(accepted, tuple) else (accepted,))]
                raise TypeError(
                    f"{name}: {type(value).__name__}; accepted is {' or '.join(names).replace('NoneType', 'None')}; "
                    "SteeringConfig.parse and override take texts"
                )
        if self.head_gains is not None and self.law.has_setpoint:
            raise ValueError(f"head_gains: given with law {self.law.name!r}; accepted are laws that have an alpha")

    @classmethod
    def parse(cls, fields: Mapping[str, object]) -> SteeringConfig:
        """The default configuration (conserving, alpha 2) with these fields; see `override`."""
        return cls().override(**fields)

    def override(self, **fields: object) -> SteeringConfig:
        """This configuration with other fields, which may be texts, as files and the command line have them.

        Args:
            law: its name, or a `Law`. A name that is not this configuration's begins with the law's usual alpha (2; 0
                for share and target) and without a setpoint.
            alpha, setpoint: numbers of the law, this configuration's or the one that is given.
            gate, schedule, guard: objects, or their texts ("layers=2-3", "think=1;act=0", "off").
            head_gains: a network or a table.

        None leaves a field as it is. The head gains were learnt for this law and its alpha: they are dropped where the
        law becomes another, and where alpha or setpoint is given, which then stands as it is, the same for all heads.

        Raises:
            ValueError: names the field, its value and what is accepted; a field of an earlier release, and its name
                of today.
        """
        for name in fields:
            if name in RENAMED:
                raise ValueError(f"{name}: is now {RENAMED[name]}")
            if name not in (*FIELDS, "head_gains"):
                accepted = ", ".join((*FIELDS, "head_gains"))
                raise ValueError(f"{name}: no field of a steering configuration; accepted are {accepted}")
        given = {name: value for name, value in fields.items() if value is not None}
        changes: dict[str, object] = {}
        if {"law", "alpha", "setpoint"} & set(given):
            law = self._law(**{name: given[name] for name in ("law", "alpha", "setpoint") if name in given})
            if law != self.law or {"alpha", "setpoint"} & set(given):
                changes = {"law": law, "head_gains": None}
        for name, kind in (("gate", Gate), ("schedule", Schedule), ("guard", Guard)):
            if name in given:
                value = given[name]
                changes[name] = value if isinstance(value, kind) else kind.parse(value)  # type: ignore[arg-type]
        if "head_gains" in given:
            changes["head_gains"] = given["head_gains"]
        return replace(self, **changes)  # type: ignore[arg-type]

    def _law(self, law: object = None, alpha: object = None, setpoint: object = None) -> Law:
        if isinstance(law, Law):
            if alpha is not None or setpoint is not None:
                raise ValueError(f"law: {law}, and alpha or setpoint beside it; accepted is one of the two")
            return law
        numbers = {name: value for name, value in (("alpha", alpha), ("setpoint", setpoint)) if value is not None}
        if law is None or law == self.law.name:
            return replace(self.law, **numbers)
        return make_law(law, **numbers)  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SteeringConfig):
            return NotImplemented
        mine, theirs = self.head_gains, other.head_gains
        tables = isinstance(mine, Tensor) and isinstance(theirs, Tensor)
        same_gains = mine is theirs or (tables and torch.equal(mine, theirs))
        return same_gains and self._without_gains == other._without_gains

    def __hash__(self) -> int:
        return hash(self._without_gains)

    @property
    def _without_gains(self) -> tuple[Law, Gate, Schedule, Guard | None]:
        return self.law, self.gate, self.schedule, self.guard

    def check(self, layers: int, heads: int) -> None:
        """ValueError, by the part's name, for a gate or gains that a model of that many does not have."""
        self.gate.table(layers, heads)
        if isinstance(self.head_gains, Tensor) and tuple(self.head_gains.shape) != (layers, heads):
            given = list(self.head_gains.shape)
            raise ValueError(f"head_gains: shape {given}; accepted is [layers, heads] = {[layers, heads]}")
        if isinstance(self.head_gains, Tensor):
            largest = float(self.head_gains.abs().max())
            if not abs(self.law.alpha) * largest <= MAX_ALPHA:
                raise ValueError(
                    f"head_gains: alpha {self.law.alpha:g} times a gain of {largest:g}; accepted is a product within "
                    f"{MAX_ALPHA:g}"
                )

    @property
    def steers(self) -> bool:
        """False for a configuration that leaves every row as it was, whatever the weights."""
        return self.law.steers

    @property
    def gain_table(self) -> Tensor | None:
        """The head gains where they are a table: what a `SteeringField` takes."""
        return self.head_gains if isinstance(self.head_gains, Tensor) else None

    @property
    def gain_network(self) -> HeadGainNet | None:
        """The head gains where they are a network: what `Attachment.steer` takes."""
        return self.head_gains if isinstance(self.head_gains, HeadGainNet) else None

    def texts(self) -> dict[str, object]:
        """The fields that have a text form, as files and ROS parameters have them: what `override` reads back."""
        return {
            "law": self.law.name,
            "alpha": self.law.alpha,
            "setpoint": self.law.setpoint,
            "gate": str(self.gate),
            "schedule": str(self.schedule),
            "guard": "off" if self.guard is None else str(self.guard),
        }

    def __str__(self) -> str:
        """One line: "conserving, alpha 8, gate all, schedule prompt=0;plausibility=0.02, guard on"."""
        texts = self.texts()
        parts = [str(self.law)]
        if self.head_gains is not None:
            parts.append(f"head gains by a {'network' if self.gain_network is not None else 'table'}")
        return ", ".join([*parts, *(f"{name} {texts[name]}" for name in ("gate", "schedule", "guard"))])


UNSTEERED = SteeringConfig(make_law("none"), guard=None)


def as_config(config: SteeringConfig | Mapping[str, object] | None, default: SteeringConfig) -> SteeringConfig:
    """A configuration as it is; for a mapping `default` with its fields; for None `default`. ValueError for others."""
    if config is None:
        return default
    if isinstance(config, SteeringConfig):
        return config
    if isinstance(config, Mapping):
        return default.override(**config)
    raise ValueError(
        f"config: {type(config).__name__}; accepted are a SteeringConfig, a mapping of its fields, and None"
    )
