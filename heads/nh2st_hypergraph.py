"""Hypergraphs of NH2ST: each spot's nearest spots, joined where they look alike, as one small matrix a spot."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..store.arrays import Bools, Floats
from ..store.feature_column import FeatureColumn
from ..store.nearest import unit_rows
from ..store.neighbours import Neighbourhood
from ..store.table import Table

ALIKE = 3
"""Nodes of largest cosine that a node's hyperedge holds beside itself."""

BLOCK = 512
KEY = "hypergraph"


def propagation(nodes: Floats, mask: Bools, *, alike: int = ALIKE) -> NDArray[np.float32]:
    """The operator D^-1 H B^-1 H^T of hypergraphs of k nodes, (m, k, k) float32.

    Node e has a hyperedge, which holds it and the `alike` other nodes of largest cosine; H[v, e] says whether edge e
    holds node v, B counts the nodes of an edge, D the edges of a node. So a hypergraph convolution (Bai et al. 2021,
    without attention) of X with weights Theta is `P X Theta + b`.

    Parameters
    ----------
    nodes
        (m, k, dim).
    mask
        (m, k) True where there is a node; rows and columns of P are zero elsewhere, the others sum to one.
    """
    m, k, dim = nodes.shape
    unit = unit_rows(np.ascontiguousarray(nodes, dtype=np.float32).reshape(-1, dim)).reshape(m, k, dim)
    cosine = np.where(mask[:, None], unit @ unit.swapaxes(1, 2), -np.inf)  # (m, e, v)
    diagonal = np.arange(k)
    cosine[:, diagonal, diagonal] = np.inf  # the node itself comes first
    chosen = np.argsort(-cosine, axis=2, kind="stable")[..., : alike + 1]
    edge = np.zeros((m, k, k), dtype=np.float32)  # (m, e, v): H transposed
    np.put_along_axis(edge, chosen, 1.0, axis=2)
    edge *= mask[:, None] & mask[:, :, None]
    of_edge, of_node = edge.sum(2, keepdims=True), edge.sum(1)[:, :, None]  # B (m, e, 1), D (m, v, 1)
    out = (edge.swapaxes(1, 2) / np.maximum(of_node, 1)) @ (edge / np.maximum(of_edge, 1))
    return np.asarray(out, dtype=np.float32)


def propagation_column(table: Table, found: Neighbourhood) -> FeatureColumn:
    """Operators of all rows of a table, computed once and gathered as any feature: (k * k) a row.

    Parameters
    ----------
    found
        Neighbours of every row, as rows of the table.
    """
    x, k = table.features(), found.k
    flat = np.zeros((len(table), k * k), dtype=np.float32)
    for start in range(0, len(table), BLOCK):
        rows = slice(start, start + BLOCK)
        flat[rows] = propagation(x[found.index[rows]], found.mask[rows]).reshape(-1, k * k)
    parts = []
    for one in range(len(table.slide_ids)):
        here = table.slide == one
        part = np.zeros((int(table.row[here].max(initial=-1)) + 1, k * k), dtype=np.float32)
        part[table.row[here]] = flat[here]
        parts.append(part)
    return FeatureColumn(KEY, "none", tuple(parts))
