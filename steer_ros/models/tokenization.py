"""Text to tokens and back: templates with their special tokens, outside text without any, streaming."""

from __future__ import annotations

# Rendered into the chat template in place of the user's text; letters only, so no template alters it.
_SLOT = "SteerRosUserTextGoesHereQzxj"


def encode_template(tokenizer, text: str) -> list[int]:
    """Token ids of trusted text: special tokens in it count as such; none are added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def encode_plain(tokenizer, text: str) -> list[int]:
    """Token ids of outside text. It is data: ``<think>`` or ``<|image_pad|>`` in it are letters and signs.

    The backend's own stages are run without its added tokens, because its ``split_special_tokens`` leaves
    those that are not marked special (DeepSeek's ``<think>`` and ``<｜User｜>`` are not).
    """
    backend = tokenizer.backend_tokenizer
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is no character
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    pieces = [text]
    if backend.pre_tokenizer is not None:
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    reserved = backend.get_added_tokens_decoder()
    ids: list[int] = []
    for piece in pieces:
        tokens = backend.model.tokenize(piece)
        if any(token.id in reserved for token in tokens):  # a word-level vocabulary may list them
            tokens = [t for letter in piece for t in backend.model.tokenize(letter) if t.id not in reserved]
        ids.extend(token.id for token in tokens)
    return ids


def check_text(argument: str, value: str, max_tokens: int) -> None:
    """ValueError unless value is a text with something in it, of a length that may fit max_tokens.

    A bound in characters, so that a huge text is refused before it is split; generous, as a token may cover many.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{argument}: got {value!r}, accepted: a text that is not empty")
    if len(value) > 64 * max_tokens:
        raise ValueError(f"{argument}: {len(value)} characters, far more than the {max_tokens} tokens the model reads")


def token_id(tokenizer, token: str) -> int | None:
    """Id of one token by its exact text, or None when the vocabulary lacks it."""
    return tokenizer.backend_tokenizer.token_to_id(token)


def control_ids(tokenizer) -> frozenset[int]:
    """Ids of the tokens that structure a dialogue: those marked special, and the marks of a thought."""
    marks = {"<think>", "</think>"}
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(id for id, token in added if token.special or token.content in marks)


def render_template(tokenizer, content_before: list[dict] | None = None) -> tuple[str, str]:
    """The chat template around one user text: what stands before it and after it, generation prompt included.

    Args:
        content_before: multimodal entries put before the text, e.g. ``[{"type": "image"}]``.
    Raises:
        ValueError: the template drops, repeats or rewrites the user's text.
    """
    content: str | list[dict] = _SLOT
    if content_before is not None:
        content = [*content_before, {"type": "text", "text": _SLOT}]
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    parts = rendered.split(_SLOT)
    if len(parts) != 2:
        raise ValueError(f"chat_template: shows the user's text {len(parts) - 1} times, must be once")
    return parts[0], parts[1]


class StreamDecoder:
    """Turns token ids into text piece by piece; holds back bytes of a character that is not complete yet."""

    def __init__(self, tokenizer, skip_special_tokens: bool = True):
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._ids: list[int] = []
        self._start = 0  # decoding starts here: one emitted piece back, for tokenizers that join words
        self._done = 0  # ids whose text has been emitted
        self.text = ""

    def push(self, token: int) -> str:
        """Add one id; returns the text that is now certain ("" while a character is incomplete)."""
        self._ids.append(int(token))
        return self._emit(final=False)

    def flush(self) -> str:
        """The text still held back, broken bytes as U+FFFD."""
        return self._emit(final=True)

    def _emit(self, final: bool) -> str:
        before = self._decode(self._ids[self._start : self._done])
        now = self._decode(self._ids[self._start :])
        if len(now) <= len(before) or (now.endswith("\ufffd") and not final):
            return ""
        self._start, self._done = self._done, len(self._ids)
        piece = now[len(before) :]
        self.text += piece
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip, clean_up_tokenization_spaces=False)
