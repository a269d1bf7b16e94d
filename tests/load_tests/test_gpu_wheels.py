from __future__ import annotations

import zipfile
from pathlib import Path

from scripts.gpu.check_wheels import unmet


def wheel(folder: Path, name: str, version: str, *needed: str) -> None:
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {one}" for one in needed]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\n")


def test_wheels_that_need_one_another_and_what_is_there_are_complete(tmp_path: Path) -> None:
    wheel(tmp_path, "Some_Thing", "1.2", "other>=2", "torch", 'elsewhere; sys_platform == "win32"', 'x; extra == "y"')
    wheel(tmp_path, "other", "2.1")
    assert unmet(tmp_path, {"torch"}) == []


def test_what_is_missing_or_of_another_version_is_named(tmp_path: Path) -> None:
    wheel(tmp_path, "one", "1", "absent>=3", "two<2")
    wheel(tmp_path, "two", "2.0")
    assert unmet(tmp_path, set()) == ["one needs absent>=3", "one needs two<2, and the wheel is 2.0"]
