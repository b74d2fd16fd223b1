"""Synthetic bench scenes: what stands where, its picture, its exact truth, and words for it."""
