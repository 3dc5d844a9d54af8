"""The kernel that computes many nodes at once by torch.func, for GPUs, and for narrow layers on CPUs.

On CPUs, wide convolutions of several nodes at once are slower than one node after the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from covey.learning.dataset import Data, Split
from covey.learning.kernels.kernel import Chunk, Kernel, Recipe, Trained, predicted
from covey.learning.kernels.module import ModuleKernel
from covey.learning.layout import Layout, own_rows
from covey.learning.objectives import Objective
from covey.parts.errors import described

_PREDICTED_AT_ONCE = 4096


class VmappedKernel(ModuleKernel):
    """The kernel for modules without buffers, dropout, and layers that vmap does not support, such as recurrent."""

    chunk = 16

    def __init__(self, make: Callable[[], nn.Module], layout: Layout, data: Data, recipe: Recipe) -> None:
        super().__init__(make, layout, data, recipe)
        self._known: dict[tuple[type, str], bool] = {}
        """True for each objective that vmap supports, filled on demand."""

    @classmethod
    def refusal(
        cls,
        make: Callable[[], nn.Module],
        layout: Layout,
        data: Data,
        recipe: Recipe,
        start: Tensor,
        objective: Objective | None = None,
    ) -> str | None:
        """The reason why vmap does not support a module, found by a trial on a few samples; None if it does."""
        few = Split(data.train.inputs[:8], data.train.targets[:8])
        chunk = Chunk(
            starts=[start, start],
            samples=(torch.arange(8, device=start.device) % len(few)).view(2, 2, 2),
            ragged=False,
            steps=[2, 2],
            lr=torch.zeros(2, 1, device=start.device),
            proximal=0.0,
            slots=recipe.optimizer.fresh(start[: layout.trainable].repeat(2, 1)),
            objective=objective,
        )
        try:
            cls(make, layout, replace(data, train=few, test=few), recipe).train(chunk)
        except Exception as error:
            return described(error).splitlines()[0]
        return None

    @classmethod
    def is_independent(
        cls, make: Callable[[], nn.Module], layout: Layout, data: Data, recipe: Recipe, batch_size: int
    ) -> bool:
        """True if the result of a training does not depend on the others of its chunk, as exact resumption needs."""
        generator = torch.Generator().manual_seed(1)
        starts = list(torch.randn(cls.chunk, layout.size, generator=generator) / 8)
        samples = torch.randint(len(data.train), (cls.chunk, 1, batch_size), generator=generator)
        kernel = cls(make, layout, data, recipe)

        def trained(indices: Sequence[int]) -> Sequence[Tensor]:
            slots = recipe.optimizer.fresh(torch.stack(starts)[list(indices), : layout.trainable])
            lr = torch.full((len(indices), 1), 0.1)
            chosen = [starts[index] for index in indices]
            return kernel.train(Chunk(chosen, samples[list(indices)], False, [1] * len(indices), lr, 0.0, slots)).models

        together = trained(range(cls.chunk))
        for indices in ([0], [cls.chunk - 1], [5, 0], [7, 2, 0], list(range(cls.chunk - 1, 0, -1))):
            if not all(map(torch.equal, trained(indices), (together[index] for index in indices))):
                return False
        return True

    def does(self, objective: Objective) -> bool:
        called = type(objective), repr(objective)
        if called not in self._known:
            start = self.layout.flatten(self.make()).to(self.data.train.inputs.device)
            refusal = self.refusal(self.make, self.layout, self.data, self.recipe, start, objective)
            self._known[called] = refusal is None
        return self._known[called]

    @torch.no_grad()
    def predict(self, models: Sequence[Tensor], inputs: Tensor) -> Tensor:
        bound = self.bound()
        bound.reset()
        bound.module.eval()
        views = self.layout.views(torch.stack(list(models)))

        def outputs(pieces: dict[str, Tensor], x: Tensor) -> Tensor:
            found: Tensor = predicted(functional_call(bound.module, pieces, (x,)))
            return found

        predict = vmap(outputs, in_dims=(0, None))
        blocks = torch.split(self.data.scaled(inputs), max(1, _PREDICTED_AT_ONCE // len(models)))
        return torch.cat([predict(views, block) for block in blocks], dim=1)

    def train(self, chunk: Chunk) -> Trained:
        bound = self.bound()
        bound.reset()
        module = bound.module

        trainable = self.layout.trainable

        def loss_of(
            parameters: dict[str, Tensor],
            frozen: dict[str, Tensor],
            x: Tensor,
            targets: Tensor,
            share: Tensor,
            weights: Tensor | None,
        ) -> tuple[Tensor, Tensor]:
            outputs = predicted(functional_call(module, {**parameters, **frozen}, (x,)))
            losses = self.minimised(chunk, outputs, targets, weights, share)
            return (losses * share).sum(), losses

        differentiate = vmap(
            grad_and_value(loss_of, has_aux=True), in_dims=(0, 0, 0, 0, 0, None if chunk.weights is None else 0)
        )
        split = chunk.given or self.train_split
        with torch.no_grad():
            # At least two: torch computes a single model by other kernels, with other last bits.
            count = max(len(chunk.starts), 2)
            models = torch.stack([*chunk.starts, *chunk.starts][:count])
            drawn = chunk.samples.expand(count, -1, -1)
            trained = models[:, :trainable]
            starts = trained.clone() if chunk.proximal else None
            losses = models.new_zeros(len(chunk.starts))
            for step in range(chunk.steps[0]):
                active = chunk.active(step)
                together = max(active, 2)
                samples = drawn[:together, step]
                taken = samples >= 0
                flat = samples.clamp(min=0).reshape(-1)
                x = Kernel.inputs(self, split, flat)
                x = x.view(*samples.shape, *x.shape[1:])
                self.augment(x, samples, chunk, step)
                targets = split.targets[flat]
                views = self.layout.views(models[:together])
                # By piece: the derivative by the flat model would fill a flat vector for every piece.
                pieces, (_, loss) = differentiate(
                    {piece.name: views.pop(piece.name) for piece in self.layout.parameters},
                    views,
                    x,
                    targets.view(*samples.shape, *targets.shape[1:]),
                    taken / taken.sum(1, keepdim=True),
                    None if chunk.weights is None else chunk.weights[flat].view(samples.shape),
                )
                gradients = torch.cat([piece[:active].reshape(active, -1) for piece in pieces.values()], dim=1)
                losses[:active] += (loss * taken).sum(1)[:active]
                if starts is not None:
                    gradients = gradients.add(trained[:active] - starts[:active], alpha=chunk.proximal)
                if chunk.corrections is not None:
                    gradients = gradients.add(chunk.corrections[:active])
                slots = {name: memory[:active] for name, memory in chunk.slots.items()}
                self.optimizer.step(trained[:active], self.recipe.clipped(gradients), slots, chunk.lr[:active])
            self.optimizer.finish(trained[: len(chunk.starts)], chunk.slots, chunk.lr, chunk.steps, chunk.guesses)
        models = models[: len(chunk.starts)]
        return Trained(own_rows(models), losses, torch.isfinite(models.sum(1)))
