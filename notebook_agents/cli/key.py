"""`notebook-agents key …`: the master keys that open journals."""
# ruff: noqa: D301 - a backspace is click's mark for lines that are not to be wrapped

from __future__ import annotations

import base64
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from notebook_agents import settings
from notebook_agents.cli import data
from notebook_agents.cli.options import journal_option, json_option
from notebook_agents.errors import NoJournalError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_agents.journal.rotation import Rotation
    from notebook_agents.sealing import KeyRing
    from notebook_agents.sealing.editing import Added


def _phrase_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the ways of giving a new passphrase; none of them is an argument that others see."""
    for option in (
        click.option("--passphrase", "typed", is_flag=True, help="Ask for a passphrase."),
        click.option(
            "--passphrase-file",
            "phrase_file",
            type=click.Path(path_type=Path),
            help="The passphrase is the first line of this file.",
        ),
    ):
        function = option(function)
    return function


@click.group()
def key() -> None:
    """Make, rotate, export and import the keys of journals.

    The keys lie in one file of this user. A passphrase that protects it is asked for at a terminal,
    or is NOTEBOOK_AGENTS_PASSPHRASE; it is never an argument, which others could see.
    NOTEBOOK_AGENTS_KEY holds a key itself, and wins over the file's current one.

    \b
    Example:
      notebook-agents key list
    """


@key.command()
@_phrase_options
@json_option
def new(*, typed: bool, phrase_file: Path | None, as_json: bool) -> None:
    """Make a key that new threads are sealed with.

    What is sealed already stays under the key that it has; `key rotate` changes that. With a
    passphrase a new key file is protected; `key passphrase` protects one that is there.

    \b
    Example:
      notebook-agents key new --passphrase

    --json writes an object: key (its id), file.
    """
    from notebook_agents.sealing import editing

    made = editing.new(_phrase(typed=typed, file=phrase_file))
    _tell({"key": made.id, "file": str(made.path)}, [_made(made)], as_json=as_json)


@key.command("list")
@journal_option
@json_option
def list_keys(*, journal: str | None, as_json: bool) -> None:
    """Show the keys, and what each wraps in this journal.

    \b
    Example:
      notebook-agents key list

    \b
    --json writes an object:
      file, journal (null: there is none here),
      keys: [id, created, current, source (file, environment), passphrase,
             wraps (data keys in the journal; null: there is none here)],
      missing: [id, wraps]: keys of the journal that are not in the ring
    """
    from notebook_agents.sealing import load_ring

    ring = load_ring(create=False)
    home, wraps = _used(journal)
    keys = _listed(ring, wraps)
    missing = {by: count for by, count in sorted((wraps or {}).items()) if by not in ring.ids}
    closed = [{"id": by, "wraps": count} for by, count in missing.items()]
    said = {"file": str(ring.path), "journal": home, "keys": keys, "missing": closed}
    lines = [_line(one, ring) for one in keys]
    lines += [
        f"{by}  not here, and wraps {_data_keys(count)} of {home}: import it with "
        f"`notebook-agents key import FILE`"
        for by, count in missing.items()
    ]
    _tell(said, lines, as_json=as_json)


@key.command()
@click.option("--new", "fresh", is_flag=True, help="Make a new key in any case.")
@journal_option
@json_option
def rotate(*, fresh: bool, journal: str | None, as_json: bool) -> None:
    """Wrap a journal's data keys with a new key.

    The new key becomes the current one. A journal whose data keys are not all wrapped with the
    current key is brought to that one instead: the next journal, or one whose rotation was killed.
    Records are not touched, others may use the journal meanwhile, and killed at any point it opens.

    The old key stays in the ring, and opens other journals, backups, and what a repair or a restore
    put aside. When each journal is rotated and none of those is needed, `key remove` takes it out.
    With NOTEBOOK_AGENTS_KEY that is the current key: import the old one, set the variable to the
    new one, then rotate.

    \b
    Example:
      notebook-agents key rotate

    \b
    --json writes an object:
      journal, key, new (whether it was made now), rewrapped (data keys),
      left (data keys by the id of a key that is not here), older: [id],
      elsewhere: [name]: backups and files put aside
    """
    from notebook_agents.journal import Journal, rotation
    from notebook_agents.sealing import editing, load_ring

    home = settings.journal_home(journal, create=False)
    with Journal.open(home, create=False) as opened:
        ring = load_ring(create=False)
        behind = (rotation.used(opened).keys() - {ring.current_id}) & set(ring.ids)
        made = None
        if fresh or not behind:
            _refuse_configured(ring)
            ring.current  # noqa: B018 - whose passphrase is not here ends before anything changes
            made = editing.new()
            ring = load_ring(create=False)
        done = rotation.rotate(opened, ring, ring.current)
    lines = [*([] if made is None else [_made(made)]), *_rotated(done, ring)]
    _tell(_rotation_data(done, ring, made), lines, as_json=as_json)


@key.command()
@click.argument("dest", metavar="FILE")
@click.option("--key", "name", metavar="ID", help="Which one; default: the current one.")
@_phrase_options
@json_option
def export(
    *, dest: str, name: str | None, typed: bool, phrase_file: Path | None, as_json: bool
) -> None:
    """Write a key to a file, for a copy or another computer.

    Whoever has it opens your journals, and can make records that you would trust: keep it where
    nobody else reads, or protect it with a passphrase. FILE must not be there; it is made for you
    alone (0600). With - the key itself goes to standard output, as NOTEBOOK_AGENTS_KEY takes it.

    \b
    Examples:
      notebook-agents key export /media/stick/key.json --passphrase
      notebook-agents key export - | ssh host notebook-agents key import -

    --json writes an object: key (its id), file, passphrase (whether one protects it).
    """
    from notebook_agents.sealing import editing
    from notebook_agents.sealing.keyfile import key_id

    if as_json and dest == "-":
        raise click.UsageError("the key itself goes to standard output with -: leave --json out")
    phrase = _phrase(typed=typed, file=phrase_file)
    raw, created = editing.export(name)
    if dest == "-":
        text = base64.b64encode(raw).decode() + "\n"
        if phrase is not None:
            text = editing.exported(raw, created, phrase).decode()
        click.echo(text, nl=False)
        return
    path = Path(dest)
    _write_new(path, editing.exported(raw, created, phrase))
    said = {"key": key_id(raw), "file": str(path), "passphrase": phrase is not None}
    how = "protected by the passphrase" if phrase is not None else "whoever reads it has the key"
    _tell(said, [f"wrote key {said['key']} to {path}: {how}"], as_json=as_json)


@key.command("import")
@click.argument("source", metavar="FILE")
@click.option("--current", is_flag=True, help="Seal new threads with it.")
@click.option(
    "--passphrase-file",
    "phrase_file",
    type=click.Path(path_type=Path),
    help="The passphrase of FILE is the first line of this file.",
)
@json_option
def import_(*, source: str, current: bool, phrase_file: Path | None, as_json: bool) -> None:
    """Add a key that was exported, here or elsewhere.

    FILE is an export, or has 32 bytes as base64 or hex; - reads standard input. The key opens the
    journals that are sealed with it. You trust whoever has it: what their journals hold is
    unpickled here, which can run code. New threads stay with your own current key.

    \b
    Example:
      notebook-agents key import /media/stick/key.json

    --json writes an object: file, keys: [id, known (it was there already), current].
    """
    from notebook_agents.sealing import editing
    from notebook_agents.sealing.passphrase import read

    text = sys.stdin.buffer.read() if source == "-" else _read(Path(source))
    where = "standard input" if source == "-" else source
    if phrase_file is not None:
        editing.try_passphrase(text, where, read(phrase_file))
    added = editing.add(text, where, current=current)
    keys = [{"id": one.id, "known": one.known, "current": one.current} for one in added]
    lines = [
        f"key {one.id} {'is in there already' if one.known else 'added'}: {one.path}"
        f"{'; new threads are sealed with it' if one.current else ''}"
        for one in added
    ]
    lines.append("what journals under it hold is trusted from now on, and unpickled when read")
    _tell({"file": str(added[0].path), "keys": keys}, lines, as_json=as_json)


@key.command()
@click.argument("name", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@journal_option
@json_option
def remove(*, name: str, yes: bool, journal: str | None, as_json: bool) -> None:
    """Take a key out of the ring; the current one stays.

    Nobody can open what it still wraps, you included, unless you exported it: journals that were
    not rotated, backups from before, files that a repair or a restore put aside. Only the journal
    here is looked at.

    \b
    Example:
      notebook-agents key remove 1f0c6e9a

    --json writes an object: key, file. It asks nothing, so it needs --yes.
    """
    from notebook_agents.sealing import editing

    home, wraps = _used(journal)
    if count := (wraps or {}).get(name, 0):
        raise UsageError(
            f"key {name} wraps {_data_keys(count)} of {home}: `notebook-agents key rotate` wraps "
            "them with the current one, then remove it"
        )
    if as_json and not yes:
        raise click.UsageError("--json asks nothing: give --yes too")
    if not yes:
        click.confirm(
            f"What key {name} still wraps (other journals, older backups) cannot be opened by "
            "anybody from now on, unless you exported it. Remove it?",
            abort=True,
        )
    path = str(editing.remove(name))
    lines = [f"key {name} is not in {path} any more; exports of it still open what it wraps"]
    _tell({"key": name, "file": path}, lines, as_json=as_json)


@key.command()
@click.option("--remove", "without", is_flag=True, help="Store the keys without a passphrase.")
@_phrase_options
@json_option
def passphrase(*, without: bool, typed: bool, phrase_file: Path | None, as_json: bool) -> None:
    """Protect the key file with a passphrase.

    It is asked for at the terminal (or named by --passphrase-file), and from then on once in each
    process that opens a journal; NOTEBOOK_AGENTS_PASSPHRASE answers. Lost, the keys are lost with
    it, unless you exported them.

    \b
    Example:
      notebook-agents key passphrase

    --json writes an object: file, passphrase (whether one protects it now).
    """
    from notebook_agents.sealing import editing

    if without and (typed or phrase_file is not None):
        raise click.UsageError("--remove takes no passphrase: leave one out")
    path = editing.protect(None if without else _phrase(typed=True, file=phrase_file))
    lines = [f"{path} {'is not protected any more' if without else 'is protected by it'}"]
    _tell({"file": str(path), "passphrase": not without}, lines, as_json=as_json)


def _tell(said: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    for line in [data.dumps(said)] if as_json else lines:
        click.echo(line)


def _phrase(*, typed: bool, file: Path | None) -> str | None:
    from notebook_agents.sealing.passphrase import chosen

    return chosen(file) if typed or file is not None else None


def _used(journal: str | None) -> tuple[str | None, dict[str, int] | None]:
    """Return the journal here and how many data keys each key wraps in it; None where none is."""
    from notebook_agents.journal import Journal, rotation

    try:
        home = settings.journal_home(journal, create=False)
        with Journal.open(home, create=False, scheduled=False) as opened:
            return str(home), rotation.used(opened)
    except NoJournalError:
        if journal is not None:
            raise
        return None, None


def _listed(ring: KeyRing, wraps: dict[str, int] | None) -> list[dict[str, Any]]:
    stored = ring.stored.keys if ring.stored else {}
    found = []
    for name in ring.ids:
        one = stored.get(name)
        found.append(
            {
                "id": name,
                "created": one.created or None if one else None,
                "current": name == ring.current_id,
                "source": "file" if one else "environment",
                "passphrase": bool(one and one.kdf),
                "wraps": None if wraps is None else wraps.get(name, 0),
            }
        )
    return sorted(found, key=lambda one: (not one["current"], one["created"] or "", one["id"]))


def _line(one: dict[str, Any], ring: KeyRing) -> str:
    words = [
        "current" if one["current"] else "",
        f"made {one['created']}" if one["created"] else "",
        "protected by a passphrase" if one["passphrase"] else "",
        f"in {settings.KEY_VARIABLE if one['source'] == 'environment' else ring.path}",
        "" if one["wraps"] is None else f"wraps {_data_keys(one['wraps'])} here",
    ]
    return f"{one['id']}  {', '.join(filter(None, words))}"


def _data_keys(count: int) -> str:
    return f"{count} data key{'' if count == 1 else 's'}"


def _made(made: Added) -> str:
    return f"made key {made.id} in {made.path}: keep a copy (`notebook-agents key export FILE`)"


def _refuse_configured(ring: KeyRing) -> None:
    if ring.configured is not None:
        raise UsageError(
            f"{settings.KEY_VARIABLE} holds the current key {ring.configured}, and wraps all of "
            "this journal: import it (`notebook-agents key export - | notebook-agents key import "
            "-`), set the variable to another key, then rotate"
        )


def _older(ring: KeyRing) -> list[str]:
    return [name for name in ring.ids if name != ring.current_id]


def _rotated(done: Rotation, ring: KeyRing) -> list[str]:
    count = _data_keys(done.rewrapped)
    found = [f"{done.home}: {count} wrapped anew; all are under key {done.master} now"]
    if done.left:
        todo = "import it with `notebook-agents key import FILE`, and rotate again"
        left = ", ".join(f"{_data_keys(n)} of key {by}" for by, n in sorted(done.left.items()))
        anew = f"{done.home}: {count} wrapped anew with key {done.master}"
        found = [f"{anew}; left: {left}, which is not in the ring: {todo}"]
    if done.elsewhere:
        found.append(f"still under older keys: {', '.join(done.elsewhere)}")
    if older := _older(ring):
        found.append(
            f"the ring keeps {', '.join(older)} for other journals and backups: rotate those "
            f"(--journal DIR), then `notebook-agents key remove {older[0]}`"
        )
    return found


def _rotation_data(done: Rotation, ring: KeyRing, made: Added | None) -> dict[str, Any]:
    return {
        "journal": str(done.home),
        "key": done.master,
        "new": made is not None,
        "rewrapped": done.rewrapped,
        "left": done.left,
        "older": _older(ring),
        "elsewhere": list(done.elsewhere),
    }


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that was not there, for this user alone.

    Raises:
        UsageError: There is one already, or it cannot be written.
    """
    from notebook_agents.disk import fsync_directory

    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} is there already: name another file, or remove it") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be made ({error.strerror}): name another file") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fsync_directory(path.absolute().parent)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): name another file"
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): check the path") from None
