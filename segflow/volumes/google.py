"""Google's credentials, looked for once."""

from __future__ import annotations

from functools import cache


@cache
def need_google(bucket: str) -> None:
    """Raise what Google's library raises without credentials; cloud-files would try again for minutes.

    Raises:
        google.auth.exceptions.DefaultCredentialsError: there are none for the bucket.
    """
    import google.auth
    from cloudfiles.secrets import google_credentials

    if google_credentials(bucket)[1] is None:
        google.auth.default()
