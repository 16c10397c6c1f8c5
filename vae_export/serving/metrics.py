"""Prometheus metrics of a server. https://prometheus.io/docs/practices/naming/"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from vae_export.serving.models import ServedModel

Protocol = Literal["http", "grpc"]

#: Seconds: a small decoder takes a fraction of a millisecond, a large one seconds.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_MODEL = ("model", "version")


class Metrics:
    """Counts requests and batches in a registry of its own, so that several servers can live in one process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "vae_export_requests",
            "Requests by outcome: OK, or the gRPC code of the refusal.",
            ("protocol", *_MODEL, "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "vae_export_request_seconds",
            "Time from the first byte of a request's body to its response.",
            ("protocol", *_MODEL),
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_rows = Histogram(
            "vae_export_batch_rows", "Rows of a batch.", _MODEL, buckets=_ROWS, registry=registry
        )
        self._batch_requests = Counter(
            "vae_export_batch_requests", "Requests that were part of a batch.", _MODEL, registry=registry
        )
        self._batch_seconds = Histogram(
            "vae_export_batch_seconds", "Time of computing a batch.", _MODEL, buckets=_SECONDS, registry=registry
        )
        self._queue_seconds = Histogram(
            "vae_export_queue_seconds",
            "Time that the first request of a batch waited.",
            _MODEL,
            buckets=_SECONDS,
            registry=registry,
        )
        self._ready = Gauge("vae_export_ready", "Whether requests are accepted.", registry=registry)
        self._in_flight = Gauge("vae_export_requests_in_flight", "Requests in work.", registry=registry)

    def watch(self, is_ready: Callable[[], bool], in_flight: Callable[[], int]) -> None:
        """Read the gauges from a server by these functions."""
        self._ready.set_function(lambda: float(is_ready()))
        self._in_flight.set_function(lambda: float(in_flight()))

    def of_batches(self, model: ServedModel) -> BatchMetrics:
        """Return the counters of a model's batches."""
        labels = model.name, str(model.version)
        return BatchMetrics(
            self._batch_rows.labels(*labels),
            self._batch_requests.labels(*labels),
            self._batch_seconds.labels(*labels),
            self._queue_seconds.labels(*labels),
        )

    def request_finished(self, protocol: Protocol, model: ServedModel | None, outcome: str, seconds: float) -> None:
        """Count a request; the model is None if it was not found, because labels by strangers would fill the memory."""
        name, version = ("", "") if model is None else (model.name, str(model.version))
        self._requests.labels(protocol, name, version, outcome).inc()
        if model is not None:
            self._seconds.labels(protocol, name, version).observe(seconds)

    def page(self) -> tuple[bytes, str]:
        """Return the text for Prometheus, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class BatchMetrics:
    """The counters of one model's batches; see `vae_export.serving.batching.Observer`."""

    def __init__(self, rows: Histogram, requests: Counter, seconds: Histogram, queued: Histogram) -> None:
        self._rows, self._requests, self._seconds, self._queued = rows, requests, seconds, queued

    def batch_started(self, requests: int, rows: int, waited: float) -> None:
        """Count a batch."""
        self._rows.observe(rows)
        self._requests.inc(requests)
        self._queued.observe(waited)

    def batch_finished(self, seconds: float) -> None:
        """Count its time."""
        self._seconds.observe(seconds)
