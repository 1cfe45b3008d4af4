"""A disk so small that it fills up: a tmpfs mounted for one test, where the machine permits it."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def tiny_disk(folder: Path, size: str) -> Iterator[Path]:
    """Return a context in which `folder` is a disk of its own, `size` as mount understands it ("1m")."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def resize_disk(folder: Path, size: str) -> None:
    """Give a mounted tiny disk another size; its files stay."""
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)
