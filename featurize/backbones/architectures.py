"""Architectures built from a record, without network and without remote code."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...store.errors import BackboneError, MissingDependencyError, plain_text
from .record import BackboneRecord

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn
    from torch.library import Library

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# A library takes its declarations back when it is collected: it has to outlive this function.
_declared: list[Library] = []


def ensure_torchvision() -> None:
    """Make `import torchvision` work; call it before importing timm.

    Raises
    ------
    ImportError
        If torchvision is not installed.
    RuntimeError
        If its import fails for another reason.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _declared:
            raise
        _declare_operators()
        importlib.import_module("torchvision")


def _declare_operators() -> None:
    from torch.library import Library

    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    library = Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(f"nms{_SCHEMA}")  # type: ignore[no-untyped-call]
    library.define(f"qnms{_SCHEMA}")  # type: ignore[no-untyped-call]
    _declared.append(library)


FAILURES = (
    TypeError, ValueError, RuntimeError, AssertionError, LookupError, ArithmeticError, AttributeError, OSError,
    ImportError, MemoryError,
)  # fmt: skip
"""Seen from timm, transformers and torch."""


def said(error: BaseException) -> str:
    """Kind and text of an error from elsewhere; many have no text, or only the bare key that was not found."""
    text = plain_text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


CUTS = ("num_classes", "features_only", "out_indices", "global_pool")
"""Options that leave parts of an architecture out, so that its published weights hold more than is loaded."""

_CLASS_OPTIONS = ("mlp_layer", "act_layer")


def build_architecture(record: BackboneRecord) -> nn.Module:
    """Build the network of a record, randomly initialised, in evaluation mode.

    Returns
    -------
    nn.Module
        With `forward_features` (tokens or a feature map) and `forward_head` (these to one vector a patch).

    Raises
    ------
    BackboneError
        If its loader has no such architecture, it does not take the record's options, or its code is remote.
    MissingDependencyError
        If the library that has the architecture is not installed.
    """
    if record.loader == "timm":
        return _create(record, record.architecture_options).eval()
    if record.loader == "transformers":
        return transformers_network(record).eval()
    if record.loader == "custom":
        return projected_vit(record).eval()
    raise cannot_be_built(record)


def cannot_be_built(record: BackboneRecord) -> BackboneError:
    """The error for a model whose code is in none of the libraries used here."""
    return BackboneError(
        f"backbone {record.key} cannot be built here: the code of {record.architecture} is not in timm or "
        f"transformers. It needs {record.needs}, and this library runs no code that comes with weights. Embed with "
        "its own package and import the features (not available in this version)"
    )


def left_out_names(record: BackboneRecord) -> frozenset[str]:
    """Tensors of the whole architecture that the record's cut of it does not hold: classifier, later stages."""
    import torch

    cut = [name for name in CUTS if name in record.architecture_options]
    if record.loader != "timm" or not cut:
        return frozenset()
    whole = {name: value for name, value in record.architecture_options.items() if name not in cut}
    with torch.device("meta"):  # names only: no memory, no initialisation
        return frozenset(_create(record, whole).state_dict())


def _create(record: BackboneRecord, options: dict[str, Any]) -> nn.Module:
    ensure_torchvision()
    import timm

    if not timm.is_model(record.architecture):
        near = timm.list_models(f"*{record.architecture[:8]}*")[:5]
        msg = (
            f"architecture {record.architecture!r} of backbone {record.key} is none that timm {timm.__version__} has"
            + (f"; near it: {', '.join(near)}" if near else "")
        )
        raise BackboneError(msg)
    resolved = _with_classes(options)
    try:
        model: nn.Module = timm.create_model(record.architecture, pretrained=False, **resolved)
    except FAILURES as error:
        msg = (
            f"architecture {record.architecture} of backbone {record.key} does not take the options {options} "
            f"({said(error)}): correct architecture_options in its record"
        )
        raise BackboneError(msg) from error
    return model


