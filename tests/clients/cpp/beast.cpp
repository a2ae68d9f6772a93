// Boost.Beast, with permessage-deflate.
#include "line.h"
#include <boost/asio.hpp>
#include <boost/beast.hpp>
#include <boost/beast/websocket.hpp>
#include <deque>
#include <regex>

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;

asio::io_context loop;
websocket::stream<asio::ip::tcp::socket> peer(loop);
beast::flat_buffer buffer;
std::deque<std::string> texts;

void read() {
    peer.async_read(buffer, [](beast::error_code error, std::size_t) {
        if (error == websocket::error::closed) return show("closed", std::to_string(peer.reason().code));
        if (error) return show("failed", error.message());
        show(peer.got_text() ? "text" : "failed", beast::buffers_to_string(buffer.data()));
        buffer.clear();
        read();
    });
}

void write() {
    peer.async_write(asio::buffer(texts.front()), [](beast::error_code, std::size_t) {
        texts.pop_front();
        if (!texts.empty()) write();
    });
}

int main(int count, char **arguments) {
    std::cmatch url;
    std::regex_match(arguments[1], url, std::regex("ws://([^:]+):(\\d+)(/.*)"));
    websocket::permessage_deflate deflate;
    deflate.client_enable = true;
    peer.set_option(deflate);
    peer.read_message_max(1 << 30);
    std::string protocols;
    for (int n = 2; n < count; n++) protocols += (n > 2 ? ", " : "") + std::string(arguments[n]);
    peer.set_option(websocket::stream_base::decorator([&](websocket::request_type &request) {
        if (!protocols.empty()) request.set(beast::http::field::sec_websocket_protocol, protocols);
    }));
    asio::connect(peer.next_layer(), asio::ip::tcp::resolver(loop).resolve(url[1].str(), url[2].str()));
    websocket::response_type response;
    peer.handshake(response, url[1].str() + ":" + url[2].str(), url[3].str());
    show("open", std::string(response[beast::http::field::sec_websocket_protocol]));
    obey([](std::string text) { asio::post(loop, [text] { texts.push_back(text); if (texts.size() == 1) write(); }); },
         [](int code) { asio::post(loop, [code] {
             peer.async_close(websocket::close_code(code), [](beast::error_code) { show("closed", std::to_string(peer.reason().code)); });
         }); });
    read();
    loop.run();
    std::_Exit(0);
}
