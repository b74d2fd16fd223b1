"""Video to text to action for a lab robot, with attention that is steered to what matters."""

import os
import pkgutil

if not os.path.isdir(os.path.join(os.path.dirname(__file__), "kernels")):
    # A checkout, from whose root Python was started. The kernels and the messages are where they were installed.
    __path__ = pkgutil.extend_path(__path__, __name__)
