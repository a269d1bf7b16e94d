"""Steps on a GPU: launched ahead of their results, each from state that lives on the device."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from bough.common.errors import InvalidRequestError
from bough.executor.gpu.logprobs import LogprobCopy
from bough.executor.gpu.masks import GrammarMasks
from bough.executor.gpu.ring import ResultRing
from bough.executor.gpu.rows import DeviceRows, sampling_flags
from bough.executor.gpu.runner import GpuRunner
from bough.executor.gpu.shared_lines import SharedLines
from bough.executor.gpu.steps import GpuSteps, Variant
from bough.executor.loader import Progress, no_progress
from bough.executor.mixed_budget import DEFAULT_MIXED_TOKENS, FixedBudget, MixedBudget
from bough.executor.pipeline.base import DeviceFailedError, Drawn
from bough.executor.row_table import RowTable
from bough.executor.running import Running
from bough.executor.sampling.sampler import NOT_FINITE, NOTHING_ALLOWED
from bough.executor.step import StepArrays, StepPlan
from bough.kernels.gpu.sampling import SampleCode, SamplingFlag

logger = logging.getLogger(__name__)

RUN_AHEAD = 3
"""Steps under way at most: one that is read, one that runs, one that is queued."""
_STAGING_SLOTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Launched:
    """A step under way."""

    number: int | None
    """None where no line samples."""
    num_lines: int
    failed: dict[int, str]
    """Line -> why its token is worth nothing, as known at the launch."""
    logprobs: LogprobCopy | None
    done: torch.cuda.Event | None = None
    """Recorded after a step that samples nothing."""


@dataclass(slots=True)
class _Features:
    """Rows by what their sampling asks for."""

    filtered: set[int] = field(default_factory=set)
    logprobs: set[int] = field(default_factory=set)
    masked: set[int] = field(default_factory=set)

    def add(self, row: int, flags: SamplingFlag) -> None:
        if flags & (SamplingFlag.RANKED | SamplingFlag.FLOORED):
            self.filtered.add(row)
        if flags & SamplingFlag.LOGPROBS:
            self.logprobs.add(row)
        if flags & SamplingFlag.MASKED:
            self.masked.add(row)

    def discard(self, row: int) -> None:
        self.filtered.discard(row)
        self.logprobs.discard(row)
        self.masked.discard(row)

    @property
    def variant(self) -> Variant:
        return Variant(filtered=bool(self.filtered), logprobs=bool(self.logprobs))


class GpuPipeline:
    """See `Pipeline`.

    Args:
        runner: The loaded model.
        table: The rows that the composer fills.
        eos_token_ids: The model's end-of-sequence ids.
        progress: Called with the fraction of the graphs captured.
    """

    depth = RUN_AHEAD
    takes_drafts = True

    def __init__(
        self,
        runner: GpuRunner,
        table: RowTable,
        *,
        eos_token_ids: Sequence[int],
        progress: Progress = no_progress,
    ) -> None:
        self._runner = runner
        self._table = table
        with runner.on_stream():
            self._rows = DeviceRows(
                table,
                vocab_size=runner.vocab_size,
                eos_token_ids=eos_token_ids,
                shared=SharedLines(table, runner.attention_shape, runner.layout.dtype, runner.num_sms),
                device=runner.device,
            )
            self._ring = ResultRing(runner.max_lines, runner.device)
            self._shares = any(window is None for window in runner.model_config.windows)
            self._steps = GpuSteps(runner, self._rows, self._ring, max_rows=table.max_rows, shares=self._shares)
            self._steps.capture(progress)
            self._measured = measured = self._steps.measure(runner.context_seconds())
        self.max_lines: int | None = runner.max_lines
        self.mixed_budget: MixedBudget | None = FixedBudget(DEFAULT_MIXED_TOKENS) if measured is None else measured
        self._masks = GrammarMasks(self._steps.masks, runner.vocab_size, eos_token_ids)
        self._features = _Features()
        self._drafted: set[Running] = set()
        """Had drafts in their last step: the device does not have their last token."""
        self._launched: deque[_Launched] = deque()
        words = 3 * runner.token_budget + 3 * table.max_rows + 1 + 3 * runner.max_lines
        self._staging = [torch.empty(words, dtype=torch.int32, pin_memory=True) for _ in range(_STAGING_SLOTS)]
        self._slot = 0

    def draft_cost(self, num_rows: int) -> float:
        """See `Pipeline`."""
        return 1.0 if self._measured is None else self._measured.token_cost(num_rows)

    def launch(self, plan: StepPlan, running: list[Running], settle: Callable[[], None]) -> None:
        """Queue a step on the GPU."""
        try:
            self._launch(plan, running, settle)
        except DeviceFailedError:
            raise
        except Exception as error:
            # This waits as well: what the failed launch has queued reads its staging slot.
            self._runner.check_after(error)
            raise

    def collect(self, *, wait: bool) -> Drawn | None:
        """Results of the oldest step."""
        try:
            return self._collect(wait=wait)
        except DeviceFailedError:
            raise
        except Exception as error:
            self._runner.check_after(error)
            raise

    def forget(self, running: Running) -> None:
        """Let go of a row."""
        self._drafted.discard(running)
        if running.sampler_row is not None:
            self._features.discard(running.sampler_row)
            running.sampler_row = None

    def _launch(self, plan: StepPlan, running: list[Running], settle: Callable[[], None]) -> None:
        with self._runner.on_stream():
            self._note_drafts(running)
            failed = self._begin_rows(running)
            if plan.copies:
                self._runner.copy_pages([copy.src for copy in plan.copies], [copy.dst for copy in plan.copies])
            masked = self._features.masked and [
                line for line, entry in enumerate(running) if entry.matcher is not None and line not in failed
            ]
            variant = self._features.variant
            shared = self._shares and self._rows.set_shared(plan.decode_rows)
            if plan.chunks:
                num_samples = self._begin_mixed(plan)
            else:
                self._rows.set_lines(plan.decode_rows)
                self._rows.send()
                num_samples = len(running)
            if masked:
                self._forward(plan, shared)
                settle()
                failed.update(self._masks.fill(running, masked))
                self._steps.sample(num_samples, variant, of_chunks=bool(plan.chunks))
            elif plan.chunks:
                self._forward(plan, shared)
                self._steps.sample(num_samples, variant, of_chunks=True)
            else:
                self._steps.decode(num_samples, variant, shared=shared)
            self._note_launch(running, variant, failed)

    def _collect(self, *, wait: bool) -> Drawn | None:
        launched = self._launched[0]
        if launched.number is None:
            assert launched.done is not None
            if wait:
                launched.done.synchronize()
            elif not launched.done.query():  # type: ignore[no-untyped-call]
                return None
            self._launched.popleft()
            return Drawn(tokens=[])
        if wait:
            self._ring.wait(launched.number, launched.num_lines, self._runner.check)
        elif not self._ring.is_there(launched.number, launched.num_lines):
            return None
        self._launched.popleft()
        tokens, codes = self._ring.read(launched.number, launched.num_lines)
        failed = launched.failed
        for line, code in codes.items():
            failed.setdefault(line, _reason(code))
        logprobs = None if launched.logprobs is None else launched.logprobs.read(failed)
        return Drawn(tokens=tokens, logprobs=logprobs, failed=failed)

    def _note_drafts(self, running: list[Running]) -> None:
        """Have the device go on from the right token where a row had drafts; before anything of the step can fail."""
        if self._drafted:
            for entry in self._drafted.intersection(running):
                sequence = entry.sequence
                assert sequence.row is not None and not sequence.num_pending
                self._rows.start_decoding(sequence.row, sequence.tokens[-1], sequence.num_computed)
                self._drafted.discard(entry)
        self._drafted.update(entry for entry in running if entry.sequence.drafts)

    def _begin_rows(self, running: list[Running]) -> dict[int, str]:
        """Set up the rows that sample for the first time; lines that cannot, with the reason."""
        failed: dict[int, str] = {}
        for line, entry in enumerate(running):
            if entry.sampler_row is not None:
                continue
            sequence = entry.sequence
            row = sequence.row
            assert row is not None
            if sequence.num_uncomputed == 1 and not sequence.num_pending:
                # Before anything can fail: a row that decodes writes keys and values at its position, wanted or not.
                self._rows.start_decoding(row, sequence.tokens[-1], sequence.num_computed)
            try:
                self._rows.begin(entry)
            except (InvalidRequestError, ValueError) as error:
                failed[line] = f"the request cannot be sampled: {error}"
                continue
            entry.sampler_row = row
            self._features.add(row, sampling_flags(sequence.params, has_matcher=entry.matcher is not None))
        return failed

    def _begin_mixed(self, plan: StepPlan) -> int:
        """Stage the input of a step with chunks; returns the lines that sample."""
        arrays = plan.arrays
        staging = self._staging[self._slot]
        self._slot = (self._slot + 1) % _STAGING_SLOTS
        num_samples = _stage(arrays, staging.numpy())
        self._rows.send()
        self._steps.begin_mixed(
            staging,
            num_tokens=len(arrays.tokens),
            num_lines=len(arrays.rows),
            num_decodes=arrays.num_decode_rows,
            num_samples=num_samples,
        )
        return num_samples

    def _forward(self, plan: StepPlan, shared: bool) -> None:
        if plan.chunks:
            self._steps.forward_mixed(len(plan.arrays.tokens), plan.arrays, shared=shared)
        else:
            self._steps.forward_decode(len(plan.decodes), shared=shared)

    def _note_launch(self, running: list[Running], variant: Variant, failed: dict[int, str]) -> None:
        number, done, logprobs = None, None, None
        num_samples = len(running)
        if num_samples:
            number = self._ring.next_number()
            if variant.logprobs:
                num_top = [entry.sequence.params.top_logprobs for entry in running]
                logprobs = LogprobCopy(self._steps.logprob_outputs, num_top)
        else:
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        self._launched.append(
            _Launched(number=number, num_lines=num_samples, failed=failed, logprobs=logprobs, done=done)
        )


def _stage(arrays: StepArrays, words: np.ndarray) -> int:
    """Write what `begin_mixed` reads; returns the lines that sample."""
    last = arrays.query_start[1:] - 1
    samples = np.searchsorted(last, arrays.logit_rows)
    tokens = arrays.tokens.copy()
    tokens[: arrays.num_decode_rows] = -1
    parts = (
        tokens,
        arrays.positions,
        arrays.slots,
        arrays.query_start,
        arrays.rows,
        arrays.context_lens,
        arrays.logit_rows,
        arrays.rows[samples],
        arrays.positions[arrays.logit_rows] + 1,
    )
    start = 0
    for part in parts:
        words[start : start + len(part)] = part
        start += len(part)
    return len(arrays.logit_rows)


def _reason(code: SampleCode) -> str:
    return NOTHING_ALLOWED if code & SampleCode.NOTHING_ALLOWED else NOT_FINITE
