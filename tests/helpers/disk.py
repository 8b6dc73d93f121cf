"""A disk that can lose its power: ext4 in a file, on a loop device."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.helpers.wait import wait_for

_MIB = 1024**2
# ext4's ioctl for tests of crashes (fs/ext4/ext4.h): from this moment on nothing more is written,
# not even the journal, so that the disk has what it would have after a power cut at that moment.
_SHUTDOWN = 0x8004587D
_WITHOUT_THE_JOURNAL = struct.pack("=I", 2)


class Disk:
    """As a context manager, it is gone at the end."""

    def __init__(self, directory: Path, mebibytes: int = 1024) -> None:
        self._image = directory / "disk.img"
        self.place = directory / "disk"
        self._size = mebibytes * _MIB

    def __enter__(self) -> Self:
        self.place.mkdir()
        with self._image.open("wb") as image:
            image.truncate(self._size)
        subprocess.run(["mkfs.ext4", "-q", self._image], check=True)
        self.mount()
        self.place.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", "--quiet", self.place], check=False)
        self._image.unlink()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.place], check=True)

    def cut_the_power(self) -> None:
        """Leave the disk as it is now; whoever writes to it gets errors."""
        descriptor = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_THE_JOURNAL)
        finally:
            os.close(descriptor)

    def come_back(self) -> None:
        """Do what a machine does at its next start. Nobody may use the disk any more."""
        wait_for(self._is_unmounted, "the disk to be free", interval=0.1)
        # Where another mount namespace has the old one still, that is what would be mounted.
        copy = self._image.with_suffix(".copy")
        subprocess.run(["cp", "--sparse=always", self._image, copy], check=True)
        copy.replace(self._image)
        done = subprocess.run(
            ["e2fsck", "-fy", self._image], capture_output=True, text=True, check=False
        )
        # e2fsck(8): 1 means that errors were corrected.
        assert done.returncode in {0, 1}, done.stdout + done.stderr
        self.mount()

    def _is_unmounted(self) -> bool:
        done = subprocess.run(["umount", self.place], capture_output=True, check=False)
        return done.returncode == 0


@functools.cache
def lacks_disks() -> str | None:
    """Say in one line what such a disk lacks on this machine, or None."""
    for program in ("mkfs.ext4", "e2fsck", "mount"):
        if not shutil.which(program):
            return f"there is no {program}"
    with tempfile.TemporaryDirectory() as directory:
        try:
            with Disk(Path(directory), mebibytes=8) as one:
                one.cut_the_power()
        except (OSError, subprocess.CalledProcessError) as error:
            return f"no ext4 on a loop device ({error})"
    return None
