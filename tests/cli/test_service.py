"""``mlx-server service``: what launchd and systemd are told, and a server that a system starts."""

import os
import plistlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.service.files import LABEL, Launchd, Service, Systemd
from tests.cli.answering import answering
from tests.cli.command import call, run
from tests.ports import free_port

WORDS = st.lists(
    st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1, max_size=12), max_size=4
)
# systemctl of a system where nothing but this service runs: it starts what the unit says, and ends it by its pid.
SYSTEMCTL = f"""#!{sys.executable}
import os, pathlib, shlex, signal, subprocess, sys, time
home = pathlib.Path(os.environ["HOME"])
with (home / "calls").open("a") as calls: print(*sys.argv[1:], file=calls)
lines = (home / ".config/systemd/user/mlx-server.service").read_text().splitlines()
said = [line.split("=", 1) for line in lines if "=" in line]
pid = home / "pid"
if sys.argv[2] in ("stop", "restart") and pid.exists():
    os.kill(int(pid.read_text()), signal.SIGTERM)
    files = pathlib.Path(f"/proc/{{pid.read_text()}}/fd")
    while files.exists() and os.listdir(files): time.sleep(0.05)  # one that has ended has none
    pid.unlink()
if sys.argv[2] == "restart":
    environment = dict(shlex.split(value)[0].split("=", 1) for name, value in said if name == "Environment")
    command = shlex.split(dict(said)["ExecStart"])
    out = (home / "out").open("wb")
    started = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    pid.write_text(str(started.pid))
"""


def service(*words: str, personal: bool = False, home: str = "/home/anna") -> Service:
    return Service(
        ["/opt/m/bin/mlx-server", "serve", *words], "anna", 501, Path(home), Path(home) / "run", personal
    )


def test_launchd_starts_a_system_service_at_boot_as_its_user() -> None:
    job = plistlib.loads(Launchd(service("--port", "9000")).text().encode())
    assert job["Label"] == LABEL
    assert job["ProgramArguments"] == ["/opt/m/bin/mlx-server", "serve", "--port", "9000"]
    assert (job["RunAtLoad"], job["UserName"]) == (True, "anna")
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["EnvironmentVariables"]["HOME"] == "/home/anna"
    assert Launchd(service()).path == Path("/Library/LaunchDaemons/local.mlx-server.plist")


def test_a_users_own_service_names_no_user_and_lies_in_the_home() -> None:
    mine = Launchd(service(personal=True))
    assert "UserName" not in plistlib.loads(mine.text().encode())
    assert mine.path == Path("/home/anna/Library/LaunchAgents/local.mlx-server.plist")
    assert mine.start()[-1] == ("launchctl", "bootstrap", "gui/501", str(mine.path))
    unit = Systemd(service(personal=True))
    assert "User=" not in unit.text()
    assert "WantedBy=default.target" in unit.text()
    assert ("loginctl", "enable-linger", "anna") in unit.start()


def test_systemd_starts_a_system_service_at_boot_as_its_user() -> None:
    unit = Systemd(service("--port", "9000"))
    lines = unit.text().splitlines()
    assert {"User=anna", "WantedBy=multi-user.target", "Restart=on-failure", "KillMode=mixed"} <= set(lines)
    assert unit.path == Path("/etc/systemd/system/mlx-server.service")
    assert unit.start()[0] == ("systemctl", "daemon-reload")


@pytest.mark.parametrize("kind", [Launchd, Systemd])
def test_a_server_has_the_time_that_an_orderly_stop_takes(kind: type[Launchd] | type[Systemd]) -> None:
    from cli.serve import STOP_TIMEOUT
    from cli.service.files import STOP_SECONDS

    assert STOP_SECONDS > STOP_TIMEOUT
    assert str(STOP_SECONDS) in kind(service()).text()


@pytest.mark.parametrize("kind", [Launchd, Systemd])
@given(words=WORDS)
def test_a_command_is_read_back_from_the_file_as_it_was_given(kind: Any, words: list[str]) -> None:
    told = kind(service(*words))
    assert told.command_in(told.text()) == list(told.service.command)