def _with_classes(options: dict[str, Any]) -> dict[str, Any]:
    """Options with layer classes in the place of their names; a record file cannot name any other code."""
    import torch
    from timm.layers import GluMlp, Mlp, SwiGLU, SwiGLUPacked

    classes = {
        "Mlp": Mlp, "GluMlp": GluMlp, "SwiGLU": SwiGLU, "SwiGLUPacked": SwiGLUPacked,
        "GELU": torch.nn.GELU, "SiLU": torch.nn.SiLU, "ReLU": torch.nn.ReLU,
    }  # fmt: skip
    resolved = dict(options)
    for name in _CLASS_OPTIONS:
        if name in options:
            if not isinstance(options[name], str) or options[name] not in classes:
                msg = f"{name} {options[name]!r} of a backbone record: choose one of {', '.join(classes)}"
                raise BackboneError(msg)
            resolved[name] = classes[options[name]]
    return resolved


@dataclass(frozen=True)
class Architecture:
    """A model class of transformers: its configuration's class, other arguments, and a tensor that it must have."""

    config: str
    arguments: dict[str, Any]
    landmark: str


ARCHITECTURES = {
    "ViTModel": Architecture("ViTConfig", {"add_pooling_layer": False}, "model.layers.0.attention.q_proj.weight"),
    "Dinov2Model": Architecture("Dinov2Config", {}, "model.encoder.layer.0.attention.q_proj.weight"),
    "CLIPVisionModelWithProjection": Architecture(
        "CLIPVisionConfig", {}, "model.vision_model.encoder.layers.0.self_attn.q_proj.weight"
    ),
}

OPTIONS = frozenset({
    "hidden_act", "hidden_size", "image_size", "intermediate_size", "layer_norm_eps", "layerscale_value", "mlp_ratio",
    "num_attention_heads", "num_hidden_layers", "patch_size", "projection_dim", "qkv_bias", "use_mask_token",
    "use_swiglu_ffn",
})  # fmt: skip
"""Options of a configuration that shape a network. Others can name code on the hub (an attention kernel, say)."""

_EXTRA = '"tissuary[transformers]"'


class TransformersNetwork(nn.Module):
    """A model of transformers behind timm's two methods.

    Parameters
    ----------
    model
        Gives `last_hidden_state`, class token first.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward_features(self, x: Tensor) -> Tensor:
        """Embed normalised images (b, 3, s, s): tokens (b, 1 + patches, d)."""
        tokens: Tensor = self.model(pixel_values=x).last_hidden_state
        return tokens

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Tokens (b, t, d) to one vector a patch: the class token, projected where the model projects it."""
        model: Any = self.model
        if not hasattr(model, "visual_projection"):
            return tokens[:, 0]
        projected: Tensor = model.visual_projection(model.vision_model.post_layernorm(tokens[:, 0]))
        return projected  # (b, projection_dim)


def transformers_network(record: BackboneRecord) -> TransformersNetwork:
    """Build the network of a record whose loader is "transformers".

    Raises
    ------
    MissingDependencyError
        If transformers is not installed, or names its tensors in another way than this library knows.
    BackboneError
        If the architecture or an option of it is none that is known here, or they do not go together.
    """
    if record.architecture not in ARCHITECTURES:
        msg = f"architecture {record.architecture!r} of backbone {record.key}: choose one of {', '.join(ARCHITECTURES)}"
        raise BackboneError(msg)
    unknown = sorted(set(record.architecture_options) - OPTIONS)
    if unknown:
        msg = (
            f"architecture_options of backbone {record.key} hold {', '.join(unknown)}; those of a transformers model "
            f"are {', '.join(sorted(OPTIONS))}"
        )
        raise BackboneError(msg)
    library = _transformers(record)
    known = ARCHITECTURES[record.architecture]
    try:
        config = getattr(library, known.config)(**record.architecture_options)
        network = TransformersNetwork(getattr(library, record.architecture)(config, **known.arguments))
    except FAILURES as error:
        msg = (
            f"architecture {record.architecture} of backbone {record.key} does not take the options "
            f"{record.architecture_options} ({said(error)}): correct architecture_options in its record"
        )
        raise BackboneError(msg) from error
    _check_names(record, network, library)
    return network


