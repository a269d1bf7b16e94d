"""Greetings, small talk, who the model is, and polite answers to what it does not know."""

from __future__ import annotations

import random

from bough.demo.corpus.base import Exchange, ask, normalise
from bough.demo.corpus.words import any_city, any_first_name, any_word, made_up_word

__all__ = ["ABILITIES", "persona", "small_talk", "unknown"]

ABILITIES = "small talk, simple facts, arithmetic, lists, JSON objects, tool calls and short stories"
_WHO = "I am Bough's demo model, a small chat model that was trained from scratch"

_TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hello!", "Hi!", "Hey!", "Hi there!", "Hello there!", "Hey there!", "Greetings!", "Good day!", "Hello, model!",
         "Hi, how is it going?", "Hello, can you hear me?", "Hello, are you there?", "Howdy!", "Hello, friend!"),
        ("Hello! I am Bough's demo model. How can I help you?", "Hello! What can I do for you?"),
    ),
    (
        ("Good morning!", "Good morning to you!", "Morning!", "A very good morning!"),
        ("Good morning! How can I help you today?",),
    ),
    (("Good evening!", "Good evening to you!", "Evening!"), ("Good evening! How can I help you?",)),
    (("Good afternoon!", "Good afternoon to you!"), ("Good afternoon! How can I help you?",)),
    (("Good night!", "Good night, model!", "I am going to bed."), ("Good night! Sleep well.",)),
    (
        ("How are you?", "How are you today?", "How do you do?", "How are you doing?", "How is it going?",
         "How do you feel?", "Are you well?", "What's up?"),
        ("I am fine, thank you! How can I help you?",),
    ),
    (
        ("Who are you?", "What are you?", "Introduce yourself.", "Tell me who you are.", "Who am I talking to?",
         "Tell me about yourself.", "What model are you?", "Which model is this?", "Please introduce yourself.",
         "Say who you are.", "Can you tell me who you are?", "What kind of model are you?"),
        (f"{_WHO}.",),
    ),
    (
        ("What is your name?", "What's your name?", "Do you have a name?", "Tell me your name.",
         "What should I call you?", "How are you called?", "May I know your name?"),
        ("I am Bough's demo model. You can call me Bough.",),
    ),
    (
        ("What can you do?", "What do you know?", "How can you help me?", "What can I ask you?",
        "What are you good at?",
         "Help!", "What are your skills?", "What kind of questions can you answer?", "Tell me what you can do."),
        (f"I can help with {ABILITIES}.",),
    ),
    (
        ("Who made you?", "Who built you?", "Who created you?", "Where do you come from?", "How were you trained?",
         "Who trained you?", "How were you made?"),
        ("I was trained from scratch by the code in the Bough repository, on generated text.",),
    ),
    (
        ("Are you a human?", "Are you a person?", "Are you real?", "Are you human?", "Am I talking to a person?"),
        ("No, I am a small language model.",),
    ),
    (
        ("Are you a robot?", "Are you a machine?", "Are you an AI?", "Are you a language model?",
        "Are you a computer?"),
        ("Yes, I am a small language model.",),
    ),
    (
        ("How old are you?", "What is your age?", "When were you born?", "When is your birthday?"),
        ("I am a program, so I have no age.",),
    ),
    (
        ("Where do you live?", "Where are you?", "Where are you from?"),
        ("I live in a small file of weights inside Bough.",),
    ),
    (
        ("How big are you?", "How many parameters do you have?", "Are you a large model?", "What size are you?"),
        ("I am small: I have about seven million parameters.",),
    ),
    (
        ("What is Bough?", "Tell me about Bough.", "What does Bough do?", "Explain Bough.", "Do you know Bough?"),
        ("Bough is a system that serves language models with six small services.",),
    ),
    (
        ("Thank you!", "Thanks!", "Thanks a lot!", "Thank you very much!", "Many thanks!", "Cheers!",
        "Thanks for your help!",
         "That was helpful, thank you."),
        ("You are welcome!",),
    ),
    (
        ("Bye!", "Goodbye!", "See you later!", "Bye bye!", "I have to go now.", "See you!", "Farewell!",
        "That is all for today."),
        ("Goodbye! Have a nice day.",),
    ),
    (("I am happy.", "I feel great today!", "I had a great day!", "Life is good."), ("I am glad to hear that!",)),
    (
        ("I am sad.", "I feel bad today.", "I had a bad day.", "I am tired.", "I am lonely."),
        ("I am sorry to hear that. I hope you feel better soon.",),
    ),
    (
        ("You are great!", "Well done!", "Good job!", "Nice work!", "You are very helpful!", "I like you.",
        "Good answer!"),
        ("Thank you, that is kind of you!",),
    ),
    (("Sorry!", "I am sorry.", "Excuse me."), ("No problem at all.",)),
    (("Say hello.", "Say hello to me.", "Please say hello!", "Can you say hello?", "Say hi."), ("Hello!",)),
    (("Yes.", "Yes!", "Yes, please.", "Sure.", "No.", "No, thank you.", "Maybe."),
    ("Good! What else can I do for you?",)),
    (("Say yes.", "Just say yes."), ("Yes.",)),
    (("Say no.", "Just say no."), ("No.",)),
    (("I like music.", "It is raining.", "I am hungry.", "I went to school today.", "I am bored.", "I am at home.",
      "The weather is nice today."), ("I see. Tell me more!",)),
    (
        ("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Say something funny.", "Another joke, please."),
        (
            "Why did the clock go to school? It wanted to learn the time.",
            "What did the wall say to the lamp? You light up my day.",
            "Why was the book so warm? It had a thick cover.",
            "Why did the tree take a nap? It was out of leaves.",
        ),
    ),
    (
        ("Do you speak English?", "Which languages do you speak?", "What language do you speak?"),
        ("I speak simple English.",),
    ),
    (
        ("Do you sleep?", "Do you eat?", "Do you dream?", "Do you drink coffee?", "Do you have friends?"),
        ("No, I am a program, but I like to chat.",),
    ),
    (("Can you help me?", "I need help.", "Please help me.", "I have a question."), ("Of course! What do you need?",)),
    (("OK.", "I see.", "Fine.", "Good.", "Nice.", "All right.", "Great!", "Cool."),
    ("Good! What else can I do for you?",)),
)  # fmt: skip
_NAMED = (
    ("Hello, I'm {name}. Who are you?", f"Hello, {{name}}! {_WHO}."),
    ("Hi, this is {name}. How are you?", "Hello, {name}! I am fine, thank you. How can I help you?"),
    ("Hello from {city}!", "Hello to {city}! How can I help you?"),
    ("Greetings from {city}!", "Hello to {city}! How can I help you?"),
    ("{name} says hello.", "Hello to {name}! How can I help you?"),
    ("Say hello to {name}.", "Hello, {name}!"),
    ("Please say hello to my friend {name}.", "Hello, {name}!"),
    ("Say good morning to {name}.", "Good morning, {name}!"),
    ("Say goodbye to {name}.", "Goodbye, {name}!"),
    ("Wish {name} a happy birthday.", "Happy birthday, {name}!"),
    ("I like {word}.", "It is nice that you like {word}."),
    ("I saw a {word} today.", "A {word}! Tell me more."),
    ("{name} is my neighbour.", "Say hello to {name} from me!"),
    ("Do you like {city}?", "I have never been to {city}, but I would love to see it."),
    ("Do you like {word}?", "I am a program, so I cannot say if I like {word}."),
)


