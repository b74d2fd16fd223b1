"""Attachment of steering to a Transformers causal language model, through its attention interface."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import PreTrainedModel

from .compatibility import attention_layers, min_window, text_decoder, window_of
from .errors import SteeringNotAppliedError, UnsteerableModelError
from .field import SteeringField
from .gate import PHASES, Gate
from .head_gains import HeadGainNet
from .laws import Law
from .report import SteeringReport
from .session import NO_ROW, SteeringSession, StepControl

IMPLEMENTATION = "steer_ros"  # the name in Transformers' attention interface


@dataclass(eq=False)
class _AttachmentState:
    """What an attached model's attention calls read. It does not hold the model, so that a forgotten
    attachment does not keep a model alive."""

    session: SteeringSession | None = None
    control: StepControl = field(default_factory=StepControl)


# Attention module → (its layer, the window that it slides, its attachment's state). Models in other threads have
# entries of their own; nothing is "current", so two lanes can't see each other's steering.
_LAYERS: weakref.WeakKeyDictionary[nn.Module, tuple[int, int | None, _AttachmentState]] = weakref.WeakKeyDictionary()


# All layers share one code. A compiler would keep what it looked up for the first of them, and steer each as that one.
@torch.compiler.disable(reason="steering differs from layer to layer and from token to token")
def steered_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Transformers' attention function: q [B, Hq, S, D], k and v [B, Hk, K, D] → ([B, S, Hq, D], None)."""
    entry = _LAYERS.get(module)
    if entry is None:
        raise UnsteerableModelError(
            f"{type(module).__name__}: its config asks for {IMPLEMENTATION!r} attention but it is not attached; "
            "a copy of an attached model wants set_attn_implementation('sdpa')"
        )
    layer, window, state = entry
    session = state.session
    if session is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    kwargs["sliding_window"] = min_window(window, kwargs.get("sliding_window"))
    return session.attend(module, layer, state.control, query, key, value, attention_mask, scaling, kwargs)


