"""A node's parameters by a table of settings: declared, coerced, judged, and told about when they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from steer_ros.nodes.parameter_specs import Setting, one_line, shown


class Parameters:
    """A node's parameters by a table. `on_change(name, value)` is called after a change; on the executor's thread.

    Declaring them raises ValueError, in one line, for a value given at start that is not accepted.
    """

    def __init__(
        self, node: Node, table: Sequence[Setting], on_change: Callable[[str, Any], None] | None = None
    ) -> None:
        self._node = node
        self._table = {setting.name: setting for setting in table}
        self._on_change = on_change
        self.checks: dict[str, Callable[[Any], Any]] = {}  # by name: what only a loaded model can judge
        self.locked = False
        for setting in table:
            self._declare(setting)
        node.add_pre_set_parameters_callback(self._coerce)
        node.add_on_set_parameters_callback(self._judge)
        node.add_post_set_parameters_callback(self._tell)

    def __getitem__(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a parameter from within, as if by `ros2 param set`. Raises ValueError if it is refused."""
        result = self._node.set_parameters_atomically([Parameter(name, value=value)])
        if not result.successful:
            raise ValueError(result.reason)

    def _declare(self, setting: Setting) -> None:
        # Twice, since a value from outside is seen only by declaring: loosely for the value, then for good.
        loose = ParameterDescriptor(dynamic_typing=True)
        value = self._node.declare_parameter(setting.name, setting.default, loose).value
        self._node.undeclare_parameter(setting.name)
        value = setting.validated(value)
        self._node.declare_parameter(setting.name, value, _descriptor(setting), ignore_override=True)

    def _coerce(self, parameters: list[Parameter]) -> list[Parameter]:
        coerced = []
        for parameter in parameters:
            setting = self._table.get(parameter.name)
            value = parameter.value if setting is None else setting.coerced(parameter.value)
            same = value is parameter.value
            coerced.append(parameter if same else Parameter(parameter.name, value=value))
        return coerced

    def _judge(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            setting = self._table.get(parameter.name)
            if setting is None:
                continue
            try:
                value = setting.validated(parameter.value)
                if self.locked and not setting.runtime and value != self[setting.name]:
                    raise ValueError(
                        f"parameter {setting.name}: {shown(value)}; fixed while the node is configured, "
                        "clean it up first"
                    )
                if setting.name in self.checks:
                    self.checks[setting.name](value)
            except ValueError as error:
                return SetParametersResult(successful=False, reason=one_line(error))
        return SetParametersResult(successful=True)

    def _tell(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name in self._table and self._on_change is not None:
                self._on_change(parameter.name, parameter.value)


def _descriptor(setting: Setting) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=setting.description,
        additional_constraints=setting.accepted + ("" if setting.runtime else "; fixed once the node is configured"),
        dynamic_typing=True,  # an integer must get as far as `coerced`
    )
    if isinstance(setting.default, bool) or setting.low is None:
        return descriptor
    if isinstance(setting.default, int):
        descriptor.integer_range = [IntegerRange(from_value=int(setting.low), to_value=int(setting.high))]
    else:
        descriptor.floating_point_range = [FloatingPointRange(from_value=setting.low, to_value=setting.high)]
    return descriptor
