"""Small heads on the last hidden states, and their files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_lite.files import atomic_file

VALUE_FILE = "value_head.safetensors"


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

    def save(self, folder: Path) -> None:
        """Write ``value_head.safetensors`` into ``folder``; a kill leaves the old file or the new."""
        with atomic_file(folder / VALUE_FILE) as temporary:
            save_file({name: tensor.detach() for name, tensor in self.state_dict().items()}, str(temporary))


def load_value_head(folder: Path, *, hidden_size: int) -> ValueHead:
    """The head that :meth:`ValueHead.save` wrote.

    Args:
        folder: holds ``value_head.safetensors``.
        hidden_size: H of the model that it shall sit on.

    Raises:
        FileNotFoundError: if the folder holds no value head.
        ValueError: if the file is damaged, holds other tensors, numbers that are not finite, or a head for
            another hidden size.
    """
    path = folder / VALUE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no value head: {VALUE_FILE} is missing")
    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): train the critic again") from error
    head = ValueHead(hidden_size)
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != expected:
        raise ValueError(f"{path} does not fit a model with hidden size {hidden_size}: it "
                         f"holds {shapes}, not {expected}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError(f"{path} holds numbers that are not finite: train the critic again")
    head.load_state_dict(tensors)
    return head
