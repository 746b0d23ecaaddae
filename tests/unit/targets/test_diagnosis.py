"""What an error of a connection means, by the words of OpenSSL, Python and aiohttp."""

import asyncio

import pytest

from loadgen.targets.diagnosis import models_error
from loadgen.targets.served import ModelList

TLS = "Cannot connect to host h:443 ssl:True [SSLCertVerificationError: (1, {}[SSL: CERTIFICATE_VERIFY_FAILED] {}{})]"
FAILED = "certificate verify failed: "


def verify(reason: str, quote: str = "'") -> str:
    return TLS.format(quote, f"{FAILED}{reason} (_ssl.c:1006)", quote)


@pytest.mark.parametrize(
    ("detail", "says"),
    [
        (verify("self-signed certificate"), "the certificate of https://h:443 is not trusted"),
        (verify("unable to get local issuer certificate"), "SSL_CERT_FILE=ca.pem"),
        (verify("certificate has expired"), "has expired (connect_error: certificate verify failed: certificate has"),
        (verify("certificate is not yet valid"), "is not valid yet"),
        (
            verify("Hostname mismatch, certificate is not valid for 'h'.", '"'),
            "is for another name than h (connect_error: certificate verify failed: Hostname mismatch, certificate is "
            "not valid for 'h'.); use the name in the certificate",
        ),
        (verify("IP address mismatch, certificate is not valid for '1.2.3.4'.", '"'), "is for another name than h"),
        (
            "Cannot connect to host h:443 ssl:True [[SSL: WRONG_VERSION_NUMBER] wrong version number]",
            "write http://h:443",
        ),
        (
            "Cannot connect to host h:443 ssl:True [[SSL] record layer failure (_ssl.c:1006)]",
            "h:443 does not speak TLS",
        ),
        ("Cannot connect to host h:443 ssl:True [Connect call failed ('1.2.3.4', 443)]", "nothing listens at h:443"),
        ("Cannot connect to host h:443 ssl:True [Name or service not known]", "no host has the name h"),
        ("Cannot connect to host h:443 ssl:True [getaddrinfo failed]", "no host has the name h"),
    ],
)
def test_an_error_of_a_connection_is_said_with_what_to_do(
    detail: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    error = asyncio.run(models_error("https://h:443/v1", {}, ModelList(error=detail)))
    assert says in str(error)
    assert error.remedy
