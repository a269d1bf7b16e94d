"""The demo model's tokenizer: byte-level BPE trained on the generated corpus, in Hugging Face's file format."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

__all__ = ["SPECIAL_TOKENS", "VISIBLE_TOKENS", "VOCAB_SIZE", "train_tokenizer", "write_tokenizer"]

VOCAB_SIZE = 4096
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Control tokens; they never show in decoded text."""
VISIBLE_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Single tokens that parsers look for, so they are not special and stay in decoded text."""

# Contractions, words with a leading space but no other mark (a quoted word is the word), single digits (so that the
# columns of a sum line up), punctuation with its leading space, line breaks, other white space.
_PIECES = r"'(?i:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_MIN_COUNT = 12


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Train a byte-level BPE without normalisation: every string comes back from its ids unchanged.

    Rare words are left out and the others count by the square root of their number: the made-up words of the corpus
    shall be spelled with syllables, while each real word becomes one entry, also the seldom ones.

    Args:
        texts: Training texts without control tokens.
        vocab_size: Number of entries with bytes and added tokens.
    """
    added = (*SPECIAL_TOKENS, *VISIBLE_TOKENS)
    tokenizer = Tokenizer(BPE())
    splitter = Split(Regex(_PIECES), behavior="isolated")
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))
    words = (piece for piece, count in counts.items() if count >= _MIN_COUNT for _ in range(math.isqrt(count)))
    byte_level = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = Sequence([splitter, byte_level])
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(added),
        min_frequency=2,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer=trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in VISIBLE_TOKENS])
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`; the chat template lies beside them as its own file."""
    tokenizer.save(str(folder / "tokenizer.json"))
    decoder = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in SPECIAL_TOKENS,
        }
        for token in (*SPECIAL_TOKENS, *VISIBLE_TOKENS)
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "bos_token": None,
        "chat_template": (folder / "chat_template.jinja").read_text(encoding="utf-8"),
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": context_length,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
