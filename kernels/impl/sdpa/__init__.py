"""Steered attention by PyTorch's own attention: what a CPU runs."""
