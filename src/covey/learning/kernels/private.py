"""The kernel of differentially private SGD (Abadi et al., 2016): gradients of samples are clipped, and noise is added.

It computes one node after the other, and the gradients of a batch's samples together by torch.func.

Shapes: B samples of a batch, T trained parameters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from covey.learning.kernels.kernel import Chunk, Kernel, Trained, predicted
from covey.learning.kernels.module import ModuleKernel
from covey.learning.noise import Noise
from covey.learning.objectives import Objective

_NUMBERS = 1 << 24
"""The most numbers of the gradients that are computed together."""


@dataclass(frozen=True, slots=True)
class Privacy:
    """The protection of a chunk's trainings.

    Attributes:
        clip: the largest norm of the gradient of a sample.
        noise: the standard deviation of the noise on the sum of gradients, as a multiple of `clip`.
        keys: the secret key of each training's noise.
        expected: the expected number of samples of a batch of each training, by which the sum is divided.
    """

    clip: float
    noise: float
    keys: list[bytes]
    expected: list[float]


class PrivateKernel(ModuleKernel):
    """Trains with clipped gradients of samples and noise. It evaluates and predicts as `ModuleKernel` does."""

    def does(self, objective: Objective) -> bool:
        return True

    def train(self, chunk: Chunk) -> Trained:
        bound, trainable, privacy = self.bound(), self.layout.trainable, chunk.privacy
        assert privacy is not None
        bound.reset()
        models, losses = [], torch.zeros(len(chunk.starts), device=chunk.lr.device)
        with torch.no_grad():
            for job, start in enumerate(chunk.starts):
                model, noise = start.clone(), Noise(privacy.keys[job])
                trained = model[:trainable].unsqueeze(0)
                slots = {name: memory[job : job + 1] for name, memory in chunk.slots.items()}
                for step, samples in enumerate(chunk.samples[job, : chunk.steps[job]].unbind()):
                    gradient, loss = self._sum_of_clipped(model, chunk, job, step, samples[samples >= 0])
                    drawn = noise.normal(trainable).to(gradient.device)
                    gradient.add_(drawn, alpha=privacy.noise * privacy.clip).div_(privacy.expected[job])
                    losses[job] += loss
                    if chunk.proximal:
                        gradient.add_(trained[0] - start[:trainable], alpha=chunk.proximal)
                    if chunk.corrections is not None:
                        gradient.add_(chunk.corrections[job])
                    self.optimizer.step(trained, gradient.unsqueeze(0), slots, chunk.lr[job : job + 1])
                one = slice(job, job + 1)
                self.optimizer.finish(trained, slots, chunk.lr[one], chunk.steps[one], chunk.guesses[one])
                models.append(model)
        return Trained(models, losses, torch.stack([torch.isfinite(model.sum()) for model in models]))

    def _sum_of_clipped(
        self, model: Tensor, chunk: Chunk, job: int, step: int, samples: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum of the clipped gradients of a batch, T, and the sum of its losses."""
        privacy, module = chunk.privacy, self.bound().module
        assert privacy is not None
        total, losses = model.new_zeros(self.layout.trainable), model.new_zeros(())
        if not len(samples):
            return total, losses
        split = chunk.given or self.train_split
        inputs = self.augmented(Kernel.inputs(self, split, samples), chunk, job, step)
        targets = split.targets[samples]
        weights = torch.ones(len(samples), device=model.device) if chunk.weights is None else chunk.weights[samples]
        rest = self.layout.views(model)
        trained = {piece.name: rest.pop(piece.name) for piece in self.layout.parameters}

        def loss_of(parameters: dict[str, Tensor], x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
            outputs = predicted(functional_call(module, {**parameters, **rest}, (x.unsqueeze(0),)))
            return self.minimised(chunk, outputs, target.unsqueeze(0), weight.unsqueeze(0))[0]

        differentiate = vmap(grad_and_value(loss_of), in_dims=(None, 0, 0, 0), randomness="different")
        block = max(1, _NUMBERS // self.layout.trainable)
        for some in torch.split(torch.arange(len(samples), device=model.device), block):
            pieces, loss = differentiate(trained, inputs[some], targets[some], weights[some])
            gradients_BT = torch.cat([piece.reshape(len(some), -1) for piece in pieces.values()], dim=1)
            norms_B = torch.linalg.vector_norm(gradients_BT, dim=1)
            total += (privacy.clip / norms_B.clamp_(min=privacy.clip)) @ gradients_BT
            losses += loss.sum()
        return total, losses
