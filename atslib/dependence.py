"""What the features of a patch depend on: on the patch alone, or on the others of the batch and on random numbers, too.

Only in the first case may equal patches be computed once (``share_equal`` of :class:`atslib.models.AttentionSampling`), and only
where the batch does not matter may patches be computed in chunks.
"""

from __future__ import annotations

import copy
import pickle
import random
import weakref

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# By the layers of a network, their settings and modes: found out once.
_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict[tuple, str]] = weakref.WeakKeyDictionary()
_MOST_MODES = 16  # of one network that are tried; settings may change in every step


def depends_on(network: nn.Module, patch: tuple[int, int, int]) -> str:
    """What the features that ``network`` computes of patches ``(C, h, w)`` depend on.

    Returns:
        One word. ``"patch"``, of the patch alone; ``"batch"``, of the other patches in it; ``"random"``, of random numbers;
        ``"state"``, of the patch alone, but a call changes buffers of the network, so that it matters how often a patch is there;
        ``"unknown"``, where the network does not take two patches of noise, cannot be copied, or is called inside a transform of
        :mod:`torch.func`.

    Found out by trial, in the first call in each mode, and again when a setting of a layer is another (its attributes that are
    numbers, words, or yes and no): two patches of noise in different company. PyTorch's own batch normalisation is known without
    one. The trial runs on copies of the network, so that another thread may call the network itself meanwhile, and leaves the
    global random numbers of PyTorch, NumPy and Python as they were; hooks see it. A network whose settings change all the
    time, by counting its calls, say, is not tried for ever: it comes to be ``"unknown"``. What it cannot see: a branch that is
    silent at first, with a weight of zero; a generator of the network's own, if its draws come out alike.
    """
    modes = tuple((type(module), module.extra_repr(), *_settings(module)) for module in network.modules())
    known = _KNOWN.setdefault(network, {})
    if modes in known:
        return known[modes]
    if any(map(counts_batch, network.modules())):  # not tried: in several processes it may not be called just to see
        return "batch"
    if torch._C._functorch.peek_interpreter_stack() is not None or any(map(is_lazy, [*network.parameters(), *network.buffers()])):
        return "unknown"  # for now: a lazy layer is made in its first call, which is the caller's
    if len(known) >= _MOST_MODES:
        return "unknown"
    try:
        known[modes] = _found(network, patch)
    except Exception:  # whatever it is, the call itself says what is wrong, if anything is
        known[modes] = "unknown"
    return known[modes]


def _settings(module: nn.Module) -> tuple:
    """What may turn a layer's behaviour on and off, ``training`` among it."""
    return tuple((name, value) for name, value in vars(module).items() if type(value) in (bool, int, float, str))


def counts_batch(module: nn.Module) -> bool:
    """Batch normalisation by the batch's own statistics."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or not module.track_running_stats)


@torch.no_grad()
def _found(network: nn.Module, patch: tuple[int, int, int]) -> str:
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    noise = torch.rand(2, *patch, generator=torch.Generator().manual_seed(0), device="cpu").to(like.device, like.dtype)
    noise = noise.contiguous(memory_format=torch.channels_last)  # as patches lie
    # One for each call, which may change it. Of a compiled network the code itself: compiling it for a trial takes long.
    trials = [_copy_of(getattr(network, "_orig_mod", network)) for _ in range(2)]
    before, kind, numbers = _tensors_of(trials[0], clone=True), like.device.type, _random_state(like.device)
    try:
        # The caller's autocast, but for its cache: that would keep these weights, without a gradient, for the call itself.
        with torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False):
            unlike, alike = (trial(noise[index]).flatten(1) for trial, index in zip(trials, ([0, 1], [0, 0]), strict=True))
        (tensors, others), (tensors_after, others_after) = numbers, _random_state(like.device)
    finally:
        _restore(like.device, numbers)
    if others != others_after or not all(map(torch.equal, tensors, tensors_after)):
        return "random"
    # The same place in batches of one size is computed alike; another place up to rounding.
    rounding = 4 * torch.finfo(alike.dtype).eps
    size, exact = alike.abs().max().item(), rounding if kind == "cpu" else max(rounding, 1e-5)  # a GPU may add up in any order
    if not (_near(unlike[0], alike[0], exact * size) and _near(alike[0], alike[1], 1e-4 * size)):
        return "batch"
    if torch.equal(*unlike):  # noise of two kinds has the same features: nothing can be learned of them
        return "unknown"
    after = _tensors_of(trials[0])
    return "patch" if all(_near(after[name], before[name], 0) for name in before) else "state"


def _copy_of(network: nn.Module) -> nn.Module:
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor.detach().clone() for tensor in tensors})


def _tensors_of(network: nn.Module, clone: bool = False) -> dict[str, Tensor]:
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.clone() if clone else tensor for name, tensor in tensors}


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return torch.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True)


def _random_state(device: torch.device) -> tuple[list[Tensor], tuple]:
    """Of the global random numbers that a network there may draw from: PyTorch's; NumPy's, pickled to compare, and Python's."""
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    numpys = pickle.dumps(np.random.get_state())  # noqa: NPY002
    return [torch.get_rng_state(), *on_device], (numpys, random.getstate())


def _restore(device: torch.device, states: tuple[list[Tensor], tuple]) -> None:
    (own, *on_device), (numpys, pythons) = states
    torch.set_rng_state(own)
    for state in on_device:
        torch.cuda.set_rng_state(state, device)
    np.random.set_state(pickle.loads(numpys))  # noqa: NPY002
    random.setstate(pythons)
