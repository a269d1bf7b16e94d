"""What others see of a request's life."""

from __future__ import annotations

from dataclasses import replace

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from bough.common.requests import RequestFailure
from bough.common.telemetry import Telemetry
from bough.scheduler.executors import StepReport
from bough.scheduler.observer import Observer, TelemetryObserver
from bough.scheduler.requests import RequestRecord
from tests.scheduler.simulated import World, submission

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Diary(Observer):
    """Writes everything down."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def queued(self, record: RequestRecord) -> None:
        self.lines.append("queued")

    def refused(self, failure: RequestFailure) -> None:
        self.lines.append("refused")

    def admitted(self, record: RequestRecord) -> None:
        self.lines.append("admitted")

    def started(self, record: RequestRecord) -> None:
        self.lines.append("started")

    def retracted(self, record: RequestRecord) -> None:
        self.lines.append("retracted")

    def moved(self, record: RequestRecord) -> None:
        self.lines.append("moved")

    def ended(self, record: RequestRecord, now_s: float) -> None:
        self.lines.append(f"ended {record.finish.name}")


class TracedTelemetry(Telemetry):
    """Keeps its spans."""

    def __init__(self) -> None:
        super().__init__("scheduler")
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer(__name__)

    @property
    def traces(self) -> bool:
        return True


def observed(telemetry: Telemetry) -> World:
    """A world that a telemetry looks at."""
    world: World
    world = World(
        observer=TelemetryObserver(
            telemetry,
            queue_length=lambda: world.core.queue.num_records,
            executors=lambda: world.core.executors,
            programs=lambda: world.core.programs,
        )
    )
    return world


def test_each_turn_is_told_once_and_in_order() -> None:
    diary = Diary()
    world = World(observer=diary, max_queue=1)
    world.submit(submission(1))
    world.submit(submission(2))
    world.step()
    world.core.on_step(world.executor, StepReport(retracted=[1]))
    world.restart()
    world.run()
    assert diary.lines == ["queued", "admitted", "refused", "started", "retracted", "moved", "ended LENGTH"]


def test_a_request_is_one_span_below_the_clients_and_above_the_executors() -> None:
    telemetry = TracedTelemetry()
    world = observed(telemetry)
    world.submit(replace(submission(1), traceparent=PARENT))
    [admit] = world.orders().admits
    world.run()
    [span] = telemetry.exporter.get_finished_spans()
    assert span.name == "schedule"
    assert span.parent is not None
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
    assert admit.traceparent.split("-")[2] == f"{span.context.span_id:016x}"
    assert [event.name for event in span.events] == ["queued", "admitted", "first token"]
    telemetry.close()


def test_the_span_of_a_failed_request_says_why() -> None:
    telemetry = TracedTelemetry()
    world = observed(telemetry)
    world.submit(submission(1))
    world.step()
    world.core.on_step(world.executor, StepReport(failures=[RequestFailure(1, 13, "out of luck")]))
    [span] = telemetry.exporter.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "out of luck")
    telemetry.close()


def test_without_a_collector_the_clients_context_goes_to_the_executor_as_it_came() -> None:
    world = World()
    world.submit(replace(submission(1), traceparent=PARENT))
    [admit] = world.orders().admits
    assert admit.traceparent == PARENT
