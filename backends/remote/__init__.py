"""Engines elsewhere: what each wants to be sent, and how its answers are read. Knows no LSP."""
