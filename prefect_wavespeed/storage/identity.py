"""Who we are for S3: as boto3 has it, for obstore as well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from obstore.auth.boto3 import Boto3CredentialProvider

if TYPE_CHECKING:
    from obstore.store import S3Credential

# object_store asks again once credentials have less than that left.
_EARLY = timedelta(minutes=5)
_KEPT_FOR = timedelta(seconds=30)


class SessionCredentials(Boto3CredentialProvider):
    """A session's credentials, as they are now.

    botocore renews those that expire (an assumed role, SSO, instance metadata, a credential process) whenever
    it is asked. obstore's own provider keeps what it got for half an hour, expired or not.
    """

    def __call__(self) -> S3Credential:
        """The credentials, to be asked for again after half a minute, or when they expire."""
        found = super().__call__()
        kept_until = datetime.now(UTC) + _KEPT_FOR
        expiry: datetime | None = getattr(self.credentials, "_expiry_time", None)  # it has no public name
        found["expires_at"] = (min(kept_until, expiry.astimezone(UTC)) if expiry else kept_until) + _EARLY
        return found
