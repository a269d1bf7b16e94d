"""The device's sampler beside the CPU's: the same requests in both, one step after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bough.common.sampling import SamplingParams
from bough.executor.sampling import GrammarMask, Sampler, SampleResult
from bough.kernels.gpu.sampling import (
    LogprobOutputs,
    SampleCode,
    SamplingFlag,
    SamplingState,
    SamplingWorkspace,
    sample,
    set_row_bias,
    set_row_counts,
)

EOS = (2, 5)
GREEDY_BELOW = 1e-6


@dataclass(frozen=True)
class Record:
    token: int
    code: SampleCode
    tag: int

    @classmethod
    def of(cls, value: int) -> Record:
        return cls(value & 0xFFFFFFFF, SampleCode((value >> 32) & 0xFF), value >> 40)


@dataclass(frozen=True)
class Step:
    tokens: list[int]
    records: list[Record]
    logprobs: LogprobOutputs | None


def flags_of(params: SamplingParams) -> SamplingFlag:
    flags = SamplingFlag(0)
    if params.temperature >= GREEDY_BELOW and params.top_k != 1:
        flags |= SamplingFlag.DRAW
        if params.top_k > 0 or params.top_p < 1.0:
            flags |= SamplingFlag.RANKED
        if params.min_p > 0.0:
            flags |= SamplingFlag.FLOORED
    if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0:
        flags |= SamplingFlag.PENALIZED
    if params.logit_bias:
        flags |= SamplingFlag.BIASED
    if params.top_logprobs is not None:
        flags |= SamplingFlag.LOGPROBS
    return flags


def pack_mask(allowed: Tensor) -> Tensor:
    """[V] bool to [ceil(V / 32)] int32."""
    padded = torch.nn.functional.pad(allowed.cpu(), (0, -len(allowed) % 32)).view(-1, 32).to(torch.int64)
    return (padded << torch.arange(32)).sum(1).to(torch.int32)


class Rows:
    """R rows on the device, for steps of at most `max_lines` lines."""

    def __init__(self, vocab_size: int, device: torch.device, *, max_lines: int = 8, num_rows: int = 16) -> None:
        self.vocab_size, self.device = vocab_size, device
        self.state = SamplingState.empty(num_rows, vocab_size, device)
        self.workspace = SamplingWorkspace(max_lines, vocab_size, device, num_top=5)
        self.ring = torch.full((4, max_lines), -1, dtype=torch.int64, device=device)
        self.step_counter = torch.zeros(1, dtype=torch.int32, device=device)
        self.num_prompt = [0] * num_rows

    def add(self, row: int, params: SamplingParams, prompt: Sequence[int] = (), produced: Sequence[int] = ()) -> None:
        state, device = self.state, self.device
        state.flags[row] = int(flags_of(params))
        state.temperature[row] = params.temperature
        state.top_k[row], state.top_p[row], state.min_p[row] = params.top_k, params.top_p, params.min_p
        state.presence[row], state.frequency[row] = params.presence_penalty, params.frequency_penalty
        state.repetition[row] = params.repetition_penalty
        state.min_tokens[row] = state.first_stop[row] = params.min_tokens
        state.num_prompt[row] = self.num_prompt[row] = len(prompt)
        state.seed[row] = (params.seed + 2**63) % 2**64 - 2**63
        stops = sorted({*EOS, *params.stop_token_ids})
        state.stop_ids[row, : len(stops)] = torch.tensor(stops, dtype=torch.int32, device=device)
        state.ending_ids[row, : len(stops)] = torch.tensor(stops, dtype=torch.int32, device=device)
        tokens = torch.tensor([*prompt, *produced], dtype=torch.int32, device=device)
        set_row_counts(state.counts, row, tokens, len(prompt))
        bias = dict(params.logit_bias)
        ids = torch.tensor(list(bias), dtype=torch.int32, device=device)
        values = torch.tensor(list(bias.values()), dtype=torch.float32, device=device)
        set_row_bias(state.bias, row, ids, values)

    def mask(self, line: int, row: int, allowed: Tensor) -> None:
        """Forbid what is False in [V] bool in a line, which is one of a row."""
        self.state.flags[row] |= int(SamplingFlag.MASKED)
        self.workspace.masks[line] = pack_mask(allowed).to(self.device)

    def step(
        self,
        logits: Tensor,
        rows: Sequence[int],
        positions: Sequence[int],
        *,
        filtered: bool = True,
        logprobs: bool = False,
    ) -> Step:
        """One step from a copy of the logits, its lines padded apart by NaN; -1 in `rows` is padding."""
        num_lines = len(rows)
        wide = torch.full((num_lines, self.vocab_size + 3), torch.nan, device=self.device)
        wide[:, : self.vocab_size] = logits.to(self.device)
        # The position of a padding line means nothing.
        sampled = [p + self.num_prompt[row] if row >= 0 else 7 for row, p in zip(rows, positions, strict=True)]
        step = int(self.step_counter)
        self.ring.fill_(-1)
        outputs = sample(
            wide[:, : self.vocab_size],
            torch.tensor(rows, dtype=torch.int32, device=self.device),
            torch.tensor(sampled, dtype=torch.int32, device=self.device),
            self.state,
            self.workspace,
            ring=self.ring,
            step_counter=self.step_counter,
            filtered=filtered,
            logprobs=logprobs,
        )
        assert wide[:, self.vocab_size :].isnan().all()
        assert int(self.step_counter) == step + 1
        slot = self.ring[step % len(self.ring)].tolist()
        assert all(value == -1 for line, value in enumerate(slot) if line >= num_lines or rows[line] < 0)
        tokens = [int(self.state.token[row]) if row >= 0 else -1 for row in rows]
        return Step(tokens, [Record.of(value) for value in slot[:num_lines]], outputs)


class Pair:
    """The same requests on the device and in the CPU's sampler."""

    def __init__(self, vocab_size: int, device: torch.device, requests: Sequence[SamplingParams]) -> None:
        generator = torch.Generator().manual_seed(len(requests))
        self.rows = Rows(vocab_size, device, max_lines=len(requests) + 1, num_rows=2 * len(requests) + 1)
        self.cpu = Sampler(max_rows=2 * len(requests) + 1, vocab_size=vocab_size, eos_token_ids=EOS)
        # Rows in another order than lines.
        self.order = [2 * len(requests) - 1 - 2 * line for line in range(len(requests))]
        self.requests = requests
        self.positions = [0] * len(requests)
        for row, params in zip(self.order, requests, strict=True):
            prompt = torch.randint(vocab_size, (9,), generator=generator).tolist()
            self.rows.add(row, params, prompt)
            self.cpu.add(row, params, prompt)

    def step(
        self, logits: Tensor, *, allowed: dict[int, Tensor] | None = None, logprobs: bool = False
    ) -> tuple[Step, SampleResult]:
        """Sample [S, V] logits in both; `allowed`: [V] bool of lines with a grammar, minimum length included."""
        mask = None
        if allowed:
            bits = torch.stack([pack_mask(line) for line in allowed.values()])
            mask = GrammarMask(bits=bits, lines=list(allowed))
            for line, some in allowed.items():
                self.rows.mask(line, self.order[line], some)
        expected = self.cpu.sample(logits.clone(), torch.tensor(self.order), torch.tensor(self.positions), mask)
        # A padding line at the end, with logits that must not matter.
        padded = torch.cat([logits, torch.full((1, logits.shape[1]), torch.nan)])
        step = self.rows.step(padded, [*self.order, -1], [*self.positions, 0], logprobs=logprobs)
        self.positions = [position + 1 for position in self.positions]
        return step, expected
