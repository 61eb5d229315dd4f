"""Records, weights and encoders: what is loaded is what the record says, or an error says why not."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tissuary.featurize.backbones.architectures import build_architecture
from tissuary.featurize.backbones.build import build_encoder
from tissuary.featurize.backbones.fingerprint import fingerprint_of, tensors_digest
from tissuary.featurize.backbones.golden import RAMP, ramp_image
from tissuary.featurize.backbones.record import BackboneRecord
from tissuary.featurize.backbones.registry import BACKBONES, get_record, load_record
from tissuary.store.errors import BackboneError
from tissuary.store.naming import FeatureKey

TINY = BackboneRecord(
    key="tiny",
    loader="timm",
    architecture="test_vit",
    architecture_options={"num_classes": 0, "img_size": 32},
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
CONV = replace(
    TINY,
    key="conv",
    architecture="test_efficientnet",
    architecture_options={"num_classes": 0},
    pooling="global average",
    dim=256,
    token_grid=None,
    prefix_tokens=0,
)


@pytest.fixture(scope="module")
def tensors():
    """Weights of the whole tiny transformer, its classifier included."""
    torch.manual_seed(7)
    whole = replace(TINY, architecture_options={"img_size": 32, "num_classes": 10})
    return {name: torch.randn(t.shape) * 0.1 for name, t in build_architecture(whole).state_dict().items()}


@pytest.fixture
def weights(tmp_path, tensors):
    save_file(tensors, tmp_path / "tiny.safetensors")
    return str(tmp_path / "tiny.safetensors")


def patches(n=3, side=32, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, side, side), dtype=np.uint8))


# Records


def test_a_record_survives_json():
    assert BackboneRecord.from_json(TINY.to_json()) == TINY
    assert BackboneRecord.from_json(json.dumps(TINY.to_dict())) == TINY


def test_a_record_file_finds_its_weights_beside_it(tmp_path):
    (tmp_path / "tiny.json").write_text(replace(TINY, weights="tiny.safetensors").to_json())
    record = get_record(tmp_path / "tiny.json")
    assert record.weights == str(tmp_path / "tiny.safetensors")
    assert record.to_dict()["weights"] == "tiny.safetensors"  # no folder of one machine in a stored record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": None}, r"lacks licence"),
        ({"poolng": "cls"}, r"unknown poolng"),
        (
            {"pooling": "max"},
            r"pooling 'max' of backbone tiny: choose one of 'global average', 'cls', 'cls\+mean', 'mod",
        ),
        ({"loader": "pickle"}, r"loader 'pickle'"),
        ({"resize": "nearest"}, r"resize 'nearest'"),
        ({"precision": "int8"}, r"precision 'int8'"),
        ({"key": "a/b"}, r"backbone key 'a/b'"),
        ({"mean": [0.5, 0.5]}, r"mean .* wanted three numbers"),
        ({"architecture": 5}, r"architecture 5 .* some text"),
        ({"architecture_options": ["a"]}, r"architecture_options .* an object"),
        ({"prefix_tokens": -1}, r"prefix_tokens -1"),
        ({"std": [0.5, 0.0, 0.5]}, r"std .* above 0"),
        ({"dim": 0}, r"dim 0 of backbone tiny"),
        ({"token_grid": [7]}, r"token_grid"),
        ({"crop_from_px": 16}, r"crop_from_px 16"),
        ({"mean": [0.5, True, 0.5]}, r"mean .* wanted three numbers"),
        ({"std": [0.5, float("nan"), 0.5]}, r"std .* wanted three numbers"),
        ({"gated": "no"}, r"gated 'no' of backbone tiny: wanted true or false"),
        ({"native_mpp": [0.5, 0]}, r"native_mpp \(0\.5, 0\) of backbone tiny: wanted a list of numbers above 0"),
        ({"native_mpp": 0.5}, r"native_mpp 0\.5"),
        ({"tile_px": 0}, r"tile_px 0"),
        ({"gflops": -1}, r"gflops -1"),
        ({"parameters_m": "many"}, r"parameters_m 'many' of backbone tiny: wanted a number above 0, or null"),
        ({"hub_file": 5}, r"hub_file 5"),
        ({"loader": "remote"}, r"needs None of backbone tiny: wanted what runs a remote model"),
        ({"architecture_options": {"init_values": float("inf")}}, r"architecture_options .* an object of plain values"),
    ],
)
def test_an_unusable_record_says_what_is_wrong(tmp_path, change, message):
    fields = {name: value for name, value in (TINY.to_dict() | change).items() if value is not None}
    (tmp_path / "r.json").write_text(json.dumps(fields))
    with pytest.raises(BackboneError, match=message):
        load_record(tmp_path / "r.json")


def test_a_record_that_is_no_json_or_not_there(tmp_path):
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(BackboneError, match="is not JSON"):
        load_record(tmp_path / "r.json")
    with pytest.raises(BackboneError, match="cannot be read"):
        get_record(str(tmp_path / "absent.json"))


@pytest.mark.parametrize(
    "option",
    [
        "checkpoint_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_strict",
        "scriptable",
        "exportable",
        "no_jit",
        "cache_dir",
    ],
)
def test_options_of_a_record_never_load_weights(tmp_path, option):
    fields = TINY.to_dict() | {"architecture_options": {"num_classes": 0, option: None}}
    (tmp_path / "r.json").write_text(json.dumps(fields))
    message = rf"options of backbone tiny hold {option}, .* weights are given by `weights` .* --weights tiny=PATH"
    with pytest.raises(BackboneError, match=message):
        load_record(tmp_path / "r.json")


def test_a_checkpoint_among_the_options_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    fields = TINY.to_dict() | {"architecture_options": {"checkpoint_path": str(tmp_path / "evil.pth")}}
    (tmp_path / "r.json").write_text(json.dumps({"record": fields}))
    with pytest.raises(BackboneError, match="hold checkpoint_path"):
        build_encoder(get_record(tmp_path / "r.json"), weights="random")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("option", ["device", "dtype"])
def test_options_of_a_record_place_nothing(option):
    with pytest.raises(BackboneError, match=rf"hold {option}, .* --device .* `precision` in the record"):
        replace(TINY, architecture_options={option: "x"})


@pytest.mark.parametrize("key", ["haematoxylin", "stain-texture"])
def test_names_of_embedded_encoders_are_reserved(tmp_path, key):
    path = tmp_path / "r.json"
    brighter = replace(BACKBONES[key], mean=(0.1, 0.0, 0.0))
    for record in (replace(TINY, key=key), brighter):
        path.write_text(record.to_json())
        with pytest.raises(BackboneError, match=rf"key '{key}', which is reserved .* write another `key`"):
            load_record(path)
    path.write_text(BACKBONES[key].to_json())
    assert load_record(path) == BACKBONES[key]


def test_names_that_are_not_known_are_answered_with_near_ones():
    with pytest.raises(BackboneError, match="did you mean uni2-h"):
        get_record("uni2h")
    with pytest.raises(BackboneError, match=r"did you mean stain-texture\? There are stain-texture, haem"):
        get_record("stain")
    with pytest.raises(BackboneError, match=r"did you mean virchow2\.cls\+mean or virchow2\.cls\?"):
        get_record("virchow2")  # pooling is never a silent default


def test_the_registry_is_keyed_by_names_that_feature_keys_allow():
    for key, record in BACKBONES.items():
        assert record.key == key
        assert FeatureKey.parse(f"{key}@20x").encoder == key


# Encoders


def test_an_encoder_equals_the_model_by_hand(weights, tensors):
    import timm

    encoder = build_encoder(TINY, weights=weights)
    model = timm.create_model("test_vit", num_classes=0, img_size=32).eval()
    model.load_state_dict({name: t for name, t in tensors.items() if not name.startswith("head.")}, strict=True)
    x = patches()
    mean, std = (torch.tensor(v)[:, None, None] for v in (TINY.mean, TINY.std))
    with torch.no_grad():
        tokens = model.forward_features((x / 255 - mean) / std)
    torch.testing.assert_close(encoder.encode(x), tokens[:, 0])
    torch.testing.assert_close(encoder.tokens(x), tokens[:, 1:])
    both = build_encoder(replace(TINY, pooling="cls+mean", dim=128), weights=weights)
    torch.testing.assert_close(both.encode(x), torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1))
    average = build_encoder(replace(TINY, pooling="global average"), weights=weights)
    torch.testing.assert_close(average.encode(x), tokens[:, 1:].mean(1))


def test_registers_are_no_patch_tokens():
    record = replace(
        TINY,
        architecture_options={"num_classes": 0, "img_size": 32, "reg_tokens": 3},
        pooling="cls+mean",
        dim=128,
        prefix_tokens=4,
    )
    encoder = build_encoder(record, weights="random")
    x = patches()
    torch.testing.assert_close(encoder.encode(x)[:, 64:], encoder.tokens(x).mean(1))
    assert encoder.tokens(x).shape == (3, 4, 64)


def test_the_global_average_of_a_conv_net_is_that_of_its_last_map():
    encoder = build_encoder(CONV, weights="random")
    x = patches(side=64)
    torch.testing.assert_close(encoder.encode(x), encoder.tokens(x).mean(1))
    by_model = build_encoder(replace(CONV, pooling="model"), weights="random")
    torch.testing.assert_close(by_model.encode(x), encoder.encode(x))


def test_later_stages_may_lie_in_the_file(tmp_path):
    whole = build_architecture(replace(CONV, architecture_options={}))
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    cut = replace(CONV, architecture_options={"features_only": True, "out_indices": [2]}, dim=32)
    encoder = build_encoder(cut, weights=str(tmp_path / "w.safetensors"))
    assert encoder.encode(patches()).shape == (3, 32)


def test_patches_of_another_size_are_resized_or_cropped():
    encoder = build_encoder(TINY, weights="random")
    flat = torch.full((1, 3, 77, 77), 90, dtype=torch.uint8)
    torch.testing.assert_close(encoder.encode(flat), encoder.encode(flat[:, :, :32, :32]))
    cropped = build_encoder(replace(TINY, crop_from_px=40), weights="random")
    x = patches(side=40)
    torch.testing.assert_close(cropped.encode(x), encoder.encode(x[:, :, 4:36, 4:36]))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 3, 32, 32), torch.float32, "wanted uint8"),
        ((2, 32, 32, 3), torch.uint8, r"wanted uint8 \(b, 3, h, w\)"),
        ((2, 3, 32, 30), torch.uint8, "wanted squares"),
    ],
)
def test_what_is_no_batch_of_patches(shape, dtype, message):
    encoder = build_encoder(get_record("haematoxylin"))
    with pytest.raises(BackboneError, match=message):
        encoder.encode(torch.zeros(shape, dtype=dtype))


def test_random_weights_are_marked_and_repeatable():
    before = torch.random.get_rng_state()
    one, two = (build_encoder(TINY, weights="random") for _ in range(2))
    assert one.record.key == "tiny+random0"
    assert one.fingerprint == two.fingerprint
    assert torch.equal(one.encode(patches()), two.encode(patches()))
    assert torch.equal(before, torch.random.get_rng_state())


def test_half_precision_stays_near_and_keeps_the_fingerprint(weights):
    """bf16 rounds by 2^-9 of a value: twenty roundings in a row err by 4 %, which is a cosine of 0.999."""
    exact, brain = (build_encoder(TINY, weights=weights, precision=asked) for asked in ("fp32", "bf16"))
    assert (exact.record.precision, brain.record.precision) == ("fp32", "bf16")
    assert exact.fingerprint == brain.fingerprint
    assert brain.encode(patches()).dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact.encode(patches()), brain.encode(patches())).min() > 0.99


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("instructions", "wanted"), [({"amx_bf16": True}, "bf16"), ({}, "fp32")])
def test_a_record_of_half_precision_runs_as_this_cpu_does(weights, monkeypatch, precision, instructions, wanted):
    """Where nothing is asked for, the CPU decides, what it decided is recorded, and the fingerprint stays."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    exact = build_encoder(TINY, weights=weights)
    for device in ("cpu", "cpu:0"):  # a numbered CPU is a CPU
        half = build_encoder(replace(TINY, precision=precision), weights=weights, device=device)
        assert half.record.precision == wanted
        assert half.fingerprint == exact.fingerprint


