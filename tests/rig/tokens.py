"""Tokens by hand: JSON Web Tokens of HS256, with any claims."""
import base64
import hashlib
import hmac
import json
import time


def jwt(secret, **claims):
    """A token with these claims and no other."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    body = b".".join(parts)
    return (body + b"." + base64.urlsafe_b64encode(hmac.digest(secret.encode(), body, hashlib.sha256)).rstrip(b"=")).decode()


def fresh_token(secret, lives_s=3600, **claims):
    """A token with these claims, from now on."""
    now = int(time.time())
    return jwt(secret, iat=now, exp=now + lives_s, **claims)


def user_token(secret, user, lives_s=600, **claims):
    """A token of a user with the role `user`, from now on."""
    return fresh_token(secret, lives_s, sub=user, role="user", **claims)
