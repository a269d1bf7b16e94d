"""Autoscalers name Deployments and metrics that exist; tests/integration has the metrics of real services."""

from __future__ import annotations

import re

import pytest

from bough.executor.service import DEFAULT_MAX_ROWS
from tests.deploy.manifests import KUBERNETES, Workload, of_kind, one, scaling_metrics, workloads
from tests.helpers.kustomize import Object, load

SCALED = {"gateway", "tokenizer", "detokenizer", "executor"}


def _scrape() -> Object:
    (document,) = load(KUBERNETES / "monitoring" / "scrape.yaml")
    (job,) = document["scrape_configs"]
    return dict(job)


def test_four_services_are_scaled_each_by_a_metric_that_the_adapter_makes() -> None:
    metrics = scaling_metrics("gpu")
    assert {metric.scaled for metric in metrics} == SCALED
    for metric in metrics:
        # The adapter finds the series of an object by this label.
        assert metric.resources == {"namespace", "pod" if metric.measured == metric.scaled else "service"}
        assert all(f'{label}!=""' in metric.rule["seriesQuery"] for label in metric.resources)


def test_the_adapter_makes_no_metric_that_nothing_scales_by() -> None:
    (adapter,) = load(KUBERNETES / "monitoring" / "adapter.yaml")
    assert {rule["name"]["as"] for rule in adapter["rules"]} == {metric.name for metric in scaling_metrics("gpu")}


def test_what_is_reported_through_several_gateways_counts_once() -> None:
    for metric in scaling_metrics("gpu"):
        assert re.match(
            r"(max by \(<<\.GroupBy>>\)|sum by \(<<\.GroupBy>>\) \(max without \(via\))", metric.rule["metricsQuery"]
        )


@pytest.mark.parametrize("name", sorted(SCALED))
def test_nobody_but_the_autoscaler_says_how_many_copies_there_are(name: str) -> None:
    (autoscaler,) = (a for a in of_kind("gpu", "HorizontalPodAutoscaler") if a["metadata"]["name"] == name)
    target = autoscaler["spec"]["scaleTargetRef"]
    assert "replicas" not in one("gpu", target["kind"], target["name"])["spec"]
    assert 2 <= autoscaler["spec"]["minReplicas"] < autoscaler["spec"]["maxReplicas"]


def test_the_queue_has_room_while_every_row_of_every_executor_is_taken() -> None:
    (scheduler,) = (each for each in workloads("gpu") if each.name == "scheduler")
    rows = one("gpu", "HorizontalPodAutoscaler", "executor")["spec"]["maxReplicas"] * DEFAULT_MAX_ROWS
    assert scheduler.settings.settings.max_queue >= 2 * rows


def test_objects_that_metrics_describe_are_there() -> None:
    for autoscaler in of_kind("gpu", "HorizontalPodAutoscaler"):
        for metric in autoscaler["spec"]["metrics"]:
            if metric["type"] == "Object":
                described = metric["object"]["describedObject"]
                assert one("gpu", described["kind"], described["name"])["apiVersion"] == described["apiVersion"]


def test_gateways_are_scraped_and_nothing_else() -> None:
    keep = next(rule for rule in _scrape()["relabel_configs"] if rule.get("action") == "keep")
    prefix = "__meta_kubernetes_pod_"
    assert keep["source_labels"] == [f"{prefix}label_app_kubernetes_io_name", f"{prefix}container_port_name"]

    def kept(workload: Workload) -> list[int]:
        name = workload.labels["app.kubernetes.io/name"]
        return [port for label, port in workload.ports.items() if re.fullmatch(keep["regex"], f"{name};{label}")]

    assert {each.name: kept(each) for each in workloads("gpu") if kept(each)} == {"gateway": [8000]}
    namespace = one("gpu", "Deployment", "gateway")["metadata"]["namespace"]
    assert _scrape()["kubernetes_sd_configs"][0]["namespaces"]["names"] == [namespace]