# Fingerprints


def test_bin_and_safetensors_of_the_same_weights_agree(tmp_path, weights, tensors):
    torch.save({"state_dict": tensors}, tmp_path / "tiny.bin")
    assert (
        build_encoder(TINY, weights=str(tmp_path / "tiny.bin")).fingerprint
        == build_encoder(TINY, weights=weights).fingerprint
    )


def test_the_digest_sees_name_dtype_shape_and_bytes():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(())}
    same = {"b": torch.ones(()), "a": torch.zeros(3, 2).T}
    assert tensors_digest(base) == tensors_digest(same)
    others = [
        base | {"a": torch.zeros(3, 2)},
        base | {"a": torch.zeros(2, 3, dtype=torch.int32)},
        base | {"a": torch.zeros(2, 3) + 1e-30},
        {"c": base["a"], "b": base["b"]},
    ]
    assert len({tensors_digest(state) for state in [base, *others]}) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "x"},
        {"architecture_options": {"num_classes": 0}},
        {"input_px": 48},
        {"crop_from_px": 36},
        {"resize": "bicubic"},
        {"mean": (0.5, 0.4, 0.31)},
        {"std": (0.2, 0.3, 0.41)},
        {"pooling": "model"},
        {"version": "2"},
    ],
)
def test_what_shapes_the_numbers_shapes_the_fingerprint(change):
    assert fingerprint_of(replace(TINY, **change), "d") != fingerprint_of(TINY, "d")


