"""The export of a run's models: state dicts, modules and safetensors files.

Shapes: N nodes, P parameters.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from covey.learning.dataset import Data, Split
from covey.learning.fields import Field
from covey.learning.layout import Layout, tensors_of
from covey.parts.errors import CoveyError, RunError, described, quoted
from covey.runtime.experiment import Experiment

if TYPE_CHECKING:
    from covey.learning.task import LearningTask
    from covey.runtime.runs import Run

CONSTANT = "constant"
"""The role of a tensor that is not part of the flat model."""


class Entry(msgspec.Struct, frozen=True):
    """One entry of a state dict: its position in the flat model, or the name of its constant."""

    name: str
    shape: tuple[int, ...]
    role: str
    start: int = 0
    constant: str = ""


class Inputs(msgspec.Struct, frozen=True):
    """The inputs of a model: `float(x) * scale + shift` of stored samples of a shape and type."""

    shape: tuple[int, ...]
    dtype: str
    scale: float
    shift: float
    fields: list[Field] = []


class Described(msgspec.Struct, frozen=True):
    """The layout of the models in a run's `models.npy`, and the data for which their module was made."""

    model: str
    size: int
    entries: list[Entry]
    inputs: Inputs
    objective: Literal["classes", "sequence", "values"]
    classes: int
    sizes: dict[str, int]
    targets: tuple[int, ...] = ()
    """The shape of the targets of one sample."""


def describe(module: nn.Module, layout: Layout, data: Data, title: str) -> tuple[Described, dict[str, np.ndarray]]:
    """The description of a module's flat model, and the constants that are not part of it."""
    name_of = {id(tensor): name for name, tensor in tensors_of(module).items()}
    pieces = {piece.name: piece for piece in layout.pieces}
    entries, constants = [], {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        known = name_of.get(id(tensor), "")
        if known in pieces:
            piece = pieces[known]
            entries.append(Entry(name, piece.shape, piece.role, piece.start))
        elif known in layout.constants:
            entries.append(Entry(name, tuple(tensor.shape), CONSTANT, constant=known))
            constants[known] = layout.constants[known].cpu().numpy()
    inputs = data.train.inputs
    takes = Inputs(
        tuple(inputs.shape[1:]), str(inputs.dtype).removeprefix("torch."), data.scale, data.shift, list(data.fields)
    )
    shape = tuple(data.train.targets.shape[1:])
    found = Described(title, layout.size, entries, takes, data.objective, data.classes, dict(data.sizes), shape)
    return found, constants


def read_description(run: "Run") -> Described:
    """The description in the folder of a run.

    Raises:
        RunError: the run has none, or it is not readable.
    """
    text = run.layout
    if text is None:
        raise RunError(f"The run {run.folder} has no description of its models: its nodes did not learn.")
    try:
        return msgspec.json.decode(text, type=Described)
    except msgspec.MsgspecError as error:
        raise RunError(f"The run {run.folder} has no readable layout.json: {error}.") from error


def flat_model(run: "Run", which: int | str) -> Tensor:
    """One flat model of a run, P: that of a node, or the "average" or the "best" of the evaluated nodes.

    Raises:
        RunError: the run has no models, or no such node.
    """
    if which == "kept":
        return torch.from_numpy(run.kept_model)
    models_NP = run.models
    if models_NP is None:
        raise RunError(f"The run {run.folder} has no models: it has not finished, or 'output.models' is false.")
    nodes = len(models_NP)
    if isinstance(which, bool) or not (isinstance(which, int) or which in ("average", "best", "kept")):
        raise RunError(f'The model must be that of a node, "average", "best" or "kept". Got {quoted(which)} instead.')
    if isinstance(which, int):
        if not 0 <= which < nodes:
            raise RunError(f"The run {run.folder} has the nodes 0 to {nodes - 1}. Got {which} instead.")
        return models_NP[which].clone()
    final = run.metrics.groupby("node").last()
    if which == "average":
        return models_NP[sorted(final.index) or range(nodes)].double().mean(0).float()
    for name, ascending in (("accuracy", False), ("loss", True)):
        if name in final and final[name].notna().any():
            return models_NP[int(final[name].sort_values(ascending=ascending, kind="stable").index[0])].clone()
    raise RunError(f"The run {run.folder} has no best model: none was evaluated.")


def state_dict(run: "Run", which: int | str) -> dict[str, Tensor]:
    """The tensors of a model by their names in the module. See `Run.state_dict`."""
    found, flat, constants = read_description(run), flat_model(run, which), run.constants
    if len(flat) != found.size:
        raise RunError(f"The run {run.folder} has models of {len(flat)} numbers and a layout of {found.size}.")
    tensors = {}
    for entry in found.entries:
        if entry.role == CONSTANT:
            if entry.constant not in constants:
                raise RunError(f"The run {run.folder} lacks the constant {quoted(entry.constant)} of its models.")
            tensors[entry.name] = torch.from_numpy(constants[entry.constant].copy())
        else:
            count = int(np.prod(entry.shape, dtype=np.int64))
            tensors[entry.name] = flat[entry.start : entry.start + count].view(entry.shape).clone()
    return tensors


def module(run: "Run", which: int | str, into: nn.Module | None = None) -> nn.Module:
    """The module of the experiment with the tensors of a model. See `Run.module`."""
    tensors = state_dict(run, which)
    made = into if into is not None else _built(run, read_description(run))
    try:
        made.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise RunError(
            f"The model of {run.folder} does not fit the module: {str(error).splitlines()[-1].strip()}"
        ) from error
    return made.eval()


def _built(run: "Run", found: Described) -> nn.Module:
    """A new module of the run's experiment, for data of the described shape."""
    nothing = torch.empty((0, *found.inputs.shape), dtype=getattr(torch, found.inputs.dtype))
    dtype = torch.float32 if found.objective == "values" else torch.int64
    split = Split(nothing, torch.empty((0, *found.targets), dtype=dtype))
    takes, kind, classes = found.inputs, found.objective, found.classes
    data = Data(
        split, split, kind, classes, scale=takes.scale, shift=takes.shift, sizes=found.sizes, fields=tuple(takes.fields)
    )
    try:
        task: LearningTask = Experiment.from_table(run.experiment).task  # type: ignore[assignment]
        return task.model.build(data)
    except CoveyError as error:
        raise RunError(f"{str(error).rstrip('.')}: give the module with 'into'.") from error
    except Exception as error:
        raise RunError(
            f"The module of {run.folder} cannot be made without its data ({described(error)}): give it with 'into'."
        ) from error


def write_safetensors(run: "Run", which: int | str, out: Path) -> None:
    """Write the tensors of a model to a safetensors file, with a description of its inputs as metadata."""
    from safetensors.torch import save_file

    found = read_description(run)
    facts = {
        "run": run.folder.name,
        "model": found.model,
        "node": str(which),
        "inputs": msgspec.json.encode(found.inputs).decode(),
    }
    tensors = {name: tensor.contiguous() for name, tensor in state_dict(run, which).items()}
    try:
        save_file(tensors, str(out), metadata=facts)
    except Exception as error:  # A SafetensorError, an OSError or a panic of Rust.
        raise RunError(f"The file {out} cannot be written: {described(error)}.") from error
