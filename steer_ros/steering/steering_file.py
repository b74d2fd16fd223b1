"""steering.json: the steering configuration that was found best for a model, kept in its folder.

``steer-ros tune`` writes the file and ``Reasoner.from_pretrained`` reads it: what it says is the model's default.

::

    {"version": 2, "model": "sha256:…", "law": "conserving", "alpha": 6.0, "setpoint": null, "gate": "all",
     "schedule": "confidence_threshold=0.9", "guard": "on", "head_gains": null, "heads": "pairs=2.0,3.1",
     "provenance": {"heads": "…", "alpha": "…"}}

``model`` is the fingerprint of the folder's weights: a file that was found for other weights is refused, since heads
and gains of one model mean nothing to another. ``head_gains`` multiply the law's alpha head by head: "network"
stands for the one in head_gains.safetensors beside the file (`steer_ros.steering.head_gains`), a table has a row of
query heads for each layer, null is 1 everywhere. ``heads``: the heads that were discovered, whether or not the gate is
theirs; null if none were looked for. ``provenance`` is for people: the commands and what they measured.
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

from .config import FIELDS, RENAMED, SteeringConfig
from .field import MAX_GAIN
from .gate import Gate
from .head_gains import load_head_gains, save_head_gains

FILE = "steering.json"
VERSION = 2
NETWORK = "network"
_PIECE, _PIECES = 1 << 20, 64  # bytes and pieces read of a weights file: a 15 GB model must not cost a minute


class SteeringFileError(ValueError):
    """A steering.json that can't be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class SteeringFile:
    """What a model's steering.json says.

    config: the model's default. provenance: how it was found, by the part that was tuned. heads: a gate of the
    discovered heads, or None.
    """

    config: SteeringConfig = field(default_factory=SteeringConfig)
    provenance: Mapping[str, object] = field(default_factory=dict)
    heads: Gate | None = None

    def check(self, layers: int, heads: int) -> None:
        """ValueError, by the part's name, for a gate, heads or gains that a model of that many does not have."""
        self.config.check(layers, heads)
        if self.heads is not None:
            try:
                self.heads.table(layers, heads)
            except ValueError as error:
                raise ValueError(f"heads: {error}") from error


def fingerprint(folder: str | Path) -> str:
    """What tells a model's weights from others': a hash over its safetensors files (its bridge's too), or GGUF files
    where it has no others; of files of more than 64 MiB over their size and 64 pieces, evenly apart.

    Raises:
        SteeringFileError: the folder holds no weights.
    """
    folder, digest = Path(folder), hashlib.sha256()
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.gguf"))
    if not files:
        raise SteeringFileError(f"{folder}: no model*.safetensors or *.gguf there")
    for file in [*files, *sorted(folder.glob("bridge*.safetensors"))]:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        apart = [i * (size - _PIECE) // (_PIECES - 1) for i in range(_PIECES)]
        with file.open("rb") as data:
            for start in range(0, size, _PIECE) if size <= _PIECE * _PIECES else apart:
                data.seek(start)
                digest.update(data.read(_PIECE))
    return f"sha256:{digest.hexdigest()}"


def load_steering_file(folder: str | Path, weights: str | Path | None = None) -> SteeringFile | None:
    """What the folder's steering.json says; None if it has none.

    Args:
        weights: the model's folder, where that is another one.
    Raises:
        SteeringFileError: it can't be read, holds something that is not accepted, has the form of an earlier release,
            or was found for other weights.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SteeringFileError(f"{file}: not JSON: {error}") from error
    if not isinstance(said, dict):
        raise SteeringFileError(f"{file}: {type(said).__name__}; accepted is a JSON object of version {VERSION}")
    _refuse_old(file, said)
    if not isinstance(said.get("provenance", {}), dict):
        raise SteeringFileError(f"{file}: provenance: {said['provenance']!r}; accepted is an object")
    own = fingerprint(weights or folder)
    if said.get("model") != own:
        raise SteeringFileError(
            f"{file}: found for another model ({said.get('model')!r}); this one is {own!r}: delete it, and tune anew"
        )
    if not isinstance(said.get("law"), str):
        raise SteeringFileError(f"{file}: law: {said.get('law')!r}; accepted is a law by its name")
    unknown = sorted(set(said) - {*FIELDS, "version", "model", "head_gains", "heads", "provenance"})
    if unknown:
        raise SteeringFileError(f"{file}: {unknown[0]}: {said[unknown[0]]!r}; accepted is no such field")
    try:
        gains = said.get("head_gains")
        config = SteeringConfig.parse({name: said.get(name) for name in FIELDS})
        return SteeringFile(
            replace(config, head_gains=load_head_gains(folder) if gains == NETWORK else _gain_table(gains)),
            said.get("provenance", {}),
            _heads(said.get("heads")),
        )
    except (TypeError, ValueError) as error:
        raise SteeringFileError(f"{file}: {error}") from error


def save_steering_file(folder: str | Path, content: SteeringFile, weights: str | Path | None = None) -> Path:
    """Write the folder's steering.json, and the network of its head gains beside it; returns the former's path.

    Args:
        weights: the model's folder, where that is another one.
    Raises:
        SteeringFileError: the model's folder holds no weights.
    """
    file, config, model = Path(folder) / FILE, content.config, fingerprint(weights or folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    gains: object = None
    if config.gain_network is not None:
        save_head_gains(folder, config.gain_network)
        gains = NETWORK
    elif config.gain_table is not None:
        gains = config.gain_table.tolist()
    said = {
        "version": VERSION,
        "model": model,
        **config.texts(),
        "head_gains": gains,
        "heads": None if content.heads is None else str(content.heads),
        "provenance": dict(content.provenance),
    }
    text = json.dumps(said, indent=2)
    text = re.sub(r"\[\s+([-+.\de,\s]+?)\s+\]", lambda row: f"[{' '.join(row[1].split())}]", text)  # a row a line
    partial = file.with_suffix(".json.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(file)  # whole or not at all
    return file


def _refuse_old(file: Path, said: Mapping[str, object]) -> None:
    """SteeringFileError for another version, with the names of today where it is an earlier one."""
    old = [f"{name} is now {RENAMED[name]}" for name in said if name in RENAMED]
    if said.get("version") != VERSION or old:
        hint = f" ({'; '.join(old)}; the schedule's sure, plausible and contrast are now confidence_threshold, " \
            "plausibility and guidance)" if old else ""  # fmt: skip
        raise SteeringFileError(
            f"{file}: version {said.get('version')!r}{hint}; accepted is a JSON object of version {VERSION}: write "
            "it anew by `steer-ros tune`"
        )


def _heads(text: object) -> Gate | None:
    """The discovered heads of a steering.json. ValueError if they are none."""
    try:
        return None if text is None else Gate.parse(text)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"heads: {error}") from error


def _gain_table(rows: object) -> Tensor | None:
    """The table of a steering.json. ValueError if it is none."""
    if rows is None:
        return None
    try:
        table = torch.tensor(rows, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        table = torch.empty(0)
    if table.ndim != 2 or table.numel() == 0 or not bool((table.abs() <= MAX_GAIN).all()):
        raise ValueError(
            f"head_gains: accepted are {NETWORK!r}, a row of numbers within {MAX_GAIN:g} for each layer, or null"
        )
    return table
