"""Workers in other processes: who gets which slide, what becomes of a dead worker's, and that bytes are the same."""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import replace

import pytest

from tissuary.benchmarks.kill import contents, differences
from tissuary.featurize import FeaturizeOptions, featurize
from tissuary.featurize import pipeline as engine
from tissuary.featurize import setup as run_setup
from tissuary.featurize.one_slide import SlideOutcome
from tissuary.featurize.options import SlideDone
from tissuary.featurize.patches.readers import Stages
from tissuary.featurize.workers import ray_ as ray_engine
from tissuary.featurize.workers.messages import (
    Finished,
    Ready,
    SlideProgress,
    SlideTask,
    StartFailed,
    Worker,
    WorkerConfig,
    WorkerLost,
)
from tissuary.featurize.workers.processes import posts_of
from tissuary.featurize.workers.ray_ import slots_of
from tissuary.featurize.workers.scheduler import MAX_DEATHS, Scheduler
from tissuary.store.errors import BackboneError, CohortError
from tissuary.store.files.lock import SlideBusyError
from tissuary.synthetic.cohort import write_cohort


class Paper:
    """A crew on paper: each worker takes one turn a slide, and does what its script says of it."""

    def __init__(self, workers, *, batches=None, says=lambda worker, slide, nth: "done", unfit=()):
        self.events = deque(StartFailed(name, BackboneError(f"no weights on {name}")) for name in unfit)
        batches = batches or dict.fromkeys(workers, 16)
        self.events += [Ready(name, "cpu", batches[name], 2, {"tiny": name}) for name in workers]
        self.tasks, self.says, self.alive = [], says, set(workers)
        self.to_start = len(self.events)

    def send(self, worker, task):
        self.tasks.append((worker, task))
        nth = sum(one.slide_id == task.slide_id for _, one in self.tasks)
        said = self.says(worker, task.slide_id, nth)
        stages = Stages()
        stages.add("forward", float(len(self.tasks)), 10)
        if said == "died":
            self.alive.remove(worker)
            self.events.append(WorkerLost(worker, "killed by SIGKILL"))
            return
        error = SlideBusyError("another job is at it") if said == "busy" else None
        done = None if error else SlideDone(task.slide_id, 10, 0.5, "manifest", 2)
        self.events.append(SlideProgress(task.slide_id, 10, 10))
        self.events.append(Finished(worker, SlideOutcome(task.slide_id, done, error), stages.report(readers=2)))

    def wait(self, timeout_s):
        if not self.events:
            time.sleep(0.01)
            return []
        event = self.events.popleft()
        self.to_start -= isinstance(event, Ready | StartFailed)
        return [event]

    def starting(self):
        return self.to_start

    def close(self):
        pass


def dispatched(slides, crew):
    seen = []
    return Scheduler(slides, crew, progress=lambda *at: seen.append(at)).run(), seen


def test_all_workers_follow_the_smallest_batch_and_have_two_slides_at_most():
    crew = Paper(["a", "b"], batches={"a": 64, "b": 32})
    found, seen = dispatched(list("12345"), crew)
    assert sorted(found.outcomes) == list("12345")
    assert all(outcome.done for outcome in found.outcomes.values())
    assert {(task.batch, task.threads) for _, task in crew.tasks} == {(32, 2)}
    assert sorted(slide for slide, _, _ in seen) == list("12345")
    given = [(worker, task.slide_id, task.following) for worker, task in crew.tasks]
    # By hand: both begin, three slides are left, of which each opens one; the last goes to whoever is free.
    assert given[:3] == [("a", "1", "3"), ("b", "2", "4"), ("a", "3", None)]
    # Each worker reports all it did so far: the last word counts.
    forward = next(stage for stage in found.stages.stages if stage.name == "forward")
    assert (forward.count, found.stages.readers) == (20, 4)


def test_a_dead_workers_slides_go_to_another_and_the_log_names_the_one_begun(caplog):
    crew = Paper(["a", "b"], says=lambda worker, slide, nth: "died" if worker == "a" else "done")
    found, _ = dispatched(list("12345"), crew)
    assert all(outcome.done for outcome in found.outcomes.values())
    assert found.retried == (("1", "a: killed by SIGKILL"),)
    assert "slide 1: its worker a died (killed by SIGKILL); it is tried again elsewhere" in caplog.text
    assert {worker for worker, task in crew.tasks if task.slide_id == "3"} == {"b"}  # it was opened by "a"


def test_a_slide_that_kills_every_worker_is_given_up_and_the_others_are_done():
    workers = list("abcdef")
    found, _ = dispatched(list("1234"), Paper(workers, says=lambda w, slide, n: "died" if slide == "2" else "done"))
    assert {slide for slide, outcome in found.outcomes.items() if outcome.done} == {"1", "3", "4"}
    assert f"slide 2: {MAX_DEATHS} workers died at it (" in str(found.outcomes["2"].error)
    assert len(found.retried) == MAX_DEATHS - 1


