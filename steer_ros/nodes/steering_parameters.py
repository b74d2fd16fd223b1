"""The SteeringConfig in force: from the reasoning node's steering parameters and the loaded model's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from steer_ros.nodes.parameter_specs import MODEL, shown
from steer_ros.nodes.parameters import Parameters
from steer_ros.reasoning.reasoner import Reasoner
from steer_ros.steering import SETPOINT_LAWS, SteeringConfig
from steer_ros.steering.config import FIELDS

PREFIX = "steering."
NAMES = tuple(PREFIX + name for name in FIELDS)


class ActiveSteering:
    """The configuration in force, from the loading of a model to `close`. Logged when it changes.

    Made from a node's parameters and the loaded model; raises ValueError, in one line, if they don't go together. From
    then on the parameters refuse a change that does not.
    """

    def __init__(self, parameters: Parameters, reasoner: Reasoner, log: Callable[[str], None]) -> None:
        self._parameters, self._reasoner, self._log = parameters, reasoner, log
        self.config = self._with({})
        parameters.cross_check = self._with
        self._log_config()

    def update(self) -> None:
        """Steering parameters have changed."""
        before, self.config = self.config, self._with({})
        if before != self.config:  # of several parameters that are set at once, the first has logged it
            self._log_config()

    def close(self) -> None:
        """The model goes."""
        self._parameters.cross_check = None

    def facts(self) -> dict[str, str]:
        """What diagnostics report of it."""
        return {"steering": str(self.config), "steering_from": self._source()}

    def _with(self, changes: Mapping[str, Any]) -> SteeringConfig:
        """The configuration if these parameters, by name, were changed."""
        return steering_config(
            lambda name: changes[name] if name in changes else self._parameters[name], self._reasoner
        )

    def _log_config(self) -> None:
        self._log(f"steering: {self.config} ({self._source()})")

    def _source(self) -> str:
        """Where the configuration comes from."""
        unused = PREFIX + ("alpha" if self.config.law.has_setpoint else "setpoint")
        given = [name for name in NAMES if name != unused and self._parameters[name] != MODEL]
        own = "the default" if self._reasoner.steering_file is None else "the model's steering.json"
        return own if not given else f"{', '.join(given)}; the rest from {own}"


def steering_config(get: Callable[[str], Any], reasoner: Reasoner) -> SteeringConfig:
    """What the parameters say; where they say "model", the loaded model's own configuration.

    steering.alpha counts for laws without a setpoint, steering.setpoint for those with one; what the law in force does
    not use is kept and ignored.

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
    given["alpha" if law in SETPOINT_LAWS else "setpoint"] = None
    if law in SETPOINT_LAWS and law != own.law.name and given["setpoint"] is None:
        raise ValueError(
            f"parameter {PREFIX}setpoint: {shown(MODEL)}, and the model has none for law {law}; accepted is a number: "
            f"set it before {PREFIX}law, or together with it"
        )
    try:
        config = own.override(**given)
        reasoner.check_config(config)
    except ValueError as error:
        name = str(error).partition(" ")[0].strip(":")
        about = f"parameter {PREFIX}{name}: {shown(values[name])}; " if name in FIELDS else "steering parameters: "
        raise ValueError(f"{about}{error}") from error
    return config
