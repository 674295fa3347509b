"""The keys file and the command that writes it: what is refused names the entry and the field."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from api.edge.api_key import ApiKey, Role
from api.edge.keys import Denial, KeyRing, key_ring
from api.edge.keys_file import read_keys_file
from api.errors import SettingsError
from api.process.key_cli import key_group
from api.server_settings import Settings

HASH = hashlib.sha256(b"a").hexdigest()
NAMED = f'[[key]]\nname = "a"\nsha256 = "{HASH}"\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no key; 'powertrain key new NAME' makes one"),
        ("[[key]\n", "is not readable: "),
        ("key = 3", r"a key is a table that begins with \[\[key\]\]"),
        ("[key]\nname='a'", r"a key is a table that begins with \[\[key\]\]"),
        ('keys = "x"', r"holds 'keys'; it may hold \[\[key\]\] tables alone"),
        (f'[[key]]\nsha256 = "{HASH}"', "key 1: name: a letter.*got None"),
        (NAMED + '[[key]]\nname = "1x"', "key 2: name: a letter.*got '1x'"),
        ('[[key]]\nname = "a\\n"', "key 1: name: a letter"),
        ('[[key]]\nname = "a"', r"key 1 \(a\): sha256: Object missing required field `sha256`"),
        ('[[key]]\nname = "a"\nsha256 = "pt-secret"', r"key 1 \(a\): sha256: 64 hexadecimal digits"),
        (f'[[key]]\nname = "a"\nsha256 = "{HASH.upper()}"', r"key 1 \(a\): sha256: 64 hexadecimal digits"),
        (NAMED + "request_per_minute = 3", r"key 1 \(a\): request_per_minute: there is no .*'requests_per_minute'"),
        (NAMED + "requests_per_minute = 0", r"key 1 \(a\): requests_per_minute: Expected `int` >= 1"),
        (NAMED + "tokens_per_minute = 1.5", r"key 1 \(a\): tokens_per_minute: Expected `int \| null`, got `float`"),
        (NAMED + "max_concurrency = true", r"key 1 \(a\): max_concurrency: Expected `int \| null`, got `bool`"),
        (NAMED + 'role = "root"', r"key 1 \(a\): role: Invalid enum value 'root'"),
        (NAMED + "expires = 2030-01-01T00:00:00", r"key 1 \(a\): expires: .*timezone"),
        (NAMED + "expires = 2030-01-01", r"key 1 \(a\): expires: "),
        (NAMED + NAMED, "two keys have the same name: a"),
        (NAMED + NAMED.replace('"a"', '"b"'), "two keys have the same secret: a, b"),
        (NAMED.replace('"a"', '"ops"'), "two keys have the same name: ops"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=message) as caught:
        key_ring(Settings(keys_file=str(file), api_key=("ops=12345678",)))
    assert "secret" not in str(caught.value).replace("same secret", "")


def test_a_file_that_everybody_may_write_is_refused_and_one_that_everybody_may_read_is_not(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    with pytest.raises(SettingsError, match="is not readable: No such file"):
        read_keys_file(file)
    file.write_text(NAMED)
    file.chmod(0o666)
    with pytest.raises(SettingsError, match="everybody may write"):
        read_keys_file(file)
    file.chmod(0o664)
    assert [key.name for key in read_keys_file(file)] == ["a"]
    file.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(SettingsError, match="larger than 1048576 bytes"):
        read_keys_file(file)


def test_a_key_opens_until_the_moment_that_it_expires(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(NAMED + "expires = 1970-01-01T01:00:10+01:00\n")
    (key,) = read_keys_file(file)
    assert key == ApiKey("a", bytes.fromhex(HASH), Role.CLIENT, expires_unix=10.0)
    now = 9.999
    ring = KeyRing([key], lambda: now)
    scope: Any = {"headers": [(b"authorization", b"Bearer a")]}
    assert ring.holder(scope) == key
    now = 10.0
    assert ring.holder(scope) is Denial.EXPIRED


def test_the_command_makes_a_key_that_its_entry_opens(tmp_path: Path) -> None:
    run, file = CliRunner(), tmp_path / "keys.toml"
    made = run.invoke(key_group, ["new", "team-a", "--max-concurrency", "2", "--tokens-per-minute", "9"])
    other = run.invoke(key_group, ["new", "watch", "--role", "metrics"])
    file.write_text(made.stdout + other.stdout)
    secret = made.stderr.strip().rpartition(" ")[2]
    assert secret not in made.stdout
    assert secret != other.stderr.strip().rpartition(" ")[2]
    assert len(secret) == 3 + 43  # 256 bits in base64
    ring = key_ring(Settings(keys_file=str(file)))
    scope: Any = {"headers": [(b"x-api-key", secret.encode())]}
    holder = ring.holder(scope)
    assert isinstance(holder, ApiKey)
    assert (holder.name, holder.role) == ("team-a", "client")
    checked = run.invoke(key_group, ["check", str(file)])
    assert checked.stdout == "team-a: client, tokens_per_minute 9, max_concurrency 2\nwatch: metrics, no limits\n"
    assert run.invoke(key_group, ["new", "two words"]).exit_code == 2
    file.write_text("")
    assert run.invoke(key_group, ["check", str(file)]).exit_code == 1
