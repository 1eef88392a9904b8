"""What must never stand in the package: ways to run a stranger's code, paths of a machine, half-done work."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ensemw2s

PACKAGE = Path(ensemw2s.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
TEXTS = sorted(path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".yaml", ".json", ".jinja", ".css", ".md"})
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def hook_bodies(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    """Bodies of a base class's documented methods that are nothing but a docstring and a raise."""
    for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for method in (node for node in kind.body if isinstance(node, ast.FunctionDef)):
            if ast.get_docstring(method) and len(method.body) == 2:
                yield method.body


def faults(source: str) -> list[str]:
    """What a module does that the package must not."""
    tree, found = ast.parse(source), []
    hooks = {id(body[1]) for body in hook_bodies(tree)}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"imports {name}" for name in names if name.split(".")[0] in UNPICKLERS]
        if isinstance(node, ast.Raise) and id(node) not in hooks and "NotImplementedError" in ast.unparse(node):
            found.append("raises NotImplementedError")
        if isinstance(node, ast.arguments):
            named = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
            pairs = [*zip(named, node.defaults, strict=True), *zip(node.kwonlyargs, node.kw_defaults, strict=True)]
            found += ["trusts remote code by default" for name, default in pairs if _trusts(name.arg, default)]
        if isinstance(node, ast.AnnAssign) and _trusts(ast.unparse(node.target), node.value):
            found.append("trusts remote code by default")
        if isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            found += ["swallows every error"] if broad else []
    for name, call in calls(tree):
        settings = {key.arg: key.value for key in call.keywords}
        if name in ("torch.load", "torch.jit.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system"):
            found.append(f"calls {name}")
        if name in ("numpy.load", "np.load") and "allow_pickle" in settings:
            found.append("loads pickled arrays")
        if name == "yaml.load" and not ast.unparse(settings.get("Loader", ast.Constant(None))).endswith("oader()"):
            found.append("calls yaml.load without a safe loader")
        if _trusts("trust_remote_code", settings.get("trust_remote_code")):
            found.append("trusts remote code")
        if isinstance(settings.get("shell"), ast.Constant) and settings["shell"].value is True:
            found.append("starts a shell")
    return found


def _trusts(name: str, value: ast.expr | None) -> bool:
    return name == "trust_remote_code" and isinstance(value, ast.Constant) and value.value is True


# Absolute paths of people's machines and hosts of package registries or mirrors.
MACHINE = re.compile(
    r"(?<![\w.])/(?:home|Users|root|work|mnt|scratch|tmp)/\w|[A-Z]:\\\\|localhost:\d|"
    r"(?:pypi\.org|files\.pythonhosted\.org|conda\.anaconda\.org|registry\.npmjs\.org|proxy\.golang\.org|hf-mirror)"
)
HALF_DONE = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|# pragma")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_runs_what_it_reads(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


def test_no_file_names_a_machine_or_is_half_done() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {match[0]}"
        for path in TEXTS
        for pattern in (MACHINE, HALF_DONE)
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
        if not (path.parent.parent.name == "zoo" and path.name == "tokenizer.json")
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import pickle", "imports pickle"),
        ("from joblib import load", "imports joblib"),
        ("import torch\ntorch.load('x')", "calls torch.load"),
        ("f(trust_remote_code=True)", "trusts remote code"),
        ("def f(a, trust_remote_code=True): ...", "trusts remote code by default"),
        ("def f(*, trust_remote_code=True): ...", "trusts remote code by default"),
        ("class C:\n  trust_remote_code: bool = True", "trusts remote code by default"),
        ("def f():\n  raise NotImplementedError", "raises NotImplementedError"),
        ("try:\n  f()\nexcept Exception:\n  pass", "swallows every error"),
        ("yaml.load(text)", "calls yaml.load without a safe loader"),
        ("np.load(f, allow_pickle=True)", "loads pickled arrays"),
        ("subprocess.run('x', shell=True)", "starts a shell"),
        ("eval(text)", "calls eval"),
    ],
)
def test_each_fault_is_seen(source: str, fault: str) -> None:
    assert fault in faults(source)


# What an import must not do: draw or seed, read arguments, ask for devices, write, start or connect.
ACTS = re.compile(
    r"(?:^|\.)(?:seed|manual_seed|set_seed|parse_args|parse_known_args|is_available|device_count|init_process_group|mkdir|"
    r"makedirs|write_text|write_bytes|open|run|Popen|urlopen|connect|exit|set_num_threads|set_default_dtype|set_default_device|"
    r"basicConfig|print|chdir|putenv)$|^(?:random|numpy\.random|np\.random|torch\.cuda|os\.environ\.)"
)


def acts(source: str) -> list[str]:
    """What a module does, rather than defines, when it is imported."""
    found: list[str] = []

    def look(node: ast.AST) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            outside = [*node.args.defaults, *(one for one in node.args.kw_defaults if one)]
            outside += [] if isinstance(node, ast.Lambda) else node.decorator_list
            for one in outside:
                look(one)
            return
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Call) and ACTS.search(ast.unparse(node.func)):
            found.append(ast.unparse(node.func))
        if isinstance(node, ast.Assign) and any(ast.unparse(one).startswith("os.environ[") for one in node.targets):
            found.append("os.environ")
        for child in ast.iter_child_nodes(node):
            look(child)

    look(ast.parse(source))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_importing_a_module_only_defines(path: Path) -> None:
    if path.name != "__main__.py":
        assert acts(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.manual_seed(0)", "args = parser.parse_args()", "DEVICE = 'cuda' if torch.cuda.is_available() else 0",
        "import os\nos.environ['A'] = '1'", "class C:\n  n = torch.cuda.device_count()", "def f(n=random.random()): ...",
        "with open('x') as file: pass", "Path('x').mkdir()", "if True:\n  set_seed(1)", "f = lambda n=seed(1): n",
    ],
)  # fmt: skip
def test_each_act_is_seen(source: str) -> None:
    assert acts(source)


def test_what_waits_for_a_call_is_no_act() -> None:
    inside = "def f():\n  torch.manual_seed(0)\n  g = lambda: parser.parse_args()\nif __name__ == '__main__':\n  run()"
    assert acts(inside) == []


def test_what_is_allowed_is_not_a_fault() -> None:
    assert (
        faults("f(trust_remote_code=trust)\ndef g(trust_remote_code=False): ...\nmodel.eval()\nyaml.safe_load(t)") == []
    )


def test_each_path_is_seen() -> None:
    for text in ("/home/me/x", "see /tmp/abc", "C:\\\\x", "https://pypi.org/simple", "localhost:8000"):
        assert MACHINE.search(text), text
    assert not MACHINE.search("a/home/b and ~/.cache and /usr/bin")


def test_the_scan_sees_the_package() -> None:
    assert len(SOURCES) > 100
    assert any(path.suffix == ".yaml" for path in TEXTS)
