"""Spots held against array, picture and tissue, from every source; inputs as people have met them, made up."""

import json
import re

import anndata
import numpy as np
import pandas
import pytest
from scipy.sparse import csr_matrix

from tissuary.featurize.options import FeaturizeOptions
from tissuary.featurize.slide_plan import look_at
from tissuary.featurize.slides.open import open_slide
from tissuary.featurize.sources.load import load_cohort
from tissuary.featurize.sources.sample import Spots
from tissuary.featurize.sources.spot_checks import checked_array, is_mirrored
from tissuary.store.errors import CohortError, ScaleError
from tissuary.tests.source_files import hest_json, tenx_h5, tiff

OPTIONS = FeaturizeOptions(views=("10x",), batch=4, readers=2)
ROWS, COLUMNS, PITCH = 10, 6, 40.0
ARRAY = np.array([(r, 2 * c + r % 2) for r in range(ROWS) for c in range(COLUMNS)])  # (60, 2), Visium's
CENTERS = np.stack([60 + ARRAY[:, 1] * PITCH / 2, 60 + ARRAY[:, 0] * PITCH * 3**0.5 / 2], axis=1)
N = len(ARRAY)
NAMES = ["".join(np.random.default_rng(i).choice(list("ACGT"), 16)) + "-1" for i in range(N)]
TWICE = [f"spot{i}" for i in range(2 * N)]
INSIDE = (np.arange(N) % 3 > 0).astype(int)


def strip(side=440):
    """An upright strip of grained tissue where `CENTERS` lie, glass elsewhere."""
    grain = np.random.default_rng(0).integers(-45, 45, size=(side // 4 + 1, side // 4 + 1, 3))
    pixels = np.full((side, side, 3), 245)
    box = np.s_[40:400, 40:300]
    pixels[box] = ([190, 110, 160] + grain.repeat(4, 0).repeat(4, 1)[:side, :side])[box]
    return pixels.clip(0, 255).astype(np.uint8)


def adata(center=CENTERS, array=ARRAY, names=NAMES, uns=None, **obs):
    rows = pandas.DataFrame(index=list(names))
    if array is not None:
        rows["array_row"], rows["array_col"] = array[:, 0], array[:, 1]
    for name, values in obs.items():
        rows[name] = values
    counts = csr_matrix(np.random.default_rng(0).poisson(3, size=(len(rows), 3)).astype(np.float32))
    made = anndata.AnnData(counts, rows, pandas.DataFrame(index=["A", "B", "C"]), uns=uns or {})
    made.obsm["spatial"] = np.asarray(center)
    return made


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return tiff(tmp_path_factory.mktemp("image") / "S1.tif", pixels=strip())


@pytest.fixture
def look(tmp_path, image):
    """Look at the only slide of a folder, after an AnnData was written beside its image."""

    def of(made=None, source=tmp_path, **options):
        if made is not None:
            made.write_h5ad(tmp_path / "S1.h5ad")
            if not (tmp_path / "S1.tif").exists():
                (tmp_path / "S1.tif").symlink_to(image)
        (sample,) = load_cohort(source, **options).samples
        with open_slide(sample.image) as slide:
            return look_at(sample, slide, OPTIONS, encoders={})

    return of


def barcodes(found):
    return found.sets["spots"].patches.barcode.tolist()


@pytest.mark.parametrize("values", [INSIDE, INSIDE.astype(bool), INSIDE.astype(str), INSIDE.astype(float),
                                    INSIDE.astype(float).astype(str),
                                    pandas.Categorical(np.where(INSIDE, "True", "False"))])  # fmt: skip
def test_spots_beside_the_tissue_are_left_out(look, values):
    found = look(adata(in_tissue=values, uns={"spatial": {"is_single": True}}))
    kept = [name for name, inside in zip(NAMES, INSIDE, strict=True) if inside]
    assert barcodes(found) == kept == found.measured.spots.barcode.tolist()
    assert found.measured.counts.shape == (len(kept), 3)


def test_spots_beside_the_tissue_may_lie_beyond_the_picture(look):
    center = CENTERS.copy()
    center[INSIDE == 0] -= 1000
    assert len(barcodes(look(adata(center, in_tissue=INSIDE, array=None)))) == INSIDE.sum()
    with pytest.raises(CohortError, match="spots lie outside"):
        look(adata(center, array=None))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.nan, "in_tissue of spot 1 is 'nan'; wanted 1 or 0"),
        (0, "none of 60 spots is in_tissue.*take it out"),
        ("maybe", "in_tissue of spot 1 is 'maybe'; wanted 1 or 0"),
    ],
)
def test_tissue_nowhere_or_unknown_is_refused(look, values, match):
    with pytest.raises(CohortError, match=match):
        look(adata(in_tissue=values))


