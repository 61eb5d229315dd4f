"""A catalogue that grew old: whatever happens to files, folders and writers, the rows are those of the files."""

import json
import os
import stat
import subprocess
import sys

import polars
import pytest

from tissuary.store import Store
from tissuary.store.catalog import load_catalog
from tissuary.store.catalog_file import YOUNG_NS, read_columns
from tissuary.store.errors import StoreError
from tissuary.store.files.features import read_features, write_features
from tissuary.store.files.schema import features_path, patches_path, slide_path
from tissuary.store.verify.verify import verify_store

KEY = "toy@20x"


@pytest.fixture
def store(make_store):
    """Two slides whose files were written a minute ago, and a catalogue."""
    store = make_store({"a1": ("A", 25), "b1": ("B", 28)}, n_genes=12)
    for path in store.path.rglob("*.h5*"):
        shift(path, seconds=-60)
    assert store.entries
    assert read_columns(store.path).unsure == ()
    return store


@pytest.fixture
def opened(monkeypatch):
    """Paths that are opened from now on to describe them."""
    import tissuary.store.catalog as catalog

    paths, describe = [], catalog._opened
    monkeypatch.setattr(catalog, "_opened", lambda root, entry: paths.append(entry.path) or describe(root, entry))
    return paths


def shift(path, *, seconds):
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + seconds * 10**9))


def replaced_by_another_encoder(path):
    """The same file with another fingerprint of the same length, so of the same size."""
    old = read_features(path)
    content = path.read_bytes()
    assert content.count(b"print of toy@20x") == 1
    path.unlink()
    path.write_bytes(content.replace(b"print of toy@20x", b"PRINT of toy@20x"))
    assert read_features(path).header.fingerprint != old.header.fingerprint


def of_key(entries):
    return {entry.slide_id: entry.fingerprint for entry in entries if entry.key == KEY}


def test_a_file_of_the_same_size_and_another_time_is_read_again(store, opened):
    path = features_path(store.path, "a1", key=KEY)
    replaced_by_another_encoder(path)
    assert of_key(load_catalog(store.path)) == {"a1": f"PRINT of {KEY}", "b1": f"print of {KEY}"}
    assert opened == [f"features/spots/{KEY}/a1.h5"]


def test_a_file_written_again_within_the_tick_of_its_clock_is_read_again(store, opened):
    """A file system that counts whole seconds gives both versions one time; git calls such entries racy."""
    path = features_path(store.path, "a1", key=KEY)
    shift(path, seconds=60)  # as if it had been written now
    first = path.stat()
    assert of_key(load_catalog(store.path))["a1"] == f"print of {KEY}"
    assert read_columns(store.path).unsure == (f"features/spots/{KEY}/a1.h5",)
    replaced_by_another_encoder(path)
    os.utime(path, ns=(first.st_atime_ns, first.st_mtime_ns))
    assert path.stat().st_size == first.st_size
    assert of_key(load_catalog(store.path))["a1"] == f"PRINT of {KEY}"


