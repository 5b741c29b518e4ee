"""The routes of `openapi.json`: each takes a request apart, has the work done, and answers."""

from __future__ import annotations

import json
import posixpath
import re
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.iostream import StreamClosedError

from notebook_agents import __version__
from notebook_agents.model import RunStatus
from notebook_agents.server import actions
from notebook_agents.server.answers import (
    MOST,
    Wanted,
    conversations,
    one_thread,
    page,
    read_run,
    thread_row,
    variables,
)
from notebook_agents.server.health import health
from notebook_agents.server.live import Changed, Stream
from notebook_agents.server.refusals import RefusedError, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from notebook_agents.journal import Journal
    from notebook_agents.model import ThreadInfo
    from notebook_agents.server.places import Places
    from notebook_agents.server.service import Service

R = TypeVar("R")

API = 1
"""The number of the interface: `openapi.json`, `About.api`."""
RESOURCE = "notebook_agents"
"""What an authorizer is asked about."""
TIMELINE = "application/vnd.notebook-agents.timeline.v1+json"
_PING_SECONDS = 15.0
_BODY = 1024 * 1024
_LONGEST = {"search": 500, "status": 200, "after": 1_000, "thread": 10_000, "run": 9}
_PATH = 4096
_STATUSES = frozenset(map(str, RunStatus))


class Handler(APIHandler):
    """What all routes have in common."""

    auth_resource = RESOURCE

    @property
    def service(self) -> Service:
        """What the handlers share."""
        found: Service = self.settings[RESOURCE]
        return found

    @property
    def places(self) -> Places:
        """Where things are."""
        return self.service.places

    @property
    def where(self) -> dict[str, str | None]:
        """What is said of which journal is meant."""
        return {name: self.said(name, longest=_PATH) for name in ("journal", "notebook")}

    def said(self, name: str, *, longest: int | None = None) -> str | None:
        """Return a parameter of the query, or None.

        Raises:
            RefusedError: It is given twice, is no UTF-8, or too long.
        """
        found = self.request.query_arguments.get(name)
        if not found:
            return None
        try:
            [said] = [one.decode() for one in found]  # Tornado's own would clean it
            if len(said) <= (longest or _LONGEST[name]):
                return said
        except ValueError:  # a UnicodeDecodeError is one
            pass
        raise RefusedError("bad_request", f"`{name}` is given twice, or too long: shorten it")

    def number(self, said: str | None) -> int | None:
        """Return a run's number; None for the newest.

        Raises:
            RefusedError: It is none.
        """
        if said is None or said == "newest":
            return None
        if not re.fullmatch("[1-9][0-9]{0,8}", said):
            raise RefusedError("bad_request", f"{said!r} is no run: give its number, or newest")
        return int(said)

    def asked(self, **kinds: type | tuple[type, ...]) -> dict[str, Any]:
        """Return the request's JSON object.

        Args:
            kinds: The types of its members.

        Raises:
            RefusedError: It is none, or has members that there are not.
        """
        if len(self.request.body) > _BODY:
            raise RefusedError("bad_request", "the request is too long: it may have 1 MB")
        try:
            found = json.loads(self.request.body or b"{}")
            json.dumps(found, ensure_ascii=False).encode()  # half a character is none
        except (ValueError, RecursionError):
            raise RefusedError("bad_request", "the request is not JSON: send an object") from None
        if not isinstance(found, dict) or found.keys() - kinds.keys():
            names = ", ".join(kinds) or "none"
            raise RefusedError("bad_request", f"send a JSON object with these members: {names}")
        for name, value in found.items():
            if not isinstance(value, kinds[name]):
                raise RefusedError("bad_request", f"`{name}` is of another type: see openapi.json")
        return found

    def kernels(self) -> dict[int, str]:
        """Return this server's kernels by the ids of their processes."""
        found: dict[int, str] = {}
        for kernel in self.kernel_manager.list_kernel_ids():
            provisioner = getattr(self.kernel_manager.get_kernel(kernel), "provisioner", None)
            pid = getattr(provisioner, "pid", None)
            if isinstance(pid, int):
                found[pid] = kernel
        return found

    async def read(self, function: Callable[[Journal], R]) -> R:
        """Return what is read from the journal that is meant."""
        return await self.service.read(self._with, self.where, function)

    async def act(self, function: Callable[[Journal], R]) -> R:
        """Return what becomes of changing the journal that is meant."""
        return await self.service.act(self._with, self.where, function)

    def _with(self, where: dict[str, str | None], function: Callable[[Journal], R]) -> R:
        with self.service.journals.using(self.places.journal(**where)) as journal:
            return function(journal)

    def answer(self, found: Any, *, status: int = 200, kind: str = "application/json") -> None:
        """Send JSON: whatever it says, no page can take it for markup."""
        self.set_status(status)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        self.finish(dumps(found), set_content_type=kind)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send what is known of an error; of a bug nothing but that the log has it."""
        error = kwargs.get("exc_info", (None, None))[1]
        told = refusal(error) if isinstance(error, Exception) else None
        if told is None and not isinstance(error, web.HTTPError):
            told = RefusedError("failed", "the server's log says what happened: report it")
        if told is None:
            super().write_error(status_code, **kwargs)
            return
        self.answer(told.data(), status=told.status)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log bugs, and not what is refused."""
        if not isinstance(value, Exception) or refusal(value) is None:
            super().log_exception(typ, value, tb)

    def row(self, journal: Journal, thread: str, kernels: dict[int, str]) -> dict[str, Any]:
        """Return a conversation as the API's `Thread`."""
        return thread_row(journal.thread(thread), self.places, kernels)


