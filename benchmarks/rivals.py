"""What a step is compared with: the plain way to write it, and lightly's parts. Float32, default layout, PIL pictures.

Both get our network and initial weights, the deformations of the policy "paper" (no blur), Adam, and a DataLoader whose
workers deform picture by picture.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from saccade import networks
from saccade.data import ImageSet


class Pairs(Dataset):
    """Two views of each picture, deformed one by one."""

    def __init__(self, images: ImageSet, two_views: Callable[[Any], Any]):
        self.pictures = images.batch(torch.arange(len(images))).permute(0, 2, 3, 1).cpu().numpy()
        self.two_views = two_views

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        return self.two_views(Image.fromarray(self.pictures[index]))


def repeated_hinge(z_a: Tensor, z_b: Tensor, m1: float = 1.0, m2: float = 3.0) -> Tensor:
    """Eq. 2 with all negatives, from the (batch, batch, width) tensor of all differences."""
    n = len(z_a)
    differences = z_a[:, None].repeat(1, n, 1) - z_b[None].repeat(n, 1, 1)
    distances = differences.abs().sum(2)
    same = torch.eye(n, dtype=torch.bool, device=z_a.device)
    return (distances[same] - m1).relu().sum() + (m2 - distances[~same]).relu().sum()


def torchvision_views(size: int) -> Callable[[Any], Any]:
    """Two views of a picture by torchvision's transforms, as the policy "paper" makes them."""
    one = transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.ToTensor(),
        ]
    )
    return lambda picture: [one(picture), one(picture)]


def lightly_views(size: int) -> Callable[[Any], Any]:
    from lightly.transforms import SimCLRTransform

    return SimCLRTransform(input_size=size, cj_strength=1.0, gaussian_blur=0.0, normalize=None)


def lightly_loss() -> Callable[[Tensor, Tensor], Tensor]:
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=0.1)


class Rival:
    """An ordinary training loop. `turn` starts its workers, warms up, times some steps, and ends the workers."""

    def __init__(
        self,
        images: ImageSet,
        two_views: Callable[[Any], Any],
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        batch: int,
        workers: int,
        device: torch.device,
    ):
        shape = images.shape
        encoder = networks.build("cifar", shape, 0)
        head = networks.head("flatten linear64", networks.output_shape(encoder, shape), None, 0, 0)
        self.network = nn.Sequential(encoder, head).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.loss, self.device, self.workers = loss, device, workers
        repeats = torch.utils.data.RandomSampler(range(len(images)), replacement=True, num_samples=10**9)
        self.loader: DataLoader = DataLoader(
            Pairs(images, two_views),
            batch,
            sampler=repeats,
            num_workers=workers,
            prefetch_factor=1 if workers else None,  # a short queue is soon in its steady state
        )

    def step(self, views: list[Tensor]) -> None:
        x_a, x_b = (x.to(self.device) for x in views)
        self.optimizer.zero_grad()
        loss = self.loss(self.network(x_a), self.network(x_b))
        loss.backward()
        self.optimizer.step()

    def run(self, batches: Iterator[list[Tensor]], steps: int) -> None:
        for _ in range(steps):
            self.step(next(batches))

    def turn(self, steps: int, timer: Callable[[Callable[[], object]], float]) -> float:
        """Seconds of one step, of `steps` steps after one more than its workers made ahead of time."""
        batches = iter(self.loader)
        try:
            self.run(batches, self.workers + 1)
            return timer(lambda: self.run(batches, steps)) / steps
        finally:
            shut = getattr(batches, "_shutdown_workers", None)
            if shut is not None:
                shut()
