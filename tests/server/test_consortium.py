"""A new consortium's folder, and what is told before something ends."""

import stat
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import SettingsError
from common.plan import FederationPlan
from common.settings_file import parse_settings, read_settings
from server.certificates import addresses_in
from server.consortium import (
    Consortium,
    ConsortiumSettings,
    make_consortium,
    renew_server_certificate,
)
from server.expiry import warnings_of
from server.members import Member, Members, changing_members

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
SETTINGS = ConsortiumSettings(name="north", addresses=("coordinator.example", "10.1.2.3"))


@pytest.fixture
def made(tmp_path: Path) -> Consortium:
    return make_consortium(tmp_path / "consortium", SETTINGS, NOW)


def test_the_folder_is_its_owners_and_complete(made: Consortium) -> None:
    assert made.read_settings() == SETTINGS
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    private = {path.name for path in made.path.iterdir() if not path.stat().st_mode & 0o077}
    assert private == {"ca.key", "server.key"}
    known = addresses_in(made.server_certificate)
    assert known == ("coordinator.example", "10.1.2.3", "localhost", "127.0.0.1")


def test_the_plan_to_start_from_is_complete_and_meant_for_real_use(made: Consortium) -> None:
    plan = read_settings(FederationPlan, made.plan_file)
    assert plan.name == "north"
    assert (plan.limits.hospitals, plan.limits.quorum) == (3, 2)
    assert plan.limits.deadline_s == 3600
    assert plan.limits.join_deadline_s == 86400
    assert made.plan_file.read_text().count("#") > 10, "it explains itself"


def test_flowers_commands_know_the_superlink_and_its_authority(made: Consortium) -> None:
    settings = tomllib.loads((made.flower_home / "config.toml").read_text())["superlink"]
    assert settings["consortium"] == {
        "address": "127.0.0.1:8444",
        "root-certificates": str(made.ca_certificate.resolve()),
    }
    env = made.flower_environment()
    assert env["FLWR_HOME"] == str(made.flower_home)
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"


def test_a_consortium_that_is_there_stays(made: Consortium) -> None:
    before = {path: path.read_bytes() for path in made.path.rglob("*") if path.is_file()}
    other = SETTINGS.model_copy(update={"name": "south"})
    with pytest.raises(SettingsError, match="holds the consortium north already; nothing was"):
        make_consortium(made.path, other, NOW)
    assert {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()} == before


def test_an_unfinished_one_is_finished_with_the_same_authority(made: Consortium) -> None:
    authority = made.ca_certificate.read_bytes()
    made.settings_file.unlink()
    made.plan_file.unlink()
    assert make_consortium(made.path, SETTINGS, NOW).read_settings() == SETTINGS
    assert made.ca_certificate.read_bytes() == authority


def test_another_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"found no consortium\.toml: name its folder"):
        Consortium(tmp_path).read_settings()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"superlink_port": 8443}, "must differ"),
        ({"addresses": []}, "addresses"),
        ({"addresses": ["a b"]}, "addresses"),
        ({"port": 0}, "port = 0"),
        ({"proxy": "apache"}, "proxy = 'apache'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(ConsortiumSettings, {**SETTINGS.model_dump(), **changes}, "init")


def test_a_new_address_comes_into_the_renewed_certificate(made: Consortium) -> None:
    moved = SETTINGS.model_copy(update={"addresses": ("moved.example",)})
    text = made.settings_file.read_text().replace("coordinator.example", "moved.example")
    made.settings_file.write_text(text)
    (warning,) = warnings_of(made, NOW)
    assert "not good for moved.example: `oneslice coordinator renew`" in warning
    renew_server_certificate(made, moved, NOW)
    assert "moved.example" in addresses_in(made.server_certificate)


def _members(made: Consortium, **ends_in_days: int) -> None:
    with changing_members(made.members_file) as held:
        held[0] = Members(
            members=tuple(
                Member(hospital=name, state="registered", since=NOW, expires=NOW + days * DAY)
                for name, days in ends_in_days.items()
            )
        )


def test_nothing_is_told_while_all_have_time(made: Consortium) -> None:
    _members(made, far=31)
    assert warnings_of(made, NOW) == []


def test_what_ends_within_thirty_days_is_told_with_what_to_do(made: Consortium) -> None:
    _members(made, far=31, near=29, over=-1)
    near, over = warnings_of(made, NOW)
    assert near.startswith("the membership of near ends on ")
    assert near.endswith("`oneslice coordinator renew near`")
    assert over.startswith("the membership of over ended on ")
    assert "can still connect: `oneslice coordinator renew over`, or `revoke over`" in over


@pytest.mark.parametrize(
    ("days", "told"),
    [(370, ["server's certificate ends"]), (400, ["server's certificate ended"])],
)
def test_certificates_that_end_are_told(made: Consortium, days: int, told: list[str]) -> None:
    found = warnings_of(made, NOW + days * DAY)
    assert len(found) == len(told)
    assert all(part in text for part, text in zip(told, found, strict=True))


def test_an_authority_that_ends_is_told_first(made: Consortium) -> None:
    first = warnings_of(made, NOW + 3640 * DAY)[0]
    assert first.startswith("the authority's certificate ends on ")
    assert "invite all hospitals again" in first
