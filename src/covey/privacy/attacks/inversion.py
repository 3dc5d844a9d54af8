"""Gradient inversion: the pictures that a node trained on, from its gradient or from the change of its model.

Shapes: M messages, B pictures of each, C classes, P parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from covey.learning.chunks import drawn
from covey.learning.jobs import Training
from covey.learning.layout import Layout
from covey.learning.node import Work
from covey.learning.views import View
from covey.parts import rng
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import param
from covey.privacy.attacks.contract import Attack, Cell, Pictures, Result, Tracked, Truth, untracked
from covey.privacy.attacks.images import assigned, psnr, ssim
from covey.privacy.attacks.knowledge import Knowledge, seen, spread
from covey.privacy.attacks.matching import METHODS, Matched, Task, inferred_labels, inverted

_SHOWN = 8
"""The most pictures of a grid."""
_RECOGNISED = 15.0
"""The PSNR, in dB, from which on a small picture is recognised."""


@dataclass
class Evidence:
    """Reconstructed pictures, by kind of view, method and matching: M x B x C x H x W in [0, 1]."""

    views: dict[str, list[View]]
    pictures: dict[tuple[str, str, str], Tensor]


class Inversion(Attack):
    """Finds pictures whose gradient looks like the observed one."""

    kind = "inversion"
    methods: list[str] = param("The methods: dlg, idlg, cosine, rog-lite.", factory=lambda: [*METHODS])
    messages: int = param("The most messages that are inverted, evenly over the run.", default=8, ge=1)
    pictures: int = param("The most pictures that are sought in one message.", default=8, ge=1)
    iterations: int | None = param("The iterations of a method; by default, its own.", default=None, ge=1)
    labels: Literal["known", "inferred"] = param(
        "Whether the adversary knows the labels of the pictures, or takes them from the gradient of the last layer.",
        default="known",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.methods:
            if name not in METHODS:
                raise ConfigurationError(
                    f"The 'methods' of {self.named()} must be among {', '.join(METHODS)}. Got '{name}' instead."
                )

    def observe(self, known: Knowledge, tracked: Tracked[Any] = untracked) -> Evidence:
        task = self._task(known)
        kinds: dict[str, list[View]] = {}
        for view in known.views:
            if view.start is not None and len(view.senders) == 1:
                kinds.setdefault(seen(view), []).append(view)
        if not kinds:
            raise ConfigurationError(
                f"{self.named().capitalize()} needs a message whose sender trained from a model that its receiver "
                "knows, as in round 0 or at the server of fedavg, and none was observed."
            )
        views = {kind: spread(of, self.messages) for kind, of in kinds.items()}
        found: dict[tuple[str, str, str], Tensor] = {}
        for kind, of in views.items():
            starts = torch.stack([view.start for view in of if view.start is not None])
            everything = all(view.fraction(known.first) >= 1.0 for view in of)
            for name in self.methods:
                for loss in ("observed",) if everything else ("observed", "zero-filled"):
                    matched = matched_of(of, task, loss)
                    show = partial(_show, tracked, f"{name}, {loss}")
                    pictures = self._invert(known, task, name, starts, matched, of, show)
                    found[kind, name, loss] = (pictures - task.low) / (task.high - task.low)
                if everything:  # The two losses are the same.
                    found[kind, name, "zero-filled"] = found[kind, name, "observed"]
        return Evidence(views, found)

    def _invert(
        self,
        known: Knowledge,
        task: Task,
        name: str,
        starts: Tensor,
        matched: Matched,
        views: Sequence[View],
        show: Any,
    ) -> Tensor:
        method, count = METHODS[name], self._count(known)
        labels = inferred_labels(task, torch.stack([shown_gradient(view, task) for view in views]), count)
        if self.labels == "known" and not (method.inferred_labels or method.soft_labels):
            for row, view in enumerate(views):
                given = labels_of(known, view, count)
                if given is not None:
                    labels[row] = F.one_hot(torch.from_numpy(given), task.classes).float()
        generator = torch.Generator().manual_seed(
            rng.mix(rng.purpose_key(known.prepared.setting.seed, "inversion"), 0) >> 1
        )
        return inverted(task, method, starts, matched, labels, generator, self.iterations, show)

    def _count(self, known: Knowledge) -> int:
        """The number of pictures that are sought: those of a training, but not more than asked for."""
        used = known.learner.samples(0, Work())
        return min(self.pictures, used, int(known.learner.parts.sizes.max()))

    def _task(self, known: Knowledge) -> Task:
        """The training that is inverted.

        Raises:
            ConfigurationError: it cannot be.
        """
        learner = known.learner
        data, model, optimizer = learner.data, learner.task.model.title(), learner.task.optimizer
        needs = f"{self.named().capitalize()} needs "
        if len(data.sample_shape) != 3 or data.objective != "classes":
            shape = " x ".join(map(str, data.sample_shape)) or "numbers"
            raise ConfigurationError(f"{needs}pictures of classes, and samples of this run are {shape}.")
        if learner.layout.buffers:
            raise ConfigurationError(
                f"{needs}a model without buffers, and {model} has {learner.layout.buffers[0].name}: its gradient "
                "depends on statistics of the batch."
            )
        if not optimizer.is_plain or optimizer.lr <= 0:
            raise ConfigurationError(f"{needs}plain SGD, whose steps are gradients. Got {optimizer!r} instead.")
        low, high = _bounds(known)
        steps = learner.steps(0, Work())
        module = learner.module().eval()
        layout = Layout(module)
        return Task(
            module,
            layout,
            data.sample_shape,
            data.classes,
            low,
            high,
            steps,
            optimizer.lr * optimizer.schedule.factor(0),
        )

    def score(self, known: Knowledge, evidence: Evidence, truth: Truth) -> Result:
        low, high = _bounds(known)
        found: list[_Figures] = []
        shown: dict[tuple[str, str, str], tuple[Tensor, Tensor]] = {}
        for key, pictures in evidence.pictures.items():
            pairs = [
                _paired(known, view, one, low, high, truth)
                for view, one in zip(evidence.views[key[0]], pictures, strict=True)
                if truth.owners(view)
            ]
            if pairs:
                ours, originals = (torch.cat(parts) for parts in zip(*pairs, strict=True))
                of_each = psnr(ours, originals)
                recognised = int((of_each >= _RECOGNISED).sum())
                figures = float(of_each.mean()), float(ssim(ours, originals).mean())
                found.append(_Figures(*key, len(ours), recognised, *figures))
                shown[key] = ours, originals
        if not found:
            raise ConfigurationError("No observed message is of a node whose training samples are known.")
        best = max(found, key=lambda row: row.psnr)
        weak = max(row.psnr for row in found if row.compared == "zero-filled")
        meaning = (
            f"{best.recognised or 'None'} of {best.pictures} training pictures can be recognised ({_RECOGNISED:g} dB "
            f"or more): the strongest method, {best.method} on what was observed of a {best.seen}, reaches "
            f"{best.psnr:.1f} dB in the mean (SSIM {best.ssim:.2f}); with zeros for what was not, the best is "
            f"{weak:.1f} dB."
        )
        headline = {
            "psnr": best.psnr,
            "ssim": best.ssim,
            "psnr_zero_filled": weak,
            "recognised": best.recognised,
            "pictures": best.pictures,
        }
        rows: list[tuple[Cell, ...]] = [tuple(row) for row in found]
        columns = ("seen", "method", "compared", "pictures", "recognised", "PSNR (dB)", "SSIM")
        grid = {key[2]: pair for key, pair in shown.items() if key[:2] == (best.seen, best.method)}
        return Result(
            self.kind, columns, rows, meaning, headline, pictures=_grid(grid, f"{best.method} on a {best.seen}")
        )


class _Figures(NamedTuple):
    """The figures of one method."""

    seen: str
    method: str
    compared: str
    pictures: int
    recognised: int
    psnr: float
    ssim: float


def matched_of(views: Sequence[View], task: Task, loss: str) -> Matched:
    """The observed gradients of views: those that messages hold, or the changes of models over steps and rate.

    Args:
        views: the views, with the models before their training, all in the same coordinates.
        task: the training.
        loss: "observed" to compare where the messages show values, or "zero-filled" to compare everywhere.
    """
    targets, masks = [], []
    for view in views:
        assert view.start is not None
        change = view.values if view.gradient else (view.shows(view.start) - view.values) / (task.lr * task.steps)
        base = torch.zeros_like(view.domain(view.start))
        places = torch.arange(len(base)) if view.places is None else view.places
        targets.append(base.index_copy(0, places, change))
        masks.append(base.index_fill(0, places, 1.0))
    mask = torch.stack(masks)
    return Matched(torch.stack(targets), mask if loss == "observed" else torch.ones_like(mask), views[0].domain_of_rows)


def shown_gradient(view: View, task: Task) -> Tensor:
    """The gradient that a message shows, P, with 0 for what it does not."""
    assert view.start is not None
    if view.gradient:
        return view.completed(torch.zeros_like(view.start))
    return (view.start - view.completed(view.start)) / (task.lr * task.steps)


def labels_of(known: Knowledge, view: View, count: int) -> np.ndarray | None:
    """The labels of the pictures of a training, which this adversary is given; None for those of a pseudonym."""
    node = view.senders[0]
    if node not in known.holders:
        return None
    used = used_samples(known, node, view.round)
    found: np.ndarray = known.learner.data.train.targets[torch.from_numpy(np.resize(used, count))].cpu().numpy()
    return found


def used_samples(known: Knowledge, node: int, round: int | None) -> np.ndarray:
    """The training samples that a node used in a round, without repetition."""
    stream = rng.mix(rng.purpose_key(known.prepared.setting.seed, "train"), node)
    training = Training(known.holders[node], known.first, stream, round or 0, 0, Work())
    return np.array([*dict.fromkeys(drawn(known.learner, training).tolist())], dtype=np.int64)


def _paired(
    known: Knowledge, view: View, pictures: Tensor, low: float, high: float, truth: Truth
) -> tuple[Tensor, Tensor]:
    """The reconstructions of a message and the originals that are assigned to them."""
    (owner,) = truth.owners(view)[:1]
    used = used_samples(known, owner, view.round)
    used = used[np.isin(used, truth.samples[owner])]
    inputs, _ = known.learner.splits.taken("train", used if len(used) else truth.samples[owner])
    originals = (inputs.cpu() - low) / (high - low)
    return pictures, originals[torch.from_numpy(assigned(pictures, originals))]


def _bounds(known: Knowledge) -> tuple[float, float]:
    """The least and the largest number of a converted picture."""
    inputs = known.learner.data.scaled(known.learner.data.train.inputs[:1000])
    low, high = float(inputs.min()), float(inputs.max())
    return low, high if high > low else low + 1.0


def _grid(shown: dict[str, tuple[Tensor, Tensor]], title: str) -> Pictures:
    """Originals above the reconstructions of either loss."""
    originals = next(iter(shown.values()))[1]
    rows = {"original": originals, **{loss: found for loss, (found, _) in shown.items()}}
    return Pictures({name: _channels_last(row[:_SHOWN]) for name, row in rows.items()}, title)


def _channels_last(row: Tensor) -> np.ndarray:
    pictures = row[:, :3] if row.shape[1] >= 3 else row[:, :1]
    found: np.ndarray = pictures.permute(0, 2, 3, 1).numpy()
    return found


def _show(tracked: Tracked[Any], what: str, steps: range) -> Any:
    return tracked(steps, what, len(steps))
