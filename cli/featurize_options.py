"""The options of `featurize` on the command line, shared by the commands that take them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..featurize.options import FeaturizeOptions

_FORMATS = "auto, manifest, st, hest, hest-patches, spaceranger, spatialdata, h5ad or slides."
Format = Annotated[str, typer.Option("--format", help=_FORMATS)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]

_PitchUm = Annotated[float | None, typer.Option("--pitch-um", help="Spot pitch in um; gives the scale of spot arrays.")]
_Mpp = Annotated[float | None, typer.Option("--mpp", help="um per level-0 pixel, for slides that do not say.")]
_Patches = Annotated[str, typer.Option("--patches", help="auto, spots, grid or both.")]
_GridUm = Annotated[
    list[float] | None, typer.Option("--grid-um", help="Tile sides of the grids, such as 112 448; they nest.")
]
_OverlapUm = Annotated[float, typer.Option("--overlap-um", help="How far neighbouring grid tiles overlap.")]
_MinTissue = Annotated[float, typer.Option("--min-tissue", help="Smallest tissue fraction of a grid tile.")]
_Views = Annotated[list[str] | None, typer.Option("--views", help="Views, such as 20x 10x 5x, native, 224um-4.7.")]
_Layout = Annotated[str, typer.Option("--layout", help="context (20x 10x 5x), zoom or aligned.")]
_MaxUpsampling = Annotated[float, typer.Option("--max-upsampling", help="How many times a slide may be enlarged.")]
_Tokens = Annotated[list[str] | None, typer.Option("--tokens", help="Token grids to store too, such as 7x7.")]
_Backbones = Annotated[list[str] | None, typer.Option("--backbone", help="Registry keys or record files (.json).")]
_Weights = Annotated[list[str] | None, typer.Option("--weights", help="KEY=PATH of local weights, or KEY=random.")]
_Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, or several: cuda:0,cuda:1.")]
_Precision = Annotated[str, typer.Option("--precision", help="auto, fp32, fp16 or bf16.")]
_Compile = Annotated[bool, typer.Option("--compile", help="Compile networks with torch.compile.")]
_Batch = Annotated[int | None, typer.Option("--batch", help="Patches per forward pass; measured where not given.")]
_Readers = Annotated[int | None, typer.Option("--readers", help="Threads that read; one per core where not given.")]
_Threads = Annotated[int | None, typer.Option("--threads", help="Threads of a network on the CPU; part of the plan.")]
_Engine = Annotated[str, typer.Option("--engine", help="local, or ray for a cluster.")]
_Address = Annotated[str | None, typer.Option("--address", help="Of the Ray cluster; this machine where not given.")]
_Shard = Annotated[str | None, typer.Option("--shard", help="i/n: only the i-th of n equal shares, from 0.")]
_Name = Annotated[str | None, typer.Option("--as", help="Store the backbone's features under this name.")]


def _collect(
    pitch_um: _PitchUm = None,
    mpp: _Mpp = None,
    patches: _Patches = "auto",
    grid_um: _GridUm = None,
    overlap_um: _OverlapUm = 0.0,
    min_tissue: _MinTissue = 0.5,
    views: _Views = None,
    layout: _Layout = "context",
    max_upsampling: _MaxUpsampling = 2.0,
    tokens: _Tokens = None,
    backbone: _Backbones = None,
    weights: _Weights = None,
    device: _Device = "auto",
    precision: _Precision = "auto",
    compile: _Compile = False,
    batch: _Batch = None,
    readers: _Readers = None,
    threads: _Threads = None,
    engine: _Engine = "local",
    address: _Address = None,
    shard: _Shard = None,
    name: _Name = None,
) -> FeaturizeOptions:
    """Options from the command line."""
    from ..featurize.options import FeaturizeOptions, default_readers

    return FeaturizeOptions(
        views=tuple(views or ()),
        layout=layout,
        max_upsampling=max_upsampling,
        patches=patches,
        grid_um=tuple(grid_um or ()),
        overlap_um=overlap_um,
        min_tissue=min_tissue,
        tokens=tuple(tokens or ()),
        backbones=tuple(backbone or ("stain-texture",)),
        weights=_by_key(weights or []),
        device=device,
        precision=precision,
        compiled=compile,
        mpp=mpp,
        pitch_um=pitch_um,
        name=name,
        batch=batch,
        readers=default_readers() if readers is None else readers,
        threads=threads,
        engine=engine,
        address=address,
        shard=shard,
    )


def _by_key(weights: list[str]) -> dict[str, str]:
    from ..store.errors import CohortError

    by_key: dict[str, str] = {}
    for text in weights:
        key, equals, path = text.partition("=")
        if not equals or not path:
            msg = f"--weights {text!r}: wanted KEY=PATH, for example --weights uni=weights/uni.safetensors"
            raise CohortError(msg)
        by_key[key] = path
    return by_key


def takes_featurize_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `featurize`: it gets them as `options`, one `FeaturizeOptions`.

    typer reads options from a signature, so the command's own parameters and those of `featurize` become one.
    """
    own = inspect.signature(command, eval_str=True).parameters
    shared = inspect.signature(_collect, eval_str=True, locals={"FeaturizeOptions": Any}).parameters

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        options = _collect(**{name: given.pop(name) for name in shared})
        command(options=options, **given)

    everything = [one for name, one in own.items() if name != "options"] + list(shared.values())
    keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in everything]
    wrapper.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {one.name: one.annotation for one in keyword}
    return wrapper
