"""scripts/setup: which Python is taken, what is mended, what a failed step shows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def prepare(repo, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(repo / "scripts" / "setup"))
    import prepare

    for name, folder in (("VENV", ".venv"), ("LOGS", "log"), ("BUILD", "build")):
        monkeypatch.setattr(prepare, name, tmp_path / folder)
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    monkeypatch.setattr(prepare, "DONE", tmp_path / ".venv" / "done.json")
    return prepare


def test_a_python_that_will_not_do_says_why(prepare):
    from find_python import objection, probe

    good = {"version": "3.11", "lacks": [], "headers": True}
    assert objection(good, ros=False) == ""
    assert "does not run" in objection(None, ros=False)
    assert "3.11 and 3.12" in objection({**good, "version": "3.13"}, ros=False)
    assert objection({**good, "version": "3.13"}, ros=True) == ""
    assert "rclpy" in objection({**good, "lacks": ["rclpy"]}, ros=True)
    assert "python3.11-venv" in objection({**good, "lacks": ["ensurepip"]}, ros=False)
    assert "python3.11-dev" in objection({**good, "headers": False}, ros=False)
    assert probe("/nonexistent/python3", {}) is None
    assert probe(sys.executable, None)["version"] == f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_a_shim_that_fails_is_passed_over(prepare, monkeypatch, tmp_path):
    from find_python import find_python

    shim = tmp_path / "python3.11"
    shim.write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(shim))
    path, _, objections = find_python(False, None)
    assert path is None
    assert f"{shim}: does not run" in objections


def test_steps_are_done_once(prepare):
    ran = []
    for key in ("a", "a", "b", "b"):
        prepare.Steps(1).run("step", key, "doing it", lambda key=key: ran.append(key))
    assert ran == ["a", "b"]
    with pytest.raises(ZeroDivisionError):
        prepare.Steps(1).run("step", "c", "doing it", lambda: 1 / 0)
    assert json.loads(prepare.DONE.read_text())["step"] is None  # the next run tries again


def test_exports_are_mended(prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(prepare, "VENV_PYTHON", sys.executable)
    here = tmp_path / "include"
    here.mkdir()
    folder = tmp_path / ".venv" / "share" / "std_msgs" / "cmake"
    folder.mkdir(parents=True)
    export = folder / "std_msgsExport.cmake"
    foreign = "/opt/python/cp311-cp311/include/python3.11"
    foreign += ";/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"
    export.write_text(f'  INTERFACE_INCLUDE_DIRECTORIES "{here};{foreign}"\n')
    prepare.mend_exports()
    folders = export.read_text().split('"')[1].split(";")
    assert folders[0] == str(here)
    assert (Path(folders[1]) / "Python.h").exists()
    assert (Path(folders[2]) / "numpy" / "arrayobject.h").exists()


def test_paths_with_letters_beyond_ascii_are_read_whole(prepare):
    script = Path(sys.prefix) / "share" / "rosidl_adapter" / "cmake" / "rosidl_adapt_interfaces.cmake"
    if not script.exists():
        pytest.skip("rosidl_adapter is not of a wheel here")
    assert prepare.OF_ANY_PATH in script.read_text()


def test_a_new_environment_forgets_what_cmake_knew_of_the_old_one(prepare, monkeypatch):
    stale = prepare.BUILD / "steer_ros" / "CMakeCache.txt"
    stale.parent.mkdir(parents=True)
    stale.write_text("PYTHON_INSTALL_DIR:INTERNAL=lib/python3.11/site-packages")
    monkeypatch.setattr(prepare, "run", lambda *arguments: None)
    prepare.make_venv(prepare.Steps(1), sys.executable, [], {})
    assert not stale.exists()


def test_what_an_earlier_build_left_goes_with_its_empty_folders(prepare):
    site = prepare.VENV / "lib" / "site-packages"
    stale = [site / "steer_ros-0.1.0.egg-info" / "PKG-INFO", site / "steer_ros" / "models" / "perceiver.py"]
    kept = site / "steer_ros" / "models" / "loading.py"
    elsewhere = prepare.ROOT / "by_hand.py"
    for file in (*stale, kept, elsewhere):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    prepare.remove_stale(map(str, [*stale, elsewhere, site / "none" / "gone.py"]))
    assert not stale[0].parent.exists() and not stale[1].exists()
    assert kept.exists() and elsewhere.exists()


def test_a_failed_step_shows_the_error_and_the_log(prepare):
    program = (
        "import sys; print('\\n'.join(f'line {i}' for i in range(50))); print('ERROR: no such thing'); sys.exit(3)"
    )
    with pytest.raises(prepare.Failure) as raised:
        prepare.run([sys.executable, "-c", program], "step.log", "The step failed.", None)
    assert "The step failed." in str(raised.value)
    assert "ERROR: no such thing" in str(raised.value)
    assert "log/step.log" in str(raised.value)


def test_our_own_environment_is_no_ros_distribution(prepare, monkeypatch, tmp_path):
    for prefix in (tmp_path / ".venv", tmp_path / "distribution"):
        marker = prefix / "share" / "ament_index" / "resource_index" / "packages"
        marker.mkdir(parents=True)
        (marker / "rclpy").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / ".venv"))
    assert prepare.sourced_ros() == []
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / '.venv'}:{tmp_path / 'distribution'}")
    assert prepare.sourced_ros() == [tmp_path / "distribution"]


@pytest.mark.skipif(Path(sys.prefix).name != ".venv", reason="needs the environment that `make setup` makes")
def test_the_source_folder_never_hides_the_built_package(repo):
    command = [sys.executable, "-c", "import steer_ros.msg; print(steer_ros.__file__)"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    out = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True, timeout=60)
    assert out.stdout.startswith(sys.prefix), out.stderr
