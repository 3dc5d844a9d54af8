"""The models that observed messages tell of: exactly those that their senders had, as far as messages show them."""

import pytest
import torch

from covey.federated.uplink import WholeUp
from covey.learning.views import Adversary, Arrived
from covey.messages import wire
from covey.parts.errors import ConfigurationError
from covey.runtime.observers import OWN
from covey.runtime.simulation.world import World
from tests.conftest import simulate, table
from tests.examples import RUNS, SILENT, run_table

QUICK = {"latency": 0.0, "bandwidth": None, "compute": 1e6}
OBSERVER = {"nodes": [0, 5]}


def watched(monkeypatch, **changes):
    """The views of the observed nodes of a run, and the model of every sender when it sent."""
    sent = {}
    post = World.post

    def listen(world, node, receivers, payload, tag, round):
        if receivers:
            sent[node.id, tag, round, node.posted] = node.model.clone()
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", listen)
    world, written = simulate(table(**{"rounds": 3, "network": QUICK, "observer": OBSERVER, **changes}))
    views = views_of(world, written)
    return world, [view for found in views.values() for view in found], sent


def views_of(world, written, *, clean=True):
    first = world.prepared.task.learner.first_model
    arrived, models = {0: [], 5: []}, {0: {}, 5: {}}
    for time, node, frame in written.seen:
        found = wire.decode(frame, wire.FILES)
        if found.tag == OWN:
            models[node][found.round] = found.payload["model"]
        else:
            arrived[node].append(Arrived(time, found.sender, found.tag, found.round, found.payload, found.size))
    found = {}
    for node, messages in arrived.items():
        adversary = Adversary(node, 12, first, models[node])
        found[node] = list(world.prepared.program.views(adversary, messages))
        assert not (clean and adversary.rejected)
    return found


def gossip(sharing, **more):
    return {"program": {"kind": "gossip", "topology": "ring", "sharing": sharing, **more}}


EXACT = {
    "full": gossip("full"),
    "random": gossip({"kind": "random", "budget": 0.3}),
    "random-layers": gossip({"kind": "random-layers", "budget": 0.5}),
    "top-k": gossip({"kind": "top-k", "budget": 0.2}),
    "jwins": gossip({"kind": "jwins"}),
    "fft": gossip({"kind": "fft", "budget": 0.3}),
    "pcodec": gossip({"kind": "top-k", "budget": 0.2, "values": "pcodec"}),
    "part": gossip({"kind": "random", "budget": 0.5, "share": ["*bias"]}),
    "power-gossip": gossip({"kind": "power-gossip"}),
    "push-sum": {"program": {"kind": "push-sum", "topology": "ring"}},
}


@pytest.mark.parametrize("case", EXACT)
def test_a_view_shows_the_model_that_was_sent(case, monkeypatch):
    _, views, sent = watched(monkeypatch, **EXACT[case])
    assert len(views) == 2 * 2 * 3
    models = {(node, t): model for (node, tag, t, _), model in sent.items() if tag == ""}
    for view in views:
        (sender,) = view.senders
        model = models[sender, view.round]
        assert torch.allclose(view.values, view.shows(model), atol=1e-5)
        assert 0 < view.fraction(model) <= 1
        assert (view.start is not None) == (view.round == 0)
        if view.transform is None:
            # Completed by the sender's own model it is that model; by another, that one elsewhere.
            assert torch.allclose(view.completed(model), model, atol=1e-5)
            other = view.completed(model + 1.0)
            assert torch.allclose(
                (other - model).clamp(0, 1).sum(), torch.tensor(float(len(model) - len(view.values))), atol=0.1
            )


def test_quantized_models_are_seen_as_they_are_sent(monkeypatch):
    _, views, sent = watched(monkeypatch, **gossip({"kind": "quantized", "compressor": {"kind": "int8"}}))
    models = {(node, t): model for (node, tag, t, _), model in sent.items()}
    assert len(views) == 12
    for view in views:
        model = models[view.senders[0], view.round]
        assert (view.values - model).abs().max() < 0.02 * model.abs().max()


@pytest.mark.parametrize("patience", [None, 60.0])
@pytest.mark.parametrize(
    "sharing",
    [
        {"kind": "choco", "compressor": {"kind": "top-k", "budget": 0.3}, "gamma": 0.3},
        {"kind": "stc", "budget": 0.3, "gamma": 0.3},
    ],
    ids=lambda sharing: sharing["kind"],
)
def test_public_copies_are_followed(sharing, patience, monkeypatch):
    more = {} if patience is None else {"patience": patience}
    world, views, _ = watched(monkeypatch, **gossip(sharing, **more))
    last = {view.senders[0]: view for view in views if view.round == 2}
    assert last
    for sender, view in last.items():
        kept = {name.rpartition("/")[2].rpartition(".")[2]: value for name, value in world.nodes[sender].state.items()}
        assert torch.allclose(view.shows(kept["copy"]), view.values, atol=1e-6)
        assert 0.3 <= view.fraction(kept["copy"]) < 1


MASKED = {
    "secure-aggregation": gossip("secure-aggregation"),
    "cesar": gossip({"kind": "cesar", "subset": {"kind": "random", "budget": 0.5}}),
    "cesar of top-k": gossip({"kind": "cesar", "subset": {"kind": "top-k", "budget": 0.5}}),
}


