"""Which hosts are this machine. Nothing is sent to any of them."""

import socket

import pytest

from loadgen.loopback import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "::ffff:127.0.0.1", "0.0.0.0"])
def test_what_leads_back_here_is_this_machine(host):
    assert is_loopback(host) is True


@pytest.mark.parametrize("host", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.1", "128.0.0.1"])
def test_every_other_address_is_another_machine(host):
    assert is_loopback(host) is False


def test_a_name_is_what_all_its_addresses_are(monkeypatch):
    found = [(socket.AF_INET, 1, 6, "", (address, 0)) for address in ("127.0.0.1", "192.0.2.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert is_loopback("half.example") is False
    found.pop()
    assert is_loopback("half.example") is True


def test_a_name_without_an_address_is_neither(monkeypatch):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert is_loopback("nobody.invalid") is None


def test_a_name_that_no_lookup_takes_is_neither():
    assert is_loopback("a" * 300 + ".invalid") is None
