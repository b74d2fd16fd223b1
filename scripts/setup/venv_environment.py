"""Lets .venv's Python find the ROS 2 libraries and packages in .venv with nothing sourced, and the built steer_ros.

Installed into .venv and run at every start of its Python, before the like file of the ROS wheels, which trusts what
another environment has left in the variables.
"""

import glob
import os
import sys
from importlib.machinery import PathFinder


def lead(name, folders):
    """Puts folders first on a search path; says whether that changed it."""
    before = [folder for folder in os.environ.get(name, "").split(os.pathsep) if folder]
    after = folders + [folder for folder in before if folder not in folders]
    os.environ[name] = os.pathsep.join(after)
    return before != after


class NotFromSource:
    """Passes over the source folder: `python -c` and `python -m` put the folder they run in on the path, and from the
    checkout's root the source would hide the built package with its messages."""

    checkout = os.path.dirname(os.path.realpath(sys.prefix))

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "steer_ros":
            return None
        folders = [folder for folder in sys.path if os.path.realpath(folder or ".") != cls.checkout]
        return PathFinder.find_spec(name, folders, target)


lib = os.path.join(sys.prefix, "lib")
wheels = os.path.join(lib, "python3*", "site-packages", "ros_*.libs")
lead("AMENT_PREFIX_PATH", [sys.prefix])
os.environ["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
# The loader reads LD_LIBRARY_PATH once, at the start of a process: start it again if that has changed.
if lead("LD_LIBRARY_PATH", [lib, *sorted(glob.glob(wheels))]):
    os.execv(sys.executable, sys.orig_argv)
sys.meta_path.insert(0, NotFromSource)
