"""A chat of several turns, streamed: the text of each answer as it comes.

Shows `text_iter`, and that a turn computes only what is new: all that was said before is in the cache.
"""

from __future__ import annotations

import asyncio

from bough.lang import AsyncState, assistant, function, gen, user
from counts import counted

TURNS = ("Hi, my name is Nadia.", "I live in Bergen.", "What is 7 plus 5?", "What is my name?", "Where do I live?")


@function
async def chat(s: AsyncState, turns: tuple[str, ...]) -> None:
    """Say each turn, and print what comes back."""
    for turn in turns:
        s += user(turn) + assistant(gen("answer", max_tokens=64))
        print(f"> {turn}")
        async for text in s.text_iter("answer"):
            print(text, end="", flush=True)
        usage = (await s.meta("answer")).usage
        print(f"   [{usage.cached_tokens} of {usage.prompt_tokens} prompt tokens were in the cache]")


if __name__ == "__main__":
    with counted():
        asyncio.run(chat.arun(TURNS, temperature=0.0))
