"""Several jobs on one cohort: equal shares, one job at a slide, and smaller batches where memory gives out."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tissuary.benchmarks.kill import contents, differences
from tissuary.cli.main import main
from tissuary.featurize import FeaturizeOptions, featurize, job_plan
from tissuary.featurize.backbones.encoder import Encoder
from tissuary.featurize.dry_run import dry_run
from tissuary.featurize.sources.load import load_cohort
from tissuary.featurize.workers.shards import Shard, deal, dearest_first, image_bytes, parse_shard, shard_of
from tissuary.store import Store
from tissuary.store.errors import CohortError, StoreError
from tissuary.store.files import lock as claims
from tissuary.store.files.lock import SlideBusyError, check_claim, claim
from tissuary.synthetic.cohort import write_cohort
from tissuary.tests.crowds import one_at_a_time

OPTIONS = FeaturizeOptions(views=("20x",), threads=1, batch=16, readers=2)
FILES_A_SLIDE = 2  # stain-texture and the density control

JOB = """
import json, sys, torch
from dataclasses import replace
from tissuary.featurize import FeaturizeOptions, featurize
torch.set_num_threads(1)
options = FeaturizeOptions(views=("20x",), threads=1, batch=16, readers=2)
print("ready", flush=True)
for line in sys.stdin:
    store, shard = line.split()
    report = featurize(sys.argv[1], store, options=replace(options, shard=shard))
    written = {slide.slide_id: slide.written for slide in report.done}
    print(json.dumps([written, dict(report.left), report.failed]), flush=True)
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return write_cohort(folder, patients=2, slides_per_patient=2, spots_per_side=3, pitch_um=150.0, n_genes=40)


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "store"
    assert len(featurize(cohort, root, options=OPTIONS).done) == 4
    return root


@pytest.mark.parametrize("text", ["2/2", "0/0", "-1/2", "1", "a/b", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(CohortError, match="wanted i/n with i from 0 to n - 1"):
        parse_shard(text)
    with pytest.raises(CohortError, match="wanted i/n"):
        FeaturizeOptions(shard=text)


tasks = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, 10**9), max_size=30)


@given(tasks, st.integers(1, 9), st.randoms())
def test_every_task_is_dealt_once_in_any_order_and_loads_differ_by_one_task_at_most(cost, count, random):
    names = list(cost)
    jobs = dict(zip(names, deal(names, [cost[name] for name in names], count=count), strict=True))
    assert set(jobs.values()) <= set(range(count))
    load = [sum(cost[name] for name in names if jobs[name] == job) for job in range(count)]
    assert max(load) - min(load) <= max(cost.values(), default=0)
    random.shuffle(names)
    assert jobs == dict(zip(names, deal(names, [cost[name] for name in names], count=count), strict=True))


def test_what_costs_nothing_is_dealt_by_turns_and_the_dearest_first():
    assert deal(["a", "b", "c", "d"], [0, 0, 0, 0], count=2) == [0, 1, 0, 1]
    assert deal(["a", "b", "c", "d", "e"], [3, 3, 2, 2, 2], count=2) == [0, 1, 0, 1, 0]  # by hand: 3+2+2, 3+2


def test_a_slide_of_many_files_weighs_what_they_weigh_together(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"1" * 7)
    (tmp_path / "b.mrxs").write_bytes(b"1" * 2)
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / "b" / "Data0001.dat").write_bytes(b"1" * 30)
    (tmp_path / "b" / "deep" / "Index.dat").write_bytes(b"1" * 400)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "other").write_bytes(b"1" * 1000)  # not a part of a.svs
    assert image_bytes(tmp_path / "a.svs") == 7
    assert image_bytes(tmp_path / "b.mrxs") == 432
    assert image_bytes(tmp_path / "b") == 430
    assert image_bytes(tmp_path / "none.svs") == 0


