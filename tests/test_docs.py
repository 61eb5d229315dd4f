"""What README and docs print as commands and Python is accepted, and runs."""

import inspect
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
from typer.main import get_command

from tissuary.cli.lists import expand_lists
from tissuary.cli.main import app
from tissuary.featurize.backbones.registry import get_record
from tissuary.featurize.patches.views import resolve_view
from tissuary.heads import make_head
from tissuary.heads.comparison.head_spec import contestants
from tissuary.heads.comparison.preparation import prepare, prepare_cohort
from tissuary.heads.protocols.named import get_protocol
from tissuary.heads.protocols.splits import outer_folds
from tissuary.store.files.patches import Patches, write_patches
from tissuary.store.files.schema import patches_path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SLIDES = {"A1": ("A", 25), "B1": ("B", 25), "C1": ("C", 25), "C2": ("C", 25)}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def commands():
    """Every line of a block, and every piece of code in prose, that begins with the name of the program."""
    for page in PAGES:
        lines = [line for block in blocks(page, "(?:bash)?") for line in block.replace("\\\n", " ").splitlines()]
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
        for line in [*lines, *re.findall(r"`(tissuary [a-z]+ [^`]+)`", prose)]:
            if line.startswith("tissuary ") and "--help" not in line:
                yield pytest.param(line, id=f"{page.stem}: {line}"[:120])


def listed(value):
    """The values of an option that takes one or several."""
    return [value] if isinstance(value, str) else list(value or ())


@pytest.mark.parametrize("line", list(commands()))
def test_a_documented_command_is_one(line):
    """Options exist, values are of their kind, and heads, protocols, views and backbones are known."""
    line = line.replace(" ... ", " SOURCE --store STORE ").replace("$SLURM_ARRAY_TASK_ID/$SHARES", "3/16")
    words = expand_lists(shlex.split(line.replace("$SLURM_CPUS_PER_TASK", "8"), comments=True)[1:])
    group = get_command(app)
    with click.Context(group) as whole:
        name, verb, rest = group.resolve_command(whole, words)
        try:
            options = verb.make_context(name, rest, parent=whole).params
        except click.MissingParameter:  # prose may leave the rest of a command away
            assert not any(f"\n{line}" in page.read_text() for page in PAGES)
            return
    for protocol in listed(options.get("protocol")) or ["strict"]:
        for who in contestants(options.get("heads") or ["ridge"], get_protocol(protocol)):
            who.make(0)
    if options.get("head"):
        make_head(options["head"])
    for view in options["views"] if isinstance(options.get("views"), list) else ():
        resolve_view(view, slide_mpp=0.5, input_px=224)
    for backbone in listed(options.get("backbone")):
        assert backbone.endswith(".json") or get_record(backbone)


@pytest.fixture(scope="module")
def store(make_shared_store, tmp_path_factory):
    store = make_shared_store(SLIDES, views=("20x", "5x"), n_genes=20)
    coarse = np.stack(np.meshgrid([448.0, 1344.0], [448.0, 1344.0]), axis=-1).reshape(-1, 2)
    fine = (coarse[:, None] + np.array([[-336.0, -336.0], [112.0, 112.0]])).reshape(-1, 2)
    names = np.arange(8).astype(np.str_)
    places = {
        "grid-448um": Patches(coarse, names[:4]),
        "grid-112um": Patches(fine, names, parent=np.repeat(np.arange(4, dtype=np.int32), 2), parent_set="grid-448um"),
    }
    for patches, place in places.items():
        write_patches(patches_path(store.path, "C2", patches=patches), place, slide_id="C2")
    return type(store)(store.path)


def bound(function, *arguments, **options):
    """Check that a call fits a function that is too slow to be run here."""
    inspect.signature(function).bind(*arguments, **options)


CHANGES = {
    "\nfeaturize(": "\nbound(featurize, ",
    "stain-texture": "toy",
    "uni2-h": "toy",
    '"nh2st"), protocols': '"knn"), protocols',
    'head="nh2st"': 'head="ridge"',
    '"FN1", "CD74"': '"gene1", "gene2"',
    "pca=256": "pca=4",
    "panel_size=500": "panel_size=20",
}
"""What stands in a page, and what the tiny store has in its place, or is cheaper."""


@pytest.mark.usefixtures("few_draws")
def test_the_documented_python_runs(store, tmp_path, monkeypatch):
    """On a tiny store, whose features have another name; epochs are few, and pixels are not read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cohort.store").symlink_to(store.path)
    (tmp_path / "new.store").symlink_to(store.path)
    table = store.table(["toy@20x", "toy@5x"])
    protocol = get_protocol("strict")
    fold = outer_folds(protocol, table.slide_ids, table.patient_ids)[0]
    prepared = prepare(prepare_cohort(table, protocol), fold, protocol)
    known = {
        "store": store, "table": table, "protocol": protocol, "prepared": prepared, "train": prepared.train,
        "test": prepared.test, "make_head": make_head, "folder": tmp_path / "head", "bound": bound,
        "head": make_head("ridge").fit(prepared.train),
    }  # fmt: skip
    for page in PAGES:
        for code in blocks(page, "python") if page.stem != "own_head" else ():  # which test_own_head.py runs
            for one, other in CHANGES.items():
                code = code.replace(one, other)
            exec(compile(code, str(page), "exec"), dict(known))
