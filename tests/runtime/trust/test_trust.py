"""A package counts as signed only while every byte of it is what a trusted key signed."""

from __future__ import annotations

import base64
import datetime
import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import powertrain
from api.errors import SettingsError
from api.process import serving
from api.process.trusted import package_reader
from api.server_settings import Settings
from api.settings import resolve_settings
from export.provenance.signing import sign_adapter, sign_package
from export.provenance.statement import statement as statement_of
from runtime.adapters.peft import adapter_digests
from runtime.commands.surroundings import Surroundings
from runtime.errors import PackageError, PowertrainError, TrustError
from runtime.package.manifest import SIGNATURE_FILE, read_manifest, write_manifest
from runtime.package.package_file import sha256_of_file
from runtime.trust.adapter_signature import ADAPTER_PREDICATE_TYPE, ADAPTER_SIGNATURE_FILE, verify_adapter
from runtime.trust.keys import SigningKey, new_key, read_key
from runtime.trust.signatures import sign_statement
from runtime.trust.trust_file import read_trust_file, trust_entry
from runtime.trust.verify import VerifiedPackage, signed_files, verify_package
from tests.adapter_folders import write_adapter
from tests.runtime.package.made import make_package

TODAY = datetime.date(2027, 3, 1)
PAIRS = {"model.layers.0.self_attn.q_proj": (np.ones((2, 3), np.float32), np.ones((4, 2), np.float32))}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SigningKey]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: new_key(folder / f"{name}.pem") for name in ("release", "other")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A package with a plan and what lies beside one."""
    root = make_package(tmp_path / "tiny")
    (root / "trt").mkdir()
    for suffix in ("", ".json", ".intoto.json", ".cdx.json"):
        (root / "trt" / f"sm89.plan{suffix}").write_bytes(f"plan{suffix}".encode())
    return root


def trust(folder: Path, *entries: str) -> Path:
    path = folder / "trust.toml"
    path.write_text("\n".join(entries))
    return path


def verified(root: Path, *entries: str, today: datetime.date = TODAY) -> VerifiedPackage:
    return verify_package(root, read_trust_file(trust(root.parent, *entries)), today)


def entry(keys: dict[str, SigningKey], name: str = "release", more: str = "") -> str:
    return trust_entry(name, keys[name].public) + more


def test_a_signed_package_is_trusted(root: Path, keys: dict[str, SigningKey]) -> None:
    names = sign_package(root, keys["release"])
    assert names == ("manifest.json", "trt/sm89.plan", "trt/sm89.plan.cdx.json", "trt/sm89.plan.intoto.json",
                     "trt/sm89.plan.json")  # fmt: skip
    (root / "trt/sm89.plan.kernels").write_bytes(b"compiled here")
    found = verified(root, entry(keys))
    assert (found.signers, found.package.manifest.name) == (("release",), "tiny")
    assert [path.name for path in found.kernels] == ["sm89.plan.kernels"]
    assert set(found.package.seals) == {*names, *found.package.manifest.files}
    found.package.check_unchanged([root / "trt/sm89.plan", root / "trt/sm89.plan.json"])


def byte(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[-2] ^= 1
        (root / name).write_bytes(bytes(data))

    return change


def rewrite_manifest(root: Path) -> None:
    write_manifest(root, msgspec.structs.replace(read_manifest(root), served_names=("other",)))


def another_plan(root: Path) -> None:
    (root / "trt/sm90.plan").write_bytes(b"added")


def no_signature(root: Path) -> None:
    (root / SIGNATURE_FILE).unlink()


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Changes the envelope in the file of signatures."""

    def apply(root: Path) -> None:
        values = json.loads((root / SIGNATURE_FILE).read_text())
        change(values)
        (root / SIGNATURE_FILE).write_text(json.dumps(values))

    return apply


