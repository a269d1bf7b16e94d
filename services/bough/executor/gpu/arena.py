"""Everything that a row has on the device, in one piece of memory that the host changes by (place, value) pairs.

The host keeps a mirror, writes to it, and sends what has changed before the next step: one small kernel, whatever
changed. What the device advances by itself (the last token and its position) is in the arena too; the host writes those
only when a row starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bough.executor.gpu.transfer import to_device
from bough.kernels.gpu.rows import scatter_changes

Ints = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

_SLOTS = 8
"""Launches whose changes may be under way: more than steps are, so that none is overwritten before it is read."""
_CHANGES_PER_SLOT = 1 << 16


class Arena:
    """Named sections of int32 words on the device, with a mirror on the host.

    Args:
        sections: shape of each section by name, in words. Those of one row each begin at even words.
        device: where the arena is.
    """

    def __init__(self, sections: dict[str, tuple[int, ...]], device: torch.device) -> None:
        self._offsets: dict[str, int] = {}
        self._shapes = sections
        size = 0
        for name, shape in sections.items():
            self._offsets[name] = size
            size += int(np.prod(shape))
            size += size % 2
        self._device_words = torch.zeros(size, dtype=torch.int32, device=device)
        self._words: Ints = np.zeros(size, np.int32)
        self._changed: list[Places] = []
        self._begun: dict[tuple[str, int], Ints] = {}
        pinned = torch.cuda.is_available() and device.type == "cuda"
        self._staging = [
            torch.empty((_CHANGES_PER_SLOT, 2), dtype=torch.int32, pin_memory=pinned) for _ in range(_SLOTS)
        ]
        self._slot = 0

    def view(self, name: str, dtype: torch.dtype = torch.int32) -> Tensor:
        """A section on the device, its words taken as `dtype`; two words make an int64."""
        flat = self._device_words[self._offsets[name] :][: int(np.prod(self._shapes[name]))].view(dtype)
        return flat if dtype.itemsize == 8 else flat.view(self._shapes[name])

    def mirror(self, name: str) -> Ints:
        """What the host has written to a section; not to be written to."""
        start = self._offsets[name]
        return self._words[start : start + int(np.prod(self._shapes[name]))].reshape(self._shapes[name])

    def put(self, name: str, place: int, values: Sequence[int] | Ints) -> None:
        """Write words from a place in a section on, whether or not they were the same before."""
        start = self._offsets[name] + place
        self._words[start : start + len(values)] = values
        self._changed.append(np.arange(start, start + len(values)))

    def update(self, name: str, place: int, values: Ints) -> None:
        """Write words from a place in a section on; only those that differ are sent."""
        start = self._offsets[name] + place
        words = self._words[start : start + len(values)]
        places = np.flatnonzero(words != values)
        if len(places):
            words[places] = values[places]
            self._changed.append(places + start)

    def begin_row(self, name: str, row: int, values: Ints) -> None:
        """Write words from the beginning of a row on; of many rows that get the same array, it is sent once.

        Args:
            name: a section of rows.
            row: which.
            values: not to be changed until the next `send`.
        """
        place = row * self._shapes[name][1]
        if (name, row) in self._begun:
            self.update(name, place, values)
            return
        start = self._offsets[name] + place
        words = self._words[start : start + len(values)]
        if not np.array_equal(words, values):
            words[:] = values
            self._begun[name, row] = values

    def _send_begun(self) -> None:
        """Before all else, since what was written to the same places in the meantime counts."""
        groups: dict[tuple[str, int], list[int]] = {}
        arrays: dict[int, Ints] = {}
        for (name, row), values in self._begun.items():
            groups.setdefault((name, id(values)), []).append(row)
            arrays[id(values)] = values
        self._begun = {}
        for (name, array), rows in groups.items():
            values, device = arrays[array], self._device_words.device
            if len(rows) > 1:
                view = self.view(name)
                view[to_device(rows, torch.int64, device), : len(values)] = to_device(values, torch.int32, device)
            else:
                start = self._offsets[name] + rows[0] * self._shapes[name][1]
                self._changed.append(np.arange(start, start + len(values)))

    def send(self) -> None:
        """Have the device apply what was written since the last time, in the order of its stream."""
        if self._begun:
            self._send_begun()
        if not self._changed:
            return
        places = self._changed[0] if len(self._changed) == 1 else np.concatenate(self._changed)
        self._changed = []
        for begin in range(0, len(places), _CHANGES_PER_SLOT):
            part = places[begin : begin + _CHANGES_PER_SLOT]
            if begin and self._device_words.is_cuda:
                torch.cuda.synchronize()  # a flood of long prompts, more than one slot a launch: they may still be read
            staging = self._staging[self._slot]
            self._slot = (self._slot + 1) % _SLOTS
            pairs = staging.numpy()
            pairs[: len(part), 0] = part
            # Places that were written twice have their last value in both pairs, so their order does not matter.
            pairs[: len(part), 1] = self._words[part]
            scatter_changes(self._device_words, staging, len(part))
