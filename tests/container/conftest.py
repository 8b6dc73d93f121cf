"""The image is built once for a run, by the command that users build it with."""

from __future__ import annotations

import pytest

from tests.helpers.container import build_image


@pytest.fixture(scope="session")
def image_report() -> str:
    """What building the image prints at its end: how large it is."""
    return build_image()


@pytest.fixture(scope="session", autouse=True)
def _image(image_report: str) -> None:
    """Every test here is about the image as it is now."""
    assert image_report
