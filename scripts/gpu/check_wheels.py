"""Checks that wheels and what a machine already has are together all that they need: `check_wheels.py WHEELS PRESENT`.

WHEELS is a folder, PRESENT a file with a package name a line. A requirement of a wheel that neither of them meets is
printed, as is one that another wheel meets only in name, and the exit status is 1.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Collection
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ENVIRONMENT = {
    "extra": "",
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.3",
    "python_version": "3.12",
    "sys_platform": "linux",
}


def requirements_of(wheel: Path) -> tuple[str, str, list[Requirement]]:
    """A wheel's name, its version, and what it needs on Linux with Python 3.12, without its extras."""
    with zipfile.ZipFile(wheel) as archive:
        file = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(file).decode())
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate(ENVIRONMENT)]
    return canonicalize_name(metadata["Name"]), metadata["Version"], needed


def unmet(wheels: Path, present: Collection[str]) -> list[str]:
    """What the wheels need and nothing meets, a sentence each."""
    found = [requirements_of(wheel) for wheel in sorted(wheels.glob("*.whl"))]
    versions = {name: version for name, version, _ in found}
    problems = [f"{name}: more than one wheel" for name in versions if sum(one[0] == name for one in found) > 1]
    for name, _, needed in found:
        for one in needed:
            other = canonicalize_name(one.name)
            if other in versions:
                if not one.specifier.contains(versions[other], prereleases=True):
                    problems.append(f"{name} needs {one}, and the wheel is {versions[other]}")
            elif other not in present:
                problems.append(f"{name} needs {one}")
    return problems


def main() -> int:
    """Print what is unmet; 1 when there is something."""
    lines = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()
    present = {canonicalize_name(line) for line in lines if line and not line.startswith("#")}
    problems = unmet(Path(sys.argv[1]), present)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
