"""`notebook-agents doctor`: what it looks at, and the remedy."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from support.command_line import inside

from notebook_agents.cli.doctor import Check, Level, examine


def found(name: str, journal: str | None = None) -> Check:
    """Return one of the doctor's checks."""
    return next(check for check in examine(journal) if check.name == name)


def test_a_healthy_installation_needs_nothing(here: Path) -> None:
    """Without a journal and with one, all is well: exit 0, one line a check."""
    assert inside("doctor").exit_code == 0
    assert "the first run here makes" in found("journal").found
    assert not (here / ".notebook_agents").exists()
    inside("run", "agents.py:research", "--input", '{"n": 1}')
    done = inside("doctor")
    assert done.exit_code == 0
    assert all(line.startswith(("✓", "–", "!")) for line in done.stdout.splitlines())
    assert "1 thread, 0 unfinished" in found("journal").found
    assert found("seal").found == "the key here opens it"


def test_doctor_looks_into_duckdb_too(here: Path) -> None:
    """Damage of the history is found before somebody needs it."""
    from notebook_agents.journal import Journal

    inside("run", "agents.py:research", "--input", '{"n": 1}')
    with Journal.open() as journal:
        journal.ingest()
    assert found("history").level is Level.OK
    (here / ".notebook_agents" / "journal.1.duckdb").write_bytes(b"x" * 20_000)
    assert found("history").level is Level.BAD
    assert inside("doctor").exit_code == 1


def test_a_key_that_others_can_read_has_to_be_mended(here: Path, tmp_path: Path) -> None:
    """The remedy is a command; nothing is changed by looking."""
    inside("run", "agents.py:research", "--input", '{"n": 1}')
    key = tmp_path / "data" / "notebook_agents" / "keys.json"
    key.chmod(0o644)
    assert found("key").level is Level.BAD
    assert found("key").remedy.startswith(f"chmod 600 {key}")
    assert stat.S_IMODE(key.stat().st_mode) == 0o644
    assert inside("doctor").exit_code == 1


