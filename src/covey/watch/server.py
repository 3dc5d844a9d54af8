"""The addresses of the page and their answers."""

import gzip
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from covey import __version__
from covey.parts.errors import CoveyError, RunError
from covey.runtime.emulation.transport.address import Address
from covey.view.groups import differing
from covey.watch import details, stream
from covey.watch.control import Control
from covey.watch.folder import Folder
from covey.watch.guard import Guard
from covey.watch.watched import Watched

_FILES = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8",
}  # fmt: skip
PAGES = ("/", "/compare", "/run/{id}", "/run/{id}/{page}")
"""The addresses at which the page is; it decides itself what to show."""
AXES = ("rounds", "time", "bytes", "energy")
_MOST_COMPARED = 12


class Server:
    """The answers about a folder of runs.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.control = Control()
        self.is_over = False
        """True when the server ends; then open streams end."""
        self._files = {file.name: _File(file) for file in _FILES.rglob("*") if file.suffix in _TYPES}

    def app(self, address: Address, token: str, *, is_private: bool) -> Starlette:
        """The application, behind its guard. The arguments are those of `Guard`."""
        routes = [
            *(Route(path, self._page) for path in PAGES),
            Route("/static/{name}", self._static),
            Route("/api/runs", self._runs),
            Route("/api/runs/stream", self._runs_stream),
            Route("/api/differences", self._differences),
            Route("/api/run/{id}", self._of_run(details.of_run)),
            Route("/api/run/{id}/curve", self._curve),
            Route("/api/run/{id}/stream", self._run_stream),
            *(
                Route(f"/api/run/{{id}}/{name}", self._of_run(getattr(details, name)))
                for name in ("events", "hosts", "graph", "attacks")
            ),
            Route("/api/run/{id}/stop", self._of_run(self._stop), methods=["POST"]),
            Route("/api/run/{id}/resume", self._of_run(self._resume), methods=["POST"]),
        ]
        return Starlette(
            routes=routes, middleware=[Middleware(Guard, address=address, token=token, is_private=is_private)]
        )

    # ---------------------------------------------------------------------- the page and its files

    async def _page(self, request: Request) -> Response:
        return self._files["index.html"].answer(request)

    async def _static(self, request: Request) -> Response:
        found = self._files.get(request.path_params["name"])
        return Response("There is no such file.\n", 404) if found is None else found.answer(request)

    # ---------------------------------------------------------------------- all runs

    async def _runs(self, request: Request) -> Response:
        facts = await run_in_threadpool(stream.All(self.folder))
        return _json({**(facts or {}), "folder": str(self.folder.path), "version": __version__})

    async def _runs_stream(self, request: Request) -> Response:
        return _streamed(stream.events(stream.All(self.folder), lambda: self.is_over))

    async def _differences(self, request: Request) -> Response:
        ids = request.query_params.get("runs", "").split(",")[:_MOST_COMPARED]
        return await _answered(partial(self._differing, ids))

    def _differing(self, ids: list[str]) -> dict[str, Any]:
        """The settings in which runs differ, and those that all of them share."""
        runs = [self._run(id) for id in ids]
        for run in runs:
            run.look()
        tables = [run.settings() for run in runs]
        keys = differing(tables)
        return {
            "runs": [run.row() for run in runs],
            "figures": [{} if run.course is None else run.course.figures for run in runs],
            "differs": [[key, *(table.get(key, "–") for table in tables)] for key in keys],
            "same": [[key, value] for key, value in tables[0].items() if key not in keys],
        }

    # ---------------------------------------------------------------------- one run

    def _run(self, id: str) -> Watched:
        """The run of an id.

        Raises:
            LookupError: there is none.
        """
        found = self.folder.run(id)
        if found is None:
            raise LookupError(id)
        return found

    def _of_run(self, facts: Callable[[Watched], Any]) -> Callable[[Request], Any]:
        """The answer with some facts about the run that an address names."""

        async def answer(request: Request) -> Response:
            return await _answered(partial(self._looked, request.path_params["id"], facts))

        return answer

    def _looked(self, id: str, facts: Callable[[Watched], Any]) -> Any:
        run = self._run(id)
        run.look()
        return facts(run)

    async def _curve(self, request: Request) -> Response:
        figure, against = (request.query_params.get(name, "") for name in ("figure", "against"))

        def curve(run: Watched) -> Any:
            if against not in AXES:
                raise RunError(f"An axis must be one of {', '.join(AXES)}. Got {against!r} instead.")
            cursor = run.cursor()
            return {"cursor": cursor, "points": list(map(list, run.curve(figure, against)))}

        return await _answered(partial(self._looked, request.path_params["id"], curve))

    async def _run_stream(self, request: Request) -> Response:
        asked = request.query_params
        run = self.folder.run(request.path_params["id"])
        if run is None:
            return _json({"problem": "There is no such run."}, 404)
        after = asked.get("event", "0")
        names = list(filter(None, asked.get("figures", "").split("\n")))
        one = stream.One(run, names, asked.get("since", ""), int(after) if after.isdecimal() else 0, self.control)
        return _streamed(stream.events(one, lambda: self.is_over))

    def _stop(self, run: Watched) -> dict[str, str]:
        return {"said": self.control.stop(run)}

    def _resume(self, run: Watched) -> dict[str, str]:
        return {"said": self.control.resume(run)}


class _File:
    """A file of the page, kept as it is sent."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._packed = gzip.compress(self._content, 6)
        self._tag = f'"{hashlib.sha256(self._content).hexdigest()[:24]}"'
        self._type = _TYPES[path.suffix]

    def answer(self, request: Request) -> Response:
        headers = {"ETag": self._tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self._packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=self._type)
        return Response(self._content, headers=headers, media_type=self._type)


async def _answered(facts: Callable[[], Any]) -> Response:
    """The facts that a function gives in a thread, or its error as one sentence."""
    try:
        return _json(await run_in_threadpool(facts))
    except LookupError:
        return _json({"problem": "There is no such run."}, 404)
    except CoveyError as error:
        return _json({"problem": str(error)}, 409)


def _json(facts: Any, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(facts), status, headers=headers, media_type="application/json")


def _streamed(events: Any) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
