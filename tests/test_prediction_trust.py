"""What a prediction says of itself: what it was trained on, measured values beside it, and in which frame it lies."""

import json
import sys
from dataclasses import replace

import anndata
import h5py
import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from tissuary.featurize.slides.open import open_slide
from tissuary.heads import PredictOptions, TrainOptions, predict, train
from tissuary.heads.prediction import maps as map_picture
from tissuary.heads.prediction.run import load_run, write_reference
from tissuary.heads.prediction.slide import plan_slide
from tissuary.heads.prediction.slide_map import read_measured
from tissuary.heads.protocols.targets import smooth_3x3
from tissuary.store import Store
from tissuary.store.errors import HeadError
from tissuary.tests.prediction_stores import GRID, MPP, add_slide
from tissuary.tests.test_slide import tissue, write_scn

BARE = PredictOptions(pictures=False, geojson=False, genes=("gene11",))


def digest(letter):
    return letter * 64


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run of three slides of two patients, and slides that share more or less with them."""
    root = tmp_path_factory.mktemp("trust")
    for i, (slide, patient) in enumerate([("A1", "A"), ("B1", "7"), ("B2", "7")]):
        add_slide(root / "store", slide, patient=patient, seed=i, digest=digest(str(i)))
    train(Store(root / "store"), root / "run", options=TrainOptions())
    again = [
        ("A1", "A", "0"),  # the slide itself
        ("copy", "nobody", "0"),  # its image under another name
        ("B1", "7", "8"),  # its name on another image
        ("A9", "A", "9"),  # another slide of a patient
        ("B9", "7.0", "5"),  # and as an older store spells a patient
        ("P9", "07", "4"),
        ("U1", "unknown:U1", "7"),
        ("Z1", "Z", "6"),
    ]
    for i, (slide, patient, letter) in enumerate(again):
        add_slide(root / "others", slide, patient=patient, seed=20 + i, digest=digest(letter))
    return root


EXPECTED = {
    "A1": ("slide", ("A1",), "this slide trained the run"),
    "copy": ("image", ("A1",), "this image trained the run, as A1"),
    "B1": ("name", ("B1",), "a slide named B1 trained the run, made from another file"),
    "A9": ("patient", ("A1",), "patient A trained the run with slide A1"),
    "B9": ("patient", ("B1", "B2"), "patient 7 trained the run with slides B1, B2"),
    "P9": ("unknown patient", ("B1", "B2"), "its patient 07 may be 7, who trained the run with slides B1, B2"),
    "U1": ("unknown patient", (), "its patient is not known, and may have trained the run"),
    "Z1": ("none", (), "no slide of this patient trained the run"),
}


def test_a_prediction_says_what_it_was_trained_on(root, tmp_path, monkeypatch, capsys):
    """On the screen, in AnnData, in GeoJSON and under --json; nothing reassures where the patient was trained on."""
    from tissuary.cli.main import main

    def called(*words):
        monkeypatch.setattr(sys, "argv", ["tissuary", "predict", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    words = (root / "run", root / "others", "--out", tmp_path, "--no-pictures", "--genes", "gene11")
    lines = {line.split(":", 1)[0]: line for line in called(*words).splitlines()[:-1]}
    told = {one["slide_id"]: one["training_overlap"] for one in json.loads(called(*words, "--json"))["done"]}
    assert set(lines) == set(told) == set(EXPECTED)
    for slide, (kind, slides, sentence) in EXPECTED.items():
        assert told[slide] == {"kind": kind, "slides": list(slides), "words": sentence}
        kept = anndata.read_h5ad(tmp_path / f"{slide}.h5ad").uns["tissuary"]["training_overlap"]
        assert (kept["kind"], tuple(kept["slides"]), kept["words"]) == (kind, slides, sentence)
        assert json.loads((tmp_path / f"{slide}.geojson").read_text())["tissuary-training"] == sentence
        assert (sentence in lines[slide]) == (kind != "none")
        assert ("flagged" in lines[slide]) == (kind in ("unknown patient", "none"))


def test_runs_of_unknown_patients_or_without_a_record_say_so(root, tmp_path):
    add_slide(tmp_path / "store", "V1", patient="unknown:V1", digest=digest("1"))
    add_slide(tmp_path / "store", "C1", patient="C", seed=1, digest=digest("2"))
    train(tmp_path / "store", tmp_path / "run", options=TrainOptions())
    options = replace(BARE, slides=("Z1",))
    (told,) = predict(tmp_path / "run", root / "others", tmp_path / "out", options=options).done
    assert (told.training_overlap.kind, told.training_overlap.slides) == ("unknown patient", ("V1",))
    run, path = load_run(tmp_path / "run"), tmp_path / "run" / "head.json"
    head = json.loads(path.read_text())
    assert head["training"]["source_digests"] == [digest("2"), digest("1")]
    del head["training"]["source_digests"]  # runs of before
    path.write_text(json.dumps(head))
    write_reference(path.parent, run.familiarity, run.gene_spread)
    (told,) = predict(path.parent, tmp_path / "store", tmp_path / "old", options=replace(BARE, slides=("C1",))).done
    assert told.training_overlap.kind == "slide"
    del head["training"]
    path.write_text(json.dumps(head))
    write_reference(path.parent, run.familiarity, run.gene_spread)
    out = tmp_path / "bare"
    (told,) = predict(path.parent, tmp_path / "store", out, options=replace(BARE, slides=("C1",))).done
    assert (told.training_overlap.words, told.notes) == ("it is not known which slides trained this run", ())
    with h5py.File(out / "C1.h5ad", "r+") as file:
        del file["uns/tissuary/training_overlap"]  # as it was before
    (told,) = predict(path.parent, tmp_path / "store", out, options=replace(BARE, slides=("C1",))).done
    assert told.kept
    assert "C1.h5ad, which is kept, does not say that it is not known" in told.notes[0]


@pytest.mark.parametrize("protocol", ["strict", "nh2st-paper", "m2ort-paper"])
def test_measured_values_are_on_the_scale_of_the_predicted(protocol, tmp_path):
    """Transformed here from the counts of the store: all genes, a smoothed panel in log10, and a panel per million."""
    for i, slide in enumerate(("A1", "B1", "C1")):
        add_slide(tmp_path / "store", slide, patient=slide[0], seed=i, empty=(3,) if slide == "C1" else ())
    add_slide(tmp_path / "store", "D1", patient="D", genes=7)  # no training slide: its genes limit nobody's
    store, panel = Store(tmp_path / "store"), ("gene11", "gene4", "gene2")
    options = TrainOptions(protocol=protocol, panel=panel, slides=("A1", "B1"), standardise="none")
    train(store, tmp_path / "run", options=options)
    run, genes = load_run(tmp_path / "run"), ("gene4", "gene11")
    found = read_measured(store, plan_slide(run, store, "C1", patches="spots").facts, genes)
    counts = anndata.read_h5ad(tmp_path / "store" / "expression" / "C1.h5ad").to_df()
    total = counts.sum(axis=1) if protocol == "strict" else counts[list(panel)].sum(axis=1)
    with np.errstate(invalid="ignore"):
        share = counts[list(genes)].to_numpy() / total.to_numpy()[:, None]
    if protocol == "nh2st-paper":
        values = np.log10(1 + 1e4 * np.nan_to_num(share))
        values = smooth_3x3(values, store.patches("C1").array, np.zeros(36, dtype=int))
        values[3] = np.nan
    else:
        values = np.log1p({"strict": 1e4, "m2ort-paper": 1e6}[protocol] * share)
    np.testing.assert_allclose(np.stack([found.values[gene] for gene in genes], axis=1), values, rtol=1e-5)
    assert np.isnan(values[3]).all()
    missing = read_measured(store, plan_slide(run, store, "D1", patches="spots").facts, genes)
    assert missing.lacking["gene11"] == (
        "not measured on this slide"
        if protocol == "strict"
        else "no total over the panel: 1 of its genes are not measured on this slide"
    )
    assert set(missing.values) == ({"gene4"} if protocol == "strict" else set())


def test_a_map_stands_without_counts_that_cannot_be_read(root, tmp_path, monkeypatch):
    monkeypatch.setattr(map_picture, "DPI", 30)
    add_slide(tmp_path / "store", "N1", patient="N")
    counts = tmp_path / "store" / "expression" / "N1.h5ad"
    counts.write_bytes(counts.read_bytes()[:3000])
    told = predict(root / "run", tmp_path / "store", tmp_path, options=replace(BARE, pictures=True)).done[0]
    assert {path.rsplit("/", 1)[1] for path in told.files} == {"N1.h5ad", "N1.gene11.png", "N1.familiarity.png"}
    assert "what was measured cannot be shown" in told.notes[0]


def panels(path, count):
    """Pixels of each of a picture's panels, by colour bar colour: (n, 3) of those that are one."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    top, bottom = int(picture.shape[0] * 0.15), int(picture.shape[0] * 0.8)
    return np.array_split(picture[top:bottom], count, axis=1)


