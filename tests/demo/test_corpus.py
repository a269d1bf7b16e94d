"""The corpus generator: repeatable, true to its held-out split, and the same as the chat template."""

from __future__ import annotations

import random
from typing import Any

import pytest
from transformers import AutoTokenizer

from bough.demo import model_dir
from bough.demo.corpus import arithmetic, facts, lists, numbers, records, smalltalk, stories, wordplay
from bough.demo.corpus.base import Generator, draw, fill, is_held_out, join_words, with_article
from bough.demo.corpus.mix import KINDS, conversation, dev_conversation, plain_text
from bough.demo.corpus.recall import Memory
from bough.demo.corpus.render import chat_pieces
from bough.demo.corpus.tools import ToolBox

_GENERATORS: tuple[Generator, ...] = (
    arithmetic.direct,
    arithmetic.thinking,
    arithmetic.word_problem,
    facts.fact,
    lists.list_task,
    lists.echo,
    numbers.number_task,
    records.record,
    smalltalk.unknown,
    stories.story,
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(model_dir()))


def _rendered(tokenizer: Any, chat: Any) -> str:
    return str(
        tokenizer.apply_chat_template(
            list(chat.messages), tools=list(chat.tools) or None, tokenize=False, enable_thinking=chat.enable_thinking
        )
    )


def test_the_same_seed_gives_the_same_chats_and_another_seed_others() -> None:
    def chats(seed: int) -> list[Any]:
        rng = random.Random(seed)
        return [conversation(rng) for _ in range(50)]

    assert chats(5) == chats(5)
    assert chats(5) != chats(6)


@pytest.mark.parametrize("generator", _GENERATORS, ids=lambda generator: generator.__name__)
def test_training_exchanges_have_no_held_out_key_and_dev_exchanges_have_one(generator: Generator) -> None:
    rng = random.Random(3)
    for _ in range(200):
        assert not any(is_held_out(key) for key in draw(rng, generator, "train").keys)
    for _ in range(5):
        assert any(is_held_out(key) for key in draw(rng, generator, "dev").keys)


def test_what_users_tell_in_training_chats_is_never_held_out() -> None:
    for seed in range(300):
        memory = Memory(random.Random(seed), "train")
        while memory.tell():
            continue
        assert not any(is_held_out(f"recall:{name}:{value}") for name, value in memory.told.items())


def test_tool_requests_respect_the_split() -> None:
    for seed in range(100):
        assert not any(map(is_held_out, ToolBox(random.Random(seed), "train").request().keys))


def test_a_generator_without_held_out_content_is_refused_for_evaluation() -> None:
    with pytest.raises(RuntimeError, match="dev"):
        draw(random.Random(0), wordplay.word_task, "dev")


def test_every_chat_renders_as_the_chat_template_does_and_fits_the_context(tokenizer: Any) -> None:
    rng = random.Random(9)
    chats = [conversation(rng) for _ in range(1500)]
    chats += [dev_conversation(rng, kind) for kind in KINDS for _ in range(5)]
    for chat in chats:
        pieces = chat_pieces(chat)
        text = "".join(piece for piece, _ in pieces)
        assert text == _rendered(tokenizer, chat)
        ids = [token for piece, _ in pieces for token in tokenizer(piece, add_special_tokens=False)["input_ids"]]
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) <= 4096


def test_only_what_the_assistant_writes_has_full_weight() -> None:
    rng = random.Random(2)
    for _ in range(200):
        chat = conversation(rng)
        written = [piece for piece, weight in chat_pieces(chat) if weight == 1.0]
        assert len(written) == sum(message["role"] == "assistant" for message in chat.messages)
        assert all(piece.endswith("<|im_end|>") for piece in written)
        assert chat.enable_thinking == written[-1].startswith("<think>\n")


@pytest.mark.parametrize(("a", "b"), [(478, 356), (999, 1), (7, 5), (60, 940), (0, 0)])
def test_column_work_ends_in_the_right_result(a: int, b: int) -> None:
    assert arithmetic.think_add(a, b).endswith(f"So {a} + {b} = {a + b}")
    assert arithmetic.think_subtract(a, b).endswith(f"So {a} - {b} = {a - b}")


@pytest.mark.parametrize(("a", "b"), [(34, 27), (6, 77), (40, 90), (9, 9), (99, 99)])
def test_written_products_are_right(a: int, b: int) -> None:
    lines = arithmetic.think_multiply(a, b).splitlines()
    assert lines[-1] == f"So the product is {a * b}"
    assert all(_is_true(line) for line in lines if "=" in line)


def _is_true(line: str) -> bool:
    left, right = (side.replace("\N{MULTIPLICATION SIGN}", "*") for side in line.split(" = "))
    values = []
    for side in (left, right):
        terms = [part.split(" * ") for part in side.split(" + ")]
        values.append(sum(int(term[0]) * (int(term[1]) if len(term) > 1 else 1) for term in terms))
    return values[0] == values[1]


def test_stories_are_long_enough_and_keep_their_hero(tokenizer: Any) -> None:
    rng = random.Random(4)
    for _ in range(100):
        story = draw(rng, stories.story, "train")
        assert len(tokenizer(story.answer)["input_ids"]) >= 180


def test_plain_text_has_no_chat_markup() -> None:
    rng = random.Random(8)
    assert not any("<|" in plain_text(rng) for _ in range(100))


def test_filling_leaves_braces_of_the_slots_alone() -> None:
    assert fill("{a} is {b}", a="{b}", b="{x}") == "{b} is {x}"


def test_words_join_as_prose() -> None:
    assert [join_words(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [with_article(noun) for noun in ("owl", "fox", "unicorn")] == ["an owl", "a fox", "a unicorn"]
