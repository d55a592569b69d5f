"""The modules of `dkrctl run`, `exec` and `attach` from one file, which `make install` makes (scripts/pack_client.py).

On the lean path (see lean.py): imports built-in modules. The interpreter looks at a directory and a source's time for each module, opens
and reads it: a twentieth of an exec's time. Here all are read at once. An interpreter of another release than the one that has packed them
does not find the file, or finds another magic number at its head, and loads them one by one.
"""

import marshal
import sys
from _frozen_importlib import ModuleSpec  # importlib.machinery's, without importlib
from _frozen_importlib_external import MAGIC_NUMBER  # importlib.util's, as in a .pyc

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from types import CodeType, ModuleType

PACK = f"{sys.implementation.cache_tag}.pack"  # beside this file; its name has the release, as that of a .pyc

_VERBS = (["run"], ["exec"], ["attach"])


class Finder:
    """Finds modules (sys.meta_path). `root` is the directory of the packages, `modules` the code of each by its name."""

    __slots__ = ("_modules", "_root")

    def __init__(self, root: str, modules: "dict[str, CodeType]") -> None:
        self._root = root
        self._modules = modules

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> "ModuleSpec | None":
        """How to load the module; None where it is not among the packed."""
        if name not in self._modules:
            return None
        place = f"{self._root}/{name.replace('.', '/')}"
        is_package = "." not in name
        origin = f"{place}/__init__.py" if is_package else f"{place}.py"
        spec = ModuleSpec(name, self, origin=origin, is_package=is_package)  # type: ignore[arg-type]  # no Loader: it has what one needs
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [place]
        return spec

    def create_module(self, _spec: ModuleSpec) -> None:
        """An ordinary one."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run its code."""
        exec(self._modules[module.__name__], module.__dict__)  # noqa: S102  # root's file, as a .pyc is


def use() -> None:
    """Load from the pack from here on, if there is one, and a verb that needs nearly all of it."""
    if sys.argv[1:2] not in _VERBS:
        return
    directory = __file__.rpartition("/")[0]
    try:
        with open(f"{directory}/{PACK}", "rb", 0) as file:
            data = file.read()
    except OSError:
        return
    if data[: len(MAGIC_NUMBER)] == MAGIC_NUMBER:
        modules = marshal.loads(data[len(MAGIC_NUMBER) :])  # noqa: S302  # as above
        sys.meta_path.insert(0, Finder(directory.rpartition("/")[0], modules))
