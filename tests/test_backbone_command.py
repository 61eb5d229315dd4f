"""`tissuary backbones`, as a user runs it."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tissuary.cli.main import app
from tissuary.featurize.backbones.registry import BACKBONES, UNAVAILABLE
from tissuary.store.errors import BackboneError


def run(*words):
    outcome = CliRunner().invoke(app, ["backbones", *words])
    if outcome.exception:
        raise outcome.exception
    return outcome.stdout


def test_the_table_has_a_line_for_every_backbone():
    lines = run().splitlines()
    by_key = {line.split()[0]: line for line in lines if line.split()}
    assert set(BACKBONES) <= set(by_key)
    assert by_key["uni2-h"].split()[:7] == ["uni2-h", "1536", "224", "16x16", "+", "9", "bf16"]
    assert "gated" in by_key["uni2-h"]
    assert by_key["phikon"].split()[-3:] == ["open", "transformers", "yes"]
    assert by_key["musk.cls"].split()[-3:] == ["gated", "remote", "no"]
    assert f"{len(BACKBONES)} backbones" in lines[-2]
    assert all(name in lines[-1] for name in UNAVAILABLE)


def test_one_backbone_with_its_terms_and_the_command():
    said = run("virchow2.cls+mean")
    assert "pooling: cls+mean" in said
    assert "weights from: paige-ai/Virchow2, not pinned" in said
    assert "terms: CC-BY-NC-ND-4.0; access must be asked for" in said
    assert "ask for access on https://huggingface.co/paige-ai/Virchow2, then: hf auth login" in said
    command = "tissuary featurize COHORT --store STORE --backbone virchow2.cls+mean [--weights virchow2.cls+mean=PATH]"
    assert said.splitlines()[-1].strip() == command


def test_terms_on_what_is_made_with_a_backbone():
    said = run("uni")
    assert "pinned to 77ffbca1ee1cdcee6e87f6deebd2db8a5888c721" in said
    assert "features, and models trained on them, are non-commercial too" in said


def test_what_is_not_verified_is_said():
    assert "not settled or not verified: the configuration on the hub was not seen" in run("phikon")
    assert "not settled or not verified: nothing" in run("stain-texture")
    assert run("stain-texture").splitlines()[-1].endswith("--backbone stain-texture")


def test_a_model_that_cannot_be_built_has_no_command():
    said = run("conch-v1.projected")
    assert "cannot be built here: it needs the package `conch`" in said
    assert "tissuary featurize" not in said


def test_json():
    every = json.loads(run("--json"))
    assert [record["key"] for record in every] == list(BACKBONES)
    (one,) = json.loads(run("uni", "--json"))
    wanted = {"dim": 1024, "pinned": True, "builds_here": True, "missing": None, "gated": True, "native_mpp": [0.5]}
    assert wanted.items() <= one.items()
    (remote,) = json.loads(run("phaet", "--json"))
    assert remote["builds_here"] is False
    assert "transformers 5" in remote["missing"]


def test_a_record_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(BACKBONES["resnet50"].to_json().replace('"resnet50"', '"mine"', 1))
    assert run(str(path)).splitlines()[0] == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [("atlas", "no public weights"), ("virchow2", "did you mean"), ("vrchow2.cls", r"did you mean virchow2\.cls")],
)
def test_names_that_are_no_backbone(name, message):
    with pytest.raises(BackboneError, match=message):
        run(name)


def test_a_library_that_is_not_there(monkeypatch):
    from importlib.util import find_spec

    from tissuary.featurize.backbones import weights as availability

    monkeypatch.setattr(availability, "find_spec", lambda name: None if name == "transformers" else find_spec(name))
    assert 'install first: pip install "tissuary[transformers]"' in run("phikon")
    assert "install first" not in run("uni")


def test_the_table_loads_no_torch():
    code = (
        "import sys; sys.argv = ['tissuary', 'backbones']\n"
        "from tissuary.cli.main import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'timm', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
