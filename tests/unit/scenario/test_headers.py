"""Headers of a person's own: how they are written, and what is refused without being repeated."""

import os

import pytest

from loadgen.errors import InputError
from loadgen.redact import is_secret_name, looks_secret, redact_keys
from loadgen.scenario import HeaderFromEnvironment, Headers
from loadgen.scenario.headers import conflicts_of_headers, header_values, merge_headers, parse_header

SECRET = "sk-Xk3jQ9vTz8Lp2Wm7Ab4C"


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("x-tenant: team-a", ("x-tenant", "team-a")),
        ("X-Tenant:team-a", ("X-Tenant", "team-a")),
        ("x-path: http://h:80/a", ("x-path", "http://h:80/a")),
        ("x-empty:", ("x-empty", "")),
        ("api-key: $GATEWAY_KEY", ("api-key", {"env": "GATEWAY_KEY"})),
        ("api-key: ${GATEWAY_KEY}", ("api-key", {"env": "GATEWAY_KEY"})),
        ("Authorization: Bearer $TOKEN", ("Authorization", {"env": "TOKEN", "prefix": "Bearer "})),
        (f"api-key: {SECRET}", ("api-key", {"env": "MINE"})),  # in double quotes, the shell put it there
        (f"Authorization: Bearer {SECRET}", ("Authorization", {"env": "MINE", "prefix": "Bearer "})),
        ("x-price: 5$", ("x-price", "5$")),
    ],
)
def test_a_flag_names_a_header_and_its_value(text: str, header: tuple[str, object]) -> None:
    assert parse_header(text, {"MINE": SECRET, "OTHER": "team-a"}) == header


@pytest.mark.parametrize("text", ["", "x-tenant", f"api key: {SECRET}", f"api-key={SECRET}", f": {SECRET}", SECRET])
def test_a_flag_that_is_no_header_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InputError, match="write --header 'Name: value', or 'Name: ") as refused:
        parse_header(text, {})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"api-key": SECRET}, "a secret in a scenario would be written to files"),
        ({"Ocp-Apim-Subscription-Key": "a"}, "a secret in a scenario would be written to files"),
        ({"Cookie": "a=b"}, "a secret in a scenario would be written to files"),
        ({"x-thing": SECRET}, "a secret in a scenario would be written to files"),
        ({"x-thing": "Bearer abc"}, "a secret in a scenario would be written to files"),
        ({"Host": "a"}, "loadgen sets this header itself"),
        ({"content-length": "1"}, "loadgen sets this header itself"),
        ({"Transfer-Encoding": HeaderFromEnvironment("A")}, "loadgen sets this header itself"),
        ({"x\r\ny": "a"}, "is not a valid header name"),
        ({"x y": "a"}, "is not a valid header name"),
        ({"": "a"}, "is not a valid header name"),
        ({"x": "a\r\nHost: b"}, "may not have line breaks"),
        ({"x": "caf\xe9"}, "non-ASCII characters"),
        ({"x": HeaderFromEnvironment("A", "B\n")}, "may not have line breaks"),
        ({"X-A": "1", "x-a": "2"}, "the same header is given twice"),
    ],
)
def test_a_header_that_cannot_be_sent_or_kept_is_one_problem(headers: Headers, says: str) -> None:
    problem = next(conflicts_of_headers(headers, "headers"))
    assert says in problem.message
    assert SECRET not in f"{problem.message}{problem.hint}"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-tenant": "550e8400-e29b-41d4-a716-446655440000"},
        {"anthropic-version": "2023-06-01", "anthropic-beta": "prompt-caching-2024-07-31"},
        {"x-path": "/deployments/very-long-name-of-a-deployment"},
        {"api-key": HeaderFromEnvironment("A")},
        {"api-key": ""},
    ],
)
def test_what_is_no_secret_may_stand_there(headers: Headers) -> None:
    assert list(conflicts_of_headers(headers, "headers")) == []


def test_a_value_comes_from_the_environment_and_is_hidden_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADER_OF_A_TEST", " s3cr3t-x ")
    headers: Headers = {"x-a": "b", "x-key": HeaderFromEnvironment("HEADER_OF_A_TEST", "Token ")}
    assert header_values(headers, os.environ) == {"x-a": "b", "x-key": "Token s3cr3t-x"}
    assert redact_keys("it said s3cr3t-x.") == "it said ***."


@pytest.mark.parametrize(
    ("value", "says"), [(None, "not set"), ("  ", "not set"), ("a\nb", "may not have line breaks")]
)
def test_a_variable_that_no_header_can_carry_is_named(value: str | None, says: str) -> None:
    variables = {} if value is None else {"OF_A_TEST": value}
    with pytest.raises(InputError, match=f"^OF_A_TEST: .*{says}"):
        header_values({"x-key": HeaderFromEnvironment("OF_A_TEST")}, variables)


def test_of_two_headers_of_one_name_the_nearer_is_sent() -> None:
    assert merge_headers({"X-A": "1", "x-b": "2"}, {"x-a": "3"}) == {"x-b": "2", "x-a": "3"}


def test_secrets_are_known_by_name_and_by_looks() -> None:
    assert all(
        map(is_secret_name, ("api-key", "x-api-key", "apikey", "Authorization", "Cookie", "sig", "X-Auth-Token"))
    )
    assert not any(map(is_secret_name, ("x-tenant", "api-version", "keyboard", "x-request-id", "accept")))
    assert looks_secret(SECRET) and looks_secret("Basic dTpw")
    assert not looks_secret("2024-05-01-preview") and not looks_secret("a" * 40)
