"""The commands besides serving, run as programs: what they print, what they answer when there is nothing, their codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lading import __version__
from tests.models import tiny_model, write_model
from tests.program import environment, run
from tests.simulators.vllm_program import install

BINARIES = Path(sys.executable).parent


@pytest.fixture
def environ(tmp_path):
    (tmp_path / "home").mkdir()
    return environment(tmp_path, PATH="/usr/bin:/bin", LADING_OFFLINE="1")


def test_the_version_is_the_packages(environ):
    assert run(["--version"], environ).stdout == f"lading {__version__}\n"


def test_without_a_model_and_a_command_the_help_is_shown(environ):
    done = run([], environ)
    assert done.returncode == 0
    assert "list-model-profiles" in done.stdout


def test_without_a_command_a_model_in_the_environment_is_served(tmp_path, environ):
    done = run([], {**environ, "NIM_MODEL_PATH": str(tmp_path / "nowhere")})
    assert done.returncode == 3
    assert str(tmp_path / "nowhere") in done.stderr


@pytest.mark.parametrize("command", ["serve", "nim-serve", "list-model-profiles", "engine", "settings"])
def test_every_command_has_help(environ, command):
    assert "usage: lading" in run([command, "--help"], environ).stdout


@pytest.mark.parametrize("name", ["nim-serve", "list-model-profiles"])
def test_nims_bare_names_are_programs(tmp_path, environ, name):
    done = subprocess.run(
        [BINARIES / name, str(tmp_path / "nowhere")], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "nowhere" in done.stderr


def test_the_settings_are_listed_and_a_closed_pipe_is_no_error(environ):
    assert "`NIM_MODEL_PATH`" in run(["settings"], environ).stdout
    shell = f"{sys.executable} -m lading.cli settings | head -1"
    done = subprocess.run(
        ["bash", "-c", shell], env={**environ, "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("| variable")
    assert done.stderr == ""


def test_no_engine_is_said(environ):
    assert "lading engine install" in run(["engine", "list"], environ).stdout
    done = run(["engine", "path"], environ)
    assert done.returncode == 7
    assert "lading engine install" in done.stderr


def test_an_engine_on_path_is_listed(tmp_path, environ):
    engine = install(tmp_path / "engine")
    done = run(["engine", "list"], {**environ, "PATH": f"{engine}:/usr/bin:/bin"})
    assert "vllm 0.32.0+cpu  cpu  2 architectures  from PATH" in done.stdout


def test_what_an_install_would_do_is_said_and_not_done(tmp_path, environ):
    done = run(["engine", "install", "--dry-run"], environ)
    assert done.returncode == 0
    assert "MiB" in done.stdout
    assert not (tmp_path / "data").exists()


def test_removing_nothing_frees_nothing(environ):
    assert run(["engine", "remove", "--dry-run"], environ).stdout == "0 B would be freed\n"
    assert run(["engine", "remove"], environ).stdout == "removed, 0 B freed\n"


@pytest.mark.parametrize("arguments", [["engine"], ["engine", "fly"], ["plan", "--format", "yaml"]])
def test_wrong_arguments_show_the_usage(environ, arguments):
    done = run(arguments, environ)
    assert done.returncode == 2
    assert "usage: lading" in done.stderr


def test_a_setting_that_cannot_be_read_is_said_by_every_command(tmp_path, environ):
    model = write_model(tmp_path / "m", tiny_model())
    done = run(["list-model-profiles", str(model)], {**environ, "NIM_SERVER_PORT": "eighty"})
    assert done.returncode == 2
    assert "NIM_SERVER_PORT='eighty'" in done.stderr


def test_a_listing_works_without_any_engine(tmp_path, environ):
    model = write_model(tmp_path / "m", tiny_model())
    done = run(["list-model-profiles", str(model)], environ)
    assert done.returncode == 0
    assert "no vllm engine is installed" in done.stdout
