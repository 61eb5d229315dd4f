"""What heads are handed: views in another order, or missing; numbers that are none; options that cannot be."""

from dataclasses import replace

import numpy as np
import pytest

from tissuary.heads import make_head
from tissuary.heads.contract import with_views
from tissuary.store.errors import HeadError
from tissuary.tests.head_tables import made_up, without_truth
from tissuary.tests.token_tables import with_tokens

QUICK = {"epochs": 1, "members": 1}
HEADS = {
    "ridge": {},
    "knn": {},
    "forest": {"trees": 5},
    "boosted": {"rounds": 2},
    "mlp": QUICK,
    "mmap": QUICK,
    "nh2st": QUICK | {"neighbours": "both"},
    "triplex": QUICK,
    "egn": QUICK,
    "cmrc": QUICK,
    "bleep": QUICK,
    "m2ort": QUICK,
    "m2ost": QUICK,
}
NEURAL = [name for name in HEADS if name not in ("ridge", "knn", "forest", "boosted")]


@pytest.fixture(scope="module")
def table():
    return with_tokens("AB", spots=12)


@pytest.mark.parametrize("name", HEADS)
def test_views_may_come_in_another_order_and_in_company_but_not_be_missing(name, table):
    head = make_head(name, **HEADS[name]).fit(table)
    bare = without_truth(table)
    names = list(bare.columns)
    turned = replace(bare, columns={key: bare.columns[key] for key in reversed(names)})
    more = replace(bare, columns={"other@20x": bare.columns[names[1]]} | turned.columns)
    expected = head.predict(bare)
    np.testing.assert_array_equal(head.predict(turned), expected)
    np.testing.assert_array_equal(head.predict(more), expected)
    with pytest.raises(HeadError, match=rf"the table lacks {names[0]}: featurize it"):
        head.predict(replace(bare, columns={key: bare.columns[key] for key in names[1:]}))


def test_a_table_that_is_as_it_should_be_is_not_copied(table):
    assert with_views(table, tuple(table.columns)) is table


@pytest.mark.parametrize("name", ["ridge", "knn", "mlp", "mmap", "ensemble"])
@pytest.mark.parametrize("what", ["targets", "weights"])
def test_numbers_that_are_none_are_refused_with_their_row(name, what):
    table = made_up("AB")
    values = getattr(table, what).copy()
    values[3] = np.nan
    with pytest.raises(HeadError, match=f"{what} of 1 rows are NaN or infinite, the first of row 3"):
        make_head(name).fit(replace(table, **{what: values}))


@pytest.mark.parametrize("name", NEURAL)
def test_of_no_rows_nothing_is_predicted(name, table):
    head = make_head(name, **HEADS[name]).fit(table)
    nothing = without_truth(table).select_rows(np.empty(0, dtype=np.int64))
    assert head.predict(nothing).shape == (0, len(table.panel))


@pytest.mark.parametrize("name", NEURAL)
@pytest.mark.parametrize(("option", "value", "wanted"), [("members", 0, "give 1 or more"), ("epochs", -1, "give 0 or")])
def test_numbers_of_members_and_epochs_that_cannot_be_are_refused(name, option, value, wanted):
    with pytest.raises(HeadError, match=f"head '{name}' does not take {option}={value}: {wanted}"):
        make_head(name, **{option: value})


def test_they_are_refused_in_the_published_stages_of_mmap_too():
    with pytest.raises(HeadError, match="does not take members=0: give 1 or more"):
        make_head("mmap", mode="paper", members=0)


@pytest.mark.parametrize("name", ["mmap", "nh2st", "cmrc"])
def test_a_width_that_its_attention_heads_do_not_divide_is_refused(name, table):
    with pytest.raises(HeadError, match=r"a width of 31 over \d attention heads: give a multiple of \d"):
        make_head(name, dim=31, **QUICK).fit(table)


def test_cmrc_without_any_loss_is_refused(table):
    with pytest.raises(HeadError, match="without contrast and reconstruction learns nothing"):
        make_head("cmrc", mode="paper", contrast=0.0, reconstruction=0.0).fit(table)


def test_the_default_of_cmrc_is_its_mode_fixed(table):
    one, two = (make_head("cmrc", mode=mode, **QUICK).fit(table) for mode in ("default", "fixed"))
    np.testing.assert_array_equal(one.predict(without_truth(table)), two.predict(without_truth(table)))


def test_bleep_records_that_nothing_is_blended(table):
    assert make_head("bleep", **QUICK).fit(table).chosen_["blend"] == 1.0
