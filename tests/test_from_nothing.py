"""From a checkpoint to an answer: ``serve`` builds what is missing, a base model continues text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import powertrain
from api.process.launch import bind, build_service
from api.process.server import Server
from api.server_settings import Settings
from export.checkpoint.checkpoint import TextFiles
from export.commands.export import export_command
from export.package.chat_template import with_chosen_template
from export.source.argument import recipe_from_argument
from export.source.recipe import FolderSource, Recipe
from runtime.errors import PackageError
from runtime.package.manifest import load_package
from tests.export.tiny_models import write_tiny_folder
from tests.paths import ROOT

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("source") / "Tiny-Base", "llama")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / "packages"


@contextmanager
def serving(package: Path) -> Iterator[httpx.Client]:
    settings = Settings(port=0, num_slots=2, max_model_len=64)
    service = build_service(settings, load_package(package))
    sock = bind(settings.host, 0)
    server = Server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    transport = httpx.HTTPTransport(retries=10)
    with httpx.Client(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", transport=transport) as client:
        while client.get("/v1/health/ready").status_code != 200:
            pass
        yield client
    server.should_exit = True
    thread.join(timeout=30)
    sock.close()


def test_a_checkpoint_is_built_once_and_then_found_by_name(
    checkpoint: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "export").mkdir()  # a package named like one of our rooms must not come before it
    (tmp_path / "export" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POWERTRAIN_HOME", str(home))
    folder = powertrain._build(str(checkpoint))
    assert folder == home / "tiny-base"
    said = capfd.readouterr()
    assert said.out == ""  # it may be a pipe that waits for a model's answer
    assert "tiny-base" in said.err
    before = (folder / "manifest.json").stat().st_ino
    monkeypatch.setattr("subprocess.Popen", None)
    assert powertrain._build("tiny-base") == powertrain._build(str(folder)) == folder
    assert (folder / "manifest.json").stat().st_ino == before


def test_a_base_model_completes_and_says_why_it_does_not_chat(home: Path) -> None:
    with serving(home / "tiny-base") as client:
        completion = client.post("/v1/completions", json={"prompt": "a b", "max_tokens": 3})
        chat = client.post("/v1/chat/completions", json=HELLO)
    assert completion.status_code == 200
    assert completion.json()["usage"]["completion_tokens"] == 3
    assert chat.status_code == 400
    error = chat.json()["error"]
    assert error["param"] == "messages"
    for way in ("/v1/completions", "powertrain serve --chat-template FILE", "powertrain export --chat-template FILE"):
        assert way in error["message"]


def test_an_exported_template_lets_it_chat(checkpoint: Path, tmp_path: Path) -> None:
    template, root = tmp_path / "chat.jinja", tmp_path / "with-template"
    template.write_text("{% for message in messages %}{{ message.content }}</s>{% endfor %}")
    words = [str(checkpoint), "-o", str(root), "--no-quality", "--chat-template", str(template)]
    result = CliRunner().invoke(export_command, words)
    assert result.exit_code == 0, result.output
    assert load_package(root).read_text("chat_template.jinja") == template.read_text()
    again = CliRunner().invoke(export_command, words)
    assert "up to date" in " ".join(again.output.split())  # a long path breaks the line anywhere
    with serving(root) as client:
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
    template.write_text("{{ raise_exception('no') }}")
    assert "cannot render a first turn: no" in CliRunner().invoke(export_command, words).output
    template.unlink()
    assert "chat_template" in CliRunner().invoke(export_command, words).output


def test_a_named_template_s_end_of_turn_ends_answers(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    tokenizer.add_special_tokens(["<|im_end|>", "<|end|>"])
    text = TextFiles(tokenizer_json=tokenizer.to_str(), chat_template=None, special_tokens={}, stop_token_ids=(0,))
    (tmp_path / "chat.jinja").write_text("{{ messages[0].content }}<|im_end|>")
    recipe = Recipe(name="x", source=FolderSource(path="x"), chat_template="chat.jinja")
    assert with_chosen_template(text, recipe, tmp_path).stop_token_ids == (0, 1)
    assert recipe.digest() != Recipe(name="x", source=FolderSource(path="x")).digest()


def test_what_cannot_be_built_is_told_with_what_was_meant(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTRAIN_HOME", str(home))
    with pytest.raises(PackageError, match="did you mean smollm2-135m-instruct"):
        powertrain._build("smollm2-135m-instrct")
    with pytest.raises(PackageError, match=r"did you mean .*/tiny-base"):
        powertrain._build("tiny-bse")
    with pytest.raises(PackageError, match=r"neither a package, a recipe .*; the recipes here: smollm2-135m-instruct"):
        powertrain._build("models/nothing")  # not asked of the hub
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(PackageError, match=r"broken\.gguf could not be built"):
        powertrain._build(str(home / "broken.gguf"))


def test_a_recipe_and_its_package_are_meant_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTRAIN_HOME", str(tmp_path))
    (tmp_path / "smollm2-135m-instruct").mkdir()
    (tmp_path / "smollm2-135m-instruct" / "manifest.json").write_text("{}")
    with pytest.raises(PackageError) as told:
        powertrain._build("smollm2-135m-instrct")
    assert str(told.value).count("did you mean") == 1


def test_a_recipe_s_name_is_enough(home: Path) -> None:
    recipe, base = recipe_from_argument("smollm2-135m-instruct", home)
    assert (recipe.name, base) == ("smollm2-135m-instruct", home)
    recipe, base = recipe_from_argument(str(ROOT / "models" / "smollm2-135m-instruct.toml"), home)
    assert (recipe.name, base) == ("smollm2-135m-instruct", home)
