"""`tissuary doctor`: findings that follow from the machine, and a plan that lacks something says so."""

import json
import shutil
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from typer.testing import CliRunner

from tissuary.cli.main import app
from tissuary.featurize.backbones.registry import get_record
from tissuary.featurize.doctor import GIB, checkup, machine
from tissuary.store.errors import BackboneError


def run(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments])


def of(findings):
    return {finding.name: finding for finding in findings}


def test_the_machine_is_what_it_is(tmp_path):
    found = of(machine(tmp_path / "not" / "yet"))
    assert found["torch"].found == version("torch")
    assert found["disk"].found.startswith(f"{shutil.disk_usage(tmp_path).free / GIB:.0f}"[:1])
    assert found["GPU"].state == ("ok" if torch.cuda.is_available() else "note")
    assert found["faiss"].found.startswith("faiss-")


def test_a_missing_library_is_named_with_its_cure(tmp_path, monkeypatch):
    import tissuary.featurize.doctor as module

    there = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name in ("timm", "ray") else there(name))
    found = of(machine(tmp_path))
    assert (found["timm"].state, found["timm"].mend) == ("missing", "pip install timm")
    assert (found["ray"].state, found["ray"].mend) == ("note", 'pip install "tissuary[ray]"')


def test_a_plan_that_lacks_nothing_ends_with_its_line(tmp_path):
    done = run("--backbone", "stain-texture", "--store", str(tmp_path / "s"), "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["complete"]) == (0, True)
    assert told["line"] == f"tissuary featurize SOURCE --store {tmp_path / 's'} --backbone stain-texture"


def test_a_gated_backbone_without_weights_is_not_complete(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    done = run("--backbone", "uni2-h", "--store", str(tmp_path))
    assert done.exit_code == 1
    assert "ask for access on https://huggingface.co/MahmoodLab/UNI2-h" in " ".join(done.stdout.split())
    assert "then: tissuary featurize" in done.stdout


def test_weights_on_disk_and_in_no_place(tmp_path):
    record, file = get_record("uni2-h"), tmp_path / "w.safetensors"
    assert of(checkup(record, store=tmp_path, patches=1, views=1, weights=file))["weights"].state == "missing"
    file.write_bytes(b"x")
    assert of(checkup(record, store=tmp_path, patches=1, views=1, weights=file))["weights"].state == "ok"


def test_disk_and_memory_are_counted(tmp_path):
    record = get_record("uni2-h")
    found = of(checkup(record, store=tmp_path, patches=2**20, views=4))
    assert found["disk"].found.startswith(f"{2**20 * 4 * record.dim * 2 / GIB:.2f} GiB")
    assert of(checkup(record, store=tmp_path, patches=10**13, views=1))["disk"].state == "missing"
    assert (
        of(checkup(replace(record, parameters_m=1e6), store=tmp_path, patches=1, views=1))["memory"].state == "missing"
    )


def test_nonsense_is_refused():
    done = run("--backbone", "stain-texture", "--patches", "0")
    assert isinstance(done.exception, BackboneError)
    with pytest.raises(BackboneError, match="--patches = 0: give a positive number"):
        raise done.exception
