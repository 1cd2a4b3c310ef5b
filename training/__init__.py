"""Trains midspan's starter model from scratch: corpus, tokenizer, examples, model, training,
export.

Nothing here is imported at run time by the language server or the backends; the benchmark imports
only `training.holdout`, which needs the standard library alone.
"""
