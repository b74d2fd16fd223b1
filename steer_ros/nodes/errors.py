"""How the nodes report an exception."""

from __future__ import annotations


def describe_error(error: BaseException) -> str:
    """The error's message on one line; its type as well where the message alone says little."""
    text = " ".join(str(error).split())
    plain = isinstance(error, (ValueError, RuntimeError, OSError)) and text
    return text if plain else f"{type(error).__name__}: {text}"
