"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Counters of one server, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry, "namespace": "ensemw2s"}
        self.requests = Counter("requests", "Requests answered.", ["path", "status"], **made)
        self.seconds = Histogram(
            "request_seconds", "Time to the end of a response.", ["path"], buckets=_SECONDS, **made
        )
        self.first = Histogram(
            "first_token_seconds", "Time from a row's acceptance to its first token.", buckets=_SECONDS, **made
        )
        self.prompt_tokens = Counter("prompt_tokens", "Prompt tokens read.", **made)
        self.tokens = Counter("generated_tokens", "Tokens generated.", **made)
        self.rows = Counter("rows", "Rows (one answer to one prompt) that ended.", ["how"], **made)
        self.step_seconds = Histogram("step_seconds", "Time of a pass of the batch.", buckets=_STEP_SECONDS, **made)
        self.step_rows = Histogram(
            "step_rows", "Rows that got a token in a pass.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256), **made
        )
        self.refused = Counter("refused", "Requests refused because the queue was full.", **made)
        for how in ("stop", "length", "cancelled", "failed"):
            self.rows.labels(how)

    def watch(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Gauges of what is going on."""
        for name, said, ask in (
            ("running_rows", "Rows read or decoded.", running),
            ("waiting_rows", "Rows waiting for room.", waiting),
        ):
            Gauge(name, said, registry=self.registry, namespace="ensemw2s").set_function(ask)

    def text(self) -> bytes:
        """In Prometheus' own format."""
        return generate_latest(self.registry)
