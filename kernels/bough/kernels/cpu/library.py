"""The compiled library as Python sees it: its structures and its entry points."""

from __future__ import annotations

import ctypes
from enum import IntEnum
from functools import cache

import torch

from bough.kernels.cpu.build import BuildError, library_path


class OpKind(IntEnum):
    """Operations, as in step.h."""

    EMBED = 0
    TAKE_ROWS = 1
    NORM = 2
    LINEAR = 3
    ADD_LINEAR = 4
    GATED_LINEAR = 5
    LOGITS = 6
    STORE = 7
    ATTEND = 8


class Op(ctypes.Structure):
    """One operation, as in step.h."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("on_logit_rows", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("input", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("weight2", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("in_features", ctypes.c_int64),
        ("out_features", ctypes.c_int64),
        ("num_heads", ctypes.c_int64),
        ("num_kv_heads", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("eps", ctypes.c_float),
        ("scale", ctypes.c_float),
    )


class Step(ctypes.Structure):
    """One step's tensors, as in step.h."""

    _fields_ = (
        ("num_tokens", ctypes.c_int64),
        ("num_rows", ctypes.c_int64),
        ("num_logits", ctypes.c_int64),
        ("tokens", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("query_start", ctypes.c_void_p),
        ("context_lens", ctypes.c_void_p),
        ("page_table", ctypes.c_void_p),
        ("page_table_stride", ctypes.c_int64),
        ("logit_rows", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


@cache
def load_library() -> ctypes.CDLL:
    """Build if needed, load, and declare the entry points.

    Raises:
        BuildError: the library cannot be built or loaded.
    """
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path} cannot be loaded: {error}") from None
    library.bough_struct_bytes.restype = ctypes.c_int64
    library.bough_amx_available.restype = ctypes.c_int
    library.bough_run.restype = None
    library.bough_run.argtypes = (
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
    )
    library.bough_pool_create.restype = ctypes.c_void_p
    library.bough_pool_create.argtypes = (ctypes.c_int,)
    library.bough_pool_destroy.restype = None
    library.bough_pool_destroy.argtypes = (ctypes.c_void_p,)
    library.bough_pack.restype = None
    library.bough_pack.argtypes = (
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int32,
    )
    if library.bough_struct_bytes() != ctypes.sizeof(Op) << 16 | ctypes.sizeof(Step):
        raise BuildError(f"{path}: its structures differ from those of this package")
    return library
