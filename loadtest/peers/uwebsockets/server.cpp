// uWebSockets with its own publish and subscribe: one topic, one loop. Over TLS with TLS_CERT and TLS_KEY.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>

#include "App.h"

static std::string variable(const char *name, const char *otherwise) {
    const char *value = std::getenv(name);
    return value ? value : otherwise;
}

static int connect_nats() {
    std::string url = variable("NATS_URL", "nats://127.0.0.1:4222").substr(7);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(std::stoi(url.substr(url.find(':') + 1))));
    inet_pton(AF_INET, url.substr(0, url.find(':')).c_str(), &address.sin_addr);
    int nats = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(nats, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(nats, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
        std::cerr << "no NATS\n";
        std::_Exit(1);
    }
    return nats;
}

static void say(int nats, std::string_view text) {
    if (write(nats, text.data(), text.size()) < 0) std::_Exit(1);
}

// Core NATS without a library: SUB, then MSG subject sid [reply] bytes.
template <typename On> static void relay(int nats, On on) {
    std::string waiting;
    char block[65536];
    say(nats, "CONNECT {\"verbose\":false}\r\nSUB market.flow 1\r\n");
    for (ssize_t got; (got = read(nats, block, sizeof block)) > 0;) {
        waiting.append(block, static_cast<size_t>(got));
        for (size_t end; (end = waiting.find("\r\n")) != std::string::npos;) {
            std::string line = waiting.substr(0, end);
            size_t next = end + 2;
            if (line == "PING") say(nats, "PONG\r\n");
            if (line.starts_with("MSG ")) {
                size_t bytes = std::stoul(line.substr(line.rfind(' ') + 1));
                if (waiting.size() < next + bytes + 2) break;
                on("{\"flow\":" + waiting.substr(next, bytes) + "}");
                next += bytes + 2;
            }
            waiting.erase(0, next);
        }
    }
    std::_Exit(0);
}

struct Nothing {};

template <typename App> static void serve(App &app) {
    app.template ws<Nothing>("/ws/stream", {.open = [](auto *client) { client->subscribe("flow"); }});
    int port = std::stoi(variable("GATEWAY_PORT", "8000"));
    app.listen("127.0.0.1", port, [](auto *listening) {
        if (!listening) std::_Exit(1);
    });
    uWS::Loop *loop = uWS::Loop::get();
    std::thread([loop, &app] {
        relay(connect_nats(), [loop, &app](std::string text) {
            loop->defer([&app, text = std::move(text)] { app.publish("flow", text, uWS::OpCode::TEXT); });
        });
    }).detach();
    app.run();
}

int main() {
    std::string certificates = variable("TLS_CERT", ""), key = variable("TLS_KEY", "");
    if (certificates.empty() || key.empty()) {
        uWS::App app;
        serve(app);
        return 0;
    }
    uWS::SSLApp app({.key_file_name = key.c_str(), .cert_file_name = certificates.c_str()});
    if (app.constructorFailed()) {
        std::cerr << "TLS_CERT or TLS_KEY cannot be used\n";
        return 1;
    }
    // The option ssl_ciphers is about TLS 1.2 and older, so the suite of TLS 1.3 is set with OpenSSL itself.
    auto *context = static_cast<SSL_CTX *>(app.getNativeHandle());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    if (SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") != 1) return 1;
    serve(app);
}
