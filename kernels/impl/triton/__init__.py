"""Steered attention by Triton kernels: what a GPU runs."""