def test_without_a_worker_what_is_done_stays_and_the_rest_says_so():
    found, _ = dispatched(list("123"), Paper(["a"], says=lambda w, slide, n: "died" if slide == "2" else "done"))
    assert found.outcomes["1"].done
    assert all("no worker is left" in str(found.outcomes[slide].error) for slide in "23")


def test_a_slide_that_another_job_is_at_is_looked_at_again_at_the_end():
    once = Paper(["a"], says=lambda w, slide, nth: "busy" if slide == "1" and nth == 1 else "done")
    found, _ = dispatched(list("123"), once)
    assert [task.slide_id for _, task in once.tasks] == list("1231")
    assert found.outcomes["1"].done
    found, _ = dispatched(list("123"), Paper(["a"], says=lambda w, slide, nth: "busy" if slide == "1" else "done"))
    assert isinstance(found.outcomes["1"].error, SlideBusyError)


def test_one_worker_that_cannot_begin_is_told_and_none_is_an_error(caplog):
    found, _ = dispatched(list("12"), Paper(["a"], unfit=["b"]))
    assert all(outcome.done for outcome in found.outcomes.values())
    assert "worker b cannot begin: no weights on b" in caplog.text
    with pytest.raises(BackboneError, match="no weights on b"):
        dispatched(list("12"), Paper([], unfit=["b", "c"]))


def node(name, *, alive=True, **resources):
    return {"NodeID": name * 56, "Alive": alive, "NodeManagerHostname": name, "Resources": resources}


def test_slots_are_one_for_each_gpu_or_share_of_cpus():
    nodes = [node("b", CPU=8.0, GPU=2.0), node("a", CPU=4.0), node("c", CPU=64.0, alive=False), node("d")]
    found = slots_of(nodes, device="auto", threads=None)
    assert [(slot.name, slot.cpus, slot.gpus) for slot in found] == [("b-bbbbbb:0", 4, 1), ("b-bbbbbb:1", 4, 1)]
    found = slots_of(nodes, device="cpu", threads=None)
    assert [(slot.name, slot.cpus, slot.gpus) for slot in found] == [("a-aaaaaa:0", 4, 0), ("b-bbbbbb:0", 8, 0)]
    found = slots_of(nodes, device="cpu", threads=3)
    assert [(slot.name, slot.cpus) for slot in found] == [("a-aaaaaa:0", 3), ("b-bbbbbb:0", 3), ("b-bbbbbb:1", 3)]
    assert slots_of([nodes[1]], device="cuda", threads=None) == ()


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"engine": "dask"}, "engine 'dask': choose one of local, ray"),
        ({"device": "cuda:0,"}, "name one, or each of several, such as cuda:0,cuda:1"),
        ({"device": "cpu,auto"}, "name one, or each of several"),
        ({"engine": "ray", "device": "cuda:1"}, "Ray gives each worker its own GPU or CPUs; say auto, cpu or cuda"),
        ({"address": "node:6379"}, "the address 'node:6379' is that of a Ray cluster: say --engine ray"),
        ({"threads": 0}, "threads 0: wanted 1 or more"),
    ],
)
def test_engines_and_devices_that_make_no_sense_are_refused(options, cause):
    with pytest.raises(CohortError, match=cause):
        FeaturizeOptions(**options)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, patients=2, slides_per_patient=1, spots_per_side=3, pitch_um=150.0, n_genes=40)
    return folder / "images"  # without counts, whose reader is slow to load in each process


@pytest.fixture(scope="module")
def dense():
    """Some 40 patches a slide, two at a time, by an encoder that needs no library that is slow to load."""
    grid = {"patches": "grid", "grid_um": (112.0,), "overlap_um": 30.0, "min_tissue": 0.2}
    return FeaturizeOptions(views=("20x",), threads=1, batch=2, readers=2, **grid)


@pytest.fixture(scope="module")
def whole(cohort, dense, tmp_path_factory):
    """A store that one process made."""
    root = tmp_path_factory.mktemp("whole") / "store"
    assert not featurize(cohort, root, options=dense).failed
    return root


def test_two_local_devices_one_killed_give_the_bytes_of_one(cohort, dense, whole, tmp_path, caplog):
    killed, began_again = [], []

    def tell(slide_id, done, total):
        workers = {process.name: process.pid for process in multiprocessing.active_children()}
        if not killed and done < total:
            killed.append(workers["0:cpu"])
            os.kill(killed[0], signal.SIGKILL)
        elif workers.get("0:cpu", killed[0]) != killed[0]:
            began_again.append(slide_id)

    options = replace(dense, device="cpu,cpu")
    report = featurize(cohort, tmp_path / "s", options=options, progress=tell)
    assert not report.failed
    assert not report.left
    assert [slide.slide_id for slide in report.done] == ["P01-S1", "P02-S1"]
    assert began_again
    ((slide_id, cause),) = report.retried
    assert cause == "0:cpu: killed by SIGKILL"
    assert f"slide {slide_id}: its worker 0:cpu died (killed by SIGKILL); it is tried again elsewhere" in caplog.text
    assert differences(whole, tmp_path / "s") == []
    assert not multiprocessing.active_children()