def test_shards_part_the_cohort_and_do_not_see_the_store(cohort, whole):
    samples = load_cohort(cohort).samples
    parts = [shard_of(samples, Shard(index, 3)) for index in range(3)]
    assert sorted(one.slide_id for part in parts for one in part) == sorted(one.slide_id for one in samples)
    assert sorted(len(part) for part in parts) == [1, 1, 2]  # four slides of much the same size
    largest = max(samples, key=lambda one: one.image.stat().st_size)
    assert dearest_first(samples)[0] == largest
    assert largest in parts[0]
    plan = dry_run(cohort, whole, options=replace(OPTIONS, shard="0/3"))
    assert [slide.slide_id for slide in plan.slides] == [one.slide_id for one in parts[0]]
    report = featurize(cohort, whole, options=replace(OPTIONS, shard="0/3"))
    assert [slide.slide_id for slide in report.done] == [one.slide_id for one in parts[0]]
    assert f"shard 0/3: {len(parts[0])} of 4 slides" in report.source
    empty = featurize(cohort, whole, options=replace(OPTIONS, shard="7/9"))
    assert (empty.done, empty.failed) == ((), ())


def test_two_jobs_at_once_make_one_store_whether_their_shards_overlap_or_not(cohort, whole, tmp_path):
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, str(cohort)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert job.stdout.readline() == "ready\n"
        for shards in (("0/2", "1/2"), ("0/2", "0/2")):
            root = tmp_path / "-".join(shards).replace("/", "of")
            print(root, shards[0], file=job.stdin, flush=True)
            ours = featurize(cohort, root, options=replace(OPTIONS, shard=shards[1]))
            reports = [json.loads(job.stdout.readline())]
            reports.append([{slide.slide_id: slide.written for slide in ours.done}, dict(ours.left), list(ours.failed)])
            said = [set(written) | set(left) for written, left, _ in reports]
            assert [failed for _, _, failed in reports] == [[], []]
            written = {slide: sum(written.get(slide, 0) for written, _, _ in reports) for slide in said[0] | said[1]}
            assert set(written.values()) == {FILES_A_SLIDE}  # each file by one job
            if len(set(shards)) == 2:
                assert not said[0] & said[1]
                assert [left for _, left, _ in reports] == [{}, {}]
                assert differences(whole, root) == []
            else:
                assert said[0] == said[1]
                assert len(said[0]) == 2
                expected = {n: v for n, v in contents(whole).items() if any(f"/{slide}.h5:" in n for slide in said[0])}
                assert contents(root) == expected
            assert not list((root / ".locks").glob("*.claim"))
    finally:
        job.kill()
        job.communicate()


def test_a_slide_that_another_job_is_at_is_looked_at_again_then_left(
    cohort, whole, tmp_path, caplog, capsys, monkeypatch
):
    root = shutil.copytree(whole, tmp_path / "s")
    for path in root.rglob("P01-S1.*"):
        path.unlink()
    others = threading.Event()

    def hold():
        with claim(root, "P01-S1"):
            others.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    while not (root / ".locks" / "P01-S1.claim").exists():
        time.sleep(0.01)
    rows = cohort.read_text().splitlines(keepends=True)
    two = cohort.with_name("two.csv")
    two.write_text("".join((rows[0], rows[1], rows[4])))
    words = ["featurize", str(two), "--store", str(root), "--views", "20x", "--threads", "1", "--shard", "0/1"]
    monkeypatch.setattr(sys, "argv", ["tissuary", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert f"LEFT P01-S1: another job is at slide P01-S1 (process {os.getpid()} on {socket.gethostname()} since" in said
    assert "FAILED" not in said
    assert Store(root).slide_ids == ("P01-S2", "P02-S1", "P02-S2")

    def tell(slide_id, done, total):
        others.set()
        holder.join()

    (root / "features" / "spots" / "stain-texture@20x" / "P02-S2.h5").unlink()
    report = featurize(two, root, options=OPTIONS, progress=tell)  # let go of while P02-S2 is made
    assert {slide.slide_id: slide.written for slide in report.done} == {"P01-S1": 2, "P02-S2": 1}
    assert report.left == ()
    assert "slide P01-S1 is put off: another job is at slide P01-S1" in caplog.text


def test_of_many_threads_one_gets_the_claim(tmp_path):
    assert one_at_a_time(lambda: claim(tmp_path, "C2"), SlideBusyError) == (5, 35)
    assert list((tmp_path / ".locks").iterdir()) == []


def left_by(root, **changes):
    """The claim of a job, changed, as if it were still there."""
    with claim(root, "C2"):
        path = root / ".locks" / "C2.claim"
        content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))
    return path


