"""Muon for the hidden matrices and AdamW for the rest, over float32 master copies of low-precision
weights.

Rule of this module: gradients in, weights out; it knows nothing of schedules, data or the model's
structure beyond names and shapes. Muon: Jordan et al. 2024 (momentum orthogonalised by
Newton-Schulz), with the scale of Liu et al. 2025 (arXiv 2502.16982) so that one learning rate
suits matrices of any shape. Matrices of one shape are stacked, so that a step costs a few batched
products.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Newton-Schulz's quintic, as in Jordan et al."""


def orthogonalise(stack: Tensor, steps: int) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly, of a stack (count, rows, columns) with rows <=
    columns."""
    a, b, c = COEFFICIENTS
    x: Tensor = stack.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x


class Optimizer:
    """Steps a model's weights in place.

    Learning rates are given per step as a factor of `matrix_rate` (Muon) and `other_rate` (AdamW:
    embedding, norms, biases). The state, master weights included, goes through `state_dict`.
    """

    def __init__(
        self,
        model: nn.Module,
        matrix_rate: float,
        other_rate: float,
        decay: float = 0.05,
        newton_schulz_steps: int = 5,
        compiled: bool = True,
    ) -> None:
        self._rates = (matrix_rate, other_rate)
        self._decay = decay
        self._newton_schulz_steps = newton_schulz_steps
        stacks: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        self._others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embedding" not in name:
                stacks[tuple(parameter.shape)].append(parameter)
            else:
                self._others.append(parameter)
        self._stacks = list(stacks.values())
        self._masters = [torch.stack([p.detach().float() for p in stack]) for stack in self._stacks]
        self._momenta = [torch.zeros_like(m) for m in self._masters]
        self._other_masters = [p.detach().float().clone() for p in self._others]
        self._first = [torch.zeros_like(m) for m in self._other_masters]
        self._second = [torch.zeros_like(m) for m in self._other_masters]
        self._steps = 0
        self._orthogonalise = (
            torch.compile(orthogonalise, dynamic=False) if compiled else orthogonalise
        )

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update from the parameters' gradients, which are then cleared."""
        self._steps += 1
        self._step_matrices(self._rates[0] * factor)
        self._step_others(self._rates[1] * factor)

    def _step_matrices(self, rate: float) -> None:
        for stack, master, momentum in zip(self._stacks, self._masters, self._momenta, strict=True):
            gradient = torch.stack([p.grad for p in stack if p.grad is not None]).float()
            momentum.lerp_(gradient, 0.05)
            update = gradient.lerp_(momentum, 0.95)
            rows, columns = update.shape[1:]
            if rows > columns:
                update = self._orthogonalise(update.mT.contiguous(), self._newton_schulz_steps).mT
            else:
                update = self._orthogonalise(update, self._newton_schulz_steps)
            master.mul_(1 - rate * self._decay).add_(
                update.float(), alpha=-rate * 0.2 * max(rows, columns) ** 0.5
            )
            for parameter, weights in zip(stack, master, strict=True):
                parameter.copy_(weights)
                parameter.grad = None

    def _step_others(self, rate: float, betas: tuple[float, float] = (0.9, 0.97)) -> None:
        gradients = [p.grad.float() for p in self._others if p.grad is not None]
        torch._foreach_lerp_(self._first, gradients, 1 - betas[0])
        torch._foreach_mul_(self._second, betas[1])
        torch._foreach_addcmul_(self._second, gradients, gradients, 1 - betas[1])
        scale = torch._foreach_div(self._second, 1 - betas[1] ** self._steps)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, 1e-10)
        torch._foreach_addcdiv_(
            self._other_masters, self._first, scale, -rate / (1 - betas[0] ** self._steps)
        )
        for parameter, weights in zip(self._others, self._other_masters, strict=True):
            parameter.copy_(weights)
            parameter.grad = None

    def named_masters(self, model: nn.Module) -> dict[str, Tensor]:
        """The float32 weights under the model's own parameter names (views, not copies)."""
        found: dict[int, Tensor] = {}
        for stack, master in zip(self._stacks, self._masters, strict=True):
            found.update((id(p), w) for p, w in zip(stack, master, strict=True))
        found.update((id(p), w) for p, w in zip(self._others, self._other_masters, strict=True))
        return {name: found[id(p)] for name, p in model.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        names = ("_masters", "_momenta", "_other_masters", "_first", "_second", "_steps")
        return {name: getattr(self, name) for name in names}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`'s result, and the model's weights from the masters."""
        self._steps = state["_steps"]
        for name in ("_masters", "_momenta", "_other_masters", "_first", "_second"):
            for own, saved in zip(getattr(self, name), state[name], strict=True):
                own.copy_(saved)
        for stack, master in zip(self._stacks, self._masters, strict=True):
            for parameter, weights in zip(stack, master, strict=True):
                parameter.copy_(weights)
        for parameter, weights in zip(self._others, self._other_masters, strict=True):
            parameter.copy_(weights)
