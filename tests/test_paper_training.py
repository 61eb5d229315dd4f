"""What the published modes of heads have in common in training: no depth weights, no clipping, pooled batches."""

from dataclasses import replace

import numpy as np
import pytest

from tissuary.heads import make_head
from tissuary.tests.head_tables import without_truth
from tissuary.tests.token_tables import FINE_GRIDS, with_tokens

PAPERS = (
    ("mmap", "paper"),
    ("nh2st", "paper"),
    ("m2ort", "paper"),
    ("m2ost", "paper"),
    ("triplex", "paper"),
    ("cmrc", "paper"),
    ("bleep", "paper"),
)


SMALL = {"m2ost": {"width": 24, "heads": 1, "depth": 1}, "cmrc": {"tokens": "views"}}
"""Where the published size takes seconds a step."""


@pytest.mark.parametrize(("name", "mode"), PAPERS)
def test_spots_count_alike_whatever_their_depth(name, mode):
    table = with_tokens("AB", tokens=FINE_GRIDS, each=1, spots=12)
    uneven = replace(table, weights=np.random.default_rng(0).uniform(0.05, 1, len(table)).astype(np.float32))
    one, two = (
        make_head(name, mode=mode, epochs=1, **SMALL.get(name, {})).fit(every).predict(without_truth(every))
        for every in (table, uneven)
    )
    np.testing.assert_array_equal(one, two)


def test_a_default_counts_spots_by_their_weight():
    table = with_tokens("AB", spots=16)
    uneven = replace(table, weights=np.random.default_rng(0).uniform(0.05, 1, len(table)).astype(np.float32))
    one, two = (make_head("mlp", epochs=1).fit(every).predict(without_truth(every)) for every in (table, uneven))
    assert np.abs(one - two).max() > 1e-4


@pytest.mark.parametrize(("name", "mode"), PAPERS)
def test_gradients_are_not_clipped(name, mode):
    assert make_head(name, mode=mode).training.clip == 1e9


@pytest.mark.parametrize(("name", "size"), [("m2ort", 96), ("m2ost", 96), ("bleep", 256)])
def test_batches_are_of_the_published_size_and_of_all_slides(name, size):
    import torch

    from tissuary.heads.engine.batch import epoch_of

    options, slide = make_head(name, mode="paper").training, np.repeat(np.arange(6), 320)
    steps = list(
        epoch_of(slide, np.arange(1920), batch=options.batch, at_least=options.at_least, generator=torch.Generator())
    )
    assert {len(step) for step in steps[:-1]} == {size}
    assert min(len(set(slide[step])) for step in steps[:-1]) > 3
    np.testing.assert_array_equal(np.sort(np.concatenate(steps)), np.arange(1920))
