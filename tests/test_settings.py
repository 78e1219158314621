"""Settings: what is mistyped is not passed over, and times are finite."""

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from mcdropout.cli import app
from mcdropout.settings import Settings, unknown_settings


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
