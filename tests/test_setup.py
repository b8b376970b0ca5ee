"""
Set-up is shell, so it runs here on made-up machines: a folder of small programs is all of PATH.
The real thing is run by `make`, which had to succeed before these tests could start.
"""

import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("sed", "dirname", "mkdir", "tail", "cat", "env")


@pytest.fixture
def machine(tmp_path):
    """The tools of any system, an ordinary user, no sudo; `machine(name, script)` adds more."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))

    def add(name, script):
        program = folder / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        program.chmod(0o755)
        return program

    add("id", "echo 1000")
    add.path = folder
    return add


def java(machine, name, specification, home):
    facts = f"    java.home = {home}\\n    java.specification.version = {specification}\\n"
    return machine(name, f"printf '{facts}' >&2")


def run(machine, script, **variables):
    sources = "set -euo pipefail; . deploy/system.sh; . deploy/python.sh; . deploy/java.sh; "
    return subprocess.run(
        [shutil.which("bash"), "-c", sources + script],
        cwd=ROOT,
        env={
            "PATH": str(machine.path),
            "FUNNEL_JVMS": "",
            "log": str(machine.path / "log"),
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_java_and_without_rights_it_says_what_to_install_and_stops(machine):
    machine("apt-get", "exit 99")
    done = run(machine, "need_java; echo went on")
    assert done.returncode == 1
    assert "Java 17 or newer (none found)" in done.stderr
    assert "sudo apt-get install -y --no-install-recommends openjdk-17-jre-headless" in done.stderr
    assert "went on" not in done.stdout


def test_java_is_installed_as_root(machine):
    machine("id", "echo 0")
    home = machine.path / "home"
    installs = f"""case "$*" in
        update*) ;;
        *openjdk-17*) exit 100 ;;
        *openjdk-21*) echo "$DEBIAN_FRONTEND" >{home}.frontend; mv {home}.packed {home} ;;
    esac"""
    machine("apt-get", installs)
    machine.path.joinpath("mv").symlink_to(shutil.which("mv"))
    java(machine, "home.packed/bin/java", "21", home)
    done = run(machine, 'need_java; echo "home=$java_home"', FUNNEL_JVMS=f"{home}/bin/java")
    assert done.returncode == 0, done.stderr
    assert f"home={home}" in done.stdout
    assert Path(f"{home}.frontend").read_text() == "noninteractive\n"


def test_root_may_forbid_the_package_manager(machine):
    machine("id", "echo 0")
    machine("apt-get", "exit 99")
    done = run(machine, "need_java", FUNNEL_SYSTEM="no")
    assert done.returncode == 1
    assert "this user may not install it" in done.stderr


def test_an_old_java_is_named_and_a_newer_one_elsewhere_is_taken(machine):
    home = machine.path / "jvm"
    java(machine, "java", "1.8", machine.path)
    new = java(machine, "jvm/bin/java", "17", home)
    done = run(machine, 'need_java; echo "home=$java_home"', FUNNEL_JVMS=str(new))
    assert done.stdout == f"home={home}\n"
    machine("dnf", "exit 99")
    done = run(machine, "need_java")
    assert "java is Java 1.8)" in done.stderr
    assert "sudo dnf install -y java-17-openjdk-headless" in done.stderr


def test_java_home_wins_over_path(machine):
    java(machine, "java", "21", machine.path / "elsewhere")
    home = machine.path / "mine"
    java(machine, "mine/bin/java", "17", home)
    done = run(machine, 'need_java; echo "home=$java_home"', JAVA_HOME=str(home))
    assert done.stdout == f"home={home}\n"


def fake_python(machine, name, version, bare=False):
    machine(name, f'case "$2" in *ensurepip*) exit {int(bare)} ;; *print*) echo {version} ;; esac')


def test_a_python_in_range_is_chosen_and_shims_without_one_are_passed_over(machine):
    fake_python(machine, "python3", "3.9.2")
    machine("python3.12", "exit 127")
    fake_python(machine, "python3.13", "3.13.0")
    assert run(machine, "find_python; echo $python").stdout == "python3.13\n"


@pytest.mark.parametrize("version", ["3.10.13", "3.14.0", "2.7.18"])
def test_without_a_python_in_range_the_error_names_what_was_found(machine, version):
    fake_python(machine, "python3", version)
    done = run(machine, "find_python")
    assert done.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert f"python3 is {version}" in done.stderr


def test_python_without_its_venv_package_says_which_one(machine):
    machine("apt-get", "exit 99")
    fake_python(machine, "python3", "3.11.7", bare=True)
    done = run(machine, "find_python")
    assert done.returncode == 1
    assert "sudo apt-get install -y --no-install-recommends python3.11-venv" in done.stderr


def test_a_failing_step_shows_the_end_of_its_log_and_the_remedy(machine):
    done = run(machine, "step installing 'free some space' bash -c 'echo no space left; exit 3'")
    assert done.returncode == 1
    assert "free some space" in done.stderr


def plain(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_pin_is_one_exact_public_version():
    assert all(re.fullmatch(r"[a-z0-9.-]+==[a-z0-9.]+", pin) for pin in pins())
    assert len({plain(pin) for pin in pins()}) == len(pins())


def test_everything_that_the_project_asks_for_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    assert {plain(name) for name in asked} - {plain(pin) for pin in pins()} == {"funnel"}


# A Python that makes "virtual environments" of itself and writes down what pip was asked for.
PYTHON = """
case "$*" in
    *%d.%d*) echo 3.12.1 ;;
    "-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    "-m pip --version" | "-c"*) ;;
    *"pip show -q $INSTALLED") ;;
    *"pip show"*) exit 1 ;;
    *pip*) echo "$*" >>pip.log ;;
    "- "*) echo "$2,rank" ;;
    "-") exit "${GPU_WORKS:-1}" ;;
