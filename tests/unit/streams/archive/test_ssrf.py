"""Which addresses a stranger's URL may lead to."""

import pytest

from tidings.streams.archive.ssrf import refusal

PUBLIC = [
    "1.1.1.1",
    "93.184.216.34",
    "8.8.8.8",
    "2606:4700:4700::1111",
    "2a00:1450:4001:830::200e",
    "::ffff:1.1.1.1",
    "64:ff9b::8.8.8.8",
    "64:ff9b::101:101",
    "64:ff9b:1::808:808",
    "2002:808:808::1",
]

NOT_PUBLIC = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:0",
    "64:ff9b::7f00:1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::a00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::",
    "64:ff9b:1::",
    "64:ff9b:1:a00:0:100:808:808",  # 10.0.0.1 behind a prefix of 48 bits
    "64:ff9b:1:a:0:1:808:808",  # 10.0.0.1 behind a prefix of 56 bits
    "64:ff9b:1:0:a:0:108:808",  # 10.0.0.1 behind a prefix of 64 bits
    "::8.8.8.8",
    "2001:0:4136:e378:8000:63bf:f7f7:f7f7",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "100::1",
    "no address",
    "",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_reached(address: str) -> None:
    """An address of the public internet is not refused."""
    assert refusal(address) is None


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_everything_else_is_refused(address: str) -> None:
    """Loopback, private, link-local, metadata, reserved, and IPv6 forms that stand for one of them are refused."""
    assert refusal(address)