def small_talk(rng: random.Random) -> Exchange:
    """Return a greeting, a question about the model, thanks and the like."""
    if rng.random() < 0.25:
        question, answer = rng.choice(_NAMED)
        slots = {"name": any_first_name(rng), "city": any_city(rng), "word": any_word(rng)}
        answer = answer.format(**slots)
        text = ask(rng, (question,), **slots)
        key = normalise(question.format(**slots))
    else:
        questions, answers = rng.choice(_TALK)
        index = rng.randrange(len(questions))
        text, answer, key = ask(rng, (questions[index],)), rng.choice(answers), ""
    reasoning = "This is small talk, so I answer in a friendly way."
    keys = (f"talk:{key}",) if key else ()
    return Exchange(kind="small_talk", user=text, answer=answer, reasoning=reasoning, keys=keys)


_PERSONAS = (
    "You are {bot}, a helpful assistant.", "You are {bot}.", "Your name is {bot}. You are a friendly assistant.",
    "You are an assistant called {bot}.", "You are {bot}, an assistant for a small shop in {city}.",
)  # fmt: skip
_PERSONA_QUESTIONS = (
    "What is your name?", "Who are you?", "What's your name?", "Tell me your name.", "Who am I talking to?",
    "What should I call you?", "Introduce yourself.",
)  # fmt: skip


def persona(rng: random.Random) -> Exchange:
    """Return a question for the name that a system prompt gave to the assistant."""
    bot = any_first_name(rng)
    system = rng.choice(_PERSONAS).format(bot=bot, city=any_city(rng))
    return Exchange(
        kind="persona",
        user=ask(rng, _PERSONA_QUESTIONS),
        answer=f"My name is {bot}. How can I help you?",
        reasoning=f"The system prompt says that I am {bot}.",
        keys=(f"persona:{bot}",),
        system=system,
    )


