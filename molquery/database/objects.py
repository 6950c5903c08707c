"""Objects under a URI of an object store (s3://, gs://, az://): get, put with a condition, list.

What goes wrong is told as a `DatabaseError` that says what to set. Credentials, region and endpoint
come from the environment, as the store's own tools read it; for S3 also from the profiles in
~/.aws. This is the only module that imports obstore.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from molquery.errors import DatabaseError, printable

#: What identifies a state of an object: its ETag, or its generation.
Tag = dict[str, str]

_SCHEMES = ("s3", "gs", "az")
# A store that does not answer is given up after these seconds, and a transfer that stands still.
_CONNECT, _SILENCE, _WHOLE = (timedelta(seconds=s) for s in (5, 30, 6 * 3600))
_CLIENT: Any = {"connect_timeout": _CONNECT, "read_timeout": _SILENCE, "timeout": _WHOLE}
_RETRY: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=15)}
_PART = 5 << 20  # bytes of a large object that go in one request
_KEYS = "export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…, or AWS_PROFILE=NAME"


class ConditionError(Exception):
    """An object was not written because it is not in the state that the writer has seen."""


class Objects:
    """The objects whose names begin with a URI.

    Raises:
        DatabaseError: the URI cannot be one, or the settings of its store are not complete.
    """

    def __init__(self, uri: str) -> None:
        scheme, _, rest = uri.partition("://")
        bucket, _, path = rest.strip("/").partition("/")
        if scheme not in _SCHEMES or not bucket or not path:
            raise DatabaseError(
                f"{printable(uri)} cannot be a database",
                hint=f"a directory, or s3://BUCKET/PATH ({', '.join(_SCHEMES)} are known)",
            )
        self.stopped = False  # by a user who does not want to wait for the end of a download
        self.uri = f"{scheme}://{bucket}/{path.rstrip('/')}"
        self.bucket = bucket
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise DatabaseError(
                f"{self.uri} is on an object store, which needs another library",
                found="obstore is not installed",
                hint="pip install 'molquery[remote]'",
            ) from error
        config: Any = _s3_settings(self.uri) if scheme == "s3" else {}
        self.endpoint = config.get("endpoint", "")
        client = _CLIENT | {"allow_http": self.endpoint.startswith("http://")}
        try:
            self._store: Any = from_url(
                self.uri, config=config or None, client_options=client, retry_config=_RETRY
            )
        except Exception as error:
            raise self._explained(error) from error

    def get(self, name: str) -> tuple[bytes, Tag]:
        """The content of an object, and its tag.

        Raises:
            FileNotFoundError: there is no such object.
            DatabaseError: the store cannot be read.
        """
        try:
            found = self._store.get(name)
            return bytes(found.bytes()), _tag(found.meta)
        except Exception as error:
            raise self._explained(error) from error

    def download(self, name: str, target: Path | None) -> str:
        """Write an object to a file, or nowhere; returns the sha256 of its content.

        Raises:
            FileNotFoundError, DatabaseError: as `get`.
            OSError: the file cannot be written.
        """
        digest = hashlib.sha256()
        with open(os.devnull if target is None else target, "wb") as file:
            try:
                blocks = iter(self._store.get(name).stream(min_chunk_size=_PART))
            except Exception as error:
                raise self._explained(error) from error
            while True:
                try:
                    block = next(blocks, None)
                except Exception as error:
                    raise self._explained(error) from error
                if block is None:
                    return digest.hexdigest()
                if self.stopped:
                    raise DatabaseError(f"{name} was not fetched to its end")
                digest.update(block)
                file.write(block)

    def exists(self, name: str) -> bool:
        """Whether there is an object of a name."""
        try:
            self._store.head(name)
            return True
        except FileNotFoundError:
            return False
        except Exception as error:
            raise self._explained(error) from error

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object, whatever is there."""
        try:
            self._store.put(name, content, chunk_size=_PART, max_concurrency=2)
        except Exception as error:
            raise self._explained(error) from error

    def put_if(self, name: str, content: bytes, tag: Tag | None) -> Tag:
        """Write an object that is in the state of a tag, or (None) is not there; its new tag.

        Raises:
            ConditionError: it is in another state, or there; nothing has been written.
            DatabaseError: the store cannot be written.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        if tag == {}:
            raise DatabaseError(f"{self.uri} cannot be written: its store gives objects no ETag")
        mode: Any = "create" if tag is None else tag
        try:
            return _tag(self._store.put(name, content, mode=mode, use_multipart=False))
        except (AlreadyExistsError, PreconditionError) as error:
            raise ConditionError(name) from error
        except Exception as error:
            raise self._explained(error) from error

    def names(self, prefix: str = "") -> list[str]:
        """The names of the objects, or of those that begin with a prefix."""
        try:
            batches = list(self._store.list(prefix or None))
        except Exception as error:
            raise self._explained(error) from error
        return sorted(str(item["path"]) for batch in batches for item in batch)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""
        if wanted := list(names):
            try:
                self._store.delete(wanted)
            except FileNotFoundError:
                pass
            except Exception as error:
                raise self._explained(error) from error

    def _explained(self, error: Exception) -> Exception:
        """What a user can do about an error of the store."""
        text, kind = str(error).split("\n\nDebug source")[0], type(error).__name__
        code = (re.findall(r"<Code>(\w+)</Code>", text) or [""])[0]
        where = f" at {self.endpoint}" if self.endpoint else ""
        if code in ("NoSuchBucket", "ContainerNotFound") or "bucket does not exist" in text:
            return DatabaseError(
                f"there is no bucket {self.bucket}{where}",
                hint="check its name, and AWS_ENDPOINT_URL if it is not at Amazon",
            )
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(text)
        missing = ("MissingAccessKeyId", "Missing AccessKeyId", "Missing SecretAccessKey",
                   "169.254.", "metadata.google", "Account must be specified")  # fmt: skip
        if any(sign in text for sign in missing):
            return no_credentials(self.uri)
        if kind in ("PermissionDeniedError", "UnauthenticatedError") or "403 Forbidden" in text:
            wrong = code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
            return DatabaseError(
                f"{self.uri} refuses access{where}",
                found=code or printable(text.split("\n")[0][-100:]),
                hint=f"other credentials: {_KEYS}" if wrong else "ask its owner for permission",
            )
        if "LOCATION" in text or code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
            return DatabaseError(
                f"the bucket {self.bucket} is in another region", hint="export AWS_REGION=…"
            )
        if "error sending request" in text or "timed out" in text or "HTTP error" in text:
            return DatabaseError(
                f"the object store of {self.uri} does not answer",
                found=self.endpoint or "its usual address",
                hint="check the network, and AWS_ENDPOINT_URL if it is not at Amazon",
            )
        told = re.sub(r"Error performing \w+ \S+ in \S+", "", text)
        return DatabaseError(f"{self.uri}: the object store fails", found=printable(told, 300))


def no_credentials(uri: str) -> DatabaseError:
    """The error where nothing says who asks."""
    hints = {
        "s3": f"{_KEYS}; AWS_SKIP_SIGNATURE=true for a public bucket",
        "gs": "export GOOGLE_APPLICATION_CREDENTIALS=FILE.json",
        "az": "export AZURE_STORAGE_ACCOUNT_NAME=… AZURE_STORAGE_ACCOUNT_KEY=…",
    }
    return DatabaseError(f"there are no credentials for {uri}", hint=hints[uri.partition(":")[0]])


def _tag(told: Mapping[str, Any]) -> Tag:
    return {name: told[name] for name in ("e_tag", "version") if told.get(name)}


def _s3_settings(uri: str) -> dict[str, str]:
    """What the environment and the profile of ~/.aws say, under obstore's names.

    Roles of machines and containers are asked by obstore itself.

    Raises:
        DatabaseError: the profile is not there or holds no keys, or nothing says who asks.
    """
    env = os.environ
    found = {
        "endpoint": env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL", ""),
        "region": env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION", ""),
    }
    if env.get("AWS_ACCESS_KEY_ID") and not env.get("AWS_PROFILE"):
        if not env.get("AWS_SECRET_ACCESS_KEY"):
            raise no_credentials(uri)
        return {name: value for name, value in found.items() if value}
    name = env.get("AWS_PROFILE") or "default"
    told = _profile(name)
    found["endpoint"] = found["endpoint"] or told.get("endpoint_url", "")
    found["region"] = found["region"] or told.get("region", "")
    keys = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    found |= {key.removeprefix("aws_"): told.get(key, "") for key in keys}
    if not (found["access_key_id"] and found["secret_access_key"]):
        if env.get("AWS_PROFILE"):
            raise DatabaseError(
                f"the profile {printable(name)} holds no access keys",
                found="settings in ~/.aws of another kind" if told else "no such profile in ~/.aws",
                hint=f'eval "$(aws configure export-credentials --profile {name} --format env)"'
                if told else "aws configure list-profiles",
            )  # fmt: skip
        role = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI")  # fmt: skip
        asked = env.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true"
        public = env.get("AWS_SKIP_SIGNATURE", "").lower() in ("true", "1")
        if not (asked or public or any(env.get(name) for name in role)):
            raise no_credentials(uri)
    return {name: value for name, value in found.items() if value}


def _profile(name: str) -> dict[str, str]:
    """What the files in ~/.aws say of a profile."""
    home = Path.home() / ".aws"
    told: dict[str, str] = {}
    for variable, file, section in (
        ("AWS_CONFIG_FILE", home / "config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", home / "credentials", name),
    ):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(os.environ.get(variable) or file, "utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        if parser.has_section(section):
            told |= dict(parser[section])
    return told
