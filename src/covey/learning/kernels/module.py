"""The kernel for any module, which computes one node after the other. Threads work on different nodes.

Training leaves every layer in the mode in which it was built: a layer that the constructor sets to `eval()` stays so.

Every thread has its own module, bound to a flat model and a flat gradient: a module that threads share would silently
give wrong gradients. Images and weights of convolutions are channels_last, which is faster on CPUs.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from covey.learning.dataset import Data, Split
from covey.learning.kernels.kernel import Chunk, Kernel, Recipe, Trained, predicted
from covey.learning.layout import Layout
from covey.learning.node import Metrics
from covey.learning.objectives import Objective
from covey.learning.scoring import Tally

_EVALUATED_AT_ONCE = 512


class _Bound:
    """A module whose parameters, buffers and gradients are views of flat vectors. Convolutions are channels_last."""

    def __init__(self, module: nn.Module, layout: Layout, device: torch.device) -> None:
        # `Module.to` would split a buffer that has several names.
        for buffer in module.buffers():
            buffer.data = buffer.to(device)
        self.module = module.to(device)
        self.model = torch.zeros(layout.size, device=device)
        self._layout = layout
        self._constants = layout.bind(module, self.model)
        self._buffers = [(owner, dict(owner._buffers)) for owner in module.modules() if owner._buffers]
        tensors = dict(module.named_buffers())
        self._averaged = [(piece.name, tensors[piece.name]) for piece in layout.buffers]
        self._built_in_eval = [layer for layer in module.modules() if not layer.training]
        self.trainable = self.model[: layout.trainable].unsqueeze(0)
        """The trained parameters, 1 x their number."""
        self.parameters = {name: one for name, one in module.named_parameters() if one.requires_grad}
        """The trained parameters by name."""
        self.gradient = torch.zeros_like(self.trainable)
        gradients = layout.channels_last_views(self.gradient[0])
        for name, parameter in module.named_parameters():
            parameter.grad = gradients.get(name)

    def __call__(self, inputs: Tensor) -> Any:
        """The module's predictions."""
        return predicted(self.module(inputs))

    def load(self, model: Tensor, *, training: bool) -> None:
        """Copy a model into the module."""
        self.reset()
        self._layout.to_channels_last(model, self.model)
        if not training:
            self.module.eval()

    @torch.no_grad()
    def reset(self) -> None:
        """Undo the changes of the last training or evaluation outside of the flat model, and set training mode."""
        self.module.train()
        for layer in self._built_in_eval:
            layer.training = False
        for owner, buffers in self._buffers:
            owner._buffers.update(buffers)
        for constant, value in self._constants:
            constant.copy_(value)

    @torch.no_grad()
    def taken(self) -> Tensor:
        """A copy of the model. It includes buffers that the module replaced instead of writing into them."""
        for name, buffer in self._averaged:
            current = self.module.get_buffer(name)
            if current is not buffer:
                buffer.copy_(current)
        return self._layout.from_channels_last(self.model)


