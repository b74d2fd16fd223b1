"""The implementations of steered attention. `steer_ros.kernels` chooses among them; nothing else imports them."""
