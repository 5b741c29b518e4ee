"""Check a receipt that `notebook-agents audit` wrote. It needs Python 3.9 and nothing of that.

    python verify_receipt.py RECEIPT --key PUBLIC.pem [--extends EARLIER] [--keys] [--twice]

Python alone checks hashes and counts; `cryptography` or, without it, OpenSSL 3 the signature. Ends
with 0 only if all is right; 1: it is not; 2: wrong usage; 3: nothing here can check the signature.
"""
# ruff: noqa: T201, S603 - a program that stands alone: it prints, and runs `openssl`

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _check(right: Any, what: str) -> None:
    if not right:
        raise ValueError(what)


def _lines(path: str) -> Any:
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            value = json.loads(line)
            _check(_canonical(value) + b"\n" == line, f"line {number} is not as it was written")
            yield value, line[:-1]


def _verify(path: str, key: str, note: Any, before: Any = None) -> Any:
    """Return header, entries, last hash, and whether the signature is right (None: unknown)."""
    rows = _lines(path)
    start: Any = next(rows, (None, b""))
    header, first = start
    _check(header and header["kind"] == "header" and header["of"]["v"] == 1, "it is no receipt")
    _check(not before or header["of"] == before[0]["of"], "it is about something else than EARLIER")
    n, last, counts = 0, _sha256(_canonical(header["of"])), Counter[str]()
    footer: Any = None
    for entry, line in rows:
        _check(not footer, "something stands behind its footer")
        if entry["kind"] == "footer":
            footer = entry
            continue
        n += 1
        _check((entry["n"], entry["prev"]) == (n, last), f"entry {n} does not follow the last one")
        last = _sha256(line)
        counts[entry["kind"]] += 1
        _check(not before or n != before[1] or last == before[2], "EARLIER tells another past")
        note(entry)
    _check(footer, "its end is missing")
    _check(not before or n >= before[1], "it is shorter than EARLIER")
    told = [footer[name] for name in ("header", "entries", "last", "counts")]
    _check(told == [_sha256(first), n, last, dict(counts)], "its footer does not fit it")
    proof = base64.b64decode(footer.pop("signature"), validate=True)
    right = _signed(b"notebook-agents receipt 1\n" + _canonical(footer), proof, key)
    _check(right is not False, f"this key did not sign it (it says that {footer['key']} did)")
    return header, n, last, right


def _signed(message: bytes, proof: bytes, key: str) -> bool | None:
    public: Any = Path(key).read_bytes()
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        with tempfile.TemporaryDirectory() as folder:
            command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin"]
            for option, content in (("-in", message), ("-sigfile", proof)):
                command += [option, str(Path(folder, option))]
                Path(folder, option).write_bytes(content)
            done = shutil.which("openssl") and subprocess.run(command, capture_output=True)
        refused = done and b"Verification Failure" in done.stdout + done.stderr
        return False if refused else True if done and done.returncode == 0 else None
    try:
        public = load_pem_public_key(public)
        public.verify(proof, message)
    except InvalidSignature:
        return False
    return True


class _Key:
    """What was done under one idempotency key; of each attempt its end, a doubt, what was said."""

    def __init__(self, entry: Any) -> None:
        self.id, self.name, self.what = entry["key"], entry["name"], entry["what"]
        self.attempts: dict[int, dict[str, str]] = {}

    def take(self, entry: Any) -> None:
        attempt = self.attempts.setdefault(entry["attempt"], {"end": "no end"})
        if entry["kind"] == "doubt":
            attempt["doubt"] = entry["why"]
        elif entry["kind"] in ("result", "late", "failure", "question"):
            attempt["end"] = " ".join([entry["kind"], *filter(None, [entry.get("proves")])])
        elif entry.get("said") in ("did", "did_not"):
            by = f"{entry['how']} ({entry['user']} on {entry['host']}, {entry['at']})"
            attempt.update(said=entry["said"], settled=f"by {by}: {entry['said']}")

    def times(self) -> tuple[int, int]:
        """Return how often it happened at least and at most, as far as what was said is true."""
        found, sure = self.attempts.values(), ("result", "late")
        did = sum(a["end"] in sure or a.get("said") == "did" for a in found)
        known = [a for a in found if "said" in a or a["end"] in (*sure, "failure nothing_happened")]
        return did, did + len(found) - len(known)

    def __str__(self) -> str:
        ends = Counter(attempt["end"] for attempt in self.attempts.values())
        text = f"{self.name} ({self.what} {self.id}): begun {len(self.attempts)}"
        text += "".join(f", {many} {end}" for end, many in ends.items())
        for number, a in self.attempts.items():
            found = a["end"] == "result" and "by its reconcile function: did"
            again = number < max(self.attempts) and "by nobody: begun again"
            settled = a.get("settled") or found or again or "by nobody yet"
            if "doubt" in a:
                text += f", attempt {number} in doubt ({a['doubt']}), resolved {settled}"
        return text


