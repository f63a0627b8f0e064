# SPDX-License-Identifier: GPL-2.0-or-later
"""Parameters: what is accepted, and that every refusal names the parameter and what to do."""

import pytest

from nfslock import errors, params, values

GOOD = {"holding_dir": "/srv/nfs/locks", "propagate_interval": "5s", "ip": "192.0.2.10"}


@pytest.mark.parametrize(("text", "seconds"), [
    ("5", 5), ("5s", 5), ("500ms", 0.5), ("1m", 60), ("1min", 60), ("2 sec", 2), ("1h", 3600),
    ("0.5", 0.5), (" 7S ", 7)])
def test_times(text: str, seconds: float) -> None:
    assert values.parse_seconds(text) == seconds


@pytest.mark.parametrize("text", [
    "0", "-1", "banana", "5x", "", "1e3", "inf", "nan", "0ms", "25h", "5s5", ".", "٣"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        values.parse_seconds(text)


def test_addresses_are_canonical_and_unique() -> None:
    given = "192.0.2.10, 2001:DB8:0::1 192.0.2.10/24"
    assert values.parse_addresses(given) == ("192.0.2.10", "2001:db8::1")


@pytest.mark.parametrize("text", [
    "nonsense", "192.0.2.256", "127.0.0.1", "0.0.0.0", "::1", "ff02::1", "192.0.2.1,x", "1.2.3"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        values.parse_addresses(text)


@pytest.mark.parametrize("name", ["holding_dir", "propagate_interval", "ip"])
def test_what_lock_migration_needs(name: str) -> None:
    with pytest.raises(errors.ConfigError, match=name) as raised:
        params.parse({**GOOD, name: " "})
    assert raised.value.code == errors.CONFIGURED


def test_nothing_is_needed_without_lock_migration() -> None:
    assert params.parse({"lock_migration": "no"}).lock_migration is False


@pytest.mark.parametrize(("name", "text"), [
    ("propagate_interval", "banana"), ("ip", "nonsense"), ("lock_migration", "perhaps"),
    ("nfs_versions", "4x"), ("nfs_versions", "2"), ("holding_dir", "relative/path"),
    ("holding_dir", "/"), ("holding_dir", "/srv/../etc"), ("statd_dir", "x"),
    ("notify_timeout", "never"), ("notify_names", "a/b")])
def test_refusals_name_parameter_and_value(name: str, text: str) -> None:
    with pytest.raises(errors.ConfigError, match=f"^{name}={text}: ".replace("..", r"\.\.")):
        params.parse({**GOOD, name: text})


def test_every_parameter_has_texts_and_a_default_that_parses() -> None:
    for parameter in params.PARAMETERS:
        assert parameter.shortdesc
        assert parameter.longdesc
        if parameter.default is not None:
            parameter.parse(parameter.default)
