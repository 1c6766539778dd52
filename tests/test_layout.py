"""The shape of the house: which layer may see which, one stem per kernel family, what the core never does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "llmcore"

# --------------------------------------------------------------------------------------------------------------- C++

# The folder of an include names the layer. An implementation sees its contract and core, never another implementation;
# ops go through the dispatch in core; bindings see ops only. The emulator knows nothing of llmcore: it is a machine.
MAY_INCLUDE = {
    "csrc/core": {"core"},
    "csrc/kernels": {"core", "kernels"},
    "csrc/cpu": {"core", "kernels", "cpu"},
    "csrc/cuda": {"core", "kernels", "cuda", "emu"},
    "csrc/cuda/arch": {"cuda/arch", "emu"},
    "csrc/emu": {"emu"},
    "csrc/ops": {"core", "kernels", "ops"},
    "bindings": {"core", "ops", "bindings", "emu"},  # emu: bindings/emulator.cpp, for tests
}
CPP_SUFFIXES = {".cpp", ".h", ".cu", ".cuh"}


def cpp_files(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in CPP_SUFFIXES)


def own_includes(path: Path) -> Iterator[str]:
    for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE):
        yield name if "/" in name else f"{path.parent.relative_to(ROOT).parts[-1]}/{name}"


@pytest.mark.parametrize("folder", [f for f in MAY_INCLUDE if (ROOT / f).is_dir()])
def test_includes_follow_the_layers(folder):
    files = cpp_files(folder)
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} includes {name}"
        for path in files
        for name in own_includes(path)
        if not any(name.startswith(f"{layer}/") for layer in MAY_INCLUDE[folder])
    ]
    assert not wrong


def test_the_contract_and_core_know_no_python_and_no_cuda():
    banned = re.compile(r"pybind11|Python\.h|cuda_runtime|omp\.h|<iostream>")
    files = [p for p in cpp_files("csrc") if "cuda" not in p.relative_to(ROOT).parts]
    assert [str(p.relative_to(ROOT)) for p in files if banned.search(code_of(p))] == []


# What a kernel's source may not contain, so that g++ compiles it for the emulator, and the room of each exception.
KERNEL_RULES = {
    r"\b_*asm_*\b": "csrc/cuda/arch/",  # instructions are wrappers with two halves
    r"\b__shared__\b": "csrc/cuda/shared.cuh",  # LLMCORE_SHARED and shared_memory<T>() declare it
    r"<<<": "",  # launch() starts kernels
    r"__CUDA_ARCH": "csrc/cuda/arch/",  # host and device passes see one kernel; templates tell variants apart
    r"#\s*error\b": "",  # a target that lacks something gets an empty kernel, the dispatch does not choose it
}


@pytest.mark.parametrize("rule", KERNEL_RULES)
def test_kernels_compile_for_the_emulator_too(rule):
    room = KERNEL_RULES[rule]
    files = [p for p in cpp_files("csrc/cuda") if not room or not str(p.relative_to(ROOT)).startswith(room)]
    assert files
    assert [str(p.relative_to(ROOT)) for p in files if re.search(rule, code_of(p))] == []


def families() -> list[str]:
    return sorted(p.stem for p in (CSRC / "kernels").glob("*.h"))


RUNTIME_KERNELS = {"index_check", "random_shift"}  # of csrc/cuda/runtime.cpp, no op's


def test_every_family_has_cuda_kernels():
    # matmul_sm90.cu is a variant of matmul's, attention_backward_sm80.cu one of a part of attention
    variant = re.compile(r"(_(forward|backward|decode))?(_(simt|sm\d+))?$")
    stems = {variant.sub("", p.stem) for p in (CSRC / "cuda").glob("*.cu")}
    assert stems - RUNTIME_KERNELS == set(families())
    assert [name for name in families() if not (CSRC / "cuda" / f"{name}.cu").is_file()] == []


@pytest.mark.parametrize("family", families())
def test_sanitizers_have_something_to_run(family):
    """benchmarks/gpu_check.sh runs the tests marked `small` under compute-sanitizer, on the device."""
    tests = (ROOT / "tests" / "kernels" / f"test_{family}.py").read_text(encoding="utf-8")
    assert re.search(r"@pytest\.mark\.small\n(?:@.*\n)*def test_\w+\((?:.*, )?device\)", tests)


@pytest.mark.parametrize("family", families())
def test_a_family_has_one_stem_everywhere(family):
    expected = [f"csrc/cpu/{family}.cpp", f"csrc/ops/{family}.h", f"csrc/ops/{family}.cpp"]
    expected.append(f"tests/kernels/test_{family}.py")
    if (ROOT / "benchmarks" / "kernels").is_dir():
        expected.append(f"benchmarks/kernels/bench_{family}.py")
    assert [name for name in expected if not (ROOT / name).is_file()] == []


def test_no_orphans_beside_the_families():
    """A test, benchmark or op of a family that has no contract is left over, or the contract is missing."""
    known = set(families())
    stems = {p: p.stem for p in (CSRC / "ops").glob("*.cpp")}
    stems |= {p: p.stem.removeprefix("bench_") for p in (ROOT / "benchmarks" / "kernels").glob("bench_*.py")}
    assert [str(p.relative_to(ROOT)) for p, stem in stems.items() if stem not in known] == []


def code_of(path: Path) -> str:
    """A C++ file without comments and without the contents of strings."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r'(?<!include )"(?:\\.|[^"\\\n])*"', '""', text)


def test_the_core_neither_prints_nor_ends_the_process():
    banned = re.compile(r"\b(?:printf|fprintf|puts|putchar|abort|_?exit|assert|terminate)\s*\(|std::c(?:out|err|log)\b")
    wrong = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for folder in ("csrc", "bindings")
        for path in cpp_files(folder)
        for match in banned.finditer(code_of(path))
    ]
    assert not wrong


# ------------------------------------------------------------------------------------------------------------ Python

# What each part of the package may import, itself included. An import inside a function counts like any other; only
# `if TYPE_CHECKING:` does not.
# `""` is `import llmcore` for the version and the lazily exported names.
FOUNDATION = {"errors", "labels", "text_file", "_core", ""}
MAY_IMPORT = {
    "": {"errors", "_core"},
    "errors": set(),
    "labels": set(),
    "text_file": set(),
    "machine": FOUNDATION,
    "tensor_file": {"errors"},
    "data": FOUNDATION | {"data"},
    "autograd": FOUNDATION | {"functional"},  # the operators of its Tensor are ops like any other
    "functional": FOUNDATION | {"autograd", "functional"},
    "nn": FOUNDATION | {"autograd", "functional", "nn"},
    "inference": FOUNDATION | {"autograd"},
    "generation": FOUNDATION | {"inference", "generation"},  # below the models, which inherit `generate`
    "models": FOUNDATION | {"autograd", "data", "functional", "nn", "inference", "generation", "models", "tensor_file"},
    "schedule": FOUNDATION,
    "optim": FOUNDATION | {"autograd", "nn"},
    "profiling": FOUNDATION | {"machine", "profiling"},
}
LOWER = set(MAY_IMPORT) | FOUNDATION
MAY_IMPORT["evaluation"] = LOWER | {"evaluation"}
MAY_IMPORT["training"] = LOWER | {"training", "evaluation"}
MAY_IMPORT["pipelines"] = LOWER | {"pipelines"}
MAY_IMPORT["sklearn"] = LOWER | {"training", "sklearn"}
MAY_IMPORT["quickstart"] = set(MAY_IMPORT) | FOUNDATION
MAY_IMPORT["cli"] = set(MAY_IMPORT) | FOUNDATION | {"cli"}
MAY_IMPORT["__main__"] = {"cli"}
SPEAKS = {"cli", "quickstart", "__main__"}  # parts that print and set the exit status


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if name == "__init__" else name


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from without_type_checking(node)


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in without_type_checking(parse(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = [*path.relative_to(ROOT).with_suffix("").parts[: -node.level or None]] if node.level else []
            module = ".".join([*package, *filter(None, [node.module])])
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "llmcore" else [module]
        parts |= {name.split(".")[1] if "." in name else "" for name in names if name.split(".")[0] == "llmcore"}
    known = set(MAY_IMPORT) | {"_core"}
    return {part if part in known else "" for part in parts}  # a name exported by llmcore/__init__.py counts as it


def test_every_part_of_the_package_has_a_place():
    assert {part_of(path) for path in python_files()} - set(MAY_IMPORT) == set()


def test_imports_follow_the_layers():
    wrong = [
        f"{path.relative_to(ROOT)} imports {part or 'llmcore'}"
        for path in python_files()
        for part in sorted(imported_parts(path) - MAY_IMPORT[part_of(path)])
    ]
    assert not wrong


def test_modules_begin_alike():
    for path in python_files():
        body = parse(path).body
        assert ast.get_docstring(ast.Module(body, [])), f"{path.name} has no docstring"
        imports = [node for node in body if isinstance(node, ast.ImportFrom)]
        assert imports and imports[0].module == "__future__" or len(body) == 1, path


def test_the_package_runs_no_code_from_data():
    """No pickle, no eval: a checkpoint or a config file is data and stays data."""
    banned_modules = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "code", "torch"}
    banned_calls = {"eval", "exec", "compile", "__import__"}
    wrong = []
    for path in python_files():
        for node in ast.walk(parse(path)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module).split(".")[0]]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in banned_calls:
                wrong.append(f"{path.name}:{node.lineno} calls {node.func.id}")
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                wrong.append(f"{path.name}:{node.value.lineno} allows pickle")
            wrong += [f"{path.name}:{node.lineno} imports {name}" for name in names if name in banned_modules]
    assert not wrong


def test_the_library_neither_prints_nor_ends_the_process():
    """A host decides what is shown and when it ends; only the command line does either."""
    wrong = []
    for path in python_files():
        if part_of(path) in SPEAKS:
            continue
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            to_given_stream = name == "print" and any(keyword.arg == "file" for keyword in node.keywords)
            if name in ("print", "exit", "quit", "sys.exit", "os._exit") and not to_given_stream:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} calls {name}")
    assert not wrong


# ------------------------------------------------------------------------------------------------------------- texts


def project_files() -> list[Path]:
    tops = ["csrc", "bindings", "llmcore", "tests", "tools", "benchmarks", "docs", "cmake", ".ci"]
    files = [p for top in tops for p in (ROOT / top).rglob("*")] + [p for p in ROOT.glob("*") if p.name != ".git"]
    skipped = {".so", ".pyc", ".png", ".svg"}
    return [p for p in files if p.is_file() and p.suffix not in skipped and "__pycache__" not in p.parts]


def test_files_name_no_machine_and_no_unfinished_work():
    banned = re.compile(
        r"(?<![\w.$}~-])/(?:work|opt|root|home|Users|mnt)/\w"  # a path of somebody's machine
        r"|\b(?:pypi\.org|pythonhosted\.org|registry\.npmjs)\b"
        r"|\b(?:TODO|FIXME|XXX)\b"
    )
    this_file = Path(__file__).resolve()
    wrong = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in project_files()
        if path != this_file
        for match in banned.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert not wrong
