"""Triton's interpreter, which stands for a GPU where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import triton.language as tl
import triton.runtime.interpreter as interpreter


class _Kept:
    """What a launch takes for its changes of the language, and undoes behind it."""

    def restore(self) -> None: ...


@contextmanager
def language_changed_once() -> Iterator[None]:
    """Have the interpreter put its own functions into `triton.language` once for all launches.

    By itself it does so for each launch and for each call of a function within a kernel, and undoes only the former:
    they pile up, and after some hundred launches one takes ten times as long.
    """
    scope, builder = interpreter._LangPatchScope(), interpreter.interpreter_builder
    for language in (tl, tl.core):
        interpreter._patch_builtin(language, builder, scope)
        interpreter._patch_builtin(language.tensor, builder, scope)
        interpreter._patch_lang_tensor(language.tensor, scope)
        interpreter._patch_lang_core(language, scope)
    interpreter._patch_builtin(tl.math, builder, scope)
    interpreter._patch_builtin(tl.core.tensor_descriptor_base, builder, scope)
    # Scalars are arrays of one element here, and NumPy from 2.4 on makes no int of those for the bound of a loop.
    scope.set_attr(tl.tensor, "__index__", _index)
    try:
        with patch.object(interpreter, "_patch_lang", lambda _: _Kept()):
            yield
    finally:
        scope.restore()


def _index(scalar: Any) -> int:
    return int(scalar.handle.data.item())
