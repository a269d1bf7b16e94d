"""What the tests take the manifests for is what a cluster would get."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import KUBERNETES, OVERLAYS
from tests.helpers.kustomize import KustomizeError, Object, load, render

_GENERATED = re.compile(r"\bsettings-[a-z0-9]{10}\b")


def _sorted(objects: list[Object]) -> list[Object]:
    return sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"]))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl is installed")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_renderer_of_the_tests_gives_what_kubectl_gives(overlay: str) -> None:
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = [each for each in yaml.safe_load_all(_GENERATED.sub("settings", done.stdout)) if each]
    assert _sorted(render(KUBERNETES / "overlays" / overlay)) == _sorted(expected)


def test_every_manifest_belongs_to_an_overlay_or_is_applied_by_itself() -> None:
    used = set()
    for path in KUBERNETES.rglob("kustomization.yaml"):
        (kustomization,) = load(path)
        entries = [*kustomization.get("resources", []), *(patch["path"] for patch in kustomization.get("patches", []))]
        used |= {(path.parent / entry).resolve() for entry in entries}
    alone = {KUBERNETES / "components" / "model" / "fetch.yaml", *(KUBERNETES / "monitoring").glob("*.yaml")}
    files = {path.resolve() for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert files - used == {path.resolve() for path in alone}


def test_a_field_that_the_renderer_does_not_know_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("kind: Kustomization\nnamePrefix: test-\n")
    with pytest.raises(KustomizeError, match="namePrefix"):
        render(tmp_path)


def test_a_patch_without_a_target_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("patches: [{path: patch.yaml}]\n")
    (tmp_path / "patch.yaml").write_text("kind: Deployment\nmetadata: {name: gatway}\n")
    with pytest.raises(KustomizeError, match="gatway"):
        render(tmp_path)
