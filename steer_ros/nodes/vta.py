"""`vta`: perception and reasoning in one process, tokens handed over without a copy."""

from __future__ import annotations

from collections.abc import Sequence

from steer_ros.nodes.base import SteerNode
from steer_ros.nodes.perception import PerceptionNode
from steer_ros.nodes.process import run
from steer_ros.nodes.reasoning import ReasoningNode
from steer_ros.pipeline.handover import Handover


def make_nodes() -> list[SteerNode]:
    """Both nodes, joined by a handover. The parameters of each are set by its name: -p reasoning:steering.alpha:=3."""
    handover = Handover()
    perception = PerceptionNode(handover)
    try:
        return [perception, ReasoningNode(handover)]
    except BaseException:
        perception.end()
        raise


def main(args: Sequence[str] | None = None) -> int:
    """Run both nodes under one executor."""
    return run(make_nodes, args, __doc__)
