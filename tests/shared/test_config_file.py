"""What an operator may write into mlx-server.toml, what it comes to, and what is said where it is wrong."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config_file import AT_HOME, line_of
from shared.dotenv import NOT_FROM_A_FOLDER
from shared.model_table import ModelTable
from shared.models import ModelSource, Registry, _fits, draft_source
from shared.settings import PREFIX, Settings, load_settings

Load = Callable[..., Settings]


@pytest.fixture(autouse=True)
def _nothing_else_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, home = tmp_path / "folder", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv(f"{PREFIX}CONFIG", raising=False)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Settings by a file that the operator named."""

    def load(text: str, **options: object) -> Settings:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return load_settings(config=str(path), **options)

    return load


@pytest.fixture
def refused(load: Load, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    def refused(text: str) -> str:
        with pytest.raises(SystemExit) as exit:
            load(text)
        assert exit.value.code == 2
        return capsys.readouterr().err

    return refused


# ---------------------------------------------------------------- which file, and who wins


def test_without_a_file_all_is_as_before() -> None:
    settings = load_settings()
    assert settings.config is None
    assert settings.available_models == Settings.model_fields["available_models"].default


def test_the_file_of_the_folder_wins_over_the_one_at_home_and_a_named_one_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_home = tmp_path / "home" / AT_HOME.relative_to("~")
    at_home.parent.mkdir(parents=True)
    for number, path in enumerate((at_home, Path("mlx-server.toml"), tmp_path / "named.toml"), 8001):
        path.write_text(f"[server]\nport = {number}\n")
        if number == 8003:
            monkeypatch.setenv(f"{PREFIX}CONFIG", str(path))
        settings = load_settings()
        assert (settings.port, settings.config) == (number, path.absolute())
    monkeypatch.setenv(f"{PREFIX}CONFIG", "")
    assert load_settings().config is None


def test_options_the_environment_and_dotenv_win_over_the_file_key_by_key(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[server]\nport = 8001\nlog_level = 'debug'\nqueue_age = 5\nkeepalive = 2.5\n"
    monkeypatch.setenv(f"{PREFIX}port", "8002")
    Path(".env").write_text(f"{PREFIX}LOG_LEVEL=error\n")
    settings = load(text, queue_age=7)
    assert (settings.port, settings.log_level, settings.queue_age, settings.keepalive) == (
        8002,
        "error",
        7,
        2.5,
    )


@pytest.mark.parametrize(
    "name", sorted(set(Settings.model_fields) - {"config", "models", "available_models"})
)
def test_each_setting_can_stand_in_the_file_by_its_lower_case_name(
    name: str, refused: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)
    assert f"mine.toml, line 2: server.{name}: " in refused(f"[server]\n{name} = {{wrong = 1}}\n")


def test_a_named_file_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"{PREFIX}CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(SystemExit):
        load_settings()
    assert f"{PREFIX}CONFIG: there is no file {tmp_path / 'none.toml'}" in capsys.readouterr().err


# ---------------------------------------------------------------- models


def test_the_tables_say_which_models_there_are_and_where_they_come_from(load: Load, tmp_path: Path) -> None:
    settings = load(
        '[models."org/name"]\nrevision = "v2"\n[models.mine]\nsource = "./weights"\n'
        '[models.smollm2-135m-instruct]\n[models.small]\nsource = "embedded"\n'
    )
    assert list(settings.sources.values()) == [
        ModelSource("org/name", "hub", "org/name", "v2"),
        ModelSource("mine", "folder", str(tmp_path / "weights")),
        ModelSource("smollm2-135m-instruct", "embedded", ""),
        ModelSource("small", "embedded", ""),
    ]


def test_the_environment_says_which_of_them_are_served(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}AVAILABLE_MODELS", "big,other/model")
    settings = load(
        '[models.big]\nsource = "org/big"\naliases = ["b"]\n[models.small]\nsource = "org/s"\naliases = ["s"]\n'
    )
    assert [source.location for source in settings.sources.values()] == ["org/big", "other/model"]
    assert [settings.registry.resolve(name) for name in ("b", "s", "small")] == ["big", None, None]


def test_tables_can_be_given_in_the_environment_as_json(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}MODELS", '{"a/b": {"aliases": ["c"]}}')
    assert load("[models.x]\n").registry == Registry.of(["a/b"], {"a/b": ModelTable(aliases=("c",))})


def test_a_name_is_looked_for_among_models_then_aliases_then_patterns(load: Load) -> None:
    registry = load(
        '[models.big]\naliases = ["claude-*", "gpt-4o"]\nsource = "o/big"\n'
        '[models.small]\naliases = ["claude-*-haiku*", "*-mini", "gpt-4o-mini"]\nsource = "o/small"\n'
        '[models.claude-mine]\nsource = "o/mine"\n'
    ).registry
    asked = [
        "big",
        "claude-opus",
        "claude-3-haiku-x",
        "claude-mine",
        "gpt-4o",
        "gpt-4o-mini",
        "x-mini",
        "gpt-5",
        "*",
    ]
    assert [registry.resolve(name) for name in asked] == [
        *("big", "big", "small", "claude-mine", "big", "small", "small", None, None)
    ]


@given(st.text("ab*", max_size=6), st.text("ab", max_size=8))
def test_a_star_is_any_text_and_nothing_else_is(pattern: str, name: str) -> None:
    def fits(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return any(fits(pattern[1:], name[start:]) for start in range(len(name) + 1))
        return name[:1] == pattern[0] and fits(pattern[1:], name[1:])

    if "*" in pattern:
        assert _fits(pattern, name) == fits(pattern, name)


def test_the_default_model_may_be_an_alias(load: Load) -> None:
    text = '[server]\ndefault_model = "gpt-4o"\n[models."a/b"]\naliases = "gpt-4o"\n'
    assert load(text).default_model == "gpt-4o"


# ---------------------------------------------------------------- what is wrong

A, B = '[models."a/a"]\n', '[models."b/b"]\n'


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            f'{A}aliases = ["x"]\n{B}aliases = ["y", "x"]\n',
            4,
            """aliases[1]: 'x' is an alias of 'a/a' and of 'b/b'""",
        ),
        (f'{A}aliases = ["c-*"]\n{B}aliases = ["c-*"]\n', 4, "is an alias of 'a/a' and of 'b/b'"),
        (f'{A}aliases = [\n  "y",\n  "b/b",\n]\n{B}', 2, "alias 'b/b' of 'a/a' would hide the model 'b/b'"),
        (
            f'{A}aliases = ["b/b"]\n{B}aliases = ["a/a"]\n',
            2,
            "'a/a' and 'b/b' are models, and each is an alias",
        ),
        (f'{A}aliases = ["a/a"]\n', 2, "'a/a' is the model's own name"),
        (f'{A}aliases = ["x", "x"]\n', 2, "'x' stands here twice"),
        (f'{A}aliases = ["a b"]\n', 2, "'a b' is no name"),
        (f'{A}aliases = [""]\n', 2, "'' is no name"),
        (f'{A}aliases = ["gpt-[45]"]\n', 2, "is no name"),
        (f"{A}alias = ['x']\n", 2, """models."a/a".alias: there is no such key; did you mean aliases?"""),
        (f"{A}[models.'a/a'.defaults]\ntemprature = 1\n", 3, "did you mean temperature?"),
        (
            f"{A}defaults = {{temperature = 3}}\n",
            2,
            """models."a/a".defaults.temperature: Input should be less""",
        ),
        (f"{A}context_length = 1\n", 2, "greater than or equal to 16"),
        (f"{A}replicas = 0\n", 2, """models."a/a".replicas: '0' is not a number of workers from 1 to 64"""),
        (f'{A}replicas = "3-2"\n', 2, "such as 2, nor a range such as 1-2"),
        (f"{A}replicas = true\n", 2, """models."a/a".replicas: Input should be a valid string"""),
        ('[server]\nreplicas = "many"\n', 2, "server.replicas: 'many' is not a number of workers"),
        (f'{A}source = "a b"\n', 2, "'a b' is no repository of the hub"),
        (f'{A}source = "/x"\nrevision = "v1"\n', 3, "only a model of the hub has revisions"),
        ('[models]\n"a b" = {}\n', 2, "'a b' is not a model's name"),
        ("[models]\nx = 1\n", 2, "models.x: this is a table"),
        (f"{A}{A}", None, "not TOML"),
        ("[server]\nprot = 1\n", 2, "server.prot: there is no such setting; did you mean port?"),
        ("[server]\nport = 0\n", 2, "server.port: Input should be greater"),
        ("\n\nport = 1\n", 3, "port: there are [server] and [models."),
        ("server = 1\n", 1, "this is a table: [server]"),
        ('[server]\navailable_models = ["a"]\n[models.x]\n', 2, "this file has [models] as well"),
        (f'[server]\ndefault_model = "c"\n{A}', 2, "'c' is not one of available_models"),
        ('[server]\nconfig = "x"\n', 2, "there is no such setting"),
        ("[server]\nport = 1 # é\nworker_command = '[\"'\n", 3, "starts like a JSON list"),
    ],
)
def test_an_error_names_the_file_the_line_the_key_and_both_models(
    text: str, line: int | None, said: str, refused: Callable[[str], str]
) -> None:
    error = refused(text)
    assert f"mine.toml{f', line {line}' if line else ''}: " in error
    assert said in error


