"""Settings with marked secrets, at random: of the buses, services, tokens and files; good ones, and some that end a start."""
import base64
import dataclasses
import hashlib
import hmac
import json
import pathlib
import time
import urllib.parse

from marks import SECRET, hostile, secret
from processes import free_port

GATEWAYS = ["levels", "trades", "channels", "events"]
SETTLED = {"levels": "/ws/stream", "trades": "/", "channels": "/ws", "events": "/ws"}
ROLES = {"user": ["scan:*", "*"], "admin": ["*"]}
SUBJECTS = {"user": [">"], "admin": [">"]}


@dataclasses.dataclass
class World:
    """A gateway with its settings; `jwt_secret` if clients show tokens, `service_token` for /internal/broadcast."""
    gateway: str
    flags: list
    env: dict
    log_format: str
    admin_port: int
    bus: str
    jwt_secret: str | None = None
    service_token: str | None = None

    @property
    def path(self):
        return SETTLED[self.gateway]


def coded(text):
    """A secret in a URL."""
    return urllib.parse.quote(text, safe="")


def redis_login(rng, redis):
    """A URL of the Redis server with a login that the server takes: any password of a user without one."""
    user = rng.choice(["default", "ann"])
    return f"redis://{user}:{coded(secret(rng))}@127.0.0.1:{redis.port}"


def nats_login(rng, nats):
    """Variables with a login for the NATS server, which asks for none."""
    address, login = f"127.0.0.1:{nats.port}", secret(rng)
    return rng.choice([
        {"NATS_URL": f"nats://ann:{coded(login)}@{address}"},
        {"NATS_URL": f"nats://{coded(login)}@{address}"},
        {"NATS_URL": f"nats://ann:{coded(login)}@{address},nats://ann:{coded(secret(rng))}@{address}"},
        {"NATS_URL": f"nats://{address}", "NATS_USER": "ann", "NATS_PASSWORD": login},
        {"NATS_URL": f"nats://{address}", "NATS_TOKEN": login},
    ])


def tokens(rng, world, folder):
    """Clients have to show tokens: by secrets, keys in files and at a URL that nobody serves."""
    world.jwt_secret = secret(rng) + secret(rng)
    world.env |= {"REQUIRE_AUTH": "true", "JWT_SECRET": world.jwt_secret}
    if rng.random() < 0.5:
        world.env["JWT_SECRET_BEFORE"] = secret(rng) + secret(rng)
    if rng.random() < 0.5:
        world.env["GATEWAY_API_KEY"] = secret(rng, odd=False)
    if rng.random() < 0.4:
        world.env["JWT_JWKS_URL"] = f"http://127.0.0.1:{free_port()}/keys?code={coded(secret(rng))}"
    if rng.random() < 0.4:
        keys = {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k1", "alg": "EdDSA", "x": base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("="),
                          "d": secret(rng, odd=False)}]}
        (folder / "keys.json").write_text(json.dumps(keys))
        world.env["JWT_JWKS_FILE"] = str(folder / "keys.json")


def of_events(rng, world, redis, services):
    """Services, the token of pushes, sometimes a bus between instances."""
    world.service_token = secret(rng, odd=False)
    names = rng.sample(services, 3)
    world.env |= {"INTERNAL_AUTH_TOKEN": world.service_token, "HTTP_TIMEOUT_SECONDS": str(rng.choice([5, 60])), "RATE_LIMIT_RPS": "1000000",
                  "RATE_LIMIT_BURST": "1000000", "LOBBY_URL": names[0], "MEASUREMENT_URL": names[1], "SIMULATION_URL": f"{names[2]}/base"}
    if rng.random() < 0.4:
        world.flags += ["--events-bus", redis_login(rng, redis)]
        world.bus = "redis"


def of_channels(rng, world, redis, nats, folder):
    """Redis or NATS, roles, kept and last values."""
    world.bus = rng.choice(["redis", "nats"])
    if world.bus == "redis":
        world.env["REDIS_URL"] = redis_login(rng, redis)
    else:
        login = nats_login(rng, nats)
        world.flags += ["--bus", login.pop("NATS_URL")]
        world.env |= login
    (folder / "roles.json").write_text(json.dumps(ROLES if world.bus == "redis" else SUBJECTS))
    world.flags += ["--acl", str(folder / "roles.json"), *rng.choice([[], ["--history-ms", "20000", "--history-names", "scan" + (":*" if world.bus == "redis" else ".>")]])]