def test_a_worker_that_cannot_begin_names_itself(cohort, dense, tmp_path):
    posts = posts_of(WorkerConfig(str(cohort), "auto", tmp_path, replace(dense, device="cuda:97,cpu,cpu", readers=6)))
    assert [(name, post.options.device, post.options.readers) for name, post in posts.items()] == [
        ("0:cuda:97", "cuda:97", 2), ("1:cpu", "cpu", 2), ("2:cpu", "cpu", 2),
    ]  # fmt: skip
    said = Worker("0:cuda:97", posts["0:cuda:97"]).hello()
    assert isinstance(said, StartFailed)
    assert "device 'cuda:97'" in str(said.error)
    assert said.error.__notes__ == [f"It came from worker 0:cuda:97 on {socket.gethostname()}."]
    missing = Worker("1:cpu", replace(posts["1:cpu"], source=str(tmp_path / "not mounted"))).hello()
    assert isinstance(missing, StartFailed)
    assert "not mounted does not exist" in str(missing.error)
    assert isinstance(Worker("1:cpu", posts["1:cpu"]).hello(), Ready)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: out of order"), ImportError("libGL.so.1"), KeyError("x")])
def test_a_worker_that_fails_in_a_way_nobody_foresaw_is_unfit_and_not_dead(dense, cohort, tmp_path, monkeypatch, error):
    def build(options):
        raise error

    monkeypatch.setattr(run_setup, "build_encoders", build)
    said = Worker("a", WorkerConfig(str(cohort), "auto", tmp_path, dense)).hello()
    assert isinstance(said, StartFailed)
    assert str(said.error) == f"{type(error).__name__}: {error}"
    assert "It came from worker a on" in said.error.__notes__[0]


def test_a_worker_refuses_an_image_that_is_not_the_one_meant(cohort, dense, tmp_path):
    images = {name: cohort / f"{name}.tif" for name in ("P01-S1", "P02-S1")}
    sizes = {name: path.stat().st_size for name, path in images.items()}
    seen = {"P01-S1": (str(images["P01-S1"]), sizes["P01-S1"]), "P02-S1": (str(images["P02-S1"]), sizes["P02-S1"] + 1)}
    hand = Worker("a", WorkerConfig(str(cohort), "auto", tmp_path / "s", dense, seen))
    first = hand.embed(SlideTask("P01-S1", "P02-S1", 16, 1), lambda *at: None)
    assert first.outcome.done
    other = hand.embed(SlideTask("P02-S1", None, 16, 1), lambda *at: None).outcome
    assert f"P02-S1.tif of {sizes['P02-S1']} bytes where " in str(other.error)
    assert "let every machine see the same files under the same paths" in str(other.error)
    assert not list((tmp_path / "s").rglob("*P02-S1*"))  # nor was it opened ahead
    none = hand.embed(SlideTask("P09-S1", None, 16, 1), lambda *at: None).outcome
    with pytest.raises(CohortError, match=r"slide P09-S1: worker a on .* sees no such slide in "):
        raise none.error
    moved = replace(hand._post, images={"P01-S1": ("/elsewhere/P01-S1.tif", sizes["P01-S1"])})
    found = Worker("b", moved).embed(SlideTask("P01-S1", None, 16, 1), lambda *at: None).outcome
    assert "where /elsewhere/P01-S1.tif of" in str(found.error)


def test_workers_are_told_paths_that_hold_in_any_folder(cohort, dense, tmp_path, monkeypatch):
    posts = []

    def keep(samples, post, *, progress):
        posts.append(post)
        msg = "told"
        raise CohortError(msg)

    monkeypatch.setattr(engine, "embed_elsewhere", keep)
    here = cohort.parent
    weights = {"tiny": "w/tiny.safetensors", "other": "random"}
    options = replace(dense, device="cpu,cpu")
    monkeypatch.chdir(here)
    with pytest.raises(CohortError, match="told"):
        featurize("images", "s", options=replace(options, backbones=("tiny.json", "uni2-h"), weights=weights))
    with pytest.raises(CohortError, match="told"):
        featurize("images", "s", options=options)
    monkeypatch.chdir(tmp_path)
    assert posts[0].options.backbones == (str(here / "tiny.json"), "uni2-h")
    assert posts[0].options.weights == {"tiny": str(here / "w" / "tiny.safetensors"), "other": "random"}
    assert posts[0].root == here / "s"
    size = (here / "images" / "P01-S1.tif").stat().st_size
    assert posts[0].images["P01-S1"] == (str(here / "images" / "P01-S1.tif"), size)
    hand = Worker("0:cpu", posts_of(posts[1])["0:cpu"])
    assert isinstance(hand.hello(), Ready)
    assert hand.embed(SlideTask("P01-S1", None, 16, 1), lambda *at: None).outcome.done  # seen as the job sees it


