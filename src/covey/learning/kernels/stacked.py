"""The kernel for dense networks of many nodes at once: stacked matrix products with an explicit backward pass.

For plain SGD the step is fused into the product of the gradient, W <- W - (lr * delta)^T x, so the gradient is never
stored. bench/RESULTS.md compares this with a loop over nodes.

Shapes: J nodes of a chunk, K of them active, B samples of a batch, I and O widths of a layer, P parameters.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covey.learning.dataset import Data, Split
from covey.learning.kernels.kernel import Chunk, Recipe, Trained
from covey.learning.kernels.module import ModuleKernel
from covey.learning.layout import Layout, own_rows
from covey.learning.models import Dense
from covey.learning.node import Metrics
from covey.learning.objectives import Objective
from covey.learning.scoring import Further

_EVALUATED_AT_ONCE = 1 << 22


class StackedKernel(ModuleKernel):
    """The kernel for modules of the class `Dense`."""

    chunk = 32
    most = 512

    def __init__(self, make: Callable[[], nn.Module], layout: Layout, data: Data, recipe: Recipe) -> None:
        super().__init__(make, layout, data, recipe)
        module = make()
        assert isinstance(module, Dense)
        self.widths, self.scalar = module.widths, module.scalar
        train, test = self.train_split, self.test_split
        self.train_split = Split(train.inputs.flatten(1), train.targets)
        self.test_split = Split(test.inputs.flatten(1), test.targets)

    def layers(self, models: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The weights, K x O x I, and biases, K x 1 x O, of every layer, as views of K x P models."""
        pieces = self.layout.parameters
        found = []
        for weight, bias in zip(pieces[0::2], pieces[1::2], strict=True):
            weights = models[:, weight.start : weight.stop].view(-1, *weight.shape)
            found.append((weights, models[:, bias.start : bias.stop].unsqueeze(1)))
        return found

    def train(self, chunk: Chunk) -> Trained:
        models = torch.stack(list(chunk.starts))
        losses, finite = self.train_rows(models, chunk)
        return Trained(own_rows(models), losses, finite)

    @torch.no_grad()
    def train_rows(self, models: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        losses = models.new_zeros(len(models))
        fused = self.optimizer.is_plain and chunk.is_bare and self.recipe.clip is None
        given = chunk.given
        split = self.train_split if given is None else Split(given.inputs.flatten(1), given.targets)
        starts = models.clone() if chunk.proximal else None
        gradients = None if fused else torch.empty_like(models)
        active = -1
        for step in range(chunk.steps[0]):
            if chunk.active(step) != active:
                active = chunk.active(step)
                models_KP = models[:active]
                layers = self.layers(models_KP)
                lr = chunk.lr[:active]
                slots = {name: memory[:active] for name, memory in chunk.slots.items()}
                if gradients is not None:
                    gradient_layers = self.layers(gradients[:active])
            drawn = samples = chunk.samples[:active, step]
            share: Tensor | float
            if chunk.ragged:
                taken = samples >= 0
                share = taken / taken.sum(1, keepdim=True)
                samples = samples.clamp(min=0)
            else:
                share = 1.0 / samples.shape[1]
            flat = samples.reshape(-1)
            x = self.inputs(split, flat).view(active, samples.shape[1], -1)
            self.augment(x, drawn, chunk, step)
            targets = split.targets[flat]
            targets = targets.view(*samples.shape, *targets.shape[1:])
            hidden = self._forward(layers, x)
            delta, loss = self._error(hidden.pop(), targets)
            if chunk.weights is not None:
                weights = chunk.weights[flat].view(samples.shape)
                delta, loss = delta.mul_(weights.unsqueeze(2)), loss * weights
            losses[:active] += (loss * taken if chunk.ragged else loss).sum(1)
            if fused:
                delta.mul_((share * lr if chunk.ragged else lr * share).unsqueeze(2))
                self._descend(layers, hidden, delta)
                continue
            assert gradients is not None
            delta.mul_(share.unsqueeze(2) if isinstance(share, Tensor) else share)
            self._collect(layers, gradient_layers, hidden, delta)
            if starts is not None:
                gradients[:active].add_(models_KP - starts[:active], alpha=chunk.proximal)
            if chunk.corrections is not None:
                gradients[:active].add_(chunk.corrections[:active])
            self.optimizer.step(models_KP, self.recipe.clipped(gradients[:active]), slots, lr)
        self.optimizer.finish(models, chunk.slots, chunk.lr, chunk.steps, chunk.guesses)
        return losses, torch.isfinite(models.sum(1))

    def does(self, objective: Objective) -> bool:
        return False

    def _forward(self, layers: list[tuple[Tensor, Tensor]], x: Tensor) -> list[Tensor]:
        """The input of every layer, and the output of the last."""
        values = [x]
        for weights, biases in layers[:-1]:
            values.append(torch.baddbmm(biases, values[-1], weights.transpose(1, 2)).relu_())
        weights, biases = layers[-1]
        values.append(torch.baddbmm(biases, values[-1], weights.transpose(1, 2)))
        return values

    def _error(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The derivative of each sample's loss by the outputs, K x B x O, and the loss of each sample, K x B."""
        if self.scalar:
            residual = outputs.squeeze(2) - targets
            return (2.0 * residual).unsqueeze(2), residual.square()
        if self.data.objective == "values":
            residual = outputs - targets
            return residual * (2.0 / residual.shape[2]), residual.square().mean(2)
        chosen = targets.unsqueeze(2)
        log_p = F.log_softmax(outputs, dim=2)
        loss = log_p.gather(2, chosen).squeeze(2).neg_()
        delta = log_p.exp_()
        delta.scatter_add_(2, chosen, delta.new_full((1, 1, 1), -1.0).expand(chosen.shape))
        return delta, loss

    def _descend(self, layers: list[tuple[Tensor, Tensor]], hidden: list[Tensor], delta: Tensor) -> None:
        """Go back through the layers and step against the gradient. `delta` includes the learning rate."""
        for depth in range(len(layers) - 1, -1, -1):
            weights, biases = layers[depth]
            below = torch.bmm(delta, weights) if depth else None
            weights.baddbmm_(delta.transpose(1, 2), hidden[depth], alpha=-1)
            biases.sub_(delta.sum(1, keepdim=True))
            if below is not None:
                delta = torch.ops.aten.threshold_backward(below, hidden[depth], 0)

    def _collect(
        self,
        layers: list[tuple[Tensor, Tensor]],
        gradients: list[tuple[Tensor, Tensor]],
        hidden: list[Tensor],
        delta: Tensor,
    ) -> None:
        """Go back through the layers and write the gradient of each."""
        for depth in range(len(layers) - 1, -1, -1):
            gradients[depth][0].baddbmm_(delta.transpose(1, 2), hidden[depth], beta=0)
            gradients[depth][1].copy_(delta.sum(1, keepdim=True))
            if depth:
                below = torch.bmm(delta, layers[depth][0])
                delta = torch.ops.aten.threshold_backward(below, hidden[depth], 0)

    @torch.no_grad()
    def predict(self, models: Sequence[Tensor], inputs: Tensor) -> Tensor:
        blocks = torch.split(self.data.scaled(inputs).flatten(1), self._block)
        chunks = [self.layers(torch.stack(list(some))) for some in self._chunks(models)]
        values = torch.cat([torch.cat([self._outputs(layers, x) for x in blocks], dim=1) for layers in chunks])
        return values.squeeze(2) if self.scalar else values

    def _chunks(self, models: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        return [models[at : at + self.chunk] for at in range(0, len(models), self.chunk)]

    @property
    def _block(self) -> int:
        """The samples of one product: as many for one model as for a chunk of them, so that their bits are the same."""
        return max(1, _EVALUATED_AT_ONCE // (self.chunk * max(self.widths[1:])))

    def _outputs(self, layers: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        """The predictions of K models for the same inputs."""
        # One product for all first layers takes 0.4 to 0.8 of the time, but its last bits depend on their number.
        return self._forward(layers, x.expand(len(layers[0][0]), *x.shape))[-1]

    @torch.no_grad()
    def evaluate(self, models: Sequence[Tensor], split: Split) -> list[Metrics]:
        return [figures for some in self._chunks(models) for figures in self._evaluate(some, split)]

    def _evaluate(self, models: Sequence[Tensor], split: Split) -> list[Metrics]:
        """The metrics of a chunk of models."""
        layers = self.layers(torch.stack(list(models)))
        count, scoring = len(models), self.scoring
        further = [Further(scoring) for _ in models]
        losses, hits = torch.zeros(2, count, dtype=torch.float64, device=split.inputs.device)
        for at in range(0, len(split), self._block):
            x = self.inputs(split, slice(at, at + self._block)).flatten(1)
            values = self._outputs(layers, x)
            targets = split.targets[at : at + self._block]
            targets = targets.expand(count, *targets.shape)
            outputs = values.squeeze(2) if self.scalar else values
            hit = scoring.hits(outputs, targets).flatten(2) if targets.dim() > 2 else scoring.hits(outputs, targets)
            hits += hit.sum(1) if hit.dim() == 2 else hit.double().mean(2).sum(1)
            flat_losses = scoring.losses(outputs.flatten(0, 1), targets.flatten(0, 1))
            losses += flat_losses.view(count, -1).sum(1, dtype=torch.float64)
            for one, *batch in zip(further, outputs, targets, strict=True):
                one.add(*batch)
        found = zip((losses / len(split)).tolist(), (hits / len(split)).tolist(), further, strict=True)
        return [scoring.figures(*figures) for figures in found]
