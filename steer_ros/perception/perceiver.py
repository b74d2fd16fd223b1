"""The vision-language model: frames to visual tokens, words to boxes, prompts to masks."""

from __future__ import annotations

import math
import os
import re

import numpy as np
import torch

from ..models.decoding import GreedyDecoder
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
from ..models.tokenization import StreamDecoder, check_text, encode_plain, encode_template, render_template
from ..regions.grid import PatchGrid
from ..regions.mask import Mask
from . import attention_tap
from .detection import find_regions, merge_regions
from .grounding import Grounding, parse_answer
from .preprocess import FramePreprocessor

GROUND_PROMPT = "Detect the bounding box of the {phrase}."  # Qwen2-VL's own words; lab-vl knows them too
_IMAGE_PAD = "<|image_pad|>"
_ARTICLE = re.compile(r"^(the|a|an)\s+", re.IGNORECASE)


class Perceiver:
    """A Qwen2-VL model as the perception side uses it. Methods may be called from any thread."""

    def __init__(
        self, model, tokenizer, preprocessor: FramePreprocessor, name: str, ground_prompt: str = GROUND_PROMPT
    ):
        if "{phrase}" not in ground_prompt:
            raise ValueError(f"ground_prompt {ground_prompt!r}: must contain {{phrase}}")
        self.model, self.tokenizer, self.preprocessor, self.name = model, tokenizer, preprocessor, name
        self.ground_prompt = ground_prompt
        self._stop = stop_ids(model, tokenizer)
        try:
            before, self._after = render_template(tokenizer, [{"type": "image"}])
        except Exception as error:  # templates are programs: they raise what they like
            raise ModelLoadError(f"model {name!r}: chat template: {one_line(error)}") from error
        self._before = encode_template(tokenizer, before)
        if self._before.count(model.config.image_token_id) != 1:
            raise ModelLoadError(f"model {name!r}: its chat template shows no {_IMAGE_PAD} for an image")
        attention_tap.install(model)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        device: str = "cpu",
        dtype: str = "auto",
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        ground_prompt: str | None = None,
    ) -> Perceiver:
        """Load a model of class Qwen2VLForConditionalGeneration.

        Args:
            name: ``builtin:lab-vl``, a folder, or a hub id such as ``Qwen/Qwen2-VL-2B-Instruct``.
            device: cpu, cuda, cuda:<n> or auto.
            dtype: auto (float32 on a CPU), float32, float16 or bfloat16.
            min_pixels, max_pixels: bounds of the resized frame's area; None keeps the model's own.
            ground_prompt: how boxes are asked for; must contain ``{phrase}``.
        Raises:
            ModelLoadError: no such model, another class, or weights that can't be loaded.
            ValueError: an unknown device or dtype.
        """
        from transformers import Qwen2VLForConditionalGeneration

        torch_device = pick_device(device)
        folder = resolve(name)
        config = read_json(folder / "config.json")
        if config.get("model_type") != "qwen2_vl":
            raise ModelLoadError(
                f"model {name!r}: is of type {config.get('model_type')!r}; perception needs 'qwen2_vl' "
                "(Qwen2VLForConditionalGeneration)"
            )
        picked = pick_dtype(dtype, torch_device, folder)
        preprocessor = FramePreprocessor.from_folder(folder, min_pixels, max_pixels)
        tokenizer = load_tokenizer(folder, name)
        model = load_model(Qwen2VLForConditionalGeneration, folder, torch_device, picked, name)
        vision = model.config.vision_config
        if (vision.patch_size, vision.spatial_merge_size) != (preprocessor.patch, preprocessor.merge):
            raise ModelLoadError(f"model {name!r}: preprocessor and vision tower differ in patch or merge size")
        return cls(model, tokenizer, preprocessor, os.fspath(name), ground_prompt or GROUND_PROMPT)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.get_input_embeddings().weight.device

    @property
    def hidden_size(self) -> int:
        """Width of a visual token."""
        return int(self.model.config.text_config.hidden_size)

    @torch.no_grad()
    def encode(self, image: np.ndarray, stamp: int | None = None) -> VisualFeatures:
        """Visual tokens of a frame; they stay on the model's device.

        Args:
            image: uint8 [height, width, 3], RGB.
            stamp: the frame's stamp in nanoseconds, passed on.
        Raises:
            ValueError: another dtype, shape, an empty image, or sides more than 200 to 1.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"image: must be a numpy array of uint8, got {kind}")
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image: must have shape [height, width, 3], got {list(image.shape)}")
        height, width = image.shape[:2]
        grid = self.preprocessor.grid_for(width, height)
        pixels = self.preprocessor.patches(image, grid, self.device)
        tokens = self.model.get_image_features(
            pixel_values=pixels, image_grid_thw=self._thw(grid, self.device)
        ).pooler_output
        tokens = torch.cat(tuple(tokens)) if isinstance(tokens, (list, tuple)) else tokens
        return VisualFeatures(tokens, grid, (width, height), self.name, stamp)

    @torch.no_grad()
    def ground(self, phrase: str, features: VisualFeatures, max_new_tokens: int = 128) -> list[Grounding]:
        """Boxes of what the phrase names, in the answer's order; [] when the model finds nothing.

        The frame's tokens are reused. A score is the mean probability (geometric) of the box's coordinates.
        Raises:
            ValueError: an empty phrase, or features of another model.
        """
        phrase = _ARTICLE.sub("", self._checked("phrase", phrase))
        decoder = GreedyDecoder(self.model)
        ids = self._ids(self.ground_prompt.replace("{phrase}", phrase), features)
        decoder.prefill(*self._inputs(ids, features))
        stream = StreamDecoder(self.tokenizer, skip_special_tokens=False)
        emitted: list[tuple[int, float]] = []  # (characters before the token, its log-probability)
        for step in range(max_new_tokens):
            token, logprob = decoder.best()
            if token in self._stop:
                break
            emitted.append((len(stream.text), logprob))
            stream.push(token)
            if step + 1 < max_new_tokens:
                decoder.feed(token)
        stream.flush()
        found = []
        for item in parse_answer(stream.text, features.frame_size, phrase):
            digits = [
                logprob
                for start, logprob in emitted
                if item.start <= start < item.end and stream.text[start].isdigit()
            ]
            score = min(1.0, math.exp(sum(digits) / len(digits))) if digits else 0.0
            found.append(Grounding(item.label, item.box, score))
        return found

    @torch.no_grad()
    def saliency(self, prompt: str, features: VisualFeatures, rows: int = 1) -> np.ndarray:
        """Where the language model looks after reading a prompt.

        Mean over the heads of the later half of the layers of the attention that the last prompt rows pay
        to each visual token.
        Returns:
            float32 [rows, cols] on the patch grid, 0..1 with the peak at 1.
        """
        if rows < 1:
            raise ValueError(f"rows {rows}: must be at least 1")
        ids = self._ids(self._checked("prompt", prompt), features)
        start = ids.index(self.model.config.image_token_id)
        depth = self.model.config.text_config.num_hidden_layers
        with attention_tap.tap(start, start + features.grid.num_tokens, rows, range(depth // 2, depth)) as attention:
            GreedyDecoder(self.model).prefill(*self._inputs(ids, features))
        tokens = attention.mean().cpu().numpy().reshape(features.grid.token_rows, features.grid.token_cols)
        tokens = tokens / max(float(tokens.max()), np.finfo(np.float32).tiny)
        merge = features.grid.merge
        return np.repeat(np.repeat(tokens, merge, 0), merge, 1).astype(np.float32)

    def detect_regions(self, prompt: str, features: VisualFeatures) -> list[Mask]:
        """One mask for each region the prompt points at, with its label, score and box.

        A place alone ("top-left") is that area. A thing is grounded; a thing with a place or rank ("the red
        beaker on the left") keeps the boxes that fit. A prompt that names neither gets the saliency, one mask
        without label or box. [] when what it names is not there.
        """
        return find_regions(self, self._checked("prompt", prompt), features)

    def detect_roi(self, prompt: str, features: VisualFeatures) -> Mask:
        """The union of detect_regions as one mask; ``.empty`` when nothing was found."""
        prompt = self._checked("prompt", prompt)
        return merge_regions(find_regions(self, prompt, features), prompt, features)

    def _checked(self, argument: str, text: str) -> str:
        check_text(argument, text, self.model.config.text_config.max_position_embeddings)
        return text.strip()

    @staticmethod
    def _thw(grid: PatchGrid, device) -> torch.Tensor:
        return torch.tensor([[1, grid.rows, grid.cols]], device=device)

    def _ids(self, text: str, features: VisualFeatures) -> list[int]:
        """The chat template around one frame and one text; the frame's place is filled with image_pad ids."""
        shape = (features.grid.num_tokens, self.hidden_size)
        if features.model != self.name or tuple(features.tokens.shape) != shape:
            raise ValueError(
                f"features: {list(features.tokens.shape)} of {features.model!r}; this is {self.name!r}, "
                f"which wants {list(shape)}"
            )
        pad = self.model.config.image_token_id
        at = self._before.index(pad)
        before = self._before[:at] + [pad] * features.grid.num_tokens + self._before[at + 1 :]
        return before + encode_plain(self.tokenizer, text) + encode_template(self.tokenizer, self._after)

    def _inputs(self, ids: list[int], features: VisualFeatures) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Embeddings [1, length, hidden], visual tokens in place; M-RoPE ids [3, 1, length]; their delta."""
        limit = self.model.config.text_config.max_position_embeddings
        if len(ids) > limit:
            raise ValueError(f"prompt: {len(ids)} tokens with the frame's; {self.name!r} reads at most {limit}")
        row = torch.tensor([ids])
        kinds = (row == self.model.config.image_token_id).int()
        position_ids, delta = self.model.model.get_rope_index(
            row, mm_token_type_ids=kinds, image_grid_thw=self._thw(features.grid, row.device)
        )
        embeds = self.model.get_input_embeddings()(row.to(self.device))
        start = ids.index(self.model.config.image_token_id)
        embeds[0, start : start + features.grid.num_tokens] = features.tokens.to(embeds.device, embeds.dtype)
        return embeds, position_ids.to(self.device), int(delta)
