"""`journal repair`: a ladder from what costs nothing to what is left when nothing else is.

1. A repair that was killed is finished.
2. Small files that can be made from the others are made again.
3. What is damaged is put aside, untouched, as `*.damaged-<time>`; what can be read of it, record by
   record, makes new files. A record that is nowhere in it comes from the newest backup.
4. Where nothing can be read and there is no backup, an empty journal is made.

New files are built beside the old ones. What is to be renamed then stands in `repair.json` before
the first rename: a repair that is killed leaves either the old files, or a list to go on with.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from notebook_agents.disk import fsync_directory, write_whole
from notebook_agents.journal import check as checking
from notebook_agents.journal import damage, keycopy, mark, presence, rebuild
from notebook_agents.journal.backup import backups
from notebook_agents.journal.failures import writing
from notebook_agents.journal.inspection import Finding, Severity, worst
from notebook_agents.journal.integrity import QUEUE, REPAIR
from notebook_agents.journal.remains import SALVAGE
from notebook_agents.journal.survey import Beyond, Lost, Survey, lost_findings, survey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Rung:
    """One thing that a repair does.

    Attributes:
        name: What it is called: finish, refresh, rebuild, backup, anew.
        will: What it will do.
        did: What came of it; "" before, and in a dry run.
    """

    name: str
    will: str
    did: str = ""


@dataclass(slots=True, kw_only=True)
class Repaired:
    """What a repair did, or would do.

    Attributes:
        home: The journal's directory.
        findings: What is wrong.
        rungs: What it does about it, in order.
        lost: The records that are nowhere, with what is known of them.
        unnamed: Of threads whose heads counted more records than came back, or are named in `lost`:
            how many more.
        beyond: What may be lost behind the newest number that is known; None where nothing can be.
        records: How many records the journal has afterwards.
        threads: How many threads.
        aside: The files that were put aside.
        dry: Whether nothing was changed.
        sound: Whether the journal opens afterwards, and everything in it was looked at.
    """

    home: Path
    findings: list[Finding] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    unnamed: dict[str, int] = field(default_factory=dict)
    beyond: Beyond | None = None
    records: int = 0
    threads: int = 0
    aside: list[str] = field(default_factory=list)
    dry: bool = False
    sound: bool = True

    @property
    def severity(self) -> Severity | None:
        """How bad it was; None where nothing was wrong."""
        return worst(self.findings)

    @property
    def complete(self) -> bool:
        """Whether nothing is lost, nor may be."""
        lost = self.lost or self.unnamed or self.beyond
        return not lost and self.severity is not Severity.CATASTROPHIC


def repair(
    home: Path,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[Rung], None] | None = None,
) -> Repaired:
    """Bring back what can be brought back of a journal.

    Args:
        home: Its directory.
        dry_run: Whether only to say what would be done.
        progress: Is told how many records were looked at, and of how many.
        say: Is given each rung before it begins.

    Raises:
        NoJournalError: There is none.
        JournalFormatError: It is one of a newer version.
        JournalBusyError: Another process uses it.
        JournalWriteError: The disk is full or fails, or a file may not be read; what was there is
            there, and the next repair begins again.
    """
    result = Repaired(home=home, dry=dry_run)
    tell = say or (lambda _: None)
    if (home / REPAIR).exists():
        _finish(result, tell)
        if dry_run and result.rungs:
            return result
    while True:
        seen = _identity(home)
        checked = checking.check(home, progress)
        result.records, result.threads = checked.records, checked.threads
        if checked.sound:
            result.findings += checked.findings
            if any(_refreshes(one) for one in checked.findings):
                _refresh(result, tell)
            return result
        with writing(home), presence.alone(home, to="repair it"):
            if _identity(home) == seen:  # else another process repaired it meanwhile
                result.findings += checked.findings
                _mend(result, tell, progress)
                break
    if not dry_run:
        after = checking.check(home, progress)
        result.records, result.threads = after.records, after.threads
        result.sound = after.sound
        if not after.sound:
            result.findings += after.findings
    return result


def _identity(home: Path) -> int | None:
    """Return what tells one queue from that which another repair put into its place."""
    path = home / QUEUE
    return path.stat().st_ino if path.exists() else None


# -- small files ---------------------------------------------------------------------------------


def _refreshes(finding: Finding) -> bool:
    return finding.what.startswith((keycopy.FILE, mark.FILE))


def _refresh(result: Repaired, tell: Callable[[Rung], None]) -> None:
    rung = Rung(name="refresh", will=f"write {keycopy.FILE} and {mark.FILE} again")
    result.rungs.append(rung)
    tell(rung)
    if result.dry:
        return
    from notebook_agents.journal.store import Journal

    with Journal.open(result.home, create=False, scheduled=False) as journal:
        keycopy.renew(result.home, journal.id, journal.queue.keys)
        with journal.burst():
            pass  # compares the heads, after which the end may say how the queue was left
        journal.flush()
    rung.did = "nothing of the history was affected"


# -- rebuilding ----------------------------------------------------------------------------------


def _mend(
    result: Repaired,
    tell: Callable[[Rung], None],
    progress: Callable[[int, int], None] | None,
) -> None:
    with _survey(result.home, progress) as found:
        usable = found.journal_id is not None and bool(len(found.inspection.whole))
        readable = usable and bool(found.keys.wrapped)
        result.lost, result.unnamed, result.beyond = found.lost, found.unnamed, found.beyond
        result.findings += lost_findings(found.lost, found.unnamed, found.beyond)
        if not readable:
            what = "nothing can be read any more"
            result.findings.append(Finding(severity=Severity.CATASTROPHIC, what=what))
        plan = rebuild.plan(found, anew=not usable, stamp=_stamp())
        rung = Rung(name="anew" if plan.anew else "rebuild", will=plan.words())
        result.rungs.append(rung)
        tell(rung)
        if found.backup is not None:
            brought = damage.counted(found.brought, "record")
            will = f"take from {found.backup.path} what is nowhere else: {brought}"
            result.rungs.append(Rung(name="backup", will=will))
            tell(result.rungs[-1])
        if result.dry:
            return
        for left in result.home.glob(f"{SALVAGE}*"):  # of one that was killed
            if left != found.archive.folder:
                shutil.rmtree(left)
        _write_marker(result.home, {"v": 1, "phase": "building", "built": plan.built})
        rebuild.build(found, plan)
        result.records = len(found.inspection.whole)
        result.threads = sum(not one.deleted for one in found.inspection.implied.values())
    result.aside = plan.aside
    lost = {
        "lost": [[one.seq, one.thread, one.kind] for one in result.lost],
        "unnamed": result.unnamed,
        "beyond": None if result.beyond is None else asdict(result.beyond),
    }
    moves = {"moves": plan.moves, "removes": plan.removes}
    _write_marker(result.home, {"v": 1, "phase": "switching", **moves, **lost})
    _switch(result.home, plan.moves, plan.removes)
    rung.did = _did(found, plan)
    if found.backup is not None:
        brought = damage.counted(found.brought, "record")
        result.rungs[-1].did = f"{brought} came from {found.backup.path}"


def _did(found: Survey, plan: rebuild.Plan) -> str:
    if plan.anew:
        return "an empty journal is there"
    count = len(found.inspection.whole)
    threads = sum(not one.deleted for one in found.inspection.implied.values())
    back = f"{damage.counted(count, 'record')} of {damage.counted(threads, 'thread')} came back"
    return f"{back}, {len(found.lost)} did not"


def _stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime())


def _write_marker(home: Path, content: dict[str, Any]) -> None:
    write_whole(home / REPAIR, json.dumps(content).encode())


def _read_marker(home: Path) -> dict[str, Any] | None:
    """Return what an unfinished repair wrote down; None where it is gone.

    A marker that is damaged, or leads out of the directory, is one of a repair that has renamed and
    built nothing.
    """
    try:
        marker = json.loads((home / REPAIR).read_bytes())
        if marker["phase"] == "switching":
            names = [*(name for pair in marker["moves"] for name in pair), *marker["removes"]]
        else:
            names = marker["built"]
        if all(PurePath(name).name == name not in ("", "..") for name in names):
            return dict(marker)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    return {"phase": "building", "built": []}


def _switch(home: Path, moves: list[tuple[str, str]], removes: list[str]) -> None:
    """Rename, as often as a kill makes it necessary: what was done is not done again."""
    away = [pair for pair in moves if ".damaged-" in pair[1]]
    for some in (away, moves[len(away) :]):
        for before, after in some:
            if (home / before).exists() and not (home / after).exists():
                (home / before).rename(home / after)
        fsync_directory(home)  # else a new name could be on disk first, and an old file be nowhere
    for name in removes:
        (home / name).unlink(missing_ok=True)
    fsync_directory(home)
    (home / REPAIR).unlink()
    fsync_directory(home)


def _finish(result: Repaired, tell: Callable[[Rung], None]) -> None:
    """Go on with a repair that was killed."""
    rung = Rung(name="finish", will="end the repair that was stopped half way")
    result.rungs.append(rung)
    tell(rung)
    if result.dry:
        return
    with writing(result.home), presence.alone(result.home, to="repair it"):
        marker = _read_marker(result.home)
        if marker is None:
            return  # another process was faster
        if marker["phase"] == "switching":
            _switch(result.home, [(a, b) for a, b in marker["moves"]], marker["removes"])
            rung.did = "its new files are in their places"
            _recall(result, marker)
        else:
            for name in marker["built"]:
                (result.home / name).unlink(missing_ok=True)
            (result.home / REPAIR).unlink()
            fsync_directory(result.home)
            rung.did = "what it had built was taken away; it begins again"


def _recall(result: Repaired, marker: dict[str, Any]) -> None:
    """Say what the repair that was killed would have said."""
    lost = ((seq, thread, kind) for seq, thread, kind in marker.get("lost", ()))
    result.lost = [Lost(seq=seq, thread=thread, kind=kind) for seq, thread, kind in lost]
    result.unnamed = marker.get("unnamed", {})
    if (beyond := marker.get("beyond")) is not None:
        result.beyond = Beyond(**{**beyond, "driven": tuple(beyond["driven"])})
    result.aside = [after for _, after in marker["moves"] if ".damaged-" in after]
    result.findings += lost_findings(result.lost, result.unnamed, result.beyond)


# -- backups -------------------------------------------------------------------------------------


def _survey(home: Path, progress: Callable[[int, int], None] | None) -> Survey:
    """Read what is left, with what the newest backup of this history has where that is not all."""
    found = survey(home, progress)
    nothing = not found.lost and not found.unnamed and found.beyond is None
    if len(found.inspection.whole) and nothing:
        return found
    for backup in reversed(backups(home)):
        if found.journal_id in (None, backup.journal):
            fuller = survey(home, progress, backup, given=found.expected)
            if fuller.one_history and len(fuller.inspection.whole) > len(found.inspection.whole):
                fuller.brought = len(fuller.inspection.whole) - len(found.inspection.whole)
                found.archive.close()
                return fuller
            fuller.close()
    return found
