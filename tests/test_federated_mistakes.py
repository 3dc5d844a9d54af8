"""Mistakes in federated experiments: one line names the key, the value and what would be right."""

import pytest

import covey

TASK = {"dataset": "digits", "model": "logistic"}
ADAM = {"optimizer": {"kind": "torch.optim:AdamW", "lr": 0.1}}
PUBLIC = {"public": {"dataset": "digits", "samples": 2000}}
MISTAKES = [
    ({"kind": "fedavg", "proximal_mu": 0.1}, {}, "Write work = { proximal_mu = ... }."),
    ({"kind": "cpfl", "window": 3}, {}, "Write plateau = { window = ... }."),
    ({"kind": "fedavg", "work": 3}, {}, "must be a client-work. Got 3 instead. Known: budgets, local."),
    ({"kind": "cpfl", "plateau": 3}, {}, "must be a table. Got 3 instead. Its keys: patience, window."),
    ({"kind": "fleet", "weights": {"clamp": 1}}, {}, "'clamp' of the weights; did you mean 'clamp_at_threshold'?"),
    ("FedProx", {}, "Unknown program 'FedProx': it is fedavg with work = { proximal_mu = 0.1 }."),
    ("fednova", ADAM, "the task's 'optimizer' must add gradients, as 'sgd' does"),
    ("fens", {}, "No client has proxy samples for the aggregator: set 'validation' of the task to a share in (0, 1)."),
    ("fedkd", PUBLIC, "The 'samples' of the task's public must be an int in [1, 1437]"),
    ({"kind": "robust-inference", "rule": "deepset", "faulty": 1}, {}, "writes the file that 'weights' takes."),
    (
        {"kind": "fedasync", "decay": 0.3},
        {},
        "needs a 'decay_at', the version from which on it counts. Got 0.3 without",
    ),
    (
        {"kind": "cpfl", "cohorts": 2, "count": 3, "max_rounds": 1},
        {"public": {"dataset": "digits", "samples": 20}},
        "The 'count' of the program cpfl must be at most the clients of the largest cohort, 2. Got 3 instead.",
    ),
    ("fleet", {}, "the network has none: give it 'devices', as in devices = \"phones\"."),
]


@pytest.mark.parametrize(("program", "task", "text"), MISTAKES, ids=[text for _, _, text in MISTAKES])
def test_a_mistake_is_one_line_that_says_what_is_right(program, task, text, in_folder):
    experiment = {"rounds": 1, "program": program, "task": TASK | task, "network": {"nodes": 5}}
    with pytest.raises(covey.CoveyError) as refused:
        (covey.run if program == "fleet" else covey.check)(experiment)
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_of_the_literature_is_explained_in_lists_too():
    with pytest.raises(covey.CoveyError, match=r"^The program 'fedyogi' is no kind: it is fedavg with server_opt"):
        covey.list("fedyogi")


def test_the_configurations_of_names_are_checked_as_others_are():
    from covey.federated import KINDS, NAMES

    assert not set(NAMES["program"]) & set(KINDS["program"])
    assert {words.split()[0] for words in NAMES["program"].values()} <= {*KINDS["program"], "any", "fleet,"}