def _transformers(record: BackboneRecord) -> ModuleType:
    ensure_torchvision()
    try:
        import transformers
    except ImportError as error:
        msg = (
            f"backbone {record.key} is built by the library transformers, which is not installed: pip install {_EXTRA}"
        )
        raise MissingDependencyError(msg) from error
    library: ModuleType = transformers
    return library


def _check_names(record: BackboneRecord, network: nn.Module, library: ModuleType) -> None:
    """The fingerprint is taken over named tensors: a version that names them otherwise would give another one."""
    if ARCHITECTURES[record.architecture].landmark not in network.state_dict():
        msg = (
            f"backbone {record.key}: transformers {library.__version__} names its tensors in another way than version "
            f"5.23, for which this is written: pip install -U {_EXTRA}"
        )
        raise MissingDependencyError(msg)


ARCHITECTURE = "projected-vit"

_WANTED = {"trunk", "trunk_options", "projection_dim"}
_TRUNK_OPTIONS = {"img_size", "patch_size", "init_values", "dynamic_img_size"}


class ProjectedViT(nn.Module):
    """A trunk, and two linear layers with a GELU between them on its pooled output.

    The names of the parts are those of KEEP's published weights (Zhou et al. 2026, Cancer Cell).
    """

    def __init__(self, trunk: nn.Module, *, width: int, projection_dim: int) -> None:
        super().__init__()
        self.visual = trunk
        self.visual_head = nn.Sequential(
            nn.Linear(width, projection_dim), nn.GELU(), nn.Linear(projection_dim, projection_dim)
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Embed normalised images (b, 3, s, s): the trunk's tokens (b, 1 + patches, d)."""
        trunk: Any = self.visual
        tokens: Tensor = trunk.forward_features(x)
        return tokens

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Tokens (b, t, d) to projected vectors (b, projection_dim), not scaled to length 1."""
        trunk: Any = self.visual
        projected: Tensor = self.visual_head(trunk.forward_head(tokens))
        return projected


def projected_vit(record: BackboneRecord) -> ProjectedViT:
    """Build the network of a record whose loader is "custom".

    Raises
    ------
    BackboneError
        If the record asks for another architecture, or for other options than a trunk and a projection.
    """
    options = record.architecture_options
    if record.architecture != ARCHITECTURE:
        msg = f"custom architecture {record.architecture!r} of backbone {record.key}: {ARCHITECTURE!r} is the only one"
        raise BackboneError(msg)
    if set(options) != _WANTED or not set(options["trunk_options"]) <= _TRUNK_OPTIONS:
        msg = (
            f"architecture_options {options} of backbone {record.key}: wanted {', '.join(sorted(_WANTED))}, the "
            f"trunk's among {', '.join(sorted(_TRUNK_OPTIONS))}"
        )
        raise BackboneError(msg)
    ensure_torchvision()
    import timm

    if not timm.is_model(options["trunk"]):  # a name with a colon would be looked up on the hub
        msg = f"backbone {record.key}: its trunk {options['trunk']!r} is none that timm has"
        raise BackboneError(msg)
    try:
        trunk = timm.create_model(options["trunk"], pretrained=False, num_classes=0, **options["trunk_options"])
        return ProjectedViT(trunk, width=trunk.num_features, projection_dim=options["projection_dim"])
    except FAILURES as error:
        msg = f"backbone {record.key}: its trunk cannot be built with {options} ({said(error)}): correct its record"
        raise BackboneError(msg) from error
