"""Whether the messages of a bag have the form that this release of steer_ros reads."""

from __future__ import annotations

import importlib

from rosbags.interfaces import Connection, MessageDefinitionFormat, Nodetype
from rosbags.typesys import TypesysError, get_types_from_idl, get_types_from_msg

OWN = "steer_ros/msg/"
_ROSIDL_NAMES = {"bool": "boolean", "byte": "octet", "float32": "float", "float64": "double"}


def form_difference(connection: Connection) -> str:
    """How the form of a recorded message of steer_ros differs from the installed one's, in words; "" if they are the
    same, if the message is another package's, or if the bag has no definition (rosbag2 keeps them since Iron)."""
    definition = connection.msgdef
    if not connection.msgtype.startswith(OWN) or not definition.data:
        return ""
    try:
        if definition.format == MessageDefinitionFormat.IDL:
            types = get_types_from_idl(definition.data)
        else:
            types = get_types_from_msg(definition.data, connection.msgtype)
    except TypesysError as error:
        return f"its definition can't be read ({' '.join(str(error).split())})"
    differences = []
    for name, (_, fields) in types.items():
        if not name.startswith(OWN):
            continue
        recorded = {field: _spelled(kind) for field, kind in fields}
        message_type = getattr(importlib.import_module("steer_ros.msg"), name.removeprefix(OWN), None)
        installed = {} if message_type is None else message_type.get_fields_and_field_types()
        if list(recorded.items()) != list(installed.items()):
            differences.append(f"{name.removeprefix(OWN)}: {_difference(recorded, installed)}")
    return "; ".join(differences)


def _difference(recorded: dict[str, str], installed: dict[str, str]) -> str:
    words = [f"recorded with {field}, which is none of its fields" for field in recorded if field not in installed]
    words += [f"recorded without {field}" for field in installed if field not in recorded]
    both = [field for field in installed if field in recorded]
    words += [f"{f} recorded as {recorded[f]}, not {installed[f]}" for f in both if recorded[f] != installed[f]]
    return ", ".join(words) or "recorded with its fields in another order"


def _spelled(kind: tuple) -> str:
    """A field's type as rosidl spells it: "sequence<int8>", "std_msgs/Header"."""
    node, inner = kind
    if node == Nodetype.BASE:
        name, bound = inner
        return f"{name}<{bound}>" if bound else _ROSIDL_NAMES.get(name, name)
    if node == Nodetype.NAME:
        return inner.replace("/msg/", "/")
    element, length = inner
    if node == Nodetype.ARRAY:
        return f"{_spelled(element)}[{length}]"
    return f"sequence<{_spelled(element)}{f', {length}' if length else ''}>"