SERVE = 'serve = ["x", "{port}"]'


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('serve = ["x"]', "serve has to say {port}"),
        ("concurrency = 4", "concurrency is of a model with `serve` only"),
        (f'{SERVE}\nsource = "org/name"', "source is for the server that `serve` starts to decide"),
        (f'{SERVE}\nendpoints = ["chats"]', "models.x.endpoints[0]: "),
        (f'{SERVE}\nready = "health"', "models.x.ready: "),
        (f'{SERVE}\nstop_signal = "SIGSTOP"', "models.x.stop_signal: "),
    ],
)
def test_a_table_of_a_hosted_model_is_checked(table: str, said: str, refused: Callable[[str], str]) -> None:
    error = refused(f"[models.x]\n{table}\n")
    assert "mine.toml, line" in error
    assert said in error


@pytest.mark.parametrize(
    ("key", "content", "said"),
    [
        ("chat_template", None, "cannot be read: No such file or directory"),
        ("chat_template", b"\xff", "is no chat template: it is not UTF-8 at byte 0"),
        (
            "chat_template",
            b"{% if messages %}\n{% endfor %}",
            "is no chat template: line 2: Encountered unknown tag",
        ),
        ("chat_template", b"Dear reader", "is no chat template: it never reads messages"),
        (
            "chat_template",
            b"{{ messages }}" + b"x" * (1 << 20),
            "is no chat template: it has more than 1048576",
        ),
        ("python", None, "there is no program"),
        ("python", b"#!/bin/sh", "may not be run"),
    ],
)
def test_a_file_of_a_table_that_cannot_be_what_it_should_is_an_error_with_file_line_and_key(
    key: str, content: bytes | None, said: str, refused: Callable[[str], str], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "it").write_bytes(content)
    error = refused(f'[models.x]\npinned = true\n{key} = "it"\n')
    assert f"mine.toml, line 3: models.x.{key}: {tmp_path / 'it'} {said}" in error or (
        f"mine.toml, line 3: models.x.{key}: {said} {tmp_path / 'it'}" in error
    )


