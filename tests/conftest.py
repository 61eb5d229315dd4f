"""Shared by all tests: one thread, and the real data where a machine has them."""

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)  # before pytest applies -m
def pytest_collection_modifyitems(items):
    """Whatever asks for the real data is marked so."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_data)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # On contended cores two OpenMP threads are slower than one.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data():
    """Folder of real sections, slides and weights, laid out as `her2st/`, `mob/`, `slides/`, `weights/`."""
    folder = Path(os.environ.get("TISSUARY_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "her2st").is_dir():
        pytest.skip(f"no real data in {folder}: set TISSUARY_DATA to the folder that holds her2st/, mob/ and slides/")
    return folder
