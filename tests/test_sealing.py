"""What sealing promises: nothing opens that was not sealed with the user's key, for that record."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_agents import errors
from notebook_agents.sealing import DataKey, MasterKey, keys, load_ring, wrapped_by

RAW = bytes(range(32))
OTHER = bytes(range(1, 33))
ROOT = Path(errors.__file__).parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Give every test a data directory of its own and no key in the environment."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.delenv("NOTEBOOK_AGENTS_KEY", raising=False)
    return tmp_path / "jupyter" / "notebook_agents"


def write_ring(path: Path, *raws: bytes, mode: int = 0o600, **changes: object) -> None:
    """Write a ring file as the format says, its first key the current one."""
    entries = [
        {
            "id": MasterKey(raw).id,
            "created": "2026-01-01T00:00:00+00:00",
            "kdf": None,
            "key": base64.b64encode(raw).decode(),
        }
        for raw in raws
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"v": 1, "current": entries[0]["id"], "keys": entries} | changes))
    path.chmod(mode)


class TestEnvelope:
    @given(plain=st.binary(max_size=2000), aad=st.binary(max_size=100))
    def test_round_trip(self, plain, aad):
        """What was sealed opens, for every payload and every associated data."""
        key = DataKey(RAW)
        sealed = key.seal(plain, aad)
        assert DataKey(RAW).open(sealed, aad) == plain
        assert len(sealed) == len(plain) + 29

    def test_same_plain_looks_different(self):
        """Two envelopes of the same payload have nothing in common but their format byte."""
        key = DataKey(RAW)
        first, second = key.seal(b"payload", b""), key.seal(b"payload", b"")
        assert first[0] == second[0] == 1
        assert first[1:13] != second[1:13]
        assert first[13:] != second[13:]

    def test_every_flipped_bit_is_refused(self):
        """One changed bit anywhere in an envelope and it does not open."""
        key = DataKey(RAW)
        sealed = key.seal(b"42 steps", b"journal/thread/7")
        for bit in range(len(sealed) * 8):
            altered = bytearray(sealed)
            altered[bit // 8] ^= 1 << bit % 8
            with pytest.raises(errors.SealError):
                key.open(bytes(altered), b"journal/thread/7")

    def test_every_truncation_is_refused(self):
        """An envelope that lost its end does not open, however much is left of it."""
        key = DataKey(RAW)
        sealed = key.seal(b"42 steps", b"a")
        for length in range(len(sealed)):
            with pytest.raises(errors.SealError):
                key.open(sealed[:length], b"a")

    def test_other_record_is_refused(self):
        """An envelope does not open as another record than the one it was sealed for."""
        key = DataKey(RAW)
        sealed = key.seal(b"x", b"journal/thread/7")
        with pytest.raises(errors.SealError, match="altered, moved, or sealed with another key"):
            key.open(sealed, b"journal/thread/8")

    def test_other_key_is_refused(self):
        """An envelope does not open with another scope's key."""
        with pytest.raises(errors.SealError, match="another key"):
            DataKey(OTHER).open(DataKey(RAW).seal(b"x", b"a"), b"a")

    @pytest.mark.parametrize("payload", [b"", pickle.dumps({"a": 1}), b"\x02" + b"0" * 60])
    def test_unsealed_is_refused(self, payload):
        """Bytes that are no envelope, or one of another format, are never returned."""
        with pytest.raises(errors.SealError, match="not sealed"):
            DataKey(RAW).open(payload, b"")

    def test_digest_is_keyed(self):
        """Equal data has equal digests within a scope and unrelated ones in another."""
        digest = DataKey(RAW).digest(b"chunk")
        assert len(digest) == 16
        assert DataKey(RAW).digest(b"chunk") == digest
        assert DataKey(RAW).digest(b"chunk2") != digest
        assert DataKey(OTHER).digest(b"chunk") != digest

    def test_digest_survives_rotation(self):
        """A data key that was wrapped again with another master key names its chunks as before."""
        first, second = MasterKey(RAW), MasterKey(OTHER)
        data_key = os.urandom(32)
        rotated = second.wrap(first.unwrap(first.wrap(data_key, b"c"), b"c"), b"c")
        assert DataKey(second.unwrap(rotated, b"c")).digest(b"x") == DataKey(data_key).digest(b"x")

    @pytest.mark.parametrize("make", [DataKey, MasterKey])
    def test_key_length(self, make):
        """A key of another length than 32 bytes is refused, without being shown."""
        with pytest.raises(ValueError, match="32 bytes, not 6") as caught:
            make(b"secret")
        assert "secret" not in str(caught.value)


