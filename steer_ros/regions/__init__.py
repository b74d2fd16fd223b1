"""Where to look: patch grids, masks, phrases, tracking. NumPy and OpenCV only."""
