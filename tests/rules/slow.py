"""Eq. 9 and 10 as loops over single connections, in numpy: what the rules are compared with.

Every linear map is a list of connections (output unit, input unit, place of its weight); h_o = sum_i W_oi x_i + b_o.

    gradient of W_oi = sum over images of delta_o x_i        error of x_i = sum_o (W or B)_oi delta_o
"""

from collections import OrderedDict
from itertools import product

import numpy as np
import torch
from torch import nn

from saccade.networks import FlatLinear, Layer, LocallyConnected2d
from saccade.rules.site import Site


class Squared(nn.Module):
    """Half the squared distance to given embeddings, which come as labels."""

    layout, labels, head, gradient, reduction = "single", True, True, "ab", "sum"

    def forward(self, z, target):
        return 0.5 * (z - target).square().sum()


def layer(**parts):
    return Layer(OrderedDict(parts))


def _linear():
    layers = [
        layer(linear=nn.Linear(6, 5), activation=nn.Tanh()),
        layer(linear=nn.Linear(5, 4, bias=False), activation=nn.Hardtanh()),
        layer(linear=nn.Linear(4, 5), activation=nn.ReLU()),
    ]
    return layers, layer(linear=nn.Linear(5, 3)), (6,)


def _convolution():
    layers = [
        layer(linear=nn.Conv2d(2, 4, 3, stride=2, padding=1), activation=nn.Hardtanh()),
        layer(
            linear=nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=2, groups=2), activation=nn.Tanh()
        ),
        layer(linear=nn.Conv2d(6, 4, 2, padding=1, bias=False), pool=nn.MaxPool2d(2)),
    ]
    return layers, layer(linear=FlatLinear((4, 2, 1), 3, bias=False)), (2, 7, 8)


def _local():
    layers = [
        layer(linear=LocallyConnected2d(2, 3, (6, 5), 3, padding=1), activation=nn.Tanh(), pool=nn.MaxPool2d(2)),
        layer(linear=LocallyConnected2d(3, 4, (3, 2), 2, stride=2, padding=1), activation=nn.Hardtanh()),
    ]
    return layers, layer(flatten=nn.Flatten(), linear=nn.Linear(16, 3)), (2, 6, 5)


NETS = {"linear": _linear, "convolution": _convolution, "local": _local}


def make_site(name, seed=None, images=3):
    """A float64 site of that kind, a batch for it and its targets: (site, shape, x, target).

    Images lie channels last, as those that we train on, and so do the features of convolutions and pools.
    """
    if seed is not None:
        torch.manual_seed(seed)
    layers, head, shape = NETS[name]()
    site = Site(0, nn.Sequential(*layers), head, Squared()).double()
    x, target = torch.randn(images, *shape).double(), torch.randn(images, 3).double()
    return site, shape, x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, target


def _window(image, out_size, kernel, stride, padding, dilation):
    """(output place, kernel place, input row, input column) of every connection within the image."""
    for place, (row, column) in enumerate(product(range(out_size[0]), range(out_size[1]))):
        for spot, (dy, dx) in enumerate(product(range(kernel[0]), range(kernel[1]))):
            y = row * stride[0] - padding[0] + dy * dilation[0]
            x = column * stride[1] - padding[1] + dx * dilation[1]
            if 0 <= y < image[0] and 0 <= x < image[1]:
                yield place, spot, y, x


def connections(part, shape, out_shape):
    """[(output unit, input unit, index of the weight in the flat weight)], all units in flat order."""
    if isinstance(part, nn.Linear):
        inputs = int(np.prod(shape))
        return [(o, i, o * inputs + i) for o, i in product(range(out_shape[0]), range(inputs))]
    found = []
    pixels, places = shape[1] * shape[2], out_shape[1] * out_shape[2]
    if isinstance(part, LocallyConnected2d):
        k = part.kernel
        window = _window(shape[1:], out_shape[1:], (k, k), (part.stride,) * 2, (part.padding,) * 2, (1, 1))
        for place, spot, y, x in window:
            for o, c in product(range(out_shape[0]), range(shape[0])):
                weight = (place * out_shape[0] + o) * shape[0] * k * k + c * k * k + spot
                found.append((o * places + place, c * pixels + y * shape[2] + x, weight))
        return found
    inside, spots = shape[0] // part.groups, part.kernel_size[0] * part.kernel_size[1]
    for place, spot, y, x in _window(
        shape[1:], out_shape[1:], part.kernel_size, part.stride, part.padding, part.dilation
    ):
        for o, c in product(range(out_shape[0]), range(inside)):
            group = o // (out_shape[0] // part.groups)
            unit = (group * inside + c) * pixels + y * shape[2] + x
            found.append((o * places + place, unit, (o * inside + c) * spots + spot))
    return found


