"""Jobs that are killed, and two jobs on one store: what is there at the end is what an undisturbed run makes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuary.benchmarks.kill import BLOCK_ROWS, TINY, contents, dense_options, kill_and_resume
from tissuary.featurize import featurize
from tissuary.featurize.backbones.encoder import Encoder
from tissuary.store import Store
from tissuary.store.errors import StoreError
from tissuary.store.files.lock import slide_lock
from tissuary.store.files.schema import features_path
from tissuary.synthetic.cohort import write_cohort

KEY, GRID = "tiny+random0@20x", "grid-40um-tile112um-tissue0.2"


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Options of a run of three blocks a slide, through a network that costs nothing."""
    record = tmp_path_factory.mktemp("record") / "tiny.json"
    record.write_text(json.dumps(TINY))
    return dense_options(str(record))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), patients=2, slides_per_patient=1, spots_per_side=5)


@pytest.fixture(scope="module")
def whole(cohort, dense, tmp_path_factory):
    """A store that nobody disturbed."""
    root = tmp_path_factory.mktemp("whole") / "store"
    report = featurize(cohort, root, options=dense)
    assert not report.failed
    assert all(slide.resumed == 0 for slide in report.done)
    assert min(slide.patches for slide in report.done) > 2 * BLOCK_ROWS
    return root


class Stopped(BaseException):
    """Ends a run as a kill does, at a chosen place: nothing catches it."""


def stopped_after(cohort, root, patches, *, options):
    """Run until so many patches of the first slide are done."""

    def tell(slide, done, total):
        if done >= patches:
            raise Stopped

    with pytest.raises(Stopped):
        featurize(cohort, root, options=options, progress=tell)


def test_a_killed_job_comes_out_byte_for_byte_the_same(cohort, whole, tmp_path):
    recomputed, different = kill_and_resume(cohort, tmp_path, whole=whole, kills=1, seed=5, within_s=9.0)
    assert different == []
    assert max(recomputed, default=0) <= BLOCK_ROWS


def test_a_stopped_job_goes_on_where_it_was(cohort, dense, whole, tmp_path):
    root = tmp_path / "store"
    stopped_after(cohort, root, 2 * BLOCK_ROWS + 40, options=dense)
    partial = features_path(root, "P01-S1", key=KEY, patches=GRID)
    assert not partial.exists()
    assert Store(root).keys(patches=GRID) == ()
    asked = []
    report = featurize(cohort, root, options=dense, progress=lambda slide, done, total: asked.append((slide, done)))
    assert report.done[0].resumed == 2 * BLOCK_ROWS
    assert asked[0] == ("P01-S1", 2 * BLOCK_ROWS + 32)
    assert contents(root) == contents(whole)


def test_a_frozen_plan_is_followed_whatever_is_asked_later(cohort, dense, whole, tmp_path):
    root = tmp_path / "store"
    stopped_after(cohort, root, BLOCK_ROWS + 40, options=dense)
    report = featurize(cohort, root, options=replace(dense, batch=7, readers=5))
    assert report.done[0].resumed == BLOCK_ROWS
    store, other = Store(root), Store(whole)
    first, second = (slide.slide_id for slide in report.done)
    assert store.features(KEY, first, patches=GRID).tobytes() == other.features(KEY, first, patches=GRID).tobytes()
    assert store.header(KEY, first, patches=GRID).plan["batch"] == 32
    # The other slide was begun under the new plan, and agrees within rounding.
    assert store.header(KEY, second, patches=GRID).plan["batch"] == 7
    ours, theirs = (one.features(KEY, second, patches=GRID) for one in (store, other))
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)


def test_a_file_that_is_added_later_leaves_the_unfinished_one_its_work(cohort, dense, whole, tmp_path):
    root = tmp_path / "store"
    stopped_after(cohort, root, 2 * BLOCK_ROWS + 40, options=replace(dense, tokens=()))
    report = featurize(cohort, root, options=dense)
    assert report.done[0].resumed == 2 * BLOCK_ROWS  # of the vectors; the tokens begin at the first patch
    assert contents(root) == contents(whole)


def test_nan_is_told_with_slide_and_row_and_what_was_done_is_kept(cohort, dense, whole, tmp_path, monkeypatch):
    root = tmp_path / "store"
    real, calls = Encoder.encode_with_grids, []

    def broken(self, patches, *, grids):
        vectors, tokens = real(self, patches, grids=grids)
        vectors = vectors.clone()
        calls.append(len(patches))
        if len(calls) == BLOCK_ROWS // 32 + 3 + 1:  # the fourth batch of the second block
            vectors[5, 7] = torch.nan
        return vectors, tokens

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode_with_grids", broken)
        report = featurize(cohort, root, options=dense)
    (failed,) = report.failed
    assert failed[0] == "P01-S1"
    assert "NaN or infinity in row " in failed[1]
    assert f"{KEY} (backbone tiny+random0)" in failed[1]
    row = int(failed[1].split(" row ")[1].split()[0])
    patches = Store(root).patches("P01-S1", patches=GRID)
    from tissuary.featurize.patches.read_blocks import BLOCK_PX, visiting_order

    assert visiting_order(patches.center_px, block_px=BLOCK_PX)[BLOCK_ROWS + 3 * 32 + 5] == row
    again = featurize(cohort, root, options=dense)
    assert again.done[0].resumed == BLOCK_ROWS
    assert contents(root) == contents(whole)


def test_a_slide_that_another_process_writes_is_left_to_it(cohort, dense, tmp_path):
    root = tmp_path / "store"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tissuary.store.files.lock import slide_lock\n"
        "with slide_lock(Path(sys.argv[1]), 'P01-S1'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        options = replace(dense, overlap_um=0.0)
        report = featurize(cohort, root, options=options)
        assert [slide.slide_id for slide in report.done] == ["P02-S1"]
        assert f"another job (process {holder.pid}" in report.failed[0][1] or str(holder.pid) in report.failed[0][1]
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert not featurize(cohort, root, options=options).failed  # the lock died with its process
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_a_lock_is_let_go_when_the_slide_is_done(whole):
    for slide_id in ("P01-S1", "P02-S1"):
        with slide_lock(whole, slide_id):
            pass
    with slide_lock(whole, "P01-S1"), pytest.raises(StoreError, match="P01-S1"), slide_lock(whole, "P01-S1"):
        pass


def test_a_damaged_file_is_written_anew_as_it_was(cohort, dense, whole, tmp_path):
    root = tmp_path / "store"
    featurize(cohort, root, options=dense)
    path = features_path(root, "P02-S1", key=KEY, patches=GRID)
    path.write_bytes(path.read_bytes()[:2000])
    started = time.time()
    report = featurize(cohort, root, options=dense)
    assert [slide.written for slide in report.done] == [0, 1]
    assert path.stat().st_mtime >= started - 1
    assert contents(root) == contents(whole)
