"""Templates: kernels for references that are everyday operations, written with no model.

Rule: a reference is recognised from its syntax tree (`trace`), operation by operation, never by its
name or text; where a template is not sure it refuses and says why. What comes out is checked like
any other candidate.
"""
