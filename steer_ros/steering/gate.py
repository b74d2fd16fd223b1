"""Gates: which layers, heads and phases a law holds for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

PHASES = ("think", "act")
_ACCEPTED = (
    '"all", or parts joined by ";": layers=2-3, heads=0,1, pairs=2.0,3.5 (layer.head), phases=think '
    "(numbers and ranges from 0)"
)


@dataclass(frozen=True)
class Gate:
    """The law holds in these layers, for these query heads, in these phases of the answer.

    layers, heads: indices from 0; None means all. A range may stand for its indices, and so may a pair
    (first, last) inside the list. pairs: single heads, (layer, head), beside which layers and heads hold too; None
    means all. phases: of "think" (up to `</think>`, the prompt included) and "act" (what follows).
    """

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    phases: frozenset[str] = frozenset(PHASES)
    pairs: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _indices("gate layers", self.layers))
        object.__setattr__(self, "heads", _indices("gate heads", self.heads))
        object.__setattr__(self, "pairs", _pairs(self.pairs))
        try:
            phases = frozenset([self.phases] if isinstance(self.phases, str) else self.phases)
        except TypeError:
            phases = frozenset()
        if not phases or not phases <= set(PHASES):
            raise ValueError(f"gate phases: {self.phases!r}; accepted are {' and '.join(PHASES)}, at least one")
        object.__setattr__(self, "phases", phases)

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read "all" or, say, "layers=1-2,5;heads=0,1;phases=think" or "pairs=2.0,3.5". Raises ValueError naming the
        part."""
        if not isinstance(text, str):
            raise ValueError(f"gate: {text!r}; accepted is {_ACCEPTED}")
        settings: dict[str, object] = {}
        for part in filter(None, (p.strip() for p in text.split(";"))):
            if part == "all":
                continue
            key, equals, value = (s.strip() for s in part.partition("="))
            if not equals or key not in ("layers", "heads", "pairs", "phases") or key in settings:
                raise ValueError(f"gate: {text!r} at {part!r}; accepted is {_ACCEPTED}")
            if value == "all":
                continue
            items = [item.strip() for item in value.split(",")]
            read = _parse_pair if key == "pairs" else _parse_index
            settings[key] = frozenset(items) if key == "phases" else [read(text, item) for item in items]
        if not text.strip():
            raise ValueError(f"gate: {text!r}; accepted is {_ACCEPTED}")
        return cls(**settings)  # type: ignore[arg-type]

    def table(self, num_layers: int, num_heads: int) -> torch.Tensor:
        """1.0 where the law holds, 0.0 elsewhere: float32 [num_layers, num_heads] on the CPU.

        Raises ValueError if a layer or head is beyond the model's.
        """
        table = torch.ones(num_layers, num_heads, dtype=torch.float32)
        for name, chosen, axis in (("layers", self.layers, 0), ("heads", self.heads, 1)):
            if chosen is None:
                continue
            count = table.shape[axis]
            if chosen[-1] >= count:
                raise ValueError(f"gate {name}: {chosen[-1]}; accepted are 0 to {count - 1}, what this model has")
            off = torch.ones(count, dtype=torch.bool)
            off[list(chosen)] = False
            table.index_fill_(axis, off.nonzero().squeeze(1), 0.0)
        if self.pairs is not None:
            chosen = torch.zeros_like(table)
            for layer, head in self.pairs:
                if layer >= num_layers or head >= num_heads:
                    raise ValueError(
                        f"gate pairs: {layer}.{head}; accepted are 0.0 to {num_layers - 1}.{num_heads - 1}, what this "
                        "model has"
                    )
                chosen[layer, head] = 1.0
            table *= chosen
        return table

    def __str__(self) -> str:
        parts = [f"{n}={','.join(map(str, c))}" for n, c in (("layers", self.layers), ("heads", self.heads)) if c]
        if self.pairs:
            parts.append(f"pairs={','.join(f'{layer}.{head}' for layer, head in self.pairs)}")
        if self.phases != frozenset(PHASES):
            parts.append(f"phases={','.join(p for p in PHASES if p in self.phases)}")
        return ";".join(parts) or "all"


def _parse_index(text: str, item: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})(?:\s*-\s*(\d{1,6}))?", item)
    if match is None:
        raise ValueError(f"gate: {text!r} at {item!r}; accepted is {_ACCEPTED}")
    first = int(match[1])
    return first, int(match[2]) if match[2] is not None else first


def _parse_pair(text: str, item: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})\.(\d{1,6})", item)
    if match is None:
        raise ValueError(f"gate: {text!r} at {item!r}; accepted is {_ACCEPTED}")
    return int(match[1]), int(match[2])


def _pairs(chosen: Iterable[tuple[int, int]] | None) -> tuple[tuple[int, int], ...] | None:
    """Sorted unique (layer, head) pairs."""
    if chosen is None:
        return None
    try:
        pairs = {tuple(pair) for pair in chosen}
    except TypeError:  # no list, or of no pairs
        pairs = set()
    if not pairs or any(
        len(pair) != 2 or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in pair) for pair in pairs
    ):
        raise ValueError(f"gate pairs: {chosen!r}; accepted are (layer, head) pairs, at least one")
    return tuple(sorted(pairs))  # type: ignore[arg-type]


def _indices(name: str, chosen: Iterable[int | range | tuple[int, int]] | range | None) -> tuple[int, ...] | None:
    """Sorted unique indices; ranges and (first, last) pairs are spelt out."""
    if chosen is None:
        return None
    indices: set[int] = set()
    try:
        for item in chosen:
            if isinstance(item, tuple) and len(item) == 2:
                item = range(item[0], item[1] + 1)
                if not item:
                    raise ValueError(f"{name}: {chosen!r}; accepted are ranges that do not run backwards")
            indices.update(item if isinstance(item, range) else (item,))
    except TypeError:  # no list, or not of numbers
        indices = set()
    if not indices or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in indices):
        raise ValueError(f"{name}: {chosen!r}; accepted are whole numbers from 0, at least one")
    return tuple(sorted(indices))
