"""The first hour of a new user: help, paths that are no store, progress in a log, Ctrl-C."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

import tissuary
from tissuary.cli import output
from tissuary.cli.lists import expand_lists
from tissuary.cli.main import app, main
from tissuary.cli.verbs import VERBS
from tissuary.store import Store
from tissuary.store.errors import StoreError
from tissuary.store.verify.verify import examine_store

HOME = Path(tissuary.__file__).parent


@pytest.fixture(autouse=True)
def ctrl_c_arrives():
    """What starts the tests in the background may have switched Ctrl-C off, for this process too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process; returns exit code, stdout and stderr."""

    def go(*words):
        monkeypatch.setattr(sys, "argv", ["tissuary", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return left.value.code or 0, captured.out, captured.err

    return go


@pytest.fixture(scope="module")
def store(make_shared_store):
    return make_shared_store({"a1": ("A", 16), "b1": ("B", 16), "c1": ("C", 16)}, n_genes=12)


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# --- what is no store


@pytest.fixture
def no_stores(store, tmp_path):
    """Folder -> what is said of it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    (tmp_path / "scans" / "slides").mkdir(parents=True)  # a folder that many cohorts have
    (tmp_path / "scans" / "slides" / "a.svs").write_bytes(b"")
    (tmp_path / "list.csv").write_text("slide_id\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "head.json").write_text("{}")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "her.store").symlink_to(store.path)
    return {
        "empty": "the folder is empty. Make one with `tissuary featurize SOURCE --store",
        "photos": r"it has no slides/\*\.h5, as every store does; it holds cat.jpg",
        "scans": r"it has no slides/\*\.h5",
        "list.csv": "it is a file, and a store is the folder",
        "run": "it is a run of `tissuary train`",
        "work": "it holds the store .*her.store. Give that folder",
        "work/her.stor": "there is no such folder. Did you mean .*her.store?",
        "nowhere": "there is no such folder. Make one with `tissuary featurize SOURCE --store",
    }


def test_what_is_no_store_is_refused_by_its_name_and_nothing_is_written(run, no_stores, tmp_path):
    before = files_below(tmp_path)
    for name, said in no_stores.items():
        path = tmp_path / name
        message = f"{re.escape(str(path))} is no store: {said}"
        for verb in ("status", "verify", "index"):
            code, out, err = run(verb, path)
            assert (code, out) == (2, ""), err
            assert re.search(message, err)
        for door in (Store, examine_store):
            with pytest.raises(StoreError, match=message):
                door(path)
    assert files_below(tmp_path) == before


def test_a_folder_inside_a_store_names_the_store(store):
    for name in ("slides", "features/spots", "slides/a1.h5"):
        with pytest.raises(StoreError, match=f"it is a part of the store .*{store.path.name}. Give that folder"):
            Store(store.path / name)
    assert Path(store) == store.path == Store(store).path  # and a store is taken where its path is


def test_a_store_without_slide_files_is_still_one(make_store):
    root = make_store({"a1": ("A", 4)}).path
    (root / "slides" / "a1.h5").unlink()
    assert Store(root).slide_ids == ()


# --- help


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_is_whole_and_its_examples_are_commands(run, monkeypatch, verb, columns):
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = run(verb.name, "--help")
    assert code == 0
    assert not re.search(r"\w\.\.\.|…", out)
    examples = re.findall(r"^ +tissuary (.*)$", out.split("Examples:")[1], flags=re.MULTILINE)
    assert examples == list(verb.examples)
    for example in examples:
        name, *words = expand_lists(shlex.split(example))
        get_command(app).commands[name].make_context(name, words)  # refuses what does not exist


def test_the_list_of_verbs_is_not_cut(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = run("--help")[1]
    assert not re.search(r"\w\.\.\.|…", out)
    assert "Show slides, patients, patch sets, features and counts of a store\n" in out
    assert "--install-completion" in out


def test_a_word_with_a_typo_gets_the_nearest(run, store):
    assert "Did you mean 'status'?" in run("statu", store.path)[2]
    assert "--json" in run("status", store.path, "--jsn")[2]


def test_the_package_says_its_version_and_runs_as_a_module():
    said = subprocess.run(
        [sys.executable, "-m", "tissuary", "--version"], capture_output=True, text=True, check=True, cwd=HOME.parent
    )
    assert said.stdout == f"tissuary {tissuary.__version__}\n"
    assert re.match(r"\d+\.\d+", tissuary.__version__)
    assert tissuary.store.Store is Store
    with pytest.raises(AttributeError, match="no attribute 'stores'"):
        tissuary.stores  # noqa: B018


def test_the_shell_completes_verbs():
    words = {"_TISSUARY_COMPLETE": "complete_bash", "COMP_WORDS": "tissuary st", "COMP_CWORD": "1"}
    said = subprocess.run(
        [sys.executable, "-m", "tissuary"], capture_output=True, text=True, check=False, env={**os.environ, **words}
    )
    assert said.stdout.split() == ["status"]


# --- progress and Ctrl-C


def test_a_log_gets_a_line_at_once_and_then_every_while(capsys, monkeypatch):
    monkeypatch.setattr(output, "FIRST_LINE_S", 0.0)
    monkeypatch.setattr(output, "LINE_S", 0.05)
    with output.progress_bar("compare") as progress:
        time.sleep(0.1)
        progress("strict / P01 / ridge", 3, 12)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "compare: starting (0 s)"
    assert lines[-1] == "compare: strict / P01 / ridge, 3 of 12 (0 s)"
    assert len(lines) >= 3


def test_training_tells_its_steps(store, tmp_path):
    from tissuary.heads import train

    told = []
    train(store, tmp_path / "run", progress=lambda *step: told.append(step))
    assert [step[1:] for step in told] == [(i, 4) for i in range(5)]
    assert told[2][0] == "fitting ridge on 48 spots"


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(run, store, tmp_path, monkeypatch):
    from tissuary.heads.comparison import compare as module

    trained = []

    def run_cell(*words, **more):
        if len(trained) == 2:
            signal.raise_signal(signal.SIGINT)
        trained.append(real(*words, **more))
        return trained[-1]

    real = module.run_cell
    monkeypatch.setattr(module, "run_cell", run_cell)
    words = ("compare", store.path, "--heads", "ridge", "--out", tmp_path / "re port")
    code, out, err = run(*words)
    assert (code, out) == (130, "")
    line = f"tissuary compare {store.path} --heads ridge --out '{tmp_path}/re port'"
    assert f"stopped. What is trained is kept in {tmp_path}/re port/cells. The same command goes on from there: " in err
    assert err.rstrip().endswith(line)
    assert "Traceback" not in err
    kept = files_below(tmp_path / "re port" / "cells")
    assert len(trained) == len(kept) == 2


def test_ctrl_c_of_verify_waits_for_no_further_slide(run, store, monkeypatch):
    from tissuary.store.verify import verify

    seen = []

    def examine_slide(*words):
        seen.append(words)
        signal.raise_signal(signal.SIGINT)
        return real(*words)

    real = verify.examine_slide
    monkeypatch.setattr(verify, "examine_slide", examine_slide)
    code, _, err = run("verify", store.path)
    assert code == 130
    assert "stopped. Nothing was changed" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_stops_with_a_sentence(verb):
    from tissuary.cli.verbs import stopped_words

    said = stopped_words(verb, {"store": "S", "out": "O", "fresh": False}, [verb.name, "a b"])
    assert re.fullmatch(rf"stopped\. [A-Z][^{{}}]+: tissuary {verb.name} 'a b'", said)
    with_fresh = stopped_words(verb, {"store": "S", "out": "O", "fresh": True}, [])
    assert "Nothing is kept of a comparison with --fresh" in with_fresh


def test_errors_under_json_leave_stdout_empty(run, tmp_path):
    code, out, err = run("status", tmp_path / "nowhere", "--json")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert json.loads(run("protocols", "strict", "--json")[1])


def test_a_piped_table_cuts_no_name(run, make_store):
    names = [f"TCGA-CR-7395-01A-01-TS1.6b1d0c8e-5b0a-4d0e-9d5e-6b0f0d9a8c{i}7" for i in (1, 2)]
    root = make_store({name: (f"patient of {name}", 4) for name in names}, n_genes=4).path
    run("index", root)
    out = run("search", root, "--slide", names[0], "--patch", 0, "-k", 7)[1]
    assert [out.count(f" {name} ") for name in names] == [2 * 3, 2 * 4]  # as slide, and in the patient's name


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(run, store, tmp_path, monkeypatch):
    from tissuary.heads.linear.ridge import Ridge

    monkeypatch.setattr(Ridge, "fit", lambda *_: pytest.fail("it was trained first"))
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "out"
    for words in (
        ("train", store.path, "--head", "ridge", "--out", out),
        ("compare", store.path, "--heads", "ridge", "--out", out),
        ("compare", store.path, "--heads", "ridge", "--out", out, "--fresh"),
        ("export", store.path, "--format", "h5ad", "--out", out),
        ("search", store.path, "--slide", "a1", "--patch", 0, "--out", out / "hits.csv"),
    ):
        code, said, err = run(*words)
        assert (code, said) == (2, ""), err
        assert re.search(rf"cannot write {out}: .*file is a file. Choose another folder", err)
    assert (tmp_path / "file").read_text() == "mine"
    code, _, err = run("compare", store.path, "--jobs", 0)
    assert (code, "'--jobs'" in err) == (2, True)
