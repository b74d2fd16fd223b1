"""The reasoning node's steering parameters as one SteeringConfig."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steer_ros.nodes.parameter_specs import MODEL, shown
from steer_ros.reasoning.reasoner import Reasoner
from steer_ros.steering import SETPOINT_LAWS, SteeringConfig
from steer_ros.steering.config import FIELDS

PREFIX = "steering."
NAMES = tuple(PREFIX + name for name in FIELDS)


def steering_config(get: Callable[[str], Any], reasoner: Reasoner) -> SteeringConfig:
    """What the parameters say; where they say "model", the loaded model's own configuration.

    steering.alpha counts for laws without a setpoint, steering.setpoint for those with one: either may be set before
    the law that needs it.

    Args:
        get: the value of a parameter, by its name.
        reasoner: the loaded model.

    Raises:
        ValueError: names the parameter, its value and what is accepted, also where it does not fit the model.
    """
    own = reasoner.config
    values = {name: get(PREFIX + name) for name in FIELDS}
    given = {name: None if value == MODEL else value for name, value in values.items()}
    law = own.law.name if given["law"] is None else given["law"]
    unused = "alpha" if law in SETPOINT_LAWS else "setpoint"
    given[unused] = None
    if law in SETPOINT_LAWS and law != own.law.name and given["setpoint"] is None:
        raise ValueError(
            f"parameter {PREFIX}setpoint: {shown(MODEL)}, and the model has none for law {law}; accepted is a number: "
            f"set it before or together with {PREFIX}law"
        )
    try:
        config = own.override(**given)
        reasoner.check_config(config)
        return config
    except ValueError as error:
        name = str(error).partition(" ")[0].strip(":")
        about = f"parameter {PREFIX}{name}: {shown(values[name])}; " if name in FIELDS else "steering parameters: "
        raise ValueError(f"{about}{error}") from error
