"""JSON extraction: records out of prose, each an instance of a pydantic class.

Shows `gen(schema=…)`, which holds the model to the class, and a batch whose failures stay with their items.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from bough.lang import State, assistant, function, gen, user
from counts import counted

TEXTS = (
    "Tim Davis is a 31-year-old tailor from Oslo.",
    "Bella Wong is 23 years old. She lives in Madrid and works as a farmer.",
    "Mila, 44, lives in Rome. She works as a nurse.",
)


class Person(BaseModel):
    """What is to be found in a text."""

    name: str
    age: int = Field(ge=0, le=150)
    city: str
    job: str


@function
def extract(s: State, text: str) -> Person:
    """The person that a text is about."""
    s += user(f"Turn this into JSON: {text}") + assistant(gen("person", schema=Person))
    person: Person = s["person"]
    return person


if __name__ == "__main__":
    with counted():
        results = extract.run_batch([{"text": text} for text in TEXTS], temperature=0.0)
    for result in results:
        print(repr(result.value) if result.error is None else f"failed: {result.error}")
