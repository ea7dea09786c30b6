"""Prefill and decode on engines of their own, with the KV cache sent from one to the other.

A prompt is computed, and its first token sampled, in the prefill pool. Then its keys and values cross a link,
one prompt after the other from each prefill engine, and the request goes on in the decode pool as if its
prompt had just been computed there. Its blocks in the prefill pool are free as soon as the prompt is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from membound.costs.deployment import Deployment
from membound.errors import InputError
from membound.hardware.accelerator import Link
from membound.serving.request import Request
from membound.simulation.replica import Engine
from membound.simulation.routing import Router


@dataclass
class Handover:
    """The first `prefills` engines of a cluster compute prompts; `router` spreads what they send on."""

    prefills: int
    link: Link
    bytes_per_token: float  # that one rank sends
    router: Router
    _free_at: dict[int, float] = field(default_factory=dict)

    def arrives(self, request: Request, sender: int, now: float) -> float:
        """When the keys and values of a prompt are there that is done at `now`."""
        begin = max(now, self._free_at.get(sender, 0.0))
        sent = begin + request.prompt_length * self.bytes_per_token / self.link.bandwidth_bytes_per_s
        self._free_at[sender] = sent
        return sent + self.link.latency_s

    def choose(self, request: Request, engines: Sequence[Engine]) -> int:
        """The engine that goes on with it."""
        return self.prefills + self.router.choose(request, engines[self.prefills :])


def transfer_link(prefill: Deployment, decode: Deployment, bandwidth_bytes_per_s: float | None) -> Link:
    """The link that is given, or the slower of the two parts' networks."""
    if bandwidth_bytes_per_s is not None:
        if not bandwidth_bytes_per_s > 0:
            raise InputError("--transfer-gbs must be above 0")
        return Link("given", bandwidth_bytes_per_s, 0.0)
    parts = [one.cluster.accelerator for one in (prefill, decode)]
    links = [part.network or part.link for part in parts]
    known = [link for link in links if link is not None]
    if len(known) < len(links):
        missing = next(part.id for part, link in zip(parts, links, strict=True) if link is None)
        raise InputError(f"{missing}: no network is published: give --transfer-gbs")
    return min(known, key=lambda link: link.bandwidth_bytes_per_s)


def sent_bytes_per_token(prefill: Deployment, decode: Deployment) -> float:
    """Of keys and values, on the rank that sends or receives most."""
    return max(memory.growing_bytes_per_token for one in (prefill, decode) for memory in one.memories())
