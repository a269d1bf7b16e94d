"""The Kubernetes manifests are valid, and say of the services what is true."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from bough.common.config import SERVICES, ConfigError, variable_of
from bough.common.rpc.server import READY_SERVICE
from bough.gateway.app import OPEN_PATHS
from tests.deploy.manifests import (
    ALL_WORKLOADS,
    KUBERNETES,
    OVERLAYS,
    WORKLOAD_IDS,
    Workload,
    image_environment,
    matches,
    objects,
    of_kind,
    one,
    workloads,
)
from tests.helpers.kustomize import load
from tests.helpers.repository import ROOT

OLDEST_KUBERNETES = "1.29"
FETCH = KUBERNETES / "components" / "model" / "fetch.yaml"

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
each_workload = pytest.mark.parametrize("workload", ALL_WORKLOADS, ids=WORKLOAD_IDS)


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
@each_overlay
def test_every_object_is_valid_and_has_no_unknown_field(overlay: str, version: str) -> None:
    for each in [*objects(overlay), *load(FETCH)]:
        kubernetes_validate.validate(each, version, strict=True)


@each_overlay
def test_the_six_services_are_there(overlay: str) -> None:
    assert {each.name for each in workloads(overlay)} == set(SERVICES)
    assert {each["metadata"]["name"] for each in of_kind(overlay, "Service")} == set(SERVICES)


@each_overlay
def test_names_are_used_once_in_a_kind(overlay: str) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects(overlay)]
    assert len(names) == len(set(names))


@each_workload
def test_every_variable_is_a_setting_with_a_value_that_is_accepted(workload: Workload) -> None:
    try:
        loaded = workload.settings
    except ConfigError as error:
        pytest.fail(str(error))
    names = [entry["name"] for entry in workload.container.get("env", []) if "valueFrom" in entry]
    assert set(names) <= {variable_of(name) for name in type(loaded.settings).model_fields}


@each_workload
def test_ports_are_those_that_the_service_listens_on(workload: Workload) -> None:
    settings = workload.settings.settings
    if workload.name == "gateway":
        assert workload.ports == {"http": settings.port, "grpc": settings.grpc_port}
        assert settings.host == "0.0.0.0"
    else:
        assert settings.listen == f"0.0.0.0:{workload.ports['grpc']}"
        assert list(workload.ports) == ["grpc"]


@each_workload
def test_services_lead_to_the_pods_and_to_ports_that_they_have(workload: Workload) -> None:
    spec = one(workload.overlay, "Service", workload.name)["spec"]
    selected = [
        each.name for each in workloads(workload.overlay) if matches({"matchLabels": spec["selector"]}, each.labels)
    ]
    assert selected == [workload.name]
    # Clients of a headless service use the port that the pod has, whatever the service says.
    assert {port["targetPort"]: port["port"] for port in spec["ports"]} == workload.ports


@each_workload
def test_selectors_select_the_pods_of_their_own_template_and_no_others(workload: Workload) -> None:
    selector = workload.object["spec"]["selector"]
    selected = [each.name for each in workloads(workload.overlay) if matches(selector, each.labels)]
    assert selected == [workload.name]


@each_workload
def test_callers_find_every_service_under_its_address(workload: Workload) -> None:
    settings = workload.settings.settings
    for name in SERVICES:
        if name == "gateway":
            continue
        (port,) = one(workload.overlay, "Service", name)["spec"]["ports"]
        assert settings.address_of(name) == f"dns:///{name}:{port['port']}"


@each_overlay
def test_what_callers_balance_over_is_headless_and_the_rest_has_one_address(overlay: str) -> None:
    headless = {
        each["metadata"]["name"] for each in of_kind(overlay, "Service") if each["spec"].get("clusterIP") == "None"
    }
    assert headless == set(SERVICES) - {"gateway", "scheduler"}


@each_workload
def test_probes_ask_what_the_service_answers(workload: Workload) -> None:
    container = workload.container
    if workload.name == "gateway":
        paths = {
            name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        assert paths == {"startupProbe": "/health", "livenessProbe": "/health", "readinessProbe": "/ready"}
        # Open without a key.
        assert set(paths.values()) <= OPEN_PATHS
        assert {container[name]["httpGet"]["port"] for name in paths} == {"http"}
        return
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[name]["grpc"]["port"] == workload.ports["grpc"]
    # An executor lives while it loads its model; of the others, what serves is loaded.
    ready = {"service": READY_SERVICE} if workload.name == "executor" else {}
    assert container["readinessProbe"]["grpc"] == {"port": workload.ports["grpc"], **ready}
    assert "service" not in container["livenessProbe"]["grpc"] and "service" not in container["startupProbe"]["grpc"]


@each_workload
def test_a_drain_is_not_cut_off(workload: Workload) -> None:
    (*_, wait) = workload.container.get("lifecycle", {}).get("preStop", {"exec": {"command": ["0"]}})["exec"]["command"]
    assert workload.pod["terminationGracePeriodSeconds"] >= int(wait) + workload.settings.settings.drain_timeout_s + 5


@each_workload
def test_pods_run_without_rights_and_without_a_root_that_can_be_written(workload: Workload) -> None:
    _assert_restricted(workload.pod)
    assert workload.pod["enableServiceLinks"] is False


def test_the_pod_that_fetches_a_model_is_restricted_too() -> None:
    (job,) = load(FETCH)
    _assert_restricted(job["spec"]["template"]["spec"])


def _assert_restricted(pod: dict[str, Any]) -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    security = pod["securityContext"]
    assert security["runAsNonRoot"] and f"--uid {security['runAsUser']} " in text
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


@each_workload
def test_volumes_are_mounted_and_mounts_have_volumes(workload: Workload) -> None:
    mounted = {mount["name"] for mount in workload.container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in workload.pod["volumes"]}
    claims = {v["persistentVolumeClaim"]["claimName"] for v in workload.pod["volumes"] if "persistentVolumeClaim" in v}
    assert claims <= {each["metadata"]["name"] for each in of_kind(workload.overlay, "PersistentVolumeClaim")}


def test_all_that_read_the_model_have_it_where_the_setting_says() -> None:
    for workload in workloads("gpu"):
        mounts = {mount["mountPath"] for mount in workload.container["volumeMounts"]}
        assert (str(workload.settings.settings.model) in mounts) is (workload.name != "scheduler")
    for workload in workloads("demo"):
        assert workload.settings.settings.model is None
    (job,) = load(FETCH)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][-1] in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_job_that_fetches_a_model_says_what_the_hubs_client_understands() -> None:
    (job,) = load(FETCH)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    program, *arguments = container["command"]
    script = Path(sys.executable).parent / program
    options = [argument for argument in arguments if argument.startswith("--")]
    done = subprocess.run([script, arguments[0], "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [option for option in options if option not in done.stdout] == []
    defined = {entry["name"] for entry in container["env"]}
    assert {argument[2:-1] for argument in arguments if argument.startswith("$(")} <= defined
    # It comes with the library that the tokenizer's image is made for.
    assert any(name.startswith("huggingface-hub") for name in requires("tokenizers") or ())


@each_workload
def test_the_image_is_a_target_of_the_dockerfile_in_the_version_of_the_code(workload: Workload) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert workload.container["image"] == f"bough/{workload.name}:{version}"
    assert image_environment(workload.name)["PYTHONSAFEPATH"] == "1"
    (job,) = load(FETCH)
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == f"bough/tokenizer:{version}"


@each_overlay
def test_every_service_but_the_one_copy_has_a_disruption_budget(overlay: str) -> None:
    budgets = of_kind(overlay, "PodDisruptionBudget")
    protected = {
        each.name: budget["spec"]["maxUnavailable"]
        for budget in budgets
        for each in workloads(overlay)
        if matches(budget["spec"]["selector"], each.labels)
    }
    assert protected == dict.fromkeys(set(SERVICES) - {"scheduler"}, 1)
    assert len(budgets) == len(protected)


@each_overlay
def test_the_scheduler_is_never_there_twice(overlay: str) -> None:
    scheduler = one(overlay, "StatefulSet", "scheduler")
    assert scheduler["spec"]["replicas"] == 1
    assert [each["metadata"]["name"] for each in of_kind(overlay, "StatefulSet")] == ["scheduler"]


@each_overlay
def test_only_the_gateway_can_be_called_from_elsewhere(overlay: str) -> None:
    (policy,) = of_kind(overlay, "NetworkPolicy")
    closed = {each.name for each in workloads(overlay) if matches(policy["spec"]["podSelector"], each.labels)}
    assert closed == set(SERVICES) - {"gateway"}
    (rule,) = policy["spec"]["ingress"]
    (peer,) = rule["from"]
    assert all(matches(peer["podSelector"], each.labels) for each in workloads(overlay))
    assert {port["port"] for port in rule["ports"]} == {
        port for w in workloads(overlay) if w.name in closed for port in w.ports.values()
    }


def test_an_executor_has_a_gpu_to_itself() -> None:
    (gpu,) = (each for each in workloads("gpu") if each.name == "executor")
    assert gpu.container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert gpu.settings.settings.device == "cuda"
    others = [each for overlay in OVERLAYS for each in workloads(overlay) if each.object is not gpu.object]
    assert not any("nvidia.com/gpu" in each.container["resources"]["limits"] for each in others)
