"""The hospital's own policy: what it lets a federation do here, whatever the coordinator asks.

It is read anew for every request from `policy.toml` in the hospital's folder, so a change counts
from the next round on. Without the file the defaults below hold, which allow all that OneSlice ever
sends. A file that cannot be read, or says something impossible, lets no round happen at all.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from common.plan import Name, Task
from common.settings_file import Settings, read_settings
from common.updates import Arrays, Note, Withholdable

POLICY_FILE = "policy.toml"
ALL_METRICS: tuple[Withholdable, ...] = get_args(Withholdable)
Network = Literal["segmenter", "student", "correspondence", "embedding"]
ALL_NETWORKS: tuple[Network, ...] = get_args(Network)
ClockTime = r"([01][0-9]|2[0-3]):[0-5][0-9]"
Span = Annotated[str, Field(pattern=rf"^{ClockTime}-({ClockTime}|24:00)$")]


class Policy(Settings):
    """What is allowed. The default of each key stands behind it.

    Attributes:
        tasks: the plan's tasks that this hospital takes part in; none: all.
        min_annotated_scans: with fewer annotated scans of these tasks, or a model that would rest
            on fewer scans, the hospital abstains.
        metrics: the fields of a reply's note that may leave; `withheld` names the others. Those
            without which a reply means nothing (hospital, outcome, reason, protocol, round,
            num_examples) always do.
        networks: whose weights may leave. Segmenter, student and embedding (with its prototypes)
            are trained and averaged together: without one of them the hospital abstains from the
            rounds that train them.
        memory_gb: the most memory a round may need, by estimate; none: no limit.
        seconds_per_round: after this time training stops; none: no limit.
        more_models: how many models may leave beyond one for each of the plan's rounds: rounds
            that the coordinator lost and asks for anew. Asked for more, the hospital abstains.
        most_update_norm: how far (L2, over all tensors of the reply) a model that leaves may have
            moved from the one that came; one that moved further is brought back to that length. It
            bounds what this hospital's data can do to the shared model, and what can be read from
            it. None: no limit.
        most_leak: what `hospital egress --probe` calls too much: how alike (a correlation) patches
            that were reconstructed from this hospital's own update may be to the true ones. None:
            the probe judges nothing.
        hours: spans of the day, local time, such as "19:30-06:00", in which rounds may run; none:
            always. A round that is still running at the end of a span stops training then.
    """

    tasks: tuple[Name, ...] | None = None
    min_annotated_scans: int = Field(default=0, ge=0, le=1_000_000)
    metrics: tuple[Withholdable, ...] = ALL_METRICS
    networks: tuple[Network, ...] = ALL_NETWORKS
    memory_gb: float | None = Field(default=None, gt=0)
    seconds_per_round: float | None = Field(default=None, gt=0)
    more_models: int = Field(default=20, ge=0, le=1_000_000)
    most_update_norm: float | None = Field(default=None, gt=0)
    most_leak: float | None = Field(default=None, ge=0, le=1)
    hours: tuple[Span, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Policy":
        for span in self.hours:
            first, last = span.split("-")
            if first == last:
                raise ValueError(f"hours {span!r} begin and end at the same time; leave them out")
        return self

    def allowed_tasks(self, tasks: tuple[Task, ...]) -> list[Task]:
        """Those that this hospital takes part in."""
        return [task for task in tasks if self.tasks is None or task.name in self.tasks]

    def allows_networks(self, arrays: Arrays) -> bool:
        """Whether all tensors belong to networks whose weights may leave."""
        return {name.split("/")[0] for name in arrays} <= set(self.networks)

    def seconds_left(self, now: datetime) -> float | None:
        """Until the hours that `now`, local time, lies in are over; None if they never are.

        0 outside of the hours. Spans that meet count as one.
        """
        left, more = 0.0, 1.0
        while more > 0:
            then = now + timedelta(seconds=left)
            more = max((_seconds_left(span, then) for span in self.hours), default=0.0)
            left += more
            if left > timedelta(days=1).total_seconds():
                return None
        return left if self.hours else None

    def let_through(self, note: Note) -> Note:
        """The note without what may not leave, and with the names of what that was."""
        # A stored reply may lack what an earlier policy kept back: that it does must stay visible.
        kept_back = [
            name for name in ALL_METRICS if name not in self.metrics or name in note.withheld
        ]
        empty: dict[str, object] = {name: Note.model_fields[name].default for name in kept_back}
        return note.model_copy(update={**empty, "withheld": tuple(kept_back)})


ALLOWS_ALL = Policy()


def read_policy(folder: Path) -> Policy:
    """The policy in force in a hospital's folder.

    Raises:
        SettingsError: the file cannot be read, or holds unknown keys or impossible values.
    """
    path = folder / POLICY_FILE
    # A link that leads nowhere is a broken policy, not a missing one.
    if not path.exists() and not path.is_symlink():
        return ALLOWS_ALL
    return read_settings(Policy, path)


def _seconds_left(span: str, now: datetime) -> float:
    first, last = (_minutes(text) for text in span.split("-"))
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    # A span over midnight may have begun yesterday.
    for day in (-1, 0):
        start = midnight + timedelta(days=day, minutes=first)
        end = midnight + timedelta(days=day + (last <= first), minutes=last)
        if start <= now < end:
            return (end - now).total_seconds()
    return 0.0


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return 60 * int(hours) + int(minutes)