def test_prose_does_not_shape_the_fingerprint():
    prose = replace(
        TINY, key="other", licence="other", output_licence="x", gated=True, hub_id="a/b", hub_file="f", revision="r",
        weights="w", precision="bf16", native_mpp=(0.5,), tile_px=256, parameters_m=1, gflops=2, note="n", needs="p",
    )  # fmt: skip
    assert fingerprint_of(prose, "d") == fingerprint_of(TINY, "d")


def test_weights_and_view_shape_the_fingerprint():
    encoder = build_encoder(get_record("stain-texture"))
    views = {encoder.fingerprint, encoder.fingerprint_for("112um-0.5"), encoder.fingerprint_for("224um-1")}
    assert len(views) == 3
    assert all(len(view) == 64 and set(view) <= set("0123456789abcdef") for view in views)
    assert fingerprint_of(TINY, "d") != fingerprint_of(TINY, "e")


# Weights that do not fit


def assert_refused(record, path, message):
    with pytest.raises(BackboneError, match=message):
        build_encoder(record, weights=str(path))


def test_weights_of_another_architecture(tmp_path):
    save_file(build_architecture(CONV).state_dict(), tmp_path / "conv.safetensors")
    assert_refused(
        TINY, tmp_path / "conv.safetensors", r"tiny: conv.safetensors belongs to another architecture .* are missing"
    )


