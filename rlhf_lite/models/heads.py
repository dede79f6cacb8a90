"""Small heads on the last hidden states."""

from __future__ import annotations

from torch import Tensor, nn


class ValueHead(nn.Module):
    """A linear critic, in float32, that starts at zero.

    Zero start: the first advantages are then the rewards themselves instead of noise (Huang et al. 2024, "The
    N implementation details of RLHF with PPO").

    Args:
        hidden_size: H.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., H]`` hidden states to ``[...]`` values."""
        return self.linear(hidden.float()).squeeze(-1)
