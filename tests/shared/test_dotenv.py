"""A `.env` in the folder where a server is started may tune it, and no more."""

from pathlib import Path

import pytest

from shared.dotenv import NOT_FROM_A_FOLDER, PREFIX, read_dotenv, unknown_names
from shared.settings import Settings, load_settings


@pytest.mark.parametrize("setting", sorted(NOT_FROM_A_FOLDER))
def test_a_file_of_the_folder_neither_runs_programs_nor_opens_the_server_nor_chooses_folders(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(f"# mine\n{PREFIX}{setting.upper()}=x\n")
    with pytest.raises(SystemExit):
        load_settings()
    said = capsys.readouterr().err
    assert f"{PREFIX}{setting.upper()}: line 2 of {tmp_path / '.env'}" in said


@pytest.mark.parametrize(
    ("models", "refused"),
    [
        ("a/b,mine=/tmp/x", True),
        ("/tmp/x", True),
        (r'["a/b", "\/tmp\/x"]', True),
        ("${ELSEWHERE}", True),
        ("a/b,c/d", False),
    ],
)
def test_a_dotenv_file_names_models_but_no_folders(
    models: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(f"ELSEWHERE=/tmp/x\n{PREFIX}AVAILABLE_MODELS={models}\n")
    if refused:
        with pytest.raises(SystemExit):
            load_settings()
    else:
        assert list(load_settings().sources) == ["a/b", "c/d"]


def test_a_name_that_is_no_setting_gets_the_nearest_that_is() -> None:
    names = ["MLX_SERVER_PROT", "MLX_SERVER_PORT", "MLX_SERVER_FAULT", "HOME"]
    assert unknown_names(names, Settings.model_fields) == [
        "MLX_SERVER_PROT is no setting; did you mean MLX_SERVER_PORT?"
    ]


def test_an_error_of_two_settings_together_names_the_wrong_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_settings(default_model="nobody")
    assert f"{PREFIX}DEFAULT_MODEL: 'nobody' is not one of available_models" in capsys.readouterr().err


def test_a_line_is_counted_from_the_top_also_behind_empty_ones(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("\n\n# a comment\nOTHER=1\n\n  MLX_SERVER_PORT=8001\nMLX_SERVER_TTL=3\n")
    assert [line.number for line in read_dotenv(file)] == [6, 7]


@pytest.mark.parametrize("endless", ["/dev/zero", "/dev/full"])
def test_a_dotenv_file_that_leads_to_a_device_without_an_end_is_not_read(
    tmp_path: Path, endless: str
) -> None:
    (file := tmp_path / ".env").symlink_to(endless)
    assert read_dotenv(file) == []
