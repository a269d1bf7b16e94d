"""Traces, metrics and logs of a process, through OpenTelemetry.

Requests cross the services on long-lived streams, so the W3C trace context travels as a field of the request and not as
call metadata; each service opens its span from that field. Nothing here is global: a service owns its `Telemetry`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import REGISTRY, generate_latest

LATENCY_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
"""Histogram bounds for anything a person waits for."""

_PROPAGATOR = TraceContextTextMapPropagator()


class Telemetry:
    """Tracer, meter and metrics exposition of one process.

    Args:
        service: The service's name.
        otlp_endpoint: Where spans and metrics are sent, as `http://HOST:PORT`; None sends nothing and makes spans free.
    """

    def __init__(self, service: str, *, otlp_endpoint: str | None = None) -> None:
        self.service = service
        self.instance = f"{socket.gethostname()}:{os.getpid()}"
        resource = Resource.create({"service.name": f"bough-{service}", "service.instance.id": self.instance})
        readers: list[MetricReader] = [PrometheusMetricReader()]
        self._tracer_provider: TracerProvider | None = None
        self.tracer: Tracer = NoOpTracer()
        if otlp_endpoint is not None:
            readers.append(_otlp_metric_reader(otlp_endpoint))
            self._tracer_provider = TracerProvider(resource=resource)
            self._tracer_provider.add_span_processor(_otlp_span_processor(otlp_endpoint))
            self.tracer = self._tracer_provider.get_tracer(__name__)
        self._meter_provider = MeterProvider(metric_readers=readers, resource=resource)
        self.meter: Meter = self._meter_provider.get_meter("bough")

    @property
    def traces(self) -> bool:
        """Whether spans go anywhere; lets hot paths skip them."""
        return self._tracer_provider is not None

    def start_span(
        self, name: str, traceparent: str = "", *, kind: SpanKind = SpanKind.INTERNAL, start_ns: int | None = None
    ) -> Span:
        """A span below the given trace context; the caller ends it."""
        return self.tracer.start_span(name, context=context_of(traceparent), kind=kind, start_time=start_ns)

    def exposition(self) -> bytes:
        """All metrics of this process in Prometheus' text format."""
        return generate_latest(REGISTRY)

    def close(self) -> None:
        """Send what is left and stop the exporters."""
        self._meter_provider.shutdown()
        if self._tracer_provider is not None:
            self._tracer_provider.shutdown()


def context_of(traceparent: str) -> Context:
    """The context of a W3C `traceparent`; an empty or malformed one gives an empty context, as the standard says."""
    return _PROPAGATOR.extract({"traceparent": traceparent}, context=Context()) if traceparent else Context()


def traceparent_of(span: Span) -> str:
    """The W3C `traceparent` of a span, empty for one that is not recorded anywhere."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context=set_span_in_context(span, Context()))
    return carrier.get("traceparent", "")


def _otlp_span_processor(endpoint: str) -> BatchSpanProcessor:
    # Imported late: the exporter costs 15 MB and 0.2 s, and most installations have no collector.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://")))


def _otlp_metric_reader(endpoint: str) -> MetricReader:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint, insecure=endpoint.startswith("http://")))


class _JsonFormatter(logging.Formatter):
    """One JSON object a line, with what `extra=` added."""

    _STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update({k: v for k, v in record.__dict__.items() if k not in self._STANDARD})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    """A line for a person, with the request's name where there is one."""

    def __init__(self, service: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {service:<11} %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        request = record.__dict__.get("request")
        return line if request is None else f"{line} request={request}"


def setup_logging(service: str, *, level: str, json_format: bool) -> None:
    """Send the process's logs to standard error; `extra={"request": name}` names the request concerned."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(service) if json_format else _TextFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("asyncio", "httpx", "grpc._cython", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def request_extra(name: str) -> Mapping[str, str]:
    """The `extra` argument that puts a request's name into a log line."""
    return {"request": name}