def test_a_dead_jobs_claim_is_taken_over_at_once_on_its_machine(tmp_path, caplog):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom tissuary.store.files.lock import claim\n"
        "with claim(Path(sys.argv[1]), 'C2'):\n    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    assert (tmp_path / ".locks" / "C2.claim").exists()
    with claim(tmp_path, "C2"):
        assert json.loads((tmp_path / ".locks" / "C2.claim").read_text())["pid"] == os.getpid()
    assert "slide C2: taken over from process" in caplog.text
    left_by(tmp_path, born="1")  # the number of the dead process was given to this one
    with claim(tmp_path, "C2"):
        pass
    assert list((tmp_path / ".locks").iterdir()) == []


@pytest.mark.parametrize(
    "changes", [{"host": "node-7"}, {"boot": "before the power cut"}, {"pid_namespace": "pid:[1]"}]
)
def test_elsewhere_a_claim_holds_until_it_goes_stale(tmp_path, changes):
    path = left_by(tmp_path, pid=2**22 + 1, **changes)  # no process of this number is here, which says nothing
    with (
        pytest.raises(SlideBusyError, match=r"another job is at slide C2 \(process 4194305 on "),
        claim(tmp_path, "C2"),
    ):
        pytest.fail("two jobs on one slide")
    aged = time.time() - claims.STALE_S - 5
    os.utime(path, (aged, aged))
    with claim(tmp_path, "C2"):
        pass


