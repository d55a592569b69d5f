"""The release, told by `dkrctl version`, the HTTP API and the package."""

VERSION = "0.1.0"
API_VERSION = "1"
