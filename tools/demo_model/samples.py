"""Questions reworded at random, so that other words, cases and typing errors are understood."""

from __future__ import annotations

import math
import random
import re

from tools.demo_model.corpus import Corpus, Topic
from tools.demo_model.tokens import END, START, Segment

OPENINGS = (
    "Please tell me: ",
    "Hello, ",
    "Hi! ",
    "Hello! ",
    "Hey, ",
    "Can you tell me ",
    "I would like to know: ",
    "Quick question: ",
    "Tell me, ",
    "Please, ",
    "Sorry, ",
    "So, ",
    "And ",
    "Ok, ",
    "One question: ",
    "Could you tell me ",
    "I wonder ",
    "Do you know ",
)
ENDINGS = (
    " please",
    ", please?",
    " Thanks!",
    " Thank you.",
    " Be brief.",
    " Answer in one sentence.",
    " Explain it simply.",
    " I am new here.",
    " Can you tell me?",
    " Please explain.",
    " in Lading?",
    " with Lading?",
)
SYLLABLES = (
    "ba",
    "zor",
    "ki",
    "plu",
    "men",
    "tra",
    "vo",
    "shi",
    "gle",
    "fin",
    "dro",
    "wex",
    "qua",
    "lom",
    "nu",
    "rip",
    "sta",
    "yel",
    "cho",
    "bri",
    "ton",
    "fu",
    "jas",
    "mer",
    "ock",
    "ul",
    "een",
    "ag",
    "ist",
    "ph",
)
STOP_WORDS = frozenset(("the", "a", "an", "do", "does", "is", "are", "of", "to", "i", "it", "there", "can"))


def prompt_text(role: str, content: str) -> str:
    """One finished turn as the chat template writes it."""
    return f"{START}{role}\n{content.strip()}{END}\n"


def plain(question: str) -> str:
    """`question` without case and punctuation, for comparing."""
    return " ".join(re.findall(r"[a-z0-9]+", question.lower()))


def misspell(word: str, rng: random.Random) -> str:
    """`word` with one typing error: two letters swapped, one lost or one doubled."""
    at = rng.randrange(len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if kind == 1 else word[:at] + word[at] + word[at:]


class Sampler:
    """An endless, seeded stream of training samples drawn from a corpus."""

    def __init__(self, corpus: Corpus, rng: random.Random) -> None:
        """Draws with `rng` only, so equal seeds give equal streams."""
        self.corpus = corpus
        self.rng = rng
        self.followups = [(question, topic) for topic in corpus.topics for question in topic.followups]
        self.popularity = [math.sqrt(len(topic.questions) + len(topic.phrases)) for topic in corpus.topics]
        self.forbidden = {plain(question) for question, _ in corpus.held_out}

    def sample(self) -> list[Segment]:
        """One chat or one plain text, without the BOS token."""
        roll = self.rng.random()
        if roll < 0.04:
            return self.document()
        if roll < 0.08:
            return self.plain_question()
        if roll < 0.17:
            return self.chat(self.rng.choice((2, 2, 2, 2, 3, 3, 5)))
        return self.chat(1)

    def document(self) -> list[Segment]:
        """A plain text, all of which is learned."""
        return [(self.rng.choice(self.corpus.documents) + END, True)]

    def plain_question(self) -> list[Segment]:
        """A question and its answer without the chat template, as a client of ``/v1/completions`` may write it."""
        question, answer = self.turn(first=True)
        before, between = self.rng.choice(
            (("", "\n"), ("", "\n\n"), ("Q: ", "\nA: "), ("Question: ", "\nAnswer: "), ("User: ", "\nAssistant: "))
        )
        return [(before + question + between.rstrip(" "), False), (" " * between.endswith(" ") + answer + END, True)]

    def chat(self, turns: int) -> list[Segment]:
        """A conversation of so many turns, sometimes under a system prompt."""
        system = self.rng.random() < 0.3
        segments = [(prompt_text("system", self.system()), False)] if system else []
        for number in range(turns):
            question, answer = self.turn(first=number == 0)
            segments.append((prompt_text("user", question) + f"{START}assistant\n", False))
            segments += [(answer + END, True), ("\n", False)]
        return segments[:-1]

    def system(self) -> str:
        """A system prompt: one or two of the corpus."""
        return " ".join(self.rng.sample(self.corpus.systems, self.rng.choice((1, 1, 1, 2))))

    def turn(self, first: bool) -> tuple[str, str]:
        """A question as somebody may type it, and its answer."""
        rng = self.rng
        roll = rng.random()
        if not first and roll < 0.35:
            question, topic = rng.choice(self.followups)
        else:
            topic = self.corpus.unrelated if roll > 0.72 else rng.choices(self.corpus.topics, self.popularity)[0]
            question = self.question(topic)
        return self.reword(question), topic.answer

    def question(self, topic: Topic) -> str:
        """A question that `topic` answers, framed or whole, and never one that is held out."""
        while True:
            if topic.phrases and self.rng.random() < 0.4:
                kind, phrase = self.rng.choice(topic.phrases)
                question = self.rng.choice(self.corpus.frames[kind]).replace("{it}", phrase)
            else:
                question = self.rng.choice(topic.questions)
            question = self.fill(question)
            if plain(question) not in self.forbidden:
                return question[:1].upper() + question[1:]

    def fill(self, template: str) -> str:
        """`template` with a word for each slot; two slots of one name get two words."""
        while "{" in template:
            name = template[template.index("{") + 1 : template.index("}")]
            template = template.replace("{" + name + "}", self.word(name), 1)
        return template

    def word(self, slot: str) -> str:
        """A word for `slot`; ``number`` and ``made_up`` are invented, since a list would be learned by heart."""
        if slot == "number":
            return str(self.rng.randrange(3, self.rng.choice((20, 100, 3000))))
        if slot == "made_up":
            return "".join(self.rng.choices(SYLLABLES, k=self.rng.randint(2, 4)))
        return self.rng.choice(self.corpus.slots[slot])

    def reword(self, question: str) -> str:
        """`question` with the habits of typing: openings, endings, case, punctuation, lost words, errors."""
        rng = self.rng
        if rng.random() < 0.12:
            question = rng.choice(OPENINGS) + question[:1].lower() + question[1:]
        if rng.random() < 0.08:
            question += rng.choice(ENDINGS)
        if rng.random() < 0.30:
            question = question.rstrip("?.!")
        elif rng.random() < 0.08:
            question = question.rstrip("?.!") + rng.choice(("??", "!", ".", "...", " ?", "?!"))
        if rng.random() < 0.10:
            question = self.damage(question)
        roll = rng.random()
        if roll < 0.30:
            return question.lower()
        return question.upper() if roll < 0.33 else question

    def damage(self, question: str) -> str:
        """`question` without its small words, or with one typing error in a longer word."""
        words = question.split(" ")
        if self.rng.random() < 0.4:
            return " ".join(w for w in words if w.lower() not in STOP_WORDS) or question
        long = [i for i, w in enumerate(words) if len(w) > 3 and w.isalpha()]
        if long:
            at = self.rng.choice(long)
            words[at] = misspell(words[at], self.rng)
        return " ".join(words)
