"""Every test runs against the installed steer_ros, on a ROS domain of its own."""

import contextlib
import os
import random
import re
import socket
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the folder it runs in on sys.path, where steer_ros/ would hide the installed package.
# So would `python -m` in a process that a test starts.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
os.environ["PYTHONSAFEPATH"] = "1"
# The models of the tests are so small that a second thread costs more than it gives; read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without a GPU the Triton kernels run in Triton's interpreter, which is chosen when triton is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def used_domains():
    """ROS domains of which Fast DDS has ports in shared memory. A process that was killed leaves its ports there, and
    whoever comes after it in the same domain may lose messages."""
    names = (file.name for file in Path("/dev/shm").glob("fastdds_port*"))
    ports = (int(port[1]) for port in map(re.compile(r"fastdds_port(\d+)").match, names) if port)
    return {(port - 7400) // 250 for port in ports}


def claim_domain():
    """A ROS domain that no other test run on this machine has, and the socket that holds it for us."""
    used = used_domains()
    for domain in sorted(random.SystemRandom().sample(range(1, 101), 100), key=used.__contains__):
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            holder.bind(("127.0.0.1", 22_200 + domain))
        except OSError:
            holder.close()
        else:
            return domain, holder
    raise RuntimeError("all ROS domains from 1 to 100 are taken by other test runs")


DOMAIN, HOLDER = claim_domain()
os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
LOGS = tempfile.TemporaryDirectory(prefix="steer_ros_test_")
os.environ["ROS_LOG_DIR"] = LOGS.name


def stale_files(installed):
    """Source files whose installed copy is missing or differs."""
    pairs = [(ROOT / "steer_ros", installed), (ROOT / "kernels", installed / "kernels")]
    for source, target in pairs:
        for file in source.rglob("*.py"):
            copy = target / file.relative_to(source)
            if not copy.exists() or copy.read_bytes() != file.read_bytes():
                yield file.relative_to(ROOT)


def pytest_configure(config):
    import steer_ros

    installed = Path(steer_ros.__file__).parent
    if installed == ROOT / "steer_ros":
        pytest.exit("steer_ros is not installed here: run `make setup`, then use .venv/bin/python", 4)
    config.steer_ros_installed = installed


def pytest_report_header(config):
    lines = [f"steer_ros: {config.steer_ros_installed}, ROS domain {DOMAIN}"]
    stale = sorted(stale_files(config.steer_ros_installed))
    if stale:
        lines.append(f"WARNING: {len(stale)} files changed since `make setup`, {stale[0]} the first")
    return lines


@pytest.fixture(scope="session")
def repo():
    """The root of the repository."""
    return ROOT


@pytest.fixture
def another_load():
    """A context in which another thread loads a bfloat16 model: for the whole process Transformers then changes the
    dtype that PyTorch makes tensors in."""
    import torch

    @contextlib.contextmanager
    def under_way():
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    return under_way


@pytest.fixture(scope="session")
def ros_domain():
    """The ROS domain of this test run; already in ROS_DOMAIN_ID for this process and those it starts."""
    return DOMAIN