class TestMasterKey:
    @given(data_key=st.binary(min_size=32, max_size=32), context=st.binary(max_size=60))
    def test_round_trip(self, data_key, context):
        """A wrapped data key unwraps with the same master key and context."""
        wrapped = MasterKey(RAW).wrap(data_key, context)
        assert MasterKey(RAW).unwrap(wrapped, context) == data_key

    def test_wrapped_describes_itself(self):
        """A wrapped key is JSON that names its algorithm and master key, readable unopened."""
        key = MasterKey(RAW)
        wrapped = key.wrap(OTHER, b"c")
        parsed = json.loads(wrapped)
        assert (parsed["v"], parsed["alg"], parsed["master"]) == (1, "A256GCM", key.id)
        assert sorted(parsed) == ["alg", "key", "master", "nonce", "v"]
        assert wrapped_by(wrapped) == key.id

    def test_id_is_no_part_of_the_key(self):
        """The id is eight hex characters, the same everywhere, and no part of the key."""
        assert MasterKey(RAW).id == MasterKey(RAW).id != MasterKey(OTHER).id
        assert len(MasterKey(RAW).id) == 8
        assert bytes.fromhex(MasterKey(RAW).id) not in RAW

    def test_wrong_master_key_names_the_right_one(self):
        """Unwrapping with another master key says which one is needed."""
        wrapped = MasterKey(RAW).wrap(OTHER, b"c")
        with pytest.raises(errors.KeyMissingError, match=MasterKey(RAW).id):
            MasterKey(OTHER).unwrap(wrapped, b"c")

    def test_other_context_is_refused(self):
        """A wrapped key that was moved to another journal or scope does not open."""
        key = MasterKey(RAW)
        with pytest.raises(errors.SealError, match="another journal or scope"):
            key.unwrap(key.wrap(OTHER, b"journal 1"), b"journal 2")

    def test_renamed_master_is_refused(self):
        """A wrapped key that claims another master key than its own does not open with that one."""
        forged = json.loads(MasterKey(RAW).wrap(OTHER, b"c")) | {"master": MasterKey(OTHER).id}
        with pytest.raises(errors.SealError, match="altered"):
            MasterKey(OTHER).unwrap(json.dumps(forged).encode(), b"c")

    @pytest.mark.parametrize(
        "change", [{"nonce": "AAAA"}, {"key": "é"}, {"nonce": 7}, {"key": None}, {"alg": "none"}]
    )
    def test_damaged_wrapped_key(self, change):
        """A wrapped key with a damaged field is refused as such, not with an accident."""
        key = MasterKey(RAW)
        damaged = json.dumps(json.loads(key.wrap(OTHER, b"c")) | change).encode()
        with pytest.raises(errors.SealError):
            key.unwrap(damaged, b"c")

    @pytest.mark.parametrize("blob", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b'"v"'])
    def test_no_wrapped_key(self, blob):
        """Bytes that are no wrapped key are refused as damaged."""
        with pytest.raises(errors.SealError, match="damaged"):
            wrapped_by(blob)

    def test_newer_wrapped_key(self):
        """A wrapped key of a newer version says that the package is too old for it."""
        with pytest.raises(errors.JournalFormatError, match="newer version"):
            wrapped_by(b'{"v": 2, "master": {"kms": "x"}}')


