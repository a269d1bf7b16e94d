"""Short stories: a hero, a place, a wish, an obstacle, a helper and an end, over two hundred tokens each."""

from __future__ import annotations

import random

from bough.demo.corpus.base import Exchange, ask, fill, normalise, with_article
from bough.demo.corpus.words import ANIMALS, COLOURS, FIRST_NAMES, JOBS, any_first_name, made_up_word, split_words

__all__ = ["story"]

_TRAITS = split_words(
    "brave little young kind clever shy curious lazy happy small old quiet funny gentle proud lonely friendly careful "
    "hungry sleepy"
)
_BEINGS = (
    *ANIMALS, "dragon", "robot", "giant", "wizard", "witch", "knight", "pirate", "princess", "prince", "king", "queen",
    "boy", "girl", "child", "mermaid", "fairy", "ghost", "sailor", "farmer", "baker", "painter", "inventor", "troll",
    "unicorn", "snowman", "astronaut", "mouse", "tiger", "kitten", "puppy", "cloud", "star",
)  # fmt: skip
_PLACES = (
    "village", "forest", "castle", "island", "valley", "town", "garden", "mountain", "desert", "harbour", "farm",
    "lake",
    "cave", "meadow", "library", "lighthouse", "mill", "market", "swamp", "beach",
)  # fmt: skip
_THINGS = (
    "key", "lantern", "map", "bell", "ring", "book", "flute", "kite", "drum", "mirror", "seed", "letter", "boat",
    "crown",
    "clock", "shell", "feather", "stone", "compass", "violin", "cake", "scarf", "balloon", "painting", "telescope",
)  # fmt: skip
_MATERIALS = ("golden", "silver", "wooden", "old", "tiny", "shining", "glass", *COLOURS[:8])

_PROMPTS = (
    "Tell me a story.", "Write a short story.", "Tell me a short story, please.", "Please tell me a story.",
    "Can you tell me a story?", "I would like to hear a story.", "Once upon a time...", "Make up a story for me.",
)  # fmt: skip
_PROMPTS_BEING = (
    "Tell me a story about {article}.", "Write a story about {article}.", "Write a short story about {article}.",
    "Can you tell me a story about {article}?", "I want to hear a story about {article}.",
    "A story about {article}, please.",
    "Make up a story about {article}.", "I'd like a story about {article}, please.",
    "Write a long story about {article}.",
    "Write a story about {article} who learns to fly.", "Write a story about {article} who goes on a journey.",
    "Tell a story with {article} in it.", "Story about {article}", "Tell me a bedtime story about {article}.",
    "Please write a tale about {article}.",
)  # fmt: skip
_PROMPTS_NAME = (
    "Tell me a story about {article} called {name}.", "Write a short story about {name} the {being}.",
    "Write a story about {article} named {name}.", "Tell me a story about {name} the {being}.",
    "Make up a story about {article} called {name}.", "Tell me a bedtime story about {name} the {being}.",
)  # fmt: skip
_PROMPTS_THING = (
    "Tell me a story about {article} who finds {thing}.", "Write a story about {article} and {thing}.",
    "Write a short story about {article} who is looking for {thing}.", "Tell me a story about {article} and {thing}.",
    "Tell me a story about {article} called {name} who finds {thing}.", "Make up a story with {article} and {thing}.",
)  # fmt: skip
_PROMPTS_PLACE = (
    "Tell me a story about {article} in a {place}.", "Write a story about {article} who lives in a {place}.",
    "Write a short story about {article} in a {place}.", "Tell me a story about {article} called {name} in a {place}.",
)  # fmt: skip