def test_files_of_a_table_are_meant_from_the_file_on(load: Load, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{% generation %}{{ messages }}{% endgeneration %}")
    (tmp_path / "python").symlink_to(sys.executable)
    table = load('[models.x]\nchat_template = "mine.jinja"\npython = "./python"\n').table("x")
    assert table.chat_template == tmp_path / "mine.jinja"
    assert table.python == tmp_path / "python"


@pytest.mark.parametrize("revision", ["", 'revision = "main"', 'revision = "abc1234"'])
def test_code_without_a_pinned_revision_is_an_error_that_names_both(
    revision: str, refused: Callable[[str], str]
) -> None:
    error = refused(f'[models."org/x"]\n{revision}\nallow_code = true\n')
    assert 'mine.toml, line 3: models."org/x".allow_code: code is run only of a pinned revision' in error
    assert "set revision to the commit" in error


def test_code_of_a_pinned_revision_is_allowed_for_that_model_alone(load: Load) -> None:
    text = f'[models."org/x"]\nrevision = "{"a" * 40}"\nallow_code = true\n[models."org/y"]\n'
    assert {name: source.allow_code for name, source in load(text).sources.items()} == {
        "org/x": True,
        "org/y": False,
    }


def test_code_of_a_folder_is_never_allowed(refused: Callable[[str], str]) -> None:
    text = f'[models.x]\nsource = "/m"\nallow_code = true\nrevision = "{"a" * 40}"\n'
    assert "models.x.revision: only a model of the hub has revisions" in refused(text)


def test_a_draft_is_a_repository_or_a_folder_seen_from_the_file(
    load: Load, refused: Callable[[str], str], tmp_path: Path
) -> None:
    text = '[models.x]\nsource = "o/x"\ndraft = "./small"\n[models.y]\nsource = "o/y"\ndraft = "o/small"\n'
    settings = load(text)
    drafts = [draft_source(name, settings.table(name)) for name in ("x", "y")]
    assert [draft and draft.location for draft in drafts] == [str(tmp_path / "small"), "o/small"]
    error = refused('[models.x]\nsource = "o/x"\ndraft = "no name"\n')
    assert "line 3: models.x.draft: 'no name' is no repository of the hub" in error


@pytest.mark.parametrize("key", ["draft", "chat_template", "python", "allow_code"])
def test_a_file_that_was_merely_found_names_no_file_and_no_program(
    key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mlx-server.toml").write_text(f'[models.x]\n{key} = "{sys.executable}"\n')
    with pytest.raises(SystemExit):
        load_settings()
    assert f"line 2: models.x.{key}: a file in the folder where" in capsys.readouterr().err
    Path("mlx-server.toml").unlink()
    Path(".env").write_text(f'MLX_SERVER_MODELS={{"x": {{"{key}": "{sys.executable}"}}}}\n')
    with pytest.raises(SystemExit):
        load_settings()
    assert "MLX_SERVER_MODELS: line 1 of" in capsys.readouterr().err


def test_an_error_of_the_environment_names_its_variable(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"{PREFIX}MODELS", '{"a/b": {"alias": []}}')
    with pytest.raises(SystemExit):
        load("[models.x]\n")
    assert f'{PREFIX}MODELS: "a/b".alias: there is no such key' in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\xff", b"x" * 300_000, b"a = [" * 5000], ids=["bytes", "long", "deep"])
def test_a_file_that_is_no_text_of_ours_is_refused_with_its_path(
    content: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mlx-server.toml").write_bytes(content)
    with pytest.raises(SystemExit):
        load_settings()
    said = capsys.readouterr().err
    assert str(Path("mlx-server.toml").absolute()) in said
    assert len(said) < 500


KEYS = st.sampled_from(["a", "b", "c d", "é", "=", "#"])


@given(
    st.lists(
        st.tuples(KEYS, st.sampled_from(["1", '"""\n#x\n"""', "[\n1,\n\n2]", "{a = 1, b = 2}"])),
        max_size=8,
        unique_by=lambda pair: pair[0],
    )
)
def test_the_line_of_a_key_is_where_it_is_set_whatever_stands_around_it(pairs: list[tuple[str, str]]) -> None:
    text, wanted = "[server]\n", {}
    for name, value in pairs:
        text += f"# {name} = 1\n\n"
        wanted[name] = text.count("\n") + 1
        text += f'"{name}" = {value}\n'
    assert {name: line_of(text, ("server", name)) for name in wanted} == wanted


# ---------------------------------------------------------------- a file that may be a stranger's


@pytest.mark.parametrize(
    ("text", "key"),
    [
        *((f"[server]\n{name} = 'x'\n", f"server.{name}") for name in sorted(NOT_FROM_A_FOLDER - {"config"})),
        ("[server]\navailable_models = 'a/b,/tmp'\n", "server.available_models"),
        ("[server]\navailable_models = ['m=/tmp']\n", "server.available_models"),
        ("[models.x]\nsource = '/tmp'\n", "models.x.source"),
        ("[models.x]\nsource = './x'\n", "models.x.source"),
        ("[models.x]\nsource = '~/x'\n", "models.x.source"),
    ],
)
def test_a_file_found_in_the_folder_names_no_command_host_origin_or_folder(
    text: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mlx-server.toml").write_text(text)
    with pytest.raises(SystemExit):
        load_settings()
    said = capsys.readouterr().err
    assert f"{Path('mlx-server.toml').absolute()}, line 2: {key}: " in said
    assert "--config" in said


@pytest.mark.parametrize("line", ["CONFIG=/tmp/x.toml", """MODELS='{"x": {"source": "/tmp"}}'"""])
def test_dotenv_names_no_such_file_and_no_folder_in_tables(line: str) -> None:
    Path(".env").write_text(f"{PREFIX}{line}\n")
    with pytest.raises(SystemExit):
        load_settings()
