"""The catalogue: exactly as old as it says, rebuilt when stale, and read at once."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars
import pytest

from tissuary.benchmarks.catalogue import slide_name, write_many
from tissuary.cli.status import status, summarise
from tissuary.store import Store
from tissuary.store.catalog import load_catalog, load_folders
from tissuary.store.catalog_file import Entry, list_folders, read_columns
from tissuary.store.errors import StoreError
from tissuary.store.files.features import write_features
from tissuary.store.files.schema import expression_path, features_path, slide_path
from tissuary.store.files.slide import read_slide, write_slide
from tissuary.store.verify.verify import verify_store

KEY = "toy@20x"


def age(root, seconds=60):
    """Make every file older; one that was written a moment ago is read again at the next look."""
    for path in root.rglob("*.h5*"):
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - seconds * 10**9))


@pytest.fixture
def store(make_store):
    store = make_store({"a1": ("A", 25), "a2": ("A", 30), "b1": ("unknown:b1", 28)}, n_genes=12)
    age(store.path)
    assert store.entries
    return store


@pytest.fixture
def opened(monkeypatch):
    """Paths that are opened from now on to describe them."""
    import tissuary.store.catalog as catalog

    paths, describe = [], catalog._opened
    monkeypatch.setattr(catalog, "_opened", lambda root, entry: paths.append(entry.path) or describe(root, entry))
    return paths


def test_rows_come_back_as_they_were_written(store, opened):
    assert load_catalog(store.path) == store.entries
    assert opened == []
    saved = read_columns(store.path)
    assert tuple(entry for folder in saved.folders for entry in folder.entries()) == store.entries
    frame = polars.read_parquet(store.path / "catalog.parquet")
    assert [Entry(**row) for row in frame.to_dicts()] == list(store.entries)
    counts = next(entry for entry in store.entries if entry.path == "expression/a2.h5ad")
    assert (counts.rows, counts.dim, len(counts.sha256)) == (30, 12, 64)


def test_every_change_of_a_file_is_seen_and_only_that_file_is_opened(store, opened):
    path = features_path(store.path, "a2", key=KEY)
    relative = path.relative_to(store.path).as_posix()
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # overwritten in place: the folder keeps its time
    assert load_catalog(store.path) != store.entries
    assert opened == [relative]

    opened.clear()
    with path.open("ab") as file:
        file.write(b"\0")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    found = {entry.path: entry for entry in load_catalog(store.path)}
    assert (found[relative].size, opened) == (stat.st_size + 1, [relative])

    opened.clear()
    age(store.path)
    assert load_catalog(store.path)
    opened.clear()
    path.rename(path.with_name("a9.h5"))
    assert {entry.slide_id for entry in load_catalog(store.path) if entry.key == KEY} == {"a1", "a9", "b1"}
    assert opened == [relative.replace("a2", "a9")]


def test_a_new_key_and_a_dropped_one_are_seen(store, opened):
    folder = features_path(store.path, "a1", key=KEY).parent
    folder.rename(folder.with_name("other@20x"))
    assert Store(store.path).keys() == ("haematoxylin@20x", "other@20x")
    assert sorted(opened) == [f"features/spots/other@20x/{slide}.h5" for slide in ("a1", "a2", "b1")]
    opened.clear()
    folder.with_name("other@20x").rename(folder)
    (folder / ".a7.h5.partial-f2").write_bytes(b"half")
    assert load_catalog(store.path) == store.entries
    assert load_catalog(store.path) == store.entries
    assert len(opened) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no JSON at all",
        b'{"encoding-type": "tissuary-catalog", "encoding-version": "1", "folders": {}}',
        b'{"encoding-type": "tissuary-catalog", "encoding-version": "2", "folders": {"slides": {"kind": "slide"}}}',
        b'{"encoding-type": "tissuary-catalog", "encoding-version": "2", "folders": [1]}',
        b"[]",
    ],
)
def test_a_catalogue_that_cannot_be_read_is_rebuilt(store, content):
    (store.path / "catalog.json").write_bytes(content)
    assert load_catalog(store.path) == store.entries
    assert verify_store(store.path) == ()


def test_columns_of_unequal_length_are_rebuilt(store):
    path = store.path / "catalog.json"
    saved = json.loads(path.read_text())
    saved["folders"]["slides"]["columns"]["patient_id"].pop()
    path.write_text(json.dumps(saved))
    assert load_catalog(store.path) == store.entries


@pytest.mark.parametrize("harm", ["remove", "overwrite"])
def test_the_parquet_copy_is_made_again(store, opened, harm):
    path = store.path / "catalog.parquet"
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(b"no parquet at all")
    assert load_catalog(store.path) == store.entries
    assert polars.read_parquet(path).equals(store.catalog)
    assert opened == []


def test_a_store_that_cannot_be_written_has_the_same_rows(store, monkeypatch):

    def refuse(*_words):
        msg = "read-only"
        raise StoreError(msg)

    for name in ("catalog.json", "catalog.parquet"):
        (store.path / name).unlink()
    monkeypatch.setattr("tissuary.store.catalog.write_columns", refuse)
    monkeypatch.setattr("tissuary.store.catalog._write_parquet", refuse)
    assert load_catalog(store.path) == store.entries
    assert not (store.path / "catalog.json").exists()


def test_a_machine_without_polars_has_the_same_rows_and_leaves_no_stale_parquet(store):
    code = (
        "import sys, importlib.util as u\n"
        "sys.modules['polars'] = None\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'polars' else find(name, *rest)\n"
        "from pathlib import Path\n"
        "import tissuary.store.catalog as catalog\n"
        "root, opened, describe = Path(sys.argv[1]), [], catalog._opened\n"
        "catalog._opened = lambda root, entry: opened.append(entry.path) or describe(root, entry)\n"
        "print(len(catalog.load_catalog(root)), len(opened))\n"
        "Path(sys.argv[2]).unlink()\n"
        "print(len(catalog.load_catalog(root)), len(opened), (root / 'catalog.parquet').exists())\n"
        "print(len(catalog.load_catalog(root)), len(opened))\n"
    )
    gone = features_path(store.path, "a2", key=KEY)
    words = [sys.executable, "-c", code, str(store.path), str(gone)]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["15 0", "14 0 False", "14 0"]
    assert len(load_catalog(store.path)) == 14
    assert polars.read_parquet(store.path / "catalog.parquet").height == 14


def test_status_loads_nothing_heavy(store):
    code = (
        "import sys\n"
        "from tissuary.cli.main import main\n"
        "sys.argv = ['tissuary', 'status', sys.argv[1]]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('numpy', 'h5py', 'polars', 'scipy', 'rich', 'torch') if m in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=True)
    head, slides, table, *_, last = found.stdout.splitlines()
    assert slides == "slides a1, a2, b1"  # what --slide and --slides take
    assert head.startswith("3 slides of 2 patients (1 unknown), 3 with counts")
    assert table.split() == [
        "patch",
        "set",
        "features",
        "slides",
        "patches",
        "dim",
        "type",
        "um/px",
        "field",
        "um",
        "fingerprint",
    ]
    assert last == "[]"


def test_the_summary_is_the_sum_of_the_rows(store):
    summary = summarise(store.path, load_folders(store.path))
    assert (summary["slides"], summary["patients"], summary["unknown_patients"]) == (3, 2, 1)
    assert summary["bytes"] == sum(entry.size for entry in store.entries)
    toy = next(row for row in summary["features"] if row["key"] == KEY)
    assert (toy["slides"], toy["rows"], toy["dim"], toy["mpp"]) == (3, 25 + 30 + 28, 8, (0.5, 0.5))
    assert toy["fingerprints"] == [f"print of {KEY}"]
    slide_path(store.path, "a1").write_bytes(b"cut")
    (problem,) = summarise(store.path, load_folders(store.path))["problems"]
    assert "slides/a1.h5 is not a whole HDF5 file" in problem


def test_what_differs_between_slides_of_a_key_is_shown(store, capsys):
    changes = {"mpp": 0.71, "fov_um": 159.0, "upsampling": 1.4, "precision": "bf16"}
    changes["fingerprint"] = "declared:toy:" + "5" * 64
    header, rows = store.header(KEY, "b1"), np.array(store.features(KEY, "b1"))
    features_path(store.path, "b1", key=KEY).unlink()
    with write_features(features_path(store.path, "b1", key=KEY), replace(header, **changes), shape=rows.shape) as new:
        new.append(rows.astype(np.float32) * 1e6)  # beyond float16, so stored as float32
    status(store.path)
    out = capsys.readouterr().out
    assert "3 with counts, at 0.5 um/px, " in out
    (line,) = [line for line in out.splitlines() if line.startswith("spots") and KEY in line]
    assert "  float16/float32  0.5 to 0.71  112 to 159  declared:toy:555555555555, print of toy" in line
    differs = f"{KEY} on spots differs between slides: up-sampled 1 to 1.4 times, computed in bf16 and fp32, "
    assert differs + "stored as float16 and float32" in out
    (one,) = [row for row in summarise(store.path, load_folders(store.path))["features"] if row["key"] == KEY]
    assert (one["mpp"], one["fov_um"], one["upsampling"]) == ((0.5, 0.71), (112.0, 159.0), (1.0, 1.4))
    slide = read_slide(slide_path(store.path, "a1"))
    slide_path(store.path, "a1").unlink()
    write_slide(slide_path(store.path, "a1"), replace(slide, mpp=0.25), thumbnail=None)
    status(store.path)
    assert ", at 0.25 to 0.5 um/px, " in capsys.readouterr().out


def test_empty_folders_and_broken_links_are_no_files(tmp_path):
    with pytest.raises(StoreError, match="is no store: the folder is empty"):
        load_catalog(tmp_path)
    (tmp_path / "features" / "spots" / KEY).mkdir(parents=True)
    (tmp_path / "expression").mkdir()
    expression_path(tmp_path, "gone").symlink_to(tmp_path / "nowhere.h5ad")
    assert load_catalog(tmp_path) == ()
    assert [folder.path for folder in list_folders(tmp_path)] == ["slides", f"features/spots/{KEY}", "expression"]


def test_many_slides_answer_from_the_catalogue_alone(tmp_path, opened):
    root = tmp_path / "store"
    write_many(root, 120)
    age(root)
    assert len(Store(root).entries) == len(opened) == 120 * 5
    opened.clear()
    store = Store(root)
    assert store.slides_with([KEY, "toy@10x"], expression=True) == tuple(slide_name(i) for i in range(120))
    table = store.table(KEY, slides=[slide_name(77)])
    assert (len(table), table.slide_ids) == (9, (slide_name(77),))
    assert opened == []
