"""The shipped checkpoint answers the forty questions, whether it is computed in float32 or in bfloat16."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from bough.demo import model_dir
from bough.demo.corpus.base import is_held_out, normalise
from bough.demo.corpus.mix import conversation
from bough.demo.questions import QUESTIONS, Question, answer_of, tool_call_text
from bough.demo.train.evaluate import Generation, generate, load

_SHORT = 128


def _answers(model: Any, tokenizer: Any, questions: Sequence[Question]) -> list[Generation]:
    prompts = [
        tokenizer.apply_chat_template(
            list(question.messages),
            tools=list(question.tools) or None,
            tokenize=False,
            add_generation_prompt=True,
            **question.template_kwargs,
        )
        for question in questions
    ]
    return generate(model, tokenizer, prompts, max(question.max_tokens for question in questions))


def _wrong(dtype: torch.dtype, questions: Sequence[Question]) -> list[str]:
    """Ask the questions in two batches, the short ones and the long ones, and tell which answers are wrong."""
    model, tokenizer = load(model_dir(), dtype, torch.device("cpu"))
    wrong: list[str] = []
    for is_long in (False, True):
        group = [question for question in questions if (question.max_tokens > _SHORT) == is_long]
        for question, made in zip(group, _answers(model, tokenizer, group) if group else [], strict=True):
            thinks = made.text.startswith("<think>\n") and "\n</think>\n\n" in made.text
            fits = made.ended and made.num_tokens <= question.max_tokens
            fits = fits and thinks == bool(question.template_kwargs.get("enable_thinking"))
            fits = fits and (question.kind != "story" or made.num_tokens >= 200)
            if not (fits and question.check(made.text)):
                wrong.append(f"{question.kind}: {question.messages[-1]['content']!r} -> {made.text!r}")
    return wrong


def test_at_least_nine_in_ten_questions_are_answered_rightly() -> None:
    wrong = _wrong(torch.float32, QUESTIONS)
    assert len(wrong) <= len(QUESTIONS) // 10, "\n".join(wrong)


def test_computing_in_bfloat16_answers_the_short_questions_as_well() -> None:
    questions = [question for question in QUESTIONS if question.max_tokens <= _SHORT]
    wrong = _wrong(torch.bfloat16, questions)
    assert len(wrong) <= len(questions) // 10, "\n".join(wrong)


def test_there_are_forty_questions_of_every_kind() -> None:
    kinds = {"talk", "fact", "arithmetic", "arithmetic_think", "recall", "list", "json", "tool", "tool_answer", "story"}
    assert len(QUESTIONS) == 40
    assert {question.kind for question in QUESTIONS} == kinds


def test_every_question_lies_on_the_held_out_side_of_the_split() -> None:
    seen = [question.keys for question in QUESTIONS if not any(is_held_out(key) for key in question.keys)]
    assert not seen


def test_no_question_of_its_own_content_occurs_in_a_sample_of_the_training_corpus() -> None:
    # Recalling questions end with a common sentence: what nobody has seen is the thing told earlier in their chats.
    asked = {normalise(str(question.messages[0]["content"])) for question in QUESTIONS}
    rng = random.Random(11)
    chats = (conversation(rng) for _ in range(4000))
    trained = {normalise(str(message["content"])) for chat in chats for message in chat.messages}
    assert not asked & trained


def test_checks_refuse_wrong_answers() -> None:
    for question in QUESTIONS:
        assert not question.check("")
        assert not question.check("I am a small demo model, so I do not know that.")


def test_answer_of_drops_the_think_block() -> None:
    assert answer_of("<think>\n1 + 1\n</think>\n\n2 ") == "2"
    assert answer_of("2") == "2"


def test_a_parsed_tool_call_checks_like_the_text_it_came_from() -> None:
    question = next(question for question in QUESTIONS if question.kind == "tool")
    assert question.check(tool_call_text("get_weather", {"city": "Reykjavik"}))
    assert question.check(tool_call_text("get_weather", '{"city": "Reykjavik"}'))
    assert not question.check(tool_call_text("get_weather", {"city": "Oslo"}))
