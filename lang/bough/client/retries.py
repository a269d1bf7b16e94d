"""When a call is made again."""

from __future__ import annotations

from dataclasses import dataclass

from bough.client.errors import BoughError, OverloadedError, StreamBrokenError, TimedOutError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and when a call is made again that the server did not take: no connection, 429, 502, 503, 504.

    A call whose answer has begun is never made again, and neither is one that timed out: it may still be under way.
    """

    max_retries: int = 3
    """0: none."""
    first_delay_s: float = 0.25
    """Doubled each time; what the server asks for (Retry-After) counts where it is longer."""
    max_delay_s: float = 30.0
    """A server that asks for more is not asked again."""

    def delay_s(self, error: BoughError, retries: int) -> float | None:
        """When to call again after so many retries; None: not at all."""
        if retries >= self.max_retries or not error.retryable or isinstance(error, TimedOutError | StreamBrokenError):
            return None
        asked_s = error.retry_after_s if isinstance(error, OverloadedError) else 0.0
        if asked_s > self.max_delay_s:
            return None
        growing_s: float = self.first_delay_s * 2**retries
        return min(max(growing_s, asked_s), self.max_delay_s)
