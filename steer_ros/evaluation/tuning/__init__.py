"""``steer-ros tune``: finding the heads, strengths and schedules that steer a model best."""