def test_a_journal_without_its_key_has_to_be_mended(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong key is found before a run fails over it."""
    inside("run", "agents.py:research", "--input", '{"n": 1}')
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", "ab" * 32)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(here))
    assert found("seal").level is Level.BAD


@pytest.mark.parametrize("name", ["Dropbox", "OneDrive - Company", "Mobile Documents"])
def test_a_synced_folder_is_warned_about(name: str, here: Path) -> None:
    """A sync client that copies half a transaction is no fault yet: a warning, exit 0."""
    home = here / name / "project"
    home.mkdir(parents=True)
    inside("run", "agents.py:research", "--input", '{"n": 1}', "--journal", str(home))
    assert found("synced folder", str(home)).level is Level.WARNING
    assert inside("doctor", "--journal", str(home)).exit_code == 0


def test_a_journal_that_was_named_and_is_not_there_has_to_be_mended(here: Path) -> None:
    """Who names a journal expects one."""
    assert found("journal", "nowhere").level is Level.BAD
    done = inside("doctor", "--journal", "nowhere", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["ok"] is False


def test_each_thing_that_can_be_wrong_with_the_files_has_its_remedy(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rights, marks, backups, the log on a network: one line each, with what to do."""
    from notebook_agents.journal import Journal, forks, unsynced
    from notebook_agents.journal.backup import backup

    home = here / ".notebook_agents"
    inside("run", "agents.py:research", "--input", '{"n": 1}')
    del sys.modules["agents"]  # another test's file has that name too
    assert found("permissions").level is Level.OK
    (home / "queue.lock").chmod(0o644)
    assert found("permissions").remedy == f"chmod 600 {home / 'queue.lock'}"
    (home / "queue.lock").chmod(0o600)
    (home / ".#notes").symlink_to("nowhere")  # as an editor leaves one
    assert found("permissions").level is Level.OK
    (home / ".#notes").unlink()

    assert found("backups").found.startswith("none")
    backup(home)
    assert found("backups").found.startswith("1 (")
    monkeypatch.setenv("NOTEBOOK_AGENTS_BACKUP_HOURS", "never")
    assert found("backups").level is Level.BAD
    monkeypatch.delenv("NOTEBOOK_AGENTS_BACKUP_HOURS")

    assert found("log").level is Level.OK
    monkeypatch.setenv("NOTEBOOK_AGENTS_ON_NETWORK", "1")
    assert found("log").level is Level.BAD
    assert found("file system").level is Level.WARNING
    monkeypatch.delenv("NOTEBOOK_AGENTS_ON_NETWORK")

    forks.close_all()  # what the command left open in this process
    with Journal.open(home, mode="exclusive"):
        pid = f"process {os.getpid()} ("
        assert found("in use").found.count(pid) >= 2
        unsynced.mark(home)
        assert "close every process" in found("sync").remedy
    with Journal.open(home):
        pass
    assert not any(check.name == "sync" for check in examine(None))
    others = {check.level for check in examine(None) if check.name != "key"}  # it is in /tmp
    assert others - {Level.ABSENT} == {Level.OK}


EPHEMERAL = [
    ("/home/jovyan", "tmpfs", "in memory"),
    ("/", "overlay", "goes with the container"),
    ("/home/jovyan/.local", "ext4", None),
    ("/home/jovyan", "nfs4", None),
]


@pytest.mark.parametrize(("point", "kind", "why"), EPHEMERAL)
def test_a_key_in_a_home_that_does_not_stay(
    point: str, kind: str, why: str | None, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says that the journals would outlive their key, and what to do."""
    from notebook_agents.cli import doctor_keys
    from notebook_agents.journal import queue_file

    monkeypatch.setattr(
        queue_file,
        "file_system",
        lambda path: kind if Path("/home/jovyan/.local").is_relative_to(point) else "ext4",
    )
    monkeypatch.setattr(doctor_keys, "_TEMPORARY", ())
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    monkeypatch.setattr(doctor_keys, "_CONTAINERS", ())
    inside("run", "agents.py:research", "--input", '{"n": 1}')
    check = found("key")
    if why is None:
        assert check.level is Level.OK
        assert not check.remedy
        return
    assert check.level is Level.WARNING
    assert why in check.found
    assert "key export" in check.remedy
    done = inside("doctor")
    assert done.exit_code == 0
    monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", "ab" * 32)
    assert found("key").level is Level.OK


def test_a_key_among_temporary_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in this test; a root file system that is a container's goes too, whatever its type."""
    from notebook_agents.cli import doctor_keys

    assert "none yet" in found("key").found
    assert "temporary files" in found("key").found
    monkeypatch.setattr(doctor_keys, "_TEMPORARY", ())
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    monkeypatch.setattr(doctor_keys, "_is_root", lambda _: True)
    monkeypatch.setattr(doctor_keys, "_CONTAINERS", (Path("/"),))
    assert "goes with the container" in found("key").found


def test_a_protected_key_is_looked_at_without_its_passphrase(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ring is fine; what the journal's newest thread needs is said."""
    from notebook_agents.sealing import editing, passphrase

    monkeypatch.setattr(passphrase, "COST", 2**14)
    inside("run", "agents.py:research", "--input", '{"n": 1}')
    editing.protect("correct horse battery")
    monkeypatch.setattr(passphrase, "_derived", {})
    assert "protected by a passphrase" in found("key").found
    assert "NOTEBOOK_AGENTS_PASSPHRASE" in found("seal").found


def test_the_server_extension(cli, tmp_path):
    """It is said by which file Jupyter Server finds the extension, or how it is enabled."""
    settings = tmp_path / "etc"
    env = {"JUPYTER_CONFIG_PATH": str(settings), "JUPYTER_PREFER_ENV_PATH": "0"}
    file = settings / "jupyter_server_config.d" / "notebook_agents.json"
    out = cli("doctor", **env).out
    assert str(file) not in out
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert f"enabled by {file}" in cli("doctor", **env).out