def test_measured_and_predicted_share_a_colour_bar_unless_asked(root, tmp_path, monkeypatch):
    monkeypatch.setattr(map_picture, "DPI", 60)
    with pytest.raises(HeadError, match="scale 'log': choose shared"):
        predict(root / "run", root / "others", tmp_path, options=replace(BARE, scale="log"))
    options = PredictOptions(slides=("Z1",), genes=("gene11",), geojson=False)
    store, path = Store(root / "others"), tmp_path / "Z1.gene11.png"
    facts = plan_slide(load_run(root / "run"), store, "Z1", patches="spots").facts
    measured = read_measured(store, facts, ("gene11",)).values["gene11"]
    for scale in ("shared", "own"):
        told = predict(root / "run", store, tmp_path, options=replace(options, scale=scale)).done[0]
        assert str(path) in told.files  # drawn anew though the prediction was kept
        predicted = anndata.read_h5ad(tmp_path / "Z1.h5ad")[:, "gene11"].X[:, 0]
        limits = [np.percentile(values, (1, 99)) for values in (measured, predicted)]
        if scale == "shared":
            limits = [(min(limits[0][0], limits[1][0]), max(limits[0][1], limits[1][1]))] * 2
        for values, (low, high), panel in zip((measured, predicted), limits, panels(path, 3)[1:], strict=True):
            colours = colormaps["viridis"](np.clip((values - low) / (high - low), 0, 1))[:, :3]
            expected = {tuple(one) for one in np.round(colours * 255).astype(int).tolist()}
            shown, pixels = np.unique(panel.reshape(-1, 3), axis=0, return_counts=True)
            found = {tuple(one) for one, n in zip(shown.tolist(), pixels, strict=True) if n > 8}
            assert len(expected & found) > 0.9 * len(expected)


