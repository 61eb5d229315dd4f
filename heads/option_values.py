"""Whether the values of a head's options can be meant, before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np

from ..store.choices import nearest
from ..store.errors import HeadError
from ..store.option_types import wanted_type

AT_LEAST = {
    "members": 1, "epochs": 0, "trees": 1, "leaf": 1, "rounds": 1, "k": 1, "hidden": 1, "width": 1,
    "dropout": 0, "alpha": 0, "weight_decay": 0, "contrast": 0, "reconstruction": 0, "distillation": 0,
}  # fmt: skip
"""Smallest value of options that are numbers, in every head that has them."""

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?|mps|xpu(:\d+)?|meta")


def check_values(head: str, cls: type, options: Mapping[str, object], *, modes: Iterable[str]) -> None:
    """Refuse a value of the wrong type, a word that an option does not have, or a number that means nothing.

    Parameters
    ----------
    head
        Its name, for the message.
    cls
        Of the head; its constructor's annotations are the types, and its `choices`, if it has them, the words.
    options
        As they are given to the constructor, all of which it has.
    modes
        Of the head, beside the default one.

    Raises
    ------
    HeadError
        If there is one; the message names the option, its value and what it takes.
    """
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    choices = {"mode": tuple(dict.fromkeys(["default", *modes])), "anchor": ("ridge",)} | getattr(cls, "choices", {})
    for name, value in options.items():
        hint, words = hints.get(name), tuple(choices.get(name, ()))
        wanted = _wanted_word(value, hint, words) if words else _wanted_number(name, value, hint)
        if wanted:
            lacks = f"has no {name} {value!r}" if words else f"does not take {name}={value!r}"
            msg = f"head {head!r} {lacks}: {wanted}"
            raise HeadError(msg)


def _wanted_word(value: object, hint: Any, words: tuple[str, ...]) -> str:
    """The words to choose from, or nothing where the value is one of them."""
    none = NoneType in get_args(hint)
    if str(value) in words or (value is None and none):
        return ""
    near, every = nearest(str(value), words), ", ".join([*words, *["None"] * none])
    return f"did you mean {near[0]}? Choose {every}" if near else f"choose {every}"


def _wanted_number(name: str, value: object, hint: Any) -> str:
    """What else an option takes, or nothing where the value is that."""
    if wrong := wanted_type(value, hint):
        return f"give {wrong}"
    if name == "device" and not DEVICE.fullmatch(str(value)):
        return "choose auto, cpu, cuda, or one GPU such as cuda:1"
    if isinstance(value, int | float | np.integer | np.floating):
        if name in AT_LEAST and value < AT_LEAST[name]:
            return f"give {AT_LEAST[name]} or more"
        if name == "dropout" and value >= 1:
            return "give a share below 1"
    return ""
