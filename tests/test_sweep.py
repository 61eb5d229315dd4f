"""Heads under protocols that change what they are handed: each runs, or says in a sentence what it lacks."""

from dataclasses import replace

import pytest

from tissuary.benchmarks.sweep import STORES, VIEWS, every_mode, sweep, write_store
from tissuary.heads.comparison.inputs import usable_table
from tissuary.heads.networks.tokens import how_to_get
from tissuary.heads.registry import HEADS
from tissuary.store import Store
from tissuary.store.files.schema import features_path

BRIEF = "epochs=1,members=1"
READERS = [f"{name}:{BRIEF}" for name in ("mmap", "m2ort", "m2ost")] + [f"mmap:paper,{BRIEF}"]
"""Heads that look at names of feature keys, or at token grids."""


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("full") / "store", STORES["full"])


def test_heads_that_read_keys_and_tokens_run_on_components_too(full):
    """`hest-bench/a1` hands views over as one column of components, whose name is no feature key."""
    found = {one.head: one for one in sweep(full, "hest-bench/a1", heads=["ridge", *READERS])}
    assert {one.state for one in found.values()} == {"ran"}, [one for one in found.values() if one.state != "ran"]
    assert set(found) >= {"ridge", "ridge (hest)", "mean", *(one.replace(":", " (", 1) + ")" for one in READERS)}


def test_a_head_without_levels_names_what_helps(full):
    table = full.table(["toy@20x"], token_keys=[key for key in STORES["full"] if ".grid" in key])
    advice = "The store has toy@10x.grid3x3, toy@5x.grid3x3, of views that are left out here: take them too, `--views "
    assert how_to_get(table, "--tokens 7x7") == advice + "20x 10x 5x`"
    assert "--backbone toy --tokens 7x7`" in how_to_get(full.table(list(VIEWS)), "--tokens 7x7")
    table = full.table(["toy@20x"], token_keys=["toy@20x.grid3x3"])
    (grid,) = table.token_columns.values()
    native = replace(table, token_columns={"toy@native.grid3x3": replace(grid, key="toy@native.grid3x3")})
    native = replace(native, columns={"toy@native": replace(table.columns["toy@20x"], key="toy@native")})
    said = how_to_get(native, "--tokens 7x7")
    assert said.startswith("toy@native.grid3x3 cannot be one: the field of `native` differs by slide")
    assert said.endswith("Make others: `tissuary featurize SOURCE --store STORE --backbone toy --tokens 7x7`")
    (refused,) = [one for one in sweep(full, "hest-bench/a1", heads=["mmap:paper,tokens=true"]) if one.state != "ran"]
    assert (refused.state, refused.head) == ("refused", "mmap (paper,tokens=true)")
    assert "there is one column of features (components of toy@20x" in refused.reason


def test_tokens_that_some_slides_lack_are_said_to_be_missing_there(tmp_path):
    store = write_store(tmp_path / "store", STORES["full"])
    features_path(store.path, "B1", key="toy@10x.grid3x3").unlink()
    features_path(store.path, "A0", key="haematoxylin@20x").unlink()
    _, warnings = usable_table(Store(store.path), tuple(VIEWS), patches="spots", tokens=True)
    end = "`tissuary featurize` with the same options makes what is missing"
    assert warnings == (
        f"haematoxylin@20x is not used: 1 of 6 slides lack it (A0); {end}",
        f"toy@10x.grid3x3 is not used: 1 of 6 slides lack it (B1); {end}",
    )


def test_every_head_of_the_registry_is_swept_in_every_mode():
    swept = [tuple(one.partition(":")[::2]) for one in every_mode()]
    assert {name for name, _ in swept} == set(HEADS)
    modes = {(name, options.split(",")[0]) for name, options in swept}
    assert {("ridge", "hest"), ("m2ost", "code"), ("cmrc", "paper"), ("nh2st", "context")} <= modes
