"""A timm transformer with a projection into a space shared with text: the image side of KEEP."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...store.errors import BackboneError
from .failures import FAILURES, said
from .record import BackboneRecord
from .torchvision_shim import ensure_torchvision

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