_OPENINGS = (
    "Once upon a time, {article} called {name} lived in a {place}.",
    "Long ago, in a {place} far away, there lived {article} called {name}.",
    "There was once {article} named {name} who lived near a {place}.",
    "In a quiet {place} lived {article}. The name of the {being} was {name}.",
)
_HABITS = (
    "Every morning {name} walked along the path and sang a song.",
    "Every day {name} looked at the sky and dreamed of far places.",
    "The {being} loved the sound of the wind and the smell of the rain.",
    "All the neighbours knew {name}, because the {being} always had a kind word for them.",
    "{name} had a small house with a round door and one window.",
    "In the evening {name} liked to sit by the fire and tell jokes.",
)
_FINDS = (
    "One day {name} found {thing} under a tree.",
    "One morning {name} saw {thing} lying in the grass.",
    "One evening there was a knock at the door, and outside lay {thing}.",
    "One day the wind blew hard, and it dropped {thing} in front of {name}.",
)
_WONDERS = (
    '"Whose is this?" asked {name}. Nobody knew the answer.',
    '"How strange," said {name}. "I must find out where it belongs."',
    "{name} had never seen anything like it and looked at it for a long time.",
    '"This is the start of an adventure," said {name} with a smile.',
)
_TRAVELS = (
    "So {name} packed some bread and a bottle of water and went on a long walk.",
    "So {name} took the {noun} and followed the river to the hills.",
    "The next day {name} put the {noun} in a bag and left the {place}.",
    "With the {noun} in hand, {name} walked over three hills and through a dark wood.",
)
_TROUBLES = (
    "Soon it began to rain, and the road was full of mud.",
    "But then the path ended at a deep river, and there was no bridge.",
    "After a while the sun went down, and {name} was lost in the dark.",
    "Suddenly a big rock fell on the road, and nobody could pass.",
    "Then a thick fog came, and {name} could not see the way.",
)
_FEELINGS = (
    "{name} was afraid, but did not turn back.",
    "The {being} felt tired and cold, and sat down on a stone.",
    '"I will not give up," said {name}, and took a deep breath.',
    "For a moment {name} wanted to go home and sleep.",
)
_MEETINGS = (
    "Just then {helper_article} came by. Its name was {helper_name}.",
    "At that moment {name} heard a voice. It was {helper_article} called {helper_name}.",
    'Behind a tree stood {helper_article}. "I am {helper_name}," it said.',
    "Then {helper_article} called {helper_name} looked out of a hole in the ground.",
)
_OFFERS = (
    '"Do not worry," said {helper_name}. "Two friends can do more than one."',
    '"I know this place well," said {helper_name}. "Come with me, and I will show you the way."',
    '"You look sad," said {helper_name}. "Let me help you."',
    '"I was alone too," said {helper_name}. "Let us go together."',
)
_EFFORTS = (
    "Together they worked until the way was free.",
    "They held hands, counted to three and jumped.",
    "They made a little boat of leaves and wood, and it carried them safely.",
    "Step by step they went on, and the way became easier.",
)
_DISCOVERIES = (
    "At last they came to an old door in the side of a hill. The {noun} began to shine, and the door opened.",
    'At last they reached a small house, where an old woman was waiting. "You found my {noun}!" she cried.',
    'At the top of the hill they met a child who was crying. "I lost my {noun}," said the child, '
    "and then saw it and laughed.",
    "In the end they found a town where everybody was looking for the {noun}. The people cheered when they saw it.",
)
_REWARDS = (
    "As a thank you, they got a big cake and a warm bed for the night.",
    "There was a great feast with music, soup and sweet apples.",
    '"You are a true friend," they were told, and everyone clapped.',
    "They were given a bag of seeds that grew into the most beautiful flowers.",
)
_RETURNS = (
    "The next morning {name} and {helper_name} walked home together.",
    "When {name} came home, the whole {place} was there to say hello.",
    "{name} went back to the {place}, and {helper_name} came along.",
    "On the way home the sun was shining, and they sang all day.",
)
_LESSONS = (
    "From that day on, {name} knew that a good friend is worth more than gold.",
    "And {name} learned that being brave means to go on even when you are afraid.",
    "{name} never forgot that a small act of kindness can change everything.",
    "Since then, {name} has always helped others who lost their way.",
)
_ENDINGS = (
    "The end.",
    "And they all lived happily ever after.",
    "And if you listen at night, you can still hear them laugh.",
)
_PLOT = (
    _OPENINGS, _HABITS, _FINDS, _WONDERS, _TRAVELS, _TROUBLES, _FEELINGS, _MEETINGS, _OFFERS, _EFFORTS, _DISCOVERIES,
    _REWARDS, _RETURNS, _LESSONS, _ENDINGS,
)  # fmt: skip


def _subject(rng: random.Random) -> str:
    being = rng.choice(_BEINGS) if rng.random() < 0.93 else rng.choice((*JOBS, made_up_word(rng)))
    return f"{rng.choice(_TRAITS)} {being}" if rng.random() < 0.4 else being


def _prompt(rng: random.Random) -> tuple[str, ...]:
    groups = (_PROMPTS, _PROMPTS_BEING, _PROMPTS_NAME, _PROMPTS_THING, _PROMPTS_PLACE)
    return rng.choices(groups, (2, 5, 3, 3, 2))[0]


def story(rng: random.Random) -> Exchange:
    """Return a wish for a story and a story of fifteen steps that has what was asked for."""
    subject, helper = _subject(rng), rng.choice(ANIMALS)
    noun = rng.choice(_THINGS)
    name, helper_name = rng.sample(FIRST_NAMES, 2)
    prompt = rng.choice(_prompt(rng))
    if "{name}" in prompt and rng.random() < 0.35:
        name = any_first_name(rng)
    slots = {
        "article": with_article(subject),
        "being": subject.split()[-1],
        "name": name,
        "place": rng.choice(_PLACES),
        "thing": with_article(f"{rng.choice(_MATERIALS)} {noun}" if rng.random() < 0.7 else noun),
        "noun": noun,
        "helper_article": with_article(helper),
        "helper_name": helper_name,
    }
    text = ask(rng, (prompt,), **slots)
    sentences = [fill(rng.choice(step), **slots) for step in _PLOT]
    sentences.insert(2, fill(rng.choice(_HABITS[:5]), **slots) if rng.random() < 0.3 else "")
    answer = " ".join(sentence for sentence in sentences if sentence)
    key = f"story:{normalise(subject)}:{name}:{noun}"
    reasoning = f"The user wants a story. My hero is {slots['article']} called {name}."
    return Exchange(kind="story", user=text, answer=answer, reasoning=reasoning, keys=(key,))
