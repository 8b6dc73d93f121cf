"""The image is built once for a run, by the command that users build it with."""

from __future__ import annotations

import subprocess

import pytest

from tests.helpers.server import ROOT


@pytest.fixture(scope="session")
def image_report() -> str:
    """What building the image prints at its end: how large it is."""
    done = subprocess.run(
        [ROOT / "tools" / "docker", "image"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="session", autouse=True)
def _image(image_report: str) -> None:
    """Every test here is about the image as it is now."""
    assert image_report
