"""Packs what `dkrctl run` and `exec` load into one file beside dkrctl/packed.py: usage: python3 -IS pack_client.py SITE-PACKAGES

Run by `make install` with the Python that the client will have, when all is compiled there.
"""

import marshal
import sys
from importlib.util import MAGIC_NUMBER


def main(site: str) -> None:
    """Pack what is in the directory `site`."""
    sys.path[:0] = [site]
    import dkrctl.exec
    import dkrctl.lean
    import dkrctl.session  # noqa: F401  # for what they load
    from dkrctl.packed import PACK

    modules = {}
    for name, module in sorted(sys.modules.items()):
        # What finds the pack is loaded before it.
        if name.partition(".")[0] in ("common", "dkrctl") and name not in ("dkrctl", "dkrctl.packed"):
            assert module.__cached__ is not None
            with open(module.__cached__, "rb") as file:
                modules[name] = marshal.loads(file.read()[16:])  # noqa: S302  # behind the head of a .pyc, PEP 552
    with open(f"{site}/dkrctl/{PACK}", "wb") as file:
        file.write(MAGIC_NUMBER + marshal.dumps(modules))


if __name__ == "__main__":
    main(sys.argv[1])