def test_weights_with_a_missing_key(tmp_path, tensors):
    save_file({name: t for name, t in tensors.items() if name != "norm.weight"}, tmp_path / "w.safetensors")
    assert_refused(TINY, tmp_path / "w.safetensors", r"norm\.weight is missing")


def test_weights_with_a_key_too_many(tmp_path, tensors):
    save_file(tensors | {"extra.weight": torch.ones(1)}, tmp_path / "w.safetensors")
    assert_refused(TINY, tmp_path / "w.safetensors", r"extra\.weight is unknown")


def test_weights_of_another_shape(tmp_path, tensors):
    save_file(tensors | {"pos_embed": torch.ones(1, 10, 64)}, tmp_path / "w.safetensors")
    assert_refused(TINY, tmp_path / "w.safetensors", r"pos_embed is of another shape")


def test_weights_that_are_not_there(tmp_path):
    assert_refused(
        TINY, tmp_path / "w.safetensors", r"there is no file .*w\.safetensors; give another with --weights tiny=PATH"
    )


def test_weights_that_are_no_weights(tmp_path):
    for name, message in (
        ("w.safetensors", "is no safetensors file"),
        ("w.bin", "is no file of plain tensors"),
        ("w.h5", "neither .safetensors nor .bin, .pt, .pth"),
    ):
        (tmp_path / name).write_bytes(b"not weights at all")
        assert_refused(TINY, tmp_path / name, message)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"a": Evil()}, tmp_path / "w.bin")
    assert_refused(TINY, tmp_path / "w.bin", "run code on loading are refused")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_something_else_than_tensors(tmp_path):
    torch.save([1, 2], tmp_path / "w.pt")
    assert_refused(TINY, tmp_path / "w.pt", "holds list, wanted a state dict")


