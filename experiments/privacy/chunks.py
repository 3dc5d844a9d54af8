"""Invert gradients of which one of k chunks was observed, by two attackers: a table of PSNR.

python experiments/privacy/chunks.py --out experiments/privacy/chunks.csv
"""

import argparse
import csv
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covey.decentralized.sharing.fragments import Fragments
from covey.learning.datasets.images import FashionMNIST
from covey.learning.layout import Layout
from covey.learning.views import View
from covey.parts.parameters import Setting
from covey.privacy.attacks.images import psnr
from covey.privacy.attacks.inversion import matched_of
from covey.privacy.attacks.matching import Method, Task, inverted
from covey.runtime.prepared import data_folder

METHOD = Method("squares", 0.1, 250)


class SmallLeNet(nn.Module):
    """Three convolutions with sigmoids and a linear layer, as in the code of DLG, with wide uniform weights."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(into, 12, 5, stride, 2) for into, stride in ((1, 2), (12, 2), (12, 1))]
        self.body = nn.Sequential(*(part for layer in layers for part in (layer, nn.Sigmoid())))
        self.head = nn.Linear(12 * 7 * 7, 10)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(images).flatten(1))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=METHOD.iterations)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    train = FashionMNIST().load(data_folder(arguments.data)).train
    images = train.inputs[: arguments.images].float() / 255
    labels = F.one_hot(train.targets[: arguments.images], 10).float()
    module = SmallLeNet()
    layout = Layout(module)
    start = layout.flatten(module)
    task = Task(module, layout, (1, 28, 28), 10, 0.0, 1.0, 1, 1.0)
    gradients = [
        task.gradient(start, x[None], y[None], simulate=False).detach() for x, y in zip(images, labels, strict=True)
    ]
    setting = Setting(2, seed=1, parameters=layout.size, pieces=tuple(layout.pieces))
    rows = []
    for k in (1, 2, 4, 8, 16):
        chunks, row = Fragments(setting, k, owner="this script"), {"k": str(k)}
        views = [
            View(0, (1,), 0.0, 0, g[at], at, start=start, gradient=True)
            for number, g in enumerate(gradients)
            for at in [chunks.indices(number % k)]
        ]
        for loss in ("observed", "zero-filled"):
            found = inverted(
                task, METHOD, start.expand(len(views), -1), matched_of(views, task, loss), labels[:, None],
                torch.Generator().manual_seed(1), arguments.iterations,
            )  # fmt: skip
            row[loss] = f"{float(psnr(found[:, 0], images).mean()):.1f}"
        rows.append(row)
        print(row, flush=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("k", "observed", "zero-filled"))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
