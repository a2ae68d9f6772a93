# Varnish (6.0 or newer) in front of weirgate: varnishd -C -f FILE checks this file.
# tests/blackbox/test_proxies.py runs this very file with other addresses.
#
# weirgate takes the addresses of clients from Varnish only if told where Varnish connects from. For Varnish on the same machine:
#   WEIRGATE_TRUSTED_PROXIES=127.0.0.1    (or --trusted-proxies 127.0.0.1)
vcl 4.1;

# varnishncsa writes the query into its log, which may be a token (?token=) or a device (?device_id=). Without it:
#   varnishncsa -F '%h %l %u %t "%m %U %H" %s %b "%{User-Agent}i"'

import directors;

# /ready is 503 while an instance stops, before it closes anything (--drain-delay-ms).
probe ready {
    .url = "/ready";
    .interval = 1s;
    .timeout = 1s;
    .window = 1;
    .threshold = 1;
}

# Several instances: one backend each (with `--ephemeral` for levels), and a line in vcl_init. On the same machine a unix socket
# costs less: .path = "/run/weirgate/levels/http.sock" in place of host and port, and WEIRGATE_TRUSTED_PROXIES=unix.
backend one { .host = "127.0.0.1"; .port = "8000"; .connect_timeout = 2s; .probe = ready; }

sub vcl_init {
    new weirgate = directors.round_robin();
    weirgate.add_backend(one);
}

sub vcl_recv {
    # For operators, not for the public. With --admin-addr they are not on this port at all.
    # weirgate reads a path up to `?` or `#`.
    if (req.url ~ "^/(metrics|stats|ready)([?#]|$)" || req.url ~ "^/internal/") {
        return (synth(404));
    }
    # What Varnish says of the client, in place of what the client says of itself; weirgate believes it. https behind hitch or another
    # program that ends TLS.
    set req.http.X-Forwarded-Proto = "http";
    set req.http.X-Forwarded-Host = req.http.Host;
    unset req.http.Forwarded;
    unset req.http.X-Real-IP;
    unset req.http.X-Forwarded-Port;
    unset req.http.X-Forwarded-Prefix;
    unset req.http.X-Forwarded-Server;
    unset req.http.X-Forwarded-Scheme;
    unset req.http.X-Forwarded-Ssl;
    set req.backend_hint = weirgate.backend();
    # WebSockets, and event streams: with pass, Varnish holds the first event back until more bytes come. pipe_timeout (60 s) counts from
    # the last byte. weirgate sends a ping or a comment to every client each 20 s: a quiet client stays.
    if (req.http.Upgrade ~ "(?i)^websocket$" || req.http.Accept ~ "(?i)text/event-stream") {
        return (pipe);
    }
    # What weirgate serves beside them is small, and true only now.
    return (pass);
}

sub vcl_pipe {
    # Varnish appends the client's address to X-Forwarded-For by itself.
    if (req.http.Upgrade) {
        set bereq.http.Upgrade = req.http.Upgrade;
        # Never the client's own: weirgate would keep a connection without `upgrade` in it, and all requests that follow on a pipe pass
        # Varnish unseen. weirgate ends every connection whose upgrade it refuses.
        set bereq.http.Connection = "upgrade";
    }
}