def test_another_dimension_than_the_record_says(weights):
    assert_refused(replace(TINY, dim=65), weights, "gives 64 dimensions, its record says 65")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (replace(TINY, architecture="vit_of_nobody"), r"'vit_of_nobody' of backbone tiny\+random0 is none that timm"),
        (replace(TINY, architecture="hf-hub:a/b"), "is none that timm"),
        (replace(TINY, architecture_options={"no_such_option": 1}), "does not take"),
        (replace(TINY, architecture_options={"mlp_layer": "os.system"}), "mlp_layer 'os.system' .* choose one of Mlp"),
        (
            replace(
                TINY, input_px=48, architecture_options={"num_classes": 0, "img_size": 32, "dynamic_img_size": False}
            ),
            "does not take an input of 48 px",
        ),
        (
            replace(CONV, pooling="cls"),
            r"pooling 'cls' of backbone conv\+random0 needs tokens, its network gives \(1, 256",
        ),
        (
            replace(CONV, architecture_options={"features_only": True, "out_indices": [99]}),
            r"test_efficientnet of backbone conv\+random0 does not take .*99.* \(IndexError: .*: correct arch",
        ),
        (
            replace(CONV, architecture_options={"pruned": True}),
            r"does not take .*pruned.* \(FileNotFoundError.*correct",
        ),
        (replace(CONV, architecture_options={"norm_layer": "nope"}), r"does not take .* \(KeyError: 'nope'\): correct"),
        (replace(TINY, architecture_options={"num_heads": 0}), r"does not take .* \(ZeroDivisionError: .*: correct"),
        (replace(TINY, architecture_options={"weight_init": "zz"}), r"does not take .* \(AssertionError\): correct"),
        (replace(TINY, architecture_options={"mlp_layer": ["Mlp"]}), r"^mlp_layer \['Mlp'\] .* choose one of Mlp"),
        (
            replace(CONV, architecture_options={"in_chans": 4}),
            r"conv\+random0 \(test_efficientnet\) does not take an input of 32 px \(RuntimeError: (.|\n)*correct input",
        ),
        (replace(TINY, prefix_tokens=0), "no prefix_tokens, so no class token"),
        (replace(TINY, loader="transformers"), r"architecture 'test_vit' of backbone tiny\+random0: choose one of ViT"),
        (replace(TINY, loader="custom"), r"custom architecture 'test_vit' of backbone tiny\+random0: .projected-vit"),
        (
            replace(TINY, loader="remote", needs="the package abc"),
            r"tiny cannot be built here: the code of test_vit is not in timm .* needs the package abc, .* runs no code",
        ),
        (replace(TINY, pooling="attention"), r"pooling 'attention' of backbone tiny\+random0 is its makers' own"),
        (replace(TINY, loader="embedded"), "tiny has no weights"),
    ],
)
def test_an_architecture_that_cannot_be_built(record, message):
    assert_refused(record, "random", message)


def test_an_embedded_architecture_that_does_not_exist():
    with pytest.raises(
        BackboneError, match="embedded architecture 'test_vit': choose one of stain-texture, haematoxylin"
    ):
        build_encoder(replace(TINY, loader="embedded"))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("abacus", r"device 'abacus' is not the name of a device; choose one of cpu"),
        ("cpu:x", r"device 'cpu:x' is not the name of a device; choose one of cpu"),
        ("cuda:", r"device 'cuda:' is not the name of a device; choose one of cpu"),
        ("", r"device '' is not the name of a device; choose one of cpu"),
        ("meta", r"device 'meta' is neither the CPU nor a CUDA GPU; choose one of cpu"),
        ("cuda:99", r"device 'cuda:99'.*; choose one of cpu"),
    ],
)
def test_a_device_that_is_not_there(device, message):
    with pytest.raises(BackboneError, match=message):
        build_encoder(get_record("haematoxylin"), device=device)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackboneError, match=r"device 'cuda': .* sees no CUDA GPU; choose one of cpu$"):
        build_encoder(get_record("haematoxylin"), device="cuda")


