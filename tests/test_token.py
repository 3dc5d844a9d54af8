"""Files with secrets: accepted and refused ones, and no message with their content."""

import os
import re

import pytest

from covey.parts.errors import ConfigurationError
from covey.runtime.emulation.transport.certificates import Certificates, make
from covey.runtime.emulation.transport.token import read_token
from covey.runtime.experiment import Experiment
from tests.conftest import table
from tests.hosts import TOKEN, token_file


def refused(file, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        read_token(file)
    assert "\n" not in str(caught.value)
    if file.is_file():
        assert not file.read_bytes().strip() or file.read_bytes().strip().decode() not in str(caught.value)


def test_a_secret_is_what_is_in_its_file(tmp_path):
    file = token_file(tmp_path)
    assert read_token(file) == TOKEN
    file.write_bytes(b"\n  " + TOKEN + b"\r\n")
    assert read_token(file) == TOKEN
    file.chmod(0o400)
    assert read_token(file) == TOKEN


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o606, 0o610])
def test_a_secret_that_others_may_read_is_none(mode, tmp_path):
    file = token_file(tmp_path)
    file.chmod(mode)
    refused(file, rf"can be read by others \(its mode is {mode:04o}\): `chmod 600` it\.$")


def test_a_secret_of_another_user_is_none(tmp_path, monkeypatch):
    file = token_file(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    refused(file, "belongs to another user")


def test_what_is_no_file_is_no_secret(tmp_path):
    token_file(tmp_path)
    link = tmp_path / "link"
    link.symlink_to("token")
    refused(link, "is a symbolic link: name the file itself")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    refused(pipe, f"^The token file {re.escape(str(pipe))} is not a regular file\\.$")
    refused(tmp_path, f"^The token file {re.escape(str(tmp_path))} is not a regular file\\.$")
    refused(tmp_path / "nowhere", "The token file .* cannot be read: No such file")


@pytest.mark.parametrize(
    ("content", "held"), [(b"", 0), (b" \n" * 50, 0), (b"x" * 15, 15), (b"x" * 4097, "more"), (b"x" * 10**6, "more")]
)
def test_a_secret_is_neither_short_nor_endless(content, held, tmp_path):
    file = token_file(tmp_path)
    file.write_bytes(content)
    refused(file, rf"must hold a secret of 16 to 4096 bytes\. It holds {held}\.$")


def test_a_secret_that_is_named_in_the_index_of_another_file_is_not_shown(tmp_path):
    file = token_file(tmp_path)
    engine = {"kind": "emulation", "hosts_file": str(file), "token_file": str(file)}
    with pytest.raises(
        ConfigurationError, match=rf"^Line 1 of the hosts file {re.escape(str(file))} must be"
    ) as caught:
        Experiment.from_table(table(engine=engine))
    assert TOKEN.decode() not in str(caught.value)


def test_a_key_that_others_may_read_is_none(tmp_path):
    _, folder = make(tmp_path / "certs", ["127.0.0.1:7000"], 1)
    assert Certificates.load(folder).owner == "host-0"
    (folder / "key.pem").chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"^The key .*key\.pem can be read by others \(its mode is 0644\)"):
        Certificates.load(folder)