def dumps(found: Any) -> str:
    """Return JSON without anything that would be markup where it is taken for a page."""
    text = json.dumps(found, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


class About(Handler):
    """The versions of the server part."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer `GET about`."""
        self.answer({"version": __version__, "api": API})


class KnownJournals(Handler):
    """The journals that are known."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer `GET journals`."""
        manager: Any = self.session_manager
        sessions = await ensure_async(manager.list_sessions())
        notebooks = [str(one["path"]) for one in sessions if one.get("type") == "notebook"]
        self.answer({"journals": await self.service.read(self._known, notebooks)})

    def _known(self, notebooks: list[str]) -> list[dict[str, Any]]:
        found: dict[Path, list[str]] = {}
        default: Path | None = None
        for notebook in (None, *notebooks):
            try:
                home = self.places.journal(notebook=notebook)
            except RefusedError:
                continue
            used = found.setdefault(home, [])
            if notebook is None:
                default = home
            else:
                used.append(notebook)
        return [self._told(home, used, default=home == default) for home, used in found.items()]

    def _told(self, home: Path, used: list[str], *, default: bool) -> dict[str, Any]:
        problem: RefusedError | None = None
        try:
            with self.service.journals.using(home):
                pass
        except Exception as error:
            problem = refusal(error)
            if problem is None:
                raise
        return {
            "path": self.places.shown(home),
            "default": default,
            "notebooks": sorted(used),
            "usable": problem is None,
            "error": None if problem is None else problem.data(),
        }


class Health(Handler):
    """Whether the journal can be used."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer `GET health`."""
        where = self.where
        found = await self.service.look(
            lambda: health(self.service.journals, self.places.journal(**where))
        )
        self.answer(found, status=200 if found["ok"] else 503)


class Threads(Handler):
    """Conversations."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer `GET threads`."""
        wanted = self._wanted()
        shown = partial(page, wanted=wanted, places=self.places, kernels=self.kernels())
        self.answer(await self.read(shown))
        self.service.warm()

    def _wanted(self) -> Wanted:
        status = self.said("status")
        statuses = None if not status else frozenset(status.split(","))
        if statuses is not None and not statuses <= _STATUSES:
            raise RefusedError("bad_request", f"a status is one of {', '.join(sorted(_STATUSES))}")
        limit = self.said("limit", longest=4) or "100"
        if not limit.isdecimal() or not 1 <= int(limit) <= MOST:
            raise RefusedError("bad_request", f"`limit` is a number from 1 to {MOST}")
        notebook = self.said("started_in", longest=_PATH)
        return Wanted(
            search=(self.said("search") or "").lower(),
            statuses=statuses,
            notebook=None if not notebook else posixpath.normpath(notebook.lstrip("/")),
            limit=int(limit),
            after=self.said("after") or None,
        )


class Thread(Handler):
    """One conversation."""

    @web.authenticated
    @authorized
    async def get(self, thread: str) -> None:
        """Answer `GET threads/{thread}`."""
        kernels = self.kernels()
        told = partial(one_thread, thread=thread, places=self.places, kernels=kernels)
        self.answer(await self.read(told))

    @web.authenticated
    @authorized
    async def delete(self, thread: str) -> None:
        """Answer `DELETE threads/{thread}`."""
        said = self.said("unfinished", longest=5) or "false"
        if said not in ("true", "false"):
            raise RefusedError("bad_request", "`unfinished` is true or false")
        gone = partial(actions.delete, thread=thread, unfinished=said == "true")
        self.answer(await self.act(gone))


class Run(Handler):
    """One run."""

    @web.authenticated
    @authorized
    async def get(self, thread: str, run: str) -> None:
        """Answer `GET threads/{thread}/runs/{run}`."""
        number = self.number(run)
        self.answer(await self.read(partial(_state, thread=thread, run=number)), kind=TIMELINE)


class Step(Handler):
    """One step."""

    @web.authenticated
    @authorized
    async def get(self, thread: str, step: str) -> None:
        """Answer `GET threads/{thread}/steps/{step}`."""
        number = self.number(self.said("run"))
        self.answer(await self.read(partial(_detail, thread=thread, run=number, step=step)))


def _state(journal: Journal, thread: str, run: int | None) -> dict[str, Any]:
    from notebook_agents.server.answers import state_of

    with journal.reading():
        return state_of(journal, read_run(journal, thread, run))


def _detail(journal: Journal, thread: str, run: int | None, step: str) -> dict[str, Any]:
    from notebook_agents.server.contents import step_detail  # LangGraph takes a second

    return step_detail(journal, thread, run, step)


class Resolve(Handler):
    """What happened to a step in doubt."""

    @web.authenticated
    @authorized
    async def post(self, thread: str) -> None:
        """Answer `POST threads/{thread}/resolve`."""
        asked = self.asked(step=str, happened=bool, result=object)
        if not asked.get("step") or "happened" not in asked:
            raise RefusedError("bad_request", "say which step, and whether it happened")
        kernels = self.kernels()

        def resolved(journal: Journal) -> dict[str, Any]:
            said = actions.resolve(journal, thread, asked)
            return {"thread": self.row(journal, thread, kernels), "said": said}

        self.answer(await self.act(resolved))


class Cancel(Handler):
    """The end of a run."""

    @web.authenticated
    @authorized
    async def post(self, thread: str) -> None:
        """Answer `POST threads/{thread}/cancel`."""
        self.asked()
        kernels = self.kernels()

        def cancelled(journal: Journal) -> dict[str, Any]:
            said = actions.cancel(journal, thread)
            return {"thread": self.row(journal, thread, kernels), "said": said}

        self.answer(await self.act(cancelled))


class Stop(Handler):
    """A stop of what runs."""

    @web.authenticated
    @authorized
    async def post(self, thread: str) -> None:
        """Answer `POST threads/{thread}/stop`."""
        self.asked()
        kernels = self.kernels()
        head = await self.act(partial(actions.stop, thread=thread))
        kernel = None if head.driver is None else kernels.get(head.driver.pid)
        if kernel is not None:
            manager: Any = self.kernel_manager
            await ensure_async(manager.interrupt_kernel(kernel))
        else:
            actions.interrupt(head)
        row = await self.read(partial(self.row, thread=thread, kernels=kernels))
        self.answer({"thread": row, "said": "asked to stop: what returned is kept"})


class Fork(Handler):
    """A conversation with the past of another one."""

    @web.authenticated
    @authorized
    async def post(self, thread: str) -> None:
        """Answer `POST threads/{thread}/fork`."""
        text = (str, type(None))
        asked = self.asked(at=text, name=text)
        if asked.get("name") is not None and not 1 <= len(asked["name"]) <= 500:
            raise RefusedError("bad_request", "a name has from 1 to 500 characters")
        kernels = self.kernels()

        def forked(journal: Journal) -> dict[str, Any]:
            made = actions.fork(journal, thread, asked)
            row = self.row(journal, made, kernels)
            return {"thread": row, "said": "made: resume it to go on with it", "from": thread}

        self.answer(await self.act(forked), status=201)


class Variables(Handler):
    """What is kept of a notebook's variables."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer `GET variables`."""
        of = self.said("of", longest=_PATH)
        if not of:
            raise RefusedError("bad_request", "say of which notebook: give `of`")
        told = partial(variables, places=self.places, notebook=of)
        self.answer(await self.read(told))


class Size(Handler):
    """What the journal takes."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer `GET journal/size`."""
        self.answer(await self.read(actions.size))


class Compact(Handler):
    """A compaction."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer `POST journal/compact`."""
        dry_run = self.asked(dry_run=bool).get("dry_run", False)
        self.answer(await self.act(partial(actions.compact, dry_run=dry_run)))


class Events(Handler):
    """What changes, as it does."""

    _track_activity = False
    _gone = False

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer `GET events`."""
        thread, number = self.said("thread"), self.number(self.said("run"))
        # What cannot be opened is said at once.
        home = await self.read(lambda journal: journal.home)
        stream = self._stream = Stream(None if not thread else (thread, number))
        self.service.watchers.add(home, stream)
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        try:
            await self._send("ping", {})
            while not self._gone:
                try:
                    event = await stream.next(_PING_SECONDS)
                except TimeoutError:
                    await self._send("ping", {})
                    continue
                if event is None:
                    break
                await self._tell(event)
        except StreamClosedError:
            pass
        finally:
            self.service.watchers.remove(home, stream)
        self.finish(set_content_type="text/event-stream")

    async def _tell(self, event: Changed | RefusedError | dict[str, Any]) -> None:
        if isinstance(event, RefusedError):
            await self._send("failed", event.data())
        elif isinstance(event, Changed):
            rows = await self.service.read(self._rows, event.infos, self.kernels())
            changed = {"threads": rows, "gone": list(event.gone), "reload": event.reload}
            await self._send("threads", {**changed, "version": event.version})
        else:
            await self._send("run", event)

    def _rows(self, infos: tuple[ThreadInfo, ...], kernels: dict[int, str]) -> list[Any]:
        return [thread_row(info, self.places, kernels) for info in conversations(infos)]

    def _send(self, name: str, told: dict[str, Any]) -> Awaitable[None]:
        self.write(f"event: {name}\ndata: {dumps(told)}\n\n")
        return self.flush()

    def on_connection_close(self) -> None:
        """End the stream of a page that is gone."""
        self._gone = True
        if hasattr(self, "_stream"):
            self._stream.put(None)


_THREAD = "threads/([^/]+)"
ROUTES: dict[str, type[Handler]] = {
    "about": About,
    "journals": KnownJournals,
    "health": Health,
    "threads": Threads,
    _THREAD: Thread,
    f"{_THREAD}/runs/([^/]+)": Run,
    f"{_THREAD}/steps/([^/]+)": Step,
    f"{_THREAD}/resolve": Resolve,
    f"{_THREAD}/cancel": Cancel,
    f"{_THREAD}/stop": Stop,
    f"{_THREAD}/fork": Fork,
    "variables": Variables,
    "journal/size": Size,
    "journal/compact": Compact,
    "events": Events,
}
"""The handlers by their routes, as regular expressions."""


def routes(base_url: str) -> list[tuple[str, type[Handler]]]:
    """Return the routes below a server's base URL."""
    return [
        (url_path_join(re.escape(base_url), "notebook-agents", "api", path), handler)
        for path, handler in ROUTES.items()
    ]
