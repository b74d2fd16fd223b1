"""ROS: the perception and reasoning nodes, vta (both in one process) and replay. Thin: the work is in pipeline."""