class TestRing:
    def test_first_use_makes_a_key(self, home):
        """The first use makes a ring file and says where; the second one finds the same key."""
        first = load_ring()
        assert first.created_at == home / "keys.json"
        again = load_ring()
        assert again.created_at is None
        assert again.current.id == first.current.id == first.ids[0]
        assert [path.name for path in home.iterdir()] == ["keys.json"]

    def test_permissions(self, home):
        """The ring file is for its owner alone, and so is its folder."""
        load_ring()
        assert stat.S_IMODE((home / "keys.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(home.stat().st_mode) == 0o700

    def test_file_format(self, home):
        """The ring file has room for several keys and for a passphrase's parameters."""
        ring = load_ring()
        written = json.loads((home / "keys.json").read_text())
        assert written["v"] == 1
        assert written["current"] == ring.current.id
        (entry,) = written["keys"]
        assert sorted(entry) == ["created", "id", "kdf", "key"]
        assert entry["kdf"] is None
        assert MasterKey(base64.b64decode(entry["key"])).id == ring.current.id

    def test_eight_processes_at_once(self, home):
        """Processes that use a journal for the first time at the same moment get one key."""
        code = (
            "import sys\nfrom notebook_agents.sealing import load_ring\n"
            "print('ready', flush=True)\nsys.stdin.readline()\n"
            "ring = load_ring()\nprint(ring.current.id, ring.created_at is not None)\n"
        )
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
            )
            for _ in range(8)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=60)[0].split() for process in processes]
        assert len({key for key, _ in answers}) == 1
        assert [made for _, made in answers].count("True") == 1
        assert [path.name for path in home.iterdir()] == ["keys.json"]

    def test_lost_race_takes_the_winners_key(self, home, monkeypatch):
        """A process that finds the name taken at the last moment uses the key that is there."""
        link = os.link

        def slow_link(source, target):
            write_ring(home / "keys.json", RAW)
            link(source, target)

        monkeypatch.setattr(os, "link", slow_link)
        ring = load_ring()
        assert ring.created_at is None
        assert ring.current.id == MasterKey(RAW).id
        assert [path.name for path in home.iterdir()] == ["keys.json"]

    def test_no_key_and_none_made(self, home):
        """Reading never makes a key: without one it says where it looked."""
        with pytest.raises(errors.KeyMissingError, match=r"keys\.json and NOTEBOOK_AGENTS_KEY"):
            load_ring(create=False)
        assert not home.exists()

    def test_missing_key_says_what_to_do(self, home):
        """A journal of another key names that key, the ring's keys, the place and the remedy."""
        write_ring(home / "keys.json", RAW)
        with pytest.raises(errors.KeyMissingError) as caught:
            load_ring().get("0badf00d")
        message = str(caught.value)
        for part in ("0badf00d", MasterKey(RAW).id, str(home / "keys.json"), "NOTEBOOK_AGENTS_KEY"):
            assert part in message

    def test_older_keys_still_open(self, home):
        """A ring with several keys wraps with the current one and opens with all."""
        write_ring(home / "keys.json", RAW, OTHER)
        ring = load_ring()
        assert ring.current.id == MasterKey(RAW).id
        wrapped = MasterKey(OTHER).wrap(b"k" * 32, b"c")
        assert ring.get(wrapped_by(wrapped)).unwrap(wrapped, b"c") == b"k" * 32

    @pytest.mark.parametrize(
        "text",
        [
            OTHER.hex(),
            OTHER.hex().upper(),
            base64.b64encode(OTHER).decode(),
            base64.b64encode(OTHER).decode().rstrip("="),
            base64.urlsafe_b64encode(OTHER).decode() + "\n",
        ],
    )
    def test_environment_wins(self, home, monkeypatch, text):
        """NOTEBOOK_AGENTS_KEY, as hex or base64, is current; the file's keys still open."""
        write_ring(home / "keys.json", RAW)
        monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", text)
        ring = load_ring()
        assert ring.current.id == MasterKey(OTHER).id
        assert ring.get(MasterKey(RAW).id).id == MasterKey(RAW).id

    def test_base64_of_every_character(self, monkeypatch):
        """Both alphabets of base64 are understood: `+/` and `-_`."""
        raw = b"\xfb\xef\xbe\xff" * 8
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", encode(raw).decode())
            assert load_ring().current.id == MasterKey(raw).id

    def test_environment_makes_no_file(self, home, monkeypatch):
        """With a key in the environment nothing is written."""
        monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", OTHER.hex())
        assert load_ring().created_at is None
        assert not home.exists()

    @pytest.mark.parametrize(
        "text", ["", "hunter2-hunter2", "ab" * 31, "é" * 43, "A" * 42, "A" * 45]
    )
    def test_bad_environment(self, monkeypatch, text):
        """A value that is no key is refused unseen, and no other key is used instead."""
        monkeypatch.setenv("NOTEBOOK_AGENTS_KEY", text)
        with pytest.raises(errors.UsageError, match="32 bytes") as caught:
            load_ring()
        assert not text or text not in str(caught.value)

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", '{"v": 1}', '{"v": 1, "current": "x", "keys": []}']
    )
    def test_damaged_file(self, home, content):
        """A damaged ring file is said to be one, and is left as it is."""
        write_ring(home / "keys.json", RAW)
        (home / "keys.json").write_text(content)
        with pytest.raises(errors.KeyMissingError, match="damaged"):
            load_ring()
        assert (home / "keys.json").read_text() == content

    def test_altered_key_in_file(self, home):
        """A key that is not the one its id names is refused."""
        entry = {"id": MasterKey(RAW).id, "kdf": None, "key": base64.b64encode(OTHER).decode()}
        write_ring(home / "keys.json", RAW, keys=[entry])
        with pytest.raises(errors.KeyMissingError, match="damaged"):
            load_ring()

    def test_newer_file(self, home):
        """A ring file of a newer version is refused with a sentence that says so."""
        write_ring(home / "keys.json", RAW, v=2)
        with pytest.raises(errors.JournalFormatError, match="newer version"):
            load_ring()

    def test_passphrase_of_a_newer_version(self, home):
        """A current key that needs a passphrase is refused as such; an older one does no harm."""
        locked = {"id": "0badf00d", "kdf": {"name": "scrypt"}, "key": "AAAA"}
        plain = {"id": MasterKey(RAW).id, "kdf": None, "key": base64.b64encode(RAW).decode()}
        write_ring(home / "keys.json", RAW, keys=[locked, plain], current="0badf00d")
        with pytest.raises(errors.JournalFormatError, match="passphrase"):
            load_ring()
        write_ring(home / "keys.json", RAW, keys=[locked, plain])
        assert load_ring().ids == (MasterKey(RAW).id,)

    def test_readable_by_others_is_repaired(self, home, caplog):
        """A ring file that others could read is closed to them, and a warning says so."""
        write_ring(home / "keys.json", RAW, mode=0o644)
        with caplog.at_level(logging.WARNING, "notebook_agents.sealing"):
            assert load_ring().current.id == MasterKey(RAW).id
        assert stat.S_IMODE((home / "keys.json").stat().st_mode) == 0o600
        assert "could be read by others" in caplog.text

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
    def test_writable_by_others_is_refused(self, home, mode):
        """A ring file that others could have written is not trusted."""
        write_ring(home / "keys.json", RAW, mode=mode)
        with pytest.raises(errors.KeyMissingError, match="may not be yours"):
            load_ring()

    def test_other_owner_is_refused(self, home, monkeypatch):
        """A ring file of another user is not trusted."""
        write_ring(home / "keys.json", RAW)
        if os.geteuid() == 0:
            os.chown(home / "keys.json", 4242, -1)
        owner = (home / "keys.json").stat().st_uid
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        with pytest.raises(errors.KeyMissingError, match="may not be yours"):
            load_ring()

    def test_folder_that_cannot_be_made(self, tmp_path, monkeypatch):
        """Where no ring file can be made, the error names the place and the way around."""
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "file"))
        with pytest.raises(
            errors.KeyMissingError, match=r"cannot be made at .*NOTEBOOK_AGENTS_KEY"
        ):
            load_ring()

    def test_file_that_cannot_be_read(self, home):
        """A ring file that cannot be read is named; nothing is made in its place."""
        (home / "keys.json").mkdir(parents=True)
        with pytest.raises(errors.KeyMissingError, match="cannot be read"):
            load_ring()


