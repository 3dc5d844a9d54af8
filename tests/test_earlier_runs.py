"""Folders of an earlier format: opened for reading, and refused for resume."""

import shutil
from pathlib import Path

import pytest

from covey.runtime.runs import Run
from tests.folders import contents

EARLIER = Path(__file__).parent / "data" / "earlier"


@pytest.fixture(params=["finished", "interrupted"])
def earlier(request, tmp_path):
    return Path(shutil.copytree(EARLIER / request.param, tmp_path / request.param))


def test_a_run_of_an_earlier_format_is_read(earlier, tmp_path, covey):
    before = contents(earlier)
    rounds = 6 if earlier.name == "finished" else 4
    run = Run(earlier)
    assert (run.status, run.format) == (earlier.name, 1)
    assert len(run.commits) == 3 * rounds
    assert run.metrics["round"].tolist() == [t for t in range(2, rounds + 1, 2) for _ in range(3)]
    assert run.graph.n == 3
    assert run.holdings.shape == (3, 2)
    assert (run.models is None) == (earlier.name == "interrupted")
    for command in (
        ("show", str(earlier)),
        ("compare", str(earlier), "--reach", "0.5"),
        ("export", str(earlier)),
        ("report", str(earlier), "--out", str(tmp_path / "report.html")),
        ("plot", str(earlier), "--out", str(tmp_path / "figure.png")),
        ("plot", str(earlier), "--graph", "--out", str(tmp_path / "graph.png")),
    ):
        code, _, err = covey(*command)
        assert (code, err) == (0, "")
    assert contents(earlier) == before


def test_a_run_of_an_earlier_format_is_not_resumed(earlier, covey):
    before = contents(earlier)
    code, out, err = covey("run", "--resume", str(earlier))
    assert (code, out) == (2, "")
    if earlier.name == "finished":
        assert err == f"covey: The run {earlier} has finished: there is nothing to resume.\n"
    else:
        assert err == (
            f"covey: The run {earlier} cannot be resumed: an earlier covey wrote it (format 1, and this one resumes "
            f"format 4). It can be shown. Begin a new run: covey run {earlier}/run.toml.\n"
        )
    assert contents(earlier) == before
