"""Losses of one's own, named by dotted paths in tests: each goes wrong in its way."""

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from saccade.losses.hinge import contrastive_hinge
from saccade.losses.simclr import simclr
from saccade.rules.feedback import maps_of
from saccade.rules.gradient import Backpropagation


def gradient_of_nan(z_a, z_b):
    """Its value is 0, its gradient is not a number."""
    return (z_a - z_a.detach()).abs().sqrt().sum()


def collapsing(z_a, z_b):
    """Least where every unit is as large as it can be, whatever the image."""
    return -(z_a.sum() + z_b.sum())


class Killing(nn.Module):
    """Least where no unit of the features is active."""

    head = False

    def forward(self, f_a, f_b):
        return f_a.sum() + f_b.sum()


class Remembering(nn.Module):
    """Keeps the last embeddings in a buffer that it leaves out of what is saved; draws from torch's own generator."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(0), persistent=False)

    def forward(self, z_a, z_b):
        pulled = (z_a - self.last).square().mean() if len(self.last) else z_a.square().mean()
        self.last = z_b.detach() * torch.rand_like(z_b)
        return pulled


class Tied(nn.Sequential):
    """Two maps with one weight, and dropout."""

    def __init__(self):
        first, second = nn.Linear(784, 784, bias=False), nn.Linear(784, 784, bias=False)
        second.weight = first.weight
        super().__init__(nn.Flatten(), first, nn.Tanh(), nn.Dropout(0.2), second, nn.Tanh())


def of_each(z_a, z_b):
    """One value an image."""
    return (z_a - z_b).abs().sum(1)


def nothing(z_a, z_b):
    """It forgets to return what it made."""
    (z_a - z_b).abs().sum()


def a_float(z_a, z_b):
    return (z_a - z_b).abs().sum().item()


def detached(z_a, z_b):
    return (z_a - z_b).abs().sum().detach()


def counted(z_a, z_b):
    return ((z_a - z_b).abs() > 1).sum()


class Counting(nn.Module):
    """Draws, and counts its calls; `seen` holds the shapes that it and its copies were called with."""

    seen: ClassVar[list[tuple[int, ...]]] = []

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, z_a, z_b):
        self.calls += 1
        self.seen += [tuple(z_a.shape), tuple(z_b.shape)]
        return ((z_a - z_b) * torch.rand_like(z_a)).abs().sum()


class Recurrent(nn.Module):
    """A layer with a learned weight of the name that ours have on a map."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.feedback = nn.Parameter(torch.eye(4))

    def forward(self, x):
        y = self.conv(x)
        return y + torch.einsum("ij,bjhw->bihw", self.feedback, y.tanh())


def recurrent():
    return nn.Sequential(Recurrent(), nn.MaxPool2d(2))


def entropy(z_a, z_b):
    """A loss that takes probabilities alone."""
    return F.binary_cross_entropy(z_a, z_b.detach())


class Halves(nn.Module):
    """A loss that each half of the batch has for itself."""

    def __init__(self, reduction: str):
        super().__init__()
        self.reduction = reduction

    def forward(self, z_a, z_b):
        halves = list(zip(z_a.chunk(2), z_b.chunk(2), strict=True))
        if self.reduction == "sum":
            return sum(contrastive_hinge(a, b, m2=1.5, negatives=4) for a, b in halves)
        return sum(simclr(a, b, reduction="mean") for a, b in halves) / 2


def _deep(part):
    return nn.Sequential(*(nn.Sequential(nn.Conv2d(c, 4, 3), nn.Tanh(), part()) for c in (1, 4, 4, 4)))


def dropping():
    """Four layers with dropout."""
    return _deep(lambda: nn.Dropout(0.3))


def normalizing():
    """Four layers with batch normalization."""
    return _deep(lambda: nn.BatchNorm2d(4))


class Normalized(nn.Sequential):
    """A network with batch normalization."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


class Lines(nn.Sequential):
    """A network that ends in features of two axes, (channels, places)."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(2), nn.Conv1d(4, 3, 3, stride=2))


def in_turn(function, tasks, progress):
    """An engine of one's own: one task after another, here."""
    return {name: function(task, lambda share: None) for name, task in tasks.items()}


class Bare:
    """A rule of the least that one is made of, in the class's own words: it names no copies."""

    rates: ClassVar[dict[str, float]] = {}

    def prepare(self, site, shape, seed):
        pass

    def groups(self, site):
        return {"weights": [(name, p) for name, p in site.named_parameters() if p.requires_grad]}

    def phases(self, site, batch):
        made = [site(x) for x, _ in site.parts(batch.inputs)]
        batch.outputs = torch.cat([features.detach() for features, _ in made])
        site.evaluate([z for _, z in made], batch).backward()
        yield "weights"


class Adding(Backpropagation):
    """Keeps weights and buffers of its own on the maps that it teaches."""

    def prepare(self, site, shape, seed):
        for part in maps_of(nn.ModuleList(site.chain())):
            part.feedback = nn.Parameter(torch.ones_like(part.weight), requires_grad=False)
            part.register_buffer("traces", torch.zeros(3))


class Renaming(Backpropagation):
    """Learns direction and length of its weights apart."""

    def prepare(self, site, shape, seed):
        for part in maps_of(nn.ModuleList(site.chain())):
            nn.utils.parametrizations.weight_norm(part)


class OfPatches(nn.Module):
    """A layer that takes pictures of one size."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x):
        assert x.shape[2:] == (16, 16)
        return self.conv(x).tanh()


def of_patches():
    return nn.Sequential(OfPatches())
