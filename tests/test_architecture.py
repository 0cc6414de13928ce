"""The import rule, which is the privacy rule, and the sizes that keep the code readable."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("server", "client", "common", "simulations")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

# Who may import whom. The ServerApp needs `common.networks` for the first weights only.
ALLOWED = {
    "common": {"common"},
    "client": {"client", "common"},
    "server": {"server", "common"},
    "simulations": {"simulations", "client", "server", "common"},
}
READS_SCANS = {"nibabel", "SimpleITK", "pydicom", "torchio"}
HEAVY = {"torch", "monai", "torchio", "mlflow", "nibabel", "SimpleITK", "ray"}
KNOWS_THE_STAGES = {
    "admission.py",
    "round_material.py",
    "round_memory.py",
    "round_training.py",
    "round_distillation.py",
    "retention.py",
    "local_round.py",
    "leak_probe.py",
    "self_learning.py",
    "own_correspondence.py",
    "label_engine.py",
    "scan_hardness.py",
    "annotate.py",
    "quick_update.py",
    "slice_doubt.py",
    "page_cli.py",
    "app.py",
    "cli.py",
    "join_cli.py",
    "worker.py",
}


def imports_of(path: Path, *, top_level_only: bool = False) -> set[str]:
    """The modules that a file imports, with their full dotted names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def folder_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imports_of(path)} & set(PACKAGES)
    assert ours <= ALLOWED[own]


@pytest.mark.parametrize("path", [p for p in FILES if p.relative_to(ROOT).parts[0] == "server"],
                         ids=lambda path: path.name)  # fmt: skip
def test_the_server_cannot_read_a_scan(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & READS_SCANS


def test_no_two_folders_import_each_other() -> None:
    folders = {folder_of(path) for path in FILES}
    edges = set()
    for path in FILES:
        for name in imports_of(path):
            target = name if name in folders else name.rpartition(".")[0]
            if target in folders and target != folder_of(path):
                edges.add((folder_of(path), target))
    mutual = {pair for pair in edges if pair[::-1] in edges}
    # A package's own front (client, server) is no folder beside its parts: local_round tells the
    # order of the parts, and no part may import it back.
    assert not mutual


@pytest.mark.parametrize("name", ["client/app.py", "server/app.py", "common/messages.py"])
def test_flower_app_files_import_nothing_heavy(name: str) -> None:
    seen, todo = set(), [ROOT / name]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        modules = imports_of(path, top_level_only=True)
        assert not {module.split(".")[0] for module in modules} & HEAVY, path
        for module in modules:
            candidate = ROOT / (module.replace(".", "/") + ".py")
            if candidate.exists():
                todo.append(candidate)
    assert len(seen) > 1


def test_only_the_round_knows_the_order_of_the_stages() -> None:
    parts = {"client.store", "client.annotation", "client.propagation", "client.learning"}
    for path in (ROOT / "client").glob("*.py"):
        used = {part for part in parts for name in imports_of(path) if name.startswith(part)}
        if path.name not in KNOWS_THE_STAGES:
            assert len(used) <= 1, path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            documented = ast.get_docstring(node, clean=False) or ""
            lines = (node.end_lineno or 0) - node.body[0].lineno + 1 - documented.count("\n")
            assert lines <= 50, f"{node.name} has {lines} lines"