def test_every_source_but_hest_leaves_spots_beside_the_tissue_out(look, tmp_path, image, caplog):
    root = tmp_path / "hest"
    for name in ("st", "wsis"):
        (root / name).mkdir(parents=True)
    adata(in_tissue=INSIDE).write_h5ad(root / "st/S1.h5ad")
    (root / "wsis/S1.tif").symlink_to(image)
    hest_json(root, {"id": "S1", "pixel_size_um_estimated": 0.5})
    assert len(barcodes(look(source=root))) == N
    hest = {"spatial": {"ST": {"images": {"downscaled_fullres": np.zeros((2, 2, 3), np.uint8)}}}}
    assert len(barcodes(look(adata(in_tissue=INSIDE * 0, uns=hest)))) == N  # HEST's, apart from its folders
    caplog.clear()
    adata().write_h5ad(tmp_path / "counts.h5ad")
    table = {"barcode": NAMES, "in_tissue": INSIDE, "pixel_x": CENTERS[:, 0], "pixel_y": CENTERS[:, 1]}
    pandas.DataFrame(table).to_csv(tmp_path / "spots.csv", index=False)
    (tmp_path / "m.csv").write_text(f"slide_id,image,counts,spots\nS1,{image},counts.h5ad,spots.csv\n")
    assert len(barcodes(look(source=tmp_path / "m.csv"))) == INSIDE.sum()
    assert caplog.text == ""  # counts beside the tissue lack no partner


def concatenated(key="sample", **changed):
    """Two sections put into one AnnData, the second a little beside the first."""
    one, other = adata(**changed), adata(CENTERS + 7.0, **changed)
    return anndata.concat({"S1": one, "S2": other}, label=key, index_unique="-")


@pytest.mark.parametrize("key", ["sample", "batch", "anything"])
def test_two_sections_in_one_file_are_refused(look, key):
    said = (
        rf"of its 120 spots, 60 array positions occur more than once: these are several sections in one file\. "
        rf"They are, by the column '{key}': S1 \(60\), S2 \(60\)\. Write one file a slide"
    )
    with pytest.raises(CohortError, match=said):
        look(concatenated(key))


@pytest.mark.parametrize(
    ("made", "seen"),
    [
        (lambda: concatenated(array=None), "60 barcodes without their endings occur .*by the column 'sample'"),
        (
            lambda: adata(np.repeat(CENTERS, 2, axis=0), None, TWICE),
            "60 positions in px occur more than once",
        ),
        (
            lambda: adata(np.concatenate([CENTERS, CENTERS + 4]), None, TWICE, run=["a"] * N + ["b"] * N),
            r"they form lattices on top of one another.*by the column 'run': a \(60\), b \(60\)",
        ),
    ],
)
def test_sections_without_an_array_give_themselves_away(look, made, seen):
    with pytest.raises(CohortError, match=seen):
        look(made())


