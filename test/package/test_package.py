"""The package as a whole: its messages, its two build files, what is installed, and who may import whom."""

import array
import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import numpy as np
import pytest

steer_ros_msg = pytest.importorskip("steer_ros.msg", reason="needs ROS 2")
INSTALLED = Path(importlib.util.find_spec("steer_ros").origin).parent
PREFIX = Path(sys.prefix)
EXECUTABLES = ("perception", "reasoning", "vta", "replay")

PEER = """
import sys, time
import rclpy
from steer_ros.msg import RoiMask, RoiMaskArray

rclpy.init()
node = rclpy.create_node(sys.argv[1])
end = time.monotonic() + 30
if sys.argv[1] == "talker":
    publisher = node.create_publisher(RoiMaskArray, "roi_masks", 1)
    while time.monotonic() < end:
        publisher.publish(RoiMaskArray(masks=[RoiMask(label="seen", weights=[-127, 127])]))
        time.sleep(0.1)
else:
    got = []
    node.create_subscription(RoiMaskArray, "roi_masks", got.append, 1)
    while not got and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    print(got[0].masks[0].label, list(got[0].masks[0].weights))
"""


def imports_of(file, package="steer_ros"):
    """Everything that a Python file imports anywhere, by its whole name ("steer_ros.models.loading.resolve"): modules,
    and what is taken out of them. Relative imports are resolved in `package`, where the file lies."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            yield from (".".join([*base, *([node.module] if node.module else []), a.name]) for a in node.names)


def installed_imports():
    """(file, what it imports) for every Python file of the installed package."""
    for file in python_files(INSTALLED):
        package = ".".join(["steer_ros", *file.relative_to(INSTALLED).parent.parts])
        yield file, sorted(set(imports_of(file, package)))


def python_files(folder):
    generated = {INSTALLED / "msg", INSTALLED / "action"}
    return [f for f in sorted(folder.rglob("*.py")) if not generated & set(f.parents)]


def files_in(folder):
    """The files of a folder by their paths in it, byte code aside."""
    files = (f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    return {f.relative_to(folder) for f in files}


def test_one_version_everywhere(repo):
    manifest = ElementTree.parse(repo / "package.xml").getroot().findtext("version")
    setup = re.search(r'version="([^"]+)"', (repo / "setup.py").read_text()).group(1)
    assert manifest == setup == importlib.metadata.version("steer_ros")


def test_every_definition_is_built(repo):
    listed = set(re.findall(r"^\s+((?:msg|action)/\w+\.\w+)$", (repo / "CMakeLists.txt").read_text(), re.M))
    assert listed == {f"{d}/{f.name}" for d in ("msg", "action") for f in (repo / d).iterdir()}


def test_constants():
    mask = steer_ros_msg.RoiMask
    names = ("UNKNOWN", "GROUNDING", "SALIENCY", "PHRASE", "ROI", "TRACK")
    assert [getattr(mask, f"SOURCE_{name}") for name in names] == list(range(6))
    assert mask.WEIGHT_MAX == 127
    tokens = steer_ros_msg.VisualTokens
    assert len({tokens.DTYPE_FLOAT32, tokens.DTYPE_FLOAT16, tokens.DTYPE_BFLOAT16}) == 3
    assert steer_ros_msg.ActionText.CUT_NONE == steer_ros_msg.ActionText().cut_reason == ""


def test_every_result_carries_its_frames_header():
    for kind in ("RoiMaskArray", "VisualTokens", "ActionText"):
        assert getattr(steer_ros_msg, kind).get_fields_and_field_types()["header"] == "std_msgs/Header"


def test_masks_survive_serialisation():
    serialization = pytest.importorskip("rclpy.serialization")
    weights = np.array([-127, -1, 0, 1, 64, 127], np.int8)
    mask = steer_ros_msg.RoiMask(label="βήτα", track_id="7", grid_rows=2, grid_cols=3)
    mask.weights = array.array("b", weights.tobytes())
    sent = steer_ros_msg.RoiMaskArray(image_width=42, image_height=28, grid_rows=2, grid_cols=3, merge_size=2)
    sent.masks = [mask]
    sent.header.frame_id = "camera"
    got = serialization.deserialize_message(serialization.serialize_message(sent), steer_ros_msg.RoiMaskArray)
    assert got == sent
    np.testing.assert_array_equal(np.asarray(got.masks[0].weights, np.int8), weights)


def test_ask_has_its_parts():
    from steer_ros.action import Ask

    goal = Ask.Goal(question="what is it?", region="the red beaker")
    assert goal.box.width == 0
    assert isinstance(Ask.Result().action, steer_ros_msg.ActionText)
    assert Ask.Feedback.PHASE_THINK == "think"


def test_two_processes_talk_with_nothing_sourced(tmp_path):
    program = tmp_path / "peer.py"
    program.write_text(PEER)
    env = dict(os.environ)
    if (PREFIX / "lib" / "librcl.so").exists():  # ROS 2 from wheels: its Python needs nothing but itself
        env = {name: value for name, value in env.items() if name.startswith("ROS_")}
    command = [sys.executable, str(program)]
    talker = subprocess.Popen([*command, "talker"], env=env)
    try:
        heard = subprocess.run([*command, "listener"], env=env, capture_output=True, text=True, timeout=60)
    finally:
        talker.kill()
        talker.wait()
    assert heard.stdout == "seen [-127, 127]\n", heard.stderr


def test_what_is_installed_is_what_is_here(repo):
    for source, target in ((repo / "steer_ros", INSTALLED), (repo / "kernels", INSTALLED / "kernels")):
        for name in files_in(source):
            assert (target / name).read_bytes() == (source / name).read_bytes(), f"{name}: run `make setup`"
    leftovers = {f.relative_to(INSTALLED) for f in python_files(INSTALLED)}
    leftovers -= {f.relative_to(repo / "steer_ros") for f in (repo / "steer_ros").rglob("*.py")}
    leftovers -= {Path("kernels") / f.relative_to(repo / "kernels") for f in (repo / "kernels").rglob("*.py")}
    assert not leftovers
    share = PREFIX / "share" / "steer_ros"
    for name in ("launch", "config"):
        for file in files_in(repo / name):
            assert (share / name / file).read_bytes() == (repo / name / file).read_bytes()


@pytest.mark.parametrize("name", [f"lib/steer_ros/{node}" for node in EXECUTABLES] + ["bin/steer-ros"])
def test_executables(name):
    script = PREFIX / name
    assert os.access(script, os.X_OK)
    text = script.read_text()
    interpreter = re.match(r"""#!(?:/bin/sh\n'{3}exec' ")?(/[^"\n]+)""", text)[1]
    assert Path(interpreter).samefile(sys.executable)
    module = re.search(r"^from (\S+) import main$", text, re.M)[1]
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


