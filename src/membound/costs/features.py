"""A step as a vector of numbers on which every cost depends linearly.

Sequences that compute one token see the same keys that they pair with, so they need one number for each
attention window; longer chunks need three. Only experts depend on rows otherwise: their expected distinct
count is a number of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from membound.models.mixtures import choice_chances
from membound.models.operators import Chunk, attention_keys, attention_pairs, chosen_keys

Vector = NDArray[np.float64]
Window = int | None

PLAIN = ("any", "rows", "sampled", "any_sampled", "sequences", "any_one", "any_many", "rows_one", "rows_many")


class Features:
    """The numbers that one model needs, and where each stands.

    `windows` are the attention windows that occur; `experts` are (experts, active) of each mixture;
    `copies` is how many data-parallel ranks send their tokens to the same experts.
    """

    def __init__(
        self, windows: Iterable[Window], experts: Iterable[tuple[int, int]], skew: float, copies: int
    ) -> None:
        self.windows: tuple[Window, ...] = tuple(sorted(set(windows), key=lambda w: (w is not None, w)))
        self.experts = tuple(sorted(set(experts)))
        self.copies = copies
        names: list[tuple[str, object]] = [(name, None) for name in PLAIN]
        for window in self.windows:
            names += [(name, window) for name in ("keys_one", "pairs_many", "keys_many", "chosen_many")]
        names += [("distinct", shape) for shape in self.experts]
        self._places = {name: place for place, name in enumerate(names)}
        self._chances = [
            (np.array([1 - c for c, _ in chances]), np.array([float(n) for _, n in chances]), count)
            for count, chances in ((e, choice_chances(e, k, skew)) for e, k in self.experts)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def place(self, name: str, of: object = None) -> int:
        """Where a number stands; `of` is a window or a mixture's shape."""
        return self._places[(name, of)]

    @cached_property
    def indicators(self) -> list[int]:
        """Places that are 1 where there is any such row, whatever their number."""
        return [self.place(name) for name in PLAIN if name.startswith("any")]

    def of(self, chunks: Iterable[tuple[int, int] | Chunk]) -> Vector:
        """Of explicit chunks: (new tokens, context), or Chunk to say how many rows sample. Shape
        (features,).
        """
        return self._of(chunks, 0, [0.0] * len(self.windows))

    def _of(self, chunks: Iterable[tuple[int, int] | Chunk], singles: int, one: list[float]) -> Vector:
        """Chunks added to `singles` sequences of one token that see `one` keys in each window."""
        many = [[0.0, 0.0, 0.0] for _ in self.windows]
        rows = sampled = singles
        longer = longer_rows = 0
        for chunk in chunks:
            tokens, context = chunk[0], chunk[1]
            rows += tokens
            sampled += chunk[2] if len(chunk) > 2 else 1
            if tokens == 1:
                singles += 1
                for i, w in enumerate(self.windows):
                    one[i] += context + 1 if w is None else min(context + 1, w)
            else:
                longer += 1
                longer_rows += tokens
                for i, w in enumerate(self.windows):
                    many[i][0] += attention_pairs(tokens, context, w)
                    many[i][1] += attention_keys(tokens, context, w)
                    many[i][2] += chosen_keys(tokens, context, w)
        plain = [
            float(rows > 0), rows, sampled, float(sampled > 0), singles + longer,
            float(singles > 0), float(longer > 0), singles, longer_rows,
        ]  # fmt: skip
        for single, (pairs, keys, chosen) in zip(one, many, strict=True):
            plain += [single, pairs, keys, chosen]
        if not self.experts:
            return np.array(plain)
        return self.with_experts(np.array(plain + [0.0] * len(self.experts)))

    def decoding(
        self, sequences: int, context: Mapping[Window, int], chunks: Iterable[tuple[int, int] | Chunk] = ()
    ) -> Vector:
        """Of sequences that compute one token each, known only by the sums of min(cached, window), and
        further chunks. Shape (features,).
        """
        seen = []
        for window in self.windows:
            keys = (context[window] if window in context else context[None]) + sequences
            seen.append(float(keys if window is None else min(keys, sequences * window)))
        return self._of(chunks, sequences, seen)

    def many(self, sequences: Vector, context: Vector, tokens: Vector, cached: Vector) -> Vector:
        """Of many steps at once, all arguments of shape (steps,): `sequences` that compute one token after
        `context` cached ones each, and one chunk of `tokens` after `cached` (0 tokens: none). A chunk
        samples. Shape (features, steps).
        """
        chunk = (tokens > 0).astype(np.float64)
        single = (sequences > 0).astype(np.float64)
        rows = sequences + tokens
        found = np.empty((len(self), len(rows)))
        found[: len(PLAIN)] = (
            np.maximum(single, chunk), rows, sequences + chunk, np.maximum(single, chunk), sequences + chunk,
            single, chunk, sequences, tokens,
        )  # fmt: skip
        for window in self.windows:
            place = self.place("keys_one", window)
            seen = context + 1 if window is None else np.minimum(context + 1, window)
            found[place] = sequences * seen
            found[place + 1 : place + 4] = _chunk_features(tokens, cached, window)
        return self.with_experts(found)

    def with_experts(self, found: Vector) -> Vector:
        """Fills in the experts that the rows of each step choose; changes and returns `found`."""
        rows = found[self.place("rows")] * self.copies
        for shape, (missed, counts, experts) in zip(self.experts, self._chances, strict=True):
            if len(counts) == 1:
                touched = experts * (1.0 - missed[0] ** rows)
            else:
                some, place = np.unique(rows, return_inverse=True)
                touched = (experts - (counts @ np.power.outer(missed, some)))[place.reshape(rows.shape)]
            found[self.place("distinct", shape)] = touched
        return found

    def distinct(self, rows: float) -> list[float]:
        """Experts that `rows` tokens are expected to touch, for each mixture, in the order of `experts`."""
        return [float(touched[0]) for touched in self.distinct_of(np.array([rows]))]

    def distinct_of(self, rows: Vector) -> list[Vector]:
        """The same of many numbers of rows, each of shape (rows,)."""
        return [
            experts - counts @ np.power.outer(missed, rows * self.copies)
            for missed, counts, experts in self._chances
        ]

    def divided(self, found: Vector, parts: Vector | float) -> Vector:
        """Each of `parts` equal shares of a step."""
        share = found / parts
        share[self.indicators] = found[self.indicators]
        return self.with_experts(share)


def _chunk_features(tokens: Vector, cached: Vector, window: Window) -> tuple[Vector, Vector, Vector]:
    """Pairs, keys and chosen keys, as attention_pairs, attention_keys and chosen_keys count them."""
    if window is None:
        keys = np.where(tokens > 0, cached + tokens, 0.0)
        return tokens * cached + tokens * (tokens + 1) / 2, keys, keys
    growing = np.minimum(tokens, np.maximum(0.0, window - cached))
    pairs = growing * cached + growing * (growing + 1) / 2 + (tokens - growing) * window
    keys = np.where(tokens > 0, np.minimum(cached, window - 1) + tokens, 0.0)
    return pairs, keys, np.minimum(np.where(tokens > 0, cached + tokens, 0.0), tokens * window)
