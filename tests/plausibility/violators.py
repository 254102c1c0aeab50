"""Losses, rules and networks made by hand, as a user would: some that violate a condition quietly, some that do not.

`CASES` names each with what it must be accused of, and of nothing else.
"""

import random

import torch
from torch import nn
from torch.nn import functional as F

from saccade import draws
from saccade.rules.feedback import RandomFeedback, maps_above
from saccade.rules.gradient import Backpropagation
from saccade.schedules import Randomized

MARGINS = {"m1": 1.0, "m2": 3.0}


def hinge(z_a, z_b, m1=1.0, m2=3.0):
    """The paper's loss with one negative and the block, written with comparisons in place of rectifiers."""
    z_a, negative = z_a.detach(), z_b.roll(-1, 0)
    positive_distance, negative_distance = (z_a - z_b).abs().sum(1), (z_a - negative).abs().sum(1)
    far, near = positive_distance > m1, negative_distance < m2
    return positive_distance[far].sum() - negative_distance[near].sum()


def mean_hinge(z_a, z_b):
    return hinge(z_a, z_b) / len(z_a)


def remembered_product(z_a, z_b):
    """An inner product in its value alone: the error of each unit is what was remembered of it."""
    return -(z_a.detach() * z_b).sum()


class ByHand(torch.autograd.Function):
    """Eq. 5 and 6 written out; autograd only carries them."""

    @staticmethod
    def forward(ctx, z_a, z_b):
        negative = z_b.roll(-1, 0)
        p = ((z_a - z_b).abs().sum(1) > 1.0).to(z_b.dtype)
        q = ((z_a - negative).abs().sum(1) < 3.0).to(z_b.dtype)
        own = -p[:, None] * (z_a - z_b).sign()
        ctx.save_for_backward(own + (q[:, None] * (z_a - negative).sign()).roll(1, 0))
        return own.new_zeros(())

    @staticmethod
    def backward(ctx, gradient):
        (error,) = ctx.saved_tensors
        return None, gradient * error


def hand_hinge(z_a, z_b):
    return ByHand.apply(z_a, z_b)


def normalized_hinge(z_a, z_b):
    """L2 normalization slipped in."""
    return hinge(F.normalize(z_a, dim=1), F.normalize(z_b, dim=1), 0.3, 2.0)


def quietly_normalized(z_a, z_b):
    """The same without a function of that name."""
    return hinge(*(z * (z * z).sum(1, keepdim=True) ** -0.5 for z in (z_a, z_b)), 0.3, 2.0)


def smooth_hinge(z_a, z_b):
    """A gate that is graded: the softplus of the distance to the margin."""
    z_a = z_a.detach()
    return F.softplus((z_a - z_b).abs().sum(1) - 1).sum() + F.softplus(3 - (z_a - z_b.roll(-1, 0)).abs().sum(1)).sum()


def squared_hinge(z_a, z_b):
    """Squared distances: the error is the unit's own difference, the gate needs squares."""
    z_a = z_a.detach()
    near = (z_a - z_b.roll(-1, 0)).square().sum(1)
    return ((z_a - z_b).square().sum(1) - 1).relu().sum() + (3 - near).relu().sum()


def centred_hinge(z_a, z_b):
    """The batch's mean taken away."""
    return hinge(z_a - z_a.mean(0), z_b - z_b.mean(0))


def last_centred_hinge(z_a, z_b):
    """The same, its axis counted from the end."""
    return hinge(z_a - z_a.mean(-2, keepdim=True), z_b - z_b.mean(-2, keepdim=True))


class QueueHinge(nn.Module):
    """Holds more earlier embeddings than it declares."""

    queue = 8

    def __init__(self):
        super().__init__()
        self.earlier = []

    def forward(self, z_a, z_b):
        remembered = self.earlier[-3:]
        self.earlier.append(z_b.detach().clone())
        far = sum((3 - (z_b - old).abs().sum(1)).relu().sum() for old in remembered if old.shape == z_b.shape)
        return hinge(z_a, z_b) + far


SEEN: dict[str, torch.Tensor] = {}  # a test puts the data set's labels here


def peeking_hinge(z_a, z_b):
    """Negatives of the anchor's class are left out."""
    labels = SEEN["labels"][: len(z_b)]
    negative = z_b.roll(-1, 0)
    other = (labels != labels.roll(-1)).to(z_b.dtype)
    return (other * (3 - (z_a.detach() - negative).abs().sum(1)).relu()).sum()


