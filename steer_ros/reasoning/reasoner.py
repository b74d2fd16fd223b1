"""The reasoning model: a prompt and frames in, a thought and an action out, steered while it is written."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator

import torch

from ..models.bridge import Bridge, load_bridge
from ..models.features import VisualFeatures
from ..models.loading import (
    ModelLoadError,
    load_model,
    load_tokenizer,
    one_line,
    pick_device,
    pick_dtype,
    read_json,
    resolve,
    stop_ids,
)
from ..models.tokenization import check_text, control_ids
from ..steering import Attachment, Gate, Law, Span, SteeringField, attach, make_law
from ..steering.config import Tuned, TunedError, load_tuned
from ..steering.head_gains import StrengthNet
from ..steering.schedule import Schedule, as_schedule
from .answer_stream import Writer
from .generation import Attempt
from .guard import Guard, as_guard
from .mask_inputs import as_frames, as_masks, as_regions, regions_of, token_weights, word_weights
from .prompt import TEXT, TOKEN, Context, Layout, embed
from .rollback import Asked, write_steered
from .turn import Turn


class Reasoner:
    """A causal language model with R1's `<think>…</think>` format, ready to be steered.

    One turn runs at a time; a second caller waits. Decoding is greedy.
    """

    def __init__(self, model, tokenizer, name: str, bridge: Bridge | None = None, tuned: Tuned | None = None):
        self.model, self.tokenizer, self.name, self.bridge, self.tuned = model, tokenizer, name, bridge, tuned
        hidden = int(model.config.get_text_config().hidden_size)
        if bridge is not None and bridge.hidden != hidden:
            raise ModelLoadError(f"model {name!r}: its bridge ends in width {bridge.hidden}, the model's is {hidden}")
        self._stop = stop_ids(model, tokenizer)
        self._control = control_ids(tokenizer) - self._stop
        try:
            self.layout = Layout(tokenizer)
        except Exception as error:  # templates are programs: they raise what they like
            raise ModelLoadError(f"model {name!r}: chat template: {one_line(error)}") from error
        self._attachment = attach(model)
        if tuned is not None:
            try:
                tuned.check(self._attachment.num_layers, self._attachment.num_heads)
            except ValueError as error:
                raise ModelLoadError(f"model {name!r}: steering.json: {one_line(error)}") from error
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls, name: str, device: str = "cpu", dtype: str = "auto", *, bridge: str | os.PathLike | None = None
    ) -> Reasoner:
        """Load a causal language model.

        Args:
            name: ``builtin:lab-r1``, a folder, or a hub id: ``deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B``.
            device: cpu, cuda, cuda:<n> or auto.
            dtype: auto (float32 on a CPU), float32, float16 or bfloat16.
            bridge: folder of a trained bridge; None looks beside the model.
        Raises:
            ModelLoadError: no such model, another class, weights that can't be loaded, or a steering.json that is
                broken or another model's.
            UnsteerableModelError: attention that can't be steered.
            ValueError: an unknown device or dtype.
        """
        from transformers import AutoModelForCausalLM
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        torch_device = pick_device(device)
        folder = resolve(name)
        kind = read_json(folder / "config.json").get("model_type")
        if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise ModelLoadError(f"model {name!r}: is of type {kind!r}; reasoning needs a causal language model")
        picked = pick_dtype(dtype, torch_device, folder)
        tokenizer = load_tokenizer(folder, name)
        loaded_bridge = load_bridge(folder if bridge is None else bridge, torch_device, picked)
        if bridge is not None and loaded_bridge is None:
            raise ModelLoadError(f"bridge {os.fspath(bridge)!r}: no bridge.json there")
        model = load_model(AutoModelForCausalLM, folder, torch_device, picked, name)
        try:
            tuned = load_tuned(folder)
        except TunedError as error:
            raise ModelLoadError(f"model {name!r}: {one_line(error)}") from error
        return cls(model, tokenizer, os.fspath(name), loaded_bridge, tuned)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.get_input_embeddings().weight.device

    @property
    def attachment(self) -> Attachment:
        """The steering's attachment to the model, for forward passes of one's own. One steering at a time."""
        return self._attachment

    @property
    def max_length(self) -> int:
        """The longest context and answer together, in tokens."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    def close(self) -> None:
        """Detach the steering; the model is Transformers' own again and this reasoner is of no further use."""
        with self._lock:
            self._attachment.detach()

    def bridge_for(self, features: VisualFeatures) -> str:
        """How such frames reach the model: "token" if a bridge takes them, else "text" (regions' words)."""
        fits = self.bridge is not None and self.bridge.vl_hidden == features.tokens.shape[-1]
        return TOKEN if fits else TEXT

    def generate(
        self,
        prompt: str,
        visual_context: VisualFeatures | list[VisualFeatures] | None = None,
        steering_mask=None,
        alpha: float | None = None,
        law: str | Law | None = None,
        gate: Gate | str | None = None,
        regions: list[tuple] | None = None,
        max_new_tokens: int = 256,
        max_thought_tokens: int | None = None,
        stop: Callable[[], str | None] | None = None,
        on_text: Callable[[str, str], None] | None = None,
        update_mask: Callable[[], object] | None = None,
        measure_focus: bool = True,
        *,
        mark: float | None = None,
        schedule: Schedule | str | None = None,
        guard: Guard | bool = True,
        adaptive: StrengthNet | torch.Tensor | None = None,
    ) -> Turn:
        """One turn: think, then act.

        Args:
            prompt: the user's text. It is data: special tokens in it are plain text.
            visual_context: one frame's features, or several in order.
            steering_mask: a Mask, an int8 [rows, cols] array, or a list: of one frame's masks, or, when
                visual_context is a list, one entry a frame. None: no steering, plain attention.
            alpha: strength of the law's tilt. None: the model's own with its own law, else 2, and 0 for the laws that
                have a mark: they are exact without a tilt.
            law: "conserving", "additive", "share", "target", "none", or a Law with its own strength. None: the
                model's own (its steering.json), conserving if it has none.
            gate: a Gate or its text ("layers=2-3;phases=think"): where the law holds. None: the model's own, "all" if
                it has none.
            regions: [(label, box in frame px or None), …]: everything in view, for the text bridge. None: the
                labelled masks.
            max_new_tokens: the longest answer.
            max_thought_tokens: the longest thought: it is then closed for the model, and the action follows.
            stop: asked before each token; a text ends the turn, with it as the reason.
            on_text: called with ("think" | "act", new text) as it is written, and with ("rollback", why) when all of
                the answer that it has heard is void and the answer begins anew.
            update_mask: asked before each token; new weights (as steering_mask) count from the next token on; None
                leaves them. A region that moves to another place has the answer begun anew, if guard follows moves.
            measure_focus: whether the region's share of attention is measured. Without it a guard can't see
                attention collapse, nor whether the focus was reached.
            mark: share's rho or target's psi. None: the model's own with its own law.
            schedule: a Schedule or its text ("think=1;act=0;half_life=20;sure=0.9"): how the strength runs over the
                answer. None: the model's own, "constant" if it has none.
            guard: whether an over-steered answer is rolled back to less strength within the turn, a region that
                moves is followed, and doubtful regions are reported; a Guard has settings of its own.
            adaptive: what the law's alpha is multiplied by, head by head: a network (``steer-ros tune strength``) or
                a table [layers, query heads] (``steer-ros tune text``). None: the model's own with its own law.
        Raises:
            ValueError: an argument that can't be used, by name.
        """
        started = time.perf_counter()
        check_text("prompt", prompt, self.max_length)
        own = self.tuned or Tuned(make_law("conserving"))
        law, strength = own.law_as(law, alpha, mark)
        if adaptive is not None and not isinstance(adaptive, (StrengthNet, torch.Tensor)):
            raise ValueError(
                f"adaptive: {type(adaptive).__name__}, must be a StrengthNet, a tensor [layers, query heads] or None"
            )
        strength = strength if adaptive is None else adaptive
        gate = own.gate if gate is None else gate if isinstance(gate, Gate) else Gate.parse(gate)
        schedule, watch = own.schedule if schedule is None else as_schedule(schedule), as_guard(guard)
        for argument, value in (
            ("max_new_tokens", max_new_tokens),
            ("max_thought_tokens", max_thought_tokens),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{argument} {value!r}: must be a whole number of at least 1")
        frames = as_frames(visual_context)
        groups = as_masks(steering_mask, visual_context, frames)
        context = self._lay_out(prompt, frames, groups, regions)
        room = self.max_length - len(context.ids)
        if room < 1:
            raise ValueError(
                f"prompt: {len(context.ids)} tokens, frames included; {self.name!r} takes fewer than {self.max_length}"
            )

        def weights_for(mask_groups):
            if context.bridge == TOKEN:
                return token_weights(mask_groups, frames)
            return word_weights(mask_groups, frames, context.regions, [length for _, length in context.spans])

        field = None
        if steering_mask is not None or update_mask is not None:
            spans = [Span(start, length) for start, length in context.spans]
            gain = strength if isinstance(strength, torch.Tensor) else None
            field = SteeringField(spans, weights_for(groups), gain, self.device)

        def refresh() -> None:
            newer = update_mask() if update_mask is not None else None
            if newer is not None:
                field.update(weights_for(as_masks(newer, visual_context, frames)))

        turn = Turn(
            prompt=prompt,
            prompt_ids=context.ids,
            bridge=context.bridge,
            spans=context.spans,
            law=law.name,
            alpha=law.alpha,
            mark=law.mark,
            gate=str(gate),
            schedule=str(schedule),
            warnings=tuple(self._bridge_warnings(frames, context.bridge)),
        )

        def new_writer() -> Writer:
            turn.restart()
            limit = min(max_new_tokens, room)
            return Writer(
                turn, self.tokenizer, self.layout, self._stop, on_text, limit, max_thought_tokens, self._control
            )

        with self._lock, torch.no_grad():
            writer = new_writer()
            if not writer.asked_to_stop(stop):
                embeds = embed(self.model, context, [frame.tokens for frame in frames], self.bridge)
                turn.timings["embed"] = (time.perf_counter() - started) * 1e3
                if field is None:
                    Attempt(self.model, writer, None, stop, refresh).write(embeds)
                    turn.unsteered_why = "no steering_mask"
                else:
                    asked = Asked(
                        self.model,
                        self._attachment,
                        self.tokenizer.decode,
                        field,
                        law,
                        strength if gain is None else None,
                        gate,
                        schedule,
                        watch,
                        measure_focus,
                        frames,
                    )
                    writer = write_steered(asked, embeds, writer, new_writer, stop, refresh)
        writer.finish()
        turn.timings["total"] = (time.perf_counter() - started) * 1e3
        return turn

    def _bridge_warnings(self, frames: list[VisualFeatures], bridge: str) -> Iterator[str]:
        """What a model with a bridge is asked without its tokens, or with another model's, means little to it."""
        if self.bridge is None:
            return
        wanted = self.bridge.vl_model
        if bridge == TEXT:
            what = "visual_context has no frame"
            if frames:
                what = f"the tokens are {frames[0].tokens.shape[-1]} wide, not {self.bridge.vl_hidden}"
            yield f"no visual tokens: {what}; {self.name!r} was trained to see those of {wanted or 'its bridge'!r}"
            return
        for name in dict.fromkeys(frame.model for frame in frames):
            if name and wanted and _last_part(name) != _last_part(wanted):  # wherever its files lie
                yield f"another model: the tokens are of {name!r}, the bridge was trained on those of {wanted!r}"

    def _lay_out(self, prompt: str, frames: list[VisualFeatures], groups: list[list], regions) -> Context:
        if frames and self.bridge_for(frames[0]) == TOKEN:
            return self.layout.with_tokens(prompt, [int(frame.tokens.shape[0]) for frame in frames])
        listed = regions_of(groups, frames) if regions is None else as_regions(regions, frames)
        if not listed and any(
            item.any() if hasattr(item, "any") else not item.empty for group in groups for item in group
        ):
            raise ValueError(
                f"regions: none, and the masks have no labels; without a bridge {self.name!r} sees regions "
                "by their words only: pass regions=[(label, box), …] or masks with labels"
            )
        return self.layout.with_words(prompt, listed)


def _last_part(name: str) -> str:
    """What a model is called, wherever its files lie."""
    return re.split(r"[:/\\]", name.rstrip("/\\"))[-1]
