"""The tool families of the corpus: schemas that vary in their names, requests, results and the answers to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bough.demo.corpus.words import (
    HOBBIES,
    LAST_NAMES,
    OBJECTS,
    WEEKDAYS,
    any_city,
    any_first_name,
    any_word,
    made_up_word,
    split_words,
)

__all__ = ["FAMILIES", "NOUNS", "Family", "Param"]

Draw = Callable[[random.Random], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """A parameter of a tool: its possible names, its JSON type and how a value is drawn."""

    names: tuple[str, ...]
    draw: Draw
    type: str = "string"
    about: str = ""
    enum: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of tool with interchangeable names, the requests that need it and what comes back."""

    names: tuple[str, ...]
    about: tuple[str, ...]
    params: Mapping[str, Param]
    requests: tuple[str, ...]
    result: Mapping[str, Draw | str]
    """The tool's answer: drawn values, or texts with parameter slots."""
    answer: str
    texts: tuple[str, ...] = ()
    """Results as plain text, with slots of `result`."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names for the keys of `result`."""
    double: tuple[str, ...] = ()
    """Requests for two values of the first parameter at once, as {one} and {two}."""


def _time(rng: random.Random) -> str:
    return f"{rng.randint(6, 22)}:{rng.choice(('00', '15', '30', '45'))}"


def _phrase(rng: random.Random) -> str:
    return " ".join(any_word(rng) for _ in range(rng.randint(1, 4)))


def _task(rng: random.Random) -> str:
    verb = rng.choice(("buy", "call", "clean", "bring", "find", "paint", "fix", "sell", "wash", "visit", "check"))
    return f"{verb} the {rng.choice(OBJECTS)}" if rng.random() < 0.7 else f"{verb} {any_first_name(rng)}"


def _message(rng: random.Random) -> str:
    return rng.choice(
        (
            f"I am late by {rng.randint(5, 55)} minutes",
            f"See you on {rng.choice(WEEKDAYS)}",
            f"The {rng.choice(OBJECTS)} is ready",
            f"Let us go {rng.choice(HOBBIES)} on {rng.choice(WEEKDAYS)}",
            f"Please bring the {rng.choice(OBJECTS)}",
            f"Greetings from {any_city(rng)}",
        )
    )


def _expression(rng: random.Random) -> str:
    terms = [str(rng.randint(2, rng.choice((20, 999, 9999)))) for _ in range(rng.choice((2, 2, 3)))]
    return f" {rng.choice('+-*/')} ".join(terms)


def _symbol(rng: random.Random) -> str:
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(3, 4)))


def _code(rng: random.Random) -> str:
    return "".join(str(rng.randrange(10)) for _ in range(rng.randint(4, 6)))


def _title(rng: random.Random) -> str:
    return " ".join(any_word(rng).capitalize() for _ in range(rng.randint(1, 3)))


def _event(rng: random.Random) -> str:
    return rng.choice(
        ("meeting", "lunch", "dinner", "party", "call", "workshop", "concert", "haircut", "dentist visit")
    )


def _one_of(*options: str) -> Draw:
    return lambda rng: rng.choice(options)


def _number(low: int, high: int) -> Draw:
    return lambda rng: rng.randint(low, high)


def _place(rng: random.Random) -> str:
    """Return a city, at times with its country."""
    city = any_city(rng)
    return f"{city}, {rng.choice(_COUNTRIES)}" if rng.random() < 0.12 else city


_COUNTRIES = split_words(
    "France Germany Italy Spain Norway Japan India Peru Kenya Iceland Canada Poland Egypt Chile USA UK"
)
_CITY = Param(names=("city", "city", "location", "place", "town"), draw=_place, about="The name of the city")
_SKY = _one_of("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear", "stormy")
_CURRENCIES = _one_of("EUR", "USD", "GBP", "JPY", "CHF", "SEK", "NOK", "INR", "CAD")
_ROOMS = _one_of("kitchen", "bedroom", "bathroom", "hall", "garage", "office", "garden", "living room")
_LANGUAGES = _one_of("French", "German", "Spanish", "Italian", "Dutch", "Polish", "Greek", "Japanese", "Finnish")

