from pathlib import Path

import pytest

import covey


def run(folder: Path, rounds: int = 3, nodes: int = 6, **program) -> covey.Run:
    """A short run of the experiment with other parameters of its program."""
    experiment = covey.Experiment.from_file(Path(__file__).with_name("experiment.toml"))
    experiment.rounds, experiment.network.nodes = rounds, nodes
    for key, value in program.items():
        setattr(experiment.program, key, value)
    return covey.run(experiment, out=folder, quiet=True)


def test_on_a_complete_graph_all_nodes_have_the_mean(tmp_path):
    models = run(tmp_path / "run", nodes=6, topology="complete", mix=5 / 6).models
    assert (models - models.mean(0)).norm() < 1e-5 * models.norm()


def test_without_mixing_the_graph_changes_nothing(tmp_path):
    ring, complete = [run(tmp_path / name, topology=name, mix=0.0).models for name in ("ring", "complete")]
    assert ring.equal(complete)


def test_a_step_beyond_the_mean_is_refused(tmp_path):
    with pytest.raises(covey.CoveyError, match="mix"):
        run(tmp_path / "run", mix=1.5)