@pytest.mark.parametrize("case", MASKED)
def test_masked_values_are_noise_and_their_sum_is_the_mean_of_neighbours(case, monkeypatch):
    world, views, sent = watched(monkeypatch, **MASKED[case])
    models = {(node, t): model for (node, tag, t, _), model in sent.items() if tag == ""}
    sums = [view for view in views if not view.hidden]
    assert len(sums) == 2 * 3
    for view in sums:
        graph = world.prepared.program.topology.at(view.round)
        assert sorted(view.senders) == sorted(graph.senders(view.receiver))
        mean = torch.stack([view.shows(models[sender, view.round]) for sender in view.senders]).mean(0)
        assert torch.allclose(view.values, mean, atol=1e-5)
    for view in views:
        if view.hidden:
            assert view.values.abs().mean() > 1e3 * models[view.senders[0], view.round].abs().max()


def test_a_run_without_masks_is_not_attacked_as_if_receivers_saw_its_values():
    world, written = simulate(
        table(rounds=1, observer=OBSERVER, **gossip({"kind": "secure-aggregation", "masking": False}))
    )
    with pytest.raises(ConfigurationError, match="The 'masking' of the sharing secure-aggregation must be true"):
        views_of(world, written)


@pytest.mark.parametrize("down", [None, {"kind": "int8"}], ids=["whole", "copies"])
@pytest.mark.parametrize("up", [None, {"kind": "top-k", "budget": 0.4}], ids=["whole", "compressed"])
def test_the_server_of_fedavg_sees_its_clients_and_they_see_it(up, down, monkeypatch):
    program = {"kind": "fedavg", "clients": 6, **({"up": up} if up else {}), **({"down": down} if down else {})}
    own = {}
    send = WholeUp.send

    def listen(up, node, update, t):
        own[node.id, t] = update.model
        send(up, node, update, t)

    monkeypatch.setattr(WholeUp, "send", listen)
    world, views, sent = watched(monkeypatch, program=program)
    servers = {t: model for (node, tag, t, _), model in sent.items() if node == 0}
    at_server = [view for view in views if view.receiver == 0]
    assert len(at_server) == 18
    for view in at_server:
        model = own[view.senders[0], view.round]
        if up is None:
            assert torch.equal(view.values, model)
        elif view.round == 0 and down is None:
            assert torch.allclose(view.completed(model), model, atol=1e-6)
        assert (view.start is None) == (up is None and down is not None)
    for view in views:
        if view.receiver == 5:
            assert view.round
            server = servers[view.round]
            assert (view.values - server).abs().max() <= (1e-2 if down else 0.0) * server.abs().max()
            assert view.senders == tuple(world.prepared.program.clients.chosen(view.round - 1))


ASYNCHRONOUS = {
    "ad-psgd": {"kind": "ad-psgd", "topology": "ring"},
    "gossip-learning": {"kind": "gossip-learning", "topology": "ring", "period": 0.01},
}


@pytest.mark.parametrize("case", ASYNCHRONOUS)
def test_models_of_asynchronous_programs_are_seen(case, monkeypatch):
    world, views, sent = watched(monkeypatch, program=ASYNCHRONOUS[case])
    models = [(node, model) for (node, tag, *_), model in sent.items() if tag != "answer"]
    offered = [
        view
        for view in views
        if any(node == view.senders[0] and torch.equal(view.values, model) for node, model in models)
    ]
    received = sum(world.nodes[node].mail.messages_in for node in (0, 5))
    assert 0 < len(offered) <= len(views) <= received
    if case == "gossip-learning":
        assert len(offered) == len(views)


def test_running_sums_of_push_sum_are_models_times_weights(monkeypatch):
    _, views, _ = watched(monkeypatch, program={"kind": "push-sum", "topology": "ring", "patience": 5.0})
    _, plain, _ = watched(monkeypatch, program={"kind": "push-sum", "topology": "ring"})
    assert len(views) == len(plain) == 12

    def by_sender(found):
        return sorted(found, key=lambda view: (view.receiver, view.senders))

    for view, other in zip(by_sender(views), by_sender(plain), strict=True):
        assert torch.allclose(view.values, other.values, atol=1e-4)


def test_gradients_of_cliques_are_seen_beside_models(monkeypatch):
    program = {"kind": "clique-averaging", "topology": {"kind": "random-cliques", "size": 4}, "lr": 0.1}
    _, views, _ = watched(monkeypatch, program=program, rounds=1)
    gradients = [view for view in views if view.gradient]
    assert len(gradients) == 2 * 3
    assert len(views) > len(gradients)
    assert all(view.start is not None for view in gradients)
    gradient = torch.stack([view.values for view in gradients])
    model = torch.stack([view.values for view in views if not view.gradient])
    assert not torch.allclose(gradient.mean(0), model.mean(0), atol=1e-2)


@pytest.mark.parametrize(("family", "kind"), [found for found in RUNS if found[0] in ("program", "sharing")])
def test_every_program_and_sharing_says_what_its_messages_tell(family, kind, tmp_path):
    program = {"topology": {"kind": "mosaic", "degree": 2, "fragments": 3}} if kind == "mosaic" else {}
    # Weights and biases: power-gossip tells of the biases alone.
    tables = run_table(family, kind, tmp_path, rounds=2, network=QUICK, observer=OBSERVER, evaluation={"every": 0})
    tables["program"] |= program
    if kind == "gossip-learning":
        tables["rounds"] = 4
    world, written = simulate(tables)
    # Virtual nodes of their own get messages of their owners, which are no chunks.
    found = views_of(world, written, clean=kind != "shatter-apart")
    views = [view for views in found.values() for view in views]
    size = len(world.prepared.task.learner.first_model)
    assert bool(views) != (family == "program" and kind in (*SILENT, "robust-inference"))
    for view in views:
        assert bool(torch.isfinite(view.values).all())
        assert view.completed(world.prepared.task.learner.first_model).shape == (size,)
