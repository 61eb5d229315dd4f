"""Weights from the hub: found in its cache, and refused with the cause by a hub of one's own that says no."""

import logging
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from tissuary.featurize.backbones.architectures import build_architecture
from tissuary.featurize.backbones.build import build_encoder
from tissuary.featurize.backbones.record import BackboneRecord
from tissuary.store.errors import BackboneError

REVISION = "0123456789abcdef0123456789abcdef01234567"
OTHER = REVISION[::-1]
HUB = BackboneRecord(
    key="tiny",
    loader="timm",
    architecture="test_vit",
    architecture_options={"num_classes": 0, "img_size": 32},
    hub_id="lab/tiny",
    revision=REVISION,
    input_px=32,
    resize="bilinear",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
    pooling="cls",
    dim=64,
    token_grid=(2, 2),
    prefix_tokens=1,
    licence="none",
)
MOVING = replace(HUB, revision=None)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(7)
    return {name: torch.randn(t.shape) * 0.1 for name, t in build_architecture(HUB).state_dict().items()}


def cached(cache, tensors, *, commit=REVISION, name="model.safetensors", main=None):
    """Lay a file out as the hub's cache does: a blob, a link to it in the commit's snapshot, and what `main` is."""
    model = cache / "models--lab--tiny"
    blob = model / "blobs" / f"blob-of-{commit}"
    link = model / "snapshots" / commit / name
    for folder in (blob.parent, link.parent, model / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".safetensors"):
        save_file(tensors, blob)
    else:
        torch.save(tensors, blob)
    link.symlink_to(blob)
    if main:
        (model / "refs" / "main").write_text(main)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_come_from_the_cache_at_the_pinned_commit(cache, tensors, tmp_path, caplog, name):
    cached(cache, tensors, name=name)
    cached(cache, {n: t + 1 for n, t in tensors.items()}, commit=OTHER, name=name, main=OTHER)
    save_file(tensors, tmp_path / "w.safetensors")
    encoder = build_encoder(HUB)
    assert encoder.fingerprint == build_encoder(HUB, weights=str(tmp_path / "w.safetensors")).fingerprint
    assert encoder.record.revision == REVISION
    assert build_encoder(replace(HUB, revision=OTHER)).fingerprint != encoder.fingerprint
    assert not caplog.records


def test_without_a_pinned_commit_the_one_that_was_got_is_recorded(cache, tensors, caplog):
    cached(cache, tensors)
    cached(cache, {n: t + 1 for n, t in tensors.items()}, commit=OTHER, main=OTHER)
    with caplog.at_level(logging.WARNING):
        encoder = build_encoder(MOVING)
    assert encoder.record.revision == encoder.record.to_dict()["revision"] == OTHER
    assert encoder.fingerprint == build_encoder(replace(HUB, revision=OTHER)).fingerprint
    assert [record.getMessage() for record in caplog.records] == [
        f"backbone tiny pins no revision of lab/tiny: the weights are those of commit {OTHER}, which is recorded"
    ]


def test_a_file_of_another_name_or_in_a_folder(cache, tensors):
    cached(cache, tensors, name="teacher.pth")
    cached(cache, tensors, commit=OTHER, name="part/teacher.pth", main=OTHER)
    assert build_encoder(replace(HUB, hub_file="teacher.pth")).record.revision == REVISION
    assert build_encoder(replace(MOVING, hub_file="part/teacher.pth")).record.revision == OTHER
    with pytest.raises(
        BackboneError, match=r"no weights of lab/tiny at revision 0123456789ab: model\.safetensors and py"
    ):
        build_encoder(HUB)


@pytest.mark.parametrize("record", [HUB, MOVING], ids=["pinned", "moving"])
def test_offline_and_nothing_in_the_cache(cache, record):
    message = r"tiny: no weights of lab/tiny .* not in the cache \(.*hub\), and offline mode .* --weights tiny=PATH"
    with pytest.raises(BackboneError, match=message):
        build_encoder(record)


def test_neither_file_nor_hub():
    with pytest.raises(BackboneError, match="names neither a weights file nor a hub model"):
        build_encoder(replace(HUB, hub_id=None))


def test_a_name_that_no_hub_has(cache):
    with pytest.raises(BackboneError, match=r"the hub takes no such name or revision \(.*a/b/c"):
        build_encoder(replace(HUB, hub_id="a/b/c"))


@pytest.fixture
def hub(cache, monkeypatch):
    """A hub on this machine that answers every question with one refusal."""

    class Refusal(BaseHTTPRequestHandler):
        def do_HEAD(self):
            if self.server.status is None:  # breaks off without an answer
                return
            self.send_response(self.server.status)
            self.send_header("X-Error-Code", self.server.code)
            self.send_header("X-Error-Message", "no")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    at(monkeypatch, server.server_port)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def at(monkeypatch, port):
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (
            403,
            "GatedRepo",
            r"access is gated: ask for it on https://huggingface\.co/lab/tiny and log in \(`hf auth login`\)",
        ),
        (404, "RepoNotFound", r"no such model, or hides it from this account"),
        (404, "RevisionNotFound", r"no such revision; commits are listed on https://huggingface\.co/lab/tiny/commits"),
        (
            404,
            "EntryNotFound",
            r"model\.safetensors and pytorch_model\.bin: neither in the cache nor among the files of",
        ),
    ],
)
def test_refusals_of_the_hub(hub, status, code, message):
    hub.status, hub.code = status, code
    with pytest.raises(BackboneError, match=message):
        build_encoder(HUB)


def test_what_is_cached_needs_no_access(hub, cache, tensors):
    hub.status, hub.code = 403, "GatedRepo"
    cached(cache, tensors, main=REVISION)
    assert build_encoder(HUB).record.revision == build_encoder(MOVING).record.revision == REVISION


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_no_network(hub, cache, tensors, monkeypatch, name):
    hub.shutdown()
    hub.server_close()
    started = time.monotonic()
    reach = r"not in the cache \(.*\), and the hub cannot be reached \(http://127\.0\.0\.1:\d+ does not answer\)\. "
    fetch = rf"Fetch it where there is a network: `hf download lab/tiny model\.safetensors --revision {REVISION}`\. "
    with pytest.raises(BackboneError, match=reach + fetch + "Then give a local file: --weights tiny=PATH"):
        build_encoder(HUB)
    assert time.monotonic() - started < 10.0  # five tries, each waited for longer, would take 23 s
    cached(cache, tensors, name=name, main=REVISION)
    assert build_encoder(MOVING).record.revision == REVISION


def test_a_network_that_breaks_off(hub, cache, tensors, monkeypatch):
    hub.status = None
    with pytest.raises(
        BackboneError,
        match=r"the hub cannot be reached \(http.* does not answer\).* Then give a local file",
    ):
        build_encoder(HUB)
    cached(cache, tensors, main=REVISION)
    assert build_encoder(MOVING).record.revision == REVISION
