// gorilla/websocket, with compression.
package main

import (
	"errors"
	"time"

	"github.com/gorilla/websocket"
)

func main() {
	dialer := websocket.Dialer{Subprotocols: protocols, EnableCompression: true}
	link, _, err := dialer.Dial(url, nil)
	check(err)
	show("open", link.Subprotocol())
	go obey(func(text string) error { return link.WriteMessage(websocket.TextMessage, []byte(text)) },
		func(code int) error {
			return link.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
		})
	for {
		kind, data, err := link.ReadMessage()
		var end *websocket.CloseError
		if errors.As(err, &end) {
			show("closed", end.Code)
			return
		}
		check(err)
		if kind == websocket.TextMessage {
			show("text", string(data))
		} else {
			show("failed", "with a binary message")
		}
	}
}
