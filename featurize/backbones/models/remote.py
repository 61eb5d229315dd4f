"""Pathology models whose code is neither in timm nor in transformers: complete records of what cannot be built here.

Their packages, or the code beside their weights, would have to be run; this library does not run code from a hub.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..pixel_stats import CLIP, GENBIO, HALF, HIBOU, IMAGENET, RUDOLF
from ..record import BackboneRecord

_BESIDE = "the code beside its weights on the hub (AutoModel with trust_remote_code=True)"

_CONCH: dict[str, Any] = {
    "loader": "remote", "gated": True, "licence": "CC-BY-NC-ND-4.0",
    "output_licence": "features, and models trained on them, are non-commercial too",
    "token_grid": (28, 28), "prefix_tokens": 1, "input_px": 448, "native_mpp": (0.5,), "tile_px": 512,
}  # fmt: skip
_CONCH_V1: dict[str, Any] = {
    **CLIP, **_CONCH, "architecture": "conch_ViT-B-16", "needs": "the package `conch` of github.com/mahmoodlab/CONCH",
    "hub_id": "MahmoodLab/conch", "hub_file": "pytorch_model.bin", "resize": "bicubic", "dim": 512, "gflops": 35.08,
    "note": "395.2 million parameters with its text encoder; the patch tokens are those of its trunk, 768 numbers each",
}  # fmt: skip
_CONCH_V1_UNPROJECTED = BackboneRecord(**_CONCH_V1, key="conch-v1.unprojected", pooling="attention")

_HIBOU: dict[str, Any] = {
    **HIBOU, "loader": "remote", "needs": _BESIDE, "input_px": 224, "resize": "bicubic", "token_grid": (16, 16),
    "prefix_tokens": 5, "native_mpp": (0.5,), "tile_px": 224, "licence": "Apache-2.0", "gated": True,
}  # fmt: skip
_HIBOU_L: dict[str, Any] = {
    **_HIBOU, "architecture": "hibou-L", "hub_id": "histai/hibou-L", "dim": 1024, "precision": "fp32",
    "parameters_m": 303.7, "gflops": 164.85,
}  # fmt: skip

_CTRANSPATH: dict[str, Any] = {
    **IMAGENET, "loader": "remote", "architecture": "Swin-T with a convolutional stem",
    "needs": "a fork of timm 0.5.4 (`timm_ctp`)", "input_px": 224, "resize": "bilinear", "pooling": "model",
    "dim": 768, "token_grid": (7, 7), "licence": "GPL-3.0", "parameters_m": 27.5, "gflops": 8.99,
}  # fmt: skip

_MUSK: dict[str, Any] = {
    **HALF, "loader": "remote", "architecture": "musk_large_patch16_384",
    "needs": "the packages `musk` of github.com/lilab-stanford/MUSK and fairscale", "hub_id": "xiangjx/musk",
    "input_px": 384, "resize": "bicubic", "token_grid": (24, 24), "prefix_tokens": 1, "native_mpp": (0.25, 0.5, 1.0),
    "tile_px": 384, "precision": "fp16", "licence": "CC-BY-NC-ND-4.0", "gated": True, "parameters_m": 675.2,
    "gflops": 382.13,
}  # fmt: skip

_GENBIO = BackboneRecord(
    **GENBIO, key="genbio-pathfm", loader="remote", architecture="genbio-pathfm", needs=_BESIDE,
    hub_id="genbio-ai/genbio-pathfm", hub_file="model.pth", input_px=224, resize="bicubic", pooling="cls", dim=4608,
    token_grid=(14, 14), prefix_tokens=5, native_mpp=(0.5,), tile_px=224, parameters_m=1100,
    licence="GenBio AI Community License",
    note="red, green and blue go through it as three images; their class tokens stand side by side. "
    "The resolution is what users take; its card says nothing",
)  # fmt: skip

_RUDOLF: dict[str, Any] = {
    **RUDOLF, "loader": "remote", "needs": _BESIDE, "input_px": 224, "resize": "bicubic", "token_grid": (28, 28),
    "prefix_tokens": 9, "native_mpp": (0.25, 0.5, 1.0, 2.0), "licence": "CC-BY-NC-ND-4.0 with supplementary terms",
    "gated": True,
}  # fmt: skip

_WAIV: dict[str, Any] = {
    "loader": "remote", "needs": f"{_BESIDE}, and transformers 5", "input_px": 224, "resize": "none",
    "pooling": "pooler", "prefix_tokens": 1, "native_mpp": (0.5,), "licence": "Waiv non-commercial", "gated": True,
    "note": "vectors have length 1; resolution inferred, interpolation not settled",
}  # fmt: skip


def _rudolf(suffix: str, *, revision: str, dim: int, parameters_m: float, gflops: float) -> tuple[BackboneRecord, ...]:
    name = f"RudolfV-2{suffix}"
    cls = BackboneRecord(
        **_RUDOLF, key=f"rudolfv2{suffix.lower()}.cls", architecture=name, hub_id=f"Aignostics/{name}",
        revision=revision, pooling="cls", dim=dim, parameters_m=parameters_m, gflops=gflops,
    )  # fmt: skip
    return replace(cls, key=f"{cls.key}+mean", pooling="cls+mean", dim=2 * dim), cls


MODELS = (
    _CONCH_V1_UNPROJECTED,
    BackboneRecord(**_CONCH_V1, key="conch-v1.projected", pooling="projected"),
    replace(
        _CONCH_V1_UNPROJECTED, key="conch-v1-224.unprojected", input_px=224, token_grid=(14, 14), gflops=None,
        note="at 224 px, the default of some tools, half the size that it was trained on",
    ),
    BackboneRecord(
        **IMAGENET, **_CONCH, key="conch-v1_5", architecture="ViT-L/16 with an attentional pooler",
        needs="the code beside TITAN's weights on the hub (MahmoodLab/TITAN, trust_remote_code=True)",
        hub_id="MahmoodLab/conchv1_5", hub_file="pytorch_model_vision.bin", resize="bilinear", pooling="attention",
        dim=768, precision="fp16", note="its number of parameters is not settled; its trunk has 1024 numbers a token",
    ),
    BackboneRecord(
        **_CTRANSPATH, key="ctranspath",
        note="ctranspath.pth, sha256 7c998680060c8743551a412583fac689db43cec07053b72dfec6dcd810113539, lies on no hub; "
        "1 um/px is said of it, not settled",
    ),
    BackboneRecord(
        **_CTRANSPATH, key="ctranspath-chief", native_mpp=(1.0,), tile_px=256,
        note="CHIEF_CTransPath.pth, sha256 1646f23001214f74cf432ef0e80b808ee6605143802ae6ed53a87564ddc4924a, in the "
        "hub's data set MahmoodLab/hest-bench (fm_v1/ctranspath)",
    ),
    BackboneRecord(
        **_HIBOU, key="hibou-b.pooler", architecture="hibou-b", hub_id="histai/hibou-b", pooling="pooler", dim=768,
        precision="fp16", parameters_m=85.7, gflops=47.08,
    ),
    BackboneRecord(**_HIBOU_L, key="hibou-l.pooler", pooling="pooler"),
    BackboneRecord(**_HIBOU_L, key="hibou-l.cls", pooling="cls"),
    BackboneRecord(**_MUSK, key="musk.cls", pooling="cls", dim=1024),
    BackboneRecord(
        **_MUSK, key="musk.multiscale", pooling="model", dim=2048, note="class tokens of several scales (ms_aug=True)"
    ),
    BackboneRecord(**_MUSK, key="musk.projected", pooling="projected", dim=1024),
    _GENBIO,
    replace(_GENBIO, key="genbio-pathfm-bilinear", resize="bilinear", precision="bf16"),
    *_rudolf(
        "", revision="482d9519c6a10fc22fbe5bcd6a87d5daf056643c", dim=1536, parameters_m=1130, gflops=1796.55
    ),
    *_rudolf("-B", revision="b2cb55c8fff8aaaf9cc16fda6d09bfb21dfc6db8", dim=768, parameters_m=85.2, gflops=134.94),
    *_rudolf("-S", revision="76abacd512a98c72a6db6192af9fc98313c3bd78", dim=384, parameters_m=21.4, gflops=33.79),
    BackboneRecord(
        **HALF, **_WAIV, key="mascaret", architecture="mascaret", hub_id="wearewaiv/mascaret",
        revision="e95e7ea15e039e78d74def101415e19d9a67ba80", dim=1536, token_grid=(16, 16), parameters_m=1140,
        gflops=582.55,
    ),
    BackboneRecord(
        **IMAGENET, **_WAIV, key="phaet", architecture="phaet", hub_id="wearewaiv/phaet",
        revision="e0ce6e0ee248470bd8604823e412ca64048a2495", dim=1024, token_grid=(14, 14), parameters_m=303.4,
        gflops=119.29,
    ),
)  # fmt: skip

_HIDDEN = "it has no record yet, because what is known here does not say how it is built and fed"

UNAVAILABLE: dict[str, str] = {
    "atlas": "it has no public weights, only a paper (arXiv 2501.05409); its open sibling is rudolfv2",
    "atlas-2": "it has no public weights, only a paper; its open sibling is rudolfv2",
    "virchow2g": "it lies in the Azure model catalogue only and cannot be had from the hub; take virchow2",
    "virchow2g-mini": "it lies in the Azure model catalogue only and cannot be had from the hub; take virchow2",
    "path-orchestra": f"{_HIDDEN}: architecture and dimension (hub AI4Pathology/PathOrchestra)",
    "crown": "it has no record yet: a ViT for cytology (hub LexieK/Crown); describe it in a record file",
    "crisp": "it has no record yet: Virchow2 with adapter weights for frozen sections (hub FTZhou/CRISP), to be merged",
    "gemma4-e4b": f"{_HIDDEN}: statistics and resizing are its processor's (hub google/gemma-4-E4B)",
    "gemma4-26b": f"{_HIDDEN}: statistics and resizing are its processor's (hub google/gemma-4-26B-A4B)",
}
"""Names that users know and that have no record, with the reason."""
