"""Bench scenes in styles that are not the lab's own, to judge the models on what they never saw."""
