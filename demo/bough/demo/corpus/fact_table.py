"""The closed table of facts the demo model knows, and how each relation is asked and told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from bough.demo.corpus.words import ANIMALS, COLOURS, FOODS, HOBBIES, JOBS, split_words

__all__ = ["RELATIONS", "Relation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A relation from {x} to {y} with its questions and the sentences that tell it."""

    name: str
    pairs: Mapping[str, str]
    questions: tuple[str, ...]
    statement: str
    checks: tuple[str, ...] = ()
    """Yes-or-no questions with {x} and a candidate {y}."""
    reverse: tuple[str, ...] = ()
    """Questions that give {y} and ask for {x}; only where {y} has one {x}."""
    reverse_statement: str = ""
    unknown: tuple[str, ...] = ()
    """Questions that can be asked of an {x} outside the table."""


def _pairs(text: str) -> dict[str, str]:
    """Parse `a=b; c=d` into a mapping."""
    keys_and_values = (part.strip().partition("=") for part in text.split(";") if part.strip())
    return {key: value for key, _, value in keys_and_values}


_CAPITALS = _pairs(
    """France=Paris; Germany=Berlin; Italy=Rome; Spain=Madrid; Portugal=Lisbon; Norway=Oslo; Sweden=Stockholm;
    Finland=Helsinki; Denmark=Copenhagen; Iceland=Reykjavik; Ireland=Dublin; Austria=Vienna; Switzerland=Bern;
    Belgium=Brussels; Poland=Warsaw; Hungary=Budapest; Greece=Athens; Turkey=Ankara; Egypt=Cairo; Kenya=Nairobi;
    Nigeria=Abuja; Ghana=Accra; Senegal=Dakar; Tunisia=Tunis; Morocco=Rabat; Ethiopia=Addis Ababa; India=New Delhi;
    Pakistan=Islamabad; Nepal=Kathmandu; China=Beijing; Japan=Tokyo; South Korea=Seoul; Vietnam=Hanoi;
    Thailand=Bangkok; Indonesia=Jakarta; Australia=Canberra; New Zealand=Wellington; Canada=Ottawa; Mexico=Mexico City;
    Cuba=Havana; Peru=Lima; Chile=Santiago; Brazil=Brasilia; Argentina=Buenos Aires; Colombia=Bogota; Ecuador=Quito;
    Uruguay=Montevideo; Russia=Moscow; Ukraine=Kyiv; Romania=Bucharest; Bulgaria=Sofia; Croatia=Zagreb; Serbia=Belgrade;
    Slovakia=Bratislava; Slovenia=Ljubljana; Estonia=Tallinn; Latvia=Riga; Lithuania=Vilnius; Iran=Tehran;
    Iraq=Baghdad; Israel=Jerusalem; Jordan=Amman; Saudi Arabia=Riyadh; England=London; Scotland=Edinburgh;
    the United Kingdom=London; the United States=Washington; the Netherlands=Amsterdam; the Czech Republic=Prague;
    the Philippines=Manila"""
)
_COLOURS = _pairs(
    """the sky=blue; grass=green; a banana=yellow; snow=white; coal=black; a ripe tomato=red; an orange=orange;
    the sun=yellow; a lemon=yellow; a carrot=orange; a strawberry=red; a leaf=green; milk=white; chocolate=brown;
    a fire engine=red; a frog=green; an elephant=grey; a polar bear=white; a crow=black; a flamingo=pink;
    a violet=purple; the sea=blue; a pea=green; a cucumber=green; a cherry=red; a raven=black; wood=brown;
    a mouse=grey; salt=white; night=black; a pumpkin=orange; blood=red; spinach=green; an eggplant=purple"""
)
_OPPOSITES = _pairs(
    """hot=cold; big=small; tall=short; fast=slow; up=down; left=right; day=night; black=white; old=young; new=old;
    happy=sad; full=empty; open=closed; light=dark; heavy=light; hard=soft; wet=dry; clean=dirty; loud=quiet; rich=poor;
    strong=weak; early=late; near=far; high=low; good=bad; right=wrong; true=false; first=last; long=short; wide=narrow;
    deep=shallow; thick=thin; in=out; on=off; yes=no; always=never; love=hate; win=lose; buy=sell; push=pull; give=take;
    start=stop; begin=end; above=below; before=after; inside=outside; front=back; top=bottom; easy=difficult;
    cheap=expensive; brave=afraid; sweet=sour; smooth=rough; sharp=blunt; safe=dangerous; asleep=awake; alive=dead;
    more=less; many=few; friend=enemy; summer=winter; north=south; east=west; arrive=leave; laugh=cry; remember=forget;
    cold=hot; small=big; slow=fast; down=up; night=day; white=black; sad=happy; empty=full; dark=light; soft=hard;
    dry=wet; dirty=clean; quiet=loud; poor=rich; weak=strong; late=early; far=near; low=high; bad=good; false=true"""
)
_SOUNDS = _pairs(
    """dog=woof; cat=meow; cow=moo; sheep=baa; pig=oink; duck=quack; horse=neigh; rooster=cock-a-doodle-doo;
    hen=cluck; bee=buzz; snake=hiss; lion=roar; frog=ribbit; owl=hoot; mouse=squeak; crow=caw; goat=maa; wolf=howl;
    donkey=hee-haw; bird=tweet; turkey=gobble; goose=honk; bear=growl; pigeon=coo; elephant=trumpet"""
)
_YOUNG = _pairs(
    """dog=puppy; cat=kitten; cow=calf; sheep=lamb; pig=piglet; duck=duckling; horse=foal; hen=chick; bear=cub;
    lion=cub; frog=tadpole; goat=kid; goose=gosling; swan=cygnet; deer=fawn; kangaroo=joey; owl=owlet; rabbit=bunny"""
)
_LEGS = _pairs(
    """dog=four; cat=four; cow=four; horse=four; spider=eight; ant=six; bee=six; bird=two; hen=two; duck=two;
    sheep=four; lion=four; elephant=four; snake=no; fish=no; beetle=six; butterfly=six; frog=four; human=two"""
)
_PLURALS = _pairs(
    """child=children; man=men; woman=women; foot=feet; tooth=teeth; mouse=mice; goose=geese; person=people; ox=oxen;
    sheep=sheep; fish=fish; deer=deer; leaf=leaves; knife=knives; wolf=wolves; life=lives; wife=wives; half=halves;
    shelf=shelves; loaf=loaves; box=boxes; fox=foxes; bus=buses; class=classes; dish=dishes; watch=watches;
    church=churches; city=cities; baby=babies; lady=ladies; story=stories; berry=berries; cherry=cherries; fly=flies;
    toy=toys; boy=boys; day=days; key=keys; potato=potatoes; tomato=tomatoes; hero=heroes; piano=pianos; photo=photos;
    cat=cats; dog=dogs; book=books; house=houses; tree=trees; car=cars; apple=apples; pen=pens; cup=cups; bird=birds;
    table=tables; chair=chairs; flower=flowers; river=rivers; song=songs; letter=letters; brush=brushes; bench=benches;
    glass=glasses; kiss=kisses; party=parties; country=countries; puppy=puppies; calf=calves; elf=elves; thief=thieves;
    cactus=cacti; window=windows; teacher=teachers; friend=friends; hat=hats; shoe=shoes; egg=eggs; star=stars"""
)
_UNITS = _pairs(
    """seconds are in a minute=60; minutes are in an hour=60; hours are in a day=24; days are in a week=7;
    months are in a year=12; weeks are in a year=52; days are in a year=365; centimetres are in a metre=100;
    metres are in a kilometre=1000; millimetres are in a centimetre=10; grams are in a kilogram=1000;
    millilitres are in a litre=1000; years are in a decade=10; years are in a century=100;
    years are in a millennium=1000; things are in a dozen=12; cents are in a euro=100; cents are in a dollar=100;
    letters are in the English alphabet=26; seasons are in a year=4; minutes are in half an hour=30;
    days are in a leap year=366; inches are in a foot=12; kilograms are in a tonne=1000"""
)
_SIDES = _pairs("a triangle=three; a square=four; a rectangle=four; a pentagon=five; a hexagon=six; an octagon=eight")
_NEXT_DAY = _pairs(
    "Monday=Tuesday; Tuesday=Wednesday; Wednesday=Thursday; Thursday=Friday; Friday=Saturday; Saturday=Sunday; "
    "Sunday=Monday"
)
_MONTHS = split_words("January February March April May June July August September October November December")
_MONTH_DAYS = dict(zip(_MONTHS, split_words("31 28 31 30 31 30 31 31 30 31 30 31"), strict=True))
_ORDINALS = split_words("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CONTINENTS = _pairs(
    """France=Europe; Germany=Europe; Italy=Europe; Spain=Europe; Norway=Europe; Poland=Europe; Greece=Europe;
    Portugal=Europe; Sweden=Europe; Ireland=Europe; Egypt=Africa; Kenya=Africa; Nigeria=Africa; Ghana=Africa;
    Morocco=Africa; Ethiopia=Africa; Tunisia=Africa; India=Asia; China=Asia; Japan=Asia; Vietnam=Asia; Thailand=Asia;
    Nepal=Asia; Iran=Asia; Iraq=Asia; Canada=North America; Mexico=North America; Cuba=North America;
    Peru=South America; Chile=South America; Brazil=South America; Argentina=South America; Colombia=South America"""
)
_LANGUAGES = _pairs(
    """France=French; Germany=German; Italy=Italian; Spain=Spanish; Portugal=Portuguese; Norway=Norwegian;
    Sweden=Swedish; Finland=Finnish; Denmark=Danish; Poland=Polish; Hungary=Hungarian; Greece=Greek; Turkey=Turkish;
    China=Chinese; Japan=Japanese; Russia=Russian; Brazil=Portuguese; Mexico=Spanish; Argentina=Spanish;
    England=English; Austria=German; Vietnam=Vietnamese; Thailand=Thai; Egypt=Arabic; Iceland=Icelandic"""
)
_MIXES = {
    f"{x} and {y}": mixed
    for a, b, mixed in (
        ("blue", "yellow", "green"), ("red", "yellow", "orange"), ("red", "blue", "purple"), ("red", "white", "pink"),
        ("black", "white", "grey"),
    )
    for x, y in ((a, b), (b, a))
}  # fmt: skip
_KINDS = {
    **dict.fromkeys(ANIMALS, "animal"),
    **dict.fromkeys(COLOURS, "colour"),
    **dict.fromkeys(FOODS, "food"),
    **dict.fromkeys(JOBS, "job"),
    **dict.fromkeys(HOBBIES, "hobby"),
    **dict.fromkeys(split_words("apple pear plum lemon cherry grape peach melon banana strawberry"), "fruit"),
    **dict.fromkeys(split_words("carrot potato onion cucumber spinach cabbage"), "vegetable"),
    **dict.fromkeys(split_words("piano violin flute drum guitar trumpet"), "instrument"),
    **dict.fromkeys(split_words("Paris London Rome Tokyo Berlin Madrid Oslo Cairo"), "city"),
    **dict.fromkeys(split_words("France Germany Italy Japan Norway Spain Egypt"), "country"),
}
_SEASONS = dict(zip(("spring", "summer", "autumn", "winter"), ("summer", "autumn", "winter", "spring"), strict=True))

