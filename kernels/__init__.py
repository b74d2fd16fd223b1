"""Steered attention. `reference` is the specification; every faster implementation is tested against it."""

from .reference import LAWS, SteeredAttention, steered_attention_reference

__all__ = ["LAWS", "SteeredAttention", "steered_attention_reference"]
