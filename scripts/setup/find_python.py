"""Finds the Python to make .venv with, and says what is wrong with those that will not do."""

import json
import os
import shutil
import subprocess

WHEEL_PYTHONS = ("3.11", "3.12")

# Run by the Python in question: what it has.
PROBE = """
import json, os, sys, sysconfig
facts = {"version": "%d.%d" % sys.version_info[:2], "full": sys.version.split()[0], "prefix": sys.base_prefix}
facts["headers"] = os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
facts["lacks"] = []
for module in sys.argv[1:]:
    try:
        __import__(module)
    except Exception:
        facts["lacks"].append(module)
print(json.dumps(facts))
"""


def probe(python, env, modules=()):
    """What a Python has, or None when it does not run (a shim without a version behind it, say)."""
    command = [str(python), "-c", PROBE, *modules]
    try:
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None


def objection(facts, ros):
    """Why a Python will not do; empty when it will."""
    if facts is None:
        return "does not run"
    version = facts["version"]
    if ros and "rclpy" in facts["lacks"]:
        return f"is Python {version}, which cannot import the sourced distribution's rclpy"
    if not ros and version not in WHEEL_PYTHONS:
        return f"is Python {version}; the ROS 2 wheels are for {' and '.join(WHEEL_PYTHONS)}"
    if {"venv", "ensurepip"} & set(facts["lacks"]):
        return f"cannot make virtual environments (Debian, Ubuntu: apt install python{version}-venv)"
    if not facts["headers"]:
        return f"has no C headers (Debian, Ubuntu: apt install python{version}-dev)"
    return ""


def find_python(ros, env):
    """(path, facts, "") of the Python to use, or (None, None, one line on each that was looked at).

    The variable PYTHON names the only one to look at.
    """
    wanted = os.environ.get("PYTHON")
    if wanted:
        candidates = [wanted]
    elif ros:
        candidates = ["python3", "/usr/bin/python3"]
    else:
        names = [f"python{version}" for version in WHEEL_PYTHONS] + ["python3"]
        candidates = names + [f"/usr/bin/{name}" for name in names]
    objections = {}
    for name in candidates:
        path = shutil.which(name)
        if path in objections:
            continue
        if path is None:
            if wanted:
                objections[name] = "no such command"
            continue
        facts = probe(path, env, ["venv", "ensurepip"] + (["rclpy"] if ros else []))
        why = objection(facts, ros)
        if not why:
            return path, facts, ""
        objections[path] = why
    return None, None, "".join(f"\n    {path}: {why}" for path, why in objections.items())
