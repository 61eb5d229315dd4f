"""Streams of patches: the very pixels of single reads, each native tile decoded once, whatever the threads."""

import threading
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tissuary.featurize.patches.field import plan_field, read_patch, regions_of
from tissuary.featurize.patches.read_blocks import plan_blocks, visiting_order
from tissuary.featurize.patches.readers import FORWARD, READ, WAIT, WRITE, Readers, Stages
from tissuary.featurize.patches.resampling import resample_pil
from tissuary.featurize.patches.stream import PatchStream, ReadPlan
from tissuary.featurize.patches.tiles import TileReader
from tissuary.featurize.patches.views import View
from tissuary.store.errors import SlideError


class TiledSlide:
    """A pyramid in memory, cut into tiles; counts what is decoded, and can have a damaged tile."""

    def __init__(self, levels, tile_px, *, damaged=None):
        self.levels, self.damaged = levels, damaged
        self.level_dimensions = tuple((level.shape[1], level.shape[0]) for level in levels)
        self.level_downsamples = tuple(levels[0].shape[1] / level.shape[1] for level in levels)
        self.tile_px = tuple(tile_px for _ in levels)
        self.decoded = Counter()
        self._lock = threading.Lock()

    def read(self, level, x, y, width, height):
        assert x >= 0
        assert y >= 0
        assert x + width <= self.level_dimensions[level][0]
        assert y + height <= self.level_dimensions[level][1]
        return self.levels[level][y : y + height, x : x + width]

    def fetch_tile(self, level, column, row):
        return (level, column, row)

    def decode_tile(self, level, column, row, fetched, *, out=None):
        assert fetched == (level, column, row)
        if fetched == self.damaged:
            msg = "tile is damaged"
            raise SlideError(msg)
        with self._lock:
            self.decoded[fetched] += 1
        width, height = self.tile_px[level]
        tile = self.levels[level][row * height : (row + 1) * height, column * width : (column + 1) * width]
        assert tile.size
        if out is None or tile.shape != out.shape:
            return tile.copy()
        out[:] = tile
        return out


