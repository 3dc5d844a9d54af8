"""The live page in a real browser: every page, wide and narrow, light and dark, by keyboard and by ear."""

import json
import time
from datetime import UTC, datetime

import pytest

import covey as package
from covey.runtime.runs import RunWriter
from tests.browser import BROWSER, browser
from tests.conftest import table
from tests.folders import interrupted
from tests.watching import TOKEN, page

pytest.importorskip("starlette")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]

HOSTILE = "<img src=x onerror=document.title='owned'>"
READY = "!document.querySelector('.wait') && document.querySelector('#live').textContent === 'live'"


def growing(folder, rounds):
    """A run that is being written."""
    started = datetime.fromtimestamp(time.time() - 30, UTC).isoformat()
    experiment = {"name": HOSTILE, "seed": 1, "rounds": 40, "program": {"kind": "x"}, "task": {}}
    writer = RunWriter.create(folder, experiment, {"program": HOSTILE, "nodes": 3, "started": started})
    add(writer, rounds)
    return writer


def add(writer, rounds):
    for round in rounds:
        row = (1.0, round, round, 100 * round, 100 * round, 1, 1, 0, 90 * round, 0, *[0.0] * 4)
        writer.commits([(node, round, float(round), *row) for node in range(3)])
        writer.metrics(
            [(node, round, name, (node + round) / 100) for node in range(3) for name in ("accuracy", HOSTILE)]
        )
    writer.event(float(round), 1, HOSTILE, HOSTILE)
    writer.flush()


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Runs of all kinds: finished, interrupted, growing, with an observer, an attack and hosts, and a damaged one."""
    folder = tmp_path_factory.mktemp("runs") / "runs"
    run = package.run(table(observer={"nodes": [0]}), out=folder / "sweep" / "ring")
    (run.folder / "attacks" / "guess").mkdir(parents=True)
    result = {
        "kind": HOSTILE,
        "meaning": HOSTILE,
        "rows": [{"seen": HOSTILE, "right": 0.5}],
        "curves": {"model": [[0.01, 1.0], [0.1, 1.0]]},
    }
    (run.folder / "attacks" / "guess" / "result.json").write_text(json.dumps(result))
    package.run(table(seed=4, program={"kind": "gossip", "topology": "complete"}), out=folder / "sweep" / "complete")
    interrupted(folder / "interrupted", round=3)
    writer = growing(folder / HOSTILE.replace("/", ""), range(1, 5))
    writer.host_figures(
        [(1.0, 0, "memory", 1e8), (1.0, 1, "memory", 1e8), (9.0, 0, "memory", 2e8), (1.0, 0, HOSTILE, 1.0)]
    )
    (folder / "damaged").mkdir()
    (folder / "damaged" / "run.toml").write_text("")
    (folder / "damaged" / "metrics.sqlite").write_bytes(b"no database")
    with page(folder) as found:
        found.writer = writer
        yield found
    writer.finish("finished", {})


def opened(tab, served, path, *, width=1280, dark=False, ready=READY):
    tab.show(width, dark=dark)
    tab.open(served.origin + path)
    tab.until(f"location.pathname + location.search === '{path.partition('#')[0]}' && {ready}")


def leave(tab):
    """End a page whose server is gone, and forget its complaints."""
    tab.open("about:blank")
    tab.until("location.href === 'about:blank'")
    time.sleep(0.2)
    tab.eval("1")
    tab.complaints.clear()


TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PALE = """
(() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => { for (; one; one = one.parentElement) { const c = parts(getComputedStyle(one).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const wrong = [];
  for (const one of document.querySelectorAll('body *')) {
    if (![...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) || !one.checkVisibility()) continue;
    const [a, b] = [light(parts(getComputedStyle(one).color)), light(behind(one))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) wrong.push(`${one.tagName}.${one.className} ${contrast.toFixed(2)} ${one.textContent.slice(0, 30)}`);
  }
  return wrong;
})()
"""


def check(tab, served):
    """See whether a page fits, is legible, names all that can be used, and asks nobody else."""
    assert tab.eval(TOO_WIDE) <= 0
    assert tab.eval(PALE) == []
    assert (
        tab.eval(
            "[...document.querySelectorAll('[style]')].filter((one) => /expression|url/.test(one.getAttribute('style'))).length"
        )
        == 0
    )
    assert [role for role, name in tab.names() if not name.strip()] == []
    assert tab.eval("document.querySelectorAll('h1, .empty h2').length") >= 1
    assert tab.eval("document.title") != "owned"
    assert tab.complaints == []
    assert [one for one in tab.asked if not one.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []


def test_the_list_of_runs_is_shown_sorted_filtered_and_compared_by_keyboard(tab, served):
    opened(tab, served, "/", width=390)
    check(tab, served)
    opened(tab, served, f"/#token={TOKEN}")
    tab.until("location.hash === '' && localStorage.getItem('covey-token')")
    tab.until(READY)
    names = "[...document.querySelectorAll('.runs tbody a')].map((one) => one.textContent)"
    assert set(tab.eval(names)) == {"sweep/ring", "sweep/complete", "interrupted", "damaged", HOSTILE.replace("/", "")}
    assert "no readable facts.json" in tab.eval("document.body.innerText")
    tab.press("/")
    for letter in "sweep":
        tab.press(letter)
    tab.until(f"{names}.length === 2")
    for _ in range(3):
        tab.press("Tab")
    assert tab.eval("document.activeElement.textContent") == "Status"
    tab.eval("document.querySelector('.c-choose input').focus()")
    tab.press("Space")
    assert "choose another one" in tab.eval("document.querySelector('.choice').innerText")
    tab.press("Tab")
    tab.press("Tab")
    tab.press("Space")
    check(tab, served)
    tab.eval("document.querySelector('.choice a').focus()")
    tab.press("Enter")
    tab.until("location.pathname === '/compare' && document.querySelectorAll('.chart canvas').length >= 4")
    assert tab.eval("document.querySelector('.settings').innerText").count("topology")
    check(tab, served)


def test_a_run_grows_before_the_eyes_and_hostile_texts_are_texts(tab, served):
    id = served.ids()[HOSTILE.replace("/", "")]
    opened(tab, served, f"/run/{id}", width=390)
    tab.until("document.querySelectorAll('.chart canvas').length >= 2")
    chart = "document.querySelector('.plot').getAttribute('aria-label')"
    assert tab.eval(chart) == "Accuracy, mean over nodes. from 0.020 in round 1 to 0.050 in round 4."
    add(served.writer, range(5, 8))
    tab.until(f"{chart}.endsWith('to 0.080 in round 7.')")
    assert tab.eval("document.querySelector('.advance').innerText").startswith("round 7 of 40")
    tab.eval("[...document.querySelectorAll('.feet button')].find((one) => one.textContent === 'Table').click()")
    assert tab.eval("document.querySelector('.chart tbody').rows.length") == 7
    check(tab, served)
    opened(tab, served, f"/run/{id}/events")
    assert HOSTILE in tab.eval("document.querySelector('tbody').innerText")
    check(tab, served)


def test_without_its_server_the_page_says_so_and_keeps_its_figures(tab, tmp_path):
    writer = growing(tmp_path / "runs" / "run", range(1, 3))
    with page(tmp_path / "runs") as served:
        opened(tab, served, "/")
    tab.until("!document.querySelector('#stale').hidden")
    assert "No connection to covey watch since" in tab.eval("document.querySelector('#stale').innerText")
    assert tab.eval("document.querySelectorAll('.runs tbody tr').length") == 1
    assert tab.eval(PALE) == []
    leave(tab)
    writer.finish("finished", {})


def test_a_folder_without_runs_and_an_unknown_run_have_an_answer(tab, tmp_path):
    (tmp_path / "none").mkdir()
    with page(tmp_path / "none") as served:
        opened(tab, served, "/", width=390, dark=True)
        assert "No run yet" in tab.eval("document.querySelector('.empty').innerText")
        check(tab, served)
        tab.open(f"{served.origin}/run/0123456789abcdef")
        tab.until("document.querySelector('.empty h2')?.textContent === 'This cannot be shown'")
        assert "There is no such run." in tab.eval("document.body.innerText")
    leave(tab)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_fits_is_legible_and_named(tab, served, width, dark):
    ids = served.ids()
    paths = ["/", f"/compare?runs={ids['sweep/ring']},{ids['sweep/complete']}"]
    paths += [f"/run/{ids['sweep/ring']}{page}" for page in ("", "/graph", "/events", "/attacks", "/settings")]
    paths += [
        f"/run/{ids[name]}{page}"
        for name in ("interrupted", HOSTILE.replace("/", ""))
        for page in ("", "/hosts", "/events")
    ]
    for path in paths:
        opened(tab, served, path, width=width, dark=dark)
        time.sleep(0.3)
        check(tab, served)


@pytest.mark.slow
def test_fifty_runs_are_painted_within_a_second(tab, tmp_path):
    for number in range(50):
        growing(tmp_path / "runs" / f"run-{number}", range(1, 20)).finish("finished", {})
    with page(tmp_path / "runs") as served:
        for _ in range(2):
            opened(tab, served, "/")
            assert tab.eval("document.querySelectorAll('.runs tbody tr').length") == 50
        assert tab.eval("performance.getEntriesByName('covey-painted')[0].startTime") < 1000
