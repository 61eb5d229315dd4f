"""How fast patches of three views are read, before resampling.

    python -m tissuary.benchmarks.reading [--threads 2] [--factor 4]

Against decoding each native tile once, on as many threads (the ceiling), and against one `read_region` per patch and
view, as other tools read. The slide is a real section four times over, JPEG-tiled; patches are a grid over its tissue.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..featurize.patches.field import PatchField, plan_field, regions_of
from ..featurize.patches.read_blocks import BLOCK_PX, ReadBlock, plan_blocks, visiting_order
from ..featurize.patches.readers import Readers
from ..featurize.patches.tiles import OpenBlock, TileReader
from ..featurize.patches.views import resolve_view
from ..featurize.slides.open import open_slide
from ..featurize.slides.slide import Slide
from ..featurize.slides.thumbnail import read_thumbnail
from ..featurize.tissue.grid import grid_centers
from ..featurize.tissue.tissue import tissue_mask
from ..store.arrays import Floats
from .section_slide import write_section_slide

VIEWS = ("20x", "10x", "5x")
REPEATS = 7
RIVAL_PATCHES = 400


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--factor", type=int, default=4, help="downsample between levels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_section_slide(Path(folder) / "section.tif", times=2, factor=options.factor)
        with open_slide(path) as slide:
            mask = tissue_mask(read_thumbnail(slide))
            centers = grid_centers(mask, size_px=(slide.width, slide.height), mpp=0.5, tile_um=112.0).center_px
            centers = centers[visiting_order(centers, block_px=BLOCK_PX)]
            fields = [plan_field(slide, resolve_view(view, slide_mpp=0.5, input_px=224), mpp=0.5) for view in VIEWS]
            print(f"{slide.width} x {slide.height} px, {len(centers)} patches x {len(VIEWS)} views, {slide.reader}")
            times = _in_turns(
                lambda: _ours(slide, centers, fields, options.threads),
                lambda: _ceiling(slide, centers, fields, options.threads),
            )
            ours, ceiling = (len(centers) / seconds for seconds in times)
        rival = RIVAL_PATCHES / _rival(path, centers[:RIVAL_PATCHES], fields, options.threads)
    print(f"ours {ours:8.0f} patches/s   each tile once {ceiling:8.0f}   one read_region per patch {rival:8.0f}")
    print(f"reading ratio={ours / ceiling:.3f} goal=0.8")
    print(f"reading_over_read_region ratio={ours / rival:.2f} goal=5")


def _in_turns(*sides: Callable[[], None]) -> list[float]:
    """Median seconds of each, run in turns so that a busy machine slows all alike."""
    for side in sides:
        side()
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(REPEATS):
        for taken, side in zip(times, sides, strict=True):
            started = time.perf_counter()
            side()
            taken.append(time.perf_counter() - started)
    return [float(np.median(taken)) for taken in times]


def _ours(slide: Slide, centers: Floats, fields: list[PatchField], threads: int) -> None:
    """Every region of every patch, as a view on a canvas of decoded tiles; one of its values is looked at."""
    blocks = plan_blocks(centers, fields, slide, block_px=BLOCK_PX)
    regions = [regions_of(field, centers)[0].tolist() for field in fields]

    def look(opened: OpenBlock, block: ReadBlock) -> None:
        for field, corners in zip(fields, regions, strict=True):
            canvas, side = opened.canvas(field.level), field.region_px
            for left, top in corners[block.start : block.stop]:
                canvas.region(left, top, side)[side // 2, side // 2, 0]

    with Readers(threads) as readers:
        tiles = TileReader(slide, blocks, readers=readers)
        looking: deque[tuple[OpenBlock, Future[None]]] = deque()
        for number, block in enumerate(blocks):
            opened = tiles.open_block(number)
            looking.append((opened, readers.submit(look, opened, block)))
            if len(looking) > 2 or number + 1 == len(blocks):
                done, job = looking.popleft()
                job.result()
                tiles.close_block(done)
        for _, job in looking:
            job.result()


def _ceiling(slide: Slide, centers: Floats, fields: list[PatchField], threads: int) -> None:
    """Fetch and decode each tile that a patch needs, once, and let it go."""
    needed = {
        (need.level, *tile)
        for block in plan_blocks(centers, fields, slide, block_px=BLOCK_PX)
        for need in block.needs
        for tile in need.tiles
    }
    tiles = sorted(needed)

    def decode(part: list[tuple[int, int, int]]) -> None:
        for tile in part:
            slide.decode_tile(*tile, slide.fetch_tile(*tile))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, (tiles[start : start + 8] for start in range(0, len(tiles), 8))))


def _rival(path: Path, centers: Floats, fields: list[PatchField], threads: int) -> float:
    """Seconds of one OpenSlide `read_region` for each patch and view."""
    import openslide

    with openslide.OpenSlide(path) as slide:

        def read(center: Floats) -> None:
            for field in fields:
                side = round(field.side_level_px)
                corner = np.round(center - field.side_level_px * field.downsample / 2).astype(int)
                slide.read_region(tuple(corner.tolist()), field.level, (side, side))

        started = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, centers))
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
