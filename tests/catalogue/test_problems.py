"""Errors as anybody may read them who may ask what models there are."""

from pathlib import Path

import pytest

from mcdropout.catalogue.problems import for_others

FOLDER = Path("/srv/models")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("/srv/models/a: labels are 3; 2 are accepted", "a: labels are 3; 2 are accepted"),
        ("/srv/models/a/network.py, line 3: no", "a/network.py, line 3: no"),
        ("FileNotFoundError: '/home/ann/secret/x.bin' is missing", "FileNotFoundError: 'x.bin' is missing"),
        ("cannot read /tmp/mcdropout-abc/prefix.onnx", "cannot read prefix.onnx"),
        ("see https://example.org/a/b/c", "see https://example.org/a/b/c"),
        ("1/2 of 3/4 and a/b", "1/2 of 3/4 and a/b"),
        ("models/a/model.yaml is wrong", "models/a/model.yaml is wrong"),
        (
            "/srv/models/a: compiling ended by SIGKILL; 9 MiB were accepted. Its last words: Traceback /root/x\nboom",
            "a: compiling ended by SIGKILL; 9 MiB were accepted. Its last words are in the log",
        ),
    ],
)
def test_no_place_on_this_machine_and_no_output_is_in_them(error: str, shown: str) -> None:
    assert for_others(error, FOLDER) == shown