FELT = {"loss": 0.0}


def felt_hinge(z_a, z_b):
    """Leaves what it came to where a schedule reads it."""
    loss = hinge(z_a, z_b)
    FELT["loss"] = float(loss.detach())
    return loss


class Moody(Randomized):
    """Draws the layer from the last loss."""

    def sites(self, seed, step, sites, steps):
        return (draws.key(seed, "mood", repr(FELT["loss"]), step) % sites,)


def undecided_hinge(z_a, z_b):
    """Draws numbers that no seed of torch's fixes."""
    return hinge(z_a, z_b) * (1 + random.random())


def converted(site):
    return [part for part in site.modules() if hasattr(part, "feedback")]


class CopiedFeedback(RandomFeedback):
    """Reads the next layer's weights through a copy, made anew at each step."""

    def phases(self, site, batch):
        for part in converted(site):
            part.feedback.data.copy_(part.weight.detach().clone())
        yield from super().phases(site, batch)


class SameStart(RandomFeedback):
    """Feedback equal to the weights at the start only, up to a factor."""

    def prepare(self, site, shape, seed):
        super().prepare(site, shape, seed)
        for part in converted(site):
            part.feedback.data.copy_(2 * part.weight.detach())


class TransposedBp(Backpropagation):
    """Backpropagation without autograd on the way down: by hand, through the transpose of what it finds in the layers."""

    def phases(self, site, batch):
        yield from _by_hand(site, batch, [part.weight.detach().t().contiguous().t() for part in maps_above(site)])


class HandFeedback(Backpropagation):
    """Random feedback and Hebbian products by hand, its matrices kept in the rule."""

    def __init__(self):
        self.down = {}

    def prepare(self, site, shape, seed):
        generator = torch.Generator().manual_seed(site.index)
        self.down[site.index] = [
            torch.randn(part.weight.shape, generator=generator).double() / 3 for part in maps_above(site)
        ]

    def phases(self, site, batch):
        yield from _by_hand(site, batch, self.down[site.index])


def _by_hand(site, batch, down):
    """A chain of fully connected layers with tanh: delta = sigma' * B^T delta, updates delta x^T."""
    parts = []
    for x, carries in site.parts(batch.inputs):
        activities = [x]
        with torch.no_grad():
            for stage in site.chain():
                activities.append(stage(activities[-1]))
        activities[-1].requires_grad_(carries)
        parts.append((activities, carries))
    site.evaluate([activities[-1] for activities, _ in parts], batch).backward()
    batch.outputs = torch.cat([activities[-2] for activities, _ in parts])
    for activities, carries in parts:
        if carries:
            delta = activities[-1].grad
            for number in reversed(range(len(site.chain()))):
                map = site.chain()[number].linear
                map.weight.grad = delta.t() @ activities[number].flatten(1)
                if number:
                    delta = (delta @ down[number - 1]) * (1 - activities[number] ** 2)
    yield "weights"


class Neighbours(RandomFeedback):
    """Layer by layer, yet with an eye on the weights of the next site."""

    def __init__(self):
        self.sites = {}

    def prepare(self, site, shape, seed):
        super().prepare(site, shape, seed)
        self.sites[site.index] = site

    def phases(self, site, batch):
        for group in super().phases(site, batch):
            above = self.sites.get(site.index + 1)
            if above is not None:
                for p in site.parameters():
                    if p.grad is not None:
                        p.grad.mul_(1 + above.layers[0].linear.weight.detach().mean())
            yield group


class UnitUpdates(RandomFeedback):
    """Each update divided by its norm."""

    def phases(self, site, batch):
        for group in super().phases(site, batch):
            for p in site.parameters():
                if p.grad is not None:
                    p.grad.div_(p.grad.norm())
            yield group


class Lingering(RandomFeedback):
    """Each update carries some of the one before, in the rule's own memory."""

    def __init__(self):
        self.last = {}

    def phases(self, site, batch):
        for group in super().phases(site, batch):
            for name, p in site.named_parameters():
                if p.grad is not None:
                    key, now = (site.index, name), p.grad.clone()
                    p.grad.add_(self.last.get(key, 0))
                    self.last[key] = now
            yield group


class Told(RandomFeedback):
    """Scales its updates by the first label."""

    def phases(self, site, batch):
        for group in super().phases(site, batch):
            for p in site.parameters():
                if p.grad is not None:
                    p.grad.mul_(1 + batch.labels[0])
            yield group


