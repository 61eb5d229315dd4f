"""Leakage planted on purpose: it moves the pooled score and not the within-slide one, and the report explains it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from tissuary.heads import CompareOptions, compare
from tissuary.heads.protocols.named import PROTOCOLS, STRICT
from tissuary.heads.report.report import report_html
from tissuary.store import Store
from tissuary.store.files.expression import Expression, read_expression, write_expression
from tissuary.store.files.features import write_features
from tissuary.store.files.schema import expression_path, features_path

KEY = "toy@20x"
SLIDES = {f"{patient}{i}": (patient, 40) for patient in "ABCDEF" for i in range(2)}
# One slide of every patient is tested on, the other trained on. Features and targets come as they are, so that a head
# can recognise whose slide it sees.
PLANTED = replace(
    STRICT,
    name="planted",
    split="one-slide-a-patient",
    feature_standardisation="none",
    target_centring="none",
    spot_weight="none",
    panel_size=30,
)


def plant(store, owner_of):
    """Give every slide a level of each gene, and a mark in its features, that it shares with slides of one owner."""
    for slide in SLIDES:
        rng = np.random.default_rng([7, *owner_of(slide).encode()])
        path = expression_path(store.path, slide)
        old = read_expression(path)
        level = np.exp(0.8 * rng.normal(size=old.counts.shape[1]))
        counts = np.random.default_rng(list(slide.encode())).poisson(old.counts.toarray() * level)
        path.unlink()
        planted = Expression(csr_matrix(counts.astype(np.float32)), old.genes, old.barcode)
        write_expression(path, planted, store.patches(slide), slide_id=slide)
        features, header = np.array(store.features(KEY, slide), dtype=np.float32), store.header(KEY, slide)
        shape = features.std(axis=0)
        features = (features - features.mean(axis=0)) / shape
        features[:, 2:] = 4.0 * rng.normal(size=features.shape[1] - 2) + 0.1 * features[:, 2:]
        file = features_path(store.path, slide, key=KEY)
        file.unlink()
        with write_features(file, header, shape=features.shape) as writer:
            writer.append(features)
    return Store(store.path)


def score(comparison, head, field):
    (record,) = [r for r in comparison.records if (r["head"], r["fold"]) == (head, "all")]
    return record[field]


def test_a_patient_in_train_and_test_moves_the_pooled_score_alone_and_the_report_says_so(
    make_store, monkeypatch, tmp_path
):
    monkeypatch.setitem(PROTOCOLS, "planted", PLANTED)
    options = CompareOptions(heads=("knn",), protocols=("planted",))
    # The level is the patient's, so that it can be copied; or the slide's own.
    leaky = compare(plant(make_store(SLIDES), lambda slide: slide[0]), options=options)
    (tmp_path / "store").rename(tmp_path / "leaky")
    honest = compare(plant(make_store(SLIDES), lambda slide: slide), options=options)

    # Who copies the other slide of the patient, blind to the spot, and who looks at spots as well.
    for head in ("patient-mean", "knn"):
        assert score(leaky, head, "pcc_pooled") > score(honest, head, "pcc_pooled") + 0.3
        assert score(leaky, head, "pcc_slide_mean") == pytest.approx(score(honest, head, "pcc_slide_mean"), abs=0.05)
    assert score(leaky, "patient-mean", "pcc_slide_mean") == 0.0
    assert score(leaky, "knn", "pcc_slide_mean") > 0.4

    page = report_html(leaky)
    assert score(leaky, "patient-mean", "pcc_pooled") > 0.4
    assert "predicts one value per gene for a whole slide: within slides it scores 0.000, pooled" in page
    assert "a patient&#x27;s level can be copied from them" in page