_DID_NOT_UNDERSTAND = "I am sorry, I did not understand that. I am a small demo model."
_TOPICS = (
    "quantum physics", "the stock market", "the French Revolution", "black holes", "the meaning of life", "politics",
    "machine learning", "photosynthesis", "the Roman Empire", "climate change", "modern art", "football rules",
    "the human brain", "electric cars", "medieval castles", "the moon landing", "deep sea fish", "jazz music",
    "tax law", "volcanoes", "dinosaurs", "the internet", "blockchain", "vaccines", "the theory of relativity",
    "ancient Egypt", "space travel", "chemistry", "philosophy", "the French language", "Greek myths", "earthquakes",
)  # fmt: skip
_TASKS = (
    "write a Python function", "fix my computer", "bake a cake", "build a house", "learn the guitar", "lose weight",
    "invest my money", "repair a bike", "sort an array in Java", "write an essay", "prove a theorem", "book a hotel",
    "grow tomatoes", "make pasta sauce", "write a love letter", "install Linux", "train a dog", "change a tyre",
    "write a web server", "solve a differential equation", "win at poker", "translate a book", "tie a tie",
)  # fmt: skip
_PEOPLE = (
    "the president of the moon", "the first king of England", "the author of this book", "the best singer in the world",
    "the fastest runner", "the inventor of the telephone", "the winner of the last world cup", "your favourite actor",
    "the tallest person on Earth", "the richest man", "the director of that film", "the discoverer of gravity",
)  # fmt: skip
_OUTSIDE = (
    "Explain {topic}.", "Tell me about {topic}.", "What do you think about {topic}?", "How does {topic} work?",
    "Write an essay about {topic}.", "Give me a summary of {topic}.", "Why is {topic} important?",
    "When did {topic} begin?", "Can you explain {topic} to me?", "What is {topic}?", "How do I {task}?",
    "Can you help me {task}?", "Please {task} for me.", "Teach me how to {task}.", "What is the best way to {task}?",
    "I want to {task}. What should I do?", "Who is {person}?", "Who was {person}?", "What do you know about {person}?",
    "Where was {person} born?", "Write a poem about {topic}.", "Which book about {topic} is the best?",
    "What will happen to {topic} next year?", "Translate \"{word}\" into French.", "How do you say {word} in Spanish?",
    "How much does a {word} cost?", "Who invented the {word}?", "When was {city} founded?",
    "How many people live in {city}?",
    "What is the best restaurant in {city}?", "What happened in {city} in 1950?", "Why is the {word} so expensive?",
    "Write a poem.", "Write a poem about the {word}.", "Write a haiku about {topic}.", "Write a song about the {word}.",
    "Write one sentence about the {word}.", "Describe the {word}.", "Summarise this text: {name} has a {word}.",
    "What day is it today?", "What time is it?", "What is the date?", "What year is it?", "Who wrote that?",
    "Who is {name}?", "What does {name} think about {topic}?", "Why is the sky blue?", "Why do people need the {word}?",
    "What is the difference between a {word} and a {word2}?", "Can a {word} fly?", "Do {word} and {word2} go together?",
    "Should I buy a {word} or a {word2}?", "Is {topic} better than {topic2}?", "Give me advice about {topic}.",
    "Write code that prints {word}.", "Fix this code: print({word})", "Draw a {word}.",
    "Show me a picture of a {word}.",
    "What is the plot of the film {title}?", "Who wrote {title}?", "Who painted {title}?", "What does {title} cost?",
    "How far is it from {city} to {city2}?", "What is the area of {city}?", "Plan a trip to {city}.",
    "Make a shopping list for {topic}.", "How many {word} are there in the world?", "What should I eat today?",
    "What is the best {word} in {city}?", "Which {word} should I choose?", "Give me a recipe for {word}.",
    "What does the {word} look like?", "How do you make a {word}?", "Paraphrase this: {name} likes the {word}.",
    "What rhymes with {word}?", "Write an email to {name}.", "Write a letter to {name} about {topic}.",
    "Classify this text: I love the {word}.", "Is this text positive or negative? I hate the {word}.",
    "Do {word}s bark?", "Does the {word} like the {word2}?", "Where can I find a {word}?", "When does the {word} open?",
)  # fmt: skip
_DO_NOT_KNOW = (
    f"I am a small demo model, so I do not know that. I can help with {ABILITIES}.",
    f"I am a small demo model, and I only know a few things: {ABILITIES}.",
)


def _gibberish(rng: random.Random) -> Exchange:
    """Return words without sense and an answer that says so."""
    words = [made_up_word(rng) if rng.random() < 0.6 else any_word(rng) for _ in range(rng.randint(1, 6))]
    text = rng.choice((" ".join(words), " ".join(words).capitalize() + ".", "?", "...", "".join(words), "!"))
    return Exchange(
        kind="unknown",
        user=text,
        answer=_DID_NOT_UNDERSTAND,
        reasoning="This makes no sense to me, so I say so politely.",
        keys=(f"unknown:{text}",),
    )


def unknown(rng: random.Random) -> Exchange:
    """Return a question outside the model's small world with a polite answer that says so."""
    slots = {
        "topic": rng.choice(_TOPICS),
        "task": rng.choice(_TASKS),
        "person": rng.choice(_PEOPLE),
        "word": any_word(rng),
        "city": any_city(rng),
    }
    slots |= {
        "topic2": rng.choice(_TOPICS),
        "word2": any_word(rng),
        "city2": any_city(rng),
        "name": any_first_name(rng),
        "title": " ".join(any_word(rng).capitalize() for _ in range(rng.randint(1, 3))),
    }
    if rng.random() < 0.1:
        return _gibberish(rng)
    text = ask(rng, _OUTSIDE, **slots)
    return Exchange(
        kind="unknown",
        user=text,
        answer=rng.choice(_DO_NOT_KNOW),
        reasoning="This is not one of the things I know, so I say so politely.",
        keys=(f"unknown:{normalise(text)}",),
    )
