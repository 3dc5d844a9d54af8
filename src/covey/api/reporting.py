"""Pages about runs: `covey.report` and `covey report`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from covey.api.comparing import runs_of
from covey.pages import write_report
from covey.parts.tracebacks import short_traceback
from covey.runtime.runs import Run


@short_traceback()
def report(
    runs: Run | Path | str | Iterable[Run | Path | str],
    *,
    out: Path | str = "report.html",
    labels: Sequence[str] = (),
) -> Path:
    """Write a page about runs, an HTML file that needs no other file.

    Args:
        runs: a run, its folder, a folder that holds folders of runs, or several of these; a sweep as it is.
        out: the page.
        labels: a name for each experiment. By default the keys that differ name it.

    Returns:
        The page's path.

    Raises:
        CoveyError: a folder holds no run, there is not one label for each experiment, or the page cannot be written.
    """
    page = Path(out)
    write_report(runs_of(runs), page, labels)
    return page
