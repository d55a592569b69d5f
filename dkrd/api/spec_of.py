"""From a request to the bundle (docs/protocol.md, section 5).

What a request means is said once, in common/bundle.py: root's policy applies the same function to what the client
itself sent, and wants the same result. Here stands only what the api adds: whether the image is known, and a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common import bundle
from dkrd.api import names
from dkrd.images import roots

if TYPE_CHECKING:
    from common.models import RunRequest
    from dkrd.settings import Settings


def bundle_of(request: RunRequest, settings: Settings, name: str | None = None) -> dict[str, Any]:
    """The bundle for `request`. `name` is the one that was reserved for it; without one, one is made.

    Raises NotFound where the image is not known.
    """
    if request.image is not None or not (request.rootfs or settings.default_root.startswith("/")):
        roots.resolve(image_of(request, settings))
    # Only what was given: the defaults are filled in where policy fills them in.
    given = request.to_request()
    return bundle.bundle_of(given, settings.default_root, name or names.made())


def image_of(request: RunRequest, settings: Settings) -> str:
    """The name of the image, built-in root or directory that the request means."""
    return request.rootfs or request.image or settings.default_root
