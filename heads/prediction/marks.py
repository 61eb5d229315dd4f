"""Which prediction a picture or GeoJSON shows: written into it, read from it, and those of others removed."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import struct
from pathlib import Path

from ...store.atomic import disk_errors
from .slide_map import SlideMap

log = logging.getLogger(__name__)

RUN, PREDICTION, SHOWN = "tissuary-run", "tissuary-prediction", "tissuary-shown"
"""Names of the entries: id of the run, digest of all that the prediction depends on, and of how it is shown."""

STYLE = 2
"""Raised where pictures or GeoJSON of the same prediction change, so that older ones are written anew."""

PNG = b"\x89PNG\r\n\x1a\n"
MOST_BYTES = 4096
"""A mark lies in the first line of a GeoJSON, and in chunks no longer than this."""

Mark = dict[str, str]


def mark_of(slide: SlideMap, *shown: str) -> Mark:
    """What is written into all that shows a prediction.

    Parameters
    ----------
    shown
        All that a picture or GeoJSON says beside the prediction itself.
    """
    digests = (hashlib.sha256(words.encode()).hexdigest() for words in (slide.identity, json.dumps([STYLE, *shown])))
    return dict(zip((RUN, PREDICTION, SHOWN), (slide.facts.run["id"], *digests), strict=True))


def read_mark(path: Path) -> Mark:
    """The mark of a `.png` or `.geojson`; empty where there is no file, or none of tissuary's."""
    try:
        with path.open("rb") as file:
            if file.read(len(PNG)) == PNG:
                return _of_chunks(file.read(MOST_BYTES))
            file.seek(0)
            line = file.readline(MOST_BYTES).decode(errors="replace")
    except OSError:
        return {}
    try:
        words = json.loads(line.rstrip() + "]}")  # as write_qupath begins it: the features open on its end
    except ValueError:
        return {}
    words = words if isinstance(words, dict) else {}
    return {name: str(words[name]) for name in (RUN, PREDICTION, SHOWN) if name in words}


def remove_shown(folder: Path, slide_id: str) -> None:
    """Remove what was drawn of an earlier prediction of a slide.

    Files without a mark stay: a picture of the slide, or annotations that somebody drew, may have such a name too.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    # Without a dot in what stands for the gene: A.left.FN1.png is of the slide A.left, not of A.
    ours = re.compile(re.escape(slide_id) + r"(\.[A-Za-z0-9_+-]+\.png|\.geojson)")
    with disk_errors(folder):
        for path in sorted(folder.iterdir()):
            if ours.fullmatch(path.name) and read_mark(path):
                log.info("removing %s, which shows an earlier prediction", path)
                path.unlink()


def _of_chunks(content: bytes) -> Mark:
    """Marks among the first chunks of a PNG: length, kind, content, checksum (PNG specification, 5.3, 11.3.3.2)."""
    found, start = {}, 0
    while start + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        if kind == b"IDAT":
            break
        name, _, text = content[start + 8 : start + 8 + length].partition(b"\0")
        if kind == b"tEXt" and name.decode("latin-1") in (RUN, PREDICTION, SHOWN):
            found[name.decode("latin-1")] = text.decode("latin-1")
        start += length + 12
    return found
