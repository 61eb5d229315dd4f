"""Networks beyond timm's own: published files load by the names they carry, and give what their library gives."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tissuary.featurize.backbones.architectures import build_architecture
from tissuary.featurize.backbones.build import build_encoder
from tissuary.featurize.backbones.encoder import Pooled
from tissuary.featurize.backbones.record import BackboneRecord
from tissuary.featurize.backbones.registry import BACKBONES
from tissuary.featurize.backbones.weights import from_dinov2
from tissuary.store.errors import BackboneError, MissingDependencyError

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16, "image_size": 32}
VIT = BackboneRecord(
    key="small",
    loader="transformers",
    architecture="ViTModel",
    architecture_options={**SMALL, "intermediate_size": 48},
    input_px=32,
    resize="bilinear",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
    pooling="cls",
    dim=24,
    token_grid=(2, 2),
    prefix_tokens=1,
    licence="none",
)
DINOV2 = replace(
    VIT,
    architecture="Dinov2Model",
    architecture_options={**SMALL, "mlp_ratio": 4, "use_swiglu_ffn": True},
    pooling="cls+mean",
    dim=48,
)
CLIP = replace(
    VIT,
    architecture="CLIPVisionModelWithProjection",
    architecture_options={**SMALL, "intermediate_size": 48, "projection_dim": 10},
    pooling="projected",
    dim=10,
)
KEEP = replace(
    VIT,
    loader="custom",
    architecture="projected-vit",
    architecture_options={
        "trunk": "test_vit",
        "trunk_options": {"img_size": 32, "init_values": 1e-5},
        "projection_dim": 10,
    },
    pooling="projected",
    dim=10,
)


def patches(n=3, side=32):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalised(x):
    mean, std = (torch.tensor(v)[:, None, None] for v in (VIT.mean, VIT.std))
    return (x / 255 - mean) / std


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=generator) * 0.2 for name, t in module.state_dict().items()}


def old_names(tensors, *, swiglu=False):
    """Names that files of these models had before the library was restructured: those of the published ones."""
    old = {}
    for name, tensor in tensors.items():
        new = name
        for short, whole in (("q", "query"), ("k", "key"), ("v", "value")):
            new = new.replace(f".attention.{short}_proj.", f".attention.attention.{whole}.")
        new = new.replace(".attention.o_proj.", ".attention.output.dense.")
        if not swiglu:
            new = new.replace(".mlp.fc1.", ".intermediate.dense.").replace(".mlp.fc2.", ".output.dense.")
            new = "encoder.layer." + new.removeprefix("layers.") if new.startswith("layers.") else new
        old[new.replace(".mlp.down_proj.", ".mlp.weights_out.")] = tensor
    for name in [name for name in old if ".gate_proj." in name]:
        gate = old.pop(name)
        old[name.replace("gate_proj", "weights_in")] = torch.cat([gate, old.pop(name.replace("gate_proj", "up_proj"))])
    return old


def saved(folder, model, tensors):
    """A folder as the hub holds it; returns the weights' path and the library's own model of it."""
    folder.mkdir()
    model.config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    loaded, report = type(model).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    return str(folder / "model.safetensors"), loaded.eval()


@pytest.fixture(scope="module")
def transformers():
    build_architecture(VIT)  # a torchvision beside a CPU-only torch is mended on the way
    return pytest.importorskip("transformers")


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_a_vit_by_its_published_names_equals_the_library(tmp_path, transformers, prefix):
    whole = transformers.ViTModel(transformers.ViTConfig(**VIT.architecture_options))  # with a pooler
    old = old_names(randomised(whole))
    assert "encoder.layer.1.attention.attention.query.weight" in old
    path, theirs = saved(tmp_path / "hub", whole, old)
    if prefix:
        path = str(tmp_path / "prefixed.safetensors")
        save_file({prefix + name: tensor for name, tensor in old.items()}, path)
    encoder = build_encoder(VIT, weights=path)
    with torch.no_grad():
        wanted = theirs(pixel_values=normalised(patches())).last_hidden_state
    torch.testing.assert_close(encoder.encode(patches()), wanted[:, 0])
    torch.testing.assert_close(encoder.tokens(patches()), wanted[:, 1:])


@pytest.mark.parametrize("swiglu", [True, False])
def test_a_dinov2_by_its_published_names_equals_the_library(tmp_path, transformers, swiglu):
    record = replace(DINOV2, architecture_options={**DINOV2.architecture_options, "use_swiglu_ffn": swiglu})
    model = transformers.Dinov2Model(transformers.Dinov2Config(**record.architecture_options))
    old = old_names(randomised(model), swiglu=True)
    assert ("encoder.layer.1.mlp.weights_in.weight" in old) == swiglu
    path, theirs = saved(tmp_path / "hub", model, old)
    with torch.no_grad():
        wanted = theirs(pixel_values=normalised(patches())).last_hidden_state
    found = build_encoder(record, weights=path).encode(patches())
    torch.testing.assert_close(found, torch.cat([wanted[:, 0], wanted[:, 1:].mean(1)], dim=1))


def test_old_and_new_names_of_the_same_weights_have_one_fingerprint(tmp_path, transformers):
    model = transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2.architecture_options))
    tensors = randomised(model)
    save_file(tensors, tmp_path / "new.safetensors")
    save_file(old_names(tensors, swiglu=True), tmp_path / "old.safetensors")
    new, old = (build_encoder(DINOV2, weights=str(tmp_path / f"{name}.safetensors")) for name in ("new", "old"))
    assert new.fingerprint == old.fingerprint


def test_the_image_side_of_a_clip_equals_the_library(tmp_path, transformers):
    vision = {name: value for name, value in CLIP.architecture_options.items() if name != "projection_dim"}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.CLIPConfig(vision_config=vision, text_config={**text, "vocab_size": 50}, projection_dim=10)
    whole = transformers.CLIPModel(config)
    old = randomised(whole) | {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    path, theirs = saved(tmp_path / "hub", whole, old)
    encoder = build_encoder(CLIP, weights=path)
    with torch.no_grad():
        wanted = theirs.get_image_features(pixel_values=normalised(patches()))
    torch.testing.assert_close(encoder.encode(patches()), getattr(wanted, "pooler_output", wanted))
    assert encoder.tokens(patches()).shape == (3, 4, 24)


def test_a_file_of_another_model_is_refused(tmp_path, transformers):
    save_file(randomised(transformers.ViTModel(transformers.ViTConfig(**SMALL))), tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"small: w.safetensors belongs to another architecture"):
        build_encoder(DINOV2, weights=str(tmp_path / "w.safetensors"))


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        MissingDependencyError, match=r'small\+random0 .* not installed: pip install "tissuary\[transformers\]"'
    ):
        build_encoder(VIT, weights="random")


def test_a_library_with_other_names_says_which_to_install(monkeypatch, transformers):
    class Other(torch.nn.Module):
        def __init__(self, config, **arguments):
            super().__init__()
            self.projection = torch.nn.Linear(config.hidden_size, 1)

    monkeypatch.setattr(transformers, "ViTModel", Other)
    with pytest.raises(MissingDependencyError, match=r'names its tensors in another way .* pip install -U "tissuary\['):
        build_encoder(VIT, weights="random")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            replace(VIT, architecture_options={"_attn_implementation": "lab/kernel"}),
            "hold _attn_implementation; those of a transformers model are hidden_act",
        ),
        (
            replace(VIT, architecture_options={**SMALL, "hidden_act": "nope"}),
            r"ViTModel of backbone small\+random0 does not take .* \(KeyError: 'nope'\): correct arch",
        ),
        (replace(VIT, architecture="AutoModel"), r"'AutoModel' of backbone small\+random0: choose one of ViTModel"),
        (replace(KEEP, architecture_options={"trunk": "test_vit"}), "wanted projection_dim, trunk, trunk_options"),
        (
            replace(
                KEEP, architecture_options={**KEEP.architecture_options, "trunk_options": {"checkpoint_path": "x"}}
            ),
            "the trunk's among dynamic_img_size",
        ),
        (
            replace(KEEP, architecture_options={**KEEP.architecture_options, "trunk": "hf-hub:a/b"}),
            "its trunk 'hf-hub:a/b' is none that timm has",
        ),
    ],
)
def test_options_that_are_refused(record, message):
    with pytest.raises(BackboneError, match=message):
        build_encoder(record, weights="random")


def test_dinov2_names_become_those_of_timm():
    from timm.models.vision_transformer import checkpoint_filter_fn

    own = build_architecture(
        replace(
            VIT,
            loader="timm",
            architecture="vit_small_patch14_reg4_dinov2",
            architecture_options={"img_size": 28, "depth": 2, "num_classes": 0, "mlp_layer": "SwiGLUPacked"},
        )
    )
    published = randomised(own)
    published["register_tokens"] = published.pop("reg_token")
    published["pos_embed"] = torch.cat([torch.full((1, 1, 384), 0.3), published["pos_embed"]], dim=1)
    published = {
        name.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3."): t for name, t in published.items()
    } | {"mask_token": torch.zeros(1, 384)}
    found, wanted = from_dinov2(published), checkpoint_filter_fn(dict(published), own)
    assert found.keys() == wanted.keys() == own.state_dict().keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor)


def test_a_projected_transformer_equals_its_parts(tmp_path):
    import timm

    network = build_architecture(KEEP)
    tensors = randomised(network)
    published = {
        name.replace(".ls1.gamma", ".ls1.weight").replace(".ls2.gamma", ".ls2.weight"): t for name, t in tensors.items()
    }
    assert "visual.blocks.0.ls1.weight" in published
    save_file(
        published | {"text.embeddings.weight": torch.ones(3), "logit_scale": torch.ones(1)}, tmp_path / "w.safetensors"
    )
    trunk = timm.create_model("test_vit", num_classes=0, img_size=32, init_values=1e-5).eval()
    trunk.load_state_dict({n.removeprefix("visual."): t for n, t in tensors.items() if n.startswith("visual.")})
    with torch.no_grad():
        hidden = trunk(normalised(patches())) @ tensors["visual_head.0.weight"].T + tensors["visual_head.0.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        wanted = hidden @ tensors["visual_head.2.weight"].T + tensors["visual_head.2.bias"]
    found = build_encoder(KEEP, weights=str(tmp_path / "w.safetensors")).encode(patches())
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


# Vector and tokens at once

CONV = replace(
    VIT,
    loader="timm",
    architecture="test_efficientnet",
    architecture_options={"num_classes": 0},
    pooling="global average",
    dim=256,
    prefix_tokens=0,
)


@pytest.mark.parametrize(
    "record",
    [VIT, DINOV2, CLIP, KEEP, CONV, replace(CONV, pooling="model"), replace(VIT, pooling="global average")],
    ids=lambda record: f"{record.architecture} {record.pooling}",
)
def test_both_is_the_vector_and_the_tokens_of_one_pass(record):
    network = build_architecture(record)
    passes = []
    forward_features = network.forward_features
    network.forward_features = lambda x: passes.append(len(x)) or forward_features(x)
    pooled = Pooled(network, record)
    x = normalised(patches())
    with torch.no_grad():
        vector, tokens = pooled.both(x)
        assert passes == [3]
        torch.testing.assert_close(vector, pooled(x))
        torch.testing.assert_close(tokens, pooled.tokens(x))


@pytest.mark.parametrize("key", ["stain-texture", "haematoxylin"])
def test_both_of_an_embedded_encoder(key):
    from tissuary.featurize.backbones.build import EMBEDDED

    embedding, x = EMBEDDED[key](), patches(2, side=224) / 255
    vector, tokens = embedding.both(x)
    assert torch.equal(vector, embedding(x))
    assert torch.equal(tokens, embedding.tokens(x))


# How it runs is asked for, and recorded


def test_the_precision_asked_for_is_recorded():
    assert build_encoder(KEEP, weights="random", precision="bf16").record.precision == "bf16"
    assert build_encoder(replace(KEEP, precision="bf16"), weights="random", precision="fp32").record.precision == "fp32"
    assert build_encoder(BACKBONES["haematoxylin"], precision="bf16").record.precision == "fp32"
    with pytest.raises(BackboneError, match="precision 'fp8'"):
        build_encoder(BACKBONES["haematoxylin"], precision="fp8")


def test_a_local_file_is_recorded_and_not_the_pinned_commit(tmp_path):
    save_file(build_architecture(KEEP).state_dict(), tmp_path / "mine.safetensors")
    record = replace(KEEP, hub_id="lab/keep", revision="0" * 40)
    stored = build_encoder(record, weights=str(tmp_path / "mine.safetensors")).record.to_dict()
    assert (stored["weights"], stored["revision"]) == ("mine.safetensors", None)
    assert json.dumps(stored)


@pytest.mark.parametrize("wrong", [{"prefix_tokens": 5}, {"token_grid": (2, 8)}, {"token_grid": (7, 7)}])
def test_a_record_that_miscounts_tokens_is_refused(wrong):
    from tissuary.benchmarks.kill import TINY
    from tissuary.featurize.backbones.record import BackboneRecord

    plain = TINY | {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "token_grid": (4, 4)}
    assert build_encoder(BackboneRecord(**plain), weights="random").token_dim == 64
    with pytest.raises(
        BackboneError, match=r"patch tokens after \d others, its record says .*correct token_grid or prefix"
    ):
        build_encoder(BackboneRecord(**plain | wrong), weights="random")