def claim_more(values: dict[str, Any]) -> None:
    statement = json.loads(base64.b64decode(values["payload"]))
    statement["subject"].append({"name": "x", "digest": {"sha256": "0" * 64}})
    values["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (byte("tokenizer.json"), "'tokenizer.json' has sha256"),
        (byte("ort/model.onnx"), "'ort/model.onnx' has sha256"),
        (rewrite_manifest, "manifest.json is not the one that 'release' signed"),
        (byte("trt/sm89.plan"), "trt/sm89.plan is not the one that 'release' signed"),
        (byte("trt/sm89.plan.json"), "trt/sm89.plan.json is not the one that"),
        (byte("trt/sm89.plan.intoto.json"), "trt/sm89.plan.intoto.json is not the one that"),
        (byte("trt/sm89.plan.cdx.json"), "trt/sm89.plan.cdx.json is not the one that"),
        (another_plan, "trt/sm90.plan was added after 'release' signed; sign it again"),
        (no_signature, "tiny is not signed; sign it with 'powertrain sign"),
        (edit(claim_more), "the signature by 'release' does not fit what it signs"),
        (edit(lambda v: v.update(payloadType="text/plain")), "signs 'text/plain'"),
        (edit(lambda v: v["signatures"][0].update(keyid="1" * 64)), "the trust file holds no key 111111111111"),
        (edit(lambda v: v["signatures"][0].update(sig="AAAA")), "does not fit what it signs"),
        (edit(lambda v: v["signatures"][0].update(sig="?")), "holds no envelope|does not fit"),
        (edit(lambda v: v.update(payload="?")), "holds no envelope|signs what is no statement|does not fit"),
        (edit(lambda v: v.update(signatures=[])), "is not readable"),
        (edit(lambda v: v.update(signatures=v["signatures"] * 2)), "holds no envelope"),
    ],
)
def test_what_is_not_as_it_was_signed_is_named(
    root: Path, keys: dict[str, SigningKey], damage: Callable[[Path], None], match: str
) -> None:
    sign_package(root, keys["release"])
    damage(root)
    with pytest.raises((TrustError, PackageError), match=match):
        verified(root, entry(keys))


def test_only_statements_of_provenance_count(root: Path, keys: dict[str, SigningKey]) -> None:
    sign_package(root, keys["release"])
    statement = json.loads(base64.b64decode(json.loads((root / SIGNATURE_FILE).read_text())["payload"]))
    for change in ({"predicateType": "https://in-toto.io/x"}, {"_type": "other"}):
        (root / SIGNATURE_FILE).write_bytes(sign_statement(json.dumps(statement | change).encode(), keys["release"]))
        with pytest.raises(TrustError, match="no statement of provenance"):
            verified(root, entry(keys))
    (root / SIGNATURE_FILE).write_bytes(sign_statement(b"[1]", keys["release"]))
    with pytest.raises(TrustError, match="signs what is no statement"):
        verified(root, entry(keys))


def test_keys_count_until_they_expire_and_for_the_packages_they_are_for(
    root: Path, keys: dict[str, SigningKey]
) -> None:
    sign_package(root, keys["release"])
    until = entry(keys, more="expires = 2027-03-02\n")
    assert verified(root, until).signers == ("release",)
    with pytest.raises(TrustError, match="the key 'release' expired on 2027-03-02"):
        verified(root, until, today=datetime.date(2027, 3, 2))
    assert verified(root, entry(keys, more='packages = ["smol*", "ti?y"]\n')).signers == ("release",)
    with pytest.raises(TrustError, match=r"the key 'release' may sign smol\*, not 'tiny'"):
        verified(root, entry(keys, more='packages = ["smol*"]\n'))


def test_one_trusted_signature_of_several_is_enough_and_a_new_one_takes_the_place_of_the_old(
    root: Path, keys: dict[str, SigningKey]
) -> None:
    for name in ("release", "other", "release"):
        sign_package(root, keys[name])
    assert len((root / SIGNATURE_FILE).read_text().splitlines()) == 2
    assert verified(root, entry(keys, "other")).signers == ("other",)
    assert set(verified(root, entry(keys), entry(keys, "other")).signers) == {"release", "other"}
    rewrite_manifest(root)
    sign_package(root, keys["release"])
    assert verified(root, entry(keys), entry(keys, "other")).signers == ("release",)


