"""Reads the weights of a Hugging Face model directory as it is: one safetensors file, or several with an index."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bough.executor.models.config import ModelError, read_json

Progress = Callable[[float, str], None]
"""Called with the fraction done (0 to 1) and what is being done."""

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def no_progress(fraction: float, what: str) -> None:
    """Report nothing."""


class Checkpoint:
    """The named tensors of a model directory, read one at a time and converted to the serving dtype.

    Use as a context manager; the files stay open (memory-mapped) until it ends.
    """

    def __init__(
        self,
        model_dir: Path,
        dtype: torch.dtype,
        progress: Progress = no_progress,
        device: torch.device | None = None,
    ) -> None:
        self._dir = model_dir
        self._dtype = dtype
        self._device = device or torch.device("cpu")
        self._progress = progress
        self._stack = ExitStack()
        self._file_of: dict[str, Any] = {}
        self._taken: set[str] = set()

    def __enter__(self) -> Checkpoint:
        names_by_file = self._names_by_file()
        for file_name, names in names_by_file.items():
            path = self._dir / file_name
            if not path.is_file():
                self._stack.close()
                raise ModelError(f"{path}: no such file, but {_INDEX} says that it holds weights")
            try:
                handle = self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                self._stack.close()
                raise ModelError(f"{path}: not a complete safetensors file: {error}") from None
            for name in handle.keys() if names is None else names:
                self._file_of[name] = handle
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _names_by_file(self) -> dict[str, Iterable[str] | None]:
        """File name to the tensors it holds; None stands for all that are in it."""
        index = self._dir / _INDEX
        if not index.is_file():
            if not (self._dir / _SINGLE).is_file():
                raise ModelError(f"{self._dir}: no weights; expected {_SINGLE} or {_INDEX}")
            return {_SINGLE: None}
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index}: field 'weight_map' is missing")
        grouped: dict[str, list[str]] = {}
        for name, file_name in weight_map.items():
            grouped.setdefault(str(file_name), []).append(name)
        return dict(grouped)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name as a fresh contiguous tensor of the serving dtype on the device.

        Raises:
            ModelError: there is none, or its shape differs.
        """
        handle = self._file_of.get(name)
        if handle is None:
            raise ModelError(f"{self._dir}: tensor {name!r} is missing from the weights")
        try:
            tensor: Tensor = handle.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{self._dir}: tensor {name!r} cannot be read: {error}") from None
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"{self._dir}: tensor {name!r} has shape {list(tensor.shape)}, config.json says {list(shape)}"
            )
        if not tensor.dtype.is_floating_point:
            raise ModelError(f"{self._dir}: tensor {name!r} is {tensor.dtype}; quantized weights are not supported")
        self._taken.add(name)
        self._progress(len(self._taken) / len(self._file_of), f"weights ({len(self._taken)} of {len(self._file_of)})")
        # a copy: the file may be replaced while it is served, and its pages need not stay mapped
        return tensor.to(self._device, self._dtype, copy=True).contiguous()


class DummyWeights:
    """Random tensors in place of a checkpoint's, to measure speed without one. Each is a function of its name alone."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device

    def __enter__(self) -> DummyWeights:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Ones for norms, zeros for biases, for all others normal values of the usual initial spread."""
        tensor = torch.ones(shape, dtype=self._dtype, device=self._device)
        if name.endswith(".bias"):
            return tensor.zero_()
        if len(shape) == 1:
            return tensor
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        return tensor.normal_(0.0, 0.02, generator=generator)
