// libsoup 3, with its extensions.
#include "line.h"
#include <libsoup/soup.h>

static GMainLoop *loop;
static SoupWebsocketConnection *link_;

static void on_text(SoupWebsocketConnection *, int type, GBytes *bytes, gpointer) {
    gsize size;
    const char *data = static_cast<const char *>(g_bytes_get_data(bytes, &size));
    show(type == SOUP_WEBSOCKET_DATA_TEXT ? "text" : "failed", std::string(data, size));
}

static void on_closed(SoupWebsocketConnection *link, gpointer) {
    show("closed", std::to_string(soup_websocket_connection_get_close_code(link)));
    g_main_loop_quit(loop);
}

// Runs in the thread of the loop.
static void later(std::function<void()> work) {
    g_idle_add_once([](gpointer work) {
        (*static_cast<std::function<void()> *>(work))();
        delete static_cast<std::function<void()> *>(work);
    }, new std::function<void()>(work));
}

static void on_open(GObject *session, GAsyncResult *result, gpointer) {
    GError *error = nullptr;
    link_ = soup_session_websocket_connect_finish(SOUP_SESSION(session), result, &error);
    if (error) return show("failed", error->message);
    soup_websocket_connection_set_max_incoming_payload_size(link_, 1 << 30);
    const char *protocol = soup_websocket_connection_get_protocol(link_);
    show("open", protocol ? protocol : "");
    g_signal_connect(link_, "message", G_CALLBACK(on_text), nullptr);
    g_signal_connect(link_, "closed", G_CALLBACK(on_closed), nullptr);
    obey([](std::string text) { later([text] { soup_websocket_connection_send_text(link_, text.c_str()); }); },
         [](int code) { later([code] { soup_websocket_connection_close(link_, code, nullptr); }); });
}

int main(int count, char **arguments) {
    loop = g_main_loop_new(nullptr, false);
    SoupSession *session = soup_session_new();
    soup_session_add_feature_by_type(session, SOUP_TYPE_WEBSOCKET_EXTENSION_MANAGER);
    SoupMessage *request = soup_message_new("GET", arguments[1]);
    soup_session_websocket_connect_async(session, request, nullptr, count > 2 ? arguments + 2 : nullptr,
                                         G_PRIORITY_DEFAULT, nullptr, on_open, nullptr);
    g_main_loop_run(loop);
    std::_Exit(0);
}
