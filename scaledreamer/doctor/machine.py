"""Checks of the machine and its software: versions, devices, compilers, accelerators. Needs no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tomllib

from scaledreamer.doctor.child import ROOT, ChildError, run_code
from scaledreamer.doctor.findings import Section, size
from scaledreamer.fields import hash_grid_backend
from scaledreamer.launch import environment
from scaledreamer.memory import memory_bytes, read_text

INSTALL = {
    **hash_grid_backend.INSTALL,
    "nvdiffrast": "pip install --no-build-isolation git+https://github.com/NVlabs/nvdiffrast",
    "nerfacc": "pip install nerfacc",
}
USE = {
    "triton": "on a GPU the hash grid runs in plain torch, which is slower, and torch.compile cannot be used",
    "tinycudann": "the hash grid runs in triton or plain torch",
    "nvdiffrast": "meshes are drawn in plain torch and NumPy",
    "nerfacc": "rays are composited in plain torch",
}
"""What happens without each package."""
_IMPORT = """
import importlib, importlib.metadata, importlib.util
if importlib.util.find_spec(argument) is None:
    answer({"state": "missing"})
else:
    try:
        module = importlib.import_module(argument)
    except BaseException as error:
        first = (str(error).splitlines() or [""])[0]
        answer({"state": "broken", "why": f"{type(error).__name__}: {first}"})
    else:
        try:
            version = importlib.metadata.version(argument)
        except importlib.metadata.PackageNotFoundError:
            version = getattr(module, "__version__", "of unknown version")
        answer({"state": "found", "version": str(version)})
"""
_DEVICES = """
import torch
found = {"cuda": torch.version.cuda or torch.version.hip, "devices": [], "why": "", "ranks": 1}
try:
    found["is_available"] = torch.cuda.is_available()
    if found["is_available"]:
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            found["devices"].append({"name": torch.cuda.get_device_name(i), "free": free, "total": total})
    elif found["cuda"]:
        torch.cuda.init()
except Exception as error:
    found["why"] = (str(error).splitlines() or [""])[0]
found["ranks"] = len(found["devices"])
if not found["ranks"]:
    try:
        import os
        os.environ["DS_ACCELERATOR"] = "cpu"
        from deepspeed.accelerator import get_accelerator
        found["ranks"] = get_accelerator().device_count()
    except Exception as error:
        found["ranks"] = 1
