"""A GPU for machines without one: tensors that say they are on another device and keep their numbers here.

Inside :func:`pretend_gpu` torch says that it has CUDA, and ``"cuda"`` means the device ``pretend:0``. A
tensor that is moved or made there is a :class:`GpuTensor`, a wrapper around an ordinary tensor. Every
operation is computed by the CPU on the tensors inside, after the check that CUDA makes: all operands on one
device. So a whole run goes through, with real numbers that must equal those of the CPU, and stops with CUDA's
own kind of error wherever a tensor was forgotten on the other device.

What CUDA allows is allowed: a CPU tensor without dimensions as an operand of an elementwise operation, CPU
indices into a GPU tensor, and copies between the devices. What this cannot show: kernels of a GPU, their
rounding, their memory and their speed.

The device is registered for the whole process, and autograd starts its threads once: import this only in a
process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from unittest import mock

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class _Backend(ModuleType):
    """What torch asks of the module of a device; random numbers come from the CPU's own generator."""

    is_initialized = is_available = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    current_device, device_count = staticmethod(lambda: 0), staticmethod(lambda: 1)
    manual_seed_all = set_rng_state = staticmethod(lambda *_: None)
    get_rng_state = staticmethod(lambda *_: torch.empty(0))
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])
    device = staticmethod(lambda _: nullcontext())


_setup_privateuseone_for_python_backend("pretend", backend_module=_Backend("torch.pretend"))
aten = torch.ops.aten
GPU, CPU = torch.device("pretend", 0), torch.device("cpu")
_COPIES = {aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default}
# (tensor, indices, values): the indices may be on the CPU.
_INDEXED = {aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_,
            aten._unsafe_index_put}
_POINTWISE = {aten.where, aten.masked_fill, aten.masked_fill_, aten.fill, aten.fill_}


class GpuTensor(torch.Tensor):
    """A tensor that says it is on ``pretend:0``; ``inner`` holds its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> GpuTensor:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(),
                                                   storage_offset=inner.storage_offset(), dtype=inner.dtype,
                                                   device=GPU, requires_grad=False)

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"GpuTensor({self.inner!r})"

    # With these two, nn.Module.to keeps a parameter the object that it is, as it does for CUDA.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride) -> GpuTensor:
        return GpuTensor(inner["inner"])

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """What looks at memory, below the operations that ``__torch_dispatch__`` sees."""
        if function in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
                            "tensor to host memory first.")
        if function is torch.Tensor.pin_memory:
            raise RuntimeError("cannot pin a tensor of the GPU: only dense CPU tensors can be pinned")
        if function in (torch.Tensor.data_ptr, torch.Tensor.untyped_storage, torch.Tensor.tolist):
            return function(args[0].inner)
        if function is torch.Tensor.data.__set__:
            old, new = args
            if not isinstance(old, GpuTensor) or not isinstance(new, GpuTensor):
                raise RuntimeError(f"data on {new.device} cannot become that of a tensor on {old.device}")
            old.inner = new.inner
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


class _Making(TorchDispatchMode):
    """Sees the operations without any GPU tensor, which may make one."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


class _Cuda(TorchFunctionMode):
    """Makes "cuda" mean the pretended device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def meant(value):
            cuda = isinstance(value, str | torch.device) and torch.device(value).type == "cuda"
            return GPU if cuda else value

        kwargs = {name: meant(value) if name == "device" else value
                  for name, value in (kwargs or {}).items()}
        if function is torch.Tensor.to:
            args = (args[0], *map(meant, args[1:]))
        return function(*args, **kwargs)


def _check(function, args: tuple, values: list) -> None:
    """CUDA's own rules about where the operands of an operation are."""
    packet = function._overloadpacket
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if packet in _INDEXED and isinstance(args[0], GpuTensor):
        tensors = [args[0], *(value for value in args[2:3] if value.dim())]
    elif torch.Tag.pointwise in function.tags or packet in _POINTWISE or "_foreach" in packet.__name__:
        tensors = [tensor for tensor in tensors if tensor.dim() or isinstance(tensor, GpuTensor)]
    if len(places := {str(tensor.device) for tensor in tensors}) > 1:
        raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, "
                           f"{' and '.join(sorted(places))}! (in {function})")


def _compute(function, args: tuple, kwargs: dict):
    values, shape = tree_flatten((args, kwargs))
    device = kwargs.get("device")
    inside = any(isinstance(value, GpuTensor) for value in values)
    if not inside and (device is None or device.type != GPU.type):
        return function(*args, **kwargs)
    if function not in _COPIES:
        _check(function, args, values)
    if (generator := kwargs.get("generator")) is not None and generator.device.type == "cpu":
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    inner = [value.inner if isinstance(value, GpuTensor) else value for value in values]
    bare_args, bare_kwargs = tree_unflatten(inner, shape)
    if device is not None:
        bare_kwargs["device"] = CPU
    found = function(*bare_args, **bare_kwargs)
    if function in (aten.copy_.default, aten._foreach_copy_.default):
        return args[0]
    if device is not None and device.type != GPU.type:
        return found
    # What was written into is given back as the very tensor that was handed in.
    known = {id(value.inner): value for value in values if isinstance(value, GpuTensor)}

    def outside(tensor: torch.Tensor) -> GpuTensor:
        return known[id(tensor)] if id(tensor) in known else GpuTensor(tensor)

    return tree_map_only(torch.Tensor, outside, found)


@contextmanager
def pretend_gpu() -> Iterator[None]:
    """torch has a CUDA device inside the block, and ``accelerate`` chooses it."""
    states = (AcceleratorState, GradientState, PartialState)
    saved = [dict(state._shared_state) for state in states]
    for state in states:
        state._shared_state.clear()
    cuda = {"is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
            "is_bf16_supported": lambda *_, **__: True, "set_device": lambda _: None,
            "empty_cache": lambda: None,
            "get_device_name": lambda *_: "a pretended GPU", "get_device_capability": lambda *_: (9, 0),
            "synchronize": lambda *_: None}
    lifted = torch._C._only_lift_cpu_tensors()
    with mock.patch.multiple(torch.cuda, **cuda), _Cuda(), _Making():
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) makes it here and moves it
        try:
            yield
        finally:
            torch._C._set_only_lift_cpu_tensors(lifted)
            for state, before in zip(states, saved, strict=True):
                state._shared_state.clear()
                state._shared_state.update(before)
