"""Steering vectors: directions in a model's hidden states, added to them while it answers.

`vector_file` is the format, `library` the user's folder of them, `pairs` what they are made from,
`training` how, `measures` what they are measured by. An engine that can add them has hooks of its
own (`backends.engines.hf_steering`).
"""
