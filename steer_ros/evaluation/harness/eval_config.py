"""The configuration of an evaluation: sizes, seeds, models, the setup under test. Models are loaded once for all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ...perception import Perceiver
from ...reasoning import Reasoner
from .steering_setup import SteeringSetup, default_setup, override

PERCEPTION, REASONING = "builtin:lab-vl", "builtin:lab-r1"


def to_stderr(line: str) -> None:
    """The usual progress: one line."""
    print(line, file=sys.stderr, flush=True)


def silent(line: str) -> None:
    """No progress."""


@dataclass
class EvalConfig:
    """The options of one call of `steer-ros evaluate steering`.

    limit: how many scenes (or questions, where a suite has no scenes); None: the suite's own default size.
    seed: the first scene's seed; None: the suite's own held-out seeds.
    data: a folder of foreign scenes (see cases.py) or of a published set; None: what the suite makes itself.
    perception, reasoning: model names; None: the suite's own default.
    setup: how turns are steered; None: the model's default, with `overrides`.
    overrides: fields of the setup's SteeringConfig.
    kind: of a published set in `data`: vqav2, gqa or pope; None: told from its files.
    progress: called with one line now and then.
    parallel: whether scenes may be shared out to two processes.
    """

    limit: int | None = None
    seed: int | None = None
    data: Path | None = None
    perception: str | None = None
    reasoning: str | None = None
    setup: SteeringSetup | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    kind: str | None = None
    progress: Callable[[str], None] = to_stderr
    device: str = "cpu"
    parallel: bool = True
    _models: dict[tuple[str, str], object] = field(default_factory=dict, repr=False)

    def perceiver(self, default: str = PERCEPTION) -> Perceiver:
        """The vision-language model, loaded at the first call."""
        return self._load(Perceiver, self.perception or default)

    def reasoner(self, default: str = REASONING) -> Reasoner:
        """The reasoner, loaded at the first call."""
        return self._load(Reasoner, self.reasoning or default)

    def setup_for(self, reasoner: Reasoner, untuned: SteeringSetup | None = None) -> SteeringSetup:
        """The setup under test: the one given, or the model's default, with the overrides.

        untuned: the default for a model without a steering.json; None: conserving, alpha 2.
        """
        if untuned is None or reasoner.steering_file is not None:
            untuned = default_setup(reasoner)
        return override(self.setup or untuned, self.overrides)

    def size(self, default: int) -> int:
        """The limit, or the suite's default."""
        return default if self.limit is None else self.limit

    def first_seed(self, default: int) -> int:
        """The seed, or the suite's held-out one."""
        return default if self.seed is None else self.seed

    def portable(self) -> EvalConfig:
        """The same for another process: without loaded models, silent."""
        return replace(self, progress=silent, _models={})

    def _load(self, kind: type, name: str):
        if name.startswith("builtin:") and self.device == "cpu":
            torch.set_num_threads(1)  # the built-in models are so small that a second thread only gets in the way
        key = (kind.__name__, name)
        if key not in self._models:
            self._models[key] = kind.from_pretrained(name, self.device)
        return self._models[key]
