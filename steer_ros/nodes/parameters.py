"""A node's parameters by a table of specs: declared, coerced, validated, and reported when they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from steer_ros.nodes.errors import describe_error
from steer_ros.nodes.parameter_specs import RENAMED, ParameterSpec, shown


class Parameters:
    """A node's parameters by a table. `on_change(name, value)` is called after a change; on the executor's thread.

    Declaring them raises ValueError, in one line, for a value given at start that is not accepted, and for a parameter
    of an earlier release. cross_check: called before a change with the values that are to be set, by name; raises
    ValueError if they don't go together with the others, or with a loaded model.
    """

    def __init__(
        self, node: Node, table: Sequence[ParameterSpec], on_change: Callable[[str, Any], None] | None = None
    ) -> None:
        self._node = node
        self._table = {spec.name: spec for spec in table}
        self._on_change = on_change
        self.cross_check: Callable[[Mapping[str, Any]], None] | None = None
        self.locked = False
        for name in getattr(node, "_parameter_overrides", {}):
            if name in RENAMED:
                raise ValueError(f"parameter {name}: is now {RENAMED[name]}")
        for spec in table:
            self._declare(spec)
        node.add_pre_set_parameters_callback(self._coerce)
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._notify)

    def __getitem__(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a parameter from within, as if by `ros2 param set`. Raises ValueError if it is refused."""
        result = self._node.set_parameters_atomically([Parameter(name, value=value)])
        if not result.successful:
            raise ValueError(result.reason)

    def _declare(self, spec: ParameterSpec) -> None:
        # Twice, since a value from outside is seen only by declaring: loosely for the value, then for good.
        loose = ParameterDescriptor(dynamic_typing=True)
        value = self._node.declare_parameter(spec.name, spec.default, loose).value
        self._node.undeclare_parameter(spec.name)
        value = spec.validated(value)
        self._node.declare_parameter(spec.name, value, _descriptor(spec), ignore_override=True)

    def _coerce(self, parameters: list[Parameter]) -> list[Parameter]:
        coerced = []
        for parameter in parameters:
            if parameter.name in RENAMED:  # rclpy refuses it, without a word about the new name
                self._node.get_logger().warning(f"parameter {parameter.name}: is now {RENAMED[parameter.name]}")
            spec = self._table.get(parameter.name)
            value = parameter.value if spec is None else spec.coerced(parameter.value)
            same = value is parameter.value
            coerced.append(parameter if same else Parameter(parameter.name, value=value))
        return coerced

    def _validate(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            spec = self._table.get(parameter.name)
            if spec is None:
                continue
            try:
                value = spec.validated(parameter.value)
                if self.locked and not spec.runtime and value != self[spec.name]:
                    raise ValueError(
                        f"parameter {spec.name}: {shown(value)}; fixed while the node is configured, clean it up first"
                    )
            except ValueError as error:
                return SetParametersResult(successful=False, reason=describe_error(error))
        try:
            if self.cross_check is not None:
                self.cross_check({p.name: p.value for p in parameters if p.name in self._table})
        except ValueError as error:
            return SetParametersResult(successful=False, reason=describe_error(error))
        return SetParametersResult(successful=True)

    def _notify(self, parameters: list[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name in self._table and self._on_change is not None:
                self._on_change(parameter.name, parameter.value)


def _descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=spec.description,
        additional_constraints=spec.accepted + ("" if spec.runtime else "; fixed once the node is configured"),
        dynamic_typing=True,  # an integer must get as far as `coerced`
    )
    if isinstance(spec.default, bool) or spec.low is None:
        return descriptor
    if isinstance(spec.default, int):
        descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high))]
    else:
        descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high)]
    return descriptor