def _effects(keys: Any, what: str) -> str:
    least, most = Counter[str](), Counter[str]()
    for key in keys:
        if key.what == what:
            least[key.name] += key.times()[0]
            most[key.name] += key.times()[1]
    return ", ".join(f"{name} {_range(least[name], most[name])}" for name in most) or "none"


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _paragraph(header: Any, n: int, keys: Any, copied: Any, *, every: bool) -> str:
    of, (low, high) = header["of"], header["records"]
    text = (
        f"Receipt of thread {of['thread']}, {'run ' + str(of['run']) if of['run'] else 'all runs'}"
    )
    text += f", journal {of['journal']}, records {low} to {high}, {header['written']}: {n} entries,"
    text += f" thread {header['status']}."
    text += f" Effects of durable calls: {_effects(keys, 'call')}; of nodes outside of calls: "
    text += f"{_effects(keys, 'node')}; of notebook cells: {_effects(keys, 'cell')}."
    once = {key for key in keys if [*key.attempts.values()] == [{"end": "result"}]}
    text += f" {len(once)} of {len(keys)} keys were begun once and returned."
    text += "".join(f" {key}." for key in keys if every or key not in once)
    for thread in filter(None, copied):
        text += f" {copied[thread]} entries were copied from thread {thread}, which did them."
    for name, said in {
        "forks": "it was forked as",
        "deleted": "gone with a thread of this name:",
        "hidden": "pruned records (none of a step):",
        "lost": "records that a repair could not bring back:",
    }.items():
        text += f" Also: {said} {header[name]}." if header[name] else ""
    return text


def main() -> int:
    """Check what the command line names."""
    parser = argparse.ArgumentParser(description="Check a receipt of notebook-agents.")
    parser.add_argument("receipt")
    parser.add_argument("--key", required=True, help="the public key of whoever wrote it, PEM")
    parser.add_argument("--extends", metavar="EARLIER", help="a receipt that it has to go on from")
    parser.add_argument("--keys", action="store_true", help="tell of every key")
    parser.add_argument("--twice", action="store_true", help="list what may have happened twice")
    given, keys, copied = parser.parse_args(), dict[str, _Key](), Counter[str]()

    def note(entry: Any) -> None:
        copied[entry.get("from", "")] += 1
        if entry["kind"] == "intent" and entry["key"] not in keys:
            keys[entry["key"]] = _Key(entry)
        if "key" in entry:
            keys[entry["key"]].take(entry)

    def shown(text: object) -> str:  # without what a terminal would obey
        return "".join(one if one.isprintable() else "?" for one in str(text))

    try:
        earlier = given.extends
        before = None if earlier is None else _verify(earlier, given.key, lambda _: None)
        header, n, _, right = _verify(given.receipt, given.key, note, before)
        text = _paragraph(header, n, list(keys.values()), copied, every=given.keys)
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        print(f"REFUSED: {shown(error) or type(error).__name__}", file=sys.stderr)
        return 1
    twice = [key for key in keys.values() if key.times()[1] > 1]
    checked = "the signature is right" if right else "the SIGNATURE CANNOT BE CHECKED HERE"
    print(
        shown(text), f"More than one effect is possible of {len(twice)} keys (--twice lists them)."
    )
    print(f"The chain and the counts are right; {checked}.")
    for key in twice if given.twice else ():
        print(f"{_range(*key.times())} times: {shown(key)}")
    return 0 if right else 3


if __name__ == "__main__":
    sys.exit(main())
