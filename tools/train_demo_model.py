"""Train Lading's built-in demo model from ``demo_corpus.toml`` and write it as a Hugging Face model directory.

    "$(lading engine path)/bin/python" -m tools.train_demo_model [--out DIR] [--check] [--ask QUESTION ...]

Run from the root of the repository. Needs torch, tokenizers and safetensors, which the engine environment has; takes
about ten minutes on one CPU core. ``--check`` and ``--ask`` do not train: they report on, or talk to, the model in DIR.

What is guaranteed: on one machine, with one version of torch and tokenizers, two runs write the same bytes. Seeds and
the number of threads are fixed and torch uses deterministic algorithms only. Elsewhere floating point sums differ in
the last bits, so the bytes differ; that the answers do not is checked at the end, from the weights as they are stored
(bfloat16), and the exit code says so.

Where to look: ``demo_corpus.toml`` holds what the model knows, `Shape` its size, `Recipe` its training, `Sampler` how
questions are reworded so that other words, cases and typing errors are understood.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path

import torch

from tools.demo_model.checks import all_checks, answer, report
from tools.demo_model.corpus import read_corpus
from tools.demo_model.files import DEFAULT_OUT, TOOLS, load_model, write_model
from tools.demo_model.llama import Shape
from tools.demo_model.tokens import train_tokenizer
from tools.demo_model.training import Recipe, train


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="directory of the model (default: %(default)s)")
    parser.add_argument(
        "--corpus", type=Path, default=TOOLS / "demo_corpus.toml", help="what to teach (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="do not train: check the model in --out")
    parser.add_argument(
        "--ask", nargs="+", metavar="QUESTION", help="do not train: print the answers of the model in --out"
    )
    return parser.parse_args()


def main() -> int:
    """Train, check and write; 0 when the model answers as it should, else 1."""
    options, recipe = arguments(), Recipe()
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    corpus = read_corpus(options.corpus)
    if options.check or options.ask:
        model, tokenizer = load_model(options.out)
        for question in options.ask or ():
            print(f"> {question}\n{answer(model, tokenizer, question)}\n")
        return 0 if options.ask or report(all_checks(corpus, model, tokenizer, seed=1), floor=0.95) else 1
    started = time.monotonic()
    tokenizer = train_tokenizer(corpus, Shape().vocab_size)
    model = train(corpus, tokenizer, Shape(), recipe)
    print(f"trained {sum(p.numel() for p in model.parameters()):,} parameters in {time.monotonic() - started:.0f} s")
    write_model(options.out, model, tokenizer)
    good = report(all_checks(corpus, model, tokenizer, seed=1), floor=0.95)
    weights = options.out / "model.safetensors"
    print(f"sha256:{hashlib.sha256(weights.read_bytes()).hexdigest()}  {weights}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
