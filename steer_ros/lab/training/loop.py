"""What every training stage shares: precision, the schedule of its learning rate, updates, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn


def mixed_precision() -> torch.autocast:
    """bfloat16 where the processor computes in it; elsewhere it is emulated, several times slower than float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Means(dict[str, float]):
    """Running means of named losses, which print as they are logged."""

    def add(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Take one step's losses in."""
        for name, loss in losses.items():
            value = loss.item()
            self[name] = 0.95 * self.get(name, value) + 0.05 * value

    def __str__(self) -> str:
        return str({name: round(mean, 4) for name, mean in self.items()})


class TrainingRun:
    """AdamW under a cosine that follows whichever of steps and wall clock is further on.

    ``while run.goes_on(): ...; run.learn(loss)``. With a checkpoint it goes on from what was saved there.

    Args:
        parameters: what is trained.
        lr: the highest learning rate, reached after ``warm`` steps.
        steps, minutes: the budget, a resumed run's earlier part included.
        decay: weight decay.
        checkpoint: file that the state is saved to every ``every`` steps and resumed from.
        modules: by name, those whose state is saved.

    Attributes:
        step: updates so far.
        elapsed: seconds so far, when the present step began.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        steps: int,
        minutes: float,
        warm: int = 150,
        decay: float = 0.02,
        checkpoint: Path | None = None,
        every: int = 200,
        **modules: nn.Module,
    ) -> None:
        self._parameters, self._modules = list(parameters), modules
        self._lr, self._warm, self._steps, self._seconds = lr, warm, steps, 60 * minutes
        self._checkpoint, self._every = checkpoint, every
        self._optimiser = torch.optim.AdamW(self._parameters, lr=lr, weight_decay=decay, betas=(0.9, 0.98))
        self.step, self.elapsed = 0, 0.0
        if checkpoint and checkpoint.exists():
            saved = torch.load(checkpoint, weights_only=True)
            for name, module in modules.items():
                module.load_state_dict(saved[name])
            self._optimiser.load_state_dict(saved["optimiser"])
            self.step, self.elapsed = saved["step"], saved["spent"]
        self._began = time.monotonic() - self.elapsed

    def goes_on(self) -> bool:
        """False when the budget is spent; else the next step's learning rate is set."""
        self.elapsed = time.monotonic() - self._began
        progress = max(self.step / self._steps, self.elapsed / self._seconds)
        if progress >= 1:
            return False
        warm = min(1.0, (self.step + 1) / self._warm)
        for group in self._optimiser.param_groups:
            group["lr"] = self._lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        return True

    def learn(self, loss: torch.Tensor) -> None:
        """One update against the loss, a scalar; saved when its turn has come."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        self.step += 1
        if self._checkpoint and self.step % self._every == 0:
            states = {name: module.state_dict() for name, module in self._modules.items()}
            states["optimiser"] = self._optimiser.state_dict()
            torch.save({**states, "step": self.step, "spent": self.elapsed}, self._checkpoint)
