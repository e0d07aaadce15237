"""Special tokens, the chat template, the byte-level tokenizer, and text as weighted token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tools.demo_model.corpus import Corpus

PAD, BOS, END, START = "<|pad|>", "<|bos|>", "<|end|>", "<|start|>"
SPECIALS = (PAD, BOS, END, START)
"""Special tokens; the position is the id. END closes a turn and a text, so it is the one end-of-sequence token."""
Segment = tuple[str, bool]
"""A piece of text, and whether the model is to learn to write it (rather than to read it)."""

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start|>' + message['role'] + '\n' + (message['content'] or '') | trim + '<|end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant\n' }}{%- endif %}"
)


def tokenizer_texts(corpus: Corpus) -> Iterator[str]:
    """Texts whose words deserve tokens: all of the corpus, questions in lower case too."""
    for topic in (corpus.unrelated, *corpus.topics):
        yield from [topic.answer] * 4
        yield from topic.questions
        yield from (q.lower() for q in topic.questions)
        yield from topic.followups
        yield from (phrase for _, phrase in topic.phrases)
    for frames in corpus.frames.values():
        yield from frames
    for words in corpus.slots.values():
        yield from words
    yield from corpus.systems
    yield from corpus.documents
    yield from ("system\n", "user\n", "assistant\n", "tool\n") * 4


def train_tokenizer(corpus: Corpus, vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly `vocab_size` tokens: any text in, the same text out."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tokenizer_texts(corpus), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"the corpus yields {tokenizer.get_vocab_size()} tokens, not {vocab_size}: lower Shape.vocab_size"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIALS.index(BOS))]
    )
    return tokenizer


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids of a training sample and, for each, how much its prediction counts."""

    ids: list[int]
    weights: list[float]


def encode(tokenizer: Tokenizer, segments: Iterable[Segment]) -> Sample:
    """Tokens of `segments` behind BOS.

    Segments are encoded one by one; their borders are special tokens or line ends, where the tokenizer splits anyway.
    """
    ids, weights = [SPECIALS.index(BOS)], [0.0]
    for text, learned in segments:
        piece = tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        weights += [1.0 if learned else 0.0] * len(piece)
    return Sample(ids, weights)
