// libwebsockets, with its extension permessage-deflate.
#include "line.h"
#include <cstring>
#include <deque>
#include <libwebsockets.h>
#include <mutex>
#include <regex>
#include <vector>

static lws_context *context;
static lws *link_;
static std::mutex guard;
static std::deque<std::string> texts;
static int close_code;
static std::string message;
static char protocol[64];

static int on_event(lws *link, lws_callback_reasons reason, void *, void *in, size_t length) {
    const char *data = static_cast<const char *>(in);
    switch (reason) {
    case LWS_CALLBACK_CLIENT_FILTER_PRE_ESTABLISH:
        lws_hdr_copy(link, protocol, sizeof protocol, WSI_TOKEN_PROTOCOL);
        break;
    case LWS_CALLBACK_CLIENT_ESTABLISHED:
        show("open", protocol);
        obey([](std::string text) { std::lock_guard<std::mutex> held(guard); texts.push_back(text); lws_cancel_service(context); },
             [](int code) { std::lock_guard<std::mutex> held(guard); close_code = code; lws_cancel_service(context); });
        break;
    case LWS_CALLBACK_CLIENT_RECEIVE:
        message.append(data, length);
        if (lws_is_final_fragment(link) && !lws_remaining_packet_payload(link)) {
            show(lws_frame_is_binary(link) ? "failed" : "text", message);
            message.clear();
        }
        break;
    case LWS_CALLBACK_EVENT_WAIT_CANCELLED:
        if (link_) lws_callback_on_writable(link_);
        break;
    case LWS_CALLBACK_CLIENT_WRITEABLE: {
        std::lock_guard<std::mutex> held(guard);
        if (!texts.empty()) {
            std::vector<unsigned char> frame(LWS_PRE + texts.front().size());
            memcpy(frame.data() + LWS_PRE, texts.front().data(), texts.front().size());
            lws_write(link, frame.data() + LWS_PRE, texts.front().size(), LWS_WRITE_TEXT);
            texts.pop_front();
            lws_callback_on_writable(link);
        } else if (close_code) {
            lws_close_reason(link, lws_close_status(close_code), nullptr, 0);
            return -1;
        }
        break;
    }
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        show("closed", std::to_string(length < 2 ? 1005 : (unsigned char)data[0] << 8 | (unsigned char)data[1]));
        break;
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        show("failed", data ? data : "");
        break;
    case LWS_CALLBACK_CLIENT_CLOSED:
        show("closed", std::to_string(close_code ? close_code : 1006));
        link_ = nullptr;
        break;
    default:
        break;
    }
    return 0;
}

int main(int count, char **arguments) {
    lws_set_log_level(LLL_ERR | LLL_WARN, nullptr);
    static const lws_protocols protocols[] = {{"bearer", on_event, 0, 1 << 16, 0, nullptr, 0}, {nullptr, nullptr, 0, 0, 0, nullptr, 0}};
    static const lws_extension extensions[] = {
        {"permessage-deflate", lws_extension_callback_pm_deflate, "permessage-deflate; client_max_window_bits"}, {nullptr, nullptr, nullptr}};
    lws_context_creation_info settings = {};
    settings.port = CONTEXT_PORT_NO_LISTEN;
    settings.protocols = protocols;
    settings.extensions = extensions;
    context = lws_create_context(&settings);
    std::cmatch url;
    std::regex_match(arguments[1], url, std::regex("ws://([^:]+):(\\d+)(/.*)"));
    std::string host = url[1], path = url[3], offered;
    for (int n = 2; n < count; n++) offered += (n > 2 ? ", " : "") + std::string(arguments[n]);
    lws_client_connect_info to = {};
    to.context = context;
    to.address = to.host = host.c_str();
    to.port = std::stoi(url[2]);
    to.path = path.c_str();
    to.protocol = offered.empty() ? nullptr : offered.c_str();
    to.local_protocol_name = "bearer";
    to.pwsi = &link_;
    lws_client_connect_via_info(&to);
    while (lws_service(context, 0) >= 0) {}
}