def test_package_xml_names_what_the_nodes_import(repo):
    manifest = ElementTree.parse(repo / "package.xml").getroot()
    named = {e.text for e in manifest if e.tag in ("depend", "exec_depend")}
    files = python_files(INSTALLED) + sorted((repo / "launch").glob("*.py"))
    used = set()
    for file in files:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            used |= {n.partition(".")[0] for n in names}
    of_ros = re.compile(r"rclpy|cv_bridge|launch|launch_ros|ament_\w+|\w+_(msgs|interfaces)")
    assert {name for name in used if of_ros.fullmatch(name)} <= named
    keys = {"PIL": "python3-pil", "cv2": "python3-opencv", "numpy": "python3-numpy", "yaml": "python3-yaml"}
    assert {keys[name] for name in used & set(keys)} <= named


def test_only_nodes_know_ros():
    for file, names in installed_imports():
        if INSTALLED / "nodes" in file.parents:
            continue
        for name in names:
            root = name.partition(".")[0]
            assert root not in ("rclpy", "cv_bridge"), (file, name)
            assert not root.endswith(("_msgs", "_interfaces")), (file, name)
            assert not name.startswith(("steer_ros.msg", "steer_ros.action")), (file, name)


# Each room, and the rooms that its files may import besides their own.
ROOMS = {
    "kernels": set(),
    "regions": set(),
    "pipeline": set(),
    "steering": {"kernels"},
    "models": {"regions"},
    "perception": {"models", "regions"},
    "reasoning": {"models", "steering", "regions"},
    "nodes": {"perception", "reasoning", "models", "steering", "pipeline", "regions"},
    "commands": {"steering", "kernels"},
    "lab": {"models", "steering", "commands"},
    "evaluation": {"lab", "perception", "reasoning", "models", "steering", "regions", "commands"},
}
BESIDE = {"cli.py": {"commands"}, "__init__.py": set()}  # files beside the rooms


