"""Every head by name: a plain dict one can read."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..store.choices import instead
from ..store.errors import HeadError
from .contract import Head
from .option_values import check_values


@dataclass(frozen=True)
class HeadEntry:
    """Where a head lives and what it is.

    Attributes
    ----------
    location
        "module:class" below `tissuary.heads`, imported when the head is made.
    control
        Whether it sees no, or only trivial, morphology.
    diagnostic
        Whether it looks at what no predictor has; it neither competes nor is it part of the floor.
    features
        Whether it reads the features that are compared; else it runs once, whatever their number.
    modes
        Modes beside the default one.
    """

    location: str
    summary: str
    control: bool = False
    diagnostic: bool = False
    features: bool = True
    modes: tuple[str, ...] = ()


HEADS: dict[str, HeadEntry] = {
    "mean": HeadEntry("baselines.controls:Mean", "training mean of every gene", control=True, features=False),
    "patient-mean": HeadEntry(
        "baselines.controls:PatientMean", "mean profile of the same patient", control=True, features=False
    ),
    "slide-feature-mean": HeadEntry(
        "baselines.controls:SlideFeatureMean", "slide-mean features to slide profile", control=True
    ),
    "coordinates": HeadEntry(
        "baselines.position:Coordinates", "quadratic of the spot's position", control=True, features=False
    ),
    "coordinates-smooth": HeadEntry(
        "baselines.position:SmoothCoordinates", "smooth field over the spot's position", control=True, features=False
    ),
    "density": HeadEntry(
        "baselines.controls:Density", "haematoxylin density of the patch, one number", control=True, features=False
    ),
    "predicted-depth": HeadEntry(
        "baselines.depth:PredictedDepth", "total counts as predicted by ridge, one slope per gene", control=True
    ),
    "depth": HeadEntry(
        "baselines.depth:Depth",
        "total counts as measured on the test spot",
        control=True,
        diagnostic=True,
        features=False,
    ),
    "shuffled": HeadEntry("baselines.controls:Shuffled", "ridge on targets shuffled within slides", control=True),
    "ridge": HeadEntry("linear.ridge:Ridge", "closed-form ridge on all views", modes=("hest",)),
    "knn": HeadEntry("baselines.knn:NearestNeighbours", "mean of the nearest training spots in feature space"),
    "forest": HeadEntry("baselines.forest:Forest", "random forest on principal components"),
    "boosted": HeadEntry("baselines.boosted:Boosted", "boosted trees on principal components of features and targets"),
    "mlp": HeadEntry("baselines.mlp:MLP", "two layers on all views side by side"),
    "m2ort": HeadEntry(
        "networks.m2ort:M2ORT",
        "levels of tokens over one region, mixed by attention and over channels",
        modes=("paper",),
    ),
    "m2ost": HeadEntry(
        "networks.m2ost:M2OST",
        "tokens of growing fields, mixed within and between levels and over channels",
        modes=("paper", "code"),
    ),
    "mmap": HeadEntry("networks.mmap.head:MMAP", "multi-view fusion with cohort prototypes", modes=("paper",)),
    "nh2st": HeadEntry(
        "networks.nh2st.head:NH2ST",
        "a spot and its surroundings in tissue, image and genes contrasted",
        modes=("context", "paper"),
    ),
    "triplex": HeadEntry("networks.triplex.head:Triplex", "a spot, its neighbours and its slide", modes=("paper",)),
    "cmrc": HeadEntry(
        "networks.cmrc:CMRC",
        "image and genes contrasted and rebuilt; the nearest training spots predict",
        modes=("fixed", "paper"),
    ),
    "bleep": HeadEntry(
        "networks.bleep:BLEEP", "image and genes contrasted; the nearest training spots predict", modes=("paper",)
    ),
    "egn": HeadEntry(
        "networks.egn:EGN", "views ask what their look-alikes of other patients express", modes=("paper",)
    ),
    "ensemble": HeadEntry("baselines.ensemble:Ensemble", "heads weighed by what they predict for slides held out"),
}


def make_head(name: str, **options: Any) -> Head:
    """Make a head from its name and its constructor's options.

    Parameters
    ----------
    name
        A head, or a head with a mode and options as the commands write them: `nh2st:neighbours=both,anchor=ridge`.
    options
        Of the constructor; they hold over those in `name`.

    Examples
    --------
    >>> make_head("knn:k=7").k
    7

    Raises
    ------
    HeadError
        If there is no head of that name, or it has no such option or value; the message names the nearest.
    """
    name, _, written = str(name).partition(":")
    if name not in HEADS:
        raise _no_head([name])
    cls = _class_of(name)
    options = parse_options(written) | options
    known = [one for one in inspect.signature(cls).parameters if one not in ("args", "kwargs")]
    unknown = [one for one in options if one not in known]
    if unknown:
        have = instead(unknown[0], known) if known else "it has none"
        what = f"mode {options['mode']!r}; of options" if unknown[0] == "mode" else f"option {unknown[0]!r}:"
        msg = f"head {name!r} has no {what} {have}"
        raise HeadError(msg)
    check_values(name, cls, options, modes=HEADS[name].modes)
    try:
        head: Head = cls(**options)
    except TypeError as error:
        msg = f"head {name!r}: {error}; see the options of {cls.__module__}.{cls.__name__}"
        raise HeadError(msg) from error
    return head


def parse_options(text: str) -> dict[str, object]:
    """Options from what follows the colon of a head: `hest`, `neighbours=both,anchor=ridge`, `paper,epochs=20`."""
    options: dict[str, object] = {}
    for part in text.split(",") if text else ():
        name, given, value = part.strip().partition("=")
        options |= {name.strip(): _value(value.strip())} if given else {"mode": name}
    return options


def takes_seed(name: str) -> bool:
    """Whether the constructor of a head has a `seed`."""
    return "seed" in inspect.signature(_class_of(name)).parameters


def _class_of(name: str) -> type[Head]:
    module, class_name = HEADS[name].location.split(":")
    found: type[Head] = getattr(importlib.import_module(f".{module}", __package__), class_name)
    return found


def _value(text: str) -> object:
    """An option's value as JSON reads it (True, False and None in any case), else the word itself."""
    words = {"none": "null", "true": "true", "false": "false", "null": "null"}
    try:
        return json.loads(words.get(text.lower(), text))
    except ValueError:
        return text


def _no_head(names: Sequence[str]) -> HeadError:
    return HeadError(f"there is no head {', '.join(map(repr, names))}: {instead(names[0], list(HEADS))}")


def resolve_heads(names: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Expand "all" and check names, in the registry's order and without repeats.

    Raises
    ------
    HeadError
        If a name is unknown.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name != "all" and name not in HEADS]
    if unknown:
        raise _no_head(unknown)
    return tuple(name for name in HEADS if "all" in wanted or name in wanted)
