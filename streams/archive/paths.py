"""The paths of files in object storage, and the addresses under which they are served.

Pure.

```
{folder}/{index}            the files; the folder's name is a secret
index/{id's hash}/{folder}  the id: which folders a prediction has, for the day when it is deleted
blobs/{id's hash}/{hash}    fields that are too large for a record (streams/rules/large_fields.py)
```
"""

import hashlib
import hmac
import re

ADDRESS = "/assets/"
INDEX = "index"
_PATH = re.compile(r"[0-9a-f]{40}/(?:0|[1-9][0-9]{0,5})")


class AssetPaths:
    """Paths that only the holder of the key can guess.

    Args:
        key: The service's webhook key; what is signed with it here is nothing that it signs
            elsewhere.
        public: Where everybody can read the storage; None: the files are served by the gateways.
    """

    def __init__(self, key: bytes, public: str | None = None) -> None:
        self._key = key
        self._public = public

    def folder(self, prediction_id: str, created_at: int) -> str:
        """The folder of the prediction with this id and time of creation.

        An id used again gets another one.
        """
        text = f"tidings assets\n{prediction_id}\n{created_at}"
        return hmac.digest(self._key, text.encode(), "sha256").hex()[:40]

    def url(self, path: str) -> str:
        """The address of a file, relative to the service if its gateways serve the files."""
        return f"{self._public}/{path}" if self._public else f"{ADDRESS}{path}"


def is_asset_path(path: str) -> bool:
    """Whether the path can be that of a file, and of nothing else in the storage."""
    return _PATH.fullmatch(path) is not None


def index_of(prediction_id: str) -> str:
    """The path below which the folders of a prediction are listed."""
    return f"{INDEX}/{hashlib.sha256(prediction_id.encode()).hexdigest()[:40]}"
