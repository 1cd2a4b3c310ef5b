"""Trains midspan's starter model from scratch: corpus, tokenizer, examples, model, training,
export.

Nothing here is imported by the language server, the backends or the benchmarks. What may be trained
on and what may be measured on is one rule, `benchmarks.holdout`.
"""