def test_columns_of_one_section_are_no_sections(caplog):
    """Clusters, random labels on a lattice, and cell types of cells that lie anywhere."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.divmod(np.arange(400), 20), axis=1)
    labels = {"cluster": (np.arange(400) // 100).astype(str).astype(object),
              "type": rng.integers(0, 3, 400).astype(str).astype(object)}  # fmt: skip
    names = np.array([f"cell{i}" for i in range(400)])
    for center in (grid * 100.0, rng.uniform(0, 2000, (400, 2))):
        spots = Spots(names, center, None, labels=labels)
        assert checked_array("s", spots) is spots
    assert caplog.text == ""


def test_columns_of_a_staggered_array_are_no_sections(caplog):
    """Spots of a Visium column lie 1.73 times as far apart as neighbours do, and evenly; it is a line all the same."""
    row, column = np.divmod(np.arange(40 * 12), 12)
    center = np.stack([column * 50.0, (2 * row + column % 2) * 50.0 * 3**0.5], axis=1)
    labels = {"array_col": column.astype(str).astype(object)}
    spots = Spots(np.array([f"s{i}" for i in range(len(center))]), center, None, labels=labels)
    assert checked_array("s", spots) is spots
    assert caplog.text == ""


def test_barcodes_of_two_parts_do_not_repeat(caplog):
    """DBiT-seq names a spot by the parts of its row and its column, each of which many spots have."""
    part = ["".join(np.random.default_rng(100 + i).choice(list("ACGT"), 8)) + f"{'ACGT'[i % 4]}A" for i in range(22)]
    names = np.array([f"{part[column]}_{part[12 + row]}-1" for row, column in ARRAY])
    spots = Spots(names, CENTERS, None)
    assert checked_array("s", spots) is spots
    assert caplog.text == ""


def test_a_samples_index_before_the_names_of_spots_is_no_barcode(caplog):
    names = np.array([f"GATTACAGATTACA_{i}" for i in range(N)])
    assert len(checked_array("S1", Spots(names, CENTERS, ARRAY)).barcode) == N
    assert not caplog.records


def test_an_array_that_says_nothing_is_left_out_and_a_slip_is_said(caplog):
    spots = Spots(np.array(["a", "b"]), CENTERS[:2], np.zeros((2, 2), dtype=np.int32))
    assert checked_array("s", spots).array is None
    assert "all 2 spots have one array position" in caplog.text
    array = np.stack(np.divmod(np.arange(200), 20), axis=1)
    array[0] = array[1]
    names = np.array([f"n{i}" for i in range(200)])
    checked_array("s", Spots(names, array * 10.0 + np.arange(200)[:, None] / 1e3, array))
    assert "1 of 200 array positions occur more than once" in caplog.text


@pytest.mark.parametrize("mpp", [None, 0.5])
def test_positions_of_other_rows_are_refused_though_all_scales_are_known(look, tmp_path, image, mpp):
    mixed = np.random.default_rng(0).permutation(CENTERS)
    adata(mixed).write_h5ad(tmp_path / "mixed.h5ad")
    (tmp_path / "m.csv").write_text(f"slide_id,image,counts,mpp\nS1,{image},mixed.h5ad,{mpp or ''}\n")
    with pytest.raises(ScaleError, match="pixel positions do not follow the array positions"):
        look(source=tmp_path / "m.csv")


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, 270])
def test_a_rotated_array_is_not_mirrored_but_its_reflection_is(degrees):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert not is_mirrored(CENTERS @ turn.T, ARRAY)
    assert is_mirrored(CENTERS @ turn.T * [-1, 1], ARRAY)
    assert is_mirrored((CENTERS @ turn.T)[:, ::-1], ARRAY)
    assert not is_mirrored(CENTERS[:1], ARRAY[:1])


def misplaced(caplog):
    return [one.getMessage() for one in caplog.records if "Look at qc/S1.jpg" in one.getMessage()]


def test_spots_in_their_places_are_not_doubted(look, caplog):
    factors = {"spot_diameter_fullres": 22.0, "tissue_hires_scalef": 0.1}
    look(adata(uns={"spatial": {"S1": {"scalefactors": factors}}}))
    look(adata(CENTERS[::-1] * [1, 1], ARRAY[::-1]))
    assert misplaced(caplog) == []


@pytest.mark.parametrize(
    ("center", "array", "words"),
    [
        (CENTERS[:, ::-1], ARRAY, r"array lies mirrored.*; \d\d% of them lie on tissue .*, 100% would with x and y"),
        (CENTERS[:, ::-1], None, r"60 spots: \d\d% of them lie on tissue by .* own mask, 100% would with x and y"),
        (CENTERS * [-1, 1] + 340 * np.array([1, 0]), ARRAY, "array lies mirrored.*; 100% of them lie on tissue"),
        (CENTERS * [-1, 1] + np.array([440, 0]), None, "100% would with left and right exchanged"),
        (CENTERS * 0.1, None, "60 spots: 0% of them lie on tissue"),
        (CENTERS * 0.1, ARRAY, "they are 4.0 px apart, but the scale factors give a diameter of 22.0 px"),
        (CENTERS * [1, 2], None, "spots lie outside"),
    ],
)  # fmt: skip
def test_spots_that_look_misplaced_are_warned_about_with_what_was_seen(look, caplog, center, array, words):
    factors = {"spot_diameter_fullres": 22.0, "tissue_hires_scalef": 0.1}
    made = adata(center, array, uns={"spatial": {"S1": {"scalefactors": factors}}})
    if words.endswith("outside"):
        with pytest.raises(CohortError, match=words):
            look(made)
        return
    look(made)
    (line,) = misplaced(caplog)
    assert re.search(words, line), line


HEADER = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
LINES = [[name, "1", str(r), str(c), str(y), str(x)]
         for name, (r, c), (x, y) in zip(NAMES, ARRAY, CENTERS, strict=True)]  # fmt: skip


def quoted(fields, separator=","):
    return separator.join(f'"{one}"' if not one.replace(".", "").isdigit() else one for one in fields)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tissue_positions.csv", [quoted(HEADER), *map(quoted, LINES)]),
        ("tissue_positions_list.csv", [quoted(HEADER), *map(quoted, LINES)]),
        ("tissue_positions_list.csv", list(map(quoted, LINES))),
        ("tissue_positions.csv", ["\ufeff" + ",".join(HEADER), *map(",".join, LINES)]),
        ("tissue_positions.csv", [quoted(["", *HEADER]), *(quoted([str(i), *one]) for i, one in enumerate(LINES))]),
        ("tissue_positions.csv", [quoted(HEADER), *(quoted([f"r{i}", *one]) for i, one in enumerate(LINES))]),
        ("tissue_positions.csv", [quoted(HEADER, "\t"), *(quoted(one, "\t") for one in LINES)]),
        ("tissue_positions.csv", [";".join(HEADER), *(quoted([one[0], "TRUE", *one[2:]], ";") for one in LINES)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_positions_that_another_program_wrote_again(tmp_path, image, name, text, ending):
    spatial = tmp_path / "run1/spatial"
    spatial.mkdir(parents=True)
    (spatial / name).write_bytes((ending.join(text) + ending).encode())
    (spatial / "scalefactors_json.json").write_text(json.dumps({"spot_diameter_fullres": 55.0}))
    tenx_h5(tmp_path / "run1/filtered_feature_bc_matrix.h5", barcode=NAMES, names=["A"], counts=np.ones((N, 1)))
    (tmp_path / "run1/run1.tif").symlink_to(image)
    (sample,) = load_cohort(tmp_path / "run1").samples
    spots = sample.read_measured().spots
    np.testing.assert_array_equal(spots.center_px, CENTERS)
    np.testing.assert_array_equal(spots.array, ARRAY)
    assert (spots.barcode.tolist(), spots.diameter_px) == (NAMES, 55.0)


@pytest.mark.parametrize("said", ['"55"', "[55]", "NaN", "0", "-1", "true"])
def test_a_diameter_that_is_no_number_says_nothing(tmp_path, image, said):
    spatial = tmp_path / "run1/spatial"
    spatial.mkdir(parents=True)
    (spatial / "tissue_positions.csv").write_text("\n".join(map(",".join, [HEADER, *LINES])))
    (spatial / "scalefactors_json.json").write_text(f'{{"spot_diameter_fullres": {said}}}')
    tenx_h5(tmp_path / "run1/filtered_feature_bc_matrix.h5", barcode=NAMES, names=["A"], counts=np.ones((N, 1)))
    (tmp_path / "run1/run1.tif").symlink_to(image)
    (sample,) = load_cohort(tmp_path / "run1").samples
    assert sample.read_measured().spots.diameter_px is None


def test_a_diameter_that_is_no_number_is_no_doubt(look, caplog):
    for said in (float("nan"), 0.0, "55"):
        look(adata(uns={"spatial": {"S1": {"scalefactors": {"spot_diameter_fullres": said}}}}))
    assert misplaced(caplog) == []


@pytest.mark.parametrize(
    "spatial",
    [
        {},
        CENTERS,
        {"is_single": True, "S1": {"scalefactors": {"spot_diameter_fullres": 55.0}}},
        {"S1": {"images": {"hires": np.zeros((2, 2, 3))}}, "chemistry_description": "custom", "metadata": {"a": "b"}},
        {"S1": {"metadata": {"a": "b"}}},
        np.array("S1", dtype=object),
    ],
)
def test_what_other_programs_leave_in_uns_spatial(look, spatial):
    assert len(barcodes(look(adata(uns={"spatial": spatial})))) == N