class TestNothingShowsAKey:
    def forms(self, raw: bytes) -> list[str]:
        """Return every spelling of a key that a text could hold."""
        return [repr(raw)[2:-1], raw.hex(), base64.b64encode(raw).decode().rstrip("=")]

    def test_repr(self, home):
        """No key, ring or wrapped key shows key bytes."""
        write_ring(home / "keys.json", RAW)
        ring = load_ring()
        shown = f"{ring!r} {ring} {ring.current!r} {DataKey(RAW)!r} {MasterKey(RAW)}"
        shown += ring.current.wrap(RAW, b"c").decode()
        assert not any(form in shown for form in self.forms(RAW))
        assert ring.current.id in repr(ring)

    def test_errors(self, home, monkeypatch):
        """No error of a broken ring file carries the file's text, not even as its context."""
        write_ring(home / "keys.json", RAW)
        (home / "keys.json").write_text((home / "keys.json").read_text()[:-3])
        with pytest.raises(errors.KeyMissingError) as caught:
            load_ring()
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert not any(form in str(caught.value) for form in self.forms(RAW))

    @pytest.mark.parametrize("make", [DataKey, MasterKey])
    def test_pickle(self, make):
        """A key is never pickled, so it cannot get into a journal by accident."""
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(make(RAW))


def test_keys_of_released_journals_still_open():
    """Ids, wrapped keys, envelopes and digests stay readable as format 1 wrote them."""
    wrapped = (
        b'{"v":1,"alg":"A256GCM","master":"b614c37b","nonce":"ZJYvkY1h3dfFC/DS",'
        b'"key":"KeYbOY9XSCCtbGY6ZbNepZchh+NFw7OuckC8Xs3h9qhWZFxi5bTGoAylcCCSGywc"}'
    )
    data_key = DataKey(MasterKey(RAW).unwrap(wrapped, b"journal/scope"))
    assert (
        data_key.open(
            bytes.fromhex("01144bb20fe053d7445bfbafc8e0834e8df366e3be8a54411f689e71261201dceedc"),
            b"record 1",
        )
        == b"plain"
    )
    assert data_key.digest(b"plain").hex() == "95da3a103913a17803b1b653f9522f79"


def test_import_is_light():
    """Sealing loads nothing of the layers above it."""
    code = "import sys, notebook_agents.sealing; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"duckdb", "sqlite3", "langgraph", "dill", "cloudpickle", "IPython"}
    assert heavy.isdisjoint(loaded)
    assert keys.__name__ in loaded
