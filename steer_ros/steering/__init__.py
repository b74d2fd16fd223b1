"""How strongly: SteeringConfig with its laws, gates and schedules, the field, and the attachment to a model."""

from typing import TYPE_CHECKING

from .config import UNSTEERED, SteeringConfig
from .errors import SteeringNotAppliedError, UnsteerableModelError
from .field import FieldSnapshot, Span, SteeringField
from .gate import PHASES, Gate
from .guard import Guard
from .laws import LAW_NAMES, SETPOINT_LAWS, Law, make_law
from .report import FocusRows, SteeringReport
from .schedule import Schedule

if TYPE_CHECKING:
    from .attachment import Attachment, attach

__all__ = [
    "LAW_NAMES",
    "PHASES",
    "SETPOINT_LAWS",
    "UNSTEERED",
    "Attachment",
    "FieldSnapshot",
    "FocusRows",
    "Gate",
    "Guard",
    "Law",
    "Schedule",
    "Span",
    "SteeringConfig",
    "SteeringField",
    "SteeringNotAppliedError",
    "SteeringReport",
    "UnsteerableModelError",
    "attach",
    "make_law",
]


def __getattr__(name: str) -> object:
    """Import what needs Transformers (seconds) only when it is asked for."""
    if name in ("Attachment", "attach"):
        from .attachment import Attachment, attach

        globals().update(Attachment=Attachment, attach=attach)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
