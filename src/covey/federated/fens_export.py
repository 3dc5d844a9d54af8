"""The export of a finished run of FENS: all models and the aggregator as one program of torch.

Shapes: B samples, M clients, C classes.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from covey.federated.aggregators import Aggregator
from covey.learning.dataset import Data, Split
from covey.learning.exported import read_description
from covey.learning.kernels.kernel import predicted
from covey.learning.layout import Layout
from covey.learning.node import Further
from covey.parts.errors import RunError, described
from covey.runtime.experiment import Experiment

if TYPE_CHECKING:
    from covey.runtime.runs import Run


class Combined(nn.Module):
    """The models of clients and the aggregator of their outputs.

    Args:
        models: the models.
        ids: the client of each.
        aggregator: the aggregator.
        network: its trained network; None if it has none.
        labels_MC: the training samples of each client and class.
        counts: the sum of the clients' counts, if the aggregator needs them.
    """

    def __init__(
        self,
        models: list[nn.Module],
        ids: list[int],
        aggregator: Aggregator,
        network: nn.Module | None,
        labels_MC: Tensor,
        counts: Tensor | None,
    ) -> None:
        super().__init__()
        self.models, self.network = nn.ModuleList(models), network
        self.ids, self.aggregator = ids, aggregator
        self.has_counts = counts is not None
        self.labels: Tensor
        self.counts: Tensor
        self.register_buffer("labels", labels_MC)
        self.register_buffer("counts", labels_MC[:0] if counts is None else counts)

    def forward(self, inputs: Tensor) -> Tensor:
        """The scores, B x C, for converted inputs."""
        found = {id: predicted(model(inputs)) for id, model in zip(self.ids, self.models, strict=True)}
        none = torch.zeros_like(found[self.ids[0]])
        logits_BMC = torch.stack([found.get(id, none) for id in range(1, len(self.labels) + 1)], dim=1)
        if self.network is not None:
            scores: Tensor = self.network(self.aggregator.features(logits_BMC, inputs))
            return scores
        return self.aggregator.combined(logits_BMC, self.labels, self.counts if self.has_counts else None)


def module(run: "Run") -> nn.Module:
    """The models and the aggregator of a finished run as one module, which takes the inputs of `run.module`.

    Raises:
        RunError: the run is not one of FENS, or keeps neither models nor states.
    """
    program, states = Experiment.from_table(run.experiment).program, run.states
    aggregator = getattr(program, "aggregator", None)
    if not isinstance(aggregator, Aggregator):
        raise RunError(f"The run {run.folder} must be of the program fens. Got {program.title()} instead.")
    if not states or "labels" not in states[0]:
        raise RunError(f"The run {run.folder} has no aggregator: it has not finished, or 'output.states' is not true.")
    kept = states[0]
    ids, labels_MC = list(kept["ids"]), torch.as_tensor(kept["labels"])
    vector, shape = kept.get("selected", kept.get("aggregator")), read_description(run).inputs.shape
    further = aggregator.network(len(labels_MC), labels_MC.shape[1], shape)
    network = None if further is None or vector is None else _network(further, torch.as_tensor(vector))
    counts = kept.get("counts")
    models = [run.module(id) for id in ids]
    made = Combined(models, ids, aggregator, network, labels_MC, None if counts is None else torch.as_tensor(counts))
    return made.eval()


def _network(further: Further, vector: Tensor) -> nn.Module:
    """A network of a program with trained numbers."""
    assert further.model is not None
    assert further.inputs is not None
    assert further.outputs is not None
    split = Split(torch.zeros(2, *further.inputs), torch.zeros(2, dtype=torch.int64))
    network = further.model.build(Data(split, split, "classes", further.outputs))
    network.load_state_dict(Layout(network).views(vector))
    return network.eval()


def export(run: "Run", out: Path | str) -> None:
    """Write the models and the aggregator of a finished run to one file, for `torch.export.load`.

    The program takes converted inputs, any number of them, and gives the scores of classes.

    Raises:
        RunError: as in `module`, or torch cannot export the models, or the file cannot be written.
    """
    made, found = module(run), read_description(run)
    inputs = torch.zeros(2, *found.inputs.shape)
    try:
        program = torch.export.export(made, (inputs,), dynamic_shapes=({0: torch.export.Dim("samples", min=1)},))
        torch.export.save(program, str(out))
    except Exception as error:  # An error of torch's tracing has no common class.
        raise RunError(f"The models of {run.folder} cannot be exported to {out}: {described(error)}.") from error
