"""Where a network computes."""

from __future__ import annotations

import torch

from ...store.errors import HeadError


def device_of(name: str) -> torch.device:
    """The device of that name.

    Raises
    ------
    HeadError
        If there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        msg = f"device {name!r} cannot be used here; choose cpu, cuda or auto"
        raise HeadError(msg) from error
