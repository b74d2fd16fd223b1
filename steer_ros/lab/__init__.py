"""The synthetic lab bench: scenes, renderer, exact truth, phrases, instructions, clips, bags and training."""
