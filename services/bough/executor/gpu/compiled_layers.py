"""The layers of a model with all that lies between two attentions as one compiled function."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from bough.executor.batch import ForwardBatch
from bough.executor.kvcache import Cache
from bough.executor.models.llama import DecoderLayer, LlamaForCausalLM
from bough.kernels.gpu.compiled import Between, Block, Dense
from bough.kernels.gpu.linear_gemv import MAX_ROWS as FEW_ROWS
from bough.kernels.gpu.operations import GpuLinear
from bough.kernels.interface import Linear

MAX_TOKENS = 512
"""Beyond, products outweigh by far what a compiler can save between them."""


class CompiledLayers:
    """Runs the layers as `LlamaForCausalLM.hidden` does, for steps of `takes` tokens.

    The first layer's projection and what follows the last attention run as ever: compiled they would be two more
    functions for each number of tokens.

    Args:
        model: Built with `GpuKernels`.
        block: `CompiledBlock`; each new number of tokens makes it compile, so it must come before requests do.
    """

    def __init__(self, model: LlamaForCausalLM, block: Block) -> None:
        self._model = model
        self._block = block
        self._between = tuple(_between(layer, following) for layer, following in pairwise(model.layers))

    @staticmethod
    def takes(num_tokens: int) -> bool:
        """Whether steps of so many tokens are run compiled: fewer have better kernels, more have larger products."""
        return FEW_ROWS < num_tokens <= MAX_TOKENS

    def hidden(self, batch: ForwardBatch, cache: Cache, out: Tensor) -> None:
        """Run all layers over a step; `out` [T, hidden] gets the residual stream before the final norm."""
        layers = self._model.layers
        residual = self._model.embed(batch, out)
        qkv = layers[0].attention.qkv(residual)
        for layer, layer_cache, between in zip(layers[:-1], cache.layers[:-1], self._between, strict=True):
            attended = layer.attention.attend(qkv, layer_cache, batch)
            residual, qkv = self._block(residual, attended, between)
        last = layers[-1]
        attended = last.attention.attend(qkv, cache.layers[-1], batch)
        if residual is not out:
            out.copy_(residual)
        last.attention.out.add_to(out, attended)
        last.mlp.add_to(out)


def _between(layer: DecoderLayer, following: DecoderLayer) -> Between:
    return Between(
        out=_dense(layer.attention.out),
        gate_up=_dense(layer.mlp.gate_up),
        down=_dense(layer.mlp.down),
        qkv=_dense(following.attention.qkv),
    )


def _dense(linear: Linear) -> Dense:
    assert isinstance(linear, GpuLinear)
    return linear.dense
