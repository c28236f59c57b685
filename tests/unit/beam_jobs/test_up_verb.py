import pytest

from beam_jobs.verbs.up import announcement

PLACE = {
    "ae_title": "ECHOBEAM",
    "host": "192.0.2.10",
    "port": 11112,
    "listener_url": "http://127.0.0.1:9108",
    "worker_url": "http://127.0.0.1:9109",
    "root": "data",
}


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        ({"tls_port": None}, "Push to ECHOBEAM at 192.0.2.10:11112 · listener"),
        ({"port": 2762, "tls_port": 2762}, "Push to ECHOBEAM at 192.0.2.10:2762 with TLS · listener"),
        ({"tls_port": 2762}, "at 192.0.2.10:11112, or with TLS at 192.0.2.10:2762 · listener"),
    ],
)
def test_it_says_where_to_push_with_tls_or_without(ports: dict[str, int | None], words: str) -> None:
    said = announcement(PLACE | ports)
    assert words in said
    assert "\n" not in said