FAMILIES: tuple[Family, ...] = (
    Family(
        names=("get_weather", "get_weather", "weather", "current_weather", "get_current_weather", "weather_lookup"),
        about=("Get the current weather in a city", "Returns the weather of a place", "Look up the weather"),
        params={"city": _CITY},
        requests=("What is the weather in {city}?", "Weather in {city}?", "What is the weather like in {city} now?",
            "What's the weather in {city} today?", "How is the weather in {city}?",
            "What's the weather like in {city}?",
                  "Tell me the weather in {city}.", "Is it raining in {city}?", "How warm is it in {city}?",
                  "What is the weather like in {city} today?", "Check the weather in {city}.", "Weather in {city}?"),
        result={"temperature": _number(-15, 38), "condition": _SKY},
        answer="It is {temperature} degrees and {condition} in {city}.",
        texts=("{condition}, {temperature} degrees", "{temperature} degrees and {condition}",
            "{Condition}, {temperature}°C",
               "{temperature}°C, {condition}", "It is {condition} with {temperature} degrees.",
               "{Condition} and {temperature} degrees.",
               "{temperature} C, {condition}", "{Condition}, {temperature} degrees",
               "The sky is {condition}, {temperature} degrees"),
        aliases={"temperature": ("temp", "temperature_c", "degrees", "temp_c", "celsius"),
                 "condition": ("conditions", "sky", "weather", "description", "summary")},
        double=("What is the weather in {one} and in {two}?", "Compare the weather in {one} and {two}.",
                "How is the weather in {one} and {two}?"),
    ),
    Family(
        names=("calculator", "calculate", "compute", "eval_expression", "math"),
        about=("Compute an arithmetic expression", "Evaluates a formula", "A calculator"),
        params={"expression": Param(names=("expression", "expression", "formula", "input"), draw=_expression,
                                    about="The expression to compute")},
        requests=("Use the calculator to work out {expression}.", "Calculate {expression} with the calculator.",
                  "Use the tool to compute {expression}.", "With the calculator, what is {expression}?",
                  "Please use the calculator: {expression}"),
        result={"result": _number(1, 99999)},
        answer="The result of {expression} is {result}.",
    ),
    Family(
        names=("search", "web_search", "search_web", "find_pages"),
        about=("Search the web", "Finds pages for a query", "Look something up on the internet"),
        params={"query": Param(names=("query", "query", "q", "text"), draw=_phrase, about="What to look for")},
        requests=("Search the web for {query}.", "Search for {query}.", "Look up {query} on the internet.",
                  "Find pages about {query}.", "Please search for {query}.", "Google {query}."),
        result={"title": _title, "url": lambda rng: f"https://{made_up_word(rng)}.com"},
        answer="I found the page {title} at {url}.",
    ),
    Family(
        names=("create_event", "add_event", "calendar_add", "create_calendar_event"),
        about=("Add an event to the calendar", "Create a calendar entry"),
        params={"title": Param(names=("title", "title", "name", "event"), draw=_event, about="What the event is"),
                "day": Param(names=("day", "day", "date"), draw=_one_of(*WEEKDAYS), about="The day of the event"),
                "time": Param(names=("time", "time", "start"), draw=_time, about="When it starts")},
        requests=("Add a {title} on {day} at {time} to my calendar.",
            "Put a {title} in my calendar for {day} at {time}.",
                  "Create an event: {title}, {day}, {time}.",
                  "I have a {title} on {day} at {time}. Put it in my calendar.",
                  "Schedule a {title} for {day} at {time}."),
        result={"status": _one_of("ok", "created", "done")},
        answer="The {title} is in your calendar on {day} at {time}.",
    ),
    Family(
        names=("set_reminder", "add_reminder", "create_reminder", "remind"),
        about=("Set a reminder", "Reminds the user of something at a time"),
        params={"text": Param(names=("text", "text", "task", "message"), draw=_task, about="What to remember"),
                "time": Param(names=("time", "time", "when", "at"), draw=_time, about="When to remind")},
        requests=("Remind me to {text} at {time}.", "Set a reminder to {text} at {time}.",
            "At {time}, remind me to {text}.",
                  "Please remind me to {text} at {time}.", "I have to {text} at {time}. Remind me."),
        result={"status": _one_of("ok", "set", "done")},
        answer="I will remind you to {text} at {time}.",
    ),
    Family(
        names=("translate", "translate_text", "translator"),
        about=("Translate a text", "Translates words into another language"),
        params={"text": Param(names=("text", "text", "input"), draw=_phrase, about="The text to translate"),
                "language": Param(names=("language", "target", "target_language"), draw=_LANGUAGES,
                                  about="The language to translate into")},
        requests=("Translate \"{text}\" into {language}.", "Translate {text} into {language}.",
                  "How do you say \"{text}\" in {language}?", "What is {text} in {language}?"),
        result={"translation": lambda rng: f"{made_up_word(rng)} {made_up_word(rng)}"},
        answer="In {language} it is: {translation}.",
    ),
    Family(
        names=("send_message", "send_email", "send_text", "message"),
        about=("Send a message to somebody", "Sends a text to a person"),
        params={"to": Param(names=("to", "to", "recipient", "person"), draw=any_first_name, about="Who gets it"),
                "message": Param(names=("message", "message", "text", "body"), draw=_message, about="What to send")},
        requests=("Send {to} this message: {message}", "Send a message to {to}: {message}", "Write to {to}: {message}",
                  "Tell {to}: {message}", "Send the text \"{message}\" to {to}."),
        result={"status": _one_of("sent", "ok", "delivered")},
        answer="The message to {to} was sent.",
    ),
    Family(
        names=("set_timer", "start_timer", "timer"),
        about=("Start a timer", "Sets a timer for some minutes"),
        params={"minutes": Param(names=("minutes", "minutes", "duration", "duration_minutes"), draw=_number(1, 120),
                                 type="integer", about="How many minutes")},
        requests=("Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes.",
            "Timer for {minutes} minutes!",
                  "Please set the timer to {minutes} minutes.", "Wake me in {minutes} minutes."),
        result={"status": _one_of("started", "ok", "running")},
        answer="The timer is set for {minutes} minutes.",
    ),
    Family(
        names=("convert_currency", "currency_converter", "exchange", "convert_money"),
        about=("Convert money between currencies", "Exchange an amount of money"),
        params={"amount": Param(names=("amount", "amount", "value"), draw=_number(1, 2000), type="number",
                                about="How much money"),
                "source": Param(names=("from", "from_currency", "source"),
                    draw=_CURRENCIES, about="The currency to convert"),
                "target": Param(names=("to", "to_currency", "target"), draw=_CURRENCIES, about="The currency wanted")},
        requests=("Convert {amount} {source} to {target}.", "How much is {amount} {source} in {target}?",
                  "Change {amount} {source} into {target}.", "What are {amount} {source} in {target}?"),
        result={"converted": _number(1, 9999)},
        answer="{amount} {source} are {converted} {target}.",
    ),
    Family(
        names=("get_time", "current_time", "get_local_time", "time_in_city"),
        about=("Get the local time of a city", "Returns the current time in a place"),
        params={"city": _CITY},
        requests=("What time is it in {city}?", "Tell me the time in {city}.", "How late is it in {city}?",
                  "What is the local time in {city}?"),
        result={"time": _time},
        answer="It is {time} in {city}.",
        double=("What time is it in {one} and in {two}?", "Tell me the time in {one} and {two}."),
    ),
    Family(
        names=("play_song", "play_music", "music_player", "play"),
        about=("Play a song", "Plays music"),
        params={"song": Param(names=("song", "title", "track"), draw=_title, about="The title of the song"),
                "artist": Param(names=("artist", "artist", "singer"), draw=lambda rng: f"{any_first_name(rng)} "
                                f"{rng.choice(LAST_NAMES)}", about="Who sings it")},
        requests=("Play {song} by {artist}.", "Play the song {song} by {artist}.", "I want to hear {song} by {artist}.",
                  "Put on \"{song}\" by {artist}."),
        result={"status": _one_of("playing", "ok")},
        answer="Now playing {song} by {artist}.",
    ),
    Family(
        names=("set_light", "light", "switch_light", "control_light"),
        about=("Turn a light on or off", "Switches the light of a room"),
        params={"room": Param(names=("room", "room", "place"), draw=_ROOMS, about="The room"),
                "state": Param(names=("state", "state", "power"), draw=_one_of("on", "off"), enum=("on", "off"),
                               about="On or off")},
        requests=("Turn {state} the light in the {room}.", "Turn the {room} light {state}.",
                  "Switch {state} the light in the {room}.", "Light {state} in the {room}, please."),
        result={"status": _one_of("ok", "done")},
        answer="The light in the {room} is {state}.",
    ),
    Family(
        names=("create_note", "add_note", "save_note", "write_note"),
        about=("Save a note", "Writes a note down"),
        params={"text": Param(names=("text", "text", "note", "content"), draw=_task, about="The text of the note")},
        requests=("Make a note: {text}", "Write a note that says: {text}", "Save this note: {text}",
            "Note down: {text}"),
        result={"status": _one_of("saved", "ok")},
        answer="I saved the note.",
    ),
    Family(
        names=("get_stock_price", "stock_price", "stock_quote"),
        about=("Get the price of a stock", "Returns a stock quote"),
        params={"symbol": Param(names=("symbol", "symbol", "ticker", "stock"),
            draw=_symbol, about="The ticker symbol")},
        requests=("What is the stock price of {symbol}?", "How is the {symbol} stock doing?",
            "Price of {symbol} stock?",
                  "Get me the price of {symbol} shares."),
        result={"price": _number(1, 900)},
        answer="The price of {symbol} is {price}.",
        double=("What are the stock prices of {one} and {two}?", "Compare the stocks {one} and {two}."),
    ),
    Family(
        names=("book_table", "reserve_table", "make_reservation"),
        about=("Book a table in a restaurant", "Reserves a table"),
        params={"restaurant": Param(names=("restaurant", "restaurant", "place", "name"), draw=_title,
                                    about="The name of the restaurant"),
                "people": Param(names=("people", "guests", "party_size"), draw=_number(2, 12), type="integer",
                                about="How many people"),
                "time": Param(names=("time", "time", "at"), draw=_time, about="When")},
        requests=("Book a table for {people} at {restaurant} at {time}.",
            "Reserve a table at {restaurant} for {people} at {time}.",
                  "I need a table for {people} people at {restaurant} at {time}."),
        result={"status": _one_of("booked", "ok", "confirmed")},
        answer="The table for {people} at {restaurant} is booked for {time}.",
    ),
    Family(
        names=("get_directions", "directions", "find_route", "route"),
        about=("Find the way between two places", "Returns a route"),
        params={"start": Param(names=("start", "origin", "from"), draw=any_city, about="Where to start"),
                "goal": Param(names=("destination", "end", "to"), draw=any_city, about="Where to go")},
        requests=("How do I get from {start} to {goal}?", "Find the way from {start} to {goal}.",
                  "Give me directions from {start} to {goal}.", "What is the route from {start} to {goal}?"),
        result={"distance_km": _number(3, 2500), "by": _one_of("car", "train", "bus", "plane")},
        answer="It is {distance_km} km from {start} to {goal} by {by}.",
    ),
    Family(
        names=("define_word", "dictionary", "lookup_word", "define"),
        about=("Look up a word in the dictionary", "Gives the meaning of a word"),
        params={"word": Param(names=("word", "word", "term"), draw=any_word, about="The word")},
        requests=("What does the word {word} mean?", "Define {word}.", "Look up the word {word}.",
                  "What is the meaning of {word}?"),
        result={"definition": lambda rng: f"a kind of {any_word(rng)}"},
        answer="The word {word} means: {definition}.",
        double=("What do the words {one} and {two} mean?",),
    ),
    Family(
        names=("get_order_status", "order_status", "track_order", "find_order"),
        about=("Find out where an order is", "Returns the status of an order"),
        params={"order": Param(names=("order_id", "order_id", "order", "id"),
            draw=_code, about="The number of the order")},
        requests=("Where is my order {order}?", "What is the status of order {order}?", "Track order {order}.",
                  "Has my order {order} been sent?"),
        result={"status": _one_of("shipped", "packed", "delivered", "delayed", "on its way")},
        answer="Your order {order} is {status}.",
    ),
    Family(
        names=("set_temperature", "thermostat", "set_thermostat"),
        about=("Set the temperature of a room", "Controls the heating"),
        params={"room": Param(names=("room", "room", "zone"), draw=_ROOMS, about="The room"),
                "degrees": Param(names=("degrees", "temperature", "target"), draw=_number(15, 28), type="integer",
                                 about="The temperature wanted")},
        requests=("Set the {room} to {degrees} degrees.", "Heat the {room} to {degrees} degrees.",
                  "I want {degrees} degrees in the {room}."),
        result={"status": _one_of("ok", "set")},
        answer="The {room} is set to {degrees} degrees.",
    ),
)  # fmt: skip

NOUNS = split_words(
    """population height price owner size address rating weight director birthday score length age author email
    phone_number opening_hours speed depth distance menu schedule manager salary color temperature capacity status level
    balance version area route language currency calories stock"""
)
"""Things that made-up tools look up, so that a tool is chosen by reading its schema."""
