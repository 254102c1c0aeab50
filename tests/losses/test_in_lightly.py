"""Our losses and encoder in a training loop as lightly's users write it, and lightly's losses and heads in ours."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from saccade import losses
from saccade.data import load
from saccade.networks import build

pytest.importorskip("lightly")
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torchvision.transforms.functional import to_pil_image


class Digits(torch.utils.data.Dataset):
    def __init__(self, transform=None):
        self.images, self.transform = load("digits:train[:48]"), transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        picture = to_pil_image(self.images.images[index].expand(3, -1, -1))
        return (picture if self.transform is None else self.transform(picture)), int(self.images.labels[index])


@pytest.mark.parametrize("text", ["lightly", "hinge(m2=6, negatives=5)", "hinge(block=true)", "simclr", "barlow-twins"])
def test_lightlys_loop_with_our_losses(text):
    torch.manual_seed(0)
    criterion = NTXentLoss() if text == "lightly" else losses.make(text)
    if hasattr(criterion, "sized"):
        criterion.sized((16,))
    backbone = nn.Sequential(build("conv8 relu maxpool4", (3, 28, 28)), nn.Flatten())
    model = nn.Sequential(backbone, SimCLRProjectionHead(8 * 7 * 7, 32, 16))
    transform = SimCLRTransform(input_size=28, gaussian_blur=0.0)
    dataset = LightlyDataset.from_torch_dataset(Digits(), transform=transform)
    optimizer = torch.optim.Adam([*model.parameters(), *criterion.parameters()], lr=1e-3)
    batches = list(DataLoader(dataset, batch_size=24, shuffle=True, drop_last=True))  # the same views at every pass
    passes = []
    for _ in range(4):
        total = 0.0
        for (x0, x1), _, _ in batches:
            z0, z1 = model(x0), model(x1)
            loss = criterion(z0, z1)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
        passes.append(total)
    assert passes[-1] < passes[0]
