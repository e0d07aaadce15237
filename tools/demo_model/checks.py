"""Does the model answer as it should? Each question asked greedily, compared word by word."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from tools.demo_model.corpus import Corpus
from tools.demo_model.llama import Llama
from tools.demo_model.samples import Sampler, prompt_text
from tools.demo_model.tokens import END, SPECIALS, START, Sample, Segment, encode
from tools.demo_model.training import to_batch


def question_segments(question: str, answer: str, system: str = "") -> list[Segment]:
    """One turn, as `Sampler.chat` writes it."""
    before = prompt_text("system", system) if system else ""
    return [(before + prompt_text("user", question) + f"{START}assistant\n", False), (answer + END, True)]


@torch.no_grad()
def writes_exactly(model: Llama, samples: Sequence[Sample]) -> list[bool]:
    """Whether greedy decoding would write exactly the learned part, for each sample.

    It would, if at every learned position the likeliest token is the right one; so one pass decides, without decoding.
    """
    verdicts: list[bool] = []
    for start in range(0, len(samples), 64):
        ids, weights = to_batch(samples[start : start + 64])
        right = model(ids)[:, :-1].argmax(-1) == ids[:, 1:]
        verdicts += (right | (weights[:, 1:] == 0)).all(dim=1).tolist()
    return verdicts


@dataclass(frozen=True, slots=True)
class Check:
    """How many questions of one kind got a right answer, and those that did not."""

    name: str
    total: int
    missed: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share answered rightly, 0 to 1."""
        return 1 - len(self.missed) / self.total

    def __str__(self) -> str:
        """One line for the report."""
        missed = f"  missed: {' | '.join(self.missed)}" if self.missed else ""
        return f"{self.name}: {self.total - len(self.missed)}/{self.total} ({self.share:.1%}){missed}"


def check(
    name: str, model: Llama, tokenizer: Tokenizer, wanted: Sequence[tuple[str, Sequence[str]]], system: str = ""
) -> Check:
    """Ask each question; right is any one of its answers, word by word."""
    flat = [(number, question, answer) for number, (question, answers) in enumerate(wanted) for answer in answers]
    samples = [encode(tokenizer, question_segments(question, answer, system)) for _, question, answer in flat]
    right = {n for (n, _, _), good in zip(flat, writes_exactly(model, samples), strict=True) if good}
    return Check(name, len(wanted), tuple(q for n, (q, _) in enumerate(wanted) if n not in right))


def all_checks(corpus: Corpus, model: Llama, tokenizer: Tokenizer, seed: int) -> list[Check]:
    """The trained questions, the same under a system prompt, reworded ones, unrelated ones, and the held-out ones."""
    sampler = Sampler(corpus, random.Random(seed))
    trained = [(sampler.fill(question), [topic.answer]) for topic in corpus.topics for question in topic.questions]
    reworded = [(sampler.reword(sampler.question(topic)), [topic.answer]) for topic in corpus.topics for _ in range(8)]
    unrelated = [(sampler.question(corpus.unrelated), [corpus.unrelated.answer]) for _ in range(400)]
    held_out = [(question, [corpus.answer(t) for t in sorted(topics)]) for question, topics in corpus.held_out]
    return [
        check("trained", model, tokenizer, trained),
        check("trained, with a system prompt", model, tokenizer, trained, "You are a helpful assistant."),
        check("reworded", model, tokenizer, reworded),
        check("unrelated", model, tokenizer, unrelated),
        check("held out", model, tokenizer, held_out),
    ]


@torch.no_grad()
def answer(model: Llama, tokenizer: Tokenizer, question: str, limit: int = 300) -> str:
    """What the model answers, decoded greedily; without a key-value cache, so slow."""
    ids = encode(tokenizer, question_segments(question, "")[:1]).ids
    start = len(ids)
    while len(ids) < start + limit:
        following = int(model(torch.tensor([ids]))[0, -1].argmax())
        if following == SPECIALS.index(END):
            break
        ids.append(following)
    return str(tokenizer.decode(ids[start:]))


def report(checks: Iterable[Check], floor: float) -> bool:
    """Print each check; true when all but the held-out one reach `floor`."""
    good = True
    for result in checks:
        print(result)
        good = good and (result.share >= floor or result.name == "held out")
    return good
