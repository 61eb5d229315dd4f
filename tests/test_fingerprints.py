"""Two feature sets meet only where encoder, patches, image and scale agree: every place where they could."""

import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tissuary.store import Store
from tissuary.store.errors import FingerprintError, StoreError
from tissuary.store.files.features import read_features, write_features
from tissuary.store.files.patches import write_patches
from tissuary.store.files.schema import features_path, patches_path
from tissuary.store.files.writer import open_job

KEY = "toy@20x"
OTHER = "toy@10x"


@pytest.fixture
def store(make_store):
    store = make_store({"a1": ("A", 25), "a2": ("A", 30), "b1": ("B", 28)}, n_genes=12, views=("20x", "10x"))
    assert store.entries
    return store


def rewrite(store, slide, /, *, key=KEY, scale=1.0, **changes):
    """Have the features of a slide written again, with another header."""
    path = features_path(store.path, slide, key=key)
    opened = read_features(path)
    header, values = replace(opened.header, **changes), np.array(opened.features, np.float32) * scale
    path.unlink()
    with write_features(path, header, shape=values.shape) as writer:
        writer.append(values)
    return Store(store.path)


@pytest.mark.parametrize("keys", [[KEY], [OTHER, KEY], [KEY, OTHER]])
def test_a_table_over_two_encoders_is_refused_whichever_view_it_is(store, keys):
    store = rewrite(store, "b1", fingerprint="another")
    said = r"toy@20x was made by different encoders: .*a2 print of toy.*b1 another.*--as NAME"
    with pytest.raises(FingerprintError, match=said):
        store.table(keys)
    assert len(store.table(keys, slides=["a1", "a2"])) == 55


def test_a_control_key_is_compared_too(store):
    store = rewrite(store, "a2", key="haematoxylin@20x", fingerprint="another")
    with pytest.raises(FingerprintError, match="haematoxylin@20x was made by different encoders"):
        store.table(KEY, control_keys=["haematoxylin@20x"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patches_digest": "0" * 64}, "belong to other patches than the store's; featurize it again"),
        ({"source_digest": "another"}, "were made from another image or scale; featurize it again"),
        ({"slide_mpp": 0.25}, "were made from another image or scale; featurize it again"),
        ({"slide_id": "a2"}, "were made from another image or scale; featurize it again"),
    ],
)
def test_a_table_over_other_patches_images_or_scales_is_refused(store, changes, said):
    store = rewrite(store, "b1", **changes)
    with pytest.raises(StoreError, match=f"slide b1: features {KEY} {said}"):
        store.table(KEY)


def test_an_index_of_two_encoders_is_not_built(store):
    store = rewrite(store, "b1", fingerprint="another")
    with pytest.raises(FingerprintError, match="made by different encoders"):
        store.build_index(KEY)
    assert not (store.path / "indexes").exists()


def test_a_slide_of_another_encoder_is_not_added_to_an_index(store):
    away = features_path(store.path, "b1", key=KEY)
    content = away.read_bytes()
    away.unlink()
    assert Store(store.path).build_index(KEY).record.slide_ids == ("a1", "a2")
    away.write_bytes(content)
    store = rewrite(store, "b1", fingerprint="another")
    with pytest.raises(FingerprintError, match="made by different encoders"):
        store.build_index(KEY)
    with pytest.raises(FingerprintError, match=r"was made from other features \(print of toy; those of the store are"):
        store.search("a1", 0, key=KEY)


def test_an_index_is_built_anew_where_every_slide_has_another_encoder(store):
    store.build_index(KEY)
    for slide_id in store.slide_ids:
        store = rewrite(store, slide_id, fingerprint="another", scale=-1.0)
    with pytest.raises(FingerprintError, match="those of the store are another"):
        store.search("a1", 0, key=KEY)
    assert store.build_index(KEY).record.fingerprint == "another"
    assert store.search("a1", 0, key=KEY)


def test_a_search_over_patches_that_moved_is_refused(store):
    store.build_index(KEY)
    path, old = patches_path(store.path, "b1"), store.patches("b1")
    path.unlink()
    write_patches(path, replace(old, center_px=old.center_px + 1), slide_id="b1")
    with pytest.raises(StoreError, match=rf"slides changed since {KEY} was indexed \(b1\)"):
        Store(store.path).search("a1", 0, key=KEY)


def test_a_store_that_stays_open_sees_what_changed_under_it(store):
    store.build_index(KEY)
    assert store.search("a1", 0, key=KEY)
    rewrite(store, "b1", fingerprint="another")
    store.opened_indexes.clear()  # as if the index had been read by another question meanwhile
    with pytest.raises(FingerprintError, match="was made from other features"):
        store.search("a1", 0, key=KEY)


def test_the_index_of_a_patch_set_is_not_that_of_one_whose_name_begins_alike(store):
    """`grid-56um.5` is a name as `grid-56um` is, and its indexes are folders that begin with both."""
    for folder in ("patches/spots", f"features/spots/{KEY}"):
        shutil.copytree(store.path / folder, store.path / folder.replace("spots", "spots.5"))
    store = Store(store.path)
    store.build_index(KEY, patches="spots.5")
    with pytest.raises(StoreError, match=r"no features on 'spots' are indexed .*toy@20x.*: run `tissuary index"):
        store.search("a1", 0)
    store.build_index(KEY)
    assert store.search("a1", 0) == store.search("a1", 0, patches="spots.5")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fingerprint": "another"}, "other fingerprint"),
        ({"patches_digest": "0" * 64}, "other patches_digest"),
        ({"source_digest": "another"}, "other source_digest"),
    ],
)
def test_a_job_does_not_go_on_from_rows_of_another_encoder_or_patch_set(store, tmp_path, changes, said, caplog):
    header = read_features(features_path(store.path, "a1", key=KEY)).header
    path, rows, how = tmp_path / "a1.h5", np.arange(6), {"plan": {}, "block_rows": 2, "order": np.arange(6)}
    with open_job(path, header, shape=(6, 3), **how) as job:
        job.write(rows[:2], np.ones((2, 3), np.float32))
    caplog.set_level(logging.WARNING)
    with open_job(path, replace(header, **changes), shape=(6, 3), **how) as job:
        assert job.blocks_done == 0
    assert f"what an earlier job left of it cannot be used: {said}" in caplog.text