def normalizing_network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten()
    )


def grouped_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.Tanh(), nn.MaxPool2d(4), nn.Conv2d(4, 6, 3))


def normed_network():
    """Its norm's biases are as many zeros as a batch has pictures."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.Tanh(), nn.Conv2d(8, 4, 3, stride=4))


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + torch.sigmoid(self.map(x))


def skipping_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.LeakyReLU(), Skip(), nn.Conv2d(4, 5, 3, stride=2), nn.SiLU())


def grey_network():
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.Tanh(), nn.Conv2d(4, 5, 3, stride=2))


ONE = "hinge(negatives=1, block=true)"
DENSE = "flatten linear96 tanh | linear80 tanh"  # thinned to 12 and 10
CONVOLUTIONS = "conv32 tanh maxpool | conv40 relu maxpool"
_BASE = {"network": CONVOLUTIONS, "loss": ONE, "schedule": "e2e", "rule": "rf", "optimizer": "sgd"}
_DOWN = {("rule", "asymmetric")}

CASES = {  # name: (options, what it violates)
    # Violators.
    "L2 normalization in the hinge": ({"loss": "violators.normalized_hinge"}, {("loss", "space"), ("loss", "simple")}),
    "the same in other words": ({"loss": "violators.quietly_normalized"}, {("loss", "space"), ("loss", "simple")}),
    "a graded gate": ({"loss": "violators.smooth_hinge"}, {("loss", "space"), ("loss", "simple")}),
    "squared distances": ({"loss": "violators.squared_hinge"}, {("loss", "simple")}),
    "the batch's mean taken away": ({"loss": "violators.centred_hinge"}, {("loss", "time"), ("loss", "simple")}),
    "the same, its axis counted from the end": (
        {"loss": "violators.last_centred_hinge"},
        {("loss", "time"), ("loss", "simple")},
    ),
    "a queue longer than declared": ({"loss": "violators.QueueHinge"}, {("loss", "time")}),
    "a loss that peeks at labels": ({"loss": "violators.peeking_hinge"}, {("loss", "unsupervised")}),
    "feedback copied from the weights": ({"rule": "violators.CopiedFeedback"}, _DOWN),
    "the same, layer by layer": ({"rule": "violators.CopiedFeedback", "schedule": "rll"}, _DOWN),
    "feedback equal to W at the start only": ({"rule": "violators.SameStart"}, _DOWN),
    "backpropagation by hand": ({"rule": "violators.TransposedBp", "network": DENSE}, _DOWN),
    "the next site's weights": ({"rule": "violators.Neighbours", "schedule": "simultaneous"}, _DOWN),
    "updates divided by their norm": (
        {"rule": "violators.UnitUpdates"},
        {("rule", "space"), ("rule", "time"), ("rule", "simple")},
    ),
    "updates of the batch before": ({"rule": "violators.Lingering"}, {("rule", "time")}),
    "a rule told the label": (
        {"rule": "violators.Told", "loss": "supervised-hinge"},
        {("rule", "unsupervised"), ("loss", "unsupervised")},
    ),
    "batch norm in a layer": (
        {"network": "violators.normalizing_network", "rule": "rf"},
        {("network", "time"), ("network", "simple")},
    ),
    "group norm in a layer": ({"network": "violators.grouped_network"}, {("network", "space"), ("network", "simple")}),
    # The innocent.
    "the hinge with comparisons": ({"loss": "violators.hinge"}, set()),
    "the hinge as a mean": ({"loss": "violators.mean_hinge", "schedule": "rll"}, set()),
    "a product that no error needs": ({"loss": "violators.remembered_product"}, set()),
    "the hinge's errors by hand": ({"loss": "violators.hand_hinge"}, set()),
    "random feedback by hand": ({"rule": "violators.HandFeedback", "network": DENSE}, set()),
    "by hand, layer by layer": ({"rule": "violators.HandFeedback", "network": DENSE, "schedule": "rll"}, set()),
    "locally connected layers": ({"network": "local32(stride=4) tanh | conv40 relu maxpool"}, set()),
    "skips, leaky and smooth activations": ({"network": "violators.skipping_network"}, set()),
    "direct feedback": ({"rule": "dfa", "network": DENSE}, set()),
}
CASES = {name: (_BASE | options, violates) for name, (options, violates) in CASES.items()}
