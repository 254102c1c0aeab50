"""A network of one's own, with a skip connection, trained with labels in one's own loop, by random feedback."""

import torch
from torch import nn
from torch.nn import functional as F

import saccade
from saccade.rules import convert


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.top = nn.Linear(16 * 14 * 14, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = x + self.second(x).relu()
        return self.top(x.flatten(1))


def main(epochs: float = 3) -> None:
    train, test = saccade.load_images("digits:train"), saccade.load_images("digits:test")
    for rule in ("bp", "rf"):
        torch.manual_seed(0)
        net = convert(Skipping(), rule, seed=0)
        optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(max(1, round(epochs * len(train) / 50))):
            index = torch.randint(len(train), (50,))
            loss = F.cross_entropy(net(train.batch(index) / 255), train.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            right = net(test.batch(torch.arange(len(test))) / 255).argmax(1) == test.labels
        print(f"{rule}: {100 * right.double().mean():.1f} % of test digits")


if __name__ == "__main__":
    main()
