"""Folds trained side by side, in processes or on Ray: the same records, and what a worker leaves undone is done."""

from dataclasses import replace

import pytest

from tissuary.heads import CompareOptions, compare
from tissuary.heads.comparison import parallel as side_by_side
from tissuary.heads.comparison.plan import make_plan
from tissuary.store.errors import HeadError

pytestmark = pytest.mark.usefixtures("few_draws")

TIMES = {"fit_seconds", "fit_cpu_seconds", "predict_seconds"}
OPTIONS = CompareOptions(heads=("ridge", "knn"), protocols=("strict",))


@pytest.fixture
def store(make_store):
    return make_store({f"{p}1": (p, 25) for p in "ABC"}, views=("20x",))


def without_times(comparison):
    return [{k: v for k, v in record.items() if k not in TIMES} for record in comparison.records]


def test_two_processes_give_the_records_of_one(store, tmp_path):
    alone = compare(store, options=OPTIONS)
    told = []
    both = compare(
        store,
        options=replace(OPTIONS, jobs=2, cells=tmp_path / "cells"),
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert without_times(both) == without_times(alone)
    assert told[0] == ("2 folds at a time", 0, 3)  # and not silence until the first is done
    assert [one[1:] for one in told if one[0].startswith("trained")] == [(i, 3) for i in range(1, 4)]
    assert told[-1][0].startswith(f"done ({told[-1][2]} cells were trained before)")  # the workers left nothing to do


def test_a_group_that_a_worker_left_out_is_trained_by_the_comparison(store, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "_in_processes", lambda *_: iter([]))
    found = compare(store, options=replace(OPTIONS, jobs=2, cells=tmp_path / "cells"))
    assert without_times(found) == without_times(compare(store, options=OPTIONS))


def test_groups_cover_every_cell_once(store):
    plan = make_plan(store, OPTIONS)
    cells = [(c.protocol.name, c.fold.name, c.contestant.label) for group in plan.groups for c in group.cells]
    assert len(cells) == len(set(cells))
    assert {fold for _, fold, _ in cells} == {"A", "B", "C"}


def test_an_unknown_engine_is_refused(store):
    with pytest.raises(HeadError, match="engine 'dask': choose local, ray"):
        compare(store, options=replace(OPTIONS, engine="dask"))


def test_a_ray_cluster_gives_the_same_records(store, tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install tissuary[ray]")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        there = compare(store, options=replace(OPTIONS, engine="ray", cells=tmp_path / "cells"))
    finally:
        ray.shutdown()
    assert without_times(there) == without_times(compare(store, options=OPTIONS))