def test_a_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    made = new_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path).key_id == made.key_id
    assert "private" not in repr(made)
    with pytest.raises(TrustError, match="is there already; a key is never overwritten"):
        new_key(path)
    path.chmod(0o640)
    with pytest.raises(TrustError, match="others than its owner; run: chmod 600"):
        read_key(path)
    other = tmp_path / "other.pem"
    other.touch(mode=0o600)
    for text, match in (("no key", "is not an unencrypted private key"), ("x" * 20_000, "it is not a key")):
        other.write_text(text)
        with pytest.raises(TrustError, match=match):
            read_key(other)
    with pytest.raises(TrustError, match="cannot be read"):
        read_key(tmp_path / "none.pem")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "missing required field `key`"),
        ("[[key]]\nname = 'x'", "missing required field `id`"),
        ("key = []", "length >= 1"),
        ("[[key]]\nname='x'\nid='{id}'\npublic_key='{public}'\nsurprise=1", "surprise"),
        ("[[key]]\nname='x'\nid='" + "0" * 64 + "'\npublic_key='{public}'", "has the id {id}, not 000"),
        ("[[key]]\nname='x'\nid='{id}'\npublic_key='AAAA'", "the public key of 'x' is not one"),
        ("[[key]]\nname='x'\nid='{id}'\npublic_key='?'", "it is not base64"),
        ("[[key]]\nname='x'\nid='{id}'\npublic_key='{public}'\n" * 2, "holds the key .* twice"),
        ("not toml", "is not readable"),
    ],
)
def test_a_trust_file_is_read_strictly(tmp_path: Path, keys: dict[str, SigningKey], text: str, match: str) -> None:
    lines = trust_entry("x", keys["release"].public).splitlines()
    known = {"{id}": keys["release"].key_id, "{public}": lines[3].split('"')[1]}
    for mark, value in known.items():
        text, match = text.replace(mark, value), match.replace(mark, value)
    with pytest.raises(TrustError, match=match):
        read_trust_file(trust(tmp_path, text))


def test_a_trust_file_that_everybody_may_write_is_refused(tmp_path: Path, keys: dict[str, SigningKey]) -> None:
    path = trust(tmp_path, entry(keys))
    path.chmod(0o646)
    with pytest.raises(TrustError, match="may be written by everybody"):
        read_trust_file(path)


def test_a_server_that_requires_signatures_serves_nothing_else(
    root: Path, keys: dict[str, SigningKey], caplog: pytest.LogCaptureFixture
) -> None:
    path = trust(root.parent, entry(keys))
    assert package_reader(Settings())(root).manifest.name == "tiny"
    read = package_reader(Settings(require_signature=True, trust_file=str(path)))
    with pytest.raises(TrustError, match="tiny is not signed"):
        read(root)
    sign_package(root, keys["release"])
    kernels = root / "trt/sm89.plan.kernels"
    kernels.write_bytes(b"from who knows whom")
    with caplog.at_level(logging.INFO):
        assert read(root).manifest.name == "tiny"
    assert not kernels.exists()
    assert "the package is signed by release" in caplog.text
    byte("ort/model.onnx")(root)
    with pytest.raises(PackageError, match="sha256"):
        read(root)


