"""Renders a folder of Kubernetes manifests as `kubectl kustomize` does, as far as deploy/kubernetes uses it.

There is no kustomize on PyPI, and tests must run where no binary is. A field that is not known here is an error, so
that nothing is left out in silence; where a `kubectl` is found, a test compares the two. One thing differs on purpose:
generated ConfigMaps keep their names, without the hash of their content.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

_KNOWN = {
    "apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator", "patches", "labels", "replicas",
    "images",
}  # fmt: skip
_MERGE_KEYS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath"}
"""Lists that a patch merges by a field of their items; others are replaced whole."""


class KustomizeError(ValueError):
    """Something in a kustomization that this renderer does not know or cannot do."""


def load(path: Path) -> list[Object]:
    """The objects of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def render(folder: Path) -> list[Object]:
    """All objects that a kustomization stands for, in the order in which they are named."""
    return _render(folder, [])


def _render(folder: Path, base: list[Object]) -> list[Object]:
    (kustomization,) = load(folder / "kustomization.yaml")
    if unknown := set(kustomization) - _KNOWN:
        raise KustomizeError(f"{folder}: {sorted(unknown)}; known are {sorted(_KNOWN)}")
    objects = list(base)
    for entry in kustomization.get("resources", []):
        path = folder / entry
        objects += _render(path, []) if path.is_dir() else load(path)
    for entry in kustomization.get("components", []):
        objects = _render(folder / entry, objects)
    for generator in kustomization.get("configMapGenerator", []):
        _generate(folder, generator, objects)
    for patch in kustomization.get("patches", []):
        objects = _patch(folder, patch, objects)
    for each in objects:
        _transform(kustomization, each)
    return objects


def _generate(folder: Path, generator: Object, objects: list[Object]) -> None:
    lines = list(generator.get("literals", []))
    for name in generator.get("envs", []):
        lines += [line for line in (folder / name).read_text().splitlines() if line and not line.startswith("#")]
    data = dict(line.split("=", 1) for line in lines)
    if generator.get("behavior") == "merge":
        (known,) = (each for each in objects if _is(each, "ConfigMap", generator["name"]))
        known["data"] |= data
    else:
        metadata = {"name": generator["name"]}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _patch(folder: Path, patch: Object, objects: list[Object]) -> list[Object]:
    (content,) = load(folder / patch["path"])
    if isinstance(content, list):
        target = patch["target"]
    else:
        target = {"kind": content["kind"], "name": content["metadata"]["name"]}
    targets = [each for each in objects if _is(each, target.get("kind", ".*"), target.get("name", ".*"))]
    if not targets:
        raise KustomizeError(f"{folder / patch['path']}: nothing is {target}")
    for each in targets:
        if isinstance(content, list):
            for operation in content:
                _operate(each, operation)
        else:
            _merge(each, content)
    return objects


def _is(candidate: Object, kind: str, name: str) -> bool:
    metadata = candidate["metadata"]
    named = metadata.get("name", metadata.get("generateName", ""))
    return bool(re.fullmatch(kind, candidate["kind"]) and re.fullmatch(name, named))


def _operate(target: Any, operation: Object) -> None:
    """One operation of a JSON patch (RFC 6902)."""
    *parents, last = operation["path"].strip("/").split("/")
    for name in parents:
        target = target[int(name) if isinstance(target, list) else name]
    value = copy.deepcopy(operation["value"])
    if operation["op"] == "add" and isinstance(target, list) and last == "-":
        target.append(value)
    elif operation["op"] == "replace" and isinstance(target, dict) and last in target:
        target[last] = value
    else:
        raise KustomizeError(f"cannot {operation['op']} at {operation['path']}")


def _merge(target: Object, patch: Object) -> None:
    """A strategic merge of maps, and of lists of maps by their key."""
    for name, value in patch.items():
        known = target.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            _merge(known, value)
        elif isinstance(known, list) and name in _MERGE_KEYS:
            _merge_items(known, value, key=_MERGE_KEYS[name])
        else:
            target[name] = copy.deepcopy(value)


def _merge_items(known: list[Object], patch: list[Object], *, key: str) -> None:
    by_key = {item[key]: item for item in known}
    for item in patch:
        if item[key] in by_key:
            _merge(by_key[item[key]], item)
    # As kubectl does: what a patch brings comes first.
    known[:0] = [copy.deepcopy(item) for item in patch if item[key] not in by_key]


def _transform(kustomization: Object, each: Object) -> None:
    metadata = each["metadata"]
    if namespace := kustomization.get("namespace"):
        if each["kind"] == "Namespace":
            metadata["name"] = namespace
        else:
            metadata["namespace"] = namespace
    template = each.get("spec", {}).get("template")
    for label in kustomization.get("labels", []):
        metadata.setdefault("labels", {}).update(label["pairs"])
        if template and label.get("includeTemplates"):
            template["metadata"].setdefault("labels", {}).update(label["pairs"])
    for replica in kustomization.get("replicas", []):
        if each["kind"] in ("Deployment", "StatefulSet") and metadata["name"] == replica["name"]:
            each["spec"]["replicas"] = replica["count"]
    for container in template["spec"]["containers"] if template else ():
        container["image"] = _image(container["image"], kustomization.get("images", []))


def _image(image: str, changes: Iterable[Object]) -> str:
    name, _, tag = image.partition(":")
    for change in changes:
        if change["name"] == name:
            name, tag = change.get("newName", name), change.get("newTag", tag)
            break
    return f"{name}:{tag}" if tag else name