class PaperRay:
    """A cluster on paper of two nodes with one worker each: the first one's answer is an error."""

    def __init__(self, ray, error):
        self.exceptions, self.error, self.killed = ray.exceptions, error, []

    def nodes(self):
        return [node("a", CPU=1.0), node("b", CPU=1.0)]

    def remote(self, kind):
        return PaperActor(self)

    def wait(self, answers, *, num_returns, timeout):
        return list(answers), []

    def get(self, answer):
        actor, question = answer
        if question == "where":
            return None
        if actor.name.startswith("a"):
            raise self.error
        return Ready(actor.name, "cpu", 16, 1, {})

    def kill(self, actor):
        self.killed.append(actor.name)


class PaperActor:
    def __init__(self, ray):
        self.ray, self.name = ray, None

    def options(self, **wanted):
        return self

    def __getattr__(self, question):
        return PaperCall(self, question)

    def remote(self, name, post):
        self.name = name
        return self


class PaperCall:
    def __init__(self, actor, question):
        self.actor, self.question = actor, question

    def remote(self, *told):
        return self.actor, self.question


def ray_errors():
    """What Ray raises of an actor, and what is said of it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'tissuary[ray]'")
    from ray import exceptions

    trace = "Traceback (most recent call last):\nKeyError: 'P09'"
    task = exceptions.RayTaskError("embed", trace, KeyError("P09"), proctitle="ray", pid=1, ip="127.0.0.1")
    return ray, {
        "task": (task.as_instanceof_cause(), "KeyError: 'P09'"),
        "memory": (exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\nMore"),
                   "Task was killed due to the node running low on memory."),
        "room": (exceptions.ActorUnschedulableError("node gone"), "The actor is not schedulable: node gone"),
        "actor": (exceptions.ActorDiedError(), "The actor died unexpectedly before finishing this task."),
        "away": (exceptions.ActorUnavailableError("no answer", b"1" * 16), "The actor "),
        "worker": (exceptions.WorkerCrashedError(), "The worker died unexpectedly"),
        "node": (exceptions.NodeDiedError("the node died"), "the node died"),
        "system": (exceptions.RaySystemError("broken pipe"), "System error: broken pipe"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["task", "memory", "room", "actor", "away", "worker", "node", "system"])
def test_whatever_ray_raises_costs_the_worker_and_not_the_job(cohort, dense, tmp_path, kind):
    ray, errors = ray_errors()
    error, said = errors[kind]
    paper = PaperRay(ray, error)
    crew = ray_engine.RayCrew(paper, WorkerConfig(str(cohort), "auto", tmp_path, replace(dense, engine="ray")))
    died, ready = sorted(crew.wait(0.0), key=lambda event: event.worker)
    assert isinstance(died, WorkerLost)
    assert died.cause.startswith(said)
    assert "\n" not in died.cause
    assert paper.killed == [died.worker]
    assert isinstance(ready, Ready)
    assert crew.starting() == 0
    crew.send(ready.worker, SlideTask("P01-S1", None, 16, 1))
    assert ready in crew.wait(0.0)  # on paper a worker answers everything so


def test_without_ray_the_mend_is_told(cohort, dense, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'tissuary\[ray\]'"):
        featurize(cohort, tmp_path / "s", options=replace(dense, engine="ray"))


def test_a_ray_cluster_of_two_nodes_one_killed_gives_the_bytes_of_one_machine(
    cohort, dense, whole, tmp_path, caplog, monkeypatch
):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'tissuary[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(ray_engine, "TELL_S", 0.0)  # ask again at once, so that no slide is done unseen
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

    def tell(slide_id, done, total):
        if done < total and len(nodes) == 2:  # both nodes were given a slide at the same time
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    try:
        options = replace(dense, engine="ray", address=cluster.address)
        monkeypatch.chdir(cohort.parent)  # the nodes were started in another folder
        with caplog.at_level(logging.WARNING):
            report = featurize("images", tmp_path / "s", options=options, progress=tell)
    finally:
        cluster.shutdown()
    assert len(nodes) == 1
    assert not report.failed
    assert not report.left
    assert len(report.retried) >= 1
    for slide_id, _ in report.retried:
        assert f"slide {slide_id}: its worker " in caplog.text
    assert contents(tmp_path / "s") == contents(whole)
