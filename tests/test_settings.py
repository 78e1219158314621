"""Settings: each says what it is, what is mistyped is not passed over, and times are finite."""

import re

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from mcdropout.cli import app
from mcdropout.cli.serve import FLAGS
from mcdropout.settings import Settings, default_of, unknown_settings, variable_of
from tests.servers import ROOT

COMMITTED = ROOT / "docs" / "settings.md"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MAX_BODY", "MAX_BODY_BYTES"),
        ("MAX_ROW", "MAX_ROWS"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("GRACE_SECOND", "GRACE_SECONDS"),
        ("WORKER", "WORKERS"),
        ("SOMETHING_ELSE", None),
    ],
)
def test_a_variable_that_is_no_setting_is_told_with_the_one_that_is_meant(name: str, meant: str | None) -> None:
    variable = f"MCDROPOUT_{name}"
    assert unknown_settings([variable, "HOME"]) == {variable: None if meant is None else f"MCDROPOUT_{meant}"}


def test_settings_and_what_kubernetes_sets_for_a_service_are_known() -> None:
    of_kubernetes = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_80_TCP", "PORT_80_TCP_ADDR"]
    names = [*map(str.upper, Settings.model_fields), *of_kubernetes]
    assert unknown_settings(f"MCDROPOUT_{name}" for name in names) == {}


def test_a_mistyped_variable_ends_the_command_with_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCDROPOUT_MAX_BODY", "200")
    ended = CliRunner().invoke(app, ["serve"])
    assert ended.exit_code == 2
    assert "MCDROPOUT_MAX_BODY is no setting; MCDROPOUT_MAX_BODY_BYTES is" in ended.output


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name.endswith("_seconds")])
@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_a_time_is_a_finite_number(name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({name: value})


def table() -> str:
    """`docs/settings.md`."""
    rows = []
    for name, field in Settings.model_fields.items():
        flag = f"`--{name.replace('_', '-')}`" if name in FLAGS else ""
        default = f"`{default_of(name)}`" if default_of(name) else ""
        description = (field.description or "").replace("|", r"\|")
        rows.append(f"| `{variable_of(name)}` | {flag} | {default} | {description} |\n")
    return _HEAD + "".join(rows)


_HEAD = """# Settings

Of `mcdropout serve`: as environment variables, and as flags where there is one. `python -m tests.test_settings` writes
this file.

| variable | flag | default | |
|---|---|---|---|
"""


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_is_in_a_sentence(name: str) -> None:
    assert re.fullmatch(r"[A-Z].{10,}\.", Settings.model_fields[name].description or "")


def test_help_says_of_every_setting_what_it_is_and_its_default() -> None:
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "250", "TERM": "dumb"}).output
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", shown).split())
    for name, field in Settings.model_fields.items():
        assert " ".join((field.description or "").split()) in words, name
        if name not in FLAGS and default_of(name):
            assert f"{variable_of(name)} ({default_of(name)}): " in words


def test_the_table_of_settings_is_the_one_that_is_committed() -> None:
    assert COMMITTED.read_text() == table(), "python -m tests.test_settings writes it anew"


if __name__ == "__main__":
    COMMITTED.write_text(table())
