"""Networks: parameters and shapes against hand calculation, specs, users' own chains, maps without weight sharing."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from saccade.config.names import NETWORKS
from saccade.errors import InputError
from saccade.networks import (
    FlatLinear,
    LocallyConnected2d,
    activity,
    build,
    evaluating,
    head,
    layers_of,
    output_shape,
    shapes,
)

# (image, features after each layer, parameters: 9 * (in * out) of each convolution, the head's)
BY_HAND = {
    "cifar": (
        (3, 32, 32),
        [(32, 32, 32), (32, 16, 16), (64, 16, 16), (64, 8, 8), (512, 4, 4)],
        9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 512),
        8192 * 64,
    ),
    "vgg6": (
        (3, 64, 64),
        [(128, 64, 64), (256, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (1024, 4, 4)],
        9 * (3 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 1024 + 1024 * 1024),
        1024 * 2 * 2 * 64,
    ),
    "emnist": (
        (1, 28, 28),
        [(32, 14, 14), (64, 7, 7), (128, 3, 3)],
        9 * (1 * 32 + 32 * 64 + 64 * 128),
        128 * 9 * 64,
    ),
    # a stride of 2 with padding 1 rounds 7 up to 4, where pooling rounds it down to 3
    "emnist-strided": (
        (1, 28, 28),
        [(32, 14, 14), (64, 7, 7), (128, 4, 4)],
        9 * (1 * 32 + 32 * 64 + 64 * 128),
        128 * 16 * 64,
    ),
}
BY_HAND["cifar-strided"], BY_HAND["vgg6-strided"] = BY_HAND["cifar"], BY_HAND["vgg6"]


def of_width(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU())


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3))


def test_a_network_of_ones_own_takes_options():
    for spec, width in (("test_networks.of_width", 4), ("test_networks.of_width(width=6)", 6)):
        assert shapes(build(spec, (1, 8, 8)), (1, 8, 8))[-1] == (width, 6, 6)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_papers_networks_by_hand(name):
    image, after, weights, head_weights = BY_HAND[name]
    encoder = build(name, image)
    assert shapes(encoder, image) == [image, *after]
    assert sum(p.numel() for p in encoder.parameters()) == weights
    assert not any("bias" in key for key, _ in encoder.named_parameters())
    top = head(NETWORKS[name].head, after[-1], None, 0, 0)
    assert sum(p.numel() for p in top.parameters()) == head_weights
    assert top(encoder(torch.zeros(2, *image))).shape == (2, 64)
    for layer in encoder:
        pooled = layer[0].stride == (2, 2) if "strided" in name else hasattr(layer, "pool")
        assert not hasattr(layer, "pool") or "strided" not in name
        before, now = after_of(layer, encoder, image)
        assert pooled == (before != now)


def after_of(layer, encoder, image):
    sizes = [shape[1] for shape in shapes(encoder, image)]
    number = list(encoder).index(layer)
    return sizes[number], sizes[number + 1]


def test_a_layer_computes_in_the_order_of_its_spec():
    x = torch.randn(2, 3, 8, 8)
    layer = build("conv4 tanh maxpool", (3, 8, 8))[0]
    expected = nn.functional.max_pool2d(torch.tanh(nn.functional.conv2d(x, layer.linear.weight, padding=1)), 2)
    torch.testing.assert_close(layer(x), expected)
    other = build("conv4 avgpool4 tanh", (3, 8, 8))[0]
    expected = torch.tanh(nn.functional.avg_pool2d(nn.functional.conv2d(x, other.linear.weight, padding=1), 4))
    torch.testing.assert_close(other(x), expected)


def test_options_of_maps():
    layer = build("conv8(kernel=5, stride=2, padding=2, bias=true)", (3, 9, 9))[0].linear
    assert (layer.kernel_size, layer.stride, layer.padding, layer.bias is not None) == ((5, 5), (2, 2), (2, 2), True)
    layer = build("local8(kernel=2, stride=3, padding=0)", (3, 9, 9))[0].linear
    assert layer.out_size == (3, 3)
    assert head("flatten linear9", (3, 2, 2), 5, 0, 0, bias=True).linear.weight.shape == (5, 12)


def test_initial_weights_are_pytorchs_and_layer_by_layer():
    a, b = build("conv32 | conv64", (3, 8, 8), seed=4), build("conv32 tanh | conv64 | conv8", (3, 8, 8), seed=4)
    assert torch.equal(a[1].linear.weight, b[1].linear.weight)  # whatever stands beside it
    assert not torch.equal(build("conv32", (3, 8, 8), seed=5)[0].linear.weight, a[0].linear.weight)
    weight = a[1].linear.weight
    assert weight.abs().max() <= (32 * 9) ** -0.5  # kaiming uniform with a = sqrt 5
    torch.testing.assert_close(weight.std(), torch.tensor((32 * 9) ** -0.5 / 3**0.5), rtol=0.02, atol=0)
    state = torch.get_rng_state()
    build("cifar", (3, 32, 32))
    assert torch.equal(torch.get_rng_state(), state)
    heads = [head("flatten linear8", (3, 2, 2), None, 0, site) for site in (0, 1)]
    assert not torch.isclose(heads[0].linear.weight, heads[1].linear.weight).any()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("resnet", "unknown part"),
        ("conv0", "unknown part"),
        ("conv", "unknown part"),
        ("conv8(3)", "unknown part"),
        ("tanh3", "unknown part"),
        ("hardtanh(low=2)", "unknown part"),
        ("flatten(start=2)", "unknown part"),
        ("conv8 maxpool(kernel=3)", "unknown part"),
        ("conv8 maxpool0", "unknown part"),
        ("conv8(depth=2)", "options kernel, stride, padding, bias"),
        ("conv8(kernel=0)", "options"),
        ("conv8(kernel=1.5)", "options"),
        ("conv8(stride=true)", "options"),
        ("local8(bias=true)", "options"),
        ("conv8(padding=-1)", "does not fit"),
        ("conv8(kernel=20)", "does not fit"),
        ("local8(kernel=20)", "no positions"),
        ("local8(padding=-1)", "no positions"),
        ("conv8 maxpool16", "does not fit|leaves nothing"),
        ("conv8 conv8", "two parts"),
        ("linear8", "flatten"),
        ("flatten linear8 | conv8", "channels"),
        ("conv8 |", "empty"),
        ("nowhere.to.be.found", "imported"),
        ("collections.OrderedDict", "OrderedDict"),
        ("torch.nn.Linear", "cannot be made"),
        ("torch.nn.Linear(nothing=1)", "cannot be made"),
        ("torchvision.models.resnet18", "ResNet"),
        ("torch.nn.Sequential", "with weights"),
        ("test_networks.lazy", "has no weights, or lazy ones"),
    ],
)
def test_specs_that_make_no_network(spec, words):
    with pytest.raises(InputError, match=words) as caught:
        build(spec, (3, 8, 8))
    assert "\n" not in str(caught.value)


def test_heads_that_make_no_head():
    with pytest.raises(InputError, match="several layers"):
        head("flatten linear8 | linear4", (3, 2, 2), None, 0, 0)
    with pytest.raises(InputError, match="0 linear maps"):
        head("flatten", (3, 2, 2), 10, 0, 0)
    with pytest.raises(InputError, match="The head 'linear8 tanh linear4' has 2 linear maps"):
        head("linear8 tanh linear4", (3, 2, 2), 10, 0, 0)
    with pytest.raises(InputError, match="The head mine.linear64 is made elsewhere"):
        head("mine.linear64", (3, 2, 2), 10, 0, 0)


mine = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5))


def make_mine():
    return nn.Sequential(nn.Dropout(0.1), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3), nn.Flatten())


def make_head():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))


def test_each_site_draws_a_head_of_its_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "users_module", sys.modules[__name__])
    for spec in ("flatten linear5", "users_module.make_head"):
        one, again, other = (head(spec, (3, 2, 2), None, 0, site).linear.weight for site in (0, 0, 1))
        assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_users_own_chain_by_its_dotted_path(monkeypatch):
    monkeypatch.setitem(sys.modules, "users_module", sys.modules[__name__])
    encoder = build("users_module.mine", (3, 8, 8))
    assert [[n for n, _ in layer.named_children()] for layer in encoder] == [
        ["linear", "batchnorm2d", "activation", "pool"],
        ["flatten", "linear"],
    ]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(encoder.eval()(x), copy.deepcopy(mine).eval()(x))
    with torch.no_grad():  # what trains is a copy
        encoder[0].linear.weight.zero_()
    assert mine[0].weight.abs().max() > 0
    first, again, other = (build("users_module.make_mine", (3, 8, 8), seed=s) for s in (1, 1, 2))
    assert [[n for n, _ in layer.named_children()] for layer in first] == [
        ["dropout", "linear", "activation"],
        ["linear", "flatten"],
    ]
    assert torch.equal(first[0].linear.weight, again[0].linear.weight)
    assert not torch.equal(first[0].linear.weight, other[0].linear.weight)
    with pytest.raises(InputError, match="does not fit"):
        build("users_module.mine", (1, 8, 8))


def test_layers_of_our_own_chains_stay_as_they_are():
    encoder = build("conv4 tanh | conv4", (3, 8, 8))
    assert layers_of(encoder) is encoder


def test_evaluating_restores_every_parts_mode():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)))
    net[1][1].eval()
    output_shape(net, (3,))
    with evaluating(net):
        assert not any(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == [True, True, True, True, False]
    assert int(net[0].num_batches_tracked) == 0


GEOMETRIES = [
    ((7, 5), 3, 1, 1),
    ((7, 5), 3, 2, 1),
    ((6, 9), 2, 3, 0),
    ((4, 4), 4, 1, 2),
    ((5, 5), 5, 1, 0),
    ((8, 7), 1, 2, 0),
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), GEOMETRIES)
def test_locally_connected_with_tied_weights_is_a_convolution(size, kernel, stride, padding):
    local = LocallyConnected2d(3, 4, size, kernel, stride, padding).double()
    conv = nn.Conv2d(3, 4, kernel, stride, padding, bias=False).double()
    local.weight.data = conv.weight.data.reshape(1, 4, -1).repeat(len(local.weight), 1, 1)
    x = torch.randn(2, 3, *size).double()
    torch.testing.assert_close(local(x), conv(x), atol=1e-13, rtol=0)
    assert local.out_size == tuple(conv(x).shape[2:])


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), GEOMETRIES)
def test_locally_connected_transpose_is_the_adjoint(size, kernel, stride, padding):
    local = LocallyConnected2d(3, 4, size, kernel, stride, padding).double()
    other = torch.randn_like(local.weight)
    x, error = torch.randn(2, 3, *size).double(), torch.randn(2, 4, *local.out_size).double()
    up = (local.apply_weight(x, other) * error).sum()  # <W x, d> = <x, W^T d>
    down = (x * local.input_gradient(error, other)).sum()
    torch.testing.assert_close(up, down, atol=1e-11, rtol=1e-11)
    if len(local.weight) > 1:  # each position has weights of its own
        local.weight.data[0] += 1
        changed = (local(x) != LocallyConnected2d.apply_weight(local, x, local.weight - _first(local))).flatten(2)
        assert changed.any(1).any(0).tolist() == [True] + [False] * (changed.shape[2] - 1)


def _first(local):
    change = torch.zeros_like(local.weight)
    change[0] = 1
    return change


def test_locally_connected_starts_as_the_convolution_does():
    local, conv = LocallyConnected2d(16, 8, (9, 9), 3, padding=1), nn.Conv2d(16, 800, 3)
    torch.testing.assert_close(local.weight.std(), conv.weight.std(), rtol=0.02, atol=0)
    assert local.weight.shape == (81, 8, 144)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_flat_linear_map_is_flatten_and_linear_in_either_layout(layout):
    map = FlatLinear((3, 4, 5), 7).double()
    leaf = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    x = (2 * leaf).contiguous(memory_format=layout)
    layouts = []
    x.register_hook(lambda gradient: layouts.append(gradient.is_contiguous(memory_format=layout)))
    y, expected = map(x), F.linear(leaf.flatten(1) * 2, map.weight, map.bias)
    torch.testing.assert_close(y, expected)
    error = torch.randn_like(y)
    for found, slow in zip(
        torch.autograd.grad(y, (leaf, *map.parameters()), error),
        torch.autograd.grad(expected, (leaf, *map.parameters()), error),
        strict=True,
    ):
        torch.testing.assert_close(found, slow)
    assert layouts == [True]
    torch.testing.assert_close(map.input_gradient(error, map.weight), (error @ map.weight).view(2, 3, 4, 5))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5)])
def test_a_flat_linear_maps_transpose_takes_features_of_any_axes(shape):
    map, error = FlatLinear(shape, 7), torch.randn(2, 7)
    torch.testing.assert_close(map.input_gradient(error, map.weight), (error @ map.weight).view(2, *shape))


def test_flatten_before_a_linear_map_is_one_part_with_it():
    head, plain = build("flatten linear4 tanh", (2, 3, 3))[0], build("linear4 tanh", (18,))[0]
    assert [(name, type(part)) for name, part in head.named_children()] == [
        ("linear", FlatLinear),
        ("activation", nn.Tanh),
    ]
    assert torch.equal(head.linear.weight, plain.linear.weight)
    assert type(build("flatten tanh linear4", (2, 3, 3))[0].linear) is nn.Linear


@pytest.mark.parametrize("name", [n for n in NETWORKS if "vgg6" not in n])
def test_torchvision_names_every_layer_and_part(name):
    image = BY_HAND[name][0]
    encoder, x = build(name, image).eval(), torch.rand(2, *image)
    parts = [f"{k}.{role}" for k, layer in enumerate(encoder) for role, _ in layer.named_children()]
    assert set(parts) <= set(get_graph_node_names(encoder)[1])
    found = create_feature_extractor(encoder, parts)(x)
    for k, layer in enumerate(encoder):
        x = layer(x)
        last = list(layer.named_children())[-1][0]
        torch.testing.assert_close(found[f"{k}.{last}"], x)
    assert create_feature_extractor(encoder, {"1.linear": "middle"})(torch.rand(1, *image))["middle"].shape[0] == 1


def test_torchvision_names_the_layers_of_a_users_chain():
    encoder = layers_of(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    )
    x = torch.rand(2, 3, 8, 8)
    found = create_feature_extractor(encoder.eval(), ["0", "1.linear"])(x)
    torch.testing.assert_close(found["0"], encoder[0](x))
    torch.testing.assert_close(found["1.linear"], encoder(x))


def test_activity_counts_a_locally_connected_maps_copies_of_its_input():
    # 2 outputs at 4x4 positions, and at each 3 channels in a window of 3x3.
    assert activity(build("local2", (3, 4, 4)), (3, 4, 4)) == 2 * 16 + 16 * 3 * 9


def test_each_layer_draws_weights_of_its_own_whatever_stands_beside_it():
    weights, other = (
        [p.detach() for p in build(f"{first} | conv8 | conv8", (8, 6, 6)).parameters()]
        for first in ("conv8", "conv8 tanh")
    )
    assert all(map(torch.equal, weights, other))
    assert not any(torch.equal(weights[k], weights[j]) for k, j in ((0, 1), (0, 2), (1, 2)))


class Two(nn.Conv2d):
    def forward(self, x):
        return super().forward(x), x


class Silent(nn.Conv2d):
    def forward(self, x):
        raise ValueError


@pytest.mark.parametrize(
    ("layer", "says"),
    [(Two(1, 2, 3), "gives a tuple; it takes layers that give one tensor"), (Silent(1, 2, 3), "ValueError")],
)
def test_layers_that_give_no_tensor_are_refused(layer, says):
    with pytest.raises(InputError, match=says):
        output_shape(layer, (1, 8, 8))
