"""``make demo``: a bag of bench clips through the VTA loop, steered and unsteered, judged and filmed."""
