"""Optional packages, which single suites need and nothing else does: installed when they are missing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType

TIMEOUT = 600  # seconds for one pip


class MissingPackageError(RuntimeError):
    """An optional package is missing and can't be installed; the message says how to install it by hand."""


def import_optional(module: str, *packages: str, say: Callable[[str], None] | None = None) -> ModuleType:
    """Import a module; where it is missing, install its packages into the running environment first.

    What is installed already stays as it is: pip may add packages, and change none.

    Args:
        module: what is imported: ``easy_vqa``.
        packages: what pip calls it, with bounds if need be: ``easy-vqa``; none: the module's own name.
        say: told in one line that something is being installed; None: stderr.
    Raises:
        MissingPackageError: it is missing and pip can't install it.
    """
    packages = packages or (module,)
    found = _import(module)
    if found is not None:
        return found
    line = f"{module} is missing: installing {' '.join(packages)}"
    print(line, file=sys.stderr) if say is None else say(line)
    problem = _install(packages)
    importlib.invalidate_caches()
    found = _import(module)
    if found is None:
        raise MissingPackageError(
            f"{module} is missing and could not be installed ({problem or 'pip did, but it cannot be imported'}); "
            f"install it by hand: {sys.executable} -m pip install {' '.join(packages)}"
        )
    return found


def restart_with_optional(modules: Sequence[str], say: Callable[[str], None] | None = None) -> None:
    """Install those of the modules that are missing, and restart this process: Transformers looks for them at import.

    For a command, before its work: it starts again with the same arguments, and then sees them.

    Raises:
        MissingPackageError: as `import_optional`.
    """
    missing = [module for module in modules if _import(module) is None]
    for module in missing:
        import_optional(module, say=say)
    if missing:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _import(module: str) -> ModuleType | None:
    """The module, or None if it, or something it needs, is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _install(packages: tuple[str, ...]) -> str:
    """Run pip; what went wrong, in one line, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "installed.txt"
        pins = {f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions() if d.metadata["Name"]}
        kept.write_text("\n".join(sorted(pins)) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        try:
            run = subprocess.run(
                [*command, "--constraint", str(kept), *packages],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"pip: {error}"
    if run.returncode == 0:
        return ""
    lines = [line.strip() for line in (run.stderr or run.stdout).splitlines() if line.strip()]
    wrong = [line for line in lines if line.startswith("ERROR")] or lines
    return wrong[-1] if wrong else f"pip ended with {run.returncode}"
