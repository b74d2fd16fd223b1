"""Gates: which layers, heads and phases a law holds for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

PHASES = ("think", "act")
_ACCEPTED = '"all", or parts joined by ";": layers=2-3, heads=0,1, phases=think (numbers and ranges from 0)'


@dataclass(frozen=True)
class Gate:
    """The law holds in these layers, for these query heads, in these phases of the answer.

    layers, heads: indices from 0; None means all. A range may stand for its indices, and so may a pair
    (first, last) inside the list. phases: of "think" (up to `</think>`, the prompt included) and "act" (what
    follows).
    """

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    phases: frozenset[str] = frozenset(PHASES)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _indices("gate layers", self.layers))
        object.__setattr__(self, "heads", _indices("gate heads", self.heads))
        phases = frozenset([self.phases] if isinstance(self.phases, str) else self.phases)
        if not phases or not phases <= set(PHASES):
            raise ValueError(f"gate phases: {sorted(phases)}; accepted are {' and '.join(PHASES)}, at least one")
        object.__setattr__(self, "phases", phases)

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read "all" or, say, "layers=1-2,5;heads=0,1;phases=think". Raises ValueError naming the part."""
        if not isinstance(text, str):
            raise ValueError(f"gate: {text!r}; accepted is {_ACCEPTED}")
        settings: dict[str, object] = {}
        for part in filter(None, (p.strip() for p in text.split(";"))):
            if part == "all":
                continue
            key, equals, value = (s.strip() for s in part.partition("="))
            if not equals or key not in ("layers", "heads", "phases") or key in settings:
                raise ValueError(f"gate: {text!r} at {part!r}; accepted is {_ACCEPTED}")
            if value == "all":
                continue
            items = [item.strip() for item in value.split(",")]
            settings[key] = frozenset(items) if key == "phases" else [_parse_index(text, i) for i in items]
        if not text.strip():
            raise ValueError(f"gate: {text!r}; accepted is {_ACCEPTED}")
        return cls(**settings)  # type: ignore[arg-type]

    def table(self, num_layers: int, num_heads: int) -> torch.Tensor:
        """1.0 where the law holds, 0.0 elsewhere: float32 [num_layers, num_heads] on the CPU.

        Raises ValueError if a layer or head is beyond the model's.
        """
        table = torch.ones(num_layers, num_heads)
        for name, chosen, axis in (("layers", self.layers, 0), ("heads", self.heads, 1)):
            if chosen is None:
                continue
            count = table.shape[axis]
            if chosen[-1] >= count:
                raise ValueError(f"gate {name}: {chosen[-1]}; accepted are 0 to {count - 1}, what this model has")
            off = torch.ones(count, dtype=torch.bool)
            off[list(chosen)] = False
            table.index_fill_(axis, off.nonzero().squeeze(1), 0.0)
        return table

    def __str__(self) -> str:
        parts = [f"{n}={','.join(map(str, c))}" for n, c in (("layers", self.layers), ("heads", self.heads)) if c]
        if self.phases != frozenset(PHASES):
            parts.append(f"phases={','.join(p for p in PHASES if p in self.phases)}")
        return ";".join(parts) or "all"


def _parse_index(text: str, item: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})(?:\s*-\s*(\d{1,6}))?", item)
    if match is None:
        raise ValueError(f"gate: {text!r} at {item!r}; accepted is {_ACCEPTED}")
    first = int(match[1])
    return first, int(match[2]) if match[2] is not None else first


def _indices(name: str, chosen: Iterable[int | range | tuple[int, int]] | range | None) -> tuple[int, ...] | None:
    """Sorted unique indices; ranges and (first, last) pairs are spelt out."""
    if chosen is None:
        return None
    indices: set[int] = set()
    for item in chosen:
        if isinstance(item, tuple) and len(item) == 2:
            item = range(item[0], item[1] + 1)
            if not item:
                raise ValueError(f"{name}: {chosen!r}; accepted are ranges that do not run backwards")
        indices.update(item if isinstance(item, range) else (item,))
    if not indices or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in indices):
        raise ValueError(f"{name}: {chosen!r}; accepted are whole numbers from 0, at least one")
    return tuple(sorted(indices))