def test_a_gpu_that_refuses(monkeypatch):
    def refuse(*args, **kwargs):
        message = "CUDA error: all CUDA-capable devices are busy or unavailable"
        raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(
        BackboneError, match=r"'cuda:1' cannot be used \(.* busy .*\); choose one of cpu, cuda, cuda:0,"
    ):
        build_encoder(get_record("haematoxylin"), device="cuda:1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("key", ["stain-texture", "haematoxylin"])
def test_the_gpu_agrees_with_the_cpu(key):
    x = patches(4, side=224)
    on_cpu, on_gpu = (build_encoder(get_record(key), device=device).encode(x).cpu() for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-2, rtol=1e-3)


# The golden vector


def test_the_real_mobilenet_gives_its_golden_vector(real_data):
    record = load_record(real_data / "weights" / "mobilenetv2_035.json")
    golden = json.loads((real_data / "weights" / "mobilenetv2_035.json").read_text())["golden"]
    encoder = build_encoder(record)
    found = encoder.encode(torch.from_numpy(ramp_image()).permute(2, 0, 1)[None])[0].numpy()
    assert np.abs(found[:16] - golden["first_16"]).max() < 1e-4
    assert found.sum() == pytest.approx(golden["sum"], abs=2e-3)
    assert np.linalg.norm(found) == pytest.approx(golden["norm"], abs=2e-4)
    assert np.count_nonzero(found) == golden["nonzero"]
    assert encoder.tokens(patches(1, side=224)).shape == (1, 49, 1280)


@pytest.mark.parametrize("dropped", ["bn_eps", "pad_type"])
def test_the_real_mobilenet_with_the_wrong_options_is_refused(real_data, dropped):
    record = load_record(real_data / "weights" / "mobilenetv2_035.json")
    options = {name: value for name, value in record.architecture_options.items() if name != dropped}
    with pytest.raises(BackboneError, match=r"fails its golden vector: .* correct the record"):
        build_encoder(replace(record, architecture_options=options))


def test_the_real_mobilenet_with_another_transform_is_refused(real_data):
    record = load_record(real_data / "weights" / "mobilenetv2_035.json")
    with pytest.raises(BackboneError, match="fails its golden vector"):
        build_encoder(replace(record, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))


GOLDEN = {"input": f"uint8 image with {RAMP}", "first_16": [0.0, 1.5], "sum": 2, "norm": 1.5, "nonzero": None}


def test_a_golden_survives_json():
    record = BackboneRecord.from_json(json.dumps({"record": TINY.to_dict(), "golden": GOLDEN}))
    assert record.golden.first_16 == (0.0, 1.5)
    assert record.golden.tolerance_absolute == 1e-4
    assert BackboneRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    ("golden", "message"),
    [
        (None, r"golden of a backbone record: None, wanted an object with input, first_16"),
        ([1], r"golden of a backbone record: \[1\], wanted an object"),
        ({}, r"golden of a backbone record lacks first_16, input; its fields are"),
        ({"input": RAMP}, r"lacks first_16"),
        (GOLDEN | {"mean": 1}, r"holds the unknown mean"),
        (GOLDEN | {"input": "a photograph of a cat"}, r"input 'a photograph of a cat', wanted an input with"),
        (GOLDEN | {"input": 5}, r"input 5, wanted an input with"),
        (GOLDEN | {"first_16": []}, r"first_16 \[\], wanted one to sixteen numbers"),
        (GOLDEN | {"first_16": [0.0] * 17}, r"first_16 .* wanted one to sixteen numbers"),
        (GOLDEN | {"first_16": ["1"]}, r"first_16 \['1'\], wanted one to sixteen numbers"),
        (GOLDEN | {"first_16": [True]}, r"first_16 \[True\], wanted"),
        (GOLDEN | {"first_16": [float("nan")]}, r"first_16 \[nan\], wanted"),
        (GOLDEN | {"first_16": [10**400]}, r"first_16 .* wanted one to sixteen numbers"),
        (GOLDEN | {"first_16": "0123"}, r"first_16 '0123', wanted"),
        (GOLDEN | {"sum": "x"}, r"sum 'x', wanted a number, or null"),
        (GOLDEN | {"norm": -1}, r"norm -1, wanted a number, 0 or more, or null"),
        (GOLDEN | {"nonzero": 1.5}, r"nonzero 1\.5, wanted a whole number"),
        (GOLDEN | {"tolerance": "..."}, r"tolerance '\.\.\.', wanted text that starts with a number between 0 and 1"),
        (GOLDEN | {"tolerance": "1e9 absolute"}, r"tolerance '1e9 absolute', wanted"),
        (GOLDEN | {"tolerance": 1e-4}, r"tolerance 0\.0001, wanted text"),
        (GOLDEN | {"note": None}, r"note None, wanted text"),
    ],
)
def test_an_unusable_golden_says_what_is_wrong(tmp_path, golden, message):
    (tmp_path / "r.json").write_text(json.dumps({"record": TINY.to_dict(), "golden": golden}))
    with pytest.raises(BackboneError, match=message):
        load_record(tmp_path / "r.json")


# Imports


def test_reading_records_loads_no_heavy_library():
    code = (
        "import sys, tissuary.featurize.backbones.registry;"
        "print([m for m in ('torch', 'timm', 'torchvision', 'huggingface_hub') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_torchvision_imports_beside_any_torch():
    code = (
        "from tissuary.featurize.backbones.architectures import ensure_torchvision as e; e(); e();"
        "import torchvision, torch; print(hasattr(torch.ops.torchvision, 'nms'))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
