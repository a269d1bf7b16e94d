"""What holds for all tests."""

from __future__ import annotations

import os
from pathlib import Path

HAS_GPU = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/nvidia0"))

if not HAS_GPU:
    # Before any kernel is imported: Triton decides when a kernel is defined whether it is compiled or interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")
    collect_ignore = ["gpu"]