def test_unlike_tissue_runs_from_calm_to_alarming_and_names_its_quantity(root, tmp_path, monkeypatch):
    light = colormaps[map_picture.UNLIKE_MAP](np.arange(256))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) < 0.004).all()
    assert light[0] - light[-1] > 0.7
    said, save = [], Figure.savefig

    def kept(figure, *words, **options):
        save(figure, *words, **options)
        texts = [*figure.texts, *(axes.xaxis.label for axes in figure.axes if axes.get_xlabel())]
        boxes = [text.get_window_extent() for text in texts]
        for number, box in enumerate(boxes):
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, texts[number]
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, texts[number]
            assert not any(box.overlaps(other) for other in boxes[:number]), texts[number]
        said.append([text.get_text() for text in texts])

    monkeypatch.setattr(map_picture, "DPI", 100)
    monkeypatch.setattr(Figure, "savefig", kept)
    options = PredictOptions(slides=("A1", "Z1"), genes=("gene11",), geojson=False)
    predict(root / "run", root / "others", tmp_path, options=options)
    long = "TCGA-XX-1234-01Z-00-DX1.A8D1B1A6-4D0A-4E5C-9C2B-0123456789AB"  # and no picture to stand beside
    add_slide(tmp_path / "bare", long, patient="unknown:1", patches=GRID, n=9, picture=False)
    predict(root / "run", tmp_path / "bare", tmp_path, options=replace(options, slides=(long,)))
    gene, far, _, other, *_ = said
    assert {"A1: gene11", "measured", "predicted by ridge", "gene11, ln(1 + counts per 10,000)"} < set(gene)
    assert "This slide trained the run: this is no test of a new patient." in gene
    assert "A1: distance to the training data" in far
    assert far[-1].startswith("distance to the nearest training spots (SD of training features)\nspots beyond ")
    assert "This slide trained the run: small distances say nothing of a new patient." in far
    assert any("unlike the training data" in one for one in other)


@pytest.mark.parametrize("known", ["stored", "from the image", "unknown"])
def test_geojson_lies_where_qupath_shows_the_slide(known, root, tmp_path):
    """QuPath crops to OpenSlide's bounds; AnnData keeps level-0 pixels of the whole image, and both say so."""
    image = write_scn(tmp_path / "S1.scn", tissue(400, 300))
    with open_slide(image) as slide:
        bounds = slide.bounds_px
    source = image if known == "from the image" else tmp_path / "gone.scn"
    stored = bounds if known == "stored" else None
    options = {"patches": GRID, "n": 4, "source": str(source), "size_px": (900, 1200), "bounds_px": stored}
    add_slide(tmp_path / "store", "S1", **options)
    told = predict(root / "run", tmp_path / "store", tmp_path / "out", options=replace(BARE, geojson=True)).done[0]
    words = json.loads((tmp_path / "out" / "S1.geojson").read_text())
    corners = np.concatenate([one["geometry"]["coordinates"][0] for one in words["features"]])
    adata = anndata.read_h5ad(tmp_path / "out" / "S1.h5ad")
    centers, side = adata.obsm["spatial"], 112 / MPP
    np.testing.assert_array_equal(centers.min(axis=0), [side, side])
    moved = np.zeros(2) if known == "unknown" else np.array(bounds[:2])
    np.testing.assert_allclose(corners.min(axis=0), centers.min(axis=0) - side / 2 - moved)
    np.testing.assert_allclose(corners.max(axis=0), centers.max(axis=0) + side / 2 - moved)
    frame = adata.uns["tissuary"]["coordinates"]
    assert "whole image" in frame["frame"]
    assert told.coordinates == words["tissuary-coordinates"]
    if known == "unknown":
        assert "not known" in frame["bounds_px"]
        assert "whether QuPath crops this image is not known" in told.notes[0]
    else:
        assert tuple(frame["bounds_px"]) == bounds == (200, 500, 300, 400)
        assert "x=200 y=500 width=300 height=400" in told.coordinates
