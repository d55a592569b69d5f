"""`python -I -m dkrd.api`: the api process. Started by the launcher."""

import gc
import os

# Nothing of what is imported becomes garbage: collecting in between costs 20 ms. Enabled again once it serves.
gc.disable()

# For the time of the imports only:
_QUIET = {
    # aiohttp makes a TLS context for clients when it is imported, with the certificates of all authorities: 40 ms
    # and 2 MB for what a server on a Unix socket never uses. Who speaks TLS here makes a context of their own.
    "SSL_CERT_FILE": "/dev/null",
    "SSL_CERT_DIR": "/dev/null",
    # pydantic looks through all installed distributions for plugins: 15 ms, and code that nobody here chose.
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
}
_saved = {name: os.environ.get(name) for name in _QUIET}
os.environ.update(_QUIET)

from dkrd.api.server import main  # noqa: E402

for _name, _value in _saved.items():
    if _value is None:
        del os.environ[_name]
    else:
        os.environ[_name] = _value

if __name__ == "__main__":
    main()
