"""Statistics of attention over a data set: its distance, its entropy, the share inside the person's box, and which
keypoints attend to which.

K keypoints, L layers, M heads, N tokens, P persons. The query of a keypoint is the maximum of its heatmap; persons on
whom it is scored less than a threshold are left out. Distances are pixels of the network's input.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import UserError
from ..runtime.files import csv_text
from .maps import Explanation, cell_centers


@dataclass(frozen=True, eq=False)
class Statistics:
    """Means over the persons of a set, NaN where there is none.

    `distance`, `entropy` and `inside` (L, K) are means over the heads too: the distance of what is attended to from the
    query, the entropy in bits of the attention row, and the share of it on cells whose centre is in the person's box.
    `even` holds what attention spread evenly would give, (K) each. `pairs` (L, K, K) is the attention that the query of
    the first keypoint pays to the token of the second, as multiples of 1 / N, which even attention would pay.
    `persons` (K) and `pair_persons` (K, K) count them.
    """

    names: tuple[str, ...]
    tokens: int
    persons: np.ndarray
    distance: np.ndarray
    entropy: np.ndarray
    inside: np.ndarray
    even_distance: np.ndarray
    even_inside: np.ndarray
    pair_persons: np.ndarray
    pairs: np.ndarray

    def to_csv(self) -> str:
        """CSV: a line for each layer and keypoint."""
        rows = [
            (label, name, int(self.persons[k]), *(f"{value:.4f}" for value in values[:, k]))
            for label, values in self._layers()
            for k, name in enumerate(self.names)
        ]
        return csv_text([("layer", "keypoint", "persons", "distance", "entropy", "inside"), *rows])

    def pairs_to_csv(self) -> str:
        """CSV: a line for each layer and pair of keypoints."""
        rows = [
            (layer, a, b, int(self.pair_persons[i, j]), f"{self.pairs[layer, i, j]:.4f}")
            for layer in range(len(self.pairs))
            for i, a in enumerate(self.names)
            for j, b in enumerate(self.names)
        ]
        return csv_text([("layer", "of", "to", "persons", "times_even"), *rows])

    def to_markdown(self) -> str:
        """A markdown table: a line per keypoint, the layers side by side, and their means."""
        layers = self._layers()
        units = (("distance", "px", 1), ("entropy", "bits", 1), ("inside", "%", 100))
        heads = ["keypoint", "persons", *(f"{name} {label} ({unit})" for name, unit, _ in units for label, _ in layers)]
        lines = [heads, ["---"] * len(heads)]
        columns = [factor * values[i] for i, (_, _, factor) in enumerate(units) for _, values in layers]
        for k, name in enumerate(self.names):
            lines.append([name, f"{self.persons[k]:.0f}", *(f"{column[k]:.1f}" for column in columns)])
        weights = self.persons / self.persons.sum()
        means = [np.nansum(np.where(weights > 0, column, 0) * weights) for column in columns]
        lines.append(["all", f"{self.persons.sum():.0f}", *(f"{mean:.1f}" for mean in means)])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def _layers(self) -> list[tuple[str, np.ndarray]]:
        """Distance, entropy and share inside (3, K): for each layer, then for even attention."""
        layers = np.stack([self.distance, self.entropy, self.inside], 1)
        entropy = np.full(len(self.names), math.log2(self.tokens))
        even = np.stack([self.even_distance, entropy, self.even_inside])
        return [*((str(i), values) for i, values in enumerate(layers)), ("even", even)]


def statistics(explanations: Iterable[Explanation], min_score: float = 0.2) -> Statistics:
    """Compute the statistics. Raises UserError if no keypoint of any person is scored `min_score` or more."""
    total: dict[str, np.ndarray] = {}
    names: tuple[str, ...] = ()
    tokens = 0
    for explanation in explanations:
        own = _of_person(explanation, min_score)
        total = {name: total[name] + values if total else values for name, values in own.items()}
        names, tokens = explanation.names, explanation.in_box().size
    if not total or not total["persons"].any():
        raise UserError(f"no keypoint of any person is scored {min_score:g} or more: there is nothing to measure")
    counts = {name: total.pop(name) for name in ("persons", "pair_persons")}
    with np.errstate(invalid="ignore"):
        pairs = total.pop("pairs") / counts["pair_persons"] * tokens
        means = {name: values / counts["persons"] for name, values in total.items()}
    return Statistics(names=names, tokens=tokens, pairs=pairs, **counts, **means)


def _of_person(explanation: Explanation, min_score: float) -> dict[str, np.ndarray]:
    """One person's contribution to the sums; zero for keypoints that are not found."""
    attention, joints, layers = explanation.attention, len(explanation.names), explanation.attention.num_layers
    found = np.flatnonzero(explanation.scores >= max(min_score, 1e-9))
    queries = explanation.tokens[found]
    device = attention.heatmaps.device
    asked = torch.from_numpy(queries).to(device)[None]
    rows = attention.dependency(asked).flatten(-2)[:, 0].numpy(force=True)  # (L, M, Q, N)
    centers = cell_centers(attention.grid, attention.stride).reshape(-1, 2)
    away = np.linalg.norm(centers[queries][:, None] - centers, axis=-1)  # (Q, N)
    inside = explanation.in_box().ravel()
    bits = -(rows * np.log2(np.maximum(rows, 1e-300))).sum(-1)

    def filled(values: np.ndarray) -> np.ndarray:
        """(..., Q) -> (..., K)"""
        whole = np.zeros((*values.shape[:-1], joints))
        whole[..., found] = values
        return whole

    pairs, pair_persons = np.zeros((layers, joints, joints)), np.zeros((joints, joints))
    pairs[:, found[:, None], found] = rows.mean(1)[:, :, queries]
    pair_persons[found[:, None], found] = 1
    return {
        "persons": filled(np.ones(len(found))),
        "distance": filled((rows * away).sum(-1).mean(1)),
        "entropy": filled(bits.mean(1)),
        "inside": filled(rows[..., inside].sum(-1).mean(1)),
        "even_distance": filled(away.mean(1)),
        "even_inside": filled(np.full(len(found), inside.mean())),
        "pairs": pairs,
        "pair_persons": pair_persons,
    }
