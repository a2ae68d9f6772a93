// websocketpp, with its extension permessage-deflate.
#include "line.h"
#include <websocketpp/client.hpp>
#include <websocketpp/config/asio_no_tls_client.hpp>
#include <websocketpp/extensions/permessage_deflate/enabled.hpp>

struct config : websocketpp::config::asio_client {
    struct permessage_deflate_config {};
    typedef websocketpp::extensions::permessage_deflate::enabled<permessage_deflate_config> permessage_deflate_type;
};
typedef websocketpp::client<config> client;

int main(int count, char **arguments) {
    client all;
    all.clear_access_channels(websocketpp::log::alevel::all);
    all.set_max_message_size(1 << 30);
    all.init_asio();
    websocketpp::lib::error_code error;
    client::connection_ptr link = all.get_connection(arguments[1], error);
    for (int n = 2; n < count; n++) link->add_subprotocol(arguments[n]);
    link->set_open_handler([&](websocketpp::connection_hdl) {
        show("open", link->get_response_header("Sec-WebSocket-Protocol"));
        obey([&](std::string text) { all.get_io_service().post([&, text] { link->send(text); }); },
             [&](int code) { all.get_io_service().post([&, code] { link->close(code, ""); }); });
    });
    link->set_message_handler([&](websocketpp::connection_hdl, client::message_ptr message) {
        if (message->get_opcode() == websocketpp::frame::opcode::text) show("text", message->get_payload());
    });
    link->set_close_handler([&](websocketpp::connection_hdl) { show("closed", std::to_string(link->get_remote_close_code())); });
    link->set_fail_handler([&](websocketpp::connection_hdl) { show("failed", link->get_ec().message()); });
    all.connect(link);
    all.run();
    std::_Exit(0);
}
