"""How Faust reaches Kafka, from the settings: addresses, TLS, SASL."""

from faust.auth import SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT

from processors.transport import SCHEME
from schemas.kafka import tls
from schemas.settings import Settings


def broker_urls(settings: Settings) -> list[str]:
    """Bootstrap servers as URLs of the chunked transport."""
    return [f"{SCHEME}://{server.strip()}" for server in settings.kafka.split(",") if server.strip()]


def credentials(settings: Settings) -> CredentialsT | None:
    """Credentials for `settings`, None for a plain connection. Raises OSError or ssl.SSLError for unusable files."""
    protocol = settings.kafka_security_protocol
    context = tls(settings) if protocol in ("SSL", "SASL_SSL") else None
    if protocol.startswith("SASL"):
        return SASLCredentials(
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password,
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=context,
        )
    return SSLCredentials(context) if context is not None else None
