"""Any module, one node after the other; the threads that call this work on different nodes.

Every thread has a module of its own, whose parameters are bound to the flat model at hand: one module shared by
threads would silently give wrong gradients. Images go in as channels_last, which is faster on CPUs; computing the
convolutions of several nodes as one grouped convolution is not.
"""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from covey.node import Metrics
from covey.task.dataset import Split
from covey.task.kernels.kernel import Chunk, Kernel, Trained

_EVALUATED_AT_ONCE = 512


class ModuleKernel(Kernel):
    """For every module."""

    chunk = 1
    _local = threading.local()

    def module(self) -> tuple[nn.Module, list[nn.Parameter]]:
        """This thread's module and its parameters."""
        own: dict[int, tuple[nn.Module, list[nn.Parameter]]] = self._local.__dict__.setdefault("modules", {})
        if id(self) not in own:
            own.clear()
            module = self.make().to(self.data.train.inputs.device)
            own[id(self)] = module, list(module.parameters())
        return own[id(self)]

    def inputs(self, split: Split, samples: Tensor | slice) -> Tensor:
        x = super().inputs(split, samples)
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def train(self, chunk: Chunk) -> Trained:
        module, parameters = self.module()
        module.train()
        models, losses = [], torch.zeros(len(chunk.starts), device=chunk.lr.device)
        for job, start in enumerate(chunk.starts):
            flat = start.clone()
            self.layout.bind(module, flat)
            trainable = flat[: self.layout.trainable].unsqueeze(0)
            origin = start[: self.layout.trainable].unsqueeze(0)
            slots = {name: memory[job : job + 1] for name, memory in chunk.slots.items()}
            lr = chunk.lr[job : job + 1]
            for samples in chunk.samples[job, : chunk.steps[job]].unbind():
                if chunk.ragged:
                    samples = samples[samples >= 0]
                gradient, loss = self._gradient(module, parameters, samples)
                losses[job] += loss * len(samples)
                with torch.no_grad():
                    if chunk.proximal:
                        gradient.add_(trainable - origin, alpha=chunk.proximal)
                    if self.optimizer.is_plain:
                        trainable.addcmul_(gradient, lr, value=-1.0)
                    else:
                        self.optimizer.step(trainable, gradient, slots, lr)
            models.append(flat)
        finite = torch.stack([torch.isfinite(model.sum()) for model in models])
        return Trained(models, losses, finite)

    def gradient(self, model: Tensor, samples: Tensor) -> tuple[Tensor, float]:
        """(the gradient of the mean loss on some training samples, P numbers; that loss)."""
        module, parameters = self.module()
        self.layout.bind(module.train(), model.clone())
        gradient, loss = self._gradient(module, parameters, samples)
        rest = self.layout.size - self.layout.trainable
        return torch.cat([gradient[0], gradient.new_zeros(rest)]), float(loss)

    def _gradient(
        self, module: nn.Module, parameters: Sequence[nn.Parameter], samples: Tensor
    ) -> tuple[Tensor, Tensor]:
        outputs = module(self.inputs(self.train_split, samples))
        loss = self.losses(outputs, self.train_split.targets[samples]).mean()
        parts = torch.autograd.grad(loss, parameters)
        return torch.cat([part.reshape(-1) for part in parts]).unsqueeze(0), loss.detach()

    @torch.no_grad()
    def evaluate(self, models: Sequence[Tensor], split: Split) -> list[Metrics]:
        module = self.module()[0].eval()
        found = []
        for model in models:
            self.layout.bind(module, model.clone() if self.layout.buffers else model)
            loss, hits, count = 0.0, 0, 0
            for at in range(0, len(split), _EVALUATED_AT_ONCE):
                outputs = module(self.inputs(split, slice(at, at + _EVALUATED_AT_ONCE)))
                targets = split.targets[at : at + _EVALUATED_AT_ONCE]
                loss += float(self.losses(outputs, targets).sum())
                hit = self.hits(outputs, targets)
                hits, count = hits + int(hit.sum()), count + hit.numel()
            found.append(self.metrics(loss / len(split), hits / count))
        return found
