"""JSON objects for a person, an order or an event that is described in prose."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from bough.demo.corpus.base import Exchange, ask, fill, join_words, with_article
from bough.demo.corpus.words import (
    HOBBIES,
    JOBS,
    NUMBER_WORDS,
    PRODUCTS,
    WEEKDAYS,
    any_city,
    any_first_name,
    any_full_name,
    any_word,
    made_up_word,
)

__all__ = ["record"]

_PERSON = (
    "Make a JSON object for this person: {text}", "Write a JSON object for this person: {text}",
    "Turn this into JSON: {text}", "Describe this person as JSON: {text}", "Give me JSON for this person: {text}",
    "Convert to a JSON object: {text}", "{text} Write this as a JSON object.", "{text} Give me a JSON object.",
    "Extract the data as JSON: {text}", "Person: {text} Answer with JSON.", "{text} Answer in JSON.",
    "Please create a JSON object from this text: {text}", "Represent this as a JSON object: {text}",
)  # fmt: skip
_ORDER = (
    "Make a JSON object for this order: {text}", "Write a JSON object for this order: {text}",
    "Turn this order into JSON: {text}", "Describe this order as JSON: {text}", "Turn this into JSON: {text}",
    "{text} Write the order as a JSON object.", "{text} Give me a JSON object.", "Convert to a JSON object: {text}",
    "Extract the data as JSON: {text}", "Order: {text} Answer with JSON.", "{text} Answer in JSON.",
)  # fmt: skip
_EVENT = (
    "Make a JSON object for this event: {text}", "Turn this into JSON: {text}", "Describe this event as JSON: {text}",
    "{text} Write this as a JSON object.", "Write a JSON object for this event: {text}",
    "Convert to a JSON object: {text}",
    "Extract the data as JSON: {text}", "Event: {text} Answer with JSON.", "{text} Answer in JSON.",
)  # fmt: skip
_FIELDS = (
    "Give me a JSON object with {text}.", "Write a JSON object with {text}.", "Make a JSON object that has {text}.",
    "I need a JSON object with {text}.", "Create JSON with {text}.", "Return a JSON object with {text}.",
)  # fmt: skip
_KEYS_FIRST = (
    "Give me a JSON object with the keys {keys} for this: {text}", "Write a JSON object with keys {keys}: {text}",
    "Give me a JSON object with keys {keys} for {text}", "Make a JSON object with {keys} from this text: {text}",
    "Extract {keys} as JSON: {text}", "Return a JSON object with the keys {keys}. {text}",
    "Answer with a JSON object with the keys {keys}. {text}", "JSON with keys {keys}: {text}",
)  # fmt: skip
_KEYS = (" Use the keys {keys}.", " The keys are {keys}.", " It must have the keys {keys}.", " Keys: {keys}.")


def record(rng: random.Random) -> Exchange:
    """Return a description in prose with the JSON object that says the same."""
    kinds = ((_person, _PERSON), (_order, _ORDER), (_event, _EVENT), (_fields, _FIELDS))
    make, templates = rng.choices(kinds, (5, 4, 1.5, 1))[0]
    text, data = make(rng)
    if make is not _fields and rng.random() < 0.2:
        if "items" not in data:
            data = {key: data[key] for key in rng.sample(list(data), rng.randint(1, len(data)))}
        question = ask(rng, _KEYS_FIRST, text=text, keys=join_words(list(data)))
        return _exchange(question, data)
    question = ask(rng, templates, text=text)
    if rng.random() < 0.2:
        if "items" not in data and rng.random() < 0.5:
            data = {key: data[key] for key in rng.sample(list(data), rng.randint(1, len(data)))}
        question += ("" if question[-1] in ".!?" else ".") + fill(rng.choice(_KEYS), keys=join_words(list(data)))
    return _exchange(question, data)


def _exchange(question: str, data: Mapping[str, Any]) -> Exchange:
    answer = json.dumps(data, ensure_ascii=False)
    reasoning = f"The object needs the keys {join_words(list(data))}."
    keys = (f"record:{'|'.join(str(value) for value in data.values())}",)
    return Exchange(kind="json", user=question, answer=answer, reasoning=reasoning, keys=keys)


def _person(rng: random.Random) -> tuple[str, Mapping[str, Any]]:
    name = any_full_name(rng) if rng.random() < 0.6 else any_first_name(rng)
    data: dict[str, Any] = {"name": name}
    draws: dict[str, Callable[[], Any]] = {
        "age": lambda: rng.randint(5, 99),
        "city": lambda: any_city(rng),
        "job": lambda: rng.choice(JOBS),
        "email": lambda: f"{name.split()[0].lower()}@{rng.choice(('mail', 'post', made_up_word(rng)))}.com",
        "hobbies": lambda: rng.sample(HOBBIES, rng.randint(1, 3)),
    }
    chances = {"age": 0.9, "city": 0.8, "job": 0.6, "email": 0.15, "hobbies": 0.3}
    for key, make in draws.items():
        if rng.random() < chances[key]:
            data[key] = make()
    return _person_text(rng, data), data


def _fields(rng: random.Random) -> tuple[str, Mapping[str, Any]]:
    """Return keys and values named one by one, in the order of the object."""
    draws: dict[str, Callable[[], Any]] = {
        "name": lambda: any_first_name(rng),
        "age": lambda: rng.randint(1, 99),
        "city": lambda: any_city(rng),
        "job": lambda: rng.choice(JOBS),
        "product": lambda: rng.choice(PRODUCTS),
        "quantity": lambda: rng.randint(1, 50),
        "price": lambda: rng.randint(1, 500),
        "day": lambda: rng.choice(WEEKDAYS),
        made_up_word(rng): lambda: any_word(rng),
    }
    data = {key: draws[key]() for key in rng.sample(list(draws), rng.randint(1, 4))}
    return join_words([f"the {key} {value}" for key, value in data.items()]), data


def _person_text(rng: random.Random, data: Mapping[str, Any]) -> str:
    """Describe the person: a first sentence with the name, further clauses in any order."""
    rest = dict(data)
    name = rest.pop("name")
    pronoun = rng.choice(("He", "She"))
    style = rng.random()
    if style < 0.2 and {"age", "city", "job"} <= rest.keys():
        first = f"{name} is a {rest.pop('age')}-year-old {rest.pop('job')} from {rest.pop('city')}"
    elif style < 0.45 and {"age", "city"} <= rest.keys():
        first = f"{name}, {rest.pop('age')}, {rng.choice(('lives in', 'from'))} {rest.pop('city')}"
        first = first.replace(", from", ", is from")
    elif style < 0.6 and "job" in rest:
        first = f"{name} is {with_article(rest.pop('job'))}"
    elif style < 0.68:
        return f"{name} who {' and '.join(_clauses(rng, rest)) or 'is here'}."
    elif style < 0.76:
        parts = [f"name {name}", *(f"{key} {_plain(value)}" for key, value in rest.items())]
        return ", ".join(parts) + "."
    else:
        first = f"{name} {_clauses(rng, rest).pop(0)}" if rest else f"This is {name}"
        rest = dict(list(rest.items())[1:])
    clauses = _clauses(rng, rest)
    if style > 0.5:
        rng.shuffle(clauses)
    if clauses and rng.random() < 0.4:
        first = f"{first} and {clauses.pop(0)}"
    sentences = [first]
    while clauses:
        taken, clauses = clauses[:2], clauses[2:]
        sentences.append(f"{pronoun} {' and '.join(taken)}")
    return ". ".join(sentences) + "."


def _plain(value: Any) -> str:
    return join_words(value) if isinstance(value, list) else str(value)


def _clauses(rng: random.Random, data: Mapping[str, Any]) -> list[str]:
    forms = {
        "age": "is {} years old" if rng.random() < 0.7 else "is {}",
        "city": "lives in {}",
        "job": "works as a {}",
        "email": "has the email {}",
        "hobbies": "likes {}",
    }
    clauses = [forms[key].format(_plain(value)) for key, value in data.items()]
    return [clause.replace("as a a", "as an a").replace("as a e", "as an e") for clause in clauses]


def _counted(product: str, quantity: int, as_words: bool) -> str:
    return f"{NUMBER_WORDS[quantity] if as_words and quantity <= 20 else quantity} {product}"


def _order(rng: random.Random) -> tuple[str, Mapping[str, Any]]:
    customer = any_full_name(rng) if rng.random() < 0.5 else any_first_name(rng)
    products = rng.sample(PRODUCTS, rng.choices((1, 2, 3), (4, 5, 2))[0])
    if rng.random() < 0.1:
        products[-1] = made_up_word(rng) + "s"
    items: list[dict[str, Any]] = [{"product": product, "quantity": rng.randint(2, 30)} for product in products]
    data: dict[str, Any] = {"customer": customer, "items": items}
    as_words = rng.random() < 0.3
    counted = [_counted(item["product"], item["quantity"], as_words) for item in items]
    verb = rng.choice(("ordered", "orders", "wants", "would like", "bought", "buys"))
    text = f"{customer} {verb} {join_words(counted)}"
    if rng.random() < 0.35:
        data["city"] = any_city(rng)
        text += rng.choice((", delivered to {}", " for delivery to {}", ", to be sent to {}")).format(data["city"])
    if rng.random() < 0.3:
        data["total"] = rng.randint(3, 300)
        text += rng.choice((" for {} euros", ", total {} euros", " and pays {} euros")).format(data["total"])
    if rng.random() < 0.25:
        data["day"] = rng.choice(WEEKDAYS)
        text += f" on {data['day']}"
    return text + ".", data


def _event(rng: random.Random) -> tuple[str, Mapping[str, Any]]:
    title = rng.choice(("meeting", "party", "concert", "lunch", "dinner", "workshop", "picnic", "lecture", "race"))
    data: dict[str, Any] = {"event": title}
    text = f"There is a {title}"
    if rng.random() < 0.9:
        data["day"] = rng.choice(WEEKDAYS)
        text += f" on {data['day']}"
    if rng.random() < 0.8:
        data["time"] = f"{rng.randint(7, 22)}:{rng.choice(('00', '15', '30', '45'))}"
        text += f" at {data['time']}"
    if rng.random() < 0.8:
        data["city"] = any_city(rng)
        text += f" in {data['city']}"
    if rng.random() < 0.4:
        data["guests"] = rng.randint(2, 200)
        text += f" with {data['guests']} guests"
    return text + ".", data
