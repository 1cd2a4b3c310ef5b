"""Kernel generation: a function of PyTorch as a Triton, C, Numba or CUDA kernel, with evidence.

Rule: the test is written here from the reference, never by a model; nothing generated runs outside
the sandbox; what was not shown is said. Must not know LSP: the features and the command line do.
"""
