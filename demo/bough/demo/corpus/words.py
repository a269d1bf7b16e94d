"""Closed word lists of the corpus, and made-up words that teach copying of what was never seen."""

from __future__ import annotations

import random

__all__ = [
    "ANIMALS",
    "CITIES",
    "COLOURS",
    "COMMON_WORDS",
    "FIRST_NAMES",
    "FOODS",
    "HOBBIES",
    "JOBS",
    "LAST_NAMES",
    "NUMBER_WORDS",
    "OBJECTS",
    "PRODUCTS",
    "WEEKDAYS",
    "any_city",
    "any_first_name",
    "any_full_name",
    "any_word",
    "made_up_word",
    "split_words",
]


def split_words(text: str) -> tuple[str, ...]:
    """Return the words of a text, so that long lists stay readable."""
    return tuple(text.split())


def _split_names(text: str) -> tuple[str, ...]:
    """Return the comma-separated names of a text; a name may have several words."""
    return tuple(" ".join(name.split()) for name in text.split(","))


FIRST_NAMES = split_words(
    """Ada Adam Aisha Alan Alex Alice Amara Amir Amy Ana Andre Anna Anton Ari Arthur Ben Bella Bruno Carl Carmen Chloe
    Clara Cora Daniel Dara David Diego Dina Elena Eli Elif Ella Emil Emma Eric Erik Esther Eva Farah Felix Finn Fiona
    Frank Freya Gita Grace Greta Hana Hanna Hassan Helen Henry Hugo Ida Igor Imani Ines Iris Isaac Ivan Jack James Jana
    Jane John Jonas Jorge Joy Julia Jun Kai Karim Kate Kenji Kim Kofi Lara Laura Lea Leo Liam Lila Lin Linda Lisa Lucas
    Lucy Luis Luna Mara Marco Maria Mark Marta Mary Max Maya Mei Mia Mike Milan Mila Mira Mohamed Nadia Nina Noah Nora
    Olga Olivia Omar Oscar Otto Pablo Paul Pedro Peter Petra Pia Priya Quinn Rachel Rafael Raj Rania Rita Robert Rosa
    Ruth Ryan Sam Samir Sara Selma Simon Sofia Sonia Stella Tara Tess Theo Thomas Tim Tina Tom Tomas Uma Vera Victor Wei
    Will Yara Yuki Yusuf Zoe Charlotte Benjamin William Sophie Oliver George Ethan Mason Amelia Harry Bob Carol Dave Eve
    """
)
LAST_NAMES = split_words(
    """
    Adams Ahmed Allen Baker Bauer Bell Berg Brown Carter Chen Clark Cole Costa Cruz Dahl Davis Diaz Evans Fischer Ford
    Fox Garcia Gray Green Hall Hansen Haas Hill Ito Jones Kaya Khan Kim King Klein Kumar Lang Larsen Lee Lind Lopez
    Marsh Martin Meyer Miller Moore Mori Nash Novak Okoye Olsen Park Patel Perez Price Reed Rossi Sato Shah Silva
    Singh Smith Stone Tan Taylor Torres Vega Wagner Walker Wang Ward Weber White Wilson Wolf Wong Wood Young Zhang"""
)
CITIES = _split_names(
    """
    Paris, London, Rome, Oslo, Berlin, Madrid, Lisbon, Vienna, Athens, Dublin, Prague, Warsaw, Budapest, Helsinki,
    Stockholm, Copenhagen, Brussels, Amsterdam, Zurich, Geneva, Milan, Naples, Venice, Porto, Seville, Lyon, Munich,
    Hamburg, Cologne, Krakow, Riga, Vilnius, Tallinn, Reykjavik, Istanbul, Ankara, Cairo, Nairobi, Lagos, Accra,
    Dakar, Tunis, Rabat, Cape Town, Delhi, Mumbai, Kyoto, Tokyo, Osaka, Seoul, Busan, Beijing, Shanghai, Hanoi,
    Bangkok, Jakarta, Manila, Singapore, Sydney, Perth, Auckland, Lima, Quito, Bogota, Santiago, Havana, Boston,
    Chicago, Denver, Seattle, Austin, Miami, Toronto, Montreal, Vancouver, New York, San Francisco, Mexico City,
    Buenos Aires, Rio, Bergen, Graz, Leeds, York, Bristol, Glasgow, Cork, Turin, Florence, Valencia, Granada, Ghent,
    Basel, Bern"""
)
COLOURS = split_words("red blue green yellow orange purple pink brown black white grey silver gold turquoise violet")
ANIMALS = split_words(
    """dog cat horse cow sheep goat pig duck hen goose rabbit mouse fox wolf bear lion tiger elephant monkey zebra
    giraffe camel deer owl eagle crow parrot penguin dolphin whale shark frog snake turtle snail bee ant spider otter
    badger hedgehog squirrel beaver seal swan robin donkey llama panda koala kangaroo"""
)
FOODS = split_words(
    """pizza pasta soup rice bread cheese salad sushi curry tacos noodles pancakes waffles dumplings lasagna stew
    chocolate honey yogurt falafel hummus risotto ramen omelette porridge pie cake"""
)
PRODUCTS = split_words(
    """apples pears plums lemons oranges bananas cherries tomatoes carrots onions potatoes eggs cups plates spoons
    books pens pencils notebooks candles lamps chairs tables pillows blankets towels shirts socks hats gloves scarves
    boots umbrellas bags baskets bottles boxes muffins cookies bagels pizzas coffees teas burgers sandwiches juices
    cakes bikes phones laptops keyboards clocks toys flowers roses peaches melons"""
)
OBJECTS = split_words(
    """apple pear plum lemon cherry grape peach melon table chair lamp clock mirror window door house garden tree flower
    river lake hill stone bridge road train boat car bike plane book pen paper letter box key coin ring hat coat shoe
    glove cup plate spoon fork knife bottle basket candle rope ladder hammer nail drum flute piano violin bell star moon
    sun cloud rain snow wind fire leaf seed bread cheese milk honey salt sugar tea coffee paint brush map flag ball kite
    doll puzzle robot rocket castle tower island desert forest ocean beach field barn fence"""
)
HOBBIES = split_words(
    """reading painting chess swimming hiking cooking gardening dancing singing cycling running fishing knitting
    drawing photography climbing sailing skating baking writing pottery yoga tennis football surfing camping"""
)
JOBS = split_words(
    """teacher doctor nurse baker farmer pilot painter singer writer engineer lawyer chef carpenter plumber gardener
    driver dentist librarian musician actor scientist tailor waiter electrician architect mechanic photographer
    programmer firefighter sailor florist butcher barber judge designer"""
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NUMBER_WORDS = split_words(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty"""
)

_ONSETS = split_words("b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kl pl pr sh sk sl st th tr")
_VOWELS = split_words("a e i o u a e i o ai ea ee ia io oo ou")
_CODAS = ("", "", "", "n", "r", "l", "s", "m", "t", "k", "x", "nd", "sh", "rk", "th")


def made_up_word(rng: random.Random) -> str:
    """Return a pronounceable word of two or three syllables that means nothing."""
    syllables = (rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2, 3))))
    return "".join(syllables) + rng.choice(_CODAS)


def any_first_name(rng: random.Random) -> str:
    """Return a first name, one in four made up."""
    return rng.choice(FIRST_NAMES) if rng.random() < 0.75 else made_up_word(rng).capitalize()


def any_full_name(rng: random.Random) -> str:
    """Return a first and a last name, each made up at times."""
    last = rng.choice(LAST_NAMES) if rng.random() < 0.8 else made_up_word(rng).capitalize()
    return f"{any_first_name(rng)} {last}"


def any_city(rng: random.Random) -> str:
    """Return a city, one in seven made up."""
    return rng.choice(CITIES) if rng.random() < 0.85 else made_up_word(rng).capitalize()


COMMON_WORDS = split_words(
    """hello world hot cold big small fast slow up down left right day night old young new happy sad good bad yes no one
    two three four five six seven eight nine ten first second last time year week month north south east west spring
    summer autumn winter hand head foot eye ear nose arm leg mother father sister brother friend love work play test
    word line page game song food drink water air earth light dark long short high low open closed quick brown lazy"""
)


def any_word(rng: random.Random) -> str:
    """Return a lower-case word: thing, animal, food, colour, common word, letter, or made up."""
    dice = rng.random()
    if dice < 0.15:
        return made_up_word(rng)
    if dice < 0.27:
        return rng.choice(COMMON_WORDS)
    if dice < 0.3:
        return rng.choice("abcdefghijklmnopqrstuvwxyz")
    return rng.choice(rng.choice((OBJECTS, OBJECTS, ANIMALS, FOODS, COLOURS, PRODUCTS, HOBBIES, JOBS)))
