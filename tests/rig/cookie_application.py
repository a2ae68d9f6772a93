"""The Flask application of docs/guides/cookies.md, as it stands there."""
import re
import sys

from processes import ROOT, Process, free_port

GUIDE = ROOT / "docs" / "guides" / "cookies.md"


class CookieApplication(Process):
    """Listens at `port`, by default a free one; makes tokens with `secret`."""

    def __init__(self, folder, secret, port=None):
        self.port = port or free_port()
        (folder / "application.py").write_text(re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1])
        argv = [sys.executable, "-m", "flask", "--app", folder / "application.py", "run", "--port", self.port]
        super().__init__(argv, env={"SESSION_SECRET": "of the session", "JWT_SECRET": secret})
