"""The `text` suite: a language model steered to words of its prompt."""
