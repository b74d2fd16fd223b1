"""``steer-ros <command>``: what the commands share (arguments, processes), and the small commands themselves."""
