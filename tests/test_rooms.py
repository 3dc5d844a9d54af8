"""The rooms of covey: the imports of each, and the libraries that each command loads."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import covey
from covey.parts import kinds

ROOMS = (
    *("parts", "messages", "network", "runtime", "learning", "data", "aggregation", "enclave"),
    *("decentralized", "federated", "privacy", "view", "pages", "watch", "api", "cli"),
)
"""From the ground up; calls go downwards."""
APART = {("federated", "decentralized"), ("privacy", "decentralized"), ("privacy", "federated")}
"""Neighbours that do not know each other."""
UPWARDS = {("runtime/runs/run.py", "view"), ("runtime/runs/run.py", "learning"), ("runtime/experiment.py", "view")}
"""A run draws itself, and gives its models."""
SOURCES = Path(covey.__file__).parent


def imports(file: Path) -> set[str]:
    """The rooms of which a module imports something."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name}" for name in names]
        found |= {name.split(".")[1] for name in names if name.startswith("covey.") and name != "covey.__version__"}
    return found & set(ROOMS)


def test_calls_go_downwards():
    wrong = []
    for file in SOURCES.rglob("*.py"):
        name = file.relative_to(SOURCES)
        room = name.parts[0].removesuffix(".py")
        if room in ROOMS:
            above = [other for other in imports(file) if ROOMS.index(other) > ROOMS.index(room)]
            apart = [other for other in imports(file) if (room, other) in APART]
            wrong += [(str(name), other) for other in above + apart if (str(name), other) not in UPWARDS]
    assert not wrong


def test_every_module_is_in_a_room():
    names = {path.name.removesuffix(".py") for path in SOURCES.iterdir() if path.suffix in ("", ".py")}
    assert names - {"__pycache__", "__init__", "__main__"} == set(ROOMS)


def test_the_public_names_are_these():
    public = {
        *(
            "Callback",
            "Checkpoint",
            "Content",
            "CoveyError",
            "Evaluated",
            "Evaluation",
            "Experiment",
            "Inbox",
            "LearningNode",
            "LearningProgram",
        ),
        *("LearningTask", "Message", "Mixture", "Network", "Node", "NodeId", "Part", "Program", "Run", "Setting"),
        *("State", "Sweep", "Update", "__version__", "check", "compare", "data", "list", "param", "report"),
        *("infer", "resume", "run", "sweep"),
    }
    assert set(covey.__all__) == public
    assert public <= set(dir(covey))
    assert all(getattr(covey, name) is not None for name in public)


def test_each_room_lists_its_own_kinds():
    listing = {name for name in ROOMS if (SOURCES / name).is_dir() and "KINDS" in vars(import_module(f"covey.{name}"))}
    assert listing == set(covey.ROOMS)
    listed = []
    for room in covey.ROOMS:
        for family, known in import_module(f"covey.{room}").KINDS.items():
            assert all(target.startswith(f"covey.{room}.") for target in known.values())
            listed += [(family, kind) for kind in known]
    assert len(listed) == len(set(listed))
    assert set(listed) == {(family, kind) for family, known in kinds.built_in().items() for kind in known}
    for family, kind in listed:
        found = kinds.load(family, kind)
        assert (found.family, found.kind) == (family, kind)


WITHOUT_LEARNING = """
import sys
from covey.cli import main
code = main({arguments})
print("torch" in sys.modules, code, file=sys.stderr)
"""


def without_learning(arguments, folder):
    """The output of a command about torch, and its exit code."""
    script = WITHOUT_LEARNING.format(arguments=arguments)
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=folder)
    return said.stderr.splitlines()[-1]


def test_nobody_waits_for_torch_who_does_not_learn(tmp_path):
    (tmp_path / "ask.py").write_text(
        "from covey import Node, Program\n"
        "class Ask(Program):\n"
        "    async def run(self, node: Node) -> None:\n"
        "        node.send((node.id + 1) % node.nodes, {'x': 1.0}, tag='question')\n"
        "        inbox = await node.receive(tag='question', count=1)\n"
        "        node.log(heard=inbox[0]['x'])\n"
    )
    (tmp_path / "ask.toml").write_text('rounds = 1\nprogram = "ask:Ask"\n[network]\nnodes = 3\n')
    assert without_learning(["run", "ask.toml", "--out", "asked"], tmp_path) == "False 0"
    assert without_learning(["show", "asked"], tmp_path) == "False 0"
    assert without_learning(["check", "ask.toml"], tmp_path) == "False 0"
    assert without_learning(["list"], tmp_path) == "False 0"
