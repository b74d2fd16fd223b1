"""What commands accept, as types for argparse: a wrong value is refused, by the option's name, before any work."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number within bounds."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise _refusal(text, "whole numbers", least, most) from None
        if number < least or (most is not None and number > most):
            raise _refusal(text, "whole numbers", least, most)
        return number

    return convert


def real_number(least: float, most: float | None = None, *, above: bool = False) -> Callable[[str], float]:
    """A finite number within bounds; above: `least` itself is not accepted."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise _refusal(text, "numbers", least, most, above) from None
        low = value > least if above else value >= least
        if not (math.isfinite(value) and low and (most is None or value <= most)):
            raise _refusal(text, "numbers", least, most, above)
        return value

    return convert


def renamed_to(new: str) -> Callable[[str], NoReturn]:
    """What an option of an earlier release accepts: nothing; the refusal says its name of today."""

    def convert(text: str) -> NoReturn:
        raise argparse.ArgumentTypeError(f"is now {new}")

    return convert


def output_file(text: str) -> Path:
    """A file that can be written; its folder is made."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            with path.open("ab"):
                pass
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text}: {error.strerror}; accepted is a file that can be written"
        ) from error
    return path


def output_folder(text: str) -> Path:
    """A folder that is there and can be written to, or can be made; it is not made yet."""
    path = Path(text)
    above = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        os.rmdir(tempfile.mkdtemp(dir=above))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror} ({above}); accepted is a folder") from error
    return path


def _refusal(
    text: str, what: str, least: float, most: float | None, above: bool = False
) -> argparse.ArgumentTypeError:
    bounds = f"{what} {'above' if above else 'from'} {least:g}" + ("" if most is None else f" to {most:g}")
    return argparse.ArgumentTypeError(f"{text!r}; accepted are {bounds}")
