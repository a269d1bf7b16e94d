"""The Kubernetes manifests as the tests look at them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from bough.common.config import SERVICES, LoadedSettings, load_settings
from tests.helpers.kustomize import Object, load, render
from tests.helpers.repository import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("demo", "gpu")
WORKLOADS = ("Deployment", "StatefulSet")


@cache
def objects(overlay: str) -> list[Object]:
    """All objects of an overlay; not to be changed."""
    return render(KUBERNETES / "overlays" / overlay)


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    """Objects of some kinds."""
    return [each for each in objects(overlay) if each["kind"] in kinds]


def one(overlay: str, kind: str, name: str) -> Object:
    """The object of that name."""
    (found,) = (each for each in of_kind(overlay, kind) if each["metadata"]["name"] == name)
    return found


@dataclass(frozen=True)
class Workload:
    """A service as a Deployment or StatefulSet of one container."""

    overlay: str
    object: Object

    @property
    def name(self) -> str:
        """The service's."""
        return str(self.object["metadata"]["name"])

    @property
    def pod(self) -> Object:
        """The pod's specification."""
        pod: Object = self.object["spec"]["template"]["spec"]
        return pod

    @property
    def labels(self) -> dict[str, str]:
        """The pod's labels."""
        labels: dict[str, str] = self.object["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def container(self) -> Object:
        """The one container."""
        (container,) = self.pod["containers"]
        return dict(container)

    @property
    def ports(self) -> dict[str, int]:
        """Port names and numbers."""
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the manifests set: of ConfigMaps, then the container's own; those of secrets are left out."""
        variables: dict[str, str] = {}
        for source in self.container["envFrom"]:
            variables |= one(self.overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
        return variables | {entry["name"]: entry.get("value", "") for entry in self.container.get("env", [])}

    @property
    def settings(self) -> LoadedSettings:
        """The settings of the process: of the image, then of the manifests."""
        return load_settings({}, image_environment(self.name) | self.environment)


def workloads(overlay: str) -> list[Workload]:
    """The six services."""
    return [Workload(overlay, each) for each in of_kind(overlay, *WORKLOADS)]


ALL_WORKLOADS = [
    next(each for each in workloads(overlay) if each.name == name) for overlay in OVERLAYS for name in SERVICES
]
WORKLOAD_IDS = [f"{each.overlay}-{each.name}" for each in ALL_WORKLOADS]


def image_environment(target: str) -> dict[str, str]:
    """Variables that a target of the Dockerfile sets, the stages that it is built on included."""
    variables: dict[str, dict[str, str]] = {}
    stage = ""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "deploy" / "Dockerfile").read_text())
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["FROM"]:
            stage = words[3]
            variables[stage] = dict(variables.get(words[1], {}))
        elif words[:1] == ["ENV"]:
            variables[stage] |= dict(word.split("=", 1) for word in words[1:])
    return variables[target]


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector selects something with these labels."""
    if not set(selector) <= {"matchLabels", "matchExpressions"}:
        raise ValueError(f"no label selector: {selector}")
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "NotIn":
            raise ValueError(f"operator {expression['operator']} is not known here")
        if labels.get(expression["key"]) in expression["values"]:
            return False
    wanted: dict[str, Any] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


@dataclass(frozen=True)
class ScalingMetric:
    """What a HorizontalPodAutoscaler scales by, and the adapter's rule that makes it."""

    scaled: str
    """Name of the scaled Deployment."""
    measured: str
    """The service whose processes have the metric."""
    name: str
    rule: Object

    @property
    def series(self) -> set[str]:
        """Names of the series that the rule looks for and computes from."""
        (found,) = re.findall(r"^(\w+)\{", self.rule["seriesQuery"])
        named = re.findall(r'__name__=~"([^"]+)"', self.rule["metricsQuery"])
        return {found}.union(*(names.split("|") for names in named))

    @property
    def resources(self) -> set[str]:
        """Labels of the series that the adapter takes for objects of Kubernetes."""
        return set(self.rule["resources"]["overrides"])


def scaling_metrics(overlay: str) -> list[ScalingMetric]:
    """The metric of each autoscaler of an overlay."""
    (adapter,) = load(KUBERNETES / "monitoring" / "adapter.yaml")
    rules = {rule["name"]["as"]: rule for rule in adapter["rules"]}
    found = []
    for autoscaler in of_kind(overlay, "HorizontalPodAutoscaler"):
        scaled = autoscaler["spec"]["scaleTargetRef"]["name"]
        for metric in autoscaler["spec"]["metrics"]:
            source = metric[metric["type"].lower()]
            measured = source.get("describedObject", {"name": scaled})["name"]
            name = source["metric"]["name"]
            found.append(ScalingMetric(scaled=scaled, measured=measured, name=name, rule=rules[name]))
    return found