def good(rng, gateway, folder: pathlib.Path, redis, nats, services):
    """A gateway that starts and serves."""
    world = World(gateway, [], {}, rng.choice(["text", "json"]), free_port(), "nats" if gateway == "levels" else "redis")
    if gateway == "levels":
        world.env |= nats_login(rng, nats)
    elif gateway == "trades":
        world.env["REDIS_URL"] = redis_login(rng, redis)
        world.flags += rng.choice([[], ["--candles"], ["--history-ms", "20000"]])
    elif gateway == "channels":
        of_channels(rng, world, redis, nats, folder)
    else:
        of_events(rng, world, redis, services)
    if gateway in ("trades", "channels") and rng.random() < 0.6:
        tokens(rng, world, folder)
    if rng.random() < 0.5:
        world.flags.append("--event-stream")
    world.flags += ["--log-format", world.log_format, "--admin-addr", f"127.0.0.1:{world.admin_port}", "--trusted-proxies", "127.0.0.0/8"]
    world.env["RUST_LOG"] = rng.choice(["trace", "debug", "info"])
    return world


def wrong(rng, world, folder):
    """Variables and flags in place of the world's with which a start ends: the secret stands where the fault is, or beside."""
    odd, plain = secret(rng), secret(rng, odd=False)
    (folder / "broken").write_text(f"-----BEGIN PRIVATE KEY-----\n{plain}\n{odd}\n-----END NATS USER JWT-----\n")
    broken = str(folder / "broken")
    variants = {
        "levels": [{"NATS_URL": f"nats://ann:{odd}@127.0.0.1:port"}, {"NATS_URL": f"nats:/ann:{odd}@h"}, {"NATS_URL": f"http://ann:{odd}@h:1"}, {"NATS_CREDS": broken},
                   {"NATS_NKEY": broken}, {"NATS_URL": f"nats://a:{odd}@h,,tls//b:{odd}@i"}, {"NATS_CA": broken}, {"NATS_CERT": broken, "NATS_KEY": broken},
                   {"NATS_URL": odd}, {"NATS_NKEY": f"SUA{SECRET.upper() * 7}"[:58]}, {"NATS_CREDS": (folder / "broken").read_text()}, {"NATS_TOKEN": odd, "NATS_PASSWORD": plain, "NATS_USER": "ann"}],
        "trades": [{"REDIS_URL": f"redis://:{odd},rest@127.0.0.1:port/0"}, {"REDIS_URL": f"redis:{odd}@h"}, {"REDIS_URL": f"redis://a:{odd}@h/db"},
                   {"REDIS_SENTINELS": f"redis://:{odd}@h:x,redis://:{odd}@i:y"}, {"REQUIRE_AUTH": "true", "JWT_SECRET": plain[:20]},
                   {"REQUIRE_AUTH": "true", "JWT_JWKS_URL": f"http://ann:{odd}@example.com/?{odd}"}, {"REQUIRE_AUTH": "true", "JWT_PUBLIC_KEY_FILES": broken},
                   {"REQUIRE_AUTH": "true", "JWT_JWKS_FILE": broken}, {"REQUIRE_AUTH": "true", "JWT_PUBLIC_KEY_FILES": f"-----BEGIN PRIVATE KEY-----\n{plain}"}, {"REDIS_URL": odd}],
        "channels": [{"REQUIRE_AUTH": "true", "JWT_JWKS_URL": f"ftp://{odd}"}, {"REDIS_URL": f"rediss:///{odd}@"}, {"REDIS_URL": "", "REDIS_HOST": f"redis://:{odd}@h"}, {"REDIS_URL": "", "REDIS_HOST": f"ann:{odd}@h"},
                     {"REQUIRE_AUTH": "true", "JWT_SECRET": plain, "JWT_SECRET_BEFORE": plain[:9]}, {"REQUIRE_AUTH": "true", "JWT_JWKS_URL": f"https://h:{odd}/?k={plain}"}],
        "events": [{"LOBBY_URL": f"http://ann:{odd}@h:1"}, {"LOBBY_URL": f"ftp://ann:{odd}@h"}, {"MEASUREMENT_URL": f"http://h?{odd}"}, {"SIMULATION_URL": odd},
                   {"INTERNAL_AUTH_TOKEN": odd, "LOBBY_URL": f"//{odd}@h"}, {"WEIRGATE_ROUTE": f"orders.*=http://ann:{odd}@h:1"}, {"WEIRGATE_ROUTE": f"orders.*=http://h?{odd}"},
                   {"REQUIRE_AUTH": "true", "JWT_SECRET": plain[:20]}, {"REQUIRE_AUTH": "true", "JWT_JWKS_URL": f"http://ann:{odd}@example.com/?{odd}"}],
    }
    return rng.choice(variants[world.gateway])


def token(rng, key, **claims):
    """A token with these claims, and some of its own; marked by its signature's key only where the key signs it."""
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
    now = int(time.time())
    head = {"alg": "HS256", "typ": "JWT", **rng.choice([{}, {"kid": hostile(rng)}, {"cty": hostile(rng)}])}
    signed = f"{part(head)}.{part({'exp': now + 3600, 'jti': secret(rng), **claims})}"
    signature = base64.urlsafe_b64encode(hmac.digest(key.encode(), signed.encode(), hashlib.sha256)).decode().rstrip("=")
    return f"{signed}.{signature}"
