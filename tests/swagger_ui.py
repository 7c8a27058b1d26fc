"""Fetches the files of Swagger UI that /docs needs from npm: ``make swagger-ui``.

``ORIGIN.json`` names the package's version and integrity, which npm publishes (``npm view swagger-ui-dist dist``). For
another version, write those two, run this, and commit.
"""

import base64
import hashlib
import io
import json
import sys
import tarfile

import httpx

from api.docs.reference import FOLDERS

FOLDER = FOLDERS[0]
ORIGIN = FOLDER / "ORIGIN.json"
URL = "https://registry.npmjs.org/swagger-ui-dist/-/swagger-ui-dist-{version}.tgz"
FILES = ("swagger-ui-bundle.js", "swagger-ui.css", "LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt")


def fetched(version: str, integrity: str) -> bytes:
    """The package. Exits if it is not the one that was meant."""
    data = (
        httpx.get(URL.format(version=version), follow_redirects=True, timeout=60).raise_for_status().content
    )
    found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != integrity:
        sys.exit(f"swagger-ui-dist {version} is {found}, and not {integrity}")
    return data


def main() -> None:
    origin = json.loads(ORIGIN.read_text())
    checksums = {}
    with tarfile.open(fileobj=io.BytesIO(fetched(origin["version"], origin["integrity"]))) as package:
        for name in FILES:
            file = package.extractfile(f"package/{name}")
            assert file, name
            data = file.read()
            (FOLDER / name).write_bytes(data)
            checksums[name] = hashlib.sha256(data).hexdigest()
    ORIGIN.write_text(json.dumps({**origin, "sha256": checksums}, indent=2) + "\n")


if __name__ == "__main__":
    main()
