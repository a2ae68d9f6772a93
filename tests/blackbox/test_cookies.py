"""A token in a cookie, set by the Flask application of docs/guides/cookies.md as it stands there."""
import http.client
import json
import subprocess
import urllib.parse

import pytest
import websockets
from cookie_application import CookieApplication
from event_stream import Stream
from processes import weirgate_binary
from tokens import fresh_token
from waiting import until

SECRET = "thirty-two bytes of a test secret"


@pytest.fixture
def application(started, tmp_path):
    started.append(CookieApplication(tmp_path, SECRET))
    return started[-1].port


def asked(port, path, cookies="", **form):
    """(status, cookies) of the application."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookies}
    try:
        connection.request("POST", path, urllib.parse.urlencode(form), headers)
        answer = connection.getresponse()
        return answer.status, answer.headers.get_all("Set-Cookie") or []
    except OSError:
        return 0, []


def gateway(start_weirgate, *flags):
    env = {"REQUIRE_AUTH": "true", "JWT_SECRET": SECRET, "REDIS_URL": "redis://127.0.0.1:1"}
    return start_weirgate("channels", "--event-stream", *flags, env=env).wait_for("/health")


async def admitted(server, cookie, origin, query=""):
    """The role; the reason of a refusal."""
    headers = {"Cookie": cookie, "Origin": origin}
    try:
        async with websockets.connect(f"ws://127.0.0.1:{server.port}/ws{query}", additional_headers=headers) as client:
            try:
                return json.loads(await client.recv())["role"]
            except websockets.ConnectionClosed:
                return client.close_reason
    except websockets.InvalidStatus as refused:
        return refused.response.status_code


async def test_the_cookie_of_a_session_lets_the_pages_of_the_origin_in(application, start_weirgate):
    origin = f"http://localhost:{application}"
    server = gateway(start_weirgate, "--token-cookie", "feed", "--allowed-origins", origin)
    await until(lambda: asked(application, "/renew")[0] == 401, 20, "Flask")
    status, lines = asked(application, "/login", user="ann")
    assert status == 302
    feed = next(line for line in lines if line.startswith("feed="))
    assert "HttpOnly" in feed and "SameSite=Lax" in feed and "Max-Age=3600" in feed
    session = next(line for line in lines if line.startswith("session=")).split(";")[0]
    cookie = feed.split(";")[0]
    assert await admitted(server, f"{session}; {cookie}", origin) == "user"
    assert await admitted(server, cookie, "https://elsewhere.example") == 403
    assert await admitted(server, session, origin) == "Authentication failed"
    assert await admitted(server, "feed=nonsense", origin) == "Authentication failed"
    # The token that the program has chosen comes first, right or wrong.
    admin = fresh_token(SECRET, role="admin")
    assert await admitted(server, cookie, origin, f"?token={admin}") == "admin"
    assert await admitted(server, cookie, origin, "?token=wrong") == "Authentication failed"
    # Renewed from the session alone.
    status, lines = asked(application, "/renew", session)
    assert status == 204
    stream = Stream(server.port, "/ws", f"Origin: {origin}", f"Cookie: {lines[0].split(';')[0]}")
    assert stream.until(lambda message: message["type"] == "connected")["role"] == "user"
    assert stream.headers["access-control-allow-origin"] == origin
    assert stream.headers["access-control-allow-credentials"] == "true"
    stream.close()
    foreign = Stream(server.port, "/ws", "Origin: https://elsewhere.example", f"Cookie: {cookie}")
    assert foreign.status == 403 and "access-control-allow-credentials" not in foreign.headers
    foreign.close()
    assert any(line.startswith("feed=;") for line in asked(application, "/logout", session)[1])


async def test_without_the_setting_a_cookie_is_nothing(start_weirgate):
    server = gateway(start_weirgate, "--allowed-origins", "https://a.example")
    token = fresh_token(SECRET, role="admin")
    assert await admitted(server, f"feed={token}; token={token}", "https://a.example") == "Authentication failed"


@pytest.mark.parametrize(("flags", "words"), [
    (["--token-cookie", "feed"], "only with --allowed-origins"),
    (["--token-cookie", "a b", "--allowed-origins", "https://a.example"], "without spaces"),
])
def test_a_cookie_that_any_page_could_use_is_refused_at_the_start(flags, words):
    done = subprocess.run([weirgate_binary(), "channels", *flags, "--check"], capture_output=True, text=True, env={"JWT_SECRET": SECRET})
    assert done.returncode == 2 and "--token-cookie is" in done.stderr and words in done.stderr, done


async def test_no_other_page_of_the_domain_chooses_the_user(start_weirgate):
    """A sibling domain can set cookies for the whole domain, and a browser sends the one with the longer path first. Only
    behind SP and HTAB is a name the same name."""
    origin = "https://www.example.com"
    server = gateway(start_weirgate, "--token-cookie", "__Host-feed", "--allowed-origins", origin)
    good, evil = fresh_token(SECRET, role="user"), fresh_token(SECRET, role="admin")
    spaces = ["\u2000", "\u00a0", "\u3000", "\u0085", "\u2028", "\ufeff", "\u200b"]
    for space in spaces:
        stream = Stream(server.port, "/ws", f"Origin: {origin}", f"Cookie: {space}__Host-feed={evil}; __Host-feed={good}")
        assert stream.until(lambda message: message["type"] == "connected")["role"] == "user", space
        stream.close()
        alone = Stream(server.port, "/ws", f"Origin: {origin}", f"Cookie: {space}__Host-feed={evil}")
        assert "1008" in str(alone.event()), space
        alone.close()
    for cookie in [f"__Host-feed={evil}; __Host-feed={good}", f"__Host-feed={good};\t__Host-feed={good}"]:
        assert await admitted(server, cookie, origin) == "Authentication failed", cookie
    assert await admitted(server, f"a=b;\t __Host-feed={good} \t; c=d", origin) == "user"
    assert 'weirgate_auth_refusals_total{reason="two_cookies"} 2' in server.get("/metrics")[2]
