// nhooyr.io/websocket, with context takeover.
package main

import (
	"context"

	"nhooyr.io/websocket"
)

func main() {
	all := context.Background()
	link, _, err := websocket.Dial(all, url, &websocket.DialOptions{Subprotocols: protocols, CompressionMode: websocket.CompressionContextTakeover})
	check(err)
	link.SetReadLimit(1 << 30)
	show("open", link.Subprotocol())
	go obey(func(text string) error { return link.Write(all, websocket.MessageText, []byte(text)) },
		func(code int) error { return link.Close(websocket.StatusCode(code), "") })
	for {
		kind, data, err := link.Read(all)
		if code := websocket.CloseStatus(err); code != -1 {
			show("closed", int(code))
			return
		}
		check(err)
		if kind == websocket.MessageText {
			show("text", string(data))
		} else {
			show("failed", "with a binary message")
		}
	}
}
