"""The choice between rounds as arrays and events: arrays are taken only where they change nothing."""

from covey.runtime.prepared import Prepared

FEWEST = 1000
"""The nodes from which on arrays are chosen where nothing else is said. Fewer nodes gain little."""


def against(prepared: Prepared) -> str | None:
    """The reason why an experiment cannot be computed as arrays, as the end of a sentence; None if it can."""
    experiment, network = prepared.experiment, prepared.network
    evaluation = experiment.evaluation
    found = {
        "callbacks watch it": bool(prepared.callbacks),
        "an observer keeps messages": experiment.observer is not None,
        "it has faults": bool(experiment.faults),
        "nodes leave and return (churn)": network.churn.has_churn,
        "messages are lost": network.loss > 0,
        "the speed of its devices changes": network.devices is not None,
        "energy is measured": network.energy.is_measured,
        "links have a limited rate": network.uplink_rates() is not None or network.downlink_rates() is not None,
        "evaluations take time of nodes": evaluation.takes_time,
        "nodes are evaluated at moments of time": evaluation.seconds is not None,
        "it ends after a duration": experiment.duration is not None,
        "the states of nodes are kept": prepared.keeps_states,
    }
    why = next((why for why, is_so in found.items() if is_so), None)
    return why or prepared.program.against_linear(prepared.setting) or prepared.task.against_arrays()


def too_few(prepared: Prepared) -> str | None:
    """The reason why arrays are not chosen although they are possible; None if they are chosen."""
    nodes = prepared.network.nodes
    return f"{nodes:,} nodes are fewer than {FEWEST:,}" if nodes < FEWEST else None
