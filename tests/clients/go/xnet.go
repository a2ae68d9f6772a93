// golang.org/x/net/websocket.
package main

import "golang.org/x/net/websocket"

func main() {
	config, err := websocket.NewConfig(url, "http://127.0.0.1/")
	check(err)
	config.Protocol = protocols
	link, err := websocket.DialConfig(config)
	check(err)
	link.MaxPayloadBytes = 1 << 30
	chosen := ""
	if len(protocols) > 0 {
		chosen = link.Config().Protocol[0]
	}
	show("open", chosen)
	go obey(func(text string) error { return websocket.Message.Send(link, text) }, link.WriteClose)
	for {
		var text string
		check(websocket.Message.Receive(link, &text))
		show("text", text)
	}
}