def pyramid(width=700, height=500, *, tile_px=(64, 48), factors=(1, 4), seed=0, **options):
    full = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    levels = [
        np.asarray(Image.fromarray(full).resize((width // f, height // f), Image.Resampling.BOX)) for f in factors
    ]
    return TiledSlide(levels, tile_px, **options)


def fields_of(slide):
    views = (View("a", 32.0, 0.5), View("b", 64.0, 1.0), View("c", 128.0, 2.0))
    return [plan_field(slide, view, mpp=0.5) for view in views]


def streamed(slide, visit, fields, *, threads=3):
    with Readers(threads) as readers:
        found = list(PatchStream(slide, visit, fields, readers=readers))
    return found


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 99),
    batch=st.integers(1, 17),
    block_px=st.sampled_from([90.0, 200.0, 1000.0]),
    threads=st.integers(1, 4),
)
def test_a_stream_gives_the_pixels_of_single_reads_and_decodes_each_tile_once(n, seed, batch, block_px, threads):
    slide = pyramid(seed=seed)
    fields = fields_of(slide)
    centers = np.random.default_rng(seed).uniform([0, 0], [700, 500], size=(n, 2))
    order = visiting_order(centers, block_px=block_px)
    assert sorted(order) == list(range(n))
    found = streamed(slide, ReadPlan(centers, order, block_px, batch), fields, threads=threads)
    assert [position for position, _ in found] == list(range(0, n, batch))
    for number, field in enumerate(fields):
        pixels = np.concatenate([one[number] for _, one in found])
        wanted = np.stack([read_patch(slide, field, centers[row]) for row in order])
        np.testing.assert_array_equal(pixels, wanted)
    assert set(slide.decoded.values()) == {1}


def test_only_the_tiles_under_patches_are_decoded():
    slide = pyramid()
    field = fields_of(slide)[0]  # 64 px at level 0, and the filter's reach of 2 px
    centers = np.array([[100.0, 100.0], [612.5, 401.0]])
    streamed(slide, ReadPlan(centers, visiting_order(centers, block_px=1000.0), 1000.0, 4), [field])
    touched = {
        (0, column, row)
        for x, y in centers
        for column in range(int((x - 34) // 64), int((x + 34) // 64) + 1)
        for row in range(int((y - 34) // 48), int((y + 34) // 48) + 1)
    }
    assert set(slide.decoded) == touched


@pytest.mark.parametrize("keep_bytes", [0, 30_000, 10**9])
def test_whatever_room_there_is_for_tiles_the_pixels_are_the_same(keep_bytes):
    slide = pyramid()
    fields = fields_of(slide)
    centers = np.random.default_rng(1).uniform([0, 0], [700, 500], size=(80, 2))
    centers = centers[visiting_order(centers, block_px=120.0)]
    blocks = plan_blocks(centers, fields, slide, block_px=120.0)
    with Readers(3) as readers:
        tiles = TileReader(slide, blocks, readers=readers, keep_bytes=keep_bytes)
        opened = [tiles.open_block(0)]
        for number, block in enumerate(blocks):
            if number + 1 < len(blocks):
                opened.append(tiles.open_block(number + 1))  # one ahead, as a stream has it
            current = opened.pop(0)
            for field in fields:
                regions, corners = regions_of(field, centers[block.start : block.stop])
                for position, (left, top) in enumerate(regions.tolist()):
                    region = current.canvas(field.level).region(left, top, field.region_px)
                    patch = resample_pil(region, corners[position], side_px=field.side_level_px, out_px=field.side_px)
                    np.testing.assert_array_equal(patch, read_patch(slide, field, centers[block.start + position]))
            tiles.close_block(current)
    assert (max(slide.decoded.values()) > 1) == (keep_bytes < 10**9)


def test_a_stream_that_is_closed_leaves_no_job_behind():
    slide = pyramid(2000, 2000, tile_px=(100, 100), factors=(1,))
    reading = threading.Semaphore(0)
    ended = threading.Event()
    real = slide.decode_tile

    def slow(*args, **options):
        reading.release()
        time.sleep(0.05)
        assert not ended.is_set(), "a tile was read after the stream was closed"
        return real(*args, **options)

    slide.decode_tile = slow
    centers = np.random.default_rng(0).uniform(100, 1900, size=(60, 2))
    field = plan_field(slide, View("v", 40.0, 0.5), mpp=0.5)
    visit = ReadPlan(centers, visiting_order(centers, block_px=400.0), 400.0, 8)
    with Readers(3) as readers:
        stream = PatchStream(slide, visit, [field], readers=readers)
        stream.start()
        reading.acquire()  # in the middle of a tile
        stream.close()
        ended.set()
        readers.submit(lambda: None).result()


def test_canvases_stay_within_their_room(monkeypatch):
    slide = pyramid(2000, 2000, tile_px=(100, 100), factors=(1,))
    axis = np.arange(100.0, 2000.0, 200.0)
    centers = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    field = plan_field(slide, View("v", 40.0, 0.5), mpp=0.5)
    order = visiting_order(centers, block_px=200.0)  # a block for each patch, of some 21 kB
    whole = streamed(slide, ReadPlan(centers, order, 200.0, 64), [field])
    monkeypatch.setattr("tissuary.featurize.patches.stream.AHEAD_BYTES", 100_000)
    opened = []
    real = TileReader.open_block

    def watched(self, index):
        found = real(self, index)
        opened.append(found.nbytes)
        return found

    closed = []
    real_close = TileReader.close_block

    def closing(self, block):
        closed.append(block.nbytes)
        real_close(self, block)
        assert sum(opened) - sum(closed) <= 100_000 + max(opened)

    monkeypatch.setattr(TileReader, "open_block", watched)
    monkeypatch.setattr(TileReader, "close_block", closing)
    tight = streamed(slide, ReadPlan(centers, order, 200.0, 64), [field])
    assert len(closed) > 50
    for (_, (ours,)), (_, (theirs,)) in zip(tight, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_stream_begun_later_gives_the_rest():
    slide = pyramid()
    fields = fields_of(slide)
    centers = np.random.default_rng(2).uniform([0, 0], [700, 500], size=(50, 2))
    order = visiting_order(centers, block_px=150.0)
    whole = streamed(slide, ReadPlan(centers, order, 150.0, 8), fields)
    rest = streamed(slide, ReadPlan(centers, order, 150.0, 8, start=24), fields)
    assert [position for position, _ in rest] == [24, 32, 40, 48]
    for (_, ours), (_, theirs) in zip(rest, whole[3:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert streamed(slide, ReadPlan(centers, order, 150.0, 8, start=50), fields) == []


def test_reading_ahead_is_bounded():
    slide = pyramid(2000, 2000, tile_px=(100, 100), factors=(1,))
    axis = np.arange(50.0, 2000.0, 100.0)
    centers = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    field = plan_field(slide, View("v", 40.0, 0.5), mpp=0.5)
    order = visiting_order(centers, block_px=200.0)  # 4 patches a block
    with Readers(2) as readers:
        stream = PatchStream(slide, ReadPlan(centers, order, 200.0, 8), [field], readers=readers)
        batches = iter(stream)
        next(batches)
        readers.submit(lambda: None).result()  # behind everything that was asked for
        assert len(slide.decoded) <= 4 * (8 * 3 + 4)
        stream.close()


def test_damage_is_told_and_ends_the_stream():
    slide = pyramid(damaged=(0, 3, 3))
    centers = np.array([[30.0, 30.0], [220.0, 160.0]])
    with pytest.raises(SlideError, match="tile is damaged"):
        streamed(slide, ReadPlan(centers, np.arange(2), 1000.0, 1), fields_of(slide)[:1])
    alone = streamed(slide, ReadPlan(centers[:1], np.arange(1), 1000.0, 1), fields_of(slide)[:1])
    assert len(alone) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)), max_size=50), st.floats(10, 1e4))
def test_blocks_come_one_after_another(points, block_px):
    centers = np.array(points, dtype=np.float64).reshape(-1, 2)
    order = visiting_order(centers, block_px=block_px)
    assert sorted(order) == list(range(len(centers)))
    cells = [tuple(cell) for cell in np.floor(centers[order] / block_px)]
    runs = [cell for i, cell in enumerate(cells) if i == 0 or cell != cells[i - 1]]
    assert len(runs) == len(set(runs))  # a block is entered once
    for cell in set(runs):
        inside = [row for row, at in zip(order, cells, strict=True) if at == cell]
        assert inside == sorted(inside)


@pytest.mark.parametrize(
    ("booked", "sentence"),
    [
        ({FORWARD: 9.5, WAIT: 0.3}, "The model is the limit: it computed 97% of the time and waited 3%"),
        ({FORWARD: 5.0, WAIT: 5.0, READ: 9.0}, "the model waited 50% of the time, mostly for read; put the slides on"),
        ({FORWARD: 1.0, WRITE: 3.0}, "Writing is the limit: 75%"),
        ({}, "Nothing was embedded"),
    ],
)
def test_the_bottleneck_is_named(booked, sentence):
    stages = Stages()
    for stage, seconds in booked.items():
        stages.add(stage, seconds, 10)
    report = stages.report(readers=2)
    assert sentence in report.bottleneck
    assert {stage.name: stage.seconds for stage in report.stages if stage.seconds} == booked
    assert all(stage.rate == pytest.approx(10 / stage.seconds) for stage in report.stages if stage.seconds)
