"""steering.json: the law, strength, gate and schedule that were found best for a model, kept in its folder.

``steer-ros tune`` writes the file and ``Reasoner.from_pretrained`` reads it: what it says is the model's default.

::

    {"version": 1, "model": "sha256:…", "law": "conserving", "alpha": 6.0, "mark": null,
     "gate": "all", "schedule": "sure=0.9", "adaptive": false, "gains": null, "heads": "pairs=2.0,3.1",
     "found": {"heads": "…", "alpha": "…"}}

``model`` is the fingerprint of the folder's weights: a file that was found for other weights is refused, since heads
and strengths of one model mean nothing to another. ``adaptive``: the law's alpha is multiplied, head by head, by what
the network in strength.safetensors beside it says (`steer_ros.steering.head_gains`). ``gains``: or by what this table
says, a row of query heads for each layer; null if there is none. ``heads``: those that were discovered, whether or not
the gate is theirs; null if none were looked for. ``found`` is for people: the commands and what they measured.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .field import MAX_GAIN
from .gate import Gate
from .head_gains import StrengthNet, load_strength, save_strength
from .laws import Law, make_law
from .schedule import Schedule

FILE = "steering.json"
VERSION = 1
_PIECE, _PIECES = 1 << 20, 64  # bytes and pieces read of a weights file: a 15 GB model must not cost a minute


class TunedError(ValueError):
    """A steering.json that can't be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Tuned:
    """What a model's steering.json says. ``strength``: what each head's alpha is multiplied by, a network or a table,
    float32 [layers, query heads]; None: 1. ``found``: how it was found, by the part that was tuned. ``heads``: a gate
    of the discovered heads, or None."""

    law: Law
    gate: Gate = field(default_factory=Gate)
    schedule: Schedule = field(default_factory=Schedule)
    strength: StrengthNet | Tensor | None = None
    found: Mapping[str, object] = field(default_factory=dict)
    heads: Gate | None = None

    def check(self, layers: int, heads: int) -> None:
        """ValueError, by the part's name, for a gate, heads or gains that a model of that many does not have."""
        for name, gate in (("gate", self.gate), ("heads", self.heads)):
            if gate is not None:
                try:
                    gate.table(layers, heads)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
        if isinstance(self.strength, Tensor) and tuple(self.strength.shape) != (layers, heads):
            given = list(self.strength.shape)
            raise ValueError(f"gains: shape {given}; accepted is [layers, heads] = {[layers, heads]}")
        if self.strength is not None and self.law.marked:
            raise ValueError(f"strengths of heads beside law {self.law.name!r}; accepted with laws that have an alpha")

    def law_as(
        self, law: str | Law | None, alpha: float | None = None, mark: float | None = None
    ) -> tuple[Law, StrengthNet | Tensor | None]:
        """The law that is meant, and the strength that goes with it: the model's own where nothing is said. Alpha or
        mark without a law: the model's own law, with that.

        Raises:
            ValueError: naming the argument, its value and what is accepted.
        """
        if law is None and alpha is None and mark is None:
            return self.law, self.strength
        if isinstance(law, Law):
            return law, None
        given = {name: value for name, value in (("alpha", alpha), ("mark", mark)) if value is not None}
        if law is None:
            return replace(self.law, **given), None
        return make_law(law, **given), None


def fingerprint(folder: str | Path) -> str:
    """What tells a model's weights from others': a hash over its safetensors files (its bridge's too), or GGUF files
    where it has no others; of files of more than 64 MiB over their size and 64 pieces, evenly apart.

    Raises:
        TunedError: the folder holds no weights.
    """
    folder, digest = Path(folder), hashlib.sha256()
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.gguf"))
    if not files:
        raise TunedError(f"{folder}: no model*.safetensors or *.gguf there")
    for file in [*files, *sorted(folder.glob("bridge*.safetensors"))]:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        apart = [i * (size - _PIECE) // (_PIECES - 1) for i in range(_PIECES)]
        with file.open("rb") as data:
            for start in range(0, size, _PIECE) if size <= _PIECE * _PIECES else apart:
                data.seek(start)
                digest.update(data.read(_PIECE))
    return f"sha256:{digest.hexdigest()}"


def load_tuned(folder: str | Path, weights: str | Path | None = None) -> Tuned | None:
    """What the folder's steering.json says; None if it has none.

    Args:
        weights: the model's folder, where that is another one.
    Raises:
        TunedError: it can't be read, holds something that is not accepted, or was found for other weights.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TunedError(f"{file}: not JSON: {error}") from error
    if not isinstance(said, dict) or said.get("version") != VERSION:
        raise TunedError(f"{file}: accepted is a JSON object of version {VERSION}")
    if not isinstance(said.get("found", {}), dict):
        raise TunedError(f"{file}: found: {said['found']!r}; accepted is an object")
    own = fingerprint(weights or folder)
    if said.get("model") != own:
        raise TunedError(
            f"{file}: found for another model ({said.get('model')!r}); this one is {own!r}: delete it, and tune anew"
        )
    try:
        return Tuned(
            Law(said["law"], said.get("alpha", 0.0), said.get("mark")),
            Gate.parse(said.get("gate", "all")),
            Schedule.parse(said.get("schedule", "constant")),
            load_strength(folder) if said.get("adaptive") else _gains(said.get("gains")),
            said.get("found", {}),
            Gate.parse(said["heads"]) if said.get("heads") else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TunedError(f"{file}: {error}") from error


def _gains(rows: object) -> Tensor | None:
    """The table of a steering.json. ValueError if it is none."""
    if rows is None:
        return None
    try:
        table = torch.tensor(rows, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        table = torch.empty(0)
    if table.ndim != 2 or table.numel() == 0 or not bool((table.abs() <= MAX_GAIN).all()):
        raise ValueError(f"gains: accepted is a row of numbers within {MAX_GAIN:g} for each layer, or null")
    return table


def save_tuned(folder: str | Path, tuned: Tuned, weights: str | Path | None = None) -> Path:
    """Write the folder's steering.json, and the network of its strengths beside it; returns the former's path.

    Args:
        weights: the model's folder, where that is another one.
    Raises:
        TunedError: the model's folder holds no weights.
    """
    file = Path(folder) / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(tuned.strength, StrengthNet):
        save_strength(folder, tuned.strength)
    said = {
        "version": VERSION,
        "model": fingerprint(weights or folder),
        "law": tuned.law.name,
        "alpha": tuned.law.alpha,
        "mark": tuned.law.mark,
        "gate": str(tuned.gate),
        "schedule": str(tuned.schedule),
        "adaptive": isinstance(tuned.strength, StrengthNet),
        "gains": tuned.strength.tolist() if isinstance(tuned.strength, Tensor) else None,
        "heads": None if tuned.heads is None else str(tuned.heads),
        "found": dict(tuned.found),
    }
    text = json.dumps(said, indent=2)
    text = re.sub(r"\[\s+([-+.\de,\s]+?)\s+\]", lambda row: f"[{' '.join(row[1].split())}]", text)  # a row a line
    file.write_text(text + "\n", encoding="utf-8")
    return file