def _pooled(x, shape, out_shape, k):
    """Max pooling of flat units: values (n, out) and which input unit each came from (n, out)."""
    values, origin = np.empty((len(x), np.prod(out_shape))), np.empty((len(x), np.prod(out_shape)), dtype=int)
    for o, (c, row, column) in enumerate(product(*map(range, out_shape))):
        units = [
            c * shape[1] * shape[2] + (row * k + dy) * shape[2] + column * k + dx
            for dy, dx in product(range(k), range(k))
        ]
        for n in range(len(x)):
            origin[n, o] = max(units, key=lambda u: x[n, u])
            values[n, o] = x[n, origin[n, o]]
    return values, origin


_SLOPES = {  # of the activation's input h
    nn.Tanh: lambda h: 1 - np.tanh(h) ** 2,
    nn.Hardtanh: lambda h: ((h > -1) & (h < 1)).astype(float),
    nn.ReLU: lambda h: (h > 0).astype(float),
}


def gradients(site, x, target, feedback, direct=False):
    """Gradients of every map's weight and bias by the loops: {name: array}.

    `feedback` maps a map's name to the weights that carry the error down, in the weight's shape (Eq. 9 with W itself,
    Eq. 10 with B); with `direct` to the matrix (outputs, inputs of the map) through which the output's error arrives.
    """
    chain = []  # (name, part, input, shape below, shape above, what the way back needs)
    below, units = tuple(x.shape[1:]), x.flatten(1).numpy()
    stages = [(f"layers.{k}", stage) for k, stage in enumerate(site.layers)] + [("head", site.head)]
    for prefix, stage in stages:
        for role, part in stage.named_children():
            above = tuple(part(torch.zeros(1, *below).double()).shape[1:])
            memory = None
            if role == "linear":
                weight, memory = part.weight.detach().numpy().ravel(), connections(part, below, above)
                out = np.zeros((len(units), int(np.prod(above))))
                for o, i, w in memory:
                    out[:, o] += weight[w] * units[:, i]
                if getattr(part, "bias", None) is not None:
                    out += np.repeat(part.bias.detach().numpy(), out.shape[1] // len(part.bias))
            elif role == "pool":
                out, memory = _pooled(units, below, above, part.kernel_size)
            elif role == "activation":
                out = part(torch.from_numpy(units)).numpy()
            else:
                out = units
            chain.append((f"{prefix}.{role}", part, units, below, above, memory))
            below, units = above, out

    top = units - target.numpy()  # dL/dz of half the squared distance
    error, result = top, {}
    for name, part, units, _, _, memory in reversed(chain):
        if name.endswith("linear"):
            gradient, down = np.zeros(part.weight.numel()), np.zeros_like(units)
            for o, i, w in memory:
                gradient[w] += (error[:, o] * units[:, i]).sum()
            result[f"{name}.weight"] = gradient.reshape(part.weight.shape)
            if getattr(part, "bias", None) is not None:
                result[f"{name}.bias"] = error.reshape(len(error), len(part.bias), -1).sum((0, 2))
            if direct and name in feedback:
                for k, i in product(range(top.shape[1]), range(units.shape[1])):
                    down[:, i] += feedback[name][k, i] * top[:, k]
            elif name in feedback:
                for o, i, w in memory:
                    down[:, i] += feedback[name].ravel()[w] * error[:, o]
            error = down
        elif name.endswith("activation"):
            error = error * _SLOPES[type(part)](units)
        elif name.endswith("pool"):
            down = np.zeros_like(units)
            for n, o in np.ndindex(error.shape):
                down[n, memory[n, o]] += error[n, o]
            error = down
    return result
