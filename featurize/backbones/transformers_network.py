"""Vision models of the library transformers, from configurations written out in the records.

Nothing is asked of the hub: no configuration is fetched, and no code that lies beside weights is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...store.errors import BackboneError, MissingDependencyError
from .failures import FAILURES, said
from .record import BackboneRecord
from .torchvision_shim import ensure_torchvision

if TYPE_CHECKING:
    from types import ModuleType


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
