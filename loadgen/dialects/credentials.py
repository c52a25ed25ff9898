"""What proves to an endpoint who asks: the key, and headers whose values are nobody's business."""

from dataclasses import dataclass, field

from loadgen.dialects.dialect import ACCEPTED, Dialect


@dataclass(frozen=True, slots=True)
class Credentials:
    """Secrets: never printed, never written."""

    key: str | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in words that leave the process; the longest first, for one may be part of another."""
        values = [self.key, *(value for _, value in self.headers)]
        return tuple(sorted({value for value in values if value}, key=len, reverse=True))


NOBODY = Credentials()


def header_fields(
    dialect: Dialect, credentials: Credentials, own: tuple[tuple[str, str], ...] = ()
) -> list[tuple[str, str]]:
    """The headers that the dialect, the key and the user (`own`, credentials.headers) ask for; the user's replace the
    others."""
    fields = [
        ("Accept", ACCEPTED[dialect.framing]),
        ("Accept-Encoding", "identity"),  # a compressing gateway holds events back
        ("Content-Type", "application/json"),
        *dialect.headers,
    ]
    if credentials.key:
        name, value = dialect.auth
        fields.append((name, value.format(key=credentials.key)))
    users = [*own, *credentials.headers]
    replaced = {name.lower() for name, _ in users}
    return [*((name, value) for name, value in fields if name.lower() not in replaced), *users]
