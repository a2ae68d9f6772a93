// The line protocol of the client programs (see ../README.md): what all clients in Go share.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

var url, protocols = os.Args[1], os.Args[2:]

// show writes a line for the driver: `open PROTOCOL`, `text TEXT`, `closed CODE`, `failed WHY`.
func show(word string, value interface{}) {
	fmt.Fprintf(os.Stdout, "%s %v\n", word, value)
}

// check ends the program on an error.
func check(err error) {
	if err != nil {
		show("failed", strings.ReplaceAll(err.Error(), "\n", " "))
		os.Exit(1)
	}
}

// obey carries out the lines of the driver; the end of its lines ends the program.
func obey(send func(string) error, close func(int) error) {
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			os.Exit(0)
		}
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if word == "close" {
			code, _ := strconv.Atoi(rest)
			check(close(code))
		} else {
			check(send(rest))
		}
	}
}
