"""A run as people read it: text for a terminal, static HTML for a cell, one sentence for the end.

Everything here is computed from a `RunView` alone: no journal, no clock, no script in the page.
The view becomes a `Page` once (the tree, what is folded away, why a step ran again); the text and
the HTML only lay it out.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from html import escape
from itertools import chain, groupby
from typing import TYPE_CHECKING

from notebook_agents.model import Outcome, RunStatus, Said, Usage
from notebook_agents.runtime.advice import advice, undecided
from notebook_agents.runtime.style import STYLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from rich.padding import Padding
    from rich.text import Text

    from notebook_agents.model import Attempt, Decision, RunView, Step

_FAN_OUT = 8
"""Neighbours of one name that are all shown; of more, the first `_SHOWN` and the loud ones are."""
_SHOWN = 3
_LOUD = 40
"""Loud steps of one fan-out that are shown; failed ones first."""
_LONG = 60
"""Lines of one level above which the quiet ones in its middle are folded."""
_ENDS = 20
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_MESSAGE = 300
"""Characters of an error's message that a step's note shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """How a state looks: never by its colour alone."""

    glyph: str
    word: str
    tone: str

    def __str__(self) -> str:
        return f"{self.glyph} {self.word}"


_COLORS = {"good": "green", "bad": "bold red", "doubt": "yellow", "live": "cyan"}
_STATE_CELLS = 12
_RIGHT_CELLS = 10 + 12
_MARK_CELLS = 2 + 12
_TOKEN_CELLS = 12

_OUTCOMES: Mapping[Outcome, _Look] = {
    Outcome.RUNNING: _Look(glyph="▸", word="running", tone="live"),
    Outcome.RETURNED: _Look(glyph="✓", word="returned", tone="good"),
    Outcome.FAILED: _Look(glyph="✗", word="failed", tone="bad"),
    Outcome.SUSPENDED: _Look(glyph="‖", word="waiting", tone="doubt"),
    Outcome.UNCERTAIN: _Look(glyph="?", word="in doubt", tone="doubt"),
    Outcome.LATE: _Look(glyph="~", word="late", tone="doubt"),
}