RELATIONS: tuple[Relation, ...] = (
    Relation(
        name="capital",
        pairs=_CAPITALS,
        questions=(
            "What is the capital of {x}?", "What is the capital of {x}?", "What's the capital of {x}?",
            "What's the capital city of {x}?", "Which city is the capital of {x}?", "Name the capital of {x}.",
            "Tell me the capital of {x}.", "Can you tell me the capital of {x}?", "Do you know the capital of {x}?",
            "Capital of {x}?", "I would like to know the capital of {x}.", "What city is {x}'s capital?",
        ),
        statement="The capital of {x} is {y}.",
        checks=("Is {y} the capital of {x}?", "Is the capital of {x} {y}?",
            "True or false: {y} is the capital of {x}."),
        reverse=(
            "Which country has {y} as its capital?", "{y} is the capital of which country?",
            "What country is {y} the capital of?",
        ),
        reverse_statement="{y} is the capital of {x}.",
        unknown=("What is the capital of {x}?", "Tell me the capital of {x}.", "Name the capital of {x}."),
    ),
    Relation(
        name="colour",
        pairs=_COLOURS,
        questions=(
            "What colour is {x}?", "What color is {x}?", "Which colour does {x} have?", "Tell me the colour of {x}.",
            "What is the colour of {x}?", "What's the color of {x}?", "Do you know what colour {x} is?",
        ),
        statement="The colour of {x} is {y}.",
        checks=("Is {x} {y}?", "Is the colour of {x} {y}?", "True or false: the colour of {x} is {y}."),
    ),
    Relation(
        name="opposite",
        pairs=_OPPOSITES,
        questions=(
            "What is the opposite of {x}?", "What's the opposite of {x}?", "Tell me the opposite of {x}.",
            "Give me the opposite of the word {x}.", "Opposite of {x}?", "Which word is the opposite of {x}?",
            "What is the antonym of {x}?", "Name the opposite of {x}.", "What is the opposite of \"{x}\"?",
            "What word means the opposite of {x}?",
        ),
        statement="The opposite of {x} is {y}.",
        checks=("Is {y} the opposite of {x}?", "Is the opposite of {x} {y}?"),
    ),
    Relation(
        name="sound",
        pairs=_SOUNDS,
        questions=(
            "What do {x}s say?", "What sound do {x}s make?", "What sound does a {x} make?", "What does a {x} say?",
            "Which sound does a {x} make?",
            "What noise does a {x} make?", "How does a {x} sound?", "Tell me the sound of a {x}.",
            "Do you know what sound a {x} makes?",
        ),
        statement="The {x} says {y}.",
        checks=("Does a {x} say {y}?", "True or false: a {x} says {y}."),
        reverse=("Which animal says {y}?", "What animal goes {y}?", "Which animal makes the sound {y}?"),
        reverse_statement="The {x} says {y}.",
    ),
    Relation(
        name="young",
        pairs=_YOUNG,
        questions=(
            "What is a baby {x} called?", "What do you call a baby {x}?", "What is the name for a young {x}?",
            "What's a young {x} called?", "How do we call a baby {x}?",
        ),
        statement="A baby {x} is called a {y}.",
        checks=("Is a baby {x} called a {y}?", "True or false: a baby {x} is called a {y}."),
    ),
    Relation(
        name="legs",
        pairs=_LEGS,
        questions=("How many legs does a {x} have?", "How many legs has a {x}?", "Tell me how many legs a {x} has."),
        statement="A {x} has {y} legs.",
        checks=("Does a {x} have {y} legs?", "True or false: a {x} has {y} legs."),
    ),
    Relation(
        name="plural",
        pairs=_PLURALS,
        questions=(
            "What is the plural of {x}?", "What's the plural of {x}?", "Tell me the plural of {x}.", "Plural of {x}?",
            "What is the plural form of {x}?", "Give me the plural of the word {x}.",
            "How do you write {x} in the plural?", "What is the plural of \"{x}\"?",
        ),
        statement="The plural of {x} is {y}.",
        checks=("Is {y} the plural of {x}?", "Is the plural of {x} {y}?"),
    ),
    Relation(
        name="unit",
        pairs=_UNITS,
        questions=(
            "How many {x}?", "How many {x}?", "Do you know how many {x}?", "Tell me how many {x}.",
            "Can you tell me how many {x}?",
        ),
        statement="{y} {x}.",
    ),
    Relation(
        name="sides",
        pairs=_SIDES,
        questions=("How many sides does {x} have?", "How many sides has {x}?", "Tell me how many sides {x} has."),
        statement="The number of sides of {x} is {y}.",
    ),
    Relation(
        name="day_after",
        pairs=_NEXT_DAY,
        questions=(
            "What day comes after {x}?", "Which day is after {x}?", "What is the day after {x}?", "What follows {x}?",
            "What comes after {x}?", "Today is {x}. What day is tomorrow?", "If today is {x}, what day is it tomorrow?",
        ),
        statement="The day after {x} is {y}.",
        checks=("Does {y} come after {x}?", "Is {y} the day after {x}?"),
    ),
    Relation(
        name="day_before",
        pairs={after: before for before, after in _NEXT_DAY.items()},
        questions=(
            "What day comes before {x}?", "Which day is before {x}?", "What is the day before {x}?",
            "Today is {x}. What day was yesterday?", "If today is {x}, what day was it yesterday?",
        ),
        statement="The day before {x} is {y}.",
    ),
    Relation(
        name="month_after",
        pairs=dict(zip(_MONTHS, (*_MONTHS[1:], _MONTHS[0]), strict=True)),
        questions=("What month comes after {x}?", "Which month is after {x}?", "What is the month after {x}?"),
        statement="The month after {x} is {y}.",
        checks=("Does {y} come after {x}?", "Is {y} the month after {x}?"),
    ),
    Relation(
        name="month_before",
        pairs=dict(zip((*_MONTHS[1:], _MONTHS[0]), _MONTHS, strict=True)),
        questions=("What month comes before {x}?", "Which month is before {x}?", "What is the month before {x}?"),
        statement="The month before {x} is {y}.",
    ),
    Relation(
        name="month_days",
        pairs=_MONTH_DAYS,
        questions=("How many days does {x} have?", "How many days are in {x}?", "How long is {x} in days?"),
        statement="The month of {x} has {y} days.",
    ),
    Relation(
        name="month_number",
        pairs=dict(zip(_ORDINALS, _MONTHS, strict=True)),
        questions=("What is the {x} month of the year?", "Which month is the {x} of the year?", "Name the {x} month."),
        statement="The {x} month of the year is {y}.",
    ),
    Relation(
        name="letter_after",
        pairs=dict(pairwise(_ALPHABET)),
        questions=(
            "Which letter comes after {x}?", "What letter comes after {x} in the alphabet?",
            "What is the letter after {x}?",
        ),
        statement="The letter after {x} is {y}.",
    ),
    Relation(
        name="continent",
        pairs=_CONTINENTS,
        questions=("On which continent is {x}?", "Which continent is {x} in?", "What continent is {x} on?",
                   "On what continent does {x} lie?", "Where is {x}?"),
        statement="The country {x} is in {y}.",
        checks=("Is {x} in {y}?", "Is {x} a country in {y}?"),
    ),
    Relation(
        name="language",
        pairs=_LANGUAGES,
        questions=("What language do people speak in {x}?", "Which language is spoken in {x}?",
                   "What is the language of {x}?", "What do people speak in {x}?"),
        statement="In {x} people speak {y}.",
        checks=("Do people speak {y} in {x}?", "Is {y} spoken in {x}?"),
    ),
    Relation(
        name="mix",
        pairs=_MIXES,
        questions=("What colour do you get when you mix {x}?", "What color do you get when you mix {x}?",
                   "What do {x} make?", "Which colour do {x} make?", "Mix {x}. What colour is it?"),
        statement="When you mix {x}, you get {y}.",
        checks=("Do {x} make {y}?", "Do you get {y} when you mix {x}?"),
    ),
    Relation(
        name="kind",
        pairs=_KINDS,
        questions=("What kind of thing is {x}?", "What kind of word is {x}?",
            "Is {x} an animal, a food, a job or something else?",
                   "Which group does {x} belong to?", "{x} is an example of what?"),
        statement="The word {x} stands for this kind of thing: {y}.",
    ),
    Relation(
        name="season",
        pairs=_SEASONS,
        questions=("Which season comes after {x}?", "What season follows {x}?", "What comes after {x}?"),
        statement="The season after {x} is {y}.",
    ),
)  # fmt: skip
"""All relations; a value may have several keys only where no reverse question exists."""