answer(found)
"""


def requirements() -> list[str]:
    """The requirements in pyproject.toml, from the repository or the installed package."""
    file = ROOT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return [f"python{project['requires-python']}", *project["dependencies"]]
    meta = importlib.metadata.metadata("scaledreamer")
    listed = importlib.metadata.requires("scaledreamer") or []
    return [f"python{meta['Requires-Python']}", *(line for line in listed if "extra ==" not in line)]


def check_versions() -> Section:
    """Checks Python and every package against the supported ranges."""
    section = Section("Versions")
    try:
        from packaging.requirements import Requirement
    except ImportError:
        section.add("error", "the package packaging is missing", "pip install packaging")
        return section
    good = []
    for line in requirements():
        wanted = Requirement(line)
        is_python = wanted.name == "python"
        try:
            found = platform.python_version() if is_python else importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            section.add("error", f"{wanted.name} is not installed", f"pip install '{line}'")
            continue
        section.numbers[wanted.name] = found
        if wanted.specifier.contains(found, prereleases=True):
            good.append(f"{wanted.name} {found}")
        else:
            how = f"use Python {wanted.specifier}" if is_python else f"pip install '{line}'"
            section.add("error", f"{wanted.name} is {found}, this version needs {wanted.specifier}", how)
    section.add("ok", ", ".join(good))
    return section


def check_environment() -> Section:
    """Checks variables of launchers, job systems and libraries that affect how a training starts."""
    section = Section("Environment")
    try:
        environment.check()
        if environment.is_launched() and environment.place().world_size > 1:
            section.add("warning", f"train.py would begin by {environment.waiting()}")
    except ValueError as error:
        section.add("error", str(error).rstrip("."))
    if tasks := environment.several_tasks():
        section.add("warning", tasks)
    if name := os.environ.get("DS_ACCELERATOR"):
        section.add("ok", f"DS_ACCELERATOR={name} has no effect: training.device decides")
    if not section.findings:
        section.add("ok", "no variable of a launcher or a job system is set")
    return section


def check_devices(wanted: str = "auto") -> Section:
    """CPUs, memory and GPUs, and how many processes `deepspeed` would start.

    Args:
        wanted: `training.device`.
    """
    section = Section("Devices")
    cores = len(os.sched_getaffinity(0))
    free, total = memory_bytes()
    section.add("ok", f"{cores} CPU core(s), {size(total)} of memory, {size(free)} of it free")
    section.numbers |= {"cores": cores, "memory": total, "free_memory": free, "devices": [], "ranks": 1}
    try:
        found = run_code(_DEVICES)
    except ChildError as error:
        section.add("error", f"torch cannot be imported ({error})", "install torch again")
        return section
    section.numbers |= {"devices": found["devices"], "ranks": found["ranks"]}
    for number, device in enumerate(found["devices"]):
        about = f"{size(device['total'])} of memory, {size(device['free'])} of it free"
        section.add("ok", f"CUDA device {number}: {device['name']}, {about}")
    if not found["devices"]:
        driver = read_text("/proc/driver/nvidia/version").split("\n")[0]
        if found["cuda"] and driver:
            section.add(
                "error",
                f"torch is built for CUDA {found['cuda']} and there is a driver ({driver}), but it sees no "
                f"device ({found['why'] or 'no reason given'})",
                "update the driver, install a torch for an older CUDA, or look at CUDA_VISIBLE_DEVICES",
            )
        elif wanted == "cuda":
            section.add("error", "training.device is cuda, and torch sees no CUDA device", "set it to cpu")
        elif found["cuda"]:
            section.add(
                "warning",
                f"torch is built for CUDA {found['cuda']} and no driver of a GPU is here",
                "training runs on the CPU",
            )
        else:
            section.add("ok", "no GPU, and torch is built for the CPU: training runs on the CPU")
    section.add("ok", f"deepspeed would start {found['ranks']} rank(s) here; --num_gpus N starts others")
    return section


def check_compilers(*, is_compiled: bool = False) -> Section:
    """Checks compilers, and says what needs them.

    Args:
        is_compiled: whether a prior of the configuration uses torch.compile.
    """
    section = Section("Compilers")
    here = {name: next(filter(None, map(shutil.which, names)), None) for name, names in _PROGRAMS.items()}
    section.numbers |= here
    cpp, ninja, nvcc = here["c++"], here["ninja"], here["nvcc"]
    if cpp:
        section.add("ok", f"c++ is {cpp}: torch.compile can be used")
    elif is_compiled:
        section.add(
            "error",
            "no C++ compiler on the PATH, and a prior has compile=true",
            "install g++, or set compile=false",
        )
    else:
        section.add(
            "ok", "no C++ compiler on the PATH: only torch.compile (compile=true of a prior) needs one here"
        )
    if not (cpp and ninja):
        section.add(
            "ok",
            "without c++ and ninja DeepSpeed cannot build its CPU communication op; it is not needed, "
            "training switches it off and takes gloo",
        )
    if cpp and ninja and nvcc:
        section.add("ok", f"nvcc is {nvcc}, ninja {ninja}: tinycudann and nvdiffrast can be built")
    else:
        missing = ", ".join(name for name, path in here.items() if not path)
        section.add("ok", f"no {missing}: tinycudann and nvdiffrast cannot be built; both are optional")
    return section


_PROGRAMS = {"c++": ("c++", "g++", "clang++"), "ninja": ("ninja",), "nvcc": ("nvcc",)}


def check_accelerators(needed: str | None = None) -> Section:
    """Checks each optional package by importing it in a separate process.

    Args:
        needed: a package that the configuration names.
    """
    section = Section("Optional accelerators")
    for name, how in INSTALL.items():
        try:
            found = run_code(_IMPORT, name)
        except ChildError as error:
            found = {"state": "broken", "why": f"importing it ended the process, {error}"}
        section.numbers[name] = found
        if found["state"] == "found":
            section.add("ok", f"{name} {found['version']}")
        elif name == needed:
            why = found.get("why", "not installed")
            section.add("error", f"the configuration asks for {name}, and it does not work ({why})", how)
        elif found["state"] == "missing":
            section.add("ok", f"{name} is not installed and not needed ({USE[name]}); to add it: {how}")
        else:
            section.add(
                "warning",
                f"{name} is installed and broken ({found['why']}); without it {USE[name]}",
                f"install it again for this torch and CUDA: {how}; or pip uninstall {name}",
            )
    return section