def test_every_room_imports_only_those_below_it():
    found = {file.relative_to(INSTALLED).parts[0] for file in python_files(INSTALLED)}
    assert found == {*ROOMS, *BESIDE}
    for file, names in installed_imports():
        room = file.relative_to(INSTALLED).parts[0]
        allowed = ROOMS[room] | {room} if room in ROOMS else BESIDE[room]
        for name in names:
            parts = name.split(".")
            if parts[0] == "steer_ros" and len(parts) > 1 and parts[1] in ROOMS:
                assert parts[1] in allowed, (file, name)


def test_kernels_have_one_face(repo):
    """Outside kernels/ everybody imports from steer_ros.kernels, nobody from its insides."""
    names = [(f, name) for f, given in installed_imports() if INSTALLED / "kernels" not in f.parents for name in given]
    names += [(file, name) for file in sorted((repo / "benchmark").glob("*.py")) for name in imports_of(file)]
    inside = [(f, name) for f, name in names if re.match(r"steer_ros\.kernels\.\w+\.", name)]
    assert not inside


def test_a_public_class_name_stands_for_one_thing(repo):
    found = {}
    for file in [*python_files(INSTALLED), *sorted((repo / "benchmark").glob("*.py"))]:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in found, (node.name, file, found[node.name])
                found[node.name] = file


def test_no_circle_of_files():
    """What is imported inside functions counts as well."""
    modules = {}
    for file in python_files(INSTALLED):
        parts = file.relative_to(INSTALLED).with_suffix("").parts
        modules[".".join(["steer_ros", *parts]).removesuffix(".__init__")] = file

    def module_of(name):
        return name if name in modules else name.rpartition(".")[0]

    imports = {
        file: {modules.get(module_of(name)) for name in names} - {None, file} for file, names in installed_imports()
    }
    done, way = set(), []

    def visit(file):
        assert file not in way, " -> ".join(str(f.relative_to(INSTALLED)) for f in [*way[way.index(file) :], file])
        if file in done:
            return
        way.append(file)
        for other in sorted(imports[file]):
            visit(other)
        done.add(way.pop())

    for file in sorted(imports):
        visit(file)


def test_pip_gets_the_library_without_ros(repo, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "package.xml", "LICENSE"):
        shutil.copy(repo / name, source)
    for name in ("steer_ros", "kernels"):
        shutil.copytree(repo / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*pip, "-w", str(tmp_path), str(source)], check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    wanted = files_in(source / "steer_ros") | {"kernels" / name for name in files_in(source / "kernels")}
    assert files_in(site / "steer_ros") == {name for name in wanted if name.parts[0] != "nodes"}
    check = "import sys, steer_ros.kernels as k; print(k.__file__); assert 'rclpy' not in sys.modules"
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    out = subprocess.run([sys.executable, "-c", check], env=env, capture_output=True, text=True, timeout=120)
    assert out.stdout.startswith(str(site)), out.stderr