AttentionInterface.register(IMPLEMENTATION, steered_attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


class Attachment:
    """Steering attached to one model. Made by `attach`; a context manager that detaches at its end.

    Attached and not steering, the model gives what it gives with attn_implementation="sdpa", bit for bit.
    `torch.compile` breaks an attached model's graph at each attention call; detach it for one graph.
    Use it from one thread at a time, as the model itself; other models' attachments are independent.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        decoder = text_decoder(model)
        layers = attention_layers(model, decoder)
        if any(module in _LAYERS for module in layers):
            raise ValueError(f"model: {type(model).__name__} is attached already; detach it first")
        config = decoder.config
        self.model = model
        self.num_layers = len(layers)
        self.num_heads = int(config.num_attention_heads)
        self._config = config
        self._layers = layers
        self._state = _AttachmentState()
        self._previous = config._attn_implementation
        decoder.set_attn_implementation(IMPLEMENTATION)
        if config._attn_implementation != IMPLEMENTATION:
            config._attn_implementation = self._previous
            raise UnsteerableModelError(f"{type(decoder).__name__}: Transformers can't set its attention function")
        for index, module in enumerate(layers):
            _LAYERS[module] = (index, window_of(config, index, module), self._state)

    @property
    def attached(self) -> bool:
        """False once detached."""
        return bool(self._layers)

    @property
    def phase(self) -> str:
        """The phase of the answer, "think" or "act". May be set while decoding: it counts from the next token on."""
        return self._state.control.phase

    @phase.setter
    def phase(self, phase: str) -> None:
        if phase not in PHASES:
            raise ValueError(f"phase: {phase!r}; accepted are {', '.join(PHASES)}")
        self._state.control.phase = phase

    @property
    def strength_scale(self) -> float:
        """What scales the law, 0 to 1: α, and ρ or ψ, times this. At 0 a forward pass is plain, and no
        focus is measured in it. May be set while decoding: it counts from the next forward pass on."""
        return self._state.control.strength_scale

    @strength_scale.setter
    def strength_scale(self, strength_scale: float) -> None:
        if (
            isinstance(strength_scale, bool)
            or not isinstance(strength_scale, (int, float))
            or not 0 <= strength_scale <= 1
        ):
            raise ValueError(f"strength_scale: {strength_scale!r}; accepted are numbers from 0 to 1")
        self._state.control.strength_scale = float(strength_scale)

    @property
    def measure_regions(self) -> bool:
        """Whether forward passes measure the regions that `steer` was given. May be set while decoding, likewise."""
        return self._state.control.measure_regions

    @measure_regions.setter
    def measure_regions(self, measure_regions: bool) -> None:
        self._state.control.measure_regions = bool(measure_regions)

    @contextmanager
    def steer(
        self,
        field: SteeringField,
        law: Law,
        gate: Gate | str | None = None,
        *,
        measure_focus: bool | str = False,
        regions: Sequence[Sequence[Tensor | np.ndarray]] | None = None,
        impl: str = "auto",
        head_gains: HeadGainNet | None = None,
        context: int | None = None,
    ) -> Iterator[SteeringReport]:
        """Steer every forward pass inside the context; gives the report, which fills as the model runs.

        Args:
            field: the weights of key positions and the gains.
            law: how they change attention.
            gate: a `Gate`, its text, or None for all layers, heads and phases.
            measure_focus: True for the mean focus before and after; "rows" also keeps each call's rows in
                report.rows. Costs one more pass over the scores; nothing is computed when False.
            regions: what to measure besides R: for each region one array for each span (in the field's
                order), whose non-zero items are its keys. Needs measure_focus.
            impl: "auto" ("triton" on CUDA where it can, else "sdpa"), or by name, which never falls back: "triton"
                (all rows of a call by Triton's kernels), "sdpa", "reference" (slow: the specification itself).
            head_gains: a network that sets each head's gain from what the head does in the context's last row; the
                law's alpha multiplies it. For laws that have an alpha.
            context: how many keys the context has, where it is read in several passes; None: those of the first.

        Raises:
            SteeringNotAppliedError: the context ended and no attention call came, or none was steered though
                law, weights and gates had something to steer with.
            ValueError: an argument; a padded batch; a steering within a steering; weights below 0 with share or
                target, also in `SteeringField.update` while they steer.
        """
        if not self.attached:
            raise ValueError(f"attachment: {type(self.model).__name__} was detached; accepted is an attached model")
        if self._state.session is not None:
            raise ValueError("steer: this model is being steered already; accepted is one steering at a time")
        if not isinstance(law, Law):
            raise ValueError(f"law: {law!r}; accepted is a Law, as make_law gives")
        gate = Gate() if gate is None else Gate.parse(gate) if isinstance(gate, str) else gate
        if regions is not None and not measure_focus:
            raise ValueError("regions: given without measure_focus; accepted is measure_focus=True")
        table = None if regions is None else _region_table(field, regions)
        shape = (self.num_layers, self.num_heads)
        if head_gains is not None and not isinstance(head_gains, HeadGainNet):
            raise ValueError(
                f"head_gains: {type(head_gains).__name__}; accepted is a HeadGainNet; a table is a field's"
            )
        if head_gains is not None and law.has_setpoint:
            raise ValueError(f"head_gains: given with law {law.name!r}; accepted with additive and conserving")
        session = SteeringSession(
            field,
            law,
            gate,
            shape,
            impl=impl,
            measure_focus=measure_focus,
            regions=table,
            head_gains=head_gains,
            context=context,
        )
        with field.used_by(law):
            self._state.session = session
            try:
                yield session.report
            finally:
                self._state.session = None
                session.end()
        self._insist(session.report)

    def _insist(self, report: SteeringReport) -> None:
        """Raise if the steering was a silent no-op."""
        name = type(self.model).__name__
        if report.calls_seen == 0:
            raise SteeringNotAppliedError(f"{name}: no attention call came while steering; was this model run?")
        if report.attention_calls == 0 and set(report.skipped) == {NO_ROW}:
            raise SteeringNotAppliedError(
                f"{name}: {report.calls_seen} attention calls came and {NO_ROW}; "
                "do the spans lie where the model read them?"
            )

    def detach(self) -> None:
        """Give the model back the attention implementation it had. Harmless if done already."""
        if self._state.session is not None:
            raise ValueError("detach: the model is being steered; leave that context first")
        for module in self._layers:
            _LAYERS.pop(module, None)
        if self._layers:
            self._config._attn_implementation = self._previous
        self._layers = []

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()


def attach(model: PreTrainedModel) -> Attachment:
    """Attach steering to a causal language model, or to the language model inside a vision-language model.

    Raises UnsteerableModelError, naming the class and the reason, for a model whose attention can't be
    steered rightly.
    """
    return Attachment(model)


def _region_table(field: SteeringField, regions: Sequence[Sequence[Tensor | np.ndarray]]) -> Tensor:
    """The regions as bool [end − start, regions] by key position from the first span's start."""
    table = np.zeros((field.end - field.start, len(regions)), dtype=bool)
    for column, arrays in enumerate(regions):
        if isinstance(arrays, (Tensor, np.ndarray)) and len(field.spans) == 1:
            arrays = [arrays]
        if len(arrays) != len(field.spans):
            raise ValueError(f"regions[{column}]: {len(arrays)} arrays; accepted is one for each of the field's spans")
        for span, array in zip(field.spans, arrays, strict=True):
            array = np.asarray(array.cpu() if isinstance(array, Tensor) else array).reshape(-1)
            if array.size != span.length:
                raise ValueError(f"regions[{column}]: {array.size} values; the span has {span.length} keys")
            table[span.start - field.start : span.end - field.start, column] = array != 0
    return torch.from_numpy(table)
