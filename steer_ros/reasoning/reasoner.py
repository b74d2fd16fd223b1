"""The reasoning model: a prompt and frames in, a thought and an action out, steered while it is generated."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
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
from ..regions.mask import Mask
from ..steering import Attachment, Span, SteeringConfig, SteeringField, attach
from ..steering.config import as_config
from ..steering.steering_file import SteeringFile, SteeringFileError, load_steering_file
from .generation import AnswerGeneration
from .mask_inputs import as_frames, as_masks, as_regions, regions_of, token_weights, word_weights
from .prompt import TEXT, TOKEN, Prompt, PromptBuilder, embed
from .rollback import GenerationRequest, generate_with_rollback
from .thought_and_action import AnswerStream
from .turn import Turn
from .turn_options import Callbacks, Limits

# Keywords of `generate` in release 0.1, and what takes their place.
RENAMED = {
    "visual_context": "frames",
    "steering_mask": "masks",
    **{name: f"config=reasoner.config.override({name}=…)" for name in ("law", "gate", "schedule")},
    "mark": "config=reasoner.config.override(setpoint=…)",
    "guard": "config=reasoner.config.override(guard=…), or dataclasses.replace(config, guard=None)",
    "adaptive": "config=dataclasses.replace(config, head_gains=…)",
    **{name: f"limits=Limits({name}=…)" for name in ("max_new_tokens", "max_thought_tokens")},
    **{name: f"callbacks=Callbacks({name}=…)" for name in ("stop", "on_text")},
    "update_mask": "callbacks=Callbacks(update_masks=…)",
}


class Reasoner:
    """A causal language model with R1's `<think>…</think>` format, ready to be steered.

    One turn runs at a time; a second caller waits. Decoding is greedy.
    """

    def __init__(
        self, model, tokenizer, name: str, bridge: Bridge | None = None, steering_file: SteeringFile | None = None
    ):
        self.model, self.tokenizer, self.name, self.bridge = model, tokenizer, name, bridge
        self.steering_file = steering_file
        hidden = int(model.config.get_text_config().hidden_size)
        if bridge is not None and bridge.hidden != hidden:
            raise ModelLoadError(f"model {name!r}: its bridge ends in width {bridge.hidden}, the model's is {hidden}")
        self._stop = stop_ids(model, tokenizer)
        self._control = control_ids(tokenizer) - self._stop
        try:
            self.prompts = PromptBuilder(tokenizer)
        except Exception as error:  # templates are programs: they raise what they like
            raise ModelLoadError(f"model {name!r}: chat template: {one_line(error)}") from error
        self._attachment = attach(model)
        if steering_file is not None:
            try:
                steering_file.check(self._attachment.num_layers, self._attachment.num_heads)
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
            steering_file = load_steering_file(folder)
        except SteeringFileError as error:
            raise ModelLoadError(f"model {name!r}: {one_line(error)}") from error
        return cls(model, tokenizer, os.fspath(name), loaded_bridge, steering_file)

    @property
    def config(self) -> SteeringConfig:
        """The model's own: what its steering.json says, else conserving with alpha 2."""
        return SteeringConfig() if self.steering_file is None else self.steering_file.config

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

    def check_config(self, config: SteeringConfig) -> None:
        """ValueError, by the part's name, for a configuration that does not fit this model's layers and heads."""
        config.check(self._attachment.num_layers, self._attachment.num_heads)

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
        frames: VisualFeatures | list[VisualFeatures] | None = None,
        masks: Mask | np.ndarray | list | None = None,
        *,
        config: SteeringConfig | Mapping[str, object] | None = None,
        alpha: float | None = None,
        limits: Limits | None = None,
        callbacks: Callbacks | None = None,
        regions: list[tuple] | None = None,
        measure_focus: bool = True,
        **renamed: object,
    ) -> Turn:
        """One turn: think, then act.

        Args:
            prompt: the user's text. It is data: special tokens in it are plain text.
            frames: one frame's features, or a list of several in order.
            masks: a Mask, an int8 [rows, cols] array, or a list: of one frame's masks, or, when frames is a list, one
                entry a frame. None: no steering, plain attention.
            config: how the turn is steered; a mapping overrides fields of the model's own. None: `Reasoner.config`.
            alpha: short for config.override(alpha=…): the law's bias on a key of weight 1.
            limits: how long the answer may get.
            callbacks: what is called while the turn runs.
            regions: [(label, box in frame px or None), …]: everything in view, for the text bridge. None: the
                labelled masks.
            measure_focus: whether the region's share of attention is measured. Without it a guard can't see
                attention collapse, nor whether the focus was reached.
        Raises:
            ValueError: an argument that can't be used, by name.
            TypeError: a keyword of an earlier release; the message says what takes its place.
        """
        for name in renamed:
            instead = f"; use {RENAMED[name]}" if name in RENAMED else ""
            raise TypeError(f"generate: no argument {name!r}{instead}")
        started = time.perf_counter()
        check_text("prompt", prompt, self.max_length)
        config = as_config(config, self.config).override(alpha=alpha)
        self.check_config(config)
        limits, callbacks = Limits() if limits is None else limits, Callbacks() if callbacks is None else callbacks
        for name, value, kind in (("limits", limits, Limits), ("callbacks", callbacks, Callbacks)):
            if not isinstance(value, kind):
                raise ValueError(f"{name}: {type(value).__name__}; accepted is a {kind.__name__} or None")
        given_frames, frames = frames, as_frames(frames)
        groups = as_masks(masks, given_frames, frames)
        laid_out = self._lay_out(prompt, frames, groups, regions)
        room = self.max_length - len(laid_out.ids)
        if room < 1:
            raise ValueError(
                f"prompt: {len(laid_out.ids)} tokens, frames included; {self.name!r} takes fewer than "
                f"{self.max_length}"
            )

        def weights_for(mask_groups):
            if laid_out.bridge == TOKEN:
                return token_weights(mask_groups, frames)
            return word_weights(mask_groups, frames, laid_out.regions, [length for _, length in laid_out.spans])

        field = None
        if masks is not None or callbacks.update_masks is not None:
            spans = [Span(start, length) for start, length in laid_out.spans]
            field = SteeringField(spans, weights_for(groups), config.gain_table, self.device)

        def refresh() -> None:
            newer = callbacks.update_masks() if callbacks.update_masks is not None else None
            if newer is not None:
                field.update(weights_for(as_masks(newer, given_frames, frames)))

        turn = Turn(
            prompt=prompt,
            prompt_ids=laid_out.ids,
            bridge=laid_out.bridge,
            spans=laid_out.spans,
            config=config,
            warnings=tuple(self._bridge_warnings(frames, laid_out.bridge)),
        )

        def new_stream() -> AnswerStream:
            turn.restart()
            return AnswerStream(
                turn,
                self.tokenizer,
                self.prompts,
                self._stop,
                callbacks.on_text,
                replace(limits, max_new_tokens=min(limits.max_new_tokens, room)),
                self._control,
            )

        with self._lock, torch.no_grad():
            stream = new_stream()
            if not stream.stop_requested(callbacks.stop):
                embeds = embed(self.model, laid_out, [frame.tokens for frame in frames], self.bridge)
                turn.timings["embed"] = (time.perf_counter() - started) * 1e3
                if field is None:
                    AnswerGeneration(self.model, stream, None, callbacks.stop, refresh).run(embeds)
                    turn.unsteered_why = "no masks"
                else:
                    request = GenerationRequest(
                        self.model, self._attachment, self.tokenizer.decode, field, config, measure_focus, frames
                    )
                    stream = generate_with_rollback(request, embeds, stream, new_stream, callbacks.stop, refresh)
        stream.finish()
        turn.timings["total"] = (time.perf_counter() - started) * 1e3
        return turn

    def _bridge_warnings(self, frames: list[VisualFeatures], bridge: str) -> Iterator[str]:
        """What a model with a bridge is asked without its tokens, or with another model's, means little to it."""
        if self.bridge is None:
            return
        wanted = self.bridge.vl_model
        if bridge == TEXT:
            what = "there is no frame"
            if frames:
                what = f"the tokens are {frames[0].tokens.shape[-1]} wide, not {self.bridge.vl_hidden}"
            yield f"no visual tokens: {what}; {self.name!r} was trained to see those of {wanted or 'its bridge'!r}"
            return
        for name in dict.fromkeys(frame.model for frame in frames):
            if name and wanted and _last_part(name) != _last_part(wanted):  # wherever its files lie
                yield f"another model: the tokens are of {name!r}, the bridge was trained on those of {wanted!r}"

    def _lay_out(self, prompt: str, frames: list[VisualFeatures], groups: list[list], regions) -> Prompt:
        if frames and self.bridge_for(frames[0]) == TOKEN:
            return self.prompts.with_tokens(prompt, [int(frame.tokens.shape[0]) for frame in frames])
        listed = regions_of(groups, frames) if regions is None else as_regions(regions, frames)
        if not listed and any(
            item.any() if hasattr(item, "any") else not item.empty for group in groups for item in group
        ):
            raise ValueError(
                f"regions: none, and the masks have no labels; without a bridge {self.name!r} sees regions "
                "by their words only: pass regions=[(label, box), …] or masks with labels"
            )
        return self.prompts.with_words(prompt, listed)


def _last_part(name: str) -> str:
    """What a model is called, wherever its files lie."""
    return re.split(r"[:/\\]", name.rstrip("/\\"))[-1]
