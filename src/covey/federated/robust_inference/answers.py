"""The answers to queries: rows of probabilities, their checks, and the projection to the simplex.

Shapes: S queries, N clients, C classes, H honest clients, F lying clients.
"""

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from covey.parts.errors import CoveyError

OnInvalid: TypeAlias = Literal["reject", "project"]
_TOLERANCE = 1e-4
"""The largest distance of a sum from 1, and the least negative number, of a row that counts as probabilities."""
_GREAT = 1e6
"""The greatest number that a projection distinguishes."""


class AnswersError(CoveyError, ValueError):
    """Answers that a rule cannot combine."""


class QuorumError(AnswersError):
    """A query with too few usable answers."""


class Outputs(NamedTuple):
    """Stored outputs of all clients' models, and the true classes."""

    answers: Tensor
    """The probabilities, S x N x C."""
    labels: Tensor
    """The true classes, S."""


class Checked(NamedTuple):
    """Answers whose valid rows are probabilities. All other rows are uniform."""

    answers: Tensor
    """The probabilities, S x N x C."""
    valid: Tensor | None
    """True for each row that counts, S x N; None if all do."""


def check_faulty(clients: int, faulty: int) -> None:
    """Check the number of clients that may lie.

    Raises:
        AnswersError: it is not in [0, clients / 2).
    """
    if not 0 <= faulty < clients / 2:
        raise AnswersError(
            f"The 'faulty' clients must be fewer than half of the {clients} that answer. Got {faulty} instead."
        )


def check_shape(answers: Tensor) -> None:
    """Check that answers are S x N x C floats with at least two classes.

    Raises:
        AnswersError: they are not.
    """
    if answers.dim() != 3 or not answers.is_floating_point() or answers.shape[2] < 2 or answers.shape[1] < 1:
        raise AnswersError(
            "The answers must be floats of the shape queries x clients x classes, with 1 client and 2 classes or more. "
            f"Got {str(answers.dtype).removeprefix('torch.')} of {' x '.join(map(str, answers.shape))} instead."
        )


def are_probabilities(answers: Tensor) -> Tensor:
    """True for each row without negative numbers, NaN or another sum than 1."""
    sums_to_one = (answers.sum(-1) - 1.0).abs() <= _TOLERANCE
    return sums_to_one & (answers >= -_TOLERANCE).all(-1)  # A comparison with NaN is False.


def projected(rows: Tensor) -> Tensor:
    """The nearest probability vector of each row (Held, Wolfe and Crowder, 1974); NaN counts as 0."""
    rows = rows.nan_to_num(nan=0.0).clamp(-_GREAT, _GREAT)
    rows = rows - rows.amax(-1, keepdim=True)  # A shift of all numbers does not change the projection.
    ordered = rows.sort(-1, descending=True).values
    over = ordered.cumsum(-1) - 1.0
    ranks = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype, device=rows.device)
    positive = ((ordered * ranks) > over).sum(-1, keepdim=True)
    threshold = over.gather(-1, positive - 1) / positive
    found = (rows - threshold).clamp_min_(0.0)
    return found / found.sum(-1, keepdim=True)


def checked(answers: Tensor, faulty: int, on_invalid: OnInvalid = "reject", valid: Tensor | None = None) -> Checked:
    """Answers whose rows are probabilities, with a quorum for every query.

    Args:
        answers: the answers, S x N x C.
        faulty: the number f of clients that may lie. Every query needs n - f rows.
        on_invalid: "reject" leaves rows that are not probabilities out; "project" takes the nearest probabilities.
        valid: False for rows that did not arrive, S x N.

    Raises:
        QuorumError: a query has fewer than n - f valid rows.
        AnswersError: the shape is wrong, or half of the clients or more may lie.
    """
    check_shape(answers)
    clients = answers.shape[1]
    check_faulty(clients, faulty)
    found = usable_rows(answers, on_invalid, valid)
    if found.valid is not None:
        fewest = int(found.valid.sum(1).min())
        if fewest < clients - faulty:
            raise QuorumError(
                f"A query needs valid answers of {clients - faulty} of {clients} clients, if {faulty} may lie. "
                f"Got {fewest} instead."
            )
    return found


def usable_rows(answers: Tensor, on_invalid: OnInvalid = "reject", valid: Tensor | None = None) -> Checked:
    """The rows that are probabilities, or made so, as `checked` finds them, without a quorum."""
    if on_invalid not in ("reject", "project"):
        raise AnswersError(f"The 'on_invalid' of answers must be 'reject' or 'project'. Got {on_invalid!r} instead.")
    right = are_probabilities(answers)
    here = torch.ones_like(right) if valid is None else valid
    if on_invalid == "project":
        if not bool(right.all()):
            answers = torch.where(right.unsqueeze(-1), answers, projected(answers))
        right = torch.ones_like(right)
    counts = here & right
    if bool(counts.all()):
        return Checked(answers, None)
    uniform = torch.full_like(answers, 1.0 / answers.shape[2])
    return Checked(torch.where(counts.unsqueeze(-1), answers, uniform), counts)
