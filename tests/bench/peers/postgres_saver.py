"""LangGraph's PostgresSaver on a PostgreSQL of its own, on the same disk, with its own settings."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from langgraph.checkpoint.postgres import PostgresSaver

from ..lookups import rows as lookups
from ..overhead import rows as overhead
from ..size import JUDGED, conversation
from ..systems import MEMORY, OURS, SYNC, SYSTEMS, saver_of
from ..texts import BYTES
from .inside import measured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langgraph.types import Durability

    from ..measure import Bench
    from ..systems import Opened

ROUNDS = 7
_numbers = count()


def _measure(bench: Bench, home: Path) -> None:
    with _cluster() as server:
        postgres = {
            "PostgresSaver sync": partial(_open, server, durability="sync"),
            "PostgresSaver async": partial(_open, server, durability="async"),
        }
        ours = {name: SYSTEMS[name] for name in (MEMORY, SYNC, OURS)}
        overhead(bench, home / "overhead", {**ours, **postgres}, rounds=ROUNDS)
        lookups(bench, home, {SYNC: SYSTEMS[SYNC], OURS: SYSTEMS[OURS], **postgres})
        steps = bench.size(500, 5)
        with (
            _connected(server) as (number, connection),
            PostgresSaver.from_conn_string(number) as saver,
        ):
            saver.setup()
            builder = conversation(steps, JUDGED, 1)
            saver_of(saver, "sync").run(builder, {"n": 0, "messages": []})
            size = connection.execute("SELECT pg_database_size(current_database())").fetchone()[0]
        with _connected(server) as (_, connection):
            size -= connection.execute("SELECT pg_database_size(current_database())").fetchone()[0]
            version = connection.execute("SHOW server_version").fetchone()[0]
        bench.say(
            f"the database after {steps} steps of the conversation of `size`, less an empty one: "
            f"{size:,} bytes, ÷ content {size / (steps * 2 * BYTES):.2f}; the server's log of "
            "changes not counted"
        )
        bench.say(
            f"PostgreSQL {version}, over a Unix socket, with initdb's settings (fsync on); "
            "CPU is the client's alone"
        )


@contextmanager
def _open(server: Path, folder: Path, durability: Durability) -> Iterator[Opened]:
    with _connected(server) as (address, _), PostgresSaver.from_conn_string(address) as saver:
        saver.setup()
        yield saver_of(saver, durability)


@contextmanager
def _connected(server: Path) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """Make a database; give its address and a connection to it."""
    name = f"bench{next(_numbers)}"
    base = f"host={server} user=bench dbname="
    with psycopg.connect(f"{base}postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    with psycopg.connect(base + name, autocommit=True) as connection:
        yield base + name, connection


@contextmanager
def _cluster() -> Iterator[Path]:
    """Run a server that only this machine can reach; give the folder of its socket."""
    programs = shutil.which("initdb") or max(
        map(str, Path("/").glob("usr/lib/postgresql/*/bin/initdb"))
    )
    place = Path(programs).parent
    who: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        account = pwd.getpwnam("postgres")
        who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        home = Path(folder)
        if who:
            os.chown(home, who["user"], who["group"])
        do = partial(subprocess.run, check=True, cwd=home, stdout=subprocess.DEVNULL, **who)
        data, options = home / "data", f"-c listen_addresses= -c unix_socket_directories={home}"
        do([place / "initdb", "-D", data, "-A", "trust", "-U", "bench"])
        control = [place / "pg_ctl", "-D", data, "-w"]
        do([*control, "-l", home / "log", "-o", options, "start"])
        try:
            yield home
        finally:
            do([*control, "-m", "fast", "stop"])


if __name__ == "__main__":
    measured(_measure, "langgraph-checkpoint-postgres", "psycopg")