def test_serve_asks_for_the_signature_before_it_makes_a_service(
    root: Path, keys: dict[str, SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "configure_logging", lambda _settings: None)
    monkeypatch.setattr(serving, "build_service", None)
    flags = {"port": 0, "model": "x", "require_signature": True, "trust_file": str(trust(root.parent, entry(keys)))}
    with pytest.raises(TrustError, match="tiny is not signed; sign it with 'powertrain sign"):
        serving.serve(resolve_settings(flags, environ={}), Surroundings(build=lambda _word: root))


def test_a_signature_of_one_kind_is_none_of_the_other(root: Path, tmp_path: Path, keys: dict[str, SigningKey]) -> None:
    adapter = write_adapter(tmp_path / "math", PAIRS)
    found = adapter_digests(adapter)

    def check(*entries: str) -> tuple[str, ...]:
        return verify_adapter(adapter, found, read_trust_file(trust(tmp_path, *entries)), TODAY)

    with pytest.raises(TrustError, match="math is not signed"):
        check(entry(keys))
    sign_adapter(adapter, keys["release"])
    assert check(entry(keys)) == ("release",)
    assert check(entry(keys, more='packages = ["ma*"]\n')) == ("release",)
    with pytest.raises(TrustError, match=r"the key 'release' may sign x\*, not 'math'"):
        check(entry(keys, more='packages = ["x*"]\n'))
    with pytest.raises(TrustError, match="the trust file holds no key"):
        check(entry(keys, "other"))
    file = adapter / ADAPTER_SIGNATURE_FILE
    for statement in (
        statement_of(found, {"name": "math"}),  # as a package's
        statement_of(found, {"other": "math"}, ADAPTER_PREDICATE_TYPE),
        statement_of(dict(list(found.items())[:1]), {"name": "math"}, ADAPTER_PREDICATE_TYPE),
    ):
        file.write_bytes(sign_statement(statement, keys["release"]))
        with pytest.raises(TrustError, match=r"no statement of an adapter|does not say the adapter's name|was added"):
            check(entry(keys))
    digests = {name: sha256_of_file(root / name) for name in signed_files(root)}
    wrong = statement_of(digests, {"name": "tiny"}, ADAPTER_PREDICATE_TYPE)
    (root / SIGNATURE_FILE).write_bytes(sign_statement(wrong, keys["release"]))
    with pytest.raises(TrustError, match="no statement of provenance"):
        verified(root, entry(keys))


def test_what_is_required_needs_a_file_and_a_file_is_there_to_be_used(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="require_signature is set but trust_file is not"):
        resolve_settings({"require_signature": True}, environ={})
    with pytest.raises(SettingsError, match="trust_file is set but require_signature is not"):
        resolve_settings({"trust_file": "x"}, environ={})
    with pytest.raises(TrustError, match="cannot be read"):
        package_reader(Settings(require_signature=True, trust_file=str(tmp_path / "none")))


def test_from_a_new_key_to_a_verified_package_by_commands(root: Path, tmp_path: Path) -> None:
    run = CliRunner()
    key, trust_path = tmp_path / "k.pem", tmp_path / "t.toml"
    made = run.invoke(powertrain.main, ["sign", "--new-key", str(key), "--name", "team a"])
    assert (made.exit_code, made.stderr.split(" holds ")[0]) == (0, str(key))
    trust_path.write_text(made.stdout)
    unsigned = run.invoke(powertrain.main, ["verify", str(root), "--trust-file", str(trust_path)])
    assert (unsigned.exit_code, "is not signed" in unsigned.output) == (1, True)
    assert run.invoke(powertrain.main, ["sign", str(root), "--key", str(key)]).exit_code == 0
    done = run.invoke(powertrain.main, ["verify", str(root), "--trust-file", str(trust_path)])
    assert (done.exit_code, "is whole, and signed by team a" in done.output) == (0, True)
    adapter = write_adapter(tmp_path / "math", PAIRS)
    unsigned = run.invoke(powertrain.main, ["verify", "--adapter", str(adapter), "--trust-file", str(trust_path)])
    assert (unsigned.exit_code, "math is not signed" in unsigned.output) == (1, True)
    done = run.invoke(powertrain.main, ["sign", "--adapter", str(adapter), "--key", str(key)])
    assert (done.exit_code, "adapter_config.json, adapter_model.safetensors" in done.output) == (0, True)
    done = run.invoke(powertrain.main, ["verify", "--adapter", str(adapter), "--trust-file", str(trust_path)])
    assert (done.exit_code, "math is whole, and signed by team a" in done.output) == (0, True)
    with_trust, with_key = ["--trust-file", str(trust_path)], ["--key", str(key)]
    for words in (["sign"], ["sign", str(root)], ["sign", *with_key, "--new-key", "x"], ["verify", *with_trust],
                  ["verify", str(root), "--adapter", str(adapter), *with_trust],
                  ["sign", str(root), "--adapter", str(adapter), *with_key]):  # fmt: skip
        assert run.invoke(powertrain.main, words).exit_code == 2


def test_other_tools_make_keys_and_read_signatures(root: Path, tmp_path: Path, keys: dict[str, SigningKey]) -> None:
    """DSSE by hand: what is signed is the length-prefixed type and payload, so any tool for Ed25519 can check it."""
    sign_package(root, keys["release"])
    envelope = json.loads((root / SIGNATURE_FILE).read_text())
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    keys["release"].public.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    path = tmp_path / "openssl.pem"
    done = subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519"], capture_output=True, check=True)
    path.touch(mode=0o600)
    path.write_bytes(done.stdout)
    assert isinstance(read_key(path).private, Ed25519PrivateKey)


def test_no_refusal_leaks_a_stack_trace(root: Path) -> None:
    assert issubclass(TrustError, PowertrainError)
    (root / SIGNATURE_FILE).write_bytes(b"\xff\n" * 10)
    with pytest.raises(TrustError, match="is not readable"):
        verify_package(root, {}, TODAY)
    (root / SIGNATURE_FILE).unlink()
    (root / SIGNATURE_FILE).symlink_to("/etc/hostname")
    with pytest.raises(PackageError):
        verify_package(root, {}, TODAY)