def test_a_file_that_grew_older_is_trusted_after_one_more_look(store, opened):
    path = features_path(store.path, "a1", key=KEY)
    shift(path, seconds=60)
    assert load_catalog(store.path)
    shift(path, seconds=-YOUNG_NS // 10**9 - 1)
    assert load_catalog(store.path)
    assert len(opened) == 2
    assert load_catalog(store.path)
    assert len(opened) == 2
    assert read_columns(store.path).unsure == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_could_not_be_read_for_want_of_a_right_is_read_once_it_can(store):
    path = slide_path(store.path, "a1")
    path.chmod(0)
    assert Store(store.path).slide_ids == ("b1",)
    path.chmod(0o644)
    assert Store(store.path).slide_ids == ("a1", "b1")


def test_a_file_with_a_problem_is_looked_at_each_time_and_nothing_is_written_for_it(store, opened):
    """What keeps a file from being read may pass (a right, a lock, an older tissuary) and leave its time as it is."""
    path, columns = slide_path(store.path, "a1"), store.path / "catalog.json"
    before = path.stat()
    content = path.read_bytes()
    path.write_bytes(b"?" * len(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert Store(store.path).slide_ids == ("b1",)
    written = columns.stat().st_mtime_ns
    assert Store(store.path).slide_ids == ("b1",)
    assert opened == ["slides/a1.h5", "slides/a1.h5"]
    assert columns.stat().st_mtime_ns == written
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert Store(store.path).slide_ids == ("a1", "b1")
    assert Store(store.path).slide_ids == ("a1", "b1")
    assert len(opened) == 3


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(store, monkeypatch):
    def refuse(path, *words, before=os.open):
        if str(path).endswith(KEY):
            raise PermissionError(13, "Permission denied", str(path))
        return before(path, *words)

    monkeypatch.setattr("tissuary.store.catalog_file.os.open", refuse)
    with pytest.raises(StoreError, match=rf"{KEY} cannot be listed \(Permission denied\): give yourself the right"):
        load_catalog(store.path)


@pytest.mark.parametrize("step", ["write_columns", "_write_parquet"])
def test_a_process_killed_while_it_writes_the_catalogue_costs_nothing(store, step):
    path = features_path(store.path, "b1", key=KEY)
    replaced_by_another_encoder(path)
    shift(path, seconds=-60)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import tissuary.store.catalog as catalog\n"
        "setattr(catalog, sys.argv[2], lambda *words: os.kill(os.getpid(), signal.SIGKILL))\n"
        "catalog.load_catalog(Path(sys.argv[1]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(store.path), step], check=False)
    assert killed.returncode == -9
    assert of_key(load_catalog(store.path)) == {"a1": f"print of {KEY}", "b1": f"PRINT of {KEY}"}
    frame = polars.read_parquet(store.path / "catalog.parquet")
    assert set(frame.filter(polars.col("key") == KEY)["fingerprint"]) == {f"print of {KEY}", f"PRINT of {KEY}"}


def test_half_a_catalogue_left_by_a_kill_in_the_middle_of_a_write_is_not_read(store):
    whole = (store.path / "catalog.json").read_bytes()
    for name in ("catalog.json", "catalog.parquet"):
        (store.path / f".{name}.partial-host~1~00000000").write_bytes(whole[: len(whole) // 2])
    assert load_catalog(store.path) == store.entries
    assert verify_store(store.path) == ()


def test_a_changed_byte_of_the_catalogue_has_it_rebuilt(store, opened):
    path = store.path / "catalog.json"
    raw = path.read_bytes()
    assert json.loads(raw)["folders"]["slides"]["columns"]["patient_id"] == ["A", "B"]
    path.write_bytes(raw.replace(b'["A", "B"]', b'["A", "C"]'))
    assert load_catalog(store.path) == store.entries
    assert len(opened) == len(store.entries)
    assert json.loads(path.read_bytes())["folders"] == json.loads(raw)["folders"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_store_without_write_permission(store):
    gone = features_path(store.path, "b1", key=KEY)
    gone.unlink()
    store.path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert set(of_key(load_catalog(store.path))) == {"a1"}
    finally:
        store.path.chmod(0o755)


def test_a_store_on_a_folder_that_refuses_writing(store, monkeypatch):
    """As a read-only mount answers, for which root is no exception."""
    before = (store.path / "catalog.json").read_bytes()
    features_path(store.path, "b1", key=KEY).unlink()

    def refuse(self, *_words, **_options):
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    for _ in range(2):
        assert set(of_key(load_catalog(store.path))) == {"a1"}
    assert (store.path / "catalog.json").read_bytes() == before


def test_another_writer_between_both_files_of_a_catalogue_is_noticed(store, monkeypatch):
    """One process writes its Parquet, a second one both its files, then the first its columns."""
    import tissuary.store.catalog as catalog

    path, write = features_path(store.path, "b1", key=KEY), catalog.write_columns
    older = load_catalog(store.path)
    replaced_by_another_encoder(path)
    shift(path, seconds=-60)

    def overtaken(root, saved):
        monkeypatch.setattr(catalog, "write_columns", write)
        catalog.to_frame(older).write_parquet(root / "catalog.parquet")  # of a process that listed earlier
        write(root, saved)

    monkeypatch.setattr(catalog, "write_columns", overtaken)
    assert of_key(load_catalog(store.path))["b1"] == f"PRINT of {KEY}"
    assert of_key(load_catalog(store.path))["b1"] == f"PRINT of {KEY}"
    frame = polars.read_parquet(store.path / "catalog.parquet")
    assert frame.filter(path=f"features/spots/{KEY}/b1.h5")["fingerprint"].item() == f"PRINT of {KEY}"


def test_many_processes_at_once_give_the_same_rows(store):
    """While files come, processes catalogue: none fails, and the last look has every file."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tissuary.store.catalog import load_catalog\n"
        "counts = [len(load_catalog(Path(sys.argv[1]))) for _ in range(12)]\n"
        "assert counts == sorted(counts), counts\n"
    )
    words = [sys.executable, "-W", "error", "-c", code, str(store.path)]
    running = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    opened = read_features(features_path(store.path, "a1", key=KEY))
    for number in range(30):
        path = features_path(store.path, "a1", key=f"more{number}@20x")
        with write_features(path, opened.header, shape=opened.features.shape) as writer:
            writer.append(opened.features.astype("f4"))
    for process in running:
        assert (process.wait(), process.stderr.read()) == (0, "")
    entries = load_catalog(store.path)
    assert len(entries) == 2 * 5 + 30
    assert len(polars.read_parquet(store.path / "catalog.parquet")) == len(entries)
    assert patches_path(store.path, "a1").is_file()
