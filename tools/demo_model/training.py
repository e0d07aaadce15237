"""From a corpus to weights: batches, learning rates, Muon and AdamW, one loop."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from tools.demo_model.corpus import Corpus
from tools.demo_model.llama import Llama, Shape
from tools.demo_model.samples import Sampler
from tools.demo_model.tokens import PAD, SPECIALS, Sample, encode


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the model is trained; with the corpus and `Shape` it determines the weights."""

    seed: int = 20261121
    threads: int = 1
    steps: int = 1600
    batch_tokens: int = 1000
    warmup_steps: int = 50
    matrix_rate: float = 0.012
    vector_rate: float = 5e-3
    weight_decay: float = 0.1
    pool_samples: int = 800
    """Samples are drawn so many at a time and sorted by length, so that little is spent on padding."""
    cut_share: float = 0.75
    cut_tokens: int = 8
    """Of this share of the samples only the start of the last answer is learned: there the question is decided."""


def to_batch(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Ids and weights, ``[batch, longest]``, padded on the right with weight 0."""
    longest = max(len(s.ids) for s in samples)
    ids = torch.full((len(samples), longest), SPECIALS.index(PAD))
    weights = torch.zeros(len(samples), longest)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        weights[row, : len(sample.ids)] = torch.tensor(sample.weights)
    return ids, weights


def training_sample(sampler: Sampler, tokenizer: Tokenizer, recipe: Recipe) -> Sample:
    """A conversation or text, often cut soon after its last answer begins."""
    segments = sampler.sample()
    sample = encode(tokenizer, segments)
    if len(segments) > 1 and sampler.rng.random() < recipe.cut_share:
        end = len(encode(tokenizer, segments[:-1]).ids) + recipe.cut_tokens
        return Sample(sample.ids[:end], sample.weights[:end])
    return sample


def batches(sampler: Sampler, tokenizer: Tokenizer, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of samples of similar length, at most ``recipe.batch_tokens`` tokens each, padding included."""
    while True:
        pool = [training_sample(sampler, tokenizer, recipe) for _ in range(recipe.pool_samples)]
        groups: list[list[Sample]] = [[]]
        for sample in sorted(pool, key=lambda sample: len(sample.ids)):
            if groups[-1] and (len(groups[-1]) + 1) * len(sample.ids) > recipe.batch_tokens:
                groups.append([])
            groups[-1].append(sample)
        sampler.rng.shuffle(groups)
        yield from map(to_batch, groups)


def rate_share(step: int, recipe: Recipe) -> float:
    """Share of the full learning rate: a linear warm-up, then a line down to nearly nothing."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    return max(0.01, 1 - (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps))


class Muon(torch.optim.Optimizer):
    """Momentum whose step is the nearest orthogonal matrix, for weights with two dimensions.

    Source: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). Five steps of their
    Newton-Schulz iteration, with their coefficients.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        """``lr`` is the size of a step, in units of the matrix's own scale."""
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002  # the signature is torch's
        """Move every weight by one step."""
        for group in self.param_groups:
            for weight in group["params"]:
                velocity = self.state[weight].setdefault("velocity", torch.zeros_like(weight))
                velocity.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalized(weight.grad.lerp(velocity, group["momentum"]))
                scale = max(1, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def orthogonalized(matrix: Tensor) -> Tensor:
    """A matrix with the singular vectors of ``matrix`` and singular values near 1."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def weighted_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy of the next token, by `weights`."""
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    return (losses * wanted).sum() / wanted.sum()


def train(corpus: Corpus, tokenizer: Tokenizer, shape: Shape, recipe: Recipe) -> Llama:
    """A model trained from scratch, its weights rounded to what bfloat16 can hold."""
    torch.manual_seed(recipe.seed)
    model = Llama(shape).train()
    optimizers = optimizers_of(model, recipe)
    stream = batches(Sampler(corpus, random.Random(recipe.seed)), tokenizer, recipe)
    for step, (ids, weights) in zip(range(recipe.steps), stream, strict=False):
        loss = weighted_loss(model(ids), ids, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, full_rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = full_rate * rate_share(step, recipe)
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 49:
            print(f"step {step + 1}/{recipe.steps}  loss {loss.item():.4f}", flush=True)
    return round_to_bfloat16(model).eval()


def optimizers_of(model: Llama, recipe: Recipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices, AdamW for the embedding and the scales; each with its full learning rate."""
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.dim() == 2 and "embed" not in name]
    others = [weight for name, weight in named if weight.dim() == 1 or "embed" in name]
    return [
        (torch.optim.AdamW(others, lr=recipe.vector_rate, betas=(0.9, 0.98), weight_decay=0.0), recipe.vector_rate),
        (Muon(matrices, recipe.matrix_rate, recipe.weight_decay), recipe.matrix_rate),
    ]


def round_to_bfloat16(model: Llama) -> Llama:
    """`model` with each weight replaced by its nearest bfloat16, still stored as float32."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(torch.bfloat16))
    return model