@pytest.mark.parametrize(
    "text", ["", "<plist>", "<?xml version='1.0'?><plist><dict>", "ExecStart='", "[Service]"]
)
@pytest.mark.parametrize("kind", [Launchd, Systemd])
def test_a_file_that_is_no_service_is_said_to_be_none(kind: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        kind.command_in(text)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
@pytest.mark.parametrize("personal", [False, True])
def test_systemd_itself_finds_nothing_wrong_with_the_unit(personal: bool, tmp_path: Path) -> None:
    mine = Service([sys.executable, "serve", "100% $HOME"], "root", 0, tmp_path, tmp_path / "a run", personal)
    unit = tmp_path / "mlx-server.service"
    unit.write_text(Systemd(mine).text())
    scope = ["--user"] if personal else []
    done = subprocess.run(
        ["systemd-analyze", *scope, "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert "mlx-server.service" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_a_dry_run_prints_file_and_commands_and_does_nothing(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_dir)
    config = run_dir / "mine.toml"
    config.write_text("[server]\nport = 9001\n")
    done = call("service", "install", "--user", "--dry-run", "--config", "mine.toml", HOME=str(run_dir))
    assert done.returncode == 0
    assert str(config) in done.stdout
    assert "# then:" in done.stdout
    assert [path.name for path in run_dir.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--port", "99999"], "MLX_SERVER_PORT: "),
        (["--prot", "9000"], "No such option: --prot"),
        (["--models", "a=/no/such/folder"], "there is no folder /no/such/folder"),
        (["--detach"], "--detach is not for a service"),
        (["--log-level", "loud"], "MLX_SERVER_LOG_LEVEL: "),
        (["--run-dir", f"/{'long' * 30}"], "MLX_SERVER_RUN_DIR: "),
        (["--config"], "requires an argument"),
        (["9000"], "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_serve_cannot_use_make_no_service(
    words: list[str], sentence: str, run_dir: Path
) -> None:
    done = call("service", "install", "--user", *words, HOME=str(run_dir))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert not list(run_dir.iterdir())


@pytest.mark.parametrize("joint", [" ", "="])
def test_a_service_finds_the_files_that_were_named_from_another_folder(
    joint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("[server]\nport = 9001\n")
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    given = ["--config mine.toml", "--keys keys.json", "--run-dir run", "--model a=./model"]
    words = [word for option in given for word in option.replace(" ", joint, 1).split(" ")]
    done = call("service", "install", "--user", "--dry-run", "--port", "9002", *words, HOME="/home/anna")
    assert done.returncode == 0, done.stderr
    for name in ("mine.toml", "keys.json", "run", "a=model"):
        assert (f"a={tmp_path / 'model'}" if name == "a=model" else str(tmp_path / name)) in done.stdout
    assert "9002" in done.stdout


def test_what_a_service_will_not_find_is_named(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_dir)
    for name in ("CONFIG", "PROMPT_DISK_GB"):
        monkeypatch.delenv(f"MLX_SERVER_{name}")
    Path("mlx-server.toml").write_text("[server]\nport = 9001\n")
    Path(".env").write_text("MLX_SERVER_TTL=7\n")
    words = ("service", "install", "--user", "--dry-run")
    done = call(*words, HOME=str(run_dir), MLX_SERVER_PORT="9002")
    assert "do not reach the service" in done.stderr
    assert "MLX_SERVER_PORT, .env, mlx-server.toml.\n" in done.stderr
    named = call(*words, "--config", "mlx-server.toml", HOME=str(run_dir))
    assert named.stderr.endswith(".env.\n")


def test_where_another_server_has_the_port_no_service_is_made(run_dir: Path) -> None:
    (run_dir / "bin").mkdir()
    for name in ("systemctl", "launchctl"):
        (run_dir / "bin" / name).write_text("#!/bin/sh\n")
        (run_dir / "bin" / name).chmod(0o700)
    with answering(200, {}) as (port, _):
        done = call(
            *("service", "install", "--user", "--port", port), HOME=str(run_dir), PATH=str(run_dir / "bin")
        )
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is in use" in done.stderr
    assert not [*run_dir.rglob("*.service"), *run_dir.rglob("*.plist")]


@pytest.mark.parametrize("command", ["status", "logs", "restart", "uninstall"])
def test_without_a_service_it_is_said_how_to_get_one(command: str, tmp_path: Path) -> None:
    done = call("service", command, "--user", HOME=str(tmp_path))
    assert done.returncode == 1
    assert "service install --user` makes one" in done.stderr


@pytest.mark.parametrize("command", ["install", "status", "restart", "uninstall"])
def test_a_users_own_service_is_not_made_by_sudo(command: str, run_dir: Path) -> None:
    done = call("service", command, "--user", HOME=str(run_dir), SUDO_USER="nobody")
    assert (done.returncode, "without `sudo`" in done.stderr) == (1, True)
    assert not list(run_dir.iterdir())


@pytest.mark.parametrize("tool", ["", "#!/bin/sh\necho no bus >&2\nexit 1\n"], ids=["none", "one that fails"])
def test_where_the_system_does_not_take_the_service_no_file_is_left(tool: str, run_dir: Path) -> None:
    (run_dir / "bin").mkdir()
    for name in ("systemctl", "launchctl") if tool else ():
        (run_dir / "bin" / name).write_text(tool)
        (run_dir / "bin" / name).chmod(0o700)
    done = call("service", "install", "--user", HOME=str(run_dir), PATH=str(run_dir / "bin"))
    assert done.returncode == 1
    assert ("no bus" if tool else "does not run this system") in done.stderr
    assert not [*run_dir.rglob("*.service"), *run_dir.rglob("*.plist")]


@pytest.mark.skipif(sys.platform == "darwin", reason="it plays systemd")
def test_a_service_that_cannot_be_started_is_forgotten_before_its_file_goes(run_dir: Path) -> None:
    (run_dir / "bin").mkdir()
    tool = run_dir / "bin" / "systemctl"
    unit = run_dir / ".config/systemd/user/mlx-server.service"
    tool.write_text(f"#!/bin/sh\n[ -f {unit} ] && echo $2 >>{run_dir}/calls\n[ $2 != restart ]\n")
    tool.chmod(0o700)
    words = ("service", "install", "--user", "--port", str(free_port()))
    done = call(*words, HOME=str(run_dir), PATH=str(run_dir / "bin"))
    assert (done.returncode, "restart mlx-server.service` failed" in done.stderr) == (1, True)
    assert (run_dir / "calls").read_text().split() == ["daemon-reload", "enable", "restart", "disable"]
    assert not unit.exists()


@pytest.fixture
def home() -> Iterator[Path]:
    """With a systemctl; its path is short, as the sockets in it need."""
    folder = Path(f"/tmp/mlxs{os.getpid()}")
    (folder / "bin").mkdir(parents=True)
    for name, text in (
        ("systemctl", SYSTEMCTL),
        ("loginctl", "#!/bin/sh\n"),
        ("journalctl", "#!/bin/sh\ncat $HOME/out\n"),
    ):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o700)
    yield folder
    if (folder / "pid").exists():
        with suppress(ProcessLookupError):
            os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)  # a server that ends writes its last lines


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="it plays systemd")
@pytest.mark.timeout(180)
def test_a_service_is_ready_when_it_is_installed_and_again_when_it_is_restarted(home: Path) -> None:
    config = home / "mine.toml"
    config.write_text("[models.smollm2-135m-instruct]\nsource = 'embedded'\n")
    variables = {"HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    port = str(free_port())

    def service(*words: str) -> subprocess.CompletedProcess[str]:
        return run("service", *words, "--user", **variables)

    installed = service("install", "--port", port, "--config", str(config))
    assert installed.returncode == 0, installed.stderr
    assert f"The server is ready at http://127.0.0.1:{port}" in installed.stdout
    first = (home / "pid").read_text()

    config.write_text("[server]\nprot = 1\n")
    refused = service("restart")
    assert refused.returncode == 1
    assert f"{config}, line 2: server.prot: there is no such setting" in refused.stderr
    assert (home / "pid").read_text() == first  # it runs on
    assert service("status").returncode == 1  # its file is broken

    config.write_text("[models.smollm2-135m-instruct]\nsource = 'embedded'\n")
    assert service("status").returncode == 0
    assert service("restart").returncode == 0
    assert (home / "pid").read_text() != first
    assert "Serving smollm2-135m-instruct" in service("logs").stdout
    assert service("uninstall").returncode == 0
    assert service("status").returncode == 1
    assert "--user disable mlx-server.service" in (home / "calls").read_text()