esac"""


@pytest.fixture
def checkout(machine, tmp_path):
    for name in ("cksum", "grep", "rm", "cp"):
        (machine.path / name).symlink_to(shutil.which(name))
    machine("python3", PYTHON)
    java(machine, "jvm/bin/java", "17", machine.path / "jvm")
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)

    def setup(**variables):
        """What pip was asked to do, one line a call, and what was printed."""
        (folder / "pip.log").write_text("")
        env = {"PATH": str(machine.path), "JAVA_HOME": str(machine.path / "jvm"), **variables}
        done = subprocess.run(
            [shutil.which("bash"), "deploy/setup.sh"],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return (folder / "pip.log").read_text().splitlines(), done.stdout

    setup.folder = folder
    return setup


def test_torch_is_installed_alone_and_before_everything_else(checkout):
    calls, _ = checkout()
    assert calls[0].endswith("install -c .venv/setup/pins.txt torch==2.13.0")
    assert "-e .[recall,rank]" in calls[-1]


def test_a_second_set_up_does_nothing_and_says_nothing(checkout):
    assert checkout()[0]
    assert checkout() == ([], "")
    with (checkout.folder / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    assert checkout()[0]
    assert checkout() == ([], "")


def test_a_moved_checkout_is_set_up_again(checkout):
    checkout()
    (checkout.folder / ".venv/setup/root").write_text("/elsewhere\n")
    (checkout.folder / ".venv/setup/key").write_text("/elsewhere\n")
    assert "virtual environment" in checkout()[1]


def test_another_torch_frees_its_pins_and_is_remembered(checkout):
    calls, _ = checkout(FUNNEL_TORCH="torch==2.14.1")
    pinned = (checkout.folder / ".venv/setup/pins.txt").read_text()
    assert calls[0].endswith("torch==2.14.1")
    assert not re.search(r"^(torch|nvidia.*|triton|cuda.*)==", pinned, re.MULTILINE)
    assert "numpy==" in pinned
    assert checkout() == ([], "")


def test_a_gpu_gets_faiss_for_the_gpu_in_place_of_the_other(checkout, machine):
    machine("nvidia-smi", "exit 0")
    calls, _ = checkout(GPU_WORKS="0", INSTALLED="faiss-cpu")
    assert "uninstall -y faiss-cpu" in calls[-2]
    assert "-e .[gpu,rank]" in calls[-1]


def test_a_gpu_that_faiss_cannot_use_ends_with_the_cpu_build_and_says_so(checkout, machine):
    machine("nvidia-smi", "exit 0")
    calls, said = checkout(GPU_WORKS="1", INSTALLED="faiss-gpu")
    assert "uninstall -y faiss-gpu" in calls[-2]
    assert "-e .[recall,rank]" in calls[-1]
    assert "the CPU build takes its place" in said