class ModuleKernel(Kernel):
    """The kernel for every module."""

    chunk = 1

    def __init__(self, make: Callable[[], nn.Module], layout: Layout, data: Data, recipe: Recipe) -> None:
        super().__init__(make, layout, data, recipe)
        self._of_thread = threading.local()

    def bound(self) -> _Bound:
        """This thread's module."""
        own: _Bound | None = getattr(self._of_thread, "bound", None)
        if own is None:
            own = self._of_thread.bound = _Bound(self.make(), self.layout, self.data.train.inputs.device)
        return own

    def inputs(self, split: Split, samples: Tensor | slice) -> Tensor:
        return _images_last(super().inputs(split, samples))

    def train(self, chunk: Chunk) -> Trained:
        bound = self.bound()
        trainable, gradient = bound.trainable, bound.gradient
        models, losses = [], torch.zeros(len(chunk.starts), device=chunk.lr.device)
        for job, start in enumerate(chunk.starts):
            bound.load(start, training=True)
            origin = trainable.clone() if chunk.proximal else trainable
            correction = None if chunk.corrections is None else self._bound_row(chunk.corrections[job])
            slots = {name: self._bound_row(memory[job]) for name, memory in chunk.slots.items()}
            lr = chunk.lr[job : job + 1]
            rule = None
            if self.optimizer.steps_modules:
                rule = self.optimizer.rule(bound.parameters, float(lr), chunk.states[job])
            for step, samples in enumerate(chunk.samples[job, : chunk.steps[job]].unbind()):
                if chunk.ragged:
                    samples = samples[samples >= 0]
                losses[job] += self._differentiate(bound, chunk, job, step, samples) * len(samples)
                with torch.no_grad():
                    if chunk.proximal:
                        gradient.add_(trainable - origin, alpha=chunk.proximal)
                    if correction is not None:
                        gradient.add_(correction)
                    self.recipe.clipped(gradient)
                    if rule is not None:
                        rule.step()
                    elif self.optimizer.is_plain:
                        trainable.addcmul_(gradient, lr, value=-1.0)
                    else:
                        self.optimizer.step(trainable, gradient, slots, lr)
            with torch.no_grad():
                self.optimizer.finish(trainable, slots, lr, chunk.steps[job : job + 1], chunk.guesses[job : job + 1])
            if rule is not None:
                keeps = self.optimizer.state == "keep"
                chunk.states[job] = self.optimizer.state_of(rule, bound.parameters) if keeps else {}
            for name, memory in slots.items():
                chunk.slots[name][job] = self.layout.from_channels_last(memory[0])
            models.append(bound.taken())
        finite = torch.stack([torch.isfinite(model.sum()) for model in models])
        return Trained(models, losses, finite)

    def _bound_row(self, row: Tensor) -> Tensor:
        """A state of the optimiser, or a correction, in the layout of a bound model, 1 x its numbers."""
        return self.layout.to_channels_last(row, torch.empty_like(row)).unsqueeze(0)

    def _differentiate(self, bound: _Bound, chunk: Chunk, job: int, step: int, samples: Tensor) -> Tensor:
        """The mean loss of a training on the samples of a step. Its gradient is left in `bound.gradient`."""
        bound.gradient.zero_()
        split = chunk.given or self.train_split
        inputs = self.augmented(super().inputs(split, samples), chunk, job, step)
        targets = split.targets[samples]
        if self.recipe.mixed:  # A disabled context takes 4 µs a step.
            with torch.autocast(inputs.device.type, torch.bfloat16):
                outputs = bound(_images_last(inputs))
            outputs = outputs.float() if isinstance(outputs, Tensor) else outputs
        else:
            outputs = bound(_images_last(inputs))
        if chunk.weights is None:
            loss = self.scoring.mean_loss(outputs, targets, chunk.objective)
        else:
            loss = self.minimised(chunk, outputs, targets, chunk.weights[samples]).mean()
        torch.autograd.backward(loss)
        return loss.detach()

    def does(self, objective: Objective) -> bool:
        return True

    @torch.no_grad()
    def predict(self, models: Sequence[Tensor], inputs: Tensor) -> Tensor:
        bound, found = self.bound(), []
        split = Split(inputs, inputs)
        for model in models:
            bound.load(model, training=False)
            blocks = range(0, len(inputs), _EVALUATED_AT_ONCE)
            found.append(torch.cat([bound(self.inputs(split, slice(at, at + _EVALUATED_AT_ONCE))) for at in blocks]))
        return torch.stack(found)

    @torch.no_grad()
    def evaluate(self, models: Sequence[Tensor], split: Split) -> list[Metrics]:
        bound, found = self.bound(), []
        for model in models:
            bound.load(model, training=False)
            tally = Tally(self.scoring)
            for at in range(0, len(split), _EVALUATED_AT_ONCE):
                outputs = bound(self.inputs(split, slice(at, at + _EVALUATED_AT_ONCE)))
                tally.add(outputs, split.targets[at : at + _EVALUATED_AT_ONCE])
            found.append(tally.figures())
        return found


def _images_last(inputs: Tensor) -> Tensor:
    """Inputs, with images in channels_last."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