_STATUSES: Mapping[RunStatus, _Look] = {
    RunStatus.PENDING: _Look(glyph="○", word="pending", tone="live"),
    RunStatus.RUNNING: _Look(glyph="▸", word="running", tone="live"),
    RunStatus.SUCCEEDED: _Look(glyph="✓", word="succeeded", tone="good"),
    RunStatus.FAILED: _Look(glyph="✗", word="failed", tone="bad"),
    RunStatus.CANCELLED: _Look(glyph="–", word="cancelled", tone="doubt"),
    RunStatus.WAITING: _Look(glyph="‖", word="waiting", tone="doubt"),
    RunStatus.IN_DOUBT: _Look(glyph="?", word="in doubt", tone="doubt"),
    RunStatus.ORPHANED: _Look(glyph="!", word="stopped", tone="doubt"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One line of the tree; `look` is None for a line that stands for folded steps."""

    depth: int
    look: _Look | None
    name: str
    attempts: str = ""
    tokens: str = ""
    time: str = ""
    mark: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What text and HTML both say of a run: whoever wants both computes it once, by `page_of`."""

    facts: str
    told: str
    tokens: bool
    rows: tuple[_Row, ...]


@dataclass(frozen=True, slots=True)
class _Folded:
    """Steps that one line stands for."""

    steps: tuple[Step, ...]


def duration(seconds: float) -> str:
    """Return `seconds` as people say it: "420 ms", "3.2 s", "3 min 12 s", "2 h 05 min"."""
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def money(dollars: float) -> str:
    """Return US dollars as people say them: "$0.37", "$12.00"; "$0.0042" below a cent."""
    return f"${dollars:,.2f}" if dollars >= 0.01 or not dollars else f"${dollars:.2g}"


def _spent(usage: Usage) -> list[str]:
    """Return what models took, in tokens and, where it is known, in dollars."""
    said = [f"{usage.total_tokens:,} tokens"] if usage else []
    return said if usage.cost is None else [*said, money(usage.cost)]


def status_text(status: RunStatus) -> str:
    """Return the status as a glyph and a word, such as "✓ succeeded"."""
    return str(_STATUSES[status])


def status_style(status: RunStatus) -> str:
    """Return the colour that goes with a status, as rich names it."""
    return _COLORS[_STATUSES[status].tone]


def summary(view: RunView) -> str:
    """Return one sentence on what the run did, or did not have to do again."""
    if view.stored:
        return "the stored answer was given: nothing was run"
    saved = view.replayed
    if saved:
        seconds = sum(step.seconds or 0.0 for step in saved)
        spent = ", ".join([*_spent(view.usage_saved), duration(seconds)])
        return f"{_count(len(saved), 'step')} replayed: {spent} not spent again"
    returned = sum(step.outcome is Outcome.RETURNED for step in view.steps)
    if not view.steps and view.status in (RunStatus.RUNNING, RunStatus.ORPHANED):
        return "no step has begun"
    if returned == len(view.steps):
        return f"{_count(returned, 'step')} returned"
    return f"{returned} of {_count(len(view.steps), 'step')} returned"


def page_of(view: RunView) -> Page:
    """Return what text and HTML both say of a run."""
    usage = view.usage
    return Page(
        facts=_facts(view, usage),
        told=told(view),
        tokens=bool(usage),
        rows=tuple(_rows(view)),
    )


def to_text(
    view: RunView,
    *,
    page: Page | None = None,
    width: int = 80,
    color: bool = False,
    resume: str | None = None,
    resolve: str | None = None,
) -> str:
    """Return the run as lines of at most `width` cells, without a newline at the end.

    Args:
        view: The run.
        page: Its page, where that is known.
        width: Columns of the terminal.
        color: Whether to write ANSI colours; a state's word and glyph say the same without.
        resume: The command line that resumes the run; None: the call of `na.resume`.
        resolve: The command line that decides a doubt; None: the call of `na.resolve`.
    """
    from io import StringIO

    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    out = StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        force_jupyter=False,
        legacy_windows=False,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        markup=False,
    )
    look = _STATUSES[view.status]
    page = page or page_of(view)
    title = Text(_title(view), style="bold").append(" · ").append(str(look), _COLORS[look.tone])
    lines: list[Text | Padding] = [title, Text(page.facts, style="dim"), Text(page.told)]
    if view.error is not None:
        lines.append(Text(f"error: {clean(view.error)}", style=_COLORS["bad"]))
    if (todo := advice(view, resume=resume, resolve=resolve)) is not None:
        # The call is on a line of its own, so that it can be copied.
        call = Padding(Text(todo[1]), (0, 0, 0, 2), expand=False)
        lines += [Text(f"next: {todo[0]}:"), call]
    lines += _text_tree(view, page, width)
    console.print(*lines, sep="\n")  # one call: each looks at the terminal anew
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


def _text_tree(view: RunView, page: Page, width: int) -> Iterator[Text | Padding]:
    """Yield the tree's lines, below a heading."""
    from rich.padding import Padding
    from rich.text import Text

    if not view.steps:
        return
    room = width - (_MARK_CELLS if any(step.replayed for step in view.steps) else 0)
    heading = _Row(
        depth=0, look=None, name="step", attempts="attempts", tokens="tokens", time="time"
    )
    yield Text()
    yield _text_line("state", heading, room, tokens=page.tokens)
    for row in page.rows:
        yield _text_line(str(row.look or ""), row, room, tokens=page.tokens)
        left = _STATE_CELLS + 2 * row.depth + 2
        for note in row.notes:
            yield Padding(Text(note, style="dim"), (0, 0, 0, left), expand=False)


def _text_line(state: str, row: _Row, room: int, *, tokens: bool) -> Text:
    """Lay one line out: the name has what the other columns leave of `room`, and is cut to it."""
    from rich.text import Text

    name = Text(_indent(row.depth) + row.name)
    used = f"{row.tokens:>{_TOKEN_CELLS}}" if tokens else ""
    counts = f"{row.attempts:>10}{used}{row.time:>12}" if row.attempts else f"{used}{row.time:>12}"
    name.truncate(max(room - _STATE_CELLS - len(counts), 8), overflow="ellipsis", pad=True)
    line = Text.assemble(f"{state:<{_STATE_CELLS}}", name, counts, "  ", row.mark, no_wrap=True)
    line.stylize(_COLORS[row.look.tone] if row.look else "dim", 0, len(state) or len(line))
    return line


def to_html(view: RunView, *, page: Page | None = None) -> str:
    """Return the run as a static piece of HTML: no script, every value escaped.

    It reads well where the style is stripped too (GitHub): the tree is spelled out in characters,
    and every state is a word.
    """
    look = _STATUSES[view.status]
    page = page or page_of(view)
    head = [
        f'<p class="na-title"><strong>{escape(_title(view))}</strong> {_badge(look)}</p>',
        f'<p class="na-facts">{escape(page.facts)}</p>',
        f"<p>{escape(page.told)}</p>",
    ]
    if view.error is not None:
        head.append(f'<p class="na-error"><code>{escape(clean(view.error))}</code></p>')
    if (todo := advice(view)) is not None:
        what, call = (escape(part) for part in todo)
        head.append(f'<p class="na-next"><strong>Next:</strong> {what}: <code>{call}</code></p>')
    tokens = page.tokens
    body = "".join(_html_row(row, tokens=tokens) for row in page.rows)
    names = ("state", "step", "attempts", *(("tokens",) if tokens else ()), "time", "")
    heads = "".join(f"<th>{name}</th>" for name in names)
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>" if body else ""
    return f'<div class="na-timeline"><style>{STYLE}</style>{"".join(head)}{table}</div>'


def _html_row(row: _Row, *, tokens: bool) -> str:
    used = f'<td class="na-number">{escape(row.tokens)}</td>' if tokens else ""
    notes = "".join(f'<div class="na-note">{escape(note)}</div>' for note in row.notes)
    indent, time = (text.replace(" ", "&nbsp;") for text in (_indent(row.depth), escape(row.time)))
    if row.look is None:
        return (
            f'<tr class="na-more"><td></td><td>{indent}{escape(row.name)}</td>'
            f'<td></td>{used}<td class="na-number">{time}</td>'
            f'<td class="na-mark">{escape(row.mark)}</td></tr>'
        )
    return (
        f"<tr><td>{_badge(row.look)}</td>"
        f"<td>{indent}<code>{escape(row.name)}</code>{notes}</td>"
        f'<td class="na-number">{escape(row.attempts)}</td>{used}'
        f'<td class="na-number">{time}</td>'
        f'<td class="na-mark">{escape(row.mark)}</td></tr>'
    )


def _badge(look: _Look) -> str:
    return f'<span class="na-state na-{look.tone}">{look.glyph}&nbsp;{escape(look.word)}</span>'


def _rows(view: RunView) -> Iterator[_Row]:
    """Yield the tree's lines: nodes as they began, their durable calls below them."""
    children: dict[str | None, list[Step]] = {}
    known = {step.id for step in view.steps}
    for step in view.steps:
        children.setdefault(step.parent if step.parent in known else None, []).append(step)
    loud = _loud(view, children)
    keys = undecided(view)

    def below(parent: str | None, depth: int) -> Iterator[_Row]:
        for item in _fold(children.get(parent, []), loud):
            if isinstance(item, _Folded):
                yield _folded_row(item.steps, view, depth)
            else:
                own = list(_notes(item, view))
                if own:
                    inside = (_notes(child, view) for child in children.get(item.id, ()))
                    inner = set(chain.from_iterable(inside))
                    own = [note for note in own if note not in inner]
                if item.id in keys:
                    own.append(f"its idempotency key is {clean(item.key)}")
                yield _step_row(item, view, depth, tuple(own))
                yield from below(item.id, depth + 1)

    return below(None, 0)


def _loud(view: RunView, children: Mapping[str | None, Sequence[Step]]) -> dict[str, bool]:
    """Return, for each step worth a line of its own, whether it or one below it failed."""
    loud: dict[str, bool] = {}

    def visit(step: Step) -> None:
        inside = children.get(step.id, ())
        for child in inside:
            visit(child)
        below = [loud[child.id] for child in inside if child.id in loud]
        if returned_at_once(step) and not below:
            return
        outcome = outcome_in(step, view)
        if tries(step) > 1 or below or outcome not in (Outcome.RETURNED, Outcome.RUNNING):
            loud[step.id] = outcome is Outcome.FAILED or any(below)

    for step in children.get(None, ()):
        visit(step)
    return loud


def _fold(siblings: Sequence[Step], loud: Mapping[str, bool]) -> list[Step | _Folded]:
    """Fold the quiet steps of long fan-outs, then the quiet middle of what is still long."""
    items: list[Step | _Folded] = []
    for _, neighbours in groupby(siblings, key=lambda step: step.name):
        group = list(neighbours)
        if len(group) <= _FAN_OUT:
            items += group
            continue
        failed_first = sorted(
            (step for step in group if step.id in loud), key=lambda step: not loud[step.id]
        )
        kept = {step.id for step in (*group[:_SHOWN], *failed_first[:_LOUD])}
        items += [step for step in group if step.id in kept]
        if len(kept) < len(group):
            items.append(_Folded(tuple(step for step in group if step.id not in kept)))
    if len(items) <= _LONG:
        return items
    middle: list[Step | _Folded] = []
    for quiet, run in groupby(
        items[_ENDS:-_ENDS], key=lambda item: isinstance(item, _Folded) or item.id not in loud
    ):
        if not quiet:
            middle += run
            continue
        steps: list[Step] = []
        for item in run:
            steps += item.steps if isinstance(item, _Folded) else (item,)
        middle.append(_Folded(tuple(steps)))
    return [*items[:_ENDS], *middle, *items[-_ENDS:]]


def _step_row(step: Step, view: RunView, depth: int, notes: tuple[str, ...]) -> _Row:
    seconds = step.seconds
    return _Row(
        depth=depth,
        look=_OUTCOMES[outcome_in(step, view)],
        name=clean(step.name),
        attempts=str(tries(step)),
        tokens=_tokens(step.usage),
        time="" if seconds is None else duration(seconds),
        mark="replayed" if step.replayed else "",
        notes=notes,
    )


def _folded_row(steps: Sequence[Step], view: RunView, depth: int) -> _Row:
    names = sorted({clean(name) for name in {step.name for step in steps}})
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    outcomes = Counter(outcome_in(step, view).value for step in steps).most_common()
    words = [(_OUTCOMES[Outcome(outcome)].word, count) for outcome, count in outcomes]
    said = ", ".join(word if len(words) == 1 else f"{count} {word}" for word, count in words)
    replayed = sum(step.replayed for step in steps)
    again = sum(tries(step) > 1 for step in steps)
    if again:
        said += f", {'all' if again == len(steps) else again} of them run again"
    mark = "" if not replayed else "replayed" if replayed == len(steps) else f"{replayed} replayed"
    return _Row(
        depth=depth,
        look=None,
        name=f"… {len(steps)} more: {said} ({shown})",
        tokens=_tokens(Usage.total(step.usage for step in steps)),
        time=duration(sum(step.seconds or 0.0 for step in steps)),
        mark=mark,
    )


def _tokens(usage: Usage) -> str:
    return f"{usage.total_tokens:,}" if usage else ""


def _notes(step: Step, view: RunView) -> tuple[str, ...]:
    """Say why the step ran again, and how it stands where it has not returned."""
    if returned_at_once(step) and not step.decisions and not view.interrupts:
        return ()
    said = [why_again(attempt) for attempt in step.attempts[:-1]]
    last = step.attempts[-1]
    outcome = outcome_in(step, view)
    if outcome is Outcome.UNCERTAIN:
        said.append(f"in doubt: started by process {last.session}, never returned")
    elif outcome is Outcome.FAILED and last.error is not None and last.error != view.error:
        said.append(_shorten(last.error))
    elif outcome is Outcome.SUSPENDED:
        said.append("waits for a person")
    said += [
        f"asks {_shorten(repr(interrupt.value) if interrupt.error is None else interrupt.error)} "
        f"({interrupt.id})"
        for interrupt in view.interrupts
        if interrupt.step == step.id
    ]
    said += [_decision(decision) for decision in step.decisions]
    notes = []
    for note, equal in groupby(said):
        times = len(list(equal))
        notes.append(note if times == 1 else f"{note} ({times} times)")
    return tuple(notes)


def tries(step: Step) -> int:
    """Return how often the step was tried: what asked a person and what went on are one try."""
    if len(step.attempts) == 1:
        return 1
    asked = sum(attempt.outcome is Outcome.SUSPENDED for attempt in step.attempts[:-1])
    return len(step.attempts) - asked


def why_again(attempt: Attempt) -> str:
    """Say why `attempt` was not the step's last one."""
    match attempt.outcome:
        case Outcome.FAILED:
            return (
                f"failed in process {attempt.session}: {_shorten(attempt.error or '?')}; run again"
            )
        case Outcome.SUSPENDED:
            return "asked, then answered"
        case Outcome.LATE:
            return (
                f"started by process {attempt.session}, ended after it had been given up; not used"
            )
        case Outcome.RETURNED:
            return f"returned in process {attempt.session}"
    return (
        f"in doubt: started by process {attempt.session}, never returned; run again with the "
        "same key"
    )


def _decision(decision: Decision) -> str:
    """Say who decided what."""
    what = {
        Said.DID: f"attempt {decision.attempt} happened, said",
        Said.DID_NOT: f"attempt {decision.attempt} did not happen, said",
        Said.ANSWERED: "answered by",
        Said.ANSWERED_INSIDE: "answered by",
    }[decision.said]
    at = f"{decision.at.astimezone():%Y-%m-%d %H:%M:%S %Z}"
    return f"{what} {clean(decision.user)} on {clean(decision.host)} at {at}"


def returned_at_once(step: Step) -> bool:
    """Whether a step's only attempt returned: so it is with nearly all."""
    return len(step.attempts) == 1 and step.attempts[0].outcome is Outcome.RETURNED


def outcome_in(step: Step, view: RunView) -> Outcome:
    """Return how the step stands; in a run that nobody drives, no step is running."""
    outcome = step.outcome
    if outcome is Outcome.RUNNING and view.status not in (RunStatus.PENDING, RunStatus.RUNNING):
        return Outcome.UNCERTAIN
    return outcome


def _title(view: RunView) -> str:
    return f"{clean(view.agent)} · thread {clean(view.thread)} · run {view.number}"


def _facts(view: RunView, usage: Usage) -> str:
    facts = [_count(view.sessions, "process", "processes")]
    last = _last_known(view)
    total = duration((last - view.started).total_seconds())
    facts.append(f"{total} so far" if view.status is RunStatus.RUNNING else total)
    facts += _spent(usage)
    facts.append(f"started {view.started.astimezone():%Y-%m-%d %H:%M:%S %Z}")
    return " · ".join(facts)


def told(view: RunView) -> str:
    """Return the summary and how many steps were, or are, in doubt."""
    doubtful = _doubtful(view)
    still = sum(outcome_in(step, view) is Outcome.UNCERTAIN for step in doubtful)
    said = summary(view)
    if past := len(doubtful) - still:
        said += f" · {_count(past, 'step was', 'steps were')} in doubt"
    if still:
        said += f" · {_count(still, 'step is', 'steps are')} in doubt"
    if view.closed is not None:
        said += f" · contents are closed: {view.closed}"
    return said


def _doubtful(view: RunView) -> list[Step]:
    """Return the steps that were or are in doubt, without those in doubt for one inside them."""
    doubtful = [
        step
        for step in view.steps
        if not returned_at_once(step)
        and (step.was_in_doubt or outcome_in(step, view) is Outcome.UNCERTAIN)
    ]
    enclosing = {step.parent for step in doubtful}
    return [step for step in doubtful if step.id not in enclosing]


def _last_known(view: RunView) -> datetime:
    """Return the newest moment that the records know of."""
    if view.ended is not None:
        return view.ended
    moments = [view.started]
    for step in view.steps:
        moments += [attempt.ended or attempt.started for attempt in step.attempts]
    return max(moments)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _indent(depth: int) -> str:
    return "" if depth == 0 else "  " * (depth - 1) + "└ "


def _shorten(message: str) -> str:
    said = clean(message)
    return said if len(said) <= _MESSAGE else f"{said[: _MESSAGE - 1]}…"


def clean(text: str) -> str:
    """Return `text` on one line and without what a terminal would obey."""
    if not text.isprintable():
        plain = _ANSI.sub("", text)
        text = "".join(char if char.isprintable() else " " for char in plain)
    return " ".join(text.split())