def test_a_claim_is_kept_fresh_and_one_cut_short_is_somebodys(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_S", 0.02)
    path = tmp_path / ".locks" / "C2.claim"
    with claim(tmp_path, "C2"):
        os.utime(path, (1, 1))
        until = time.monotonic() + 5
        while path.stat().st_mtime == 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime > time.time() - 60
    path.write_bytes(b'{"pid": 1')
    with pytest.raises(SlideBusyError, match="process None on None"), claim(tmp_path, "C2"):
        pytest.fail("two jobs on one slide")


@pytest.mark.parametrize("content", [b'{"key": "ab', b"", b"\0\0\0", b"[7]", b'"ab"'])
def test_a_claim_cut_short_is_taken_over_once_it_is_stale(tmp_path, content):
    path = tmp_path / ".locks" / "C2.claim"
    path.parent.mkdir()
    path.write_bytes(content)
    os.utime(path, (1, 1))
    with claim(tmp_path, "C2"):
        check_claim(tmp_path, "C2")
    assert list(path.parent.iterdir()) == []


def test_a_file_server_that_fails_once_does_not_end_the_beat(tmp_path, monkeypatch, caplog):
    real, failed = os.utime, []

    def utime(path, *times):
        if not times and len(failed) < 3:
            failed.append(path)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        real(path, *times)

    monkeypatch.setattr(claims, "BEAT_S", 0.02)
    monkeypatch.setattr(os, "utime", utime)
    path = tmp_path / ".locks" / "C2.claim"
    with claim(tmp_path, "C2"):
        real(path, (1, 1))
        until = time.monotonic() + 5
        while path.stat().st_mtime == 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime > time.time() - 60
    assert len(failed) == 3
    assert caplog.text.count("cannot be kept fresh, which is tried again") == 1


def taken_over(root, slide_id):
    """What another machine does that saw this one asleep."""
    path = root / ".locks" / f"{slide_id}.claim"
    path.unlink()
    path.write_text(json.dumps({"key": "0" * 32, "pid": 7, "host": "node-7", "boot": "", "pid_namespace": ""}))
    return path


def test_a_claim_that_another_took_over_is_known_and_not_let_go_of(tmp_path):
    with claim(tmp_path, "C2"):
        check_claim(tmp_path, "C2")
        path = taken_over(tmp_path, "C2")
        with pytest.raises(SlideBusyError, match="claim on slide C2 was lost: process 7 on node-7 has it now"):
            check_claim(tmp_path, "C2")
    assert path.exists()
    path.unlink()
    with pytest.raises(SlideBusyError, match="was lost: nobody has it now"):
        check_claim(tmp_path, "C2")


@pytest.mark.parametrize("out_of_memory", [False, True], ids=["in mid slide", "before a smaller batch"])
def test_a_job_that_was_taken_for_dead_writes_no_more(cohort, tmp_path, monkeypatch, out_of_memory):
    real, root = Encoder.encode, tmp_path / "s"

    def encode(self, patches):
        for path in (root / ".locks").glob("*.claim"):
            taken_over(root, path.stem)
        if out_of_memory:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return real(self, patches)

    monkeypatch.setattr(Encoder, "encode", encode)
    report = featurize(cohort, root, options=replace(OPTIONS, shard="0/4"))
    assert (report.done, report.failed) == ((), ())
    ((slide_id, who),) = report.left
    assert "process 7 on node-7" in who
    assert not list((root / "features").rglob(f"{slide_id}.h5"))
    assert len(list((root / "features").rglob(f".{slide_id}.h5.journal"))) == FILES_A_SLIDE  # the other job's by now
    assert (root / ".locks" / f"{slide_id}.claim").exists()


@pytest.mark.parametrize("lost_answer", [False, True], ids=["no hard links", "answer lost"])
def test_file_servers_of_every_kind_give_a_claim_once(tmp_path, monkeypatch, lost_answer):
    real = Path.hardlink_to

    def link(self, target):
        if not lost_answer:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        real(self, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(Path, "hardlink_to", link)
    for _ in range(2):
        with claim(tmp_path, "C2"):
            monkeypatch.setattr(Path, "hardlink_to", real if lost_answer else link)
            with pytest.raises(SlideBusyError, match="another job is at slide C2"), claim(tmp_path, "C2"):
                pytest.fail("two jobs on one slide")
    assert list((tmp_path / ".locks").iterdir()) == []


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot write"), claim(tmp_path / "file", "C2"):
        pytest.fail("a claim on nothing")


def small_device(monkeypatch, *, fits, from_call=0):
    """A device whose memory takes batches up to `fits`, from a call on."""
    real, calls = Encoder.encode, []

    def encode(self, patches):
        calls.append(len(patches))
        if len(calls) > from_call and len(patches) > fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return real(self, patches)

    monkeypatch.setattr(Encoder, "encode", encode)


def test_memory_that_gives_out_in_mid_slide_halves_the_batch_and_gives_what_that_batch_gives(
    cohort, tmp_path, monkeypatch, caplog
):
    grid = {"patches": "grid", "grid_um": (112.0,), "overlap_um": 40.0, "min_tissue": 0.2}
    options = replace(OPTIONS, shard="0/4", **grid)
    monkeypatch.setattr(job_plan, "BLOCK_ROWS", 16)
    featurize(cohort, tmp_path / "small", options=replace(options, batch=4))
    with monkeypatch.context() as patch:
        small_device(
            patch, fits=5, from_call=2 * 2
        )  # two encoders; the first block is written while the second is computed
        report = featurize(cohort, tmp_path / "halved", options=options)
    assert report.done[0].patches > 2 * 16
    assert differences(tmp_path / "small", tmp_path / "halved") == []  # no row is left of the first block
    assert [f"as with --batch {batch}" in caplog.text for batch in (16, 8, 4, 2)] == [False, True, True, False]


def test_a_device_that_takes_not_even_one_patch_is_told(cohort, tmp_path, monkeypatch):
    small_device(monkeypatch, fits=0)
    with pytest.raises(CohortError, match=r"OutOfMemoryError: CUDA out of memory. Tried to allocate"):
        featurize(cohort, tmp_path / "none", options=replace(OPTIONS, batch=2, shard="0/4"))
