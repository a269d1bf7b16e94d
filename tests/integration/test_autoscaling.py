"""What Kubernetes scales services by is in what they expose."""

from __future__ import annotations

import re
import socket

from tests.deploy.manifests import KUBERNETES, scaling_metrics
from tests.helpers.kustomize import load
from tests.integration.server import Server


def test_every_series_that_an_autoscaler_needs_is_exposed_by_its_service(server: Server) -> None:
    server.post("/v1/completions", prompt="Hello", max_tokens=3)
    metrics = server.metrics()
    for scaling in scaling_metrics("gpu"):
        for name in sorted(scaling.series):
            assert {s.labels["service"] for s in metrics.samples if s.name == name} == {scaling.measured}, name


def test_a_series_names_its_pod_where_the_scrape_looks_for_it(server: Server) -> None:
    (document,) = load(KUBERNETES / "monitoring" / "scrape.yaml")
    (job,) = document["scrape_configs"]
    (relabel,) = job["metric_relabel_configs"]
    assert (relabel["source_labels"], relabel["target_label"]) == (["instance"], "pod")
    for sample in server.metrics().samples:
        found = re.fullmatch(relabel["regex"], sample.labels["instance"])
        # In a pod the host's name is the pod's.
        assert found is not None and found[1] == socket.gethostname()
        # Given by the scrape; a series with labels of these names would keep its own.
        assert not sample.labels.keys() & {"namespace", "pod", "via"}
